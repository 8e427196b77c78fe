"""Objects of finished jobs: which label of FiftyOne each of their shapes is, and what people changed."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import fiftyone as fo
from bson import ObjectId

from labelprop_cvat.backend.keyframes import Finish
from labelprop_cvat.backend.ledger import (
    FieldRecord,
    JobRecord,
    ObjectRecord,
    SequenceRecord,
    SightingRecord,
)
from labelprop_cvat.backend.rounds.found import CollectedField, Sight
from labelprop_cvat.backend.schema import FieldSchema
from labelprop_cvat.backend.shapes import DrawnKeyframe, attribute_texts, fingerprint, update_label
from labelprop_cvat.backend.tracks import Claim, KnownIdentity, resolve_identities
from labelprop_cvat.labels import instance_id

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Outlines:
    """The further outlines of a label that has several.

    Args:
        points: CVAT's points of each
        is_untouched: whether all of them are as they were
    """

    points: tuple[tuple[float, ...], ...] = ()
    is_untouched: bool = True


@dataclass
class ObjectsSettler:
    """Settles the objects of one label field of one sequence.

    Args:
        record: the sequence
        schema: what the run annotates in the field
        known: what earlier looks settled, by key
        existing: the labels in FiftyOne on the frames that were looked at, by position and id
        positions: the frames that were looked at
    """

    record: SequenceRecord
    schema: FieldSchema
    known: Mapping[str, ObjectRecord]
    existing: Mapping[int, Mapping[str, fo.Label]]
    positions: Collection[int]
    result: CollectedField = field(init=False)
    _used: set[str] = field(init=False, default_factory=set)

    def __post_init__(self) -> None:
        identities = self._identities
        self.result = CollectedField(
            label_ids=dict(identities.label_ids),
            places={label_id: place for place, label_id in identities.label_ids.items()},
            instances=dict(identities.instances),
        )

    @property
    def _identities(self) -> FieldRecord:
        return self.record.identities(self.schema.label_field)

    def settle(
        self, sights: Sequence[Sight], jobs: Sequence[tuple[JobRecord, frozenset[int]]], missing: str
    ) -> Iterator[tuple[int, str, ObjectRecord]]:
        """Settles all objects.

        Args:
            sights: the objects of the field in all finished jobs of the sequence
            jobs: the finished jobs with the positions that were looked at
            missing: what an object that is missing on an exemplar means: ``"unknown"`` or ``"absent"``

        Yields:
            number of the task, key, the object as settled now
        """
        ordered = sorted(sights, key=lambda sight: (sight.drawn.is_track, sight.drawn.server_id))
        extra, outlines = self._parts(ordered)
        whole = [sight for sight in ordered if sight.drawn.key not in extra]
        indices = self._resolve(whole)
        self.result.next_index = max([self._identities.next_index, *(1 + index for index in indices.values())])
        for sight in whole:
            key = sight.drawn.key
            yield sight.task, key, self._object(sight, indices[key], outlines.get(key, _Outlines()))
        for sight in ordered:
            if sight.drawn.key in extra:
                yield sight.task, sight.drawn.key, self._outline(sight)
        self._find_removed()
        if missing == "absent" and not self.record.independent:
            self._add_missing(whole, indices, jobs)

    def _resolve(self, sights: Sequence[Sight]) -> dict[str, int]:
        fixed = {} if self.schema.allows("index_edits") else self.known
        return resolve_identities(
            [
                Claim(
                    sight.drawn.key,
                    order,
                    sight.drawn.label,
                    fixed[sight.drawn.key].claim if sight.drawn.key in fixed else sight.drawn.index,
                    sight.visible,
                )
                for order, sight in enumerate(sights)
            ],
            {key: KnownIdentity(entry.index, entry.claim) for key, entry in self.known.items()},
            reserved=self._identities.reserved,
            next_index=self._identities.next_index,
        )

    def _parts(self, sights: Sequence[Sight]) -> tuple[set[str], dict[str, _Outlines]]:
        """The shapes that are further outlines of a label, and what each label's first outline has beside it."""
        groups: dict[str, list[str]] = {}
        for key, entry in self.known.items():
            for seen in entry.sightings.values():
                if seen.label_id and not key.startswith("track:"):
                    groups.setdefault(seen.label_id, []).append(key)
        there = {sight.drawn.key: sight for sight in sights}
        extra: set[str] = set()
        outlines: dict[str, _Outlines] = {}
        for keys in groups.values():
            if len(keys) < 2:
                continue
            present = sorted((key for key in keys if key in there), key=lambda key: self.known[key].part)
            further = [there[key].drawn for key in present[1:]]
            extra.update(present[1:])
            if present:
                outlines[present[0]] = _Outlines(
                    tuple(drawn.keyframes[0].points for drawn in further),
                    len(present) == len(keys)
                    and all(
                        fingerprint(drawn, drawn.keyframes[0]) == seen.fingerprint
                        for drawn in further
                        for seen in self.known[drawn.key].sightings.values()
                    ),
                )
        return extra, outlines

    def _outline(self, sight: Sight) -> ObjectRecord:
        before = self.known[sight.drawn.key]
        keyframe = sight.drawn.keyframes[0]
        sightings = {
            place: SightingRecord(seen.label_id, fingerprint(sight.drawn, keyframe), seen.attributes)
            for place, seen in before.sightings.items()
        }
        return ObjectRecord(before.label_field, before.index, before.claim, before.part, sightings)

    def _object(self, sight: Sight, index: int, outlines: _Outlines) -> ObjectRecord:
        before = self.known.get(sight.drawn.key)
        claim = before.claim if before is not None and sight.drawn.index == 0 else sight.drawn.index
        entry = ObjectRecord(self.schema.label_field, index, claim, before.part if before is not None else 0)
        for keyframe in sight.drawn.keyframes:
            position = sight.job.position_of(keyframe.frame)
            if position is None or position not in self.positions:
                continue
            seen = before.sightings.get(str(position)) if before else None
            settled = self._keyframe(sight, keyframe, index, position, seen, outlines)
            if settled is not None:
                entry.sightings[str(position)] = settled
        return entry

    def _keyframe(
        self,
        sight: Sight,
        keyframe: DrawnKeyframe,
        index: int,
        position: int,
        seen: SightingRecord | None,
        outlines: _Outlines,
    ) -> SightingRecord | None:
        """Settles one object on one frame; None when it leaves no label there."""
        result = self.result
        print_now = fingerprint(sight.drawn, keyframe)
        untouched = seen is not None and seen.fingerprint == print_now and outlines.is_untouched
        if keyframe.outside:
            if seen is not None and untouched and not seen.label_id:
                # Our own mark of where the labels of a track end; no person said anything.
                return seen
            result.absences.setdefault(sight.job.segment, []).append([index, position])
            return None
        place = f"{index}:{position}"
        label_id = self._label_id(seen, place, f"{sight.drawn.key}:{position}", sight.job, position)
        label = self.existing.get(position, {}).get(label_id)
        if label is None and untouched and seen is not None and seen.label_id == label_id:
            # Deleted in FiftyOne since, and nobody touched it in CVAT.
            self._used.add(label_id)
            return seen
        shown = label.index if label is not None and untouched else None
        was_there = label is not None
        if label is None or not untouched or seen is None or seen.label_id != label_id:
            label = update_label(
                label,
                sight.drawn,
                keyframe,
                self.schema,
                self.record.size_at(position),
                seen.attributes if seen is not None else None,
                outlines.points,
            )
            if label is None:
                logger.warning(
                    "Object %d (%s) covers nothing of frame %d of %s; it is left out there.",
                    index,
                    sight.drawn.label,
                    position,
                    self.record.name,
                )
                return None
            label.id = label_id
        self._used.add(label_id)
        left = result.places.get(label_id, place)
        if left != place and result.label_ids.get(left) == label_id:
            del result.label_ids[left]
        result.label_ids[place], result.places[label_id] = label_id, place
        result.labels.setdefault(position, {})[label_id] = label
        result.finishes.setdefault(position, {})[label_id] = self._finish(label, index, shown, was_there, sight)
        return SightingRecord(label_id, print_now, attribute_texts(sight.drawn, keyframe))

    def _finish(self, label: fo.Label, index: int, shown: int | None, was_there: bool, sight: Sight) -> Finish:
        values = {name: label[name] for name in self.schema.properties if label.has_field(name)}
        if self.record.independent:
            # No object goes on to another image: an index is the user's own, or what a person gave it in CVAT.
            own = self._identities.own_index(index)
            known = self.known.get(sight.drawn.key)
            if not was_there or (known is not None and known.index != index):
                label.index = own if sight.drawn.index > 0 else None
            return Finish(label.index, None, values, keyframe=False)
        own_instance = instance_id(label)
        instance = own_instance or self.result.instances.get(str(index)) or str(ObjectId())
        self.result.instances.setdefault(str(index), instance)
        label.index = self._identities.own_index(index) if shown is None else shown
        return Finish(label.index, instance, values)

    def _label_id(self, seen: SightingRecord | None, place: str, name: str, job: JobRecord, position: int) -> str:
        by_place = self._identities.label_ids.get(place)
        for candidate in (seen.label_id if seen else None, by_place, self._only_one(position)):
            if candidate and candidate not in self._used:
                return candidate
        return made_id(job, name)

    def _only_one(self, position: int) -> str | None:
        """The label that a frame of a field with single labels has; FiftyOne would not replace it by another."""
        return next(iter(self.existing.get(position, ())), None) if self.schema.kind.single else None

    def _find_removed(self) -> None:
        for entry in self.known.values():
            for place, seen in entry.sightings.items():
                if int(place) in self.positions and seen.label_id and seen.label_id not in self._used:
                    self.result.removed.setdefault(int(place), set()).add(seen.label_id)
        gone = {label_id for ids in self.result.removed.values() for label_id in ids}
        self.result.label_ids = {place: i for place, i in self.result.label_ids.items() if i not in gone}

    def _add_missing(
        self,
        sights: Iterable[Sight],
        indices: Mapping[str, int],
        jobs: Sequence[tuple[JobRecord, frozenset[int]]],
    ) -> None:
        """An exemplar that does not show an object of its segment says that the object is not there."""
        sights = list(sights)
        for number in range(len(self.record.segments)):
            looked_at = frozenset().union(*(kept for job, kept in jobs if job.segment == number))
            visible: dict[int, set[int]] = {}
            for sight in sights:
                if sight.job.segment == number:
                    visible.setdefault(indices[sight.drawn.key], set()).update(sight.visible)
            said = self.result.absences.setdefault(number, [])
            for index, shown in visible.items():
                said += [[index, position] for position in sorted(looked_at - shown) if [index, position] not in said]


def made_id(job: JobRecord, name: str) -> str:
    """The id of a new label: the same one on every look, so that two looks at once make one label."""
    return hashlib.sha256(f"{job.id}:{name}".encode()).hexdigest()[:24]


__all__ = ["ObjectsSettler", "made_id"]
