"""Which fields of a collection are which, as far as they tell by themselves."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import fiftyone as fo
import fiftyone.core.media as fom

from labelprop_cvat.sequences import FRAMES_PREFIX, members_of
from labelprop_cvat.workflow._filling import OUTPUT_SUFFIX

#: What temporal segments are stored in where nothing else was said.
SEGMENTS_FIELD = "temporal_segments"

_SORTABLE = (fo.IntField, fo.FloatField, fo.StringField, fo.DateField, fo.DateTimeField)
_ORDERING_NAMES = (
    "frame_number",
    "frame",
    "frame_id",
    "frame_idx",
    "frame_index",
    "number",
    "index",
    "timestamp",
    "time",
)
_PROPAGATED = (fo.Detections, fo.Polylines, fo.Keypoints)
_NOT_FOR_SORTING = frozenset({"id", "created_at", "last_modified_at"})


def is_video(samples: fo.core.collections.SampleCollection) -> bool:
    """Whether the frames of a collection are those of videos, and labels fields of frames."""
    if samples._is_frames or samples._is_clips:
        return True
    members = members_of(samples)
    if members.media_type == fom.GROUP:
        return members.group_media_types.get(members.group_slice) == fom.VIDEO
    return bool(members.media_type == fom.VIDEO)


def sort_fields(samples: fo.core.collections.SampleCollection) -> list[str]:
    """Fields that can order images, those that look like it first; none for videos, which have an order."""
    if is_video(samples):
        return []
    schema = members_of(samples).get_field_schema()
    names = [n for n, f in schema.items() if isinstance(f, _SORTABLE) and n not in _NOT_FOR_SORTING]
    return sorted(names, key=lambda name: (_ordering_rank(name), names.index(name)))


def _ordering_rank(name: str) -> int:
    if name in _ORDERING_NAMES:
        return _ORDERING_NAMES.index(name)
    return len(_ORDERING_NAMES) + (not _looks_like_order(name))


def _looks_like_order(name: str) -> bool:
    return name in _ORDERING_NAMES or name.startswith(("frame_", "number_")) or name.endswith(("_number", "_index"))


def likely_sort_field(samples: fo.core.collections.SampleCollection) -> str | None:
    """The field that orders images by all appearances; None where none looks like it, or the view has an order."""
    if samples._is_dynamic_groups and any(
        getattr(stage, "order_by", None) for stage in getattr(samples, "_stages", ())
    ):
        return None
    return next((name for name in sort_fields(samples) if _looks_like_order(name)), None)


def segments_fields(samples: fo.core.collections.SampleCollection) -> list[str]:
    """Fields that hold temporal segments, or could: those with exemplar scores first."""
    dataset = samples._root_dataset
    kinds = (fo.TemporalDetections,) if is_video(samples) else (fo.Classifications,)
    names = [name for name, field in dataset.get_field_schema().items() if _kind(field) in kinds]
    if is_video(samples):
        frames = dataset.get_frame_field_schema() or {}
        names += [FRAMES_PREFIX + name for name, field in frames.items() if _kind(field) is fo.Classifications]
    return sorted(names, key=lambda name: (not _looks_like_segments(dataset, name), names.index(name)))


def likely_segments_field(samples: fo.core.collections.SampleCollection) -> str | None:
    """The field that holds temporal segments by all appearances; None where none looks like it."""
    dataset = samples._root_dataset
    return next((name for name in segments_fields(samples) if _looks_like_segments(dataset, name)), None)


def _looks_like_segments(dataset: fo.Dataset, name: str) -> bool:
    held = "detections" if _kind(dataset.get_field(name)) is fo.TemporalDetections else "classifications"
    scores = "exemplar_scores" if held == "detections" else "exemplar_score"
    return (
        name.removeprefix(FRAMES_PREFIX) == SEGMENTS_FIELD or dataset.get_field(f"{name}.{held}.{scores}") is not None
    )


def label_fields(samples: fo.core.collections.SampleCollection) -> list[str]:
    """Fields whose labels can be propagated, in normal form."""
    dataset = samples._root_dataset
    if is_video(samples):
        schema = {FRAMES_PREFIX + name: field for name, field in (dataset.get_frame_field_schema() or {}).items()}
    else:
        schema = dataset.get_field_schema()
    return [name for name, field in schema.items() if _kind(field) in _PROPAGATED]


def likely_input_field(fields: Iterable[str], labelled: Mapping[str, int], frames: int | None) -> str | None:
    """Which field people set: one that was propagated already, else one with labels on some frames and not on all.

    Args:
        fields: those that hold labels
        labelled: on how many frames those that may be it hold some
        frames: how many frames there are; None where nobody counted
    """
    names = list(fields)
    sources = [name for name in names if f"{name}{OUTPUT_SUFFIX}" in names]
    if sources:
        return sources[0]
    some = [name for name, count in labelled.items() if frames is None or count < frames]
    return min(some, key=lambda name: labelled[name], default=None)


def _kind(field: Any) -> Any:
    return getattr(field, "document_type", None)


__all__ = [
    "SEGMENTS_FIELD",
    "is_video",
    "label_fields",
    "likely_input_field",
    "likely_segments_field",
    "likely_sort_field",
    "segments_fields",
    "sort_fields",
]
