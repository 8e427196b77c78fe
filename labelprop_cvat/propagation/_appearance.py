"""Local colour models of an object and its surroundings."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from labelprop_cvat.propagation._views import LAB_WEIGHTS
from labelprop_cvat.propagation._windows import FloatMap, Window, pixel_grid

_COLOUR_BINS = 16
_CHROMA_PER_BIN = 6.0


class LocalColours:
    """How often each colour is object or surroundings near each place of an exemplar.

    A coarse histogram over place and colour, blurred, as in a bilateral grid: after *Video SnapCut* (Bai et al., 2009),
    whose classifiers sit along the outline, and *Bilateral Space Video Segmentation* (Maerki et al., CVPR 2016).

    Args:
        colours: array of shape ``(h, w, 3)``, the weighted Lab colours over ``window``
        mask: array of shape ``(h, w)`` in [0, 1] over ``window``
        window: where both lie
        cell: side of a cell in pixels
    """

    def __init__(self, colours: FloatMap, mask: FloatMap, window: Window, cell: int) -> None:
        self._window, self._cell = window, cell
        height, width = window.shape
        self._shape = (height // cell + 2, width // cell + 2, _COLOUR_BINS, _COLOUR_BINS, _COLOUR_BINS)
        cells = self._cells(colours, pixel_grid(window)).ravel()
        weights = mask.ravel().astype(np.float64)
        self._object = self._blurred(np.bincount(cells, weights, minlength=int(np.prod(self._shape))))
        self._rest = self._blurred(np.bincount(cells, 1.0 - weights, minlength=int(np.prod(self._shape))))

    def counts(self, colours: FloatMap, at: FloatMap) -> tuple[FloatMap, FloatMap]:
        """How much object and how much surroundings was seen with these colours near these places of the exemplar."""
        cells = self._cells(colours, at)
        return self._object[cells], self._rest[cells]

    def _blurred(self, counts: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
        grid = counts.astype(np.float32).reshape(self._shape)
        for axis in range(grid.ndim):
            for _ in range(2):
                grid = _blurred_along(grid, axis)
        return grid.ravel()

    def _cells(self, colours: FloatMap, at: FloatMap) -> npt.NDArray[np.int64]:
        origin = np.array([self._window.x1, self._window.y1], dtype=np.float32)
        last = np.array([self._shape[1] - 1, self._shape[0] - 1], dtype=np.float32)
        place = np.clip(np.rint((at - origin) / self._cell), 0, last).astype(np.int64)
        plain = colours / LAB_WEIGHTS
        bins = np.empty(plain.shape, dtype=np.float32)
        bins[..., 0] = plain[..., 0] * ((_COLOUR_BINS - 1) / 255.0)
        bins[..., 1:] = (plain[..., 1:] - 128.0) / _CHROMA_PER_BIN + _COLOUR_BINS / 2
        colour = np.clip(bins, 0, _COLOUR_BINS - 1).astype(np.int64)
        cell = place[..., 1] * self._shape[1] + place[..., 0]
        for channel in range(3):
            cell = cell * _COLOUR_BINS + colour[..., channel]
        return cell


def _blurred_along(grid: npt.NDArray[np.float32], axis: int) -> npt.NDArray[np.float32]:
    upper = [slice(None)] * grid.ndim
    lower = [slice(None)] * grid.ndim
    upper[axis], lower[axis] = slice(1, None), slice(None, -1)
    result = 2.0 * grid
    result[tuple(lower)] += grid[tuple(upper)]
    result[tuple(upper)] += grid[tuple(lower)]
    return np.asarray(result / 4.0, dtype=np.float32)
