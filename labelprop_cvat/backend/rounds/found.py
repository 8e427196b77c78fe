"""What one look at the server found; nothing of it is in the ledger before FiftyOne has merged the labels."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import fiftyone as fo

from labelprop_cvat.backend.keyframes import Finish
from labelprop_cvat.backend.ledger import JobRecord, ObjectRecord, TaskRecord
from labelprop_cvat.backend.shapes import DrawnObject

#: Where the labels of a field that holds one value for a whole video stand among the positions.
WHOLE_VIDEO = 0


@dataclass
class ReviewFinding:
    """What reviewers said of one label field in one job.

    Attributes:
        job: the job
        hidden: ``[index, position]`` where an object was shown to them and is not there any more
        shown: ``[index, position]`` where one is shown that was not
        verdicts: what they said of an object, by its index
        touched: indices of objects of which they changed anything
        confirmed: ``[index, start, stop]`` of propagated labels that they found right
        edits: how often they did what
    """

    job: JobRecord
    hidden: list[list[int]] = field(default_factory=list)
    shown: list[list[int]] = field(default_factory=list)
    verdicts: dict[int, str] = field(default_factory=dict)
    touched: set[int] = field(default_factory=set)
    confirmed: list[list[int]] = field(default_factory=list)
    edits: Counter[str] = field(default_factory=Counter)


@dataclass(frozen=True)
class Conflict:
    """Two people's words on one label.

    Args:
        position: the frame
        label: the version that does not count
        why: which one does, for people
    """

    position: int
    label: fo.Label
    why: str


@dataclass
class CollectedField:
    """What the finished jobs of one sequence hold of one label field.

    Attributes:
        labels: position -> label id -> the label as it shall be
        values: position -> the value as it shall be; of scalar fields
        finishes: position -> label id -> what FiftyOne's merge does not carry over
        unchanged: ids of labels whose field needs no merge for them
        finished: those of them that need no finish either
        removed: position -> ids of labels that people deleted
        absences: segment number -> ``[index, position]`` where a person ended a track
        ended: segment number -> ids of labels behind such an end
        label_ids: the field record's, brought up to date
        places: the same the other way round
        instances: the field record's, brought up to date
        next_index: the lowest index that was never in use
        reviews: what reviewers said, by number of the round
        conflicts: labels that were changed in two jobs since the last look
    """

    labels: dict[int, dict[str, fo.Label]] = field(default_factory=dict)
    values: dict[int, Any] = field(default_factory=dict)
    finishes: dict[int, dict[str, Finish]] = field(default_factory=dict)
    unchanged: set[str] = field(default_factory=set)
    finished: set[str] = field(default_factory=set)
    removed: dict[int, set[str]] = field(default_factory=dict)
    absences: dict[int, list[list[int]]] = field(default_factory=dict)
    ended: dict[int, list[str]] = field(default_factory=dict)
    label_ids: dict[str, str] = field(default_factory=dict)
    places: dict[str, str] = field(default_factory=dict)
    instances: dict[str, str] = field(default_factory=dict)
    next_index: int = 1
    reviews: list[tuple[int, ReviewFinding]] = field(default_factory=list)
    conflicts: list[Conflict] = field(default_factory=list)


@dataclass
class CollectedSequence:
    """What the finished jobs of one sequence hold.

    Attributes:
        looked_at: positions of the finished jobs' frames
        objects: task number -> key -> the object as settled now
        fields: by label field
        unexpected: shapes of a kind that the field of their class does not hold
    """

    looked_at: frozenset[int] = frozenset()
    objects: dict[int, dict[str, ObjectRecord]] = field(default_factory=dict)
    fields: dict[str, CollectedField] = field(default_factory=dict)
    unexpected: list[Sight] = field(default_factory=list)


@dataclass(frozen=True)
class FinishedJob:
    """One finished job as it was read; ``resolved`` are ids of issues that people closed."""

    task: TaskRecord
    job: JobRecord
    objects: int
    digest: str
    deleted: list[int]
    is_review: bool = False
    resolved: frozenset[int] = frozenset()


@dataclass
class Collected:
    """All finished jobs of a run."""

    sequences: dict[str, CollectedSequence] = field(default_factory=dict)
    finished: list[FinishedJob] = field(default_factory=list)
    others: Counter[str] = field(default_factory=Counter)


@dataclass(frozen=True)
class Sight:
    """One object of a finished job.

    Args:
        task: number of its task in the ledger
        job: the job
        drawn: what CVAT holds
        visible: the positions on which CVAT shows it
    """

    task: int
    job: JobRecord
    drawn: DrawnObject
    visible: frozenset[int]


__all__ = [
    "WHOLE_VIDEO",
    "Collected",
    "CollectedField",
    "CollectedSequence",
    "Conflict",
    "FinishedJob",
    "ReviewFinding",
    "Sight",
]
