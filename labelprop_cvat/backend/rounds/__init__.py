"""One trip to CVAT and back: plan, upload, collect.

A plan is made before anything is written anywhere. An upload walks each task through the steps of
:data:`~labelprop_cvat.backend.ledger.STEPS` and writes every step down before it begins the next, so that a killed one
goes on where it stopped. Collecting reads finished jobs only and changes nothing until FiftyOne has merged the labels.
"""

from labelprop_cvat.backend.rounds.collect import (
    Collected,
    CollectedSequence,
    collect_round,
    commit_collected,
    has_new_work,
    is_finished,
    refresh_jobs,
    reserve_identities,
    segment_is_collected,
)
from labelprop_cvat.backend.rounds.plan import PlannedSegment, plan_exemplar_round
from labelprop_cvat.backend.rounds.upload import UploadOptions, check_project, upload_round

__all__ = [
    "Collected",
    "CollectedSequence",
    "PlannedSegment",
    "UploadOptions",
    "check_project",
    "collect_round",
    "commit_collected",
    "has_new_work",
    "is_finished",
    "plan_exemplar_round",
    "refresh_jobs",
    "reserve_identities",
    "segment_is_collected",
    "upload_round",
]
