"""The plain types that go into and come out of a propagation engine.

All coordinates are pixels with the origin at the top-left corner of the top-left pixel, x to the right and y down.
Boxes are ``(x1, y1, x2, y2)`` with right and bottom exclusive. Frame indices are 0-based positions in a
:class:`~labelprop_cvat.propagation.frames.FrameSource`. Spans are half-open.

Everything here is frozen and checked when it is made; past that line nobody checks again.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from types import MappingProxyType
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from labelprop_cvat.errors import DataError

BoolArray: TypeAlias = npt.NDArray[np.bool_]
Box: TypeAlias = tuple[float, float, float, float]
Ring: TypeAlias = tuple[tuple[float, float], ...]
Point: TypeAlias = tuple[float, float]


class PromptKind(str, Enum):
    """What a prompt says about an object on its frame."""

    MASK = "mask"
    BOX = "box"
    POLYGON = "polygon"
    POINTS = "points"
    ABSENT = "absent"


@dataclass(frozen=True, eq=False)
class ObjectMask:
    """The pixels of one object: a tight integer box and a boolean crop.

    Args:
        x: column of the crop's left edge, may be any integer >= 0
        y: row of the crop's top edge, >= 0
        crop: array of shape ``(h, w)``, bool; its outermost rows and columns each hold at least one pixel
            (use :meth:`from_crop` or :meth:`from_full` to have the margins trimmed)

    Raises:
        DataError: the crop is not a tight, non-empty 2-D bool array, or the origin is negative
    """

    x: int
    y: int
    crop: BoolArray

    def __post_init__(self) -> None:
        crop = self.crop
        if not isinstance(crop, np.ndarray) or crop.dtype != np.bool_ or crop.ndim != 2:
            found = f"{type(crop).__name__} {getattr(crop, 'dtype', '')} {getattr(crop, 'shape', '')}"
            raise DataError(f"An ObjectMask needs a 2-D bool array as crop, got {found}.")
        if crop.size == 0 or not (crop[0].any() and crop[-1].any() and crop[:, 0].any() and crop[:, -1].any()):
            raise DataError(
                f"An ObjectMask needs a tight crop with at least one pixel, got shape {crop.shape} with "
                f"{int(crop.sum())} pixels. Use ObjectMask.from_full or from_crop, which return None for an empty mask."
            )
        if self.x < 0 or self.y < 0:
            raise DataError(f"An ObjectMask needs an origin inside the frame, got x={self.x}, y={self.y}.")
        if crop.flags.writeable or not crop.flags.c_contiguous:
            crop = np.array(crop, dtype=np.bool_, order="C")
            crop.flags.writeable = False
            object.__setattr__(self, "crop", crop)

    @classmethod
    def from_full(cls, full: npt.NDArray[np.generic]) -> ObjectMask | None:
        """Makes a mask from a full frame of shape ``(H, W)``; nonzero is object. None when nothing is set."""
        return cls.from_crop(0, 0, full)

    @classmethod
    def from_crop(cls, x: int, y: int, crop: npt.NDArray[np.generic]) -> ObjectMask | None:
        """Makes a mask from a crop with margins; nonzero is object. None when nothing is set."""
        binary = np.asarray(crop) != 0
        rows = np.flatnonzero(binary.any(axis=1))
        if rows.size == 0:
            return None
        columns = np.flatnonzero(binary.any(axis=0))
        top, bottom = int(rows[0]), int(rows[-1]) + 1
        left, right = int(columns[0]), int(columns[-1]) + 1
        return cls(x + left, y + top, binary[top:bottom, left:right])

    @property
    def box(self) -> tuple[int, int, int, int]:
        """``(x1, y1, x2, y2)``, integer pixels, right and bottom exclusive."""
        height, width = self.crop.shape
        return self.x, self.y, self.x + width, self.y + height

    @property
    def area(self) -> int:
        """Number of pixels."""
        return int(np.count_nonzero(self.crop))

    def to_full(self, size: tuple[int, int]) -> BoolArray:
        """Returns the mask on a full frame.

        Args:
            size: ``(height, width)`` of the frame; what lies outside it is cut off

        Returns:
            array of shape ``(height, width)``, bool, writable
        """
        height, width = size
        full = np.zeros((height, width), dtype=np.bool_)
        x1, y1, x2, y2 = self.box
        if x1 < width and y1 < height:
            full[y1:y2, x1:x2] = self.crop[: max(0, height - y1), : max(0, width - x1)]
        return full

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, ObjectMask):
            return NotImplemented
        return self.x == other.x and self.y == other.y and np.array_equal(self.crop, other.crop)

    def __hash__(self) -> int:
        return hash((self.x, self.y, self.crop.shape, self.crop.tobytes()))


def rasterize(polygon: tuple[Ring, ...], size: tuple[int, int]) -> ObjectMask | None:
    """Fills closed rings (even-odd rule).

    Args:
        polygon: rings of ``(x, y)`` pixels; a pixel belongs to the object when its centre does
        size: ``(height, width)`` of the frame

    Returns:
        the mask, or None when no pixel is covered
    """
    height, width = size
    # Every edge toggles all pixel centres to its right; an odd number of toggles is inside.
    toggles = np.zeros((height, width + 1), dtype=np.int32)
    for ring in polygon:
        start = np.asarray(ring, dtype=np.float64)
        for (x1, y1), (x2, y2) in zip(start, np.roll(start, -1, axis=0), strict=True):
            top, bottom = sorted((y1, y2))
            rows = np.arange(max(0, math.ceil(top - 0.5)), min(height, math.ceil(bottom - 0.5)))
            if rows.size == 0:
                continue
            crossings = x1 + (rows + 0.5 - y1) * (x2 - x1) / (y2 - y1)
            columns = np.clip(np.ceil(crossings - 0.5), 0, width).astype(np.intp)
            np.add.at(toggles, (rows, columns), 1)
    canvas = np.cumsum(toggles, axis=1)[:, :width] % 2
    return ObjectMask.from_full(canvas)


def _checked_box(box: Box) -> Box:
    values = tuple(float(v) for v in box)
    if len(values) != 4 or not all(math.isfinite(v) for v in values):
        raise DataError(f"A box needs four finite numbers (x1, y1, x2, y2), got {box!r}.")
    x1, y1, x2, y2 = values
    if not (x2 > x1 and y2 > y1):
        raise DataError(f"A box needs x2 > x1 and y2 > y1, got {box!r}.")
    return x1, y1, x2, y2


def _checked_polygon(polygon: tuple[Ring, ...]) -> tuple[Ring, ...]:
    rings = tuple(tuple((float(x), float(y)) for x, y in ring) for ring in polygon)
    if not rings or any(len(ring) < 3 for ring in rings):
        raise DataError(
            f"A polygon needs at least one ring of three or more points, got rings of {[len(r) for r in rings]} points."
        )
    if not all(math.isfinite(v) for ring in rings for point in ring for v in point):
        raise DataError("A polygon needs finite coordinates.")
    return rings


def _checked_frame(frame: int) -> int:
    if int(frame) != frame or frame < 0:
        raise DataError(f"A frame index counts from 0, got {frame!r}.")
    return int(frame)


@dataclass(frozen=True)
class Prompt:
    """One annotated object on one exemplar frame: exactly one of mask, box, polygon, points or ``absent``.

    Args:
        frame: 0-based frame index
        object_id: number of the object, from 1, the same on every frame
        mask: the object's pixels
        box: ``(x1, y1, x2, y2)`` in pixels, right and bottom exclusive
        polygon: closed rings of ``(x, y)`` pixels, filled even-odd
        points: clicks ``(x, y)`` in pixels; may stand together with ``mask`` as refinement clicks
        point_labels: one of 1 (on the object) or 0 (not on it) per point
        absent: the object is not visible on this frame

    Raises:
        DataError: none or several of them are given, or a value is malformed
    """

    frame: int
    object_id: int
    mask: ObjectMask | None = None
    box: Box | None = None
    polygon: tuple[Ring, ...] | None = None
    points: tuple[Point, ...] | None = None
    point_labels: tuple[int, ...] | None = None
    absent: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "frame", _checked_frame(self.frame))
        if int(self.object_id) != self.object_id or self.object_id < 1:
            raise DataError(f"An object id counts from 1, got {self.object_id!r}.")
        given = [
            name
            for name, there in (
                ("mask", self.mask is not None),
                ("box", self.box is not None),
                ("polygon", self.polygon is not None),
                ("points", self.points is not None),
                ("absent", self.absent),
            )
            if there
        ]
        if len(given) != 1 and given != ["mask", "points"]:
            raise DataError(
                f"A Prompt needs exactly one of mask, box, polygon, points or absent=True, "
                f"got {', '.join(given) or 'none'}."
            )
        if self.box is not None:
            object.__setattr__(self, "box", _checked_box(self.box))
        if self.polygon is not None:
            object.__setattr__(self, "polygon", _checked_polygon(self.polygon))
        if self.points is not None:
            points = tuple((float(x), float(y)) for x, y in self.points)
            labels = self.point_labels if self.point_labels is not None else (1,) * len(points)
            if not points or len(points) != len(labels) or any(label not in (0, 1) for label in labels):
                raise DataError(
                    f"Points need one label of 0 or 1 each, got {len(points)} points and labels {labels!r}."
                )
            object.__setattr__(self, "points", points)
            object.__setattr__(self, "point_labels", tuple(int(label) for label in labels))

    @property
    def kind(self) -> PromptKind:
        """What the prompt holds; a mask with refinement clicks is a mask."""
        if self.absent:
            return PromptKind.ABSENT
        if self.mask is not None:
            return PromptKind.MASK
        if self.box is not None:
            return PromptKind.BOX
        if self.polygon is not None:
            return PromptKind.POLYGON
        return PromptKind.POINTS


@dataclass(frozen=True)
class Segment:
    """A run of frames without a cut: ``start <= frame < stop``, 0-based.

    Raises:
        DataError: the segment is empty or starts before 0
    """

    start: int
    stop: int

    def __post_init__(self) -> None:
        object.__setattr__(self, "start", _checked_frame(self.start))
        object.__setattr__(self, "stop", _checked_frame(self.stop))
        if self.stop <= self.start:
            raise DataError(f"A segment needs stop > start, got start={self.start}, stop={self.stop}.")

    def __len__(self) -> int:
        return self.stop - self.start

    def __contains__(self, frame: object) -> bool:
        return isinstance(frame, int | np.integer) and self.start <= int(frame) < self.stop

    @property
    def frames(self) -> range:
        """The frame indices of the segment."""
        return range(self.start, self.stop)


@dataclass(frozen=True)
class ObjectState:
    """Where one object is on one frame. An object that is not visible has no state on that frame.

    An engine answers in the geometry in which the object was prompted: masks for masks (and points), boxes for
    boxes, polygons for polygons. It may give a mask beside a box or polygon.

    Args:
        mask: the object's pixels
        box: ``(x1, y1, x2, y2)`` in pixels, right and bottom exclusive
        polygon: closed rings of ``(x, y)`` pixels
        confidence: in [0, 1]; 1 on keyframes
        exemplar_frames: the exemplars this state derives from, ascending
        keyframe: whether a person gave it
        agreement: IoU in [0, 1] of what the pass from the exemplar before and the pass from the one behind say by
            themselves; None where there was one pass only

    Raises:
        DataError: no geometry, or a confidence or an agreement outside [0, 1]
    """

    mask: ObjectMask | None = None
    box: Box | None = None
    polygon: tuple[Ring, ...] | None = None
    confidence: float = 1.0
    exemplar_frames: tuple[int, ...] = ()
    keyframe: bool = False
    agreement: float | None = None

    def __post_init__(self) -> None:
        if self.mask is None and self.box is None and self.polygon is None:
            raise DataError("An ObjectState needs a mask, a box or a polygon; leave an invisible object out instead.")
        if not 0.0 <= self.confidence <= 1.0:
            raise DataError(f"A confidence lies in [0, 1], got {self.confidence!r}.")
        if self.agreement is not None and not 0.0 <= self.agreement <= 1.0:
            raise DataError(f"An agreement lies in [0, 1], got {self.agreement!r}.")
        if self.box is not None:
            object.__setattr__(self, "box", _checked_box(self.box))
        if self.polygon is not None:
            object.__setattr__(self, "polygon", _checked_polygon(self.polygon))


@dataclass(frozen=True)
class FrameObjects:
    """What an engine knows of one frame: the visible objects by their id."""

    frame: int
    objects: Mapping[int, ObjectState] = field(default_factory=dict)

    def __post_init__(self) -> None:
        object.__setattr__(self, "frame", _checked_frame(self.frame))
        object.__setattr__(self, "objects", MappingProxyType(dict(self.objects)))


__all__ = [
    "BoolArray",
    "Box",
    "FrameObjects",
    "ObjectMask",
    "ObjectState",
    "Point",
    "Prompt",
    "PromptKind",
    "Ring",
    "Segment",
    "rasterize",
]
