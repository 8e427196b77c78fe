"""What the propagated labels of a run say of themselves, and what is known of how far that can be believed."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import fiftyone as fo

from labelprop_cvat.backend.keyframes import FRAMES_PREFIX
from labelprop_cvat.backend.ledger import FillRecord, Ledger, SegmentRecord, SequenceRecord
from labelprop_cvat.labels import SOURCE_MANUAL, SOURCE_REVIEWED
from labelprop_cvat.propagation.exemplars import DEFAULT_MODEL, Evidence, QualityModel
from labelprop_cvat.propagation.types import Box, PromptKind
from labelprop_cvat.sequences import every_sample

if TYPE_CHECKING:
    from labelprop_cvat.backend.labelprop import LabelPropBackendConfig

_NAMES = ("index", "label", "confidence", "pass_agreement", "bounding_box", "keyframe", "source")
_KINDS = {"rectangle": PromptKind.BOX, "mask": PromptKind.MASK, "polygon": PromptKind.POLYGON}
# Engines whose boxes are drawn around masks know as much of them as of the masks.
_BOXES_OF_MASKS = frozenset({"sam2"})


@dataclass(frozen=True)
class KnownLabel:
    """One label of an output field, without its mask.

    Args:
        evidence: what it says of itself; its ``object_id`` is the label's own index
        name: its class
        box: ``(x1, y1, x2, y2)`` around it, pixels, right and bottom exclusive
        confirmed: whether a person set it, or looked at it and found it right
    """

    evidence: Evidence
    name: str
    box: Box
    confirmed: bool


def drawn_kinds(config: LabelPropBackendConfig) -> dict[str, PromptKind]:
    """What people draw in each field of a run that is filled."""
    schema = config.schema()
    return {name: _KINDS.get(str(schema[name].kind.shape), PromptKind.MASK) for name in config.outputs()}


def followed_as(drawn: PromptKind, fill: FillRecord) -> PromptKind:
    """What an engine followed to fill a field: a box, or what is worth as much as a mask."""
    is_box = drawn is PromptKind.BOX and fill.engine not in _BOXES_OF_MASKS
    return PromptKind.BOX if is_box else PromptKind.MASK


def known_labels(
    dataset: fo.Dataset, record: SequenceRecord, segment: SegmentRecord, output: str, kind: PromptKind
) -> list[KnownLabel]:
    """Reads what the labels of a segment say of themselves, in no particular order; those without an index are passed
    over, and so are all where the field is gone.

    Args:
        dataset: holds them
        record: of the sequence
        segment: of it
        output: the field that was filled
        kind: what was followed
    """
    if dataset.get_field(output) is None:
        return []
    return list(_read(dataset, record, segment, output, kind))


def _read(
    dataset: fo.Dataset, record: SequenceRecord, segment: SegmentRecord, output: str, kind: PromptKind
) -> Iterator[KnownLabel]:
    wanted = [name for name in _NAMES if dataset.get_field(f"{output}.detections.{name}") is not None]
    paths = [f"{output}.detections.{name}" for name in wanted]
    columns: list[list[Any]]
    if record.media_type == "video":
        numbers = record.frame_numbers[segment.start : segment.stop]
        inside = fo.ViewField("frame_number").is_in(numbers)
        view = every_sample(dataset, "video").select(record.sample_ids[0]).match_frames(inside, omit_empty=False)
        found = view.values([f"{FRAMES_PREFIX}frame_number", *paths])
        at = {number: segment.start + place for place, number in enumerate(numbers)}
        positions = [at.get(number) for number in (found[0][0] or ())]
        columns = [column[0] or [] for column in found[1:]]
    else:
        ids = record.sample_ids[segment.start : segment.stop]
        found = every_sample(dataset).select(ids).values(["id", *paths])
        at_id = {sample_id: segment.start + place for place, sample_id in enumerate(ids)}
        positions, columns = [at_id.get(sample_id) for sample_id in found[0]], found[1:]
    for row, position in enumerate(positions):
        if position is None:
            continue
        values = {name: column[row] or [] for name, column in zip(wanted, columns, strict=True)}
        for place, index in enumerate(values["index"]):
            if index is not None:
                label = {name: entries[place] for name, entries in values.items() if entries}
                yield _known(label, position, record.size_at(position), kind)


def _known(label: Mapping[str, Any], position: int, size: tuple[int, int], kind: PromptKind) -> KnownLabel:
    left, top, width, height = label.get("bounding_box") or (0.0, 0.0, 0.0, 0.0)
    agreement = label.get("pass_agreement")
    is_keyframe = bool(label.get("keyframe"))
    evidence = Evidence(
        frame=position,
        object_id=int(label["index"]),
        confidence=_share(label.get("confidence") or 0.0),
        agreement=None if agreement is None else _share(agreement),
        area=_share(width * height),
        keyframe=is_keyframe,
        kind=kind,
    )
    return KnownLabel(
        evidence,
        str(label.get("label")),
        (left * size[1], top * size[0], (left + width) * size[1], (top + height) * size[0]),
        is_keyframe or label.get("source") in (SOURCE_MANUAL, SOURCE_REVIEWED),
    )


def _share(value: float) -> float:
    return min(1.0, max(0.0, float(value)))


def exemplars_of(
    ledger: Ledger, key: str, segment: SegmentRecord, keyframes: Collection[int], *, gone: Collection[int] = ()
) -> set[int]:
    """The frames of a segment whose every object people have told of.

    A person who mends one object while reviewing says nothing of the others on that frame.

    Args:
        ledger: the run
        key: of the sequence
        segment: the segment
        keyframes: positions where a label is a keyframe; they tell where tasks were forgotten, or labels came along
        gone: positions that people deleted
    """
    collected: set[int] = set()
    reviewed: set[int] = set()
    for round_ in ledger.rounds:
        for task in round_.tasks:
            if task.sequence == key:
                for job in task.jobs:
                    if round_.is_review:
                        reviewed.update(job.positions)
                    elif job.collected:
                        collected.update(job.positions)
    told = collected.intersection(segment.exemplars) - set(gone)
    return told | (set(keyframes) - (reviewed - set(segment.exemplars)))


def measurements(ledger: Ledger, drawn: Mapping[str, PromptKind]) -> list[tuple[Evidence, float, float]]:
    """How good propagated labels were where people annotated later, with what was known of them before.

    Args:
        ledger: the run
        drawn: what :func:`drawn_kinds` says of it

    Returns:
        evidence, its distance from the nearest exemplar in frames, and the J that was measured
    """
    return [
        (
            Evidence(
                frame=entry.position,
                object_id=entry.index,
                confidence=entry.confidence,
                agreement=entry.agreement,
                area=0.0,
                keyframe=False,
                kind=followed_as(drawn[label_field], fill),
            ),
            float(entry.distance),
            entry.quality,
        )
        for record in ledger.sequences.values()
        for segment in record.segments
        for label_field, fill in segment.fills.items()
        if label_field in drawn
        for entry in fill.measured
        # Where nothing was propagated, nothing was predicted either.
        if entry.confidence > 0.0
    ]


def quality_model(ledger: Ledger, drawn: Mapping[str, PromptKind]) -> tuple[QualityModel, int]:
    """What makes J of evidence in a run, and how many measured labels it was fitted to; see :func:`measurements`."""
    measured = measurements(ledger, drawn)
    return (DEFAULT_MODEL.fitted(measured) if measured else DEFAULT_MODEL), len(measured)


def as_sure(label: KnownLabel) -> Evidence:
    """The evidence of a label, sure of itself where a person found it right without setting it."""
    if not label.confirmed or label.evidence.keyframe:
        return label.evidence
    agreement = None if label.evidence.agreement is None else 1.0
    return replace(label.evidence, confidence=1.0, agreement=agreement)


__all__ = [
    "KnownLabel",
    "as_sure",
    "drawn_kinds",
    "exemplars_of",
    "followed_as",
    "known_labels",
    "measurements",
    "quality_model",
]
