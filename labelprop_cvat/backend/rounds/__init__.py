"""One trip to CVAT and back: plan, upload, collect.

A plan is made before anything is written anywhere. An upload walks each task through the steps of
:data:`~labelprop_cvat.backend.ledger.STEPS` and writes every step down before it begins the next, so that a killed one
goes on where it stopped. Collecting reads finished jobs only and changes nothing until FiftyOne has merged the labels.
"""

from labelprop_cvat.backend.rounds.collect import (
    collect_round,
    commit_collected,
    commit_jobs,
    finishing_states,
    has_new_work,
    is_finished,
    refresh_jobs,
    reserve_identities,
    segment_is_collected,
)
from labelprop_cvat.backend.rounds.found import Collected, CollectedField, CollectedSequence, Sight
from labelprop_cvat.backend.rounds.objects import made_id
from labelprop_cvat.backend.rounds.plan import (
    PlannedSegment,
    is_on_its_way,
    plan_exemplar_round,
    plan_next_round,
    sequence_record,
)
from labelprop_cvat.backend.rounds.upload import UploadOptions, task_labels, upload_round

__all__ = [
    "Collected",
    "CollectedField",
    "CollectedSequence",
    "PlannedSegment",
    "Sight",
    "UploadOptions",
    "collect_round",
    "commit_collected",
    "commit_jobs",
    "finishing_states",
    "has_new_work",
    "is_finished",
    "is_on_its_way",
    "made_id",
    "plan_exemplar_round",
    "plan_next_round",
    "refresh_jobs",
    "reserve_identities",
    "segment_is_collected",
    "sequence_record",
    "task_labels",
    "upload_round",
]
