"""Views of every kind without CVAT: segmenting, choosing, propagating, and limits on frames."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import fiftyone as fo
import pytest
from fiftyone import ViewField as F
from fixtures_roundtrip import scene_image
from fixtures_views import (
    FRAMES,
    camera_rig,
    filled,
    labelled_videos,
    write_media,
)

import labelprop_cvat.workflow as lp
from labelprop_cvat.backend.limits import FrameLimits
from labelprop_cvat.errors import ConfigurationError, DataError
from labelprop_cvat.sequences import sequences_of


@pytest.fixture(scope="module")
def media(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_media(tmp_path_factory.mktemp("media"))


@pytest.fixture
def videos(media: Path) -> Iterator[fo.Dataset]:
    dataset = labelled_videos(media)
    yield dataset
    dataset.delete()


@pytest.fixture
def rig(media: Path) -> Iterator[fo.Dataset]:
    dataset = camera_rig(media)
    yield dataset
    dataset.delete()


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
        # FiftyOne's numbers, whatever the view; nothing passes from one clip to the other.
        assert exemplars == {(2,), (5,), (8,), (11,)}

    def test_propagation_keeps_to_the_frames_of_the_view(self, videos: fo.Dataset) -> None:
        view = videos.to_frames(sample_frames="dynamic").match((F("frame_number") > 4) & (F("frame_number") < 9))
        assert lp.propagate(view, "objects", "filled", engine="interpolate", segmentation="none") == 4
        assert filled(videos, "filled") == {"a": [5, 6, 7, 8], "b": []}
        assert videos.get_field("filled") is None
        with pytest.raises(ConfigurationError, match=r"'frames\.objects' holds 8 labels that were not propagated"):
            lp.propagate(view, "filled", "objects", engine="interpolate", segmentation="none")

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
