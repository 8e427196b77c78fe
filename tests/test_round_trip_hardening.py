"""What people do between two calls: kill, delete, rename, edit out of order. Nothing is lost, doubled or mixed up."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import cv2
import fiftyone as fo
import gridfs
import numpy as np
import pytest
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
from labelprop_cvat.backend.cvat import CVATClient, mask_to_points
from labelprop_cvat.backend.cvat.errors import CVATRefusal, NotFound
from labelprop_cvat.backend.labelprop import LabelPropBackend
from labelprop_cvat.backend.local_cvat import LocalCVAT
from labelprop_cvat.errors import ConfigurationError, DataError
from labelprop_cvat.labels import detection_to_box, detection_to_mask

SIZE = (72, 128)
FRAMES = 13
KEY = "run"
MASKS: dict[str, Any] = {
    "backend": "labelprop",
    "label_field": "objects",
    "label_type": "instances",
    "classes": ["person", "car"],
    "sort_field": "number",
    "segmentation": "none",
    "exemplars": "every:6",
    "engine": "interpolate",
}
BOXES: dict[str, Any] = {**MASKS, "label_type": "detections"}
KINDS = pytest.mark.parametrize("options", [MASKS, BOXES], ids=["masks", "boxes"])
MOVED = [1.0, 2.0, 30.0, 40.0]


class Killed(BaseException):
    """Stands for a process that dies: no ``except Exception`` sees it."""


@pytest.fixture(scope="module")
def server() -> Iterator[LocalCVAT]:
    with LocalCVAT(anonymous_rate=None) as running:
        yield running


@pytest.fixture(scope="module")
def frames(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return write_images(tmp_path_factory.mktemp("frames"), FRAMES)


class Person:
    """Somebody at CVAT's editor, in one job of a run."""

    def __init__(self, client: CVATClient, task: Any, job: Any) -> None:
        self.client, self.task, self.job = client, task, job

    def objects(self, label: str | None = None) -> list[dict[str, Any]]:
        there = self.client.annotations(job_id=self.job.id)
        wanted = None if label is None else self.task.labels[label].id
        return [o for o in (*there["tracks"], *there["shapes"]) if wanted in (None, o["label_id"])]

    def change(self, *entries: dict[str, Any]) -> None:
        self.client.update_annotations(_body(entries), job_id=self.job.id)

    def delete(self, *entries: dict[str, Any]) -> None:
        self.client.delete_annotations(_body(entries), job_id=self.job.id)

    def draw(self, *entries: dict[str, Any]) -> None:
        self.client.create_annotations(_body(entries), job_id=self.job.id)

    def attribute(self, label: str, name: str, value: Any) -> dict[str, Any]:
        return {"spec_id": self.task.labels[label].attributes[name], "value": str(value)}

    def track(self, label: str, frame: int, points: Sequence[float], index: int = 0) -> dict[str, Any]:
        shape = {"type": "rectangle", "frame": frame, "points": list(points), "outside": False, "occluded": False}
        return {
            "label_id": self.task.labels[label].id,
            "frame": frame,
            "group": 0,
            "source": "manual",
            "attributes": [self.attribute(label, "index", index)],
            "shapes": [{**shape, "attributes": []}],
        }

    def delete_frames(self, *numbers: int) -> None:
        self.client._session.json("PATCH", f"/api/jobs/{self.job.id}/data/meta", json={"deleted_frames": list(numbers)})

    def finish(self) -> None:
        self.client.update_job(self.job.id, state="completed")


def _body(entries: Sequence[dict[str, Any]]) -> dict[str, Any]:
    tracks = [entry for entry in entries if "shapes" in entry]
    return {"tags": [], "shapes": [entry for entry in entries if "shapes" not in entry], "tracks": tracks}


def as_new(entry: dict[str, Any]) -> dict[str, Any]:
    """What CVAT's editor sends to make the same object once more."""
    new = {name: value for name, value in entry.items() if name != "id"}
    if "shapes" in new:
        new["shapes"] = [as_new(shape) for shape in new["shapes"]]
    return new


@contextmanager
def person_in(server: LocalCVAT, results: Any, job: int = 0) -> Iterator[Person]:
    (task,) = results.ledger.tasks()
    with client_of(server) as client:
        yield Person(client, task, task.jobs[job])


def complete(server: LocalCVAT, results: Any) -> None:
    with client_of(server) as client:
        for _, job in results.ledger.jobs():
            client.update_job(job.id, state="completed")


def tasks_on(server: LocalCVAT) -> int:
    with client_of(server) as client:
        return int(client._session.json("GET", "/api/tasks")["count"])


def is_on(server: LocalCVAT, task_id: int) -> bool:
    with client_of(server) as client:
        try:
            client.task(task_id)
        except NotFound:
            return False
    return True


def a_label(label: str, index: int | None, x: float = 0.1, *, mask: bool = False, **values: Any) -> fo.Detection:
    made = fo.Detection(label=label, bounding_box=[x, 0.125, 0.1875, 0.25], **values)
    if index is not None:
        made.index = index
    if mask:
        made.mask = np.ones((18, 24), bool)
    return made


def on_exemplars(*make: Callable[[], fo.Detection]) -> Callable[[int], fo.Detections | None]:
    return lambda number: None if number % 6 else fo.Detections(detections=[one() for one in make])


def by_number(dataset: fo.Dataset, field: str = "objects") -> dict[int, list[fo.Detection]]:
    labels = {sample.number: sample[field] for sample in dataset.sort_by("number")}
    return {number: list(found.detections) for number, found in labels.items() if found is not None}


def indices(dataset: fo.Dataset, field: str = "objects") -> dict[int, list[int]]:
    return {number: sorted(label.index for label in found) for number, found in by_number(dataset, field).items()}


def delete_numbers(dataset: fo.Dataset, *numbers: int) -> None:
    dataset.delete_samples([sample.id for sample in dataset if sample.number in numbers])


def interrupt(monkeypatch: pytest.MonkeyPatch, step: str, call: int, run: Callable[[], Any]) -> None:
    """Runs something that dies before its n-th call of a client's method."""
    original: Callable[..., Any] = getattr(CVATClient, step)
    calls = []

    def dies(self: CVATClient, *args: Any, **kwargs: Any) -> Any:
        calls.append(step)
        if len(calls) == call:
            raise Killed
        return original(self, *args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(CVATClient, step, dies)
        with pytest.raises(Killed):
            run()


# --- work that cleaning up would lose ------------------------------------------------------------------------------


def test_cleaning_up_keeps_a_job_that_is_still_being_worked_on(
    server: LocalCVAT, frames: list[Path], caplog: pytest.LogCaptureFixture
) -> None:
    dataset = image_dataset(frames)
    results = dataset.annotate(KEY, **{**MASKS, "segmentation": "fixed:7"}, **login(server))
    (task,) = results.ledger.tasks()
    annotate_by_script(server, results, jobs=[task.jobs[0].id])
    annotate_by_script(server, results, jobs=[task.jobs[1].id], complete=False)
    dataset.load_annotations(KEY, cleanup=True)
    assert is_on(server, task.server_id)
    assert f"task {task.id}" in caplog.text
    complete(server, results)
    dataset.load_annotations(KEY)
    assert indices(dataset) == {0: [1, 2], 6: [1, 2], 7: [1, 2]}
    dataset.load_annotations(KEY, cleanup=True)
    assert not is_on(server, task.server_id)


def test_cleaning_up_by_force_deletes_unloaded_work(server: LocalCVAT, frames: list[Path]) -> None:
    dataset = image_dataset(frames)
    results = dataset.annotate(KEY, **MASKS, **login(server))
    (task,) = results.ledger.tasks()
    annotate_by_script(server, results)
    results.cleanup()
    assert is_on(server, task.server_id)
    results.cleanup(force=True)
    assert not is_on(server, task.server_id)


@KINDS
def test_cleaning_up_a_run_that_nobody_touched(server: LocalCVAT, frames: list[Path], options: dict[str, Any]) -> None:
    dataset = image_dataset(frames, objects=on_exemplars(lambda: a_label("person", 4, mask=options is MASKS)))
    tasks = tasks_on(server)
    results = dataset.annotate(KEY, **options, **login(server))
    assert tasks_on(server) == tasks + 1
    results.cleanup()
    assert tasks_on(server) == tasks


# --- uploads that were cut off -------------------------------------------------------------------------------------


@pytest.mark.parametrize("gone", [(1,), (6,), (0, 3, 12)], ids=str)
def test_samples_deleted_before_an_upload_goes_on_shift_no_picture(
    server: LocalCVAT, frames: list[Path], monkeypatch: pytest.MonkeyPatch, gone: tuple[int, ...]
) -> None:
    dataset = image_dataset(frames)
    interrupt(monkeypatch, "upload_images", 1, lambda: dataset.annotate(KEY, **MASKS, **login(server)))
    delete_numbers(dataset, *gone)
    results = dataset.annotate(KEY, **MASKS, **login(server))
    kept = [number for number in (0, 6, 12) if number not in gone]
    (task,) = results.ledger.tasks()
    assert task.file_names == [frames[number].name for number in kept]
    with client_of(server) as client:
        for place, number in enumerate(kept):
            sent = cv2.imdecode(np.frombuffer(client.frame(task.server_id, place), np.uint8), cv2.IMREAD_COLOR)
            assert np.array_equal(sent, cv2.imread(str(frames[number])))
    annotate_by_script(server, results)
    dataset.load_annotations(KEY)
    found = by_number(dataset)
    assert list(found) == kept
    for number, labels in found.items():
        for label in labels:
            mask = detection_to_mask(label, SIZE)
            assert mask is not None
            assert np.array_equal(mask.to_full(SIZE), scene_masks(number)[label.index])


def test_propagating_again_after_samples_were_deleted(server: LocalCVAT, frames: list[Path]) -> None:
    dataset = image_dataset(frames)
    results = dataset.annotate(KEY, **MASKS, **login(server))
    annotate_by_script(server, results)
    dataset.load_annotations(KEY)
    delete_numbers(dataset, 1, 2)
    assert len(results.propagate(again=True)) == 1
    assert list(indices(dataset, "objects_propagated").values()) == [[1, 2]] * 11


SAVES = [
    *((number, when) for number in range(1, 7) for when in ("before", "after")),
    (1, "put"),
    (2, "put"),
    (3, "put"),
]


@pytest.mark.parametrize(("number", "when"), SAVES, ids=lambda value: str(value))
def test_an_interrupt_while_the_ledger_is_saved_leaves_no_orphan(
    server: LocalCVAT, frames: list[Path], monkeypatch: pytest.MonkeyPatch, number: int, when: str
) -> None:
    dataset = image_dataset(frames, objects=on_exemplars(lambda: a_label("person", 4, mask=True)))
    tasks = tasks_on(server)
    with monkeypatch.context() as patch:
        interrupt_saves(patch, number, when)
        with pytest.raises(KeyboardInterrupt):
            dataset.annotate(KEY, **MASKS, **login(server))
    # An interrupt at the very end, when everything is in CVAT, leaves a run that is complete.
    with suppress(ValueError):
        dataset.annotate(KEY, **MASKS, **login(server))
    results = dataset.load_annotation_results(KEY, cache=False, **login(server))
    assert results.ledger.uploaded
    assert tasks_on(server) == tasks + 1
    with person_in(server, results) as person:
        assert len(person.objects()) == 3
    results.cleanup()
    assert tasks_on(server) == tasks


def interrupt_saves(patch: pytest.MonkeyPatch, number: int, when: str) -> None:
    """A Ctrl-C around, or in the middle of, the n-th time that results are saved."""
    save = LabelPropBackend.store_results.__func__  # type: ignore[attr-defined]
    put = gridfs.GridFS.put
    calls = []

    def count() -> None:
        calls.append(number)
        if len(calls) == number:
            raise KeyboardInterrupt

    def saves(cls: type, *args: Any, **kwargs: Any) -> None:
        if when == "after":
            save(cls, *args, **kwargs)
        count()
        if when != "after":
            save(cls, *args, **kwargs)

    def puts(self: gridfs.GridFS, *args: Any, **kwargs: Any) -> Any:
        stored = put(self, *args, **kwargs)
        count()
        return stored

    if when == "put":
        patch.setattr(gridfs.GridFS, "put", puts)
    else:
        patch.setattr(LabelPropBackend, "store_results", classmethod(saves))


@pytest.mark.parametrize(("number", "when"), [(1, "before"), (1, "put"), (2, "before"), (2, "put"), (3, "before")])
def test_an_interrupt_in_the_save_of_a_load_never_frees_the_key(
    server: LocalCVAT, frames: list[Path], monkeypatch: pytest.MonkeyPatch, number: int, when: str
) -> None:
    dataset = image_dataset(frames)
    annotate_by_script(server, dataset.annotate(KEY, **MASKS, **login(server)))
    tasks = tasks_on(server)
    with monkeypatch.context() as patch:
        interrupt_saves(patch, number, when)
        with pytest.raises(KeyboardInterrupt):
            dataset.load_annotations(KEY)
    with pytest.raises(ValueError, match="already exists"):
        dataset.annotate(KEY, **MASKS, **login(server))
    assert tasks_on(server) == tasks
    dataset.load_annotations(KEY)
    assert indices(dataset) == {0: [1, 2], 6: [1, 2], 12: [1, 2]}
    assert len(by_number(dataset, "objects_propagated")) == FRAMES


def test_edits_made_before_an_upload_goes_on_arrive(
    server: LocalCVAT, frames: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    make = on_exemplars(lambda: a_label("person", 1), lambda: a_label("car", 2, 0.5))
    dataset = image_dataset(frames, objects=make)
    options = {**BOXES, "segmentation": "fixed:6"}
    interrupt(monkeypatch, "create_annotations", 2, lambda: dataset.annotate(KEY, **options, **login(server)))
    results = dataset.load_annotation_results(KEY, cache=False, **login(server))
    with person_in(server, results) as person:
        (moved,), (deleted,) = person.objects("person"), person.objects("car")
        moved["shapes"][0]["points"] = MOVED
        person.change(moved)
        person.delete(deleted)
        person.draw(person.track("car", 0, [80, 10, 100, 30]))
    results = dataset.annotate(KEY, **options, **login(server))
    complete(server, results)
    with person_in(server, results) as person:
        assert len(person.objects()) == 2
    dataset.load_annotations(KEY)
    found = by_number(dataset)
    on_first = {label.label: label for label in found[0]}
    assert detection_to_box(on_first["person"], SIZE) == pytest.approx(MOVED, abs=1e-3)
    assert detection_to_box(on_first["car"], SIZE) == pytest.approx([80, 10, 100, 30], abs=1e-3)
    assert on_first["person"].index == 1
    assert on_first["car"].index not in (0, 1, 2)
    assert [len(labels) for labels in found.values()] == [2, 2, 2]
    assert indices(dataset)[6] == indices(dataset)[12] == [1, 2]


def interrupted_with_work(
    server: LocalCVAT, frames: list[Path], monkeypatch: pytest.MonkeyPatch
) -> tuple[fo.Dataset, Any, dict[str, Any]]:
    """An upload of three jobs that was killed at the second, and a person who drew in the first since."""
    make = on_exemplars(lambda: a_label("person", 1), lambda: a_label("car", 2, 0.5))
    dataset = image_dataset(frames, objects=make)
    options = {**BOXES, "segmentation": "fixed:6"}
    interrupt(monkeypatch, "create_annotations", 2, lambda: dataset.annotate(KEY, **options, **login(server)))
    results = dataset.load_annotation_results(KEY, cache=False, **login(server))
    with person_in(server, results) as person:
        person.draw(person.track("car", 0, [80, 10, 100, 30]))
    return dataset, results, options


def test_an_upload_that_goes_on_and_fails_deletes_nobodys_work(
    server: LocalCVAT, frames: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    dataset, results, options = interrupted_with_work(server, frames, monkeypatch)
    (task,) = results.ledger.tasks()
    server.faults.add("PATCH", r"/annotations", 500, times=50)
    try:
        with pytest.raises(CVATRefusal):
            dataset.annotate(KEY, **options, **login(server))
    finally:
        server.faults.clear()
    assert is_on(server, task.server_id)
    results = dataset.annotate(KEY, **options, **login(server))
    complete(server, results)
    dataset.load_annotations(KEY)
    assert {number: len(found) for number, found in by_number(dataset).items()} == {0: 3, 6: 2, 12: 2}


def test_cleaning_up_an_upload_that_was_cut_off_keeps_what_people_did(
    server: LocalCVAT, frames: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    _, results, _ = interrupted_with_work(server, frames, monkeypatch)
    (task,) = results.ledger.tasks()
    results.cleanup()
    assert is_on(server, task.server_id)
    results.cleanup(force=True)
    assert not is_on(server, task.server_id)


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"classes": ["tree"]}, "classes"),
        ({"label_field": "other"}, "label_schema"),
        ({"exemplars": "first"}, "exemplars"),
        ({"engine": "flow"}, "engine"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_an_interrupted_key_with_other_settings(
    server: LocalCVAT, frames: list[Path], monkeypatch: pytest.MonkeyPatch, changed: dict[str, Any], words: str
) -> None:
    dataset = image_dataset(frames)
    interrupt(monkeypatch, "upload_images", 1, lambda: dataset.annotate(KEY, **MASKS, **login(server)))
    with pytest.raises(ConfigurationError, match=words):
        dataset.annotate(KEY, **{**MASKS, **changed}, **login(server))
    assert dataset.annotate(KEY, **MASKS, **login(server)).ledger.uploaded


def test_an_interrupted_key_on_another_server(
    server: LocalCVAT, frames: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    dataset = image_dataset(frames)
    interrupt(monkeypatch, "upload_images", 1, lambda: dataset.annotate(KEY, **MASKS, **login(server)))
    with LocalCVAT(anonymous_rate=None) as other, pytest.raises(ConfigurationError) as caught:
        dataset.annotate(KEY, **MASKS, **login(other))
    assert server.url in str(caught.value)
    assert dataset.annotate(KEY, **MASKS, **login(server)).ledger.uploaded


# --- loads into several fields -------------------------------------------------------------------------------------


def test_a_load_into_another_field_does_not_swallow_edits(server: LocalCVAT, frames: list[Path]) -> None:
    make = on_exemplars(lambda: a_label("person", 1), lambda: a_label("car", 2, 0.5))
    dataset = image_dataset(frames, objects=make)
    results = dataset.annotate(KEY, **BOXES, **login(server))
    with person_in(server, results) as person:
        (moved,), (deleted,) = person.objects("person"), person.objects("car")
        moved["shapes"][0]["points"] = MOVED
        person.change(moved)
        person.delete(deleted)
        person.finish()
    for field in ("first", "second", "objects"):
        dataset.load_annotations(KEY, dest_field=None if field == "objects" else field)
        assert {number: found for number, found in indices(dataset, field).items() if found} == {
            0: [1],
            6: [1],
            12: [1],
        }
        (label,) = by_number(dataset, field)[0]
        assert detection_to_box(label, SIZE) == pytest.approx(MOVED, abs=1e-3)


def test_what_is_deleted_later_leaves_every_field_that_is_loaded(server: LocalCVAT, frames: list[Path]) -> None:
    dataset = image_dataset(frames)
    results = dataset.annotate(KEY, **MASKS, **login(server))
    annotate_by_script(server, results)
    fields = ("x", "y", "objects")
    for expected in (6, 5):
        for field in fields:
            dataset.load_annotations(KEY, dest_field=None if field == "objects" else field)
        assert [dataset.count(f"{field}.detections") for field in fields] == [expected] * 3
        with person_in(server, results) as person:
            person.delete(person.objects()[0])


# --- numbers of objects --------------------------------------------------------------------------------------------


@KINDS
@pytest.mark.parametrize("together", [True, False], ids=["same frames", "other frames"])
def test_objects_numbered_per_class_stay_two(
    server: LocalCVAT, frames: list[Path], options: dict[str, Any], together: bool
) -> None:
    instances = {"person": fo.Instance(), "car": fo.Instance()}

    def make(number: int) -> fo.Detections | None:
        if number % 6:
            return None
        names = ["person", "car"] if together else ["person"] if number == 0 else ["car"]
        labels = [a_label(name, 1, 0.1 if name == "person" else 0.6, mask=options is MASKS) for name in names]
        for label in labels:
            label.instance = instances[label.label]
        return fo.Detections(detections=labels)

    dataset = image_dataset(frames, objects=make)
    before = [label.to_dict() for label in dataset.values("objects.detections", unwind=True)]
    complete(server, dataset.annotate(KEY, **options, **login(server)))
    dataset.load_annotations(KEY)
    labels = dataset.values("objects.detections", unwind=True)
    assert [label.to_dict() for label in labels] == [{**label, "keyframe": True} for label in before]
    output = dataset.values("objects_propagated.detections", unwind=True)
    tracks = {(label.label, label.index, str(label.instance.id)) for label in output}
    assert {(name, instance) for name, _, instance in tracks} == {(k, str(v.id)) for k, v in instances.items()}
    assert len({index for _, index, _ in tracks}) == len(tracks) == 2


@KINDS
def test_objects_numbered_from_zero_stay_one_each(
    server: LocalCVAT, frames: list[Path], options: dict[str, Any]
) -> None:
    make = on_exemplars(
        lambda: a_label("person", 0, mask=options is MASKS), lambda: a_label("car", 1, 0.5, mask=options is MASKS)
    )
    dataset = image_dataset(frames, objects=make)
    complete(server, dataset.annotate(KEY, **options, **login(server)))
    for _ in range(2):
        dataset.load_annotations(KEY)
        assert indices(dataset) == {0: [0, 1], 6: [0, 1], 12: [0, 1]}
        output = dataset.values("objects_propagated.detections", unwind=True)
        assert {label.label for label in output} == {"person", "car"}
        assert len({(label.label, label.index, str(label.instance.id)) for label in output}) == 2
        assert len(output) == 2 * FRAMES


def test_a_typed_index_never_meets_an_object_whose_index_nobody_saw(server: LocalCVAT, frames: list[Path]) -> None:
    dataset = image_dataset(frames)
    results = dataset.annotate(KEY, **{**BOXES, "segmentation": "fixed:7"}, **login(server))
    with person_in(server, results, job=0) as person:
        person.draw(person.track("car", 0, [1, 10, 21, 30], index=0))
        person.finish()
    dataset.load_annotations(KEY)
    with person_in(server, results, job=1) as person:
        person.draw(person.track("car", person.job.start_frame, [60, 10, 80, 30], index=1))
        person.finish()
    dataset.load_annotations(KEY)
    found = by_number(dataset)
    (first,), (second,) = found[0], found[7]
    assert first.index != second.index
    assert first.instance.id != second.instance.id


def test_a_label_keeps_its_id_when_its_old_number_is_given_away(server: LocalCVAT, frames: list[Path]) -> None:
    dataset = image_dataset(frames, objects=on_exemplars(lambda: a_label("person", 1, mask=True, confidence=0.9)))
    results = dataset.annotate(KEY, **MASKS, **login(server))
    with person_in(server, results) as person:
        shape = next(shape for shape in person.objects() if shape["frame"] == 1)
        shape["attributes"] = [person.attribute("person", "index", 3)]
        person.change(shape)
        person.finish()
        dataset.load_annotations(KEY)
        (before,) = by_number(dataset)[6]
        assert before.index == 3
        points = mask_to_points(60, 5, np.ones((9, 9), bool))
        person.draw({**as_new(shape), "points": points, "attributes": [person.attribute("person", "index", 1)]})
        person.delete(shape)
        person.draw(as_new(shape))
    dataset.load_annotations(KEY)
    after = {label.index: label for label in by_number(dataset)[6]}
    assert after.keys() == {1, 3}
    assert (after[3].id, after[3].confidence) == (before.id, 0.9)
    assert after[1].id != before.id


# --- attributes and masks ------------------------------------------------------------------------------------------


@KINDS
def test_another_class_leaves_index_and_attributes_alone(
    server: LocalCVAT, frames: list[Path], options: dict[str, Any]
) -> None:
    mask = options is MASKS
    dataset = image_dataset(
        frames, objects=on_exemplars(lambda: a_label("person", 4, mask=mask, pose="down", nick="bob"))
    )
    schema = {"pose": {"type": "select", "values": ["up", "down"]}, "nick": {"type": "text", "mutable": False}}
    results = dataset.annotate(KEY, **options, attributes=schema, **login(server))
    with person_in(server, results) as person:
        changed = person.objects()
        names = {spec: name for name, spec in person.task.labels["person"].attributes.items()}
        for entry in changed:
            entry["label_id"] = person.task.labels["car"].id
            if mask:
                # CVAT's editor carries the values of a shape over to a class that has the same attributes ...
                held = [(names[a["spec_id"]], a["value"]) for a in entry["attributes"]]
                entry["attributes"] = [person.attribute("car", name, value) for name, value in held]
                continue
            # ... and resets those of a track.
            entry["attributes"] = [person.attribute("car", "index", 0), person.attribute("car", "nick", "")]
            for shape in entry["shapes"]:
                shape["attributes"] = [person.attribute("car", "pose", "up")]
        person.change(*changed)
        person.finish()
    for _ in range(2):
        dataset.load_annotations(KEY)
        found = {(d.label, d.index, d.pose, d.nick) for d in dataset.values("objects.detections", unwind=True)}
        assert found == {("car", 4, "down", "bob")}
        output = dataset.values("objects_propagated.detections", unwind=True)
        assert {(d.label, d.index, d.pose, d.nick) for d in output} == {("car", 4, "down", "bob")}


@KINDS
def test_moving_an_object_sets_no_attribute_that_was_unset(
    server: LocalCVAT, frames: list[Path], options: dict[str, Any]
) -> None:
    mask = options is MASKS
    dataset = image_dataset(frames, objects=on_exemplars(lambda: a_label("person", 1, mask=mask)))
    for name, kind in (("pose", fo.StringField), ("seen", fo.BooleanField), ("speed", fo.FloatField)):
        dataset.add_sample_field(f"objects.detections.{name}", kind)
    schema = {
        "pose": {"type": "select", "values": ["up", "down"]},
        "seen": {"type": "checkbox"},
        "speed": {"type": "number"},
    }
    results = dataset.annotate(KEY, **options, attributes=schema, **login(server))
    points = mask_to_points(5, 6, np.ones((9, 9), bool)) if mask else MOVED
    with person_in(server, results) as person:
        entry = person.objects()[0]
        (entry if mask else entry["shapes"][0])["points"] = points
        person.change(entry)
        person.finish()
    dataset.load_annotations(KEY)
    (label,) = by_number(dataset)[0]
    assert [label.get_attribute_value(name, None) for name in schema] == [None, None, None]
    expected = (5, 6, 14, 15) if mask else MOVED
    assert detection_to_box(label, SIZE) == pytest.approx(expected, abs=1e-3)


def test_an_immutable_attribute_that_differs_in_fiftyone_stays(server: LocalCVAT, frames: list[Path]) -> None:
    def make(number: int) -> fo.Detections | None:
        return None if number % 6 else fo.Detections(detections=[a_label("person", 4, nick=f"n{number}")])

    dataset = image_dataset(frames, objects=make)
    schema = {"nick": {"type": "text", "mutable": False}}
    results = dataset.annotate(KEY, **BOXES, attributes=schema, **login(server))
    with person_in(server, results) as person:
        (track,) = person.objects()
        track["shapes"][1]["points"] = MOVED
        person.change(track)
        person.finish()
    dataset.load_annotations(KEY)
    found = by_number(dataset)
    assert [found[number][0].nick for number in (0, 6, 12)] == ["n0", "n6", "n12"]
    assert detection_to_box(found[6][0], SIZE) == pytest.approx(MOVED, abs=1e-3)


@pytest.mark.parametrize("mixed", [False, True], ids=["files only", "files and arrays"])
def test_masks_in_files_go_along_and_come_back_as_themselves(
    server: LocalCVAT, frames: list[Path], tmp_path: Path, mixed: bool
) -> None:
    full = np.zeros(SIZE, np.uint8)
    full[:20, :30] = full[60:, 100:] = 255

    def make(number: int) -> fo.Detections | None:
        if number % 6:
            return None
        path = tmp_path / f"{number}.png"
        cv2.imwrite(str(path), full)
        in_file = fo.Detection(label="person", bounding_box=[0, 0, 1, 1], mask_path=str(path), index=3)
        return fo.Detections(detections=[in_file, *([a_label("car", 5, mask=True)] if mixed else [])])

    dataset = image_dataset(frames, objects=make)
    ids = dataset.values("objects.detections.id", unwind=True)
    results = dataset.annotate(KEY, **MASKS, **login(server))
    with person_in(server, results) as person:
        assert len(person.objects("person")) == 3
        assert len(person.objects("car")) == (3 if mixed else 0)
        person.finish()
        dataset.load_annotations(KEY)
        assert dataset.values("objects.detections.id", unwind=True) == ids
        (untouched,) = (label for label in by_number(dataset)[0] if label.index == 3)
        assert untouched.mask_path is not None
        assert untouched.mask is None
        (copied,) = (label for label in by_number(dataset, "objects_propagated")[6] if label.index == 3)
        mask = detection_to_mask(copied, SIZE)
        assert mask is not None
        assert np.array_equal(mask.to_full(SIZE), full > 0)
        shape = next(shape for shape in person.objects("person") if shape["frame"] == 0)
        shape["points"] = mask_to_points(5, 6, np.ones((3, 4), bool))
        person.change(shape)
    dataset.load_annotations(KEY)
    assert dataset.values("objects.detections.id", unwind=True) == ids
    (edited,) = (label for label in by_number(dataset)[0] if label.index == 3)
    assert edited.mask_path is None
    assert edited.mask.shape == (3, 4)
    assert detection_to_box(edited, SIZE) == pytest.approx((5, 6, 9, 9), abs=1e-3)


# --- fields and samples that change --------------------------------------------------------------------------------


def test_a_segment_whose_images_are_all_deleted(server: LocalCVAT, frames: list[Path]) -> None:
    dataset = image_dataset(frames)
    results = dataset.annotate(KEY, **{**MASKS, "segmentation": "fixed:7"}, **login(server))
    annotate_by_script(server, results)
    delete_numbers(dataset, *range(7))
    for _ in range(2):
        dataset.load_annotations(KEY)
        assert indices(dataset) == {7: [1, 2]}
        assert indices(dataset, "objects_propagated") == {number: [1, 2] for number in range(7, FRAMES)}


@pytest.mark.parametrize("name", ["bad.name", "_x", "frames.x", "frames."])
def test_an_output_field_with_an_impossible_name(server: LocalCVAT, frames: list[Path], name: str) -> None:
    dataset = image_dataset(frames)
    tasks = tasks_on(server)
    with pytest.raises(ConfigurationError, match=name):
        dataset.annotate(KEY, **{**MASKS, "output_field": name}, **login(server))
    assert tasks_on(server) == tasks
    assert dataset.list_annotation_runs() == []


@pytest.mark.parametrize("how", ["delete_sample_field", "clear_sample_field"])
def test_an_output_field_that_was_emptied_is_filled_again(server: LocalCVAT, frames: list[Path], how: str) -> None:
    dataset = image_dataset(frames)
    annotate_by_script(server, dataset.annotate(KEY, **MASKS, **login(server)))
    dataset.load_annotations(KEY)
    before = indices(dataset, "objects_propagated")
    getattr(dataset, how)("objects_propagated")
    dataset.load_annotations(KEY)
    assert indices(dataset, "objects_propagated") == before == {number: [1, 2] for number in range(FRAMES)}


@KINDS
def test_an_exemplar_without_the_label_is_no_absence(
    server: LocalCVAT, frames: list[Path], options: dict[str, Any]
) -> None:
    def make(number: int) -> fo.Detections | None:
        labels = [a_label("person", 1, mask=options is MASKS)]
        return fo.Detections(detections=labels) if number in (0, 12) else None

    dataset = image_dataset(frames, objects=make)
    complete(server, dataset.annotate(KEY, **options, missing="unknown", **login(server)))
    dataset.load_annotations(KEY)
    assert indices(dataset, "objects_propagated") == {number: [1] for number in range(FRAMES)}


@KINDS
def test_indices_that_must_not_be_edited(server: LocalCVAT, tmp_path: Path, options: dict[str, Any]) -> None:
    dataset = video_dataset(write_video(tmp_path / "v.mp4", 7))
    sample = dataset.first()
    for number in (1, 7):
        label = a_label("person", 5, mask=options is MASKS)
        sample.frames[number] = fo.Frame(objects=fo.Detections(detections=[label]))
    sample.save()
    options = {**options, "label_field": "frames.objects", "sort_field": None}
    results = dataset.annotate(KEY, **options, allow_index_edits=False, **login(server))
    with person_in(server, results) as person:
        edited = person.objects()
        for entry in edited:
            entry["attributes"] = [person.attribute("person", "index", 9)]
        person.change(*edited)
        person.finish()
    for _ in range(2):
        dataset.load_annotations(KEY)
        assert dataset.values("frames.objects.detections.index", unwind=True) == [5, 5]
        assert dataset.values("frames.objects_propagated.detections.index", unwind=True) == [5] * 7


@KINDS
def test_labels_that_must_not_be_deleted(server: LocalCVAT, frames: list[Path], options: dict[str, Any]) -> None:
    mask = options is MASKS
    make = on_exemplars(lambda: a_label("person", 5, mask=mask), lambda: a_label("car", 6, 0.5, mask=mask))
    dataset = image_dataset(frames, objects=make)
    results = dataset.annotate(KEY, **options, allow_deletions=False, **login(server))
    with person_in(server, results) as person:
        person.delete(*person.objects("car"))
        person.finish()
    for _ in range(2):
        dataset.load_annotations(KEY)
        assert indices(dataset) == {0: [5, 6], 6: [5, 6], 12: [5, 6]}
        assert indices(dataset, "objects_propagated") == {number: [5, 6] for number in range(FRAMES)}


def test_frames_deleted_in_cvat_do_not_steer(server: LocalCVAT, frames: list[Path]) -> None:
    def make(number: int) -> fo.Detections | None:
        x = 0.7 if number == 6 else 0.1
        return None if number % 6 else fo.Detections(detections=[a_label("person", 4, x)])

    dataset = image_dataset(frames, objects=make)
    results = dataset.annotate(KEY, **BOXES, **login(server))
    with person_in(server, results) as person:
        person.delete_frames(1)
        person.finish()
    dataset.load_annotations(KEY)
    output = by_number(dataset, "objects_propagated")
    assert [round(output[number][0].bounding_box[0], 3) for number in range(FRAMES)] == [0.1] * FRAMES
    assert output[6][0].source == "propagated"
    (in_field,) = by_number(dataset)[6]
    assert in_field.bounding_box[0] == pytest.approx(0.7)


def test_labels_filtered_before_grouping_stay_at_home(server: LocalCVAT, frames: list[Path]) -> None:
    make = on_exemplars(lambda: a_label("person", 1), lambda: a_label("tree", 2, 0.5))
    dataset = image_dataset(frames, objects=make, scene=lambda number: "left" if number < 6 else "right")
    view = dataset.filter_labels("objects", fo.ViewField("label") == "person", only_matches=False)
    options = {**BOXES, "sort_field": None}
    results = view.group_by("scene", order_by="number").annotate(KEY, **options, **login(server))
    with client_of(server) as client:
        for task in results.ledger.tasks():
            tracks = client.annotations(task_id=task.server_id)["tracks"]
            assert [track["label_id"] for track in tracks] == [task.labels["person"].id]
    complete(server, results)
    dataset.load_annotations(KEY)
    assert indices(dataset)[0] == [1, 2]
    assert set(dataset.distinct("objects_propagated.detections.label")) == {"person"}


def test_edits_made_in_fiftyone_survive_a_load_that_brings_nothing(server: LocalCVAT, frames: list[Path]) -> None:
    dataset = image_dataset(frames)
    annotate_by_script(server, dataset.annotate(KEY, **MASKS, **login(server)))
    dataset.load_annotations(KEY)
    first, _, last = (dataset.match(fo.ViewField("number") == number).first() for number in (0, 6, 12))
    first.objects.detections = [label for label in first.objects.detections if label.index == 1]
    first.objects.detections[0].index = 9
    first.save()
    last.objects.detections[0].label = "car"
    last.save()
    before = {number: [label.to_dict() for label in found] for number, found in by_number(dataset).items()}
    for _ in range(2):
        dataset.load_annotations(KEY)
        after = {number: [label.to_dict() for label in found] for number, found in by_number(dataset).items()}
        assert after == before


@pytest.mark.parametrize("loaded", [False, True], ids=["first load", "later load"])
def test_a_label_by_hand_in_the_output_field_is_not_overwritten(
    server: LocalCVAT, frames: list[Path], loaded: bool
) -> None:
    dataset = image_dataset(frames)
    results = dataset.annotate(KEY, **MASKS, **login(server))
    annotate_by_script(server, results)
    if loaded:
        dataset.load_annotations(KEY)
        with person_in(server, results) as person:
            person.delete(person.objects("car")[0])
    sample = dataset.match(fo.ViewField("number") == 3).first()
    labels = sample["objects_propagated"].detections if loaded else []
    sample["objects_propagated"] = fo.Detections(detections=[*labels, a_label("car", None, tags=["mine"])])
    sample.save()
    before = [label.id for label in by_number(dataset, "objects_propagated")[3]]
    with pytest.raises(ConfigurationError, match="objects_propagated"):
        dataset.load_annotations(KEY)
    assert dataset.count("objects.detections") == (5 if loaded else 6)
    assert [label.id for label in by_number(dataset, "objects_propagated")[3]] == before
    sample["objects_propagated"].detections = [
        label for label in sample["objects_propagated"].detections if not label.tags
    ]
    sample.save()
    dataset.load_annotations(KEY)
    assert len(by_number(dataset, "objects_propagated")) == FRAMES


def test_loading_after_cleaning_up_makes_nothing_in_cvat(server: LocalCVAT, frames: list[Path]) -> None:
    dataset = image_dataset(frames)
    tasks = tasks_on(server)
    results = dataset.annotate(KEY, **MASKS, project_name="cleaned", **login(server))
    annotate_by_script(server, results)
    dataset.load_annotations(KEY, cleanup=True)
    before = indices(dataset), indices(dataset, "objects_propagated")
    dataset.load_annotations(KEY)
    dataset.load_annotations(KEY, cache=False, **login(server))
    assert tasks_on(server) == tasks
    with client_of(server) as client:
        assert client.find_project("cleaned") is None
    assert (indices(dataset), indices(dataset, "objects_propagated")) == before
    assert len(before[0]) == 3


def test_the_task_of_a_deleted_video_is_cleaned_up(server: LocalCVAT, tmp_path: Path) -> None:
    dataset = video_dataset(write_video(tmp_path / "v.mp4", 7), write_video(tmp_path / "w.mp4", 7))
    results = dataset.annotate(KEY, **{**MASKS, "label_field": "frames.objects", "sort_field": None}, **login(server))
    ids = [task.server_id for task in results.ledger.tasks()]
    annotate_by_script(server, results, first_number=1)
    dataset.delete_samples(dataset.first())
    dataset.load_annotations(KEY)
    assert dataset.count("frames.objects.detections") == 4
    results.cleanup()
    assert [is_on(server, task_id) for task_id in ids] == [False, False]


# --- refusals before anything is sent, and odd values --------------------------------------------------------------


def test_what_cvat_cannot_hold_is_refused_before_anything_is_sent(server: LocalCVAT, frames: list[Path]) -> None:
    def make(number: int) -> fo.Detections | None:
        label = a_label("person", 1)
        label.bounding_box = [float("nan"), 0.1, 0.2, 0.2]
        return fo.Detections(detections=[label]) if number == 12 else None

    dataset = image_dataset(frames, objects=make, scene=lambda number: "left" if number < 6 else "right")
    view = dataset.group_by("scene", order_by="number")
    # Whatever is sent is refused with another error.
    server.faults.add("POST", r"/api/(tasks|projects)", 418, times=50)
    try:
        with pytest.raises(DataError, match="nan"):
            view.annotate(KEY, **{**BOXES, "sort_field": None}, project_name="early", **login(server))
    finally:
        server.faults.clear()
    assert dataset.list_annotation_runs() == []


def test_masks_of_nothing_stay_at_home(server: LocalCVAT, frames: list[Path], caplog: pytest.LogCaptureFixture) -> None:
    def empty() -> fo.Detection:
        return fo.Detection(label="person", index=1, bounding_box=[0.1, 0.1, 0.1, 0.1], mask=np.zeros((5, 5), bool))

    make = on_exemplars(empty, lambda: a_label("person", 2, 1.5, mask=True), lambda: a_label("car", 3, 0.5, mask=True))
    dataset = image_dataset(frames, objects=make)
    before = dataset.values("objects.detections.id")
    results = dataset.annotate(KEY, **MASKS, **login(server))
    assert caplog.text.count("stays at home") == 6
    with person_in(server, results) as person:
        assert len(person.objects()) == len(person.objects("car")) == 3
        person.finish()
    dataset.load_annotations(KEY)
    assert dataset.values("objects.detections.id") == before
    assert {3} <= set(dataset.distinct("objects_propagated.detections.index")) <= {1, 2, 3}


@pytest.mark.parametrize(
    ("values", "options", "error", "words"),
    [
        ({"gid": "team a"}, {"group_id_attr": "gid"}, DataError, "team a"),
        ({"rotation": "left"}, {}, DataError, "left"),
        ({}, {"task_size": 1.5}, ConfigurationError, "task_size"),
        ({}, {"segment_size": 0}, ConfigurationError, "segment_size"),
        ({}, {"timeout": 0}, ConfigurationError, "timeout"),
        ({}, {"frame_start": -1}, ConfigurationError, "frame_start"),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else "",
)
def test_values_that_cvat_cannot_hold(
    server: LocalCVAT,
    frames: list[Path],
    values: dict[str, Any],
    options: dict[str, Any],
    error: type[Exception],
    words: str,
) -> None:
    dataset = image_dataset(frames, objects=on_exemplars(lambda: a_label("person", 1, **values)))
    tasks = tasks_on(server)
    with pytest.raises(error, match=words):
        dataset.annotate(KEY, **BOXES, **options, **login(server))
    assert tasks_on(server) == tasks
    assert dataset.list_annotation_runs() == []


def test_numbers_of_numpy_are_numbers(server: LocalCVAT, frames: list[Path]) -> None:
    dataset = image_dataset(frames)
    options = {"frame_start": np.int64(6), "task_size": np.int64(1), "image_quality": 80}
    results = dataset.annotate(KEY, **MASKS, **options, **login(server))
    assert [job.positions for _, job in results.ledger.jobs()] == [[6], [12]]
    annotate_by_script(server, results)
    dataset.load_annotations(KEY, cache=False, **login(server))
    assert indices(dataset) == {6: [1, 2], 12: [1, 2]}


def test_the_results_of_a_deleted_run_still_clean_up(server: LocalCVAT, frames: list[Path]) -> None:
    dataset = image_dataset(frames)
    tasks = tasks_on(server)
    results = dataset.annotate(KEY, **MASKS, **login(server))
    dataset.delete_annotation_run(KEY)
    results.cleanup()
    assert tasks_on(server) == tasks


NAMES = ['a"b.png', "back\\slash.png", "ü 日本.png", "a#b.png", "50%20[0].png", "A.png", "a.png", "x,y;z'?.png"]


def test_file_names_with_anything_in_them(server: LocalCVAT, frames: list[Path], tmp_path: Path) -> None:
    paths = []
    for name, path in zip(NAMES, frames, strict=False):
        paths.append(tmp_path / name)
        shutil.copy(path, paths[-1])
    dataset = image_dataset(paths)
    results = dataset.annotate(KEY, **{**MASKS, "exemplars": "every:1"}, **login(server))
    with person_in(server, results) as person:
        assert [
            frame.name for frame in person.client.data_meta(task_id=person.task.id).frames
        ] == person.task.file_names
        points = [mask_to_points(5 + number, 6, np.ones((3, 3), bool)) for number in range(len(NAMES))]
        for number, path in enumerate(paths):
            sent = np.frombuffer(person.client.frame(person.task.id, number), np.uint8)
            assert np.array_equal(cv2.imdecode(sent, cv2.IMREAD_COLOR), cv2.imread(str(path)))
        shape = {"type": "mask", "label_id": person.task.labels["person"].id, "group": 0, "source": "manual"}
        shape.update(occluded=False, z_order=0, rotation=0, attributes=[person.attribute("person", "index", 1)])
        person.draw(*({**shape, "frame": number, "points": points[number]} for number in range(len(NAMES))))
        person.finish()
    dataset.load_annotations(KEY)
    found = by_number(dataset)
    corners = [round(detection_to_box(found[number][0], SIZE)[0]) for number in range(len(NAMES))]
    assert corners == [5 + number for number in range(len(NAMES))]


def test_a_name_longer_than_cvat_takes(server: LocalCVAT, frames: list[Path]) -> None:
    dataset = image_dataset(frames)
    results = dataset.annotate(KEY, **MASKS, task_name="t" * 300, task_size=1, **login(server))
    with client_of(server) as client:
        names = [client.task(task.server_id).name for task in results.ledger.tasks()]
    assert [len(name) for name in names] == [256] * 3
    assert len(set(names)) == 3
    annotate_by_script(server, results)
    dataset.load_annotations(KEY)
    assert indices(dataset) == {0: [1, 2], 6: [1, 2], 12: [1, 2]}


@pytest.mark.parametrize(
    ("attribute", "texts", "expected"),
    [
        ({"type": "select", "values": [1, 2, "unknown"]}, ("1", "unknown"), {"1", "unknown"}),
        ({"type": "select", "values": [1, 2.5]}, ("1", "2.5"), {"1", "2.5"}),
        ({"type": "text"}, ("7", "abc"), {"7", "abc"}),
        ({"type": "text"}, ("true", "0.5"), {"true", "0.5"}),
        ({"type": "number"}, ("3", "0.5"), {"3", "0.5"}),
    ],
    ids=["select with a word", "select of numbers", "text", "text that is no text", "number"],
)
def test_an_attribute_whose_values_are_of_several_types(
    server: LocalCVAT, frames: list[Path], attribute: dict[str, Any], texts: tuple[str, str], expected: set[str]
) -> None:
    dataset = image_dataset(frames)
    options = {**BOXES, "segmentation": "fixed:7", "attributes": {"level": attribute}, "coerce_text_attrs": True}
    results = dataset.annotate(KEY, **options, **login(server))
    annotate_by_script(server, results, shape="rectangle", complete=False)
    for job, text in enumerate(texts):
        with person_in(server, results, job) as person:
            names = {record.id: name for name, record in person.task.labels.items()}
            tracks = person.objects()
            for track in tracks:
                for shape in track["shapes"]:
                    shape["attributes"] = [person.attribute(names[track["label_id"]], "level", text)]
            person.change(*tracks)
            person.finish()
        for _ in range(2):
            dataset.load_annotations(KEY)
        for field in ("objects", "objects_propagated"):
            found = by_number(dataset, field)[job * 7]
            assert {str(label.level).lower().removesuffix(".0") for label in found} == {text}
    assert len(by_number(dataset, "objects_propagated")) == FRAMES
    values = dataset.values("objects_propagated.detections.level", unwind=True)
    assert {str(value).lower().removesuffix(".0") for value in values} == expected


@pytest.mark.parametrize("options", [MASKS, BOXES], ids=["masks", "boxes"])
@pytest.mark.parametrize("how", ["moved", "deleted", "renumbered"])
def test_edits_between_the_servers_answer_and_the_ledger(
    server: LocalCVAT, frames: list[Path], monkeypatch: pytest.MonkeyPatch, options: dict[str, Any], how: str
) -> None:
    """Killed when the labels are in CVAT but not in the ledger; then a person edits, then annotate() goes on."""
    mask = options is MASKS
    kind = "shapes" if mask else "tracks"
    make = on_exemplars(lambda: a_label("person", 1, mask=mask), lambda: a_label("car", 2, 0.5, mask=mask))
    dataset = image_dataset(frames, objects=make)
    original = CVATClient.create_annotations

    def dies(self: CVATClient, *args: Any, **kwargs: Any) -> None:
        original(self, *args, **kwargs)
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(CVATClient, "create_annotations", dies)
        with pytest.raises(Killed):
            dataset.annotate(KEY, **options, **login(server))
    (task,) = dataset.load_annotation_results(KEY, cache=False, **login(server)).ledger.tasks()
    with client_of(server) as client:
        (job,) = client.jobs(task.id)
        person = next(label.id for label in client.labels(task.id) if label.name == "person")
        entries = client.annotations(job_id=job.id)[kind]
        entry = next(e for e in entries if e["label_id"] == person and e["frame"] == 0)
        body = {"tags": [], "shapes": [], "tracks": [], kind: [entry]}
        if how == "deleted":
            client.delete_annotations(body, job_id=job.id)
        elif how == "renumbered":
            entry["attributes"][0]["value"] = "7"
            client.update_annotations(body, job_id=job.id)
        else:
            points = mask_to_points(60, 5, np.ones((9, 9), bool)) if mask else MOVED
            (entry if mask else entry["shapes"][0])["points"] = points
            client.update_annotations(body, job_id=job.id)
    results = dataset.annotate(KEY, **options, **login(server))
    complete(server, results)
    dataset.load_annotations(KEY)
    expected = {"moved": [1, 2], "deleted": [2], "renumbered": [2, 7]}[how]
    assert indices(dataset)[0] == expected
