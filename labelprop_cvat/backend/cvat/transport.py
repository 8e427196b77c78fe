"""What carries a request: a connection that ends at its deadline, bodies that are read from disk as they go, and
answers of bounded size.

A timeout of the ``requests`` library bounds the wait for the next piece, so that a server which sends a byte now and
then holds a call for ever. A :class:`Deadline` bounds the whole exchange.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Protocol

import requests
from requests.adapters import HTTPAdapter
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool
from urllib3.fields import RequestField

from labelprop_cvat.backend.cvat.errors import AnswerTooLarge, InvalidPayload

BLOCK_BYTES = 64 * 2**10
ANSWER_BYTES = 256 * 2**20
"""The largest answer that is taken, unpacked. A job of a million keyframes stays far below it."""
REFUSAL_BYTES = 2**20
"""How much is read of an answer that says no."""
_SLOWEST_UPLOAD = 32 * 2**10
"""Bytes a second; a request gets that much longer for its body."""


@dataclass(frozen=True)
class Answer:
    """An answer that was read to its end.

    Attributes:
        status: HTTP status
        headers: names in any case
        content: the body, unpacked; of a refusal at most its first MiB
    """

    status: int
    headers: Mapping[str, str]
    content: bytes

    def json(self) -> Any:
        """The body as JSON.

        Raises:
            ValueError: it is none
        """
        try:
            return json.loads(self.content)
        except RecursionError:
            raise ValueError("nested too deeply") from None

    @property
    def text(self) -> str:
        """The body as text, whatever it is."""
        return self.content.decode("utf-8", "replace")


class Deadline:
    """The end of one exchange. When it comes, the connection is shut and :attr:`passed` is True.

    Use it in a ``with`` statement around the request, in the thread that makes it.

    Args:
        seconds: from entering the ``with`` statement, > 0
    """

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self.passed = False
        self._lock = threading.Lock()
        self._sockets: list[socket.socket] = []
        self._timer = threading.Timer(seconds, self._end)
        self._timer.daemon = True

    def __enter__(self) -> Deadline:
        _current.deadline = self
        self._timer.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._timer.cancel()
        with self._lock:
            # From here on the connection is the pool's.
            self._sockets.clear()
        _current.deadline = None

    def watch(self, connection: socket.socket) -> None:
        """Shuts this connection at the end."""
        with self._lock:
            self._sockets.append(connection)
            if self.passed:
                _shut(connection)

    def _end(self) -> None:
        with self._lock:
            self.passed = True
            for connection in self._sockets:
                _shut(connection)


def _shut(connection: socket.socket) -> None:
    # The method of the plain socket: the one of a TLS socket takes away state that its reader is using.
    with contextlib.suppress(OSError):
        socket.socket.shutdown(connection, socket.SHUT_RDWR)


class _Current(threading.local):
    deadline: Deadline | None = None


_current = _Current()


def _watch(connection: HTTPConnection) -> None:
    if _current.deadline is not None and isinstance(connection.sock, socket.socket):
        _current.deadline.watch(connection.sock)


class _Connection(HTTPConnection):
    def connect(self) -> None:
        super().connect()
        _watch(self)

    def request(self, *args: Any, **options: Any) -> None:
        _watch(self)
        super().request(*args, **options)


class _TLSConnection(HTTPSConnection):
    def connect(self) -> None:
        super().connect()
        _watch(self)

    def request(self, *args: Any, **options: Any) -> None:
        _watch(self)
        super().request(*args, **options)


class _Pool(HTTPConnectionPool):
    ConnectionCls = _Connection


class _TLSPool(HTTPSConnectionPool):
    ConnectionCls = _TLSConnection


class DeadlineAdapter(HTTPAdapter):
    """Carries requests over connections that a :class:`Deadline` can end."""

    def init_poolmanager(self, *args: Any, **options: Any) -> None:
        """Makes the pools of connections; called by ``requests``."""
        super().init_poolmanager(*args, **options, blocksize=BLOCK_BYTES)
        self.poolmanager.pool_classes_by_scheme = {"http": _Pool, "https": _TLSPool}

    def proxy_manager_for(self, *args: Any, **options: Any) -> Any:
        """Makes the pools of connections through a proxy; called by ``requests``."""
        manager = super().proxy_manager_for(*args, **options, blocksize=BLOCK_BYTES)
        manager.pool_classes_by_scheme = {"http": _Pool, "https": _TLSPool}
        return manager


def read_answer(response: requests.Response, what: str) -> Answer:
    """Reads an answer to its end, and no more than is sensible.

    Args:
        response: an answer whose body was not read yet (``stream=True``)
        what: method and path, for the sentence

    Raises:
        AnswerTooLarge: it holds more than :data:`ANSWER_BYTES`, or says that it does
        requests.RequestException: the connection broke
    """
    good = response.status_code < 300
    try:
        declared = response.headers.get("Content-Length", "")
        if good and declared.isdecimal() and int(declared) > ANSWER_BYTES:
            raise _too_large(what)
        pieces: list[bytes] = []
        held = 0
        for piece in response.iter_content(BLOCK_BYTES):
            held += len(piece)
            if held > (ANSWER_BYTES if good else REFUSAL_BYTES):
                if good:
                    raise _too_large(what)
                break
            pieces.append(piece)
        return Answer(response.status_code, response.headers, b"".join(pieces))
    finally:
        response.close()


def _too_large(what: str) -> AnswerTooLarge:
    return AnswerTooLarge(
        f"The answer to {what} is larger than {ANSWER_BYTES // 2**20} MiB, which no CVAT server sends for a task of "
        f"sensible size; it was not read. Cut the task into smaller ones, or check what answers at the address."
    )


class Body(Protocol):
    """A body that can be sent several times."""

    @property
    def size(self) -> int:
        """Bytes."""

    @property
    def content_type(self) -> str:
        """Value of the ``Content-Type`` header."""

    def open(self) -> Stream:
        """The bytes from the beginning."""


def data_of(body: Body) -> Stream | bytes:
    """A body as ``requests`` takes it: a short one as it is, a long one to be read as it is sent.

    ``requests`` gives the whole of some bytes only as long as a connection may take to be made, and a stream that long
    for each block.
    """
    stream = body.open()
    return b"".join(stream) if body.size <= BLOCK_BYTES else stream


class Stream:
    """Bytes of known number, read piece by piece, as ``requests`` takes them for a body."""

    def __init__(self, pieces: Iterator[bytes], size: int) -> None:
        self._pieces = pieces
        self._held = b""
        self._size = size

    def __len__(self) -> int:
        return self._size

    def __iter__(self) -> Iterator[bytes]:
        return self._pieces

    def read(self, size: int = BLOCK_BYTES) -> bytes:
        """The next bytes, at most ``size`` of them; none at the end."""
        while not self._held:
            piece = next(self._pieces, None)
            if piece is None:
                return b""
            self._held = piece
        given, self._held = self._held[:size], self._held[size:]
        return given


@dataclass(frozen=True)
class FileSlice:
    """Part of a file as a body.

    Attributes:
        start: first byte
        size: number of bytes
    """

    path: Path
    start: int
    size: int
    content_type: str = "application/offset+octet-stream"

    def open(self) -> Stream:
        """The bytes from the beginning."""
        return Stream(_file_blocks(self.path, self.start, self.size), self.size)


class JSONBody:
    """JSON as a body.

    Raises:
        InvalidPayload: it cannot be JSON, e.g. because it holds NaN
    """

    content_type = "application/json"

    def __init__(self, value: object) -> None:
        try:
            self._content = json.dumps(value, allow_nan=False).encode()
        except (TypeError, ValueError) as error:
            raise InvalidPayload(f"What is sent to CVAT must be JSON: {error}.") from None
        self.size = len(self._content)

    def open(self) -> Stream:
        """The bytes from the beginning."""
        starts = range(0, self.size, BLOCK_BYTES)
        return Stream((self._content[start : start + BLOCK_BYTES] for start in starts), self.size)


class Multipart:
    """Fields and files as a ``multipart/form-data`` body that is read from disk as it is sent.

    Args:
        fields: name and value
        files: name of the field, name of the file, where it is, its size in bytes
    """

    def __init__(self, fields: Sequence[tuple[str, str]], files: Sequence[tuple[str, str, Path, int]]) -> None:
        boundary = os.urandom(16).hex()
        self.content_type = f"multipart/form-data; boundary={boundary}"
        self._parts: list[bytes | tuple[Path, int]] = []
        for name, value in fields:
            self._parts += [_part_head(boundary, name, None), value.encode(), b"\r\n"]
        for name, filename, path, size in files:
            self._parts += [_part_head(boundary, name, filename), (path, size), b"\r\n"]
        self._parts.append(f"--{boundary}--\r\n".encode())
        self.size = sum(len(part) if isinstance(part, bytes) else part[1] for part in self._parts)

    def open(self) -> Stream:
        """The bytes from the beginning."""
        return Stream(self._blocks(), self.size)

    def _blocks(self) -> Iterator[bytes]:
        for part in self._parts:
            if isinstance(part, bytes):
                yield part
            else:
                yield from _file_blocks(part[0], 0, part[1])


def _part_head(boundary: str, name: str, filename: str | None) -> bytes:
    field = RequestField(name, b"", filename=filename)
    field.make_multipart(content_type=None if filename is None else "application/octet-stream")
    return f"--{boundary}\r\n{field.render_headers()}".encode()


def _file_blocks(path: Path, start: int, size: int) -> Iterator[bytes]:
    try:
        with path.open("rb") as stream:
            yield from _blocks(stream, path, start, size)
    except OSError as error:
        raise InvalidPayload(f"The image {path} cannot be read: {error.strerror}.") from None


def _blocks(stream: BinaryIO, path: Path, start: int, size: int) -> Iterator[bytes]:
    stream.seek(start)
    left = size
    while left:
        block = stream.read(min(BLOCK_BYTES, left))
        if not block:
            raise InvalidPayload(f"The image {path} became shorter while it was sent. Upload again.")
        left -= len(block)
        yield block


def allowance(seconds: float, body: Body | None) -> float:
    """Seconds that an exchange may take in all: a large body needs its time on a slow line."""
    return seconds + (0 if body is None else body.size / _SLOWEST_UPLOAD)


__all__ = [
    "ANSWER_BYTES",
    "Answer",
    "Body",
    "Deadline",
    "DeadlineAdapter",
    "FileSlice",
    "JSONBody",
    "Multipart",
    "allowance",
    "data_of",
    "read_answer",
]
