"""What an evaluation found, as plain numbers. All scores lie in [0, 1] and are NaN where nothing could be compared."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from labelprop_cvat.propagation.metrics import IdentityScore


@dataclass(frozen=True)
class Scores:
    """The scores of an object, a segment, a sequence or all of them.

    An *object-frame* is one object on one scored frame on which it is predicted or truly there.

    Args:
        j: region similarity. Of an object the mean over the scored frames of the segments that it is in, where it is
            rightly absent 1; of more than one object the mean over the objects. Objects that are only predicted do not
            count, as DAVIS defines it
        f: contour accuracy, likewise
        miou: mean IoU of masks over the object-frames, those of objects that are only predicted included
        box_iou: mean IoU of the boxes, over the same object-frames
        identity: what became of identities, at an IoU of 0.5 unless another was asked for
        frames: scored frames
        object_frames: number of object-frames
        missed: object-frames that are true and not predicted
        extra: object-frames that are predicted and not true
        bad: object-frames whose IoU is below 0.75, missed and extra ones included
    """

    j: float
    f: float
    miou: float
    box_iou: float
    identity: IdentityScore
    frames: int
    object_frames: int
    missed: int
    extra: int
    bad: int

    @property
    def jf(self) -> float:
        """Mean of J and F."""
        return (self.j + self.f) / 2

    @property
    def quality(self) -> float:
        """J, or where there are no masks to compare the IoU of boxes."""
        return self.box_iou if math.isnan(self.j) else self.j

    def to_dict(self) -> dict[str, Any]:
        """The scores as JSON values, NaN as None."""
        return {
            "j": number(self.j),
            "f": number(self.f),
            "jf": number(self.jf),
            "miou": number(self.miou),
            "box_iou": number(self.box_iou),
            "idf1": number(self.identity.idf1),
            "identity_switches": self.identity.switches,
            "frames": self.frames,
            "object_frames": self.object_frames,
            "missed": self.missed,
            "extra": self.extra,
            "bad": self.bad,
        }


@dataclass(frozen=True)
class ObjectResult:
    """One true object.

    Args:
        index: its number in the truth; below 0 where it has none and is told by its instance
        label: its class in the truth
        scores: over the segments that it is in
        predicted_as: the number that it has in the predictions; None where nothing follows it
    """

    index: int
    label: str | None
    scores: Scores
    predicted_as: int | None


@dataclass(frozen=True)
class SegmentResult:
    """One temporal segment: positions ``start <= position < stop`` of its sequence, 0-based."""

    label: str
    start: int
    stop: int
    annotated: int
    scores: Scores
    objects: tuple[ObjectResult, ...]


@dataclass(frozen=True, eq=False)
class ObjectFrames:
    """The object-frames of a sequence in columns of one length, by ascending position.

    Args:
        position: 0-based position in the sequence
        index: number of the true object, or of the predicted one where ``extra``
        j: NaN where masks could not be compared
        f: likewise
        box_iou: IoU of the boxes
        confidence: of the predicted label, NaN where there is none
        agreement: of the two passes behind it, NaN where there were not two
        distance: frames to the nearest annotated frame of the segment, -1 where there is none
        predicted: whether there is a predicted label
        true: whether the object is truly there
        extra: whether the object is not in the truth of the segment at all
    """

    position: npt.NDArray[np.int64]
    index: npt.NDArray[np.int64]
    j: npt.NDArray[np.float64]
    f: npt.NDArray[np.float64]
    box_iou: npt.NDArray[np.float64]
    confidence: npt.NDArray[np.float64]
    agreement: npt.NDArray[np.float64]
    distance: npt.NDArray[np.int64]
    predicted: npt.NDArray[np.bool_]
    true: npt.NDArray[np.bool_]
    extra: npt.NDArray[np.bool_]

    def __len__(self) -> int:
        return len(self.position)

    @property
    def quality(self) -> npt.NDArray[np.float64]:
        """J, or the IoU of boxes where masks could not be compared."""
        return np.where(np.isnan(self.j), self.box_iou, self.j)

    def to_dict(self) -> dict[str, Any]:
        """The columns as JSON values, NaN as None."""
        return {
            name: [number(value) for value in column] if column.dtype == np.float64 else column.tolist()
            for name, column in vars(self).items()
        }


@dataclass(frozen=True)
class SequenceResult:
    """One sequence.

    Args:
        key: the sequence's own, see :class:`~labelprop_cvat.sequences.Sequence`
        name: for people
        media_type: ``"image"`` or ``"video"``
        length: its frames, scored or not
        annotated: positions that people annotated, 0-based
        scores: over its scored frames
        objects: its true objects
        segments: its temporal segments that were scored
        object_frames: the single comparisons
        minutes: what annotating the annotated frames takes, by the model of effort
        numbers: what FiftyOne calls each frame: its number in the video, from 1; of images the position
    """

    key: str
    name: str
    media_type: str
    length: int
    annotated: tuple[int, ...]
    scores: Scores
    objects: tuple[ObjectResult, ...]
    segments: tuple[SegmentResult, ...]
    object_frames: ObjectFrames
    minutes: float
    numbers: tuple[int, ...]


@dataclass(frozen=True)
class DistanceRow:
    """The object-frames that lie between ``near`` and ``far`` frames (both included) from an annotated frame."""

    near: int
    far: int
    count: int
    quality: float
    bad: float


@dataclass(frozen=True)
class CurvePoint:
    """One budget of one series.

    Args:
        budget: annotated frames a segment
        frames: annotated frames in all
        minutes: what annotating them takes, by the model of effort
        j: mean over the objects of all segments, on the frames that were not annotated; 1 where all were. IoU of boxes
            where the truth holds boxes
        j_all: likewise on all frames, the annotated ones counting 1
    """

    budget: int
    frames: int
    minutes: float
    j: float
    j_all: float


@dataclass(frozen=True)
class Curve:
    """What one engine makes of the frames that one method chooses, at several budgets."""

    engine: str
    method: str
    points: tuple[CurvePoint, ...]

    @property
    def name(self) -> str:
        """For people."""
        return f"{self.engine}, {self.method}"


@dataclass(frozen=True)
class Sample:
    """A frame that is worth looking at.

    Args:
        sequence: place among the sequences of the evaluation
        position: 0-based position in the sequence
        index: the object, as in :class:`ObjectFrames`
        quality: its J there, or the IoU of boxes
        f: its F there
        confidence: of the predicted label; NaN where there is none
        distance: frames to the nearest annotated frame, -1 where there is none
        predicted: whether there is a predicted label
        true: whether the object is truly there
        image: a JPEG of truth and prediction side by side; empty where none was drawn
    """

    sequence: int
    position: int
    index: int
    quality: float
    f: float
    confidence: float
    distance: int
    predicted: bool
    true: bool
    image: bytes = field(default=b"", repr=False)


def number(value: float) -> float | None:
    """A number as JSON knows it: NaN as None, and no more digits than mean something."""
    return None if math.isnan(value) else round(float(value), 6)


def numbers(values: Mapping[str, Any]) -> dict[str, Any]:
    """The same for each float of a mapping."""
    return {name: number(value) if isinstance(value, float) else value for name, value in values.items()}


__all__ = [
    "Curve",
    "CurvePoint",
    "DistanceRow",
    "ObjectFrames",
    "ObjectResult",
    "Sample",
    "Scores",
    "SegmentResult",
    "SequenceResult",
    "number",
    "numbers",
]
