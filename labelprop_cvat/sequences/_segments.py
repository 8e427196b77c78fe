"""The temporal segments of a sequence: read, computed, stored."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable, Iterator, Mapping
from collections.abc import Sequence as Items
from datetime import datetime, timezone
from itertools import pairwise
from typing import Any

import fiftyone as fo
import fiftyone.core.media as fom
from bson import ObjectId
from pymongo import UpdateOne

from labelprop_cvat.errors import DataError
from labelprop_cvat.propagation.frames import SubsetSource
from labelprop_cvat.propagation.segments import DEFAULT_METHOD, Segmentation, measures, score_frames
from labelprop_cvat.propagation.types import Segment
from labelprop_cvat.sequences._images import COLLECTION_KEY
from labelprop_cvat.sequences._sequence import FrameRef, Sequence, TemporalSegment
from labelprop_cvat.sequences._views import every_sample

logger = logging.getLogger(__name__)

_BATCH = 1000
_FRAMES_PREFIX = "frames."
# Dissolves are looked for in windows of up to this many frames.
_AROUND = 40


def segments_of(
    sequence: Sequence,
    samples: fo.core.collections.SampleCollection,
    segments_field: str | None = None,
    method: str = DEFAULT_METHOD,
    within: Segment | None = None,
    **options: Any,
) -> list[TemporalSegment]:
    """Reads or computes the temporal segments of a sequence.

    From ``segments_field`` when it is given and holds something for this sequence: images carry one segment label each
    (``fo.Classifications`` with one entry, or ``fo.Classification``), videos ``fo.TemporalDetections``, or on their
    frames what images carry, where the field is ``"frames.<name>"``. A run of frames with the same label is one
    segment; the same label further on is another segment. Frames without a label belong to no segment. Without a
    ``segments_field``, those that the view itself names: the clips of a clips view. Otherwise
    :func:`computed_segments`.

    Args:
        sequence: one of :func:`sequences_of`
        samples: the collection that the sequence was made of
        segments_field: where segments are stored, if anywhere
        method: how they are computed, see :func:`~labelprop_cvat.propagation.segments.score_frames`
        within: where they are computed, look at these frames alone, 0-based and half-open, and at some around them
        options: the method's own options

    Returns:
        segments in order, none overlapping, at least one; with ``within``, those of the frames that were looked at

    Raises:
        DataError: the field has another type, a frame has several segment labels, or segments overlap
        ConfigurationError: no such method or option
    """
    if segments_field is not None:
        stored = _stored_segments(sequence, samples, segments_field)
        if stored:
            covered = sum(len(segment.segment) for segment in stored)
            if covered < len(sequence):
                logger.warning(
                    "%d of the %d frames of %r belong to no segment in %r; they are left alone.",
                    len(sequence) - covered,
                    len(sequence),
                    sequence.name,
                    segments_field,
                )
            return stored
    elif sequence.given_segments:
        return list(sequence.given_segments)
    if within is None or not measures(method):
        return computed_segments(sequence, method, **options)[0]
    start, stop = max(0, within.start - _AROUND), min(len(sequence), within.stop + _AROUND)
    found = score_frames(SubsetSource(sequence.source, range(start, stop)), method, **options).segments
    shifted = (Segment(start + segment.start, start + segment.stop) for segment in found)
    return [TemporalSegment(segment, f"segment_{n:03}") for n, segment in enumerate(shifted, start=1)]


def computed_segments(
    sequence: Sequence, method: str = DEFAULT_METHOD, **options: Any
) -> tuple[list[TemporalSegment], Segmentation]:
    """Computes the temporal segments of a sequence, whatever is stored.

    Args:
        sequence: one of :func:`sequences_of`
        method: how, see :func:`~labelprop_cvat.propagation.segments.score_frames`
        options: the method's own options, ``minimum_length`` and ``progress``

    Returns:
        segments in order, covering the sequence, and what was measured on the way

    Raises:
        ConfigurationError: no such method or option
        DataError: a frame cannot be read
    """
    found = score_frames(sequence.source, method, **options)
    prefix = "" if sequence.media_type == fom.VIDEO or sequence.key == COLLECTION_KEY else f"{sequence.name}/"
    return [
        TemporalSegment(segment, f"{prefix}segment_{n:03}") for n, segment in enumerate(found.segments, start=1)
    ], found


def write_segments(
    samples: fo.core.collections.SampleCollection,
    sequence: Sequence,
    segments_field: str,
    segments: Iterable[TemporalSegment],
) -> None:
    """Stores temporal segments; replaces what the field holds for the frames of this sequence and nothing else.

    Images get ``fo.Classifications`` with one entry: ``label`` and ``exemplar_score``, or None outside of all segments.
    A video gets ``fo.TemporalDetections`` with 1-based inclusive ``support``; scores go into ``exemplar_frames``
    (1-based frame numbers) and ``exemplar_scores``, two lists of one length. Its frames get what images get where the
    field is ``"frames.<name>"``.

    Raises:
        DataError: the field has another type, or segments overlap or leave the sequence
    """
    ordered = sorted(segments, key=lambda entry: entry.segment.start)
    _check_disjoint(ordered, sequence)
    _check_place(sequence, segments_field)
    if sequence.media_type == fom.VIDEO and not segments_field.startswith(_FRAMES_PREFIX):
        _write_detections(samples, sequence, segments_field, ordered)
    else:
        _write_classifications(samples, sequence, segments_field, ordered)


def write_scores(
    samples: fo.core.collections.SampleCollection, sequence: Sequence, scores_field: str, scores: Items[float]
) -> None:
    """Stores one number per frame, in a ``FloatField`` that is made where there is none.

    Args:
        samples: the collection that the sequence was made of
        sequence: one of :func:`sequences_of`
        scores_field: a field of images, or of the frames of videos, with or without ``"frames."`` before its name
        scores: one per frame, in order; NaN and infinite ones are left out

    Raises:
        DataError: the field has another type
    """
    dataset = samples._root_dataset
    scores_field = _checked_scores_field(dataset, sequence, scores_field)
    _declare(dataset, scores_field, fo.FloatField)
    values = [float(score) if math.isfinite(score) else None for score in scores]
    _set_frames(dataset, sequence, scores_field, dict(zip(range(len(sequence)), values, strict=True)))


def check_fields(
    samples: fo.core.collections.SampleCollection,
    sequence: Sequence,
    segments_field: str,
    scores_field: str | None = None,
) -> None:
    """Sees, before any work, whether :func:`write_segments` and :func:`write_scores` would take these fields.

    Raises:
        DataError: a field has another type or no possible name, or images are asked for fields of frames
    """
    dataset = samples._root_dataset
    for field in (segments_field, scores_field):
        if field is not None:
            _check_name(field)
    _check_place(sequence, segments_field)
    whole = sequence.media_type == fom.VIDEO and not segments_field.startswith(_FRAMES_PREFIX)
    _check_segments_type(dataset, segments_field, fo.TemporalDetections if whole else fo.Classifications)
    if scores_field is not None:
        _checked_scores_field(dataset, sequence, scores_field)


def _checked_scores_field(dataset: fo.Dataset, sequence: Sequence, field: str) -> str:
    """The whole name of a field of scores."""
    if sequence.media_type == fom.VIDEO:
        field = _FRAMES_PREFIX + field.removeprefix(_FRAMES_PREFIX)
    _check_place(sequence, field)
    known = dataset.get_field(field)
    if known is not None and not isinstance(known, fo.FloatField):
        raise DataError(
            f"Scores go into a FloatField; {field!r} of {dataset.name!r} is a {type(known).__name__}. "
            f"Name another field."
        )
    return field


def _stored_segments(
    sequence: Sequence, samples: fo.core.collections.SampleCollection, field: str
) -> list[TemporalSegment]:
    kind = _label_type(samples, field)
    if kind is None:
        return []
    _check_place(sequence, field)
    whole = sequence.media_type == fom.VIDEO and not field.startswith(_FRAMES_PREFIX)
    expected = (fo.TemporalDetections,) if whole else (fo.Classifications, fo.Classification)
    if kind not in expected:
        names = " or ".join(f"fo.{cls.__name__}" for cls in expected)
        what = f"{sequence.media_type}s" if whole or sequence.media_type != fom.VIDEO else "the frames of videos"
        raise DataError(
            f"Segments of {what} are kept in {names}, the field {field!r} holds {getattr(kind, '__name__', kind)}. "
            f"Name another field."
        )
    if whole:
        return _segments_from_detections(sequence, samples, field)
    return _segments_from_classifications(sequence, samples, field, single=kind is fo.Classification)


def _segments_from_classifications(
    sequence: Sequence, samples: fo.core.collections.SampleCollection, field: str, *, single: bool
) -> list[TemporalSegment]:
    marks: list[tuple[str, float | None] | None] = []
    for ref, value in zip(sequence.frames, _frame_values(samples, sequence, field), strict=True):
        entries = [] if value is None else [value] if single else list(value.classifications)
        if len(entries) > 1:
            raise DataError(
                f"{_described(ref)} has {len(entries)} segment labels in {field!r} "
                f"({', '.join(str(entry.label) for entry in entries)}); a frame belongs to one segment. Keep one label."
            )
        score = entries[0].get_attribute_value("exemplar_score", None) if entries else None
        marks.append((str(entries[0].label), None if score is None else float(score)) if entries else None)
    segments = []
    start = 0
    for stop in range(1, len(marks) + 1):
        first = marks[start]
        if stop < len(marks) and _name(marks[stop]) == _name(first):
            continue
        if first is not None:
            scores = tuple(mark[1] if mark else None for mark in marks[start:stop])
            segments.append(TemporalSegment(Segment(start, stop), first[0], scores))
        start = stop
    return segments


def _described(ref: FrameRef) -> str:
    place = f"The sample {ref.sample_id}"
    return place if ref.frame_number is None else f"Frame {ref.frame_number} of the sample {ref.sample_id}"


def _name(mark: tuple[str, float | None] | None) -> str | None:
    return None if mark is None else mark[0]


def _segments_from_detections(
    sequence: Sequence, samples: fo.core.collections.SampleCollection, field: str
) -> list[TemporalSegment]:
    (value,) = _sample_values(samples, sequence.sample_ids, field)
    if value is None or not value.detections:
        return []
    segments = []
    for detection in sorted(value.detections, key=lambda entry: tuple(entry.support or ())):
        if not detection.support or len(detection.support) != 2:
            raise DataError(
                f"The segment {detection.label!r} of {sequence.name!r} in {field!r} has no support. "
                f"Give it support=[first, last], 1-based and inclusive."
            )
        first, last = detection.support
        positions = [p for p, ref in enumerate(sequence.frames) if first <= (ref.frame_number or 0) <= last]
        if not positions:
            continue
        scores = _scores_by_frame(detection)
        segments.append(
            TemporalSegment(
                Segment(positions[0], positions[-1] + 1),
                str(detection.label),
                tuple(scores.get(sequence.frames[p].frame_number or 0) for p in positions),
            )
        )
    _check_disjoint(segments, sequence)
    return segments


def _scores_by_frame(detection: fo.TemporalDetection) -> dict[int, float]:
    frames = detection.get_attribute_value("exemplar_frames", None) or ()
    scores = detection.get_attribute_value("exemplar_scores", None) or ()
    return {int(frame): float(score) for frame, score in zip(frames, scores, strict=False)}


def _check_disjoint(segments: Items[TemporalSegment], sequence: Sequence) -> None:
    for earlier, later in pairwise(segments):
        if later.segment.start < earlier.segment.stop:
            raise DataError(
                f"The segments {earlier.label!r} and {later.label!r} of {sequence.name!r} overlap; a frame belongs to "
                f"one segment. Shorten one of them."
            )
    if segments and segments[-1].segment.stop > len(sequence):
        raise DataError(
            f"The segment {segments[-1].label!r} ends after frame {segments[-1].segment.stop - 1}, "
            f"{sequence.name!r} has frames 0 to {len(sequence) - 1}."
        )


def _write_classifications(
    samples: fo.core.collections.SampleCollection, sequence: Sequence, field: str, segments: Items[TemporalSegment]
) -> None:
    dataset = samples._root_dataset
    _make_field(dataset, field, fo.Classifications)
    _declare(dataset, f"{field}.classifications.exemplar_score", fo.FloatField)
    marks = {
        position: (entry.label, score)
        for entry in segments
        for position, score in zip(entry.segment.frames, entry.exemplar_scores, strict=True)
    }
    values = {
        position: fo.Classifications(classifications=[fo.Classification(label=mark[0], exemplar_score=mark[1])])
        if (mark := marks.get(position))
        else None
        for position in range(len(sequence))
    }
    _set_frames(dataset, sequence, field, values)


def _write_detections(
    samples: fo.core.collections.SampleCollection, sequence: Sequence, field: str, segments: Items[TemporalSegment]
) -> None:
    dataset = samples._root_dataset
    _make_field(dataset, field, fo.TemporalDetections)
    _declare(dataset, f"{field}.detections.exemplar_frames", fo.ListField, subfield=fo.IntField)
    _declare(dataset, f"{field}.detections.exemplar_scores", fo.ListField, subfield=fo.FloatField)
    (before,) = _sample_values(samples, sequence.sample_ids, field)
    stored = list(before.detections) if before is not None else []
    own = {ref.frame_number or 0 for ref in sequence.frames}
    detections = []
    for entry in segments:
        numbers = [sequence.frames[position].frame_number or 0 for position in entry.segment.frames]
        scores = {n: s for n, s in zip(numbers, entry.exemplar_scores, strict=True) if s is not None}
        support = [numbers[0], numbers[-1]]
        known = next((old for old in stored if _is_same(numbers, old, own) and str(old.label) == entry.label), None)
        if known is not None:
            # Of a longer segment the sequence may hold some frames only; the others keep what is known of them.
            stored.remove(known)
            support = list(known.support)
            scores = {**{n: s for n, s in _scores_by_frame(known).items() if n not in own}, **scores}
        detections.append(
            fo.TemporalDetection(
                label=entry.label,
                support=support,
                exemplar_frames=sorted(scores),
                exemplar_scores=[scores[number] for number in sorted(scores)],
            )
        )
    taken = [list(detection.support) for detection in detections]
    for old in stored:
        detections += _outside(old, taken, own)
    detections.sort(key=lambda detection: detection.support[0])
    value = fo.TemporalDetections(detections=detections)
    dataset.set_values(field, {sequence.sample_ids[0]: value}, key_field="id")


def _is_same(numbers: Items[int], old: fo.TemporalDetection, own: set[int]) -> bool:
    """Whether a stored segment has just these frames of the sequence, whatever others it has."""
    return bool(old.support) and own.intersection(range(old.support[0], old.support[1] + 1)) == set(numbers)


def _outside(old: fo.TemporalDetection, taken: Items[Items[int]], own: set[int]) -> list[fo.TemporalDetection]:
    """What is left of a stored segment beside new ones: its runs that hold a frame which is none of the sequence's."""
    first, last = old.support or (1, 0)
    free = [n for n in range(first, last + 1) if not any(start <= n <= stop for start, stop in taken)]
    runs: list[list[int]] = []
    for number in free:
        if runs and number == runs[-1][-1] + 1:
            runs[-1].append(number)
        else:
            runs.append([number])
    runs = [run for run in runs if not own.issuperset(run)]
    if runs == [list(range(first, last + 1))]:
        return [old]
    scores = _scores_by_frame(old)
    left = []
    for run in runs:
        piece = old.copy()
        piece.support = [run[0], run[-1]]
        piece["exemplar_frames"] = [number for number in run if number in scores]
        piece["exemplar_scores"] = [scores[number] for number in run if number in scores]
        left.append(piece)
    return left


def _set_frames(dataset: fo.Dataset, sequence: Sequence, field: str, values: Mapping[int, Any]) -> None:
    """Sets a field on images, or on the frames of a video, some of which may not be in the database yet."""
    in_frames = field.startswith(_FRAMES_PREFIX)
    for batch in _batches(list(values), _BATCH):
        if not in_frames:
            dataset.set_values(field, {sequence.frames[p].sample_id: values[p] for p in batch}, key_field="id")
            continue
        now = datetime.now(timezone.utc).replace(tzinfo=None)
        made = {"_dataset_id": dataset._doc.id, "created_at": now}
        operations = []
        for position in batch:
            ref, value = sequence.frames[position], values[position]
            query = {"_sample_id": ObjectId(ref.sample_id), "frame_number": ref.frame_number}
            stored = value.to_dict() if isinstance(value, fo.Label) else value
            change = {field.removeprefix(_FRAMES_PREFIX): stored, "last_modified_at": now}
            operations.append(UpdateOne(query, {"$set": change, "$setOnInsert": made}, upsert=True))
        dataset._bulk_write(operations, frames=True)


def _frame_values(samples: fo.core.collections.SampleCollection, sequence: Sequence, field: str) -> Iterator[Any]:
    """One value per frame of the sequence, in order; None where a video's frame is not in the database."""
    if not field.startswith(_FRAMES_PREFIX):
        yield from _sample_values(samples, sequence.sample_ids, field)
        return
    view = samples._root_dataset.select(sequence.sample_ids[0])
    numbers, values = view.values(["frames.frame_number", field], unwind=True)
    by_number = dict(zip(numbers, values, strict=True))
    yield from (by_number.get(ref.frame_number) for ref in sequence.frames)


def _check_name(field: str) -> None:
    name = field.removeprefix(_FRAMES_PREFIX)
    if not name or name.startswith("_") or "." in name:
        raise DataError(
            f"Segments and scores need fields of their own, whose names have no dot and begin with no underscore, got "
            f"{field!r}. Name another field."
        )


def _check_place(sequence: Sequence, field: str) -> None:
    if field.startswith(_FRAMES_PREFIX) and sequence.media_type != fom.VIDEO:
        raise DataError(
            f"Only videos have fields of frames; {sequence.name!r} is made of images. Name the field "
            f"{field.removeprefix(_FRAMES_PREFIX)!r}."
        )


def _sample_values(samples: fo.core.collections.SampleCollection, sample_ids: Items[str], field: str) -> Iterator[Any]:
    """One value per sample id, in order."""
    for batch in _batches(sample_ids, _BATCH):
        view = every_sample(samples._root_dataset).select(list(batch))
        ids, values = view.values(["id", field])
        by_id = dict(zip(ids, values, strict=True))
        yield from (by_id.get(sample_id) for sample_id in batch)


def _label_type(samples: fo.core.collections.SampleCollection, field: str) -> Any | None:
    """The label class of a field, its field class when it holds no labels, None when there is no such field."""
    known = samples._root_dataset.get_field(field)
    if known is None:
        return None
    return getattr(known, "document_type", None) or type(known)


def _make_field(dataset: fo.Dataset, field: str, label_type: type) -> None:
    _check_segments_type(dataset, field, label_type)
    _declare(dataset, field, fo.EmbeddedDocumentField, embedded_doc_type=label_type)


def _check_segments_type(dataset: fo.Dataset, field: str, label_type: type) -> None:
    found = _label_type(dataset, field)
    if found is not None and found is not label_type:
        raise DataError(
            f"Segments go into a field of fo.{label_type.__name__}; {field!r} of {dataset.name!r} holds "
            f"{found.__name__}. Name another field."
        )


def _declare(dataset: fo.Dataset, path: str, field_type: type, **kwargs: Any) -> None:
    if dataset.get_field(path) is not None:
        return
    if path.startswith(_FRAMES_PREFIX):
        dataset.add_frame_field(path.removeprefix(_FRAMES_PREFIX), field_type, **kwargs)
    else:
        dataset.add_sample_field(path, field_type, **kwargs)


def _batches(items: Items[Any], size: int) -> Iterator[Items[Any]]:
    for start in range(0, len(items), size):
        yield items[start : start + size]


__all__ = ["check_fields", "computed_segments", "segments_of", "write_scores", "write_segments"]
