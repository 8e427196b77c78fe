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

MOST_PIXELS = 2**28
"""The largest mask that is decoded: a box of 16,384 x 16,384 pixels. Checked before anything of that size is made."""


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
        InvalidPayload: the points are not a mask: broken numbers, an empty box, one larger than any frame, runs that do
            not fill the box; nothing of the mask's size was made
    """
    runs, left, top, width, height = _checked(points)
    colours = np.arange(runs.size) % 2 == 1
    return left, top, np.repeat(colours, runs).reshape(height, width)


def check_points(points: Sequence[float]) -> None:
    """Checks that points are those of a mask, without making anything of the mask's size.

    Raises:
        InvalidPayload: as :func:`points_to_mask`
    """
    _checked(points)


def _checked(points: Sequence[float]) -> tuple[npt.NDArray[np.int64], int, int, int, int]:
    """Runs, left, top, width and height."""
    try:
        values = np.asarray(points, dtype=np.float64)
    except (TypeError, ValueError, OverflowError):
        raise InvalidPayload("A mask's points are a flat list of whole numbers, got something else.") from None
    if values.ndim != 1 or values.size < 5:
        raise InvalidPayload(f"A mask needs runs and a box, at least 5 numbers, got {values.size}.")
    if not np.isfinite(values).all() or (values != np.floor(values)).any():
        raise InvalidPayload("A mask's points are whole numbers, got fractions or non-finite ones.")
    left, top, right, bottom = (int(v) for v in values[-4:])
    width, height = right - left + 1, bottom - top + 1
    if left < 0 or top < 0 or width < 1 or height < 1:
        raise InvalidPayload(
            f"A mask's box is (left, top, right, bottom), inclusive, got {(left, top, right, bottom)}."
        )
    if max(right, bottom) > MOST_PIXELS or width * height > MOST_PIXELS:
        raise InvalidPayload(
            f"A mask's box has at most {MOST_PIXELS} pixels, got {width}x{height} from {(left, top)}; no frame is that "
            f"large."
        )
    # As floats, which cannot wrap round: beyond the box's number of pixels the exact sum does not matter.
    total = float(values[:-4].sum())
    if (values[:-4] < 0).any() or total != width * height:
        raise InvalidPayload(
            f"A mask's runs must fill its box of {width}x{height} = {width * height} pixels, they sum to {total:.0f}."
        )
    return values[:-4].astype(np.int64), left, top, width, height


__all__ = ["MOST_PIXELS", "check_points", "mask_to_points", "points_to_mask"]
