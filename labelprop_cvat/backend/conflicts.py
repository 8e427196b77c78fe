"""Labels that two people changed at the same time: the version that does not count is kept beside the other."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Sequence

import fiftyone as fo
from bson import json_util

from labelprop_cvat.backend.ledger import SequenceRecord
from labelprop_cvat.backend.rounds.found import Conflict
from labelprop_cvat.backend.schema import FRAMES_PREFIX, FieldSchema

logger = logging.getLogger(__name__)

#: What is added to the name of a label field for the one that takes the other versions.
CONFLICTS_SUFFIX = "_conflicts"

#: The tag of such versions.
CONFLICT_TAG = "conflict"


def keep_conflicts(
    dataset: fo.Dataset, record: SequenceRecord, schema: FieldSchema, conflicts: Sequence[Conflict]
) -> None:
    """Puts the versions that do not count into a field of their own, once each, and says so in the log.

    Args:
        dataset: the dataset
        record: the sequence
        schema: what the run annotates in the field
        conflicts: what was found
    """
    field = f"{schema.label_field}{CONFLICTS_SUFFIX}"
    name = field.removeprefix(FRAMES_PREFIX)
    for conflict in conflicts:
        sample = dataset[record.ref(conflict.position).sample_id]
        number = record.ref(conflict.position).frame_number
        place = sample if number is None else sample.frames[number]
        label = conflict.label.copy()
        content = json.dumps(json.loads(json_util.dumps(label.to_dict())), sort_keys=True)
        label.id = hashlib.sha256(f"{conflict.label.id}{content}".encode()).hexdigest()[:24]
        label.tags = [*label.tags, CONFLICT_TAG]
        many = fo.Polylines if isinstance(label, fo.Polyline) else fo.Detections
        kind = "polylines" if many is fo.Polylines else "detections"
        held = place[name] if place.has_field(name) and place[name] is not None else many()
        if label.id in {other.id for other in held[kind]}:
            continue
        held[kind].append(label)
        place[name] = held
        sample.save()
        logger.warning(
            "Two people changed the %s %s on frame %d of %s; %s counts, and the other version is kept in %r.",
            label.label,
            "" if label.index is None else label.index,
            conflict.position if number is None else number,
            record.name,
            conflict.why,
            field,
        )


__all__ = ["CONFLICTS_SUFFIX", "CONFLICT_TAG", "keep_conflicts"]
