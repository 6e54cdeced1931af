"""fsspec's file system of HTTP, for servers of which nothing is known.

The answer is read as far as it was asked for and no further, and a server that sends a whole file in place of the part
that was asked for is noticed.
"""

from __future__ import annotations

from base64 import b64encode
from typing import Any
from urllib.parse import parse_qsl, unquote

from prompt_das.volumes.address import Address

import aiohttp
from fsspec.implementations.http import HTTPFileSystem

_BLOCK = 1 << 20  # bytes
_NOT_FOUND, _OUT_OF_RANGE, _PARTIAL = (404, 410), 416, 206


class StatusError(OSError):
    """The status of an answer that is no success. aiohttp's own error shows the whole URL, with a signature in it."""

    def __init__(self, status: int, reason: str | None) -> None:
        super().__init__(f"HTTP {status} {reason or ''}".strip())
        self.status = status


class BoundedHTTPFileSystem(HTTPFileSystem):
    """Files of a server, read as far as they are asked for."""

    async def _cat_file(self, url: str, start: int | None = None, end: int | None = None, **kwargs: Any) -> bytes:
        """The bytes [start, end) of a file, fewer where it ends before; the last ones for a negative start.

        Raises:
            FileNotFoundError: the server does not have it.
            StatusError: another status than that of success.
            OSError: the server does not send parts of files.
            aiohttp.ClientError: there is no connection, for example.
        """
        headers = {"Accept-Encoding": "identity"}  # else a range may be one of the compressed file
        start = start or 0
        most = -start if start < 0 else end - start if end is not None else None
        if start:
            last = "" if end is None else str(end - 1)
            headers["Range"] = f"bytes={start}" if start < 0 else f"bytes={start}-{last}"
        session = await self.set_session()
        async with session.get(self.encode_url(url), headers=headers, **self.kwargs) as response:
            if response.status in _NOT_FOUND:
                raise FileNotFoundError(url)
            if start and response.status == _OUT_OF_RANGE:
                return b""
            if response.status >= 400:
                raise StatusError(response.status, response.reason)
            if start and response.status != _PARTIAL:
                raise OSError("the server does not send parts of files, which a sharded array is read by")
            return await _read(response.content, most)


async def _read(content: Any, most: int | None) -> bytes:
    parts, left = [], _BLOCK if most is None else most
    while left > 0:
        part = await content.read(min(left, _BLOCK))
        if not part:
            break
        parts.append(part)
        left = _BLOCK if most is None else left - len(part)
    return b"".join(parts)


def open_http(address: Address, *, connect_timeout: float, **options: Any) -> BoundedHTTPFileSystem:
    """A file system for the server of an address, with its credentials in every request."""
    session: dict[str, Any] = {"timeout": aiohttp.ClientTimeout(total=None, sock_connect=connect_timeout)}
    if address.login:
        session["headers"] = {"Authorization": f"Basic {b64encode(unquote(address.login).encode()).decode()}"}
    if address.query:
        options["params"] = parse_qsl(address.query, keep_blank_values=True)
    # trust_env: proxies of the environment, and the logins of ~/.netrc
    return BoundedHTTPFileSystem(client_kwargs={**session, "trust_env": True}, **options)
