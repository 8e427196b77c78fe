"""What was collected, in the form in which FiftyOne merges it."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import fiftyone as fo
import fiftyone.utils.annotations as foua

from labelprop_cvat.backend.calls import asked_to_load, is_anybody_there
from labelprop_cvat.backend.keyframes import frame_ids, labels_at
from labelprop_cvat.backend.ledger import Ledger, SequenceRecord
from labelprop_cvat.backend.rounds import Collected, CollectedField, Sight, made_id
from labelprop_cvat.backend.schema import FRAMES_PREFIX, FieldSchema, RunSchema
from labelprop_cvat.backend.shapes import UNEXPECTED_TYPES, new_label
from labelprop_cvat.sequences import every_sample

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Giving:
    """Gives what was collected to FiftyOne's merge, which deletes every label of an id map that is not given.

    Labels of images are keyed by sample id and label id, those of videos by sample id, frame id and label id.

    Args:
        dataset: the dataset of the run
        ledger: the run's
        collected: what was found
    """

    dataset: fo.Dataset
    ledger: Ledger
    collected: Collected

    def field(
        self, schema: FieldSchema, destination: str, *, changed_only: bool
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        """The labels of one field, and the part of the id map that they settle.

        Args:
            schema: the field
            destination: the field that they will be merged into
            changed_only: leave out labels that nobody changed; they stay as they are
        """
        annotations: dict[str, Any] = {}
        id_map: dict[str, Any] = {}
        for key, found in self.collected.sequences.items():
            record, settled = self.ledger.sequences[key], found.fields[schema.label_field]
            if schema.kind.label_class is None:
                annotations.update(self._values(record, schema, settled, destination))
                continue
            given = {
                position: {i: label for i, label in labels.items() if not (changed_only and i in settled.unchanged)}
                for position, labels in settled.labels.items()
            }
            positions = sorted({*(position for position, labels in given.items() if labels), *settled.removed})
            existing = labels_at(self.dataset, record, schema, positions)
            there = {label.id for labels in existing.values() for label in labels}
            frames = self._frame_ids(record, schema, positions)
            for position in positions:
                labels = given.get(position, {})
                known = [*(i for i in labels if i in there), *settled.removed.get(position, ())]
                if frames is not None:
                    sample_id, frame_id = record.sample_ids[0], frames[position]
                    # FiftyOne renumbers tracks of new video labels; without an index it lets them be, and the run
                    # sets it when they are merged.
                    for label in labels.values() if schema.kind.has_index else ():
                        label.index = None
                    if labels:
                        annotations.setdefault(sample_id, {})[frame_id] = labels
                    if known:
                        id_map.setdefault(sample_id, {})[frame_id] = known
                else:
                    sample_id = record.sample_ids[position]
                    if labels:
                        annotations[sample_id] = labels
                    if known:
                        id_map[sample_id] = known
        return annotations, id_map

    def _frame_ids(self, record: SequenceRecord, schema: FieldSchema, positions: list[int]) -> dict[int, str] | None:
        """The ids of video frames by position; None where labels are kept on samples."""
        if record.media_type != "video" or schema.is_per_sample(record.media_type):
            return None
        return frame_ids(self.dataset, record, positions) if positions else {}

    def _values(
        self, record: SequenceRecord, schema: FieldSchema, settled: CollectedField, destination: str
    ) -> dict[str, Any]:
        if record.media_type != "video" or schema.is_per_sample(record.media_type):
            return {record.sample_ids[position]: value for position, value in settled.values.items()}
        if not settled.values:
            return {}
        # FiftyOne takes a frame of a video that is not given for one whose value was deleted, also where it is none of
        # the run's.
        values: dict[str, Any] = {}
        if self.dataset.get_field(destination) is not None:
            video = every_sample(self.dataset, "video").select(record.sample_ids[0])
            ids, held = video.values(["frames.id", destination])
            values = {i: value for i, value in zip(ids[0] or (), held[0] or (), strict=True) if value is not None}
        frames = frame_ids(self.dataset, record, sorted(settled.values))
        values.update({frames[position]: value for position, value in settled.values.items()})
        return {record.sample_ids[0]: values}

    def unexpected(
        self, schema: RunSchema, taken: Collection[str], id_map: dict[str, Any]
    ) -> dict[str, dict[str, Any]]:
        """Shapes of a kind that their field does not hold, by field and type, for FiftyOne to settle.

        Nothing where FiftyOne would ask what to do with them and nobody is there to answer, and nothing that would go
        where other labels are. Where shapes of several fields go to one place, all of them are given with one of these
        fields: merging those of a second field, FiftyOne would take those of the first for deleted.

        Args:
            schema: what the run annotates
            taken: the fields that the run annotates and those that this load brings their labels to
            id_map: the part of FiftyOne's id map that this load settles; changed: in fields that take unexpected
                labels, only such ones may be taken for deleted
        """
        sights = [(key, sight) for key, found in self.collected.sequences.items() for sight in found.unexpected]
        kinds = Counter(sight.drawn.keyframes[0].shape_type for _, sight in sights)
        if sights and asked_to_load("unexpected", "ignore") == "prompt" and not is_anybody_there():
            logger.warning(
                "Left in CVAT because their fields hold other kinds of labels, and nobody is at a terminal to be "
                "asked: %s. load_annotations(..., unexpected='keep') takes them into fields of their own.",
                ", ".join(f"{count} x {kind}" for kind, count in sorted(kinds.items())),
            )
            return {}
        given: dict[str, dict[str, Any]] = {}
        hosts: dict[str, str] = {}
        for key, sight in sights:
            record, field = self.ledger.sequences[key], schema[sight.drawn.label_field]
            kind = UNEXPECTED_TYPES[sight.drawn.keyframes[0].shape_type]
            target = _target_of_unexpected(kind)
            if target is not None and not field.allows("additions"):
                continue
            host = field.label_field if target is None else hosts.setdefault(target, field.label_field)
            problem = self._why_not(record, field, host, kind, target, taken)
            if problem is not None:
                logger.warning("Left in CVAT: a %s of the field %r. %s", kind, field.label_field, problem)
                continue
            found = dict(_unexpected_labels(record, sight))
            frames = frame_ids(self.dataset, record, found) if record.media_type == "video" else None
            for position, label in found.items():
                place = given.setdefault(host, {}).setdefault(kind, {})
                if frames is not None:
                    place = place.setdefault(record.sample_ids[0], {}).setdefault(frames[position], {})
                else:
                    place = place.setdefault(record.sample_ids[position], {})
                place[label.id] = label
        own = set(self._own_ids())
        for host, kind, name in self._earlier(schema, id_map.keys() - set(taken)):
            id_map[name] = _without(id_map[name], own)
            if not any(kind in by_type for by_type in given.values()):
                # All of them were deleted in CVAT.
                given.setdefault(host, {})[kind] = {}
        return given

    def _own_ids(self) -> Iterator[str]:
        """The ids of all labels that the run knows to be its fields' own."""
        for task in self.ledger.tasks():
            for entry in task.objects.values():
                yield from (seen.label_id for seen in entry.sightings.values())
        for record in self.ledger.sequences.values():
            for identities in record.fields.values():
                yield from identities.label_ids.values()

    def _earlier(self, schema: RunSchema, names: Collection[str]) -> Iterator[tuple[str, str, str]]:
        """Where earlier loads may have brought unexpected labels to: a field to give them with, their type, and it."""
        for kind in sorted(set(UNEXPECTED_TYPES.values())):
            target = _target_of_unexpected(kind)
            for field in schema if target is not None else ():
                prefix = FRAMES_PREFIX if field.label_field.startswith(FRAMES_PREFIX) else ""
                name = f"{prefix}{str(target).removeprefix(FRAMES_PREFIX)}"
                if field.kind.returns != kind and field.allows("additions") and name in names:
                    yield field.label_field, kind, name
                    break

    def _why_not(
        self,
        record: SequenceRecord,
        schema: FieldSchema,
        host: str,
        kind: str,
        target: str | None,
        taken: Collection[str],
    ) -> str | None:
        """Why an unexpected label can't go where it was asked to go."""
        of_frames = host.startswith(FRAMES_PREFIX)
        if of_frames is not schema.label_field.startswith(FRAMES_PREFIX) or schema.is_per_sample(record.media_type):
            return "It stands on a frame, and its field holds one label for a whole video."
        if target is None:
            return None
        name = target if not of_frames else f"{FRAMES_PREFIX}{target.removeprefix(FRAMES_PREFIX)}"
        remedy = f"unexpected={{{kind!r}: ...}} takes the name of another field."
        if name in taken:
            return f"It would go to {name!r}, where other labels of the run are; {remedy}"
        declared = self.dataset.get_field(name)
        expected = foua._LABEL_TYPES_MAP[kind]
        embedded = declared.document_type if isinstance(declared, fo.EmbeddedDocumentField) else None
        if declared is not None and (embedded is None or not issubclass(embedded, expected)):
            return f"It would go to {name!r}, which holds something else than {expected.__name__}; {remedy}"
        return None

    def ids_elsewhere(self, id_map: Mapping[str, Any], own: Collection[str]) -> dict[str, Any]:
        """The part of the id map of other fields (earlier destinations) that lies on the frames that were looked at."""
        looked_at: dict[str, set[int]] = {}
        for key, found in self.collected.sequences.items():
            record = self.ledger.sequences[key]
            if record.media_type == "video":
                looked_at[record.sample_ids[0]] = {record.frame_numbers[position] for position in found.looked_at}
            else:
                looked_at.update({record.sample_ids[position]: set() for position in found.looked_at})
        return {name: self._on_frames(entries, looked_at) for name, entries in id_map.items() if name not in own}

    def _on_frames(self, entries: Mapping[str, Any], looked_at: Mapping[str, set[int]]) -> dict[str, Any]:
        kept: dict[str, Any] = {}
        for sample_id, value in entries.items():
            if sample_id not in looked_at:
                continue
            if isinstance(value, Mapping):
                numbers = self._frame_numbers(sample_id)
                value = {frame: ids for frame, ids in value.items() if numbers.get(frame) in looked_at[sample_id]}
            kept[sample_id] = value
        return kept

    def _frame_numbers(self, sample_id: str) -> dict[str, int]:
        view = every_sample(self.dataset, "video").select(sample_id)
        ids, numbers = view.values(["frames.id", "frames.frame_number"])
        return dict(zip(ids[0], numbers[0], strict=True)) if ids else {}


def _target_of_unexpected(kind: str) -> str | None:
    """The field that the caller of a load wants unexpected labels of a kind in; None where FiftyOne finds out."""
    asked = asked_to_load("unexpected", "ignore")
    if isinstance(asked, Mapping):
        return asked.get(kind)
    if isinstance(asked, str):
        return kind if asked == "keep" else None
    return kind if isinstance(asked, Collection) and kind in asked else None


def _unexpected_labels(record: SequenceRecord, sight: Sight) -> Iterator[tuple[int, fo.Label]]:
    for keyframe in sight.drawn.keyframes:
        position = sight.job.position_of(keyframe.frame)
        if position not in sight.visible or position is None:
            continue
        label = new_label(sight.drawn, keyframe, record.size_at(position))
        if label is not None:
            label.id = made_id(sight.job, f"{sight.drawn.key}:{position}")
            yield position, label


def united_ids(full: Mapping[str, Any], field: str, merged: Any, removed: Collection[str]) -> dict[str, Any]:
    """An id map as it stands after a merge: what was there, what came, less what people deleted."""
    return {**full, field: _without(_merged(full.get(field, {}), merged), removed)}


def _flat_ids(entries: Any) -> set[str]:
    if isinstance(entries, Mapping):
        return set().union(*(_flat_ids(value) for value in entries.values()))
    if isinstance(entries, list):
        return set(entries)
    return set() if entries is None else {entries}


def _merged(first: Any, second: Any) -> Any:
    if isinstance(first, Mapping) or isinstance(second, Mapping):
        first, second = first or {}, second or {}
        return {key: _merged(first.get(key), second.get(key)) for key in {**first, **second}}
    return sorted(_flat_ids(first) | _flat_ids(second))


def _without(entries: Any, removed: Collection[str]) -> Any:
    if isinstance(entries, Mapping):
        return {key: _without(value, removed) for key, value in entries.items()}
    return [label_id for label_id in entries if label_id not in removed]


__all__ = ["Giving", "united_ids"]
