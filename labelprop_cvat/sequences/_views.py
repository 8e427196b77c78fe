"""What datasets and views of any kind are, in the one form that the rest of the package knows.

Whatever kind a view is of, its *normal form* are frames of the source dataset: images by their sample, frames of videos
by the video's sample and the frame's number, label fields of videos spelled ``frames.<name>``. Labels are read through
the view, so that what it filters away stays hidden, and always written to the source dataset.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from collections.abc import Sequence as Items
from dataclasses import dataclass
from typing import Any

import fiftyone as fo
import fiftyone.core.expressions as foe
import fiftyone.core.media as fom
import fiftyone.core.stages as fost
from bson import ObjectId
from fiftyone import ViewField as F
from fiftyone.core.collections import SampleCollection as Collection

from labelprop_cvat.errors import DataError
from labelprop_cvat.sequences._sequence import FrameRef

FRAMES_PREFIX = "frames."
FRAME_STAGES = (fost.MatchFrames, fost.SelectFrames, fost.ExcludeFrames)


def plain_view(samples: Collection) -> Collection:
    """Patches as the view of the labels that they show, as ``annotate()`` makes it; any other view as it is."""
    if not samples._is_patches:
        return samples
    # Evaluation patches of a frames view call their fields as the videos do.
    fields = [name.removeprefix(FRAMES_PREFIX) for name in samples._label_fields]
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
    grouping = Grouping.of(samples)
    return samples._dataset if grouping is None else grouping.members


def normal_field(samples: Collection, field: str) -> str:
    """A field as the source dataset spells it: there, fields of a frames view or of its patches are those of frames."""
    if not samples._is_frames or field.startswith(FRAMES_PREFIX):
        return field
    return FRAMES_PREFIX + field


def every_sample(dataset: fo.Dataset, media_type: str | None = None) -> Collection:
    """The samples of a dataset, where it has group slices those of all slices and not of the active one only.

    Args:
        dataset: a dataset with or without group slices
        media_type: only slices of this kind; without it, stages that need one kind of media refuse the view
    """
    if dataset.media_type != fom.GROUP:
        return dataset
    if media_type is None or media_type not in dataset.group_media_types.values():
        return dataset.select_group_slices(_allow_mixed=True)
    return dataset.select_group_slices(media_type=media_type)


def view_values(
    samples: Collection,
    refs: Iterable[FrameRef],
    field: str,
    narrow: Callable[[Collection, str], Collection] | None = None,
) -> dict[FrameRef, Any]:
    """What a view shows of a field on some frames; what it filters away is not there.

    Args:
        samples: a view of any kind that :func:`sequences_of` takes
        refs: the frames, all of images or all of videos; a video's sample itself (no number) for fields of the sample,
            which clips and frames have not: it is read from the dataset
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
    is_newer = samples._is_frames and samples.get_field(field.removeprefix(FRAMES_PREFIX)) is None
    if is_newer or (not numbers and (samples._is_frames or samples._is_clips)):
        samples = every_sample(samples._root_dataset)
    found: dict[FrameRef, Any] = {}
    entries: Iterable[tuple[FrameRef, Any]]
    for view in _views_of(samples, {ref.sample_id for ref in wanted}):
        if not numbers:
            ids, values = narrow(view, field).values(["id", field])
            entries = zip((FrameRef(sample_id) for sample_id in ids), values, strict=True)
        elif samples._is_frames:
            name = field.removeprefix(FRAMES_PREFIX)
            every = sorted({number for some in numbers.values() for number in some})
            view = narrow(view.match(F("frame_number").is_in(every)), name)
            ids, found_numbers, values = view.values(["sample_id", "frame_number", name])
            entries = zip(map(FrameRef, ids, found_numbers), values, strict=True)
        else:
            entries = _video_values(view, numbers, field, narrow, "_sample_id" if samples._is_clips else "_id")
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
        frames = view.match(F(id_field) == ObjectId(sample_id)).match_frames(
            F("frame_number").is_in(sorted(wanted)), omit_empty=False
        )
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


def check_field(samples: Collection, name: str) -> None:
    """Raises a :class:`DataError` when samples have no field of this name."""
    if samples.get_field(name) is None:
        known = ", ".join(sorted(samples.get_field_schema()))
        raise DataError(
            f"{samples._root_dataset.name!r} has no field {name!r} to order or find its frames by. Fields: {known}."
        )


def checked_path(path: Any, sample_id: str, media_field: str) -> str:
    """The path that a media field holds; raises a :class:`DataError` where it holds none."""
    if not isinstance(path, str) or not path:
        raise DataError(
            f"The sample {sample_id} has no file in the field {media_field!r}. Fill it, or leave the sample out."
        )
    return path


@dataclass(frozen=True)
class Rows:
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


def read_rows(
    samples: Collection, media_field: str, sort_field: str | None, group_expression: Any | None = None
) -> Rows:
    """Reads ids, paths and, where asked, what sorts and groups them, in the view's order."""
    wanted = ["id", media_field]
    if sort_field is not None:
        check_field(samples, sort_field)
        wanted.append(sort_field)
    ids, paths, *order = samples.values(wanted)
    groups = None
    if group_expression is not None:
        # By id: a flat grouped view comes in another order every time it is asked.
        found = samples._aggregate(pipeline=[{"$project": {"value": group_expression}}])
        by_id = {str(document["_id"]): document.get("value") for document in found}
        groups = [by_id.get(sample_id) for sample_id in ids]
    return Rows(ids, paths, order[0] if order else None, groups)


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


@dataclass(frozen=True)
class Grouping:
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
    def of(cls, samples: Collection) -> Grouping | None:
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

    def on(self, members: Collection) -> Grouping:
        """The same groups of other samples: those of one slice."""
        return Grouping(members, self.expression, self.order_by, self.reverse, self.chosen, self.ordered)

    def chosen_members(self) -> Collection:
        """What the groups are made of, group by group no more."""
        if self.chosen is None:
            return self.members
        chosen = {hashable(value) for value in self.chosen}
        rows = read_rows(self.members, "id", None, self.expression)
        groups = rows.groups or ()
        return self.members.select(
            [key for key, value in zip(rows.ids, groups, strict=True) if hashable(value) in chosen]
        )


def hashable(value: Any) -> Any:
    """A group's value as a key: lists and documents as tuples."""
    if isinstance(value, Mapping):
        return tuple((key, hashable(entry)) for key, entry in value.items())
    if isinstance(value, list | tuple):
        return tuple(hashable(entry) for entry in value)
    return value


__all__ = [
    "FRAMES_PREFIX",
    "FRAME_STAGES",
    "Grouping",
    "Rows",
    "check_field",
    "checked_path",
    "every_sample",
    "hashable",
    "members_of",
    "normal_field",
    "plain_view",
    "read_rows",
    "view_values",
]
