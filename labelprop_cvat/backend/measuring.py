"""How good propagated labels turned out to be, where people annotated their frames later."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator, Mapping, Sequence

import fiftyone as fo

from labelprop_cvat.backend.keyframes import labels_at, propagated_schema
from labelprop_cvat.backend.ledger import NO_POSITION, Ledger, MeasuredRecord, SegmentRecord, SequenceRecord
from labelprop_cvat.backend.rounds.found import Collected, CollectedField, FinishedJob
from labelprop_cvat.backend.schema import FieldSchema
from labelprop_cvat.errors import DataError
from labelprop_cvat.labels import detection_to_box, detection_to_mask, label_to_prompt
from labelprop_cvat.propagation.metrics import box_iou, jaccard
from labelprop_cvat.propagation.types import rasterize

logger = logging.getLogger(__name__)


def measure_propagated(
    dataset: fo.Dataset,
    ledger: Ledger,
    collected: Collected,
    fields: Sequence[FieldSchema],
    outputs: Mapping[str, str],
) -> None:
    """Compares the propagated labels of frames that were collected for the first time with what people made of them.

    To be called while the jobs still count as not collected, and before the segments are filled anew. Segments that
    were not filled yet have nothing to compare. An object that people do not show counts where it was offered to them
    on that frame; elsewhere nobody said that it is not there.

    Args:
        dataset: where the propagated labels are
        ledger: its records of filled segments are added to
        collected: what was found
        fields: those that are propagated
        outputs: the field with the propagated labels of each
    """
    rounds = {id(task): round_.number for round_ in ledger.rounds for task in round_.tasks}
    for done in collected.finished:
        # Of a review only what was wrong is known for sure, which says nothing of the rest.
        if done.job.collected or done.is_review:
            continue
        record = ledger.sequences[done.task.sequence]
        earlier = sorted(
            {
                position
                for task, job in ledger.annotation_jobs()
                if task.sequence == record.key and job.collected
                for position in job.positions
            }
        )
        for field in fields:
            if field.label_field not in outputs:
                continue
            settled = collected.sequences[record.key].fields[field.label_field]
            source = propagated_schema(field, outputs[field.label_field])
            for segment, positions in _filled(record, done, field.label_field):
                propagated = labels_at(dataset, record, source, positions)
                exemplars = [position for position in earlier if segment.start <= position < segment.stop]
                offered = {(index, at) for index, at in done.job.offered.get(field.label_field, ())}
                fill = segment.fill(field.label_field)
                for position in positions:
                    fill.measured += _measured(
                        rounds[id(done.task)],
                        position,
                        min((abs(position - exemplar) for exemplar in exemplars), default=len(record)),
                        propagated.get(position, ()),
                        _by_people(settled, position),
                        {index for index, at in offered if at == position},
                        record.size_at(position),
                    )


def _filled(record: SequenceRecord, done: FinishedJob, label_field: str) -> Iterator[tuple[SegmentRecord, list[int]]]:
    """The filled segments of a job's frames, with those frames."""
    there = [p for p in done.job.positions if p != NO_POSITION and p not in done.deleted]
    for number in sorted(record.segments_with(there)):
        segment = record.segments[number]
        if label_field in segment.fills and segment.fills[label_field].signature is not None:
            yield segment, [position for position in there if segment.start <= position < segment.stop]


def _by_people(settled: CollectedField, position: int) -> dict[int, fo.Label]:
    """What people show on a frame, by the number of the object."""
    labels = settled.labels.get(position, {})
    return {
        int(place.split(":")[0]): labels[label_id]
        for label_id in labels
        if (place := settled.places.get(label_id)) is not None and int(place.split(":")[1]) == position
    }


def _measured(
    number: int,
    position: int,
    distance: int,
    propagated: Sequence[fo.Label],
    by_people: Mapping[int, fo.Label],
    offered: set[int],
    size: tuple[int, int],
) -> Iterator[MeasuredRecord]:
    guesses = {
        label.index: label
        for label in propagated
        if label.index is not None and not label.get_attribute_value("keyframe", None)
    }
    for index in sorted(by_people.keys() | (guesses.keys() & offered)):
        guess, truth = guesses.get(index), by_people.get(index)
        try:
            quality = 0.0 if guess is None or truth is None else _likeness(guess, truth, size)
        except DataError as error:
            # Anybody may have changed it since, which is no reason to lose what people drew.
            logger.warning("How good a label was stays unknown. %s", error)
            continue
        if quality is None:
            continue
        yield MeasuredRecord(
            round=number,
            index=index,
            position=position,
            confidence=0.0 if guess is None else _share(guess.confidence) or 0.0,
            agreement=None if guess is None else _share(guess.get_attribute_value("pass_agreement", None)),
            distance=distance,
            quality=round(quality, 4),
        )


def _share(value: float | None) -> float | None:
    return None if value is None or math.isnan(value) else min(1.0, max(0.0, float(value)))


def _likeness(guess: fo.Label, truth: fo.Label, size: tuple[int, int]) -> float | None:
    if not isinstance(guess, fo.Detection):
        return None
    first = detection_to_mask(guess, size)
    if isinstance(truth, fo.Polyline):
        prompt = label_to_prompt(truth, frame=0, object_id=1, size=size)
        return None if first is None or prompt.polygon is None else jaccard(first, rasterize(prompt.polygon, size))
    if not isinstance(truth, fo.Detection):
        return None
    second = detection_to_mask(truth, size)
    if first is not None and second is not None:
        return jaccard(first, second)
    return box_iou(detection_to_box(guess, size), detection_to_box(truth, size))


__all__ = ["measure_propagated"]
