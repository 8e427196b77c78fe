"""Where the media of adopted tasks are: matched by name, named by data_path, or downloaded, whole or not at all."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import fiftyone as fo
import numpy as np
import pytest
from fixtures_adopt import annotate, counted_calls, image_task, scene, video_task
from fixtures_roundtrip import client_of, image_dataset, login, video_dataset, write_images, write_video

import labelprop_cvat  # noqa: F401 - registers the backend
from labelprop_cvat import workflow
from labelprop_cvat.backend.adopt.media import LocalMedia
from labelprop_cvat.backend.adopt.places import match_names
from labelprop_cvat.backend.adopt.tasks import find_tasks
from labelprop_cvat.backend.cvat import CVATError
from labelprop_cvat.backend.local_cvat import LocalCVAT
from labelprop_cvat.backend.local_cvat.annotator import TruthObject
from labelprop_cvat.errors import ConfigurationError, DataError

FRAME_CALL = r"^GET /api/tasks/\d+/data$"
BOXES: dict[str, Any] = {
    "label_field": "objects",
    "label_type": "detections",
    "engine": "none",
    "num_workers": 1,
}


@pytest.fixture(scope="module")
def server() -> Iterator[LocalCVAT]:
    with LocalCVAT(anonymous_rate=None) as running:
        yield running


@pytest.fixture
def paths(tmp_path: Path) -> list[Path]:
    return write_images(tmp_path / "media", 4)


@pytest.fixture
def task_id(server: LocalCVAT, paths: list[Path]) -> int:
    made = image_task(server, paths)
    annotate(server, made)
    return made


def counts(dataset: fo.Dataset) -> dict[str, int]:
    """Labels by file name, of samples that have some."""
    found = {Path(sample.filepath).name: sample.objects for sample in dataset if sample.has_field("objects")}
    return {name: len(value.detections) for name, value in found.items() if value is not None}


def load(dataset: fo.Dataset, server: LocalCVAT, task_ids: Any, **options: Any) -> None:
    workflow.adopt(dataset, "run", task_ids=task_ids, **{**BOXES, **options}, **login(server))
    dataset.load_annotations("run")


EVERY = {f"{n:04d}.png": 2 for n in range(4)}


# data_path


def test_a_folder_makes_samples(server: LocalCVAT, paths: list[Path], task_id: int) -> None:
    dataset = fo.Dataset()
    load(dataset, server, task_id, data_path=paths[0].parent)
    assert sorted(dataset.values("filepath")) == [str(path) for path in paths]
    assert counts(dataset) == EVERY


@pytest.mark.parametrize("as_json", [False, True])
def test_names_that_are_others_in_cvat(server: LocalCVAT, paths: list[Path], tmp_path: Path, as_json: bool) -> None:
    names = [f"upload {n}.png" for n in range(4)]
    task_id = image_task(server, paths, names=names)
    annotate(server, task_id)
    data_path: Any = dict(zip(names, map(str, paths), strict=True))
    if as_json:
        (tmp_path / "names.json").write_text(json.dumps(data_path))
        data_path = str(tmp_path / "names.json")
    dataset = image_dataset(paths)
    ids = dataset.values("id")
    load(dataset, server, task_id, data_path=data_path)
    assert dataset.values("id") == ids
    assert counts(dataset) == EVERY


def test_names_with_the_number_of_fiftyones_upload(server: LocalCVAT, paths: list[Path]) -> None:
    names = [f"{n:06d}_{path.name}" for n, path in enumerate(paths)]
    task_id = image_task(server, paths, names=names)
    annotate(server, task_id, "rectangle", lambda t, n: scene()(t, n[7:]))
    dataset = image_dataset(paths)
    load(dataset, server, task_id)
    assert counts(dataset) == EVERY


def test_no_new_samples_where_none_are_wanted(
    server: LocalCVAT, paths: list[Path], task_id: int, caplog: pytest.LogCaptureFixture
) -> None:
    dataset = image_dataset(paths[:2])
    with caplog.at_level(logging.WARNING):
        load(dataset, server, task_id, data_path=paths[0].parent, insert_new=False)
    assert "2 of the 4 frames" in caplog.text
    assert counts(dataset) == {"0000.png": 2, "0001.png": 2}


def test_new_samples_join_a_view(server: LocalCVAT, paths: list[Path], task_id: int) -> None:
    dataset = image_dataset(paths[:3])
    load(dataset[:1], server, task_id, data_path=paths[0].parent)
    # The second and third are in the dataset, but not in the view.
    assert counts(dataset) == {"0000.png": 2, "0003.png": 2}


def test_a_dataset_of_the_other_kind_takes_no_new_samples(
    server: LocalCVAT, paths: list[Path], task_id: int, tmp_path: Path
) -> None:
    dataset = video_dataset(write_video(tmp_path / "v.mp4", 3))
    with pytest.raises(DataError, match=r"hold images, and .* holds videos"):
        load(dataset, server, task_id, data_path=paths[0].parent)
    assert (len(dataset), dataset.list_annotation_runs()) == (1, [])


def test_a_manifest_that_is_none(server: LocalCVAT, paths: list[Path], task_id: int, tmp_path: Path) -> None:
    for content, message in (("[1]", "it holds list"), ("{", "cannot be read as JSON")):
        (tmp_path / "bad.json").write_text(content)
        with pytest.raises(ConfigurationError, match=message):
            load(image_dataset(paths), server, task_id, data_path=tmp_path / "bad.json")


# Downloads


def test_images_are_downloaded_byte_by_byte(server: LocalCVAT, paths: list[Path], task_id: int, tmp_path: Path) -> None:
    dataset = fo.Dataset()
    load(dataset, server, task_id, data_path=tmp_path / "new", download_media=True)
    assert {path.name: path.read_bytes() for path in (tmp_path / "new").iterdir()} == {
        path.name: path.read_bytes() for path in paths
    }
    assert counts(dataset) == EVERY


def test_deleted_frames_are_not_downloaded(server: LocalCVAT, paths: list[Path], task_id: int, tmp_path: Path) -> None:
    with client_of(server) as client:
        client._session.json("PATCH", f"/api/tasks/{task_id}/data/meta", json={"deleted_frames": [1]})
    dataset = fo.Dataset()
    load(dataset, server, task_id, data_path=tmp_path / "new", download_media=True)
    wanted = {name: count for name, count in EVERY.items() if name != "0001.png"}
    assert sorted(path.name for path in (tmp_path / "new").iterdir()) == sorted(wanted)
    assert counts(dataset) == wanted


def test_only_what_is_missing_is_downloaded(server: LocalCVAT, paths: list[Path], task_id: int, tmp_path: Path) -> None:
    (tmp_path / "new").mkdir()
    (tmp_path / "new" / "0002.png").write_bytes(paths[2].read_bytes())
    dataset = image_dataset(paths[:2])
    with counted_calls(server, FRAME_CALL) as calls:
        load(dataset, server, task_id, data_path=tmp_path / "new", download_media=True)
    assert len(calls) == 1
    assert counts(dataset) == EVERY
    assert sorted(path.name for path in (tmp_path / "new").iterdir()) == ["0002.png", "0003.png"]


def test_a_download_that_was_cut_off_goes_on(
    server: LocalCVAT, paths: list[Path], task_id: int, tmp_path: Path
) -> None:
    dataset = fo.Dataset()
    options: dict[str, Any] = {"data_path": tmp_path / "new", "download_media": True}
    server.faults.add("GET", FRAME_CALL.split(" ")[1], 404, skip=2)
    with pytest.raises(CVATError):
        load(dataset, server, task_id, **options)
    server.faults.clear()
    assert (len(dataset), dataset.list_annotation_runs()) == (0, [])
    there = [path.name for path in (tmp_path / "new").iterdir()]
    assert {"0000.png", "0001.png"} <= set(there) < set(EVERY)
    # A kill in the middle of writing leaves a partial file, which is no picture.
    (tmp_path / "new" / ".0002.part.png").write_bytes(b"half")
    with counted_calls(server, FRAME_CALL) as calls:
        load(dataset, server, task_id, **options)
    assert len(calls) == 4 - len(there)
    assert counts(dataset) == EVERY
    assert sorted(path.name for path in (tmp_path / "new").iterdir()) == sorted(EVERY)


def test_what_is_no_picture_is_not_kept(
    server: LocalCVAT, paths: list[Path], task_id: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from labelprop_cvat.backend.cvat import CVATClient

    monkeypatch.setattr(CVATClient, "frame", lambda self, task, number, quality="original": b"<html>")
    with pytest.raises(DataError, match="6 bytes that are no image for frame 0"):
        load(fo.Dataset(), server, task_id, data_path=tmp_path / "new", download_media=True)
    assert list((tmp_path / "new").iterdir()) == []


def test_downloads_stay_in_their_folder(server: LocalCVAT, paths: list[Path], tmp_path: Path) -> None:
    with client_of(server) as client:
        (found,) = find_tasks(client, task_ids=image_task(server, paths))
    names = [
        "../../up.png",
        "/etc/passwd",
        "a/../../b.png",
        "c\nd.png",
        "..",
        "CON:|?.png",
        "CON|:?.png",
        "con:|?.PNG",
        "x" * 400 + ".png",
        ".hid",
    ]
    meta = found.meta
    frames = tuple(meta.frames[0]._replace(name=name) for name in names)
    hostile = type(found)(found.task, found.labels, type(meta)(**{**vars(meta), "frames": frames}), found.jobs)
    local = LocalMedia([hostile], tmp_path / "in", download=True)
    targets = [local.target(hostile, n) for n in range(len(names))]
    assert len(set(targets)) == len(names)
    for target in targets:
        assert target is not None
        assert Path(target).resolve().is_relative_to((tmp_path / "in").resolve())
        assert all(len(part.encode()) < 200 and part.isprintable() for part in Path(target).parts)
        assert not Path(target).name.startswith(".")


def test_tasks_whose_files_have_the_same_names_get_folders(server: LocalCVAT, tmp_path: Path) -> None:
    first, second = write_images(tmp_path / "a", 2), write_images(tmp_path / "b", 3)
    cv2.imwrite(str(second[0]), np.full((72, 128, 3), 9, np.uint8))
    tasks = [image_task(server, some) for some in (first, second)]
    for task in tasks:
        annotate(server, task)
    dataset = fo.Dataset()
    load(dataset, server, tasks, data_path=tmp_path / "new", download_media=True)
    there = {str(path.relative_to(tmp_path / "new")): path.read_bytes() for path in (tmp_path / "new").rglob("*.png")}
    assert there == {
        f"task_{task}/{path.name}": path.read_bytes()
        for task, some in zip(tasks, (first, second), strict=True)
        for path in some
    }
    assert [len(sample.objects.detections) for sample in dataset] == [2] * 5


# Videos


def mean_differences(video: Path, original: Path, numbers: list[int]) -> list[float]:
    def pictures(path: Path) -> list[np.ndarray]:
        capture = cv2.VideoCapture(str(path))
        found = []
        while (got := capture.read())[0]:
            found.append(got[1].astype(int))
        return found

    ours, theirs = pictures(video), pictures(original)
    assert len(ours) == len(numbers)
    return [float(np.abs(ours[n] - theirs[number]).mean()) for n, number in enumerate(numbers)]


@pytest.mark.parametrize("part", [False, True])
def test_videos_are_downloaded_as_the_frames_of_the_task(server: LocalCVAT, tmp_path: Path, part: bool) -> None:
    original = write_video(tmp_path / "street.mp4", 9)
    fields: dict[str, Any] = {"start_frame": 1, "frame_filter": "step=3"} if part else {}
    numbers = [1, 4, 7] if part else list(range(9))
    task_id = video_task(server, original, **fields)
    boxes = {n: (2.0 * n, 3.0, 2.0 * n + 20, 30.0) for n in range(9)}
    annotate(
        server,
        task_id,
        "rectangle",
        lambda t, name: [TruthObject(1, "person", box=boxes[int(name.rpartition("_")[2])])],
    )
    dataset = fo.Dataset()
    options: dict[str, Any] = {"data_path": tmp_path / "new", "download_media": True}
    load(dataset, server, task_id, **options)
    (path,) = (tmp_path / "new").iterdir()
    assert path.name == ("street_1-7x3.mp4" if part else "street.mp4")
    assert max(mean_differences(path, original, numbers)) < 8
    sample = dataset.first()
    found = {number: frame.objects.detections[0] for number, frame in sample.frames.items() if frame.objects}
    assert sorted(found) == list(range(1, len(numbers) + 1))
    for number, label in found.items():
        assert label.bounding_box[0] * 128 == pytest.approx(2.0 * (number - 1))

    # Another run over it finds the file and knows its frames.
    with counted_calls(server, FRAME_CALL) as calls:
        workflow.adopt(
            dataset, "later", task_ids=task_id, **{**BOXES, "label_field": "more"}, **options, **login(server)
        )
    assert calls == []
    dataset.load_annotations("later")
    assert sorted(n for n, frame in dataset.first().frames.items() if frame.more) == sorted(found)


def test_a_video_download_that_was_cut_off_goes_on(server: LocalCVAT, tmp_path: Path) -> None:
    task_id = video_task(server, write_video(tmp_path / "street.mp4", 6))
    annotate(server, task_id)
    dataset = fo.Dataset()
    options: dict[str, Any] = {"data_path": tmp_path / "new", "download_media": True}
    server.faults.add("GET", FRAME_CALL.split(" ")[1], 404, skip=4)
    with pytest.raises(CVATError):
        load(dataset, server, task_id, **options)
    server.faults.clear()
    there = list((tmp_path / "new").rglob("*.png"))
    assert 4 <= len(there) < 6
    with counted_calls(server, FRAME_CALL) as calls:
        load(dataset, server, task_id, **options)
    assert len(calls) == 6 - len(there)
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["street.mp4"]


# Names


def test_folders_tell_files_of_one_name_apart(server: LocalCVAT, paths: list[Path]) -> None:
    with client_of(server) as client:
        (found,) = find_tasks(client, task_ids=image_task(server, paths))
    known = ["/data/left/1.png", "/data/right/1.png", "/data/right/2.png"]
    assert match_names([(found, "right/1.png"), (found, "2.png"), (found, "3.png")], known) == {
        (found.task.id, "right/1.png"): "/data/right/1.png",
        (found.task.id, "2.png"): "/data/right/2.png",
    }
    assert match_names([(found, "left\\1.png")], known) == {(found.task.id, "left\\1.png"): "/data/left/1.png"}
    with pytest.raises(DataError, match=r"2 samples have a file called '1\.png'"):
        match_names([(found, "1.png")], known)
