"""Clips, frames and other views of videos, end to end: labels reach the right frames, and nothing else changes."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cv2
import fiftyone as fo
import numpy as np
import pytest
from fiftyone import ViewField as F
from fixtures_label_types import MAKERS, content, finish_jobs, schema_of
from fixtures_roundtrip import annotate_by_script, client_of, login, scene_image, write_video
from fixtures_views import (
    FRAMES,
    contents,
    filled,
    is_the_scene,
    labelled_videos,
    send,
    without,
    write_media,
)

from labelprop_cvat.backend.cvat import CVATClient
from labelprop_cvat.backend.local_cvat import LocalCVAT
from labelprop_cvat.errors import ConfigurationError, DataError


@pytest.fixture(scope="module")
def media(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_media(tmp_path_factory.mktemp("media"))


@pytest.fixture
def videos(media: Path) -> Iterator[fo.Dataset]:
    dataset = labelled_videos(media)
    yield dataset
    dataset.delete()


@pytest.fixture(scope="module")
def server() -> Iterator[LocalCVAT]:
    with LocalCVAT(anonymous_rate=None) as running:
        yield running


VIDEO_VIEWS: dict[str, tuple[Callable[[fo.Dataset], Any], str, dict[str, list[int]]]] = {
    "videos": (lambda d: d, "frames.fresh", {"a": [*range(1, 13)], "b": [*range(1, 13)]}),
    "match_frames": (lambda d: d.match_frames(F("objects").exists()), "frames.fresh", {"a": [2, 5, 8, 11], "b": []}),
    "clips of events": (lambda d: d.to_clips("events"), "frames.fresh", {"a": [2, 3, 4, 5, 8, 9, 10, 11], "b": []}),
    "clips by hand": (
        lambda d: d.to_clips([[(3, 4)], [(1, 2), (12, 12)]]),
        "frames.fresh",
        {"a": [3, 4], "b": [1, 2, 12]},
    ),
    "clips of frames": (
        lambda d: d.to_clips("events").match_frames(F("frame_number") > 4),
        "frames.fresh",
        {"a": [5, 8, 11], "b": []},
    ),
    "trajectories": (lambda d: d.to_trajectories("frames.objects"), "frames.fresh", {"a": [*range(2, 12)], "b": []}),
    "frames": (
        lambda d: d.to_frames(sample_frames="dynamic").match((F("frame_number") % 4) == 1),
        "fresh",
        {"a": [1, 5, 9], "b": [1, 5, 9]},
    ),
    "sparse frames": (
        lambda d: d.to_frames(sample_frames="dynamic", sparse=True)[1:3],
        "fresh",
        {"a": [5, 8], "b": []},
    ),
    "frames of clips": (
        lambda d: d.to_clips("events").to_frames(sample_frames="dynamic").limit(5),
        "fresh",
        {"a": [2, 3, 4, 5, 8], "b": []},
    ),
}


class TestVideos:
    @pytest.mark.parametrize("kind", VIDEO_VIEWS)
    def test_a_new_field_reaches_the_frames_of_the_view(self, server: LocalCVAT, videos: fo.Dataset, kind: str) -> None:
        make, field, expected = VIDEO_VIEWS[kind]
        before = contents(videos)
        view = make(videos)
        made = without(contents(videos))
        results = send(server, view, field)
        annotate_by_script(server, results, first_number=1)
        videos.load_annotations("run")
        assert filled(videos, "fresh") == expected
        for sample in videos:
            for number in expected[sample["name"]]:
                frame = sample.frames[number]
                assert is_the_scene(frame.fresh, number - 1)
                assert is_the_scene(frame.fresh_propagated, number - 1)
                assert [label.index for label in frame.fresh.detections] == [1, 2]
        assert filled(videos, "fresh_propagated") == expected
        assert videos.get_field("fresh") is None
        after = contents(videos)
        assert without(after, "fresh", "fresh_propagated", "objects") == without(made, "objects")
        assert {k: e["objects"] for k, e in after.items() if "objects" in e} == {
            k: e["objects"] for k, e in before.items() if "objects" in e
        }
        videos.load_annotations("run")
        assert contents(videos) == after
        again = videos.load_annotation_view("run")
        assert type(again.view()) is type(view.view())
        assert len(again) == len(view)


def existing(dataset: fo.Dataset) -> dict[str, tuple[int, str, Any]]:
    """The labels of ``frames.objects`` by id: frame number, class and what else is known of them."""
    return {
        label.id: (number, label.label, label)
        for sample in dataset
        for number, frame in sample.frames.items()
        for label in (frame.objects.detections if frame.objects else ())
    }


EXISTING_VIEWS: dict[str, tuple[Callable[[fo.Dataset], Any], str, list[int]]] = {
    "clips": (lambda d: d.to_clips("events").match(F("events.label") == "late"), "frames.objects", [8, 11]),
    "frames": (lambda d: d.to_frames(sample_frames="dynamic", sparse=True)[1:3], "objects", [5, 8]),
    "match_frames": (lambda d: d.match_frames(F("frame_number").is_in([5, 6, 11])), "frames.objects", [5, 11]),
    "cars in clips": (
        lambda d: d.to_clips("events").filter_labels("frames.objects", F("label") == "car"),
        "frames.objects",
        [2, 5, 8, 11],
    ),
    "cars on frames": (
        lambda d: d.to_frames(sample_frames="dynamic").filter_labels("objects", F("label") == "car"),
        "objects",
        [2, 5, 8, 11],
    ),
    "selected": (
        lambda d: d.select_labels(
            ids=[i for i, (n, name, _) in existing(d).items() if name == "car" and n > 4], fields="frames.objects"
        ),
        "frames.objects",
        [5, 8, 11],
    ),
}


class TestExistingLabels:
    @pytest.mark.parametrize("kind", EXISTING_VIEWS)
    def test_only_what_the_view_shows_is_edited(self, server: LocalCVAT, videos: fo.Dataset, kind: str) -> None:
        make, field, numbers = EXISTING_VIEWS[kind]
        before = existing(videos)
        only_cars = "cars" in kind or kind == "selected"
        shown = {i for i, (n, name, _) in before.items() if n in numbers and (name == "car" or not only_cars)}
        results = send(server, make(videos), field)
        sent = edited = deleted = 0
        (record,) = results.ledger.sequences.values()
        with client_of(server) as client:
            for task, job in results.ledger.jobs():
                frames = [record.frame_numbers[position] for position in task.positions()]
                shapes = client.annotations(job_id=job.id)["shapes"]
                gone = [s for s in shapes if frames[s["frame"]] == numbers[-1]]
                kept = [{**s, "points": moved(s["points"])} for s in shapes if frames[s["frame"]] == numbers[0]]
                client.update_annotations({"tags": [], "shapes": kept, "tracks": []}, job_id=job.id)
                client.delete_annotations({"tags": [], "shapes": gone, "tracks": []}, job_id=job.id)
                sent, edited, deleted = sent + len(shapes), edited + len(kept), deleted + len(gone)
                client.update_job(job.id, state="completed")
        assert sent == len(shown)
        assert edited == deleted == (1 if only_cars else 2)
        videos.load_annotations("run")
        after = existing(videos)
        gone = {i for i in shown if before[i][0] == numbers[-1]}
        assert before.keys() - after.keys() == gone
        assert not after.keys() - before.keys()
        for label_id, (number, name, label) in after.items():
            old = before[label_id][2]
            assert (number, name, label.index, label.mood) == (*before[label_id][:2], old.index, "calm")
            is_moved = label_id in shown and number == numbers[0]
            assert (label.bounding_box != old.bounding_box) is is_moved
            assert np.array_equal(label.mask, old.mask)
        assert videos.get_field("objects") is None
        contents_then = contents(videos)
        videos.load_annotations("run")
        assert contents(videos) == contents_then


def moved(points: list[float]) -> list[float]:
    """A mask's runs and box, one pixel lower."""
    return [*points[:-3], points[-3] + 1, points[-2], points[-1] + 1]


def test_loading_into_another_field(server: LocalCVAT, videos: fo.Dataset) -> None:
    before = existing(videos)
    view = videos.to_frames(sample_frames="dynamic").match(F("frame_number") < 6)
    results = send(server, view, "objects")
    annotate_by_script(server, results, first_number=1)
    with pytest.raises(ConfigurationError, match=r"dest_field='frames\.theirs'"):
        videos.load_annotations("run", dest_field="theirs")
    with pytest.raises(
        ConfigurationError, match=r"names 'objects', which this run does not annotate.*'frames\.objects'"
    ):
        videos.load_annotations("run", dest_field={"objects": "frames.theirs"})
    assert videos.get_field("theirs") is None
    videos.load_annotations("run", dest_field="frames.theirs")
    assert filled(videos, "theirs") == {"a": [1, 2, 3, 4, 5], "b": [1, 2, 3, 4, 5]}
    assert {i: (n, name) for i, (n, name, _) in existing(videos).items()} == {
        i: (n, name) for i, (n, name, _) in before.items()
    }


def test_the_field_that_clips_are_made_of_is_none_to_annotate(server: LocalCVAT, videos: fo.Dataset) -> None:
    before = contents(videos)
    with pytest.raises(ConfigurationError, match=r"'events' of .* is a field of fo\.TemporalDetections"):
        send(server, videos.to_clips("events"), "events", label_type="classification", classes=["early", "late"])
    assert contents(videos) == before
    assert videos.list_annotation_runs() == []


def test_frame_limits_end_to_end(server: LocalCVAT, videos: fo.Dataset) -> None:
    paths = videos.values("filepath")
    limits = {"frame_start": {paths[0]: 2}, "frame_stop": 9, "frame_step": [3, 4]}
    results = send(server, videos, "frames.fresh", **limits)
    first, second = results.ledger.tasks()
    assert first.file_names == ["frame_000003.jpg", "frame_000006.jpg", "frame_000009.jpg"]
    assert second.file_names == ["frame_000001.jpg", "frame_000005.jpg", "frame_000009.jpg"]
    annotate_by_script(server, results, first_number=1)
    stored = videos.load_annotation_results("run", cache=False)
    assert stored.config.frame_start == {paths[0]: 2}
    videos.load_annotations("run")
    assert filled(videos, "fresh") == {"a": [3, 6, 9], "b": [1, 5, 9]}
    assert filled(videos, "fresh_propagated") == {"a": [*range(3, 13)], "b": [*range(1, 13)]}
    with pytest.raises(ConfigurationError, match="frame_step is a whole number from 1"):
        send(server, videos, "frames.other", key="again", frame_step=0)
    with pytest.raises(ConfigurationError, match=r"no sample of .* has that file"):
        send(server, videos, "frames.other", key="again", frame_stop={"elsewhere.mp4": 3})
    with pytest.raises(DataError, match="no frame was chosen"):
        send(server, videos, "frames.other", key="again", frame_start=12)
    assert videos.list_annotation_runs() == ["run"]


GENERATED: dict[str, tuple[Callable[[fo.Dataset], Any], str]] = {
    "clips": (lambda d: d.to_clips("events"), "frames."),
    "frames": (lambda d: d.to_frames(sample_frames="dynamic", sparse=True), ""),
}


class Killed(BaseException):
    """Stands for a process that dies: no ``except Exception`` sees it."""


class TestGeneratedViews:
    """What a run keeps between two sessions is of the source dataset, not of FiftyOne's temporary one."""

    @pytest.mark.parametrize("kind", GENERATED)
    def test_loading_in_another_session(self, server: LocalCVAT, videos: fo.Dataset, kind: str) -> None:
        make, prefix = GENERATED[kind]
        results = send(server, make(videos), f"{prefix}fresh")
        annotate_by_script(server, results, first_number=1)
        videos._annotation_cache.clear()
        videos.persistent = True
        videos.load_annotations("run", **login(server))
        assert filled(videos, "fresh")["a"] == ([2, 5, 8, 11] if kind == "frames" else [2, 3, 4, 5, 8, 9, 10, 11])
        rows = videos.load_annotation_results("run", cache=False, **login(server)).get_status()
        assert all(row["collected"] and row["propagated"] for row in rows)
        assert videos.get_annotation_info("run").config.label_schema.keys() == {"frames.fresh"}

    @pytest.mark.parametrize("kind", GENERATED)
    def test_a_killed_upload_goes_on(
        self, server: LocalCVAT, videos: fo.Dataset, monkeypatch: pytest.MonkeyPatch, kind: str
    ) -> None:
        make, prefix = GENERATED[kind]

        def dies(self: CVATClient, *args: Any, **kwargs: Any) -> Any:
            raise Killed

        with monkeypatch.context() as patch:
            patch.setattr(CVATClient, "upload_images", dies)
            with pytest.raises(Killed):
                send(server, make(videos), f"{prefix}objects")
        videos._annotation_cache.clear()
        results = send(server, make(videos), f"{prefix}objects")
        (task,) = results.ledger.tasks()
        with client_of(server) as client:
            assert [found.id for found in client.find_tasks(task.name)] == [task.id]
            assert len(client.annotations(task_id=task.id)["shapes"]) == 8
        annotate_by_script(server, results, first_number=1)
        before = existing(videos)
        videos.load_annotations("run")
        assert existing(videos).keys() >= before.keys()

    @pytest.mark.parametrize("kind", GENERATED)
    def test_a_field_with_boxes_and_masks(
        self, server: LocalCVAT, videos: fo.Dataset, tmp_path: Path, kind: str
    ) -> None:
        """FiftyOne filters such a field by type; masks in files count as masks all the same, and boxes stay at home."""
        make, prefix = GENERATED[kind]
        sample = videos.first()
        box = fo.Detection(label="car", bounding_box=[0.5, 0.5, 0.2, 0.2], index=7)
        sample.frames[5].objects.detections.append(box)
        for label in sample.frames[8].objects.detections:
            label.export_mask(str(tmp_path / f"{label.index}.png"), update=True)
        sample.save()
        before = existing(videos)
        results = send(server, make(videos), f"{prefix}objects")
        with client_of(server) as client:
            (task,) = results.ledger.tasks()
            assert len(client.annotations(task_id=task.id)["shapes"]) == 8
        annotate_by_script(server, results, first_number=1)
        videos.load_annotations("run")
        after = existing(videos)
        assert before.keys() <= after.keys()
        assert [label.bounding_box for _, _, label in after.values() if label.index == 7] == [[0.5, 0.5, 0.2, 0.2]]

    def test_a_class_for_the_whole_video(self, server: LocalCVAT, videos: fo.Dataset) -> None:
        videos.set_values("weather", [fo.Classification(label="rain"), None])
        schema = {"weather": {"type": "classification", "classes": ["sun", "rain"]}}
        results = send(server, videos.to_clips("events"), None, label_schema=schema, label_type=None, classes=None)
        (task,) = results.ledger.tasks()
        with client_of(server) as client:
            (tag,) = client.annotations(task_id=task.id)["tags"]
            (job, *_) = task.jobs
            changed = {**tag, "label_id": task.labels["sun"].id}
            client.update_annotations({"tags": [changed], "shapes": [], "tracks": []}, job_id=job.id)
            for entry in task.jobs:
                client.update_job(entry.id, state="completed")
        videos.load_annotations("run")
        assert videos.values("weather.label") == ["sun", None]


class TestFiles:
    def test_frames_without_their_video(self, server: LocalCVAT, videos: fo.Dataset, tmp_path: Path) -> None:
        """Image files of frames go to CVAT, and what they hold is propagated, where the video is not at hand."""
        sample = videos.first()
        for number in range(1, FRAMES + 1):
            path = tmp_path / f"{number:03d}.png"
            cv2.imwrite(str(path), scene_image(number - 1))
            sample.frames[number]["filepath"] = str(path)
        sample.filepath = str(tmp_path / "gone.mp4")
        sample.save()
        view = videos.limit(1).to_frames().match(F("frame_number") <= 8)
        results = send(server, view, "fresh", exemplars="every:7", engine="flow")
        (task,) = results.ledger.tasks()
        with client_of(server) as client:
            picture = cv2.imdecode(np.frombuffer(client.frame(task.id, 1), np.uint8), cv2.IMREAD_COLOR)
        off = [np.abs(picture.astype(int) - scene_image(number)).mean() for number in range(FRAMES)]
        assert np.argmin(off) == 7
        annotate_by_script(server, results, first_number=1)
        videos.load_annotations("run")
        assert filled(videos, "fresh")["a"] == [1, 8]
        assert filled(videos, "fresh_propagated")["a"] == [*range(1, 9)]

    def test_videos_of_another_field(self, server: LocalCVAT, videos: fo.Dataset, tmp_path: Path) -> None:
        proxy = write_video(tmp_path / "proxy.mp4", FRAMES)
        sample = videos.first()
        sample["proxy"] = str(proxy)
        sample.filepath = str(write_video(tmp_path / "short.mp4", 3))
        sample.save()
        results = send(server, videos.limit(1), "frames.fresh", media_field="proxy", exemplars="every:11")
        annotate_by_script(server, results, first_number=1)
        videos.load_annotations("run")
        assert filled(videos, "fresh")["a"] == [1, FRAMES]
        with pytest.raises(DataError, match="has no file in the field 'proxy'"):
            send(server, videos, "frames.other", key="again", media_field="proxy")


@pytest.mark.parametrize("kind", ["clips", "frames", "match_frames"])
def test_labels_of_every_type(server: LocalCVAT, videos: fo.Dataset, kind: str) -> None:
    """All types in one run over a part of a video: labels come back as they were, and those off the view stay."""
    sample = videos.first()
    sample["shown"] = fo.TemporalDetections(detections=[fo.TemporalDetection(label="x", support=[3, 5])])
    for number in range(1, 9):
        for name, make in MAKERS.items():
            sample.frames[number][name] = make(number)
        sample.frames[number]["word"] = f"0{number}"
    sample["weather"] = fo.Classification(label="day")
    sample.save()
    prefix = "" if kind == "frames" else "frames."
    schema = {**schema_of(MAKERS, prefix), f"{prefix}word": {"type": "scalar"}}
    if kind == "clips":
        view = videos.to_clips("shown")
        schema["weather"] = {"type": "classification", "classes": ["day", "night"]}
    elif kind == "frames":
        view = videos.to_frames(sample_frames="dynamic", sparse=True).match(F("frame_number").is_in([3, 4, 5]))
    else:
        view = videos.match_frames(F("frame_number").is_in([3, 4, 5]))
    fields = [f"frames.{name}" for name in (*MAKERS, "word", "objects")] + ["weather"]
    before = content(videos, *fields)
    results = view.annotate("run", backend="labelprop", label_schema=schema, engine="none", **login(server))
    (task,) = results.ledger.tasks()
    assert len(task.file_names) == 3
    finish_jobs(server, results)
    videos.load_annotations("run")
    after = content(videos, *fields)
    hidden = {key for key in before[0] if key[0].isdigit() and key[0] not in "345"} | {"weather", "3.frames.word"}
    assert {key: after[0][key] for key in hidden} == {key: before[0][key] for key in hidden}
    assert after[1] == before[1]
    # Frames of videos hold tracks, so labels that had no index get one.
    for key in before[0].keys() - hidden:
        assert comparable(after[0][key]) == comparable(before[0][key]), key
    videos.load_annotations("run")
    assert content(videos, *fields) == after


def comparable(value: Any) -> Any:
    """Labels less what makes them objects of a track."""
    if not isinstance(value, list):
        return value
    entry = json.loads(value[0])
    for label in next((held for held in entry.values() if isinstance(held, list) and held), [entry]):
        for name in ("index", "instance", "keyframe"):
            if isinstance(label, dict):
                label.pop(name, None)
    for name in ("index", "instance", "keyframe"):
        entry.pop(name, None)
    return entry, value[1]
