"""The round trip of videos: identities, filtered views, several videos, frames that are not in the database yet."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fiftyone as fo
import pytest
from fiftyone import ViewField as F
from fixtures_roundtrip import annotate_by_script, client_of, login, scene_masks, video_dataset, write_video

import labelprop_cvat  # noqa: F401 - registers the backend
from labelprop_cvat.backend.local_cvat import LocalCVAT
from labelprop_cvat.labels import detection_to_box, mask_to_detection
from labelprop_cvat.propagation.types import ObjectMask

FRAMES = 13
OPTIONS: dict[str, Any] = {
    "backend": "labelprop",
    "label_field": "frames.objects",
    "label_type": "instances",
    "classes": ["person", "car"],
    "segmentation": "none",
    "exemplars": "every:6",
    "engine": "interpolate",
}


@pytest.fixture(scope="module")
def server() -> Iterator[LocalCVAT]:
    with LocalCVAT(anonymous_rate=None) as running:
        yield running


@pytest.fixture(scope="module")
def video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_video(tmp_path_factory.mktemp("video") / "street.mp4", FRAMES)


def add_labels(sample: fo.Sample, kind: str, **attributes: Any) -> None:
    for number in (1, 4, 7, 13):
        labels = []
        for object_id, mask in scene_masks(number - 1).items():
            box, crop = mask_to_detection(ObjectMask.from_full(mask), (72, 128))
            label = fo.Detection(
                label={1: "person", 2: "car"}[object_id], bounding_box=box, index=3 * object_id + 2, **attributes
            )
            if kind == "instances":
                label.mask = crop
            labels.append(label)
        sample.frames[number] = fo.Frame(objects=fo.Detections(detections=labels))
    sample.save()


@pytest.mark.parametrize("kind", ["instances", "detections"])
def test_indices_and_ids_of_existing_tracks_survive(server: LocalCVAT, video: Path, kind: str) -> None:
    dataset = video_dataset(video)
    add_labels(dataset.first(), kind, colour="red")
    path = "frames.objects.detections"
    before = {label.id: label for label in dataset.values(path, unwind=2)}
    results = dataset.annotate("tracks", **{**OPTIONS, "label_type": kind}, **login(server))
    (task,) = results.ledger.tasks()
    (job,) = task.jobs
    with client_of(server) as client:
        there = client.annotations(job_id=job.id)
        changed: dict[str, list[Any]] = {"tags": [], "shapes": [], "tracks": []}
        if kind == "detections":
            assert len(there["tracks"]) == 2
            track = next(t for t in there["tracks"] if t["label_id"] == task.labels["car"].id)
            track["shapes"][0]["points"] = [1.5, 2.5, 20.5, 30.5]
            track["attributes"] = [{**a, "value": "4"} for a in track["attributes"]]
            changed["tracks"].append(track)
        else:
            assert len(there["shapes"]) == 6
        client.update_annotations(changed, job_id=job.id)
        client.update_job(job.id, state="completed")
    dataset.load_annotations("tracks")
    after = {label.id: label for label in dataset.values(path, unwind=2)}
    assert after.keys() == before.keys()
    new_index = {5: 5, 8: 4} if kind == "detections" else {5: 5, 8: 8}
    frames = dict(zip(*(v[0] for v in dataset.values(["frames.frame_number", f"{path}.id"])), strict=True))
    sent = {label_id for number in (1, 7, 13) for label_id in frames[number]}
    for label_id, label in after.items():
        old = before[label_id]
        assert label.index == (new_index[old.index] if label_id in sent else old.index)
        assert label.colour == "red"
        moved = kind == "detections" and label_id in frames[1] and old.label == "car"
        if moved:
            assert detection_to_box(label, (72, 128)) == pytest.approx((1.5, 2.5, 20.5, 30.5), abs=1e-3)
        else:
            assert label.bounding_box == old.bounding_box
    propagated = dataset.first().frames[3].objects_propagated.detections
    assert {(label.label, label.index) for label in propagated} == {("person", 5), ("car", new_index[8])}
    assert {label.source for label in propagated} == {"propagated"}


def test_labels_on_frames_that_stayed_at_home_count_only_as_keyframes(server: LocalCVAT, video: Path) -> None:
    for keyframe, expected in ((True, [1, 4, 7, 13]), (False, [1, 7, 13])):
        dataset = video_dataset(video)
        add_labels(dataset.first(), "instances", keyframe=keyframe)
        results = dataset.annotate("home", **OPTIONS, **login(server))
        with client_of(server) as client:
            for _, job in results.ledger.jobs():
                client.update_job(job.id, state="completed")
        dataset.load_annotations("home")
        sample = dataset.first()
        manual = [
            n for n in range(1, 14) if {x.source for x in sample.frames[n].objects_propagated.detections} == {"manual"}
        ]
        assert manual == expected


def test_a_view_with_match_frames_touches_no_other_frame(server: LocalCVAT, video: Path) -> None:
    dataset = video_dataset(video)
    sample = dataset.first()
    for number in range(1, FRAMES + 1):
        sample.frames[number] = fo.Frame(good=number not in (3, 4))
    sample.save()
    view = dataset.match_frames(F("good"))
    results = view.annotate("good", **{**OPTIONS, "exemplars": "every:5"}, **login(server))
    (task,) = results.ledger.tasks()
    assert task.file_names == ["frame_000001.jpg", "frame_000008.jpg", "frame_000013.jpg"]
    annotate_by_script(server, results, first_number=1)
    dataset.load_annotations("good")
    frames = dataset.first().frames
    assert [n for n in range(1, 14) if frames[n].get_field("objects_propagated") is None] == [3, 4]
    assert sum(frames[n].objects is not None for n in range(1, 14)) == 3


def test_two_videos_are_two_tasks_and_load_one_by_one(server: LocalCVAT, video: Path, tmp_path: Path) -> None:
    dataset = video_dataset(video, write_video(tmp_path / "second.mp4", 7))
    results = dataset.annotate("two", **OPTIONS, **login(server))
    first, second = results.ledger.tasks()
    assert "street" in first.name
    assert "second" in second.name
    with client_of(server) as client:
        for job in first.jobs:
            client.update_job(job.id, state="completed")
    annotate_by_script(server, results, first_number=1, jobs=[second.jobs[0].id])
    dataset.load_annotations("two")
    counts = dataset.values("frames.objects_propagated.detections.index")
    assert all(entry == [] or entry is None for entry in counts[0] or [])
    assert len(counts[1]) == 7
    assert {tuple(sorted(entry)) for entry in counts[1]} == {(1, 2)}
    # Each has a segment of the same name.
    assert len(results.propagate(again=True)) == 2


def test_segments_of_a_video_come_from_temporal_detections(server: LocalCVAT, video: Path) -> None:
    dataset = video_dataset(video)
    sample = dataset.first()
    sample["shots"] = fo.TemporalDetections(
        detections=[
            fo.TemporalDetection(label="a", support=[1, 5]),
            fo.TemporalDetection(label="b", support=[6, 13]),
        ]
    )
    sample.save()
    options = {**OPTIONS, "segments_field": "shots", "exemplars": "first"}
    results = dataset.annotate("shots", **options, **login(server))
    (task,) = results.ledger.tasks()
    assert [job.positions for job in task.jobs] == [[0], [5]]
    annotate_by_script(server, results, first_number=1)
    dataset.load_annotations("shots")
    exemplars = dataset.values("frames.objects_propagated.detections.exemplar_frames")[0]
    assert [{tuple(e) for e in entry} for entry in exemplars] == [{(1,)}] * 5 + [{(6,)}] * 8
