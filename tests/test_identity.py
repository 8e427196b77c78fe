"""Who an object is after edits that no recording shows: in two jobs, before any load, on videos, across a kill."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fiftyone as fo
import numpy as np
import pytest
from fixtures_roundtrip import client_of, login, video_dataset, write_video
from fixtures_ui_edits import KEY, Desk, FrameFiles, box_track, desk_for, empty, together

import labelprop_cvat  # noqa: F401 - registers the backend
from labelprop_cvat.backend import results as results_module
from labelprop_cvat.backend.cvat import mask_to_points
from labelprop_cvat.backend.local_cvat import LocalCVAT

BOX = [100, 100, 200, 180]
ELSEWHERE = [400, 300, 460, 380]
OUTLINE = [100, 100, 200, 100, 200, 180]


@pytest.fixture(scope="module")
def server() -> Iterator[LocalCVAT]:
    with LocalCVAT(anonymous_rate=None) as running:
        yield running


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> FrameFiles:
    return FrameFiles(tmp_path_factory.mktemp("frames"))


@pytest.fixture(autouse=True)
def _quiet(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fo.config, "show_progress_bars", False)


class Killed(BaseException):
    """Stands for a process that dies: no ``except Exception`` sees it."""


def tracks(*entries: dict[str, Any]) -> dict[str, list[dict[str, Any]]]:
    return {**empty(), "tracks": list(entries)}


def shapes(*entries: dict[str, Any]) -> dict[str, list[dict[str, Any]]]:
    return {**empty(), "shapes": list(entries)}


def ended(track: dict[str, Any], frame: int) -> dict[str, Any]:
    """A track with an ``outside`` keyframe more."""
    last = {**track["shapes"][-1], "frame": frame, "outside": True}
    return {**track, "shapes": sorted([*track["shapes"], last], key=lambda shape: int(shape["frame"]))}


def a_mask(number: int, index: int, frame: int, left: int = 10) -> dict[str, Any]:
    track = box_track(number, index, [frame], mask_to_points(left, 20, np.ones((12, 9), bool)))
    (shape,) = track.pop("shapes")
    return {**shape, **track, "type": "mask", "frame": frame, "attributes": {**track["attributes"], "note": ""}}


def a_box(number: int, index: int, frame: int, points: list[float]) -> dict[str, Any]:
    track = box_track(number, index, [frame], points)
    (shape,) = track.pop("shapes")
    return {**shape, **track, "attributes": {**track["attributes"], "note": ""}}


def split(track: dict[str, Any], frame: int, *, first: int, second: int) -> dict[str, list[dict[str, Any]]]:
    """What CVAT makes of a track that is split on a frame: two new ones of no group."""
    cut = {**track["shapes"][0], "frame": frame}
    before = [shape for shape in track["shapes"] if shape["frame"] < frame]
    after = [shape for shape in track["shapes"] if shape["frame"] > frame and not shape["outside"]]
    common = {**track, "group": 0, "source": "manual"}
    return tracks(
        {**common, "id": first, "shapes": [*before, {**cut, "outside": True}]},
        {**common, "id": second, "frame": frame, "shapes": [cut, *after]},
    )


def ids(desk: Desk, index: int, field: str = "boxes") -> dict[int, str]:
    return {number: label.id for number, label in desk.track(index, field).items()}


def instances(desk: Desk, index: int, field: str = "boxes") -> set[str]:
    return {str(label.instance.id) for label in desk.track(index, field).values()}


def settled(desk: Desk) -> None:
    """Loads, and checks that another load changes nothing."""
    desk.load()
    everything = desk.everything()
    desk.load()
    assert desk.everything() == everything


# --- several jobs --------------------------------------------------------------------------------------------------


def test_an_object_in_two_jobs_that_is_split_in_one(server: LocalCVAT, files: FrameFiles) -> None:
    """Which of the parts the other job shows nobody said, so it stays who it was."""
    track = box_track(1, 1, [0, 1, 2, 3, 4, 5, 6, 7], BOX)
    here = {**track, "shapes": track["shapes"][:4]}
    with desk_for(server, files, tracks(track), segmentation="fixed:4", unaligned=True) as desk:
        before, instance = ids(desk, 1), instances(desk, 1)
        assert len(instance) == 1
        desk.ids[1] = desk.annotations()["tracks"][0]["id"]
        desk.delete(tracks(here))
        desk.draw(split(here, 2, first=11, second=12))
        settled(desk)
        assert ids(desk, 1) == {number: before[number] for number in (0, 1, 4, 5, 6, 7)}
        assert ids(desk, 2) == {number: before[number] for number in (2, 3)}
        assert instances(desk, 1) == instance
        assert instances(desk, 2) != instance
        assert len(instances(desk, 2)) == 1


def test_an_object_in_two_jobs_that_is_renumbered_in_one(server: LocalCVAT, files: FrameFiles) -> None:
    track = box_track(1, 1, [0, 1, 4, 5], BOX)
    with desk_for(server, files, tracks(track), segmentation="fixed:2", unaligned=True) as desk:
        instance = instances(desk, 1)
        desk.ids[1] = desk.annotations()["tracks"][0]["id"]
        here = {**track, "shapes": track["shapes"][:2], "attributes": {**track["attributes"], "index": "7"}}
        desk.change(tracks(here))
        settled(desk)
        assert (sorted(ids(desk, 7)), sorted(ids(desk, 1))) == ([0, 1], [4, 5])
        assert instances(desk, 1) == instance
        assert not instances(desk, 7) & instance


def test_an_object_in_two_jobs_that_is_deleted_and_restored_in_one(server: LocalCVAT, files: FrameFiles) -> None:
    track = box_track(1, 1, [0, 1, 4, 5], BOX)
    with desk_for(server, files, tracks(track), segmentation="fixed:2", unaligned=True) as desk:
        before = desk.everything()
        desk.ids[1] = desk.annotations()["tracks"][0]["id"]
        here = {**track, "shapes": track["shapes"][:2]}
        desk.delete(tracks(here))
        desk.draw(tracks({**here, "id": 11}))
        desk.load()
        assert desk.everything() == before


# --- parts, copies and what comes back -----------------------------------------------------------------------------


@pytest.mark.parametrize("index", [0, 6])
def test_a_track_that_was_drawn_and_split_before_anybody_looked(
    server: LocalCVAT, files: FrameFiles, index: int
) -> None:
    track = box_track(1, index, [0, 2, 4, 6], BOX)
    halves = split(track, 4, first=11, second=12)
    beside = tracks(box_track(90, 3, [0, 6], ELSEWHERE))
    with desk_for(server, files, beside, tracks(track), sent=[90]) as desk:
        desk.draw(halves)
        settled(desk)
        found = {label.index for labels in desk.labels().values() for label in labels.values()} - {3}
        first, second = sorted(found, key=lambda number: min(ids(desk, number)))
        assert (sorted(ids(desk, first)), sorted(ids(desk, second))) == ([0, 2], [4, 6])
        assert first == 6 or not index
        assert not instances(desk, first) & instances(desk, second)


def test_what_was_deleted_loaded_and_restored_is_the_object_again(server: LocalCVAT, files: FrameFiles) -> None:
    track = box_track(1, 4, [0, 2, 4], BOX)
    with desk_for(server, files, tracks(track, box_track(90, 5, [0, 2, 4], ELSEWHERE))) as desk:
        instance = instances(desk, 4)
        desk.delete(tracks(track))
        desk.load()
        assert not desk.track(4)
        desk.draw(tracks({**track, "id": 11}))
        settled(desk)
        assert sorted(ids(desk, 4)) == [0, 2, 4]
        assert instances(desk, 4) == instance


def test_masks_propagated_onto_free_frames_are_the_object(server: LocalCVAT, files: FrameFiles) -> None:
    there = [a_mask(1, 2, 0), a_mask(2, 2, 1)]
    copies = [a_mask(11, 2, 2), a_mask(12, 2, 3)]
    with desk_for(server, files, shapes(*there), shapes(*copies)) as desk:
        instance = instances(desk, 2, "masks")
        path = f"/api/jobs/{desk.job.id}/data/meta"
        desk.client._session.json("PATCH", path, json={"deleted_frames": [3]})
        desk.draw(shapes(*copies))
        settled(desk)
        assert sorted(ids(desk, 2, "masks")) == [0, 1, 2]
        assert instances(desk, 2, "masks") == instance
        desk.client._session.json("PATCH", path, json={"deleted_frames": []})
        settled(desk)
        assert sorted(ids(desk, 2, "masks")) == [0, 1, 2, 3]
        assert instances(desk, 2, "masks") == instance


def test_a_number_that_is_given_away_takes_no_label_along(server: LocalCVAT, files: FrameFiles) -> None:
    track = box_track(1, 5, [0, 1], BOX)
    with desk_for(server, files, tracks(track)) as desk:
        before, instance = ids(desk, 5), instances(desk, 5)
        desk.change(tracks({**track, "attributes": {**track["attributes"], "index": "8"}}))
        desk.draw(shapes(a_box(11, 5, 0, ELSEWHERE)))
        settled(desk)
        assert ids(desk, 8) == before
        assert set(ids(desk, 5)) == {0}
        assert ids(desk, 5)[0] not in before.values()
        assert len(instances(desk, 8)) == len(instances(desk, 5)) == 1
        assert instances(desk, 5) != instances(desk, 8)
        assert instance in (instances(desk, 5), instances(desk, 8))


def test_a_number_that_is_free_again_is_no_link_to_who_had_it(server: LocalCVAT, files: FrameFiles) -> None:
    track = box_track(1, 5, [0, 1], BOX)
    with desk_for(server, files, tracks(track)) as desk:
        instance = instances(desk, 5)
        desk.change(tracks({**track, "attributes": {**track["attributes"], "index": "8"}}))
        desk.load()
        assert instances(desk, 8) == instance
        desk.draw(tracks(box_track(11, 5, [0, 1], ELSEWHERE)))
        settled(desk)
        assert not instances(desk, 5) & instance


def test_a_mask_on_a_frame_between_the_keyframes_of_a_polygon_corrects_it(server: LocalCVAT, files: FrameFiles) -> None:
    polygon = box_track(11, 3, [0, 4], OUTLINE)
    for shape in polygon["shapes"]:
        shape["type"] = "polygon"
    with desk_for(server, files, shapes(a_mask(1, 1, 0), a_mask(2, 1, 2), a_mask(3, 1, 4))) as desk:
        desk.fields["polygon"] = "masks"
        desk.draw(together(tracks(polygon), shapes(a_mask(12, 3, 2, left=300))))
        settled(desk)
        assert sorted(ids(desk, 3, "masks")) == [0, 2, 4]
        assert len(instances(desk, 3, "masks")) == 1


# --- ends ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["grouped", "deleted and restored", "given an attribute"])
def test_where_labels_end_is_no_word_of_a_person(server: LocalCVAT, files: FrameFiles, how: str) -> None:
    """Between two labels the upload ends a track; what happens to the track as a whole makes that no absence."""
    track, other = box_track(1, 1, [0, 4], BOX), box_track(90, 2, [0, 2, 4, 6], ELSEWHERE)
    with desk_for(server, files, tracks(track, other), engine="interpolate", unaligned=True) as desk:
        assert sorted(desk.track(1, "boxes_propagated")) == [0, 2, 4, 6]
        there = next(t for t in desk.annotations()["tracks"] if len(t["shapes"]) == 4 and t["shapes"][1]["outside"])
        body: dict[str, Any] = {**empty(), "tracks": [there]}
        if how == "deleted and restored":
            desk.client.delete_annotations(body, job_id=desk.job.id)
            desk.client.create_annotations({**empty(), "tracks": [without_ids(there)]}, job_id=desk.job.id)
        else:
            if how == "grouped":
                there["group"] = 7
            else:
                verdict = desk.task.labels["car"].attributes["verdict"]
                values = [a for a in there["attributes"] if a["spec_id"] != verdict]
                there["attributes"] = [*values, {"spec_id": verdict, "value": "fix"}]
            desk.client.update_annotations(body, job_id=desk.job.id)
        settled(desk)
        assert sorted(desk.track(1, "boxes_propagated")) == [0, 2, 4, 6]
        assert sorted(desk.track(1)) == [0, 4]


def test_an_end_holds_until_a_keyframe_that_a_person_touched(server: LocalCVAT, files: FrameFiles) -> None:
    track = box_track(1, 1, range(8), BOX)
    over = {**track, "shapes": [dict(shape) for shape in track["shapes"]]}
    over["shapes"][2]["outside"] = True
    over["shapes"][5]["points"] = ELSEWHERE
    with desk_for(server, files, tracks(track), engine="interpolate") as desk:
        before = ids(desk, 1)
        desk.change(tracks(over))
        settled(desk)
        assert sorted(desk.track(1, "boxes_propagated")) == [0, 1, 5, 6, 7]
        assert ids(desk, 1) == {number: label for number, label in before.items() if number != 2}


def test_labels_that_a_person_made_are_not_ended_by_an_earlier_end(server: LocalCVAT, files: FrameFiles) -> None:
    """Keyframes of an earlier run are a person's word already."""
    track = box_track(1, 1, range(6), BOX)
    over = {**track, "shapes": [dict(shape) for shape in track["shapes"]]}
    over["shapes"][2]["outside"] = True
    with desk_for(server, files, tracks(track), engine="interpolate", confirmed=True) as desk:
        desk.change(tracks(over))
        settled(desk)
        assert sorted(desk.track(1, "boxes_propagated")) == [0, 1, 3, 4, 5]


# --- what may not be changed, videos, kills ------------------------------------------------------------------------


def test_a_mask_that_is_restored_and_renumbered_in_one_stroke(server: LocalCVAT, files: FrameFiles) -> None:
    there = [a_mask(1, 2, 0), a_mask(2, 2, 1)]
    with desk_for(server, files, shapes(*there)) as desk:
        before = ids(desk, 2, "masks")
        desk.delete(shapes(there[1]))
        again = {**there[1], "id": 11}
        again["attributes"] = {**again["attributes"], "index": "9"}
        desk.draw(shapes(again))
        settled(desk)
        assert {**ids(desk, 2, "masks"), **ids(desk, 9, "masks")} == before
        assert sorted(ids(desk, 9, "masks")) == [1]
        assert not instances(desk, 2, "masks") & instances(desk, 9, "masks")


def test_a_split_of_which_the_process_died_before_it_was_noted(
    server: LocalCVAT, files: FrameFiles, monkeypatch: pytest.MonkeyPatch
) -> None:
    track = box_track(1, 1, [0, 2, 4, 6], BOX, group=3)
    with desk_for(server, files, tracks(track)) as desk:
        before, instance = ids(desk, 1), instances(desk, 1)
        desk.delete(tracks(track))
        desk.draw(split(track, 4, first=11, second=12))

        def die(*args: Any, **kwargs: Any) -> None:
            raise Killed

        with monkeypatch.context() as patch:
            patch.setattr(results_module, "finish_merge", die)
            with pytest.raises(Killed):
                desk.load()
        settled(desk)
        assert ids(desk, 1) == {number: before[number] for number in (0, 2)}
        assert ids(desk, 2) == {number: before[number] for number in (4, 6)}
        assert instances(desk, 1) == instance
        assert not instances(desk, 2) & instance
        assert {label.team for index in (1, 2) for label in desk.track(index).values()} == {3}


def test_a_split_that_is_loaded_into_another_field_first(server: LocalCVAT, files: FrameFiles) -> None:
    track = box_track(1, 1, [0, 2, 4, 6], BOX)
    with desk_for(server, files, tracks(track)) as desk:
        before = ids(desk, 1)
        desk.delete(tracks(track))
        desk.draw(split(track, 4, first=11, second=12))
        desk.dataset.load_annotations(KEY, dest_field="corrected")
        assert ids(desk, 1) == before
        assert (sorted(ids(desk, 1, "corrected")), sorted(ids(desk, 2, "corrected"))) == ([0, 2], [4, 6])
        settled(desk)
        assert ids(desk, 1) == {number: before[number] for number in (0, 2)}
        assert ids(desk, 2) == {number: before[number] for number in (4, 6)}


def a_video(server: LocalCVAT, path: Path, **options: Any) -> tuple[fo.Dataset, Any, Any]:
    """A run on a video with one object on each of its six frames; its task and job."""
    dataset = video_dataset(write_video(path, 6))
    sample = dataset.first()
    for number in range(1, 7):
        label = fo.Detection(label="car", index=3, bounding_box=[0.2, 0.2, 0.3, 0.3], confidence=0.5)
        sample.frames[number] = fo.Frame(boxes=fo.Detections(detections=[label]))
    sample.save()
    dataset.annotate(
        KEY,
        backend="labelprop",
        label_field="frames.boxes",
        label_type="detections",
        classes=["car"],
        segmentation="none",
        exemplars="every:1",
        engine="none",
        **options,
        **login(server),
    )
    (task,) = dataset.load_annotation_results(KEY).ledger.tasks()
    (job,) = task.jobs
    return dataset, task, job


def labels_of_video(dataset: fo.Dataset) -> dict[int, fo.Detection]:
    frames = dataset.first().frames
    return {number: found for number in range(1, 7) for found in frames[number].boxes.detections}


def without_ids(track: dict[str, Any]) -> dict[str, Any]:
    plain = {name: value for name, value in track.items() if name != "id"}
    plain["shapes"] = [{name: value for name, value in shape.items() if name != "id"} for shape in track["shapes"]]
    return plain


def test_a_restored_track_whose_number_may_not_be_edited(server: LocalCVAT, tmp_path: Path) -> None:
    dataset, task, job = a_video(server, tmp_path / "video.mp4", allow_index_edits=False)
    with client_of(server) as client:
        client.update_job(job.id, state="completed")
        dataset.load_annotations(KEY)
        before = {number: (label.id, label.index) for number, label in labels_of_video(dataset).items()}
        (track,) = client.annotations(job_id=job.id)["tracks"]
        client.delete_annotations({**empty(), "tracks": [track]}, job_id=job.id)
        again = {
            **without_ids(track),
            "attributes": [{"spec_id": task.labels["car"].attributes["index"], "value": "8"}],
        }
        client.create_annotations({**empty(), "tracks": [again]}, job_id=job.id)
        for _ in range(2):
            dataset.load_annotations(KEY)
            now = labels_of_video(dataset)
            assert {number: (label.id, label.index) for number, label in now.items()} == before


def test_a_track_on_a_video_is_split_and_merged_again(server: LocalCVAT, tmp_path: Path) -> None:
    dataset, _, job = a_video(server, tmp_path / "video.mp4")
    with client_of(server) as client:
        client.update_job(job.id, state="completed")
        dataset.load_annotations(KEY)
        before = {number: (label.id, str(label.instance.id)) for number, label in labels_of_video(dataset).items()}
        (track,) = client.annotations(job_id=job.id)["tracks"]
        plain = without_ids(track)
        keyframes = plain["shapes"]
        halves = [
            {**plain, "shapes": [*keyframes[:3], {**keyframes[3], "outside": True}]},
            {**plain, "frame": 3, "shapes": keyframes[3:]},
        ]
        client.delete_annotations({**empty(), "tracks": [track]}, job_id=job.id)
        made = client.create_annotations({**empty(), "tracks": halves}, job_id=job.id)
        dataset.load_annotations(KEY)
        after = labels_of_video(dataset)
        assert {number: label.id for number, label in after.items()} == {n: label for n, (label, _) in before.items()}
        assert [label.index for label in after.values()] == [3, 3, 3, 4, 4, 4]
        assert [str(after[n].instance.id) == before[n][1] for n in range(1, 7)] == [True] * 3 + [False] * 3
        client.delete_annotations({**empty(), "tracks": made["tracks"]}, job_id=job.id)
        client.create_annotations({**empty(), "tracks": [plain]}, job_id=job.id)
        dataset.load_annotations(KEY)
        merged = labels_of_video(dataset)
        assert {number: (label.id, str(label.instance.id)) for number, label in merged.items()} == before
        assert {(label.index, label.confidence) for label in merged.values()} == {(3, 0.5)}


def test_an_outline_of_several_that_was_deleted_and_restored(server: LocalCVAT, files: FrameFiles) -> None:
    ring = [(0.1, 0.1), (0.3, 0.1), (0.3, 0.3)]
    other = [(0.5, 0.5), (0.7, 0.5), (0.7, 0.7)]
    polygon = box_track(90, 4, [0, 1], OUTLINE)
    for shape in polygon["shapes"]:
        shape["type"] = "polygon"

    def with_two_rings(dataset: fo.Dataset) -> None:
        for sample in dataset:
            label = fo.Polyline(label="car", index=2, points=[ring, other], closed=True, filled=True, confidence=0.25)
            sample.outlines.polylines.append(label)
            sample.save()

    with desk_for(server, files, tracks(polygon), prepare=with_two_rings) as desk:
        before = desk.everything()
        gone = desk.annotations()["shapes"][-1]
        body: dict[str, Any] = {**empty(), "shapes": [gone]}
        desk.client.delete_annotations(body, job_id=desk.job.id)
        plain = {k: v for k, v in gone.items() if k != "id"}
        desk.client.create_annotations({**empty(), "shapes": [plain]}, job_id=desk.job.id)
        settled(desk)
        assert desk.everything() == before
