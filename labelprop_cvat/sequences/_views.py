"""What datasets and views of any kind are, in the one form that the rest of the package knows.

Whatever kind a view is of, its *normal form* are frames of the source dataset: images by their sample, frames of videos
by the video's sample and the frame's number, label fields of videos spelled ``frames.<name>``. Labels are read through
the view, so that what it filters away stays hidden, and always written to the source dataset.
"""

from __future__ import annotations

import logging
import math
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from collections.abc import Sequence as Items
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import fiftyone as fo
import fiftyone.core.expressions as foe
import fiftyone.core.media as fom
import fiftyone.core.stages as fost
from bson import ObjectId
from fiftyone import ViewField as F
from fiftyone.core.collections import SampleCollection as Collection

from labelprop_cvat.errors import DataError
from labelprop_cvat.propagation.types import Segment
from labelprop_cvat.sequences._sequence import FrameRef, Sequence, TemporalSegment

logger = logging.getLogger(__name__)

COLLECTION_KEY = "collection"
FRAMES_PREFIX = "frames."
_FRAME_STAGES = (fost.MatchFrames, fost.SelectFrames, fost.ExcludeFrames)


# --- views in normal form ------------------------------------------------------------------------------------------


def sequences_of(
    samples: Collection, *, sort_field: str | None = None, media_field: str = "filepath"
) -> list[Sequence]:
    """Makes sequences of what a dataset or view holds, and of nothing else.

    - a video dataset or view: one sequence per video; all its frames, or only those that ``match_frames``,
      ``select_frames`` or ``exclude_frames`` left
    - clips (``to_clips``, ``to_trajectories``): one sequence per video with the frames of its clips; each clip is a
      temporal segment of its own, clips that overlap are one
    - frames (``to_frames``): one sequence per video with the frames of the view. The pictures come from the video, or
      from the frames' image files where the video's file is missing
    - patches (``to_patches``, ``to_evaluation_patches``): those of the images or frames that the patches lie on
    - a view with dynamic groups (``group_by(..., order_by=...)``, also ``flat=True`` or flattened): one per group
    - a dataset or view with group slices: for each slice of images or videos as if it were alone; slices of other media
      are left out with a warning
    - any other image collection: one sequence

    Args:
        samples: a dataset or view of any of these kinds
        sort_field: orders the images of a sequence, ascending, equal values in the view's order. Without it, groups
            follow their ``order_by`` and other collections the view's order. Ignored for videos.
        media_field: the field that holds the files' paths; a field of the frames (``"frames.<name>"``, or a name that
            only they have) means that the pictures of videos are image files

    Raises:
        DataError: nothing in the view, media that is neither image nor video, a missing field, samples without a value
            in it, or values that cannot be compared
    """
    samples = plain_view(samples)
    if samples._is_frames or samples._is_clips:
        grouping = _Grouping.of(samples)
        if grouping is not None:
            samples = grouping.chosen_members()
        if len(samples) == 0:
            raise _empty(samples)
        return _frames_sequences(samples, media_field) if samples._is_frames else _clips_sequences(samples, media_field)
    if len(samples) == 0:
        raise _empty(samples)
    if members_of(samples).media_type == fom.GROUP:
        return _slice_sequences(samples, sort_field, media_field)
    return _plain_sequences(samples, sort_field, media_field)


def plain_view(samples: Collection) -> Collection:
    """Patches as the view of the labels that they show, as ``annotate()`` makes it; any other view as it is."""
    if not samples._is_patches:
        return samples
    fields = list(samples._label_fields)
    ids = [i for field in fields for i in samples.values(samples._get_label_field_path(field, "id")[1], unwind=True)]
    root = samples._root_dataset
    if not samples._is_frames:
        return every_sample(root, fom.IMAGE).select_labels(ids=ids, fields=fields)
    view = every_sample(root, fom.VIDEO).select_labels(ids=ids, fields=[FRAMES_PREFIX + field for field in fields])
    return view.select_frames(list(set(samples.values("frame_id"))))


def members_of(samples: Collection) -> Collection:
    """The view whose samples are frames: the collection itself, or what its dynamic groups are made of."""
    if not samples._is_dynamic_groups:
        return samples
    grouping = _Grouping.of(samples)
    return samples._dataset if grouping is None else grouping.members


def every_sample(dataset: fo.Dataset, media_type: str | None = None) -> Collection:
    """The samples of a dataset, where it has group slices those of all slices and not of the active one only.

    Args:
        dataset: a dataset with or without group slices
        media_type: only slices of this kind; without it, stages that need one kind of media refuse the view
    """
    if dataset.media_type != fom.GROUP:
        return dataset
    if media_type is None:
        return dataset.select_group_slices(_allow_mixed=True)
    return dataset.select_group_slices(media_type=media_type)


def sequence_at(
    dataset: fo.Dataset,
    *,
    key: str,
    name: str,
    media_type: str,
    sample_ids: Items[str],
    frame_numbers: Items[int] = (),
    media_field: str = "filepath",
    uniform: bool = True,
) -> Sequence:
    """A sequence made again from the places of its frames; what :func:`sequences_of` gave, whatever the view was.

    Args:
        dataset: the source dataset
        key: the sequence's
        name: the sequence's
        media_type: ``"image"`` or ``"video"``
        sample_ids: one per image in order, or the video's
        frame_numbers: FiftyOne's 1-based numbers of a video's frames, ascending
        media_field: the field that holds the files' paths
        uniform: whether images must all be of one size

    Raises:
        DataError: a sample is no longer in the dataset, or has no file in the field
    """
    if media_type == fom.VIDEO:
        (video,) = _videos(dataset, {sample_ids[0]: list(frame_numbers)}, media_field)
        return video.sequence(key=key, name=name)
    rows = _read_rows(every_sample(dataset, fom.IMAGE).select(list(sample_ids), ordered=True), media_field, None)
    if list(rows.ids) != list(sample_ids):
        gone = set(sample_ids) - set(rows.ids)
        raise DataError(
            f"{len(gone)} samples of {name} are no longer in {dataset.name!r}, first {min(gone, default='')}. Make the "
            f"sequences again."
        )
    return _image_sequence(key, name, rows.ids, rows.paths, media_field, uniform=uniform)


def view_values(
    samples: Collection,
    refs: Iterable[FrameRef],
    field: str,
    narrow: Callable[[Collection, str], Collection] | None = None,
) -> dict[FrameRef, Any]:
    """What a view shows of a field on some frames; what it filters away is not there.

    Args:
        samples: a view of any kind that :func:`sequences_of` takes
        refs: the frames, all of images or all of videos
        field: the field in normal form, with its ``frames.`` prefix on videos
        narrow: adds stages to the view that is read, called with it and the field as that view spells it

    Returns:
        the values by frame, as FiftyOne holds them; frames that the view does not have, or without a value, are left
        out
    """
    wanted = set(refs)
    if not wanted:
        return {}
    samples = plain_view(samples)
    narrow = narrow or (lambda view, _: view)
    numbers: dict[str, list[int]] = defaultdict(list)
    for ref in wanted:
        if ref.frame_number is not None:
            numbers[ref.sample_id].append(ref.frame_number)
    found: dict[FrameRef, Any] = {}
    entries: Iterable[tuple[FrameRef, Any]]
    for view in _views_of(samples, {ref.sample_id for ref in wanted}):
        if not numbers:
            ids, values = narrow(view, field).values(["id", field])
            entries = zip((FrameRef(sample_id) for sample_id in ids), values, strict=True)
        elif samples._is_frames:
            name = field.removeprefix(FRAMES_PREFIX)
            every = sorted({number for some in numbers.values() for number in some})
            columns = narrow(view.match(F("frame_number").is_in(every)), name).values(
                ["sample_id", "frame_number", name]
            )
            entries = zip(map(FrameRef, *columns[:2]), columns[2], strict=True)
        else:
            entries = _video_values(view, numbers, field, narrow, "sample_id" if samples._is_clips else "id")
        for ref, value in entries:
            if ref in wanted and value is not None:
                found[ref] = _united(found.get(ref), value)
    return found


def _views_of(samples: Collection, sample_ids: set[str]) -> Iterator[Collection]:
    """The parts of a collection that hold some samples of the source dataset; flat, and each of one kind of media."""
    members = members_of(samples)
    if samples._is_frames or samples._is_clips:
        yield members.match(F("_sample_id").is_in([ObjectId(sample_id) for sample_id in sample_ids]))
        return
    if members.media_type != fom.GROUP:
        yield members.select(list(sample_ids))
        return
    # Slice by slice: FiftyOne keeps the view's filters on the slice that is active, and has none on the others.
    name_field = f"{members.group_field}.name"
    slices: dict[str, list[str]] = defaultdict(list)
    chosen = every_sample(samples._dataset).select(list(sample_ids))
    for sample_id, name in zip(*chosen.values(["id", name_field]), strict=True):
        slices[name].append(sample_id)
    for name, ids in slices.items():
        yield members.select_group_slices(name).select(ids)


def _video_values(
    view: Collection,
    numbers: Mapping[str, Items[int]],
    field: str,
    narrow: Callable[[Collection, str], Collection],
    id_field: str,
) -> Iterator[tuple[FrameRef, Any]]:
    for sample_id, wanted in numbers.items():
        key = F("_sample_id" if id_field == "sample_id" else "_id") == ObjectId(sample_id)
        frames = view.match(key).match_frames(F("frame_number").is_in(sorted(wanted)), omit_empty=False)
        for found, values in zip(*narrow(frames, field).values([f"{FRAMES_PREFIX}frame_number", field]), strict=True):
            for number, value in zip(found or (), values or (), strict=True):
                yield FrameRef(sample_id, number), value


def _united(first: Any, second: Any) -> Any:
    """One frame's value in two clips: each may show some of its labels."""
    list_field = getattr(type(second), "_LABEL_LIST_FIELD", None)
    if first is None or list_field is None:
        return second if first is None else first
    there = {label.id for label in first[list_field]}
    first[list_field].extend(label for label in second[list_field] if label.id not in there)
    return first


def _empty(samples: Collection) -> DataError:
    return DataError(f"There is no sample in this view of {samples._root_dataset.name!r}. Widen the view.")


def _check_field(samples: Collection, name: str) -> None:
    if samples.get_field(name) is None:
        known = ", ".join(sorted(samples.get_field_schema()))
        raise DataError(
            f"{samples._root_dataset.name!r} has no field {name!r} to order or find its frames by. Fields: {known}."
        )


def _checked_path(path: Any, sample_id: str, media_field: str) -> str:
    if not isinstance(path, str) or not path:
        raise DataError(
            f"The sample {sample_id} has no file in the field {media_field!r}. Fill it, or leave the sample out."
        )
    return path


# --- videos --------------------------------------------------------------------------------------------------------


@dataclass
class _Video:
    """One video and the frames of it that a sequence is made of: all where ``numbers`` is None."""

    sample_id: str
    path: str
    numbers: list[int] | None
    frame_paths: list[str] | None = None
    expected_frames: int | None = None

    def sequence(self, **facts: Any) -> Sequence:
        return Sequence(
            **{"key": self.sample_id, "name": Path(self.path).stem, **facts},
            media_type=fom.VIDEO,
            paths=[self.path],
            refs=None if self.numbers is None else [FrameRef(self.sample_id, number) for number in self.numbers],
            video_sample_id=self.sample_id,
            expected_frames=self.expected_frames,
            frame_paths=self.frame_paths,
        )


def _videos(dataset: fo.Dataset, wanted: Mapping[str, list[int] | None], media_field: str) -> list[_Video]:
    """Finds where the pictures of videos are: in the video's file, else in image files of its frames."""
    view = every_sample(dataset, fom.VIDEO)
    image_field, path_field, only_images = _media_fields(view, media_field)
    view = view.select(list(wanted))
    facts = {"id": "id", "path": path_field}
    if view.get_field("metadata.total_frame_count") is not None:
        facts["count"] = "metadata.total_frame_count"
    read = dict(zip(facts, view.values(list(facts.values())), strict=True))
    rows = {
        sample_id: (path, count)
        for sample_id, path, count in zip(read["id"], read["path"], read.get("count", [None] * len(view)), strict=True)
    }
    gone = [sample_id for sample_id in wanted if sample_id not in rows]
    if gone:
        raise DataError(
            f"{len(gone)} videos are no longer in {dataset.name!r}, first {gone[0]}. Make the sequences again."
        )
    videos = []
    for sample_id, numbers in wanted.items():
        path, count = rows[sample_id]
        video = _Video(
            sample_id,
            _checked_path(path, sample_id, path_field),
            numbers,
            expected_frames=count if isinstance(count, int) else None,
        )
        if image_field is not None and (only_images or not Path(video.path).is_file()):
            _use_frame_images(video, view, image_field, required=only_images)
        videos.append(video)
    return videos


def _media_fields(view: Collection, media_field: str) -> tuple[str | None, str, bool]:
    """The frames' field with image files, the samples' with video files, and whether only the former was asked for."""
    frame_field = FRAMES_PREFIX + media_field.removeprefix(FRAMES_PREFIX)
    there = view.get_field(frame_field) is not None
    if media_field == frame_field or view.get_field(media_field) is None:
        if not there:
            _check_field(view, media_field)
        return frame_field, "filepath", True
    return frame_field if there else None, media_field, False


def _use_frame_images(video: _Video, view: Collection, image_field: str, *, required: bool) -> None:
    found = view.select(video.sample_id).values([f"{FRAMES_PREFIX}frame_number", image_field])
    paths = {number: path for number, path in zip(found[0][0] or (), found[1][0] or (), strict=True) if path}
    numbers = sorted(paths) if video.numbers is None else video.numbers
    lacking = [number for number in numbers if number not in paths]
    if numbers and not lacking:
        video.numbers = numbers
        video.frame_paths = [paths[number] for number in numbers]
    elif required:
        raise DataError(
            f"{len(lacking) or 'All'} frames of {video.path} have no file in the field {image_field!r}"
            + (f", first frame {lacking[0]}" if lacking else "")
            + ". Fill it, or leave those frames out of the view."
        )


def _video_sequences(samples: Collection, media_field: str, slice_name: str | None = None) -> list[Sequence]:
    filtered = any(isinstance(stage, _FRAME_STAGES) for stage in getattr(samples, "_stages", ()))
    ids = samples.values("id")
    wanted: dict[str, list[int] | None] = dict.fromkeys(ids)
    if filtered:
        shown = zip(ids, samples.values(f"{FRAMES_PREFIX}frame_number"), strict=True)
        wanted = {sample_id: sorted(numbers) for sample_id, numbers in shown if numbers}
    if not wanted:
        raise DataError(f"There is no frame in this view of {samples._dataset.name!r}. Widen the view.")
    videos = _videos(samples._root_dataset, wanted, media_field)
    if slice_name is None:
        return [video.sequence() for video in videos]
    return [video.sequence(name=f"{slice_name}/{Path(video.path).stem}") for video in videos]


def _frames_sequences(samples: Collection, media_field: str) -> list[Sequence]:
    wanted: dict[str, list[int] | None] = {}
    for sample_id, number in zip(*samples.values(["sample_id", "frame_number"]), strict=True):
        numbers = wanted.setdefault(sample_id, [])
        if numbers is not None:
            numbers.append(number)
    wanted = {sample_id: sorted(set(numbers or ())) for sample_id, numbers in wanted.items()}
    root = samples._root_dataset
    return [video.sequence() for video in _videos(root, wanted, media_field)]


@dataclass
class _Clip:
    first: int
    last: int
    label: str
    scores: dict[int, float]


def _clips_sequences(samples: Collection, media_field: str) -> list[Sequence]:
    clips: dict[str, list[_Clip]] = defaultdict(list)
    shown: dict[str, set[int]] = defaultdict(set)
    filtered = any(isinstance(stage, _FRAME_STAGES) for stage in samples._stages)
    named = samples._classification_field
    columns = [
        samples.values("sample_id"),
        samples.values("support"),
        samples.values(named) if named else [None] * len(samples),
        samples.values(f"{FRAMES_PREFIX}frame_number") if filtered else [None] * len(samples),
    ]
    for sample_id, (first, last), label, numbers in zip(*columns, strict=True):
        shown[sample_id].update(range(first, last + 1) if numbers is None and not filtered else numbers or ())
        clips[sample_id].append(_Clip(first, last, str(label.label) if label is not None else "", _clip_scores(label)))
    wanted: dict[str, list[int] | None] = {key: sorted(numbers) for key, numbers in shown.items() if numbers}
    if not wanted:
        raise DataError(f"There is no frame in these clips of {samples._root_dataset.name!r}. Widen the view.")
    return [
        video.sequence(given_segments=_clip_segments(clips[video.sample_id], video))
        for video in _videos(samples._root_dataset, wanted, media_field)
    ]


def _clip_scores(label: Any) -> dict[int, float]:
    if label is None:
        return {}
    frames = label.get_attribute_value("exemplar_frames", None) or ()
    scores = label.get_attribute_value("exemplar_scores", None) or ()
    return {int(frame): float(score) for frame, score in zip(frames, scores, strict=False)}


def _clip_segments(clips: list[_Clip], video: _Video) -> list[TemporalSegment]:
    ordered = sorted(clips, key=lambda clip: (clip.first, clip.last))
    merged = [ordered[0]]
    for clip in ordered[1:]:
        last = merged[-1]
        if clip.first > last.last:
            merged.append(clip)
            continue
        label = last.label if clip.label in (last.label, "") else "+".join(filter(None, (last.label, clip.label)))
        merged[-1] = _Clip(last.first, max(last.last, clip.last), label, {**last.scores, **clip.scores})
    if len(merged) < len(ordered):
        logger.warning(
            "%d clips of %s overlap others; those that do are one temporal segment, since a frame belongs to one.",
            len(ordered) - len(merged),
            Path(video.path).name,
        )
    numbers = video.numbers or []
    segments = []
    for place, clip in enumerate(merged, start=1):
        inside = [position for position, number in enumerate(numbers) if clip.first <= number <= clip.last]
        if inside:
            scores = tuple(clip.scores.get(numbers[position]) for position in inside)
            span = Segment(inside[0], inside[-1] + 1)
            segments.append(TemporalSegment(span, clip.label or f"clip_{place:03}", scores))
    names = Counter(segment.label for segment in segments)
    return [
        TemporalSegment(s.segment, s.label if names[s.label] == 1 else f"{s.label}_{place:03}", s.exemplar_scores)
        for place, s in enumerate(segments, start=1)
    ]


# --- images, groups and slices -------------------------------------------------------------------------------------


def _plain_sequences(
    samples: Collection, sort_field: str | None, media_field: str, slice_name: str | None = None
) -> list[Sequence]:
    """The sequences of a flat collection of one kind of media, or of its dynamic groups."""
    grouping = _Grouping.of(samples)
    members = samples if grouping is None else grouping.members
    if members.media_type == fom.VIDEO:
        return _video_sequences(samples if grouping is None else grouping.chosen_members(), media_field, slice_name)
    if members.media_type != fom.IMAGE:
        raise DataError(
            f"Sequences are made of images or videos, {samples._root_dataset.name!r} holds {members.media_type!r}. "
            f"Choose another dataset or slice."
        )
    _check_field(members, media_field)
    if grouping is None:
        return [_collection_sequence(samples, sort_field, media_field, slice_name)]
    return _group_sequences(grouping, sort_field, media_field, slice_name)


def _slice_sequences(samples: Collection, sort_field: str | None, media_field: str) -> list[Sequence]:
    """The sequences of every slice of a grouped collection, dynamic groups on top of it or not."""
    grouping = _Grouping.of(samples)
    grouped = samples if grouping is None else grouping.members
    sequences: list[Sequence] = []
    for name, media_type in grouped.group_media_types.items():
        if media_type not in (fom.IMAGE, fom.VIDEO):
            logger.warning("The slice %r holds %s, not images or videos; it is left out.", name, media_type)
            continue
        flat = grouped.select_group_slices(name)
        if len(flat) == 0:
            continue
        if grouping is None:
            sequences += _plain_sequences(flat, sort_field, media_field, name)
        elif media_type == fom.VIDEO:
            sequences += _video_sequences(grouping.on(flat).chosen_members(), media_field, name)
        else:
            sequences += _group_sequences(grouping.on(flat), sort_field, media_field, name)
    if not sequences:
        kinds = ", ".join(f"{name}: {kind}" for name, kind in grouped.group_media_types.items())
        raise DataError(
            f"No slice in this view of {samples._root_dataset.name!r} holds images or videos ({kinds}). Choose "
            f"another view."
        )
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


def _image_sequence(
    key: str, name: str, ids: Items[str], paths: Items[str], media_field: str, *, uniform: bool = True
) -> Sequence:
    for sample_id, path in zip(ids, paths, strict=True):
        _checked_path(path, sample_id, media_field)
    refs = [FrameRef(sample_id) for sample_id in ids]
    return Sequence(key=key, name=name, media_type=fom.IMAGE, paths=paths, refs=refs, uniform=uniform)


def _collection_sequence(
    samples: Collection, sort_field: str | None, media_field: str, slice_name: str | None
) -> Sequence:
    rows = _read_rows(samples, media_field, sort_field)
    ids, paths = rows.picked(range(len(rows.ids)), sort_field or "")
    return _image_sequence(
        slice_name or COLLECTION_KEY, slice_name or samples._root_dataset.name, ids, paths, media_field
    )


def _read_rows(
    samples: Collection, media_field: str, sort_field: str | None, group_expression: Any | None = None
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

    members: Collection
    expression: Any
    order_by: str | None
    reverse: bool
    chosen: Items[Any] | None
    ordered: bool

    @classmethod
    def of(cls, samples: Collection) -> _Grouping | None:
        stages = getattr(samples, "_stages", ())
        at = next((i for i in reversed(range(len(stages))) if isinstance(stages[i], fost.GroupBy)), None)
        if at is None:
            return None
        stage = stages[at]
        before = samples._base_view
        for earlier in stages[:at]:
            before = before._add_view_stage(earlier, validate=False)
        expression, _ = stage._get_group_expr(before)
        if samples._is_dynamic_groups:
            chosen = samples.values(foe.ViewExpression(expression))
            return cls(before, expression, stage.order_by, stage.reverse, chosen, ordered=True)
        ordered = stage.flat and stage.sort_expr is not None
        return cls(samples, expression, stage.order_by, stage.reverse, None, ordered)

    def on(self, members: Collection) -> _Grouping:
        """The same groups of other samples: those of one slice."""
        return _Grouping(members, self.expression, self.order_by, self.reverse, self.chosen, self.ordered)

    def chosen_members(self) -> Collection:
        """What the groups are made of, group by group no more."""
        if self.chosen is None:
            return self.members
        chosen = {_hashable(value) for value in self.chosen}
        rows = _read_rows(self.members, "id", None, self.expression)
        groups = rows.groups or ()
        return self.members.select(
            [key for key, value in zip(rows.ids, groups, strict=True) if _hashable(value) in chosen]
        )


def _group_sequences(
    grouping: _Grouping, sort_field: str | None, media_field: str, slice_name: str | None = None
) -> list[Sequence]:
    field = sort_field or grouping.order_by
    rows = _read_rows(grouping.members, media_field, field, grouping.expression)
    members: dict[Any, list[int]] = defaultdict(list)
    for row, value in enumerate(rows.groups or ()):
        members[_hashable(value)].append(row)
    chosen = list(members) if grouping.chosen is None else [_hashable(value) for value in grouping.chosen]
    # A group need not have a sample in every slice.
    chosen = [value for value in chosen if value in members]
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
        key = key if slice_name is None else f"{slice_name}/{key}"
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


__all__ = [
    "COLLECTION_KEY",
    "FRAMES_PREFIX",
    "every_sample",
    "members_of",
    "plain_view",
    "sequence_at",
    "sequences_of",
    "view_values",
]
