"""The scripted annotator against the embedded server: it draws the ground truth, less its sloppiness."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import pytest

from labelprop_cvat.backend.cvat import (
    AttributeSpec,
    Credentials,
    CVATClient,
    LabelMap,
    LabelMissing,
    LabelSpec,
    RetryPolicy,
    UploadFile,
    mask_to_points,
    points_to_mask,
)
from labelprop_cvat.backend.local_cvat import LocalCVAT
from labelprop_cvat.backend.local_cvat.annotator import AnnotatorCounts, ScriptedAnnotator, Sloppiness, TruthObject
from labelprop_cvat.errors import ConfigurationError, DataError

WIDTH, HEIGHT, FRAMES = 96, 64, 8
INDEX = AttributeSpec("index", False, "number", ("0", "100000", "1"), "0")
SPEED = AttributeSpec("speed", True, "select", ("slow", "fast"), "slow")
LABELS = [LabelSpec("car", (INDEX, SPEED)), LabelSpec("dog", (INDEX,))]


@dataclass(frozen=True)
class Mask:
    x: int
    y: int
    crop: npt.NDArray[np.bool_]


def blob(size: int) -> npt.NDArray[np.bool_]:
    rows, columns = np.mgrid[:size, :size] - (size - 1) / 2
    return np.asarray(rows**2 + columns**2 <= (size / 2) ** 2)


def truth(task: str, frame: str) -> list[TruthObject]:
    """Object 1 is always there; 2 is a dog on frames 1..3 and 6..7; 3 shows on frame 4 only."""
    n = int(frame.removesuffix(".png").rpartition("_")[2])
    found = [TruthObject(1, "car", Mask(5 + 4 * n, 10, blob(21)), attributes={"speed": "fast" if n > 3 else "slow"})]
    if n in (1, 2, 3, 6, 7):
        found.append(TruthObject(2, "dog", Mask(60 - 3 * n, 30, blob(15))))
    if n == 4:
        found.append(TruthObject(3, "dog", Mask(80, 50, blob(13))))
    return found


@pytest.fixture(scope="module")
def client() -> Iterator[CVATClient]:
    with LocalCVAT(users={"admin": "pw"}, anonymous_rate=None) as server:
        retry = RetryPolicy(first_delay=0.01, max_delay=0.05, total=20.0)
        with CVATClient(server.url, Credentials("admin", "pw"), retry=retry) as client:
            yield client


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> list[UploadFile]:
    path = tmp_path_factory.mktemp("frames") / "any.png"
    cv2.imwrite(str(path), np.zeros((HEIGHT, WIDTH, 3), np.uint8))
    return [UploadFile(f"f_{n}.png", path) for n in range(FRAMES)]


@pytest.fixture
def task(client: CVATClient, images: list[UploadFile]) -> int:
    """Two jobs: frames 0..3 and 4..7."""
    task = client.create_task("annotated", LABELS)
    names = [f.name for f in images]
    client.upload_images(task.id, images, jobs=[names[:4], names[4:]])
    return task.id


def index_of(client: CVATClient, task: int, item: dict[str, Any]) -> int:
    label = LabelMap(client.labels(task)).by_id(item["label_id"])
    values = {a["spec_id"]: a["value"] for a in item["attributes"]}
    return int(values[label.attribute("index").id])


def drawn_masks(client: CVATClient, task: int) -> dict[tuple[int, int], tuple[int, int, npt.NDArray[np.bool_]]]:
    return {
        (s["frame"], index_of(client, task, s)): points_to_mask(s["points"])
        for s in client.annotations(task_id=task)["shapes"]
    }


def tracks_of(client: CVATClient, task: int) -> dict[tuple[int, int], dict[int, dict[str, Any]]]:
    """Keyframes by frame, by (job's position, index)."""
    found: dict[tuple[int, int], dict[int, dict[str, Any]]] = {}
    for position, job in enumerate(client.jobs(task)):
        for track in client.annotations(job_id=job.id)["tracks"]:
            key = position, index_of(client, task, track)
            assert key not in found, "one track per object and job"
            found[key] = {s["frame"]: s for s in track["shapes"]}
    return found


def test_masks_are_drawn_to_the_pixel(client: CVATClient, task: int) -> None:
    counts = ScriptedAnnotator(client, truth).annotate_task(task, shape="mask")
    there = drawn_masks(client, task)
    wanted = {(n, o.object_id): o for n in range(FRAMES) for o in truth("", f"f_{n}.png")}
    assert there.keys() == wanted.keys()
    for key, object_ in wanted.items():
        x, y, crop = there[key]
        assert object_.mask is not None
        assert (x, y) == (object_.mask.x, object_.mask.y)
        np.testing.assert_array_equal(crop, object_.mask.crop)
    assert counts == AnnotatorCounts(jobs=2, frames=8, drawn=len(wanted))
    assert [j.state for j in client.jobs(task)] == ["completed", "completed"]
    labels = LabelMap(client.labels(task))
    by_index = {index_of(client, task, s): s["label_id"] for s in client.annotations(task_id=task)["shapes"]}
    assert by_index == {1: labels.label("car").id, 2: labels.label("dog").id, 3: labels.label("dog").id}


def test_rectangles_become_tracks_that_end_where_objects_go(client: CVATClient, task: int) -> None:
    ScriptedAnnotator(client, truth).annotate_task(task, shape="rectangle")
    tracks = tracks_of(client, task)
    visible = {key: {f: not s["outside"] for f, s in shapes.items()} for key, shapes in tracks.items()}
    assert visible == {
        (0, 1): {0: True, 1: True, 2: True, 3: True},
        (0, 2): {1: True, 2: True, 3: True},
        (1, 1): {4: True, 5: True, 6: True, 7: True},
        (1, 2): {6: True, 7: True},
        (1, 3): {4: True, 5: False},
    }
    assert tracks[1, 1][5]["points"] == [25.0, 10.0, 46.0, 31.0]
    speed = LabelMap(client.labels(task)).label("car").attribute("speed").id
    speeds = {f: {a["spec_id"]: a["value"] for a in s["attributes"]}[speed] for f, s in tracks[0, 1].items()}
    assert set(speeds.values()) == {"slow"}
    assert {a["value"] for a in tracks[1, 1][7]["attributes"]} == {"fast"}


def test_the_same_seed_draws_the_same(client: CVATClient, images: list[UploadFile]) -> None:
    sloppy = Sloppiness(
        box_jitter_px=2.0, mask_wobble=2, mask_shift=2, missed=0.3, wrong_label=0.2, forgotten_index=0.2
    )

    def draw(seed: int, shape: Any, jobs_first: int) -> Any:
        task = client.create_task("seeded", LABELS)
        names = [f.name for f in images]
        client.upload_images(task.id, images, jobs=[names[:4], names[4:]])
        jobs = client.jobs(task.id)
        annotator = ScriptedAnnotator(client, truth, sloppy, seed)
        counts = annotator.annotate_task(task.id, shape=shape, jobs=[jobs[jobs_first].id])
        counts += annotator.annotate_task(task.id, shape=shape, jobs=[jobs[1 - jobs_first].id])
        there = client.annotations(task_id=task.id)
        client.delete_task(task.id)
        shapes = [s for t in there["tracks"] for s in t["shapes"]] + there["shapes"]
        return counts, sorted((s["frame"], tuple(s["points"])) for s in shapes)

    for shape in ("mask", "rectangle"):
        first = draw(1, shape, 0)
        assert draw(1, shape, 1) == first
        assert draw(2, shape, 0) != first


def test_boxes_are_off_by_as_much_as_told_and_inside_the_frame(client: CVATClient, task: int) -> None:
    def crowd(task: str, frame: str) -> list[TruthObject]:
        return [
            TruthObject(n, "car", box=(1.0 + n % 50, 2.0 + n % 30, 31.0 + n % 50, 22.0 + n % 30)) for n in range(1, 60)
        ]

    ScriptedAnnotator(client, crowd, Sloppiness(box_jitter_px=1.5)).annotate_task(task, shape="rectangle")
    off = []
    for (_, index), shapes in tracks_of(client, task).items():
        box = crowd("", "")[index - 1].outline
        for shape in shapes.values():
            x1, y1, x2, y2 = shape["points"]
            assert 0 <= x1 < x2 <= WIDTH
            assert 0 <= y1 < y2 <= HEIGHT
            off += [a - b for a, b in zip(shape["points"], box, strict=True)]
    assert len(off) == 59 * FRAMES * 4
    assert np.std(off) == pytest.approx(1.5, rel=0.1)
    assert abs(np.mean(off)) < 0.2


def test_relative_jitter_grows_with_the_box(client: CVATClient, task: int) -> None:
    def two(task: str, frame: str) -> list[TruthObject]:
        return [
            TruthObject(1, "car", box=(30.0, 20.0, 34.0, 24.0)),
            TruthObject(2, "car", box=(20.0, 10.0, 60.0, 50.0)),
        ]

    ScriptedAnnotator(client, two, Sloppiness(box_jitter=0.05)).annotate_task(task, shape="rectangle")
    spread: dict[int, list[float]] = {1: [], 2: []}
    for (_, index), shapes in tracks_of(client, task).items():
        for shape in shapes.values():
            spread[index] += [a - b for a, b in zip(shape["points"], two("", "")[index - 1].outline, strict=True)]
    assert 4 < np.std(spread[2]) / np.std(spread[1]) < 25


@pytest.mark.parametrize(("growth", "sign"), [(2, 1), (-2, -1)])
def test_masks_grow_and_shrink(client: CVATClient, task: int, growth: int, sign: int) -> None:
    ScriptedAnnotator(client, truth, Sloppiness(mask_growth=growth)).annotate_task(task)
    for (frame, index), (x, _, crop) in drawn_masks(client, task).items():
        true = next(o for o in truth("", f"f_{frame}.png") if o.object_id == index)
        assert true.mask is not None
        assert (int(crop.sum()) - int(true.mask.crop.sum())) * sign > 0
        assert x + crop.shape[1] <= WIDTH
        if index == 1:
            assert crop.shape[1] == true.mask.crop.shape[1] + 2 * growth
            assert x == true.mask.x - growth


def test_masks_wobble_and_shift_but_stay_close(client: CVATClient, task: int) -> None:
    ScriptedAnnotator(client, truth, Sloppiness(mask_wobble=1, mask_shift=2)).annotate_task(task)
    overlaps = []
    for (frame, index), (x, y, crop) in drawn_masks(client, task).items():
        true = next(o for o in truth("", f"f_{frame}.png") if o.object_id == index).mask
        assert true is not None
        canvas = np.zeros((2, HEIGHT, WIDTH), bool)
        canvas[0, y : y + crop.shape[0], x : x + crop.shape[1]] = crop
        height, width = min(true.crop.shape[0], HEIGHT - true.y), min(true.crop.shape[1], WIDTH - true.x)
        canvas[1, true.y : true.y + height, true.x : true.x + width] = true.crop[:height, :width]
        overlaps.append((canvas[0] & canvas[1]).sum() / (canvas[0] | canvas[1]).sum())
    assert 0.4 < min(overlaps) < 1.0
    assert len({round(o, 6) for o in overlaps}) > 3


def test_objects_are_overlooked_as_often_as_told(client: CVATClient, task: int) -> None:
    def crowd(task: str, frame: str) -> list[TruthObject]:
        return [TruthObject(n, "car", Mask(n % 80, n % 50, blob(5))) for n in range(1, 80)]

    counts = ScriptedAnnotator(client, crowd, Sloppiness(missed=0.25)).annotate_task(task)
    assert counts.missed + counts.drawn == 79 * FRAMES
    assert counts.missed / (79 * FRAMES) == pytest.approx(0.25, abs=0.06)
    assert len(client.annotations(task_id=task)["shapes"]) == counts.drawn


def test_wrong_labels_and_forgotten_indices(client: CVATClient, task: int) -> None:
    sloppy = Sloppiness(wrong_label=1.0)
    counts = ScriptedAnnotator(client, truth, sloppy).annotate_task(task)
    labels = LabelMap(client.labels(task))
    shapes = client.annotations(task_id=task)["shapes"]
    for shape in shapes:
        right = "car" if index_of(client, task, shape) == 1 else "dog"
        assert labels.by_id(shape["label_id"]).name != right
    assert counts.wrong_labels == len(shapes)
    client.delete_annotations({"shapes": shapes}, task_id=task)

    counts = ScriptedAnnotator(client, truth, Sloppiness(forgotten_index=1.0)).annotate_task(
        task, shape="rectangle", jobs=[j.id for j in client.jobs(task)]
    )
    tracks = client.annotations(task_id=task)["tracks"]
    assert {index_of(client, task, t) for t in tracks} == {0}
    assert counts.forgotten_indices == len(tracks) == 5


@pytest.mark.parametrize("shape", ["mask", "rectangle"])
def test_shapes_that_are_there_are_corrected_not_doubled(client: CVATClient, task: int, shape: Any) -> None:
    annotator = ScriptedAnnotator(client, truth)
    ScriptedAnnotator(client, truth, Sloppiness(box_jitter_px=3.0, mask_growth=2)).annotate_task(
        task, shape=shape, complete=False
    )
    for job in client.jobs(task):
        given = client.annotations(job_id=job.id)
        for item in given["shapes"] + given["tracks"]:
            item["source"] = "auto"
        client.update_annotations(given, job_id=job.id)
    before = client.annotations(task_id=task)
    counts = annotator.annotate_task(task, shape=shape, complete=False)
    after = client.annotations(task_id=task)
    for kind in ("shapes", "tracks"):
        assert [o["id"] for o in after[kind]] == [o["id"] for o in before[kind]]
        assert {o["source"] for o in after[kind]} <= {"semi-auto"}
    assert counts.drawn == 0
    assert counts.changed > 0
    again = annotator.annotate_task(task, shape=shape, complete=False)
    assert (again.drawn, again.changed) == (0, 0)
    assert again.confirmed == counts.changed
    assert client.annotations(task_id=task) == after


def test_masks_that_are_right_already_are_left_alone(client: CVATClient, task: int) -> None:
    job = client.jobs(task)[0]
    label = LabelMap(client.labels(task)).label("car")
    mask = truth("", "f_0.png")[0].mask
    assert mask is not None
    shape = {
        "type": "mask",
        "label_id": label.id,
        "frame": 0,
        "points": mask_to_points(mask.x, mask.y, mask.crop),
        "source": "auto",
        "attributes": [
            {"spec_id": label.attribute("index").id, "value": "1"},
            {"spec_id": label.attribute("speed").id, "value": "slow"},
        ],
    }
    client.create_annotations({"shapes": [shape]}, job_id=job.id)
    counts = ScriptedAnnotator(client, truth).annotate_task(task)
    assert counts.confirmed == 1
    first = [s for s in client.annotations(job_id=job.id)["shapes"] if s["frame"] == 0]
    assert [s["source"] for s in first] == ["auto"]


def test_an_overlooked_keyframe_stays_as_it_was(client: CVATClient, task: int) -> None:
    ScriptedAnnotator(client, truth, Sloppiness(box_jitter_px=3.0)).annotate_task(
        task, shape="rectangle", complete=False
    )
    before = tracks_of(client, task)
    ScriptedAnnotator(client, truth, Sloppiness(missed=1.0)).annotate_task(task, shape="rectangle")
    after = tracks_of(client, task)
    assert {k: {f: s["points"] for f, s in v.items() if not s["outside"]} for k, v in after.items()} == {
        k: {f: s["points"] for f, s in v.items() if not s["outside"]} for k, v in before.items()
    }


def test_only_jobs_that_it_is_given(client: CVATClient, task: int) -> None:
    first, second = client.jobs(task)
    annotator = ScriptedAnnotator(client, truth)
    assert annotator.annotate_task(task, jobs=[second.id], complete=False).frames == 4
    assert client.annotations(job_id=first.id)["shapes"] == []
    assert client.job(second.id).state != "completed"
    client.update_job(second.id, state="completed")
    assert annotator.annotate_task(task).jobs == 1
    assert annotator.annotate_task(task) == AnnotatorCounts()


def test_deleted_frames_are_not_drawn_on(client: CVATClient, task: int) -> None:
    client._session.json("PATCH", f"/api/tasks/{task}/data/meta", json={"deleted_frames": [1, 5]})
    assert ScriptedAnnotator(client, truth).annotate_task(task).frames == 6
    assert {frame for frame, _ in drawn_masks(client, task)} == {0, 2, 3, 4, 6, 7}


def test_frames_of_a_video_have_names_too(client: CVATClient, tmp_path: Path) -> None:
    path = tmp_path / "clip.mp4"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"mp4v"), 10.0, (WIDTH, HEIGHT))
    for n in range(5):
        writer.write(np.full((HEIGHT, WIDTH, 3), 40 * n, np.uint8))
    writer.release()
    task = client.create_task("video", LABELS, segment_size=3)
    parts = [("image_quality", (None, "70")), ("client_files[0]", ("clip.mp4", path.read_bytes(), "video/mp4"))]
    client._session.request("POST", f"/api/tasks/{task.id}/data", files=parts)
    for _ in range(200):
        if client.task(task.id).size:
            break
        time.sleep(0.05)
    asked: list[str] = []

    def named(task: str, frame: str) -> list[TruthObject]:
        asked.append(frame)
        return truth(task, frame)

    ScriptedAnnotator(client, named).annotate_task(task.id, shape="rectangle")
    assert asked == [f"frame_{n:06d}" for n in range(5)]
    assert set(tracks_of(client, task.id)[0, 1]) == {0, 1, 2}


def test_a_label_or_mask_that_is_missing_is_a_sentence(client: CVATClient, task: int) -> None:
    with pytest.raises(LabelMissing, match='"cat" is missing on the server, which has "car", "dog"'):
        ScriptedAnnotator(client, lambda t, f: [TruthObject(1, "cat", Mask(0, 0, blob(3)))]).annotate_task(task)
    with pytest.raises(LabelMissing, match='no attribute "number"'):
        ScriptedAnnotator(client, truth).annotate_task(task, index_attribute="number")
    with pytest.raises(DataError, match='no mask for object 1; annotate with shape="rectangle"'):
        ScriptedAnnotator(client, lambda t, f: [TruthObject(1, "car", box=(1, 2, 3, 4))]).annotate_task(task)
    with pytest.raises(ConfigurationError, match=r'one of "mask", "rectangle", .*"tag", got \'blob\''):
        ScriptedAnnotator(client, truth).annotate_task(task, shape="blob")  # type: ignore[arg-type]
    with pytest.raises(ConfigurationError, match="cannot open mask tracks"):
        ScriptedAnnotator(client, truth).annotate_task(task, tracks=True)
    assert client.annotations(task_id=task)["shapes"] == []
    assert {j.state for j in client.jobs(task)} == {"new"}


def test_ground_truth_and_sloppiness_are_checked() -> None:
    with pytest.raises(DataError, match="mask or a box"):
        TruthObject(1, "car")
    with pytest.raises(DataError, match="empty mask"):
        TruthObject(1, "car", Mask(0, 0, np.zeros((2, 2), bool)))
    for wrong in ({"missed": 1.5}, {"wrong_label": -0.1}, {"box_jitter_px": -1.0}, {"mask_shift": -1}):
        with pytest.raises(ConfigurationError):
            Sloppiness(**wrong)  # type: ignore[arg-type]


def test_without_an_index_attribute(client: CVATClient, images: list[UploadFile]) -> None:
    task = client.create_task("no index", [LabelSpec("car", (SPEED,)), LabelSpec("dog")])
    client.upload_images(task.id, images, jobs=None)
    counts = ScriptedAnnotator(client, truth).annotate_task(task.id, index_attribute=None)
    assert counts.drawn == len(client.annotations(task_id=task.id)["shapes"]) == 14
