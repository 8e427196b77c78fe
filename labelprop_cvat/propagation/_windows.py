"""Windows: the part of a frame around one object in which an engine works."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

# OpenCV's own stubs allow no None, know no DIS flow and answer unions; its arrays are of the kind they are made from.
opencv: Any = cv2

FloatMap = npt.NDArray[np.float32]
"""Array of shape ``(h, w)`` or ``(h, w, 2)``, float32, over a window."""


@dataclass(frozen=True)
class Window:
    """A rectangle of whole pixels, ``x1 <= x < x2`` and ``y1 <= y < y2``; it may reach beyond the frame."""

    x1: int
    y1: int
    x2: int
    y2: int

    @property
    def shape(self) -> tuple[int, int]:
        """``(height, width)``."""
        return self.y2 - self.y1, self.x2 - self.x1

    def shifted(self, dx: int, dy: int) -> Window:
        """The window moved by whole pixels."""
        return Window(self.x1 + dx, self.y1 + dy, self.x2 + dx, self.y2 + dy)

    def grown(self, margin: int) -> Window:
        """The window with a margin on every side."""
        return Window(self.x1 - margin, self.y1 - margin, self.x2 + margin, self.y2 + margin)

    def clipped(self, size: tuple[int, int]) -> Window:
        """The part inside a frame of ``(height, width)``; empty when there is none."""
        return self.within(Window(0, 0, size[1], size[0]))

    def within(self, other: Window) -> Window:
        """The part inside another window; empty when there is none."""
        x1, y1 = min(max(other.x1, self.x1), other.x2), min(max(other.y1, self.y1), other.y2)
        return Window(x1, y1, max(x1, min(self.x2, other.x2)), max(y1, min(self.y2, other.y2)))

    def part(self, inner: Window) -> tuple[slice, slice]:
        """Where a window inside this one lies in arrays over this one: rows and columns."""
        return slice(inner.y1 - self.y1, inner.y2 - self.y1), slice(inner.x1 - self.x1, inner.x2 - self.x1)

    @property
    def halved(self) -> Window:
        """The window at half the resolution, grown to whole pixels."""
        return Window(self.x1 // 2, self.y1 // 2, -(-self.x2 // 2), -(-self.y2 // 2))

    @property
    def empty(self) -> bool:
        """Whether no pixel lies in it."""
        return self.x1 >= self.x2 or self.y1 >= self.y2

    def joined(self, other: Window) -> Window:
        """The smallest window that holds both."""
        return Window(min(self.x1, other.x1), min(self.y1, other.y1), max(self.x2, other.x2), max(self.y2, other.y2))


def cut(image: npt.NDArray[Any], window: Window) -> npt.NDArray[Any]:
    """The window of an image of shape ``(H, W)`` or ``(H, W, C)``; beyond the frame its edge pixels repeat."""
    inside = window.clipped((image.shape[0], image.shape[1]))
    if inside == window:
        return image[window.y1 : window.y2, window.x1 : window.x2]
    rows = np.clip(np.arange(window.y1, window.y2), 0, image.shape[0] - 1)
    columns = np.clip(np.arange(window.x1, window.x2), 0, image.shape[1] - 1)
    return image[rows[:, None], columns]


def paste(values: npt.NDArray[Any], source: Window, target: Window, fill: float = 0.0) -> npt.NDArray[Any]:
    """What lies over ``source``, seen over ``target``; ``fill`` where the two do not meet."""
    result = np.full(target.shape + values.shape[2:], fill, dtype=values.dtype)
    x1, y1 = max(source.x1, target.x1), max(source.y1, target.y1)
    x2, y2 = min(source.x2, target.x2), min(source.y2, target.y2)
    if x1 < x2 and y1 < y2:
        result[y1 - target.y1 : y2 - target.y1, x1 - target.x1 : x2 - target.x1] = values[
            y1 - source.y1 : y2 - source.y1, x1 - source.x1 : x2 - source.x1
        ]
    return result


def pixel_grid(window: Window) -> FloatMap:
    """The frame coordinates of a window's pixels: array of shape ``(h, w, 2)``, x then y."""
    grid = np.empty((*window.shape, 2), dtype=np.float32)
    grid[..., 0] = np.arange(window.x1, window.x2, dtype=np.float32)
    grid[..., 1] = np.arange(window.y1, window.y2, dtype=np.float32)[:, None]
    return grid


def sample(values: npt.NDArray[Any], window: Window, at: FloatMap, outside: float | None = None) -> npt.NDArray[Any]:
    """Bilinear look-up of values that lie over ``window`` at frame coordinates.

    Args:
        values: array over ``window``
        window: where the values lie
        at: array of shape ``(h, w, 2)``, frame coordinates
        outside: what to answer beyond the window; None repeats its edge
    """
    border = opencv.BORDER_REPLICATE if outside is None else opencv.BORDER_CONSTANT
    place = opencv.subtract(at, (window.x1, window.y1, 0, 0))
    fill = 0.0 if outside is None else outside
    colour = (fill, fill, fill, fill)
    moved: npt.NDArray[Any] = opencv.remap(
        values, place, None, opencv.INTER_LINEAR, borderMode=border, borderValue=colour
    )
    return moved


def length(vectors: FloatMap) -> FloatMap:
    """The lengths of vectors of shape ``(h, w, 2)``."""
    result: FloatMap = opencv.magnitude(*opencv.split(vectors))
    return result
