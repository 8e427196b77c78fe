"""What belongs to a frame as a whole: classifications, plain values and semantic segmentations."""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import fiftyone as fo

from labelprop_cvat.backend.keyframes import Finish
from labelprop_cvat.backend.ledger import ObjectRecord, SequenceRecord, SightingRecord
from labelprop_cvat.backend.rounds.found import WHOLE_VIDEO, CollectedField, Sight
from labelprop_cvat.backend.rounds.objects import made_id
from labelprop_cvat.backend.schema import FieldSchema
from labelprop_cvat.backend.shapes import (
    attribute_texts,
    fingerprint,
    paint_segmentation,
    scalar_value,
    update_label,
)

logger = logging.getLogger(__name__)


@dataclass
class ValuesSettler:
    """Settles the tags or semantic masks of one label field of one sequence.

    Args:
        record: the sequence
        schema: what the run annotates in the field
        known: what earlier looks settled, by key
        existing: labels or values in FiftyOne on the frames that were looked at, by position
        positions: the frames that were looked at
        declared: the field as the dataset declares it; None for a new one
    """

    record: SequenceRecord
    schema: FieldSchema
    known: Mapping[str, ObjectRecord]
    existing: Mapping[int, Sequence[Any]]
    positions: Collection[int]
    declared: fo.Field | None
    result: CollectedField = field(init=False, default_factory=CollectedField)

    def settle(self, sights: Sequence[Sight]) -> Iterator[tuple[int, str, ObjectRecord]]:
        """Settles all of them.

        Args:
            sights: the tags or masks of the field in all finished jobs of the sequence

        Yields:
            number of the task, key, what is settled now
        """
        by_place: dict[int, list[tuple[Sight, int]]] = {}
        for sight in sorted(sights, key=lambda sight: sight.drawn.server_id):
            for position in self._seen_on(sight):
                by_place.setdefault(self._place(position), []).append((sight, position))
        if self.schema.kind.label_class is None:
            settle = self._scalar
        elif self.schema.kind.shape == "tag":
            settle = self._classifications
        else:
            settle = self._segmentation
        places = {*by_place, *(self._place(position) for position in self.positions)}
        entries: dict[tuple[int, str], ObjectRecord] = {}
        for place in sorted(places):
            for sight, position, sighting in settle(place, by_place.get(place, [])):
                key = (sight.task, sight.drawn.key)
                entry = entries.setdefault(key, ObjectRecord(self.schema.label_field, 0, 0))
                entry.sightings[str(position)] = sighting
        for (task, object_key), entry in entries.items():
            yield task, object_key, entry

    def _seen_on(self, sight: Sight) -> Iterator[int]:
        frames = {keyframe.frame for keyframe in sight.drawn.keyframes if not keyframe.outside}
        for frame in sorted(frames):
            position = sight.job.position_of(frame)
            if position is not None and position in self.positions:
                yield position

    def _place(self, position: int) -> int:
        return WHOLE_VIDEO if self.schema.is_per_sample(self.record.media_type) else position

    def _gone(self, place: int, there: Collection[str]) -> dict[str, SightingRecord]:
        """What was at a place when it was last looked at and is not there any more, by key."""
        return {
            key: seen
            for key, entry in self.known.items()
            if key not in there
            for at, seen in entry.sightings.items()
            if int(at) in self.positions and self._place(int(at)) == place
        }

    def _before(self, sight: Sight, position: int) -> SightingRecord | None:
        entry = self.known.get(sight.drawn.key)
        return entry.sightings.get(str(position)) if entry else None

    def _tell_of_several(self, what: str, count: int, place: int) -> None:
        logger.warning(
            "%d %s of the field %r were found on frame %d of %s, which holds one; the newest counts.",
            count,
            what,
            self.schema.label_field,
            place,
            self.record.name,
        )

    def _classifications(
        self, place: int, sights: Sequence[tuple[Sight, int]]
    ) -> Iterator[tuple[Sight, int, SightingRecord]]:
        held = {label.id: label for label in self.existing.get(place, ())}
        gone = self._gone(place, {sight.drawn.key for sight, _ in sights})
        if self.schema.kind.single and not self.schema.allows("additions"):
            sights = [(sight, at) for sight, at in sights if self._before(sight, at) is not None]
        if self.schema.kind.single and len(sights) > 1:
            self._tell_of_several("classifications", len(sights), place)
            sights = sights[-1:]
        known = {seen.label_id for sight, at in sights if (seen := self._before(sight, at)) is not None}
        used: set[str] = set()
        for sight, position in sights:
            drawn, keyframe = sight.drawn, sight.drawn.keyframes[0]
            seen = self._before(sight, position)
            # Deleted and undone, a tag comes back under a new number.
            again = [
                old.label_id
                for old in gone.values()
                if old.label_id in held and held[old.label_id].label == drawn.label and old.label_id not in known
            ]
            only = [label_id for label_id in held if label_id not in known] if self.schema.kind.single else []
            candidates = [seen.label_id if seen else "", *again, *only]
            label_id = next((i for i in candidates if i and i not in used), None)
            label_id = label_id or made_id(sight.job, f"{drawn.key}:{position}")
            print_now = fingerprint(drawn, keyframe)
            used.add(label_id)
            label = held.get(label_id)
            untouched = seen is not None and seen.fingerprint == print_now
            if label is None and untouched:
                yield sight, position, seen  # type: ignore[misc]
                continue
            if not untouched:
                last = next((old for old in (seen, *gone.values()) if old and old.label_id == label_id), None)
                label = update_label(
                    label,
                    drawn,
                    keyframe,
                    self.schema,
                    (1, 1),
                    last.attributes if last is not None else None,
                    was_called=last.label if last is not None else "",
                )
            if label is None:
                continue
            if untouched and label_id in held:
                self.result.unchanged.add(label_id)
            label.id = label_id
            self.result.labels.setdefault(place, {})[label_id] = label
            yield (
                sight,
                position,
                SightingRecord(label_id, print_now, attribute_texts(drawn, keyframe), label=drawn.label),
            )
        lost = {seen.label_id for seen in gone.values() if seen.label_id} - used
        if self.schema.kind.single:
            lost |= {label_id for label_id in known if label_id} - used
        if lost:
            self.result.removed[place] = lost

    def _scalar(self, place: int, sights: Sequence[tuple[Sight, int]]) -> Iterator[tuple[Sight, int, SightingRecord]]:
        held = next(iter(self.existing.get(place, ())), None)
        gone = self._gone(place, {sight.drawn.key for sight, _ in sights})
        if len(sights) > 1:
            self._tell_of_several("values", len(sights), place)
        # What a person touched last counts; where a tag was only taken away, one of those that are left.
        touched: Sight | None = None
        for sight, position in sights:
            keyframe = sight.drawn.keyframes[0]
            seen, print_now = self._before(sight, position), fingerprint(sight.drawn, keyframe)
            if seen is None or seen.fingerprint != print_now:
                touched = sight
            yield sight, position, SightingRecord("", print_now, attribute_texts(sight.drawn, keyframe))
        chosen = touched or (sights[-1][0] if gone and sights else None)
        value = None if gone else held
        if chosen is not None:
            value = scalar_value(chosen.drawn, chosen.drawn.keyframes[0], self.schema, self.declared, held)
        if value is not None or held is not None:
            self.result.values[place] = value

    def _segmentation(
        self, place: int, sights: Sequence[tuple[Sight, int]]
    ) -> Iterator[tuple[Sight, int, SightingRecord]]:
        held: fo.Segmentation | None = next(iter(self.existing.get(place, ())), None)
        gone = self._gone(place, {sight.drawn.key for sight, _ in sights})
        if not sights and (held is None or not gone or not self.schema.allows("deletions")):
            return
        prints = [fingerprint(sight.drawn, sight.drawn.keyframes[0]) for sight, _ in sights]
        seen = [self._before(sight, position) for sight, position in sights]
        label, label_id = held, held.id if held is not None else ""
        is_fixed = held is not None and not self.schema.allows("spatial_edits")
        if not is_fixed and (
            gone or any(old is None or old.fingerprint != new for old, new in zip(seen, prints, strict=True))
        ):
            ordered = sorted(sights, key=lambda s: (s[0].drawn.keyframes[0].z_order, s[0].drawn.server_id))
            shapes = [(sight.drawn.label, sight.drawn.keyframes[0]) for sight, _ in ordered]
            label = paint_segmentation(held, shapes, self.schema, self.record.size_at(place))
            label_id = label_id or made_id(sights[0][0].job, f"{self.schema.label_field}:{place}")
            label.id = label_id
        # Otherwise untouched in CVAT; where the label is gone it was deleted in FiftyOne since, and stays so.
        label_id = label_id or next((old.label_id for old in seen if old is not None), "")
        if label is not None:
            if label is held:
                self.result.unchanged.add(label_id)
                self.result.finished.add(label_id)
            self.result.labels[place] = {label_id: label}
            self.result.finishes[place] = {label_id: Finish(None, None, {}, keyframe=False)}
        for (sight, position), print_now in zip(sights, prints, strict=True):
            texts = attribute_texts(sight.drawn, sight.drawn.keyframes[0])
            yield sight, position, SightingRecord(label_id, print_now, texts)


__all__ = ["ValuesSettler"]
