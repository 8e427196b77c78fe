"""One job on the annotator's desk."""

from __future__ import annotations

import random
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

from labelprop_cvat.backend.cvat import DataMeta, Job, Label, LabelMap, Task
from labelprop_cvat.backend.cvat.annotations import Annotations, empty
from labelprop_cvat.errors import ConfigurationError

from .content import (
    edited_elements,
    edited_source,
    element_tracks,
    node_content,
    nodes_by_frame,
    overlap,
    same_content,
    same_track,
)
from .hand import Hand, Sloppiness
from .truth import NEVER_TRACKED, SHAPE_KINDS, TRACKED_KINDS, ShapeKind, TruthObject

Truth = Callable[[str, str], Sequence[TruthObject]]


@dataclass(frozen=True)
class AnnotatorCounts:
    """What the annotator did.

    ``drawn``, ``changed``, ``confirmed`` and ``deleted`` count shapes, tags and keyframes, the mistakes likewise.
    ``redrawn`` is how much of the changed masks was drawn anew, as a number of masks: the sum of 1 - IoU.
    """

    jobs: int = 0
    frames: int = 0
    drawn: int = 0
    changed: int = 0
    confirmed: int = 0
    missed: int = 0
    wrong_labels: int = 0
    forgotten_indices: int = 0
    deleted: int = 0
    redrawn: float = 0.0

    def __add__(self, other: AnnotatorCounts) -> AnnotatorCounts:
        return AnnotatorCounts(*(getattr(self, f.name) + getattr(other, f.name) for f in fields(self)))


@dataclass(frozen=True)
class Work:
    """What the annotator was asked to do."""

    kind: ShapeKind | None
    kinds: Mapping[str, ShapeKind]
    tracks: bool | None
    frames: Collection[int] | None
    index_attribute: str | None
    tidy: bool = False

    @classmethod
    def checked(
        cls,
        shape: ShapeKind | Mapping[str, ShapeKind],
        tracks: bool | None,
        frames: Collection[int] | None,
        index_attribute: str | None,
        tidy: bool = False,
    ) -> Work:
        by_label = isinstance(shape, Mapping)
        work = cls(
            None if by_label else shape,  # type: ignore[arg-type]
            shape if by_label else {},  # type: ignore[arg-type]
            tracks,
            frames,
            index_attribute,
            tidy,
        )
        for kind in work.kinds.values() if by_label else (work.kind,):
            if kind not in SHAPE_KINDS:
                wanted = ", ".join(f'"{known}"' for known in SHAPE_KINDS)
                raise ConfigurationError(f"An annotator draws one of {wanted}, got {kind!r}.")
            if tracks and kind in NEVER_TRACKED:
                raise ConfigurationError(f"CVAT's web UI cannot open {kind} tracks; draw {kind}s without tracks=True.")
        return work

    def kind_of(self, truth: TruthObject) -> ShapeKind | None:
        """How an object is drawn; None when it is not."""
        return self.kind or self.kinds.get(truth.label)

    def tracked(self, kind: ShapeKind) -> bool:
        return kind in TRACKED_KINDS if self.tracks is None else self.tracks

    def key_of(self, truth: TruthObject) -> _Key:
        """What tells an object from others: its number, within its label where kinds go by label."""
        return truth.object_id, None if self.kind else truth.label


# Number of an object and, where it counts, the name of its label.
_Key = tuple[int, str | None]


def _named(key: _Key) -> tuple[object, ...]:
    return key if key[1] else key[:1]


class Desk:
    """One job on the annotator's desk: what is there, what to draw, what to change."""

    def __init__(
        self,
        truth: Truth,
        sloppiness: Sloppiness,
        seed: int,
        task: Task,
        job: Job,
        meta: DataMeta,
        labels: LabelMap,
        work: Work,
        existing: Annotations,
    ) -> None:
        self._sloppiness = sloppiness
        self._hand = Hand(sloppiness)
        self._seed = seed
        self._task = task
        self._job = job
        self._meta = meta
        self._labels = labels
        self._work = work
        self._index_attribute = work.index_attribute
        self._existing = existing
        self._specs = {attribute.id: attribute for label in labels for attribute in label.attributes}
        self._truth = {frame: tuple(truth(task.name, self._name(frame))) for frame in self._frames()}
        self.drawn = empty()
        self.changed = empty()
        self.deleted = empty()

    def draw(self) -> AnnotatorCounts:
        counts = AnnotatorCounts(jobs=1, frames=len(self._truth))
        tracked: dict[_Key, ShapeKind] = {}
        for frame, objects_here in self._truth.items():
            for truth in objects_here:
                kind = self._work.kind_of(truth)
                if kind is None:
                    continue
                if self._work.tracked(kind):
                    tracked[self._work.key_of(truth)] = kind
                else:
                    counts += self._draw_single(kind, frame, truth)
        for key in sorted(tracked, key=lambda k: (k[0], k[1] or "")):
            counts += self._draw_track(tracked[key], key)
        return counts + self._take_away()

    def _take_away(self) -> AnnotatorCounts:
        """Deletes shapes of objects that are not there."""
        kinds = {self._work.kind} if self._work.kind else set(self._work.kinds.values())
        for shape in self._existing["shapes"] if self._work.tidy else ():
            here = self._truth.get(shape["frame"])
            if here is None or shape["type"] not in kinds or self._index_of(shape) in (None, "0"):
                continue
            if all(self._existing_shape(shape["type"], shape["frame"], truth) != shape for truth in here):
                self.deleted["shapes"].append(shape)
        return AnnotatorCounts(deleted=len(self.deleted["shapes"]))

    def _frames(self) -> list[int]:
        deleted = set(self._meta.deleted_frames)
        asked = self._work.frames
        return [f for f in self._job.frames if f not in deleted and (asked is None or f in asked)]

    def _frame(self, frame: int) -> tuple[str, int, int]:
        video = len(self._meta.frames) == 1 and self._meta.size > 1
        name, width, height = self._meta.frames[0 if video else frame]
        return f"frame_{frame:06d}" if video else name, width, height

    def _name(self, frame: int) -> str:
        return self._frame(frame)[0]

    def _chance(self, *what: object) -> random.Random:
        """A source of chance that depends on what it is for, not on the order of work."""
        return random.Random("/".join(map(str, (self._seed, self._task.name, *what))))

    # Shapes and tags

    def _draw_single(self, kind: ShapeKind, frame: int, truth: TruthObject) -> AnnotatorCounts:
        name, width, height = self._frame(frame)
        chance = self._chance(kind, name, *_named(self._work.key_of(truth)))
        if chance.random() < self._sloppiness.missed:
            return AnnotatorCounts(missed=1)
        label, wrong = self._label(truth, chance)
        attributes, forgotten = self._attributes(label, truth, chance)
        counts = AnnotatorCounts(wrong_labels=wrong, forgotten_indices=forgotten)
        if kind == "tag":
            return counts + self._put_tag({"frame": frame, "label_id": label.id, "attributes": attributes}, truth)
        content: dict[str, Any] = {
            "type": kind,
            "frame": frame,
            "label_id": label.id,
            "attributes": attributes,
        }
        if kind == "skeleton":
            nodes = self._hand.nodes(truth, label, width, height, chance)
            elements = [
                {"type": "points", "frame": frame, "label_id": sub.id, **node_content(node), "attributes": []}
                for sub, node in zip(label.sublabels, nodes, strict=True)
            ]
            content |= {"points": [], "elements": elements}
        else:
            content["points"] = self._hand.geometry(kind, truth, name, width, height, chance)
        return counts + self._put_shape(content, truth)

    def _put_shape(self, content: dict[str, Any], truth: TruthObject) -> AnnotatorCounts:
        there = self._existing_shape(content["type"], content["frame"], truth)
        given = {} if truth.occluded is None else {"occluded": truth.occluded}
        if there is None:
            new = {"occluded": False, "group": truth.group, "source": "manual", "z_order": 0}
            self.drawn["shapes"].append({**new, **content, **given})
            return AnnotatorCounts(drawn=1)
        content = {**content, **given}
        if "elements" in content:
            content["elements"] = edited_elements(there.get("elements") or (), content["elements"])
        kind, (_, width, height) = content["type"], self._frame(content["frame"])
        shared = overlap(kind, content["points"], there["points"], (height, width))
        redrawn = 1.0 - shared if kind == "mask" and shared is not None else 0.0
        if self._is_content(shared):
            content["points"], redrawn = there["points"], 0.0
        if same_content(content, there):
            return AnnotatorCounts(confirmed=1)
        attributes = self._kept_attributes(there, content)
        self.changed["shapes"].append(
            {**there, **content, "attributes": attributes, "source": edited_source(there["source"])}
        )
        return AnnotatorCounts(changed=1, redrawn=redrawn)

    def _is_content(self, shared: float | None) -> bool:
        """Whether a shape that is there may stay, by its IoU with what would be drawn."""
        limit = self._sloppiness.content
        return shared is not None and limit is not None and shared >= limit

    def _put_tag(self, content: dict[str, Any], truth: TruthObject) -> AnnotatorCounts:
        there = self._existing_tag(content["frame"], truth)
        if there is None:
            self.drawn["tags"].append({**content, "group": truth.group, "source": "manual"})
            return AnnotatorCounts(drawn=1)
        values = {a["spec_id"]: a["value"] for a in there["attributes"]}
        wanted = {a["spec_id"]: a["value"] for a in content["attributes"]}
        if there["label_id"] == content["label_id"] and wanted.items() <= values.items():
            return AnnotatorCounts(confirmed=1)
        self.changed["tags"].append({**there, **content, "attributes": self._kept_attributes(there, content)})
        return AnnotatorCounts(changed=1)

    # Tracks

    def _draw_track(self, kind: ShapeKind, key: _Key) -> AnnotatorCounts:
        chance = self._chance("track", self._job.start_frame, *_named(key))
        first = next(t for here in self._truth.values() for t in here if self._is(t, kind, key))
        label, wrong = self._label(first, chance)
        attributes, forgotten = self._attributes(label, first, chance)
        levels = {a.id: a.mutable for a in label.attributes}
        there = self._existing_track(kind, first)
        common = {a["spec_id"]: a["value"] for a in attributes if levels[a["spec_id"]]}
        keyframes, counts = self._keyframes(kind, key, label, there, common)
        if not keyframes:
            return counts
        track: dict[str, Any] = {
            "label_id": label.id,
            "frame": min(k["frame"] for k in keyframes),
            "attributes": [a for a in attributes if not levels[a["spec_id"]]],
            "shapes": keyframes,
        }
        if kind == "skeleton":
            track["elements"] = element_tracks(label, keyframes, there)
        counts += AnnotatorCounts(wrong_labels=wrong, forgotten_indices=forgotten)
        if there is None:
            self.drawn["tracks"].append({**track, "group": first.group, "source": "manual"})
            return counts + AnnotatorCounts(drawn=len(keyframes))
        kept = self._kept_attributes(there, track)
        if same_track(track, kept, there):
            return counts + AnnotatorCounts(confirmed=len(keyframes))
        edited = {**there, **track, "attributes": kept, "source": edited_source(there["source"])}
        self.changed["tracks"].append(edited)
        return counts + AnnotatorCounts(changed=len(keyframes))

    def _is(self, truth: TruthObject, kind: ShapeKind, key: _Key) -> bool:
        return self._work.key_of(truth) == key and self._work.kind_of(truth) == kind

    def _keyframes(
        self, kind: ShapeKind, key: _Key, label: Label, there: dict[str, Any] | None, common: Mapping[int, str]
    ) -> tuple[list[dict[str, Any]], AnnotatorCounts]:
        """The keyframes of a track, in order; those of a skeleton hold their nodes as ``nodes``."""
        old = {int(s["frame"]): s for s in (there or {}).get("shapes", ())}
        old_nodes = nodes_by_frame(label, there)
        mutable = {a.name: a.id for a in label.attributes if a.mutable}
        keyframes: list[dict[str, Any]] = []
        counts = AnnotatorCounts()
        last: dict[str, Any] | None = None
        outside = True
        for frame in sorted({*self._truth, *old}):
            truth = next((t for t in self._truth.get(frame, ()) if self._is(t, kind, key)), None)
            name, width, height = self._frame(frame)
            chance = self._chance("box" if kind == "rectangle" else kind, name, *_named(key))
            overlooked = truth is not None and chance.random() < self._sloppiness.missed
            counts += AnnotatorCounts(missed=int(overlooked))
            if overlooked or frame not in self._truth:
                if frame in old:
                    last = {"points": list(old[frame]["points"]), "nodes": old_nodes.get(frame)}
                    outside = bool(old[frame]["outside"])
                    keyframes.append({**old[frame], **({"nodes": last["nodes"]} if kind == "skeleton" else {})})
                continue
            if truth is not None:
                last = self._place(kind, truth, label, name, width, height, chance)
                outside = False
                if frame in old and not old[frame]["outside"]:
                    there_now = list(old[frame]["points"])
                    if self._is_content(overlap(kind, last["points"], there_now, (height, width))):
                        last["points"] = there_now
            elif outside or last is None:
                continue
            else:
                outside = True
            here_given = {} if truth is None else truth.attributes
            own = {mutable[name]: str(value) for name, value in here_given.items() if name in mutable}
            before = {a["spec_id"]: a["value"] for a in old.get(frame, {}).get("attributes", ())}
            kept = {spec: value for spec, value in before.items() if spec in mutable.values()}
            occluded = old.get(frame, {}).get("occluded", False) if truth is None else truth.occluded
            keyframe = {
                "type": kind,
                "frame": frame,
                **{name: value for name, value in last.items() if name == "points" or kind == "skeleton"},
                "outside": outside,
                "occluded": bool(old.get(frame, {}).get("occluded", False) if occluded is None else occluded),
                "attributes": [{"spec_id": k, "value": v} for k, v in {**kept, **common, **own}.items()],
            }
            keyframes.append({**old.get(frame, {}), **keyframe})
        return keyframes, counts

    def _place(
        self,
        kind: ShapeKind,
        truth: TruthObject,
        label: Label,
        name: str,
        width: int,
        height: int,
        chance: random.Random,
    ) -> dict[str, Any]:
        if kind == "skeleton":
            return {"points": [], "nodes": self._hand.nodes(truth, label, width, height, chance)}
        return {"points": self._hand.geometry(kind, truth, name, width, height, chance)}

    # Labels and attributes

    def _label(self, truth: TruthObject, chance: random.Random) -> tuple[Label, int]:
        label = self._labels.label(truth.label)
        others = [
            other
            for other in self._labels
            if other.id != label.id and (other.type, len(other.sublabels)) == (label.type, len(label.sublabels))
        ]
        if others and chance.random() < self._sloppiness.wrong_label:
            return chance.choice(others), 1
        return label, 0

    def _attributes(self, label: Label, truth: TruthObject, chance: random.Random) -> tuple[list[dict[str, Any]], int]:
        names = {a.name for a in label.attributes}
        right = label.name == truth.label
        values = {k: str(v) for k, v in truth.attributes.items() if right or k in names}
        forgotten = 0
        wanted = right and label.type != "tag" and not truth.whole_frame
        if self._index_attribute is not None and (wanted or self._index_attribute in names):
            label.attribute(self._index_attribute)
            forgotten = int(chance.random() < self._sloppiness.forgotten_index)
            if not forgotten:
                values[self._index_attribute] = str(truth.object_id)
        return [{"spec_id": label.attribute(name).id, "value": value} for name, value in values.items()], forgotten

    def _kept_attributes(self, there: Mapping[str, Any], content: Mapping[str, Any]) -> list[dict[str, Any]]:
        """Attributes of an object that is there, overruled by those now given, as far as its label has them."""
        own = {a.id for a in self._labels.by_id(content["label_id"]).attributes}
        values = {a["spec_id"]: a["value"] for a in there.get("attributes") or () if a["spec_id"] in own}
        values.update({a["spec_id"]: a["value"] for a in content["attributes"]})
        return [{"spec_id": spec, "value": value} for spec, value in values.items()]

    # What is there

    def _index_of(self, item: Mapping[str, Any]) -> str | None:
        first_keyframe = (item.get("shapes") or [{}])[0]
        for entry in (*(item.get("attributes") or ()), *(first_keyframe.get("attributes") or ())):
            attribute = self._specs.get(entry["spec_id"])
            if attribute is not None and attribute.name == self._index_attribute:
                return str(entry["value"])
        return None

    def _existing_shape(self, kind: str, frame: int, truth: TruthObject) -> dict[str, Any] | None:
        here = [s for s in self._existing["shapes"] if (s["type"], s["frame"]) == (kind, frame)]
        return self._of_object(here, truth)

    def _existing_track(self, kind: str, truth: TruthObject) -> dict[str, Any] | None:
        tracks = sorted(self._existing["tracks"], key=lambda t: int(t["id"]))
        return self._of_object([t for t in tracks if t["shapes"][0]["type"] == kind], truth)

    def _existing_tag(self, frame: int, truth: TruthObject) -> dict[str, Any] | None:
        here = [t for t in self._existing["tags"] if t["frame"] == frame]
        label = self._labels.label(truth.label)
        if self._index_attribute in {attribute.name for attribute in label.attributes}:
            return self._of_object(here, truth)
        return next((dict(t) for t in here if t["label_id"] == label.id), None)

    def _of_object(self, items: Sequence[Mapping[str, Any]], truth: TruthObject) -> dict[str, Any] | None:
        """The one with the object's index: of its own label if there is one, of another where an index counts for all
        labels."""
        indexed = [item for item in items if self._index_of(item) == str(truth.object_id)]
        label = self._labels.label(truth.label)
        own = [item for item in indexed if item["label_id"] == label.id]
        found = own or (indexed if self._work.kind else [])
        return dict(found[0]) if found else None


__all__ = ["AnnotatorCounts", "Desk", "Truth", "Work"]
