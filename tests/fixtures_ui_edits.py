"""Recorded edits of CVAT's web page, done again on a run of this package.

A recording says which objects an edit removed, added and changed. The objects as they were before become labels of a
dataset, go to the local server as a run's own upload, and are brought to exactly the recorded state; then the recorded
change is made with the calls that the web page makes. Frames between those that a recording names are left out, so the
n-th frame of a desk is the n-th one named.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import cv2
import fiftyone as fo
import numpy as np
from conftest import SHARED
from fixtures_roundtrip import client_of, image_dataset, login

from labelprop_cvat.backend.cvat import CVATClient, mask_to_points, points_to_mask
from labelprop_cvat.backend.local_cvat import LocalCVAT
from labelprop_cvat.labels import mask_to_detection
from labelprop_cvat.propagation.types import ObjectMask

RECORDINGS = SHARED / "cvat-2.54.1" / "ui_edits"
KEY = "edits"

#: ``(height, width)``, pixels; the recorded video was of this size.
SIZE = (480, 854)

#: The field that each of CVAT's shapes belongs to, and its label type.
FIELDS = {"rectangle": ("boxes", "detections"), "polygon": ("outlines", "polygons"), "mask": ("masks", "instances")}

ATTRIBUTES = {
    "verdict": {"type": "select", "values": ["unset", "accept", "fix"], "default": "unset", "mutable": False},
    "note": {"type": "text"},
    "hidden": {"type": "occluded"},
    "team": {"type": "group_id"},
}

# The recorded labels and attributes: two labels of one task, and labels of tasks of their own.
_CLASSES = {69: "car", 71: "car", 72: "car", 73: "person", 74: "car"}
_SPECS = {
    number: name
    for first in (64, 70, 73, 76, 79)
    for number, name in zip(range(first, first + 3), ("index", "verdict", "note"), strict=True)
}

Payload = dict[str, list[dict[str, Any]]]


def empty() -> Payload:
    return {"tags": [], "shapes": [], "tracks": []}


@dataclass(frozen=True)
class Recording:
    """One recorded edit, in the names of this package.

    Attributes:
        removed: objects that are gone
        added: objects that are new, with the ids that CVAT gave them
        changed: ``(before, after)`` of objects that kept their id

    Objects are as CVAT gives them, but for ``label`` and ``attributes``, which go by name, and the index: recorded
    objects were numbered from 0, and are numbered from 1 here.
    """

    name: str
    removed: Payload
    added: Payload
    changed: Mapping[str, Sequence[tuple[dict[str, Any], dict[str, Any]]]]

    @property
    def before(self) -> Payload:
        """Everything that the edit touched, as it was."""
        return {kind: [*self.removed[kind], *(old for old, _ in self.changed[kind])] for kind in empty()}

    @property
    def after(self) -> Payload:
        """Everything that the edit touched, as it became."""
        return {kind: [*self.added[kind], *(new for _, new in self.changed[kind])] for kind in empty()}

    def object(self, number: int) -> dict[str, Any]:
        """The object with an id: as it became, or as it was when it is gone."""
        found = [o for payload in (self.after, self.before) for o in objects_of(payload) if o["id"] == number]
        return found[0]


def objects_of(payload: Payload) -> Iterator[dict[str, Any]]:
    for entries in payload.values():
        yield from entries


def keyframes_of(entry: Mapping[str, Any]) -> list[dict[str, Any]]:
    return list(entry["shapes"]) if "shapes" in entry else [dict(entry)]


def names() -> list[str]:
    """All recordings; empty where they are not at hand."""
    return sorted(path.stem for path in RECORDINGS.glob("*.json"))


@cache
def _read(name: str) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((RECORDINGS / f"{name}.json").read_text())
    return content


def recording(name: str, *, unnumbered: Collection[int] = (), frames: Collection[int] | None = None) -> Recording:
    """Reads a recording.

    Args:
        name: its file name without extension
        unnumbered: ids of objects that have no index, or lost it by the edit
        frames: of tracks with a keyframe on every frame, only those on these are taken
    """
    content = _read(name)
    shift = 1 if name.startswith("p3_") and "_rest_" not in name and "_zz_" not in name else 0

    def read(entry: Mapping[str, Any], *, as_it_was: bool = False) -> dict[str, Any]:
        values = {_SPECS[a["spec_id"]]: a["value"] for a in entry["attributes"]}
        is_unnumbered = entry["id"] in unnumbered and not as_it_was
        values["index"] = "0" if is_unnumbered else str(int(values["index"]) + shift)
        copied = {**entry, "label": _CLASSES[entry["label_id"]], "attributes": values}
        if "shapes" in entry:
            copied["shapes"] = [
                {**shape, "attributes": {_SPECS[a["spec_id"]]: a["value"] for a in shape["attributes"]}}
                for shape in entry["shapes"]
                if frames is None or shape["frame"] in frames
            ]
        return copied

    kinds = tuple(empty())
    return Recording(
        name,
        {kind: [read(entry) for entry in content[kind]["removed"]] for kind in kinds},
        {kind: [read(entry) for entry in content[kind]["added"]] for kind in kinds},
        {
            kind: [(read(entry["before"], as_it_was=True), read(entry["after"])) for entry in content[kind]["changed"]]
            for kind in kinds
        },
    )


def bystanders(number: int, index: int, types: Iterable[str], frames: Iterable[int]) -> Payload:
    """Objects in a corner that nobody touches: one of each kind, on the first and the last frame."""
    first, *_, last = sorted({*frames, *frames}) * 2
    made = empty()
    for shape_type in types:
        if shape_type == "mask":
            mask = box_track(number, index, sorted({first, last}), mask_to_points(5, 5, np.ones((9, 9), bool)))
            for place, shape in enumerate(mask["shapes"]):
                shape.update(mask, id=number + 10 + place, type="mask", frame=shape["frame"])
                shape["attributes"] = {**mask["attributes"], "note": ""}
                del shape["shapes"]
                made["shapes"].append(shape)
            continue
        points = [5, 5, 25, 25] if shape_type == "rectangle" else [5, 5, 25, 5, 25, 25]
        track = box_track(number + (shape_type == "polygon"), index, sorted({first, last}), points)
        for shape in track["shapes"]:
            shape["type"] = shape_type
        made["tracks"].append(track)
    return made


def together(*payloads: Payload) -> Payload:
    """Several payloads as one."""
    return {kind: [entry for payload in payloads for entry in payload[kind]] for kind in empty()}


def box_track(number: int, index: int, frames: Iterable[int], points: Sequence[float], **more: Any) -> dict[str, Any]:
    """A track of boxes like a recorded one."""
    shapes = [
        {
            "id": 0,
            "type": "rectangle",
            "frame": frame,
            "points": list(points),
            "outside": False,
            "occluded": False,
            "rotation": 0,
            "z_order": 0,
            "attributes": {"note": ""},
        }
        for frame in frames
    ]
    return {
        "id": number,
        "label": "car",
        "frame": shapes[0]["frame"],
        "group": 0,
        "source": "auto",
        "attributes": {"index": str(index), "verdict": "unset"},
        "shapes": shapes,
        **more,
    }


class FrameFiles:
    """Images of the recorded size, one for each frame, made when they are asked for."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def __getitem__(self, number: int) -> Path:
        path = self._folder / f"{number:04d}.png"
        if not path.exists():
            cv2.imwrite(str(path), np.full((*SIZE, 3), number % 256, np.uint8))
        return path


def _label(entry: Mapping[str, Any], keyframe: Mapping[str, Any]) -> fo.Label:
    height, width = SIZE
    attributes = {**entry["attributes"], **keyframe["attributes"]}
    values = {
        "label": entry["label"],
        "index": int(attributes["index"]) or None,
        "verdict": attributes["verdict"],
        "note": attributes["note"] or None,
        "hidden": keyframe["occluded"],
        "team": entry["group"] or None,
        "confidence": 0.5,
        "tags": ["kept"],
    }
    points = keyframe["points"]
    if keyframe["type"] == "rectangle":
        x1, y1, x2, y2 = points
        box = [x1 / width, y1 / height, (x2 - x1) / width, (y2 - y1) / height]
        if keyframe["rotation"]:
            values["rotation"] = keyframe["rotation"]
        return fo.Detection(bounding_box=box, **values)
    if keyframe["type"] == "polygon":
        ring = [(x / width, y / height) for x, y in zip(points[0::2], points[1::2], strict=True)]
        return fo.Polyline(points=[ring], closed=True, filled=True, **values)
    found = ObjectMask.from_crop(*points_to_mask(points))
    placed = None if found is None else mask_to_detection(found, SIZE)
    assert placed is not None
    return fo.Detection(bounding_box=placed[0], mask=np.array(placed[1]), **values)


@dataclass
class Desk:
    """An annotator's desk: a run whose objects are those of a recording.

    Attributes:
        numbers: the frame numbers of the recording, in order
        at: which of the run's jobs is on the desk
        ids: id in the recording -> id on the local server
    """

    dataset: fo.Dataset
    results: Any
    client: CVATClient
    numbers: list[int]
    fields: dict[str, str]
    at: int = 0
    ids: dict[int, int] = field(default_factory=dict)
    keyframe_ids: dict[tuple[int, int], int] = field(default_factory=dict)

    @property
    def task(self) -> Any:
        (task,) = self.results.ledger.tasks()
        return task

    @property
    def job(self) -> Any:
        return self.task.jobs[self.at]

    # --- CVAT

    def annotations(self) -> dict[str, Any]:
        return self.client.annotations(job_id=self.job.id)

    def _names(self, shape_type: str, label: str) -> Any:
        labels = self.task.labels
        return labels[label] if label in labels else labels[f"{label}_{self.fields[shape_type]}"]

    def theirs(self, entry: Mapping[str, Any], *, new: bool) -> dict[str, Any]:
        """An object of a recording as the local server takes it; a new one without ids."""
        spec = self._names(keyframes_of(entry)[0]["type"], entry["label"])

        def attributes(values: Mapping[str, str]) -> list[dict[str, Any]]:
            return [{"spec_id": spec.attributes[name], "value": value} for name, value in values.items()]

        def place(frame: int) -> int:
            # Every frame is an exemplar, whichever job it is in.
            return self.numbers.index(frame)

        made = {
            **{k: v for k, v in entry.items() if k not in ("id", "label", "label_id")},
            "label_id": spec.id,
            "frame": place(entry["frame"]),
            "attributes": attributes(entry["attributes"]),
        }
        if "shapes" in entry:
            made["shapes"] = []
            for shape in entry["shapes"]:
                copied = {k: v for k, v in shape.items() if k != "id"}
                known = self.keyframe_ids.get((entry["id"], shape["frame"]))
                if known is not None and not new:
                    copied["id"] = known
                made["shapes"].append(
                    {**copied, "frame": place(shape["frame"]), "attributes": attributes(shape["attributes"])}
                )
        return made if new else {**made, "id": self.ids[entry["id"]]}

    def draw(self, payload: Payload) -> None:
        """Makes objects, as the web page does when a job is saved."""
        if not any(payload.values()):
            return
        body = {kind: [self.theirs(entry, new=True) for entry in payload[kind]] for kind in empty()}
        made = self.client.create_annotations(body, job_id=self.job.id)
        for kind in ("shapes", "tracks"):
            for entry, answer in zip(payload[kind], made[kind], strict=True):
                self._note(entry, answer)

    def change(self, payload: Payload) -> None:
        """Changes objects in place."""
        if not any(payload.values()):
            return
        body = {kind: [self.theirs(entry, new=False) for entry in payload[kind]] for kind in empty()}
        self.client.update_annotations(body, job_id=self.job.id)
        there = {(kind, entry["id"]): entry for kind in empty() for entry in self.annotations()[kind]}
        for kind in ("shapes", "tracks"):
            for entry in payload[kind]:
                self._note(entry, there[kind, self.ids[entry["id"]]])

    def delete(self, payload: Payload) -> None:
        """Deletes objects."""
        if not any(payload.values()):
            return
        body = {kind: [self.theirs(entry, new=False) for entry in payload[kind]] for kind in empty()}
        self.client.delete_annotations(body, job_id=self.job.id)

    def _note(self, entry: Mapping[str, Any], answer: Mapping[str, Any]) -> None:
        self.ids[entry["id"]] = answer["id"]
        for shape in answer.get("shapes", ()):
            frame = self.numbers[shape["frame"]]
            self.keyframe_ids[entry["id"], frame] = shape["id"]

    def do(self, edit: Recording) -> None:
        """Makes the recorded change: the web page sends what changed, what is new and what is gone, each by itself."""
        self.change({kind: [new for _, new in edit.changed[kind]] for kind in empty()})
        self.draw(edit.added)
        self.delete(edit.removed)

    def finish(self) -> None:
        for job in self.task.jobs:
            self.client.update_job(job.id, state="completed")

    # --- FiftyOne

    def load(self) -> None:
        self.dataset.load_annotations(KEY)
        self.results = self.dataset.load_annotation_results(KEY)

    def labels(self, field: str = "boxes") -> dict[int, dict[int, Any]]:
        """Frame number -> index -> label; an index that stands twice on a frame fails."""
        found: dict[int, dict[int, Any]] = {}
        for sample in self.dataset.sort_by("number"):
            value = sample[field] if self.dataset.get_field(field) is not None else None
            entries = [] if value is None else value[value._LABEL_LIST_FIELD]
            by_index = {label.index: label for label in entries}
            assert len(by_index) == len(entries), f"{field} has an index twice on frame {sample.number}"
            if by_index:
                found[sample.number] = by_index
        return found

    def track(self, index: int, field: str = "boxes") -> dict[int, Any]:
        """The labels of one object by frame number."""
        return {number: labels[index] for number, labels in self.labels(field).items() if index in labels}

    def everything(self) -> dict[str, Any]:
        """All values of all fields, to see that nothing changed."""
        found = {}
        for name in self.dataset.get_field_schema(embedded_doc_type=fo.Label):
            found[name] = [
                None if value is None else _plain(value.to_dict())
                for value in self.dataset.sort_by("number").values(name)
            ]
        return found


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {
            name: _plain(entry)
            for name, entry in value.items()
            if entry is not None and name not in ("last_modified_at", "created_at")
        }
    if isinstance(value, list):
        return [_plain(entry) for entry in value]
    return value


def _was_sent(entry: Mapping[str, Any]) -> bool:
    """Whether an object came from an upload, as opposed to a person's hand."""
    return bool(entry["source"] != "manual" or entry["group"])


@contextmanager
def desk_for(
    server: LocalCVAT,
    files: FrameFiles,
    before: Payload,
    *more: Payload,
    sent: Collection[int] | None = None,
    loaded: bool = True,
    unaligned: bool = False,
    confirmed: bool = False,
    prepare: Callable[[fo.Dataset], None] | None = None,
    restrictions: Mapping[str, bool] | None = None,
    **options: Any,
) -> Iterator[Desk]:
    """A run whose one job holds some recorded objects.

    Args:
        server: the local server
        files: an image for each frame number
        before: the objects
        more: objects that will come, so that their frames are among the job's
        sent: ids of the objects that are labels of the dataset; the others are drawn in CVAT. By default those that
            were uploaded when they were recorded
        loaded: whether everything is loaded before the desk is given
        unaligned: whether the upload stays as it is, with its own marks of where labels end
        confirmed: whether the labels are those that a person made in an earlier run
        prepare: changes the dataset before it is annotated
        restrictions: FiftyOne's ``allow_...`` settings of all fields
        options: further parameters of ``annotate()``
    """
    everything = [entry for payload in (before, *more) for entry in objects_of(payload)]
    numbers = sorted({keyframe["frame"] for entry in everything for keyframe in keyframes_of(entry)})
    types = sorted({keyframe["type"] for entry in everything for keyframe in keyframes_of(entry)})
    fields = {shape_type: FIELDS[shape_type][0] for shape_type in types}
    is_sent = {e["id"] for e in objects_of(before) if (_was_sent(e) if sent is None else e["id"] in sent)}

    def make(shape_type: str, number: int) -> fo.Label | None:
        found = [
            _label(entry, keyframe)
            for entry in objects_of(before)
            if entry["id"] in is_sent
            for keyframe in keyframes_of(entry)
            if keyframe["frame"] == number and keyframe["type"] == shape_type and not keyframe["outside"]
        ]
        if shape_type == "polygon":
            return fo.Polylines(polylines=found) if found else None
        return fo.Detections(detections=found) if found else None

    dataset = image_dataset([files[number] for number in numbers])
    dataset.set_values("number", numbers)
    for shape_type, name in fields.items():
        dataset.add_sample_field(
            name, fo.EmbeddedDocumentField, embedded_doc_type=fo.Polylines if shape_type == "polygon" else fo.Detections
        )
        dataset.set_values(name, [make(shape_type, number) for number in numbers])
    if confirmed:
        for name in fields.values():
            for sample in dataset.iter_samples(autosave=True):
                for label in sample[name][sample[name]._LABEL_LIST_FIELD] if sample[name] is not None else ():
                    label["keyframe"] = True
    if prepare is not None:
        prepare(dataset)
    schema = {
        name: {
            "type": FIELDS[shape_type][1],
            "classes": ["car", "person"],
            "attributes": ATTRIBUTES,
            **(restrictions or {}),
        }
        for shape_type, name in fields.items()
    }
    results = dataset.annotate(
        KEY,
        **{
            "backend": "labelprop",
            "label_schema": schema,
            "sort_field": "number",
            "segmentation": "none",
            "exemplars": "every:1",
            "engine": "none",
            **options,
        },
        **login(server),
    )
    with client_of(server) as client:
        desk = Desk(dataset, results, client, numbers, fields)
        if not unaligned:
            _lay_out(desk, before, is_sent)
        desk.finish()
        if loaded:
            desk.load()
        yield desk


def _lay_out(desk: Desk, before: Payload, is_sent: Collection[int]) -> None:
    """Brings a fresh upload to exactly what was recorded."""
    there = desk.annotations()
    for kind in ("shapes", "tracks"):
        for entry in before[kind]:
            if entry["id"] not in is_sent:
                continue
            wanted = desk.theirs(entry, new=True)
            index = next(a for a in wanted["attributes"] if a["value"] == entry["attributes"]["index"])
            answer = next(
                found
                for found in there[kind]
                if found["label_id"] == wanted["label_id"]
                and found["frame"] == wanted["frame"]
                and (index in found["attributes"] or entry["attributes"]["index"] == "0")
            )
            desk._note(entry, answer)
    sent = {kind: [entry for entry in before[kind] if entry["id"] in is_sent] for kind in empty()}
    desk.change({kind: [entry for entry in entries if _differs(desk, entry)] for kind, entries in sent.items()})
    desk.draw({kind: [entry for entry in before[kind] if entry["id"] not in is_sent] for kind in empty()})


def _differs(desk: Desk, entry: Mapping[str, Any]) -> bool:
    kind = "tracks" if "shapes" in entry else "shapes"
    there = next(found for found in desk.annotations()[kind] if found["id"] == desk.ids[entry["id"]])
    wanted = desk.theirs(entry, new=False)
    return _content(wanted) != _content(there)


def _content(entry: Mapping[str, Any]) -> Any:
    if "shapes" in entry:
        return [_content(shape) for shape in sorted(entry["shapes"], key=lambda shape: int(shape["frame"]))]
    points = [round(value, 6) for value in entry["points"]]
    return entry["frame"], points, entry["outside"], entry["occluded"], round(entry["rotation"], 6)


__all__ = [
    "ATTRIBUTES",
    "KEY",
    "SIZE",
    "Desk",
    "FrameFiles",
    "Recording",
    "box_track",
    "bystanders",
    "desk_for",
    "empty",
    "keyframes_of",
    "names",
    "objects_of",
    "recording",
    "together",
]
