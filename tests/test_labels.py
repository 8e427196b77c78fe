"""Labels go to plain types and back without loss; segments are written all or nothing and read back."""

from __future__ import annotations

import gc
import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import bson
import cv2
import fiftyone as fo
import numpy as np
import pytest
from fixtures_media import HEIGHT, WIDTH, numbered_frame, write_cv_video
from hypothesis import example, given, settings
from hypothesis import strategies as st

from labelprop_cvat import labels as labels_module
from labelprop_cvat.errors import DataError
from labelprop_cvat.labels import (
    SegmentWriter,
    Track,
    box_to_detection,
    detection_to_box,
    detection_to_mask,
    detection_to_state,
    label_to_prompt,
    mask_to_detection,
    read_labels,
    read_states,
    state_to_detection,
)
from labelprop_cvat.propagation.types import FrameObjects, ObjectMask, ObjectState, PromptKind, Segment
from labelprop_cvat.sequences import Sequence, sequences_of

SIZE = (HEIGHT, WIDTH)
LENGTH = 20


def some_mask(x: int, y: int, width: int, height: int, seed: int = 0) -> ObjectMask:
    crop = np.random.default_rng(seed).random((height, width)) < 0.6
    crop[0, :] = crop[-1, :] = crop[:, 0] = crop[:, -1] = True
    return ObjectMask(x, y, crop)


@st.composite
def placed_masks(draw: st.DrawFn) -> tuple[ObjectMask, tuple[int, int]]:
    height, width = draw(st.integers(1, 3000)), draw(st.integers(1, 5000))
    h, w = draw(st.integers(1, min(height, 40))), draw(st.integers(1, min(width, 40)))
    y, x = draw(st.integers(0, height - h)), draw(st.integers(0, width - w))
    return some_mask(x, y, w, h, draw(st.integers(0, 99))), (height, width)


class TestGeometry:
    @settings(max_examples=300, deadline=None)
    @given(placed_masks())
    def test_masks_survive_bit_for_bit(self, placed: tuple[ObjectMask, tuple[int, int]]) -> None:
        mask, size = placed
        found = mask_to_detection(mask, size)
        assert found is not None
        label = fo.Detection(bounding_box=found[0], mask=found[1])
        assert detection_to_mask(fo.Detection.from_dict(label.to_dict()), size) == mask

    @settings(max_examples=60, deadline=None)
    @given(placed_masks())
    @example((some_mask(29, 58, 30, 29), (116, 100)))
    def test_fiftyone_draws_the_mask_where_it_is(self, placed: tuple[ObjectMask, tuple[int, int]]) -> None:
        mask, (height, width) = placed
        found = mask_to_detection(mask, (height, width))
        assert found is not None
        drawn = fo.Detection(bounding_box=found[0], mask=found[1]).to_segmentation(frame_size=(width, height))
        np.testing.assert_array_equal(drawn.mask != 0, mask.to_full((height, width)))

    @settings(max_examples=300, deadline=None)
    @given(
        st.tuples(st.integers(1, 5000), st.integers(1, 5000)),
        st.lists(st.floats(0, 1, allow_nan=False), min_size=4, max_size=4),
    )
    def test_boxes_survive(self, size: tuple[int, int], shares: list[float]) -> None:
        height, width = size
        x1, x2 = sorted((round(shares[0] * width, 3), round(shares[1] * width, 3)))
        y1, y2 = sorted((round(shares[2] * height, 3), round(shares[3] * height, 3)))
        if x2 <= x1 or y2 <= y1:
            return
        label = fo.Detection(bounding_box=box_to_detection((x1, y1, x2, y2), size))
        assert detection_to_box(label, size) == (x1, y1, x2, y2)

    def test_mask_partly_outside_is_cut_off(self) -> None:
        mask = ObjectMask(WIDTH - 3, HEIGHT - 2, np.ones((6, 8), bool))
        found = mask_to_detection(mask, SIZE)
        assert found is not None
        assert found[1].shape == (2, 3)
        assert mask_to_detection(ObjectMask(WIDTH, 0, np.ones((2, 2), bool)), SIZE) is None

    def test_mask_of_another_size_is_scaled_to_its_box(self) -> None:
        label = fo.Detection(bounding_box=[0.25, 0.25, 0.5, 0.5], mask=np.eye(4, dtype=np.uint8) * 255)
        mask = detection_to_mask(label, (64, 64))
        assert mask is not None
        assert mask.box == (16, 16, 48, 48)
        np.testing.assert_array_equal(mask.crop, np.kron(np.eye(4), np.ones((8, 8))) != 0)

    def test_mask_one_pixel_off_is_left_as_it_is(self) -> None:
        crop = np.ones((7, 9), bool)
        label = fo.Detection(bounding_box=[10.4 / 100, 20.4 / 100, 9.6 / 100, 7.4 / 100], mask=crop)
        assert detection_to_mask(label, (100, 100)) == ObjectMask(10, 20, crop)

    def test_box_that_sticks_out_of_the_frame(self) -> None:
        label = fo.Detection(bounding_box=[-0.1, -0.2, 0.5, 0.6], mask=np.ones((60, 50), bool))
        assert detection_to_mask(label, (100, 100)) == ObjectMask(0, 0, np.ones((40, 40), bool))


class TestPrompts:
    def test_mask_and_mask_path(self, tmp_path: Path) -> None:
        mask = some_mask(5, 6, 20, 10)
        box, crop = mask_to_detection(mask, SIZE) or ([], None)
        cv2.imwrite(str(tmp_path / "m.png"), crop.astype(np.uint8) * 255)
        for label in (
            fo.Detection(bounding_box=box, mask=crop),
            fo.Detection(bounding_box=box, mask=crop.astype(np.uint8) * 255),
            fo.Detection(bounding_box=box, mask_path=str(tmp_path / "m.png")),
        ):
            prompt = label_to_prompt(label, frame=4, object_id=7, size=SIZE)
            assert (prompt.frame, prompt.object_id, prompt.kind, prompt.mask) == (4, 7, PromptKind.MASK, mask)

    def test_box_when_there_is_no_pixel(self) -> None:
        for extra in ({}, {"mask": np.zeros((4, 4), bool)}):
            label = fo.Detection(bounding_box=box_to_detection((1.5, 2, 11.25, 30), SIZE), **extra)
            prompt = label_to_prompt(label, frame=0, object_id=1, size=SIZE)
            assert (prompt.kind, prompt.box) == (PromptKind.BOX, (1.5, 2, 11.25, 30))

    @pytest.mark.parametrize("box", [None, [], [0.1, 0.2, 0.3], [0, 0, 0, 0.5], [0, 0, float("nan"), 1]])
    def test_malformed_box_names_the_label(self, box: Any) -> None:
        label = fo.Detection(label="cat", bounding_box=box)
        with pytest.raises(DataError, match=f"{label.id} .cat."):
            label_to_prompt(label, frame=0, object_id=1, size=SIZE)

    def test_missing_mask_file(self, tmp_path: Path) -> None:
        label = fo.Detection(bounding_box=[0, 0, 1, 1], mask_path=str(tmp_path / "gone.png"))
        with pytest.raises(DataError, match=r"gone\.png"):
            label_to_prompt(label, frame=0, object_id=1, size=SIZE)


class TestStates:
    @pytest.mark.parametrize(
        "state",
        [
            ObjectState(mask=some_mask(3, 4, 9, 8), confidence=0.25, exemplar_frames=(2, 9)),
            ObjectState(box=(1.25, 2.5, 30.125, 20), confidence=1.0, exemplar_frames=(0,), keyframe=True),
        ],
    )
    def test_there_and_back(self, state: ObjectState) -> None:
        instance = fo.Instance()
        label = state_to_detection(
            state, label="cat", index=3, instance=instance, size=SIZE, source="reviewed", attributes={"mood": "calm"}
        )
        assert (label.label, label.index, label.confidence, label.instance) == ("cat", 3, state.confidence, instance)
        assert (label.source, label.keyframe, label.mood) == ("reviewed", state.keyframe, "calm")
        assert label.exemplar_frames == list(state.exemplar_frames)
        assert detection_to_state(fo.Detection.from_dict(label.to_dict()), size=SIZE) == state

    def test_box_wins_over_the_mask_beside_it(self) -> None:
        state = ObjectState(box=(0, 0, 20, 20), mask=some_mask(3, 4, 9, 8))
        label = state_to_detection(state, label="cat", index=1, instance=None, size=SIZE, source="propagated")
        assert not label.has_mask
        assert detection_to_box(label, SIZE) == (0, 0, 20, 20)

    def test_polygon_is_filled(self) -> None:
        state = ObjectState(polygon=(((10, 10), (20, 10), (20, 16), (10, 16)),))
        label = state_to_detection(state, label="cat", index=1, instance=None, size=SIZE, source="propagated")
        mask = detection_to_mask(label, SIZE)
        assert mask is not None
        assert mask.box[:2] == (10, 10)

    def test_provenance_wins_over_attributes_of_its_name(self) -> None:
        label = state_to_detection(
            ObjectState(box=(0, 0, 2, 2)),
            label="cat",
            index=1,
            instance=None,
            size=SIZE,
            source="propagated",
            attributes={"source": "camera 1"},
        )
        assert label.source == "propagated"

    def test_object_outside_the_frame(self) -> None:
        state = ObjectState(mask=ObjectMask(WIDTH + 1, 0, np.ones((2, 2), bool)))
        with pytest.raises(DataError, match="160x32"):
            state_to_detection(state, label="cat", index=1, instance=None, size=SIZE, source="propagated")


@pytest.fixture(scope="module")
def media(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("media")
    for number in range(LENGTH):
        cv2.imwrite(str(folder / f"{number:03}.png"), numbered_frame(number)[..., ::-1])
    write_cv_video(folder / "clip.mp4", LENGTH)
    write_cv_video(folder / "other.mp4", LENGTH)
    return folder


@pytest.fixture(params=["images", "groups", "video"])
def place(request: pytest.FixtureRequest, media: Path) -> Iterator[tuple[Any, Sequence]]:
    """A collection and its first sequence of ``LENGTH`` frames, with a field that must stay as it is."""
    dataset = fo.Dataset()
    if request.param == "video":
        for name in ("clip", "other"):
            sample = fo.Sample(filepath=str(media / f"{name}.mp4"))
            sample.frames[4] = fo.Frame(human=fo.Detections(detections=[fo.Detection(bounding_box=[0, 0, 1, 1])]))
            dataset.add_sample(sample)
        samples: Any = dataset
    else:
        dataset.add_samples(
            [
                fo.Sample(
                    filepath=str(media / f"{number:03}.png"),
                    number=number,
                    scene=scene,
                    human=fo.Detections(detections=[fo.Detection(bounding_box=[0, 0, 1, 1])]),
                )
                for scene in ("a", "b")[: 1 + (request.param == "groups")]
                for number in range(LENGTH - 1, -1, -1)
            ],
            progress=False,
        )
        samples = dataset.group_by("scene", order_by="number") if request.param == "groups" else dataset
    sort = "number" if request.param == "images" else None
    yield samples, sequences_of(samples, sort_field=sort)[0]
    dataset.delete()


TRACKS = {
    5: Track("cat", 1, attributes={"colour": "red"}),
    6: Track("dog", 2, attributes={"size": 3}),
}


def objects_at(frame: int, seed: int = 0) -> FrameObjects:
    states = {5: ObjectState(mask=some_mask(frame, 2, 9, 7, frame + seed), confidence=0.5, exemplar_frames=(0,))}
    if frame % 2:
        states[6] = ObjectState(box=(frame, 0.5, frame + 9, 8), keyframe=frame == 3, exemplar_frames=(3,))
    return FrameObjects(frame, states)


def write(place: tuple[Any, Sequence], segment: Segment, seed: int = 0, field: str = "out") -> None:
    samples, sequence = place
    with SegmentWriter(samples, sequence, field, segment, TRACKS) as writer:
        for frame in segment.frames:
            writer.write(objects_at(frame, seed))
        writer.commit()


def stored(place: tuple[Any, Sequence], field: str = "out") -> list[list[dict[str, Any]]]:
    samples, sequence = place
    return [[label.to_dict() for label in entry.labels] for entry in read_labels(samples, sequence, field)]


def everything(samples: Any) -> list[dict[str, Any]]:
    """All that the database holds of the dataset, without the times of the last change."""
    dataset = samples._dataset
    documents = [*dataset._sample_collection.find(sort=[("_id", 1)])]
    if dataset.media_type == "video":
        documents += [*dataset._frame_collection.find(sort=[("_id", 1)])]
    for document in documents:
        document.pop("last_modified_at", None)
    return documents


def put(samples: Any, name: str) -> str:
    return f"frames.{name}" if samples._dataset.media_type == "video" else name


class TestSegmentWriter:
    def test_written_states_come_back(self, place: tuple[Any, Sequence]) -> None:
        samples, sequence = place
        write(place, Segment(0, 7))
        write(place, Segment(7, LENGTH))
        found = list(read_states(samples, sequence, "out"))
        assert [objects.frame for objects, _ in found] == list(range(LENGTH))
        for objects, labels in found:
            expected = {TRACKS[key].index: state for key, state in objects_at(objects.frame).objects.items()}
            assert dict(objects.objects) == expected
            assert {index: label.label for index, label in labels.items()} == {
                index: {1: "cat", 2: "dog"}[index] for index in expected
            }
        instances = {label.instance.id for _, labels in found for label in labels.values()}
        assert instances == {track.instance.id for track in TRACKS.values()}
        assert found[3][1][2].source == "manual"
        assert found[5][1][2].source == "propagated"
        assert found[5][1][1].colour == "red"

    def test_fiftyone_sees_them(self, place: tuple[Any, Sequence]) -> None:
        samples, sequence = place
        dataset = samples._dataset
        write(place, Segment(0, LENGTH))
        path = put(samples, "out")
        assert dataset.count(f"{path}.detections") == LENGTH * 3 // 2
        assert dataset.count_values(f"{path}.detections.source") == {"propagated": 29, "manual": 1}
        assert dataset.count_values(f"{path}.detections.colour")["red"] == LENGTH
        assert dataset.bounds(f"{path}.detections.index") == (1, 2)
        assert isinstance(dataset.get_field(f"{path}.detections.keyframe"), fo.BooleanField)
        assert isinstance(dataset.get_field(f"{path}.detections.exemplar_frames").field, fo.IntField)
        assert isinstance(dataset.get_field(f"{path}.detections.size"), fo.IntField)
        dataset.reload()
        sample = dataset[sequence.frames[9].sample_id]
        value = sample.frames[10]["out"] if sequence.media_type == "video" else sample["out"]
        assert isinstance(value, fo.Detections)
        assert detection_to_mask(value.detections[0], SIZE) == objects_at(9).objects[5].mask

    def test_only_the_segment_changes(self, place: tuple[Any, Sequence]) -> None:
        samples, _ = place
        write(place, Segment(0, LENGTH))
        before = stored(place)
        humans = stored(place, "human")
        others = everything(samples)
        write(place, Segment(5, 9), seed=50)
        after = stored(place)
        assert [i for i in range(LENGTH) if before[i] != after[i]] == [5, 6, 7, 8]
        assert stored(place, "human") == humans
        for old, new in zip(others, everything(samples), strict=True):
            assert {k: v for k, v in old.items() if k != "out"} == {k: v for k, v in new.items() if k != "out"}

    def test_samples_in_memory_follow(self, place: tuple[Any, Sequence]) -> None:
        samples, sequence = place
        held = [samples._dataset[ref.sample_id] for ref in sequence.frames[:2]]
        write(place, Segment(0, 2))
        values = [s.frames[i + 1]["out"] if sequence.media_type == "video" else s["out"] for i, s in enumerate(held)]
        assert [len(value.detections) for value in values] == [1, 2]

    def test_nothing_happens_without_commit(self, place: tuple[Any, Sequence]) -> None:
        samples, sequence = place
        before = everything(samples)
        with SegmentWriter(samples, sequence, "out", Segment(0, 4), TRACKS) as writer:
            for frame in range(4):
                writer.write(objects_at(frame))
        writer = SegmentWriter(samples, sequence, "out", Segment(0, 4), TRACKS)

        def run_an_engine_that_fails() -> None:
            with writer:
                writer.write(objects_at(0))
                raise RuntimeError("engine")

        with pytest.raises(RuntimeError, match="engine"):
            run_an_engine_that_fails()
        with pytest.raises(DataError, match="closed"):
            writer.commit()
        assert everything(samples) == before
        assert not samples._dataset.has_field(put(samples, "out"))

    @pytest.mark.parametrize("error", [OSError, KeyboardInterrupt])
    @pytest.mark.parametrize("known", [False, True])
    def test_failed_write_is_undone(
        self,
        place: tuple[Any, Sequence],
        monkeypatch: pytest.MonkeyPatch,
        error: type[BaseException],
        known: bool,
    ) -> None:
        samples, _ = place
        dataset = samples._dataset
        if known:
            write(place, Segment(0, 6))
        before = everything(samples)
        monkeypatch.setattr(labels_module, "_BATCH_FRAMES", 3)
        bulk_write, calls = type(dataset)._bulk_write, []

        def failing(self: fo.Dataset, *arguments: Any, **options: Any) -> None:
            calls.append(1)
            if len(calls) == 3:
                raise error("the database went away")
            bulk_write(self, *arguments, **options)

        monkeypatch.setattr(type(dataset), "_bulk_write", failing)
        with pytest.raises(error):
            write(place, Segment(0, LENGTH), seed=9)
        assert len(calls) > 3
        assert everything(samples) == before
        assert dataset.has_field(put(samples, "out")) == known
        monkeypatch.setattr(type(dataset), "_bulk_write", bulk_write)
        write(place, Segment(0, LENGTH), seed=9)
        assert all(stored(place))

    def test_views_reach_their_own_frames_only(self, place: tuple[Any, Sequence]) -> None:
        samples, sequence = place
        if sequence.media_type == "video":
            view = samples._dataset.match_frames(fo.ViewField("frame_number") == 4)
        else:
            view = samples._dataset.select([ref.sample_id for ref in sequence.frames[3:6]], ordered=True)
        part = sequences_of(view)[0]
        write((view, part), Segment(0, len(part)))
        write_count = sum(bool(labels) for labels in stored(place))
        assert write_count == len(part)
        assert stored(place)[3] == stored((view, part))[0]

    def test_refusals(self, place: tuple[Any, Sequence]) -> None:
        samples, sequence = place
        dataset = samples._dataset
        add = dataset.add_frame_field if sequence.media_type == "video" else dataset.add_sample_field
        add("classes", fo.EmbeddedDocumentField, embedded_doc_type=fo.Classifications)
        add("plain", fo.StringField)
        add("kept", fo.EmbeddedDocumentField, embedded_doc_type=fo.Detections)
        add("kept.detections.size", fo.StringField)
        segment = Segment(0, 2)
        for field, words in (("classes", "Classifications"), ("plain", "StringField"), ("a.b", "embedded")):
            with pytest.raises(DataError, match=words):
                SegmentWriter(samples, sequence, field, segment)
        with pytest.raises(DataError, match="no field"):
            list(read_labels(samples, sequence, "nothing"))
        with pytest.raises(DataError, match="not inside"):
            SegmentWriter(samples, sequence, "out", Segment(0, LENGTH + 1))
        with SegmentWriter(samples, sequence, "out", segment, TRACKS) as writer:
            with pytest.raises(DataError, match="outside the segment"):
                writer.write(objects_at(2))
            with pytest.raises(DataError, match="no track for the object 9"):
                writer.write(FrameObjects(0, {9: ObjectState(box=(0, 0, 1, 1))}))
            writer.write(objects_at(0))
            with pytest.raises(DataError, match="written before"):
                writer.write(objects_at(0))
            with pytest.raises(DataError, match="1 of the 2 frames"):
                writer.commit()
        writer = SegmentWriter(samples, sequence, "out", segment, {5: Track("cat", 1, attributes={"x": 1 + 2j})})
        with writer, pytest.raises(DataError, match="plain values"):
            writer.write(objects_at(0))
        with pytest.raises(DataError, match=r"'size' .* StringField"):
            write(place, segment, field="kept")
        assert not dataset.has_field(put(samples, "out"))
        with pytest.raises(DataError, match="counts from 1"):
            Track("cat", 0)

    def test_read_only_field(self, place: tuple[Any, Sequence]) -> None:
        samples, sequence = place
        write(place, Segment(0, 2))
        field = samples._dataset.get_field(put(samples, "out"))
        field.read_only = True
        field.save()
        with pytest.raises(DataError, match="read-only"):
            SegmentWriter(samples, sequence, "out", Segment(0, 2))
        assert len(list(read_labels(samples, sequence, "out", [1, 0]))) == 2

    def test_frames_prefix_and_asked_order(self, place: tuple[Any, Sequence]) -> None:
        samples, sequence = place
        field = put(samples, "out")
        write(place, Segment(0, LENGTH), field=field)
        assert [entry.frame for entry in read_labels(samples, sequence, field, [7, 2, 19])] == [7, 2, 19]
        assert [entry.frame for entry in read_labels(samples, sequence, field, Segment(3, 5))] == [3, 4]
        assert len(next(iter(read_labels(samples, sequence, field, [7]))).labels) == 2

    def test_sources_attributes_and_progress(self, place: tuple[Any, Sequence]) -> None:
        samples, sequence = place
        seen: list[tuple[int, int]] = []
        with SegmentWriter(samples, sequence, "out", Segment(3, 4), TRACKS) as writer:
            writer.write(objects_at(3), sources={6: "reviewed"}, attributes={6: {"size": 4.5}})
            writer.commit(lambda done, total: seen.append((done, total)))
        (entry,) = read_labels(samples, sequence, "out", [3])
        assert [(label.label, label.source) for label in entry.labels] == [("cat", "propagated"), ("dog", "reviewed")]
        assert entry.labels[1].size == 4.5
        assert seen == [(1, 1)]


def test_memory_does_not_grow_with_the_segment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Masks wait in a file, not in memory."""
    monkeypatch.setattr(labels_module, "_BATCH_FRAMES", 10)
    side, objects = 240, 2
    cv2.imwrite(str(tmp_path / "big.png"), np.zeros((side, side, 3), np.uint8))
    crop = np.random.default_rng(0).random((side, side)) < 0.5
    crop[0], crop[-1], crop[:, 0], crop[:, -1] = True, True, True, True
    tracks = {n: Track("cat", n) for n in range(1, objects + 1)}
    state = ObjectState(mask=ObjectMask(0, 0, crop))

    def peak(count: int) -> tuple[int, int]:
        dataset = fo.Dataset()
        try:
            samples = [fo.Sample(filepath=str(tmp_path / "big.png"), n=n) for n in range(count)]
            dataset.add_samples(samples, progress=False)
            del samples
            (sequence,) = sequences_of(dataset, sort_field="n")
            gc.collect()
            tracemalloc.start()
            with SegmentWriter(dataset, sequence, "out", Segment(0, count), tracks) as writer:
                for frame in range(count):
                    writer.write(FrameObjects(frame, dict.fromkeys(tracks, state)))
                writer.commit()
            highest = tracemalloc.get_traced_memory()[1]
            tracemalloc.stop()
            assert dataset.count("out.detections") == objects * count
            return highest, sum(len(bson.encode(d)) for d in dataset._sample_collection.find())
        finally:
            dataset.delete()

    (short, little), (long, much) = peak(30), peak(150)
    assert long - short < 0.25 * (much - little)


def test_spool_keeps_what_the_database_holds() -> None:
    """What is put back after a failure is what was there, down to the type."""
    import io

    document = {"frame": 3, "id": bson.ObjectId(), "value": {"a": 1, "b": 2.5, "c": b"\x00", "d": None, "e": ["x"]}}
    spool = io.BytesIO(bson.encode(document) * 3)
    assert list(labels_module._spooled_batches(spool)) == [[document] * 3]
