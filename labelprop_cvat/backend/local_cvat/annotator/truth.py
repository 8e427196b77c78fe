"""The ground truth that a scripted annotator draws from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol, get_args

import cv2
import numpy as np
import numpy.typing as npt

from labelprop_cvat.errors import DataError

Box = tuple[float, float, float, float]
Point = tuple[float, float]
ShapeKind = Literal["mask", "rectangle", "polygon", "polyline", "points", "skeleton", "tag"]

SHAPE_KINDS: tuple[ShapeKind, ...] = get_args(ShapeKind)
#: Kinds that are drawn as tracks unless somebody asks for shapes.
TRACKED_KINDS: tuple[ShapeKind, ...] = ("rectangle", "polygon", "polyline")
NEVER_TRACKED: tuple[ShapeKind, ...] = ("mask", "tag")
FEWEST_POINTS = {"polygon": 3, "polyline": 2, "points": 1}


class Mask(Protocol):
    """An object's pixels: a boolean crop of shape ``(h, w)`` whose top-left pixel is ``(x, y)``."""

    @property
    def x(self) -> int: ...
    @property
    def y(self) -> int: ...
    @property
    def crop(self) -> npt.NDArray[np.bool_]: ...


@dataclass(frozen=True)
class TruthObject:
    """An object as it truly is on one frame, or something that is true of the whole frame.

    Args:
        object_id: the object's number, the same on every frame; becomes the index
        label: name of its label
        mask: its pixels; needed to draw masks
        box: ``(x1, y1, x2, y2)``, pixels, right and bottom exclusive; taken from the mask or the points when left out
        attributes: values by attribute name
        points: ``(x, y)``, pixels: the corners of a polygon, the course of a polyline, single points, or the nodes of a
            skeleton in the order of its label's sublabels, None for a node that does not show. A polygon's are taken
            from the mask or the box when left out
        whole_frame: it has no place in the frame; only tags can say so
        occluded: None for no matter: new shapes are not, shapes that are there stay as they are
        group: number of the group it belongs to, 0 for none

    Raises:
        DataError: there is no geometry although it is not of the whole frame, the mask is empty, or no point shows
    """

    object_id: int
    label: str
    mask: Mask | None = None
    box: Box | None = None
    attributes: Mapping[str, str] = field(default_factory=dict)
    points: Sequence[Point | None] | None = None
    whole_frame: bool = False
    occluded: bool | None = None
    group: int = 0

    def __post_init__(self) -> None:
        geometry = (self.mask, self.box, self.points)
        if not self.whole_frame and all(given is None for given in geometry):
            raise DataError(
                f"Object {self.object_id} of the ground truth needs a mask or a box, or points, or to be whole_frame; "
                f"got none of them."
            )
        if self.mask is not None and not self.mask.crop.any():
            raise DataError(f"Object {self.object_id} of the ground truth has an empty mask; leave it out instead.")
        if self.points is not None and all(point is None for point in self.points):
            raise DataError(f"Object {self.object_id} of the ground truth shows no point; leave it out instead.")

    @property
    def outline(self) -> Box:
        """The box, given or around the mask or the points."""
        if self.box is not None:
            return self.box
        if self.mask is not None:
            left, top, crop = tight(self.mask.x, self.mask.y, self.mask.crop)
            return float(left), float(top), float(left + crop.shape[1]), float(top + crop.shape[0])
        xs, ys = zip(*self.shown(), strict=True)
        return min(xs), min(ys), max(xs), max(ys)

    def shown(self) -> list[Point]:
        """The points that show.

        Raises:
            DataError: it has no points
        """
        if self.points is None:
            raise DataError(f"Object {self.object_id} of the ground truth has no points.")
        return [point for point in self.points if point is not None]

    @property
    def corners(self) -> list[Point]:
        """The corners of its polygon: the points, or else the outline of the largest part of the mask, or the box."""
        if self.points is not None:
            return self.shown()
        if self.mask is not None and (outline := _outline(self.mask)) is not None:
            return outline
        x1, y1, x2, y2 = self.outline
        return [(x1, y1), (x2, y1), (x2, y2), (x1, y2)]


def _outline(mask: Mask) -> list[Point] | None:
    """Corners around the largest part of a mask, within a pixel of its edge; None for a part without area."""
    # Each pixel becomes a block, so that the contour runs along its edges instead of through its middle.
    padded = np.pad(mask.crop, 1).astype(np.uint8)
    blocks = padded.repeat(2, axis=0).repeat(2, axis=1)
    contours, _ = cv2.findContours(blocks, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    largest = cv2.approxPolyDP(max(contours, key=cv2.contourArea), 1.0, True)
    if len(largest) < FEWEST_POINTS["polygon"]:
        return None
    left, top = mask.x - 0.75, mask.y - 0.75
    return [(left + float(x) / 2, top + float(y) / 2) for x, y in largest[:, 0, :]]


def tight(left: int, top: int, crop: npt.NDArray[np.bool_]) -> tuple[int, int, npt.NDArray[np.bool_]]:
    """Cuts empty rows and columns off a crop that has a pixel; ``(left, top)`` is its first pixel's place."""
    rows = np.flatnonzero(crop.any(axis=1))
    columns = np.flatnonzero(crop.any(axis=0))
    inner = crop[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    return left + int(columns[0]), top + int(rows[0]), inner


__all__ = [
    "FEWEST_POINTS",
    "NEVER_TRACKED",
    "SHAPE_KINDS",
    "TRACKED_KINDS",
    "Box",
    "Mask",
    "Point",
    "ShapeKind",
    "TruthObject",
    "tight",
]
