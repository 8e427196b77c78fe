"""Every feature of FiftyOne's own CVAT integration, as its documentation shows it, with ``backend="labelprop"``.

docs/switching.md names each of these tests beside the feature that it covers.
"""

from __future__ import annotations

import inspect
import logging
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import fiftyone as fo
import fiftyone.utils.annotations as foua
import fiftyone.utils.cvat as fouc
import numpy as np
import pytest
from fixtures_label_types import instance, keypoint, polygon, polyline
from fixtures_roundtrip import client_of, image_dataset, login, video_dataset, write_images, write_video
from fixtures_switching import Page, annotate, pages, work

from labelprop_cvat.backend.api import LabelPropAPI
from labelprop_cvat.backend.labelprop import LabelPropBackendConfig, LabelPropResults
from labelprop_cvat.backend.local_cvat import LocalCVAT
from labelprop_cvat.errors import ConfigurationError, DataError, LabelPropError

WIDTH, HEIGHT = 128, 72
SELECT = {"attr1": {"type": "select", "values": ["val1", "val2"], "default": "val1"}}
RADIO = {"attr2": {"type": "radio", "values": [True, False], "default": False}}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalCVAT]:
    users = {"admin": "pw", "user1": "pw1", "user2": "pw2"}
    with LocalCVAT(tmp_path_factory.mktemp("cvat"), users=users, anonymous_rate=None) as running:
        yield running


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return write_images(tmp_path_factory.mktemp("images"), 5)


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_video(tmp_path_factory.mktemp("video") / "clip.mp4", 12)


def box(label: str, x: float = 0.25, **attributes: Any) -> fo.Detection:
    return fo.Detection(label=label, bounding_box=[x, 0.25, 0.25, 0.5], **attributes)


def truth(number: int) -> fo.Detections:
    """Two objects an image, as in FiftyOne's quickstart: no index, an attribute, and one that says more."""
    return fo.Detections(
        detections=[box("person", iscrowd=0.0, note="007", area=1.5), box("dog", 0.6, iscrowd=1.0, note=f"n{number}")]
    )


@pytest.fixture
def images(files: list[Path]) -> fo.Dataset:
    return image_dataset(files[:2], ground_truth=truth)


@pytest.fixture
def empty(files: list[Path]) -> fo.Dataset:
    return image_dataset(files[:2])


def objects(dataset: fo.Dataset, field: str = "ground_truth", number: int = 0) -> list[fo.Detection]:
    dataset.reload()
    return list(dataset.skip(number).first()[field].detections)


def value(label: fo.Label, name: str) -> Any:
    """An attribute that a label may not have."""
    return label[name] if label.has_field(name) else None


# --- what is annotated: label_schema, label_field, label_type, classes ----------------------------------------------


def test_a_new_field_by_its_parts(server: LocalCVAT, empty: fo.Dataset) -> None:
    classes = ["dog", "cat", "person"]
    results = annotate(
        empty, server, label_field="new", label_type="classifications", classes=classes, attributes={**SELECT, **RADIO}
    )
    work(server, results, lambda page: page.draw("cat", "tag", [], 1, attr1="val2", attr2="true"))
    empty.load_annotations("run", cleanup=True)
    assert empty.first().new is None or not empty.first().new.classifications
    (cat,) = empty.last().new.classifications
    assert (cat.label, cat.attr1, cat.attr2) == ("cat", "val2", True)
    empty.delete_annotation_run("run")
    assert empty.list_annotation_runs() == []


def test_a_label_schema_of_several_fields(server: LocalCVAT, images: fo.Dataset) -> None:
    schema = {
        "new_field": {"type": "classifications", "classes": ["class1", "class2"], "attributes": {**SELECT, **RADIO}},
        "ground_truth": {"classes": ["person", "dog"], "attributes": {"attr3": {"type": "text"}}},
    }
    results = annotate(images, server, label_schema=schema)

    def person(page: Page) -> None:
        assert set(page.labels) == {"class1", "class2", "person", "dog"}
        page.draw("class2", "tag", [], attr1="val2")
        page.give("shapes", "attr3", "free text")

    work(server, results, person)
    images.load_annotations("run")
    assert images.first().new_field.classifications[0].attr1 == "val2"
    assert [value(label, "attr3") for label in objects(images)] == ["free text", None]
    # What was not asked for stays as it was.
    assert [label.note for label in objects(images)] == ["007", "n0"]


def test_a_label_schema_that_lists_fields(server: LocalCVAT, images: fo.Dataset) -> None:
    images.set_values("weather", [fo.Classification(label="sunny"), fo.Classification(label="rainy")])
    results = annotate(images, server, label_schema=["ground_truth", "weather"])
    work(server, results, lambda page: page.erase("tags"))
    images.load_annotations("run")
    assert [label and label.label for label in images.values("weather")] == [None, "rainy"]
    assert images.count("ground_truth.detections") == 4


def test_classes_and_attributes_of_an_existing_field_are_found(server: LocalCVAT, images: fo.Dataset) -> None:
    results = annotate(images, server, label_field="ground_truth", attributes={"iscrowd": {}, **SELECT})
    ids = [label.id for label in objects(images)]

    def person(page: Page) -> None:
        assert set(page.labels) == {"person", "dog"}
        assert {a.name for a in page.labels["dog"].attributes} >= {"iscrowd", "attr1"}
        page.change("shapes", lambda shape: shape.update(points=[0, 0, 64, 36]))
        page.give("shapes", "attr1", "val2")

    work(server, results, person)
    images.load_annotations("run")
    first, second = objects(images)
    assert [label.id for label in (first, second)] == ids
    assert first.bounding_box == [0, 0, 0.5, 0.5]
    assert (first.iscrowd, first.attr1, first.note, first.area) == (0, "val2", "007", 1.5)
    assert (second.iscrowd, second.note) == (1, "n0")


def test_attributes_of_some_classes_only(server: LocalCVAT, empty: fo.Dataset) -> None:
    schema = {
        "new": {
            "type": "detections",
            "classes": [{"classes": ["class1", "class2"], "attributes": SELECT}, "class3"],
            "attributes": RADIO,
        }
    }
    results = annotate(empty, server, label_schema=schema)

    def person(page: Page) -> None:
        has = {name: {a.name for a in label.attributes} - {"index"} for name, label in page.labels.items()}
        assert has == {"class1": {"attr1", "attr2"}, "class2": {"attr1", "attr2"}, "class3": {"attr2"}}
        page.draw("class1", "rectangle", [1, 1, 9, 9], attr1="val2")
        page.draw("class3", "rectangle", [10, 1, 19, 9], attr2="true")

    work(server, results, person)
    empty.load_annotations("run")
    found = {label.label: label for label in objects(empty, "new")}
    assert found["class1"].attr1 == "val2"
    assert found["class3"].attr2 is True
    assert value(found["class3"], "attr1") is None


@pytest.mark.parametrize(
    ("attributes", "expected"),
    [(True, {"iscrowd", "note", "area"}), (False, set()), (["note"], {"note"}), ({"note": {"type": "text"}}, {"note"})],
)
def test_which_attributes_go_along(server: LocalCVAT, images: fo.Dataset, attributes: Any, expected: set[str]) -> None:
    results = annotate(images, server, label_field="ground_truth", attributes=attributes)

    def person(page: Page) -> None:
        assert {a.name for a in page.labels["person"].attributes} - {"index"} == expected

    work(server, results, person)
    images.load_annotations("run")
    assert [(label.note, value(label, "area")) for label in objects(images)] == [("007", 1.5), ("n0", None)]


def test_every_type_of_attribute(server: LocalCVAT, empty: fo.Dataset) -> None:
    attributes = {
        "caption": {"type": "text"},
        "gender": {"type": "select", "values": ["male", "female"]},
        "truncated": {"type": "radio", "values": [True, False], "default": False},
        "sure": {"type": "checkbox", "default": True},
        "covered": {"type": "occluded"},
        "herd": {"type": "group_id"},
    }
    results = annotate(
        empty, server, label_field="new", label_type="detections", classes=["dog"], attributes=attributes
    )

    def person(page: Page) -> None:
        page.draw("dog", "rectangle", [1, 1, 9, 9], caption="007", gender="female", truncated="true")
        page.change("shapes", lambda shape: shape.update(occluded=True, group=3))

    work(server, results, person)
    empty.load_annotations("run")
    (dog,) = objects(empty, "new")
    assert (dog.caption, dog.gender, dog.truncated, dog.sure) == ("007", "female", True, True)
    assert (dog.covered, dog.herd) == (True, 3)


def test_semantic_segmentation_by_mask_targets(server: LocalCVAT, files: list[Path]) -> None:
    mask = np.zeros((HEIGHT, WIDTH), np.uint8)
    mask[:30] = 1
    dataset = image_dataset(files[:1], road=lambda n: fo.Segmentation(mask=mask))
    results = annotate(dataset, server, label_field="road", mask_targets={1: "asphalt", 2: "grass"})

    def person(page: Page) -> None:
        assert set(page.labels) == {"asphalt", "grass"}
        page.draw("grass", "rectangle", [0, 60, 128, 72])

    work(server, results, person)
    dataset.load_annotations("run")
    found = dataset.first().road.mask
    assert (found[:30] == 1).all()
    assert (found[60:] == 2).all()
    assert (found[30:60] == 0).all()


def test_types_of_existing_fields(server: LocalCVAT, files: list[Path]) -> None:
    """FiftyOne takes fields of detections for boxes and fields of polylines for polygons, unless it is told."""
    dataset = image_dataset(
        files[:1],
        boxes=lambda n: fo.Detections(detections=[box("car")]),
        masks=lambda n: fo.Detections(detections=[instance(n)]),
        outlines=lambda n: fo.Polylines(polylines=[polygon(n)]),
        lines=lambda n: fo.Polylines(polylines=[polyline(n)]),
        points=lambda n: fo.Keypoints(keypoints=[keypoint(n)]),
    )
    given = {"masks": {"type": "instances"}, "lines": {"type": "polylines"}}
    results = annotate(dataset, server, label_schema={"boxes": {}, "outlines": {}, "points": {}, **given})
    kinds = [shape["type"] for page in pages(server, results) for kind in ("shapes",) for shape in page[kind]]
    assert sorted(kinds) == ["mask", "points", "polygon", "polyline", "rectangle"]
    work(server, results)
    before = dataset.first().to_dict()
    dataset.load_annotations("run")
    dataset.reload()
    after = dataset.first().to_dict()
    assert after["points"]["keypoints"][0]["_id"] == before["points"]["keypoints"][0]["_id"]
    assert dataset.first().outlines.polylines[0].points == polygon(0).points


@pytest.mark.parametrize("values", [[1, 2], [1.5, 2.5], ["007", "b"], [True, False]], ids=lambda v: type(v[0]).__name__)
def test_scalar_fields(
    server: LocalCVAT, files: list[Path], values: list[Any], caplog: pytest.LogCaptureFixture
) -> None:
    dataset = image_dataset(files[:2])
    dataset.set_values("existing", values)
    schema = {
        "existing": {"type": "scalar"},
        "scalar1": {"type": "scalar"},
        "scalar2": {"type": "scalar", "classes": ["class1", "class2", "class3"]},
    }
    results = annotate(dataset, server, label_schema=schema)

    def person(page: Page) -> None:
        assert set(page.labels) == {"existing", "scalar1", "class1", "class2", "class3"}
        page.draw("class2", "tag", [])
        page.draw("scalar1", "tag", [], 1, value="good bye")
        page.draw("scalar1", "tag", [], 1, value="hello")

    work(server, results, person)
    dataset.load_annotations("run")
    dataset.reload()
    assert "2 values of the field 'scalar1' were found on frame 1" in caplog.text
    assert "of the field 'scalar2' were found" not in caplog.text
    assert dataset.values("existing") == values
    assert dataset.values("scalar1") == [None, "hello"]
    assert dataset.values("scalar2") == ["class2", None]


def test_one_class_in_two_fields(server: LocalCVAT, images: fo.Dataset) -> None:
    schema = {
        "ground_truth": {"classes": ["person", "dog"]},
        "new_keypoints": {"type": "keypoints", "classes": ["person", "cat"]},
    }
    results = annotate(images, server, label_schema=schema)

    def person(page: Page) -> None:
        assert set(page.labels) == {"person_ground_truth", "dog", "person_new_keypoints", "cat"}
        page.draw("person_new_keypoints", "points", [64, 36])
        page.draw("person_ground_truth", "rectangle", [0, 0, 64, 36])

    work(server, results, person)
    images.load_annotations("run")
    images.reload()
    (new,) = images.first().new_keypoints.keypoints
    assert (new.label, new.points) == ("person", [[0.5, 0.5]])
    assert sorted(label.label for label in objects(images)) == ["dog", "person", "person"]


def test_video_fields_of_samples_and_frames(server: LocalCVAT, clip: Path) -> None:
    dataset = video_dataset(clip)
    schema = {
        "frames.boxes": {"type": "detections", "classes": ["car"]},
        "frames.weather": {"type": "classification", "classes": ["sun", "rain"]},
        "scene": {"type": "classification", "classes": ["street", "field"]},
    }
    results = annotate(dataset, server, label_schema=schema)

    def person(page: Page) -> None:
        page.draw("sun", "tag", [], 3)
        page.draw("street", "tag", [], 0)
        page.draw("car", "rectangle", [0, 0, 64, 36], 5)

    work(server, results, person)
    dataset.load_annotations("run")
    dataset.reload()
    sample = dataset.first()
    assert sample.scene.label == "street"
    assert sample.frames[4].weather.label == "sun"
    assert sample.frames[6].boxes.detections[0].bounding_box == [0, 0, 0.5, 0.5]


# --- restrictions ---------------------------------------------------------------------------------------------------


def test_only_attributes_may_change(server: LocalCVAT, images: fo.Dataset) -> None:
    attributes = {"sex": {"type": "select", "values": ["male", "female"]}, "age": {"type": "text"}}
    flags = {f"allow_{what}": False for what in ("additions", "deletions", "label_edits", "spatial_edits")}
    people = images.filter_labels("ground_truth", fo.ViewField("label") == "person")
    results = annotate(
        people, server, label_field="ground_truth", classes=["person", "dog"], attributes=attributes, **flags
    )

    def person(page: Page) -> None:
        page.give("shapes", "sex", "female")
        page.change("shapes", lambda shape: shape.update(points=[0, 0, 9, 9]))
        page.change("shapes", lambda shape: shape.update(label_id=page.labels["dog"].id, attributes=[]), 1)
        page.draw("person", "rectangle", [1, 1, 40, 40])

    work(server, results, person)
    for _ in range(2):
        images.load_annotations("run")
        first, dog = objects(images)
        assert (first.label, first.sex, first.bounding_box) == ("person", "female", [0.25, 0.25, 0.25, 0.5])
        assert dog.label == "dog"
        assert objects(images, number=1)[0].label == "person"


def test_labels_of_classes_that_the_run_does_not_have_stay_at_home(
    server: LocalCVAT, images: fo.Dataset, caplog: pytest.LogCaptureFixture
) -> None:
    # A video's or an image's only classification stays as well, and so does a number that is none of those to choose.
    images.set_values("weather", [fo.Classification(label="sunny"), fo.Classification(label="fog")])
    images.set_values("count", [1, 7])
    at_home = [objects(images, number=number)[1].to_dict() for number in range(2)]
    schema = {
        "ground_truth": {"classes": ["person"]},
        "weather": {"classes": ["sunny"]},
        "count": {"type": "scalar", "classes": ["1"]},
    }
    results = annotate(images, server, label_schema=schema)
    [there] = pages(server, results)
    assert (len(there["shapes"]), len(there["tags"])) == (2, 2)
    assert "'dog'" in caplog.text
    assert "'fog'" in caplog.text

    work(
        server, results, lambda page: page.erase("shapes"), lambda page: page.draw("person", "rectangle", [1, 1, 4, 4])
    )
    images.load_annotations("run")
    images.reload()
    assert [label.label for label in objects(images)] == ["dog", "person"]
    assert [objects(images)[0].to_dict(), objects(images, number=1)[1].to_dict()] == at_home
    assert [label.label for label in images.values("weather")] == ["sunny", "fog"]
    assert images.values("count") == [1, 7]


def test_nothing_may_be_deleted(server: LocalCVAT, images: fo.Dataset) -> None:
    results = annotate(images, server, label_field="ground_truth", allow_deletions=False)
    work(server, results, lambda page: page.erase("shapes"))
    images.load_annotations("run")
    assert len(objects(images)) == 2


def test_restrictions_of_one_field_in_the_label_schema(server: LocalCVAT, images: fo.Dataset) -> None:
    images.set_values("weather", [fo.Classification(label="sunny"), fo.Classification(label="sunny")])
    schema = {"ground_truth": {"allow_deletions": False}, "weather": {}}
    results = annotate(images, server, label_schema=schema)
    work(server, results, lambda page: (page.erase("shapes"), page.erase("tags")))
    images.load_annotations("run")
    assert len(objects(images)) == 2
    assert images.first().weather is None


def test_read_only_attributes(server: LocalCVAT, images: fo.Dataset) -> None:
    attributes = {"note": {"type": "text", "read_only": True}, "model": {"type": "text"}}
    results = annotate(images, server, label_field="ground_truth", attributes=attributes)

    def person(page: Page) -> None:
        assert page.values(page.there("shapes")[0])["note"] == "007"
        page.give("shapes", "note", "changed")
        page.give("shapes", "model", "T")

    work(server, results, person)
    images.load_annotations("run")
    assert (objects(images)[0].note, objects(images)[0].model) == ("007", "T")


def test_track_numbers_may_not_change(server: LocalCVAT, clip: Path) -> None:
    dataset = with_tracks(clip)
    results = annotate(dataset, server, label_field="frames.truth", allow_index_edits=False)
    work(server, results, lambda page: page.give("tracks", "index", "9"))
    dataset.load_annotations("run")
    dataset.reload()
    assert {label.index for frame in dataset.first().frames.values() for label in frame.truth.detections} == {1, 2}


# --- what is loaded -------------------------------------------------------------------------------------------------


def test_another_field_to_load_into(server: LocalCVAT, images: fo.Dataset) -> None:
    results = annotate(images, server, label_field="ground_truth")
    before = objects(images)
    work(server, results, lambda page: page.change("shapes", lambda shape: shape.update(points=[0, 0, 64, 36])))
    images.load_annotations("run", dest_field="test_field")
    assert objects(images, "test_field")[0].bounding_box == [0, 0, 0.5, 0.5]
    assert [label.to_dict() for label in objects(images)] == [label.to_dict() for label in before]


def test_other_fields_to_load_several_into(server: LocalCVAT, images: fo.Dataset) -> None:
    images.set_values("size", [1, 2])
    results = annotate(images, server, label_schema={"ground_truth": {}, "size": {"type": "scalar"}})
    work(server, results, lambda page: page.give("tags", "value", "5"))
    images.load_annotations("run", dest_field={"ground_truth": "copy", "size": "new_size"})
    images.reload()
    assert len(objects(images, "copy")) == 2
    assert (images.values("size"), images.values("new_size")) == ([1, 2], [5, 2])


@pytest.mark.parametrize("unexpected", ["prompt", "ignore", "keep", "return"])
def test_unexpected_labels(
    server: LocalCVAT, images: fo.Dataset, unexpected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    results = annotate(images, server, label_field="ground_truth")
    work(server, results, lambda page: page.draw("dog", "polyline", [1, 1, 30, 30, 40, 2]))
    monkeypatch.setattr("builtins.input", lambda *_: pytest.fail("nobody is there to be asked"))
    found = images.load_annotations("run", unexpected=unexpected)
    images.reload()
    assert images.count("ground_truth.detections") == 4
    if unexpected == "keep":
        assert images.first().polylines.polylines[0].label == "dog"
    else:
        assert "polylines" not in images.get_field_schema()
    assert (found is not None and "polylines" in found.get("ground_truth", {})) == (unexpected == "return")


def test_loading_with_cleanup_deletes_tasks_and_the_runs_own_project(server: LocalCVAT, images: fo.Dataset) -> None:
    results = annotate(images, server, label_field="ground_truth", project_name="for one run")
    work(server, results)
    images.load_annotations("run", cleanup=True)
    with client_of(server) as client:
        assert client.find_project("for one run") is None
    assert images.load_annotation_results("run").task_ids == []
    assert images.count("ground_truth.detections") == 4


def test_runs_are_listed_described_renamed_and_deleted(server: LocalCVAT, images: fo.Dataset) -> None:
    annotate(images.limit(1), server, label_field="ground_truth")
    assert images.list_annotation_runs() == ["run"]
    assert str(images.get_annotation_info("run").config.label_schema["ground_truth"]["type"]) == "detections"
    assert [sample.id for sample in images.load_annotation_view("run")] == [images.first().id]
    images.rename_annotation_run("run", "renamed")
    assert images.load_annotation_results("renamed").get_status()[0]["state"] == "new"
    images.load_annotation_results("renamed").cleanup()
    images.delete_annotation_run("renamed")
    assert images.list_annotation_runs() == []


def test_a_changed_class_keeps_label_id_and_attributes(server: LocalCVAT, images: fo.Dataset) -> None:
    """Where the stock backend warns that the label may be deleted and made anew."""
    classes = [{"classes": ["person"], "attributes": SELECT}, "dog"]
    results = annotate(images, server, label_field="ground_truth", classes=classes, attributes=False)
    before = objects(images)[0]

    def person(page: Page) -> None:
        page.change("shapes", lambda shape: shape.update(label_id=page.labels["dog"].id, attributes=[]))

    work(server, results, person)
    images.load_annotations("run")
    after = objects(images)[0]
    assert (after.id, after.label, after.note, after.area) == (before.id, "dog", "007", 1.5)


# --- how the work is laid out ---------------------------------------------------------------------------------------


def test_sizes_of_tasks_and_jobs_within_a_project(server: LocalCVAT, files: list[Path]) -> None:
    dataset = image_dataset(files, ground_truth=truth)
    results = annotate(
        dataset, server, label_field="ground_truth", task_size=4, segment_size=2, project_name="batch_example"
    )
    assert [[job.positions for job in task.jobs] for task in results.ledger.tasks()] == [[[0, 1], [2, 3]], [[4]]]
    with client_of(server) as client:
        project = client.find_project("batch_example")
        assert project is not None
        assert {client.task(task_id).project_id for task_id in results.task_ids} == {project.id}
    work(server, results)
    dataset.load_annotations("run", cleanup=True)
    assert dataset.count("ground_truth.detections") == 10


def test_assignees_are_dealt_out_in_turn(
    server: LocalCVAT, files: list[Path], caplog: pytest.LogCaptureFixture
) -> None:
    dataset = image_dataset(files, ground_truth=truth)
    results = annotate(
        dataset,
        server,
        label_schema={"ground_truth": {}, "keypoints": {"type": "keypoints", "classes": ["person"]}},
        segment_size=1,
        task_size=3,
        task_assignee=["admin", "user1"],
        job_assignees=["user1", "user2"],
        job_reviewers=["user2"],
    )
    assert "job_reviewers get the jobs of reviews" in caplog.text
    with client_of(server) as client:
        tasks = [client.task(task_id) for task_id in results.task_ids]
        assert [task.assignee and task.assignee.username for task in tasks] == ["admin", "user1"]
        jobs = [client.job(job_id) for task_id in results.task_ids for job_id in results.job_ids[task_id]]
    names = [job.assignee and job.assignee.username for job in jobs]
    assert names == ["user1", "user2", "user1", "user2", "user1"]
    assert [row["assignee"] for row in results.get_status()] == names


def test_one_assignee_and_a_name(server: LocalCVAT, images: fo.Dataset) -> None:
    results = annotate(
        images, server, label_field="ground_truth", task_assignee="user1", job_assignees="user2", task_name="night"
    )
    with client_of(server) as client:
        (task,) = (client.task(task_id) for task_id in results.task_ids)
        assert task.assignee is not None
        assert (task.name[:5], task.assignee.username) == ("night", "user1")
        assert [client.job(job).assignee.username for job in results.job_ids[task.id]] == ["user2"]


def test_nobody_of_that_name(server: LocalCVAT, images: fo.Dataset) -> None:
    with pytest.raises(LabelPropError, match='has no user "nobody"'):
        annotate(images, server, label_field="ground_truth", job_assignees=["nobody"])
    assert images.list_annotation_runs() == []


def test_issue_trackers_are_dealt_out_in_turn(server: LocalCVAT, files: list[Path]) -> None:
    dataset = image_dataset(files, ground_truth=truth)
    trackers = ["https://issues.example/1", "https://issues.example/2"]
    results = annotate(dataset, server, label_field="ground_truth", task_size=2, issue_tracker=trackers)
    with client_of(server) as client:
        found = [client.task(task_id).bug_tracker.partition("#")[0] for task_id in results.task_ids]
    assert found == [*trackers, trackers[0]]


def test_quality_and_chunks(server: LocalCVAT, images: fo.Dataset) -> None:
    results = annotate(
        images,
        server,
        label_field="ground_truth",
        image_quality=42,
        chunk_size=7,
        use_cache=False,
        use_zip_chunks=False,
    )
    with client_of(server) as client:
        meta = client.data_meta(task_id=results.task_ids[0])
    assert (meta.image_quality, meta.chunk_size) == (42, 7)


def test_other_media(server: LocalCVAT, images: fo.Dataset, tmp_path: Path) -> None:
    for sample in images:
        path = tmp_path / Path(sample.filepath).name
        cv2.imwrite(str(path), np.full((HEIGHT, WIDTH, 3), 255, np.uint8))
        sample["alt_filepath"] = str(path)
        sample.save()
    results = annotate(images, server, label_field="ground_truth", media_field="alt_filepath")
    with client_of(server) as client:
        sent = cv2.imdecode(np.frombuffer(client.frame(results.task_ids[0], 0), np.uint8), cv2.IMREAD_COLOR)
    assert (sent == 255).all()
    work(server, results, lambda page: page.change("shapes", lambda shape: shape.update(points=[0, 0, 64, 36])))
    images.load_annotations("run")
    assert objects(images)[0].bounding_box == [0, 0, 0.5, 0.5]


def test_launching_the_editor(server: LocalCVAT, images: fo.Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[str] = []
    monkeypatch.setattr("webbrowser.open", lambda url, **kwargs: opened.append(url))
    results = annotate(images, server, label_field="ground_truth", launch_editor=True)
    (task_id,) = results.task_ids
    assert opened == [f"{server.url}/tasks/{task_id}/jobs/{results.job_ids[task_id][0]}"]


def test_tasks_are_deleted_one_by_one(server: LocalCVAT, files: list[Path]) -> None:
    dataset = image_dataset(files, ground_truth=truth)
    results = annotate(dataset, server, label_field="ground_truth", task_size=2)
    first, second, third = results.task_ids
    results.delete_tasks([first])
    assert results.task_ids == [second, third]
    results.connect_to_api().delete_task(second)
    results.forget_task(second)
    with client_of(server) as client:
        assert [task.id for task in client.tasks() if task.id in (first, second, third)] == [third]
    with pytest.raises(DataError, match=f"has no task {first}; it has {third}"):
        results.delete_tasks([third, first])
    assert results.task_ids == [third]
    work(server, results)
    dataset.load_annotations("run")
    assert dataset.count("ground_truth.detections") == 10


# --- projects -------------------------------------------------------------------------------------------------------


def test_a_second_run_inherits_the_schema_of_a_project(server: LocalCVAT, images: fo.Dataset) -> None:
    images.set_values("predictions", [fo.Detections(detections=[box("dog", 0.1)]), fo.Detections()])
    first = images.annotate(
        "create_project",
        backend="labelprop",
        label_field="ground_truth",
        engine="none",
        project_name="p",
        **login(server),
    )
    results = annotate(
        images, server, label_field="predictions", project_name="p", classes=["ignored"], attributes=SELECT
    )
    assert results.project_ids == first.project_ids

    def person(page: Page) -> None:
        assert set(page.labels) == {"person", "dog"}
        page.draw("person", "rectangle", [0, 0, 64, 36], note="drawn")

    work(server, results, person)
    images.load_annotations("run")
    assert sorted(label.label for label in objects(images, "predictions")) == ["dog", "person"]
    assert next(label.note for label in objects(images, "predictions") if label.label == "person") == "drawn"
    assert results.labels_task_map == {"predictions": results.task_ids}
    results.cleanup()
    with client_of(server) as client:
        # The other run's tasks are still there.
        assert client.find_project("p") is not None
    first.cleanup()
    with client_of(server) as client:
        assert client.find_project("p") is None


def test_a_project_with_tasks_of_others_stays(
    server: LocalCVAT, images: fo.Dataset, caplog: pytest.LogCaptureFixture
) -> None:
    shared = {"backend": "labelprop", "label_field": "ground_truth", "engine": "none", "project_name": "shared"}
    first = images.annotate("first", **shared, **login(server))
    second = images.annotate("second", **shared, **login(server))
    first.cleanup(force=True)
    assert "it holds tasks of others" in caplog.text
    assert [row["state"] for row in second.get_status()] == ["new"]
    assert first.task_ids == first.project_ids == []


def test_a_project_by_its_number_with_several_fields(server: LocalCVAT, images: fo.Dataset) -> None:
    schema = {
        "ground_truth": {"classes": ["person", "dog"]},
        "poses": {"type": "keypoints", "classes": ["person"]},
    }
    first = images.annotate(
        "first", backend="labelprop", label_schema=schema, engine="none", project_name="q", **login(server)
    )
    fields = {"ground_truth": {}, "poses": {"type": "keypoints", "classes": ["person"]}}
    results = annotate(images, server, label_schema=fields, project_id=first.project_ids[0])
    work(server, results, lambda page: page.draw("person_poses", "points", [64, 36]))
    images.load_annotations("run")
    images.reload()
    assert images.first().poses.keypoints[0].points == [[0.5, 0.5]]
    assert images.count("ground_truth.detections") == 4


def test_a_project_that_is_not_there(server: LocalCVAT, images: fo.Dataset) -> None:
    with pytest.raises(ConfigurationError, match="no project 9999"):
        annotate(images, server, label_field="ground_truth", project_id=9999)


@pytest.mark.parametrize("how", ["attribute", "argument", "project"])
def test_occlusion_and_groups(server: LocalCVAT, images: fo.Dataset, how: str) -> None:
    options: dict[str, Any] = {"occluded_attr": "hidden", "group_id_attr": "herd", "label_field": "ground_truth"}
    if how == "attribute":
        attributes = {"hidden": {"type": "occluded"}, "herd": {"type": "group_id"}}
        options = {"label_schema": {"ground_truth": {"attributes": attributes}}}
    if how == "project":
        images.annotate(
            "new_proj",
            backend="labelprop",
            label_field="ground_truth",
            engine="none",
            project_name="widgets",
            **login(server),
        )
        options["project_name"] = "widgets"
    results = annotate(images, server, **options)
    work(server, results, lambda page: page.change("shapes", lambda shape: shape.update(occluded=True, group=7)))
    images.load_annotations("run")
    first, second = objects(images)
    assert (first.hidden, first.herd) == (True, 7)
    assert (value(second, "hidden"), value(second, "herd")) != (True, 7)
    results.cleanup()


def test_an_attribute_called_occluded_is_the_widget(server: LocalCVAT, files: list[Path]) -> None:
    dataset = image_dataset(
        files[:1], truth=lambda n: fo.Detections(detections=[box("car", occluded=True, group_id=4), box("car", 0.6)])
    )
    results = annotate(dataset, server, label_field="truth")
    shapes = sorted(pages(server, results)[0]["shapes"], key=lambda shape: shape["id"])
    assert [(shape["occluded"], shape["group"]) for shape in shapes] == [(True, 4), (False, 0)]
    work(server, results, lambda page: page.change("shapes", lambda shape: shape.update(occluded=False)))
    dataset.load_annotations("run")
    assert [value(label, "occluded") for label in objects(dataset, "truth")] == [False, None]


# --- videos ---------------------------------------------------------------------------------------------------------


def with_tracks(clip: Path, keyframes: tuple[int, ...] = ()) -> fo.Dataset:
    """Two cars on 12 frames, one of which stands."""
    dataset = video_dataset(clip)
    sample = dataset.first()
    for number in range(1, 13):
        cars = [box("vehicle", number / 40, index=1, type="sedan"), box("vehicle", 0.7, index=2, type="suv")]
        for car in cars if number in keyframes else ():
            car["keyframe"] = True
        sample.frames[number] = fo.Frame(truth=fo.Detections(detections=cars))
    sample.save()
    return dataset


def test_new_tracks_on_a_video(server: LocalCVAT, clip: Path) -> None:
    dataset = video_dataset(clip)
    attributes = {"type": {"type": "select", "values": ["sedan", "suv"], "mutable": False}}
    results = annotate(
        dataset,
        server,
        label_field="frames.new",
        label_type="detections",
        classes=["vehicle"],
        attributes=attributes,
        engine="interpolate",
        exemplars="every:4",
    )

    def person(page: Page) -> None:
        page.track("vehicle", {0: [0, 0, 32, 36], 2: [64, 0, 96, 36]}, index="5", type="suv")

    work(server, results, person)
    dataset.load_annotations("run")
    dataset.reload()
    frames = dataset.first().frames
    drawn = {n: f.new.detections[0] for n, f in frames.items() if f.new is not None and f.new.detections}
    # People drew on the first and third of the frames that they were shown.
    assert sorted(drawn) == [1, 9]
    assert {(label.index, label.type, label.keyframe) for label in drawn.values()} == {(5, "suv", True)}
    filled = frames[5].new_propagated.detections[0]
    assert filled.bounding_box[0] == pytest.approx(0.25, abs=1e-6)
    assert (filled.index, filled.type, filled.keyframe) == (5, "suv", False)


@pytest.mark.parametrize("keyframes", [(), (1, 5, 12)])
def test_existing_tracks_of_a_video(server: LocalCVAT, clip: Path, keyframes: tuple[int, ...]) -> None:
    dataset = with_tracks(clip, keyframes)
    ids = dataset.values("frames.truth.detections.id", unwind=True)
    results = annotate(dataset, server, label_field="frames.truth")
    (page,) = pages(server, results)
    sent = [sorted(shape["frame"] for shape in track["shapes"]) for track in page["tracks"]]
    assert sent == [[n - 1 for n in keyframes] or list(range(12))] * 2
    work(server, results, lambda page: page.change("tracks", lambda t: t["shapes"][0].update(points=[0, 0, 64, 36])))
    dataset.load_annotations("run")
    dataset.reload()
    assert dataset.values("frames.truth.detections.id", unwind=True) == ids
    frames = dataset.first().frames
    assert frames[1].truth.detections[0].bounding_box == [0, 0, 0.5, 0.5]
    assert frames[1].truth.detections[0].keyframe is True
    assert {label.index for frame in frames.values() for label in frame.truth.detections} == {1, 2}


def test_attributes_that_may_and_may_not_change_along_a_track(server: LocalCVAT, clip: Path) -> None:
    attributes = {
        "type": {"type": "text", "read_only": True, "mutable": False},
        "make": {"type": "text", "mutable": False},
        "plate": {"type": "radio", "values": [True, False], "default": False, "mutable": True},
    }
    dataset = with_tracks(clip)
    results = annotate(dataset, server, label_field="frames.truth", attributes=attributes)

    def person(page: Page) -> None:
        page.give("tracks", "make", "T")
        page.give("tracks", "plate", "true")

    work(server, results, person)
    dataset.load_annotations("run")
    dataset.reload()
    cars = [dataset.first().frames[n].truth.detections[0] for n in (1, 2, 12)]
    assert [car.make for car in cars] == ["T"] * 3
    assert [car.type for car in cars] == ["sedan"] * 3
    assert cars[0].plate is True
    assert not value(cars[2], "plate")


def test_each_video_is_a_task_of_a_project(server: LocalCVAT, clip: Path, tmp_path: Path) -> None:
    other = write_video(tmp_path / "other.mp4", 4)
    dataset = video_dataset(clip, other)
    results = annotate(
        dataset,
        server,
        label_field="frames.new",
        label_type="detections",
        classes=["person"],
        project_name="videos",
        task_assignee=["user1", "user2"],
    )
    with client_of(server) as client:
        tasks = [client.task(task_id) for task_id in results.task_ids]
    assert [task.assignee and task.assignee.username for task in tasks] == ["user1", "user2"]
    assert {task.project_id for task in tasks} == set(results.project_ids)
    assert [task.size for task in tasks] == [12, 4]
    results.cleanup()


def test_which_frames_of_a_video(server: LocalCVAT, clip: Path, tmp_path: Path) -> None:
    other = write_video(tmp_path / "other.mp4", 12)
    dataset = video_dataset(clip, other)
    results = annotate(
        dataset,
        server,
        label_field="frames.new",
        label_type="detections",
        classes=["person"],
        frame_start={str(clip): 4, str(other): 2},
        frame_step=[1, 3],
        frame_stop=8,
    )
    records = list(results.ledger.sequences.values())
    chosen = [
        [records[number].frame_numbers[p] - 1 for p in task.positions()]
        for number, task in enumerate(results.ledger.tasks())
    ]
    # 0-based and inclusive, as FiftyOne counts them.
    assert chosen == [[4, 5, 6, 7, 8], [2, 5, 8]]
    work(server, results, lambda page: page.draw("person", "rectangle", [0, 0, 64, 36], 1))
    dataset.load_annotations("run")
    dataset.reload()
    numbers = [n for n, frame in dataset.first().frames.items() if frame["new"] is not None and frame.new.detections]
    assert numbers == [6]


# --- what is different ----------------------------------------------------------------------------------------------


def test_without_an_engine_of_none_only_exemplars_go_and_the_others_are_filled(
    server: LocalCVAT, files: list[Path], clip: Path
) -> None:
    dataset = video_dataset(clip)
    options = {"label_field": "frames.new", "label_type": "detections", "classes": ["car"]}
    results = annotate(dataset, server, **options, engine="hold")
    assert [job.positions for _, job in results.ledger.jobs()] == [[0, 10]]
    work(server, results, lambda page: page.draw("car", "rectangle", [0, 0, 64, 36], 0))
    dataset.load_annotations("run")
    dataset.reload()
    assert dataset.count("frames.new.detections") == 1
    assert dataset.count("frames.new_propagated.detections") == 12


def test_images_of_one_size_are_taken_for_a_scene_aloud(
    server: LocalCVAT, images: fo.Dataset, caplog: pytest.LogCaptureFixture
) -> None:
    results = images.annotate("run", backend="labelprop", label_field="ground_truth", **login(server))
    assert [len(task.positions()) for task in results.ledger.tasks()] == [1]
    assert "2 images of this view are taken for frames of one scene" in caplog.text
    assert "engine='none'" in caplog.text
    caplog.clear()
    options = {"backend": "labelprop", "label_field": "ground_truth", **login(server)}
    images.annotate("ordered", sort_field="number", **options)
    images.limit(1).annotate("one", **options)
    assert "one scene" not in caplog.text
    # A picture that stands alone has no others to fill.
    assert images.get_annotation_info("one").config.engine == "none"


def test_text_stays_text_unless_asked(server: LocalCVAT, files: list[Path]) -> None:
    for coerce, expected in ((False, "007"), (True, 7)):
        dataset = image_dataset(files[:1])
        results = annotate(
            dataset,
            server,
            label_field="new",
            label_type="detections",
            classes=["car"],
            attributes={"plate": {"type": "text"}},
            coerce_text_attrs=coerce,
        )
        work(server, results, lambda page: page.draw("car", "rectangle", [1, 1, 9, 9], plate="007"))
        dataset.load_annotations("run")
        assert objects(dataset, "new")[0].plate == expected


def test_a_parameter_that_does_not_exist_is_named(server: LocalCVAT, images: fo.Dataset) -> None:
    with pytest.raises(ConfigurationError, match=r"no parameter 'segmentsize'\. Did you mean 'segment_size'"):
        annotate(images, server, label_field="ground_truth", segmentsize=2)


def test_a_field_must_be_named(server: LocalCVAT, images: fo.Dataset) -> None:
    with pytest.raises(ValueError, match="label_field"):
        annotate(images, server, project_name="p")


def test_images_of_several_sizes_are_pictures_of_their_own(
    server: LocalCVAT, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    for number, size in enumerate([(40, 60), (50, 30), (60, 80)]):
        cv2.imwrite(str(tmp_path / f"{number}.png"), np.full((*size, 3), 90, np.uint8))
    dataset = image_dataset(sorted(tmp_path.iterdir()), ground_truth=truth)
    results = dataset.annotate("run", backend="labelprop", label_field="ground_truth", **login(server))
    assert sum(len(task.positions()) for task in results.ledger.tasks()) == 3
    assert "differ in size" in caplog.text
    work(server, results, lambda page: page.change("shapes", lambda shape: shape.update(points=[0, 0, 30, 20])))
    dataset.load_annotations("run")
    assert objects(dataset)[0].bounding_box == [0, 0, 0.5, 0.5]


def test_what_cvat_interpolates_is_in_the_propagated_field(server: LocalCVAT, clip: Path) -> None:
    dataset = video_dataset(clip)
    options = {"label_field": "frames.new", "label_type": "detections", "classes": ["car"]}
    results = annotate(dataset, server, **options, engine="interpolate", exemplars="all")
    work(server, results, lambda page: page.track("car", {0: [0, 0, 32, 36], 8: [64, 0, 96, 36]}))
    dataset.load_annotations("run")
    dataset.reload()
    frames = dataset.first().frames
    assert [n for n, frame in frames.items() if frame.new is not None and frame.new.detections] == [1, 9]
    lefts = [frames[n].new_propagated.detections[0].bounding_box[0] * WIDTH for n in range(1, 13)]
    assert lefts == pytest.approx([0, 8, 16, 24, 32, 40, 48, 56, 64, 64, 64, 64], abs=0.01)


def test_patches_are_the_labels_they_show(server: LocalCVAT, images: fo.Dataset) -> None:
    patches = images.to_patches("ground_truth").match(fo.ViewField("ground_truth.label") == "dog")
    before = [label.id for label in objects(images)]
    results = annotate(patches, server, label_field="ground_truth")
    shown = [shape for page in pages(server, results) for shape in page["shapes"]]
    assert len(shown) == 2
    work(server, results, lambda page: (page.change("shapes", lambda s: s.update(points=[0, 0, 64, 36])),))
    images.load_annotations("run")
    person, dog = objects(images)
    assert [person.id, dog.id] == before
    assert (person.bounding_box, dog.bounding_box) == ([0.25, 0.25, 0.25, 0.5], [0, 0, 0.5, 0.5])


# --- the document ---------------------------------------------------------------------------------------------------

TESTS = Path(__file__).parent
DOCUMENT = TESTS.parent / "docs" / "switching.md"


def rows() -> list[list[str]]:
    lines = [line for line in DOCUMENT.read_text().splitlines() if line.startswith("| ")]
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines if "| test |" not in line]


def test_every_row_of_the_document_names_a_test_that_exists() -> None:
    assert len(rows()) > 60
    for row in rows():
        named = re.findall(r"`(test_\w+\.py)::(test_\w+)`", row[-1])
        assert named, row
        for file, name in named:
            assert re.search(rf"^ *def {name}\(", (TESTS / file).read_text(), re.MULTILINE), f"{file}::{name}"


def test_every_test_of_a_feature_is_in_the_document() -> None:
    text = DOCUMENT.read_text()
    for name in re.findall(r"^def (test_\w+)\(", Path(__file__).read_text(), re.MULTILINE):
        assert name in text or "document" in name, name


def test_nothing_of_the_stock_backend_is_forgotten() -> None:
    """Each parameter is taken here, and each method is here or said not to be."""
    ours = set(inspect.signature(LabelPropBackendConfig).parameters)
    assert set(inspect.signature(fouc.CVATBackendConfig).parameters) <= ours
    text = re.sub(r"```.*?```", "", DOCUMENT.read_text(), flags=re.DOTALL)
    said = {name for words in re.findall(r"`([^`]+)`", text) for name in re.findall(r"\w+", words)}
    for parameter in {
        *inspect.signature(fouc.CVATBackendConfig).parameters,
        *inspect.signature(foua.annotate).parameters,
    }:
        if parameter not in ("name", "samples", "anno_key", "kwargs"):
            assert parameter in said, parameter
    missing = next(row[0] for row in rows() if row[1].startswith("not there"))
    for stock, own in ((fouc.CVATAnnotationAPI, LabelPropAPI), (fouc.CVATAnnotationResults, LabelPropResults)):
        for method in (name for name in dir(stock) if not name.startswith("_")):
            assert hasattr(own, method) != (method in re.findall(r"\w+", missing)), method
            assert method in said or hasattr(fo.core.runs.RunResults, method), method
