"""Further rounds of a run over a real socket: suggested frames go out with propagated labels and come back mended."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fiftyone as fo
import numpy as np
import pytest
from fixtures_roundtrip import (
    annotate_by_script,
    client_of,
    first_round,
    image_dataset,
    login,
    scene_masks,
    video_dataset,
    write_images,
    write_video,
)

import labelprop_cvat  # noqa: F401 - registers the backend
import labelprop_cvat.workflow as lp
from labelprop_cvat.backend.cvat import CVATClient, CVATError
from labelprop_cvat.backend.local_cvat import LocalCVAT
from labelprop_cvat.cli import main
from labelprop_cvat.errors import ConfigurationError, DataError
from labelprop_cvat.labels import detection_to_mask
from labelprop_cvat.sequences import FrameRef

FRAMES = 13
SIZE = (72, 128)


@pytest.fixture(scope="module")
def server() -> Iterator[LocalCVAT]:
    with LocalCVAT(anonymous_rate=None) as running:
        yield running


@pytest.fixture(scope="module")
def frames(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return write_images(tmp_path_factory.mktemp("frames"), FRAMES)


@pytest.fixture(scope="module")
def video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_video(tmp_path_factory.mktemp("video") / "street.mp4", FRAMES)


def open_job(results: Any) -> tuple[int, int]:
    """The task and job of the last round."""
    task = results.ledger.rounds[-1].tasks[0]
    return task.server_id, task.jobs[0].id


def finish(server: LocalCVAT, results: Any) -> None:
    with client_of(server) as client:
        for task in results.ledger.rounds[-1].tasks:
            for job in task.jobs:
                client.update_job(job.id, state="completed")


def masks(sample: fo.Sample, field: str) -> dict[int, np.ndarray]:
    found = {}
    for label in sample[field].detections:
        mask = detection_to_mask(label, SIZE)
        assert mask is not None
        found[label.index] = mask.to_full(SIZE)
    return found


def at(dataset: fo.Dataset, number: int) -> fo.Sample:
    return dataset.match(fo.ViewField("number") == number).first()


def test_suggested_frames_go_out_with_propagated_labels_and_come_back_corrected(
    server: LocalCVAT, frames: list[Path]
) -> None:
    dataset = image_dataset(frames)
    results = first_round(server, dataset)
    ends = {number: at(dataset, number).objects.to_json() for number in (0, 12)}
    suggestions = lp.suggest(dataset, "run", budget=2)
    assert not suggestions.stop
    assert len(suggestions) == 2
    assert suggestions.below_target > 0
    assert {frame.position for frame in suggestions}.isdisjoint({0, 12})
    assert all(frame.reasons and frame.gain > 0 and frame.minutes > 0 for frame in suggestions)
    assert {reason.label.split()[0] for frame in suggestions for reason in frame.reasons} <= {"person", "car"}
    assert {sample["number"] for sample in suggestions.view()} == {frame.position for frame in suggestions}

    assert suggestions.send() == 2
    chosen = sorted(frame.position for frame in suggestions)
    results = dataset.load_annotation_results("run")
    _, job = open_job(results)
    with client_of(server) as client:
        sent = client.annotations(job_id=job)
    assert not [*sent["tags"], *sent["tracks"]]
    assert len(sent["shapes"]) == sum(len(at(dataset, n).objects_propagated.detections) for n in chosen)
    assert results.ledger.tasks().__next__().name + " round 2" == results.ledger.rounds[1].tasks[0].name

    annotate_by_script(server, results)
    dataset.load_annotations("run")
    for number in range(FRAMES):
        sample = at(dataset, number)
        if number in (0, 12):
            assert sample.objects.to_json() == ends[number]
        elif number in chosen:
            truth = scene_masks(number)
            assert {k: m.tolist() for k, m in masks(sample, "objects").items()} == {
                k: m.astype(bool).tolist() for k, m in truth.items()
            }
            assert all(label.keyframe for label in sample.objects.detections)
        else:
            assert sample.objects is None
    results = dataset.load_annotation_results("run")
    (segment,) = next(iter(results.ledger.sequences.values())).segments
    measured = segment.fill("objects").measured
    assert {entry.position for entry in measured} == set(chosen)
    assert all(0 <= entry.quality < 1 for entry in measured)
    used = {n for sample in dataset for label in sample.objects_propagated.detections for n in label.exemplar_frames}
    assert used == {0, 12, *chosen}
    assert lp.suggest(dataset, "run").measured == len(measured)


def test_what_people_leave_as_it_was_is_confirmed(server: LocalCVAT, frames: list[Path]) -> None:
    dataset = image_dataset(frames)
    results = first_round(server, dataset)
    before = masks(at(dataset, 5), "objects_propagated")
    number = results.send_round([FrameRef(at(dataset, 5).id)])
    assert number == 2
    finish(server, results)
    dataset.load_annotations("run")
    sample = at(dataset, 5)
    assert {k: m.tolist() for k, m in masks(sample, "objects").items()} == {k: m.tolist() for k, m in before.items()}
    assert [(label.keyframe, label.source) for label in sample.objects.detections] == [(True, "reviewed")] * len(before)
    assert {label.source for label in sample.objects_propagated.detections} == {"reviewed"}
    held = dataset.load_annotation_results("run").serialize()["ledger"]
    dataset.load_annotations("run")
    assert at(dataset, 5).objects.to_json() == sample.objects.to_json()
    after = dataset.load_annotation_results("run").serialize()["ledger"]
    assert {**after, "loaded": None} == {**held, "loaded": None}


def test_what_people_take_away_is_absent_there(server: LocalCVAT, frames: list[Path]) -> None:
    dataset = image_dataset(frames)
    results = first_round(server, dataset)
    results.send_round([FrameRef(at(dataset, 5).id)])
    task, job = open_job(results)
    with client_of(server) as client:
        shapes = client.annotations(job_id=job)["shapes"]
        labels = {label.id: label.name for label in client.labels(task)}
        (car,) = [shape for shape in shapes if labels[shape["label_id"]] == "car"]
        client.delete_annotations({"tags": [], "shapes": [car], "tracks": []}, job_id=job)
    finish(server, results)
    dataset.load_annotations("run")
    assert [label.label for label in at(dataset, 5).objects.detections] == ["person"]
    assert [label.label for label in at(dataset, 5).objects_propagated.detections] == ["person"]
    (segment,) = next(iter(dataset.load_annotation_results("run").ledger.sequences.values())).segments
    fill = segment.fill("objects")
    assert fill.absences == [[2, 5]]
    assert [entry.quality for entry in fill.measured if entry.index == 2] == [0.0]
    dataset.load_annotations("run")
    (segment,) = next(iter(dataset.load_annotation_results("run").ledger.sequences.values())).segments
    assert segment.fill("objects").absences == [[2, 5]]


def test_boxes_of_a_video_come_back_under_their_index(server: LocalCVAT, video: Path) -> None:
    dataset = video_dataset(video)
    first_round(server, dataset, label_type="detections", engine="hold")
    suggestions = lp.suggest(dataset, "run", budget=1, send=True)
    (frame,) = suggestions
    assert frame.frame_number == frame.position + 1
    results = dataset.load_annotation_results("run")
    with client_of(server) as client:
        tracks = client.annotations(job_id=open_job(results)[1])["tracks"]
    assert len(tracks) == 2
    annotate_by_script(server, results, shape="rectangle", first_number=1)
    dataset.load_annotations("run")
    sample = dataset.first()
    keyframes = {n for n in range(1, FRAMES + 1) if sample.frames[n].objects is not None}
    assert keyframes == {1, 13, frame.frame_number}
    assert {label.index for label in sample.frames[frame.frame_number].objects.detections} == {1, 2}
    assert len(suggestions.view().values("frames.id", unwind=True)) == 1


def test_polygons_are_offered_as_outlines(server: LocalCVAT, frames: list[Path]) -> None:
    dataset = image_dataset(frames)
    results = first_round(server, dataset, label_type="polygons")
    results.send_round([FrameRef(at(dataset, 6).id)])
    finish(server, results)
    dataset.load_annotations("run")
    lines = at(dataset, 6).objects.polylines
    assert {line.index for line in lines} == {1, 2}
    assert all(line.filled and line.keyframe and line.source == "reviewed" for line in lines)


def test_labels_that_are_there_already_are_not_offered_twice(server: LocalCVAT, frames: list[Path]) -> None:
    dataset = image_dataset(frames)
    results = first_round(server, dataset)
    sample = at(dataset, 5)
    (person,) = [label for label in sample.objects_propagated.detections if label.label == "person"]
    sample["objects"] = fo.Detections(
        detections=[fo.Detection(label="person", bounding_box=person.bounding_box, mask=person.mask)]
    )
    sample.save()
    results.send_round([FrameRef(sample.id)])
    with client_of(server) as client:
        assert len(client.annotations(job_id=open_job(results)[1])["shapes"]) == 2
    # Nobody has said anything about that frame yet.
    dataset.load_annotations("run")
    assert at(dataset, 5).objects_propagated.detections[0].keyframe is False
    finish(server, results)
    dataset.load_annotations("run")
    assert len(at(dataset, 5).objects.detections) == 2


def test_an_upload_that_was_cut_off_goes_on(
    server: LocalCVAT, frames: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    dataset = image_dataset(frames)
    results = first_round(server, dataset)
    with monkeypatch.context() as patch:

        def cut(*_: Any, **__: Any) -> None:
            raise KeyboardInterrupt

        patch.setattr(CVATClient, "create_annotations", cut)
        with pytest.raises(KeyboardInterrupt):
            results.send_round([FrameRef(at(dataset, 4).id), FrameRef(at(dataset, 8).id)])
    dataset.load_annotations("run")
    results = dataset.load_annotation_results("run")
    assert results.ledger.uploaded
    with client_of(server) as client:
        assert len(client.annotations(job_id=open_job(results)[1])["shapes"]) == 4
        assert len(client.find_tasks(results.ledger.rounds[1].tasks[0].name)) == 1
    annotate_by_script(server, results)
    dataset.load_annotations("run")
    assert {n for n in range(FRAMES) if at(dataset, n).objects} == {0, 4, 8, 12}


def test_the_first_round_may_be_corrected_while_people_work_on_the_next(server: LocalCVAT, frames: list[Path]) -> None:
    dataset = image_dataset(frames)
    results = first_round(server, dataset)
    results.send_round([FrameRef(at(dataset, 6).id)])
    first = results.ledger.rounds[0].tasks[0]
    with client_of(server) as client:
        found = client.annotations(job_id=first.jobs[0].id)
        client.delete_annotations({"tags": [], "shapes": found["shapes"][-1:], "tracks": []}, job_id=first.jobs[0].id)
    gone = found["shapes"][-1]
    before = at(dataset, 11).objects_propagated.to_json()
    dataset.load_annotations("run")
    assert gone["frame"] == 1
    assert at(dataset, 11).objects_propagated.to_json() != before
    suggestions = lp.suggest(dataset, "run", budget=3)
    assert "Frames of further rounds that people have: 1." in suggestions.why
    assert 6 not in {frame.position for frame in suggestions}


def test_frames_outside_of_the_limits_and_deleted_ones_are_not_suggested(server: LocalCVAT, frames: list[Path]) -> None:
    dataset = image_dataset(frames)
    results = first_round(server, dataset, frame_step=3, exemplars="every:6")
    (task,) = results.ledger.tasks()
    assert task.positions() == [0, 6, 12]
    with client_of(server) as client:
        client._session.json("PATCH", f"/api/jobs/{task.jobs[0].id}/data/meta", json={"deleted_frames": [1]})
    dataset.load_annotations("run")
    assert {frame.position for frame in lp.suggest(dataset, "run", budget=9)} == {3, 9}


def test_when_to_stop(server: LocalCVAT, frames: list[Path]) -> None:
    dataset = image_dataset(frames)
    first_round(server, dataset)
    assert lp.suggest(dataset, "run", target=0.01).stop
    frugal = lp.suggest(dataset, "run", least_gain=1000.0)
    assert frugal.stop
    assert not frugal.frames
    assert "1000" in frugal.why
    json.dumps(frugal.to_dict())


def test_the_command_says_why_and_sends(
    server: LocalCVAT, frames: list[Path], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, value in (("USERNAME", server.username), ("PASSWORD", server.password)):
        monkeypatch.setenv(f"FIFTYONE_CVAT_{name}", value)
    dataset = image_dataset(frames)
    first_round(server, dataset)
    capsys.readouterr()
    assert main(["suggest", dataset.name, "run", "--budget", "2"]) == 0
    shown = capsys.readouterr().out
    assert "annotate next" in shown
    assert "car 2:" in shown
    assert f"labelprop suggest {dataset.name} run --send" in shown
    assert main(["suggest", dataset.name, "run", "--budget", "1", "--send", "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert (answer["round"], len(answer["frames"]), answer["stop"]) == (2, 1, False)
    assert main(["status", dataset.name, "run"]) == 0
    shown = capsys.readouterr().out
    assert "hold" in shown
    assert "Round 1: 2 frames annotated" in shown
    assert main(["suggest", dataset.name, "run", "--target", "0.01"]) == 3
    assert "Every label between the exemplars is expected" in capsys.readouterr().out


def test_before_people_are_done_there_is_nothing_to_suggest(server: LocalCVAT, frames: list[Path]) -> None:
    dataset = image_dataset(frames)
    dataset.annotate(
        "run", backend="labelprop", label_field="objects", label_type="instances", classes=["person", "car"],
        sort_field="number", segmentation="none", engine="hold", **login(server),
    )  # fmt: skip
    suggestions = lp.suggest(dataset, "run")
    assert (suggestions.stop, suggestions.frames) == (False, ())
    assert "wait for people" in suggestions.why


def test_refusals(server: LocalCVAT, frames: list[Path]) -> None:
    dataset = image_dataset(frames)
    results = first_round(server, dataset)
    held = results.serialize()["ledger"]
    with pytest.raises(DataError, match="in a job of the run already"):
        results.send_round([FrameRef(at(dataset, 0).id)])
    with pytest.raises(DataError, match="no frame was chosen"):
        results.send_round([])
    with pytest.raises(DataError, match="no frame of a sequence"):
        results.send_round([FrameRef("0" * 24)])
    with pytest.raises(DataError, match="Expected frames"):
        results.send_round([3])
    with pytest.raises(ConfigurationError, match="budget"):
        lp.suggest(dataset, "run", budget=0)
    with pytest.raises(ConfigurationError, match="target"):
        lp.suggest(dataset, "run", target=1.5)
    with pytest.raises(ConfigurationError, match="target"):
        lp.suggest(dataset, "run", target="high")  # type: ignore[arg-type]
    with pytest.raises(ConfigurationError, match="no annotation run 'ran'"):
        lp.suggest(dataset, "ran")
    assert dataset.load_annotation_results("run").serialize()["ledger"] == held


def test_cleanup_takes_every_round_along(server: LocalCVAT, frames: list[Path]) -> None:
    dataset = image_dataset(frames)
    results = first_round(server, dataset)
    results.send_round([FrameRef(at(dataset, 6).id)])
    tasks = results.task_ids
    assert len(tasks) == 2
    results.cleanup()
    with client_of(server) as client:
        for task in tasks:
            with pytest.raises(CVATError):
                client.task(task)
