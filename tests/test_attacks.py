"""Attacks on the round trip: data that changes at home while people work, calls that die half way."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fiftyone as fo
import fiftyone.utils.annotations as foua
import pytest
from fixtures_attacks import (
    KINDS,
    TWO,
    annotate,
    change_everything,
    exchange,
    filled,
    label_ids,
    move_all,
    note_all,
    outcome,
    places,
    strip,
    two_fields,
)
from fixtures_label_types import MAKERS, content, finish_jobs, schema_of
from fixtures_roundtrip import image_dataset, login, video_dataset, write_images, write_video

from labelprop_cvat import workflow
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


# The dataset changes while people work


@pytest.mark.parametrize("kind", KINDS)
def test_a_label_that_was_deleted_at_home_stays_deleted_until_somebody_works_on_it(
    server: LocalCVAT, images: list[Path], kind: str
) -> None:
    dataset = image_dataset(images[:2], **{kind: MAKERS[kind]})
    results = annotate(server, dataset, label_schema=schema_of([kind]))
    before = label_ids(dataset, kind)
    dataset.delete_labels(ids=before[0], fields=kind)
    finish_jobs(server, results)
    for _ in range(2):
        dataset.load_annotations("run")
        assert label_ids(dataset, kind) == [[], before[1]]
    finish_jobs(server, results, move_all)
    for _ in range(2):
        dataset.load_annotations("run")
        assert [len(ids) for ids in label_ids(dataset, kind)] == [len(ids) for ids in before]


@pytest.mark.parametrize("how", ["deleted", "cleared"])
def test_a_field_that_is_gone_gets_back_what_people_changed(server: LocalCVAT, images: list[Path], how: str) -> None:
    dataset = image_dataset(images[:2], **MAKERS)
    results = annotate(server, dataset, label_schema=schema_of(KINDS))
    before = {kind: label_ids(dataset, kind) for kind in KINDS}
    for kind in KINDS:
        (dataset.delete_sample_field if how == "deleted" else dataset.clear_sample_field)(kind)
    finish_jobs(server, results)
    dataset.load_annotations("run")
    assert all(not any(label_ids(dataset, kind)) for kind in KINDS)
    finish_jobs(server, results, move_all)
    for _ in range(2):
        dataset.load_annotations("run")
        for kind in KINDS:
            assert [len(ids) for ids in label_ids(dataset, kind)] == [len(ids) for ids in before[kind]], kind


def test_a_field_of_another_type_is_refused_before_anything_changes(server: LocalCVAT, images: list[Path]) -> None:
    dataset = image_dataset(images[:2], polygons=MAKERS["polygons"], detections=MAKERS["detections"])
    results = annotate(server, dataset, label_schema=schema_of(["polygons", "detections"]))
    finish_jobs(server, results, move_all)
    dataset.delete_sample_field("detections")
    dataset.set_values("detections", [MAKERS["polylines"](n) for n in range(2)])
    before = content(dataset, "polygons", "detections")
    with pytest.raises(LabelPropError, match="detections"):
        dataset.load_annotations("run")
    assert content(dataset, "polygons", "detections") == before
    dataset.rename_sample_field("detections", "elsewhere")
    dataset.load_annotations("run")
    assert [len(ids) for ids in label_ids(dataset, "detections")] == [2, 2]


def test_samples_deleted_while_people_work(server: LocalCVAT, images: list[Path]) -> None:
    dataset = image_dataset(images, **MAKERS)
    results = annotate(server, dataset, label_schema=schema_of(KINDS))
    dataset.delete_samples([dataset.first().id, dataset.last().id])
    before = {kind: label_ids(dataset, kind) for kind in KINDS}
    finish_jobs(server, results, move_all)
    for _ in range(2):
        dataset.load_annotations("run")
        for kind in KINDS:
            assert label_ids(dataset, kind) == before[kind]
    assert {label.note for label in dataset.first().detections.detections} == {"moved"}


def test_edits_at_home_and_in_cvat_both_stay(server: LocalCVAT, images: list[Path]) -> None:
    kinds = ["classification", "detections", "instances", "polygons", "polylines", "keypoints", "classifications"]
    dataset = image_dataset(images[:1], **{kind: MAKERS[kind] for kind in kinds})
    results = annotate(server, dataset, label_schema=schema_of(kinds))
    sample = dataset.first()
    for kind in kinds:
        value = sample[kind]
        for label in value[value._LABEL_LIST_FIELD] if hasattr(value, "_LABEL_LIST_FIELD") else [value]:
            label["mine"] = "kept"
            label["count"] = 5
            label.tags = ["checked"]
    sample.save()
    finish_jobs(server, results, move_all)
    for _ in range(2):
        dataset.load_annotations("run")
        sample = dataset.first()
        for kind in kinds:
            value = sample[kind]
            for label in value[value._LABEL_LIST_FIELD] if hasattr(value, "_LABEL_LIST_FIELD") else [value]:
                assert (label["mine"], label["count"], label.tags) == ("kept", 5, ["checked"]), kind
                assert label["note"] == "moved", kind


def test_places_and_classes_that_changed_at_home_alone_stay(server: LocalCVAT, images: list[Path]) -> None:
    kinds = ["detections", "instances", "polygons", "polylines", "keypoints", "classifications", "classification"]
    dataset = image_dataset(images[:2], **{kind: MAKERS[kind] for kind in kinds})
    results = annotate(server, dataset, label_schema=schema_of(kinds))
    for sample in dataset.iter_samples(autosave=True):
        for kind in kinds:
            value, other = sample[kind], schema_of([kind])[kind]["classes"][1]
            for label in value[value._LABEL_LIST_FIELD] if hasattr(value, "_LABEL_LIST_FIELD") else [value]:
                label.label = other
                if kind in ("detections", "instances"):
                    label.bounding_box[0] += 0.25
                elif kind == "keypoints":
                    label.points[0][0] += 0.25
                elif not kind.startswith("class"):
                    label.points[0][0] = [0.3125, 0.3125]
    mine = places(dataset, kinds)
    finish_jobs(server, results, note_all)
    for _ in range(2):
        dataset.load_annotations("run")
        assert places(dataset, kinds) == mine
        for kind in kinds:
            value = dataset.first()[kind]
            labels = value[value._LABEL_LIST_FIELD] if hasattr(value, "_LABEL_LIST_FIELD") else [value]
            assert {label.note for label in labels} == {"noted"}, kind
    finish_jobs(server, results, move_all)
    dataset.load_annotations("run")
    assert dataset.first().detections.detections[0].bounding_box[0] == pytest.approx(0.1 + 4 / 128)
    assert dataset.first().detections.detections[0].label == "truck"


def test_a_renamed_dataset_and_a_renamed_run(server: LocalCVAT, images: list[Path]) -> None:
    dataset = image_dataset(images[:2], **MAKERS)
    results = annotate(server, dataset, label_schema=schema_of(KINDS))
    before = {kind: label_ids(dataset, kind) for kind in KINDS}
    dataset.name = f"{dataset.name}-renamed"
    dataset.rename_annotation_run("run", "other")
    finish_jobs(server, results, move_all)
    dataset.load_annotations("other")
    assert {kind: label_ids(dataset, kind) for kind in KINDS} == before
    assert {label.note for label in dataset.first().detections.detections} == {"moved"}


def test_a_cloned_dataset_loads_for_itself(server: LocalCVAT, images: list[Path]) -> None:
    dataset = image_dataset(images[:2], **MAKERS)
    results = annotate(server, dataset, label_schema=schema_of(KINDS))
    clone = dataset.clone()
    before = content(dataset, *KINDS)
    finish_jobs(server, results, move_all)
    clone.load_annotations("run", **login(server))
    assert content(dataset, *KINDS) == before
    assert {label.note for label in clone.first().detections.detections} == {"moved"}
    assert [len(ids) for ids in label_ids(clone, "polygons")] == [2, 2]
    dataset.load_annotations("run")
    assert content(dataset, *KINDS) == content(clone, *KINDS)


def test_two_runs_on_one_field(server: LocalCVAT, images: list[Path]) -> None:
    kinds = ["detections", "classifications", "segmentation", "polygon"]
    dataset = image_dataset(images[:2], **{kind: MAKERS[kind] for kind in kinds})
    before = {kind: label_ids(dataset, kind) for kind in kinds}
    one = annotate(server, dataset, "one", label_schema=schema_of(kinds))
    two = annotate(server, dataset, "two", label_schema=schema_of(kinds))

    def double(client: CVATClient, job_id: int) -> None:
        there = client.annotations(job_id=job_id)
        boxes = [strip(shape) for shape in there["shapes"] if shape["type"] == "rectangle"][:1]
        client.create_annotations({"shapes": boxes}, job_id=job_id)

    finish_jobs(server, one, double)
    finish_jobs(server, two, move_all)
    dataset.load_annotations("one")
    dataset.load_annotations("two")
    dataset.load_annotations("one")
    dataset.load_annotations("two")
    for kind in kinds[1:]:
        assert label_ids(dataset, kind) == before[kind]
    assert [len(ids) for ids in label_ids(dataset, "detections")] == [3, 2]
    assert [label.note for label in dataset.first().detections.detections][:2] == ["moved", "moved"]


# Calls that die half way


def test_a_load_that_dies_anywhere_is_made_good_by_the_next(
    server: LocalCVAT, images: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = image_dataset(images[:2], **MAKERS)
    finish_jobs(server, annotate(server, whole, label_schema=schema_of(KINDS)), change_everything)
    whole.load_annotations("run")
    expected = outcome(whole, KINDS)

    dataset = image_dataset(images[:2], **MAKERS)
    finish_jobs(server, annotate(server, dataset, label_schema=schema_of(KINDS)), change_everything)
    merge = foua._merge_labels
    # Before and after each merge, by Ctrl-C and by an error in turn.
    for number in range(2 * len(KINDS)):
        calls = iter(range(1000))
        error = KeyboardInterrupt if number % 4 in (0, 3) else RuntimeError

        def dies(
            *args: Any,
            calls: Iterator[int] = calls,
            number: int = number,
            error: type[BaseException] = error,
            **kwargs: Any,
        ) -> None:
            place = next(calls)
            if place == number // 2:
                if number % 2:
                    merge(*args, **kwargs)
                raise error
            merge(*args, **kwargs)

        with monkeypatch.context() as patch:
            patch.setattr(foua, "_merge_labels", dies)
            with pytest.raises(error):
                dataset.load_annotations("run")
    for _ in range(2):
        dataset.load_annotations("run")
        assert outcome(dataset, KINDS) == expected


# Several fields


@pytest.mark.parametrize("dies_after", [None, 0, 1])
@pytest.mark.parametrize("first", ["boxes", "masks"])
def test_an_object_that_goes_over_to_another_field_is_in_one_only(
    server: LocalCVAT, images: list[Path], monkeypatch: pytest.MonkeyPatch, first: str, dies_after: int | None
) -> None:
    dataset = two_fields(images)
    schema = {name: TWO[name] for name in sorted(TWO, key=lambda name: name != first)}
    results = annotate(server, dataset, label_schema=schema)
    finish_jobs(server, results, exchange)
    merge, calls = foua._merge_labels, iter(range(99))

    def dies(*args: Any, **kwargs: Any) -> None:
        merge(*args, **kwargs)
        if next(calls) == dies_after:
            raise KeyboardInterrupt

    if dies_after is not None:
        with monkeypatch.context() as patch:
            patch.setattr(foua, "_merge_labels", dies)
            with pytest.raises(KeyboardInterrupt):
                dataset.load_annotations("run")
    for _ in range(3):
        dataset.load_annotations("run")
        boxes = [
            [round(label.bounding_box[0], 3) for label in value.detections]
            for value in (dataset.first().boxes, dataset.last().boxes)
        ]
        masks = [
            [round(label.bounding_box[0], 3) for label in value.detections]
            for value in (dataset.first().masks, dataset.last().masks)
        ]
        assert boxes == [[0.5], [0.5]]
        assert masks == [[0.102], [0.156]] or masks == [[0.1], [0.16]]


@pytest.mark.parametrize("dies_at", range(4))
def test_filling_of_two_fields_that_dies_anywhere(
    server: LocalCVAT, images: list[Path], monkeypatch: pytest.MonkeyPatch, dies_at: int
) -> None:
    options = {"engine": "interpolate", "sort_field": "number", "exemplars": "every:3", "label_schema": TWO}
    whole = two_fields(images)
    finish_jobs(server, annotate(server, whole, **options), move_all)
    whole.load_annotations("run")
    dataset = two_fields(images)
    finish_jobs(server, annotate(server, dataset, **options, segment_size=1), move_all)
    fill, calls = workflow.fill_segment, iter(range(99))

    def dies(*args: Any, **kwargs: Any) -> None:
        number = next(calls)
        if dies_at == 2 * number:
            raise KeyboardInterrupt
        fill(*args, **kwargs)
        if dies_at == 2 * number + 1:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(workflow, "fill_segment", dies)
        with pytest.raises(KeyboardInterrupt):
            dataset.load_annotations("run")
    for _ in range(2):
        dataset.load_annotations("run")
        assert filled(dataset) == filled(whole)


def test_fields_of_samples_and_of_frames_with_one_name(server: LocalCVAT, tmp_path: Path) -> None:
    dataset = video_dataset(*(write_video(tmp_path / f"{n}.mp4", 4) for n in range(2)))
    sample = dataset.first()
    sample.frames[2] = fo.Frame()
    sample.save()
    schema = {
        "frames.n": {"type": "scalar"},
        "n": {"type": "scalar"},
        "frames.day": {"type": "classifications", "classes": ["day"]},
        "day": {"type": "classification", "classes": ["day"]},
    }
    results = annotate(server, dataset, label_schema=schema)

    def write(client: CVATClient, job_id: int) -> None:
        for label in client.labels(job_id=job_id):
            values = [{"spec_id": attribute.id, "value": f"{label.name}!"} for attribute in label.attributes]
            tag = {"label_id": label.id, "frame": 2, "group": 0, "source": "manual", "attributes": values}
            client.create_annotations({"tags": [tag]}, job_id=job_id)

    finish_jobs(server, results, write)
    for _ in range(2):
        dataset.load_annotations("run")
        for entry in dataset:
            assert (entry.n, entry.day.label) == ("n_n!", "day")
            frame = entry.frames[3]
            assert (frame.n, len(frame.day.classifications)) == ("n_frames.n!", 1)
            assert all(entry.frames[number].get_field("n") is None for number in entry.frames if number != 3)
