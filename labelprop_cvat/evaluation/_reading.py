"""Predicted and true labels of a sequence, side by side, in the one form in which they can be compared."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import fiftyone as fo
import fiftyone.core.media as fom
from bson import ObjectId

from labelprop_cvat.errors import DataError
from labelprop_cvat.labels import (
    SOURCE_MANUAL,
    SOURCE_REVIEWED,
    FrameLabels,
    detection_to_box,
    detection_to_mask,
    has_region,
    instance_id,
    read_labels,
)
from labelprop_cvat.propagation.types import Box, ObjectMask, rasterize
from labelprop_cvat.sequences import Sequence as FrameSequence

logger = logging.getLogger(__name__)

KINDS = (fo.Detections, fo.Polylines)

_FRAMES_PREFIX = "frames."
_BATCH = 1000


@dataclass(frozen=True)
class Thing:
    """One label as it is compared.

    Args:
        label_id: FiftyOne's id
        name: its class
        mask: its pixels; None where it is a box
        box: ``(x1, y1, x2, y2)`` in pixels; of a mask the box around its pixels
        confidence: in [0, 1]; None where it has none
        agreement: in [0, 1], see :class:`~labelprop_cvat.propagation.types.ObjectState`; None where it has none
        person: whether a person drew or confirmed it
    """

    label_id: str
    name: str | None
    mask: ObjectMask | None
    box: Box
    confidence: float | None = None
    agreement: float | None = None
    person: bool = False


@dataclass
class Unread:
    """What could not be compared, by the reason why."""

    without_index: int = 0
    doubles: int = 0
    open_lines: int = 0

    def notes(self, field_name: str) -> list[str]:
        """A sentence for each reason that occurred."""
        said = {
            "have no index and were left out": self.without_index,
            "share their index with another label of the same frame and were left out": self.doubles,
            "are lines or outlines without pixels and were left out": self.open_lines,
        }
        return [f"{count} labels of {field_name} {what}." for what, count in said.items() if count]


@dataclass(frozen=True)
class Survey:
    """What is stored of a sequence, by 0-based position, without its shapes.

    Args:
        predicted: number of predicted labels, where there are any
        people: number of predicted labels that a person drew or confirmed, where there are any
        known: where the truth is stored, be it that there is nothing
        true: number of true labels, where there are any
    """

    predicted: Mapping[int, int]
    people: Mapping[int, int]
    known: frozenset[int]
    true: Mapping[int, int]


def label_class(dataset: fo.Dataset, name: str) -> type[fo.Label]:
    """The label class of a field.

    Raises:
        DataError: there is no such field, or it holds labels that cannot be compared
    """
    found = dataset.get_field(name)
    if found is None:
        known = ", ".join(_comparable_fields(dataset)) or "none"
        raise DataError(
            f"{dataset.name!r} has no field {name!r}. Fields that can be evaluated: {known}. Fields of the frames of "
            f"videos begin with 'frames.'."
        )
    kind = getattr(found, "document_type", None) or type(found)
    if kind not in KINDS:
        names = " or ".join(f"fo.{cls.__name__}" for cls in KINDS)
        raise DataError(f"The field {name!r} of {dataset.name!r} holds {kind.__name__}, expected {names}.")
    return kind


def _comparable_fields(dataset: fo.Dataset) -> list[str]:
    schemas = {"": dataset.get_field_schema(), _FRAMES_PREFIX: dataset.get_frame_field_schema() or {}}
    return [
        f"{prefix}{name}"
        for prefix, schema in schemas.items()
        for name, held in schema.items()
        if getattr(held, "document_type", None) in KINDS
    ]


def survey(dataset: fo.Dataset, sequence: FrameSequence, pred_field: str, gt_field: str) -> Survey:
    """Looks at a sequence's labels without reading their shapes."""
    pred_list, gt_list = (
        f"{name.removeprefix(_FRAMES_PREFIX)}.{label_class(dataset, name)._LABEL_LIST_FIELD}"
        for name in (pred_field, gt_field)
    )
    wanted = {f"{pred_list}.keyframe": 1, f"{pred_list}.source": 1, f"{gt_list}.index": 1, f"{gt_list}._cls": 1}
    wanted[f"{pred_list}._cls"] = 1
    predicted, people, true = Counter[int](), Counter[int](), Counter[int]()
    known = set()
    for position, document in _documents(dataset, sequence, wanted):
        guesses, truth = (_listed(document, path) for path in (pred_list, gt_list))
        if truth is not None:
            known.add(position)
            true[position] = len(truth)
        if guesses:
            predicted[position] = len(guesses)
            people[position] = sum(_is_persons(label.get("keyframe"), label.get("source")) for label in guesses)
    return Survey(+predicted, +people, frozenset(known), +true)


def _documents(
    dataset: fo.Dataset, sequence: FrameSequence, wanted: Mapping[str, int]
) -> Iterator[tuple[int, Mapping[str, object]]]:
    for start in range(0, len(sequence), _BATCH):
        positions = range(start, min(start + _BATCH, len(sequence)))
        place: dict[object, int]
        if sequence.media_type == fom.VIDEO:
            place = {sequence.frames[position].frame_number: position for position in positions}
            key, collection = "frame_number", dataset._frame_collection
            query = {"_sample_id": ObjectId(sequence.sample_ids[0]), key: {"$in": list(place)}}
        else:
            place = {ObjectId(sequence.frames[position].sample_id): position for position in positions}
            key, collection = "_id", dataset._sample_collection
            query = {key: {"$in": list(place)}}
        for document in collection.find(query, {**wanted, key: 1}):
            yield place[document[key]], document


def _listed(document: Mapping[str, object], path: str) -> list[Mapping[str, object]] | None:
    name, list_name = path.split(".")
    value = document.get(name)
    return None if not isinstance(value, Mapping) else list(value.get(list_name) or ())


def _is_persons(keyframe: object, source: object) -> bool:
    return bool(keyframe) or source in (SOURCE_MANUAL, SOURCE_REVIEWED)


@dataclass
class PairReader:
    """Reads predicted and true things of a sequence frame by frame.

    Args:
        samples: the collection that the sequence was made of
        sequence: the sequence
        pred_field: field with predictions, in normal form
        gt_field: field with the truth, in normal form
        by_instance: tell objects without an index by their ``fo.Instance``
    """

    samples: fo.core.collections.SampleCollection
    sequence: FrameSequence
    pred_field: str
    gt_field: str
    by_instance: bool = False
    unread: tuple[Unread, Unread] = field(default_factory=lambda: (Unread(), Unread()))
    _keys: tuple[dict[str, int], dict[str, int]] = field(default_factory=lambda: ({}, {}))

    def read(self, frames: Sequence[int]) -> Iterator[tuple[int, dict[int, Thing], dict[int, Thing]]]:
        """Yields position, predicted things and true things, each by the object's number.

        Raises:
            DataError: a label's mask cannot be read or its box is malformed
        """
        # What is left out is said once, however often the frames are read.
        self.unread = (Unread(), Unread())
        sides = (read_labels(self.samples, self.sequence, name, frames) for name in (self.pred_field, self.gt_field))
        for guesses, truth in zip(*sides, strict=True):
            yield guesses.frame, self._things(guesses, 0), self._things(truth, 1)

    def truth(self, frames: Sequence[int]) -> Iterator[tuple[int, dict[int, Thing]]]:
        """Yields position and true things by the object's number."""
        for found in read_labels(self.samples, self.sequence, self.gt_field, frames):
            yield found.frame, self._things(found, 1)

    def _things(self, found: FrameLabels, side: int) -> dict[int, Thing]:
        things: dict[int, Thing] = {}
        unread, size = self.unread[side], self.sequence.size
        for label in found.labels:
            key = self._key(label, side)
            if key is None:
                unread.without_index += 1
            elif key in things:
                unread.doubles += 1
            else:
                thing = _thing(label, size)
                if thing is None:
                    unread.open_lines += 1
                else:
                    things[key] = thing
        return things

    def _key(self, label: fo.Label, side: int) -> int | None:
        if label.index is not None:
            return int(label.index)
        instance = instance_id(label) if self.by_instance else None
        # Below all numbers that people give.
        return None if instance is None else self._keys[side].setdefault(instance, -1 - len(self._keys[side]))


def _thing(label: fo.Detection | fo.Polyline, size: tuple[int, int]) -> Thing | None:
    confidence = label.confidence
    agreement = label.get_attribute_value("pass_agreement", None)
    mask = _pixels(label, size)
    if mask is None and (isinstance(label, fo.Polyline) or label.has_mask):
        return None
    box = detection_to_box(label, size) if mask is None else mask.box
    return Thing(
        label_id=str(label.id),
        name=label.label,
        mask=mask,
        box=(float(box[0]), float(box[1]), float(box[2]), float(box[3])),
        confidence=None if confidence is None else min(1.0, max(0.0, float(confidence))),
        agreement=None if agreement is None else min(1.0, max(0.0, float(agreement))),
        person=_is_persons(
            label.get_attribute_value("keyframe", None),
            label.get_attribute_value("source", None),
        ),
    )


def _pixels(label: fo.Detection | fo.Polyline, size: tuple[int, int]) -> ObjectMask | None:
    if not isinstance(label, fo.Polyline):
        return detection_to_mask(label, size)
    if not has_region(label):
        return None
    height, width = size
    rings = tuple(tuple((x * width, y * height) for x, y in ring) for ring in label.points if len(ring) > 2)
    return rasterize(rings, size)


__all__ = ["PairReader", "Survey", "Thing", "Unread", "label_class", "survey"]
