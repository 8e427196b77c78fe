"""Where propagated objects are expected to be wrong, in the words that a reviewer reads in CVAT."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING

from labelprop_cvat.backend.evidence import (
    KnownLabel,
    as_sure,
    drawn_kinds,
    exemplars_of,
    followed_as,
    known_labels,
    quality_model,
)
from labelprop_cvat.backend.ledger import (
    NO_POSITION,
    IssueRecord,
    JobRecord,
    Ledger,
    SegmentRecord,
    SequenceRecord,
    TaskRecord,
)
from labelprop_cvat.backend.status import shown_object
from labelprop_cvat.errors import ConfigurationError
from labelprop_cvat.propagation.exemplars import Because, Evidence, QualityModel, predicted_j_of
from labelprop_cvat.propagation.types import Box, Segment

if TYPE_CHECKING:
    from labelprop_cvat.backend.results import LabelPropResults

DOUBTED_BELOW = 0.8
"""IoU below which an object is doubted. Of 0.6, 0.65 and so on to 0.9 it finds what is below an IoU of 0.75 best (F1)
on every ten of eleven development sequences; ``python -m benchmarks.doubts`` says how well on those left out."""

MOST_DOUBTS = 20
"""Doubts of one job that reviewers are told of; a list that nobody reads to its end helps nobody."""

# Frames in between that are expected to be just good enough do not make two doubts of one.
_BRIDGED = 2
# One frame between good ones is mended by looking at its neighbours, unless it is as good as lost.
_SHORTEST = 2
_LOST = 0.3
# A number so small tells reviewers less than the word for it.
_HOPELESS = 0.1


@dataclass(frozen=True)
class Doubt:
    """A stretch of frames on which one propagated object is expected to be wrong.

    Args:
        label_field: the run's field
        index: the object's number
        label: its class
        start: first position of the stretch in the sequence
        stop: position after its last
        worst: the position in it where the least is expected; where the object is missing, one next to a frame with it
        confidence: IoU that is expected there, in [0, 1]
        why: one or two sentences for the reviewer
        missing: whether the object is not shown there, though it may have to be
        box: ``(x1, y1, x2, y2)`` where the object is at ``worst``, or, where it is not shown, on the nearest frame that
            shows it; pixels, right and bottom exclusive
        loss: by how much its IoU is expected to fall short of 1, summed over the frames; what doubts are ordered by
    """

    label_field: str
    index: int
    label: str
    start: int
    stop: int
    worst: int
    confidence: float
    why: str
    missing: bool
    box: Box
    loss: float


def doubts(
    results: LabelPropResults,
    key: str,
    segment_number: int,
    *,
    job: JobRecord | None = None,
    target: float = DOUBTED_BELOW,
    most: int | None = MOST_DOUBTS,
) -> list[Doubt]:
    """Where the propagated objects of a segment are expected to be wrong.

    What is expected is what suggestions of further frames expect: it comes from the confidence of the labels, from how
    far the passes agree, and from the way to the nearest exemplar, fitted to what people made of propagated labels in
    earlier rounds of the run. Labels that a person set or found right are beyond doubt, and objects that a reviewer
    rejected are not there any more.

    Args:
        results: the run, with the propagated labels as they are
        key: of the sequence
        segment_number: of the segment
        job: the review job that is told of them: only its frames count then, and frames are called by CVAT's numbers.
            Without it, frames are called by FiftyOne's numbers in videos and by their file's name in images
        target: IoU below which an object is doubted, in (0, 1]
        most: at most so many; None for all

    Returns:
        the doubts that weigh most first

    Raises:
        ConfigurationError: the target is no IoU
    """
    if not 0.0 < target <= 1.0:
        raise ConfigurationError(f"target is an IoU above 0 and at most 1, got {target!r}.")
    record = results.ledger.sequences[key]
    segment = record.segments[segment_number]
    outputs = results.config.outputs()
    deleted = {p for task, held in results.ledger.jobs() if task.sequence == key for p in held.deleted}
    if job is None:
        frames = sorted(set(range(segment.start, segment.stop)) - deleted)
    else:
        frames = sorted(set(job.positions) - {NO_POSITION} - deleted)
    if not frames or not outputs:
        return []
    drawn = drawn_kinds(results.config)
    model, _ = quality_model(results.ledger, drawn)
    name = _names(results, record, job)
    found: list[Doubt] = []
    for label_field, output in outputs.items():
        fill = segment.fills.get(label_field)
        if fill is None or fill.signature is None:
            continue
        rejected = set(fill.rejected)
        followed = followed_as(drawn[label_field], fill)
        known = [
            label
            for label in known_labels(results.dataset, record, segment, output, followed)
            if label.evidence.object_id not in rejected
        ]
        keyframes = {label.evidence.frame for label in known if label.evidence.keyframe}
        exemplars = sorted(exemplars_of(results.ledger, key, segment, keyframes, gone=deleted))
        said = {(position, index) for index, position in fill.all_absences}
        said |= _settled_absences(results.ledger, key, segment_number, label_field)
        found += FieldDoubts(label_field, segment, known, exemplars, said, model, name).doubts(frames, target)
    found.sort(key=lambda doubt: (-doubt.loss, doubt.start, doubt.label_field, doubt.index))
    return found[:most]


def _settled_absences(ledger: Ledger, key: str, segment_number: int, label_field: str) -> set[tuple[int, int]]:
    """``(position, index)`` where reviewers closed an issue about a missing object without drawing it.

    Such an issue leaves no label that could be marked as right.
    """
    return {
        (position, issue.index)
        for round_ in ledger.reviews()
        for task in round_.tasks
        if task.sequence == key
        for job in task.jobs
        if job.segment == segment_number and job.collected
        for issue in job.issues
        if issue.label_field == label_field and issue.resolved and _is_missing(task, job, issue)
        for position in range(issue.start, issue.stop)
        if position in job.positions
    }


def _is_missing(task: TaskRecord, job: JobRecord, issue: IssueRecord) -> bool:
    """Whether the object of an issue was not shown on its frames, by the last look."""
    places = (issue.start, issue.position, issue.stop - 1)
    return all(shown_object(task, job, replace(issue, position=place)) is None for place in places)


def uncertain_positions(
    results: LabelPropResults, key: str, segment_number: int, *, target: float = DOUBTED_BELOW
) -> list[int]:
    """The frames that a reviewer should see who sees only those in doubt.

    Args:
        results: the run
        key: of the sequence
        segment_number: of the segment
        target: IoU below which an object is doubted

    Returns:
        ascending positions in the sequence: of all doubts, with a frame on either side, and with the frames before and
        behind them where people set labels, to compare with; empty where nothing is in doubt

    Raises:
        ConfigurationError: the target is no IoU
    """
    found = doubts(results, key, segment_number, target=target, most=None)
    if not found:
        return []
    record = results.ledger.sequences[key]
    segment = record.segments[segment_number]
    by_people = _by_people(results, record, segment)
    deleted = {p for task, held in results.ledger.jobs() if task.sequence == key for p in held.deleted}
    wanted: set[int] = set()
    for doubt in found:
        wanted.update(range(max(segment.start, doubt.start - 1), min(segment.stop, doubt.stop + 1)))
        set_there = by_people.get((doubt.label_field, doubt.index), set())
        wanted.update(sorted(position for position in set_there if position < doubt.start)[-1:])
        wanted.update(sorted(position for position in set_there if position >= doubt.stop)[:1])
    return sorted(wanted - deleted)


def _by_people(
    results: LabelPropResults, record: SequenceRecord, segment: SegmentRecord
) -> dict[tuple[str, int], set[int]]:
    """Where people set the label of each object, by field and index."""
    found: dict[tuple[str, int], set[int]] = {}
    drawn = drawn_kinds(results.config)
    for label_field, output in results.config.outputs().items():
        for label in known_labels(results.dataset, record, segment, output, drawn[label_field]):
            if label.evidence.keyframe:
                found.setdefault((label_field, label.evidence.object_id), set()).add(label.evidence.frame)
    return found


def _names(results: LabelPropResults, record: SequenceRecord, job: JobRecord | None) -> Callable[[int], str]:
    """How the reader of a doubt calls a frame."""
    if job is not None:
        numbers = {p: job.start_frame + place for place, p in enumerate(job.positions) if p != NO_POSITION}

        def in_job(position: int) -> str:
            if position in numbers:
                return str(numbers[position])
            nearest = min(numbers, key=lambda other: abs(other - position))
            return f"near {numbers[nearest]}"

        return in_job
    if record.media_type == "video":
        return lambda position: str(record.frame_numbers[position])
    filepaths = results.sequence(record.key).filepaths
    return lambda position: Path(filepaths[position]).name


@dataclass
class FieldDoubts:
    """What is to be doubted of the objects of one field on one segment.

    Args:
        label_field: the run's field
        segment: the segment
        known: the labels of the output field
        exemplars: ascending positions where people told of every object
        said_absent: ``(position, index)`` where a person said that an object is not there
        model: what makes IoU of evidence
        name: how people call a frame
    """

    label_field: str
    segment: SegmentRecord
    known: Sequence[KnownLabel]
    exemplars: Sequence[int]
    said_absent: Collection[tuple[int, int]]
    model: QualityModel
    name: Callable[[int], str]
    _at: Mapping[tuple[int, int], KnownLabel] = field(init=False)
    _predicted: Mapping[tuple[int, int], float] = field(init=False)
    _because: Because = field(init=False)

    def __post_init__(self) -> None:
        span = Segment(self.segment.start, self.segment.stop)
        evidence: list[Evidence] = [as_sure(label) for label in self.known]
        self._at = {(label.evidence.frame, label.evidence.object_id): label for label in self.known}
        predicted = predicted_j_of(span, evidence, self.exemplars, self.model)
        self._predicted = {
            place: 1.0 if (label := self._at.get(place)) is not None and label.confirmed else j
            for place, j in predicted.items()
            if place in self._at or place not in self.said_absent
        }
        self._because = Because(span, evidence, self.exemplars, self._predicted, self.model, self.name, {})

    def doubts(self, frames: Sequence[int], target: float) -> Iterator[Doubt]:
        """The doubts about all objects.

        Args:
            frames: ascending positions that the reviewer sees
            target: IoU below which an object is doubted
        """
        for index in sorted({label.evidence.object_id for label in self.known}):
            for stretch in self._stretches(index, frames, target):
                yield self._doubt(index, stretch)

    def _stretches(self, index: int, frames: Sequence[int], target: float) -> Iterator[list[int]]:
        """The doubtful frames of an object, neighbours together; those where it is not shown apart from the others."""
        # A job may hold every n-th frame, or stretches far apart.
        step = median([other - frame for frame, other in pairwise(frames)] or [1])
        for missing in (False, True):
            low = [
                place
                for place, frame in enumerate(frames)
                if ((frame, index) not in self._at) is missing and self._predicted.get((frame, index), 1.0) < target
            ]
            groups: list[list[int]] = []
            for place in low:
                reach = 1 if missing else 1 + _BRIDGED
                near = groups and place - groups[-1][-1] <= reach
                near = near and frames[place] - frames[groups[-1][-1]] <= reach * step
                if near and not self._is_set(index, frames[groups[-1][-1] + 1 : place]):
                    groups[-1].append(place)
                else:
                    groups.append([place])
            for group in groups:
                stretch = [frames[place] for place in group]
                is_lost = min(self._predicted[frame, index] for frame in stretch) < _LOST
                if len(stretch) >= _SHORTEST or is_lost or not self._has_good_neighbours(index, frames, group, target):
                    yield stretch

    def _is_set(self, index: int, frames: Sequence[int]) -> bool:
        """Whether a person set the object on one of some frames."""
        return any((label := self._at.get((frame, index))) is not None and label.confirmed for frame in frames)

    def _has_good_neighbours(self, index: int, frames: Sequence[int], group: Sequence[int], target: float) -> bool:
        """Whether the frames right before and behind show the object, well enough, and in the video, too, are next."""
        around = [frames[place] for place in (group[0] - 1, group[-1] + 1) if 0 <= place < len(frames)]
        return all(
            abs(frame - frames[group[0]]) == 1 and self._predicted.get((frame, index), 0.0) >= target
            for frame in around
        )

    def _doubt(self, index: int, stretch: Sequence[int]) -> Doubt:
        missing = (stretch[0], index) not in self._at
        labels = {label.evidence.frame: label for label in self.known if label.evidence.object_id == index}

        def weight(frame: int) -> tuple[float, float, int]:
            apart = min(abs(frame - other) for other in labels) if missing else 0
            # Where an object comes in or leaves is seen next to where it is shown.
            return (self._predicted[frame, index], apart, frame)

        worst = min(stretch, key=weight)
        shown = labels[min(labels, key=lambda frame: (abs(frame - worst), frame))]
        expected = self._predicted[worst, index]
        return Doubt(
            label_field=self.label_field,
            index=index,
            label=shown.name,
            start=stretch[0],
            stop=stretch[-1] + 1,
            worst=worst,
            confidence=expected,
            why=self._said(shown.name, index, stretch, worst, expected, missing),
            missing=missing,
            box=shown.box,
            loss=sum(1.0 - self._predicted[frame, index] for frame in stretch),
        )

    def _said(self, label: str, index: int, stretch: Sequence[int], worst: int, expected: float, missing: bool) -> str:
        first, last = self.name(stretch[0]), self.name(stretch[-1])
        where = f"frame {first}" if first == last else f"frames {first} to {last}"
        if missing:
            return f"{label} {index}: not shown on {where}, where it may be; {self._surroundings(index, stretch)}."
        because = self._because.disagreement(worst, index) or self._because.why(worst, index)
        at = "" if first == last else f", least on {self.name(worst)}"
        if expected < _HOPELESS:
            return f"{label} {index}: most likely lost on {where}; {because}."
        return f"{label} {index}: expected IoU {expected:.2f} on {where}{at}; {because}."

    def _surroundings(self, index: int, stretch: Sequence[int]) -> str:
        """What people said of a missing object around."""
        shown = sorted(
            {label.evidence.frame for label in self.known if label.evidence.object_id == index and label.confirmed}
        )
        before = [frame for frame in shown if frame < stretch[0]]
        behind = [frame for frame in shown if frame > stretch[-1]]
        if before and behind:
            return f"frames {self.name(before[-1])} and {self.name(behind[0])} show it"
        if before:
            return f"frame {self.name(before[-1])} shows it, and where it leaves is a guess"
        return f"frame {self.name(behind[0])} shows it, and where it comes in is a guess" if behind else "nobody looked"


__all__ = ["DOUBTED_BELOW", "MOST_DOUBTS", "Doubt", "FieldDoubts", "doubts", "uncertain_positions"]
