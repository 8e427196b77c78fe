"""Collections, groups and videos become sequences; segments are read, computed and stored."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path

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
    sequences_of,
    write_segments,
)

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

    def test_native_groups_and_3d(self, tmp_path: Path) -> None:
        dataset = fo.Dataset()
        try:
            group = fo.Group()
            dataset.add_samples(
                [
                    fo.Sample(filepath=str(tmp_path / "l.png"), group=group.element("left")),
                    fo.Sample(filepath=str(tmp_path / "r.png"), group=group.element("right")),
                ]
            )
            with pytest.raises(DataError, match="select_group_slices"):
                sequences_of(dataset)
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

    def test_generated_views(self, videos: fo.Dataset, images: fo.Dataset) -> None:
        with pytest.raises(DataError, match="made from another dataset"):
            sequences_of(images.to_patches("box"))


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
