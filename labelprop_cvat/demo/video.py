"""Writes videos that browsers play."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType

import cv2
import numpy as np
import numpy.typing as npt

from labelprop_cvat.errors import DataError

#: VP8 in WebM: what OpenCV's own packages write and every browser plays. Of the others they write, browsers play only
#: VP9, which takes four times as long.
SUFFIX = ".webm"


class VideoWriter:
    """Writes a video frame by frame; a context manager.

    Args:
        path: the file, which ends in :data:`SUFFIX`
        size: ``(height, width)`` of the frames in pixels; both even
        frame_rate: frames a second

    Raises:
        DataError: this OpenCV cannot write it
    """

    def __init__(self, path: Path, size: tuple[int, int], frame_rate: float) -> None:
        with _quiet():
            code = cv2.VideoWriter.fourcc(*"VP80")
            self._writer = cv2.VideoWriter(str(path), cv2.CAP_FFMPEG, code, frame_rate, (size[1], size[0]))
        if not self._writer.isOpened():
            raise DataError(
                f"This OpenCV cannot write a WebM video to {path}: the folder is missing or read-only, or the package "
                f"has no VP8. Use the packages opencv-python or opencv-python-headless, or images instead."
            )

    def write(self, image: npt.NDArray[np.uint8]) -> None:
        """Adds a frame of shape ``(H, W, 3)``, RGB."""
        self._writer.write(cv2.cvtColor(image, cv2.COLOR_RGB2BGR))

    def close(self) -> None:
        """Finishes the file."""
        self._writer.release()

    def __enter__(self) -> VideoWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()


@contextmanager
def _quiet() -> Iterator[None]:
    """FFmpeg within OpenCV says on the terminal that WebM has no such tag, whenever it writes one, and writes it."""
    kept = os.dup(2)
    nothing = os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nothing, 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(nothing)
        os.close(kept)


__all__ = ["SUFFIX", "VideoWriter"]
