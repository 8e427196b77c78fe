"""What people do in CVAT to attack a round trip, and what is looked at afterwards."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import fiftyone as fo
import numpy as np
from bson import json_util
from fixtures_label_types import MAKERS
from fixtures_roundtrip import image_dataset, login

from labelprop_cvat.backend.cvat import CVATClient
from labelprop_cvat.backend.local_cvat import LocalCVAT

Edit = Callable[[CVATClient, int], None]


KINDS = [*MAKERS]


LISTS = [kind for kind in KINDS if kind.endswith("s")]


SINGLE = [kind for kind in KINDS if not kind.endswith("s")]


def annotate(server: LocalCVAT, samples: Any, key: str = "run", **options: Any) -> Any:
    return samples.annotate(key, backend="labelprop", **{"engine": "none", **options}, **login(server))


def strip(entry: dict[str, Any]) -> dict[str, Any]:
    """An entry of CVAT's annotations as a new one."""
    kept = {name: value for name, value in entry.items() if name not in ("id", "elements")}
    if "shapes" in kept:
        kept["shapes"] = [{n: v for n, v in shape.items() if n != "id"} for shape in kept["shapes"]]
    return kept


def move_all(client: CVATClient, job_id: int) -> None:
    """Moves every shape by four pixels, and writes a note where there is one."""
    there = client.annotations(job_id=job_id)
    notes = {a.id for label in client.labels(job_id=job_id) for a in label.attributes if a.name == "note"}
    shapes = [*there["shapes"], *(shape for track in there["tracks"] for shape in track["shapes"])]
    for shape in shapes:
        if shape["type"] == "mask":
            shape["points"][-4] += 4
            shape["points"][-2] += 4
        else:
            shape["points"][0::2] = [x + 4 for x in shape["points"][0::2]]
    for entry in (*there["tags"], *shapes):
        for attribute in entry["attributes"]:
            if attribute["spec_id"] in notes:
                attribute["value"] = "moved"
    client.update_annotations({kind: there[kind] for kind in ("tags", "shapes", "tracks")}, job_id=job_id)


def label_ids(dataset: fo.Dataset, field: str) -> list[list[str]]:
    found = []
    for value in dataset.values(field):
        labels = (
            [] if value is None else value[value._LABEL_LIST_FIELD] if hasattr(value, "_LABEL_LIST_FIELD") else [value]
        )
        found.append([label.id for label in labels])
    return found


def note_all(client: CVATClient, job_id: int) -> None:
    """Writes a note everywhere, and touches nothing else."""
    there = client.annotations(job_id=job_id)
    notes = {a.id for label in client.labels(job_id=job_id) for a in label.attributes if a.name == "note"}
    for entry in (*there["tags"], *there["shapes"], *(shape for track in there["tracks"] for shape in track["shapes"])):
        for attribute in entry["attributes"]:
            if attribute["spec_id"] in notes:
                attribute["value"] = "noted"
    client.update_annotations({kind: there[kind] for kind in ("tags", "shapes", "tracks")}, job_id=job_id)


def places(dataset: fo.Dataset, kinds: list[str]) -> list[Any]:
    found = []
    for sample in dataset:
        for kind in kinds:
            value = sample[kind]
            for label in value[value._LABEL_LIST_FIELD] if hasattr(value, "_LABEL_LIST_FIELD") else [value]:
                geometry = label.bounding_box if isinstance(label, fo.Detection) else getattr(label, "points", None)
                found.append((kind, label.id, label.label, str(geometry)))
    return found


def outcome(dataset: fo.Dataset, kinds: list[str]) -> list[Any]:
    """What a load made of it, without label ids, which differ between datasets."""
    found = []
    for sample in dataset:
        for kind in kinds:
            value = sample[kind]
            labels = (
                []
                if value is None
                else value[value._LABEL_LIST_FIELD]
                if hasattr(value, "_LABEL_LIST_FIELD")
                else [value]
            )
            found.append((kind, len(labels), [label.get_attribute_value("note", None) for label in labels]))
    return found


def change_everything(client: CVATClient, job_id: int) -> None:
    """Deletes, moves and adds something of every kind on the first frame."""
    move_all(client, job_id)
    there = client.annotations(job_id=job_id)
    names = {label.id: label.name for label in client.labels(job_id=job_id)}
    tag = next((tag for tag in there["tags"] if names[tag["label_id"]].endswith("classifications")), None)
    firsts = {(names[s["label_id"]], s["type"]): s for s in reversed(there["shapes"]) if s["frame"] == 0}
    lasts = {(names[s["label_id"]], s["type"]): s for s in there["shapes"] if s["frame"] == 1}
    added = [strip(shape) for (name, _), shape in firsts.items() if name.endswith("s")]
    client.create_annotations({"shapes": added, "tags": [strip(tag)] if tag else []}, job_id=job_id)
    gone = [shape for (name, _), shape in lasts.items() if name.endswith("s")]
    client.delete_annotations({"shapes": gone}, job_id=job_id)


def draw_line_and_box(line: str, box: str) -> Edit:
    def draw(client: CVATClient, job_id: int) -> None:
        names = {label.name: label.id for label in client.labels(job_id=job_id)}
        shape = {"frame": 0, "group": 0, "source": "manual", "attributes": [], "occluded": False, "z_order": 0}
        entry = {**shape, "points": [1, 2, 30, 40], "rotation": 0}
        shapes = [
            {**entry, "type": "polyline", "label_id": names[line]},
            {**entry, "type": "rectangle", "label_id": names[box]},
        ]
        client.create_annotations({"shapes": shapes}, job_id=job_id)

    return draw


def duplicate(client: CVATClient, job_id: int) -> None:
    """Draws everything that is there once more, four pixels further, and leaves both."""
    there = client.annotations(job_id=job_id)
    copies = {kind: [strip(entry) for entry in there[kind]] for kind in ("tags", "shapes", "tracks")}
    for shape in [*copies["shapes"], *(shape for track in copies["tracks"] for shape in track["shapes"])]:
        if shape["type"] == "mask":
            shape["points"][-4] += 4
            shape["points"][-2] += 4
        else:
            shape["points"][0::2] = [x + 4 for x in shape["points"][0::2]]
    client.create_annotations(copies, job_id=job_id)


def redraw(client: CVATClient, job_id: int) -> None:
    there = client.annotations(job_id=job_id)
    duplicate(client, job_id)
    client.delete_annotations({kind: there[kind] for kind in ("tags", "shapes", "tracks")}, job_id=job_id)


def _of(entry: Any) -> dict[str, Any]:
    found: dict[str, Any] = json_util.loads(entry[0])
    return found


def _points(entry: Any) -> Any:
    return _of(entry)["points"]


def delete_first_frame(client: CVATClient, job_id: int) -> None:
    there = client.annotations(job_id=job_id)
    first = {kind: [entry for entry in there[kind] if entry["frame"] == 0] for kind in ("tags", "shapes", "tracks")}
    client.delete_annotations(first, job_id=job_id)


def box(*numbers: float, **fields: Any) -> fo.Detection:
    return fo.Detection(label="car", bounding_box=[*numbers], **fields)


def outlines(*rings: list[tuple[float, float]], filled: bool = True) -> fo.Polyline:
    return fo.Polyline(label="roof" if filled else "lane", points=[*rings], closed=filled, filled=filled)


NOWHERE = float("nan")


CORNERS = [(0.1, 0.1), (0.5, 0.5), (0.5, 0.1)]


CIRCLE = [(0.5 + 0.4 * math.cos(n / 239), 0.5 + 0.4 * math.sin(n / 239)) for n in range(1500)]


def blob(*numbers: float, mask: Any) -> fo.Detection:
    return fo.Detection(label="person", bounding_box=[*numbers], mask=np.asarray(mask))


HOSTILE: dict[str, list[Any]] = {
    "detections": [
        box(0.2, 0.2, 0, 0.1),
        box(0.2, 0.2, -0.1, 0.1),
        box(0.1, 0.1, 1e-9, 1e-9),
        box(0.1, 0.1, 1e9, 1e9),
        box(-0.5, -0.5, 2, 2),
        box(1.5, 1.5, 0.1, 0.1),
    ],
    "instances": [
        blob(0.5, 0.5, 0.1, 0.1, mask=np.zeros((0, 0), bool)),
        blob(0.5, 0.5, 0, 0, mask=np.ones((7, 12), bool)),
        blob(0.5, 0.5, 0.1, 0.1, mask=np.zeros((7, 12), bool)),
        blob(2, 2, 0.1, 0.1, mask=np.ones((7, 12), bool)),
        blob(0.5, 0.5, 1 / 128, 1 / 72, mask=[[True]]),
        blob(0, 0, 1, 1, mask=np.indices((72, 128)).sum(0) % 2 == 0),
        blob(0.5, 0.5, 0.1, 0.1, mask=np.ones((7, 12, 3), np.uint8)),
    ],
    "polygons": [
        outlines([(0.1, 0.1), (0.5, 0.5)]),
        outlines([]),
        outlines(),
        outlines(CORNERS, [(1e9, 0), (1e9, 1), (0, 0)]),
        outlines([(0.1, 0.1), (0.5, 0.5), (0.5, 0.1), (0.1, 0.5)]),
        outlines([(-0.5, -0.5), (1.5, 0.5), (0.5, 1.5)]),
        outlines(CIRCLE),
        outlines(CORNERS, [(0.1, 0.1), (0.5, 0.5)]),
    ],
    "polylines": [outlines([(0.1, 0.1)], filled=False), outlines(CIRCLE, filled=False)],
    "keypoints": [
        fo.Keypoint(label="pose", points=[[NOWHERE, NOWHERE]] * 2),
        fo.Keypoint(label="pose", points=[]),
        fo.Keypoint(label="pose", points=[[1e9, 0.1]]),
        fo.Keypoint(label="pose", points=[[0.1, NOWHERE], [0.2, 0.2]]),
        fo.Keypoint(label="pose", points=[[-3, 4], [0.5, 0.5]]),
    ],
}


ROWS = np.indices((72, 128))[0]


MASKS: dict[str, Any] = {
    "unknown": np.full((72, 128), 99, np.uint8),
    "uint16": np.where(ROWS > 9, 7, 60000).astype(np.uint16),
    "int32": np.where(ROWS > 9, 7, -5).astype(np.int32),
    "float": np.where(ROWS > 9, 7, 0).astype(float),
    "bool": ROWS > 9,
    "rgb": np.stack([ROWS * 0, ROWS * 0, np.where(ROWS > 9, 7, 99)], -1).astype(np.uint8),
    "another size": np.where(np.indices((36, 64))[0] > 9, 7, 99).astype(np.uint8),
    "nothing": np.zeros((0, 0), np.uint8),
}


def paint_corner(client: CVATClient, job_id: int) -> None:
    names = {label.name: label.id for label in client.labels(job_id=job_id)}
    shape = {"type": "rectangle", "points": [0, 0, 10, 10], "frame": 0, "label_id": names["sky"], "group": 0}
    created = {**shape, "source": "manual", "attributes": [], "occluded": False, "z_order": 1, "rotation": 0}
    client.create_annotations({"shapes": [created]}, job_id=job_id)


def two_fields(images: list[Path]) -> fo.Dataset:
    def boxes(n: int) -> fo.Detections | None:
        label = fo.Detection(label="car", bounding_box=[0.1 + 0.02 * n, 0.2, 0.3, 0.25], index=1)
        return fo.Detections(detections=[label]) if n in (0, 3) else None

    def masks(n: int) -> fo.Detections | None:
        label = blob(0.5, 0.25, 12 / 128, 9 / 72, mask=np.ones((9, 12), bool))
        label.label, label.index = "car", 1
        return fo.Detections(detections=[label]) if n in (0, 3) else None

    return image_dataset(images, boxes=boxes, masks=masks)


TWO = {"boxes": {"type": "detections", "classes": ["car"]}, "masks": {"type": "instances", "classes": ["car"]}}


def exchange(client: CVATClient, job_id: int) -> None:
    """Gives every shape the class of the other field."""
    names = {label.name: label.id for label in client.labels(job_id=job_id)}
    there = client.annotations(job_id=job_id)
    for kind in ("shapes", "tracks"):
        for entry in there[kind]:
            entry["label_id"] = names["car_boxes" if entry["label_id"] == names["car_masks"] else "car_masks"]
            entry["attributes"] = []
    client.update_annotations({kind: there[kind] for kind in ("shapes", "tracks")}, job_id=job_id)


def filled(dataset: fo.Dataset) -> list[Any]:
    return [
        [(label.label, label.index, [round(number, 4) for number in label.bounding_box]) for label in value.detections]
        for name in ("boxes_propagated", "masks_propagated")
        for value in dataset.values(name)
    ]
