"""A local HTTP server that misbehaves on demand. Its requests are recorded."""

import hashlib
import re
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


class Server(ThreadingHTTPServer):
    """files: what it serves, by path. plan: how it answers the next requests, if not as it should.

    asked: (path, Range or None) of every request.
    """

    daemon_threads = False  # so that closing waits for them

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.files: dict[str, bytes] = {}
        self.plan: list[Callable[[Handler], None]] = []
        self.asked: list[tuple[str, str | None]] = []
        self.headers: list[Any] = []
        self.release = threading.Event()
        self.thread = threading.Thread(target=self.serve_forever, args=(0.01,))
        self.thread.start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def stop(self) -> None:
        self.release.set()
        self.shutdown()
        self.server_close()
        self.thread.join()

    def handle_error(self, *_: object) -> None:
        """The other side hung up: that is what the tests are about."""


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        self.server.asked.append((self.path, self.headers.get("Range")))
        self.server.headers.append(self.headers)
        if self.server.plan:
            self.server.plan.pop(0)(self)
        else:
            answer(self)

    def log_message(self, *_: object) -> None:
        pass


def etag(data: bytes) -> str:
    return f'"{hashlib.sha256(data).hexdigest()[:12]}"'


def answer(
    handler: Handler,
    data: bytes | None = None,
    ranges: bool = True,
    share: float = 1.0,
    wait: bool = False,
    code: int = 200,
    **headers: str,
) -> None:
    """A right answer, or `share` of one, after which the socket is closed, or silent (`wait`)."""
    if data is None:
        data = handler.server.files.get(handler.path)
    if data is None:
        return status(handler, 404)
    start = 0
    match = re.fullmatch(r"bytes=(\d+)-", handler.headers.get("Range", ""))
    same = handler.headers.get("If-Range", etag(data)) == etag(data)
    if match and ranges and same:
        start, code = int(match[1]), 206
        if start >= len(data):
            return status(handler, 416, **{"Content-Range": f"bytes */{len(data)}"})
    handler.send_response(code)
    fields = {
        "Content-Type": "application/zip",
        "Content-Length": str(len(data) - start),
        **({"ETag": etag(data)} if ranges else {}),
        **({"Content-Range": f"bytes {start}-{len(data) - 1}/{len(data)}"} if start else {}),
        **{name.replace("_", "-"): value for name, value in headers.items()},
    }
    for name, value in fields.items():
        if value:
            handler.send_header(name, value)
    handler.end_headers()
    handler.wfile.write(data[start : start + int((len(data) - start) * share)])
    if wait:
        handler.wfile.flush()
        handler.server.release.wait(30)


def status(handler: Handler, code: int, **headers: str) -> None:
    handler.send_response(code)
    for name, value in {"Content-Length": "0", **headers}.items():
        handler.send_header(name, value)
    handler.end_headers()


def cut(handler: Handler) -> None:
    answer(handler, share=0.3)


def stall(handler: Handler) -> None:
    answer(handler, share=0.3, wait=True)
