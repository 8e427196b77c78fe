"""The round trip over a real socket: exemplars out, keyframes back, every other frame filled."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import fiftyone as fo
import numpy as np
import pytest
from bson import json_util
from fixtures_roundtrip import (
    annotate_by_script,
    client_of,
    image_dataset,
    login,
    scene_masks,
    video_dataset,
    write_images,
    write_video,
)

import labelprop_cvat  # noqa: F401 - registers the backend
from labelprop_cvat.backend.local_cvat import LocalCVAT
from labelprop_cvat.errors import LabelPropError
from labelprop_cvat.labels import detection_to_box, detection_to_mask, mask_to_detection
from labelprop_cvat.propagation.types import ObjectMask

FRAMES = 13


@pytest.fixture(scope="module")
def server() -> Iterator[LocalCVAT]:
    with LocalCVAT(anonymous_rate=None) as running:
        yield running


def full_mask(label: fo.Detection, size: tuple[int, int] = (72, 128)) -> np.ndarray:
    mask = detection_to_mask(label, size)
    assert mask is not None
    return mask.to_full(size)


def test_images_with_masks(server: LocalCVAT, tmp_path: Path) -> None:
    dataset = image_dataset(write_images(tmp_path, FRAMES))
    results = dataset.annotate(
        "masks",
        backend="labelprop",
        label_field="objects",
        label_type="instances",
        classes=["person", "car"],
        sort_field="number",
        segmentation="none",
        exemplars="every:6",
        engine="interpolate",
        **login(server),
    )
    (task,) = results.ledger.tasks()
    assert [job.positions for job in task.jobs] == [[0, 6, 12]]
    annotate_by_script(server, results)
    dataset.load_annotations("masks")

    for number, sample in enumerate(dataset.sort_by("number")):
        if number in (0, 6, 12):
            assert {label.index: label.label for label in sample.objects.detections} == {1: "person", 2: "car"}
            for label in sample.objects.detections:
                assert np.array_equal(full_mask(label), scene_masks(number)[label.index])
                assert label.keyframe is True
        else:
            assert sample.objects is None
        propagated = {label.index: label for label in sample.objects_propagated.detections}
        assert propagated.keys() == {1, 2}
        assert {label.source for label in propagated.values()} == {"manual" if number in (0, 6, 12) else "propagated"}
    instances = dataset.values("objects_propagated.detections.instance._id", unwind=True)
    assert len(set(instances)) == 2


def test_video_with_boxes(server: LocalCVAT, tmp_path: Path) -> None:
    dataset = video_dataset(write_video(tmp_path / "street.mp4", FRAMES))
    results = dataset.annotate(
        "boxes",
        backend="labelprop",
        label_field="frames.objects",
        label_type="detections",
        classes=["person", "car"],
        segmentation="none",
        exemplars="every:6",
        engine="interpolate",
        **login(server),
    )
    annotate_by_script(server, results, shape="rectangle", first_number=1)
    dataset.load_annotations("boxes")
    sample = dataset.first()
    for number in range(1, FRAMES + 1):
        labels = {label.index: label for label in sample.frames[number].objects_propagated.detections}
        assert labels.keys() == {1, 2}
        assert labels[1].label == "person"
    keyframes = [n for n in range(1, FRAMES + 1) if n in sample.frames and sample.frames[n].objects is not None]
    assert keyframes == [1, 7, 13]
    assert {label.index for n in keyframes for label in sample.frames[n].objects.detections} == {1, 2}


INSTANCES = {
    "backend": "labelprop",
    "label_field": "objects",
    "label_type": "instances",
    "classes": ["person", "car"],
    "sort_field": "number",
    "segmentation": "none",
    "exemplars": "every:6",
    "engine": "interpolate",
}
BOXES = {**INSTANCES, "label_type": "detections"}


def dump(dataset: fo.Dataset) -> list[dict]:
    """Everything that the samples hold, but for the times of their last change."""
    documents = [sample.to_dict(include_private=True) for sample in dataset.sort_by("number")]
    for document in documents:
        document.pop("last_modified_at", None)
        document.pop("_id", None)
    return documents


def without_times(value: object) -> object:
    return json_util.dumps(value, sort_keys=True)


@pytest.fixture(scope="module")
def frames(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return write_images(tmp_path_factory.mktemp("frames"), FRAMES)


def test_loading_twice_changes_nothing(server: LocalCVAT, frames: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    dataset = image_dataset(frames)
    results = dataset.annotate("twice", **INSTANCES, **login(server))
    annotate_by_script(server, results)
    dataset.load_annotations("twice")
    before = without_times(dump(dataset))

    def no_engine(*args: object, **kwargs: object) -> None:
        raise AssertionError("an unchanged segment was propagated again")

    monkeypatch.setattr("labelprop_cvat.workflow.fill_segment", no_engine)
    for cache in (True, False):
        if not cache:
            dataset.load_annotation_results("twice", cache=False, **login(server))
        dataset.load_annotations("twice", cache=cache, **login(server))
        assert without_times(dump(dataset)) == before


def test_jobs_that_nobody_finished_are_left_alone(server: LocalCVAT, frames: list[Path]) -> None:
    dataset = image_dataset(frames)
    results = dataset.annotate("parts", **{**INSTANCES, "segmentation": "fixed:7"}, **login(server))
    (task,) = results.ledger.tasks()
    first, second = task.jobs
    assert (first.positions, second.positions) == ([0, 6], [7])
    dataset.load_annotations("parts")
    assert dataset.count("objects.detections") == 0
    annotate_by_script(server, results, jobs=[first.id])
    dataset.load_annotations("parts")
    ordered = dataset.sort_by("number")
    counts = [len(o.detections) if o else None for o in ordered.values("objects_propagated")]
    assert counts == [2] * 7 + [None] * 6
    status = results.get_status()
    assert [(row["collected"], row["propagated"]) for row in status] == [(True, True), (False, False)]
    annotate_by_script(server, results, jobs=[second.id])
    dataset.load_annotations("parts")
    assert [len(o.detections) for o in ordered.values("objects_propagated")] == [2] * 13


def existing_labels(number: int) -> fo.Detections | None:
    """Labels with everything that a trip to CVAT could lose."""
    if number % 6 and number != 4:
        return None
    labels = []
    for object_id, mask in scene_masks(number).items():
        placed = mask_to_detection(ObjectMask.from_full(mask), (72, 128))
        label = fo.Detection(
            label={1: "person", 2: "car"}[object_id],
            bounding_box=placed[0],
            mask=placed[1],
            index=object_id + 4,
            confidence=0.25,
            tags=["old"],
            colour="007",
            speed=0.1 + 0.2,
        )
        label["instance"] = INSTANCE[object_id]
        labels.append(label)
    return fo.Detections(detections=labels)


INSTANCE = {1: fo.Instance(), 2: fo.Instance()}


@pytest.mark.parametrize("kind", ["instances", "detections"])
def test_existing_labels_come_back_as_they_were(server: LocalCVAT, frames: list[Path], kind: str) -> None:
    def make(number: int) -> fo.Detections | None:
        labels = existing_labels(number)
        if labels is not None and kind == "detections":
            for label in labels.detections:
                label.mask = None
        return labels

    dataset = image_dataset(frames, objects=make)
    before = {label.id: label.to_dict() for label in dataset.values("objects.detections", unwind=True)}
    options = {**INSTANCES, "label_type": kind, "exemplars": "uniform:13"}
    results = dataset.annotate("existing", **options, **login(server))
    with client_of(server) as client:
        for task in results.ledger.tasks():
            annotations = client.annotations(task_id=task.server_id)
            assert len(annotations["tracks"]) == (2 if kind == "detections" else 0)
            assert len(annotations["shapes"]) == (0 if kind == "detections" else 8)
            for job in task.jobs:
                client.update_job(job.id, state="completed")
    dataset.load_annotations("existing")
    after = {label.id: label.to_dict() for label in dataset.values("objects.detections", unwind=True)}
    assert after.keys() == before.keys()
    for label_id, label in before.items():
        expected = {**label, "keyframe": True}
        assert {name: after[label_id].get(name) for name in expected} == expected
    propagated = dataset.sort_by("number").first().objects_propagated.detections
    assert {label.index: label.instance.id for label in propagated} == {5: INSTANCE[1].id, 6: INSTANCE[2].id}
    assert {label.colour for label in propagated} == {"007"}


def test_what_people_change_in_cvat_arrives(server: LocalCVAT, frames: list[Path]) -> None:
    dataset = image_dataset(frames)
    schema = {
        "attributes": {
            "pose": {"type": "select", "values": ["up", "down"], "default": "up", "mutable": True},
            "plate": {"type": "text", "mutable": False},
        },
        "occluded_attr": "hidden",
    }
    results = dataset.annotate("edits", **BOXES, **schema, **login(server))
    annotate_by_script(server, results, shape="rectangle")
    dataset.load_annotations("edits")
    first = dataset.sort_by("number").first()
    ids = {label.index: label.id for label in first.objects.detections}
    assert [(label.pose, label.hidden) for label in first.objects.detections] == [("up", False), ("up", False)]
    (task,) = results.ledger.tasks()
    (job,) = task.jobs
    with client_of(server) as client:
        there = client.annotations(job_id=job.id)
        car = next(t for t in there["tracks"] if t["label_id"] == task.labels["car"].id)
        specs = task.labels["car"].attributes
        car["shapes"][0]["points"] = [10.25, 12.5, 30.125, 40.0]
        car["shapes"][0]["occluded"] = True
        car["shapes"][0]["attributes"] = [{"spec_id": specs["pose"], "value": "down"}]
        car["attributes"] = [{"spec_id": specs["index"], "value": "2"}, {"spec_id": specs["plate"], "value": "007"}]
        del car["shapes"][1]
        client.update_annotations({"tags": [], "shapes": [], "tracks": [car]}, job_id=job.id)
        person = next(t for t in there["tracks"] if t["label_id"] == task.labels["person"].id)
        client.delete_annotations({"tags": [], "shapes": [], "tracks": [person]}, job_id=job.id)
    dataset.load_annotations("edits")
    labels = [s.objects.detections for s in dataset.sort_by("number") if s.objects is not None]
    assert [[label.index for label in found] for found in labels] == [[2], [], [2]]
    (changed,) = labels[0]
    assert changed.id == ids[2]
    assert detection_to_box(changed, (72, 128)) == pytest.approx((10.25, 12.5, 30.125, 40.0), abs=1e-3)
    assert (changed.pose, changed.plate, changed.hidden) == ("down", "007", True)
    assert set(dataset.distinct("objects_propagated.detections.index")) == {2}
    sixth = dataset.sort_by("number").skip(6).first().objects_propagated.detections
    assert [label.keyframe for label in sixth] == [False]


def test_outside_ends_a_track_and_interpolated_boxes_are_no_keyframes(server: LocalCVAT, frames: list[Path]) -> None:
    dataset = image_dataset(frames)
    results = dataset.annotate("outside", **{**BOXES, "exemplars": "every:3"}, **login(server))
    (task,) = results.ledger.tasks()
    (job,) = task.jobs
    specs = task.labels["car"]

    def shape(frame: int, outside: bool = False) -> dict:
        return {"type": "rectangle", "frame": frame, "points": [1, 2, 30, 40], "outside": outside, "attributes": []}

    track = {
        "label_id": specs.id,
        "frame": 0,
        "attributes": [{"spec_id": specs.attributes["index"], "value": "0"}],
        "shapes": [shape(0), shape(3, outside=True)],
    }
    with client_of(server) as client:
        client.create_annotations({"tags": [], "shapes": [], "tracks": [track]}, job_id=job.id)
        client.update_job(job.id, state="completed")
    dataset.load_annotations("outside")
    keyframes = [s.number for s in dataset.sort_by("number") if s.objects is not None and s.objects.detections]
    assert keyframes == [0]
    shown = [s.number for s in dataset.sort_by("number") if s.objects_propagated.detections]
    assert shown == list(range(9))
    assert dataset.distinct("objects.detections.index") == [1]


@pytest.mark.parametrize(("missing", "last"), [("unknown", 12), ("absent", 5)])
def test_an_object_that_is_missing_on_an_exemplar(
    server: LocalCVAT, frames: list[Path], missing: str, last: int
) -> None:
    dataset = image_dataset(frames)
    results = dataset.annotate(f"missing_{missing}", **INSTANCES, missing=missing, **login(server))
    annotate_by_script(server, results)
    (task,) = results.ledger.tasks()
    (job,) = task.jobs
    with client_of(server) as client:
        there = client.annotations(job_id=job.id)
        gone = [s for s in there["shapes"] if s["frame"] > 0 and s["label_id"] == task.labels["car"].id]
        client.delete_annotations({"tags": [], "shapes": gone, "tracks": []}, job_id=job.id)
    dataset.load_annotations(f"missing_{missing}")
    with_car = [
        s.number
        for s in dataset.sort_by("number")
        if any(label.index == 2 for label in s.objects_propagated.detections)
    ]
    assert with_car == list(range(last + 1))


def test_dest_field_leaves_the_field_of_the_run_alone(server: LocalCVAT, frames: list[Path]) -> None:
    dataset = image_dataset(frames, objects=existing_labels)
    before = without_times(dataset.values("objects"))
    results = dataset.annotate("dest", **INSTANCES, **login(server))
    annotate_by_script(server, results)
    for _ in range(2):
        dataset.load_annotations("dest", dest_field="corrected")
        assert without_times(dataset.values("objects")) == before
        corrected = dataset.sort_by("number").values("corrected.detections.index")
        assert [sorted(c) if c else c for c in corrected] == [
            [1, 2, 5, 6] if n in (0, 6, 12) else None for n in range(13)
        ]


def test_segments_of_one_field_do_not_leak_and_stored_scores_choose(server: LocalCVAT, frames: list[Path]) -> None:
    def mark(number: int) -> fo.Classifications:
        score = 1.0 if number in (2, 9) else 0.0
        name = "early" if number < 6 else "late"
        return fo.Classifications(classifications=[fo.Classification(label=name, exemplar_score=score)])

    dataset = image_dataset(frames, segments=mark)
    options = {**INSTANCES, "exemplars": None, "segments_field": "segments"}
    results = dataset.annotate("scores", **options, **login(server))
    (task,) = results.ledger.tasks()
    assert [job.positions for job in task.jobs] == [[2], [9]]
    annotate_by_script(server, results, jobs=[task.jobs[0].id])
    dataset.load_annotations("scores")
    filled = [s.number for s in dataset.sort_by("number") if s.objects_propagated is not None]
    assert filled == list(range(6))


def test_grouped_view_makes_one_task_a_group(server: LocalCVAT, frames: list[Path]) -> None:
    dataset = image_dataset(frames, scene=lambda number: "left" if number < 7 else "right")
    view = dataset.group_by("scene", order_by="number")
    options = {**INSTANCES, "sort_field": None}
    results = view.annotate("groups", **options, **login(server))
    tasks = list(results.ledger.tasks())
    assert sorted(task.sequence for task in tasks) == ["left", "right"]
    annotate_by_script(server, results)
    dataset.load_annotations("groups")
    assert [len(o.detections) for o in dataset.values("objects_propagated")] == [2] * FRAMES


def test_filtered_view_touches_only_its_samples(server: LocalCVAT, frames: list[Path]) -> None:
    dataset = image_dataset(frames)
    view = dataset.match(fo.ViewField("number") >= 6)
    results = view.annotate("filtered", **INSTANCES, **login(server))
    annotate_by_script(server, results)
    dataset.load_annotations("filtered")
    assert [s.number for s in dataset if s.objects_propagated is not None] == list(range(6, 13))


def test_deleted_samples_are_left_out(server: LocalCVAT, frames: list[Path]) -> None:
    dataset = image_dataset(frames)
    results = dataset.annotate("deleted", **INSTANCES, **login(server))
    annotate_by_script(server, results)
    gone = [s.id for s in dataset if s.number in (3, 6)]
    dataset.delete_samples(gone)
    dataset.load_annotations("deleted", cache=False, **login(server))
    assert [s.number for s in dataset.sort_by("number") if s.objects is not None] == [0, 12]
    assert [len(o.detections) for o in dataset.values("objects_propagated")] == [2] * 11


def test_a_second_run_goes_on_with_the_objects_of_the_first(server: LocalCVAT, frames: list[Path]) -> None:
    dataset = image_dataset(frames)
    first = dataset.annotate("first", **{**INSTANCES, "exemplars": "first"}, **login(server))
    annotate_by_script(server, first)
    dataset.load_annotations("first")
    second = dataset.annotate("second", **{**INSTANCES, "exemplars": "middle"}, **login(server))
    annotate_by_script(server, second)
    dataset.load_annotations("second")
    indices = dataset.sort_by("number").values("objects.detections.index")
    assert [sorted(i) for i in indices if i] == [[1, 2], [1, 2]]
    propagated = dataset.sort_by("number").last().objects_propagated.detections
    assert {label.index: tuple(label.exemplar_frames) for label in propagated} == {1: (6,), 2: (6,)}
    low = dataset.quantiles("objects_propagated.detections.confidence", 0.1)
    assert len(dataset.filter_labels("objects_propagated", fo.ViewField("confidence") <= low)) > 0


def test_what_cannot_be_meant_is_refused_or_said(
    server: LocalCVAT, frames: list[Path], caplog: pytest.LogCaptureFixture
) -> None:
    dataset = image_dataset(frames)
    for options, words in (
        ({"label_field": "frames.objects"}, "label_field='objects'"),
        ({"segments_field": "segmnts"}, "segmnts"),
        ({"exemplar": "first"}, "'exemplars'"),
    ):
        with pytest.raises(LabelPropError, match=words):
            dataset.annotate("refused", **{**INSTANCES, **options}, **login(server))
    dataset.annotate("said", **{**INSTANCES, "sort_field": None}, **login(server))
    assert "No sort_field was given" in caplog.text
    dataset.load_annotations("said")
    assert "none of the 1 jobs" in caplog.text
    dataset.delete_annotation_run("said")
    assert "still in CVAT" in caplog.text
