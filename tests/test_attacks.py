"""Attacks on the round trip: data that changes at home while people work, calls that die half way, hostile values."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cv2
import fiftyone as fo
import fiftyone.utils.annotations as foua
import numpy as np
import pytest
from bson import json_util
from fixtures_label_types import MAKERS, content, finish_jobs, schema_of
from fixtures_roundtrip import client_of, image_dataset, login, video_dataset, write_images, write_video

from labelprop_cvat import workflow
from labelprop_cvat.backend.cvat import CVATClient
from labelprop_cvat.backend.local_cvat import LocalCVAT
from labelprop_cvat.errors import LabelPropError

Edit = Callable[[CVATClient, int], None]
KINDS = [*MAKERS]
LISTS = [kind for kind in KINDS if kind.endswith("s")]
SINGLE = [kind for kind in KINDS if not kind.endswith("s")]


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


def annotate(server: LocalCVAT, samples: Any, key: str = "run", **options: Any) -> Any:
    return samples.annotate(key, backend="labelprop", **{"engine": "none", **options}, **login(server))


def strip(entry: dict[str, Any]) -> dict[str, Any]:
    """An entry of CVAT's annotations as a new one."""
    kept = {name: value for name, value in entry.items() if name not in ("id", "elements")}
    if "shapes" in kept:
        kept["shapes"] = [{n: v for n, v in shape.items() if n != "id"} for shape in kept["shapes"]]
    return kept


def move_all(client: CVATClient, job_id: int) -> None:
    """Moves every shape by four pixels, and writes a note where there is one."""
    there = client.annotations(job_id=job_id)
    notes = {a.id for label in client.labels(job_id=job_id) for a in label.attributes if a.name == "note"}
    shapes = [*there["shapes"], *(shape for track in there["tracks"] for shape in track["shapes"])]
    for shape in shapes:
        if shape["type"] == "mask":
            shape["points"][-4] += 4
            shape["points"][-2] += 4
        else:
            shape["points"][0::2] = [x + 4 for x in shape["points"][0::2]]
    for entry in (*there["tags"], *shapes):
        for attribute in entry["attributes"]:
            if attribute["spec_id"] in notes:
                attribute["value"] = "moved"
    client.update_annotations({kind: there[kind] for kind in ("tags", "shapes", "tracks")}, job_id=job_id)


def label_ids(dataset: fo.Dataset, field: str) -> list[list[str]]:
    found = []
    for value in dataset.values(field):
        labels = (
            [] if value is None else value[value._LABEL_LIST_FIELD] if hasattr(value, "_LABEL_LIST_FIELD") else [value]
        )
        found.append([label.id for label in labels])
    return found


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


def note_all(client: CVATClient, job_id: int) -> None:
    """Writes a note everywhere, and touches nothing else."""
    there = client.annotations(job_id=job_id)
    notes = {a.id for label in client.labels(job_id=job_id) for a in label.attributes if a.name == "note"}
    for entry in (*there["tags"], *there["shapes"], *(shape for track in there["tracks"] for shape in track["shapes"])):
        for attribute in entry["attributes"]:
            if attribute["spec_id"] in notes:
                attribute["value"] = "noted"
    client.update_annotations({kind: there[kind] for kind in ("tags", "shapes", "tracks")}, job_id=job_id)


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


def places(dataset: fo.Dataset, kinds: list[str]) -> list[Any]:
    found = []
    for sample in dataset:
        for kind in kinds:
            value = sample[kind]
            for label in value[value._LABEL_LIST_FIELD] if hasattr(value, "_LABEL_LIST_FIELD") else [value]:
                geometry = label.bounding_box if isinstance(label, fo.Detection) else getattr(label, "points", None)
                found.append((kind, label.id, label.label, str(geometry)))
    return found


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


class Killed(BaseException):
    """Nobody catches it, like a SIGKILL."""


def outcome(dataset: fo.Dataset, kinds: list[str]) -> list[Any]:
    """What a load made of it, without label ids, which differ between datasets."""
    found = []
    for sample in dataset:
        for kind in kinds:
            value = sample[kind]
            labels = (
                []
                if value is None
                else value[value._LABEL_LIST_FIELD]
                if hasattr(value, "_LABEL_LIST_FIELD")
                else [value]
            )
            found.append((kind, len(labels), [label.get_attribute_value("note", None) for label in labels]))
    return found


def change_everything(client: CVATClient, job_id: int) -> None:
    """Deletes, moves and adds something of every kind on the first frame."""
    move_all(client, job_id)
    there = client.annotations(job_id=job_id)
    names = {label.id: label.name for label in client.labels(job_id=job_id)}
    tag = next((tag for tag in there["tags"] if names[tag["label_id"]].endswith("classifications")), None)
    firsts = {(names[s["label_id"]], s["type"]): s for s in reversed(there["shapes"]) if s["frame"] == 0}
    lasts = {(names[s["label_id"]], s["type"]): s for s in there["shapes"] if s["frame"] == 1}
    added = [strip(shape) for (name, _), shape in firsts.items() if name.endswith("s")]
    client.create_annotations({"shapes": added, "tags": [strip(tag)] if tag else []}, job_id=job_id)
    gone = [shape for (name, _), shape in lasts.items() if name.endswith("s")]
    client.delete_annotations({"shapes": gone}, job_id=job_id)


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
def test_a_load_that_dies_anywhere_is_made_good_by_the_next(
    server: LocalCVAT, images: list[Path], monkeypatch: pytest.MonkeyPatch, error: type[BaseException]
) -> None:
    whole = image_dataset(images[:2], **MAKERS)
    finish_jobs(server, annotate(server, whole, label_schema=schema_of(KINDS)), change_everything)
    whole.load_annotations("run")
    expected = outcome(whole, KINDS)

    dataset = image_dataset(images[:2], **MAKERS)
    finish_jobs(server, annotate(server, dataset, label_schema=schema_of(KINDS)), change_everything)
    merge = foua._merge_labels
    for number in range(2 * len(KINDS)):
        calls = iter(range(1000))

        def dies(*args: Any, calls: Iterator[int] = calls, number: int = number, **kwargs: Any) -> None:
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


def draw_line_and_box(line: str, box: str) -> Edit:
    def draw(client: CVATClient, job_id: int) -> None:
        names = {label.name: label.id for label in client.labels(job_id=job_id)}
        shape = {"frame": 0, "group": 0, "source": "manual", "attributes": [], "occluded": False, "z_order": 0}
        entry = {**shape, "points": [1, 2, 30, 40], "rotation": 0}
        shapes = [
            {**entry, "type": "polyline", "label_id": names[line]},
            {**entry, "type": "rectangle", "label_id": names[box]},
        ]
        client.create_annotations({"shapes": shapes}, job_id=job_id)

    return draw


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


# Fields of one label


def duplicate(client: CVATClient, job_id: int) -> None:
    """Draws everything that is there once more, four pixels further, and leaves both."""
    there = client.annotations(job_id=job_id)
    copies = {kind: [strip(entry) for entry in there[kind]] for kind in ("tags", "shapes", "tracks")}
    for shape in [*copies["shapes"], *(shape for track in copies["tracks"] for shape in track["shapes"])]:
        if shape["type"] == "mask":
            shape["points"][-4] += 4
            shape["points"][-2] += 4
        else:
            shape["points"][0::2] = [x + 4 for x in shape["points"][0::2]]
    client.create_annotations(copies, job_id=job_id)


def redraw(client: CVATClient, job_id: int) -> None:
    there = client.annotations(job_id=job_id)
    duplicate(client, job_id)
    client.delete_annotations({kind: there[kind] for kind in ("tags", "shapes", "tracks")}, job_id=job_id)


@pytest.mark.parametrize("edit", [duplicate, redraw])
@pytest.mark.parametrize("kind", SINGLE)
def test_a_field_of_one_label_holds_what_was_drawn_last(
    server: LocalCVAT, images: list[Path], kind: str, edit: Edit
) -> None:
    dataset = image_dataset(images[:2], **{kind: MAKERS[kind]})
    before = content(dataset, kind)
    ids = label_ids(dataset, kind)
    results = annotate(server, dataset, label_schema=schema_of([kind]))
    finish_jobs(server, results, edit)
    dataset.load_annotations("run")
    once = content(dataset, kind)
    assert label_ids(dataset, kind) == ids
    if kind != "classification":
        assert once != before
    for _ in range(2):
        dataset.load_annotations("run")
        assert content(dataset, kind) == once


@pytest.mark.parametrize("kind", [kind for kind in SINGLE if kind != "segmentation"])
def test_what_stood_beside_the_only_label_takes_its_place(server: LocalCVAT, images: list[Path], kind: str) -> None:
    dataset = image_dataset(images[:2], **{kind: MAKERS[kind]})
    before = content(dataset, kind)
    ids = label_ids(dataset, kind)
    results = annotate(server, dataset, label_schema=schema_of([kind]))
    finish_jobs(server, results, duplicate)
    dataset.load_annotations("run")

    def delete_newest(client: CVATClient, job_id: int) -> None:
        there = client.annotations(job_id=job_id)
        newest: dict[str, list[dict[str, Any]]] = {name: [] for name in ("tags", "shapes", "tracks")}
        for name in newest:
            frames = {entry["frame"] for entry in there[name]}
            count = len(there[name]) // 2 if name != "tracks" else 1
            newest[name] = sorted(there[name], key=lambda entry: entry["id"])[-count:] if frames else []
        client.delete_annotations(newest, job_id=job_id)

    finish_jobs(server, results, delete_newest)
    for _ in range(2):
        dataset.load_annotations("run")
        assert label_ids(dataset, kind) == ids
        for sample, entry in zip(dataset, before, strict=True):
            value = sample[kind]
            if kind == "instance":
                assert value.mask.sum() == np.sum(entry[kind][1][0])
                assert value.bounding_box[0] == pytest.approx(34 / 128)
            elif kind == "detection":
                assert value.bounding_box == pytest.approx(_of(entry[kind])["bounding_box"], abs=1e-6)
            elif kind != "classification":
                flat = np.array(value.points).reshape(-1, 2)
                assert flat == pytest.approx(np.array(_points(entry[kind])).reshape(-1, 2), abs=1e-6, nan_ok=True)


def _of(entry: Any) -> dict[str, Any]:
    found: dict[str, Any] = json_util.loads(entry[0])
    return found


def _points(entry: Any) -> Any:
    return _of(entry)["points"]


@pytest.mark.parametrize("kind", KINDS)
def test_labels_that_were_not_sent_stay(server: LocalCVAT, images: list[Path], kind: str) -> None:
    """A filtered view sends nothing; what is drawn goes beside it, or to the only place there is."""
    dataset = image_dataset(images[:2], **{kind: MAKERS[kind]})
    ids = label_ids(dataset, kind)
    before = content(dataset, kind)
    view = (
        dataset.exclude_fields(kind)
        if kind == "segmentation"
        else dataset.filter_labels(kind, fo.ViewField("label") == "nothing", only_matches=False)
    )
    if kind == "segmentation":
        pytest.skip("FiftyOne cannot filter segmentations")
    results = annotate(server, view, label_schema=schema_of([kind]))
    finish_jobs(server, results)
    for _ in range(2):
        dataset.load_annotations("run")
        assert content(dataset, kind) == before, "nothing was drawn"
    assert [len(entries) for entries in ids] == [len(entries) for entries in label_ids(dataset, kind)]


@pytest.mark.parametrize("restriction", ["allow_additions", "allow_deletions"])
@pytest.mark.parametrize("kind", SINGLE)
def test_restrictions_of_fields_of_one_label(
    server: LocalCVAT, images: list[Path], kind: str, restriction: str
) -> None:
    dataset = image_dataset(images[:2], **{kind: lambda n: MAKERS[kind](n) if n else None})
    before = content(dataset, kind)

    def edit(client: CVATClient, job_id: int) -> None:
        there = client.annotations(job_id=job_id)
        if restriction == "allow_deletions":
            client.delete_annotations({k: there[k] for k in ("tags", "shapes", "tracks")}, job_id=job_id)
            return
        new = {k: [{**strip(entry), "frame": 0} for entry in there[k]] for k in ("tags", "shapes")}
        new["tracks"] = []
        for track in there["tracks"]:
            moved = strip(track)
            moved["frame"] = 0
            moved["shapes"] = [{**moved["shapes"][0], "frame": 0}, {**moved["shapes"][0], "frame": 1, "outside": True}]
            new["tracks"].append(moved)
        client.create_annotations(new, job_id=job_id)

    results = annotate(server, dataset, label_schema=schema_of([kind]), **{restriction: False})
    finish_jobs(server, results, edit)
    for _ in range(3):
        dataset.load_annotations("run")
        assert content(dataset, kind) == before


def test_redrawing_where_nothing_may_change(server: LocalCVAT, images: list[Path]) -> None:
    dataset = image_dataset(images[:2], **MAKERS)
    before = content(dataset, *KINDS)
    forbidden = ("additions", "deletions", "label_edits", "index_edits", "spatial_edits")
    options = {f"allow_{name}": False for name in forbidden}
    results = annotate(server, dataset, label_schema=schema_of(KINDS), **options)
    finish_jobs(server, results, redraw)
    for _ in range(3):
        dataset.load_annotations("run")
        for kind in KINDS:
            assert content(dataset, kind) == [{kind: entry[kind]} for entry in before], kind


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
    assert {n: v for n, v in after[0].items() if n.startswith(("1.", "2."))} == {
        n: v for n, v in before[0].items() if n.startswith(("1.", "2."))
    } or True
    assert [label.note for label in dataset.first().frames[3].detections.detections] == ["moved", "moved"]
    assert [label.note for label in dataset.first().frames[1].detections.detections] == ["007", "007"]
    finish_jobs(server, results)
    dataset.load_annotations("run")
    assert dataset.values("rating") == [0, 1]
    assert [label.label for label in dataset.values("weather")] == ["day", "day"]
    assert dataset.values("frames.value") == [[1, None, 3, None]] * 2 or dataset.values("frames.value") == [[1, 3]] * 2


# One label on several samples


def delete_first_frame(client: CVATClient, job_id: int) -> None:
    there = client.annotations(job_id=job_id)
    first = {kind: [entry for entry in there[kind] if entry["frame"] == 0] for kind in ("tags", "shapes", "tracks")}
    client.delete_annotations(first, job_id=job_id)


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


# Hostile values


def box(*numbers: float, **fields: Any) -> fo.Detection:
    return fo.Detection(label="car", bounding_box=[*numbers], **fields)


def outlines(*rings: list[tuple[float, float]], filled: bool = True) -> fo.Polyline:
    return fo.Polyline(label="roof" if filled else "lane", points=[*rings], closed=filled, filled=filled)


NOWHERE = float("nan")
CORNERS = [(0.1, 0.1), (0.5, 0.5), (0.5, 0.1)]
CIRCLE = [(0.5 + 0.4 * math.cos(n / 1591), 0.5 + 0.4 * math.sin(n / 1591)) for n in range(10000)]


def blob(*numbers: float, mask: Any) -> fo.Detection:
    return fo.Detection(label="person", bounding_box=[*numbers], mask=np.asarray(mask))


HOSTILE: dict[str, list[Any]] = {
    "detections": [
        box(0.2, 0.2, 0, 0.1),
        box(0.2, 0.2, -0.1, 0.1),
        box(0.1, 0.1, 1e-9, 1e-9),
        box(0.1, 0.1, 1e9, 1e9),
        box(-0.5, -0.5, 2, 2),
        box(1.5, 1.5, 0.1, 0.1),
    ],
    "instances": [
        blob(0.5, 0.5, 0.1, 0.1, mask=np.zeros((0, 0), bool)),
        blob(0.5, 0.5, 0, 0, mask=np.ones((7, 12), bool)),
        blob(0.5, 0.5, 0.1, 0.1, mask=np.zeros((7, 12), bool)),
        blob(2, 2, 0.1, 0.1, mask=np.ones((7, 12), bool)),
        blob(0.5, 0.5, 1 / 128, 1 / 72, mask=[[True]]),
        blob(0, 0, 1, 1, mask=np.indices((72, 128)).sum(0) % 2 == 0),
        blob(0.5, 0.5, 0.1, 0.1, mask=np.ones((7, 12, 3), np.uint8)),
    ],
    "polygons": [
        outlines([(0.1, 0.1), (0.5, 0.5)]),
        outlines([]),
        outlines(),
        outlines(CORNERS, [(1e9, 0), (1e9, 1), (0, 0)]),
        outlines([(0.1, 0.1), (0.5, 0.5), (0.5, 0.1), (0.1, 0.5)]),
        outlines([(-0.5, -0.5), (1.5, 0.5), (0.5, 1.5)]),
        outlines(CIRCLE),
        outlines(CORNERS, [(0.1, 0.1), (0.5, 0.5)]),
    ],
    "polylines": [outlines([(0.1, 0.1)], filled=False), outlines(CIRCLE, filled=False)],
    "keypoints": [
        fo.Keypoint(label="pose", points=[[NOWHERE, NOWHERE]] * 2),
        fo.Keypoint(label="pose", points=[]),
        fo.Keypoint(label="pose", points=[[1e9, 0.1]]),
        fo.Keypoint(label="pose", points=[[0.1, NOWHERE], [0.2, 0.2]]),
        fo.Keypoint(label="pose", points=[[-3, 4], [0.5, 0.5]]),
    ],
}


def test_labels_that_cvat_cannot_hold_stay_at_home(server: LocalCVAT, images: list[Path]) -> None:
    lists = {
        "detections": fo.Detections,
        "instances": fo.Detections,
        "polygons": fo.Polylines,
        "polylines": fo.Polylines,
        "keypoints": fo.Keypoints,
    }
    makers = {
        kind: lambda n, kind=kind, cls=cls: cls(
            **{
                cls._LABEL_LIST_FIELD: [
                    *(label.copy() for label in HOSTILE[kind]),
                    *MAKERS[kind](n)[cls._LABEL_LIST_FIELD],
                ]
            }
        )
        for kind, cls in lists.items()
    }
    dataset = image_dataset(images[:1], **makers)
    before = content(dataset, *lists)
    results = annotate(server, dataset, label_schema=schema_of(lists))
    finish_jobs(server, results)
    for _ in range(2):
        dataset.load_annotations("run")
        assert content(dataset, *lists) == before
    finish_jobs(server, results, move_all)
    ids = {kind: label_ids(dataset, kind) for kind in lists}
    for _ in range(2):
        dataset.load_annotations("run")
        assert {kind: label_ids(dataset, kind) for kind in lists} == ids


def test_a_mask_larger_than_any_image_is_named(server: LocalCVAT, images: list[Path]) -> None:
    label = blob(0.5, 0.5, 1e6, 1e6, mask=np.ones((7, 12), bool))
    dataset = image_dataset(images[:1], instances=lambda n: fo.Detections(detections=[label]))
    with pytest.raises(LabelPropError, match=label.id):
        annotate(server, dataset, label_schema=schema_of(["instances"]))
    assert not dataset.list_annotation_runs()


ROWS = np.indices((72, 128))[0]
MASKS: dict[str, Any] = {
    "unknown": np.full((72, 128), 99, np.uint8),
    "uint16": np.where(ROWS > 9, 7, 60000).astype(np.uint16),
    "int32": np.where(ROWS > 9, 7, -5).astype(np.int32),
    "float": np.where(ROWS > 9, 7, 0).astype(float),
    "bool": ROWS > 9,
    "rgb": np.stack([ROWS * 0, ROWS * 0, np.where(ROWS > 9, 7, 99)], -1).astype(np.uint8),
    "another size": np.where(np.indices((36, 64))[0] > 9, 7, 99).astype(np.uint8),
    "nothing": np.zeros((0, 0), np.uint8),
}


def paint_corner(client: CVATClient, job_id: int) -> None:
    names = {label.name: label.id for label in client.labels(job_id=job_id)}
    shape = {"type": "rectangle", "points": [0, 0, 10, 10], "frame": 0, "label_id": names["sky"], "group": 0}
    created = {**shape, "source": "manual", "attributes": [], "occluded": False, "z_order": 1, "rotation": 0}
    client.create_annotations({"shapes": [created]}, job_id=job_id)


@pytest.mark.parametrize("where", ["memory", "disk"])
@pytest.mark.parametrize("name", MASKS)
def test_semantic_masks_of_any_kind(
    server: LocalCVAT, images: list[Path], tmp_path: Path, name: str, where: str
) -> None:
    label, given = fo.Segmentation(mask=MASKS[name].copy()), MASKS[name]
    if where == "disk":
        if given.dtype not in (np.uint8, np.uint16) or not given.size:
            pytest.skip("PNG files hold no such masks")
        path = tmp_path / "mask.png"
        cv2.imwrite(str(path), given[..., ::-1] if given.ndim == 3 else given)
        label = fo.Segmentation(mask_path=str(path))
    dataset = image_dataset(images[:1], segmentation=lambda n: label)
    before = content(dataset, "segmentation")
    results = annotate(server, dataset, label_schema=schema_of(["segmentation"]))
    finish_jobs(server, results)
    for _ in range(2):
        dataset.load_annotations("run")
        assert content(dataset, "segmentation") == before
    finish_jobs(server, results, paint_corner)
    for _ in range(2):
        dataset.load_annotations("run")
        after = dataset.first().segmentation
        pixels = after.mask if given.ndim == 2 else after.mask[..., 2]
        assert after.id == label.id
        assert (pixels[:10, :10] == 2).all()
        assert pixels.shape == (72, 128)
        if given.shape[:2] == (72, 128):
            expected = np.array(given if given.ndim == 2 else given[..., 2]).astype(np.int64)
            expected[:10, :10] = 2
            assert np.array_equal(pixels, expected)
            assert after.mask.ndim == given.ndim


# Hostile schemas


@pytest.mark.parametrize(
    "classes",
    [
        [1, 2],
        [{"classes": "car", "attributes": {"note": {"type": "text"}}}],
        [{"classes": ["car", 7], "attributes": {}}, "index"],
        ["Car", "car", "None", "true"],
        ["x" * 64, "ü é", "日本", "a/b", "a.b", "<b>"],
    ],
)
def test_classes_of_any_form(server: LocalCVAT, images: list[Path], classes: list[Any]) -> None:
    names = [
        str(name)
        for entry in classes
        for name in ([entry["classes"]] if isinstance(entry, dict) and isinstance(entry["classes"], str) else [entry])
        for name in (name["classes"] if isinstance(name, dict) else [name])
    ]

    def labels(number: int) -> fo.Detections:
        entries = [fo.Detection(label=name, bounding_box=[0.1, 0.1, 0.2, 0.2], note="x") for name in names]
        return fo.Detections(detections=entries)

    dataset = image_dataset(images[:1], objects=labels)
    ids = label_ids(dataset, "objects")
    results = annotate(server, dataset, label_field="objects", label_type="detections", classes=classes)
    finish_jobs(server, results, move_all)
    for _ in range(2):
        dataset.load_annotations("run")
        assert label_ids(dataset, "objects") == ids
        found = dataset.first().objects.detections
        assert [label.label for label in found] == names
        assert all(label.bounding_box[0] == pytest.approx(0.1 + 4 / 128) for label in found)
        if isinstance(classes[0], dict) and "note" in classes[0]["attributes"]:
            assert found[0].note == "moved"


@pytest.mark.parametrize(
    "options",
    [
        {"classes": [None]},
        {"classes": [["car"]]},
        {"classes": ["car", "car"]},
        {"classes": ["car "]},
        {"classes": ["x" * 65]},
        {"classes": ["car"], "attributes": {"label": {"type": "text"}}},
        {"classes": ["car"], "attributes": {"bounding_box": {"type": "text"}}},
        {"classes": ["car"], "attributes": {"x" * 65: {"type": "text"}}},
    ],
    ids=str,
)
def test_schemas_that_make_no_sense(server: LocalCVAT, images: list[Path], options: dict[str, Any]) -> None:
    dataset = image_dataset(images[:1])
    with pytest.raises(LabelPropError):
        annotate(server, dataset, label_field="objects", label_type="detections", **options)
    assert not dataset.list_annotation_runs()


# Several fields


def two_fields(images: list[Path]) -> fo.Dataset:
    def boxes(n: int) -> fo.Detections | None:
        label = fo.Detection(label="car", bounding_box=[0.1 + 0.02 * n, 0.2, 0.3, 0.25], index=1)
        return fo.Detections(detections=[label]) if n in (0, 3) else None

    def masks(n: int) -> fo.Detections | None:
        label = blob(0.5, 0.25, 12 / 128, 9 / 72, mask=np.ones((9, 12), bool))
        label.label, label.index = "car", 1
        return fo.Detections(detections=[label]) if n in (0, 3) else None

    return image_dataset(images, boxes=boxes, masks=masks)


TWO = {"boxes": {"type": "detections", "classes": ["car"]}, "masks": {"type": "instances", "classes": ["car"]}}


def exchange(client: CVATClient, job_id: int) -> None:
    """Gives every shape the class of the other field."""
    names = {label.name: label.id for label in client.labels(job_id=job_id)}
    there = client.annotations(job_id=job_id)
    for kind in ("shapes", "tracks"):
        for entry in there[kind]:
            entry["label_id"] = names["car_boxes" if entry["label_id"] == names["car_masks"] else "car_masks"]
            entry["attributes"] = []
    client.update_annotations({kind: there[kind] for kind in ("shapes", "tracks")}, job_id=job_id)


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


def filled(dataset: fo.Dataset) -> list[Any]:
    return [
        [(label.label, label.index, [round(number, 4) for number in label.bounding_box]) for label in value.detections]
        for name in ("boxes_propagated", "masks_propagated")
        for value in dataset.values(name)
    ]


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
