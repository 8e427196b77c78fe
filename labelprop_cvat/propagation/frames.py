"""Frames of an image list or a video, read lazily with exact indices.

Frame ``i`` of a video is the ``i``-th picture in presentation order that decodes, whatever the container says about
frame counts, rates and times.

How pixels become RGB: an orientation that the file asks for (EXIF of images, the display matrix of videos) is
applied, as browsers, the FiftyOne App and CVAT do, so that all of them agree on width, height and coordinates.
Grayscale and palette images become RGB, the alpha channel is dropped, and 16-bit samples keep their upper eight bits
(a fixed scale: stretching each frame by its own maximum would make brightness flicker).
"""

from __future__ import annotations

import logging
import os
import threading
import zlib
from bisect import bisect_left
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import cv2
import numpy as np
import numpy.typing as npt
from PIL import Image as PILImage

from labelprop_cvat.errors import DataError

logger = logging.getLogger(__name__)

Image = npt.NDArray[np.uint8]
Progress = Callable[[int], None]

_CACHED_FRAMES = 8
_CHUNK_BYTES = 96 * 2**20
_MAX_CHUNK = 128
_GRAB_RATHER_THAN_SEEK = 48
_EXIF_ORIENTATION = 274
_QUARTER_TURNS = frozenset({5, 6, 7, 8})


@runtime_checkable
class FrameSource(Protocol):
    """Lazy access to the frames of one sequence. Indices are 0-based and exact."""

    @property
    def size(self) -> tuple[int, int]:
        """``(height, width)`` in pixels, the same for every frame."""
        ...

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Image:
        """Frame ``index``: array of shape ``(H, W, 3)``, uint8, RGB. It may be shared and read-only: copy to draw."""
        ...

    def read(self, start: int, stop: int, step: int = 1) -> Iterator[tuple[int, Image]]:
        """Yields ``(index, frame)`` for ``range(start, stop, step)``; ``step`` may be negative."""
        ...


class ArraySource:
    """Frames that are in memory already.

    Args:
        frames: array of shape ``(n, H, W, 3)``, uint8, RGB, or a sequence of ``(H, W, 3)`` arrays

    Raises:
        DataError: there are no frames, or one is not uint8 RGB of the size of the first
    """

    def __init__(self, frames: npt.NDArray[np.uint8] | Sequence[Image]) -> None:
        if len(frames) == 0:
            raise DataError("A sequence needs at least one frame, got none.")
        first = frames[0]
        for index, frame in enumerate(frames):
            if frame.ndim != 3 or frame.shape[2] != 3 or frame.dtype != np.uint8 or frame.shape != first.shape:
                raise DataError(
                    f"Frames are uint8 arrays of one shape (H, W, 3); frame 0 has {first.shape}, frame {index} has "
                    f"shape {frame.shape} and type {frame.dtype}."
                )
        self._frames = frames
        self._size = (int(first.shape[0]), int(first.shape[1]))

    @property
    def size(self) -> tuple[int, int]:
        """``(height, width)`` in pixels."""
        return self._size

    def __len__(self) -> int:
        return len(self._frames)

    def __getitem__(self, index: int) -> Image:
        return self._frames[_checked_index(index, len(self))]

    def read(self, start: int, stop: int, step: int = 1) -> Iterator[tuple[int, Image]]:
        """Yields ``(index, frame)`` for ``range(start, stop, step)``."""
        for index in _checked_range(start, stop, step, len(self)):
            yield index, self._frames[index]


class ImageSequenceSource:
    """One image file per frame, in the order given.

    Args:
        paths: the files, in order; anything that OpenCV decodes. Nothing is read before it is asked for.
        uniform: whether all must be of one size, as those of one camera are. Without it they are pictures that have
            nothing to do with each other, ``size`` is that of the first and :attr:`sizes` tells the others

    Raises:
        DataError: (when made) there are no paths; (when read) a file is missing, broken or, where they must be uniform,
            of another size than the first one; the message names the file
    """

    def __init__(self, paths: Sequence[str | os.PathLike[str]], *, uniform: bool = True) -> None:
        if len(paths) == 0:
            raise DataError("A sequence needs at least one image, got none.")
        self._paths = tuple(os.fspath(path) for path in paths)
        self._uniform = uniform
        self._cache = _FrameCache(_CACHED_FRAMES)
        self._size: tuple[int, int] | None = None
        self._sizes: tuple[tuple[int, int], ...] | None = None

    @property
    def paths(self) -> tuple[str, ...]:
        """The files, in order."""
        return self._paths

    @property
    def size(self) -> tuple[int, int]:
        """``(height, width)`` in pixels, after the file's orientation is applied; read from the first file's header."""
        if self._size is None:
            self._size = image_size(self._paths[0])
        return self._size

    @property
    def sizes(self) -> tuple[tuple[int, int], ...]:
        """``(height, width)`` of every file in pixels, read from their headers once.

        Raises:
            DataError: as :meth:`check`
        """
        if self._sizes is None:
            self.check()
        return self._sizes or ()

    def check(self, progress: Progress | None = None) -> None:
        """Reads every file's header.

        Args:
            progress: called with the number of files seen so far

        Raises:
            DataError: a file is missing or no image, or sizes differ and may not; the message names the files
        """
        sizes = []
        for done, path in enumerate(self._paths, start=1):
            sizes.append(image_size(path))
            self._check_size(path, sizes[-1])
            if progress is not None:
                progress(done)
        self._sizes = tuple(sizes)

    def __len__(self) -> int:
        return len(self._paths)

    def __getitem__(self, index: int) -> Image:
        index = _checked_index(index, len(self))
        frame = self._cache.get(index)
        if frame is None:
            path = self._paths[index]
            frame = read_image(path)
            self._check_size(path, (frame.shape[0], frame.shape[1]))
            self._cache.put(index, frame)
        return frame

    def read(self, start: int, stop: int, step: int = 1) -> Iterator[tuple[int, Image]]:
        """Yields ``(index, frame)`` for ``range(start, stop, step)``."""
        for index in _checked_range(start, stop, step, len(self)):
            yield index, self[index]

    def _check_size(self, path: str, size: tuple[int, int]) -> None:
        if self._uniform and size != self.size:
            raise DataError(
                f"The frames of a sequence must all be of one size. {self._paths[0]} is {_wxh(self.size)} pixels and "
                f"{path} is {_wxh(size)}. Put frames of different sizes into different sequences."
            )


class VideoSource:
    """The frames of a video file, counted as they decode.

    The first access decodes the file once and keeps, per frame, its time stamp and a checksum of a few pixels (20
    bytes a frame, shared by all sources of the same unchanged file). Every later seek is checked against that index and
    falls back to decoding from the start where a container seeks wrongly, so B-frames, variable frame rates and
    wrong headers cost time but never exactness.

    ``read`` uses a decoder of its own: several reads may be open at once without disturbing each other. Reading
    backward holds one chunk of at most 128 frames and about 96 MiB.

    Args:
        path: a file that OpenCV's FFmpeg opens; variable frame rates and rotation metadata are handled
        progress: called with the number of frames seen so far while the index is built

    Raises:
        DataError: (at first access) the file is missing, no video, holds no frame, or its frame size changes
    """

    def __init__(self, path: str | os.PathLike[str], *, progress: Progress | None = None) -> None:
        self._path = os.fspath(path)
        self._progress = progress
        self._lock = threading.RLock()
        self._cache = _FrameCache(_CACHED_FRAMES)
        self._known: _VideoIndex | None = None
        self._cursor: _Cursor | None = None

    @property
    def path(self) -> str:
        """The file."""
        return self._path

    @property
    def size(self) -> tuple[int, int]:
        """``(height, width)`` in pixels, after rotation."""
        return self._index.size

    @property
    def frame_rate(self) -> float:
        """Frames per second: the mean over the file for variable rates; 0 when the file has no usable times."""
        return self._index.frame_rate

    def __len__(self) -> int:
        return len(self._index)

    def __getitem__(self, index: int) -> Image:
        index = _checked_index(index, len(self))
        with self._lock:
            frame = self._cache.get(index)
            if frame is None:
                if self._cursor is None:
                    self._cursor = _Cursor(self._path, self._index)
                frame = self._cursor.frame(index)
                self._cache.put(index, frame)
            return frame

    def read(self, start: int, stop: int, step: int = 1) -> Iterator[tuple[int, Image]]:
        """Yields ``(index, frame)`` for ``range(start, stop, step)``."""
        return self.read_positions(_checked_range(start, stop, step, len(self)))

    def read_positions(self, positions: Sequence[int]) -> Iterator[tuple[int, Image]]:
        """Yields ``(index, frame)`` for any 0-based positions, in the order given."""
        wanted = [_checked_index(position, len(self)) for position in positions]
        return self._read(wanted)

    def close(self) -> None:
        """Lets go of the decoder behind single-frame access; the source stays usable."""
        with self._lock:
            if self._cursor is not None:
                self._cursor.close()
                self._cursor = None

    def _read(self, wanted: list[int]) -> Iterator[tuple[int, Image]]:
        with closing(_Cursor(self._path, self._index)) as cursor:
            for run in _runs(wanted, self._chunk):
                if run[0] <= run[-1]:
                    for index in run:
                        yield index, cursor.frame(index)
                else:
                    held = [(index, cursor.frame(index)) for index in reversed(run)]
                    while held:
                        yield held.pop()

    @property
    def _chunk(self) -> int:
        height, width = self.size
        return max(1, min(_MAX_CHUNK, _CHUNK_BYTES // (3 * height * width)))

    @property
    def _index(self) -> _VideoIndex:
        with self._lock:
            if self._known is None:
                self._known = _video_index(self._path, self._progress)
            return self._known


class SubsetSource:
    """Some frames of another source, renumbered from 0.

    Args:
        source: where the frames come from
        positions: 0-based positions in ``source``, in any order

    Raises:
        DataError: there are no positions, or one is outside the source
    """

    def __init__(self, source: FrameSource, positions: Sequence[int]) -> None:
        if len(positions) == 0:
            raise DataError("A sequence needs at least one frame, got none.")
        self._source = source
        self._positions = tuple(_checked_index(position, len(source)) for position in positions)
        if isinstance(source, SubsetSource):
            # Only the source itself knows how its frames are read in one go.
            self._source = source._source
            self._positions = tuple(source._positions[position] for position in self._positions)

    @property
    def size(self) -> tuple[int, int]:
        """``(height, width)`` in pixels."""
        return self._source.size

    def __len__(self) -> int:
        return len(self._positions)

    def __getitem__(self, index: int) -> Image:
        return self._source[self._positions[_checked_index(index, len(self))]]

    def read(self, start: int, stop: int, step: int = 1) -> Iterator[tuple[int, Image]]:
        """Yields ``(index, frame)`` for ``range(start, stop, step)``."""
        indices = _checked_range(start, stop, step, len(self))
        positions = [self._positions[index] for index in indices]
        if isinstance(self._source, VideoSource):
            frames = (frame for _, frame in self._source.read_positions(positions))
        else:
            frames = (self._source[position] for position in positions)
        return zip(indices, frames, strict=True)


def read_image(path: str | os.PathLike[str]) -> Image:
    """Reads one image file.

    Returns:
        array of shape ``(H, W, 3)``, uint8, RGB; see the module's text for orientation and other formats

    Raises:
        DataError: the file is missing, cut short or no image that OpenCV decodes
    """
    try:
        data = np.fromfile(path, dtype=np.uint8)
    except OSError as error:
        raise DataError(
            f"Cannot read the image {os.fspath(path)}: {error.strerror or error}. Mend that, or leave its sample out."
        ) from error
    try:
        # From memory, because OpenCV paints the missing part of a JPEG file gray and says nothing.
        decoded = cv2.imdecode(data, cv2.IMREAD_COLOR) if data.size else None
    except cv2.error:
        decoded = None
    if decoded is None:
        raise DataError(
            f"Cannot decode the image {os.fspath(path)} ({data.size} bytes): it is cut short, damaged or no image. "
            f"Replace the file or leave its sample out of the view."
        )
    rgb: Image = np.asarray(cv2.cvtColor(decoded, cv2.COLOR_BGR2RGB), dtype=np.uint8)
    return rgb


def image_size(path: str | os.PathLike[str]) -> tuple[int, int]:
    """Reads ``(height, width)`` in pixels from an image's header, the file's orientation applied.

    Raises:
        DataError: the file is missing or no image
    """
    try:
        with PILImage.open(path) as image:
            width, height = image.size
            turned = image.getexif().get(_EXIF_ORIENTATION) in _QUARTER_TURNS
    except FileNotFoundError as error:
        raise DataError(
            f"Cannot read the image {os.fspath(path)}: there is no such file. Put it back, or leave its sample out."
        ) from error
    except Exception:
        # Formats that only OpenCV knows, and headers that only Pillow minds, are settled by decoding.
        frame = read_image(path)
        return frame.shape[0], frame.shape[1]
    return (width, height) if turned else (height, width)


class _FrameCache:
    """The few frames used last, read-only and safe to use from several threads."""

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._frames: OrderedDict[int, Image] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, index: int) -> Image | None:
        with self._lock:
            frame = self._frames.get(index)
            if frame is not None:
                self._frames.move_to_end(index)
            return frame

    def put(self, index: int, frame: Image) -> None:
        # A caller that draws into a cached frame would change what the next reader sees.
        frame.flags.writeable = False
        with self._lock:
            self._frames[index] = frame
            while len(self._frames) > self._capacity:
                self._frames.popitem(last=False)


@dataclass(frozen=True)
class _VideoIndex:
    """What one full decode of a file told.

    Args:
        size: ``(height, width)`` after rotation
        stamps: array of shape ``(n,)``, int64: presentation times in microseconds, as the decoder gave them
        checksums: array of shape ``(n,)``, uint32: see :func:`_checksum`
    """

    size: tuple[int, int]
    stamps: npt.NDArray[np.int64]
    checksums: npt.NDArray[np.uint32]

    def __len__(self) -> int:
        return len(self.stamps)

    @cached_property
    def seekable(self) -> bool:
        """Whether time stamps tell frames apart; raw streams and some AVI files have none that do."""
        return len(self) > 1 and bool((np.diff(self.stamps) > 0).all())

    @property
    def frame_rate(self) -> float:
        if not self.seekable:
            return 0.0
        return float((len(self) - 1) / (self.stamps[-1] - self.stamps[0]) * 1e6)

    def position(self, stamp: int) -> int | None:
        """The frame with this time stamp."""
        position = bisect_left(self.stamps, stamp)
        return int(position) if position < len(self) and self.stamps[position] == stamp else None

    @classmethod
    def build(cls, path: str, progress: Progress | None) -> _VideoIndex:
        stamps: list[int] = []
        checksums: list[int] = []
        size: tuple[int, int] | None = None
        capture = _open(path)
        try:
            while capture.grab():
                there, frame = capture.retrieve()
                if not there:
                    raise DataError(f"Frame {len(stamps)} of the video {path} cannot be converted to RGB.")
                size = size or (frame.shape[0], frame.shape[1])
                _check_video_size(path, len(stamps), size, frame)
                stamps.append(_stamp(capture))
                checksums.append(_checksum(frame))
                if progress is not None:
                    progress(len(stamps))
        finally:
            capture.release()
        if size is None:
            raise DataError(f"The video {path} holds no frame that decodes. Replace the file or leave its sample out.")
        return cls(size, np.asarray(stamps, dtype=np.int64), np.asarray(checksums, dtype=np.uint32))


class _Cursor:
    """One decoder on a file whose index is known; always knows which frame it decoded last."""

    def __init__(self, path: str, index: _VideoIndex) -> None:
        self._path = path
        self._index = index
        self._capture = _open(path)
        self._at = -1
        self._counted_from_start = True

    def frame(self, target: int) -> Image:
        """Frame ``target`` as RGB."""
        if not (self._at < target <= self._at + _GRAB_RATHER_THAN_SEEK):
            self._seek(target)
        frame = self._advance(target)
        if frame is None and not self._counted_from_start:
            logger.debug("Seeking to frame %d of %s went wrong; decoding from the start.", target, self._path)
            self._restart()
            frame = self._advance(target)
        if frame is None:
            raise DataError(
                f"Frame {target} of the video {self._path} no longer decodes as it did before. "
                f"The file was changed or its storage is failing; run the call again with a stable file."
            )
        return np.asarray(cv2.cvtColor(frame, cv2.COLOR_BGR2RGB), dtype=np.uint8)

    def close(self) -> None:
        self._capture.release()

    def _advance(self, target: int) -> npt.NDArray[Any] | None:
        """Decodes up to ``target``; None when what comes is not what the index says."""
        while self._at < target:
            if not self._grab():
                return None
        there, frame = self._capture.retrieve()
        if not there or _checksum(frame) != self._index.checksums[target]:
            return None
        _check_video_size(self._path, target, self._index.size, frame)
        return frame

    def _grab(self) -> bool:
        if not self._capture.grab():
            return False
        self._at += 1
        if self._counted_from_start:
            return True
        return self._at < len(self._index) and _stamp(self._capture) == self._index.stamps[self._at]

    def _seek(self, target: int) -> None:
        """Leaves the decoder on some frame before ``target``, by a checked seek or by starting over."""
        back = 0
        while self._index.seekable and target - back > _GRAB_RATHER_THAN_SEEK:
            self._capture.set(cv2.CAP_PROP_POS_MSEC, float(self._index.stamps[target - back]) / 1000.0)
            landed = self._index.position(_stamp(self._capture)) if self._capture.grab() else None
            if landed is not None and landed <= target:
                self._at = landed
                self._counted_from_start = False
                return
            back = max(8, 2 * back)
        if self._at >= target or self._index.seekable:
            self._restart()

    def _restart(self) -> None:
        self._capture.release()
        self._capture = _open(self._path)
        self._at = -1
        self._counted_from_start = True


_indices: OrderedDict[tuple[str, int, int], _VideoIndex] = OrderedDict()
_indices_lock = threading.Lock()
_KEPT_INDICES = 64


def _video_index(path: str, progress: Progress | None) -> _VideoIndex:
    try:
        facts = Path(path).stat()
    except OSError as error:
        raise DataError(
            f"Cannot read the video {path}: {error.strerror or error}. Mend that, or leave its sample out."
        ) from error
    key = (os.path.realpath(path), facts.st_size, facts.st_mtime_ns)
    with _indices_lock:
        index = _indices.get(key)
    if index is None:
        index = _VideoIndex.build(path, progress)
        with _indices_lock:
            _indices[key] = index
            while len(_indices) > _KEPT_INDICES:
                _indices.popitem(last=False)
    return index


def _open(path: str) -> cv2.VideoCapture:
    # A name with a "%" would be taken for a numbered image list by other back ends than FFmpeg.
    capture = cv2.VideoCapture(path, cv2.CAP_FFMPEG)
    if not capture.isOpened():
        raise DataError(
            f"Cannot open the video {path}: it is cut short, damaged or of a format that OpenCV's FFmpeg does not "
            f"know. Re-encode it (H.264 in MP4 works) or leave its sample out of the view."
        )
    return capture


def _stamp(capture: cv2.VideoCapture) -> int:
    """The presentation time of the frame grabbed last, in microseconds."""
    # CAP_PROP_PTS counts in units of the mean frame rate: several frames of a variable rate share one value.
    return round(1000.0 * capture.get(cv2.CAP_PROP_POS_MSEC))


def _checksum(frame: npt.NDArray[Any]) -> int:
    """A checksum of about 16 x 16 pixels spread over a frame: tells neighbouring and damaged frames apart, cheaply."""
    height, width = frame.shape[:2]
    sample = frame[:: max(1, height // 16), :: max(1, width // 16)]
    return zlib.crc32(np.ascontiguousarray(sample).tobytes())


def _check_video_size(path: str, index: int, size: tuple[int, int], frame: npt.NDArray[Any]) -> None:
    found = (frame.shape[0], frame.shape[1])
    if found != size:
        raise DataError(
            f"The frames of a sequence must all be of one size. The video {path} starts with {_wxh(size)} pixels and "
            f"has {_wxh(found)} at frame {index}. Re-encode it at one size."
        )


def _runs(wanted: list[int], chunk: int) -> Iterator[list[int]]:
    """Cuts positions into ascending runs and descending ones of at most ``chunk``."""
    start = 0
    while start < len(wanted):
        stop = start + 1
        while stop < len(wanted) and wanted[stop] > wanted[stop - 1]:
            stop += 1
        if stop == start + 1:
            while stop < min(len(wanted), start + chunk) and wanted[stop] < wanted[stop - 1]:
                stop += 1
        yield wanted[start:stop]
        start = stop


def _checked_index(index: int, length: int) -> int:
    if not 0 <= index < length:
        # IndexError, not DataError: iteration by index ends on it.
        raise IndexError(f"Frame {index} is outside the sequence, whose frames are 0..{length - 1}.")
    return int(index)


def _checked_range(start: int, stop: int, step: int, length: int) -> range:
    if step == 0:
        raise DataError("Frames are read with a step other than 0.")
    indices = range(start, stop, step)
    if len(indices):
        _checked_index(min(indices[0], indices[-1]), length)
        _checked_index(max(indices[0], indices[-1]), length)
    return indices


def _wxh(size: tuple[int, int]) -> str:
    return f"{size[1]}x{size[0]}"


__all__ = [
    "ArraySource",
    "FrameSource",
    "Image",
    "ImageSequenceSource",
    "Progress",
    "SubsetSource",
    "VideoSource",
    "image_size",
    "read_image",
]
