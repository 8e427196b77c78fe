"""Every kind of view, end to end: labels reach the right frames of the source dataset, and nothing else changes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cv2
import fiftyone as fo
import numpy as np
import pytest
from fiftyone import ViewField as F
from fixtures_roundtrip import annotate_by_script, client_of, login, scene_image, scene_masks, write_images, write_video

import labelprop_cvat.workflow as lp
from labelprop_cvat.backend.limits import FrameLimits
from labelprop_cvat.backend.local_cvat import LocalCVAT
from labelprop_cvat.errors import ConfigurationError, DataError
from labelprop_cvat.labels import mask_to_detection
from labelprop_cvat.propagation.types import ObjectMask
from labelprop_cvat.sequences import every_sample, sequences_of

FRAMES = 12


def scene_labels(frame: int, **values: Any) -> fo.Detections:
    """The scene's two objects on a frame, as instances of the field ``objects``."""
    labels = []
    for object_id, mask in scene_masks(frame).items():
        box, crop = mask_to_detection(ObjectMask.from_full(mask), (72, 128))
        name = {1: "person", 2: "car"}[object_id]
        labels.append(fo.Detection(label=name, bounding_box=box, mask=crop, index=object_id, **values))
    return fo.Detections(detections=labels)


@pytest.fixture(scope="module")
def media(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """``a.mp4`` and ``b.mp4`` with twelve frames each, and the same frames as images."""
    folder = tmp_path_factory.mktemp("media")
    write_video(folder / "a.mp4", FRAMES)
    write_video(folder / "b.mp4", FRAMES)
    write_images(folder / "images", FRAMES)
    return folder


@pytest.fixture
def videos(media: Path) -> Iterator[fo.Dataset]:
    """Two videos with metadata; frames 2, 5, 8 and 11 of the first are labelled, it has two events."""
    dataset = fo.Dataset()
    for name in ("a", "b"):
        metadata = fo.VideoMetadata(total_frame_count=FRAMES, frame_rate=24.0)
        sample = fo.Sample(str(media / f"{name}.mp4"), metadata=metadata, name=name)
        if name == "a":
            for number in (2, 5, 8, 11):
                sample.frames[number] = fo.Frame(objects=scene_labels(number - 1, mood="calm"))
            sample["events"] = fo.TemporalDetections(
                detections=[
                    fo.TemporalDetection(label="early", support=[2, 5]),
                    fo.TemporalDetection(label="late", support=[8, 11]),
                ]
            )
        dataset.add_sample(sample)
    yield dataset
    dataset.delete()


@pytest.fixture
def rig(media: Path) -> Iterator[fo.Dataset]:
    """Six groups of a left and a right image, the first with a video too; labels on the third and the fifth."""
    dataset = fo.Dataset()
    dataset.add_group_field("group", default="left")
    samples = []
    for number in range(6):
        group = fo.Group()
        for side in ("left", "right"):
            at = number if side == "left" else number + 6
            sample = fo.Sample(
                str(media / "images" / f"{at:04d}.png"), group=group.element(side), number=number, half=number // 3
            )
            if number in (2, 4):
                sample["objects"] = scene_labels(at)
            samples.append(sample)
        if number == 0:
            samples.append(fo.Sample(str(media / "a.mp4"), group=group.element("clip"), number=0, half=0))
    dataset.add_samples(samples, progress=False)
    yield dataset
    dataset.delete()


def filled(dataset: fo.Dataset, field: str = "objects_propagated") -> dict[str, list[int]]:
    """The frame numbers that hold labels in a field, by video name."""
    found = {}
    for sample in dataset:
        labels = {number: frame.get_field(field) for number, frame in sample.frames.items()}
        found[sample["name"]] = sorted(n for n, value in labels.items() if value is not None and value.detections)
    return found


class TestWithoutCVAT:
    def test_propagation_keeps_to_the_clips(self, videos: fo.Dataset) -> None:
        written = lp.propagate(videos.to_clips("events"), "frames.objects", engine="interpolate")
        assert written == 8
        assert filled(videos) == {"a": [2, 3, 4, 5, 8, 9, 10, 11], "b": []}
        exemplars = {
            tuple(label.exemplar_frames)
            for frame in videos.first().frames.values()
            for label in (frame.objects_propagated.detections if frame.objects_propagated else ())
        }
        # Positions in the sequence, which is made of the clips' frames; nothing passes from one clip to the other.
        assert exemplars == {(0,), (3,), (4,), (7,)}

    def test_propagation_keeps_to_the_frames_of_the_view(self, videos: fo.Dataset) -> None:
        view = videos.to_frames(sample_frames="dynamic").match((F("frame_number") > 4) & (F("frame_number") < 9))
        assert lp.propagate(view, "objects", "filled", engine="interpolate", segmentation="none") == 4
        assert filled(videos, "filled") == {"a": [5, 6, 7, 8], "b": []}
        assert videos.get_field("filled") is None

    def test_propagation_from_patches(self, videos: fo.Dataset, rig: fo.Dataset) -> None:
        patches = videos.to_frames(sample_frames="dynamic").to_patches("objects").match(F("objects.label") == "car")
        assert lp.propagate(patches, "objects", engine="interpolate", segmentation="none") == 4
        assert filled(videos) == {"a": [2, 5, 8, 11], "b": []}
        patches = rig.select_group_slices("right").to_patches("objects")
        assert lp.propagate(patches, "objects", engine="interpolate", segmentation="none") == 2
        right = rig.select_group_slices("right")
        assert right.match(F("objects_propagated.detections").length() > 0).values("number") == [2, 4]

    def test_propagation_of_every_slice(self, rig: fo.Dataset, caplog: pytest.LogCaptureFixture) -> None:
        with caplog.at_level("WARNING"):
            written = lp.propagate(rig, "objects", engine="interpolate", sort_field="number", segmentation="none")
        assert "clip/a left out" in caplog.text
        assert written == 12
        for side in ("left", "right"):
            values = rig.select_group_slices(side).values("objects_propagated.detections.index")
            assert values == [[], [], *[[1, 2]] * 4]

    def test_labels_in_a_slice_that_is_not_active_are_not_overwritten(self, rig: fo.Dataset) -> None:
        for sample in rig.select_group_slices("right").iter_samples(autosave=True):
            sample["theirs"] = fo.Detections(detections=[fo.Detection(label="x"), fo.Detection(label="y")])
        with pytest.raises(ConfigurationError, match="12 labels that were not propagated"):
            lp.propagate(rig, "objects", "theirs", engine="interpolate", sort_field="number")

    def test_segments_and_exemplars_of_views(self, videos: fo.Dataset) -> None:
        view = videos.to_clips("events").match(F("events.label") == "late")
        assert lp.select(view, "events", method="all") == 4
        stored = videos.first()["events"].detections
        assert [(d.label, list(d.support)) for d in stored] == [("early", [2, 5]), ("late", [8, 11])]
        assert stored[1].exemplar_frames == [8, 9, 10, 11]
        assert stored[0].get_attribute_value("exemplar_frames", None) is None
        assert lp.segment(videos.to_clips([[(3, 6)], [(1, 2), (5, 6)]]), "parts") == 3
        assert [[(d.label, list(d.support)) for d in value.detections] for value in videos.values("parts")] == [
            [("clip_001", [3, 6])],
            [("clip_001", [1, 2]), ("clip_002", [5, 6])],
        ]

    def test_pictures_of_frames_that_are_image_files(self, videos: fo.Dataset, tmp_path: Path) -> None:
        sample = videos.first()
        for number in range(1, FRAMES + 1):
            path = tmp_path / f"{number}.png"
            cv2.imwrite(str(path), scene_image(number - 1))
            sample.frames[number]["image"] = str(path)
        sample.filepath = str(tmp_path / "gone.mp4")
        sample.save()
        view = videos.limit(1).to_frames(sample_frames="dynamic")
        with pytest.raises(DataError, match=r"gone\.mp4"):
            lp.propagate(view, "objects", engine="flow")
        assert lp.propagate(view, "objects", engine="flow", media_field="image", segmentation="none") == FRAMES
        assert filled(videos)["a"] == list(range(1, FRAMES + 1))


class TestFrameLimits:
    """Which frames ``frame_start``, ``frame_stop`` and ``frame_step`` leave; what is done with them is below."""

    @pytest.mark.parametrize(
        ("limits", "expected"),
        [
            ({}, None),
            ({"start": 4}, [*range(4, 12)]),
            ({"stop": 4}, [*range(5)]),
            ({"step": 5}, [0, 5, 10]),
            ({"start": 3, "stop": 9, "step": 3}, [3, 6, 9]),
            ({"start": [7, 1]}, [*range(7, 12)]),
            ({"stop": [None, 3], "step": [4]}, [0, 4, 8]),
            ({"stop": 99}, [*range(12)]),
            ({"start": 12}, []),
        ],
    )
    def test_numbers_and_lists(self, videos: fo.Dataset, limits: dict[str, Any], expected: list[int] | None) -> None:
        first = sequences_of(videos)[0]
        found = FrameLimits(**limits).allowed(videos, first, 0)
        assert (None if found is None else sorted(found)) == expected

    def test_lists_are_dealt_out_in_turn(self, videos: fo.Dataset) -> None:
        first, second = sequences_of(videos)
        limits = FrameLimits(start=[10, 11])
        for number, expected in enumerate(([10, 11], [11], [10, 11])):
            assert sorted(limits.allowed(videos, (first, second)[number % 2], number) or ()) == expected

    def test_dicts_by_path(self, videos: fo.Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
        first, second = sequences_of(videos)
        path = Path(videos.first().filepath)
        monkeypatch.chdir(path.parent)
        for spelled in (str(path), path.name, f"./x/../{path.name}"):
            limits = FrameLimits(start={spelled: 10})
            limits.check_paths(videos, "filepath")
            assert sorted(limits.allowed(videos, first, 0) or ()) == [10, 11]
            assert len(limits.allowed(videos, second, 1) or ()) == FRAMES
        with pytest.raises(ConfigurationError, match=r"frame_step has a value for 'c\.mp4'.*Did you mean '.*\.mp4'"):
            FrameLimits(step={"c.mp4": 2}).check_paths(videos, "filepath")

    def test_frames_count_from_the_beginning_of_the_video(self, videos: fo.Dataset) -> None:
        (sequence,) = sequences_of(videos.to_clips("events"))
        found = FrameLimits(start=3, step=2).allowed(videos, sequence, 0) or ()
        assert [sequence.frames[position].frame_number for position in sorted(found)] == [4, 8, 10]

    def test_images_count_by_their_place(self, rig: fo.Dataset) -> None:
        left = sequences_of(rig.select_group_slices("left"), sort_field="number")[0]
        assert sorted(FrameLimits(start=1, step=2).allowed(rig, left, 0) or ()) == [1, 3, 5]
        limits = FrameLimits(stop={left.filepaths[2]: 0})
        limits.check_paths(rig, "filepath")
        assert sorted(limits.allowed(rig, left, 0) or ()) == [0]

    @pytest.mark.parametrize(
        ("limits", "words"),
        [
            ({"start": -1}, "frame_start is a whole number from 0.*got -1"),
            ({"step": 0}, "frame_step is a whole number from 1.*got 0"),
            ({"stop": [3, "x"]}, "frame_stop is a whole number from 0"),
            ({"start": True}, "frame_start is"),
            ({"step": 2.5}, "frame_step is"),
            ({"stop": {"a.mp4": -2}}, "frame_stop is"),
            ({"start": "5"}, "frame_start is"),
            ({"start": []}, "frame_start is an empty list"),
        ],
    )
    def test_what_is_no_frame_number(self, limits: dict[str, Any], words: str) -> None:
        with pytest.raises(ConfigurationError, match=words):
            FrameLimits(**limits)


CLASSES = ["person", "car"]


@pytest.fixture(scope="module")
def server() -> Iterator[LocalCVAT]:
    with LocalCVAT(anonymous_rate=None) as running:
        yield running


def send(server: LocalCVAT, view: Any, label_field: str, key: str = "run", **options: Any) -> Any:
    """Starts a run of instances in which people annotate every frame of the view."""
    wanted = {"label_type": "instances", "classes": CLASSES, "engine": "interpolate", "exemplars": "all", **options}
    wanted.setdefault("segmentation", "none")
    return view.annotate(key, backend="labelprop", label_field=label_field, **wanted, **login(server))


def contents(dataset: fo.Dataset) -> dict[str, Any]:
    """All that a dataset holds, frame by frame, but for the times of its last changes."""

    def plain(document: dict[str, Any]) -> dict[str, Any]:
        return {k: v for k, v in document.items() if k not in ("last_modified_at", "_id", "id") and v is not None}

    found = {}
    for sample in every_sample(dataset).iter_samples():
        found[sample.id] = plain(sample.to_dict(include_private=True))
        found[sample.id].pop("frames", None)
        if sample.media_type == "video":
            for number, frame in sample.frames.items():
                found[f"{sample.id}/{number}"] = plain(frame.to_dict(include_private=True))
    return found


def without(values: dict[str, Any], *fields: str) -> dict[str, Any]:
    """Contents less some fields, and less frames that hold nothing else."""
    left = {key: {k: v for k, v in entry.items() if k not in fields} for key, entry in values.items()}
    bare = {"frame_number", "_sample_id", "_dataset_id", "created_at", "_cls"}
    return {key: entry for key, entry in left.items() if not set(entry) <= bare}


def is_the_scene(value: fo.Detections | None, frame: int) -> bool:
    """Whether labels are the scene's objects on a frame, pixel by pixel."""
    truth = {(label.label, label.mask.tobytes(), tuple(label.bounding_box)) for label in scene_labels(frame).detections}
    labels = value.detections if value is not None else []
    return {(label.label, label.mask.tobytes(), tuple(label.bounding_box)) for label in labels} == truth


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
