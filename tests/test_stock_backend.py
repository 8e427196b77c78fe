"""FiftyOne's own ``cvat`` backend makes its round trips against the local server unchanged."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cv2
import fiftyone as fo
import numpy as np
import pytest
import requests

from labelprop_cvat.backend.local_cvat import LocalCVAT

WIDTH, HEIGHT = 80, 60


class Editor:
    """Changes annotations through the REST API, as a person's browser would."""

    def __init__(self, server: LocalCVAT) -> None:
        self._url = server.url
        self._session = requests.Session()
        credentials = {"username": server.username, "password": server.password}
        key = self._session.post(f"{server.url}/api/auth/login", json=credentials, timeout=10).json()["key"]
        self._session.cookies.clear()
        self._session.headers["Authorization"] = f"Token {key}"

    def annotations(self, task_id: int) -> dict[str, Any]:
        answer = self._session.get(f"{self._url}/api/tasks/{task_id}/annotations", timeout=10)
        answer.raise_for_status()
        found: dict[str, Any] = answer.json()
        return found

    def patch(self, task_id: int, action: str, **items: list[dict[str, Any]]) -> None:
        answer = self._session.patch(
            f"{self._url}/api/tasks/{task_id}/annotations",
            params={"action": action},
            json={"version": 0, "tags": [], "shapes": [], "tracks": [], **items},
            timeout=10,
        )
        answer.raise_for_status()

    def change(self, task_id: int, kind: str, change: Callable[[dict[str, Any]], None]) -> None:
        """Change the first object of a kind."""
        item = self.annotations(task_id)[kind][0]
        change(item)
        self.patch(task_id, "update", **{kind: [item]})


@pytest.fixture(scope="module")
def server() -> Iterator[LocalCVAT]:
    with LocalCVAT(users={"admin": "secret"}) as running:
        yield running


@pytest.fixture(scope="module")
def editor(server: LocalCVAT) -> Editor:
    return Editor(server)


@pytest.fixture
def images(tmp_path: Path) -> Iterator[fo.Dataset]:
    dataset = fo.Dataset()
    for number in range(3):
        path = tmp_path / f"{number}.png"
        cv2.imwrite(str(path), np.full((HEIGHT, WIDTH, 3), 50 * number, np.uint8))
        dataset.add_sample(fo.Sample(filepath=str(path)))
    yield dataset
    dataset.delete()


@pytest.fixture
def video(tmp_path: Path) -> Iterator[fo.Dataset]:
    path = tmp_path / "clip.mp4"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"mp4v"), 10, (WIDTH, HEIGHT))
    for number in range(10):
        writer.write(np.full((HEIGHT, WIDTH, 3), 20 * number, np.uint8))
    writer.release()
    dataset = fo.Dataset()
    # Given, because FiftyOne would ask ffprobe, which not every machine has.
    metadata = fo.VideoMetadata(total_frame_count=10, frame_rate=10, frame_width=WIDTH, frame_height=HEIGHT)
    dataset.add_sample(fo.Sample(filepath=str(path), metadata=metadata))
    yield dataset
    dataset.delete()


def _annotate(samples: fo.Dataset, server: LocalCVAT, field: str, label_type: str, **more: Any) -> int:
    """Send a field to the server; returns the task's id."""
    results = samples.annotate(
        "run",
        backend="cvat",
        label_field=field,
        label_type=label_type,
        classes=["car", "cat"],
        url=server.url,
        username=server.username,
        password=server.password,
        **more,
    )
    (task_id,) = results.task_ids
    return int(task_id)


def _load(samples: fo.Dataset, server: LocalCVAT) -> None:
    samples.load_annotations(
        "run", url=server.url, username=server.username, password=server.password, unexpected="ignore"
    )
    samples.reload()


def _fill(images: fo.Dataset, make: Callable[[], fo.Label]) -> None:
    for sample in images:
        sample["truth"] = make()
        sample.save()


def test_image_detections(images: fo.Dataset, server: LocalCVAT, editor: Editor) -> None:
    _fill(images, lambda: fo.Detections(detections=[fo.Detection(label="car", bounding_box=[0.25, 0.25, 0.5, 0.5])]))
    task_id = _annotate(images, server, "truth", "detections")
    before = images.values("truth.detections.id")

    editor.change(task_id, "shapes", lambda shape: shape.update(points=[0.0, 0.0, 40.0, 30.0]))
    shape = editor.annotations(task_id)["shapes"][0]
    fresh = {key: value for key, value in shape.items() if key != "id"}
    editor.patch(task_id, "create", shapes=[{**fresh, "frame": 2, "points": [8, 6, 16, 12], "attributes": []}])
    _load(images, server)

    boxes = images.values("truth.detections.bounding_box")
    assert boxes[0] == [[0, 0, 0.5, 0.5]]
    assert boxes[1] == [[0.25, 0.25, 0.5, 0.5]]
    assert len(boxes[2]) == 2
    assert [ids[0] for ids in images.values("truth.detections.id")] == [ids[0] for ids in before]


def test_image_instances(images: fo.Dataset, server: LocalCVAT, editor: Editor) -> None:
    mask = np.zeros((30, 40), bool)
    mask[5:20, 10:30] = True
    _fill(
        images,
        lambda: fo.Detections(detections=[fo.Detection(label="cat", bounding_box=[0.25, 0.25, 0.5, 0.5], mask=mask)]),
    )
    task_id = _annotate(images, server, "truth", "instances")
    assert {shape["type"] for shape in editor.annotations(task_id)["shapes"]} == {"mask"}

    editor.change(task_id, "shapes", lambda shape: shape.update(points=[0.0, 100.0, 10.0, 10.0, 19.0, 19.0]))
    _load(images, server)

    changed, kept = (images.skip(i).first().truth.detections[0] for i in (0, 1))
    assert changed.mask.all()
    assert changed.bounding_box[:2] == pytest.approx([10 / WIDTH, 10 / HEIGHT])
    assert int(kept.mask.sum()) == int(mask.sum())


def test_image_keypoints(images: fo.Dataset, server: LocalCVAT, editor: Editor) -> None:
    _fill(images, lambda: fo.Keypoints(keypoints=[fo.Keypoint(label="car", points=[[0.5, 0.5], [0.25, 0.75]])]))
    task_id = _annotate(images, server, "truth", "keypoints")

    editor.change(task_id, "shapes", lambda shape: shape.update(points=[8.0, 6.0, 16.0, 12.0]))
    _load(images, server)

    assert images.first().truth.keypoints[0].points == [[pytest.approx(0.1)] * 2, [pytest.approx(0.2)] * 2]


def test_image_polylines(images: fo.Dataset, server: LocalCVAT, editor: Editor) -> None:
    outline = [[[0.1, 0.1], [0.5, 0.1], [0.5, 0.5]]]
    _fill(
        images,
        lambda: fo.Polylines(polylines=[fo.Polyline(label="car", points=outline, closed=True, filled=True)]),
    )
    task_id = _annotate(images, server, "truth", "polygons")

    editor.change(task_id, "shapes", lambda shape: shape.update(points=[8.0, 6.0, 40.0, 6.0, 40.0, 30.0, 8.0, 30.0]))
    _load(images, server)

    assert len(images.first().truth.polylines[0].points[0]) == 4
    assert images.last().truth.polylines[0].points == [[pytest.approx(point) for point in outline[0]]]


def test_image_classifications(images: fo.Dataset, server: LocalCVAT, editor: Editor) -> None:
    _fill(images, lambda: fo.Classification(label="cat"))
    task_id = _annotate(images, server, "truth", "classification")

    tags = editor.annotations(task_id)["tags"]
    assert [tag["frame"] for tag in tags] == [0, 1, 2]
    editor.patch(task_id, "delete", tags=[tags[2]])
    _load(images, server)

    assert [None if label is None else label.label for label in images.values("truth")] == ["cat", "cat", None]


def _tracked(video: fo.Dataset, make: Callable[[int], fo.Label]) -> None:
    sample = video.first()
    for number in range(1, 11):
        sample.frames[number]["truth"] = make(number)
    sample.save()


def test_video_detections(video: fo.Dataset, server: LocalCVAT, editor: Editor) -> None:
    _tracked(
        video,
        lambda number: fo.Detections(
            detections=[fo.Detection(label="car", index=1, bounding_box=[number / 40, 0.2, 0.25, 0.25])]
        ),
    )
    task_id = _annotate(video, server, "frames.truth", "detections")
    (track,) = editor.annotations(task_id)["tracks"]
    assert track["frame"] == 0

    track["shapes"] = [shape for shape in track["shapes"] if shape["frame"] == 0]
    track["shapes"].append({"type": "rectangle", "frame": 9, "points": [40.0, 12.0, 60.0, 27.0], "attributes": []})
    editor.patch(task_id, "update", tracks=[track])
    _load(video, server)

    boxes = [frame.truth.detections[0].bounding_box for frame in video.first().frames.values()]
    assert len(boxes) == 10
    assert boxes[9] == pytest.approx([0.5, 0.2, 0.25, 0.25], abs=0.02)
    assert {frame.truth.detections[0].index for frame in video.first().frames.values()} == {1}
    steps = np.diff([box[0] for box in boxes])
    assert steps == pytest.approx([steps.mean()] * 9, abs=0.02)


def test_video_polylines(video: fo.Dataset, server: LocalCVAT, editor: Editor) -> None:
    _tracked(
        video,
        lambda number: fo.Polylines(
            polylines=[
                fo.Polyline(
                    label="cat",
                    index=1,
                    points=[[[0.1, 0.1], [number / 20, 0.1], [0.5, 0.5]]],
                    closed=True,
                    filled=True,
                )
            ]
        ),
    )
    task_id = _annotate(video, server, "frames.truth", "polygons")
    (track,) = editor.annotations(task_id)["tracks"]
    assert {shape["type"] for shape in track["shapes"]} == {"polygon"}

    editor.patch(task_id, "delete", tracks=[track])
    _load(video, server)

    assert all(not frame.truth or not frame.truth.polylines for frame in video.first().frames.values())


def test_video_keypoints(video: fo.Dataset, server: LocalCVAT, editor: Editor) -> None:
    _tracked(
        video,
        lambda number: fo.Keypoints(keypoints=[fo.Keypoint(label="car", index=1, points=[[number / 20, 0.5]])]),
    )
    task_id = _annotate(video, server, "frames.truth", "keypoints")
    assert len(editor.annotations(task_id)["tracks"]) == 1
    _load(video, server)

    xs = [frame.truth.keypoints[0].points[0][0] for frame in video.first().frames.values()]
    assert xs == pytest.approx([number / 20 for number in range(1, 11)], abs=0.01)


def test_segments_attributes_and_cleanup(images: fo.Dataset, server: LocalCVAT, editor: Editor) -> None:
    _fill(
        images,
        lambda: fo.Detections(
            detections=[fo.Detection(label="car", bounding_box=[0.25, 0.25, 0.5, 0.5], colour="red")]
        ),
    )
    attributes = {"colour": {"type": "select", "values": ["red", "blue"], "default": "red"}}
    _annotate(images, server, "truth", "detections", attributes=attributes, segment_size=2)
    results = images.load_annotation_results("run", url=server.url, username=server.username, password=server.password)
    (task_id,) = results.task_ids
    assert len(results.job_ids[task_id]) == 2
    labels = {item["spec_id"] for shape in editor.annotations(task_id)["shapes"] for item in shape["attributes"]}
    assert len(labels) >= 1

    _load(images, server)
    assert images.values("truth.detections.colour") == [["red"], ["red"], ["red"]]
    results.cleanup()
    with pytest.raises(requests.HTTPError, match="404"):
        editor.annotations(int(task_id))
