"""Every label type goes to CVAT and comes back: untouched bit for bit, edited as it was edited."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import date, datetime
from pathlib import Path
from typing import Any

import cv2
import fiftyone as fo
import numpy as np
import pytest
from fixtures_label_types import MAKERS, content, finish_jobs, schema_of
from fixtures_roundtrip import client_of, image_dataset, login, video_dataset, write_images, write_video

from labelprop_cvat.backend.cvat import CVATClient
from labelprop_cvat.backend.local_cvat import LocalCVAT

KINDS = [*MAKERS]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalCVAT]:
    with LocalCVAT(tmp_path_factory.mktemp("cvat"), anonymous_rate=None) as running:
        yield running


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return write_images(tmp_path_factory.mktemp("images"), 4)


@pytest.fixture(scope="module")
def video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_video(tmp_path_factory.mktemp("video") / "scene.mp4", 6)


def full_images(images: list[Path]) -> fo.Dataset:
    dataset = image_dataset(images, **MAKERS)
    dataset.set_values("whole", [1, 2, None, 4][: len(images)])
    dataset.set_values("word", ["007", "x", "y", None][: len(images)])
    return dataset


def full_video(video: Path) -> fo.Dataset:
    dataset = video_dataset(video)
    sample = dataset.first()
    for number in range(1, 7):
        frame = fo.Frame(**{kind: make(number) for kind, make in MAKERS.items()})
        frame["whole"], frame["word"] = number, f"0{number}"
        sample.frames[number] = frame
    sample["weather"] = fo.Classification(label="day", note="n")
    sample["rating"] = 2.5
    sample.save()
    return dataset


def test_untouched_labels_of_every_type_come_back_as_they_were(server: LocalCVAT, images: list[Path]) -> None:
    dataset = full_images(images)
    fields = [*KINDS, "whole", "word"]
    schema = {**schema_of(KINDS), "whole": {"type": "scalar"}, "word": {"type": "scalar"}}
    before = content(dataset, *fields)
    results = dataset.annotate("run", backend="labelprop", label_schema=schema, engine="none", **login(server))
    finish_jobs(server, results)
    for _ in range(2):
        dataset.load_annotations("run")
        assert content(dataset, *fields) == before


def test_untouched_labels_of_every_type_on_video_frames(server: LocalCVAT, video: Path) -> None:
    dataset = full_video(video)
    frame_fields = [f"frames.{kind}" for kind in [*KINDS, "whole", "word"]]
    schema = {
        **schema_of(KINDS, "frames."),
        "frames.whole": {"type": "scalar"},
        "frames.word": {"type": "scalar"},
        "weather": {"type": "classification", "classes": ["day", "night"]},
        "rating": {"type": "scalar"},
    }
    results = dataset.annotate("run", backend="labelprop", label_schema=schema, engine="none", **login(server))
    finish_jobs(server, results)
    dataset.load_annotations("run")
    once = content(dataset, *frame_fields, "weather", "rating")
    fresh = content(full_video(video), "frames.whole", "frames.word", "rating")
    assert content(dataset, "frames.whole", "frames.word", "rating") == fresh
    for _ in range(2):
        dataset.load_annotations("run")
        assert content(dataset, *frame_fields, "weather", "rating") == once


def only(entries: list[dict[str, Any]]) -> dict[str, Any]:
    (entry,) = entries
    return entry


def test_a_moved_polygon_point_moves_one_point(server: LocalCVAT, images: list[Path]) -> None:
    dataset = image_dataset(images[:1], polygons=MAKERS["polygons"])
    before = dataset.first().polygons.polylines

    def move(client: CVATClient, job_id: int) -> None:
        there = client.annotations(job_id=job_id)
        shapes = there["shapes"]
        assert [shape["type"] for shape in shapes] == ["polygon"] * 3
        shapes[-1]["points"][0] += 10
        client.update_annotations({"shapes": [shapes[-1]]}, job_id=job_id)

    results = dataset.annotate("run", backend="labelprop", label_schema=schema_of(["polygons"]), **login(server))
    finish_jobs(server, results, move)
    dataset.load_annotations("run")
    after = dataset.first().polygons.polylines
    assert [label.id for label in after] == [label.id for label in before]
    assert after[0].points == before[0].points
    moved = np.array(after[1].points[1]) - np.array(before[1].points[1])
    assert moved == pytest.approx(np.array([[10 / 128, 0], [0, 0], [0, 0]]), abs=1e-5)
    assert np.array(after[1].points[0]) == pytest.approx(np.array(before[1].points[0]), abs=1e-8)


def test_an_outline_that_was_deleted_leaves_the_others(server: LocalCVAT, images: list[Path]) -> None:
    dataset = image_dataset(images[:1], polygons=MAKERS["polygons"])
    before = dataset.first().polygons.polylines

    def delete(client: CVATClient, job_id: int) -> None:
        client.delete_annotations({"shapes": [client.annotations(job_id=job_id)["shapes"][1]]}, job_id=job_id)

    results = dataset.annotate("run", backend="labelprop", label_schema=schema_of(["polygons"]), **login(server))
    finish_jobs(server, results, delete)
    for _ in range(2):
        dataset.load_annotations("run")
        after = dataset.first().polygons.polylines
        assert [label.id for label in after] == [label.id for label in before]
        assert len(after[1].points) == 1
        assert np.array(after[1].points[0]) == pytest.approx(np.array(before[1].points[1]), abs=1e-5)


def test_classifications_added_changed_and_removed(server: LocalCVAT, images: list[Path]) -> None:
    dataset = image_dataset(images[1:3], many=MAKERS["classifications"], one=MAKERS["classification"])
    schema = {
        "many": schema_of(["classifications"])["classifications"],
        "one": schema_of(["classification"])["classification"],
    }
    before = [[label.id for label in sample.many.classifications] for sample in dataset]
    single = [sample.one.id for sample in dataset]

    def edit(client: CVATClient, job_id: int) -> None:
        labels = {label.id: label.name for label in client.labels(job_id=job_id)}
        tags = client.annotations(job_id=job_id)["tags"]
        day = next(tag for tag in tags if labels[tag["label_id"]] == "day_many" and tag["frame"] == 1)
        client.delete_annotations({"tags": [day]}, job_id=job_id)
        names = {name: number for number, name in labels.items()}
        old = next(tag for tag in tags if labels[tag["label_id"]].endswith("_one") and tag["frame"] == 0)
        client.delete_annotations({"tags": [old]}, job_id=job_id)
        new = {"label_id": names["night_one"], "frame": 0, "group": 0, "source": "manual", "attributes": []}
        client.create_annotations({"tags": [new, {**new, "label_id": names["night_many"]}]}, job_id=job_id)

    results = dataset.annotate("run", backend="labelprop", label_schema=schema, **login(server))
    finish_jobs(server, results, edit)
    for _ in range(2):
        dataset.load_annotations("run")
        first, second = dataset
        assert [label.label for label in second.many.classifications] == ["night"]
        assert second.many.classifications[0].id == before[1][1]
        assert [label.label for label in first.many.classifications][-1] == "night"
        assert len(first.many.classifications) == len(before[0]) + 1
        assert (first.one.id, first.one.label, first.one.confidence) == (single[0], "night", 0.25)
        assert (second.one.id, second.one.label) == (single[1], second.one.label)


def test_segmentations_painted_over(server: LocalCVAT, images: list[Path]) -> None:
    dataset = image_dataset(images[:2], segmentation=MAKERS["segmentation"])
    before = [(sample.segmentation.id, sample.segmentation.mask.copy()) for sample in dataset]

    def paint(client: CVATClient, job_id: int) -> None:
        names = {label.name: label.id for label in client.labels(job_id=job_id)}
        box = {"type": "rectangle", "points": [0, 0, 10, 10], "frame": 0, "label_id": names["tree"], "group": 0}
        created = {**box, "source": "manual", "attributes": [], "occluded": False, "z_order": 1, "rotation": 0}
        client.create_annotations({"shapes": [created]}, job_id=job_id)

    results = dataset.annotate("run", backend="labelprop", label_schema=schema_of(["segmentation"]), **login(server))
    finish_jobs(server, results, paint)
    for _ in range(2):
        dataset.load_annotations("run")
        first, second = dataset
        expected = before[0][1].copy()
        expected[:10, :10] = 7
        assert first.segmentation.id == before[0][0]
        assert np.array_equal(first.segmentation.mask, expected)
        assert first.segmentation.mask.dtype == np.uint8
        assert np.array_equal(second.segmentation.mask, before[1][1])


def test_values_typed_on_video_frames_keep_the_others(server: LocalCVAT, video: Path) -> None:
    dataset = full_video(video)

    def edit(client: CVATClient, job_id: int) -> None:
        tags = client.annotations(job_id=job_id)["tags"]
        whole = next(tag for tag in tags if tag["attributes"][0]["value"] == "1")
        whole["attributes"][0]["value"] = "42"
        client.update_annotations({"tags": [whole]}, job_id=job_id)
        gone = next(tag for tag in tags if tag["attributes"][0]["value"] == "4")
        client.delete_annotations({"tags": [gone]}, job_id=job_id)

    results = dataset.annotate(
        "run", backend="labelprop", label_field="frames.whole", exemplars="every:3", **login(server)
    )
    finish_jobs(server, results, edit)
    for _ in range(2):
        dataset.load_annotations("run")
        frames = dataset.first().frames
        assert [frames[number].whole for number in range(1, 7)] == [42, 2, 3, None, 5, 6]


def test_a_new_field_of_every_type(server: LocalCVAT, images: list[Path]) -> None:
    dataset = image_dataset(images[:1])

    def draw(client: CVATClient, job_id: int) -> None:
        names = {label.name: label.id for label in client.labels(job_id=job_id)}
        shape = {"frame": 0, "group": 0, "source": "manual", "attributes": [], "occluded": False, "z_order": 0}
        client.create_annotations(
            {
                "tags": [{"label_id": names["day"], "frame": 0, "group": 0, "source": "manual", "attributes": []}],
                "shapes": [
                    {**shape, "type": "rectangle", "points": [1, 2, 30, 40], "label_id": names["car"], "rotation": 30},
                    {**shape, "type": "polygon", "points": [1, 2, 30, 40, 5, 60], "label_id": names["wall"]},
                    {**shape, "type": "polyline", "points": [1, 2, 30, 40], "label_id": names["curb"]},
                    {**shape, "type": "points", "points": [64, 36], "label_id": names["face"]},
                    {**shape, "type": "polygon", "points": [1, 2, 30, 2, 30, 40, 1, 40], "label_id": names["dog"]},
                    {**shape, "type": "polygon", "points": [0, 0, 9, 0, 9, 9, 0, 9], "label_id": names["sky"]},
                ],
            },
            job_id=job_id,
        )

    kinds = ["classifications", "detections", "instances", "polylines", "polygons", "keypoints", "segmentation"]
    results = dataset.annotate(
        "run", backend="labelprop", label_schema=schema_of(kinds), engine="none", **login(server)
    )
    finish_jobs(server, results, draw)
    for _ in range(2):
        dataset.load_annotations("run")
        sample = dataset.first()
        assert [label.label for label in sample.classifications.classifications] == ["day"]
        assert [(label.label, label.rotation, label.index) for label in sample.detections.detections] == [
            ("car", 30, None)
        ]
        (wall,) = sample.polygons.polylines
        assert (wall.label, wall.closed, wall.filled, wall.pose) == ("wall", True, True, "up")
        (curb,) = sample.polylines.polylines
        assert (curb.label, curb.closed, curb.filled) == ("curb", False, False)
        assert sample.keypoints.keypoints[0].points == [[0.5, 0.5]]
        assert sample.instances.detections[0].mask.shape == (38, 29)
        assert sample.segmentation.mask.sum() == 2 * 81


def test_shapes_of_another_kind(server: LocalCVAT, images: list[Path]) -> None:
    dataset = image_dataset(images[:1])

    def draw(client: CVATClient, job_id: int) -> None:
        label_id = client.labels(job_id=job_id)[0].id
        shape = {"frame": 0, "group": 0, "source": "manual", "attributes": [], "occluded": False, "z_order": 0}
        lines = {**shape, "type": "polyline", "points": [1, 2, 30, 40], "label_id": label_id}
        client.create_annotations({"shapes": [lines]}, job_id=job_id)

    options = {"label_field": "boxes", "label_type": "detections", "classes": ["car"], "engine": "none"}
    results = dataset.annotate("run", backend="labelprop", **options, **login(server))
    finish_jobs(server, results, draw)
    dataset.load_annotations("run")
    assert "polylines" not in dataset.get_field_schema()
    found = dataset.load_annotations("run", unexpected="return")
    assert [*found["boxes"]] == ["polylines"]
    for _ in range(2):
        dataset.load_annotations("run", unexpected="keep")
        (line,) = dataset.first().polylines.polylines
        assert line.label == "car"


EVERYTHING = [*KINDS, "whole", "word"]
ALL_SCHEMA = {**schema_of(KINDS), "whole": {"type": "scalar"}, "word": {"type": "scalar"}}


def shift(client: CVATClient, job_id: int) -> None:
    """Changes something of everything."""
    names = {label.id: label.name for label in client.labels(job_id=job_id)}
    there = client.annotations(job_id=job_id)
    for shape in there["shapes"]:
        if shape["type"] != "mask":
            shape["points"][0] += 3
        else:
            shape["points"][-4] += 3
            shape["points"][-2] += 3
    for tag in there["tags"]:
        if names[tag["label_id"]] in ("whole", "word"):
            tag["attributes"][0]["value"] = "42"
        else:
            tag["attributes"][0]["value"] = "changed"
    client.update_annotations({kind: there[kind] for kind in ("shapes", "tags")}, job_id=job_id)


def test_every_type_goes_to_other_fields_and_leaves_its_own_alone(server: LocalCVAT, images: list[Path]) -> None:
    dataset = full_images(images[:2])
    before = content(dataset, *EVERYTHING)
    results = dataset.annotate("run", backend="labelprop", label_schema=ALL_SCHEMA, engine="none", **login(server))
    finish_jobs(server, results, shift)
    others = {field: f"{field}_checked" for field in EVERYTHING}
    once: list[dict[str, Any]] = []
    for _ in range(2):
        dataset.load_annotations("run", dest_field=others)
        assert content(dataset, *EVERYTHING) == before
        found = content(dataset, *others.values())
        assert once in ([], found)
        once = found
    assert [sample.whole_checked for sample in dataset] == [42, 42]
    assert [sample.word_checked for sample in dataset] == ["42", "42"]
    for field, other in others.items():
        differing = [sample for sample in before if sample[field] is not None]
        pairs = zip(before, found, strict=True)
        assert len(differing) == sum(one[field] != two[other] for one, two in pairs), field
        assert [one[field] is None for one in before] == [two[other] is None for two in found]
    dataset.load_annotations("run")
    own = content(dataset, *EVERYTHING)
    for one, two in zip(own, found, strict=True):
        assert {others[field]: value for field, value in one.items()} == two


def draw_lines(client: CVATClient, job_id: int) -> None:
    (label,) = client.labels(job_id=job_id)
    shape = {"frame": 0, "group": 0, "source": "manual", "attributes": [], "occluded": False, "z_order": 0}
    lines = {**shape, "type": "polyline", "points": [1, 2, 30, 40], "label_id": label.id}
    dots = {**shape, "type": "points", "points": [64, 36], "label_id": label.id, "frame": 1}
    client.create_annotations({"shapes": [lines, dots]}, job_id=job_id)


@pytest.mark.parametrize("media", ["images", "video"])
@pytest.mark.parametrize(
    ("unexpected", "kept", "returned"),
    [
        ("prompt", {}, None),
        ("ignore", {}, None),
        ("keep", {"polylines": 1, "keypoints": 1}, None),
        ("return", {}, {"polylines", "keypoints"}),
        (["polylines"], {"polylines": 1}, None),
        ({"keypoints": "dots"}, {"dots": 1}, None),
    ],
)
def test_what_becomes_of_unexpected_labels(
    server: LocalCVAT,
    images: list[Path],
    video: Path,
    monkeypatch: pytest.MonkeyPatch,
    media: str,
    unexpected: Any,
    kept: dict[str, int],
    returned: set[str] | None,
) -> None:
    def nobody(*_: Any) -> str:
        raise AssertionError("nobody is there to be asked")

    monkeypatch.setattr("builtins.input", nobody)
    dataset = image_dataset(images[:2]) if media == "images" else video_dataset(video)
    prefix = "" if media == "images" else "frames."
    options = {"label_field": f"{prefix}boxes", "label_type": "detections", "classes": ["car"], "engine": "none"}
    results = dataset.annotate("run", backend="labelprop", **options, **login(server))
    finish_jobs(server, results, draw_lines)
    for _ in range(2):
        answer = dataset.load_annotations("run", unexpected=unexpected)
        assert (answer and {*answer[f"{prefix}boxes"]}) == returned
        held = dataset.get_field_schema() if media == "images" else dataset.get_frame_field_schema()
        for name in ("polylines", "keypoints", "dots"):
            assert (name in held) is (name in kept)
        for name, count in kept.items():
            kind = "keypoints" if name == "dots" else name
            assert len(dataset.values(f"{prefix}{name}.{kind}.label", unwind=True)) >= count
            assert [label for label in flat(dataset.values(f"{prefix}{name}.{kind}.label")) if label] == ["car"] * count


def flat(values: Any) -> list[Any]:
    return [entry for value in values for entry in flat(value)] if isinstance(values, list) else [values]


# Attributes


def rich(n: int) -> fo.Detections:
    """Attributes of every type that a label can have, CVAT's and others."""
    values = {
        "text": f"0{n}",
        "whole": n,
        "real": n + 0.5,
        "sure": bool(n % 2),
        "listed": [1, 2],
        "nested": {"a": [1, None]},
        "when": datetime(2026, 1, 2, 3, 4, 5),
        "day": date(2026, 1, 2),
        "vector": np.array([1.0, 2.5]),
        "occluded": True,
        "group_id": n + 1,
    }
    return fo.Detections(detections=[fo.Detection(label="car", bounding_box=[0.1, 0.1, 0.5, 0.5], index=1, **values)])


NO_SCALARS = {"listed", "nested", "when", "day", "vector"}


@pytest.mark.parametrize(
    ("attributes", "sent"),
    [
        (True, {"text", "whole", "real", "sure"}),
        (False, set()),
        (None, set()),
        (["text", "whole"], {"text", "whole"}),
        ("sure", {"sure"}),
        ({"whole": {"type": "select", "values": [0, 1, 2]}, "text": {}}, {"whole", "text"}),
        ({"listed": {"type": "text", "read_only": True}}, {"listed"}),
    ],
)
def test_attributes_in_every_form(server: LocalCVAT, images: list[Path], attributes: Any, sent: set[str]) -> None:
    dataset = image_dataset(images[:2], cars=rich)
    dataset.set_values("number", [5, 6])
    before = content(dataset, "cars")
    options = {} if attributes is None else {"attributes": attributes}
    results = dataset.annotate(
        "run",
        backend="labelprop",
        label_field="cars",
        label_type="detections",
        engine="none",
        **options,
        **login(server),
    )
    if attributes is None:
        sent = {"text", "whole", "real", "sure"}
    with client_of(server) as client:
        (_, job) = next(results.ledger.jobs())
        (label,) = client.labels(job_id=job.id)
        assert {attribute.name for attribute in label.attributes} == {"index", *sent}
        shape = client.annotations(job_id=job.id)["shapes"][1]
        is_linked = attributes in (True, None)
        assert (shape["occluded"], shape["group"]) == ((True, 2) if is_linked else (False, 0))
    finish_jobs(server, results)
    for _ in range(2):
        dataset.load_annotations("run")
        assert content(dataset, "cars") == before


def test_values_that_a_declared_attribute_cannot_hold_do_not_stop_a_load(
    server: LocalCVAT, images: list[Path], caplog: pytest.LogCaptureFixture
) -> None:
    dataset = image_dataset(images[:2], cars=rich)
    dataset.add_dynamic_sample_fields()
    attributes = {
        name: {"type": "text"} for name in ("text", "whole", "real", "sure", "listed", "nested", "when", "vector")
    }

    def edit(client: CVATClient, job_id: int) -> None:
        (label,) = client.labels(job_id=job_id)
        names = {attribute.id: attribute.name for attribute in label.attributes}
        shapes = client.annotations(job_id=job_id)["shapes"]
        typed = {"whole": "3.5", "real": "7", "sure": "maybe"}
        for shape in shapes:
            for attribute in shape["attributes"]:
                if names[attribute["spec_id"]] != "index":
                    attribute["value"] = typed.get(names[attribute["spec_id"]], "something else")
        fresh = {key: value for key, value in shapes[0].items() if key not in ("id", "elements")}
        client.update_annotations({"shapes": shapes}, job_id=job_id)
        client.create_annotations({"shapes": [fresh]}, job_id=job_id)

    results = dataset.annotate(
        "run",
        backend="labelprop",
        label_field="cars",
        label_type="detections",
        attributes=attributes,
        engine="none",
        **login(server),
    )
    finish_jobs(server, results, edit)
    for _ in range(2):
        dataset.load_annotations("run")
        first, *_, new = dataset.first().cars.detections
        assert (first.text, first.whole, first.real, first.sure) == ("something else", 0, 7.0, False)
        assert (first.listed, first.nested, first.when) == ([1, 2], {"a": [1, None]}, datetime(2026, 1, 2, 3, 4, 5))
        assert (new.text, new.real) == ("something else", 7.0)
        assert [new.get_attribute_value(name, None) for name in ("whole", "sure", "listed", "when")] == [None] * 4
    assert "'3.5'" in caplog.text


ODD: list[tuple[str, Any]] = [
    ("pose", "sideways"), ("grade", 3), ("grade", "1"), ("limited", 77), ("count", 1e12), ("count", 1e300),
    ("count", float("nan")), ("count", "seven"), ("sure", "True"), ("sure", 1), ("sure", "maybe"), ("note", "x" * 5000),
    ("note", "a\x00b"), ("crowd", -3), ("crowd", 2.5), ("rotation", -30), ("rotation", 765.5), ("rotation", 360),
]  # fmt: skip


@pytest.mark.parametrize("sort_field", [None, "number"])
def test_values_that_cvat_cannot_hold_stay_at_home(
    server: LocalCVAT, images: list[Path], caplog: pytest.LogCaptureFixture, sort_field: str | None
) -> None:
    def boxes(n: int) -> fo.Detections:
        return fo.Detections(
            detections=[
                fo.Detection(label="car", bounding_box=[0.1, 0.1, 0.2, 0.2], index=number, **{name: value})
                for number, (name, value) in enumerate(ODD, start=1)
            ]
        )

    dataset = image_dataset(images[:2], boxes=boxes, word=lambda n: "y" * 5000 if n else "fine")
    attributes = {
        "pose": {"type": "select", "values": ["up", "down"]},
        "grade": {"type": "radio", "values": [1, 2]},
        "limited": {"type": "number", "values": [0, 5, 1]},
        "count": {"type": "number"},
        "sure": {"type": "checkbox"},
        "note": {"type": "text"},
        "crowd": {"type": "group_id"},
    }
    schema = {
        "boxes": {"type": "detections", "classes": ["car"], "attributes": attributes},
        "word": {"type": "scalar"},
    }
    before = [(label.id, *ODD[n % len(ODD)]) for n, label in enumerate(all_boxes(dataset))]
    options = {"label_schema": schema, "engine": "none", "sort_field": sort_field}
    results = dataset.annotate("run", backend="labelprop", **options, **login(server))
    assert "'sideways'" in caplog.text
    finish_jobs(server, results)
    for _ in range(2):
        dataset.load_annotations("run")
        after = [(label.id, name, label[name]) for label, (_, name, _) in zip(all_boxes(dataset), before, strict=True)]
        assert str(after) == str(before)
        assert dataset.values("word") == ["fine", "y" * 5000]


def all_boxes(dataset: fo.Dataset) -> list[fo.Detection]:
    return [label for sample in dataset for label in sample.boxes.detections]


def test_segmentations_in_colour(server: LocalCVAT, images: list[Path], tmp_path: Path) -> None:
    colours = {"#ff0000": "road", "#00ff80": "sky"}
    mask = np.zeros((72, 128, 3), np.uint8)
    mask[10:30], mask[40:50, 20:60], mask[60:] = (255, 0, 0), (0, 255, 128), (1, 2, 3)
    path = tmp_path / "mask.png"
    cv2.imwrite(str(path), mask[..., ::-1])
    stored = path.read_bytes()

    def stuff(n: int) -> fo.Segmentation | None:
        return fo.Segmentation(mask=mask) if n == 0 else fo.Segmentation(mask_path=str(path)) if n == 1 else None

    dataset = image_dataset(images[:3], stuff=stuff)
    dataset.mask_targets = {"stuff": colours}
    before = content(dataset, "stuff")
    results = dataset.annotate("run", backend="labelprop", label_field="stuff", **login(server))
    finish_jobs(server, results)
    for _ in range(2):
        dataset.load_annotations("run")
        assert content(dataset, "stuff") == before

    def paint(client: CVATClient, job_id: int) -> None:
        names = {label.name: label.id for label in client.labels(job_id=job_id)}
        box = {"type": "rectangle", "points": [0, 0, 10, 10], "label_id": names["sky"], "group": 0, "z_order": 1}
        common = {**box, "source": "manual", "attributes": [], "occluded": False, "rotation": 0}
        client.create_annotations({"shapes": [{**common, "frame": frame} for frame in range(3)]}, job_id=job_id)

    finish_jobs(server, results, paint)
    for _ in range(2):
        dataset.load_annotations("run")
        expected = mask.copy()
        expected[:10, :10] = (0, 255, 128)
        first, second, third = (sample.stuff for sample in dataset)
        assert np.array_equal(first.mask, expected)
        assert np.array_equal(second.get_mask(), expected)
        assert np.array_equal(third.mask[:10, :10], expected[:10, :10])
        assert (third.mask.shape, third.mask.sum()) == (mask.shape, 100 * (255 + 128))
    assert path.read_bytes() == stored


def test_of_two_values_the_one_that_was_touched_counts(server: LocalCVAT, images: list[Path]) -> None:
    dataset = image_dataset(images[:1])
    dataset.set_values("whole", [1])

    def tags(client: CVATClient, job_id: int) -> list[dict[str, Any]]:
        return sorted(client.annotations(job_id=job_id)["tags"], key=lambda tag: int(tag["id"]))

    def type_in(client: CVATClient, job_id: int, tag: dict[str, Any], text: str) -> None:
        value = [{**tag["attributes"][0], "value": text}]
        client.update_annotations({"tags": [{**tag, "attributes": value}]}, job_id=job_id)

    def add(client: CVATClient, job_id: int) -> None:
        (old,) = tags(client, job_id)
        new = {key: entry for key, entry in old.items() if key != "id"}
        client.create_annotations(
            {"tags": [{**new, "attributes": [{**old["attributes"][0], "value": "2"}]}]}, job_id=job_id
        )

    results = dataset.annotate("run", backend="labelprop", label_field="whole", **login(server))
    edits = [
        (add, 2),
        (lambda client, job_id: type_in(client, job_id, tags(client, job_id)[0], "3"), 3),
        (lambda client, job_id: None, 3),
        (lambda client, job_id: client.delete_annotations({"tags": tags(client, job_id)[:1]}, job_id=job_id), 2),
        (lambda client, job_id: client.delete_annotations({"tags": tags(client, job_id)}, job_id=job_id), None),
    ]
    for edit, expected in edits:
        finish_jobs(server, results, edit)
        dataset.load_annotations("run")
        dataset.reload()
        assert dataset.values("whole") == [expected]
