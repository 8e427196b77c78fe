"""A server of one file that can fail in every way a download can, and what is published on it."""

from __future__ import annotations

import contextlib
import hashlib
import random
import re
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from labelprop_cvat.propagation.sam2.weights import ModelInfo, Patience

LENGTH = 300_000
QUICK = Patience(timeout=0.4, attempts=3, pause=0.01)


def content(seed: int = 0, length: int = LENGTH) -> bytes:
    """Bytes that no two places of which are alike, so that a shifted part is noticed."""
    return random.Random(seed).randbytes(length)


@dataclass
class Seen:
    """What was asked for."""

    path: str
    range: str | None
    if_range: str | None

    @property
    def offset(self) -> int:
        return int(self.range.removeprefix("bytes=").removesuffix("-")) if self.range else 0


Fault = Callable[["Asked"], None]


class Publisher(ThreadingHTTPServer):
    """Serves ``body`` at any path, with ranges and an ETag. ``faults`` answer the first requests instead, in turn."""

    daemon_threads = True

    def __init__(self, body: bytes) -> None:
        super().__init__(("127.0.0.1", 0), Asked)
        self.body = body
        self.tag = '"one"'
        self.faults: list[Fault] = []
        self.seen: list[Seen] = []
        self.pace = 0.0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/file.pt"

    def handle_error(self, request: object, client_address: object) -> None:
        """Clients that hang up are what the tests are about."""


class Asked(BaseHTTPRequestHandler):
    """One request."""

    server: Publisher

    def do_GET(self) -> None:
        self.server.seen.append(Seen(self.path, self.headers.get("Range"), self.headers.get("If-Range")))
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            if self.server.faults:
                self.server.faults.pop(0)(self)
            else:
                self.serve()

    def serve(self, until: int | None = None, ranges: bool = True) -> None:
        """The file, or the range of it that is asked for; the connection ends before byte ``until`` of the file."""
        body, start = self.server.body, 0
        asked = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range") or "")
        valid = self.headers.get("If-Range") in (None, self.server.tag)
        if asked and ranges and valid:
            start = int(asked[1])
            self.head(206, len(body) - start, {"Content-Range": f"bytes {start}-{len(body) - 1}/{len(body)}"})
        else:
            self.head(200, len(body))
        rest = body[start:until]
        for place in range(0, len(rest), 8192):
            self.wfile.write(rest[place : place + 8192])
            self.wfile.flush()
            time.sleep(self.server.pace)

    def head(self, status: int, length: int | None, more: dict[str, str] | None = None) -> None:
        self.send_response(status)
        fields = {"Content-Type": "application/octet-stream", "ETag": self.server.tag, **(more or {})}
        if length is not None:
            fields["Content-Length"] = str(length)
        for name, value in fields.items():
            self.send_header(name, value)
        self.end_headers()

    def say(self, status: int, text: str = "", **fields: str) -> None:
        """A whole answer of a few words."""
        self.head(status, len(text), {name.replace("_", "-"): value for name, value in fields.items()})
        self.wfile.write(text.encode())

    def log_message(self, *arguments: object) -> None:
        """Keeps quiet."""


@dataclass
class Release:
    """A checkpoint that is published on a server of its own, and a folder to put it into."""

    server: Publisher
    folder: Path
    info: ModelInfo = field(init=False)

    def __post_init__(self) -> None:
        self.info = describe(self.server.body, self.server.url)

    @property
    def target(self) -> Path:
        return self.folder / self.info.file_name

    @property
    def part(self) -> Path:
        return self.folder / f"{self.info.file_name}.part"

    def there(self) -> set[str]:
        return {path.name for path in self.folder.iterdir()}


def describe(body: bytes, url: str) -> ModelInfo:
    """The model whose checkpoint is ``body``."""
    return ModelInfo(
        name="sam2.1_hiera_nano",
        version="2.1",
        size="nano",
        config="configs/sam2.1/sam2.1_hiera_n.yaml",
        file_name="sam2.1_hiera_nano.pt",
        url=url,
        size_bytes=len(body),
        sha256=hashlib.sha256(body).hexdigest(),
    )


@contextlib.contextmanager
def published(folder: Path, body: bytes) -> Iterator[Release]:
    """Publishes a file while the context lasts."""
    folder.mkdir(parents=True, exist_ok=True)
    with Publisher(body) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
        thread.start()
        try:
            yield Release(server, folder)
        finally:
            server.shutdown()
            thread.join()
