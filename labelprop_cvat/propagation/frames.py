"""Frames of an image list or a video, read lazily with exact indices."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

Image = npt.NDArray[np.uint8]


@runtime_checkable
class FrameSource(Protocol):
    """Lazy access to the frames of one sequence. Indices are 0-based and exact."""

    @property
    def size(self) -> tuple[int, int]:
        """``(height, width)`` in pixels, the same for every frame."""
        ...

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Image:
        """Frame ``index``: array of shape ``(H, W, 3)``, uint8, RGB."""
        ...

    def read(self, start: int, stop: int, step: int = 1) -> Iterator[tuple[int, Image]]:
        """Yields ``(index, frame)`` for ``range(start, stop, step)``; ``step`` may be negative."""
        ...
