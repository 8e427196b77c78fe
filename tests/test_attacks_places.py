"""Attacks on the round trip: labels that go elsewhere, labels of one id, plain values."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fiftyone as fo
import pytest
from fixtures_attacks import (
    KINDS,
    annotate,
    change_everything,
    delete_first_frame,
    draw_line_and_box,
    label_ids,
    move_all,
    outcome,
)
from fixtures_label_types import MAKERS, content, finish_jobs, schema_of
from fixtures_roundtrip import client_of, image_dataset, video_dataset, write_images, write_video

from labelprop_cvat.backend.cvat import CVATClient
from labelprop_cvat.backend.local_cvat import LocalCVAT
from labelprop_cvat.errors import LabelPropError


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalCVAT]:
    with LocalCVAT(tmp_path_factory.mktemp("cvat"), anonymous_rate=None) as running:
        yield running


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return write_images(tmp_path_factory.mktemp("images"), 4)


@pytest.fixture(scope="module")
def video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_video(tmp_path_factory.mktemp("video") / "scene.mp4", 6)


# Where labels go


def test_destinations_of_another_type_or_of_another_field_are_refused(server: LocalCVAT, images: list[Path]) -> None:
    dataset = image_dataset(images[:2], **{kind: MAKERS[kind] for kind in ("polygons", "detections", "keypoints")})
    results = annotate(server, dataset, label_schema=schema_of(["polygons", "detections"]))
    finish_jobs(server, results, move_all)
    before = content(dataset, "polygons", "detections", "keypoints")
    for wrong in (
        {"detections": "keypoints"},
        {"polygons": "filepath"},
        {"polygons": "detections"},
        {"polygons": "new", "detections": "new"},
        {"polygons": "detections", "detections": "other"},
        {"polygons": "tags"},
        {"polygons": ""},
    ):
        with pytest.raises(LabelPropError, match="dest_field"):
            dataset.load_annotations("run", dest_field=wrong)
        assert content(dataset, "polygons", "detections", "keypoints") == before, wrong
    dataset.load_annotations("run")
    assert content(dataset, "polygons", "detections", "keypoints") != before


@pytest.mark.parametrize("kind", KINDS)
def test_loading_in_turn_into_another_field_and_home(server: LocalCVAT, images: list[Path], kind: str) -> None:
    dataset = image_dataset(images[:2], **{kind: MAKERS[kind]})
    results = annotate(server, dataset, label_schema=schema_of([kind]))
    finish_jobs(server, results)
    for _ in range(2):
        dataset.load_annotations("run", dest_field="other")
        assert [len(ids) for ids in label_ids(dataset, "other")] == [len(ids) for ids in label_ids(dataset, kind)]
    finish_jobs(server, results, change_everything)
    dataset.load_annotations("run", dest_field="other")
    dataset.load_annotations("run")
    expected = outcome(dataset, [kind])
    dataset.load_annotations("run", dest_field="other")
    dataset.load_annotations("run")
    assert outcome(dataset, [kind]) == expected
    dataset.rename_sample_field(kind, "home")
    dataset.rename_sample_field("other", kind)
    assert outcome(dataset, [kind]) == expected


def test_unexpected_labels_that_are_kept_are_edited_and_deleted_later(server: LocalCVAT, images: list[Path]) -> None:
    dataset = image_dataset(images[:1])
    results = annotate(server, dataset, label_field="boxes", label_type="detections", classes=["car"])

    def draw(client: CVATClient, job_id: int) -> None:
        label_id = client.labels(job_id=job_id)[0].id
        shape = {"frame": 0, "group": 0, "source": "manual", "attributes": [], "occluded": False, "z_order": 0}
        lines = [
            {**shape, "type": "polyline", "points": [n, 2, 30, 40], "label_id": label_id, "rotation": 0} for n in (1, 9)
        ]
        client.create_annotations({"shapes": lines}, job_id=job_id)

    finish_jobs(server, results, draw)
    dataset.load_annotations("run", unexpected="keep")
    (first, second) = dataset.first().polylines.polylines
    finish_jobs(server, results, move_all)
    dataset.load_annotations("run", unexpected="keep")
    after = dataset.first().polylines.polylines
    assert [label.id for label in after] == [first.id, second.id]
    assert after[0].points[0][0][0] == pytest.approx(5 / 128)
    dataset.load_annotations("run")
    assert [label.id for label in dataset.first().polylines.polylines] == [first.id, second.id]

    def delete(client: CVATClient, job_id: int) -> None:
        client.delete_annotations({"shapes": client.annotations(job_id=job_id)["shapes"][:1]}, job_id=job_id)

    finish_jobs(server, results, delete)
    dataset.load_annotations("run", unexpected="keep")
    assert [label.id for label in dataset.first().polylines.polylines] == [second.id]


def test_unexpected_labels_stay_out_of_fields_of_the_run(
    server: LocalCVAT, images: list[Path], caplog: pytest.LogCaptureFixture
) -> None:
    """``unexpected="keep"`` puts lines into ``polylines``, which the run annotates itself."""
    dataset = image_dataset(images[:2], polylines=MAKERS["polylines"], detections=MAKERS["detections"])
    results = annotate(server, dataset, label_schema=schema_of(["polylines", "detections"]))
    before = content(dataset, "polylines", "detections")
    finish_jobs(server, results, draw_line_and_box("car", "lane"))
    for _ in range(3):
        dataset.load_annotations("run", unexpected="keep")
        assert content(dataset, "polylines", "detections") == before
    assert "unexpected={'polylines': ...}" in caplog.text
    for _ in range(2):
        dataset.load_annotations("run", unexpected={"polylines": "lines", "detections": "boxes"})
        assert content(dataset, "polylines", "detections") == before
        assert [len(ids) for ids in label_ids(dataset, "lines")] == [1, 0]
        assert [len(ids) for ids in label_ids(dataset, "boxes")] == [1, 0]


def test_unexpected_labels_of_two_fields_go_to_one_place(server: LocalCVAT, images: list[Path]) -> None:
    dataset = image_dataset(images[:2], keypoints=MAKERS["keypoints"], detections=MAKERS["detections"])
    results = annotate(server, dataset, label_schema=schema_of(["keypoints", "detections"]))
    before = content(dataset, "keypoints", "detections")
    finish_jobs(server, results, draw_line_and_box("car", "car"))
    finish_jobs(server, results, draw_line_and_box("pose", "car"))
    for _ in range(3):
        dataset.load_annotations("run", unexpected="keep")
        assert content(dataset, "keypoints") == [{"keypoints": entry["keypoints"]} for entry in before]
        assert sorted(label.label for label in dataset.first().polylines.polylines) == ["car", "pose"]

    def delete(client: CVATClient, job_id: int) -> None:
        lines = [shape for shape in client.annotations(job_id=job_id)["shapes"] if shape["type"] == "polyline"]
        client.delete_annotations({"shapes": lines}, job_id=job_id)

    finish_jobs(server, results, delete)
    dataset.load_annotations("run")
    assert len(dataset.first().polylines.polylines) == 2
    for _ in range(2):
        dataset.load_annotations("run", unexpected="keep")
        assert label_ids(dataset, "polylines") == [[], []]


def test_unexpected_labels_stay_out_of_fields_of_another_type(server: LocalCVAT, images: list[Path]) -> None:
    dataset = image_dataset(images[:1], detections=MAKERS["detections"], polylines=MAKERS["keypoints"])
    results = annotate(server, dataset, label_schema=schema_of(["detections"]))
    before = content(dataset, "polylines")
    finish_jobs(server, results, draw_line_and_box("car", "car"))
    for _ in range(2):
        dataset.load_annotations("run", unexpected="keep")
        assert content(dataset, "polylines") == before
        assert [len(ids) for ids in label_ids(dataset, "detections")] == [3]


def test_boxes_of_a_class_of_a_whole_video(server: LocalCVAT, video: Path) -> None:
    dataset = video_dataset(video)
    schema = {"weather": {"type": "classification", "classes": ["day"]}, **schema_of(["detections"], "frames.")}
    results = annotate(server, dataset, label_schema=schema)
    finish_jobs(server, results, draw_line_and_box("car", "day"))
    for _ in range(2):
        dataset.load_annotations("run", unexpected="keep")
        assert "detections" not in dataset.get_field_schema()
        assert len(dataset.first().frames[1].polylines.polylines) == 1


# Plain values


@pytest.mark.parametrize(
    "values", [[True, False, None], [1, 0, None], [0.1 + 0.2, 1e300, None], ["true", "", "None"], ["1.0", " x ", "é\n"]]
)
def test_plain_values_come_back_as_they_were(server: LocalCVAT, images: list[Path], values: list[Any]) -> None:
    dataset = image_dataset(images[:3])
    dataset.set_values("value", values)
    results = annotate(server, dataset, label_field="value", label_type="scalar")
    finish_jobs(server, results)
    for _ in range(2):
        dataset.load_annotations("run")
        assert dataset.values("value") == values
        assert [type(value) for value in dataset.values("value")] == [type(value) for value in values]


def test_values_and_labels_of_every_group_slice(server: LocalCVAT, images: list[Path]) -> None:
    dataset = fo.Dataset()
    dataset.add_group_field("group", default="left")
    samples = []
    for number in range(2):
        group = fo.Group()
        for place, name in enumerate(("left", "right")):
            n = 2 * number + place
            sample = fo.Sample(str(images[n]), group=group.element(name), value=n, number=number)
            sample["detections"] = MAKERS["detections"](n)
            samples.append(sample)
    dataset.add_samples(samples, progress=False)
    flat = dataset.select_group_slices(["left", "right"])
    results = annotate(
        server, flat, label_schema={"value": {"type": "scalar"}, **schema_of(["detections"])}, sort_field="number"
    )

    def edit(client: CVATClient, job_id: int) -> None:
        tags = client.annotations(job_id=job_id)["tags"]
        for tag in tags:
            tag["attributes"][0]["value"] = str(int(tag["attributes"][0]["value"]) + 10)
        client.update_annotations({"tags": tags}, job_id=job_id)

    finish_jobs(server, results, edit)
    for _ in range(2):
        dataset.load_annotations("run")
        assert sorted(flat.values("value")) == [10, 11, 12, 13]
        assert [len(value.detections) for value in flat.values("detections")] == [2, 2, 2, 2]


def test_values_outside_of_a_clip_stay(server: LocalCVAT, video: Path) -> None:
    dataset = video_dataset(video)
    sample = dataset.first()
    for number in range(1, 7):
        sample.frames[number] = fo.Frame(value=number, word=f"w{number}")
    sample["events"] = fo.TemporalDetections(
        detections=[fo.TemporalDetection(label="a", support=[1, 2]), fo.TemporalDetection(label="b", support=[5, 6])]
    )
    sample.save()
    clips = dataset.to_clips("events")
    results = annotate(
        server, clips, label_schema={"frames.value": {"type": "scalar"}, "frames.word": {"type": "scalar"}}
    )

    def edit(client: CVATClient, job_id: int) -> None:
        tags = client.annotations(job_id=job_id)["tags"]
        client.delete_annotations({"tags": [tags[0]]}, job_id=job_id)

    finish_jobs(server, results, edit)
    for _ in range(2):
        dataset.load_annotations("run")
        frames = dataset.first().frames
        values = [frames[n]["value"] for n in range(1, 7)] + [frames[n]["word"] for n in range(1, 7)]
        assert values.count(None) == 2
        assert [frames[n]["value"] for n in (3, 4)] == [3, 4]


def test_two_videos_finished_one_after_the_other(server: LocalCVAT, tmp_path: Path) -> None:
    paths = [write_video(tmp_path / f"{n}.mp4", 4) for n in range(2)]
    dataset = video_dataset(*paths)
    kinds = ["detections", "classifications", "segmentation", "keypoint"]
    for n, sample in enumerate(dataset):
        for number in (1, 3):
            sample.frames[number] = fo.Frame(**{kind: MAKERS[kind](number + n) for kind in kinds}, value=number)
        sample["weather"] = fo.Classification(label="day")
        sample["rating"] = n
        sample.save()
    schema = {
        **schema_of(kinds, "frames."),
        "frames.value": {"type": "scalar"},
        "weather": {"type": "classification", "classes": ["day", "night"]},
        "rating": {"type": "scalar"},
    }
    names = [*(f"frames.{kind}" for kind in kinds), "frames.value", "weather", "rating"]
    results = annotate(server, dataset, label_schema=schema, segment_size=2)
    before = content(dataset, *names)
    tasks = list(results.ledger.tasks())
    assert [len(task.jobs) for task in tasks] == [2, 2]
    with client_of(server) as client:
        move_all(client, tasks[0].jobs[1].id)
        client.update_job(tasks[0].jobs[1].id, state="completed")
    dataset.load_annotations("run")
    after = content(dataset, *names)
    assert after[1] == before[1]
    untouched = {name for name in before[0] if name.startswith(("1.", "2."))}
    assert untouched
    assert {name: after[0][name] for name in untouched} == {name: before[0][name] for name in untouched}
    assert [label.note for label in dataset.first().frames[3].detections.detections] == ["moved", "moved"]
    assert [label.note for label in dataset.first().frames[1].detections.detections] == ["007", "007"]
    finish_jobs(server, results)
    dataset.load_annotations("run")
    assert dataset.values("rating") == [0, 1]
    assert [label.label for label in dataset.values("weather")] == ["day", "day"]
    assert dataset.values("frames.value") == [[1, None, 3, None]] * 2 or dataset.values("frames.value") == [[1, 3]] * 2


# One label on several samples


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "segmentation"])
def test_one_label_on_several_samples_is_one_on_each(server: LocalCVAT, images: list[Path], kind: str) -> None:
    one = MAKERS[kind](1)
    dataset = image_dataset(images[:3], **{kind: lambda n: one})
    assert label_ids(dataset, kind)[0] == label_ids(dataset, kind)[1]
    results = annotate(server, dataset[:2], label_schema=schema_of([kind]))
    ids = label_ids(dataset, kind)
    assert len({label_id for entries in ids for label_id in entries}) == 3 * len(ids[0])
    finish_jobs(server, results)
    dataset.load_annotations("run")
    assert label_ids(dataset, kind) == ids
    finish_jobs(server, results, delete_first_frame)
    for _ in range(2):
        dataset.load_annotations("run")
        assert label_ids(dataset, kind) == [[], *ids[1:]]


def test_one_label_on_several_frames_is_one_on_each(server: LocalCVAT, video: Path) -> None:
    dataset = video_dataset(video)
    sample = dataset.first()
    one = MAKERS["keypoints"](1)
    for number in range(1, 5):
        sample.frames[number] = fo.Frame(keypoints=one)
    sample.save()
    results = annotate(server, dataset, label_schema=schema_of(["keypoints"], "frames."))
    finish_jobs(server, results, delete_first_frame)
    dataset.load_annotations("run")
    assert [len(value.keypoints) for value in dataset.values("frames.keypoints")[0] if value is not None] == [
        0,
        2,
        2,
        2,
    ]
