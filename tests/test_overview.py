"""An overview says where a dataset stands, whatever it is of, and what comes next."""

from __future__ import annotations

import json
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import fiftyone as fo
import numpy as np
import pytest
from bson import ObjectId
from fixtures_roundtrip import annotate_by_script, first_round, image_dataset, login, video_dataset, write_images
from fixtures_roundtrip import write_video as write_scene_video
from fixtures_views import scene_labels

from labelprop_cvat.backend.cvat import CVATClient
from labelprop_cvat.backend.local_cvat import LocalCVAT
from labelprop_cvat.errors import DataError
from labelprop_cvat.propagation.frames import VideoSource
from labelprop_cvat.workflow import (
    NO_FIELD,
    FrameState,
    Step,
    cleanup,
    evaluate,
    overview,
    propagate,
    review,
    segment,
    select,
    stretch_view,
)
from labelprop_cvat.workflow._next_step import next_step

FRAMES = 12


@pytest.fixture(scope="module")
def paths(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return write_images(tmp_path_factory.mktemp("overview") / "images", FRAMES)


@pytest.fixture(scope="module")
def video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_scene_video(tmp_path_factory.mktemp("overview") / "clip.mp4", FRAMES)


@pytest.fixture(scope="module")
def server() -> Any:
    with LocalCVAT(anonymous_rate=None) as local:
        yield local


def states(found: Any, place: int = 0) -> str:
    """One letter for each frame: its state's first, in order."""
    return "".join(FrameState(int(state)).name[0] for state in found.sequences[place].states)


def label(dataset: fo.Dataset, numbers: list[int], field: str = "drawn") -> None:
    if dataset.media_type == "video":
        sample = dataset.first()
        for number in numbers:
            sample.frames[number + 1] = fo.Frame(**{field: scene_labels(number)})
        sample.save()
        return
    for sample in dataset.match(fo.ViewField("number").is_in(numbers)).iter_samples(autosave=True):
        sample[field] = scene_labels(sample["number"])


def test_the_steps_without_a_server(paths: list[Path]) -> None:
    dataset = image_dataset(paths)
    assert overview(dataset).step.step is Step.SEGMENT
    segment(dataset, "shots", method="fixed:6", sort_field="number")
    found = overview(dataset)
    assert (found.fields.sort_field, found.fields.segments_field) == ("number", "shots")
    assert [(s.label, s.start, s.stop) for s in found.sequences[0].segments] == [
        ("segment_001", 0, 6),
        ("segment_002", 6, 12),
    ]
    assert found.step.step is Step.SELECT
    assert states(found) == "E" * 12
    select(dataset, "shots", method="first", sort_field="number")
    found = overview(dataset)
    assert found.step.step is Step.SEND
    assert "2 exemplars" in found.step.why
    assert np.flatnonzero(found.sequences[0].exemplars).tolist() == [0, 6]
    assert states(found) == "EEEEEEEEEEEE"
    assert int(found.sequences[0].states[6]) == FrameState.EXEMPLAR
    label(dataset, [0, 6])
    found = overview(dataset)
    assert found.fields.input_field == "drawn"
    assert found.step.step is Step.PROPAGATE
    assert "the other 10" in found.step.why
    assert states(found) == "AEEEEEAEEEEE"
    propagate(dataset, "drawn", engine="hold", segments_field="shots", sort_field="number")
    found = overview(dataset)
    assert states(found) == "APPPPPAPPPPP"
    assert found.fields.output_field == "drawn_propagated"
    assert found.step.step is Step.SEND
    sequence = found.sequences[0]
    assert sequence.lowest[0] == 1.0
    assert sequence.lowest[5] < 1.0
    # The least sure are told of first, with the object.
    sample = dataset.match(fo.ViewField("number") == 3).first()
    unsure, sure = sample["drawn_propagated"].detections
    unsure.confidence = 0.125
    sample.save()
    found = overview(dataset)
    assert found.sequences[0].lowest[3] == 0.125
    assert found.sequences[0].mean[3] == pytest.approx((0.125 + sure.confidence) / 2)
    worst = found.worst[0]
    assert (worst.measure, worst.value, worst.frame) == ("confidence", 0.125, "0003.png")
    assert (worst.label, worst.index, worst.segment) == (unsure.label, unsure.index, "segment_001")


def test_an_evaluation_names_the_worst(paths: list[Path]) -> None:
    dataset = image_dataset(paths)
    label(dataset, [0])
    label(dataset, list(range(FRAMES)), "truth")
    propagate(dataset, "drawn", engine="hold", segmentation="none", sort_field="number")
    found = overview(dataset, input_field="drawn")
    assert found.step.step is Step.EVALUATE
    assert found.evaluation is None
    evaluate(dataset, "drawn_propagated", "truth", eval_key="judged", sort_field="number")
    found = overview(dataset, input_field="drawn")
    assert found.evaluation is not None
    assert found.evaluation.eval_key == "judged"
    assert found.step.step is Step.SEND, "judging it again would say the same"
    quality = found.sequences[0].quality
    assert np.isnan(quality[0])
    assert quality[1] > quality[6]
    assert found.worst
    assert {frame.measure for frame in found.worst} == {"J"}
    values = [frame.value for frame in found.worst]
    assert values == sorted(values)
    assert json.loads(json.dumps(found.to_dict()))["evaluation"] == "judged"
    mended = found.worst[0].position
    label(dataset, [mended])
    left = {frame.position for frame in overview(dataset, input_field="drawn").worst}
    assert left
    assert mended not in left, "people have looked at it since"
    dataset.delete_evaluation("judged")
    assert overview(dataset, input_field="drawn").evaluation is None


def test_the_steps_of_a_run(paths: list[Path], server: LocalCVAT, capsys: pytest.CaptureFixture[str]) -> None:
    dataset = image_dataset(paths)
    asked = {"label_field": "objects", "label_type": "instances", "classes": ["person", "car"], "engine": "hold"}
    results = dataset.annotate(
        "run", backend="labelprop", sort_field="number", segmentation="none", exemplars="every:6", **asked,
        **login(server),
    )  # fmt: skip
    found = overview(dataset)
    assert found.fields.anno_key == "run"
    assert found.run is not None
    assert not found.run.asked
    assert states(found) == "SEEEEESEEEEE"
    assert found.step.step is Step.STATUS
    annotate_by_script(server, results)
    assert overview(dataset).step.step is Step.STATUS, "nobody has asked the server yet"
    found = overview(dataset, refresh=True)
    assert found.run is not None
    assert found.run.asked
    assert found.step.step is Step.LOAD
    assert "1 of 1 job is completed: load it" in found.step.why
    assert (
        found.run.jobs[0].url
        == f"{server.url}/tasks/{results.task_ids[0]}/jobs/{results.job_ids[results.task_ids[0]][0]}"
    )
    dataset.load_annotations("run")
    found = overview(dataset)
    assert states(found) == "APPPPPAPPPPP"
    assert found.step.step is Step.SUGGEST, found.step
    assert found.totals.doubtful > 0
    assert {frame.measure for frame in found.worst} == {"expected J"}
    assert found.worst[0].why
    review(dataset, "run")
    found = overview(dataset)
    assert states(found) == "ASSSSSASSSSS"
    assert found.step.step is Step.STATUS
    assert [job.kind for job in found.run.jobs] == ["exemplars", "review"]
    assert found.run.jobs[1].doubts > 0
    found.print()
    shown = capsys.readouterr().out
    assert "expected J" in shown
    assert "Next: status" in shown
    assert json.loads(json.dumps(found.to_dict()))["run"]["jobs"][1]["kind"] == "review"
    # Where people looked at every frame, there is nothing left to judge.
    run = replace(found.run, jobs=found.run.jobs[:1], unreviewed=0)
    for totals, step in ((found.totals, Step.CLEANUP), (replace(found.totals, propagated=4), Step.EVALUATE)):
        assert next_step(totals, run, is_evaluated=False, has_truth=True).step is step
    cleanup(dataset, "run", force=True)
    assert overview(dataset).run.jobs == ()


def test_a_server_that_is_gone(paths: list[Path]) -> None:
    dataset = image_dataset(paths)
    with LocalCVAT(anonymous_rate=None) as local:
        first_round(local, dataset)
    started = time.monotonic()
    found = overview(dataset, refresh=True)
    assert time.monotonic() - started < 15, "nobody waits for a server that is not there"
    assert found.run is not None
    assert found.run.trouble
    assert "as they were last seen" in found.run.trouble
    assert found.notes == (found.run.trouble,)
    assert found.run.jobs
    assert all(job.collected for job in found.run.jobs)
    assert states(found)[0] == "A"


def test_videos_are_not_decoded(video: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    dataset = video_dataset(video)
    segment(dataset, "shots", method="fixed:6")
    select(dataset, "shots", method="first")
    label(dataset, [0, 6])
    propagate(dataset, "frames.drawn", engine="hold", segments_field="shots")

    def refuse(*_: Any) -> int:
        raise AssertionError("the video is decoded")

    monkeypatch.setattr(VideoSource, "__len__", refuse)
    found = overview(dataset, input_field="drawn")
    assert found.fields.input_field == "frames.drawn"
    assert found.fields.output_field == "frames.drawn_propagated"
    assert states(found) == "APPPPPAPPPPP"
    assert [(s.start, s.stop) for s in found.sequences[0].segments] == [(0, 6), (6, 12)]
    assert np.flatnonzero(found.sequences[0].exemplars).tolist() == [0, 6]
    worst = found.worst[0]
    assert worst.frame_number == worst.position + 1
    assert worst.index in (1, 2)
    clip = stretch_view(dataset, found.sequences[0], 6, 12)
    assert clip.values("support") == [[7, 12]]


def test_groups_are_sequences_in_every_view(paths: list[Path], server: LocalCVAT) -> None:
    dataset = image_dataset(paths[:6], scene=lambda number: "north")
    dataset.add_samples([fo.Sample(str(p), number=n, scene="south") for n, p in enumerate(paths[:6])], progress=False)
    view = dataset.group_by("scene", order_by="number")
    segment(view, "shots", method="fixed:3")
    found = overview(view)
    assert [(s.name, len(s), len(s.segments)) for s in found.sequences] == [("north", 6, 2), ("south", 6, 2)]
    assert found.fields.sort_field is None
    stretch = stretch_view(view, found.sequences[1], 3, 6)
    assert stretch.values("scene") == ["south"] * 3
    assert stretch.values("number") == [3, 4, 5]
    label(dataset, [0], "objects")
    view.annotate(
        "run", backend="labelprop", label_field="objects", label_type="instances", classes=["person"], engine="hold",
        segments_field="shots", exemplars="first", **login(server),
    )  # fmt: skip
    # A view without the groups would mix them; the run knows better.
    assert [s.name for s in overview(dataset).sequences] == ["north", "south"]
    # Labels that went along are in people's hands.
    assert states(overview(view)) == "SEESEE"
    assert [len(s) for s in overview(dataset.limit(6)).sequences] == [6]


def test_what_is_not_there(paths: list[Path]) -> None:
    empty = overview(fo.Dataset())
    assert empty.sequences == ()
    assert empty.step.step is Step.SEGMENT
    assert "no images or videos" in empty.step.why
    dataset = image_dataset(paths[:4])
    label(dataset, [0])
    segment(dataset, "shots", method="none", sort_field="number")
    dataset.delete_sample_field("shots")
    found = overview(dataset, segments_field="shots", input_field="gone", output_field="gone", anno_key="gone")
    assert (found.fields.segments_field, found.fields.input_field, found.fields.anno_key) == (None, None, None)
    assert found.sequences[0].segments == ()
    dataset.add_sample_field("holes", fo.IntField)
    with pytest.raises(DataError, match="holes"):
        overview(dataset, sort_field="holes")
    assert len(overview(dataset, sort_field=NO_FIELD).sequences[0]) == 4


class Killed(BaseException):
    """Stands for a process that dies."""


def test_a_run_that_was_cut_off(paths: list[Path], server: LocalCVAT, monkeypatch: pytest.MonkeyPatch) -> None:
    dataset = image_dataset(paths[:4])

    def dies(*_: Any, **__: Any) -> None:
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(CVATClient, "upload_images", dies)
        with pytest.raises(Killed):
            dataset.annotate(
                "run",
                backend="labelprop",
                label_field="objects",
                label_type="instances",
                classes=["person"],
                sort_field="number",
                segmentation="none",
                **login(server),
            )
    found = overview(dataset)
    assert found.run is not None
    assert found.run.cut_off
    assert found.step.step is Step.LOAD
    assert "cut off" in found.step.why


def test_thousands_of_frames_take_a_moment() -> None:
    dataset = fo.Dataset()
    first = fo.Sample(
        "/nowhere/0.png",
        number=0,
        shots=fo.Classifications(classifications=[fo.Classification(label="first")]),
        drawn=fo.Detections(detections=[fo.Detection(label="x", index=1, bounding_box=[0.1] * 4)]),
    )
    dataset.add_sample(first)
    document = dataset._sample_collection.find_one({})
    copies = []
    for number in range(1, 5000):
        name = {"label": f"shot {number // 200}", "_cls": "Classification", "_id": ObjectId()}
        copies.append(
            {
                **document,
                "_id": ObjectId(),
                "filepath": f"/nowhere/{number}.png",
                "number": number,
                "shots": {"_cls": "Classifications", "classifications": [name]},
            }
        )
    dataset._sample_collection.insert_many(copies)
    started = time.monotonic()
    found = overview(dataset, segments_field="shots", input_field="drawn")
    assert time.monotonic() - started < 5
    assert found.totals.segments == 26
    assert found.totals.annotated == 5000
