"""Whatever goes wrong: one sentence, the dataset as before, the key free or the work resumable."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cv2
import fiftyone as fo
import numpy as np
import pytest
from bson import json_util
from fixtures_roundtrip import (
    annotate_by_script,
    client_of,
    image_dataset,
    login,
    scene_image,
    truth,
    video_dataset,
    write_images,
)

import labelprop_cvat  # noqa: F401 - registers the backend
from labelprop_cvat.backend.cvat import CVATClient, session
from labelprop_cvat.backend.cvat.errors import CVATRefusal, CVATTransportError, LoginRefused, NotFound
from labelprop_cvat.backend.local_cvat import LocalCVAT
from labelprop_cvat.errors import ConfigurationError, DataError, LabelPropError

OPTIONS: dict[str, Any] = {
    "backend": "labelprop",
    "label_field": "objects",
    "label_type": "instances",
    "classes": ["person", "car"],
    "sort_field": "number",
    "segmentation": "fixed:4",
    "exemplars": "every:2",
    "engine": "interpolate",
}
KEY = "run"


@pytest.fixture(scope="module")
def server() -> Iterator[LocalCVAT]:
    with LocalCVAT(anonymous_rate=None) as running:
        yield running


@pytest.fixture(scope="module")
def frames(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return write_images(tmp_path_factory.mktemp("frames"), 8)


def state(dataset: fo.Dataset) -> str:
    samples = [sample.to_dict(include_private=True) for sample in dataset]
    for sample in samples:
        sample.pop("last_modified_at", None)
    return json_util.dumps([samples, sorted(dataset.get_field_schema()), dataset.list_annotation_runs()])


def tasks_on(server: LocalCVAT) -> int:
    with client_of(server) as client:
        return int(client._session.json("GET", "/api/tasks")["count"])


def expect_refusal(
    server: LocalCVAT, samples: Any, error: type[Exception], words: str, key: str = KEY, **options: Any
) -> str:
    dataset = samples._root_dataset
    before, tasks = state(dataset), tasks_on(server)
    with pytest.raises(error) as caught:
        samples.annotate(key, **{**OPTIONS, **login(server), **options})
    assert words in str(caught.value)
    assert state(dataset) == before
    assert tasks_on(server) == tasks
    return str(caught.value)


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"sort_field": "nonsense"}, DataError, "nonsense"),
        ({"sort_field": "gap"}, DataError, "gap"),
        ({"classes": []}, ValueError, "class"),
        ({"label_field": "number"}, ValueError, "number"),
        ({"output_field": "objects"}, ConfigurationError, "objects"),
        ({"output_field": "number"}, ConfigurationError, "number"),
        ({"exemplars": "best:3"}, ConfigurationError, "every:n"),
        ({"segmentation": "magic"}, ConfigurationError, "magic"),
        ({"engine": "magic"}, ConfigurationError, "flow"),
        ({"missing": "maybe"}, ConfigurationError, "unknown"),
        ({"frame_start": 100}, DataError, "exemplar"),
        ({"colour": "red"}, ConfigurationError, "colour"),
        ({"label_type": "cuboids"}, ValueError, "cuboids"),
        ({"task_assignee": "nobody"}, NotFound, "nobody"),
        ({"project_id": 999}, ConfigurationError, "999"),
        ({"password": "wrong"}, LoginRefused, "admin"),
        ({"url": "http://127.0.0.1:9"}, CVATTransportError, "127.0.0.1:9"),
    ],
    ids=lambda value: str(value) if isinstance(value, dict) else "",
)
def test_bad_arguments(
    server: LocalCVAT, frames: list[Path], options: dict[str, Any], error: type[Exception], words: str
) -> None:
    dataset = image_dataset(frames, gap=lambda number: None if number == 3 else number)
    message = expect_refusal(server, dataset, error, words, **options)
    assert server.password not in message
    dataset.annotate(KEY, **{**OPTIONS, **login(server)})


def test_an_empty_view(server: LocalCVAT, frames: list[Path]) -> None:
    dataset = image_dataset(frames)
    expect_refusal(server, dataset.match(fo.ViewField("number") > 99), ValueError, "empty")


def test_a_file_that_is_no_image(server: LocalCVAT, tmp_path: Path) -> None:
    paths = write_images(tmp_path, 4)
    paths[2].write_bytes(b"not an image")
    expect_refusal(server, image_dataset(paths), DataError, paths[2].name)


def test_frame_sizes_that_change(server: LocalCVAT, tmp_path: Path) -> None:
    paths = write_images(tmp_path, 4)
    cv2.imwrite(str(paths[2]), cv2.resize(scene_image(2), (64, 64)))
    expect_refusal(server, image_dataset(paths), DataError, paths[2].name)


def test_a_video_that_cannot_be_read(server: LocalCVAT, tmp_path: Path) -> None:
    path = tmp_path / "broken.mp4"
    path.write_bytes(b"no video")
    dataset = video_dataset(path)
    expect_refusal(server, dataset, DataError, "broken.mp4", label_field="frames.objects")


def test_an_output_field_with_labels_of_others(server: LocalCVAT, frames: list[Path]) -> None:
    def prediction(number: int) -> fo.Detections:
        return fo.Detections(detections=[fo.Detection(label="car", bounding_box=[0, 0, 0.1, 0.1])])

    dataset = image_dataset(frames, predictions=prediction)
    expect_refusal(server, dataset, ConfigurationError, "predictions", output_field="predictions")


def test_a_server_that_fails_in_the_middle_leaves_nothing_behind(server: LocalCVAT, frames: list[Path]) -> None:
    dataset = image_dataset(frames)
    before, tasks = state(dataset), tasks_on(server)
    server.faults.add("POST", r"/api/tasks/\d+/data", 500, times=50)
    with pytest.raises(CVATRefusal):
        dataset.annotate(KEY, **OPTIONS, **login(server))
    server.faults.clear()
    assert state(dataset) == before
    assert tasks_on(server) == tasks
    results = dataset.annotate(KEY, **OPTIONS, **login(server))
    assert results.ledger.uploaded


class Killed(BaseException):
    """Stands for a process that dies: no ``except Exception`` sees it."""


STEPS = ["create_task", "upload_images", "labels", "jobs", "annotations", "create_annotations"]


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("step", STEPS)
def test_a_killed_upload_goes_on_and_leaves_no_orphan(
    server: LocalCVAT, frames: list[Path], monkeypatch: pytest.MonkeyPatch, step: str, when: str
) -> None:
    def existing(number: int) -> fo.Detections:
        mask = np.ones((7, 12), bool)
        return fo.Detections(
            detections=[
                fo.Detection(label="car", bounding_box=[0.1 * n, 0, 0.09375, 7 / 72], mask=mask, index=n)
                for n in (1, 2)
            ]
        )

    dataset = image_dataset(frames, objects=existing)
    tasks = tasks_on(server)
    original: Callable[..., Any] = getattr(CVATClient, step)

    def dies(self: CVATClient, *args: Any, **kwargs: Any) -> Any:
        if when == "after":
            original(self, *args, **kwargs)
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(CVATClient, step, dies)
        with pytest.raises(Killed):
            dataset.annotate(KEY, **OPTIONS, **login(server))
    assert dataset.list_annotation_runs() == [KEY]
    results = dataset.annotate(KEY, **OPTIONS, **login(server))
    assert results.ledger.uploaded
    assert tasks_on(server) == tasks + 1
    (task,) = results.ledger.tasks()
    with client_of(server) as client:
        shapes = client.annotations(task_id=task.server_id)["shapes"]
    assert len(shapes) == 8
    assert len({(s["frame"], s["attributes"][0]["value"]) for s in shapes}) == 8
    assert sum(len(entry.sightings) for entry in task.objects.values()) == 8


def test_a_second_run_under_a_finished_key_is_refused(server: LocalCVAT, frames: list[Path]) -> None:
    dataset = image_dataset(frames)
    dataset.annotate(KEY, **OPTIONS, **login(server))
    tasks = tasks_on(server)
    with pytest.raises(ValueError, match="already exists"):
        dataset.annotate(KEY, **OPTIONS, **login(server))
    assert tasks_on(server) == tasks


@pytest.fixture
def annotated(server: LocalCVAT, frames: list[Path]) -> fo.Dataset:
    dataset = image_dataset(frames)
    results = dataset.annotate(KEY, **OPTIONS, **login(server))
    annotate_by_script(server, results)
    return dataset


def expect_failed_load(dataset: fo.Dataset, error: type[Exception], words: str) -> None:
    before = state(dataset)
    with pytest.raises(error) as caught:
        dataset.load_annotations(KEY)
    assert words in str(caught.value)
    assert state(dataset) == before


def test_a_renamed_label(server: LocalCVAT, annotated: fo.Dataset) -> None:
    results = annotated.load_annotation_results(KEY)
    (task,) = results.ledger.tasks()
    label = task.labels["car"].id
    with client_of(server) as client:
        client._session.json("PATCH", f"/api/labels/{label}", json={"name": "auto"})
        expect_failed_load(annotated, DataError, "'auto'")
        client._session.json("PATCH", f"/api/labels/{label}", json={"name": "car"})
    annotated.load_annotations(KEY)
    assert annotated.count("objects.detections") > 0


def test_a_deleted_task(server: LocalCVAT, annotated: fo.Dataset) -> None:
    results = annotated.load_annotation_results(KEY)
    (task,) = results.ledger.tasks()
    with client_of(server) as client:
        client.delete_task(task.server_id)
    expect_failed_load(annotated, LabelPropError, str(task.id))
    results.forget_task(task.id)
    annotated.load_annotations(KEY)


def test_a_server_that_is_gone(frames: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    # It is tried for as long as a restart may take; here nobody waits between two tries.
    monkeypatch.setattr(session, "sleep", lambda seconds: None)
    with LocalCVAT(anonymous_rate=None) as short_lived:
        dataset = image_dataset(frames)
        results = dataset.annotate(KEY, **OPTIONS, **login(short_lived), timeout=2)
        annotate_by_script(short_lived, results)
        address = short_lived.url.removeprefix("http://")
    expect_failed_load(dataset, CVATTransportError, address)


def test_an_engine_that_fails_keeps_the_keyframes_and_can_be_called_again(
    annotated: fo.Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    from labelprop_cvat import workflow

    original = workflow.fill_segment
    calls = []

    def fails_at_the_second(*args: Any, **kwargs: Any) -> None:
        calls.append(kwargs["start"])
        if len(calls) == 2:
            raise Killed
        original(*args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(workflow, "fill_segment", fails_at_the_second)
        with pytest.raises(Killed):
            annotated.load_annotations(KEY)
    ordered = annotated.sort_by("number")
    assert annotated.count("objects.detections") > 0
    assert [o is not None for o in ordered.values("objects_propagated")] == [True] * 4 + [False] * 4
    calls.clear()
    monkeypatch.setattr(workflow, "fill_segment", lambda *a, **k: (calls.append(k["start"]), original(*a, **k)))
    annotated.load_annotations(KEY)
    assert calls == [4]
    assert all(o is not None for o in ordered.values("objects_propagated"))


def test_a_kill_between_merge_and_ledger_loses_no_edit(
    server: LocalCVAT, annotated: fo.Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    from labelprop_cvat.backend import results as results_module

    def dies(*args: Any, **kwargs: Any) -> None:
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(results_module, "finish_merge", dies)
        with pytest.raises(Killed):
            annotated.load_annotations(KEY)
    annotated.load_annotation_results(KEY, cache=False, **login(server))
    annotated.load_annotations(KEY, cache=False, **login(server))
    indices = [sorted(i) for i in annotated.sort_by("number").values("objects.detections.index") if i]
    expected = [sorted(t.object_id for t in truth()("", f"{n}.png")) for n in (0, 2, 4, 6)]
    assert indices == expected


def test_the_run_remembers_its_server(server: LocalCVAT, frames: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    dataset = image_dataset(frames)
    for name, value in login(server).items():
        monkeypatch.setenv(f"FIFTYONE_CVAT_{name.upper()}", value)
    annotate_by_script(server, dataset.annotate(KEY, **OPTIONS))
    monkeypatch.delenv("FIFTYONE_CVAT_URL")
    dataset.load_annotation_results(KEY, cache=False)
    dataset._annotation_cache.clear()
    dataset.load_annotations(KEY)
    assert dataset.count("objects.detections") > 0


def test_no_secret_reaches_database_log_or_error(
    server: LocalCVAT, frames: list[Path], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    dataset = image_dataset(frames)
    headers = {"X-Secret": "s3cr3t-header"}
    results = dataset.annotate(KEY, **OPTIONS, **login(server), headers=headers)
    annotate_by_script(server, results)
    dataset.load_annotations(KEY)
    stored = json_util.dumps(results.serialize()) + str(dataset.get_annotation_info(KEY).config.serialize())
    written = stored + caplog.text + repr(results.config) + repr(results)
    for secret in (server.password, "s3cr3t-header"):
        assert secret not in written


def test_the_run_behaves_as_fiftyones_run_methods_say(
    server: LocalCVAT, annotated: fo.Dataset, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    annotated.load_annotations(KEY)
    annotated.rename_annotation_run(KEY, "renamed")
    results = annotated.load_annotation_results("renamed", cache=False, **login(server))
    results.print_status()
    shown = capsys.readouterr().out
    assert "completed" in shown
    assert "objects_propagated" in shown
    opened = []
    monkeypatch.setattr("webbrowser.open", lambda url, **kwargs: opened.append(url))
    assert results.launch_editor() == opened[0]
    assert annotated.get_annotation_info("renamed").config.output_field == "objects_propagated"
    assert annotated.load_annotation_view("renamed").count() == 8
    tasks = tasks_on(server)
    annotated.load_annotations("renamed", cleanup=True)
    assert tasks_on(server) == tasks - 1
    assert results.get_status() == []
    kept = annotated.count("objects_propagated.detections")
    annotated.delete_annotation_run("renamed")
    assert annotated.list_annotation_runs() == []
    assert annotated.count("objects_propagated.detections") == kept > 0


def test_project_assignees_and_sizes(server: LocalCVAT, frames: list[Path]) -> None:
    dataset = image_dataset(frames)
    options = {
        "project_name": "streets",
        "job_assignees": ["admin"],
        "task_assignee": "admin",
        "segment_size": 1,
        "task_size": 3,
        "issue_tracker": "http://issues.example/1",
        "task_name": "night shift",
    }
    results = dataset.annotate(KEY, **{**OPTIONS, **login(server), **options})
    tasks = list(results.ledger.tasks())
    assert [[job.positions for job in task.jobs] for task in tasks] == [[[0], [2], [4]], [[6]]]
    with client_of(server) as client:
        project = client.find_project("streets")
        found = client.task(tasks[0].server_id)
        assert found.project_id == project.id
        assert found.bug_tracker.startswith("http://issues.example/1")
        assert found.assignee.username == "admin"
        assert client.job(tasks[1].jobs[0].id).assignee.username == "admin"
        second = image_dataset(frames).annotate(KEY, **{**OPTIONS, **login(server), "project_id": project.id})
        annotate_by_script(server, second)
        second.dataset.load_annotations(KEY)
        assert second.dataset.count("objects.detections") == 8
        second.cleanup()
        results.cleanup()
        assert client.find_project("streets") is None
