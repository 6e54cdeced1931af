"""The files of a Zarr at an address, as a Zarr store.

Nothing is waited for without end, and no file is read further than it may be long, whatever a server sends. What
cannot be read is a `RemoteError`, which ends a run: the same command goes on when the server answers again.

A file that is not there is not always an error: by Zarr's rules a chunk that was never written is full of the fill
value. So that data which vanish while they are read do not turn into zeros, the metadata are compared with those of the
beginning whenever a chunk is missing.
"""

from __future__ import annotations

import asyncio
import hashlib
import importlib
import time
import weakref
from collections.abc import AsyncIterator, Awaitable, Callable
from functools import partial
from typing import Any

from prompt_das.volumes.address import Address
from prompt_das.volumes.volume import RemoteError
from prompt_das.volumes.zarr_chunks import ChunkChecks

from zarr.abc.store import RangeByteRequest
from zarr.core.buffer import default_buffer_prototype
from zarr.storage import FsspecStore

PATIENCE = 60.0  # seconds for one file, all tries together
CONNECT = 20.0  # seconds until a server is connected
_WAITS = (0.5, 2.0)  # seconds before the second and the third try
_LARGEST_DOCUMENT = 1 << 26  # bytes of metadata
_NO_PERMISSION = (401, 403, 407)
_PASSING = (408, 425, 429)  # of the client's errors, those that a later try may not meet

# For each scheme the module with the file system of fsspec, and the exceptions of its libraries that are no OSError.
_LIBRARIES = {
    "http": ("prompt_das.volumes.http_files", ("aiohttp.ClientError",)),
    "s3": ("s3fs", ("botocore.exceptions.BotoCoreError", "botocore.exceptions.ClientError")),
    "gs": ("gcsfs", ("aiohttp.ClientError", "gcsfs.retry.HttpError", "google.auth.exceptions.GoogleAuthError")),
}


class RemoteFiles(FsspecStore):
    """The files below an address, to be read only.

    Attributes:
        checks: of the chunks of an array, once it is known; what is read before are metadata.
        documents: SHA-256 of each file of metadata that was read.

    Raises ValueError for an address that cannot be used here, as where a library is missing.
    """

    checks: ChunkChecks | None = None

    def __init__(self, address: Address) -> None:
        self.address = address
        self.documents: dict[str, str] = {}
        filesystem, self._errors = _open_filesystem(address)
        # A page that a server makes of a folder is no list of its files.
        self.supports_listing = not address.scheme.startswith("http")
        self._checking, self._unchanged_at = asyncio.Lock(), -1.0
        weakref.finalize(self, _close_connections, filesystem)
        super().__init__(filesystem, read_only=True, path=filesystem._strip_protocol(str(address)))

    async def get(self, key: str, prototype: Any = None, byte_range: Any = None) -> Any:
        is_chunk = self.checks is not None and self.checks.is_chunk(key)
        name = f"{self.address}/{key}"
        most = _LARGEST_DOCUMENT
        if self.checks is not None and is_chunk:
            most = self.checks.most_stored(name, byte_range)
        prototype = prototype or default_buffer_prototype()
        buffer = await self._fetch(key, prototype, byte_range or RangeByteRequest(0, most + 1))
        if buffer is not None and len(buffer) > most:
            raise ValueError(f"{name} has more than {most:,} bytes, more than it can need")
        if self.checks is not None and is_chunk:
            if buffer is None:
                await self._require_unchanged(name)
            self.checks.require_sound(name, buffer, byte_range)
        elif buffer is not None:
            self.documents.setdefault(key, _digest(buffer))
        return buffer

    async def list_dir(self, prefix: str) -> AsyncIterator[str]:
        async def list_names() -> list[str]:
            return [name async for name in super(RemoteFiles, self).list_dir(prefix)]

        for name in await self._patiently(f"{self.address}/{prefix}", list_names):
            yield name

    async def _fetch(self, key: str, prototype: Any, byte_range: Any) -> Any:
        """The bytes of a file, None if it is not there. Raises RemoteError."""
        get = partial(super().get, key, prototype, byte_range)
        return await self._patiently(f"{self.address}/{key}", get)

    async def _patiently(self, name: str, request: Callable[[], Awaitable[Any]]) -> Any:
        """The answer to a request for the file ``name``. Raises RemoteError if there is none after some tries."""
        try:
            async with asyncio.timeout(PATIENCE):
                for wait in (*_WAITS, None):
                    try:
                        return await request()
                    except self._errors as error:
                        if wait is None or not _may_pass(error):
                            raise RemoteError(self._explain(name, error)) from None
                    await asyncio.sleep(wait)
        except TimeoutError:
            raise RemoteError(
                f"{name}: no answer within {PATIENCE:g} seconds; is the server up, and this machine connected to it?"
            ) from None

    def _explain(self, name: str, error: BaseException) -> str:
        if isinstance(error, PermissionError) or _status(error) in _NO_PERMISSION:
            return (
                f"{name} may not be read with these credentials, or without any: log in as the server asks for it "
                "(docs/how-to/segment_a_volume.md says where credentials belong)"
            )
        reason = " ".join(self.address.redact(str(error)).split())
        return f"{name} cannot be read: {reason or type(error).__name__}"

    async def _require_unchanged(self, name: str) -> None:
        """Raise RemoteError unless the metadata are those of the beginning.

        One check serves all who noticed before it began that a chunk is missing.
        """
        noticed = time.monotonic()
        async with self._checking:
            if noticed <= self._unchanged_at:
                return
            began = time.monotonic()
            for key, before in self.documents.items():
                buffer = await self._fetch(key, default_buffer_prototype(), RangeByteRequest(0, _LARGEST_DOCUMENT))
                if buffer is None or _digest(buffer) != before:
                    raise RemoteError(
                        f"{name} is not there, and {self.address}/{key} is no longer what it was: were the data moved, "
                        "deleted or replaced?"
                    )
            self._unchanged_at = began


def _digest(buffer: Any) -> str:
    return hashlib.sha256(buffer.to_bytes()).hexdigest()


def _status(error: BaseException) -> int | None:
    """The HTTP status of an error of aiohttp or gcsfs."""
    status = getattr(error, "status", None) or getattr(error, "code", None)
    return status if isinstance(status, int) else None


def _may_pass(error: BaseException) -> bool:
    status = _status(error)
    if isinstance(error, PermissionError):
        return False
    return status is None or status >= 500 or status in _PASSING


def _close_connections(filesystem: Any) -> None:
    """Close what fsspec leaves open where it is used asynchronously, from whatever thread this is called in."""
    bucket = getattr(getattr(filesystem, "_s3", None), "_endpoint", None)
    sessions = dict(getattr(getattr(bucket, "http_session", None), "_sessions", None) or {})
    for session in (getattr(filesystem, "_session", None), *sessions.values()):
        if session is None or session.closed:
            continue
        if session.connector._loop.is_running():
            session.connector._loop.call_soon_threadsafe(_close, session)
        else:
            _close(session)


def _close(session: Any) -> None:
    if not session.closed:
        session.connector._close()


def _open_filesystem(address: Address) -> tuple[Any, tuple[type[BaseException], ...]]:
    """The file system of fsspec that reads an address, and the exceptions by which it fails."""
    scheme = "http" if address.scheme == "https" else address.scheme
    if scheme != "http" and (address.login or address.query):
        raise ValueError(
            f"{address}: credentials and queries in an address are for https:// only; {scheme}:// takes credentials "
            "from the environment and the configuration of its own tools"
        )
    module, names = _LIBRARIES[scheme]
    try:
        library = importlib.import_module(module)
        errors = [getattr(importlib.import_module(path), name) for path, _, name in (n.rpartition(".") for n in names)]
    except ImportError as error:
        raise ValueError(
            f"{address}: {scheme}:// needs {error.name}, which is not installed: pip install 'prompt_das[remote]'"
        ) from error
    options = {"asynchronous": True, "skip_instance_cache": True}
    if scheme == "http":
        return library.open_http(address, connect_timeout=CONNECT, **options), (OSError, *errors)
    if scheme == "s3":
        config = {"connect_timeout": CONNECT, "read_timeout": PATIENCE}
        return library.S3FileSystem(config_kwargs=config, **options), (OSError, *errors)
    return library.GCSFileSystem(**options), (OSError, *errors)
