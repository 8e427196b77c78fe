"""Where a careless hand puts what it draws."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from labelprop_cvat.backend.cvat import Label, mask_to_points
from labelprop_cvat.errors import ConfigurationError, DataError

from .truth import FEWEST_POINTS, Box, Mask, Point, ShapeKind, TruthObject, tight


@dataclass(frozen=True)
class Sloppiness:
    """How carelessly the annotator works; the default is perfect work.

    Args:
        box_jitter_px: standard deviation by which each edge of a box and each point of other shapes is off, pixels
        box_jitter: the same, as a share of the box's (or the points' outline's) width or height
        mask_growth: pixels by which every mask is too large (negative: too small)
        mask_wobble: each mask is grown or shrunk by up to so many pixels more
        mask_shift: each mask is off by up to so many pixels in x and in y
        missed: probability that an object is overlooked on a frame
        wrong_label: probability that an object gets another label of the same type: per shape or tag, or per track
        forgotten_index: probability that the index stays at its default: per shape or tag, or per track
        content: masks, boxes and polygons that are there already stay as they are where they have at least this IoU
            with what would be drawn; None: only where they are the same

    Raises:
        ConfigurationError: a deviation is negative, or a probability or IoU outside [0, 1]
    """

    box_jitter_px: float = 0.0
    box_jitter: float = 0.0
    mask_growth: int = 0
    mask_wobble: int = 0
    mask_shift: int = 0
    missed: float = 0.0
    wrong_label: float = 0.0
    forgotten_index: float = 0.0
    content: float | None = None

    def __post_init__(self) -> None:
        if min(self.box_jitter_px, self.box_jitter, self.mask_wobble, self.mask_shift) < 0:
            raise ConfigurationError(f"Deviations of a sloppy annotator are >= 0, got {self}.")
        if not all(0.0 <= p <= 1.0 for p in (self.missed, self.wrong_label, self.forgotten_index)):
            raise ConfigurationError(f"Probabilities of a sloppy annotator lie in [0, 1], got {self}.")
        if self.content is not None and not 0.0 <= self.content <= 1.0:
            raise ConfigurationError(f"What a sloppy annotator is content with is an IoU in [0, 1], got {self}.")


class Hand:
    """Draws the geometry of objects; mistakes come from the ``chance`` that each call is given.

    Args:
        sloppiness: how far off it is
    """

    def __init__(self, sloppiness: Sloppiness) -> None:
        self._sloppiness = sloppiness

    def geometry(
        self, kind: ShapeKind, truth: TruthObject, name: str, width: int, height: int, chance: random.Random
    ) -> list[float]:
        """Where a shape of a kind is drawn, as CVAT's points."""
        if kind == "rectangle":
            return self._careless_box(truth.outline, width, height, chance)
        if kind == "mask":
            if truth.mask is None:
                raise DataError(
                    f'The ground truth of "{name}" has no mask for object {truth.object_id}; annotate with '
                    f'shape="rectangle".'
                )
            return list(mask_to_points(*self._careless_mask(truth.mask, width, height, chance)))
        points = truth.corners if kind == "polygon" else truth.shown()
        if len(points) < FEWEST_POINTS[kind]:
            raise DataError(
                f'The ground truth of "{name}" has {len(points)} points for object {truth.object_id}, a {kind} needs '
                f"{FEWEST_POINTS[kind]} at least."
            )
        return [value for point in self._careless_points(points, truth, width, height, chance) for value in point]

    def _careless_points(
        self, points: Sequence[Point], truth: TruthObject, width: int, height: int, chance: random.Random
    ) -> list[Point]:
        x1, y1, x2, y2 = truth.outline
        return [
            (
                min(max(x + self._off(x2 - x1, chance), 0.0), float(width)),
                min(max(y + self._off(y2 - y1, chance), 0.0), float(height)),
            )
            for x, y in points
        ]

    def nodes(
        self, truth: TruthObject, label: Label, width: int, height: int, chance: random.Random
    ) -> list[Point | None]:
        points = truth.points or ()
        if len(points) != len(label.sublabels) or not label.sublabels:
            raise DataError(
                f"Object {truth.object_id} of the ground truth has {len(points)} points, but the skeleton "
                f'"{label.name}" has {len(label.sublabels)} nodes; give one for each, None where it does not show.'
            )
        shown = iter(self._careless_points(truth.shown(), truth, width, height, chance))
        return [None if point is None else next(shown) for point in points]

    def _careless_mask(
        self, mask: Mask, width: int, height: int, chance: random.Random
    ) -> tuple[int, int, npt.NDArray[np.bool_]]:
        hand = self._sloppiness
        growth = hand.mask_growth + chance.randint(-hand.mask_wobble, hand.mask_wobble)
        dx = chance.randint(-hand.mask_shift, hand.mask_shift)
        dy = chance.randint(-hand.mask_shift, hand.mask_shift)
        left, top, crop = mask.x, mask.y, np.asarray(mask.crop, dtype=np.bool_)
        if growth:
            left, top, crop = _grown(left, top, crop, growth)
        moved = _inside(left + dx, top + dy, crop, width, height)
        if moved is None:
            moved = _inside(mask.x, mask.y, np.asarray(mask.crop, dtype=np.bool_), width, height)
        if moved is None:
            raise DataError(f"A mask of the ground truth lies outside the frame of {width}x{height} pixels.")
        return moved

    def _careless_box(self, box: Box, width: int, height: int, chance: random.Random) -> list[float]:
        x1, y1, x2, y2 = box
        lengths = (x2 - x1, y2 - y1, x2 - x1, y2 - y1)
        edges = [edge + self._off(length, chance) for edge, length in zip(box, lengths, strict=True)]
        left, right = _ordered(edges[0], edges[2], width)
        top, bottom = _ordered(edges[1], edges[3], height)
        return [left, top, right, bottom]

    def _off(self, length: float, chance: random.Random) -> float:
        hand = self._sloppiness
        return chance.gauss(0.0, 1.0) * hand.box_jitter_px + chance.gauss(0.0, 1.0) * hand.box_jitter * length


def _ordered(low: float, high: float, length: int) -> tuple[float, float]:
    """Two edges in order, inside ``0..length`` and at least one pixel apart."""
    low, high = sorted((min(max(low, 0.0), length), min(max(high, 0.0), length)))
    if high - low < 1.0:
        low = max(0.0, min(low, length - 1.0))
        high = low + 1.0
    return low, high


def _grown(left: int, top: int, crop: npt.NDArray[np.bool_], growth: int) -> tuple[int, int, npt.NDArray[np.bool_]]:
    """Dilates (or erodes, below 0) by a disc; a mask that would vanish stays as it was."""
    margin = abs(growth)
    padded = np.pad(crop, margin).astype(np.uint8)
    disc = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * margin + 1, 2 * margin + 1))
    changed = cv2.dilate(padded, disc) if growth > 0 else cv2.erode(padded, disc)
    if not changed.any():
        return left, top, crop
    return left - margin, top - margin, changed.astype(np.bool_)


def _inside(
    left: int, top: int, crop: npt.NDArray[np.bool_], width: int, height: int
) -> tuple[int, int, npt.NDArray[np.bool_]] | None:
    """Cuts off what lies outside the frame; None when nothing is left."""
    x1, y1 = max(left, 0), max(top, 0)
    x2, y2 = min(left + crop.shape[1], width), min(top + crop.shape[0], height)
    if x2 <= x1 or y2 <= y1:
        return None
    cut = crop[y1 - top : y2 - top, x1 - left : x2 - left]
    return tight(x1, y1, cut) if cut.any() else None


__all__ = ["Hand", "Sloppiness"]
