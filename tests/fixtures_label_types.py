"""Labels of every type that FiftyOne annotates, and datasets full of them."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from typing import Any

import fiftyone as fo
import numpy as np
from bson import json_util
from fixtures_roundtrip import client_of

from labelprop_cvat.backend.cvat import CVATClient
from labelprop_cvat.backend.local_cvat import LocalCVAT

ATTRIBUTES = {
    "note": {"type": "text"},
    "pose": {"type": "select", "values": ["up", "down"], "default": "up", "mutable": False},
    "count": {"type": "number"},
    "sure": {"type": "checkbox"},
}

TARGETS = {1: "road", 2: "sky", 7: "tree"}


def detection(n: int) -> fo.Detection:
    return fo.Detection(label="car", bounding_box=[0.1 + 0.01 * n, 0.2, 0.3, 0.25], note="007", sure=bool(n % 2))


def instance(n: int) -> fo.Detection:
    mask = np.zeros((9, 12), bool)
    mask[1:7, 2 : 6 + n % 4] = True
    return fo.Detection(label="person", bounding_box=[0.25, 0.25, 12 / 128, 9 / 72], mask=mask, count=n)


def polygon(n: int) -> fo.Polyline:
    ring = [(0.1, 0.1), (0.4 + 0.01 * n, 0.12), (0.37, 0.51), (0.11, 0.4)]
    return fo.Polyline(label="roof", points=[ring], closed=True, filled=True, note="x")


def rings(n: int) -> fo.Polyline:
    """A polygon of two outlines."""
    first = polygon(n).points[0]
    second = [(0.6, 0.6), (0.8, 0.61), (0.7, 0.8 + 0.01 * n)]
    return fo.Polyline(label="roof", points=[first, second], closed=True, filled=True)


def polyline(n: int) -> fo.Polyline:
    return fo.Polyline(label="lane", points=[[(0.1, 0.9), (0.33, 0.5 + 0.01 * n), (0.6, 0.3)]], closed=bool(n % 2))


def keypoint(n: int) -> fo.Keypoint:
    nothing = [float("nan"), float("nan")]
    points = [[0.2, 0.2], nothing, [0.5 + 0.01 * n, 0.61]]
    return fo.Keypoint(label="pose", points=points, confidence=[0.5, 0.0, 0.9])


def classification(n: int) -> fo.Classification:
    return fo.Classification(label=("day", "night")[n % 2], confidence=0.25, note=f"n{n}")


def segmentation(n: int) -> fo.Segmentation:
    mask = np.zeros((72, 128), np.uint8)
    mask[:30], mask[30:50, 5 + n : 60], mask[60:, 3:9], mask[55:57, 100:] = 2, 1, 7, 99
    return fo.Segmentation(mask=mask)


MAKERS: dict[str, Callable[[int], Any]] = {
    "classification": classification,
    "classifications": lambda n: fo.Classifications(
        classifications=[classification(0), classification(1)] if n % 3 else [classification(n)]
    ),
    "detection": detection,
    "detections": lambda n: fo.Detections(detections=[detection(n), detection(n + 5)]),
    "instance": instance,
    "instances": lambda n: fo.Detections(detections=[instance(n), instance(n + 1)]),
    "polyline": polyline,
    "polylines": lambda n: fo.Polylines(polylines=[polyline(n), polyline(n + 7)]),
    "polygon": polygon,
    "polygons": lambda n: fo.Polylines(polylines=[polygon(n), rings(n)]),
    "keypoint": keypoint,
    "keypoints": lambda n: fo.Keypoints(keypoints=[keypoint(n), keypoint(n + 3)]),
    "segmentation": segmentation,
}

CLASSES = {
    "classification": ["day", "night"],
    "detection": ["car", "truck"],
    "instance": ["person", "dog"],
    "polyline": ["lane", "curb"],
    "polygon": ["roof", "wall"],
    "keypoint": ["pose", "face"],
}


def schema_of(kinds: Iterable[str], prefix: str = "") -> dict[str, Any]:
    schema: dict[str, Any] = {}
    for kind in kinds:
        entry: dict[str, Any] = {"type": kind}
        if kind == "segmentation":
            entry["mask_targets"] = dict(TARGETS)
        elif kind != "scalar":
            entry |= {"classes": CLASSES[kind.removesuffix("s")], "attributes": ATTRIBUTES}
        schema[f"{prefix}{kind}"] = entry
    return schema


def content(dataset: fo.Dataset, *fields: str) -> list[dict[str, Any]]:
    """All that some fields hold, sample by sample and frame by frame, comparable."""
    found = []
    for sample in dataset.iter_samples():
        values = {field: sample[field] for field in fields if not field.startswith("frames.")}
        for number in sample.frames if dataset.media_type == "video" else ():
            for field in fields:
                if field.startswith("frames."):
                    values[f"{number}.{field}"] = sample.frames[number][field.removeprefix("frames.")]
        found.append({name: _plain(value) for name, value in values.items()})
    return found


def _plain(value: Any) -> Any:
    if not isinstance(value, fo.Label):
        return value
    entry = json.loads(json_util.dumps(value.to_mongo()))
    labels = [value] if not hasattr(value, "_LABEL_LIST_FIELD") else value[value._LABEL_LIST_FIELD]
    masks = [label.mask.tolist() for label in labels if getattr(label, "mask", None) is not None]
    return [json.dumps(_without_masks(entry), sort_keys=True), masks]


def _without_masks(entry: Any) -> Any:
    if isinstance(entry, dict):
        return {key: _without_masks(value) for key, value in entry.items() if key != "mask"}
    return [_without_masks(value) for value in entry] if isinstance(entry, list) else entry


def finish_jobs(server: LocalCVAT, results: Any, edit: Callable[[CVATClient, int], None] | None = None) -> None:
    """Completes every job of a run, after ``edit(client, job_id)`` where one is given."""
    with client_of(server) as client:
        for _, job in results.ledger.jobs():
            if edit is not None:
                edit(client, job.id)
            client.update_job(job.id, state="completed")
