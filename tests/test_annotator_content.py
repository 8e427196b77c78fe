"""The scripted annotator beside shapes that are there: what is good enough stays, what is not there is taken away."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from labelprop_cvat.backend.cvat import (
    AttributeSpec,
    Credentials,
    CVATClient,
    LabelMap,
    LabelSpec,
    RetryPolicy,
    UploadFile,
    mask_to_points,
    points_to_mask,
)
from labelprop_cvat.backend.local_cvat import LocalCVAT
from labelprop_cvat.backend.local_cvat.annotator import AnnotatorCounts, ScriptedAnnotator, Sloppiness, TruthObject
from labelprop_cvat.errors import ConfigurationError
from labelprop_cvat.propagation.types import ObjectMask

WIDTH, HEIGHT = 96, 64
INDEX = AttributeSpec("index", False, "number", ("0", "100000", "1"), "0")


def mask_of(x: int, width: int) -> ObjectMask:
    return ObjectMask(x, 10, np.ones((20, width), np.bool_))


def truth(task: str, frame: str) -> list[TruthObject]:
    """Two objects of 20 x 20 pixels; the second is on frame 0 only."""
    found = [TruthObject(1, "car", mask_of(10, 20)), TruthObject(2, "car", mask_of(50, 20))]
    return found if frame == "f_0.png" else found[:1]


@pytest.fixture(scope="module")
def client() -> Iterator[CVATClient]:
    with LocalCVAT(users={"admin": "pw"}, anonymous_rate=None) as server:
        retry = RetryPolicy(first_delay=0.01, max_delay=0.05, total=20.0)
        with CVATClient(server.url, Credentials("admin", "pw"), retry=retry) as client:
            yield client


@pytest.fixture
def task(client: CVATClient, tmp_path: Path) -> int:
    path = tmp_path / "any.png"
    cv2.imwrite(str(path), np.zeros((HEIGHT, WIDTH, 3), np.uint8))
    task = client.create_task("there", [LabelSpec("car", (INDEX,))])
    names = ["f_0.png", "f_1.png"]
    client.upload_images(task.id, [UploadFile(name, path) for name in names], jobs=[names])
    return task.id


def put(client: CVATClient, task: int, *shapes: tuple[int, int, str, list[float]]) -> None:
    """Puts shapes ``(frame, index, type, points)`` there."""
    label = LabelMap(client.labels(task)).label("car")
    spec = label.attribute("index").id
    client.create_annotations(
        {
            "shapes": [
                {
                    "type": kind,
                    "frame": frame,
                    "label_id": label.id,
                    "points": points,
                    "occluded": False,
                    "group": 0,
                    "source": "auto",
                    "z_order": 0,
                    "attributes": [{"spec_id": spec, "value": str(index)}] if index else [],
                }
                for frame, index, kind, points in shapes
            ]
        },
        task_id=task,
    )


def mask_points(x: int, width: int) -> list[float]:
    mask = mask_of(x, width)
    return [float(value) for value in mask_to_points(mask.x, mask.y, mask.crop)]


def shapes_of(client: CVATClient, task: int) -> dict[int, dict[str, Any]]:
    return {shape["id"]: shape for shape in client.annotations(task_id=task)["shapes"]}


def test_good_masks_stay_and_bad_ones_are_redrawn(client: CVATClient, task: int) -> None:
    """0.9 of the first mask is there and half of the second, on the frame that has both."""
    put(client, task, (0, 1, "mask", mask_points(10, 18)), (0, 2, "mask", mask_points(50, 10)))
    before = shapes_of(client, task)
    careful = Sloppiness(content=0.85)
    counts = ScriptedAnnotator(client, truth, careful).annotate_task(task, shape="mask")
    assert counts == AnnotatorCounts(jobs=1, frames=2, drawn=1, changed=1, confirmed=1, redrawn=0.5)
    after = shapes_of(client, task)
    good, bad = sorted(before)
    assert after[good] == before[good]
    assert points_to_mask(after[bad]["points"])[2].shape == (20, 20)


def test_without_a_limit_everything_is_put_right(client: CVATClient, task: int) -> None:
    put(client, task, (0, 1, "mask", mask_points(10, 18)), (0, 2, "mask", mask_points(50, 20)))
    counts = ScriptedAnnotator(client, truth).annotate_task(task, shape="mask")
    assert counts.redrawn == pytest.approx(0.1)
    assert (counts.changed, counts.confirmed, counts.drawn) == (1, 1, 1)


@pytest.mark.parametrize(
    ("kind", "good", "bad"),
    [
        ("rectangle", [10.0, 10.0, 29.0, 30.0], [10.0, 10.0, 20.0, 30.0]),
        (
            "polygon",
            [10.0, 10.0, 29.0, 10.0, 29.0, 30.0, 10.0, 30.0],
            [10.0, 10.0, 20.0, 10.0, 20.0, 30.0, 10.0, 30.0],
        ),
    ],
)
def test_boxes_and_polygons_too(client: CVATClient, task: int, kind: Any, good: list[float], bad: list[float]) -> None:
    put(client, task, (0, 1, kind, good), (1, 1, kind, bad))
    careful = ScriptedAnnotator(client, truth, Sloppiness(content=0.9))
    counts = careful.annotate_task(task, shape=kind, tracks=False)
    assert (counts.confirmed, counts.changed, counts.drawn) == (1, 1, 1)
    points = {shape["frame"]: shape["points"] for shape in shapes_of(client, task).values() if shape["points"][0] < 40}
    assert points[0] == good
    assert points[1] != bad


def test_keyframes_of_box_tracks_stay_where_they_are_good(client: CVATClient, task: int) -> None:
    wide = ScriptedAnnotator(client, truth, Sloppiness(box_jitter_px=0.4), seed=3)
    wide.annotate_task(task, shape="rectangle", complete=False)
    before = client.annotations(task_id=task)["tracks"]
    counts = ScriptedAnnotator(client, truth, Sloppiness(content=0.8)).annotate_task(task, shape="rectangle")
    assert client.annotations(task_id=task)["tracks"] == before
    assert (counts.changed, counts.drawn) == (0, 0)


def test_what_is_not_there_is_taken_away_only_by_the_tidy(client: CVATClient, task: int) -> None:
    """Object 2 is not on frame 1; a shape without an index may be anybody's."""
    put(
        client,
        task,
        (1, 2, "mask", mask_points(50, 20)),
        (1, 0, "mask", mask_points(30, 5)),
        (1, 2, "rectangle", [0.0, 0.0, 9.0, 9.0]),
    )
    ghost, stranger, box = sorted(shapes_of(client, task))
    annotator = ScriptedAnnotator(client, truth)
    assert annotator.annotate_task(task, shape="mask", complete=False).deleted == 0
    assert {ghost, stranger, box} <= shapes_of(client, task).keys()
    assert annotator.annotate_task(task, shape="mask", frames=[0], complete=False, tidy=True).deleted == 0
    counts = annotator.annotate_task(task, shape="mask", tidy=True)
    assert (counts.deleted, counts.confirmed) == (1, 3)
    there = shapes_of(client, task)
    assert ghost not in there
    assert {stranger, box} <= there.keys()


def test_a_limit_is_an_iou() -> None:
    with pytest.raises(ConfigurationError, match=r"IoU in \[0, 1\]"):
        Sloppiness(content=1.5)
