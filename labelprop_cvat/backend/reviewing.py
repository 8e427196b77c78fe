"""Which segments of a run reviewers look at next, what they are told, and what comes of their approval."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from labelprop_cvat.backend.doubts import doubts, uncertain_positions
from labelprop_cvat.backend.keyframes import SOURCE, labels_at, propagated_schema
from labelprop_cvat.backend.ledger import (
    FillRecord,
    IssueRecord,
    JobRecord,
    Ledger,
    RoundRecord,
    SegmentRecord,
    TaskRecord,
)
from labelprop_cvat.backend.rounds import segment_is_collected
from labelprop_cvat.backend.rounds.review import (
    SATISFACTORY,
    UNCERTAIN,
    ReviewedSegment,
    is_fit,
    plan_review_round,
    positions_to_review,
)
from labelprop_cvat.errors import DataError
from labelprop_cvat.labels import SOURCE_REVIEWED, detection_to_box, mark_labels

if TYPE_CHECKING:
    from labelprop_cvat.backend.results import LabelPropResults

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Reviewing:
    """What a run's reviews need to know of the run, whose ledger they change.

    Segments go by ``(key of the sequence, number of the segment)``.
    """

    results: LabelPropResults

    @property
    def _ledger(self) -> Ledger:
        return self.results.ledger

    def _segment(self, key: str, number: int) -> SegmentRecord:
        return self._ledger.sequences[key].segments[number]

    def asked_for(self, segments: str | Iterable[str] | None) -> list[tuple[str, int]]:
        """The segments that somebody asked to have reviewed.

        Args:
            segments: their labels; None for all that were never reviewed, or changed since

        Raises:
            DataError: one does not exist, is not filled yet, or is under review
        """
        if segments is None:
            return [place for place in self._reviewable() if self._has_changed(*place)]
        wanted = [segments] if isinstance(segments, str) else list(dict.fromkeys(segments))
        there = {
            (key, number): segment.label
            for key, record in self._ledger.sequences.items()
            for number, segment in enumerate(record.segments)
        }
        ready, out = set(self._reviewable()), self._ledger.under_review()
        found = []
        for label in wanted:
            places = [place for place, name in there.items() if name == label]
            if not places:
                known = ", ".join(sorted(set(there.values()))) or "none"
                raise DataError(f"Run {self.results.key!r} has no temporal segment {label!r}; it has {known}.")
            if not ready.intersection(places):
                why = "is under review already" if out.intersection(places) else "is not filled yet; load the run first"
                raise DataError(f"The temporal segment {label!r} of run {self.results.key!r} {why}.")
            found += [place for place in places if place in ready]
        return found

    def _reviewable(self) -> list[tuple[str, int]]:
        """The segments that are filled and not under review."""
        out = self._ledger.under_review()
        return [
            (key, number)
            for key, record in self._ledger.sequences.items()
            if not record.independent
            for number, segment in enumerate(record.segments)
            if segment.stop > segment.start and (key, number) not in out
            if segment_is_collected(self._ledger, key, number) and self._filled_fields(segment)
        ]

    def _filled_fields(self, segment: SegmentRecord) -> list[FillRecord]:
        outputs = self.results.config.outputs()
        return [fill for name, fill in segment.fills.items() if name in outputs and fill.signature is not None]

    def _has_changed(self, key: str, number: int) -> bool:
        fills = self._filled_fields(self._segment(key, number))
        return any(fill.signature != fill.reviewed for fill in fills)

    def due(self) -> list[tuple[str, int]]:
        """The segments whose next review goes out by itself."""
        found = []
        for key, number in self._reviewable():
            jobs = [
                job
                for round_ in self._ledger.reviews()
                for task in round_.tasks
                if task.sequence == key
                for job in task.jobs
                if job.segment == number
            ]
            if not self._has_changed(key, number):
                continue
            if jobs and self._is_settled(self._segment(key, number), jobs[-1]):
                continue
            if len(jobs) >= self.results.config.max_rounds:
                logger.warning(
                    "The segment %s of %s changed in its last review and is not sent to another one: it was reviewed "
                    "max_rounds=%d times. results.request_review() sends it all the same.",
                    self._segment(key, number).label,
                    self._ledger.sequences[key].name,
                    self.results.config.max_rounds,
                )
                continue
            found.append((key, number))
        return found

    def _is_settled(self, segment: SegmentRecord, job: JobRecord) -> bool:
        """Whether reviewers found every object of a segment right as it is by now, or rejected it."""
        if not any(job.verdicts.values()):
            return False
        for label_field in self.results.config.outputs():
            fill = segment.fill(label_field)
            objects = {*(fill.prompts or ()), *job.verdicts.get(label_field, ())}
            if not {int(index) for index in objects} <= {*fill.satisfied, *fill.rejected}:
                return False
        return True

    def planned(
        self, places: Sequence[tuple[str, int]], frames: str | None = None, review_as: str | None = None
    ) -> RoundRecord | None:
        """Enters a round of review into the ledger.

        Args:
            places: the segments
            frames: which frames of them; by default as the run was asked for
            review_as: what masks are sent as; by default likewise

        Returns:
            the round; None where nothing is in doubt of segments of which only such frames are asked for
        """
        frames, review_as = frames or self.results.config.review_frames, review_as or self.results.config.review_as
        chosen: list[ReviewedSegment] = []
        skipped = []
        for key, number in places:
            record = self._ledger.sequences[key]
            if frames == UNCERTAIN:
                positions = tuple(uncertain_positions(self.results, key, number))
            else:
                people = self.results.people_in(record, record.segments[number])
                keyframes = {position for by_position in people.values() for position in by_position}
                positions = positions_to_review(self._ledger, record, number, frames, keyframes)
            if positions:
                chosen.append(ReviewedSegment(key, number, positions))
            else:
                skipped.append(record.segments[number])
        for segment in skipped:
            logger.info("Nothing of %s is in doubt, so it is not sent to review.", segment.label)
            for fill in self._filled_fields(segment):
                fill.reviewed = fill.signature
        if not chosen:
            return None
        if closed := [
            field.label_field for field in self.results.config.schema().propagated if not field.allows("additions")
        ]:
            logger.warning(
                "What reviewers correct on frames without a label of %s is a new label there, and "
                "allow_additions=False keeps those out. Only what they change on annotated frames comes back.",
                ", ".join(closed),
            )
        round_ = plan_review_round(
            self._ledger,
            {key: self.results.sequence(key) for key in {entry.key for entry in chosen}},
            chosen,
            offers=self.results.config.outputs(),
            frames=frames,
            review_as=review_as,
        )
        for task in round_.tasks:
            for job in task.jobs:
                job.issues = self._doubts_of(task, job)
                segment = self._ledger.sequences[task.sequence].segments[job.segment]
                job.verdicts = {
                    name: {str(index): SATISFACTORY for index in fill.satisfied}
                    for name, fill in segment.fills.items()
                    if fill.satisfied
                }
                for fill in self._filled_fields(segment):
                    fill.reviewed = fill.signature
        return round_

    def _doubts_of(self, task: TaskRecord, job: JobRecord) -> list[IssueRecord]:
        """What reviewers of a job are told to look at: what is in doubt, and what somebody only marked."""
        found = [
            IssueRecord(
                doubt.label_field, doubt.index, doubt.worst, doubt.start, doubt.stop, doubt.why, list(doubt.box)
            )
            for doubt in doubts(self.results, task.sequence, job.segment, job=job)
        ]
        earlier = [
            other
            for round_ in self._ledger.reviews()
            for before in round_.tasks
            if before.sequence == task.sequence and before is not task
            for other in before.jobs
            if other.segment == job.segment and other.collected
        ]
        segment = self._ledger.sequences[task.sequence].segments[job.segment]
        for label_field, asked in earlier[-1].asked.items() if earlier else ():
            for index in asked:
                if (label_field, index) not in {(issue.label_field, issue.index) for issue in found}:
                    middle = job.positions[len(job.positions) // 2]
                    what = f"The last review said that object {index} needs fixing."
                    place = self._box_of(task, label_field, index, middle)
                    found.append(IssueRecord(label_field, index, middle, segment.start, segment.stop, what, place))
        return [issue for issue in found if issue.position in job.positions]

    def _box_of(self, task: TaskRecord, label_field: str, index: int, position: int) -> list[float]:
        """The box of a propagated object on a frame, ``[x1, y1, x2, y2]`` in pixels; empty where there is none."""
        record = self._ledger.sequences[task.sequence]
        schema = propagated_schema(self.results.config.schema()[label_field], task.offers[label_field])
        for label in labels_at(self.results.dataset, record, schema, [position]).get(position, ()):
            if label.index == index and is_fit(label, record.size_at(position)):
                return list(detection_to_box(label, record.size_at(position)))
        return []

    def mark_confirmed(self) -> None:
        """Marks propagated labels that reviewers found right as reviewed."""
        outputs = self.results.config.outputs()
        for round_ in self._ledger.reviews():
            for task in round_.tasks:
                for job in task.jobs:
                    if not any(job.confirmed.values()):
                        continue
                    people = self.results.people_of(task, job)
                    for label_field, stretches in job.confirmed.items():
                        steering = people.get(label_field, {})
                        kept = {(label.index, p) for p, labels in steering.items() for label in labels}
                        marks: dict[int, dict[int, dict[str, Any]]] = {}
                        for index, start, stop in stretches:
                            for position in range(start, stop):
                                if (index, position) not in kept:
                                    marks.setdefault(position, {})[index] = {SOURCE: SOURCE_REVIEWED}
                        if marks and label_field in outputs:
                            sequence = self.results.sequence(task.sequence)
                            mark_labels(self.results.dataset, sequence, outputs[label_field], marks)
                    job.confirmed = {}
                    self.results.save()

    def begin_again(self, task: TaskRecord) -> None:
        """Notes that what went along in jobs of a task that nobody loaded was not reviewed."""
        segments = self._ledger.sequences[task.sequence].segments
        for job in task.jobs:
            for fill in segments[job.segment].fills.values() if not job.collected else ():
                fill.reviewed = None


__all__ = ["Reviewing"]
