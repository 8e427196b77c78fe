"""``workflow.propagate`` on a part of a collection: a direction, a range of frames, some samples, some tracks."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cv2
import fiftyone as fo
import numpy as np
import pytest

import labelprop_cvat.workflow as lp
from labelprop_cvat.errors import ConfigurationError, DataError
from labelprop_cvat.labels import detection_to_mask, read_labels
from labelprop_cvat.progress import Progress, watching
from labelprop_cvat.propagation.flow import make_flow
from labelprop_cvat.propagation.propagator import Propagator
from labelprop_cvat.propagation.types import FrameObjects
from labelprop_cvat.sequences import sequences_of

HEIGHT, WIDTH, LENGTH = 48, 80, 20
SIDE = 12
DRAWN = (4, 14)


def square(index: int, frame: int) -> tuple[int, int]:
    """Left and top pixel of an object; two objects that walk towards each other's side, apart in height."""
    return (6 + 2 * frame, 6) if index == 1 else (WIDTH - SIDE - 6 - 2 * frame, 30)


def label(index: int, frame: int) -> fo.Detection:
    left, top = square(index, frame)
    box = [left / WIDTH, top / HEIGHT, SIDE / WIDTH, SIDE / HEIGHT]
    return fo.Detection(label="ball", index=index, bounding_box=box, mask=np.ones((SIDE, SIDE), dtype=bool))


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("pictures")
    ground = cv2.GaussianBlur(np.random.default_rng(0).integers(0, 255, (HEIGHT, WIDTH, 3)).astype(np.uint8), (0, 0), 1)
    paths = []
    for frame in range(LENGTH):
        picture = ground.copy()
        for index, colour in ((1, (30, 30, 220)), (2, (220, 60, 30))):
            left, top = square(index, frame)
            picture[top : top + SIDE, left : left + SIDE] = colour
        paths.append(folder / f"{frame:02}.png")
        cv2.imwrite(str(paths[-1]), picture)
    return paths


@pytest.fixture
def dataset(pictures: list[Path]) -> Iterator[fo.Dataset]:
    made = fo.Dataset()
    made.add_samples(
        fo.Sample(
            filepath=str(path),
            number=number,
            clip="one",
            objects=fo.Detections(detections=[label(i, number) for i in (1, 2)]) if number in DRAWN else None,
        )
        for number, path in enumerate(pictures)
    )
    yield made
    made.delete()


class Counting:
    """An engine that notes what it was asked."""

    def __init__(self, engine: Propagator) -> None:
        self._engine, self.spec = engine, engine.spec
        self.spans: list[tuple[int, int]] = []
        self.prompts: list[list[tuple[int, int, bool]]] = []

    def propagate(self, frames: Any, prompts: Any, span: Any) -> Iterator[FrameObjects]:
        self.spans.append((span.start, span.stop))
        self.prompts.append(sorted((p.object_id, p.frame, p.absent) for p in prompts))
        yield from self._engine.propagate(frames, prompts, span)


def fill(samples: Any, engine: Any = "hold", **part: Any) -> int:
    return lp.propagate(samples, "objects", engine=engine, sort_field="number", segmentation="none", **part)


def held(dataset: fo.Dataset) -> list[dict[int, fo.Detection]]:
    """The propagated labels of each frame, by index."""
    values = dataset.sort_by("number").values("objects_propagated")
    return [{} if found is None else {one.index: one for one in found.detections} for found in values]


def frames_with(dataset: fo.Dataset, index: int) -> list[int]:
    return [frame for frame, labels in enumerate(held(dataset)) if index in labels]


def contents(dataset: fo.Dataset) -> list[dict[int, Any]]:
    return [{index: one.to_dict() for index, one in labels.items()} for labels in held(dataset)]


def ids(dataset: fo.Dataset, *frames: int) -> list[str]:
    return [dataset.sort_by("number").values("id")[frame] for frame in frames]


def error(dataset: fo.Dataset, frame: int, index: int) -> float:
    """1 - IoU of a propagated mask."""
    found = detection_to_mask(held(dataset)[frame][index], (HEIGHT, WIDTH)).to_full((HEIGHT, WIDTH))
    truth = detection_to_mask(label(index, frame), (HEIGHT, WIDTH)).to_full((HEIGHT, WIDTH))
    return 1 - float((found & truth).sum() / (found | truth).sum())


# --- direction ---------------------------------------------------------------


@pytest.mark.parametrize(
    ("direction", "reached", "made_from"),
    [
        ("forward", range(4, 20), lambda frame: 4 if frame < 14 else 14),
        ("backward", range(15), lambda frame: 4 if frame <= 4 else 14),
    ],
)
@pytest.mark.parametrize("engine", ["hold", "flow"])
def test_one_direction_fills_from_one_side_alone(
    dataset: fo.Dataset, direction: str, reached: range, made_from: Callable[[int], int], engine: str
) -> None:
    assert fill(dataset, engine, direction=direction) == LENGTH
    assert frames_with(dataset, 1) == frames_with(dataset, 2) == list(reached)
    for frame in reached:
        for one in held(dataset)[frame].values():
            assert list(one.exemplar_frames) == [made_from(frame)]
            assert one.keyframe is (frame in DRAWN)
            assert one.source == ("manual" if frame in DRAWN else "propagated")


def test_one_direction_follows_objects_that_are_drawn_on_different_frames(dataset: fo.Dataset) -> None:
    for sample in dataset:
        drawn = {1: (4,), 2: (0, 9)}
        sample["objects"] = fo.Detections(
            detections=[label(i, sample.number) for i in drawn if sample.number in drawn[i]]
        )
        sample.save()
    engine = Counting(make_flow())
    fill(dataset, engine, direction="forward")
    assert frames_with(dataset, 1) == list(range(4, 20))
    assert frames_with(dataset, 2) == list(range(20))
    assert [list(held(dataset)[frame][2].exemplar_frames) for frame in (8, 9, 12)] == [[0], [9], [9]]
    assert engine.spans == [(0, 9), (4, 20), (9, 20)]
    assert max(error(dataset, frame, 1) for frame in range(4, 20)) < 0.4


def test_a_whole_run_in_one_direction_leaves_nothing_of_an_earlier_one(dataset: fo.Dataset) -> None:
    fill(dataset)
    assert frames_with(dataset, 1) == list(range(LENGTH))
    fill(dataset, direction="forward")
    assert frames_with(dataset, 1) == list(range(4, LENGTH))


# --- a part of the frames ---------------------------------------------------------------


def test_a_range_of_frames_leaves_the_others_as_they_are(dataset: fo.Dataset) -> None:
    fill(dataset)
    before = contents(dataset)
    engine = Counting(make_flow())
    assert fill(dataset, engine, frames=(7, 10)) == 4
    after = contents(dataset)
    changed = [frame for frame in range(LENGTH) if before[frame] != after[frame]]
    assert changed == [6, 7, 8, 9]
    assert engine.spans == [(4, 15)], "from the nearest keyframe before to the nearest behind, and no further"
    assert max(error(dataset, frame, index) for frame in range(6, 10) for index in (1, 2)) < 0.2


def test_what_is_filled_in_part_is_what_a_whole_run_makes(dataset: fo.Dataset) -> None:
    fill(dataset, "flow")
    whole = [{i: np.array(one.mask) for i, one in labels.items()} for labels in held(dataset)]
    fill(dataset, "flow", frames=(7, 10))
    for frame in range(6, 10):
        for index in (1, 2):
            assert np.array_equal(held(dataset)[frame][index].mask, whole[frame][index])


@pytest.mark.parametrize(("frames", "filled"), [((None, 3), [0, 1, 2]), ((18, None), [17, 18, 19]), ((5, 5), [4])])
def test_a_range_may_be_open(dataset: fo.Dataset, frames: Any, filled: list[int]) -> None:
    assert fill(dataset, frames=frames) == len(filled)
    assert frames_with(dataset, 1) == filled


def test_chosen_samples_are_filled_from_keyframes_that_are_not_chosen(dataset: fo.Dataset) -> None:
    engine = Counting(make_flow())
    assert fill(dataset, engine, only=ids(dataset, 2, 17)) == 2
    assert frames_with(dataset, 1) == [2, 17]
    assert engine.spans == [(2, 5), (14, 18)], "frames that are far apart are looked at by themselves"
    assert [list(held(dataset)[frame][1].exemplar_frames) for frame in (2, 17)] == [[4], [14]]
    assert max(error(dataset, frame, 1) for frame in (2, 17)) < 0.2


def test_an_object_that_no_keyframe_shows_goes_from_the_frames_that_are_filled(dataset: fo.Dataset) -> None:
    fill(dataset)
    for sample in dataset.match(fo.ViewField("number").is_in(DRAWN)):
        sample["objects"] = fo.Detections(detections=[label(1, sample.number)])
        sample.save()
    fill(dataset, only=ids(dataset, 8))
    assert frames_with(dataset, 2) == [frame for frame in range(LENGTH) if frame != 8]


def test_only_frames_around_the_wanted_ones_are_searched_for_cuts(
    dataset: fo.Dataset, pictures: list[Path], tmp_path: Path
) -> None:
    for number in range(LENGTH, 150):
        picture = cv2.imread(str(pictures[number % LENGTH]))
        path = tmp_path / f"{number:03}.png"
        cv2.imwrite(str(path), 255 - picture if number < 40 else picture[::-1] // 2)
        dataset.add_sample(fo.Sample(filepath=str(path), number=number, clip="one"))
    looked_at: list[int] = []

    def listen(progress: Progress) -> None:
        if progress.what == "frames searched for cuts":
            looked_at.append(progress.done)

    asked: dict[str, Any] = {"engine": "hold", "sort_field": "number"}
    with watching(listen):
        assert lp.propagate(dataset, "objects", frames=(18, 25), **asked) == 3
    assert frames_with(dataset, 1) == [17, 18, 19], "the shot ends there"
    assert 0 < max(looked_at) < 80
    with pytest.raises(DataError, match="temporal segments of the frames that are to be filled"):
        lp.propagate(dataset, "objects", frames=(25, 26), **asked)


@pytest.mark.parametrize("direction", ["forward", "backward"])
def test_in_one_direction_objects_that_no_keyframe_shows_go_as_well(dataset: fo.Dataset, direction: str) -> None:
    fill(dataset)
    for sample in dataset.match(fo.ViewField("number").is_in(DRAWN)):
        sample["objects"] = fo.Detections(detections=[label(1, sample.number)])
        sample.save()
    assert fill(dataset, direction=direction) == LENGTH
    assert frames_with(dataset, 2) == []
    assert len(frames_with(dataset, 1)) > 0


def instances(dataset: fo.Dataset, index: int) -> set[str]:
    return {str(labels[index].instance.id) for labels in held(dataset) if index in labels}


def test_an_object_is_one_instance_in_all_segments(dataset: fo.Dataset) -> None:
    lp.segment(dataset, "parts", method="fixed:10", sort_field="number")
    fill(dataset, segments_field="parts", frames=(1, 10))
    (first,) = instances(dataset, 1)
    fill(dataset, segments_field="parts", frames=(11, 15))
    assert frames_with(dataset, 1) == list(range(15))
    assert instances(dataset, 1) == {first}, "a part goes on with what is there"
    fill(dataset, segments_field="parts")
    assert instances(dataset, 1) == {first}
    assert len(instances(dataset, 2)) == 1
    assert instances(dataset, 2) != {first}
    own = fo.Instance()
    for sample in dataset.match({"number": DRAWN[1]}):
        sample["objects"] = fo.Detections(detections=[label(1, sample.number), label(2, sample.number)])
        sample["objects"].detections[0].instance = own
        sample.save()
    fill(dataset, segments_field="parts")
    assert instances(dataset, 1) == {str(own.id)}, "what the labels say wins"


# --- a part of the objects ---------------------------------------------------------------


def test_one_track_is_filled_and_the_others_keep_what_they_have(dataset: fo.Dataset) -> None:
    fill(dataset)
    before = contents(dataset)
    engine = Counting(make_flow())
    assert fill(dataset, engine, tracks=[2]) == LENGTH
    after = contents(dataset)
    assert [labels[1] for labels in before] == [labels[1] for labels in after]
    assert before[8][2] != after[8][2]
    assert before[8][2]["instance"] == after[8][2]["instance"]
    assert {entry[0] for entry in engine.prompts[0] if not entry[2]} == {1, 2}, (
        "what is drawn of others is not given away"
    )


def test_one_track_on_one_frame(dataset: fo.Dataset) -> None:
    assert fill(dataset, tracks=[2], only=ids(dataset, 8), direction="backward") == 1
    assert frames_with(dataset, 1) == []
    assert frames_with(dataset, 2) == [8]
    assert list(held(dataset)[8][2].exemplar_frames) == [14]


# --- kinds of views ---------------------------------------------------------------


def test_groups_are_chosen_as_a_whole_or_by_their_frames(dataset: fo.Dataset) -> None:
    for sample in dataset:
        sample["clip"] = "one" if sample.number < 10 else "two"
        sample.save()
    groups = dataset.group_by("clip", order_by="number")
    standing = groups.values("id")[1]
    assert lp.propagate(groups, "objects", engine="hold", segmentation="none", only=[standing]) == 10
    assert frames_with(dataset, 1) == list(range(10, 20))
    assert lp.propagate(groups, "objects", engine="hold", segmentation="none", only=ids(dataset, 3, 5)) == 2
    assert frames_with(dataset, 1) == [3, 5, *range(10, 20)]


def test_frames_of_videos_are_chosen_in_frames_and_clips_views(tmp_path: Path, pictures: list[Path]) -> None:
    path = tmp_path / "clip.avi"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"MJPG"), 10, (WIDTH, HEIGHT))
    for picture in pictures:
        writer.write(cv2.imread(str(picture)))
    writer.release()
    dataset = fo.Dataset()
    try:
        sample = fo.Sample(filepath=str(path))
        for frame in DRAWN:
            sample.frames[frame + 1] = fo.Frame(objects=fo.Detections(detections=[label(1, frame)]))
        sample["shots"] = fo.TemporalDetections(detections=[fo.TemporalDetection(label="a", support=[3, 6])])
        dataset.add_sample(sample)

        def filled() -> list[int]:
            (sequence,) = sequences_of(dataset)
            return [found.frame + 1 for found in read_labels(dataset, sequence, "objects_propagated") if found.labels]

        asked: dict[str, Any] = {"engine": "hold", "segmentation": "none"}
        assert lp.propagate(dataset, "frames.objects", frames=(2, 3), **asked) == 2
        assert filled() == [2, 3]
        clips = dataset.to_clips("shots")
        assert lp.propagate(clips, "frames.objects", only=clips.values("id"), **asked) == 4
        assert filled() == [2, 3, 4, 5, 6]
        assert lp.propagate(dataset, "frames.objects", only=[sample.id], tracks=[1], **asked) == LENGTH
        assert filled() == list(range(1, LENGTH + 1))
    finally:
        dataset.delete()


# --- what makes no sense ---------------------------------------------------------------


@pytest.mark.parametrize(
    ("part", "kind", "says"),
    [
        ({"direction": "up"}, ConfigurationError, "both, forward, backward, got 'up'"),
        ({"frames": (0, 3)}, ConfigurationError, "a number from 1, got 0"),
        ({"frames": (4, 3)}, ConfigurationError, "the last must not come before the first"),
        ({"frames": (True, 3)}, ConfigurationError, "a number from 1, got True"),
        ({"frames": (1, 2, 3)}, ConfigurationError, "a pair, the first and the last frame"),
        ({"tracks": []}, ConfigurationError, "names no index"),
        ({"tracks": [0]}, ConfigurationError, "a number from 1, got 0"),
        ({"tracks": [1, 7]}, DataError, "no track 7 in 'objects'.*there are: 1, 2"),
        ({"only": []}, ConfigurationError, "names no id"),
        ({"only": ["first"]}, ConfigurationError, "24 hexadecimal digits.*got 'first'"),
        ({"only": ["0" * 24]}, DataError, "None of the 1 chosen ids"),
        ({"frames": (90, 99)}, DataError, "choose other frames"),
    ],
)
def test_a_part_that_makes_no_sense_is_refused(
    dataset: fo.Dataset, part: Any, kind: type[Exception], says: str
) -> None:
    with pytest.raises(kind, match=says):
        fill(dataset, **part)
    assert not dataset.has_field("objects_propagated")
