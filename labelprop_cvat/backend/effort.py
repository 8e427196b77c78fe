"""What people did in CVAT, counted from what came back beside what was sent, and what it cost them."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import fiftyone as fo

from labelprop_cvat.backend.keyframes import labels_at, propagated_schema
from labelprop_cvat.backend.ledger import (
    NO_POSITION,
    Ledger,
    ObjectRecord,
    RoundRecord,
    SequenceRecord,
    SightingRecord,
    TaskRecord,
)
from labelprop_cvat.backend.rounds import Collected, CollectedField
from labelprop_cvat.backend.rounds.found import ReviewFinding
from labelprop_cvat.backend.schema import FieldSchema, RunSchema
from labelprop_cvat.errors import DataError
from labelprop_cvat.labels import detection_to_box, detection_to_mask, label_to_prompt
from labelprop_cvat.propagation.effort import Actions, EffortModel
from labelprop_cvat.propagation.metrics import jaccard
from labelprop_cvat.propagation.types import rasterize

# Coordinates that differ by less, as a part of the frame, are the same: CVAT and FiftyOne round differently.
_SAME = 1e-5

_ASSUMED = EffortModel()
_UNSEEN_EDIT = Actions(edited=1, located=1, clicks=round(_ASSUMED.edit_clicks))
_UNSEEN_MASK_EDIT = Actions(edited=1, located=1, redrawn=_ASSUMED.edit_share)

What = Literal["drawn", "edited", "renamed", "deleted", "absent"]


@dataclass(frozen=True)
class Effort:
    """What one round cost.

    Args:
        round: its number in the ledger
        actions: what people did in those of its jobs that were collected
        modelled_minutes: how long that takes by an :class:`~labelprop_cvat.propagation.effort.EffortModel`
        measured_minutes: how long people worked in the round's jobs by CVAT's own record; None where CVAT keeps none,
            or does not show all of it to this login
    """

    round: int
    actions: Actions
    modelled_minutes: float
    measured_minutes: float | None = None


@dataclass
class Counts:
    """What people did since the ledger's last look, on its way into the ledger.

    A killed load may have brought labels to FiftyOne, or changes to the ledger, that the next one does not see as
    changes any more. So what was done is written down before anything is merged (:meth:`note`), with every field that
    is committed (:meth:`take`), and becomes part of the round with the commit of its jobs (:meth:`settle`); each
    belongs to a save of the ledger.

    Args:
        by_field: number of the round -> label field -> what was done, looking at frames aside
        touched: likewise, ``(number of the task, position)`` of frames on which something was done
        opened: number of the round -> ``(number of the task, position)`` of frames of jobs never collected before
    """

    by_field: dict[int, dict[str, Actions]] = field(default_factory=dict)
    touched: dict[int, dict[str, set[tuple[int, int]]]] = field(default_factory=dict)
    opened: dict[int, set[tuple[int, int]]] = field(default_factory=dict)

    def total(self, number: int) -> Actions:
        """All that was done in a round since the last look."""
        seen = self.opened.get(number, set()).union(*self.touched.get(number, {}).values())
        return sum(self.by_field.get(number, {}).values(), Actions(examined=len(seen)))

    def note(self, ledger: Ledger) -> None:
        """Writes down what was found. What a killed load found of the same changes was compared with labels that were
        still as people had them, so that the larger of both counts."""
        for round_ in ledger.rounds:
            for label_field, done in self.by_field.get(round_.number, {}).items():
                held = _Pending.of(round_, label_field)
                held.fresh = held.fresh.at_least(done)
                held.touched |= self.touched.get(round_.number, {}).get(label_field, set())
                held.write()

    def take(self, ledger: Ledger, label_field: str) -> None:
        """Notes that the changes of a field are committed: the next look does not find them again."""
        for round_ in ledger.rounds:
            if label_field in self.by_field.get(round_.number, {}):
                held = _Pending.of(round_, label_field)
                held.taken, held.fresh = held.taken + held.fresh, Actions()
                held.write()

    def settle(self, ledger: Ledger, *, reviews: bool = True) -> None:
        """Adds what was done to the rounds, once all jobs are committed.

        Args:
            ledger: changed
            reviews: whether those of reviews are; otherwise the next look finds them again
        """
        for round_ in ledger.rounds:
            if round_.is_review and not reviews:
                continue
            seen = set(self.opened.get(round_.number, ()))
            done = Actions()
            for label_field in list(round_.pending):
                held = _Pending.of(round_, label_field)
                done += held.taken
                if label_field in self.by_field.get(round_.number, {}):
                    done += held.fresh
                    seen |= held.touched
                    del round_.pending[label_field]
                else:
                    # Changes in jobs that people opened again; when these come back, they are found again.
                    held.taken = Actions()
                    held.write()
            done += Actions(examined=len(seen))
            if done:
                round_.actions = (Actions.from_dict(round_.actions) + done).to_dict()


@dataclass
class _Pending:
    """What the ledger holds of one field of a round while a load is going on.

    Args:
        round: the round
        label_field: the field
        taken: what was done of what the ledger has taken over
        fresh: what was done of what the ledger has still to take over
        touched: ``(number of the task, position)`` of frames on which something was done
    """

    round: RoundRecord
    label_field: str
    taken: Actions
    fresh: Actions
    touched: set[tuple[int, int]]

    @classmethod
    def of(cls, round_: RoundRecord, label_field: str) -> _Pending:
        held = round_.pending.get(label_field, {})
        taken, fresh = (Actions.from_dict(held.get(name, {})) for name in ("taken", "fresh"))
        return cls(round_, label_field, taken, fresh, {(number, place) for number, place in held.get("touched", ())})

    def write(self) -> None:
        if not self.taken and not self.fresh:
            self.round.pending.pop(self.label_field, None)
            return
        self.round.pending[self.label_field] = {
            "taken": self.taken.to_dict(),
            "fresh": self.fresh.to_dict(),
            "touched": [list(place) for place in sorted(self.touched)],
        }


@dataclass(frozen=True)
class _Change:
    """What happened to one object on one frame; ``label_id`` is its label in FiftyOne, where it has one, and ``index``
    the number that it had in CVAT before."""

    what: What
    place: int
    label_id: str = ""
    index: int = 0


def count_actions(
    samples: fo.core.collections.SampleCollection,
    ledger: Ledger,
    collected: Collected,
    schema: RunSchema,
    *,
    missing: str = "unknown",
) -> Counts:
    """Counts what people did since the ledger's last look.

    To be called between :func:`~labelprop_cvat.backend.rounds.collect_round` and the merge: it compares the ledger, and
    the labels in FiftyOne, as they were with what was collected. Jobs in which nothing changed since they were last
    collected count nothing.

    CVAT shows a track on every frame from its first keyframe on, so that every further one is an edit.

    Args:
        samples: where the labels are
        ledger: as it was before; not changed
        collected: what was found
        schema: what the run annotates
        missing: what an object that is missing on an exemplar means; with ``"absent"`` nobody has to say so
    """
    rounds = [round_.number for round_ in ledger.rounds for _ in round_.tasks]
    tasks = list(ledger.tasks())
    counts = Counts()
    for number, (positions, opened) in _worked_on(ledger, collected).items():
        task = tasks[number]
        record, found = ledger.sequences[task.sequence], collected.sequences[task.sequence]
        counts.opened.setdefault(rounds[number], set()).update((number, position) for position in opened)
        done = counts.by_field.setdefault(rounds[number], {})
        touched = counts.touched.setdefault(rounds[number], {})
        for entry in schema:
            settled = found.fields[entry.label_field]
            offered = _offered(task, entry)
            before = _of_field(task.objects, entry, positions, offered)
            after = _of_field(found.objects.get(number, {}), entry, positions)
            said = _absences(record, settled, entry, before, after, positions, offered, missing)
            changes = [*_changes(before, after), *said]
            held = _held(samples, record, task, entry, changes)
            done.setdefault(entry.label_field, Actions())
            for change in changes:
                new = settled.labels.get(change.place, {}).get(change.label_id)
                old = held.get(change.label_id) or held.get((change.index, change.place))
                counted = _actions(change, entry, old, new, record.size_at(change.place))
                done[entry.label_field] += counted
                touched.setdefault(entry.label_field, set()).add((number, change.place))
    _count_reviews(samples, ledger, collected, schema, counts)
    return counts


def _worked_on(ledger: Ledger, collected: Collected) -> dict[int, tuple[set[int], set[int]]]:
    """By number of the task, the positions of jobs with news, and those among them of jobs never collected before."""
    numbers = {id(task): number for number, task in enumerate(ledger.tasks())}
    found: dict[int, tuple[set[int], set[int]]] = {}
    for done in collected.finished:
        job = done.job
        if done.is_review or (job.collected and job.digest == done.digest):
            continue
        positions, opened = found.setdefault(numbers[id(done.task)], (set(), set()))
        own = set(job.positions) - {NO_POSITION, *done.deleted}
        positions |= own
        opened |= set() if job.collected else own
    return found


def _offered(task: TaskRecord, schema: FieldSchema) -> set[tuple[int, int]]:
    """``(index, position)`` of propagated labels that went along to be corrected."""
    return {(index, place) for job in task.jobs for index, place in job.offered.get(schema.label_field, ())}


def _held(
    samples: fo.core.collections.SampleCollection,
    record: SequenceRecord,
    task: TaskRecord,
    schema: FieldSchema,
    changes: Sequence[_Change],
) -> dict[str | tuple[int, int], fo.Label]:
    """The labels that people found where they changed something: by id, offered ones by ``(index, position)``."""
    held: dict[str | tuple[int, int], fo.Label] = {}
    for labels in labels_at(samples, record, schema, {change.place for change in changes}).values():
        held.update({label.id: label for label in labels if isinstance(label, fo.Label)})
    output = task.offers.get(schema.label_field)
    offered = _offered(task, schema) & {(change.index, change.place) for change in changes}
    if output is not None and offered:
        there = propagated_schema(schema, output)
        for place, labels in labels_at(samples, record, there, {place for _, place in offered}).items():
            held.update({(label.index, place): label for label in labels if (label.index, place) in offered})
    return held


# The sightings of one field by key and position, each with the number of its object.
_Seen = dict[str, dict[int, tuple[SightingRecord, int]]]


def _of_field(
    objects: Mapping[str, ObjectRecord],
    schema: FieldSchema,
    positions: set[int],
    offered: Collection[tuple[int, int]] = (),
) -> _Seen:
    """The sightings of one field, without marks of this package's own, which are no labels and were not offered."""
    found: _Seen = {}
    for key, entry in objects.items():
        if entry.label_field == schema.label_field:
            seen = {int(place): sighting for place, sighting in entry.sightings.items() if int(place) in positions}
            found[key] = {
                place: (sighting, entry.index)
                for place, sighting in seen.items()
                if sighting.label_id or not schema.kind.has_index or (entry.index, place) in offered
            }
    return found


def _changes(before: _Seen, after: _Seen) -> Iterator[_Change]:
    """What people did to shapes, but for saying that an object is not there."""
    lost = {
        (place, seen.label_id): (seen, index)
        for key, sightings in before.items()
        for place, (seen, index) in sightings.items()
        if place not in after.get(key, {}) and seen.label_id
    }
    back: set[tuple[int, str]] = set()
    for key, sightings in after.items():
        # One without sightings is known from a look that was cut off.
        begun = bool(before.get(key))
        for place, (seen, _) in sorted(sightings.items()):
            old, index = before.get(key, {}).get(place, (None, 0))
            twin = lost.get((place, seen.label_id))
            if old is None and twin is not None:
                # Split, merged or undone, an object goes on under another number.
                back.add((place, seen.label_id))
                (old, index), begun = twin, True
            if old is None:
                is_edit = key.startswith("track:") and begun
                yield _Change("edited" if is_edit else "drawn", place, seen.label_id)
            elif old.fingerprint != seen.fingerprint and old.shape != seen.shape:
                yield _Change("edited", place, seen.label_id, index)
            elif old.fingerprint != seen.fingerprint and (twin is None or old.attributes != seen.attributes):
                yield _Change("renamed", place, seen.label_id, index)
            begun = True
    for key, sightings in before.items():
        for place, (seen, index) in sightings.items():
            if place not in after.get(key, {}) and (place, seen.label_id) not in back and not _is_alive(key, after):
                yield _Change("deleted", place, seen.label_id, index)


def _is_alive(key: str, after: _Seen) -> bool:
    """Whether a track is there still: what it lost then, it lost to an ``outside``."""
    return key.startswith("track:") and bool(after.get(key))


def _absences(
    record: SequenceRecord,
    settled: CollectedField,
    schema: FieldSchema,
    before: _Seen,
    after: _Seen,
    positions: set[int],
    offered: set[tuple[int, int]],
    missing: str,
) -> Iterator[_Change]:
    """Where people said that an object is not there."""
    ended = {
        (place, seen.label_id)
        for key, sightings in before.items()
        if _is_alive(key, after)
        for place, (seen, _) in sightings.items()
        if place not in after[key]
    }
    yield from (_Change("absent", place, label_id) for place, label_id in sorted(ended))
    if missing == "absent" or not schema.kind.has_index:
        return
    shown = {place: set(labels) for place, labels in settled.labels.items()}
    for number, said in settled.absences.items():
        # What was offered and is gone was deleted; that it is absent then, nobody had to say.
        known = {(index, place) for index, place in record.segments[number].fill(schema.label_field).absences} | offered
        for index, place in said:
            is_shown = settled.label_ids.get(f"{index}:{place}") in shown.get(place, ())
            is_told = any(place == there for there, _ in ended)
            if place in positions and (index, place) not in known and not is_shown and not is_told:
                yield _Change("absent", place)


def _actions(
    change: _Change, schema: FieldSchema, old: fo.Label | None, new: fo.Label | None, size: tuple[int, int]
) -> Actions:
    if change.what == "drawn":
        return _drawing(new, schema)
    if change.what == "renamed" or schema.kind.shape == "tag":
        return Actions(attributes=1, located=int(schema.kind.shape != "tag"))
    if change.what == "deleted":
        return Actions(deleted=1, located=1)
    if change.what == "absent":
        return Actions(absent=1, located=1)
    return _editing(old, new, size)


# --- reviews --------------------------------------------------------------------------------------------------------

# What a reviewer does that is no matter of how much of a shape changed, by the name that collecting it gives.
_SAID = {
    "attributes": Actions(attributes=1, located=1),
    "relabelled": Actions(attributes=1, located=1),
    "re-indexed": Actions(attributes=1, located=1),
    "verdicts": Actions(attributes=1),
    "split": Actions(clicks=1, located=1),
    "merged": Actions(clicks=2, located=1),
    "deleted": Actions(deleted=1, located=1),
    "issues resolved": Actions(clicks=1),
}


def _count_reviews(
    samples: fo.core.collections.SampleCollection,
    ledger: Ledger,
    collected: Collected,
    schema: RunSchema,
    counts: Counts,
) -> None:
    """Counts what reviewers did."""
    numbers = {id(job): number for number, task in enumerate(ledger.tasks()) for job in task.jobs}
    tasks = list(ledger.tasks())
    for done in collected.finished:
        if done.is_review and not done.job.collected:
            round_ = next(r for r in ledger.reviews() if any(task is done.task for task in r.tasks))
            seen = set(done.job.positions) - {NO_POSITION, *done.deleted}
            number = numbers[id(done.job)]
            counts.opened.setdefault(round_.number, set()).update((number, position) for position in seen)
    for key, found in collected.sequences.items():
        for label_field, settled in found.fields.items():
            for round_number, finding in settled.reviews:
                number = numbers[id(finding.job)]
                looked = _ReviewedField(
                    tasks[number], schema[label_field], settled, finding, found.objects.get(number, {})
                )
                actions, places = looked.count(samples, ledger.sequences[key])
                done_in = counts.by_field.setdefault(round_number, {})
                done_in[label_field] = done_in.get(label_field, Actions()) + actions
                touched = counts.touched.setdefault(round_number, {}).setdefault(label_field, set())
                touched.update((number, place) for place in places)


@dataclass(frozen=True)
class _ReviewedField:
    """One label field in one review job.

    Args:
        task: the task of the job, with its objects as they were when it was last looked at
        schema: what the run annotates in the field
        settled: what was collected of the field
        finding: what was found in the job
        objects: the objects of the task as they are now
    """

    task: TaskRecord
    schema: FieldSchema
    settled: CollectedField
    finding: ReviewFinding
    objects: Mapping[str, ObjectRecord]

    def count(self, samples: fo.core.collections.SampleCollection, record: SequenceRecord) -> tuple[Actions, set[int]]:
        """What was done, and the positions where shapes changed."""
        total = Actions()
        for what, times in self.finding.edits.items():
            for _ in range(times if what in _SAID else 0):
                total += _SAID[what]
        before, after = self._own(self.task.objects), self._own(self.objects)
        changes = list(self._shapes(before, after))
        held = self._held(samples, record, changes)
        for change in changes:
            if change.what == "absent":
                total += Actions(absent=1, located=1)
                continue
            new = self.settled.labels.get(change.place, {}).get(change.label_id)
            if new is None:
                # A keyframe that a person took away.
                total += Actions(edited=1, located=1, clicks=1)
            elif change.what == "drawn":
                total += _drawing(new, self.schema)
            else:
                old = held.get(change.label_id) or held.get((change.index, change.place))
                total += _editing(old, new, record.size_at(change.place))
        return total, {change.place for change in changes}

    def _own(self, objects: Mapping[str, ObjectRecord]) -> dict[str, tuple[int, dict[int, SightingRecord]]]:
        """Index and sightings of the objects of this field and job, by key."""
        inside = set(self.finding.job.positions)
        found = {}
        for key, entry in objects.items():
            seen = {int(place): sighting for place, sighting in entry.sightings.items() if int(place) in inside}
            if entry.label_field == self.schema.label_field and seen:
                found[key] = (entry.index, seen)
        return found

    def _shapes(
        self,
        before: Mapping[str, tuple[int, Mapping[int, SightingRecord]]],
        after: Mapping[str, tuple[int, Mapping[int, SightingRecord]]],
    ) -> Iterator[_Change]:
        indices = {index for index, _ in before.values()}
        # Shapes that went on under another id: restored, redrawn in the place of another, parts of tracks.
        there = {
            (index, place): seen
            for index, sightings in before.values()
            for place, seen in sightings.items()
            if _shows(seen)
        }
        cuts = {
            (place, seen.shape)
            for _, sightings in after.values()
            for place, seen in sightings.items()
            if not _shows(seen)
        }
        was_cut = bool(self.finding.edits["split"] or self.finding.edits["merged"])
        for key, (index, sightings) in after.items():
            is_track, is_known = key.startswith("track:"), key in before
            was_index, was = before.get(key, (index, {}))
            first = next(((place, seen.shape) for place, seen in sorted(sightings.items()) if _shows(seen)), None)
            if is_track and not is_known and was_cut and (index in indices or first in cuts):
                # What tracks are made of that were split or merged, nobody drew.
                continue
            begun = is_known or (is_track and index in indices)
            for place, seen in sorted(sightings.items()):
                old = was.get(place) if is_known else there.get((index, place))
                if not _shows(seen):
                    if is_track and seen.by_person and (old is None or old.shape != seen.shape or _shows(old)):
                        yield _Change("absent", place)
                elif old is not None and _shows(old):
                    if old.shape != seen.shape:
                        yield _Change("edited", place, seen.label_id, was_index)
                else:
                    yield _Change("edited" if begun and is_track else "drawn", place, seen.label_id, was_index)
                begun = begun or _shows(seen)

    def _held(
        self, samples: fo.core.collections.SampleCollection, record: SequenceRecord, changes: Sequence[_Change]
    ) -> dict[str | tuple[int, int], fo.Label]:
        """The labels that people found where they changed something: their own by id, others by index and position."""
        places = {change.place for change in changes if change.label_id}
        held: dict[str | tuple[int, int], fo.Label] = {}
        for labels in labels_at(samples, record, self.schema, places).values():
            held.update({label.id: label for label in labels if isinstance(label, fo.Label)})
        output = self.task.offers.get(self.schema.label_field)
        if output is not None:
            there = propagated_schema(self.schema, output)
            for place, labels in labels_at(samples, record, there, places).items():
                held.update({(label.index, place): label for label in labels if label.index is not None})
        return held


def _shows(seen: SightingRecord) -> bool:
    """Whether an object was seen there, as opposed to a keyframe that hides it."""
    return bool(seen.label_id) or seen.machine


def _drawing(label: fo.Label | None, schema: FieldSchema) -> Actions:
    """What it takes to draw a label where there was none."""
    if isinstance(label, fo.Detection):
        return Actions(masks=1) if label.has_mask else Actions(boxes=1)
    if isinstance(label, fo.Polyline):
        return Actions(polygons=1, points=sum(len(ring) for ring in label.points))
    if isinstance(label, fo.Keypoint):
        return Actions(points=len(_points(label)))
    if schema.kind.shape == "tag":
        return Actions(attributes=1)
    return Actions(masks=1)


def _editing(old: fo.Label | None, new: fo.Label | None, size: tuple[int, int]) -> Actions:
    """What it takes to make one label of the other."""
    try:
        return _seen_edit(old, new, size)
    except DataError:
        # A label whose box or mask cannot be read is no reason to lose what people drew.
        return _unseen_edit(new)


def _seen_edit(old: fo.Label | None, new: fo.Label | None, size: tuple[int, int]) -> Actions:
    if isinstance(old, fo.Detection) and isinstance(new, fo.Detection):
        if not new.has_mask:
            return Actions(edited=1, located=1, clicks=_dragged(old, new, size))
        was, became = detection_to_mask(old, size), detection_to_mask(new, size)
        if was is not None and became is not None:
            return Actions(edited=1, located=1, redrawn=1.0 - jaccard(was, became))
    if isinstance(old, fo.Detection) and isinstance(new, fo.Polyline) and (was := detection_to_mask(old, size)):
        # What people saw was the outline of a mask: as large a part of its corners moved as is drawn anew.
        prompt = label_to_prompt(new, frame=0, object_id=1, size=size)
        if prompt.polygon is not None:
            share = 1.0 - jaccard(was, rasterize(prompt.polygon, size))
            return Actions(edited=1, located=1, clicks=max(1, round(share * len(_points(new)))))
    if isinstance(new, fo.Polyline | fo.Keypoint) and isinstance(old, type(new)):
        there, wanted = _points(old), _points(new)
        moved = sum(1 for point in wanted if not any(_is_near(point, other) for other in there))
        return Actions(edited=1, located=1, clicks=max(1, moved))
    return _unseen_edit(new)


def _unseen_edit(new: fo.Label | None) -> Actions:
    is_mask = isinstance(new, fo.Segmentation) or (isinstance(new, fo.Detection) and new.has_mask)
    return _UNSEEN_MASK_EDIT if is_mask else _UNSEEN_EDIT


def _dragged(old: fo.Detection, new: fo.Detection, size: tuple[int, int]) -> int:
    """How many drags make one box of the other: one where a corner, or the whole box, moved; two otherwise."""
    was, became = detection_to_box(old, size), detection_to_box(new, size)
    height, width = size
    left, top, right, bottom = (
        (b - a) / length for a, b, length in zip(was, became, (width, height, width, height), strict=True)
    )
    if abs(left - right) < _SAME and abs(top - bottom) < _SAME:
        return 1
    is_stretched = (abs(left) >= _SAME and abs(right) >= _SAME) or (abs(top) >= _SAME and abs(bottom) >= _SAME)
    return 2 if is_stretched else 1


def _points(label: fo.Label) -> Sequence[tuple[float, float]]:
    """The points of a polyline or keypoint that show, relative to the frame."""
    given: Any = [point for ring in label.points for point in ring] if isinstance(label, fo.Polyline) else label.points
    return [(x, y) for x, y in given if x == x and y == y]


def _is_near(first: tuple[float, float], second: tuple[float, float]) -> bool:
    return abs(first[0] - second[0]) < _SAME and abs(first[1] - second[1]) < _SAME


def efforts(
    counts: Mapping[int, Mapping[str, Any]],
    model: EffortModel | None = None,
    measured: Mapping[int, float] | None = None,
) -> list[Effort]:
    """The cost of each round.

    Args:
        counts: round number -> actions as :meth:`~labelprop_cvat.propagation.effort.Actions.to_dict` gives them
        model: seconds for each action
        measured: round number -> minutes by CVAT's own record, where it has one
    """
    model = model or EffortModel()
    found = []
    for number, values in sorted(counts.items()):
        actions = Actions.from_dict(values)
        found.append(Effort(number, actions, model.minutes(actions), (measured or {}).get(number)))
    return found


__all__ = ["Counts", "Effort", "count_actions", "efforts"]
