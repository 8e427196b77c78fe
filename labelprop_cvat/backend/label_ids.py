"""Label ids, which name one label each."""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterable, Mapping
from typing import Any

import fiftyone as fo
from bson import ObjectId

from labelprop_cvat.backend.schema import FRAMES_PREFIX, FieldSchema
from labelprop_cvat.sequences import every_sample

logger = logging.getLogger(__name__)


def renew_shared_ids(
    dataset: fo.Dataset, schema: FieldSchema, places: Mapping[str, Collection[int]], media_type: str
) -> int:
    """Gives labels ids of their own where others of their field, anywhere in the dataset, go by the same.

    One label that was put on several samples keeps its id on all of them. What people do to it on one of them could
    not be told from what they do on the others, and FiftyOne deletes labels by their ids, wherever they are.

    Args:
        dataset: the dataset
        schema: what a run annotates in the field
        places: ids of the run's samples; of videos with the numbers of the run's frames
        media_type: of these samples

    Returns:
        how many labels have other ids now
    """
    field = schema.label_field
    if schema.kind.label_class is None or dataset.get_field(field) is None or not places:
        return 0
    shared = _shared_ids(dataset, schema)
    if not shared:
        return 0
    name, renewed = field.removeprefix(FRAMES_PREFIX), 0
    view = every_sample(dataset, media_type).select(list(places)).select_fields(field)
    for sample in view.iter_samples(autosave=True):
        if field.startswith(FRAMES_PREFIX):
            holders: Iterable[Any] = (sample.frames[n] for n in places[sample.id] if n in sample.frames)
        else:
            holders = (sample,)
        for holder in holders:
            renewed += _renew(holder, name, schema, shared)
    if media_type == "video":
        # Frames that the caller holds in memory; FiftyOne forgets some when it saves in batches.
        fo.core.frame.Frame._reload_docs(dataset._frame_collection_name, sample_ids=list(places))
    if renewed:
        logger.warning(
            "%d labels of %r had ids that other labels have too; they have ids of their own now.", renewed, field
        )
    return renewed


def _shared_ids(dataset: fo.Dataset, schema: FieldSchema) -> set[str]:
    """The ids that several labels of a field have."""
    path = schema.kind.path(schema.label_field).removeprefix(FRAMES_PREFIX)
    of_frames = schema.label_field.startswith(FRAMES_PREFIX)
    collection = dataset._frame_collection if of_frames else dataset._sample_collection
    pipeline = [
        {"$unwind": f"${path}"},
        {"$group": {"_id": f"${path}._id", "count": {"$sum": 1}}},
        {"$match": {"count": {"$gt": 1}, "_id": {"$ne": None}}},
    ]
    return {str(entry["_id"]) for entry in collection.aggregate(pipeline, allowDiskUse=True)}


def _renew(holder: Any, name: str, schema: FieldSchema, shared: Collection[str]) -> int:
    value = holder[name]
    if value is None:
        return 0
    labels = [value] if schema.kind.list_field is None else value[schema.kind.list_field]
    chosen = [label for label in labels if label.id in shared]
    for label in chosen:
        label.id = str(ObjectId())
    if chosen:
        # An id alone is no change that FiftyOne would notice.
        holder[name] = value
    return len(chosen)


__all__ = ["renew_shared_ids"]
