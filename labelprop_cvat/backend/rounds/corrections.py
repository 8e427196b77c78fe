"""What reviewers did to propagated labels: which of them are a person's by now, which are gone, and what was said."""

from __future__ import annotations

import logging
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

import fiftyone as fo

from labelprop_cvat.backend.interpolation import TrackShape
from labelprop_cvat.backend.interpolation import shown as shown_by_cvat
from labelprop_cvat.backend.ledger import JobRecord, ObjectRecord, SightingRecord
from labelprop_cvat.backend.rounds.found import CollectedField, Conflict, ReviewFinding, Sight
from labelprop_cvat.backend.rounds.objects import ObjectsSettler, _Look, _Outlines
from labelprop_cvat.backend.rounds.review import FIX, REJECT, SATISFACTORY, UNREVIEWED
from labelprop_cvat.backend.shapes import (
    DrawnKeyframe,
    DrawnObject,
    attribute_texts,
    fingerprint,
    new_label,
    shape_name,
)
from labelprop_cvat.backend.tracks import TrackKeyframe
from labelprop_cvat.labels import SOURCE_MANUAL
from labelprop_cvat.propagation.metrics import box_iou
from labelprop_cvat.propagation.types import Box

logger = logging.getLogger(__name__)

# What people draw in the place of something that they deleted is the same object where their boxes share so much.
_REDRAWN = 0.5

#: Which of two versions of a label counts, for people.
REVIEW_COUNTS, ANNOTATION_COUNTS = "what was changed in review", "what was changed in the annotation job"

# Pixels and degrees by which what CVAT interpolates may differ from itself.
_SAME = 1e-3

# Of several verdicts on one object the strongest counts.
_RANK = {UNREVIEWED: 0, SATISFACTORY: 1, FIX: 2, REJECT: 3}


def strongest(verdicts: Iterable[str]) -> str:
    """The verdict that counts where the masks of one object carry several."""
    return max(verdicts, key=lambda verdict: _RANK.get(verdict, 0), default=UNREVIEWED)


@dataclass
class ReviewSettler(ObjectsSettler):
    """Settles the objects of one label field in the review jobs of one round.

    What nobody touched is a propagated label still and leaves no label here. What somebody changed becomes a label of
    the run's own field, as if it had been drawn on an exemplar.

    Args:
        propagated: the propagated labels on the frames that were looked at, by position and index
        earlier: the labels of annotation jobs and earlier reviews as they shall be, by position and id
    """

    propagated: Mapping[int, Mapping[int, fo.Label]] = field(default_factory=dict)
    earlier: Mapping[int, Mapping[str, fo.Label]] = field(default_factory=dict)
    _findings: dict[int, ReviewFinding] = field(init=False, default_factory=dict)
    # Keyframes of ours that a person removed: there, a track shows what CVAT makes of its neighbours.
    _implied: dict[str, dict[int, DrawnKeyframe]] = field(init=False, default_factory=dict)
    # Masks that are of another class because a person gave it to one of their object's.
    _carried: dict[str, str] = field(init=False, default_factory=dict)
    _replaced: set[str] = field(init=False, default_factory=set)
    # By job, numbers of objects with labels that people set: those tell of the class of all the others.
    _told: set[tuple[int, int]] = field(init=False, default_factory=set)
    # Whether an object has no label of a person's that could tell of its new number or class.
    _speaks_for_itself: bool = field(init=False, default=False)
    # Later parts of tracks that were split, with the number of the object that they were part of.
    _parts_of: dict[str, int] = field(init=False, default_factory=dict)
    _edits: dict[int, Counter[str]] = field(init=False, default_factory=lambda: defaultdict(Counter))
    _touched: dict[int, set[int]] = field(init=False, default_factory=lambda: defaultdict(set))

    def settle_review(
        self,
        sights: Sequence[Sight],
        jobs: Sequence[tuple[JobRecord, frozenset[int]]],
        verdicts: Mapping[str, str],
    ) -> list[tuple[int, str, ObjectRecord]]:
        """Settles all objects.

        Args:
            sights: the objects of the field in jobs where something may have changed
            jobs: those jobs with the positions that were looked at
            verdicts: what the objects carry by key

        Returns:
            number of the task, key, the object as settled now; the rest is in ``result``
        """
        self._findings = {id(job): ReviewFinding(job) for job, _ in jobs}
        given = dict(self.known)
        tasks = {sight.drawn.key: sight.task for sight in sights}
        before = self._shown_before(jobs)
        sights = self._without_replaced(sights)
        sights = [self._with_implied(sight) for sight in sights]
        self._find_parts(sights)
        self._find_redrawn(sights)
        sights = self._with_one_class(sights)
        settled = list(self.settle(sights, jobs, "unknown"))
        indices = {key: entry.index for _, key, entry in settled}
        by_key = {sight.drawn.key: sight for sight in sights}
        self._note_identities(sights, indices, given)
        self._note_visibility(by_key, indices, before, jobs)
        self._note_verdicts(by_key, indices, verdicts)
        for job, _ in jobs:
            finding = self._findings[id(job)]
            finding.edits, finding.touched = self._edits[id(job)], self._touched[id(job)]
            self.result.reviews.append((0, finding))
        # Masks in whose place people drew others are in CVAT still, and are known to be.
        return [*settled, *((tasks[key], key, _as_machine(given[key])) for key in sorted(self._replaced))]

    # --- before the identities are settled -------------------------------------------------------------------------

    def _without_replaced(self, sights: Sequence[Sight]) -> list[Sight]:
        """Leaves out propagated masks with whose index a person drew, or copied, another one on the same frame."""
        places: dict[tuple[int, int, str], list[Sight]] = defaultdict(list)
        for sight in sights:
            if not sight.drawn.is_track and len(sight.visible) == 1:
                known = self.known.get(sight.drawn.key)
                index = known.index if known is not None and sight.drawn.index in (0, known.claim) else None
                index = sight.drawn.index if index is None else index
                if index:
                    places[next(iter(sight.visible)), index, sight.drawn.label].append(sight)
        shapes: dict[tuple[int, str], set[int]] = defaultdict(set)
        for (position, index, _), found in places.items():
            for sight in found:
                shapes[index, shape_name(sight.drawn.keyframes[0])].add(position)
        copies: set[str] = set()
        for (_, index, _), found in places.items():
            new = [sight for sight in found if sight.drawn.key not in self.known]
            ours = [sight for sight in found if self._is_untouched(sight, by_machine=True)]
            people = [sight for sight in found if self._is_untouched(sight, by_machine=False)]
            if ours and len(ours) < len(found):
                self._replaced |= {sight.drawn.key for sight in ours}
            elif new and people:
                # What CVAT copied over a frame where a person had drawn the object is no word on that frame.
                copied = [s for s in new if len(shapes[index, shape_name(s.drawn.keyframes[0])]) > 1]
                copies |= {sight.drawn.key for sight in copied}
                if len(copied) < len(new):
                    self._replaced |= {sight.drawn.key for sight in people}
        if copies:
            logger.info(
                "%d copied masks lie on frames where people had drawn the object; they are left out.", len(copies)
            )
        return [sight for sight in sights if sight.drawn.key not in self._replaced | copies]

    def _is_untouched(self, sight: Sight, *, by_machine: bool) -> bool:
        """Whether a mask is as it went along, propagated or a person's of before."""
        known = self.known.get(sight.drawn.key)
        seen = [] if known is None else list(known.sightings.values())
        content = fingerprint(sight.drawn, sight.drawn.keyframes[0])
        return bool(seen) and all(
            (entry.machine is by_machine) and bool(entry.label_id) is not by_machine and entry.fingerprint == content
            for entry in seen
        )

    def _with_implied(self, sight: Sight) -> Sight:
        """A track with what it shows where keyframes of ours, or such ones of earlier looks, are no more."""
        known = self.known.get(sight.drawn.key)
        if known is None or not sight.drawn.is_track:
            return sight
        there = {sight.job.position_of(keyframe.frame) for keyframe in sight.drawn.keyframes}
        frames = {
            position: sight.job.start_frame + sight.job.positions.index(position)
            for place, seen in known.sightings.items()
            if (position := int(place)) in self.positions and position not in there
            if seen.machine or not (seen.label_id or seen.by_person)
        }
        if not frames:
            return sight
        keyframes = sight.drawn.keyframes
        shown = shown_by_cvat(
            [TrackShape(k.frame, k.points, k.outside, k.rotation) for k in keyframes],
            keyframes[0].shape_type,
            sorted(frames.values()),
        )
        made: dict[int, DrawnKeyframe] = {}
        for position, frame in frames.items():
            if frame in shown:
                left = max((k for k in keyframes if k.frame < frame), key=lambda k: k.frame)
                shape = shown[frame]
                made[position] = replace(left, frame=frame, points=shape.points, rotation=shape.rotation)
        if not made:
            return sight
        self._implied[sight.drawn.key] = made
        every = sorted([*keyframes, *made.values()], key=lambda keyframe: keyframe.frame)
        return replace(sight, drawn=replace(sight.drawn, keyframes=tuple(every)))

    def _find_parts(self, sights: Sequence[Sight]) -> None:
        """Finds the later parts of tracks that were split: they begin where another one ends, with its very shape."""
        ends = {
            (sight.drawn.label, keyframe.frame, shape_name(keyframe)): sight.drawn
            for sight in sights
            for keyframe in sight.drawn.keyframes
            if keyframe.outside
        }
        for sight in sights:
            drawn = sight.drawn
            first = next((k for k in drawn.keyframes if not k.outside), None)
            if drawn.key in self.known or not drawn.is_track or first is None:
                continue
            earlier = ends.get((drawn.label, first.frame, shape_name(first)))
            if earlier is not None and earlier.key != drawn.key:
                self._parts_of[drawn.key] = earlier.index

    def _find_redrawn(self, sights: Sequence[Sight]) -> None:
        """Knows again what people deleted and drew anew without giving it its number."""
        there = {sight.drawn.key for sight in sights} | self._replaced
        names = {
            (int(place), seen.shape)
            for key, entry in self.known.items()
            if key not in there
            for place, seen in entry.sightings.items()
            if seen.shape
        }
        for sight in sights:
            drawn = sight.drawn
            if drawn.key in self.known or drawn.index > 0 or drawn.label_field != self.schema.label_field:
                continue
            first = next((k for k in drawn.keyframes if not k.outside), None)
            position = None if first is None else sight.job.position_of(first.frame)
            if first is None or position is None or (position, shape_name(first)) in names:
                # What is there as it was is found by that.
                continue
            new = _bounds(new_label(drawn, first, self.record.size_at(position)))
            best, likeness = None, _REDRAWN
            for key, entry in self.known.items():
                if key in there or key.split(":")[0] != drawn.key.split(":")[0] or new is None:
                    continue
                old = self._label_of(entry, position, is_track=drawn.is_track)
                bounds = None if old is None or old.label != drawn.label else _bounds(old)
                if bounds is not None and (shared := box_iou(new, bounds)) >= likeness:
                    best, likeness = key, shared
            if best is not None:
                self.known = {**{k: v for k, v in self.known.items() if k != best}, drawn.key: self.known[best]}

    def _label_of(self, entry: ObjectRecord, position: int, *, is_track: bool) -> fo.Label | None:
        """What a person deleted was on a frame: a track on any, a mask on its own."""
        seen = entry.sightings.get(str(position))
        if seen is not None and seen.label_id:
            return self.existing.get(position, {}).get(seen.label_id)
        return self.propagated.get(position, {}).get(entry.index) if seen is not None or is_track else None

    def _with_one_class(self, sights: Sequence[Sight]) -> list[Sight]:
        """Gives all masks of an object in a job the class that a person gave one of them: they are one object."""
        given: dict[tuple[int, int], str] = {}
        for sight in sights:
            known = self.known.get(sight.drawn.key)
            if known is not None and not sight.drawn.is_track:
                was = next((seen.label for seen in known.sightings.values() if seen.label), sight.drawn.label)
                if was != sight.drawn.label:
                    given[id(sight.job), known.index] = sight.drawn.label
        if not given:
            return list(sights)
        found = []
        self._told = {
            (id(job), entry.index)
            for job in {id(sight.job): sight.job for sight in sights}.values()
            for entry in self.known.values()
            for place, seen in entry.sightings.items()
            if seen.label_id and int(place) in job.positions
        }
        for sight in sights:
            known = self.known.get(sight.drawn.key)
            label = None if known is None or sight.drawn.is_track else given.get((id(sight.job), known.index))
            if label is not None and label != sight.drawn.label:
                self._carried[sight.drawn.key] = sight.drawn.label
                sight = replace(sight, drawn=replace(sight.drawn, label=label))
            found.append(sight)
        return found

    # --- while they are settled ------------------------------------------------------------------------------------

    def _object(self, sight: Sight, index: int, outlines: _Outlines) -> ObjectRecord:
        drawn = sight.drawn
        before = self.known.get(drawn.key) or self._forebear(drawn.key, index)
        claim = before.claim if before is not None and drawn.index == 0 else drawn.index
        entry = ObjectRecord(self.schema.label_field, index, claim, before.part if before is not None else 0)
        looks = list(self._looks(sight, outlines))
        self._speaks_for_itself = not any(
            (look.seen is not None and look.seen.label_id) or look.by_person
            for look in looks
            if not look.keyframe.outside
        )
        for look in looks:
            if (drawn.key, look.position) in self._beside:
                entry.sightings[str(look.position)] = SightingRecord("", "")
                continue
            settled = self._keyframe(sight, look, index, outlines, False)
            if settled is not None:
                implied = look.position in self._implied.get(drawn.key, {})
                entry.sightings[str(look.position)] = replace(settled, machine=True) if implied else settled
        return entry

    def _looks(self, sight: Sight, outlines: _Outlines) -> Iterator[_Look]:
        for look in super()._looks(sight, outlines):
            # A person's end of a track stays theirs on every later look.
            is_theirs = look.keyframe.outside and look.seen is not None and look.seen.by_person
            yield replace(look, by_person=True) if is_theirs else look

    def _keyframe(
        self, sight: Sight, look: _Look, index: int, outlines: _Outlines, ended: bool
    ) -> SightingRecord | None:
        drawn, keyframe, seen = sight.drawn, look.keyframe, look.seen
        job = id(sight.job)
        if keyframe.outside:
            if not look.by_person:
                return seen
            return SightingRecord("", fingerprint(drawn, keyframe), {}, shape_name(keyframe), True, drawn.label)
        if (
            seen is None
            and drawn.key in self._heirs
            and drawn.key not in self._parts_of
            and _is_shown_anyway(drawn, keyframe)
        ):
            # What splitting a track and merging it again leaves behind.
            texts = attribute_texts(drawn, keyframe)
            return SightingRecord(
                "", fingerprint(drawn, keyframe), texts, shape_name(keyframe), False, drawn.label, True
            )
        is_renumbered = look.index is not None and look.index != index
        if seen is not None and seen.label_id and not look.has_changed and not is_renumbered:
            self._used.add(seen.label_id)
            return seen
        if seen is not None and seen.machine and not seen.label_id and not self._is_a_persons(sight, look, index):
            texts, label = attribute_texts(drawn, keyframe), self._carried.get(drawn.key, drawn.label)
            own = replace(drawn, label=label)
            return replace(seen, fingerprint=fingerprint(own, keyframe), attributes=texts, label=label)
        settled = super()._keyframe(sight, look, index, outlines, ended)
        if settled is not None:
            self._follow_class(sight, look, settled)
            self._touched[job].add(index)
            self._count(job, sight, look)
            if drawn.key in self._carried:
                own = replace(drawn, label=self._carried[drawn.key])
                settled = replace(settled, fingerprint=fingerprint(own, keyframe), label=own.label)
        return settled

    def _follow_class(self, sight: Sight, look: _Look, settled: SightingRecord) -> None:
        """Gives a label the class that its object got elsewhere meanwhile, where the reviewer left the class alone."""
        known = self.known.get(sight.drawn.key)
        if known is None or sight.drawn.key in self._carried:
            return
        was = {seen.label for seen in known.sightings.values() if seen.label}
        now = {
            label.label
            for place, seen in known.sightings.items()
            for label in [
                self.earlier.get(int(place), {}).get(seen.label_id)
                or self.existing.get(int(place), {}).get(seen.label_id)
            ]
            if label is not None
        }
        if was == {sight.drawn.label} and len(now) == 1:
            self.result.labels[look.position][settled.label_id].label = now.pop()

    def _is_a_persons(self, sight: Sight, look: _Look, index: int) -> bool:
        """Whether a propagated label that went along is a person's word by now."""
        is_renumbered = look.index is not None and look.index != index
        if look.by_person:
            return True
        if sight.drawn.is_track:
            # Its labels that people set carry a new number or class to the others, where it has some.
            return self._speaks_for_itself and (look.has_changed or is_renumbered)
        if sight.drawn.key in self._carried:
            return False
        seen = look.seen
        if not is_renumbered and seen is not None and (id(sight.job), index) in self._told:
            # Its class alone is news.
            return bool(attribute_texts(sight.drawn, look.keyframe) != seen.attributes)
        return look.has_changed or is_renumbered

    def _count(self, job: int, sight: Sight, look: _Look) -> None:
        seen, keyframe = look.seen, look.keyframe
        if sight.drawn.key in self._carried or (seen is None and sight.drawn.key in self._parts_of):
            return
        if seen is None:
            begun = sight.drawn.key in self.known or sight.drawn.key in self._heirs
            self._edits[job]["moved" if begun else "drawn"] += 1
        elif seen.shape != shape_name(keyframe):
            self._edits[job]["moved" if keyframe.shape_type == "rectangle" else "redrawn"] += 1
        elif any(seen.attributes.get(k, v) != v for k, v in attribute_texts(sight.drawn, keyframe).items()):
            self._edits[job]["attributes"] += 1

    def _source(self, job: JobRecord, look: _Look, label: fo.Label, index: int) -> str | None:
        # A label that came of what was propagated is a person's own from here on.
        if look.seen is None or not look.seen.label_id:
            return SOURCE_MANUAL
        return super()._source(job, look, label, index)

    def _label_id(self, seen: SightingRecord | None, place: str, name: str, job: JobRecord, position: int) -> str:
        found = super()._label_id(seen, place, name, job, position)
        there = self.existing.get(position, {})
        if found in there:
            return found
        # The user's own label of the object, which nobody sent: what a person says of the object is said of it.
        own = self._identities.own_index(int(place.split(":")[0]))
        mine = (
            label
            for label_id, label in there.items()
            if label.index == own and label_id not in self._used and label_id not in self.result.places
        )
        label = next(mine, None)
        if label is None:
            return found
        if label.get_attribute_value("keyframe", None) is True:
            # Somebody set it since the review went out, or in another run.
            before = label.copy()
            before.id = label.id
            self.result.conflicts.append(Conflict(position, before, REVIEW_COUNTS))
        return str(label.id)

    # --- when they are settled -------------------------------------------------------------------------------------

    def _note_identities(
        self, sights: Sequence[Sight], indices: Mapping[str, int], given: Mapping[str, ObjectRecord]
    ) -> None:
        """Counts new numbers and classes, splits, merges and deletions, and where later parts of tracks begin."""
        there = {sight.drawn.key for sight in sights} | self._replaced
        keyframes = {
            (sight.drawn.key, sight.job.position_of(keyframe.frame))
            for sight in sights
            for keyframe in sight.drawn.keyframes
        }
        for place, gone in self.result.removed.items():
            for key, entry in given.items():
                seen = entry.sightings.get(str(place))
                finding = self._finding_of(entry) if seen is not None and seen.label_id in gone else None
                if finding is not None:
                    self._touched[id(finding.job)].add(entry.index)
                    if key.startswith("track:") and key in there and (key, place) not in keyframes:
                        self._edits[id(finding.job)]["keyframes removed"] += 1
        for sight in sights:
            drawn, job = sight.drawn, id(sight.job)
            old = self.known.get(drawn.key)
            owners = {self.known[key].index for key in self._heirs.get(drawn.key, {}).values() if key in self.known}
            first = next((k for k in drawn.keyframes if not k.outside), None)
            if drawn.key in self._parts_of and first is not None:
                self._edits[job]["split"] += 1
                self._touched[job].add(indices[drawn.key])
                position = sight.job.position_of(first.frame)
                number = sight.job.segment
                if position is not None and position > self.record.segments[number].start:
                    self._findings[job].hidden.append([indices[drawn.key], position - 1])
            elif len(owners) > 1:
                self._edits[job]["merged"] += 1
                self._touched[job] |= {*owners, indices[drawn.key]}
            if old is not None and old.index != indices[drawn.key]:
                self._edits[job]["re-indexed"] += 1
                self._touched[job] |= {old.index, indices[drawn.key]}
            was = next((seen.label for seen in old.sightings.values() if seen.label), "") if old is not None else ""
            if was not in ("", drawn.label) and drawn.key not in self._carried:
                self._edits[job]["relabelled"] += 1
                self._touched[job].add(indices[drawn.key])
        taken_over = {key for places in self._heirs.values() for key in places.values()}
        renamed = {id(entry) for key, entry in self.known.items() if key not in given}
        for key, entry in given.items():
            finding = self._finding_of(entry)
            if key in there or key in taken_over or id(entry) in renamed or finding is None:
                continue
            if any(_was_shown(seen) for seen in entry.sightings.values()):
                self._edits[id(finding.job)]["deleted"] += 1
                self._touched[id(finding.job)].add(entry.index)

    def _finding_of(self, entry: ObjectRecord) -> ReviewFinding | None:
        """The job that an object of earlier looks is in, if it is one of those that were looked at now."""
        positions = {int(place) for place in entry.sightings}
        return next((f for f in self._findings.values() if not positions.isdisjoint(f.job.positions)), None)

    def _shown_before(self, jobs: Sequence[tuple[JobRecord, frozenset[int]]]) -> dict[int, set[tuple[int, int]]]:
        """By job, ``(index, position)`` that were shown to people, or by them, when it was last looked at."""
        found: dict[int, set[tuple[int, int]]] = defaultdict(set)
        for key, entry in self.known.items():
            marks = [
                TrackKeyframe(int(place), not _was_shown(seen), seen.by_person)
                for place, seen in entry.sightings.items()
            ]
            for job, kept in jobs:
                own = [mark for mark in marks if mark.frame in job.positions]
                if own:
                    shown = shown_positions(own, sorted(kept), key.startswith("track:"))
                    found[id(job)] |= {(entry.index, position) for position in shown}
        return found

    def _note_visibility(
        self,
        sights: Mapping[str, Sight],
        indices: Mapping[str, int],
        before: Mapping[int, set[tuple[int, int]]],
        jobs: Sequence[tuple[JobRecord, frozenset[int]]],
    ) -> None:
        now: dict[int, set[tuple[int, int]]] = defaultdict(set)
        kept = {id(job): sorted(positions) for job, positions in jobs}
        for key, sight in sights.items():
            marks = [
                TrackKeyframe(look.position, look.keyframe.outside, look.by_person)
                for look in self._looks(sight, _Outlines())
            ]
            shown = shown_positions(marks, kept[id(sight.job)], sight.drawn.is_track)
            now[id(sight.job)] |= {(indices[key], position) for position in shown}
        for job, _ in jobs:
            finding, was, is_now = self._findings[id(job)], before.get(id(job), set()), now[id(job)]
            if self.schema.allows("deletions"):
                gone = _with_gaps(sorted(was - is_now), kept[id(job)])
                finding.hidden += [[index, position] for index, position in gone]
                tracks = {indices[key] for key, s in sights.items() if s.job is job and s.drawn.is_track}
                for index in {index for index, _ in was - is_now}:
                    if index in tracks - set(self._parts_of.values()):
                        self._edits[id(job)]["absent"] += 1
                    self._touched[id(job)].add(index)
            finding.hidden += self._around_renumbered(job, sights, indices, is_now)
            finding.shown += [[index, position] for index, position in sorted(is_now - was)]
            self._touched[id(job)] |= {index for index, _ in is_now - was}

    def _around_renumbered(
        self, job: JobRecord, sights: Mapping[str, Sight], indices: Mapping[str, int], now: set[tuple[int, int]]
    ) -> list[list[int]]:
        """Where masks that got another number end: their neighbours were seen, and left to the object they were of."""
        segment = self.record.segments[job.segment]
        found = []
        for key, sight in sights.items():
            known = self.known.get(key)
            if sight.job is not job or sight.drawn.is_track or known is None or known.index == indices[key]:
                continue
            for position in sight.visible:
                for beside in (position - 1, position + 1):
                    is_left = (known.index, beside) in now and (indices[key], beside) not in now
                    if is_left and segment.start <= beside < segment.stop:
                        found.append([indices[key], beside])
        return found

    def _note_verdicts(
        self, sights: Mapping[str, Sight], indices: Mapping[str, int], verdicts: Mapping[str, str]
    ) -> None:
        said: dict[tuple[int, int], list[str]] = defaultdict(list)
        for key, sight in sights.items():
            said[id(sight.job), indices[key]].append(verdicts.get(key, UNREVIEWED))
        for (job, index), found in said.items():
            self._findings[job].verdicts[index] = strongest(found)


def _is_shown_anyway(drawn: DrawnObject, keyframe: DrawnKeyframe) -> bool:
    """Whether CVAT would show just the same on a keyframe's frame if the keyframe were not there."""
    others = [k for k in drawn.keyframes if k.frame != keyframe.frame]
    left = max((k for k in others if k.frame < keyframe.frame), key=lambda k: k.frame, default=None)
    if left is None or (left.occluded, left.attributes) != (keyframe.occluded, keyframe.attributes):
        return False
    shapes = [TrackShape(k.frame, k.points, k.outside, k.rotation) for k in others]
    there = shown_by_cvat(shapes, keyframe.shape_type, [keyframe.frame]).get(keyframe.frame)
    return (
        there is not None
        and len(there.points) == len(keyframe.points)
        and all(abs(a - b) < _SAME for a, b in zip(there.points, keyframe.points, strict=True))
        and abs(there.rotation - keyframe.rotation) < _SAME
    )


def _as_machine(entry: ObjectRecord) -> ObjectRecord:
    """A mask in whose place a person drew another: it is in CVAT still, and nobody's word any more."""
    sightings = {place: replace(seen, label_id="", machine=True) for place, seen in entry.sightings.items()}
    return replace(entry, sightings=sightings)


def _was_shown(seen: SightingRecord) -> bool:
    return bool(seen.label_id) or seen.machine


def shown_positions(marks: Sequence[TrackKeyframe], positions: Sequence[int], is_track: bool) -> set[int]:
    """Where an object is shown, by what people mean.

    CVAT shows a track again at the next keyframe after one that hides it; an object that a person hid stays hidden
    until the next keyframe that a person had a hand in.

    Args:
        marks: its keyframes, or the frame of a shape that is no track, by position
        positions: the frames of the job, ascending
        is_track: whether CVAT shows it between its keyframes
    """
    if not is_track:
        return {mark.frame for mark in marks if not mark.outside}.intersection(positions)
    by_position = {mark.frame: mark for mark in marks}
    found: set[int] = set()
    is_shown = is_over = False
    for position in sorted({*positions, *by_position}):
        mark = by_position.get(position)
        if mark is not None and mark.outside:
            is_shown, is_over = False, is_over or mark.by_person
        elif mark is not None and (mark.by_person or not is_over):
            is_shown, is_over = True, False
        if is_shown:
            found.add(position)
    return found.intersection(positions)


def _with_gaps(places: Sequence[tuple[int, int]], positions: Sequence[int]) -> Iterator[tuple[int, int]]:
    """``(index, position)``, and the frames between two that follow each other in a job which does not hold all."""
    order = {position: place for place, position in enumerate(positions)}
    last: tuple[int, int] | None = None
    for index, position in places:
        if last is not None and last[0] == index and order[position] == order[last[1]] + 1:
            yield from ((index, between) for between in range(last[1] + 1, position))
        yield index, position
        last = index, position


def _bounds(label: fo.Label | None) -> Box | None:
    """The box around a label, relative to the frame: left, top, right, bottom."""
    if isinstance(label, fo.Detection) and label.bounding_box:
        x, y, width, height = label.bounding_box
        return x, y, x + width, y + height
    if isinstance(label, fo.Polyline) and any(label.points):
        xs, ys = zip(*(point for ring in label.points for point in ring), strict=True)
        return min(xs), min(ys), max(xs), max(ys)
    return None


def unite(first: CollectedField, review: CollectedField) -> None:
    """Adds what reviewers did to what was collected before, in place; where both changed a label, theirs counts.

    The other version is kept as a conflict. A label that one deleted and the other changed stays, for it is the less
    that is lost.

    Args:
        first: what annotation jobs, and earlier reviews, hold; changed
        review: what the jobs of a later review hold
    """
    gone = {label_id for ids in first.removed.values() for label_id in ids}
    for position, labels in review.labels.items():
        for label_id, label in labels.items():
            old = first.labels.get(position, {}).get(label_id)
            if old is not None and label_id not in first.unchanged:
                first.conflicts.append(Conflict(position, old, REVIEW_COUNTS))
            if label_id in gone:
                first.removed[position].discard(label_id)
                logger.warning("A label that one person deleted and another changed stays (%s).", label_id)
            first.unchanged.discard(label_id)
            first.finished.discard(label_id)
            first.labels.setdefault(position, {})[label_id] = label
            if label_id in review.unchanged:
                first.unchanged.add(label_id)
            if label_id in review.finished:
                first.finished.add(label_id)
    for position, finishes in review.finishes.items():
        first.finishes.setdefault(position, {}).update(finishes)
    for position, ids in review.removed.items():
        for label_id in ids:
            there = first.labels.get(position, {}).get(label_id)
            if there is not None and label_id not in first.unchanged:
                logger.warning("A label that one person changed and a reviewer deleted stays (%s).", label_id)
                continue
            first.labels.get(position, {}).pop(label_id, None)
            first.finishes.get(position, {}).pop(label_id, None)
            first.unchanged.discard(label_id)
            first.removed.setdefault(position, set()).add(label_id)
    first.removed = {position: ids for position, ids in first.removed.items() if ids}
    first.label_ids, first.places, first.instances = review.label_ids, review.places, review.instances
    first.next_index = max(first.next_index, review.next_index)
    first.reviews += review.reviews
    first.conflicts += review.conflicts


__all__ = ["ANNOTATION_COUNTS", "REVIEW_COUNTS", "ReviewSettler", "shown_positions", "strongest", "unite"]
