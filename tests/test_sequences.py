"""Collections, groups and videos become sequences; segments are read, computed and stored."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import fiftyone as fo
import numpy as np
import pytest
from fiftyone import ViewField as F
from fixtures_media import number_of, numbered_frame, write_cv_video

from labelprop_cvat.errors import ConfigurationError, DataError
from labelprop_cvat.propagation.types import Segment
from labelprop_cvat.sequences import (
    FrameRef,
    Sequence,
    TemporalSegment,
    segments_of,
    sequence_at,
    sequences_of,
    view_values,
    write_segments,
)
from labelprop_cvat.workflow import plan_exemplars

SCENES = ("b", "a", "c")
LENGTH = 8


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Iterator[fo.Dataset]:
    """Three scenes, interleaved and out of order: frame ``i`` of scene ``s`` shows ``100 * s + i``."""
    folder = tmp_path_factory.mktemp("images")
    samples = []
    for frame in (3, 1, 0, 2, 7, 5, 4, 6):
        for scene_number, scene in enumerate(SCENES):
            number = 100 * scene_number + frame
            path = folder / f"{number:03}.png"
            cv2.imwrite(str(path), numbered_frame(number)[..., ::-1])
            samples.append(
                fo.Sample(
                    filepath=str(path),
                    scene=scene,
                    take=scene_number,
                    frame_index=frame,
                    half=frame if frame % 2 else None,
                    kept=frame >= 2,
                    box=fo.Detections(),
                )
            )
    dataset = fo.Dataset()
    dataset.add_samples(samples, progress=False)
    yield dataset
    dataset.delete()


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> Iterator[fo.Dataset]:
    folder = tmp_path_factory.mktemp("videos")
    dataset = fo.Dataset()
    for number, count in enumerate((30, 12)):
        sample = fo.Sample(filepath=str(write_cv_video(folder / f"clip{number}.mp4", count)))
        sample.frames[3] = fo.Frame(mark=True)
        sample.frames[9] = fo.Frame(mark=True)
        sample.frames[5] = fo.Frame(mark=False)
        dataset.add_sample(sample)
    yield dataset
    dataset.delete()


def shown(sequence: Sequence) -> list[int]:
    """The numbers in the pictures of a sequence."""
    return [number_of(frame) for _, frame in sequence.source.read(0, len(sequence))]


def is_consistent(sequence: Sequence, dataset: fo.Dataset) -> bool:
    paths = [dataset[ref.sample_id].filepath for ref in sequence.frames]
    return (
        paths == list(sequence.filepaths)
        and [sequence.position(ref) for ref in sequence.frames] == list(range(len(sequence)))
        and len(sequence.source) == len(sequence.frames)
    )


class TestImageCollections:
    def test_sort_field_orders_frames(self, images: fo.Dataset) -> None:
        view = images.match(F("scene") == "a")
        (sequence,) = sequences_of(view, sort_field="frame_index")
        assert (sequence.key, sequence.media_type, len(sequence)) == ("collection", "image", LENGTH)
        assert shown(sequence) == [100 + i for i in range(LENGTH)]
        assert is_consistent(sequence, images)
        assert sequence.size == (32, 160)
        sequence.check()

    def test_without_a_sort_field_the_view_orders(self, images: fo.Dataset) -> None:
        view = images.match(F("scene") == "b").sort_by("frame_index", reverse=True)
        assert shown(sequences_of(view)[0]) == list(range(LENGTH - 1, -1, -1))
        assert shown(sequences_of(images.match(F("scene") == "b"))[0]) == [3, 1, 0, 2, 7, 5, 4, 6]

    def test_equal_values_keep_the_order_of_the_view(self, images: fo.Dataset) -> None:
        (sequence,) = sequences_of(images, sort_field="take")
        assert shown(sequence)[:LENGTH] == [3, 1, 0, 2, 7, 5, 4, 6]

    def test_clips_that_are_mixed_up_are_noticed(self, images: fo.Dataset, caplog: pytest.LogCaptureFixture) -> None:
        list(plan_exemplars(images, sort_field="frame_index", segmentation="none"))
        assert "24 of the 24 images have a 'frame_index' that another one has" in caplog.text
        caplog.clear()
        list(plan_exemplars(images, sort_field="filepath", segmentation="none"))
        list(plan_exemplars(images.group_by("scene", order_by="frame_index"), segmentation="none"))
        assert "that another one has" not in caplog.text

    def test_whole_dataset(self, images: fo.Dataset) -> None:
        (sequence,) = sequences_of(images, sort_field="filepath")
        assert len(sequence) == 3 * LENGTH
        assert set(sequence.sample_ids) == set(images.values("id"))

    def test_order_of_strings_and_dates(self, images: fo.Dataset) -> None:
        assert len(sequences_of(images, sort_field="created_at")[0]) == 3 * LENGTH

    @pytest.mark.parametrize(
        ("field", "words"),
        [
            ("nothing", "no field 'nothing'"),
            ("half", "empty on 12 of 24 samples"),
            ("box", "no order"),
        ],
    )
    def test_unusable_sort_field_is_explained(self, images: fo.Dataset, field: str, words: str) -> None:
        with pytest.raises(DataError, match=words):
            sequences_of(images, sort_field=field)

    def test_foreign_frame_has_no_position(self, images: fo.Dataset) -> None:
        (sequence,) = sequences_of(images)
        with pytest.raises(DataError, match="no frame of"):
            sequence.position(FrameRef("0" * 24))

    def test_check_tells_how_far_it_is(self, images: fo.Dataset, tmp_path: Path) -> None:
        seen: list[int] = []
        sequences_of(images)[0].check(seen.append)
        assert seen == list(range(1, 3 * LENGTH + 1))
        dataset = fo.Dataset()
        try:
            dataset.add_sample(fo.Sample(filepath=str(write_cv_video(tmp_path / "fresh.mp4", 7))))
            seen.clear()
            sequences_of(dataset)[0].check(seen.append)
            assert seen == list(range(1, 8))
        finally:
            dataset.delete()

    def test_check_names_what_is_wrong(self, tmp_path: Path) -> None:
        for name, shape in (("one", (20, 30, 3)), ("two", (20, 31, 3))):
            cv2.imwrite(str(tmp_path / f"{name}.png"), np.zeros(shape, np.uint8))
        dataset = fo.Dataset()
        try:
            dataset.add_samples([fo.Sample(filepath=str(tmp_path / f"{n}.png")) for n in ("one", "two")])
            with pytest.raises(DataError, match=r"one\.png is 30x20 pixels and .*two\.png is 31x20"):
                sequences_of(dataset)[0].check()
            dataset.add_sample(fo.Sample(filepath=str(tmp_path / "gone.png")))
            with pytest.raises(DataError, match="gone"):
                sequences_of(dataset[-1:])[0].check()
        finally:
            dataset.delete()

    def test_another_media_field(self, images: fo.Dataset) -> None:
        with pytest.raises(DataError, match="thumbnail"):
            sequences_of(images, media_field="thumbnail")


class TestGroups:
    @pytest.mark.parametrize("flat", [False, True, "flattened"])
    def test_one_sequence_per_group(self, images: fo.Dataset, flat: bool | str) -> None:
        view = images.group_by("scene", order_by="frame_index", flat=flat is True)
        if flat == "flattened":
            view = view.flatten()
        sequences = {sequence.key: sequence for sequence in sequences_of(view)}
        assert set(sequences) == set(SCENES)
        for number, scene in enumerate(SCENES):
            assert shown(sequences[scene]) == [100 * number + i for i in range(LENGTH)]
            assert is_consistent(sequences[scene], images)

    def test_reverse_order(self, images: fo.Dataset) -> None:
        view = images.group_by("scene", order_by="frame_index", reverse=True)
        sequence = next(s for s in sequences_of(view) if s.key == "b")
        assert shown(sequence) == list(range(LENGTH - 1, -1, -1))

    def test_sort_field_wins_over_order_by(self, images: fo.Dataset) -> None:
        view = images.group_by("scene", order_by="frame_index", reverse=True)
        sequence = next(s for s in sequences_of(view, sort_field="frame_index") if s.key == "b")
        assert shown(sequence) == list(range(LENGTH))

    def test_filtered_before_and_after_grouping(self, images: fo.Dataset) -> None:
        view = images.match(F("kept")).group_by("scene", order_by="frame_index").match(F("scene") != "a")
        sequences = sequences_of(view)
        assert sorted(sequence.key for sequence in sequences) == ["b", "c"]
        assert shown(next(s for s in sequences if s.key == "c")) == [200 + i for i in range(2, LENGTH)]

    def test_filtered_flat_view(self, images: fo.Dataset) -> None:
        view = images.group_by("scene", order_by="frame_index", flat=True).match(F("kept"))
        assert shown(next(s for s in sequences_of(view) if s.key == "a")) == [100 + i for i in range(2, LENGTH)]

    def test_numbers_compound_keys_and_expressions(self, images: fo.Dataset) -> None:
        by_number = images.group_by("take", order_by="frame_index")
        assert sorted(sequence.key for sequence in sequences_of(by_number)) == ["0", "1", "2"]
        by_two = images.group_by(["scene", "kept"], order_by="frame_index")
        assert sorted(len(sequence) for sequence in sequences_of(by_two)) == [2, 2, 2, 6, 6, 6]
        by_expression = images.group_by(F("take") > 0, order_by="filepath")
        assert sorted(len(sequence) for sequence in sequences_of(by_expression)) == [LENGTH, 2 * LENGTH]

    def test_keys_are_stable_and_unique(self) -> None:
        dataset = fo.Dataset()
        try:
            dataset.add_samples(
                [fo.Sample(filepath=f"/x/{i}.png", tags=[], shot={"n": v}) for i, v in enumerate([1, "1"])]
            )
            keys = [sequence.key for sequence in sequences_of(dataset.group_by("shot.n"))]
            assert len(set(keys)) == 2
            assert keys == [sequence.key for sequence in sequences_of(dataset.group_by("shot.n"))]
        finally:
            dataset.delete()


class TestVideos:
    def test_all_frames(self, videos: fo.Dataset) -> None:
        sequences = sequences_of(videos)
        assert [sequence.key for sequence in sequences] == videos.values("id")
        assert [sequence.name for sequence in sequences] == ["clip0", "clip1"]
        assert [len(sequence) for sequence in sequences] == [30, 12]
        first = sequences[0]
        assert first.frames[0] == FrameRef(first.key, 1)
        assert first.frames[-1] == FrameRef(first.key, 30)
        assert shown(first) == list(range(30))
        assert first.sample_ids == (first.key,)
        first.check()

    def test_only_matched_frames(self, videos: fo.Dataset) -> None:
        view = videos.match_frames(F("mark") == True)  # noqa: E712
        sequences = sequences_of(view)
        assert [[ref.frame_number for ref in sequence.frames] for sequence in sequences] == [[3, 9], [3, 9]]
        assert shown(sequences[0]) == [2, 8]
        assert sequences[0].position(FrameRef(sequences[0].key, 9)) == 1

    def test_filtered_samples(self, videos: fo.Dataset) -> None:
        assert [len(sequence) for sequence in sequences_of(videos[1:])] == [12]

    def test_grouped_videos_stay_sequences_of_their_own(self, videos: fo.Dataset) -> None:
        for view in (videos.group_by("filepath"), videos.group_by("filepath", flat=True)):
            assert sorted(len(sequence) for sequence in sequences_of(view)) == [12, 30]
        chosen = videos.group_by("filepath").match(F("filepath").ends_with("clip1.mp4"))
        assert [sequence.name for sequence in sequences_of(chosen)] == ["clip1"]

    def test_wrong_metadata_is_overruled(self, videos: fo.Dataset, caplog: pytest.LogCaptureFixture) -> None:
        sample = videos.first()
        sample.metadata = fo.VideoMetadata(total_frame_count=99)
        sample.save()
        with caplog.at_level(logging.WARNING):
            assert len(sequences_of(videos)[0]) == 30
        assert "99" in caplog.text

    def test_frame_outside_the_video(self, tmp_path: Path) -> None:
        dataset = fo.Dataset()
        try:
            sample = fo.Sample(filepath=str(write_cv_video(tmp_path / "v.mp4", 6)))
            sample.frames[8] = fo.Frame(mark=True)
            dataset.add_sample(sample)
            (sequence,) = sequences_of(dataset.match_frames(F("mark")))
            with pytest.raises(DataError, match=r"frame 8 of .* has frames 1 to 6"):
                sequence.check()
        finally:
            dataset.delete()


class TestRefusals:
    def test_empty_view(self, images: fo.Dataset, videos: fo.Dataset) -> None:
        for view in (
            images.match(F("scene") == "z"),
            images.match(F("scene") == "z").group_by("scene"),
            videos.match_frames(F("mark") == "never"),
        ):
            with pytest.raises(DataError, match="There is no"):
                sequences_of(view)

    def test_empty_dataset(self) -> None:
        dataset = fo.Dataset()
        try:
            with pytest.raises(DataError, match="There is no sample"):
                sequences_of(dataset)
        finally:
            dataset.delete()

    def test_3d(self, tmp_path: Path) -> None:
        dataset = fo.Dataset()
        try:
            group = fo.Group()
            dataset.add_samples(
                [
                    fo.Sample(filepath=str(tmp_path / "l.png"), group=group.element("left")),
                    fo.Sample(filepath=str(tmp_path / "r.png"), group=group.element("right")),
                ]
            )
            assert [(s.key, len(s)) for s in sequences_of(dataset)] == [("left", 1), ("right", 1)]
            assert len(sequences_of(dataset.select_group_slices("right"))[0]) == 1
        finally:
            dataset.delete()
        dataset = fo.Dataset()
        try:
            dataset.add_sample(fo.Sample(filepath=str(tmp_path / "scene.fo3d")))
            with pytest.raises(DataError, match="images or videos"):
                sequences_of(dataset)
        finally:
            dataset.delete()

    def test_views_without_anything(self, videos: fo.Dataset, images: fo.Dataset) -> None:
        for view in (images.to_patches("box"), videos.match_frames(F("mark")).limit(0).to_clips([]), videos.limit(0)):
            with pytest.raises(DataError, match="There is no"):
                sequences_of(view)


class TestSegments:
    @pytest.fixture
    def scene(self, images: fo.Dataset) -> Iterator[tuple[fo.DatasetView, Sequence]]:
        view = images.group_by("scene", order_by="frame_index")
        yield view, next(s for s in sequences_of(view) if s.key == "a")
        if images.has_field("segments"):
            images.delete_sample_field("segments")

    def test_computed_when_there_is_no_field(self, scene: tuple[fo.DatasetView, Sequence]) -> None:
        view, sequence = scene
        assert segments_of(sequence, view, method="fixed:5") == [
            TemporalSegment(Segment(0, 5), "a/segment_001"),
            TemporalSegment(Segment(5, 8), "a/segment_002"),
        ]
        assert [s.segment for s in segments_of(sequence, view, "segments", method="none")] == [Segment(0, 8)]
        with pytest.raises(ConfigurationError, match="heuristic, adaptive"):
            segments_of(sequence, view, method="magic")

    def test_there_and_back(self, images: fo.Dataset, scene: tuple[fo.DatasetView, Sequence]) -> None:
        view, sequence = scene
        written = [
            TemporalSegment(Segment(0, 3), "walk", (1.0, 0.0, 0.5)),
            TemporalSegment(Segment(4, 6), "run"),
            TemporalSegment(Segment(6, 8), "walk", (None, 0.25)),
        ]
        write_segments(view, sequence, "segments", written)
        assert segments_of(sequence, view, "segments") == written
        sample = images[sequence.frames[2].sample_id]
        assert isinstance(sample["segments"], fo.Classifications)
        assert [(c.label, c.exemplar_score) for c in sample["segments"].classifications] == [("walk", 0.5)]
        assert images[sequence.frames[3].sample_id]["segments"] is None
        assert isinstance(images.get_field("segments.classifications.exemplar_score"), fo.FloatField)
        assert images.match(F("scene") != "a").count("segments.classifications") == 0
        write_segments(view, sequence, "segments", [TemporalSegment(Segment(0, 8), "all")])
        assert segments_of(sequence, view, "segments") == [TemporalSegment(Segment(0, 8), "all")]

    def test_filtered_view_reads_and_writes_its_own_frames_only(
        self, images: fo.Dataset, scene: tuple[fo.DatasetView, Sequence]
    ) -> None:
        view, sequence = scene
        write_segments(
            view, sequence, "segments", [TemporalSegment(Segment(0, 4), "x"), TemporalSegment(Segment(4, 8), "y")]
        )
        part = images.match(F("kept")).group_by("scene", order_by="frame_index")
        some = next(s for s in sequences_of(part) if s.key == "a")
        assert [s.segment for s in segments_of(some, part, "segments")] == [Segment(0, 2), Segment(2, 6)]
        write_segments(part, some, "segments", [TemporalSegment(Segment(0, 6), "z")])
        assert [s.label for s in segments_of(sequence, view, "segments")] == ["x", "z"]

    def test_single_classification_field(self, images: fo.Dataset, scene: tuple[fo.DatasetView, Sequence]) -> None:
        view, sequence = scene
        values = {ref.sample_id: fo.Classification(label="pq"[i > 2]) for i, ref in enumerate(sequence.frames)}
        images.set_values("segments", values, key_field="id")
        assert [(s.label, s.segment) for s in segments_of(sequence, view, "segments")] == [
            ("p", Segment(0, 3)),
            ("q", Segment(3, 8)),
        ]

    def test_two_labels_on_a_frame(self, images: fo.Dataset, scene: tuple[fo.DatasetView, Sequence]) -> None:
        view, sequence = scene
        two = fo.Classifications(classifications=[fo.Classification(label="p"), fo.Classification(label="q")])
        images.set_values("segments", {sequence.frames[0].sample_id: two}, key_field="id")
        with pytest.raises(DataError, match=r"2 segment labels .*\(p, q\)"):
            segments_of(sequence, view, "segments")

    def test_wrong_types_and_overlaps(self, images: fo.Dataset, scene: tuple[fo.DatasetView, Sequence]) -> None:
        view, sequence = scene
        for field in ("box", "take"):
            with pytest.raises(DataError, match="Name another field"):
                segments_of(sequence, view, field)
            with pytest.raises(DataError, match="Name another field"):
                write_segments(view, sequence, field, [TemporalSegment(Segment(0, 8), "all")])
        with pytest.raises(DataError, match="overlap"):
            write_segments(
                view, sequence, "segments", [TemporalSegment(Segment(0, 5), "p"), TemporalSegment(Segment(4, 8), "q")]
            )
        with pytest.raises(DataError, match="ends after"):
            write_segments(view, sequence, "segments", [TemporalSegment(Segment(0, 9), "p")])
        assert not images.has_field("segments")
        with pytest.raises(DataError, match="3 frames and 2 scores"):
            TemporalSegment(Segment(0, 3), "p", (1.0, 0.0))

    def test_videos(self, videos: fo.Dataset) -> None:
        first, second = sequences_of(videos)
        written = [
            TemporalSegment(Segment(0, 12), "p", (1.0,) + (None,) * 11),
            TemporalSegment(Segment(14, 30), "q"),
        ]
        write_segments(videos, first, "segments", written)
        try:
            assert segments_of(first, videos, "segments") == written
            stored = videos[first.key]["segments"].detections
            assert [(d.label, list(d.support)) for d in stored] == [("p", [1, 12]), ("q", [15, 30])]
            assert stored[0].exemplar_frames == [1]
            assert videos[second.key]["segments"] is None
            assert [s.label for s in segments_of(second, videos, "segments", method="none")] == ["segment_001"]
            matched = videos.match_frames(F("mark") == True)  # noqa: E712
            assert [s.segment for s in segments_of(sequences_of(matched)[0], matched, "segments")] == [Segment(0, 2)]
            videos.set_values(
                "segments",
                {
                    second.key: fo.TemporalDetections(
                        detections=[fo.TemporalDetection(label=n, support=[1, 9]) for n in "pq"]
                    )
                },
                key_field="id",
            )
            with pytest.raises(DataError, match="overlap"):
                segments_of(second, videos, "segments")
        finally:
            videos.delete_sample_field("segments")


def test_groups_made_of_one_slice(images: fo.Dataset) -> None:
    """Dynamic groups over a slice of a grouped dataset, the usual shape of driving data."""
    dataset = fo.Dataset()
    try:
        samples = []
        for number, path in enumerate(sorted(images.values("filepath"))[:6]):
            group = fo.Group()
            for name in ("left", "right"):
                samples.append(fo.Sample(filepath=path, drive=number % 2, step=-number, group=group.element(name)))
        dataset.add_samples(samples, progress=False)
        view = dataset.select_group_slices("left").group_by("drive", order_by="step")
        sequences = {sequence.key: sequence for sequence in sequences_of(view)}
        assert {key: shown(sequence) for key, sequence in sequences.items()} == {"0": [4, 2, 0], "1": [5, 3, 1]}
        assert set(dataset.select_group_slices("left").values("id")) == {
            ref.sample_id for sequence in sequences.values() for ref in sequence.frames
        }
    finally:
        dataset.delete()


def test_order_by_that_is_empty_on_some_frames(images: fo.Dataset) -> None:
    with pytest.raises(DataError, match="sort field 'half' is empty on 4 of 8 samples"):
        sequences_of(images.group_by("scene", order_by="half"))


def detection(label: str, **values: Any) -> fo.Detection:
    return fo.Detection(label=label, bounding_box=[0.1, 0.1, 0.3, 0.3], **values)


@pytest.fixture
def street(tmp_path: Path) -> Iterator[fo.Dataset]:
    """Two videos of 20 and 8 frames; the first has labels on frames 2, 3, 9 and 12 and three events."""
    dataset = fo.Dataset()
    for number, count in enumerate((20, 8)):
        path = write_cv_video(tmp_path / f"street{number}.mp4", count)
        sample = fo.Sample(filepath=str(path), metadata=fo.VideoMetadata(total_frame_count=count, frame_rate=25.0))
        if number == 0:
            for at in (2, 3, 9, 12):
                labels = [detection("car", index=1), detection("person", index=2)][: 1 + at % 2]
                sample.frames[at] = fo.Frame(objects=fo.Detections(detections=labels), good=at > 2)
            sample["events"] = fo.TemporalDetections(
                detections=[
                    fo.TemporalDetection(label="stop", support=[11, 15]),
                    fo.TemporalDetection(
                        label="go", support=[2, 6], exemplar_frames=[2, 5], exemplar_scores=[0.25, 1.0]
                    ),
                    fo.TemporalDetection(label="go", support=[18, 20]),
                ]
            )
        dataset.add_sample(sample)
    yield dataset
    dataset.delete()


def write_frame_images(dataset: fo.Dataset, field: str, offset: int = 0) -> None:
    """Image files of all frames where FiftyOne would put them, with ``offset`` added to the number that they show."""
    for sample in dataset:
        folder = Path(sample.filepath).with_suffix("" if field == "filepath" else f".{field}")
        folder.mkdir()
        for number in range(1, sample.metadata.total_frame_count + 1):
            path = folder / f"{number:06d}.jpg"
            cv2.imwrite(str(path), numbered_frame(offset + number - 1)[..., ::-1])
            sample.frames[number][field] = str(path)
        sample.save()


def numbers_of(sequence: Sequence) -> list[int | None]:
    return [ref.frame_number for ref in sequence.frames]


class TestClips:
    def test_clips_are_segments_of_their_video(self, street: fo.Dataset) -> None:
        view = street.to_clips("events")
        (sequence,) = sequences_of(view)
        assert (sequence.key, sequence.name, sequence.media_type) == (street.first().id, "street0", "video")
        assert numbers_of(sequence) == [2, 3, 4, 5, 6, 11, 12, 13, 14, 15, 18, 19, 20]
        assert shown(sequence) == [number - 1 for number in numbers_of(sequence)]
        assert segments_of(sequence, view) == [
            TemporalSegment(Segment(0, 5), "go_001", (0.25, None, None, 1.0, None)),
            TemporalSegment(Segment(5, 10), "stop"),
            TemporalSegment(Segment(10, 13), "go_003"),
        ]
        assert [s.label for s in segments_of(sequence, view, "events")] == ["go", "stop", "go"]

    def test_clips_that_overlap_are_one(self, street: fo.Dataset, caplog: pytest.LogCaptureFixture) -> None:
        view = street.to_clips([[(1, 4), (4, 6), (7, 9), (2, 3)], [(5, 8)]])
        with caplog.at_level(logging.WARNING):
            first, second = sequences_of(view)
        assert "2 clips of street0.mp4 overlap" in caplog.text
        assert [(s.segment, s.label) for s in segments_of(first, view)] == [
            (Segment(0, 6), "clip_001"),
            (Segment(6, 9), "clip_002"),
        ]
        assert numbers_of(second) == [5, 6, 7, 8]
        assert [s.segment for s in segments_of(second, view)] == [Segment(0, 4)]

    def test_stages_on_top(self, street: fo.Dataset) -> None:
        view = street.to_clips("events")
        (sequence,) = sequences_of(view.match(F("events.label") == "stop"))
        assert numbers_of(sequence) == [11, 12, 13, 14, 15]
        (sequence,) = sequences_of(view.match_frames(F("good")))
        assert numbers_of(sequence) == [3, 12]
        assert [s.segment for s in sequence.given_segments] == [Segment(0, 1), Segment(1, 2)]

    def test_trajectories(self, street: fo.Dataset) -> None:
        view = street.to_trajectories("frames.objects")
        (sequence,) = sequences_of(view)
        assert numbers_of(sequence) == list(range(2, 13))
        assert [s.segment for s in sequence.given_segments] == [Segment(0, 11)]
        values = view_values(view, sequence.frames, "frames.objects")
        assert {ref.frame_number: sorted(d.label for d in v.detections) for ref, v in values.items()} == {
            2: ["car"],
            3: ["car", "person"],
            9: ["car", "person"],
            12: ["car"],
        }

    def test_fields_of_the_video_are_read_from_it(self, street: fo.Dataset) -> None:
        ref = FrameRef(street.first().id)
        for view in (street, street.to_clips("events"), street.to_frames(sample_frames="dynamic")):
            values = view_values(view, [ref], "events")
            assert [len(value.detections) for value in values.values()] == [3]

    def test_a_clip_that_is_longer_than_its_video(self, street: fo.Dataset) -> None:
        (sequence,) = sequences_of(street[1:].to_clips([[(5, 9)]]))
        with pytest.raises(DataError, match=r"frame 9 of .*street1\.mp4, which has frames 1 to 8"):
            sequence.check()

    def test_segments_are_written_to_the_video_and_leave_the_rest(self, street: fo.Dataset) -> None:
        view = street.to_clips([[(4, 12)], []])
        (sequence,) = sequences_of(view)
        write_segments(view, sequence, "events", [TemporalSegment(Segment(0, 9), "new", (1.0,) + (None,) * 8)])
        stored = [(d.label, list(d.support)) for d in street.first()["events"].detections]
        assert stored == [("go", [2, 3]), ("new", [4, 12]), ("stop", [13, 15]), ("go", [18, 20])]
        assert street.first()["events"].detections[0].exemplar_frames == [2]
        assert segments_of(sequences_of(street)[0], street, "events")[1].exemplar_scores[0] == 1.0

    def test_scores_of_frames_that_the_view_hides_stay(self, street: fo.Dataset) -> None:
        view = street.match_frames(F("good"))
        (sequence,) = sequences_of(view)
        assert numbers_of(sequence) == [3, 9, 12]
        read = segments_of(sequence, view, "events")
        assert [(s.label, s.segment) for s in read] == [("go", Segment(0, 1)), ("stop", Segment(2, 3))]
        write_segments(view, sequence, "events", [TemporalSegment(s.segment, s.label, (0.5,)) for s in read])
        stored = street.first()["events"].detections
        assert [(d.label, list(d.support)) for d in stored] == [("go", [2, 6]), ("stop", [11, 15]), ("go", [18, 20])]
        assert (stored[0].exemplar_frames, stored[0].exemplar_scores) == ([2, 3, 5], [0.25, 0.5, 1.0])
        assert (stored[1].exemplar_frames, stored[1].exemplar_scores) == ([12], [0.5])
        write_segments(view, sequence, "events", [TemporalSegment(read[0].segment, "go")])
        assert street.first()["events"].detections[0].exemplar_frames == [2, 5]


class TestFrames:
    def test_frames_of_the_view_in_their_videos(self, street: fo.Dataset) -> None:
        view = street.to_frames(sample_frames="dynamic")
        first, second = sequences_of(view)
        assert (first.key, len(first), len(second)) == (street.first().id, 20, 8)
        assert shown(first) == list(range(20))
        assert first.frame_paths is None

    def test_sparse_and_staged(self, street: fo.Dataset) -> None:
        view = street.to_frames(sample_frames="dynamic", sparse=True)
        assert [numbers_of(s) for s in sequences_of(view)] == [[2, 3, 9, 12]]
        assert shown(sequences_of(view)[0]) == [1, 2, 8, 11]
        assert numbers_of(sequences_of(view.match(F("good")))[0]) == [3, 9, 12]
        assert numbers_of(sequences_of(view.sort_by("frame_number", reverse=True).limit(2))[0]) == [9, 12]
        assert numbers_of(sequences_of(view.group_by("sample_id", order_by="frame_number"))[0]) == [2, 3, 9, 12]
        two = view.select(view.values("id")[1::2])
        assert numbers_of(sequences_of(two)[0]) == [3, 12]

    def test_of_clips(self, street: fo.Dataset) -> None:
        view = street.to_clips("events").to_frames(sample_frames="dynamic")
        assert numbers_of(sequences_of(view)[0]) == [2, 3, 4, 5, 6, 11, 12, 13, 14, 15, 18, 19, 20]

    def test_pictures_come_from_the_video_while_it_is_there(self, street: fo.Dataset) -> None:
        write_frame_images(street, "filepath", offset=100)
        view = street.to_frames(sample_frames=True).match(F("frame_number") > 15)
        (sequence,) = sequences_of(view)
        assert shown(sequence) == [15, 16, 17, 18, 19]
        for sample in street:
            Path(sample.filepath).unlink()
        for sequences in (sequences_of(view), sequences_of(street.match_frames(F("frame_number") > 15))):
            (sequence,) = sequences
            sequence.check()
            assert numbers_of(sequence) == [16, 17, 18, 19, 20]
            assert shown(sequence) == [115, 116, 117, 118, 119]
            assert sequence.frame_sizes == ((32, 160),) * 5
        assert [len(sequence) for sequence in sequences_of(street)] == [20, 8]
        again = sequence_at(
            street, key="k", name="n", media_type="video", sample_ids=[street.first().id], frame_numbers=[3, 7]
        )
        assert shown(again) == [102, 106]

    def test_a_field_that_only_frames_have_means_their_images(self, street: fo.Dataset) -> None:
        write_frame_images(street, "small", offset=200)
        view = street.to_frames(sample_frames="dynamic").match(F("frame_number") <= 3)
        for name in ("small", "frames.small"):
            assert [shown(s) for s in sequences_of(view, media_field=name)] == [[200, 201, 202]] * 2
            assert len(sequences_of(street, media_field=name)[0]) == 20
        sample = street.first()
        sample.frames[2]["small"] = None
        sample.save()
        with pytest.raises(DataError, match=r"1 frames of .*street0\.mp4 have no file.*first frame 2"):
            sequences_of(view, media_field="small")
        with pytest.raises(DataError, match=r"no field 'frames\.tiny'"):
            sequences_of(view, media_field="frames.tiny")

    def test_labels_are_read_through_the_view(self, street: fo.Dataset) -> None:
        view = street.to_frames(sample_frames="dynamic").filter_labels("objects", F("label") == "person")
        (sequence,) = sequences_of(view)
        values = view_values(view, [*sequence.frames, FrameRef(street.first().id, 2)], "frames.objects")
        assert {ref.frame_number: [d.index for d in v.detections] for ref, v in values.items()} == {3: [2], 9: [2]}


class TestPatches:
    def test_of_images(self, images: fo.Dataset) -> None:
        chosen = images.match((F("scene") == "c") & (F("frame_index") < 3)).values("id")
        images.set_values("found", {i: fo.Detections(detections=[detection("a")]) for i in chosen}, key_field="id")
        try:
            (sequence,) = sequences_of(images.to_patches("found"), sort_field="frame_index")
            assert shown(sequence) == [200, 201, 202]
            (sequence,) = sequences_of(images.to_patches("found").limit(1))
            assert len(sequence) == 1
        finally:
            images.delete_sample_field("found")

    def test_of_frames(self, street: fo.Dataset) -> None:
        view = street.to_frames(sample_frames="dynamic").to_patches("objects").match(F("objects.label") == "person")
        (sequence,) = sequences_of(view)
        assert numbers_of(sequence) == [3, 9]
        values = view_values(view, sequence.frames, "frames.objects")
        assert [[d.label for d in value.detections] for value in values.values()] == [["person"], ["person"]]


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[fo.Dataset]:
    """Five groups of a left and a right image, three of them with a video, one with a point cloud."""
    dataset = fo.Dataset()
    dataset.add_group_field("group", default="left")
    samples = []
    for step in range(5):
        group = fo.Group()
        for number, side in enumerate(("left", "right")):
            path = tmp_path / f"{side}{step}.png"
            cv2.imwrite(str(path), numbered_frame(100 * number + step)[..., ::-1])
            scene = "s" if step < 3 else "t"
            samples.append(
                fo.Sample(
                    str(path),
                    group=group.element(side),
                    step=-step,
                    scene=scene,
                    objects=fo.Detections(detections=[detection("car"), detection("person")]),
                )
            )
        if step % 2 == 0:
            path = write_cv_video(tmp_path / f"video{step}.mp4", 4 + step)
            samples.append(fo.Sample(str(path), group=group.element("clip"), step=-step, scene=scene))
    (tmp_path / "cloud.fo3d").write_text("{}")
    samples.append(fo.Sample(str(tmp_path / "cloud.fo3d"), group=group.element("cloud"), step=-step, scene=scene))
    dataset.add_samples(samples, progress=False)
    yield dataset
    dataset.delete()


class TestSlices:
    def test_every_slice_makes_its_own(self, rig: fo.Dataset, caplog: pytest.LogCaptureFixture) -> None:
        with caplog.at_level(logging.WARNING):
            sequences = sequences_of(rig, sort_field="step")
        assert "'cloud' holds 3d" in caplog.text
        left, right, *clips = sequences
        assert (left.key, right.key) == ("left", "right")
        assert shown(left) == [4, 3, 2, 1, 0]
        assert shown(right) == [104, 103, 102, 101, 100]
        assert [(s.name, len(s)) for s in clips] == [("clip/video0", 4), ("clip/video2", 6), ("clip/video4", 8)]
        assert is_consistent(right, rig)
        again = sequence_at(rig, key="right", name="right", media_type="image", sample_ids=right.sample_ids)
        assert (shown(again), again.frames) == (shown(right), right.frames)
        again = sequence_at(
            rig, key="c", name="c", media_type="video", sample_ids=clips[1].sample_ids, frame_numbers=[2, 3]
        )
        assert shown(again) == [1, 2]

    def test_views_of_groups(self, rig: fo.Dataset) -> None:
        sequences = {s.key: s for s in sequences_of(rig.match(F("scene") == "t").sort_by("step"))}
        assert shown(sequences["left"]) == [4, 3]
        assert shown(sequences["right"]) == [104, 103]
        assert len(sequences) == 3
        only = sequences_of(rig.select_group_slices("right"), sort_field="step")
        assert [shown(s) for s in only] == [[104, 103, 102, 101, 100]]
        assert [len(s) for s in sequences_of(rig.select_group_slices(media_type="video"))] == [4, 6, 8]

    def test_selected_slices_stay_apart(self, rig: fo.Dataset) -> None:
        for view in (rig.select_group_slices(["right", "left"]), rig.select_group_slices(media_type="image")):
            found = {s.key: shown(s) for s in sequences_of(view, sort_field="step")}
            assert found == {"left": [4, 3, 2, 1, 0], "right": [104, 103, 102, 101, 100]}
        view = rig.select_group_slices(["left", "right"]).group_by("scene", order_by="step")
        assert sorted(s.key for s in sequences_of(view)) == ["left/s", "left/t", "right/s", "right/t"]

    def test_dynamic_groups_of_groups(self, rig: fo.Dataset) -> None:
        sequences = {s.name: s for s in sequences_of(rig.group_by("scene", order_by="step"))}
        assert {name: shown(s)[0] for name, s in sequences.items() if s.media_type == "image"} == {
            "left/s": 2,
            "left/t": 4,
            "right/s": 102,
            "right/t": 104,
        }
        assert len(sequences["right/s"]) == 3
        chosen = sequences_of(rig.group_by("scene", order_by="step").match(F("scene") == "t"))
        assert sorted(s.name for s in chosen) == ["clip/video4", "left/t", "right/t"]

    def test_segments(self, rig: fo.Dataset) -> None:
        left, right, *clips = sequences_of(rig, sort_field="step")
        write_segments(rig, right, "parts", [TemporalSegment(Segment(0, 2), "a"), TemporalSegment(Segment(2, 5), "b")])
        assert [s.segment for s in segments_of(right, rig, "parts")] == [Segment(0, 2), Segment(2, 5)]
        assert [s.label for s in segments_of(left, rig, "parts", method="none")] == ["left/segment_001"]
        assert rig.select_group_slices("left").exists("parts").count() == 0
        write_segments(rig, clips[0], "shots", [TemporalSegment(Segment(0, 3), "a")])
        assert [s.segment for s in segments_of(clips[0], rig, "shots")] == [Segment(0, 3)]

    def test_labels_of_all_slices_are_read(self, rig: fo.Dataset) -> None:
        refs = [ref for s in sequences_of(rig) if s.media_type == "image" for ref in s.frames]
        assert len(refs) == 10
        assert {len(v.detections) for v in view_values(rig, refs, "objects").values()} == {2}
        assert len(view_values(rig, refs, "objects")) == 10
        some = rig.select_group_slices("right").filter_labels("objects", F("label") == "car")
        assert [[d.label for d in v.detections] for v in view_values(some, refs, "objects").values()] == [["car"]] * 5

    def test_nothing_but_other_media(self, rig: fo.Dataset) -> None:
        view = rig.exclude_group_slices(["left", "right", "clip"]) if hasattr(rig, "exclude_group_slices") else None
        if view is None:
            pytest.skip("this FiftyOne cannot exclude slices")
        with pytest.raises(DataError, match="cloud: 3d"):
            sequences_of(view)


def test_images_of_their_own(tmp_path: Path) -> None:
    """An unordered collection of pictures that have nothing to do with each other, of any size."""
    dataset = fo.Dataset()
    try:
        for name, shape in (("one", (20, 30, 3)), ("two", (25, 31, 3))):
            cv2.imwrite(str(tmp_path / f"{name}.png"), np.zeros(shape, np.uint8))
        dataset.add_samples([fo.Sample(filepath=str(tmp_path / f"{n}.png")) for n in ("one", "two")], progress=False)
        (sequence,) = sequences_of(dataset)
        with pytest.raises(DataError, match="one size"):
            _ = sequence.frame_sizes
        sequence.check(uniform=False)
        assert sequence.frame_sizes == ((20, 30), (25, 31))
        assert sequence.source[1].shape == (25, 31, 3)
        sequence.check()
        again = sequence_at(
            dataset, key="k", name="n", media_type="image", sample_ids=sequence.sample_ids, uniform=False
        )
        assert again.frame_sizes == sequence.frame_sizes
        with pytest.raises(DataError, match="no longer in"):
            sequence_at(dataset, key="k", name="n", media_type="image", sample_ids=["0" * 24])
    finally:
        dataset.delete()
