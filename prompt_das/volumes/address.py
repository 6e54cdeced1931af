"""Addresses of volumes that are not on this machine: ``https://``, ``s3://`` and ``gs://``."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlsplit

_ADDRESS = re.compile(r"(https?|s3|gs)://", re.IGNORECASE)
_HIDDEN = "…"


class Address(str):
    """The address of a volume. As text it has no credentials, so that it can be logged and stored.

    Attributes:
        login: "user:password" or "user" that the given text had before an @, else "".
        query: what it had behind a question mark, a signature for example, else "".

    Raises ValueError for text that names no server or bucket.
    """

    login: str
    query: str

    def __new__(cls, text: str) -> Address:
        parts = urlsplit(text.strip())
        login, _, host = parts.netloc.rpartition("@")
        shown = f"{parts.scheme.lower()}://{host}{parts.path}".rstrip("/")
        if not host:
            raise ValueError(f"{shown!r} is no address: https://SERVER/PATH, s3://BUCKET/PATH or gs://BUCKET/PATH")
        self = super().__new__(cls, shown)
        self.login, self.query = login, parts.query
        return self

    @property
    def scheme(self) -> str:
        """ "http", "https", "s3" or "gs"."""
        return self.partition(":")[0]

    @property
    def name(self) -> str:
        """The last part, as the name of a file."""
        return self.rpartition("/")[2]

    def redact(self, text: str) -> str:
        """A library's message without the credentials."""
        values = [value for _, value in parse_qsl(self.query)]
        for secret in (self.login, self.login.partition(":")[2], self.query, *values):
            if secret:
                text = text.replace(secret, _HIDDEN)
        return text


Location = Path | Address


def is_address(text: Any) -> bool:
    """Whether a text, which may also be a path or a name, is an address."""
    return isinstance(text, str) and _ADDRESS.match(text.strip()) is not None


def as_location(text: str | Path) -> Location:
    """A path, with ~ expanded, or an address."""
    if isinstance(text, Address):
        return text
    return Address(str(text)) if is_address(text) else Path(text).expanduser()
