"""Keypoints whose points have names are skeletons in CVAT: there and back, node by node."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import fiftyone as fo
import numpy as np
import pytest
from fixtures_label_types import content, finish_jobs
from fixtures_roundtrip import SIZE, client_of, image_dataset, login, video_dataset, write_images, write_video
from hypothesis import given
from hypothesis import strategies as st

from labelprop_cvat import workflow
from labelprop_cvat.backend.cvat import CVATClient, LabelSpec, UploadFile
from labelprop_cvat.backend.local_cvat import LocalCVAT
from labelprop_cvat.backend.shapes.nodes import flat_skeleton, skeleton_elements
from labelprop_cvat.backend.skeletons import Skeleton

NODES = ["nose", "left hand", "right hand", "tail"]
EDGES = [[1, 0, 2], [0, 3]]
HIDDEN = [math.nan, math.nan]
OPTIONS: dict[str, Any] = {"label_field": "pose", "classes": ["cat", "dog"], "engine": "none"}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalCVAT]:
    with LocalCVAT(tmp_path_factory.mktemp("cvat"), anonymous_rate=None) as running:
        yield running


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return write_images(tmp_path_factory.mktemp("images"), 4)


def pose(n: int, label: str = "cat") -> fo.Keypoint:
    points = [[0.2 + 0.01 * n, 0.2], HIDDEN, [0.5, 0.61], [0.123456789, 0.9]]
    return fo.Keypoint(label=label, points=points, confidence=[0.5, 0.0, 0.9, 0.1], mood="calm")


def short(n: int) -> fo.Keypoint:
    """A label that stops before the last node."""
    return fo.Keypoint(label="dog", points=[[0.3, 0.3], [0.4, 0.4 + 0.01 * n]])


def skeleton() -> fo.KeypointSkeleton:
    return fo.KeypointSkeleton(labels=NODES, edges=EDGES)


def posed(images: list[Path]) -> fo.Dataset:
    dataset = image_dataset(images, pose=lambda n: fo.Keypoints(keypoints=[pose(n), short(n)]))
    dataset.skeletons = {"pose": skeleton()}
    return dataset


def only_job(results: Any) -> int:
    (entry,) = results.ledger.jobs()
    return int(entry[1].id)


def pixels(label: fo.Keypoint) -> np.ndarray:
    height, width = SIZE
    return np.array(label.points) * [width, height]


# The skeleton itself


NAMES = st.text(st.characters(codec="utf-8"), max_size=80)


@given(labels=st.lists(NAMES, min_size=1, max_size=9), data=st.data())
def test_the_drawing_names_every_node_and_joins_what_the_dataset_joins(labels: list[str], data: st.DataObject) -> None:
    places = st.integers(0, len(labels) - 1)
    edges = data.draw(st.lists(st.lists(places, min_size=2, max_size=4), max_size=4))
    own = Skeleton.of(fo.KeypointSkeleton(labels=labels, edges=edges))
    assert own is not None
    spec = own.joined_to(LabelSpec("cat"))
    names = [sub.name for sub in spec.sublabels]
    assert (spec.type, len(names), len(set(names))) == ("skeleton", len(labels), len(labels))
    drawing = ElementTree.fromstring(f"<svg>{spec.svg}</svg>")
    circles = drawing.findall("circle")
    assert [circle.get("data-label-name") for circle in circles] == names
    numbers = {circle.get("data-node-id") for circle in circles}
    lines = {(line.get("data-node-from"), line.get("data-node-to")) for line in drawing.findall("line")}
    assert {number for line in lines for number in line} <= numbers
    joined = {(str(a + 1), str(b + 1)) for line in edges for a, b in pairwise(line) if a != b}
    assert lines == joined
    assert Skeleton.from_dict(own.to_dict()) == own


def test_points_without_names_are_no_skeleton() -> None:
    assert Skeleton.of(None) is None
    assert Skeleton.of(fo.KeypointSkeleton(edges=[[0, 1]])) is None


NODE = st.tuples(st.floats(-50, 500), st.floats(-50, 500)) | st.just((math.nan, math.nan))


@given(points=st.lists(NODE, min_size=1, max_size=7), missing=st.integers(0, 3), occluded=st.booleans())
def test_nodes_go_there_and_back(points: list[tuple[float, float]], missing: int, occluded: bool) -> None:
    nodes = list(range(40, 40 + len(points) + missing))
    if all(math.isnan(x) for x, _ in points):
        return
    flat = [value for point in points for value in point]
    shape = {"frame": 3, "points": flat, "occluded": occluded, "z_order": 0, "source": "manual", "type": "skeleton"}
    elements = skeleton_elements(shape, nodes)
    assert all(math.isfinite(value) for element in elements for value in element["points"])
    for order in (elements, elements[::-1]):
        back = flat_skeleton({**shape, "points": [], "elements": order}, nodes)
        assert np.array_equal(back["points"], flat + [math.nan] * 2 * missing, equal_nan=True)
        assert (back["occluded"], back["outside"]) == (occluded, False)


# There and back


def test_untouched_skeletons_stay_as_they_are_however_often(server: LocalCVAT, images: list[Path]) -> None:
    dataset = posed(images)
    before = content(dataset, "pose")
    results = dataset.annotate("run", backend="labelprop", attributes=["mood"], **OPTIONS, **login(server))
    with client_of(server) as client:
        labels = {label.name: label for label in client.labels(job_id=only_job(results))}
        assert [sub.name for sub in labels["cat"].sublabels] == NODES
        assert {sub.type for sub in labels["dog"].sublabels} == {"points"}
        shapes = client.annotations(job_id=only_job(results))["shapes"]
        hidden = [[element["outside"] for element in shape["elements"]] for shape in shapes[:2]]
        assert hidden == [[False, True, False, False], [False, False, True, True]]
    finish_jobs(server, results)
    for _ in range(10):
        dataset.load_annotations("run")
        assert content(dataset, "pose") == before
    again = fo.load_dataset(dataset.name).load_annotation_results("run", cache=False)
    assert next(iter(again.config.schema())).skeletons == dict.fromkeys(["cat", "dog"], Skeleton.of(skeleton()))


def test_single_nodes_are_moved_hidden_and_shown(server: LocalCVAT, images: list[Path]) -> None:
    dataset = posed(images[:1])
    first, second = dataset.first().pose.keypoints
    results = dataset.annotate("run", backend="labelprop", **OPTIONS, **login(server))

    def edit(client: CVATClient, job_id: int) -> None:
        cat, dog = client.annotations(job_id=job_id)["shapes"]
        cat["elements"][0]["points"] = [64.0, 36.0]
        cat["elements"][1] |= {"outside": False, "points": [32.0, 18.0]}
        cat["elements"][2]["outside"] = True
        dog["elements"][3] |= {"outside": False, "points": [0.0, 72.0]}
        client.update_annotations({"shapes": [cat, dog]}, job_id=job_id)

    finish_jobs(server, results, edit)
    for _ in range(2):
        dataset.load_annotations("run")
        cat, dog = dataset.first().pose.keypoints
        assert (cat.id, dog.id) == (first.id, second.id)
        assert np.allclose(
            pixels(cat), [[64, 36], [32, 18], HIDDEN, pixels(first)[3]], atol=1e-3, rtol=0, equal_nan=True
        )
        assert cat.confidence == [0.5, 0.0, 0.9, 0.1]
        assert np.allclose(pixels(dog), [*pixels(second), HIDDEN, [0, 72]], atol=1e-3, rtol=0, equal_nan=True)


def drawn(client: CVATClient, job_id: int, name: str, points: list[list[float] | None], **more: Any) -> dict[str, Any]:
    """A skeleton as CVAT's web page saves it."""
    label = next(label for label in client.labels(job_id=job_id) if label.name == name)
    shared = {"frame": 0, "group": 0, "source": "manual", "attributes": [], "occluded": False, "z_order": 0, **more}
    elements = [
        {**shared, "type": "points", "label_id": sub.id, "points": point or [0, 0], "outside": point is None}
        for sub, point in zip(label.sublabels, points, strict=True)
    ]
    return {**shared, "type": "skeleton", "label_id": label.id, "points": [], "rotation": 0, "elements": elements}


def test_skeletons_drawn_changed_and_deleted(server: LocalCVAT, images: list[Path]) -> None:
    dataset = posed(images[:2])
    dataset.skeletons = {}
    dataset.default_skeleton = skeleton()
    ids = [[label.id for label in sample.pose.keypoints] for sample in dataset]
    results = dataset.annotate("run", backend="labelprop", occluded_attr="hidden", **OPTIONS, **login(server))

    def edit(client: CVATClient, job_id: int) -> None:
        there = client.annotations(job_id=job_id)["shapes"]
        client.delete_annotations({"shapes": [there[0]]}, job_id=job_id)
        for element in there[3]["elements"]:
            element["occluded"] = True
        client.update_annotations({"shapes": [there[3]]}, job_id=job_id)
        # All nodes hidden: the animal is not in the picture.
        for element in there[1]["elements"]:
            element["outside"] = True
        client.update_annotations({"shapes": [there[1]]}, job_id=job_id)
        new = drawn(client, job_id, "dog", [[1, 2], None, [3, 4], None], frame=1)
        client.create_annotations({"shapes": [new]}, job_id=job_id)

    finish_jobs(server, results, edit)
    for _ in range(2):
        dataset.load_annotations("run")
        first, second = dataset
        assert first.pose.keypoints == []
        assert [label.id for label in second.pose.keypoints[:2]] == ids[1]
        assert [label.get_attribute_value("hidden", None) for label in second.pose.keypoints[:2]] == [None, True]
        new = second.pose.keypoints[2]
        assert new.label == "dog"
        assert np.allclose(pixels(new), [[1, 2], HIDDEN, [3, 4], HIDDEN], atol=1e-6, equal_nan=True)


def test_skeleton_tracks_that_people_draw(server: LocalCVAT, tmp_path: Path) -> None:
    dataset = video_dataset(write_video(tmp_path / "scene.mp4", 6))
    dataset.skeletons = {"frames.pose": skeleton()}
    options = {**OPTIONS, "label_field": "frames.pose", "label_type": "keypoints", "exemplars": "all"}
    results = dataset.annotate("run", backend="labelprop", **options, **login(server))

    def draw(client: CVATClient, job_id: int) -> None:
        shape = drawn(client, job_id, "cat", [[0, 0]] * 4)
        plain = {name: shape[name] for name in ("group", "source", "attributes", "label_id", "frame")}

        def keyframe(frame: int, kind: str, points: list[float], outside: bool = False) -> dict[str, Any]:
            common = {"occluded": False, "z_order": 0, "rotation": 0, "attributes": []}
            return {"type": kind, "frame": frame, "points": points, "outside": outside, **common}

        moves = {
            "nose": [keyframe(0, "points", [0, 0]), keyframe(4, "points", [8, 4])],
            "left hand": [keyframe(0, "points", [1, 1]), keyframe(2, "points", [1, 1], True)],
            "right hand": [keyframe(0, "points", [9, 9], True)],
            "tail": [keyframe(0, "points", [5, 5]), keyframe(2, "points", [6, 6]), keyframe(4, "points", [7, 7])],
        }
        for shapes in moves.values():
            last = shapes[-1]
            shapes.append(keyframe(5, "points", last["points"], True))
        elements = [
            {**plain, "label_id": element["label_id"], "shapes": shapes}
            for element, shapes in zip(shape["elements"], moves.values(), strict=True)
        ]
        # The skeleton's own keyframes need not be all that its nodes have.
        own = [keyframe(0, "skeleton", []), keyframe(5, "skeleton", [], True)]
        client.create_annotations({"tracks": [{**plain, "shapes": own, "elements": elements}]}, job_id=job_id)

    finish_jobs(server, results, draw)
    kept: list[str] = []
    for _ in range(2):
        dataset.load_annotations("run")
        frames = dataset.first().frames
        held = {n: frames[n].pose.keypoints for n in range(1, 7) if frames[n].pose and frames[n].pose.keypoints}
        assert {number: len(labels) for number, labels in held.items()} == {1: 1, 3: 1, 5: 1}
        (first,), (middle,), (last,) = held.values()
        assert np.allclose(pixels(first), [[0, 0], [1, 1], HIDDEN, [5, 5]], atol=1e-6, equal_nan=True)
        assert np.allclose(pixels(middle), [[4, 2], HIDDEN, HIDDEN, [6, 6]], atol=1e-6, equal_nan=True)
        assert np.allclose(pixels(last), [[8, 4], HIDDEN, HIDDEN, [7, 7]], atol=1e-6, equal_nan=True)
        assert {label.index for label in (first, middle, last)} == {1}
        assert len({label.instance.id for label in (first, middle, last)}) == 1
        assert not kept or kept == [label.id for label in (first, middle, last)]
        kept = [label.id for label in (first, middle, last)]


def test_labels_with_more_points_than_the_skeleton_go_as_plain_points(
    server: LocalCVAT, images: list[Path], caplog: pytest.LogCaptureFixture
) -> None:
    dataset = posed(images[:1])
    dataset.skeletons = {"pose": fo.KeypointSkeleton(labels=NODES[:2], edges=[[0, 1]])}
    before = content(dataset, "pose")
    with caplog.at_level(logging.WARNING):
        results = dataset.annotate("run", backend="labelprop", **OPTIONS, **login(server))
    assert "up to 4 points, and the skeleton of the dataset has 2" in caplog.text
    with client_of(server) as client:
        assert {s["type"] for s in client.annotations(job_id=only_job(results))["shapes"]} == {"points"}
    finish_jobs(server, results)
    dataset.load_annotations("run")
    assert content(dataset, "pose") == before


def test_a_single_keypoint_in_another_field(server: LocalCVAT, images: list[Path]) -> None:
    dataset = image_dataset(images[:2], pose=pose)
    dataset.skeletons = {"pose": skeleton()}
    before = content(dataset, "pose")
    results = dataset.annotate("run", backend="labelprop", **OPTIONS, **login(server))
    finish_jobs(server, results)
    dataset.load_annotations("run", dest_field="checked")
    assert content(dataset, "pose") == before
    assert [sample.checked.id for sample in dataset] == [sample.pose.id for sample in dataset]
    assert all(
        np.array_equal(sample.checked.points, sample.pose.points, equal_nan=True)
        and sample.checked.confidence == sample.pose.confidence
        for sample in dataset
    )


def test_the_skeletons_of_a_project_are_taken_over(server: LocalCVAT, images: list[Path]) -> None:
    ours = Skeleton(("tail", "nose", "left hand", "right hand"))
    with client_of(server) as client:
        bird = Skeleton(("beak", "wing")).joined_to(LabelSpec("bird"))
        specs = [ours.joined_to(LabelSpec("cat")), ours.joined_to(LabelSpec("dog")), bird, LabelSpec("rock")]
        project = client.create_project("zoo", specs)
    dataset = posed(images[:2])
    before = content(dataset, "pose")
    options = {**OPTIONS, "project_id": project.id}
    results = dataset.annotate("run", backend="labelprop", **options, **login(server))
    assert {*next(iter(results.config.schema())).classes} == {"cat", "dog", "bird"}
    finish_jobs(server, results)
    for _ in range(2):
        dataset.load_annotations("run")
        assert content(dataset, "pose") == before

    bare = image_dataset(images[:1])
    results = bare.annotate("run", backend="labelprop", label_type="keypoints", **options, **login(server))

    def draw(client: CVATClient, job_id: int) -> None:
        dog = drawn(client, job_id, "dog", [[1, 2], None, [3, 4], None])
        hawk = drawn(client, job_id, "bird", [None, [5, 6]])
        client.create_annotations({"shapes": [dog, hawk]}, job_id=job_id)

    finish_jobs(server, results, draw)
    bare.load_annotations("run")
    dog, hawk = bare.first().pose.keypoints
    assert np.allclose(pixels(dog), [[1, 2], HIDDEN, [3, 4], HIDDEN], atol=1e-6, equal_nan=True)
    assert np.allclose(pixels(hawk), [HIDDEN, [5, 6]], atol=1e-6, equal_nan=True)
    again = bare.annotate("again", backend="labelprop", label_type="keypoints", **options, **login(server))
    finish_jobs(server, again)
    bare.load_annotations("again")
    assert [label.id for label in bare.first().pose.keypoints] == [dog.id, hawk.id]


def test_skeletons_in_tasks_that_are_in_cvat_already(server: LocalCVAT, images: list[Path]) -> None:
    cat, bird = (Skeleton(nodes).joined_to(LabelSpec(name)) for name, nodes in (("cat", ("a", "b")), ("bird", ("c",))))
    with client_of(server) as client:
        task = client.create_task("there before", [cat, bird])
        files = [UploadFile(path.name, path) for path in images[:2]]
        client.upload_images(task.id, files, jobs=[[file.name for file in files]])
        (job,) = client.jobs(task.id)
        new = [drawn(client, job.id, "cat", [[1, 2], None]), drawn(client, job.id, "bird", [[3, 4]], frame=1)]
        client.create_annotations({"shapes": new}, job_id=job.id)
    dataset = image_dataset(images[:2])
    workflow.adopt(dataset, "adopted", task_ids=task.id, label_field="pose", engine="none", **login(server))
    for _ in range(2):
        dataset.load_annotations("adopted")
        (first,), (second,) = (sample.pose.keypoints for sample in dataset)
        assert (first.label, second.label) == ("cat", "bird")
        assert np.allclose(pixels(first), [[1, 2], HIDDEN], atol=1e-6, equal_nan=True)
        assert np.allclose(pixels(second), [[3, 4]], atol=1e-6)
