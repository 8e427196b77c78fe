"""Adopted tasks with every kind of label, in one field or several, of tasks that differ, on views of any kind."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fiftyone as fo
import numpy as np
import pytest
from fixtures_adopt import INDEX, POSE, annotate, image_task, labels, scene, video_task
from fixtures_local_cvat import Api
from fixtures_roundtrip import (
    LABELS,
    client_of,
    image_dataset,
    login,
    scene_masks,
    video_dataset,
    write_images,
    write_video,
)

import labelprop_cvat  # noqa: F401 - registers the backend
from labelprop_cvat import workflow
from labelprop_cvat.backend.local_cvat import LocalCVAT
from labelprop_cvat.backend.local_cvat.annotator import TruthObject

NONE = {"engine": "none"}


@pytest.fixture(scope="module")
def server() -> Iterator[LocalCVAT]:
    with LocalCVAT(anonymous_rate=None) as running:
        yield running


@pytest.fixture(scope="module")
def paths(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return write_images(tmp_path_factory.mktemp("images"), 3)


def course(name: str) -> list[tuple[float, float]]:
    number = int(Path(name).stem)
    return [(10.0 + number, 10.0), (60.0, 20.0), (50.5, 60.0)]


def drawn(task: str, name: str) -> list[TruthObject]:
    return [TruthObject(1, "person", points=course(name), occluded=True)]


def shaped(points: Any) -> list[list[float]]:
    return [[round(x * 128, 3), round(y * 72, 3)] for x, y in points]


@pytest.mark.parametrize("tracks", [False, True])
@pytest.mark.parametrize(
    ("shape", "label_type", "closed"),
    [("polygon", "polygons", True), ("polyline", "polylines", False), ("points", "keypoints", None)],
)
def test_points_of_every_kind(
    server: LocalCVAT, paths: list[Path], shape: Any, label_type: str, closed: bool | None, tracks: bool
) -> None:
    task_id = image_task(server, paths, labels(INDEX, POSE))
    annotate(server, task_id, shape, drawn, tracks=tracks)
    dataset = image_dataset(paths)
    options = {**NONE, "label_field": "found", "occluded_attr": "hidden"}
    results = workflow.adopt(dataset, "run", task_ids=task_id, **options, **login(server))
    assert results.config.label_schema["found"]["type"] == label_type
    dataset.load_annotations("run")
    for sample in dataset:
        (label,) = sample.found[sample.found._LABEL_LIST_FIELD]
        assert (label.label, label.pose, label.hidden) == ("person", "up", True)
        if closed is None:
            assert shaped(label.points) == [list(point) for point in course(sample.filepath)]
        else:
            assert [shaped(part) for part in label.points] == [[list(point) for point in course(sample.filepath)]]
            assert label.closed is closed


def test_skeletons(server: LocalCVAT, paths: list[Path]) -> None:
    nodes = [{"name": name, "type": "points", "attributes": []} for name in ("nose", "hand", "foot")]
    cat = {"name": "person", "type": "skeleton", "attributes": [INDEX], "sublabels": nodes, "svg": ""}
    task_id = image_task(server, paths, [cat])
    annotate(server, task_id, "skeleton", lambda t, n: [TruthObject(1, "person", points=[*course(n)[:2], None])])
    dataset = image_dataset(paths)
    results = workflow.adopt(dataset, "run", task_ids=task_id, label_field="found", **NONE, **login(server))
    assert results.config.label_schema["found"]["type"] == "keypoints"
    dataset.load_annotations("run")
    for sample in dataset:
        (label,) = sample.found.keypoints
        assert shaped(label.points[:2]) == [list(point) for point in course(sample.filepath)[:2]]
        assert np.isnan(label.points[2]).all()


def test_tags_are_classifications_or_values(server: LocalCVAT, paths: list[Path]) -> None:
    sky = {"name": "value", "mutable": False, "input_type": "text", "values": [], "default_value": ""}
    task_id = image_task(server, paths, [*labels(), {"name": "sky", "type": "tag", "attributes": [sky]}])
    api = Api(server)
    ids = {label["name"]: label for label in api.get(f"labels?task_id={task_id}")["results"]}
    job = api.jobs(task_id)[0]["id"]
    tags = [{"frame": frame, "label_id": ids["person"]["id"]} for frame in (0, 2)]
    spec = ids["sky"]["attributes"][0]["id"]
    tags.append({"frame": 1, "label_id": ids["sky"]["id"], "attributes": [{"spec_id": spec, "value": "007"}]})
    api.call("PATCH", f"jobs/{job}/annotations?action=create", {"tags": tags})
    dataset = image_dataset(paths)
    schema = {"who": {"type": "classifications", "classes": ["person", "car"]}, "sky": {"type": "scalar"}}
    workflow.adopt(dataset, "run", task_ids=task_id, label_schema=schema, **NONE, **login(server))
    dataset.load_annotations("run")
    assert [[c.label for c in (entry or fo.Classifications()).classifications] for entry in dataset.values("who")] == [
        ["person"],
        [],
        ["person"],
    ]
    assert dataset.values("sky") == [None, "007", None]


def test_masks_as_a_segmentation(server: LocalCVAT, paths: list[Path]) -> None:
    task_id = image_task(server, paths)
    annotate(server, task_id, "mask")
    dataset = image_dataset(paths)
    options = {"label_field": "ground", "label_type": "segmentation"}
    workflow.adopt(dataset, "run", task_ids=task_id, **options, **NONE, **login(server))
    dataset.load_annotations("run")
    for sample in dataset:
        truth = scene_masks(sample.number)
        for number in (1, 2):
            assert ((sample.ground.mask == number) == truth[number]).all()


def test_tasks_with_different_labels(server: LocalCVAT, paths: list[Path]) -> None:
    first = image_task(server, paths[:1], labels(INDEX))
    second = image_task(server, paths[1:], [{"name": "car", "type": "any", "attributes": [POSE]}])
    annotate(server, first)
    annotate(server, second, "rectangle", lambda t, n: [o for o in scene()(t, n) if o.label == "car"], tracks=False)
    dataset = image_dataset(paths)
    results = workflow.adopt(dataset, "run", task_ids=[first, second], label_field="all", **NONE, **login(server))
    (classes,) = (info["classes"] for info in results.config.label_schema.values())
    assert {name for entry in classes for name in entry["classes"]} == set(LABELS.values())
    dataset.load_annotations("run")
    assert [sorted(label.label for label in value.detections) for value in dataset.values("all")] == [
        ["car", "person"],
        ["car"],
        ["car"],
    ]
    assert dataset.values("all.detections.pose")[1:] == [["up"], ["up"]]


def test_a_field_that_is_there_tells_the_type(server: LocalCVAT, paths: list[Path]) -> None:
    task_id = image_task(server, paths)
    annotate(server, task_id, "polygon")
    dataset = image_dataset(paths, masks=lambda n: fo.Detections(), lines=lambda n: fo.Polylines())
    for field, kind in (("masks", "detections"), ("lines", "polygons")):
        results = workflow.adopt(dataset, f"to_{field}", task_ids=task_id, label_field=field, **NONE, **login(server))
        assert results.config.label_schema[field]["type"] == kind


def test_pictures_of_the_frames_of_a_video(server: LocalCVAT, tmp_path: Path) -> None:
    dataset = video_dataset(write_video(tmp_path / "street.mp4", 4))
    files = write_images(tmp_path / "frames", 4, "jpg")
    sample = dataset.first()
    for number, path in enumerate(files, start=1):
        sample.frames[number] = fo.Frame(picture=str(path))
    sample.save()
    task_id = image_task(server, files[1:])
    annotate(server, task_id, "rectangle", tracks=False)
    options = {"label_field": "frames.objects", "label_type": "detections", "media_field": "frames.picture"}
    workflow.adopt(dataset, "run", task_ids=task_id, **options, **NONE, **login(server))
    dataset.load_annotations("run")
    frames = dataset.first().frames
    assert [len(frame.objects.detections) if frame.objects else 0 for frame in frames.values()] == [0, 2, 2, 2]


def test_clips_views(server: LocalCVAT, tmp_path: Path) -> None:
    path = write_video(tmp_path / "street.mp4", 9)
    task_id = video_task(server, path)
    annotate(server, task_id, frames=[0, 3, 5, 8])
    dataset = video_dataset(path)
    dataset.set_values("part", [fo.TemporalDetections(detections=[fo.TemporalDetection(label="a", support=[3, 7])])])
    options = {"label_field": "objects", "label_type": "detections", "engine": "interpolate"}
    workflow.adopt(dataset.to_clips("part"), "run", task_ids=task_id, **options, **login(server))
    dataset.load_annotations("run")
    sample = dataset.first()
    assert sorted(n for n, frame in sample.frames.items() if frame.has_field("objects") and frame.objects) == [4, 6]
    filled = [
        n for n, frame in sample.frames.items() if frame.has_field("objects_propagated") and frame.objects_propagated
    ]
    assert sorted(filled) == [3, 4, 5, 6, 7]


def test_tasks_of_an_organization(server: LocalCVAT, paths: list[Path]) -> None:
    api = Api(server)
    api.call("POST", "organizations", {"slug": "team"})
    made = api.call("POST", "tasks?org=team", {"name": "theirs", "labels": labels()}).json()["id"]
    assert api.upload(made, [(path.name, path.read_bytes()) for path in paths])["status"] == "finished"
    annotate(server, made)
    dataset = image_dataset(paths)
    options = {"label_field": "objects", "organization": "team"}
    workflow.adopt(dataset, "run", task_ids=made, **options, **NONE, **login(server))
    dataset.load_annotations("run", **login(server))
    assert [len(value.detections) for value in dataset.values("objects")] == [2, 2, 2]


def test_missing_objects_may_be_absent_ones(server: LocalCVAT, tmp_path: Path) -> None:
    paths = write_images(tmp_path, 9)
    task_id = image_task(server, paths[::4], labels(INDEX))
    annotate(server, task_id, "rectangle", lambda t, n: scene()(t, n)[: 1 if "0004" in n else 2], tracks=False)
    dataset = image_dataset(paths)
    options = {"label_field": "objects", "engine": "interpolate", "segmentation": "none", "sort_field": "number"}
    workflow.adopt(dataset, "run", task_ids=task_id, **options, missing="absent", **login(server))
    dataset.load_annotations("run")
    filled = dataset.sort_by("number").values("objects_propagated.detections.label")
    assert sorted(filled[0]) == ["car", "person"]
    assert filled[4] == ["person"]
    with client_of(server) as client:
        assert client.task(task_id).size == 3


def test_frames_in_no_segment_are_left_out(server: LocalCVAT, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    paths = write_images(tmp_path, 6)
    task_id = image_task(server, paths[::2])
    annotate(server, task_id, tracks=False)
    dataset = image_dataset(
        paths,
        shot=lambda n: fo.Classifications(classifications=[fo.Classification(label="a")] if n < 4 else []),
    )
    options = {"label_field": "objects", "engine": "interpolate", "sort_field": "number", "segments_field": "shot"}
    workflow.adopt(dataset, "run", task_ids=task_id, **options, **login(server))
    assert "1 frames of the tasks lie in no temporal segment" in caplog.text
    dataset.load_annotations("run")
    there = [bool(value and value.detections) for value in dataset.sort_by("number").values("objects")]
    assert there == [True, False, True, False, False, False]
    filled = [bool(value and value.detections) for value in dataset.sort_by("number").values("objects_propagated")]
    assert filled == [True] * 4 + [False] * 2


@pytest.mark.parametrize(
    ("shapes", "field", "tells", "values"),
    [
        (("polygon", "polyline"), "polygons", "closed", [False, True]),
        (("rectangle", "mask"), "detections", "mask", [False, True]),
    ],
)
def test_kinds_that_live_in_one_field(
    server: LocalCVAT, paths: list[Path], shapes: Any, field: str, tells: str, values: list[bool]
) -> None:
    task_id = image_task(server, paths)
    for shape in shapes:
        truth = drawn if field == "polygons" else scene()
        annotate(server, task_id, shape, truth, tracks=False, frames=[0])
    dataset = image_dataset(paths)
    results = workflow.adopt(dataset, "run", task_ids=task_id, **NONE, **login(server))
    assert list(results.config.label_schema) == [field]
    dataset.load_annotations("run")
    value = dataset.first()[field]
    found = {bool(label[tells] is not None and np.any(label[tells])) for label in value[value._LABEL_LIST_FIELD]}
    assert sorted(found) == values
