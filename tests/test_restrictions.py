"""What a run does not allow does not happen, whatever people do in CVAT: not on the first load, not on the second."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import fiftyone as fo
import numpy as np
import pytest
from fixtures_label_types import MAKERS, TARGETS, finish_jobs
from fixtures_roundtrip import image_dataset, login, video_dataset, write_images, write_video

from labelprop_cvat.backend.cvat import CVATClient
from labelprop_cvat.backend.local_cvat import LocalCVAT

Edit = Callable[[CVATClient, int], None]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalCVAT]:
    with LocalCVAT(tmp_path_factory.mktemp("cvat"), anonymous_rate=None) as running:
        yield running


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return write_images(tmp_path_factory.mktemp("images"), 5)


# Objects, of every kind that has a place


def box(n: int) -> fo.Detection:
    return fo.Detection(label="car", bounding_box=[0.1 + 0.05 * n, 0.2, 0.3, 0.25], index=1, note="n", rotation=10)


def blob(n: int) -> fo.Detection:
    mask = np.ones((9, 12), bool)
    mask[0, 0] = False
    return fo.Detection(label="car", bounding_box=[(20 + 4 * n) / 128, 0.25, 12 / 128, 9 / 72], mask=mask, index=1)


def area(n: int) -> fo.Polyline:
    ring = [(0.1 + 0.05 * n, 0.1), (0.4 + 0.05 * n, 0.12), (0.37 + 0.05 * n, 0.51)]
    return fo.Polyline(label="car", points=[ring], closed=True, filled=True, index=1)


def points(n: int) -> fo.Keypoint:
    return fo.Keypoint(label="car", points=[[0.2 + 0.05 * n, 0.2], [math.nan, math.nan], [0.5, 0.6]], index=1)


KINDS: dict[str, tuple[Callable[[int], fo.Label], type[fo.Label]]] = {
    "detections": (box, fo.Detections),
    "instances": (blob, fo.Detections),
    "polygons": (area, fo.Polylines),
    "keypoints": (points, fo.Keypoints),
}
CLASSES = ["car", "bus"]
ATTRIBUTES = {"note": {"type": "text"}, "locked": {"type": "text", "read_only": True}}


def scene(images: list[Path], *kinds: str) -> fo.Dataset:
    """Five frames; an object of each kind stands on the first, the middle and the last, which are the exemplars."""

    def labels(kind: str, n: int) -> fo.Label | None:
        make, listed = KINDS[kind]
        return listed(**{listed._LABEL_LIST_FIELD: [make(n)]}) if n % 2 == 0 else None

    return image_dataset(images, **{kind: partial(labels, kind) for kind in kinds})


def annotate(server: LocalCVAT, dataset: fo.Dataset, edit: Edit | None, **options: Any) -> Any:
    kinds = [kind for kind in KINDS if dataset.get_field(kind) is not None]
    entry = {"classes": CLASSES, "attributes": options.pop("attributes", ATTRIBUTES)}
    results = dataset.annotate(
        "run",
        backend="labelprop",
        label_schema={kind: {"type": kind, **entry} for kind in kinds},
        **{"engine": "interpolate", "exemplars": "every:2", "sort_field": "number", **options},
        **login(server),
    )
    finish_jobs(server, results, edit)
    return results


def labels_of(dataset: fo.Dataset, field: str) -> list[fo.Label]:
    values = dataset.values(field) if dataset.get_field(field) is not None else []
    return [label for value in values if value is not None for label in value[value._LABEL_LIST_FIELD]]


def entries(client: CVATClient, job_id: int) -> dict[str, list[dict[str, Any]]]:
    """The objects of a job."""
    there = client.annotations(job_id=job_id)
    return {kind: there[kind] for kind in ("shapes", "tracks")}


def move(client: CVATClient, job_id: int) -> None:
    """Moves every shape by eight pixels to the right, and turns boxes."""
    there = entries(client, job_id)
    for shape in (shape for entry in [*there["shapes"], *there["tracks"]] for shape in entry.get("shapes", [entry])):
        if shape["type"] == "mask":
            shape["points"][-4] += 8
            shape["points"][-2] += 8
        else:
            shape["points"][0::2] = [x + 8 for x in shape["points"][0::2]]
        if shape["type"] == "rectangle":
            shape["rotation"] = 77
    client.update_annotations(there, job_id=job_id)


def rename(client: CVATClient, job_id: int) -> None:
    labels = {label.name: label for label in client.labels(job_id=job_id)}
    names = {label.id: name for name, label in labels.items()}
    there = entries(client, job_id)
    for kind, found in there.items():
        for entry in found:
            label = labels[names[entry["label_id"]].replace("car", "bus")]
            entry["label_id"] = label.id
            # Of a shape the page keeps attributes of the same name; of a track all start anew.
            index = next(attribute.id for attribute in label.attributes if attribute.name == "index")
            entry["attributes"] = [{"spec_id": index, "value": "1"}] if kind == "shapes" else []
            for shape in entry.get("shapes", ()):
                shape["attributes"] = []
    client.update_annotations(there, job_id=job_id)


def delete(client: CVATClient, job_id: int) -> None:
    client.delete_annotations(entries(client, job_id), job_id=job_id)


def add(client: CVATClient, job_id: int) -> None:
    """Another object of each kind, on the first two exemplars."""

    def anew(item: dict[str, Any], **changes: Any) -> dict[str, Any]:
        return {**{name: value for name, value in item.items() if name != "id"}, "attributes": [], **changes}

    there = entries(client, job_id)
    shapes = [anew(shape) for shape in there["shapes"] if shape["frame"] < 2]
    tracks = []
    for track in there["tracks"]:
        keyframes = [anew(shape) for shape in track["shapes"][:2]]
        keyframes.append({**keyframes[-1], "frame": 2, "outside": True})
        tracks.append(anew(track, shapes=keyframes))
    client.create_annotations({"shapes": shapes, "tracks": tracks}, job_id=job_id)


def renumber(client: CVATClient, job_id: int) -> None:
    specs = {a.id for label in client.labels(job_id=job_id) for a in label.attributes if a.name == "index"}
    there = entries(client, job_id)
    for entry in [*there["shapes"], *there["tracks"]]:
        for attribute in entry["attributes"]:
            if attribute["spec_id"] in specs:
                attribute["value"] = "9"
    client.update_annotations(there, job_id=job_id)


def end(shapes: slice, client: CVATClient, job_id: int) -> None:
    """Says that the object is not there on some of its keyframes."""
    (track,) = entries(client, job_id)["tracks"]
    for shape in track["shapes"][shapes]:
        shape["outside"] = True
    client.update_annotations({"tracks": [track]}, job_id=job_id)


FORBIDDEN = {
    "additions": add,
    "deletions": delete,
    "label_edits": rename,
    "index_edits": renumber,
    "spatial_edits": move,
}


def state(dataset: fo.Dataset) -> dict[str, list[Any]]:
    """What the fields hold, and what was filled from them."""
    found: dict[str, list[Any]] = {}
    for field in (f"{kind}{suffix}" for kind in KINDS for suffix in ("", "_propagated")):
        found[field] = []
        for label in labels_of(dataset, field):
            if isinstance(label, fo.Detection):
                place = [round(value, 6) for value in label.bounding_box], label.get_attribute_value("rotation", None)
            else:
                place = str(label.points), None
            found[field].append((label.label, label.index, *place))
    return found


@pytest.fixture(scope="module")
def untouched(server: LocalCVAT, images: list[Path]) -> dict[str, list[Any]]:
    dataset = scene(images, *KINDS)
    annotate(server, dataset, None)
    before = state(dataset)
    dataset.load_annotations("run")
    after = state(dataset)
    assert {kind: after[kind] for kind in KINDS} == {kind: before[kind] for kind in KINDS}
    assert all(len(after[f"{kind}_propagated"]) == 5 for kind in ("detections", "instances", "polygons"))
    return after


@pytest.mark.parametrize("change", FORBIDDEN)
def test_a_forbidden_edit_changes_nothing_and_an_allowed_one_something(
    server: LocalCVAT, images: list[Path], untouched: dict[str, list[Any]], change: str
) -> None:
    dataset = scene(images, *KINDS)
    ids = {kind: [label.id for label in labels_of(dataset, kind)] for kind in KINDS}
    annotate(server, dataset, FORBIDDEN[change], **{f"allow_{change}": False})
    for _ in range(2):
        dataset.load_annotations("run")
        assert {kind: [label.id for label in labels_of(dataset, kind)] for kind in KINDS} == ids
        assert state(dataset) == untouched

    free = scene(images, *KINDS)
    annotate(server, free, FORBIDDEN[change], engine="none")
    free.load_annotations("run")
    assert [kind for kind in KINDS if state(free)[kind] == untouched[kind]] == []


@pytest.mark.parametrize("change", FORBIDDEN)
def test_forbidden_edits_of_video_frames(server: LocalCVAT, tmp_path: Path, change: str) -> None:
    path = write_video(tmp_path / "scene.mp4", 5)

    def state_of(is_allowed: bool) -> tuple[list[Any], list[Any]]:
        dataset = video_dataset(path)
        sample = dataset.first()
        for number in (1, 3, 5):
            boxes, lines = fo.Detections(detections=[box(number)]), fo.Polylines(polylines=[area(number)])
            sample.frames[number] = fo.Frame(detections=boxes, polygons=lines)
        sample.save()
        before = held(dataset)
        entry = {"classes": CLASSES, "attributes": ATTRIBUTES}
        results = dataset.annotate(
            "run",
            backend="labelprop",
            label_schema={f"frames.{kind}": {"type": kind, **entry} for kind in ("detections", "polygons")},
            engine="none",
            exemplars="every:2",
            **{f"allow_{change}": is_allowed},
            **login(server),
        )
        finish_jobs(server, results, FORBIDDEN[change])
        dataset.load_annotations("run")
        once = held(dataset)
        dataset.load_annotations("run")
        assert held(dataset) == once
        return before, once

    def held(dataset: fo.Dataset) -> list[Any]:
        return [
            (
                number,
                label.id,
                label.label,
                label.index,
                str(label.get_attribute_value("bounding_box", None) or label.points),
            )
            for number, frame in dataset.first().frames.items()
            for field in ("detections", "polygons")
            if frame[field] is not None
            for label in frame[field][frame[field]._LABEL_LIST_FIELD]
        ]

    before, after = state_of(is_allowed=False)
    assert after == before
    before, after = state_of(is_allowed=True)
    assert after != before


# The object ends at its second keyframe; nobody touches the third in the first case.
@pytest.mark.parametrize(("shapes", "left", "filled"), [(slice(1, 2), 2, 2), (slice(1, 3), 1, 2)])
def test_an_end_that_is_a_forbidden_deletion_ends_nothing(
    server: LocalCVAT, images: list[Path], shapes: slice, left: int, filled: int
) -> None:
    dataset, free = scene(images, "detections"), scene(images, "detections")
    annotate(server, dataset, partial(end, shapes), allow_deletions=False)
    annotate(server, free, partial(end, shapes))
    for _ in range(2):
        dataset.load_annotations("run")
        assert len(labels_of(dataset, "detections")) == 3
        assert len(labels_of(dataset, "detections_propagated")) == 5
        free.load_annotations("run")
        assert len(labels_of(free, "detections")) == left
        assert len(labels_of(free, "detections_propagated")) == filled


def test_read_only_values_stay(server: LocalCVAT, images: list[Path]) -> None:
    dataset = scene(images, "detections")
    for sample in dataset.iter_samples(autosave=True):
        for label in sample.detections.detections if sample.detections else ():
            label["locked"], label["hidden"], label["crowd"] = "kept", False, 4

    def edit(client: CVATClient, job_id: int) -> None:
        (track,) = entries(client, job_id)["tracks"]
        track["group"] = 8
        for shape in track["shapes"]:
            shape["occluded"] = True
            for attribute in shape["attributes"]:
                attribute["value"] = "typed"
        client.update_annotations({"tracks": [track]}, job_id=job_id)

    attributes = {
        **ATTRIBUTES,
        "hidden": {"type": "occluded", "read_only": True},
        "crowd": {"type": "group_id", "read_only": True},
    }
    annotate(server, dataset, edit, attributes=attributes)
    dataset.load_annotations("run", dest_field={"detections": "elsewhere"})
    held = [(label.note, label.locked, label.hidden, label.crowd) for label in labels_of(dataset, "elsewhere")]
    assert held == [("typed", "kept", False, 4)] * 3
    for _ in range(2):
        dataset.load_annotations("run")
        held = [(label.note, label.locked, label.hidden, label.crowd) for label in labels_of(dataset, "detections")]
        assert held == [("typed", "kept", False, 4)] * 3


# What belongs to a frame as a whole


def weather(n: int) -> fo.Classifications:
    return fo.Classifications(classifications=[fo.Classification(label="day", note="n")] if n < 2 else [])


VALUES: dict[str, Callable[[int], Any]] = {
    "many": weather,
    "one": lambda n: fo.Classification(label="day") if n < 2 else None,
    "stuff": lambda n: MAKERS["segmentation"](n) if n < 2 else None,
    "rating": lambda n: n if n < 2 else None,
}
VALUE_SCHEMA: dict[str, Any] = {
    "many": {"type": "classifications", "classes": ["day", "night"], "attributes": {"note": {"type": "text"}}},
    "one": {"type": "classification", "classes": ["day", "night"]},
    "stuff": {"type": "segmentation", "mask_targets": dict(TARGETS)},
    "rating": {"type": "scalar"},
}


def values_of(dataset: fo.Dataset) -> list[Any]:
    found: list[Any] = []
    for sample in dataset:
        mask = sample.stuff.mask.tolist() if sample.stuff else None
        many = [(label.id, label.label) for label in sample.many.classifications]
        found.append((many, sample.one and (sample.one.id, sample.one.label), mask, sample.rating))
    return found


def add_values(client: CVATClient, job_id: int) -> None:
    """One of each where there is none yet."""
    labels = {label.name: label for label in client.labels(job_id=job_id)}
    tag = {"frame": 2, "group": 0, "source": "manual", "attributes": []}
    value = [{"spec_id": labels["rating"].attributes[0].id, "value": "5"}]
    tags = [{**tag, "label_id": labels[name].id} for name in ("night_many", "night_one")]
    tags.append({**tag, "label_id": labels["rating"].id, "attributes": value})
    mask = {**tag, "label_id": labels["sky"].id, "type": "rectangle", "points": [0, 0, 9, 9], "occluded": False}
    client.create_annotations({"tags": tags, "shapes": [{**mask, "z_order": 0, "rotation": 0}]}, job_id=job_id)


def delete_values(client: CVATClient, job_id: int) -> None:
    there = client.annotations(job_id=job_id)
    client.delete_annotations({"tags": there["tags"]}, job_id=job_id)


def rename_values(client: CVATClient, job_id: int) -> None:
    labels = {label.name: label.id for label in client.labels(job_id=job_id)}
    other = {labels[f"day_{field}"]: labels[f"night_{field}"] for field in ("many", "one")}
    tags = [tag for tag in client.annotations(job_id=job_id)["tags"] if tag["label_id"] in other]
    client.update_annotations(
        {"tags": [{**tag, "label_id": other[tag["label_id"]], "attributes": []} for tag in tags]}, job_id=job_id
    )


def paint_values(client: CVATClient, job_id: int) -> None:
    shapes = client.annotations(job_id=job_id)["shapes"]
    client.delete_annotations({"shapes": [shape for shape in shapes if shape["frame"] == 0]}, job_id=job_id)
    first = next(shape for shape in shapes if shape["frame"] == 1)
    first["points"] = [0, 25, 3, 3, 7, 7]
    client.update_annotations({"shapes": [first]}, job_id=job_id)


@pytest.mark.parametrize(
    ("change", "edit"),
    [
        ("additions", add_values),
        ("deletions", delete_values),
        ("label_edits", rename_values),
        ("spatial_edits", paint_values),
    ],
)
def test_forbidden_edits_of_what_belongs_to_a_frame(
    server: LocalCVAT, images: list[Path], change: str, edit: Edit
) -> None:
    for is_allowed in (False, True):
        dataset = image_dataset(images[:3], **VALUES)
        before = values_of(dataset)
        results = dataset.annotate(
            "run",
            backend="labelprop",
            label_schema=VALUE_SCHEMA,
            **{f"allow_{change}": is_allowed},
            **login(server),
        )
        finish_jobs(server, results, edit)
        if change == "spatial_edits":
            dataset.load_annotations("run", dest_field={"stuff": "elsewhere"})
            masks = [sample.elsewhere.mask.tolist() for sample in dataset if sample.elsewhere]
            assert (masks == [entry[2] for entry in before if entry[2]]) is not is_allowed
        for _ in range(2):
            dataset.load_annotations("run")
            assert (values_of(dataset) == before) is not is_allowed
