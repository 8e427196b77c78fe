"""Local colour models of an object and its surroundings."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt

from labelprop_cvat.propagation._windows import FloatMap, Window, opencv, pixel_grid
from labelprop_cvat.propagation.frames import Image

_COLOUR_BINS = 16
_CHROMA_PER_BIN = 6.0
_SURE = 0.8
_RARE = 5.0
_MOST_ODDS = 3.0


def _bin_table() -> npt.NDArray[np.float32]:
    """What each value of each channel adds to the number of its colour's bin: array of shape ``(256, 1, 3)``."""
    values = np.arange(256, dtype=np.float32)
    lightness = np.floor(values * ((_COLOUR_BINS - 1) / 255.0))
    chroma = np.clip(np.floor((values - 128.0) / _CHROMA_PER_BIN + _COLOUR_BINS / 2), 0, _COLOUR_BINS - 1)
    table = np.stack([lightness * _COLOUR_BINS**2, chroma * _COLOUR_BINS, chroma], axis=1)
    return np.ascontiguousarray(table[:, None], dtype=np.float32)


_BINS = _bin_table()
_SUM = np.ones((1, 3), dtype=np.float32)


class LocalColours:
    """How often each colour is object or surroundings near each place of an exemplar.

    A coarse histogram over place and colour, blurred, as in a bilateral grid: after *Video SnapCut* (Bai et al., 2009),
    whose classifiers sit along the outline, and *Bilateral Space Video Segmentation* (Maerki et al., CVPR 2016).

    Args:
        colours: array of shape ``(h, w, 3)``, uint8, the Lab colours over ``window``
        mask: array of shape ``(h, w)`` in [0, 1] over ``window``
        window: where both lie
        cell: side of a cell in pixels
    """

    def __init__(self, colours: Image, mask: FloatMap, window: Window, cell: int) -> None:
        self._window, self._cell = window, cell
        height, width = window.shape
        self._shape = (height // cell + 2, width // cell + 2, _COLOUR_BINS, _COLOUR_BINS, _COLOUR_BINS)
        cells = self._cells(colours, pixel_grid(window)).ravel()
        weights = mask.ravel().astype(np.float64)
        self._object = self._blurred(np.bincount(cells, weights, minlength=int(np.prod(self._shape))))
        self._rest = self._blurred(np.bincount(cells, 1.0 - weights, minlength=int(np.prod(self._shape))))

    def counts(self, colours: Image, at: FloatMap) -> tuple[FloatMap, FloatMap]:
        """How much object and how much surroundings was seen with these colours near these places of the exemplar."""
        cells = self._cells(colours, at)
        return self._object.take(cells), self._rest.take(cells)

    def _blurred(self, counts: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
        grid: npt.NDArray[np.float32] = counts.astype(np.float32)
        outer, inner = 1, grid.size
        for cells in self._shape:
            inner //= cells
            blur = _blur_matrix(cells)
            # The last axis as rows of one product: many products with a single column each would be slow.
            grid = blur @ grid.reshape(outer, cells, inner) if inner > 1 else grid.reshape(outer, cells) @ blur
            outer *= cells
        return grid.ravel()

    def _cells(self, colours: Image, at: FloatMap) -> npt.NDArray[np.int64]:
        x, y = opencv.split(at)
        places = []
        for values, origin, cells in ((x, self._window.x1, self._shape[1]), (y, self._window.y1, self._shape[0])):
            values -= origin
            values *= np.float32(1.0 / self._cell)
            np.rint(values, out=values)
            places.append(np.clip(values, 0, cells - 1, out=values))
        # Whole numbers far below 2 ** 24: float32 holds them exactly.
        cell = places[1] * self._shape[1] + places[0]
        cell *= _COLOUR_BINS**3
        cell += opencv.transform(opencv.LUT(colours, _BINS), _SUM)
        return np.asarray(cell, dtype=np.int64)


def colour_odds(colours: Image, probability: FloatMap) -> FloatMap:
    """How much likelier each colour is on the object than beside it, by what is clear on this very frame.

    Args:
        colours: array of shape ``(h, w, 3)``, uint8, Lab
        probability: array of shape ``(h, w)`` in [0, 1]

    Returns:
        array of shape ``(h, w)``, logarithms in [-3, 3]; near 0 for colours that are rare among the clear pixels
    """
    bins = np.asarray(opencv.transform(opencv.LUT(colours, _BINS), _SUM), dtype=np.int64)
    mine, others = (_colour_counts(bins[clear]) for clear in (probability > _SURE, probability < 1.0 - _SURE))
    share = min(float(mine.sum()), float(others.sum()))
    mine, others = (counts * (share / max(1.0, float(counts.sum()))) for counts in (mine, others))
    odds = np.log((mine + _RARE) / (others + _RARE))
    return np.asarray(np.clip(odds, -_MOST_ODDS, _MOST_ODDS)[bins], dtype=np.float32)


def _colour_counts(bins: npt.NDArray[np.int64]) -> npt.NDArray[np.float32]:
    grid = np.bincount(bins, minlength=_COLOUR_BINS**3).astype(np.float32).reshape((_COLOUR_BINS,) * 3)
    once = _blur_matrix(_COLOUR_BINS)
    return np.asarray(np.einsum("ijk,ia,jb,kc->abc", grid, once, once, once, optimize=True).ravel(), dtype=np.float32)


@lru_cache
def _blur_matrix(cells: int) -> npt.NDArray[np.float32]:
    """Twice the mean of every cell and its neighbours, itself counted double; a symmetric matrix."""
    once = 0.5 * np.eye(cells) + 0.25 * (np.eye(cells, k=1) + np.eye(cells, k=-1))
    return np.asarray(once @ once, dtype=np.float32)
