"""A server of files on this machine, and the faults that servers have."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote


class ZarrServer(ThreadingHTTPServer):
    """Serves a folder as Python's http.server does.

    Attributes:
        requests: how often each path was asked for.
        statuses: status codes in place of files, by the end of their path; with a count, for so many requests.
        silent: do not answer.
        endless: send without end what stands for these files.
        authorization, query: what a request must have, else 403.
        ranges: send parts of files, as servers of objects do.
    """

    daemon_threads = True

    def __init__(self, folder: Path) -> None:
        super().__init__(("127.0.0.1", 0), partial(_Handler, directory=str(folder)))
        self.requests: Counter[str] = Counter()
        self.statuses: dict[str, tuple[int, int]] = {}
        self.silent = False
        self.endless: tuple[str, ...] = ()
        self.authorization: str | None = None
        self.query: str | None = None
        self.ranges = False

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def handle_error(self, *_: Any) -> None:
        """A client that has read enough closes the connection."""


class _Handler(SimpleHTTPRequestHandler):
    server: ZarrServer

    def log_message(self, *_: Any) -> None:
        """Quiet."""

    def do_GET(self) -> None:
        server = self.server
        path, _, query = self.path.partition("?")
        server.requests[path] += 1
        if server.silent:
            time.sleep(3)
            return
        if (server.authorization or self.headers["Authorization"]) != self.headers["Authorization"] or (
            server.query or unquote(query)
        ) != unquote(query):
            self.send_error(403)
            return
        for end, (status, times) in server.statuses.items():
            if path.endswith(end) and times:
                server.statuses[end] = status, times - 1
                self.send_error(status)
                return
        if path.endswith(server.endless or ("//",)):
            self.send_response(200)
            self.end_headers()
            while True:
                self.wfile.write(bytes(1 << 16))
        part = self.headers["Range"]
        if server.ranges and part:
            self._send_part(part)
        else:
            super().do_GET()

    def _send_part(self, part: str) -> None:
        file = Path(self.translate_path(self.path))
        if not file.is_file():
            self.send_error(404)
            return
        data = file.read_bytes()
        start, _, stop = part.removeprefix("bytes=").partition("-")
        data = data[int(start) : int(stop) + 1 if stop else None] if start else data[-int(stop) :]
        self.send_response(206)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)


@contextmanager
def serve(folder: Path) -> Iterator[ZarrServer]:
    with ZarrServer(folder) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()
