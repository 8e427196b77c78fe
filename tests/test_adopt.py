"""Runs over tasks that were in CVAT before, end to end: found, matched, loaded, filled, and never deleted."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fiftyone as fo
import pytest
from fixtures_adopt import INDEX, POSE, annotate, image_task, labels, scene, video_task
from fixtures_local_cvat import Api
from fixtures_roundtrip import (
    client_of,
    image_dataset,
    login,
    scene_image,
    scene_masks,
    video_dataset,
    write_images,
    write_video,
)

import labelprop_cvat  # noqa: F401 - registers the backend
from labelprop_cvat import workflow
from labelprop_cvat.backend.cvat import LabelSpec, UploadFile
from labelprop_cvat.backend.local_cvat import LocalCVAT
from labelprop_cvat.backend.local_cvat.annotator import TruthObject
from labelprop_cvat.cli import main
from labelprop_cvat.errors import ConfigurationError, DataError
from labelprop_cvat.labels import detection_to_box, detection_to_mask
from labelprop_cvat.propagation.types import ObjectMask

FRAMES = 13
PLAIN = {"engine": "interpolate", "segmentation": "none"}
BOXES = {**PLAIN, "label_field": "objects", "label_type": "detections", "sort_field": "number"}


@pytest.fixture(scope="module")
def server() -> Iterator[LocalCVAT]:
    with LocalCVAT(anonymous_rate=None) as running:
        yield running


@pytest.fixture(scope="module")
def paths(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return write_images(tmp_path_factory.mktemp("images"), FRAMES)


@pytest.fixture(scope="module")
def footage(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_video(tmp_path_factory.mktemp("video") / "street.mp4", FRAMES)


def box_of(frame: int, object_id: int) -> tuple[float, float, float, float]:
    mask = ObjectMask.from_full(scene_masks(frame)[object_id])
    assert mask is not None
    return mask.x, mask.y, mask.x + mask.crop.shape[1], mask.y + mask.crop.shape[0]


def on_images(dataset: fo.Dataset, field: str = "objects") -> dict[int, list[fo.Label]]:
    found = {}
    for sample in dataset:
        if dataset.has_sample_field(field) and sample[field] is not None:
            entries = sample[field][sample[field]._LABEL_LIST_FIELD]
            if entries:
                found[sample.number] = entries
    return found


def on_frames(sample: fo.Sample, field: str = "objects") -> dict[int, list[fo.Label]]:
    found = {}
    for number, frame in sample.frames.items():
        if frame.has_field(field) and frame[field] is not None and frame[field][frame[field]._LABEL_LIST_FIELD]:
            found[number] = frame[field][frame[field]._LABEL_LIST_FIELD]
    return found


def dump(dataset: fo.Dataset) -> list[dict[str, Any]]:
    documents = [sample.to_dict(include_private=True) for sample in dataset]
    for document in documents:
        document.pop("last_modified_at", None)
    return documents


def still_there(server: LocalCVAT, *task_ids: int) -> bool:
    with client_of(server) as client:
        return all(client.task(task_id).size for task_id in task_ids)


# Images


def test_boxes_come_home_as_the_objects_of_their_tracks(server: LocalCVAT, paths: list[Path]) -> None:
    task_id = image_task(server, paths[::6])
    annotate(server, task_id)
    dataset = image_dataset(paths)
    before = dump(dataset)
    results = workflow.adopt(dataset, "old", task_ids=task_id, **BOXES, **login(server))
    assert dump(dataset) == before
    (row,) = results.get_status()
    assert (row["task_id"], row["frames"], row["collected"]) == (task_id, 3, False)

    dataset.load_annotations("old")
    found = on_images(dataset)
    assert sorted(found) == [0, 6, 12]
    indices = {(label.label, label.index) for entries in found.values() for label in entries}
    assert len(indices) == 2
    for number, entries in found.items():
        for label in entries:
            object_id = {"person": 1, "car": 2}[label.label]
            assert detection_to_box(label, (72, 128)) == pytest.approx(box_of(number, object_id), abs=1e-3)
            assert label.keyframe is True
    propagated = on_images(dataset, "objects_propagated")
    assert sorted(propagated) == list(range(FRAMES))
    assert all({label.index for label in entries} == {i for _, i in indices} for entries in propagated.values())


def test_loading_again_changes_nothing_until_somebody_works_on(server: LocalCVAT, paths: list[Path]) -> None:
    task_id = image_task(server, paths[::6])
    annotate(server, task_id)
    dataset = image_dataset(paths)
    workflow.adopt(dataset, "again", task_ids=task_id, **BOXES, **login(server))
    dataset.load_annotations("again")
    before = dump(dataset)
    dataset.load_annotations("again", **login(server))
    assert dump(dataset) == before
    ids = {label.id for entries in on_images(dataset).values() for label in entries}

    with client_of(server) as client:
        there = client.annotations(task_id=task_id)
        there["tracks"][0]["shapes"][1]["points"] = [1.0, 2.0, 30.0, 40.0]
        (job,) = client.jobs(task_id)
        client.update_annotations({"tracks": there["tracks"][:1]}, job_id=job.id)
    dataset.load_annotations("again")
    after = on_images(dataset)
    assert {label.id for entries in after.values() for label in entries} == ids
    assert [1.0, 2.0, 30.0, 40.0] in [[round(v, 3) for v in detection_to_box(label, (72, 128))] for label in after[6]]


def test_the_tasks_outlive_the_run(server: LocalCVAT, paths: list[Path], caplog: pytest.LogCaptureFixture) -> None:
    task_id = image_task(server, paths[::6])
    annotate(server, task_id)
    dataset = image_dataset(paths)
    workflow.adopt(dataset, "kept", task_ids=task_id, **BOXES, **login(server))
    dataset.load_annotations("kept")
    results = dataset.load_annotation_results("kept", cache=False, **login(server))
    results.cleanup(force=True)
    assert still_there(server, task_id)
    assert results.get_status() == []
    assert on_images(dataset)
    workflow.adopt(dataset, "dropped", task_ids=task_id, **BOXES, **login(server))
    with caplog.at_level(logging.WARNING):
        dataset.delete_annotation_run("dropped")
    assert "Delete them" not in caplog.text
    assert still_there(server, task_id)


def test_the_tasks_outlive_their_samples_too(server: LocalCVAT, paths: list[Path]) -> None:
    tasks = [image_task(server, some) for some in (paths[:3], paths[3:5])]
    for task_id in tasks:
        annotate(server, task_id)
    dataset = image_dataset(paths[:5])
    dataset.set_values("clip", ["a"] * 3 + ["b"] * 2)
    view = dataset.group_by("clip", order_by="number")
    options = {**PLAIN, "label_field": "objects", "label_type": "detections"}
    workflow.adopt(view, "bereft", task_ids=tasks, **options, **login(server))
    dataset.delete_samples(dataset[3:])
    dataset.load_annotations("bereft")
    assert sorted(on_images(dataset)) == [0, 1, 2]
    dataset.load_annotation_results("bereft").cleanup(force=True)
    assert still_there(server, *tasks)


def test_masks_with_an_index_are_one_object_each(server: LocalCVAT, paths: list[Path]) -> None:
    task_id = image_task(server, paths[::6], labels(INDEX, POSE))
    annotate(server, task_id, "mask")
    dataset = image_dataset(paths)
    options = {**BOXES, "label_type": "instances"}
    workflow.adopt(dataset, "masks", task_ids=[task_id], **options, **login(server))
    dataset.load_annotations("masks")
    for number, entries in on_images(dataset).items():
        assert {label.index: label.label for label in entries} == {1: "person", 2: "car"}
        for label in entries:
            mask = detection_to_mask(label, (72, 128))
            assert mask is not None
            assert (mask.to_full((72, 128)) == scene_masks(number)[label.index]).all()
            assert label.pose == "up"
    assert all(len(entries) == 2 for entries in on_images(dataset, "objects_propagated").values())


def test_another_attribute_can_hold_the_number(server: LocalCVAT, paths: list[Path]) -> None:
    task_id = image_task(server, paths[::6], labels({**INDEX, "name": "track_no"}))
    with client_of(server) as client:
        from labelprop_cvat.backend.local_cvat.annotator import ScriptedAnnotator

        ScriptedAnnotator(client, scene()).annotate_task(task_id, index_attribute="track_no")
    dataset = image_dataset(paths)
    options = {**BOXES, "label_type": "instances", "index_attribute": "track_no"}
    workflow.adopt(dataset, "numbered", task_ids=task_id, **options, **login(server))
    dataset.load_annotations("numbered")
    assert {label.index for entries in on_images(dataset).values() for label in entries} == {1, 2}


def test_shapes_without_an_index_are_objects_of_their_own(
    server: LocalCVAT, paths: list[Path], caplog: pytest.LogCaptureFixture
) -> None:
    task_id = image_task(server, paths[::6])
    annotate(server, task_id, "mask")
    dataset = image_dataset(paths)
    options = {**BOXES, "label_type": "instances"}
    with caplog.at_level(logging.WARNING):
        workflow.adopt(dataset, "single", task_ids=task_id, **options, **login(server))
    assert "no attribute 'index'" in caplog.text
    dataset.load_annotations("single")
    indices = [label.index for entries in on_images(dataset).values() for label in entries]
    assert sorted(indices) == [1, 2, 3, 4, 5, 6]


def test_kinds_that_were_drawn_make_the_fields(server: LocalCVAT, paths: list[Path]) -> None:
    task_id = image_task(server, paths[:2])
    annotate(server, task_id, "rectangle")
    annotate(server, task_id, "polygon")
    with client_of(server) as client:
        (job,) = client.jobs(task_id)
        person = client.labels(task_id)[0].id
        shapes = [{"type": "points", "frame": 1, "label_id": person, "points": [1.0, 2.0, 3.0, 4.0]}]
        tags = [{"frame": 0, "label_id": person}]
        client.create_annotations({"shapes": shapes, "tags": tags}, job_id=job.id)
    dataset = image_dataset(paths[:2])
    outputs = {"detections": "boxes_everywhere", "polygons": "polygons_everywhere"}
    options = {**PLAIN, "sort_field": "number", "output_field": outputs}
    results = workflow.adopt(dataset, "all", task_ids=task_id, **options, **login(server))
    assert {name: info["type"] for name, info in results.config.label_schema.items()} == {
        name: name for name in ("polygons", "keypoints", "classifications", "detections")
    }
    dataset.load_annotations("all")
    assert {number: len(entries) for number, entries in on_images(dataset, "detections").items()} == {0: 2, 1: 2}
    assert {number: len(entries) for number, entries in on_images(dataset, "polygons").items()} == {0: 2, 1: 2}
    assert list(on_images(dataset, "keypoints")) == [1]
    assert [label.label for label in on_images(dataset, "classifications")[0]] == ["person"]


def test_an_existing_field_keeps_its_labels_and_knows_them_by_their_index(server: LocalCVAT, paths: list[Path]) -> None:
    task_id = image_task(server, paths[::6], labels(INDEX))
    annotate(server, task_id)
    dataset = image_dataset(
        paths,
        objects=lambda n: fo.Detections(
            detections=[
                fo.Detection(label="person", bounding_box=[0.1, 0.1, 0.2, 0.2], index=1, confidence=0.5),
                fo.Detection(label="car", bounding_box=[0.5, 0.5, 0.2, 0.2]),
            ]
        ),
    )
    before = {n: [label.id for label in entries] for n, entries in on_images(dataset).items()}
    workflow.adopt(dataset, "existing", task_ids=task_id, **BOXES, **login(server))
    dataset.load_annotations("existing")
    after = on_images(dataset)
    for number in range(FRAMES):
        known = {label.id: label for label in after[number]}
        assert set(before[number]) <= set(known)
        person, car = (known[i] for i in before[number])
        assert car.bounding_box == [0.5, 0.5, 0.2, 0.2]
        if number % 6:
            assert (len(known), person.bounding_box) == (2, [0.1, 0.1, 0.2, 0.2])
        else:
            assert len(known) == 3
            assert detection_to_box(person, (72, 128)) == pytest.approx(box_of(number, 1), abs=1e-3)
            assert person.confidence == 0.5


def test_deleted_frames_and_ground_truth_stay_out(server: LocalCVAT, paths: list[Path]) -> None:
    task_id = image_task(server, paths[::6])
    annotate(server, task_id)
    api = Api(server)
    body = {"type": "ground_truth", "task_id": task_id, "frame_selection_method": "manual", "frames": [0]}
    truth = api.call("POST", "jobs", body).json()["id"]
    person = api.get(f"labels?task_id={task_id}")["results"][0]["id"]
    shape = {"type": "rectangle", "frame": 0, "label_id": person, "points": [0, 0, 5, 5]}
    api.call("PATCH", f"jobs/{truth}/annotations?action=create", {"shapes": [shape]})
    api.call("PATCH", f"tasks/{task_id}/data/meta", {"deleted_frames": [2]})
    dataset = image_dataset(paths)
    results = workflow.adopt(dataset, "clean", task_ids=task_id, **BOXES, **login(server))
    assert [row["frames"] for row in results.get_status()] == [3]
    dataset.load_annotations("clean")
    assert {number: len(entries) for number, entries in on_images(dataset).items()} == {0: 2, 6: 2}


def test_job_states_choose_what_is_loaded(server: LocalCVAT, paths: list[Path]) -> None:
    task_id = image_task(server, paths[::4], segment_size=2)
    annotate(server, task_id)
    with client_of(server) as client:
        first, _ = client.jobs(task_id)
        client.update_job(first.id, state="completed")
    dataset = image_dataset(paths)
    options = {**BOXES, "job_states": "completed"}
    workflow.adopt(dataset, "done", task_ids=task_id, **options, **login(server))
    dataset.load_annotations("done")
    assert sorted(on_images(dataset)) == [0, 4]


def test_a_job_that_reaches_over_several_segments_fills_them_all(server: LocalCVAT, paths: list[Path]) -> None:
    task_id = image_task(server, paths)
    annotate(server, task_id, frames=[0, 3, 7, 12])
    with client_of(server) as client:
        there = client.annotations(task_id=task_id)
        (job,) = client.jobs(task_id)
        track = there["tracks"][1]
        track["shapes"][-1]["outside"] = True
        client.update_annotations({"tracks": [track]}, job_id=job.id)
        car = client.labels(task_id)[1].id
        assert track["label_id"] == car
    dataset = image_dataset(paths)
    options = {**BOXES, "segmentation": "fixed:7"}
    results = workflow.adopt(dataset, "segments", task_ids=task_id, **options, **login(server))
    (record,) = results.ledger.sequences.values()
    assert [(segment.start, segment.stop) for segment in record.segments] == [(0, 7), (7, 13)]
    dataset.load_annotations("segments")
    (record,) = dataset.load_annotation_results("segments").ledger.sequences.values()
    first, second = (segment.fills["objects"] for segment in record.segments)
    assert (first.absences, [position for _, position in second.absences]) == ([], [12])
    assert first.signature is not None
    assert second.signature is not None
    propagated = on_images(dataset, "objects_propagated")
    assert sorted(propagated) == list(range(FRAMES))
    assert {label.label for label in propagated[12]} == {"person"}
    assert {label.label for label in propagated[9]} == {"person", "car"}


def test_images_that_differ_in_size_are_pictures_of_their_own(server: LocalCVAT, tmp_path: Path) -> None:
    import cv2

    paths = write_images(tmp_path, 3)
    cv2.imwrite(str(paths[1]), cv2.resize(scene_image(1), (64, 36)))
    task_id = image_task(server, paths)
    boxes = [TruthObject(1, "person", box=(8, 9, 32, 27))]
    annotate(server, task_id, "rectangle", lambda t, n: boxes, tracks=False)
    dataset = image_dataset(paths)
    results = workflow.adopt(
        dataset, "sizes", task_ids=task_id, label_field="objects", label_type="detections", **login(server)
    )
    assert results.config.engine == "none"
    dataset.load_annotations("sizes")
    assert [entries[0].bounding_box for _, entries in sorted(on_images(dataset).items())] == [
        pytest.approx([8 / w, 9 / h, 24 / w, 18 / h]) for w, h in ((128, 72), (64, 36), (128, 72))
    ]
    assert not dataset.has_sample_field("objects_propagated")


def test_a_task_of_several_groups(server: LocalCVAT, tmp_path: Path) -> None:
    first, second = write_images(tmp_path / "a", 5), write_images(tmp_path / "b", 5)
    names = [f"{folder}_{path.name}" for folder, some in (("a", first), ("b", second)) for path in some]
    task_id = image_task(server, [*first, *second], names=names)
    annotate(server, task_id, "rectangle", lambda t, n: scene()(t, n.split("_")[1]), frames=[0, 4, 5, 9], tracks=False)
    dataset = image_dataset([*first, *second])
    dataset.set_values("clip", ["a"] * 5 + ["b"] * 5)
    view = dataset.group_by("clip", order_by="number")
    data_path = dict(zip(names, map(str, [*first, *second]), strict=True))
    options = {**PLAIN, "label_field": "objects", "label_type": "detections", "data_path": data_path}
    results = workflow.adopt(view, "groups", task_ids=task_id, **options, **login(server))
    assert [(task.id, task.sequence) for task in results.ledger.tasks()] == [(task_id, "a"), (task_id, "b")]
    dataset.load_annotations("groups")
    assert sorted(on_images(dataset)) == [0, 4, 5, 9]
    assert len(on_images(dataset, "objects_propagated")) == 10
    before = dump(dataset)
    dataset.load_annotations("groups")
    assert dump(dataset) == before


# Videos


def test_a_video_task_with_all_frames(server: LocalCVAT, footage: Path) -> None:
    task_id = video_task(server, footage)
    annotate(server, task_id, frames=[0, 6, 12])
    dataset = video_dataset(footage)
    options = {**PLAIN, "label_field": "objects", "label_type": "detections"}
    workflow.adopt(dataset, "video", task_ids=task_id, **options, **login(server))
    dataset.load_annotations("video")
    found = on_frames(dataset.first())
    assert sorted(found) == [1, 7, 13]
    for number, entries in found.items():
        assert len({label.index for label in entries}) == 2
        for label in entries:
            object_id = {"person": 1, "car": 2}[label.label]
            assert detection_to_box(label, (72, 128)) == pytest.approx(box_of(number - 1, object_id), abs=1e-3)
    assert sorted(on_frames(dataset.first(), "objects_propagated")) == list(range(1, FRAMES + 1))


def test_frames_of_a_part_of_a_video_are_its_own(server: LocalCVAT, footage: Path) -> None:
    task_id = video_task(server, footage, start_frame=2, stop_frame=11, frame_filter="step=3")
    annotate(server, task_id, "rectangle", scene(2, step=3))
    dataset = video_dataset(footage)
    options = {**PLAIN, "label_field": "frames.objects", "label_type": "detections"}
    workflow.adopt(dataset, "part", task_ids=task_id, **options, **login(server))
    dataset.load_annotations("part")
    found = on_frames(dataset.first())
    assert sorted(found) == [3, 6, 9, 12]
    for number, entries in found.items():
        for label in entries:
            object_id = {"person": 1, "car": 2}[label.label]
            assert detection_to_box(label, (72, 128)) == pytest.approx(box_of(number - 1, object_id), abs=1e-3)


@pytest.mark.parametrize("loads", [1, 2])
def test_jobs_that_share_frames_hold_the_same_objects_once(server: LocalCVAT, footage: Path, loads: int) -> None:
    task_id = video_task(server, footage, segment_size=6, overlap=2)
    api = Api(server)
    person, car = (label["id"] for label in api.get(f"labels?task_id={task_id}")["results"])
    tracks = [
        {
            "label_id": label_id,
            "frame": 0,
            "shapes": [
                {"type": "rectangle", "frame": frame, "points": list(box_of(frame, object_id))} for frame in (0, 6, 12)
            ],
        }
        for label_id, object_id in ((person, 1), (car, 2))
    ]
    api.call("PUT", f"tasks/{task_id}/annotations", {"version": 0, "tags": [], "shapes": [], "tracks": tracks})
    # The last of them has no frame that the one before has not.
    assert len(api.jobs(task_id)) == 4
    dataset = video_dataset(footage)
    options = {**PLAIN, "label_field": "objects", "label_type": "detections", "job_states": "completed"}
    workflow.adopt(dataset, "shared", task_ids=task_id, **options, **login(server))
    # Also when the jobs are finished one after another.
    jobs = api.jobs(task_id)
    for part in [jobs] if loads == 1 else [jobs[:1], jobs[1:]]:
        for job in part:
            api.call("PATCH", f"jobs/{job['id']}", {"state": "completed"})
        dataset.load_annotations("shared")
    found = on_frames(dataset.first())
    for entries in found.values():
        assert sorted(label.label for label in entries) == ["car", "person"]
    indices = {(label.label, label.index) for entries in found.values() for label in entries}
    assert len(indices) == 2
    instances = {(label.label, str(label.instance.id)) for entries in found.values() for label in entries}
    assert len(instances) == 2


def test_videos_of_a_project(server: LocalCVAT, tmp_path: Path) -> None:
    api = Api(server)
    project_id = api.call("POST", "projects", {"name": "streets", "labels": labels()}).json()["id"]
    videos = [write_video(tmp_path / f"{name}.mp4", 5) for name in ("east", "west", "unseen")]
    tasks = [video_task(server, path, [], project_id=project_id) for path in videos[:2]]
    for task_id in tasks:
        annotate(server, task_id, frames=[0, 4])
    dataset = video_dataset(*videos)
    options = {**PLAIN, "label_field": "objects", "label_type": "detections"}
    results = workflow.adopt(dataset, "project", project_name="streets", **options, **login(server))
    assert sorted(task.id for task in results.ledger.tasks()) == tasks
    dataset.load_annotations("project")
    assert [sorted(on_frames(sample)) for sample in dataset] == [[1, 5], [1, 5], []]
    results.cleanup(force=True)
    assert still_there(server, *tasks)
    assert api.get(f"projects/{project_id}")["name"] == "streets"
    by_id = workflow.adopt(
        dataset, "by_id", project_id=project_id, **{**options, "label_field": "others"}, **login(server)
    )
    assert sorted(task.id for task in by_id.ledger.tasks()) == tasks


# FiftyOne's own backend


def test_tasks_of_the_stock_backend_give_their_labels_back(server: LocalCVAT, paths: list[Path]) -> None:
    def boxes(number: int) -> fo.Detections:
        return fo.Detections(
            detections=[fo.Detection(label="person", bounding_box=[0.25, 0.25, 0.25, 0.25], confidence=number / 20)]
        )

    dataset = image_dataset(paths[:3], objects=boxes)
    ids = dataset.values("objects.detections.id")
    stock = dataset.annotate("stock", backend="cvat", label_field="objects", classes=["person", "car"], **login(server))
    (task_id,) = stock.task_ids
    with client_of(server) as client:
        (job,) = client.jobs(task_id)
        shape = client.annotations(job_id=job.id)["shapes"][1]
        client.update_annotations({"shapes": [{**shape, "points": [8.0, 9.0, 64.0, 36.0]}]}, job_id=job.id)
        car = next(label for label in client.labels(task_id) if label.name == "car")
        new = {"type": "rectangle", "frame": 2, "label_id": car.id, "points": [1.0, 2.0, 20.0, 30.0]}
        client.create_annotations({"shapes": [new]}, job_id=job.id)
    options = {**PLAIN, "label_field": "objects", "engine": "none"}
    results = workflow.adopt(dataset, "switched", task_ids=task_id, **options, **login(server))
    assert "label_id" not in str(results.config.label_schema)
    dataset.load_annotations("switched")
    after = dataset.values("objects.detections.id")
    assert [entries[0] for entries in after] == [entries[0] for entries in ids]
    assert [len(entries) for entries in after] == [1, 1, 2]
    first, second, third = (sample.objects.detections for sample in dataset)
    assert second[0].bounding_box == pytest.approx([8 / 128, 9 / 72, 56 / 128, 27 / 72])
    assert [entries[0].confidence for entries in (first, second, third)] == [0.0, 0.05, 0.1]
    assert third[1].label == "car"
    stock.cleanup()


# Faults and refusals


def test_a_key_that_is_taken_is_refused_and_one_that_was_cut_off_is_not(
    server: LocalCVAT, paths: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    from labelprop_cvat.backend.results import LabelPropResults

    task_id = image_task(server, paths[:2])
    annotate(server, task_id)
    dataset = image_dataset(paths[:2])

    def killed(self: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(LabelPropResults, "save", killed)
        with pytest.raises(KeyboardInterrupt):
            workflow.adopt(dataset, "cut", task_ids=task_id, **BOXES, **login(server))
    workflow.adopt(dataset, "cut", task_ids=task_id, **BOXES, **login(server))
    with pytest.raises(ConfigurationError, match="'cut' already exists"):
        workflow.adopt(dataset, "cut", task_ids=task_id, **BOXES, **login(server))
    with pytest.raises(ConfigurationError, match="valid variable name"):
        workflow.adopt(dataset, "not a key", task_ids=task_id, **BOXES, **login(server))


def test_what_cannot_be_adopted_is_a_sentence_and_leaves_no_run(
    server: LocalCVAT, paths: list[Path], footage: Path
) -> None:
    task_id = image_task(server, paths[:2])
    other = image_task(server, paths[:2], names=["x.png", "y.png"])
    film = video_task(server, footage)
    empty = Api(server).make_task()
    dataset = image_dataset(paths)

    def refused(kind: type[Exception], message: str, **asked: Any) -> None:
        with pytest.raises(kind, match=message):
            workflow.adopt(dataset, "no", **{**PLAIN, **asked}, **login(server))
        assert dataset.list_annotation_runs() == []

    one = {"task_ids": task_id, "label_field": "objects", "label_type": "detections"}
    refused(ConfigurationError, "has no task 999999", task_ids=999_999)
    refused(ConfigurationError, "one of task_ids, project_id and project_name, got 0")
    refused(ConfigurationError, "got 2", task_ids=task_id, project_id=1)
    refused(ConfigurationError, "no project 'nothing'", project_name="nothing")
    refused(DataError, "no task that this login can see", project_id=999_999)
    refused(DataError, "has no frames", task_ids=empty)
    refused(DataError, "runs of their own", task_ids=[task_id, film])
    refused(DataError, "CVAT calls the first 'x.png'", **{**one, "task_ids": other})
    refused(ConfigurationError, "Nothing is drawn", task_ids=task_id)
    refused(ConfigurationError, "label_field or label_schema", **one, label_schema={"a": {}})
    refused(ConfigurationError, "needs the label_field", task_ids=task_id, label_type="detections")
    refused(ConfigurationError, "got 'boxes'", **{**one, "label_type": "boxes"})
    refused(ConfigurationError, "a field of video frames", **{**one, "label_field": "frames.objects"})
    refused(ConfigurationError, "no parameter 'colour'", **one, colour="red")
    refused(ConfigurationError, "data_path", **one, download_media=True)


def test_names_that_several_samples_have_are_refused(server: LocalCVAT, tmp_path: Path) -> None:
    left, right = write_images(tmp_path / "left", 2), write_images(tmp_path / "right", 2)
    task_id = image_task(server, left)
    annotate(server, task_id)
    dataset = image_dataset([*left, *right])
    options = {**BOXES, "task_ids": task_id, **login(server)}
    with pytest.raises(DataError, match=r"2 samples have a file called '0000.png'.*data_path="):
        workflow.adopt(dataset, "which", **options)
    workflow.adopt(dataset[:2], "view", **options)
    workflow.adopt(
        dataset, "named", **options, data_path=dict(zip(["0000.png", "0001.png"], map(str, right), strict=True))
    )
    dataset.load_annotations("named")
    assert sorted(on_images(dataset)) == [2, 3]


def test_frames_of_another_size_are_left_out(
    server: LocalCVAT, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    import cv2

    here, there = write_images(tmp_path / "here", 2), write_images(tmp_path / "there", 2)
    cv2.imwrite(str(there[1]), cv2.resize(scene_image(1), (256, 144)))
    task_id = image_task(server, there)
    annotate(server, task_id, tracks=False)
    dataset = image_dataset(here)
    with caplog.at_level(logging.WARNING):
        workflow.adopt(dataset, "resized", task_ids=task_id, **BOXES, **login(server))
    assert "0001.png, is 256x144 in CVAT and 128x72 here" in caplog.text
    dataset.load_annotations("resized")
    assert sorted(on_images(dataset)) == [0]


# The command line


def test_the_command_line_adopts_and_loads(
    server: LocalCVAT, paths: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    monkeypatch.setenv("FIFTYONE_CVAT_URL", server.url)
    monkeypatch.setenv("FIFTYONE_CVAT_USERNAME", server.username)
    monkeypatch.setenv("FIFTYONE_CVAT_PASSWORD", str(server.password))
    tasks = [image_task(server, paths[n : n + 2]) for n in (0, 2)]
    for task_id in tasks:
        annotate(server, task_id)
    name = f"adopted_{tasks[0]}_{tmp_path.name}"
    which = [word for task_id in tasks for word in ("--task", str(task_id))]
    where = ["--data-path", str(tmp_path / "media"), "--download-media", "--engine", "none"]
    assert main(["adopt", name, "old", *which, *where, "--label-field", "objects"]) == 1
    assert "There is no dataset" in capsys.readouterr().err
    assert main(["adopt", name, "old", "--task", "999999", *where, "--create"]) == 1
    assert not fo.dataset_exists(name)

    assert main(["adopt", name, "old", *which, *where, "--create", "--label-field", "objects"]) == 0
    said = capsys.readouterr().out
    assert "2 tasks with 2 jobs and 4 frames are in the run 'old' now, for objects" in said
    dataset = fo.load_dataset(name)
    try:
        assert dataset.persistent
        assert main(["load", name, "old"]) == 0
        assert [len(entry.detections) for entry in dataset.values("objects")] == [2, 2, 2, 2]
        capsys.readouterr()
        assert main(["cleanup", name, "old"]) == 0
        assert f"they are in CVAT: {', '.join(map(str, tasks))}." in capsys.readouterr().out
        assert still_there(server, *tasks)
    finally:
        dataset.delete()


def test_pictures_that_nothing_ties_together_are_no_scene(
    server: LocalCVAT, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    dataset = image_dataset(write_images(tmp_path / "pictures", 3))
    paths = [Path(path) for path in dataset.values("filepath")]
    with client_of(server) as client:
        task = client.create_task("plain", [LabelSpec("car")])
        client.upload_images(task.id, [UploadFile(path.name, path) for path in paths], jobs=None)
        label = client.labels(task.id)[0].id
        box = {"type": "rectangle", "points": [1, 1, 9, 9], "label_id": label, "group": 0, "source": "manual"}
        common = {"attributes": [], "occluded": False, "z_order": 0, "rotation": 0}
        client.create_annotations({"shapes": [{**box, **common, "frame": n} for n in range(3)]}, task_id=task.id)
    workflow.adopt(dataset, "plain", task_ids=[task.id], label_field="boxes", label_type="detections", **login(server))
    assert "no sort_field" in caplog.text.lower()
    dataset.load_annotations("plain")
    assert [len(found) for found in dataset.values("boxes.detections")] == [1, 1, 1]
    assert "boxes_propagated" not in dataset.get_field_schema()
