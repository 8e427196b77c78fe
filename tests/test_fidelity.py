"""Whatever a label holds survives the trip to CVAT and back: drawn at random for every type, on images and on videos.

Each example is a whole dataset. Untouched labels must come back as they were, however often; what CVAT holds must be
all that it needs to make the same labels anew.
"""

from __future__ import annotations

import json
import math
import random
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import cv2
import fiftyone as fo
import numpy as np
import pytest
from fixtures_label_types import content, finish_jobs
from fixtures_roundtrip import (
    SIZE,
    client_of,
    dataset_of,
    image_dataset,
    login,
    video_dataset,
    write_images,
    write_video,
)
from hypothesis import HealthCheck, Phase, example, given, settings
from hypothesis import strategies as st

from labelprop_cvat.backend.cvat import CVATClient
from labelprop_cvat.backend.local_cvat import LocalCVAT
from labelprop_cvat.backend.schema import Attribute, FieldSchema, run_schema
from labelprop_cvat.labels import detection_to_box, detection_to_mask

HEIGHT, WIDTH = SIZE
FRAMES = 3
NODES = ["top", "left", "right"]

TEXTS = [
    None, "", "007", "true", "False", "None", "nan", "1e5", " spaced ", "two\nlines", 'quotes "and" \'more\'',
    "<b>&amp;", "größe 漢字 🚗", "x" * 3000, "0", "-1", "a,b;c",
]  # fmt: skip
NUMBERS = [None, 0, 7, -3, 2.5, -0.125, 1e-7, 123456789, 0.1 + 0.2]

ATTRIBUTES: dict[str, dict[str, Any]] = {
    "note": {"type": "text"},
    "serial": {"type": "text", "mutable": False},
    "pose": {"type": "select", "values": ["up", "down", "-", "3"], "default": "up", "mutable": False},
    "grade": {"type": "radio", "values": [1, 2, 2.5]},
    "count": {"type": "number"},
    "sure": {"type": "checkbox"},
    "locked": {"type": "text", "read_only": True},
    "hidden": {"type": "occluded"},
    "crowd": {"type": "group_id"},
}
OWN_ATTRIBUTES = {"plate": {"type": "text"}, "doors": {"type": "number", "mutable": False}}
CLASSES: list[Any] = ["car", "größe 漢字", {"classes": ["bus", "van"], "attributes": OWN_ATTRIBUTES}]
NAMES = ["car", "größe 漢字", "bus", "van"]
TARGETS = {1: "road", 2: "sky", 9: "tree"}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalCVAT]:
    with LocalCVAT(tmp_path_factory.mktemp("cvat"), anonymous_rate=None) as running:
        yield running


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return write_images(tmp_path_factory.mktemp("images"), FRAMES)


@pytest.fixture(scope="module")
def video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_video(tmp_path_factory.mktemp("video") / "scene.mp4", FRAMES)


class Draw:
    """Labels drawn from one seed."""

    def __init__(self, seed: int, folder: Path) -> None:
        self.random = random.Random(seed)
        self.folder = folder
        self.instances = [fo.Instance() for _ in range(4)]

    def _number(self, low: float, high: float) -> float:
        return self.random.choice([round(self.random.uniform(low, high), 3), self.random.uniform(low, high)])

    def _values(self, name: str, *, of_object: bool) -> dict[str, Any]:
        pick, chance = self.random.choice, self.random.random
        values: dict[str, Any] = {
            "note": pick([*TEXTS, 7, 2.5, True]),
            "serial": pick(TEXTS),
            "pose": pick([None, "up", "down", "-", "3"]),
            "grade": pick([None, 1, 2, 2.5]),
            "count": pick(NUMBERS),
            "sure": pick([None, True, False]),
            "locked": pick(TEXTS),
            "confidence": pick([None, 0.0, 0.25, 1.0]),
            "tags": pick([[], ["a", "ü"]]),
            "weights": [1.5, None],
            "nested": {"a": 1},
        }
        if name in ("bus", "van"):
            values |= {"plate": pick(TEXTS), "doors": pick([None, 0, 3])}
        if of_object:
            values |= {"hidden": pick([None, True, False]), "crowd": pick([None, 0, 3])}
            if chance() < 0.3:
                values["instance"] = pick(self.instances)
        return {key: value for key, value in values.items() if value is not None and chance() < 0.7}

    def _object(self, index: int | None) -> dict[str, Any]:
        # A track is of one class; objects without an index are of any.
        name = NAMES[index % len(NAMES)] if index is not None else self.random.choice(NAMES)
        return {"label": name, "index": index, **self._values(name, of_object=True)}

    def classification(self, index: int | None) -> fo.Classification:
        name = self.random.choice(NAMES)
        return fo.Classification(label=name, **self._values(name, of_object=False))

    def detection(self, index: int | None) -> fo.Detection:
        box = [self._number(0, 0.7), self._number(0, 0.7), self._number(0.01, 0.3), self._number(0.01, 0.3)]
        label = fo.Detection(bounding_box=box, **self._object(index))
        if self.random.random() < 0.5:
            label["rotation"] = self.random.choice([0, 45, 359.999, 12.345, -30, 370.5])
        return label

    def instance(self, index: int | None) -> fo.Detection:
        h, w = self.random.randint(1, 20), self.random.randint(1, 30)
        x, y = self.random.randint(0, WIDTH - w), self.random.randint(0, HEIGHT - h)
        mask = np.random.default_rng(self.random.randint(0, 2**31)).random((h, w)) < 0.6
        mask[self.random.randrange(h), self.random.randrange(w)] = True
        label = fo.Detection(bounding_box=[x / WIDTH, y / HEIGHT, w / WIDTH, h / HEIGHT], **self._object(index))
        if self.random.random() < 0.4:
            path = self.folder / f"{label.id}.png"
            cv2.imwrite(str(path), mask.astype(np.uint8) * 255)
            label.mask_path = str(path)
        else:
            label.mask = mask
        return label

    def _ring(self, least: int) -> list[list[float]]:
        count = self.random.randint(least, 8)
        return [[self._number(-0.1, 1.1), self._number(-0.1, 1.1)] for _ in range(count)]

    def polyline(self, index: int | None) -> fo.Polyline:
        rings = [self._ring(2) for _ in range(self.random.choice([1, 1, 1, 2]))]
        return fo.Polyline(points=rings, closed=self.random.random() < 0.5, filled=False, **self._object(index))

    def polygon(self, index: int | None) -> fo.Polyline:
        rings = [self._ring(3) for _ in range(self.random.choice([1, 1, 1, 2, 3]))]
        return fo.Polyline(points=rings, closed=True, filled=True, **self._object(index))

    def keypoint(self, index: int | None) -> fo.Keypoint:
        points = [
            [math.nan, math.nan] if self.random.random() < 0.3 else point
            for point in [[0.5, 0.5], *self._ring(1)]
        ]  # fmt: skip
        points[-1] = [self._number(0, 1), self._number(0, 1)]
        return self._pointed(points, index)

    def pose(self, index: int | None) -> fo.Keypoint:
        count = self.random.randint(1, len(NODES))
        points = [[self._number(0, 1), self._number(0, 1)] for _ in range(count)]
        if count > 1 and self.random.random() < 0.5:
            points[self.random.randrange(count)] = [math.nan, math.nan]
        return self._pointed(points, index)

    def _pointed(self, points: list[list[float]], index: int | None) -> fo.Keypoint:
        label = fo.Keypoint(points=points, **{**self._object(index), "confidence": None})
        if self.random.random() < 0.5:
            label.confidence = [self.random.random() for _ in points]
        return label

    def segmentation(self) -> fo.Segmentation:
        mask = np.zeros(SIZE, np.uint8)
        for value in (2, 1, 9, 77, 0):
            x, y = self.random.randint(0, WIDTH - 20), self.random.randint(0, HEIGHT - 20)
            mask[y : y + self.random.randint(1, 40), x : x + self.random.randint(1, 90)] = value
        if self.random.random() < 0.5:
            label = fo.Segmentation(tags=["s"])
            label.mask_path = str(self.folder / f"{label.id}.png")
            cv2.imwrite(label.mask_path, mask)
            return label
        return fo.Segmentation(mask=mask, note="n")

    def many(self, make: Callable[[int | None], Any]) -> list[Any]:
        """Labels of one frame: some of objects that other frames show too, some of no object in particular."""
        indices: list[int | None] = [index for index in (1, 2, 3, 17) if self.random.random() < 0.5]
        return [make(index) for index in [*indices, *[None] * self.random.randint(0, 2)]]

    def frame(self) -> dict[str, Any]:
        """The fields of one frame, every kind of them."""
        pick, one = self.random.choice, lambda make: make(self.random.choice([None, 5]))
        values: dict[str, Any] = {
            "classification": one(self.classification),
            "classifications": fo.Classifications(classifications=self.many(self.classification)),
            "detection": one(self.detection),
            "detections": fo.Detections(detections=self.many(self.detection)),
            "instance": one(self.instance),
            "instances": fo.Detections(detections=self.many(self.instance)),
            "polyline": one(self.polyline),
            "polylines": fo.Polylines(polylines=self.many(self.polyline)),
            "polygon": one(self.polygon),
            "polygons": fo.Polylines(polylines=self.many(self.polygon)),
            "keypoint": one(self.keypoint),
            "keypoints": fo.Keypoints(keypoints=self.many(self.keypoint)),
            "pose": one(self.pose),
            "poses": fo.Keypoints(keypoints=self.many(self.pose)),
            "segmentation": self.segmentation(),
            "whole": pick([0, 7, -3]),
            "real": pick([0.5, -2.25, 1e-9, 3.0]),
            "word": pick([text for text in TEXTS if text]),
            "flag": pick([True, False]),
        }
        return {name: value for name, value in values.items() if self.random.random() < 0.8}


TYPES = {
    **{name: name for name in (
        "classification", "classifications", "detection", "detections", "instance", "instances", "polyline",
        "polylines", "polygon", "polygons", "keypoint", "keypoints", "segmentation",
    )},
    "pose": "keypoint", "poses": "keypoints", "whole": "scalar", "real": "scalar", "word": "scalar", "flag": "scalar",
}  # fmt: skip


def schema_of(names: Any, prefix: str = "") -> dict[str, Any]:
    schema: dict[str, Any] = {}
    for name in names:
        entry: dict[str, Any] = {"type": TYPES[name]}
        if name == "segmentation":
            entry["mask_targets"] = dict(TARGETS)
        elif TYPES[name] != "scalar":
            own = {k: v for k, v in ATTRIBUTES.items() if "class" not in name or k not in ("hidden", "crowd")}
            entry |= {"classes": CLASSES, "attributes": own}
        schema[f"{prefix}{name}"] = entry
    return schema


def skeletons(prefix: str = "") -> dict[str, fo.KeypointSkeleton]:
    return {f"{prefix}{name}": fo.KeypointSkeleton(labels=NODES, edges=[[0, 1], [0, 2]]) for name in ("pose", "poses")}


SEEDS = st.integers(0, 2**32 - 1)
# A whole dataset an example: shrinking one would take minutes, and the seed says all.
FEW = settings(
    max_examples=1,
    deadline=None,
    phases=[Phase.explicit, Phase.generate],
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


def some_fields(draw: Draw, count: int) -> list[str]:
    """Fields of any types, in any order."""
    return draw.random.sample([*TYPES], count)


def drawn_images(draw: Draw, images: list[Path], names: list[str]) -> fo.Dataset:
    frames = [draw.frame() for _ in images]
    dataset = dataset_of(
        [
            fo.Sample(str(path), number=number, **{name: values[name] for name in names if name in values})
            for number, (path, values) in enumerate(zip(images, frames, strict=True))
        ]
    )
    dataset.skeletons = skeletons()
    return dataset


def drawn_video(draw: Draw, video: Path, names: list[str]) -> fo.Dataset:
    dataset = video_dataset(video)
    sample = dataset.first()
    for number in range(1, FRAMES + 1):
        values = draw.frame()
        sample.frames[number] = fo.Frame(**{name: values[name] for name in names if name in values})
    sample.save()
    dataset.skeletons = skeletons("frames.")
    return dataset


def labels_in(dataset: fo.Dataset, names: list[str]) -> dict[str, tuple[str, Any]]:
    """Every label by its id, with the frame and field that it is in."""
    found: dict[str, tuple[str, Any]] = {}
    for sample in dataset.iter_samples():
        places = sample.frames.items() if dataset.media_type == "video" else [(sample.number, sample)]
        for number, holder in places:
            for name in names:
                value = holder[name] if holder.has_field(name) else None
                if isinstance(value, fo.Label):
                    listed = value[value._LABEL_LIST_FIELD] if hasattr(value, "_LABEL_LIST_FIELD") else [value]
                    found.update({label.id: (f"{number} {name}", label) for label in listed})
    return found


def held(label: fo.Label) -> dict[str, Any]:
    """What a label holds, comparable."""
    values: dict[str, Any] = {}
    for name in label._fields_ordered:
        value = label[name]
        if isinstance(value, np.ndarray):
            value = (value.shape, str(value.dtype), value.tobytes())
        elif isinstance(value, fo.Instance):
            value = str(value.id)
        elif name == "points" or isinstance(value, float | list | dict):
            value = json.dumps(value)
        if value is not None:
            values[name] = value
    return values


@given(seed=SEEDS)
@example(seed=0)
@FEW
def test_untouched_images_stay_as_they_are_however_often(
    server: LocalCVAT, images: list[Path], tmp_path: Path, seed: int
) -> None:
    draw = Draw(seed, tmp_path)
    names = some_fields(draw, 7) if seed else [*TYPES]
    dataset = drawn_images(draw, images, names)
    names = [name for name in names if dataset.get_field(name) is not None]
    before = content(dataset, *names)
    files = {path: path.read_bytes() for path in tmp_path.iterdir()}
    results = dataset.annotate(
        f"run{seed}", backend="labelprop", label_schema=schema_of(names), engine="none", **login(server)
    )
    finish_jobs(server, results)
    for _ in range(2 if seed == 0 else 4):
        dataset.load_annotations(f"run{seed}")
        assert content(dataset, *names) == before
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == files
    dataset.delete()


@given(seed=SEEDS)
@example(seed=0)
@FEW
def test_untouched_video_frames_only_learn_which_object_they_show(
    server: LocalCVAT, video: Path, tmp_path: Path, seed: int
) -> None:
    draw = Draw(seed, tmp_path)
    dataset = drawn_video(draw, video, some_fields(draw, 6))
    names = [name for name in TYPES if dataset.get_field(f"frames.{name}") is not None]
    fields = [f"frames.{name}" for name in names]
    before = {key: (place, held(label)) for key, (place, label) in labels_in(dataset, names).items()}
    results = dataset.annotate(
        f"video{seed}", backend="labelprop", label_schema=schema_of(names, "frames."), engine="none", **login(server)
    )
    finish_jobs(server, results)
    once: Any = None
    for _ in range(10 if seed == 0 else 2):
        dataset.load_annotations(f"video{seed}")
        found = labels_in(dataset, names)
        assert found.keys() == before.keys()
        for key, (place, label) in found.items():
            now, learned = held(label), {"keyframe", "index", "instance"}
            assert place == before[key][0]
            assert {
                name: value for name, value in now.items() if name not in learned - before[key][1].keys()
            } == before[key][1]
            if isinstance(label, fo.Detection | fo.Polyline | fo.Keypoint):
                assert label.keyframe is True
                assert label.index is not None
        assert once in (None, content(dataset, *fields))
        once = content(dataset, *fields)
    dataset.delete()


@given(seed=SEEDS)
@example(seed=0)
@example(seed=1)
@FEW
def test_what_cvat_holds_makes_the_same_labels_anew(
    server: LocalCVAT, images: list[Path], tmp_path: Path, seed: int
) -> None:
    draw = Draw(seed, tmp_path)
    names = [name for name, kind in TYPES.items() if kind.endswith("s")]
    dataset = drawn_images(draw, images, names)
    schema = schema_of(names)
    options = {"backend": "labelprop", "label_schema": schema, "engine": "none", **login(server)}
    if seed % 2:
        # Frames of one scene: labels of one index are one track.
        options["sort_field"] = "number"
    sent = dataset.annotate(f"sent{seed}", **options)
    copy = image_dataset(images)
    copy.skeletons = skeletons()
    received = copy.annotate(f"copy{seed}", **options)
    with client_of(server) as client:
        (_, here), (_, there) = (next(results.ledger.jobs()) for results in (sent, received))
        named, numbers = numbers_of(client, here.id), numbers_of(client, there.id)
        new = {kind: {number: numbers[kind][name] for name, number in named[kind].items()} for kind in named}
        content = json.dumps(everything(client, here.id))
    payload = json.loads(content, object_hook=lambda entry: translated(entry, new))
    assert payload["tracks"] or not seed % 2

    def draw_again(client: CVATClient, job_id: int) -> None:
        client.create_annotations(payload, job_id=job_id)

    finish_jobs(server, received, draw_again)
    copy.load_annotations(f"copy{seed}")
    fields = run_schema(schema, occluded_attr=None)
    for name in names:
        expected = [*records(dataset, name, fields[name], is_own=True, tracks=bool(seed % 2))]
        found = [*records(copy, name, fields[name])]
        assert len(found) == len(expected), name
        for one, other in zip(sorted(expected, key=order), sorted(found, key=order), strict=True):
            assert one.pop("index") in (None, other["index"]), (name, one)
            del other["index"]
            places = np.array(one.pop("place")), np.array(other.pop("place"))
            assert one == other
            assert np.allclose(*places, rtol=0, atol=1e-3, equal_nan=True), (name, one)
    for each in (dataset, copy):
        each.delete()


def everything(client: CVATClient, job_id: int) -> dict[str, Any]:
    """What a job holds, as somebody would draw it anew."""

    def anew(item: dict[str, Any]) -> dict[str, Any]:
        return {
            key: [anew(entry) for entry in value] if key in ("shapes", "elements") else value
            for key, value in item.items()
            if key != "id"
        }

    there = client.annotations(job_id=job_id)
    return {kind: [anew(item) for item in there[kind]] for kind in ("tags", "shapes", "tracks")}


def numbers_of(client: CVATClient, job_id: int) -> dict[str, dict[str, int]]:
    """The server's numbers of labels, points of skeletons, and attributes by name."""
    found: dict[str, dict[str, int]] = {"label_id": {}, "spec_id": {}}
    for label in client.labels(job_id=job_id):
        for entry in (label, *label.sublabels):
            found["label_id"][f"{label.name} {entry.name}"] = entry.id
        found["spec_id"] |= {f"{label.name} {attribute.name}": attribute.id for attribute in label.attributes}
    return found


def translated(entry: dict[str, Any], numbers: Mapping[str, Mapping[int, int]]) -> dict[str, Any]:
    return {key: numbers[key][value] if key in numbers else value for key, value in entry.items()}


def order(record: Mapping[str, Any]) -> str:
    return json.dumps({key: value for key, value in record.items() if key not in ("index", "place")}) + json.dumps(
        [round(value) for value in record["place"] if math.isfinite(value)]
    )


def as_shown(attribute: Attribute, value: Any) -> Any:
    """What CVAT shows of a value: of none the default, of any text its characters."""
    return attribute.decode(attribute.spec().default_value if value is None else attribute.encode(value))


def records(
    dataset: fo.Dataset, name: str, schema: FieldSchema, *, is_own: bool = False, tracks: bool = False
) -> Iterator[dict[str, Any]]:
    """What there is to compare of each label: everything that CVAT can hold, once for each outline."""
    firsts: dict[int, fo.Label] = {}
    for place, label in labels_in(dataset, [name]).values():
        outlines = places_of(label)
        index = label.index if schema.kind.has_index else None
        is_one = tracks and schema.kind.is_tracked and index is not None and len(outlines) == 1
        whole = firsts.setdefault(index, label) if is_one else label
        attributes = {}
        for attribute in schema.attributes_of(label.label):
            source = label if attribute.mutable else whole
            value = source.get_attribute_value(attribute.name, None)
            attributes[attribute.name] = as_shown(attribute, value) if is_own else value
        group = whole.get_attribute_value("crowd", None) or None
        occluded = bool(label.get_attribute_value("hidden", None))
        rotation = (label.get_attribute_value("rotation", None) or 0) if schema.kind.shape == "rectangle" else 0
        rotation %= 360
        if not schema.kind.has_index:
            group = occluded = None
        for outline in outlines:
            yield {
                "frame": place,
                "label": label.label,
                "attributes": attributes,
                "group": group,
                "occluded": occluded,
                "rotation": rotation,
                "index": index if len(outlines) == 1 else None,
                "place": outline,
            }


def places_of(label: fo.Label) -> list[list[float]]:
    """Where a label is, pixels: of a mask its pixels."""
    if isinstance(label, fo.Detection) and label.has_mask:
        mask = detection_to_mask(label, SIZE)
        assert mask is not None
        return [[float(value) for value in np.flatnonzero(mask.to_full(SIZE))]]
    if isinstance(label, fo.Detection):
        return [list(detection_to_box(label, SIZE))]
    if isinstance(label, fo.Polyline | fo.Keypoint):
        rings = label.points if isinstance(label, fo.Polyline) else [label.points]
        if isinstance(label, fo.Keypoint):
            rings = [[point for point in label.points if math.isfinite(point[0])]]
        return [
            [value * size for point in ring for value, size in zip(point, (WIDTH, HEIGHT), strict=True)]
            for ring in rings
        ]
    return [[]]


@given(seed=SEEDS)
@example(seed=0)
@FEW
def test_one_edit_changes_one_label_and_only_its_place(
    server: LocalCVAT, images: list[Path], tmp_path: Path, seed: int
) -> None:
    draw = Draw(seed, tmp_path)
    names = [name for name in some_fields(draw, 9) if TYPES[name] != "scalar" and "class" not in name]
    dataset = drawn_images(draw, images, names)
    names = [name for name in names if dataset.get_field(name) is not None]
    options = {"label_schema": schema_of(names), "engine": "none", "sort_field": "number"}
    results = dataset.annotate(f"edit{seed}", backend="labelprop", **options, **login(server))
    finish_jobs(server, results)
    dataset.load_annotations(f"edit{seed}")

    def nudge(client: CVATClient, job_id: int) -> None:
        """Moves one shape, or one keyframe of a track, by two pixels."""
        there = client.annotations(job_id=job_id)
        kind = draw.random.choice([kind for kind in ("shapes", "tracks") if there[kind]])
        entry = draw.random.choice(there[kind])
        shape = draw.random.choice([shape for shape in entry.get("shapes", [entry]) if not shape["outside"]])
        if shape["type"] == "mask":
            step = 2 if shape["points"][-2] + 2 < WIDTH else -2
            shape["points"][-4] += step
            shape["points"][-2] += step
        else:
            for part in shape.get("elements") or [shape]:
                part["points"][0::2] = [x + 2 for x in part["points"][0::2]]
        client.update_annotations({kind: [entry]}, job_id=job_id)

    for _ in range(3):
        before = {key: held(label) for key, (_, label) in labels_in(dataset, names).items()}
        places = {key: places_of(label) for key, (_, label) in labels_in(dataset, names).items()}
        finish_jobs(server, results, nudge)
        dataset.load_annotations(f"edit{seed}")
        after = labels_in(dataset, names)
        assert after.keys() == before.keys()
        (changed,) = (key for key, (_, label) in after.items() if held(label) != before[key])
        _, label = after[changed]
        now = held(label)
        differing = {name for name in {*now, *before[changed]} if now.get(name) != before[changed].get(name)}
        assert differing <= {"bounding_box", "mask", "mask_path", "points"}
        if isinstance(label, fo.Segmentation) or (isinstance(label, fo.Detection) and label.has_mask):
            continue
        old = np.array([value for ring in places[changed] for value in ring])
        moved = np.array([value for ring in places_of(label) for value in ring]) - old
        assert set(np.round(moved, 3)) <= {0.0, 2.0}
    dataset.delete()


# Keyframes among other labels, polygons as masks, what CVAT cannot hold


def marked_video(video: Path) -> fo.Dataset:
    """Object 1 is on all frames, 2 leaves after the third, 3 has no keyframes at all."""
    dataset = video_dataset(video)
    sample = dataset.first()
    for number in range(1, 7):
        boxes = [
            fo.Detection(label="car", bounding_box=[0.1 * number, 0.1 * index, 0.1, 0.1], index=index, keyframe=marked)
            for index, frames, marked in (
                (1, range(1, 7), number in (1, 4)),
                (2, range(1, 4), number == 1),
                (3, range(2, 4), False),
            )
            if number in frames
        ]
        sample.frames[number] = fo.Frame(boxes=fo.Detections(detections=boxes))
    sample.save()
    return dataset


def boxes_of(dataset: fo.Dataset) -> dict[str, tuple[int, int, bool, list[float]]]:
    return {
        label.id: (number, label.index, label.keyframe, label.bounding_box)
        for number, frame in dataset.first().frames.items()
        for label in frame.boxes.detections
    }


def test_only_keyframes_go_along_where_cvat_shows_the_frames_between(server: LocalCVAT, tmp_path: Path) -> None:
    dataset = marked_video(write_video(tmp_path / "scene.mp4", 6))
    before = boxes_of(dataset)
    options = {"label_field": "frames.boxes", "label_type": "detections", "exemplars": "all", "engine": "interpolate"}
    results = dataset.annotate("run", backend="labelprop", attributes=False, **options, **login(server))
    seen: list[list[tuple[int, bool]]] = []

    def edit(client: CVATClient, job_id: int) -> None:
        tracks = client.annotations(job_id=job_id)["tracks"]
        seen.extend([(shape["frame"], shape["outside"]) for shape in track["shapes"]] for track in tracks)
        first = tracks[0]
        added = {key: value for key, value in first["shapes"][0].items() if key != "id"}
        first["shapes"].insert(1, {**added, "frame": 2, "points": [1.0, 2.0, 30.0, 40.0]})
        client.update_annotations({"tracks": [first]}, job_id=job_id)

    finish_jobs(server, results, edit)
    for _ in range(2):
        dataset.load_annotations("run")
        assert seen == [[(0, False), (3, False)], [(0, False), (3, True)], [(1, False), (2, False), (3, True)]]
        after = boxes_of(dataset)
        assert after.keys() == before.keys()
        changed = {before[key][:2] for key in before if after[key] != before[key]}
        # The third object's labels came back from CVAT, where nobody minded them: they are keyframes now.
        assert changed == {(3, 1), (2, 3), (3, 3)}
        moved = next(value for value in after.values() if value[:2] == (3, 1))
        assert moved[2] is True
        assert np.allclose(moved[3], [1 / WIDTH, 2 / HEIGHT, 29 / WIDTH, 38 / HEIGHT])
        filled = {
            n: {x.index: x for x in frame.boxes_propagated.detections} for n, frame in dataset.first().frames.items()
        }
        assert {n: x[1].keyframe for n, x in filled.items()} == {n: n in (1, 3, 4) for n in range(1, 7)}


def test_labels_that_are_no_keyframes_go_along_where_frames_are_missing(server: LocalCVAT, tmp_path: Path) -> None:
    dataset = marked_video(write_video(tmp_path / "scene.mp4", 6))
    options = {"label_field": "frames.boxes", "label_type": "detections", "exemplars": "every:2", "engine": "none"}
    results = dataset.annotate("run", backend="labelprop", attributes=False, **options, **login(server))
    with client_of(server) as client:
        (_, job) = next(results.ledger.jobs())
        tracks = client.annotations(job_id=job.id)["tracks"]
        held = [[(shape["frame"], shape["outside"]) for shape in track["shapes"]] for track in tracks]
    assert held == [[(0, False), (1, False), (2, False)], [(0, False), (1, False), (2, True)], [(1, False), (2, True)]]
