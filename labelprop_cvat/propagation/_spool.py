"""A temporary file of numpy arrays, so that a pass over a long gap needs no memory."""

from __future__ import annotations

import tempfile
import threading
import zlib
from array import array
from collections.abc import Hashable, Sequence
from io import BytesIO
from typing import Any

import numpy as np
import numpy.typing as npt

# Crops of probabilities are smooth: the fastest level already takes off most of them.
_COMPRESSION = 1


class Spool:
    """Records of arrays, appended in any order of their keys and read back by key, from any thread.

    The file has no name and goes away with :meth:`close`, or with the process.
    """

    def __init__(self) -> None:
        self._file = tempfile.TemporaryFile(prefix="labelprop-")  # noqa: SIM115 - closed by close()
        self._places: dict[Hashable, int] = {}
        self._index = array("q")
        self._lock = threading.Lock()

    def put(self, key: Hashable, record: Sequence[npt.NDArray[Any]]) -> None:
        """Appends one record."""
        buffer = BytesIO()
        for part in record:
            np.lib.format.write_array(buffer, np.ascontiguousarray(part), allow_pickle=False)
        data = zlib.compress(buffer.getvalue(), _COMPRESSION)
        with self._lock:
            offset = self._file.seek(0, 2)
            self._file.write(data)
            self._places[key] = len(self._index)
            self._index.extend((offset, len(data), len(record)))

    def get(self, key: Hashable) -> list[npt.NDArray[Any]] | None:
        """The record of that key, or None."""
        with self._lock:
            place = self._places.get(key)
            if place is None:
                return None
            offset, length, parts = self._index[place : place + 3]
            self._file.seek(offset)
            data = self._file.read(length)
        buffer = BytesIO(zlib.decompress(data))
        return [np.lib.format.read_array(buffer, allow_pickle=False) for _ in range(parts)]

    @property
    def closed(self) -> bool:
        """Whether the file is gone."""
        return self._file.closed

    def close(self) -> None:
        """Deletes the file; harmless when done twice."""
        self._file.close()
