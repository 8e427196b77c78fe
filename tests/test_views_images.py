"""Patches, group slices and dynamic groups, end to end."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import cv2
import fiftyone as fo
import pytest
from fiftyone import ViewField as F
from fixtures_label_types import finish_jobs
from fixtures_roundtrip import annotate_by_script, client_of, login, scene_image
from fixtures_views import (
    FRAMES,
    camera_rig,
    contents,
    is_the_scene,
    send,
    without,
    write_media,
)

from labelprop_cvat.backend.cvat import CVATClient
from labelprop_cvat.backend.local_cvat import LocalCVAT


@pytest.fixture(scope="module")
def media(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_media(tmp_path_factory.mktemp("media"))


@pytest.fixture
def rig(media: Path) -> Iterator[fo.Dataset]:
    dataset = camera_rig(media)
    yield dataset
    dataset.delete()


@pytest.fixture(scope="module")
def server() -> Iterator[LocalCVAT]:
    with LocalCVAT(anonymous_rate=None) as running:
        yield running


class TestImages:
    def test_patches(self, server: LocalCVAT, rig: fo.Dataset) -> None:
        """FiftyOne makes a view of groups of them; only the slice that they are on goes to CVAT."""
        rig.delete_group_slice("clip")
        left = rig.select_group_slices("left")
        results = send(server, left.to_patches("objects").match(F("objects.label") == "car"), "objects")
        (task,) = results.ledger.tasks()
        assert task.file_names == ["0002.png", "0004.png"]
        with client_of(server) as client:
            (job,) = task.jobs
            shapes = client.annotations(job_id=job.id)["shapes"]
            assert len(shapes) == 2
            client.delete_annotations({"tags": [], "shapes": shapes[:1], "tracks": []}, job_id=job.id)
            client.update_job(job.id, state="completed")
        before = contents(rig)
        rig.load_annotations("run")
        assert left.values("objects.detections.label") == [None, None, ["person"], None, ["person", "car"], None]
        assert left.values("objects_propagated.detections.label") == [None, None, [], None, ["car"], None]
        right = {sample.id for sample in rig.select_group_slices("right")}
        after = contents(rig)
        assert {i: entry for i, entry in after.items() if i in right} == {i: before[i] for i in right}

    def test_every_slice_is_a_task_of_its_own(self, server: LocalCVAT, rig: fo.Dataset) -> None:
        view = rig.select_group_slices(media_type="image")
        results = send(server, view, "fresh", sort_field="number", exemplars="every:5")
        left, right = results.ledger.tasks()
        assert left.file_names == ["0000.png", "0005.png"]
        assert right.file_names == ["0006.png", "0011.png"]
        annotate_by_script(server, results)
        before = contents(rig)
        rig.load_annotations("run")
        for side, offset in (("left", 0), ("right", 6)):
            samples = list(rig.select_group_slices(side).sort_by("number"))
            assert [s.number for s in samples if s.fresh is not None] == [0, 5]
            for number in (0, 5):
                assert is_the_scene(samples[number].fresh, number + offset)
            assert [len(s.fresh_propagated.detections) for s in samples] == [2] * 6
        after = contents(rig)
        assert without(after, "fresh", "fresh_propagated") == without(before)
        rig.load_annotations("run")
        assert contents(rig) == after

    def test_grouped_as_it_is(self, server: LocalCVAT, rig: fo.Dataset, caplog: pytest.LogCaptureFixture) -> None:
        """Fields of frames are only on slices that are videos; the merge reaches slices that are not active."""
        results = send(server, rig.match(F("number") == 0), "frames.fresh")
        assert "left, right left out" in caplog.text
        (task,) = results.ledger.tasks()
        assert len(task.file_names) == FRAMES
        annotate_by_script(server, results, first_number=1)
        rig.load_annotations("run")
        (clip,) = rig.select_group_slices("clip")
        assert all(is_the_scene(frame.fresh, number - 1) for number, frame in clip.frames.items())
        assert len(clip.frames) == FRAMES

    def test_grouped_images(self, server: LocalCVAT, rig: fo.Dataset) -> None:
        rig.delete_group_slice("clip")
        results = send(server, rig, "objects", sort_field="number")
        left, right = results.ledger.tasks()
        assert (left.sequence, right.sequence) == ("left", "right")
        with client_of(server) as client:
            for task in (left, right):
                assert len(client.annotations(task_id=task.id)["shapes"]) == 4
        annotate_by_script(server, results)
        ids = rig.select_group_slices(["left", "right"]).values("objects.detections.id", unwind=True)
        rig.load_annotations("run")
        view = rig.select_group_slices("right")
        assert all(is_the_scene(sample.objects, sample.number + 6) for sample in view)
        assert set(ids) <= set(rig.select_group_slices(["left", "right"]).values("objects.detections.id", unwind=True))
        assert len(rig.load_annotation_view("run")) == 6

    def test_dynamic_groups_of_a_slice(self, server: LocalCVAT, rig: fo.Dataset) -> None:
        view = rig.select_group_slices("right").group_by("half", order_by="number", reverse=True)
        results = send(server, view, "fresh", exemplars="first")
        assert sorted(task.file_names for task in results.ledger.tasks()) == [["0008.png"], ["0011.png"]]
        annotate_by_script(server, results)
        rig.load_annotations("run")
        found = {sample.number: sample.fresh for sample in rig.select_group_slices("right") if sample.fresh}
        assert sorted(found) == [2, 5]
        assert all(is_the_scene(value, number + 6) for number, value in found.items())

    def test_another_media_field(self, server: LocalCVAT, rig: fo.Dataset, tmp_path: Path) -> None:
        """The pictures of another field are shown; labels stay with their samples."""
        left = rig.select_group_slices("left")
        for sample in left:
            path = tmp_path / f"{11 - sample.number:04d}.png"
            cv2.imwrite(str(path), scene_image(11 - sample.number))
            sample["other_path"] = str(path)
            sample.save()
        results = send(server, left, "fresh", sort_field="number", media_field="other_path")
        (task,) = results.ledger.tasks()
        assert task.file_names == [f"{11 - number:04d}.png" for number in range(6)]
        annotate_by_script(server, results)
        rig.load_annotations("run")
        assert all(is_the_scene(sample.fresh, 11 - sample.number) for sample in left)

    def test_clips_and_frames_of_a_slice(self, server: LocalCVAT, rig: fo.Dataset) -> None:
        """The merge, and what is mended after it, find samples of slices that are not active."""
        clips = rig.select_group_slices("clip").to_clips([[(3, 4), (9, 10)]])
        results = send(server, clips, "frames.fresh")
        annotate_by_script(server, results, first_number=1)
        rig.load_annotations("run")
        (clip,) = rig.select_group_slices("clip")
        assert sorted(clip.frames) == [3, 4, 9, 10]
        assert all(is_the_scene(frame.fresh, number - 1) for number, frame in clip.frames.items())
        assert {label.index for frame in clip.frames.values() for label in frame.fresh.detections} == {1, 2}
        frames = rig.select_group_slices("clip").to_frames(sample_frames="dynamic", sparse=True).skip(1)
        results = send(server, frames, "fresh", key="again")
        annotate_by_script(server, results, first_number=1)
        before = contents(rig)
        rig.load_annotations("again")
        after = contents(rig)
        assert without(after, "fresh_propagated") == without(before, "fresh_propagated")

    def test_values_of_a_slice_that_is_not_active(self, server: LocalCVAT, rig: fo.Dataset) -> None:
        rig.delete_group_slice("clip")
        right = rig.select_group_slices("right")
        rig.add_sample_field("mood", fo.StringField)
        right.set_values("mood", ["a", "b", "c", None, "e", "f"])
        schema = {"mood": {"type": "scalar"}, "kind": {"type": "classification", "classes": ["x", "y"]}}
        results = right.annotate("run", backend="labelprop", label_schema=schema, engine="none", **login(server))

        def edit(client: CVATClient, job_id: int) -> None:
            tags = client.annotations(job_id=job_id)["tags"]
            assert len(tags) == 5
            changed = [{**t, "attributes": [{**a, "value": "new"} for a in t["attributes"]]} for t in tags[:2]]
            client.update_annotations({"tags": changed, "shapes": [], "tracks": []}, job_id=job_id)
            client.delete_annotations({"tags": tags[4:], "shapes": [], "tracks": []}, job_id=job_id)

        finish_jobs(server, results, edit)
        rig.load_annotations("run")
        assert right.values("mood") == ["new", "new", "c", None, "e", None]
        assert rig.select_group_slices("left").values("mood") == [None] * 6
