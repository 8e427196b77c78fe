"""Image collections, dynamic groups and videos as sequences of frames, and their temporal segments."""

from __future__ import annotations

import logging
import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping
from collections.abc import Sequence as Items
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Any

import fiftyone as fo
import fiftyone.core.expressions as foe
import fiftyone.core.media as fom
import fiftyone.core.stages as fost
import fiftyone.core.view as fov

from labelprop_cvat.errors import DataError
from labelprop_cvat.propagation.frames import FrameSource, ImageSequenceSource, Progress, SubsetSource, VideoSource
from labelprop_cvat.propagation.segments import find_segments
from labelprop_cvat.propagation.types import Segment

logger = logging.getLogger(__name__)

COLLECTION_KEY = "collection"
_BATCH = 1000
_FRAME_STAGES = (fost.MatchFrames, fost.SelectFrames, fost.ExcludeFrames)


@dataclass(frozen=True)
class FrameRef:
    """Where FiftyOne keeps one frame.

    Args:
        sample_id: the image's or the video's sample
        frame_number: FiftyOne's 1-based number inside the video, None for images
    """

    sample_id: str
    frame_number: int | None = None


class Sequence:
    """The ordered frames of one video, one group or one image collection.

    Frames are addressed by their 0-based position in ``frames``; ``source[position]`` is the picture of
    ``frames[position]``. Nothing is decoded before it is asked for: the number of frames of a whole video is found by
    decoding it once, whatever its metadata says.

    Made by :func:`sequences_of`.
    """

    def __init__(
        self,
        *,
        key: str,
        name: str,
        media_type: str,
        paths: Items[str],
        refs: Items[FrameRef] | None,
        video_sample_id: str | None = None,
        expected_frames: int | None = None,
    ) -> None:
        self.key = key
        """The same in every session: a video's sample id, a group's value, or ``"collection"``."""
        self.name = name
        """For people."""
        self.media_type = media_type
        """``"image"`` or ``"video"``."""
        self.filepaths = tuple(paths)
        """The images in order, or the one video file."""
        self._given = None if refs is None else tuple(refs)
        self._video_sample_id = video_sample_id
        self._expected_frames = expected_frames

    def __repr__(self) -> str:
        return f"Sequence(key={self.key!r}, name={self.name!r}, media_type={self.media_type!r})"

    def __len__(self) -> int:
        return len(self.frames)

    @cached_property
    def frames(self) -> tuple[FrameRef, ...]:
        """Where FiftyOne keeps each frame, in order.

        Raises:
            DataError: the video cannot be read
        """
        if self._given is not None:
            return self._given
        count = len(self._video)
        if self._expected_frames is not None and self._expected_frames != count:
            logger.warning(
                "The metadata of %s counts %d frames, %d decode. The decoded frames count.",
                self.filepaths[0],
                self._expected_frames,
                count,
            )
        return tuple(FrameRef(str(self._video_sample_id), number) for number in range(1, count + 1))

    @cached_property
    def source(self) -> FrameSource:
        """The pictures; ``len(source) == len(frames)``.

        Raises:
            DataError: a frame number of a filtered view is not in the video, or the video cannot be read
        """
        if self.media_type == fom.IMAGE:
            return ImageSequenceSource(self.filepaths)
        if self._given is None:
            return self._video
        numbers = [ref.frame_number or 0 for ref in self._given]
        count = len(self._video)
        outside = [number for number in numbers if not 1 <= number <= count]
        if outside:
            raise DataError(
                f"The view holds frame {outside[0]} of {self.filepaths[0]}, which has frames 1 to {count}. "
                f"Delete the labels of frames that the video does not have, or leave them out of the view."
            )
        return SubsetSource(self._video, [number - 1 for number in numbers])

    @property
    def size(self) -> tuple[int, int]:
        """``(height, width)`` of every frame, pixels."""
        return self.source.size

    @property
    def sample_ids(self) -> tuple[str, ...]:
        """The samples that the sequence is made of, in order: one per image, or the video's."""
        if self._video_sample_id is not None:
            return (self._video_sample_id,)
        return tuple(ref.sample_id for ref in self.frames)

    def position(self, ref: FrameRef) -> int:
        """The 0-based position of a frame.

        Raises:
            DataError: it is no frame of this sequence
        """
        try:
            return self._positions[ref]
        except KeyError:
            raise DataError(f"{ref} is no frame of the sequence {self.name!r} with {len(self)} frames.") from None

    def check(self, progress: Progress | None = None) -> None:
        """Reads the header of every image, or indexes the video: to be called before any work is begun.

        Args:
            progress: called with the number of frames seen so far; not at all for a video indexed before

        Raises:
            DataError: a file is missing or broken, or frame sizes change; the message names the files
        """
        if self.media_type == fom.VIDEO:
            # The index is shared by all sources of the file, so that this one leaves it for the others.
            len(VideoSource(self.filepaths[0], progress=progress))
        source = self.source
        if isinstance(source, ImageSequenceSource):
            source.check(progress)
        elif len(source) != len(self.frames):
            raise DataError(f"{self.filepaths[0]} has {len(source)} frames, the sequence {len(self.frames)}.")

    @cached_property
    def _positions(self) -> dict[FrameRef, int]:
        return {ref: position for position, ref in enumerate(self.frames)}

    @cached_property
    def _video(self) -> VideoSource:
        return VideoSource(self.filepaths[0])


@dataclass(frozen=True)
class TemporalSegment:
    """A temporal segment with its name and what is known of its frames as exemplars.

    Args:
        segment: 0-based positions in the sequence, half-open
        label: the segment's identifier
        exemplar_scores: one per frame of the segment; None where there is none

    Raises:
        DataError: the number of scores is not the number of frames
    """

    segment: Segment
    label: str
    exemplar_scores: tuple[float | None, ...] = ()

    def __post_init__(self) -> None:
        if not self.exemplar_scores:
            object.__setattr__(self, "exemplar_scores", (None,) * len(self.segment))
        if len(self.exemplar_scores) != len(self.segment):
            raise DataError(
                f"The segment {self.label!r} has {len(self.segment)} frames and {len(self.exemplar_scores)} scores."
            )


def sequences_of(
    samples: fo.core.collections.SampleCollection, *, sort_field: str | None = None, media_field: str = "filepath"
) -> list[Sequence]:
    """Makes sequences of what a dataset or view holds, and of nothing else.

    - a video dataset or view: one sequence per video; all its frames, or only those that ``match_frames``,
      ``select_frames`` or ``exclude_frames`` left
    - a view with dynamic groups (``group_by(..., order_by=...)``, also ``flat=True`` or flattened): one per group
    - any other image collection: one sequence

    Args:
        samples: a dataset or view of images or videos
        sort_field: orders the images of a sequence, ascending, equal values in the view's order. Without it, groups
            follow their ``order_by`` and other collections the view's order. Ignored for videos.
        media_field: the field that holds the files' paths

    Raises:
        DataError: nothing in the view, media that is neither image nor video, a missing field, samples without a value
            in it, or values that cannot be compared
    """
    media_type = _check_media(samples, media_field)
    grouping = _Grouping.of(samples)
    if media_type == fom.VIDEO:
        return _video_sequences(samples if grouping is None else grouping.videos(), media_field)
    if grouping is None:
        return [_collection_sequence(samples, sort_field, media_field)]
    return _group_sequences(grouping, sort_field, media_field)


def members_of(samples: fo.core.collections.SampleCollection) -> fo.core.collections.SampleCollection:
    """The view whose samples are frames: the collection itself, or what its dynamic groups are made of."""
    if not samples._is_dynamic_groups:
        return samples
    grouping = _Grouping.of(samples)
    return samples._dataset if grouping is None else grouping.members


def _check_media(samples: fo.core.collections.SampleCollection, media_field: str) -> str:
    """The kind of media in the samples, ``"image"`` or ``"video"``, checked."""
    dataset = samples._dataset
    if samples._is_generated:
        raise DataError(
            f"{type(samples).__name__} is made from another dataset; labels written to it may not reach that dataset. "
            f"Use a view of {samples._root_dataset.name!r} itself."
        )
    media_type = samples.media_type
    if samples._is_dynamic_groups:
        media_type = samples._parse_dynamic_groups()[2].media_type
    if media_type == fom.GROUP:
        raise DataError(
            f"{dataset.name!r} is a dataset with group slices, and a sequence is made of one kind of media. "
            f"Choose slices first: dataset.select_group_slices({dataset.default_group_slice!r})."
        )
    if len(samples) == 0:
        raise DataError(f"There is no sample in this view of {dataset.name!r}. Widen the view.")
    if media_type not in (fom.IMAGE, fom.VIDEO):
        raise DataError(
            f"Sequences are made of images or videos, {dataset.name!r} holds {media_type!r}. "
            f"Choose another dataset or slice."
        )
    _check_field(samples, media_field)
    return str(media_type)


def _check_field(samples: fo.core.collections.SampleCollection, name: str) -> None:
    if samples.get_field(name) is None:
        known = ", ".join(sorted(samples.get_field_schema()))
        raise DataError(
            f"{samples._dataset.name!r} has no field {name!r} to order or find its frames by. Fields: {known}."
        )


def _video_sequences(samples: fo.core.collections.SampleCollection, media_field: str) -> list[Sequence]:
    filtered = any(isinstance(stage, _FRAME_STAGES) for stage in getattr(samples, "_stages", ()))
    fields = ["id", media_field, "metadata.total_frame_count"]
    if samples.get_field(fields[-1]) is None:
        fields[-1] = "id"
    ids, paths, counts = samples.values(fields)
    numbers = dict(zip(*samples.values(["id", "frames.frame_number"]), strict=True)) if filtered else {}
    sequences = []
    for sample_id, path, count in zip(ids, paths, counts, strict=True):
        refs = None
        if filtered:
            refs = [FrameRef(sample_id, number) for number in sorted(numbers.get(sample_id) or ())]
            if not refs:
                continue
        sequences.append(
            Sequence(
                key=sample_id,
                name=Path(_checked_path(path, sample_id, media_field)).stem,
                media_type=fom.VIDEO,
                paths=[path],
                refs=refs,
                video_sample_id=sample_id,
                expected_frames=count if isinstance(count, int) else None,
            )
        )
    if not sequences:
        raise DataError(f"There is no frame in this view of {samples._dataset.name!r}. Widen the view.")
    return sequences


@dataclass(frozen=True)
class _Rows:
    """Images with what sorts and groups them, one entry each in all lists."""

    ids: Items[str]
    paths: Items[str]
    order: Items[Any] | None
    groups: Items[Any] | None = None

    def picked(self, rows: Items[int], what: str) -> tuple[list[str], list[str]]:
        """The ids and paths of some rows, in temporal order."""
        if self.order is not None:
            rows = _sorted_rows(rows, self.order, self.ids, what)
        return [self.ids[row] for row in rows], [self.paths[row] for row in rows]


def _image_sequence(key: str, name: str, ids: Items[str], paths: Items[str], media_field: str) -> Sequence:
    for sample_id, path in zip(ids, paths, strict=True):
        _checked_path(path, sample_id, media_field)
    return Sequence(
        key=key, name=name, media_type=fom.IMAGE, paths=paths, refs=[FrameRef(sample_id) for sample_id in ids]
    )


def _collection_sequence(
    samples: fo.core.collections.SampleCollection, sort_field: str | None, media_field: str
) -> Sequence:
    rows = _read_rows(samples, media_field, sort_field)
    ids, paths = rows.picked(range(len(rows.ids)), sort_field or "")
    return _image_sequence(COLLECTION_KEY, samples._dataset.name, ids, paths, media_field)


def _read_rows(
    samples: fo.core.collections.SampleCollection,
    media_field: str,
    sort_field: str | None,
    group_expression: Any | None = None,
) -> _Rows:
    wanted = ["id", media_field]
    if sort_field is not None:
        _check_field(samples, sort_field)
        wanted.append(sort_field)
    ids, paths, *order = samples.values(wanted)
    groups = None
    if group_expression is not None:
        # By id: a flat grouped view comes in another order every time it is asked.
        found = samples._aggregate(pipeline=[{"$project": {"value": group_expression}}])
        by_id = {str(document["_id"]): document.get("value") for document in found}
        groups = [by_id.get(sample_id) for sample_id in ids]
    return _Rows(ids, paths, order[0] if order else None, groups)


@dataclass(frozen=True)
class _Grouping:
    """What a view says about its dynamic groups.

    Args:
        members: the view whose samples are the groups' frames
        expression: MongoDB expression of the group's value
        order_by: the field that orders a group, if any
        reverse: whether it orders from last to first
        chosen: the values of the groups in the view, in its order; None when ``members`` tells
        ordered: whether the view says in which order the groups come
    """

    members: fo.core.collections.SampleCollection
    expression: Any
    order_by: str | None
    reverse: bool
    chosen: Items[Any] | None
    ordered: bool

    @classmethod
    def of(cls, samples: fo.core.collections.SampleCollection) -> _Grouping | None:
        stages = getattr(samples, "_stages", ())
        at = next((i for i in reversed(range(len(stages))) if isinstance(stages[i], fost.GroupBy)), None)
        if at is None:
            return None
        stage = stages[at]
        before = fov.DatasetView._build(samples._dataset, samples._serialize()[:at])
        expression, _ = stage._get_group_expr(before)
        if samples._is_dynamic_groups:
            chosen = samples.values(foe.ViewExpression(expression))
            return cls(before, expression, stage.order_by, stage.reverse, chosen, ordered=True)
        ordered = stage.flat and stage.sort_expr is not None
        return cls(samples, expression, stage.order_by, stage.reverse, None, ordered)

    def videos(self) -> fo.core.collections.SampleCollection:
        """The videos of all groups: each is a sequence of its own, whatever group it is in."""
        if self.chosen is None:
            return self.members
        chosen = {_hashable(value) for value in self.chosen}
        rows = _read_rows(self.members, "id", None, self.expression)
        groups = rows.groups or ()
        return self.members.select(
            [key for key, value in zip(rows.ids, groups, strict=True) if _hashable(value) in chosen]
        )


def _group_sequences(grouping: _Grouping, sort_field: str | None, media_field: str) -> list[Sequence]:
    field = sort_field or grouping.order_by
    rows = _read_rows(grouping.members, media_field, field, grouping.expression)
    members: dict[Any, list[int]] = defaultdict(list)
    for row, value in enumerate(rows.groups or ()):
        members[_hashable(value)].append(row)
    chosen = list(members) if grouping.chosen is None else [_hashable(value) for value in grouping.chosen]
    if not grouping.ordered:
        chosen.sort(key=lambda value: min(rows.ids[row] for row in members[value]))
    names = Counter(str(value) for value in chosen)
    sequences = []
    for value in chosen:
        ids, paths = rows.picked(members[value], field or "")
        if grouping.reverse and sort_field is None and field is not None:
            ids, paths = ids[::-1], paths[::-1]
        # 1 and "1" are two groups; their keys must differ too.
        key = str(value) if names[str(value)] == 1 else repr(value)
        sequences.append(_image_sequence(key, key, ids, paths, media_field))
    return sequences


def _hashable(value: Any) -> Any:
    if isinstance(value, Mapping):
        return tuple((key, _hashable(entry)) for key, entry in value.items())
    if isinstance(value, list | tuple):
        return tuple(_hashable(entry) for entry in value)
    return value


def _sorted_rows(rows: Items[int], order: Items[Any], ids: Items[str], what: str) -> list[int]:
    for row in rows:
        value = order[row]
        if value is None or (isinstance(value, float) and math.isnan(value)):
            missing = sum(order[r] is None for r in rows)
            raise DataError(
                f"The sort field {what!r} is empty on {max(1, missing)} of {len(rows)} samples, first on {ids[row]}. "
                f"Fill it, or leave those samples out of the view."
            )
    try:
        return sorted(rows, key=lambda row: order[row])
    except TypeError as error:
        kinds = ", ".join(sorted({type(order[row]).__name__ for row in rows}))
        raise DataError(
            f"The sort field {what!r} holds values that have no order ({kinds}). Use a number, string or date field."
        ) from error


def _checked_path(path: str | None, sample_id: str, media_field: str) -> str:
    if not isinstance(path, str) or not path:
        raise DataError(
            f"The sample {sample_id} has no file in the field {media_field!r}. Fill it, or leave the sample out."
        )
    return path


def segments_of(
    sequence: Sequence,
    samples: fo.core.collections.SampleCollection,
    segments_field: str | None = None,
    method: str = "heuristic",
    **options: Any,
) -> list[TemporalSegment]:
    """Reads or computes the temporal segments of a sequence.

    From ``segments_field`` when it is given and holds something for this sequence: images carry one segment label each
    (``fo.Classifications`` with one entry, or ``fo.Classification``), videos ``fo.TemporalDetections``. A run of
    images with the same label is one segment; the same label further on is another segment. Frames without a label
    belong to no segment. Otherwise :func:`~labelprop_cvat.propagation.segments.find_segments` computes them.

    Args:
        sequence: one of :func:`sequences_of`
        samples: the collection that the sequence was made of
        segments_field: where segments are stored, if anywhere
        method: how they are computed, see :func:`~labelprop_cvat.propagation.segments.find_segments`
        options: the method's own options

    Returns:
        segments in order, none overlapping, at least one

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
    prefix = "" if sequence.media_type == fom.VIDEO or sequence.key == COLLECTION_KEY else f"{sequence.name}/"
    found = find_segments(sequence.source, method, **options)
    return [TemporalSegment(segment, f"{prefix}segment_{n:03}") for n, segment in enumerate(found, start=1)]


def write_segments(
    samples: fo.core.collections.SampleCollection,
    sequence: Sequence,
    segments_field: str,
    segments: Iterable[TemporalSegment],
) -> None:
    """Stores temporal segments; replaces what the field holds for the frames of this sequence and nothing else.

    Images get ``fo.Classifications`` with one entry: ``label`` and ``exemplar_score``, or None outside of all segments.
    A video gets ``fo.TemporalDetections`` with 1-based inclusive ``support``; scores go into ``exemplar_frames``
    (1-based frame numbers) and ``exemplar_scores``, two lists of one length.

    Raises:
        DataError: the field has another type, or segments overlap or leave the sequence
    """
    ordered = sorted(segments, key=lambda entry: entry.segment.start)
    _check_disjoint(ordered, sequence)
    if sequence.media_type == fom.VIDEO:
        _write_detections(samples, sequence, segments_field, ordered)
    else:
        _write_classifications(samples, sequence, segments_field, ordered)


def _stored_segments(
    sequence: Sequence, samples: fo.core.collections.SampleCollection, field: str
) -> list[TemporalSegment]:
    kind = _label_type(samples, field)
    if kind is None:
        return []
    expected = (fo.TemporalDetections,) if sequence.media_type == fom.VIDEO else (fo.Classifications, fo.Classification)
    if kind not in expected:
        names = " or ".join(f"fo.{cls.__name__}" for cls in expected)
        raise DataError(
            f"Segments of {sequence.media_type}s are kept in {names}, the field {field!r} holds "
            f"{getattr(kind, '__name__', kind)}. Name another field."
        )
    if sequence.media_type == fom.VIDEO:
        return _segments_from_detections(sequence, samples, field)
    return _segments_from_classifications(sequence, samples, field, single=kind is fo.Classification)


def _segments_from_classifications(
    sequence: Sequence, samples: fo.core.collections.SampleCollection, field: str, *, single: bool
) -> list[TemporalSegment]:
    marks: list[tuple[str, float | None] | None] = []
    for ref, value in zip(sequence.frames, _sample_values(samples, sequence.sample_ids, field), strict=True):
        entries = [] if value is None else [value] if single else list(value.classifications)
        if len(entries) > 1:
            raise DataError(
                f"The sample {ref.sample_id} has {len(entries)} segment labels in {field!r} "
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
    dataset = samples._dataset
    _make_field(dataset, field, fo.Classifications)
    _declare(dataset, f"{field}.classifications.exemplar_score", fo.FloatField)
    marks = {
        position: (entry.label, score)
        for entry in segments
        for position, score in zip(entry.segment.frames, entry.exemplar_scores, strict=True)
    }
    for batch in _batches(range(len(sequence)), _BATCH):
        values = {}
        for position in batch:
            mark = marks.get(position)
            values[sequence.frames[position].sample_id] = (
                fo.Classifications(classifications=[fo.Classification(label=mark[0], exemplar_score=mark[1])])
                if mark
                else None
            )
        dataset.set_values(field, values, key_field="id")


def _write_detections(
    samples: fo.core.collections.SampleCollection, sequence: Sequence, field: str, segments: Items[TemporalSegment]
) -> None:
    dataset = samples._dataset
    _make_field(dataset, field, fo.TemporalDetections)
    _declare(dataset, f"{field}.detections.exemplar_frames", fo.ListField, subfield=fo.IntField)
    _declare(dataset, f"{field}.detections.exemplar_scores", fo.ListField, subfield=fo.FloatField)
    detections = []
    for entry in segments:
        numbers = [sequence.frames[position].frame_number for position in entry.segment.frames]
        scored = [(n, s) for n, s in zip(numbers, entry.exemplar_scores, strict=True) if s is not None]
        detections.append(
            fo.TemporalDetection(
                label=entry.label,
                support=[numbers[0], numbers[-1]],
                exemplar_frames=[number for number, _ in scored],
                exemplar_scores=[score for _, score in scored],
            )
        )
    value = fo.TemporalDetections(detections=detections)
    dataset.set_values(field, {sequence.sample_ids[0]: value}, key_field="id")


def _sample_values(samples: fo.core.collections.SampleCollection, sample_ids: Items[str], field: str) -> Iterator[Any]:
    """One value per sample id, in order."""
    for batch in _batches(sample_ids, _BATCH):
        ids, values = samples._dataset.select(list(batch)).values(["id", field])
        by_id = dict(zip(ids, values, strict=True))
        yield from (by_id.get(sample_id) for sample_id in batch)


def _label_type(samples: fo.core.collections.SampleCollection, field: str) -> Any | None:
    """The label class of a field, its field class when it holds no labels, None when there is no such field."""
    known = samples._dataset.get_field(field)
    if known is None:
        return None
    return getattr(known, "document_type", None) or type(known)


def _make_field(dataset: fo.Dataset, field: str, label_type: type) -> None:
    found = _label_type(dataset, field)
    if found is None:
        dataset.add_sample_field(field, fo.EmbeddedDocumentField, embedded_doc_type=label_type)
    elif found is not label_type:
        raise DataError(
            f"Segments go into a field of fo.{label_type.__name__}; {field!r} of {dataset.name!r} holds "
            f"{found.__name__}. Name another field."
        )


def _declare(dataset: fo.Dataset, path: str, field_type: type, **kwargs: Any) -> None:
    if dataset.get_field(path) is None:
        dataset.add_sample_field(path, field_type, **kwargs)


def _batches(items: Items[Any], size: int) -> Iterator[Items[Any]]:
    for start in range(0, len(items), size):
        yield items[start : start + size]


__all__ = [
    "COLLECTION_KEY",
    "FrameRef",
    "Sequence",
    "TemporalSegment",
    "members_of",
    "segments_of",
    "sequences_of",
    "write_segments",
]
