"""Runs by their verbs: what a call would get wrong is said before anything is made, in CVAT or in the dataset."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fiftyone as fo
import pytest
from fixtures_roundtrip import annotate_by_script, client_of, image_dataset, login, write_images, write_video
from fixtures_views import camera_rig, scene_labels, write_media

import labelprop_cvat.workflow as lp
from labelprop_cvat.backend.local_cvat import LocalCVAT
from labelprop_cvat.backend.schema import LABEL_KINDS
from labelprop_cvat.errors import ConfigurationError, DataError

CLASSES = ["person", "car"]


@pytest.fixture(scope="module")
def server() -> Iterator[LocalCVAT]:
    with LocalCVAT(anonymous_rate=None) as running:
        yield running


@pytest.fixture(scope="module")
def paths(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return write_images(tmp_path_factory.mktemp("images"), 4)


@pytest.fixture
def dataset(paths: list[Path]) -> fo.Dataset:
    return image_dataset(paths)


@pytest.fixture(scope="module")
def video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_video(tmp_path_factory.mktemp("video") / "a.mp4", 4)


def asked(server: LocalCVAT, **options: Any) -> dict[str, Any]:
    first = {"label_field": "objects", "label_type": "instances", "classes": CLASSES, "sort_field": "number"}
    return {**first, "engine": "hold", "exemplars": "first", **login(server), **options}


def test_a_run_goes_out_comes_home_and_ends(server: LocalCVAT, dataset: fo.Dataset) -> None:
    assert lp.run_keys(dataset) == []
    results = lp.annotate(dataset, "zebra", **asked(server))
    annotate_by_script(server, results)
    assert lp.load(dataset, "zebra").summary == (
        "1 of 1 job is finished and holds 2 labels; 1 segment was filled in objects_propagated by hold."
    )
    assert dataset.count("objects.detections") == 2
    assert dataset.count("objects_propagated.detections") == 8
    lp.annotate(dataset, "ant", **asked(server, label_field="other"))
    assert lp.run_keys(dataset) == ["zebra", "ant"]
    assert lp.cleanup(dataset, "ant").task_ids == []
    (task,) = results.task_ids
    with client_of(server) as client:
        assert client.jobs(task)
        assert lp.cleanup(dataset, "zebra").task_ids == []
        assert not client.jobs(task)
    assert dataset.count("objects_propagated.detections") == 8


def test_the_login_of_a_later_call_counts_for_results_that_are_held_already(
    server: LocalCVAT, dataset: fo.Dataset
) -> None:
    results = lp.annotate(dataset, "run", **asked(server))
    with pytest.raises(Exception, match="password"):
        lp.run_results(dataset, "run", username="nobody", password="wrong").get_status()
    assert lp.run_results(dataset, "run", **login(server)) is results
    assert len(results.get_status()) == 1


@pytest.mark.parametrize(
    ("key", "options", "said"),
    [
        ("run 1", {}, "The key of a run is a name of letters, digits and underscores"),
        ("run", {"label_field": None}, "Say what to annotate"),
        ("run", {"label_type": None}, "'objects' is a new field. Say what goes there"),
        ("run", {"label_type": "boxes"}, "label_type is one of 'instances', "),
        ("run", {"classes": None}, "'objects' holds no labels yet, so the classes are not known"),
        ("run", {"label_type": "segmentation", "classes": None}, "'objects' is a new field. Name what is segmented"),
        ("run", {"label_field": "a.b"}, "A label field has a name without dots"),
        ("run", {"label_field": "filepath", "label_type": None}, "The field 'filepath' is FiftyOne's own"),
        ("run", {"label_field": "number"}, "'number' of .* can be annotated as 'scalar', got label_type='instances'"),
        ("run", {"label_schema": {"x": {}}}, "label_schema describes the fields already: leave out label_field, class"),
    ],
)
def test_what_does_not_fit_is_said_and_nothing_is_made(
    server: LocalCVAT, dataset: fo.Dataset, key: str, options: dict[str, Any], said: str
) -> None:
    with pytest.raises(ConfigurationError, match=said):
        lp.annotate(dataset, key, **asked(server, **options))
    assert dataset.list_annotation_runs() == []


def test_no_samples(server: LocalCVAT, dataset: fo.Dataset) -> None:
    with pytest.raises(DataError, match="There is no sample in this view"):
        lp.annotate(dataset.match(fo.ViewField("number") > 9), "run", **asked(server))


def test_a_key_that_is_taken(server: LocalCVAT, dataset: fo.Dataset) -> None:
    lp.annotate(dataset, "run", **asked(server))
    with pytest.raises(ConfigurationError, match=r"has an annotation run 'run' already. .* taken are: run"):
        lp.annotate(dataset, "run", **asked(server))
    with pytest.raises(ConfigurationError, match="has no annotation run 'other'; it has: run"):
        lp.load(dataset, "other")


def test_a_field_says_its_type_and_its_classes(server: LocalCVAT, dataset: fo.Dataset) -> None:
    sample = dataset.first()
    sample["objects"] = scene_labels(0)
    sample.save()
    dataset.classes = {"objects": ["horse"]}
    dataset.save()
    assert lp.likely_types(dataset, "objects") == ("instances", "detections")
    # Spelled as for a video: the known plugin takes it, too.
    results = lp.annotate(dataset, "run", **asked(server, label_field="frames.objects", label_type=None, classes=None))
    assert results.config.label_schema["objects"]["type"] == "instances"
    assert results.config.label_schema["objects"]["classes"] == ["car", "horse", "person"]


def test_boxes_and_masks_in_one_field_are_for_the_caller_to_choose_from(server: LocalCVAT, dataset: fo.Dataset) -> None:
    first, second = dataset.limit(2)
    first["objects"] = scene_labels(0)
    second["objects"] = fo.Detections(detections=[fo.Detection(label="dog", bounding_box=[0.1, 0.1, 0.2, 0.2])])
    first.save()
    second.save()
    with pytest.raises(ConfigurationError, match=r"'objects' holds 2 instances and 1 detections\. A run annotates one"):
        lp.annotate(dataset, "run", **asked(server, label_type=None))
    assert lp.checked_labels(dataset, "objects", "detections")[1:] == ("detections", ["car", "dog", "person"])


def test_fields_of_videos_get_their_prefix(video: Path) -> None:
    videos = fo.Dataset()
    videos.add_sample(fo.Sample(str(video), weather="dry"))
    frames = videos.to_frames()
    spelled = lp.spelled_field
    assert (
        spelled(videos, "objects", "instances") == spelled(videos, "frames.objects", "detections") == "frames.objects"
    )
    assert spelled(frames, "frames.objects", "instances") == spelled(frames, "objects", "instances") == "objects"
    assert spelled(videos, "weather") == "weather"
    assert spelled(videos, "event", "classification") == "event"
    assert spelled(videos, "frames.event", "classification") == "frames.event"


def test_polygons_and_lines_are_told_apart(dataset: fo.Dataset) -> None:
    ring = [[(0.1, 0.1), (0.2, 0.1), (0.2, 0.2)]]
    sample = dataset.first()
    sample["lines"] = fo.Polylines(polylines=[fo.Polyline(label="lane", points=ring)])
    sample["areas"] = fo.Polylines(polylines=[fo.Polyline(label="road", points=ring, filled=True, closed=True)])
    sample["heat"] = fo.Heatmap()
    sample.save()
    assert lp.checked_labels(dataset, "lines") == ("lines", "polylines", ["lane"])
    assert lp.checked_labels(dataset, "areas") == ("areas", "polygons", ["road"])
    with pytest.raises(ConfigurationError, match="The field 'heat' is of Heatmap, and can't be annotated"):
        lp.checked_labels(dataset, "heat")


def test_a_run_that_was_made_again_by_another_process_is_not_taken_for_the_old_one(
    server: LocalCVAT, dataset: fo.Dataset
) -> None:
    old = lp.annotate(dataset, "run", **asked(server))
    held = dataset._annotation_cache
    dataset._annotation_cache = {}
    dataset.delete_annotation_run("run")
    lp.annotate(dataset, "run", **asked(server, label_field="other"))
    # As of a process that knows nothing of all that.
    held["run"] = old
    dataset._annotation_cache = held
    assert list(lp.run_results(dataset, "run").config.label_schema) == ["other"]


def test_of_images_and_videos_a_field_of_images_takes_the_images(server: LocalCVAT, tmp_path: Path) -> None:
    rig = camera_rig(write_media(tmp_path))
    options = asked(server, label_type=None, classes=None)
    assert [round_.tasks[0].name for round_ in lp.annotate(rig, "rig", **options).ledger.rounds] == [
        f"{rig.name} rig left"
    ]
    patches = rig.select_group_slices("left").to_patches("objects")
    (row,) = lp.annotate(patches, "patches", **{**options, "exemplars": "all", "sort_field": None}).get_status()
    assert row["frames"] == 2
    with pytest.raises(
        ConfigurationError, match=r"'objects' has its place on images, and this view of .* holds videos"
    ):
        lp.annotate(rig.group_by("half", order_by="number"), "grouped", **options)
    assert lp.run_keys(rig) == ["rig", "patches"]


def test_every_type_that_can_be_annotated_can_be_asked_for() -> None:
    assert sorted(lp.LABEL_TYPES) == sorted(LABEL_KINDS)
