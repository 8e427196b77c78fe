"""Multipart form data read from a stream in bounded memory: files go straight to disk."""

from __future__ import annotations

import re
import uuid
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import BinaryIO
from urllib.parse import unquote

from .replies import RefusalError, invalid

_MAX_HEADER = 64 * 1024
_MAX_FIELDS = 16 * 1024 * 1024
_MAX_PARTS = 100_000


@dataclass
class FormData:
    """A form: text fields in order, and the files as (field name, file name, path)."""

    fields: list[tuple[str, str]] = field(default_factory=list)
    files: list[tuple[str, str, Path]] = field(default_factory=list)


class _Place(Enum):
    BOUNDARY = 1
    HEADERS = 2
    BODY = 3
    END = 4


async def read_form(
    content_type: str, stream: AsyncIterator[bytes], destination: Callable[[str], Path], max_file: int
) -> FormData:
    """Read a form.

    Args:
        content_type: the request's header, with its boundary
        stream: the body
        destination: where a file of a given name goes; an existing file there is replaced when the part is whole
        max_file: bytes that one file may have

    Raises:
        RefusalError: 400 for a body that is not a complete form, 413 for a file or fields that are too large
    """
    parser = _FormParser(_boundary(content_type), destination, max_file)
    try:
        async for chunk in stream:
            parser.feed(chunk)
        return parser.finish()
    finally:
        parser.abandon()


def _boundary(content_type: str) -> bytes:
    found = re.search(r'boundary="?([^";]+)"?', content_type)
    if found is None:
        raise invalid({"detail": "Multipart form parse error - Invalid boundary in multipart: None"})
    return found.group(1).encode()


class _FormParser:
    def __init__(self, boundary: bytes, destination: Callable[[str], Path], max_file: int) -> None:
        self._max_file = max_file
        self._fields_size = 0
        self._file_size = 0
        self._mark = b"\r\n--" + boundary
        # The first boundary has no line break before it; giving it one makes all alike.
        self._buffer = bytearray(b"\r\n")
        self._place = _Place.BOUNDARY
        self._destination = destination
        self._form = FormData()
        self._name = ""
        self._filename: str | None = None
        self._text = bytearray()
        self._file: BinaryIO | None = None
        self._partial: Path | None = None
        self._target: Path | None = None

    def feed(self, chunk: bytes) -> None:
        self._buffer += chunk
        while self._step():
            pass

    def finish(self) -> FormData:
        if self._place is not _Place.END:
            raise invalid({"detail": "Multipart form parse error - the body ends before its closing boundary"})
        return self._form

    def abandon(self) -> None:
        """Remove a file that did not arrive whole."""
        if self._file is not None:
            self._file.close()
            self._file = None
        if self._partial is not None:
            self._partial.unlink(missing_ok=True)
            self._partial = None

    def _step(self) -> bool:
        """Consume one item of the buffer; False when more must come first."""
        if self._place is _Place.BOUNDARY:
            return self._read_boundary()
        if self._place is _Place.HEADERS:
            return self._read_headers()
        if self._place is _Place.BODY:
            return self._read_body()
        self._buffer.clear()
        return False

    def _read_boundary(self) -> bool:
        start = self._buffer.find(self._mark)
        end = start + len(self._mark)
        if start < 0 or len(self._buffer) < end + 2:
            if len(self._buffer) > _MAX_HEADER:
                raise invalid({"detail": "Multipart form parse error - no boundary found"})
            return False
        closing = self._buffer[end : end + 2] == b"--"
        del self._buffer[: end + 2]
        self._place = _Place.END if closing else _Place.HEADERS
        return True

    def _read_headers(self) -> bool:
        end = self._buffer.find(b"\r\n\r\n")
        if end < 0:
            if len(self._buffer) > _MAX_HEADER:
                raise invalid({"detail": "Multipart form parse error - part headers are too long"})
            return False
        headers = self._buffer[:end].decode("utf-8", "replace")
        del self._buffer[: end + 4]
        self._open_part(headers)
        self._place = _Place.BODY
        return True

    def _open_part(self, headers: str) -> None:
        disposition = next(
            (line for line in headers.split("\r\n") if line.lower().startswith("content-disposition")), ""
        )
        name = re.search(r'[;\s]name="([^"]*)"', disposition)
        filename = re.search(r'[;\s]filename="((?:[^"\\]|\\.)*)"', disposition)
        self._name = name.group(1) if name else ""
        self._filename = filename.group(1).replace('\\"', '"') if filename else None
        encoded = re.search(r"[;\s]filename\*=(?:utf-8|UTF-8)''([^;\s]+)", disposition)
        if encoded is not None:
            self._filename = unquote(encoded.group(1))
        self._text.clear()
        self._file_size = 0
        if len(self._form.fields) + len(self._form.files) >= _MAX_PARTS:
            raise RefusalError(413, {"detail": f"The form has too many parts: at most {_MAX_PARTS}."})
        if self._filename is not None:
            target = self._destination(self._filename)
            target.parent.mkdir(parents=True, exist_ok=True)
            # A name that no upload can have by chance.
            self._partial = target.with_name(f".{uuid.uuid4().hex}.part")
            self._target = target
            self._file = self._partial.open("wb")

    def _read_body(self) -> bool:
        end = self._buffer.find(self._mark)
        if end >= 0:
            self._write(self._buffer[:end])
            del self._buffer[:end]
            self._close_part()
            self._place = _Place.BOUNDARY
            return True
        # What could be the beginning of the boundary stays until more is known.
        whole = len(self._buffer) - len(self._mark)
        if whole > 0:
            self._write(self._buffer[:whole])
            del self._buffer[:whole]
        return False

    def _write(self, content: bytes | bytearray) -> None:
        if self._file is not None:
            self._file_size += len(content)
            if self._file_size > self._max_file:
                raise RefusalError(413, {"detail": f"File is too big; at most {self._max_file} bytes."})
            self._file.write(content)
            return
        self._fields_size += len(content)
        if self._fields_size > _MAX_FIELDS:
            raise RefusalError(413, {"detail": f"The form's fields are too large: at most {_MAX_FIELDS} bytes."})
        self._text += content

    def _close_part(self) -> None:
        if self._file is None or self._partial is None or self._filename is None or self._target is None:
            self._form.fields.append((self._name, self._text.decode("utf-8", "replace")))
            return
        self._file.close()
        self._file = None
        self._partial.replace(self._target)
        self._partial = None
        self._form.files.append((self._name, self._filename, self._target))


def nested_fields(pairs: list[tuple[str, str]]) -> dict[str, object]:
    """Form fields as JSON would have them: ``a[0][1]=x`` becomes lists in lists, a repeated name a list."""
    tree: dict[str, object] = {}
    lists: dict[str, dict[tuple[int, ...], str]] = {}
    for name, value in pairs:
        indices = tuple(int(number) for number in re.findall(r"\[(\d+)\]", name))
        stem = name.split("[", 1)[0]
        if indices:
            lists.setdefault(stem, {})[indices] = value
        elif stem in tree:
            known = tree[stem]
            tree[stem] = [*known, value] if isinstance(known, list) else [known, value]
        else:
            tree[stem] = value
    for stem, entries in lists.items():
        tree[stem] = _as_lists(entries)
    return tree


def _as_lists(entries: dict[tuple[int, ...], str]) -> list[object]:
    groups: dict[int, dict[tuple[int, ...], str]] = {}
    for indices, value in entries.items():
        groups.setdefault(indices[0], {})[indices[1:]] = value
    return [groups[number][()] if () in groups[number] else _as_lists(groups[number]) for number in sorted(groups)]


__all__ = ["FormData", "nested_fields", "read_form"]
