"""Attacks on further rounds, on suggesting and on stored segments: what is in the way, and what changed meanwhile."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fiftyone as fo
import pytest
from fixtures_roundtrip import (
    annotate_by_script,
    client_of,
    image_dataset,
    login,
    video_dataset,
    write_images,
    write_video,
)
from fixtures_views import scene_labels

import labelprop_cvat.workflow as lp
from labelprop_cvat.backend.cvat import CVATClient, CVATError
from labelprop_cvat.backend.local_cvat import LocalCVAT
from labelprop_cvat.backend.results import LabelPropResults
from labelprop_cvat.errors import ConfigurationError, DataError
from labelprop_cvat.sequences import FrameRef

FRAMES = 7


@pytest.fixture(scope="module")
def server() -> Iterator[LocalCVAT]:
    with LocalCVAT(anonymous_rate=None) as running:
        yield running


@pytest.fixture(scope="module")
def paths(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return write_images(tmp_path_factory.mktemp("frames"), FRAMES)


def send(server: LocalCVAT, samples: Any, **options: Any) -> Any:
    asked = {"label_field": "objects", "label_type": "instances", "classes": ["person", "car"], "engine": "hold",
             "segmentation": "none", "exemplars": f"every:{FRAMES - 1}", **options}  # fmt: skip
    return samples.annotate("run", backend="labelprop", **asked, **login(server))


def first_round(server: LocalCVAT, dataset: fo.Dataset) -> Any:
    annotate_by_script(server, send(server, dataset, sort_field="number"))
    dataset.load_annotations("run")
    return dataset.load_annotation_results("run")


def at(dataset: fo.Dataset, number: int) -> fo.Sample:
    return dataset.match(fo.ViewField("number") == number).first()


def finish(server: LocalCVAT, results: Any) -> None:
    with client_of(server) as client:
        for task in results.ledger.rounds[-1].tasks:
            for job in task.jobs:
                client.update_job(job.id, state="completed")


def test_sending_again_what_did_not_arrive_goes_on(
    server: LocalCVAT, paths: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    dataset = image_dataset(paths)
    first_round(server, dataset)
    suggestions = lp.suggest(dataset, "run", budget=2)
    with monkeypatch.context() as patch:

        def fail(*_: Any, **__: Any) -> None:
            raise CVATError("no")

        patch.setattr(CVATClient, "upload_images", fail)
        with pytest.raises(CVATError):
            suggestions.send()
    assert suggestions.send() == 2
    ledger = dataset.load_annotation_results("run").ledger
    assert ledger.uploaded
    assert [len(round_.tasks) for round_ in ledger.rounds] == [1, 1]
    with pytest.raises(DataError, match="in a job of the run already"):
        suggestions.send()


def test_without_a_login_no_round_is_planned(
    server: LocalCVAT, paths: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    dataset = image_dataset(paths)
    results = first_round(server, dataset)

    def refuse(*_: Any) -> None:
        raise ConfigurationError("no login")

    with monkeypatch.context() as patch:
        patch.setattr(LabelPropResults, "connect_to_api", refuse)
        with pytest.raises(ConfigurationError, match="no login"):
            results.send_round([FrameRef(at(dataset, 3).id)])
    assert len(dataset.load_annotation_results("run").ledger.rounds) == 1


def test_samples_that_are_gone_are_no_reason_to_fail(server: LocalCVAT, paths: list[Path]) -> None:
    dataset = image_dataset(paths)
    first_round(server, dataset)
    dataset.delete_samples([at(dataset, 2).id])
    waiting = lp.suggest(dataset, "run")
    assert (waiting.stop, len(waiting)) == (False, 0)
    assert "wait to be filled by the next load: 1." in waiting.why
    dataset.load_annotations("run")
    assert len(lp.suggest(dataset, "run", budget=2, target=1.0)) == 2


def test_where_the_propagated_labels_are_gone_it_is_not_time_to_stop(server: LocalCVAT, paths: list[Path]) -> None:
    dataset = image_dataset(paths)
    first_round(server, dataset)
    dataset.delete_sample_field("objects_propagated")
    suggestions = lp.suggest(dataset, "run")
    assert not suggestions.stop
    assert "wait to be filled" in suggestions.why
    with pytest.raises(ConfigurationError, match=r"counts frames from 1, got 1\.5"):
        lp.suggest(dataset, "run", budget=1.5)


def test_propagated_labels_that_nobody_can_read_stay_at_home(server: LocalCVAT, paths: list[Path]) -> None:
    dataset = image_dataset(paths)
    results = first_round(server, dataset)
    for number, spoil in {
        1: {"bounding_box": [0.1, 0.1, float("nan"), 0.2]},
        2: {"mask": None, "mask_path": "/nowhere.png"},
        3: {"index": -3},
        4: {"index": 10**12},
    }.items():
        sample = at(dataset, number)
        for name, value in spoil.items():
            sample.objects_propagated.detections[0][name] = value
        sample.save()
    results.send_round([FrameRef(at(dataset, number).id) for number in (1, 2, 3, 4)])
    results = dataset.load_annotation_results("run")
    job = results.ledger.rounds[-1].tasks[0].jobs[0]
    with client_of(server) as client:
        assert len(client.annotations(job_id=job.id)["shapes"]) == 4
    finish(server, results)
    dataset.load_annotations("run")
    assert [len(at(dataset, number).objects.detections) for number in (1, 2, 3, 4)] == [1] * 4


def test_labels_spoiled_while_people_work_do_not_stop_the_load(server: LocalCVAT, paths: list[Path]) -> None:
    dataset = image_dataset(paths)
    results = first_round(server, dataset)
    results.send_round([FrameRef(at(dataset, 3).id)])
    sample = at(dataset, 3)
    first, second = sample.objects_propagated.detections
    first.bounding_box = [0.1, 0.1, float("nan"), 0.2]
    second["pass_agreement"] = float("nan")
    sample.save()
    finish(server, dataset.load_annotation_results("run"))
    dataset.load_annotations("run")
    assert len(at(dataset, 3).objects.detections) == 2
    (record,) = dataset.load_annotation_results("run").ledger.sequences.values()
    (measured,) = record.segments[0].fill("objects").measured
    assert (measured.index, measured.agreement, measured.quality) == (second.index, None, 1.0)


def test_frames_views_know_of_fields_that_loads_made(server: LocalCVAT, paths: list[Path], tmp_path: Path) -> None:
    dataset = video_dataset(write_video(tmp_path / "v.mp4", FRAMES))
    sample = dataset.first()
    for number, path in enumerate(paths, start=1):
        sample.frames[number] = fo.Frame(filepath=str(path))
    sample.save()
    results = send(server, dataset.to_frames(), label_field="fresh")
    annotate_by_script(server, results)
    dataset.load_annotations("run")
    (frame,) = lp.suggest(dataset, "run", budget=1, target=1.0, send=True)
    finish(server, dataset.load_annotation_results("run"))
    dataset.load_annotations("run")
    labels = dataset.first().frames[frame.frame_number].fresh.detections
    assert {(label.index, label.source) for label in labels} == {(1, "reviewed"), (2, "reviewed")}


def test_reasons_name_the_field_where_there_are_two(server: LocalCVAT, paths: list[Path]) -> None:
    dataset = image_dataset(paths)
    fields = {name: {"type": "instances", "classes": ["car"]} for name in ("near", "away")}
    results = dataset.annotate(
        "run", backend="labelprop", label_schema=fields, sort_field="number", segmentation="none", engine="hold",
        exemplars=f"every:{FRAMES - 1}", **login(server),
    )  # fmt: skip
    (task,) = results.ledger.tasks()
    with client_of(server) as client:
        shapes = [
            {"type": "mask", "points": [0, 100, 10, 10, 19, 19], "frame": frame, "label_id": label.id, "group": 0,
             "source": "manual", "occluded": False, "z_order": 0, "rotation": 0,
             "attributes": [{"spec_id": label.attribute("index").id, "value": "1"}]}
            for label in client.labels(task.server_id) for frame in (0, 1)
        ]  # fmt: skip
        client.create_annotations({"tags": [], "shapes": shapes, "tracks": []}, job_id=task.jobs[0].id)
    finish(server, results)
    dataset.load_annotations("run")
    (frame,) = lp.suggest(dataset, "run", budget=1, target=1.0)
    assert {(r.object_id, r.label) for r in frame.reasons} == {(1, "car 1 (near)"), (1, "car 1 (away)")}


@pytest.mark.parametrize("number", [0, 1])
def test_frames_of_a_task_that_was_forgotten_may_be_asked_for_again(
    server: LocalCVAT, paths: list[Path], number: int
) -> None:
    dataset = image_dataset(paths)
    results = first_round(server, dataset)
    results.send_round([FrameRef(at(dataset, 3).id)])
    results = dataset.load_annotation_results("run")
    results.delete_tasks([results.ledger.rounds[number].tasks[0].server_id])
    suggestions = lp.suggest(dataset, "run", budget=FRAMES, target=1.0)
    expected = {1, 2, 4, 5} if number == 0 else {1, 2, 3, 4, 5}
    assert {frame.position for frame in suggestions} == expected
    if number == 1:
        suggestions.send()


# Segments


def test_segmenting_a_video_again_replaces_what_was_there(tmp_path: Path) -> None:
    dataset = video_dataset(write_video(tmp_path / "v.mp4", 9))
    lp.segment(dataset, "segments", method="none")
    lp.select(dataset, "segments", method="every:4")
    assert lp.segment(dataset, "segments", method="fixed:3") == 3
    assert [entry.support for entry in dataset.first().segments.detections] == [[1, 3], [4, 6], [7, 9]]
    assert lp.select(dataset, "segments", method="first") == 3


@pytest.mark.parametrize("name", ["", "_hidden", "a.b"])
def test_names_that_no_field_can_have(paths: list[Path], name: str) -> None:
    dataset = image_dataset(paths)
    with pytest.raises(DataError, match="no dot"):
        lp.segment(dataset, name, sort_field="number")
    with pytest.raises(DataError, match="no dot"):
        lp.segment(dataset, "segments", sort_field="number", scores_field=name)
    assert not dataset.has_field("segments")


def test_a_plot_that_cannot_be_written(paths: list[Path]) -> None:
    with pytest.raises(DataError, match="cannot be written"):
        lp.segment(image_dataset(paths), "segments", sort_field="number", plot=paths[0] / "plots")


def test_an_evaluation_whose_key_cannot_be_a_field_leaves_nothing(paths: list[Path]) -> None:
    dataset = image_dataset(paths, truth=scene_labels, guess=scene_labels)
    with pytest.raises(ConfigurationError, match="begins with a letter"):
        lp.evaluate(dataset, "guess", "truth", sort_field="number", eval_key="_eval")
    assert dataset.list_evaluations() == []


def test_an_evaluation_that_is_cut_off_while_it_begins_leaves_nothing(
    paths: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    dataset = image_dataset(paths, truth=scene_labels, guess=scene_labels)

    def cut(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(fo.Dataset, "_merge_sample_field_schema", cut)
    with pytest.raises(KeyboardInterrupt):
        lp.evaluate(dataset, "guess", "truth", sort_field="number", eval_key="eval")
    assert dataset.list_evaluations() == []
