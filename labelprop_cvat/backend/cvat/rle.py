"""CVAT's mask points, there and back.

A mask shape's ``points`` are ``[run, run, ..., left, top, right, bottom]``: runs of background and object in turn,
beginning with background (a first run of 0 when the first pixel is object), row by row over the box; all four edges
of the box are inclusive pixel indices.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from labelprop_cvat.backend.cvat.errors import InvalidPayload

BoolArray = npt.NDArray[np.bool_]


def mask_to_points(x: int, y: int, crop: npt.NDArray[np.generic]) -> list[int]:
    """Encodes a mask.

    Args:
        x: column of the crop's left edge
        y: row of the crop's top edge
        crop: array of shape ``(h, w)``, nonzero is object; margins are allowed and kept

    Returns:
        the points of a CVAT mask shape

    Raises:
        InvalidPayload: the crop is empty or not 2-D, or the origin is negative
    """
    binary = np.asarray(crop) != 0
    if binary.ndim != 2 or binary.size == 0:
        raise InvalidPayload(f"A mask needs a crop of shape (h, w) with at least one pixel, got shape {binary.shape}.")
    if x < 0 or y < 0:
        raise InvalidPayload(f"A mask needs an origin inside the frame, got x={x}, y={y}.")
    flat = binary.ravel()
    changes = np.flatnonzero(flat[1:] != flat[:-1]) + 1
    bounds = np.concatenate(([0], changes, [flat.size]))
    runs: list[int] = np.diff(bounds).tolist()
    if flat[0]:
        runs.insert(0, 0)
    height, width = binary.shape
    return [*runs, int(x), int(y), int(x) + width - 1, int(y) + height - 1]


def points_to_mask(points: Sequence[float]) -> tuple[int, int, BoolArray]:
    """Decodes a mask.

    Args:
        points: the points of a CVAT mask shape; whole numbers, as int or float

    Returns:
        ``(x, y, crop)``: column and row of the crop's top-left pixel, array of shape ``(h, w)``, bool

    Raises:
        InvalidPayload: the points are not a mask: broken numbers, an empty box, runs that do not fill the box
    """
    values = np.asarray(points, dtype=np.float64)
    if values.ndim != 1 or values.size < 5:
        raise InvalidPayload(f"A mask needs runs and a box, at least 5 numbers, got {values.size}.")
    if not np.isfinite(values).all() or (values != np.floor(values)).any():
        raise InvalidPayload("A mask's points are whole numbers, got fractions or non-finite ones.")
    left, top, right, bottom = (int(v) for v in values[-4:])
    runs = values[:-4].astype(np.int64)
    width, height = right - left + 1, bottom - top + 1
    if left < 0 or top < 0 or width < 1 or height < 1:
        raise InvalidPayload(
            f"A mask's box is (left, top, right, bottom), inclusive, got {(left, top, right, bottom)}."
        )
    if (runs < 0).any() or int(runs.sum()) != width * height:
        raise InvalidPayload(
            f"A mask's runs must fill its box of {width}x{height} = {width * height} pixels, they sum to "
            f"{int(runs.sum())}."
        )
    colours = np.arange(runs.size) % 2 == 1
    return left, top, np.repeat(colours, runs).reshape(height, width)


__all__ = ["mask_to_points", "points_to_mask"]
