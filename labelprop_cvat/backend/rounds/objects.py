"""Objects of finished jobs: which label of FiftyOne each of their shapes is, and what people changed."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

import fiftyone as fo
from bson import ObjectId

from labelprop_cvat.backend.keyframes import SOURCE, Finish
from labelprop_cvat.backend.ledger import (
    FieldRecord,
    JobRecord,
    ObjectRecord,
    SequenceRecord,
    SightingRecord,
)
from labelprop_cvat.backend.rounds.found import CollectedField, Conflict, Sight
from labelprop_cvat.backend.schema import LARGEST_INDEX, FieldSchema
from labelprop_cvat.backend.shapes import (
    DrawnKeyframe,
    DrawnObject,
    attribute_texts,
    fingerprint,
    label_outlines,
    shape_name,
    update_label,
)
from labelprop_cvat.backend.shapes.geometry import is_same_place
from labelprop_cvat.backend.shapes.write import group_of, occluded_of
from labelprop_cvat.backend.tracks import (
    Claim,
    KnownIdentity,
    TrackKeyframe,
    ended_frames,
    find_heirs,
    resolve_identities,
)
from labelprop_cvat.labels import SOURCE_MANUAL, SOURCE_REVIEWED, instance_id

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Outlines:
    """The further outlines of a label that has several.

    Args:
        points: CVAT's points of each
        is_untouched: whether all of them are as they were
        is_unmoved: whether all of them are where they were
    """

    points: tuple[tuple[float, ...], ...] = ()
    is_untouched: bool = True
    is_unmoved: bool = True


@dataclass(frozen=True)
class _Look:
    """One object on one frame, beside what was there when it was last looked at.

    Args:
        keyframe: its state in CVAT
        position: the frame
        seen: what was settled for it before, under its own key or that of an object whose keyframe it was
        index: the index that it went by then
        has_changed: whether CVAT holds something else now
        by_person: whether a person had a hand in it; False for an ``outside`` keyframe that this package made
    """

    keyframe: DrawnKeyframe
    position: int
    seen: SightingRecord | None
    index: int | None
    has_changed: bool
    by_person: bool


@dataclass
class ObjectsSettler:
    """Settles the objects of one label field of one sequence.

    Args:
        record: the sequence
        schema: what the run annotates in the field
        known: what earlier looks settled, by key
        existing: the labels in FiftyOne on the frames that were looked at, by position and id
        positions: the frames that were looked at
        counts_as: of labels that were changed elsewhere too since the last look, which version counts, for people;
            None where nobody need know of the other
    """

    record: SequenceRecord
    schema: FieldSchema
    known: Mapping[str, ObjectRecord]
    existing: Mapping[int, Mapping[str, fo.Label]]
    positions: frozenset[int]
    counts_as: str | None = field(default=None, kw_only=True)
    result: CollectedField = field(init=False)
    _used: set[str] = field(init=False, default_factory=set)
    # Labels that an object which is there holds by its key or its geometry, so that no other gets them by its index.
    _held: set[str] = field(init=False, default_factory=set)
    _heirs: dict[str, dict[int, str]] = field(init=False, default_factory=dict)
    # Indices of objects that are there still, on these frames or in jobs that were not looked at.
    _there: set[int] = field(init=False, default_factory=set)
    # What CVAT held of each label when it was last looked at, by position and label id.
    _last: dict[tuple[int, str], SightingRecord] = field(init=False, default_factory=dict)
    # Objects that are not the label of a frame which can have only one.
    _beside: set[tuple[str, int]] = field(init=False, default_factory=set)

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
        self._last = {
            (int(place), seen.label_id): seen
            for entry in self.known.values()
            for place, seen in entry.sightings.items()
            if seen.label_id
        }
        self._find_heirs(ordered)
        extra, outlines = self._parts(ordered)
        whole = [sight for sight in ordered if sight.drawn.key not in extra]
        indices = self._resolve(whole)
        elsewhere = (e.index for e in self.known.values() if not self.positions.issuperset(map(int, e.sightings)))
        self._there = {*indices.values(), *elsewhere}
        self.result.next_index = max([self._identities.next_index, *(1 + index for index in indices.values())])
        self._choose(whole)
        for sight in whole:
            key = sight.drawn.key
            yield sight.task, key, self._object(sight, indices[key], outlines.get(key, _Outlines()))
        for sight in ordered:
            if sight.drawn.key in extra:
                yield sight.task, sight.drawn.key, self._outline(sight)
        self._find_removed()
        if missing == "absent" and not self.record.independent:
            self._add_missing(whole, indices, jobs)
        self._add_refused(whole, indices, jobs)

    def _resolve(self, sights: Sequence[Sight]) -> dict[str, int]:
        claims = self._claims(sights)
        if not self.schema.allows("index_edits"):
            claims = [replace(claim, index=self._given_index(claim)) for claim in claims]
        return resolve_identities(
            claims,
            {key: KnownIdentity(entry.index, entry.claim) for key, entry in self.known.items()},
            heirs={key: places for key, places in self._heirs.items() if key not in self.known},
            reserved=self._identities.reserved,
            next_index=self._identities.next_index,
        )

    def _given_index(self, claim: Claim) -> int:
        """The index that an object had when nobody could edit it."""
        if claim.key in self.known:
            return self.known[claim.key].claim
        before = [self.known[old].claim for _, old in sorted(self._heirs.get(claim.key, {}).items())]
        return claim.index if not before or claim.index in before else before[0]

    def _claims(self, sights: Sequence[Sight]) -> list[Claim]:
        claims = []
        for order, sight in enumerate(sights):
            places: dict[bool, dict[int, str]] = {False: {}, True: {}}
            for keyframe in sight.drawn.keyframes:
                position = sight.job.position_of(keyframe.frame)
                if position is not None and position in self.positions:
                    places[keyframe.outside][position] = shape_name(keyframe)
            drawn = sight.drawn
            index = drawn.index if drawn.index <= LARGEST_INDEX else self._refused(drawn)
            claims.append(Claim(drawn.key, order, drawn.label, index, sight.visible, places[False], places[True]))
        return claims

    def _refused(self, drawn: DrawnObject) -> int:
        logger.warning(
            "A %s has the index %d in CVAT, which is beyond the largest, %d; it is not taken over.",
            drawn.label,
            drawn.index,
            LARGEST_INDEX,
        )
        return 0

    def _find_heirs(self, sights: Sequence[Sight]) -> None:
        """Finds objects that are there under another id: restored, split or merged."""
        there = {sight.drawn.key for sight in sights}
        # An object without sightings was seen by a look that was cut off, before its labels were merged.
        settled = {key: entry for key, entry in self.known.items() if entry.sightings}
        gone = [
            key
            for key, entry in settled.items()
            if key not in there and any(int(place) in self.positions for place in entry.sightings)
        ]
        identities = {
            key: KnownIdentity(
                entry.index,
                entry.claim,
                {int(place): seen.shape for place, seen in entry.sightings.items() if _shows(seen) and seen.shape},
                self._class_of(entry) if key in gone else "",
            )
            for key, entry in settled.items()
        }
        found = find_heirs(self._claims(sights), identities, gone) if gone else {}
        renamed = {}
        for key, places in found.items():
            if key.startswith("track:"):
                self._heirs[key] = places
            else:
                # A shape is all of the object on its frame, so it is simply called otherwise now.
                (old,) = places.values()
                renamed[key] = self.known[old]
        if renamed:
            replaced = {old for key, places in found.items() if key in renamed for old in places.values()}
            kept = {key: entry for key, entry in self.known.items() if key not in replaced or key.startswith("track:")}
            self.known = {**kept, **renamed}
        self._held = {
            seen.label_id for key, entry in self.known.items() if key in there for seen in entry.sightings.values()
        }
        for places in self._heirs.values():
            self._held |= {self.known[old].sightings[str(position)].label_id for position, old in places.items()}

    def _class_of(self, entry: ObjectRecord) -> str:
        labels = (
            self.existing.get(int(place), {}).get(seen.label_id)
            for place, seen in entry.sightings.items()
            if seen.label_id
        )
        shown = (seen.label for seen in entry.sightings.values() if seen.machine and seen.label)
        return next((str(label.label) for label in labels if label is not None), next(shown, ""))

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
                    len(present) == len(keys)
                    and all(
                        shape_name(drawn.keyframes[0]) == seen.shape
                        for drawn in further
                        for seen in self.known[drawn.key].sightings.values()
                    ),
                )
        return extra, outlines

    def _outline(self, sight: Sight) -> ObjectRecord:
        before = self.known[sight.drawn.key]
        keyframe = sight.drawn.keyframes[0]
        sightings = {
            place: replace(seen, fingerprint=fingerprint(sight.drawn, keyframe), shape=shape_name(keyframe))
            for place, seen in before.sightings.items()
        }
        return ObjectRecord(before.label_field, before.index, before.claim, before.part, sightings)

    def _object(self, sight: Sight, index: int, outlines: _Outlines) -> ObjectRecord:
        before = self.known.get(sight.drawn.key) or self._forebear(sight.drawn.key, index)
        claim = before.claim if before is not None and sight.drawn.index == 0 else sight.drawn.index
        entry = ObjectRecord(self.schema.label_field, index, claim, before.part if before is not None else 0)
        looks = list(self._looks(sight, outlines))
        marks = [TrackKeyframe(look.position, look.keyframe.outside, look.by_person) for look in looks]
        ended = ended_frames(marks) if sight.drawn.is_track else frozenset()
        if ended:
            logger.info(
                "Object %d (%s) of %s was ended in CVAT before frames %s, where nobody touched its labels; they stay, "
                "but the object is taken to be absent there.",
                index,
                sight.drawn.label,
                self.record.name,
                ", ".join(map(str, sorted(ended))),
            )
        for look in looks:
            if (sight.drawn.key, look.position) in self._beside:
                entry.sightings[str(look.position)] = SightingRecord("", "")
                continue
            settled = self._keyframe(sight, look, index, outlines, look.position in ended)
            if settled is not None:
                entry.sightings[str(look.position)] = settled
        return entry

    def _choose(self, sights: Sequence[Sight]) -> None:
        """Chooses the object of each frame of a field with single labels: the newest one."""
        if not self.schema.kind.single:
            return
        shown: dict[int, list[Sight]] = {}
        for sight in sights:
            for keyframe in sight.drawn.keyframes:
                position = sight.job.position_of(keyframe.frame)
                if position is not None and position in self.positions and not keyframe.outside:
                    shown.setdefault(position, []).append(sight)
        for position, found in sorted(shown.items()):
            if len(found) < 2:
                continue
            # What holds the label stays before what stood beside it, so that every look comes to the same end.
            newest = max((self._rank(sight, position), sight.drawn.server_id, sight.drawn.key) for sight in found)[-1]
            logger.warning(
                "%d objects of the field %r were found on frame %d of %s, which holds one; the newest counts.",
                len(found),
                self.schema.label_field,
                position,
                self.record.name,
            )
            self._beside |= {(sight.drawn.key, position) for sight in found if sight.drawn.key != newest}

    def _rank(self, sight: Sight, position: int) -> int:
        before = self.known.get(sight.drawn.key)
        seen = before.sightings.get(str(position)) if before is not None else None
        if seen is not None:
            return 1 if seen.label_id else 0
        return 2 if self.schema.allows("additions") else 0

    def _forebear(self, key: str, index: int) -> ObjectRecord | None:
        return next(
            (self.known[old] for old in self._heirs.get(key, {}).values() if self.known[old].index == index), None
        )

    def _looks(self, sight: Sight, outlines: _Outlines) -> Iterator[_Look]:
        """The keyframes of an object that lie on frames which were looked at."""
        drawn = sight.drawn
        before, places = self.known.get(drawn.key), self._heirs.get(drawn.key, {})
        for keyframe in drawn.keyframes:
            position = sight.job.position_of(keyframe.frame)
            if position is None or position not in self.positions:
                continue
            name, at = shape_name(keyframe), str(position)
            owner = before if before is not None and at in before.sightings else None
            if owner is None and position in places:
                owner = self.known[places[position]]
            elif owner is None and keyframe.outside:
                forebears = (self.known[old] for old in dict.fromkeys(places.values()))
                owner = next((old for old in forebears if self._is_own_mark(old.sightings.get(at), name)), None)
            seen = owner.sightings[at] if owner is not None else None
            changed = seen is None or seen.fingerprint != fingerprint(drawn, keyframe) or not outlines.is_untouched
            if keyframe.outside:
                by_person = not self._is_own_mark(seen, name) and (changed or seen is None or bool(seen.label_id))
            else:
                by_person = seen is None or seen.by_person or self._is_edited(seen, keyframe, name)
            yield _Look(keyframe, position, seen, owner.index if owner is not None else None, changed, by_person)

    def _is_own_mark(self, seen: SightingRecord | None, name: str) -> bool:
        """Whether an ``outside`` keyframe is the one with which this package ended a track; no person said anything."""
        return seen is not None and not _shows(seen) and not seen.by_person and seen.shape == name

    def _is_unmoved(self, seen: SightingRecord, keyframe: DrawnKeyframe, outlines: _Outlines) -> bool:
        """Whether an object is in CVAT where it was, so that where it is in FiftyOne is somebody's later word."""
        return outlines.is_unmoved and bool(seen.shape) and seen.shape == shape_name(keyframe)

    def _is_edited(self, seen: SightingRecord, keyframe: DrawnKeyframe, name: str) -> bool:
        """Whether a person changed a keyframe itself, as opposed to something of the whole track."""
        if not _shows(seen) or not seen.shape:
            return True
        return seen.shape != name or any(
            seen.attributes.get(k, text) != text for k, text in keyframe.attributes.items()
        )

    def _keyframe(
        self, sight: Sight, look: _Look, index: int, outlines: _Outlines, ended: bool
    ) -> SightingRecord | None:
        """Settles one object on one frame; None when it leaves no label there."""
        result, keyframe, position, seen = self.result, look.keyframe, look.position, look.seen
        untouched = seen is not None and not look.has_changed
        if keyframe.outside:
            if not look.by_person:
                return seen
            result.absences.setdefault(self._segment(sight, position), []).append([index, position])
            return None
        place = f"{index}:{position}"
        label_id = self._label_id(seen, place, f"{sight.drawn.key}:{position}", sight.job, position)
        label = self.existing.get(position, {}).get(label_id)
        if label is None and untouched and seen is not None and seen.label_id == label_id:
            # Deleted in FiftyOne since, and nobody touched it in CVAT.
            self._used.add(label_id)
            return seen
        is_renumbered = look.index is not None and look.index != index
        shown = label.index if label is not None and untouched and not is_renumbered else None
        was_there = label is not None
        is_same = seen is not None and seen.label_id == label_id
        if label is None or not untouched or not is_same:
            # Drawn anew for a label that is there: what CVAT held of it is known under the object that is gone.
            last = seen if is_same or label is None else self._last.get((position, label_id), seen)
            if label is not None and is_same and seen is not None:
                self._note_conflict(label, seen, keyframe, position)
            drawn = sight.drawn
            if label is not None and sight.drawn.key in self._heirs and not drawn.group:
                # Splitting and merging take an object out of its group, which nobody asked for.
                drawn = replace(drawn, group=group_of(label, self.schema))
            label = update_label(
                label,
                drawn,
                keyframe,
                self.schema,
                self.record.size_at(position),
                last.attributes if last is not None else None,
                outlines.points,
                was_called=last.label if last is not None else "",
                is_unmoved=last is not None and self._is_unmoved(last, keyframe, outlines),
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
        # A reviewer may have given some labels of an object to another one, of which CVAT knows nothing here.
        is_anothers = untouched and is_same and not is_renumbered and left != place
        if left != place and not is_anothers and result.label_ids.get(left) == label_id:
            del result.label_ids[left]
        if not is_anothers:
            result.label_ids[place], result.places[label_id] = label_id, place
        if ended:
            result.absences.setdefault(self._segment(sight, position), []).append([index, position])
            result.ended.setdefault(self._segment(sight, position), []).append(label_id)
        previous = look.index if is_renumbered else None
        held = (label.index, instance_id(label), bool(label.get_attribute_value("keyframe", None)))
        finish = self._finish(label, index, shown, was_there, sight, previous)
        if (source := self._source(sight.job, look, label, index)) is not None:
            finish = replace(finish, values={**finish.values, SOURCE: source})
        finish = replace(finish, keyframe=finish.keyframe and not ended)
        if was_there and untouched and not is_renumbered and seen is not None and seen.label_id == label_id:
            result.unchanged.add(label_id)
            if held == (finish.index, finish.instance or held[1], finish.keyframe or held[2]):
                result.finished.add(label_id)
        result.labels.setdefault(position, {})[label_id] = label
        result.finishes.setdefault(position, {})[label_id] = finish
        texts, name = attribute_texts(sight.drawn, keyframe), shape_name(keyframe)
        return SightingRecord(
            label_id, fingerprint(sight.drawn, keyframe), texts, name, look.by_person, sight.drawn.label
        )

    def _note_conflict(self, label: fo.Label, seen: SightingRecord, keyframe: DrawnKeyframe, position: int) -> None:
        """Keeps a label whose place was changed in FiftyOne, or in another job, since it was last the same in CVAT."""
        size, kind = self.record.size_at(position), self.schema.kind
        if self.counts_as is None or keyframe.shape_type != kind.shape or not seen.shape:
            return
        outlines = label_outlines(label, kind.shape, size)
        if len(outlines) != 1 or is_same_place(label, keyframe, size):
            return
        there = replace(
            keyframe,
            points=tuple(outlines[0]),
            occluded=occluded_of(label, self.schema) if self.schema.occluded_attr else keyframe.occluded,
            rotation=float(label.get_attribute_value("rotation", None) or 0.0) % 360,
        )
        if seen.shape not in (shape_name(there), shape_name(replace(there, occluded=not there.occluded))):
            self.result.conflicts.append(Conflict(position, label, self.counts_as))

    def _finish(
        self, label: fo.Label, index: int, shown: int | None, was_there: bool, sight: Sight, previous: int | None
    ) -> Finish:
        values = {name: label[name] for name in self.schema.properties if label.has_field(name)}
        if self.record.independent:
            # No object goes on to another image: an index is the user's own, or what a person gave it in CVAT.
            own = self._identities.own_index(index)
            known = self.known.get(sight.drawn.key)
            if not was_there or (known is not None and known.index != index):
                label.index = own if sight.drawn.index > 0 else None
            return Finish(label.index, None, values, keyframe=False)
        instance = self._instance(instance_id(label), index, previous)
        label.index = self._identities.own_index(index) if shown is None else shown
        return Finish(label.index, instance, values)

    def _source(self, job: JobRecord, look: _Look, label: fo.Label, index: int) -> str | None:
        """What to say of where a label comes from: a propagated one that a person left as it was is reviewed."""
        was_offered = look.seen is not None and not look.seen.label_id
        if was_offered and not look.has_changed and [index, look.position] in self._offered(job):
            return SOURCE_REVIEWED
        is_edited = look.has_changed and label.get_attribute_value(SOURCE, None) == SOURCE_REVIEWED
        return SOURCE_MANUAL if is_edited else None

    def _offered(self, job: JobRecord) -> Sequence[list[int]]:
        return job.offered.get(self.schema.label_field, ())

    def _instance(self, own: str | None, index: int, previous: int | None) -> str:
        """The id of the instance of a label: its own, unless it belongs to another object now."""
        instances = self.result.instances
        if previous is not None:
            goes_on = previous in self._there
            own = instances.get(str(index)) or (None if goes_on else own)
            if not goes_on:
                instances.pop(str(previous), None)
        instance = own or instances.get(str(index)) or str(ObjectId())
        instances.setdefault(str(index), instance)
        return instance

    def _label_id(self, seen: SightingRecord | None, place: str, name: str, job: JobRecord, position: int) -> str:
        by_place = self._identities.label_ids.get(place)
        if by_place in self._held:
            by_place = None
        for candidate in (seen.label_id if seen else None, by_place, self._only_one(position)):
            if candidate and candidate not in self._used:
                return candidate
        return made_id(job, name)

    def _only_one(self, position: int) -> str | None:
        """The label that a frame of a field with single labels has; FiftyOne would not replace it by another."""
        if not self.schema.kind.single or not self.schema.allows("additions"):
            return None
        return next(iter(self.existing.get(position, ())), None)

    def _segment(self, sight: Sight, position: int) -> int:
        """The segment of a frame of a job; only jobs of adopted tasks have frames of several."""
        segment = self.record.segments[sight.job.segment]
        if segment.start <= position < segment.stop:
            return sight.job.segment
        return self.record.segment_at(position)

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
        for number, segment in enumerate(self.record.segments):
            inside = range(segment.start, segment.stop)
            looked_at = {position for _, kept in jobs for position in kept if position in inside}
            visible: dict[int, set[int]] = {}
            for sight in sights:
                shown = {position for position in sight.visible if position in inside}
                if shown or sight.job.segment == number:
                    visible.setdefault(indices[sight.drawn.key], set()).update(shown)
            said = self.result.absences.setdefault(number, [])
            for index, shown in visible.items():
                said += [[index, position] for position in sorted(looked_at - shown) if [index, position] not in said]

    def _add_refused(
        self,
        sights: Iterable[Sight],
        indices: Mapping[str, int],
        jobs: Sequence[tuple[JobRecord, frozenset[int]]],
    ) -> None:
        """An object that was offered on a frame and is not there any more is not there: a person took it away."""
        visible = {(indices[sight.drawn.key], position) for sight in sights for position in sight.visible}
        for job, kept in jobs:
            for index, position in self._offered(job):
                if position not in kept or (index, position) in visible:
                    continue
                said = self.result.absences.setdefault(self.record.segment_at(position), [])
                if [index, position] not in said:
                    said.append([index, position])


def _shows(seen: SightingRecord) -> bool:
    """Whether an object was seen there, as opposed to a keyframe that hides it."""
    return bool(seen.label_id) or seen.machine


def made_id(job: JobRecord, name: str) -> str:
    """The id of a new label: the same one on every look, so that two looks at once make one label."""
    return hashlib.sha256(f"{job.id}:{name}".encode()).hexdigest()[:24]


__all__ = ["ObjectsSettler", "made_id"]
