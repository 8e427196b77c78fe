"""``workflow.evaluate``: scores known by hand, whatever the media and the kinds of labels."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fiftyone as fo
import numpy as np
import pytest
from fixtures_evaluation import SIZE, boxed, fill, masked, outlined
from fixtures_roundtrip import image_dataset, video_dataset, write_images, write_video

import labelprop_cvat.workflow as lp
from labelprop_cvat.errors import ConfigurationError, DataError
from labelprop_cvat.evaluation import Evaluation
from labelprop_cvat.propagation.effort import EffortModel
from labelprop_cvat.propagation.metrics import boundary_f
from labelprop_cvat.propagation.types import ObjectMask

COUNT = 6
HERE, HALF, AWAY = (10, 10), (20, 10), (80, 40)
"""``HALF`` overlaps ``HERE`` in half of its pixels: an IoU of 1/3."""
QUIET: dict[str, Any] = {"sort_field": "number", "progress": False}


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return write_images(tmp_path_factory.mktemp("evaluation"), COUNT)


@pytest.fixture
def dataset(images: list[Path]) -> Iterator[fo.Dataset]:
    made = image_dataset(images)
    yield made
    made.delete()


def evaluate(dataset: fo.Dataset, **options: Any) -> Evaluation:
    return lp.evaluate(dataset, "guess", "truth", **{**QUIET, **options})


def test_scores_by_hand(dataset: fo.Dataset) -> None:
    fill(dataset, "truth", [{1: HERE}, {1: HERE}, {1: HERE, 2: AWAY}, {1: HERE}, {}, {}])
    fill(dataset, "guess", [{1: HERE}, {1: HERE}, {1: HALF}, {2: AWAY}, {1: HERE}, {}], keyframes=[0], confidence=0.5)
    found = evaluate(dataset)
    (sequence,) = found.sequences
    one, two = sequence.objects
    # The object 1, frames 1 to 5: right, a third, missed, there though it is gone, rightly absent.
    assert one.scores.j == pytest.approx((1 + 1 / 3 + 0 + 0 + 1) / 5)
    square, moved = (ObjectMask(*at, np.ones((20, 20), bool)) for at in (HERE, HALF))
    assert one.scores.f == pytest.approx((1 + boundary_f(moved, square, SIZE) + 0 + 0 + 1) / 5)
    assert one.scores.miou == one.scores.box_iou == pytest.approx((1 + 1 / 3 + 0 + 0) / 4)
    # The object 2: missed on frame 2, there on frame 3 though it is not, rightly absent on the other three.
    assert two.scores.j == pytest.approx(3 / 5)
    assert two.scores.miou == 0.0
    assert (one.scores.missed, one.scores.extra, one.scores.bad, one.scores.frames) == (1, 1, 3, 5)
    assert (two.scores.missed, two.scores.extra, two.scores.bad, two.scores.frames) == (1, 1, 2, 5)
    assert found.scores.j == pytest.approx((one.scores.j + two.scores.j) / 2)
    assert found.scores.jf == pytest.approx((found.scores.j + found.scores.f) / 2)
    assert found.scores.miou == pytest.approx((1 + 1 / 3) / 6)
    assert (found.scores.frames, found.scores.object_frames, found.scores.bad) == (5, 6, 5)
    # Of four true and four predicted object-frames one overlaps enough.
    assert found.scores.identity.idf1 == pytest.approx(2 * 1 / (4 + 4))
    assert (sequence.annotated, found.annotated_frames, found.frames) == ((0,), 1, COUNT)
    assert found.minutes == pytest.approx(EffortModel().seconds_for_object("mask") / 60 + EffortModel().examine / 60)
    assert sequence.object_frames.position.tolist() == [1, 2, 2, 3, 3, 4]
    assert sequence.object_frames.distance.tolist() == [1, 2, 2, 3, 3, 4]


def test_objects_that_only_the_predictions_know(dataset: fo.Dataset) -> None:
    fill(dataset, "truth", [{1: HERE}] * COUNT)
    fill(dataset, "guess", [{1: HERE, 9: AWAY}] * COUNT)
    found = evaluate(dataset)
    assert found.scores.j == 1.0, "as DAVIS defines it"
    assert found.scores.miou == 0.5
    assert found.scores.extra == COUNT
    assert found.scores.identity.idf1 == pytest.approx(2 * 6 / (6 + 12))
    assert [entry.index for entry in found.sequences[0].objects] == [1]


def test_what_people_made_is_not_scored(dataset: fo.Dataset) -> None:
    fill(dataset, "truth", [{1: HERE, 2: AWAY}] * COUNT)
    fill(dataset, "guess", [{1: HERE, 2: HERE}] + [{1: HALF, 2: HALF}] * 5)
    sample = dataset.sort_by("number").first()
    sample["guess"].detections[0]["keyframe"] = True
    sample.save()
    assert evaluate(dataset).scores.object_frames == 10
    whole = evaluate(dataset, leave_out="labels")
    assert whole.scores.object_frames == 11
    assert [entry.scores.object_frames for entry in whole.sequences[0].objects] == [5, 6]
    assert whole.sequences[0].objects[0].scores.j == pytest.approx(1 / 3)
    everything = evaluate(dataset, leave_out="nothing")
    assert everything.scores.object_frames == 12
    assert everything.sequences[0].objects[0].scores.j == pytest.approx((1 + 5 / 3) / 6)


def test_reviewed_labels_are_people_s(dataset: fo.Dataset) -> None:
    fill(dataset, "truth", [{1: HERE}] * COUNT)
    fill(dataset, "guess", [{1: HERE}] * COUNT)
    for sample in (dataset.sort_by("number").first(), dataset.sort_by("number").last()):
        sample["guess"].detections[0]["source"] = "reviewed"
        sample.save()
    (sequence,) = evaluate(dataset).sequences
    assert sequence.annotated == (0, COUNT - 1)
    assert sequence.object_frames.distance.tolist() == [1, 2, 2, 1], "to the nearest one on either side"


@pytest.mark.parametrize(
    ("guess", "truth", "masks"),
    [(masked, masked, True), (outlined, masked, True), (masked, outlined, True), (outlined, outlined, True),
     (boxed, boxed, False), (boxed, masked, False), (outlined, boxed, False)],
)  # fmt: skip
def test_kinds_of_labels(dataset: fo.Dataset, guess: Any, truth: Any, masks: bool) -> None:
    fill(dataset, "truth", [{1: HERE}] * COUNT, truth)
    fill(dataset, "guess", [{1: HERE}, {1: HALF}, {1: HERE}, {}, {1: HERE}, {1: HERE}], guess)
    scores = evaluate(dataset).scores
    assert scores.box_iou == pytest.approx((4 + 1 / 3) / 6)
    assert scores.quality == pytest.approx((4 + 1 / 3) / 6)
    assert scores.missed == 1
    if masks:
        assert scores.j == scores.miou == pytest.approx((4 + 1 / 3) / 6)
    else:
        assert math.isnan(scores.j)
        assert math.isnan(scores.f)
        assert math.isnan(scores.miou)


def test_numbers_that_differ(dataset: fo.Dataset) -> None:
    fill(dataset, "truth", [{1: HERE, 2: AWAY}] * COUNT)
    fill(dataset, "guess", [{2: HERE, 7: AWAY}] * COUNT)
    by_index = evaluate(dataset)
    assert by_index.scores.j == 0.0
    assert by_index.scores.identity.idf1 == 1.0, "identities are kept, whatever they are called"
    by_overlap = evaluate(dataset, match="overlap")
    assert by_overlap.scores.j == 1.0
    assert [(entry.index, entry.predicted_as) for entry in by_overlap.sequences[0].objects] == [(1, 2), (2, 7)]


def test_predicted_objects_that_overlap_nothing_keep_their_number(dataset: fo.Dataset) -> None:
    fill(dataset, "truth", [{5: HERE}] * COUNT)
    fill(dataset, "guess", [{4: HERE, 5: AWAY, 0: (100, 0)}] * COUNT)
    found = evaluate(dataset, match="overlap")
    assert found.scores.j == 1.0
    assert found.scores.extra == 2 * COUNT
    table = found.sequences[0].object_frames
    numbered = sorted(zip(table.index.tolist(), table.extra.tolist(), strict=True))
    assert numbered == sorted([(5, False), (0, True), (5, True)] * COUNT)


def test_identities_that_are_swapped(dataset: fo.Dataset) -> None:
    fill(dataset, "truth", [{1: HERE, 2: AWAY}] * COUNT)
    fill(dataset, "guess", [{1: HERE, 2: AWAY}] * 4 + [{2: HERE, 1: AWAY}] * 2)
    scores = evaluate(dataset).scores
    assert scores.identity.switches == 2
    assert scores.identity.idf1 == pytest.approx(8 / 12)
    assert scores.j == pytest.approx(4 / 6)


def test_instances_stand_in_for_numbers(dataset: fo.Dataset) -> None:
    mine = fo.Instance()
    fill(dataset, "truth", [{1: HERE}] * COUNT)
    fill(dataset, "guess", [{1: HERE}] * COUNT)
    for sample in dataset:
        for label in (*sample["guess"].detections, *sample["truth"].detections):
            label.index = None
            label.instance = mine
        sample.save()
    with pytest.raises(DataError, match="have no index"):
        evaluate(dataset)
    assert evaluate(dataset, match="overlap").scores.j == 1.0


def test_frames_without_a_stored_truth(dataset: fo.Dataset) -> None:
    fill(dataset, "truth", [{1: HERE}, None, {1: HERE}, None, {}, {1: HERE}])
    fill(dataset, "guess", [{1: HERE}] * COUNT)
    stored = evaluate(dataset)
    # Nothing is said of the frames 1 and 3; on frame 4 there is nothing.
    assert (stored.scores.frames, stored.scores.j) == (4, pytest.approx(3 / 4))
    assert any("2 of 6 frames have no stored truth" in note for note in stored.notes)
    assert evaluate(dataset, truth="all").scores.j == pytest.approx(3 / 6)


def test_segments_and_those_not_predicted_yet(dataset: fo.Dataset) -> None:
    fill(dataset, "truth", [{1: HERE}, {1: HERE}, {1: HERE}, {2: HERE}, {2: HERE}, {2: HERE}])
    fill(dataset, "guess", [{1: HERE}, {1: HERE}, {1: HALF}, {}, {}, {}], keyframes=[0])
    lp.segment(dataset, "shots", method="fixed:3", sort_field="number")
    found = evaluate(dataset, segments_field="shots")
    (segment,) = found.sequences[0].segments
    assert (segment.start, segment.stop, segment.annotated) == (0, 3, 1)
    assert found.scores.j == pytest.approx((1 + 1 / 3) / 2)
    assert any("1 of 2 segments hold no predictions" in note for note in found.notes)
    scored = evaluate(dataset, segments_field="shots", unfilled="score")
    # Neither object counts in the segment that it is not in.
    assert [entry.scores.frames for entry in scored.sequences[0].objects] == [2, 3]
    assert [len(entry.objects) for entry in scored.sequences[0].segments] == [1, 1]
    assert scored.scores.j == pytest.approx(((1 + 1 / 3) / 2 + 0) / 2)


def test_groups_are_sequences_of_their_own(images: list[Path]) -> None:
    dataset = image_dataset(images, clip=lambda number: "a" if number < 3 else "b")
    fill(dataset, "truth", [{1: HERE}] * COUNT)
    fill(dataset, "guess", [{1: HERE}] * 3 + [{1: HALF}] * 3)
    view = dataset.group_by("clip", order_by="number")
    found = lp.evaluate(view, "guess", "truth", progress=False)
    assert {entry.name: round(entry.scores.j, 6) for entry in found.sequences} == {"a": 1.0, "b": 0.333333}
    assert found.scores.j == pytest.approx((1 + 1 / 3) / 2)
    dataset.delete()


def test_videos(images: list[Path], tmp_path: Path) -> None:
    dataset = video_dataset(write_video(tmp_path / "v.mp4", COUNT))
    fill(dataset, "truth", [{1: HERE}] * 5 + [None])
    fill(dataset, "guess", [{1: HERE}, {1: HALF}, None, {1: HERE}, {1: HERE}, None], keyframes=[0])
    found = lp.evaluate(dataset, "frames.guess", "frames.truth", eval_key="ev", progress=False)
    assert found.scores.j == pytest.approx((1 / 3 + 0 + 1 + 1) / 4)
    assert found.sequences[0].numbers == (1, 2, 3, 4, 5, 6)
    dataset.reload()
    frames = dataset.first().frames
    assert [frames[n]["ev_j"] for n in range(1, 6)] == [None, pytest.approx(1 / 3), 0.0, 1.0, 1.0]
    assert [frames[n]["ev_fn"] for n in range(1, 6)] == [None, 1, 1, 0, 0]
    assert dataset.first()["ev_j"] == pytest.approx(found.scores.j)
    assert dataset.first()["ev_worst"] == 0.0
    assert (dataset.first()["ev_tp"], dataset.first()["ev_fp"], dataset.first()["ev_fn"]) == (2, 1, 2)
    moved = frames[2]["guess"].detections[0]
    assert (moved["ev"], moved["ev_iou"], moved["ev_id"]) == ("fp", pytest.approx(1 / 3), "")
    right, true = frames[4]["guess"].detections[0], frames[4]["truth"].detections[0]
    assert (right["ev"], right["ev_id"], true["ev"], true["ev_id"]) == ("tp", true.id, "tp", right.id)
    dataset.set_values("frames.filepath", [[str(images[0])] * len(dataset.first().frames)])
    patches = dataset.to_frames(sample_frames=False).to_evaluation_patches("ev")
    assert patches.count_values("type") == {None: 2, "tp": 2, "fp": 1, "fn": 2}
    again = lp.evaluate(patches, "guess", "truth", progress=False)
    assert again.scores.j == found.scores.j
    dataset.delete_evaluation("ev")
    assert not [name for name in dataset.get_frame_field_schema(flat=True) if "ev_" in name or name.endswith(".ev")]
    assert not [name for name in dataset.get_field_schema() if name.startswith("ev_")]
    dataset.delete()


def test_equal_to_the_official_code(dataset: fo.Dataset) -> None:
    evaluator = pytest.importorskip("vos_benchmark.evaluator", reason="vos-benchmark is not installed")
    rng = np.random.default_rng(3)
    judge = evaluator.Evaluator()
    for sample in dataset.sort_by("number"):
        found = []
        for _ in range(2):
            ids = np.zeros(SIZE, np.uint8)
            for index in (1, 2):
                x, y = int(rng.integers(0, 100)), int(rng.integers(0, 50))
                ids[y : y + 18, x : x + 26] = index
            found.append(ids)
        for name, ids in zip(("guess", "truth"), found, strict=True):
            things = []
            for index in (1, 2):
                mask = ObjectMask.from_full(ids == index)
                assert mask is not None
                label = masked(index, (0, 0))
                label.bounding_box = [mask.x / SIZE[1], mask.y / SIZE[0], mask.crop.shape[1] / SIZE[1],
                                      mask.crop.shape[0] / SIZE[0]]  # fmt: skip
                label.mask = mask.crop
                things.append(label)
            sample[name] = fo.Detections(detections=things)
        sample.save()
        judge.feed_frame(*found)
    scores = {entry.index: entry.scores for entry in evaluate(dataset).sequences[0].objects}
    for index in (1, 2):
        assert scores[index].j == pytest.approx(float(np.mean(judge.object_iou[index])), abs=1e-9)
        assert scores[index].f == pytest.approx(float(np.mean(judge.boundary_f[index])), abs=1e-9)


def test_confidence_and_distance(dataset: fo.Dataset) -> None:
    fill(dataset, "truth", [{1: HERE, 2: AWAY}] * COUNT)
    fill(dataset, "guess", [{1: HERE, 2: AWAY}] + [{1: HERE, 2: HERE}] * 5, keyframes=[0])
    for sample in dataset:
        for label in sample["guess"].detections:
            label.confidence = 0.9 if label.index == 1 else 0.2
            label["pass_agreement"] = 0.4
        sample.save()
    found = evaluate(dataset)
    confidence, agreement = found.calibration("confidence"), found.calibration("agreement")
    assert confidence is not None
    assert agreement is not None
    assert (confidence.count, confidence.auroc, confidence.spearman) == (10, 1.0, pytest.approx(1.0))
    assert confidence.error == pytest.approx((0.1 + 0.2) / 2)
    assert agreement.auroc == 0.5
    rows = found.by_distance()
    assert [(row.near, row.far, row.count, row.quality) for row in rows] == [
        (1, 1, 2, 0.5), (2, 2, 2, 0.5), (3, 4, 4, 0.5), (5, 8, 2, 0.5)
    ]  # fmt: skip
    assert [(sample.position, sample.index) for sample in found.worst] == [(1, 2)], "the others lie beside it"


def test_curves(dataset: fo.Dataset) -> None:
    where = [{1: (4 + 10 * number, 10)} for number in range(COUNT)]
    fill(dataset, "truth", where, boxed)
    fill(dataset, "guess", where, boxed, keyframes=[0])
    found = evaluate(dataset, curves=[1, 2, 6], engine="hold", methods=["first", "uniform"])
    names = [curve.name for curve in found.curves]
    assert names == ["hold, first", "hold, uniform", "interpolate, first"]
    first, _, line = found.curves
    # Held from frame 0, of each step of ten pixels: 1/3, then nothing.
    assert first.points[0].j == pytest.approx((1 / 3) / 5)
    assert first.points[0].j_all == pytest.approx((1 + 1 / 3) / 6)
    # With the frames 0 and 3 the frames between lie on the line.
    assert line.points[1].j == pytest.approx((1 + 1 + 1 / 3 + 0) / 4)
    assert [point.frames for point in first.points] == [1, 2, 6]
    assert first.points[-1].j == 1.0
    seconds = EffortModel()
    assert [point.minutes for point in first.points] == pytest.approx(
        [n * (seconds.box + seconds.examine) / 60 for n in (1, 2, 6)]
    )


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"pred_field": "nowhere"}, DataError, "no field 'nowhere'.*truth, guess"),
        ({"pred_field": "number"}, DataError, "holds IntField"),
        ({"gt_field": "guess"}, ConfigurationError, "not judged by itself"),
        ({"match": "name"}, ConfigurationError, "match='name' is not known"),
        ({"leave_out": "people"}, ConfigurationError, "leave_out='people'"),
        ({"iou": 0}, ConfigurationError, "above 0"),
        ({"segments_field": "nowhere"}, DataError, "no field 'nowhere'"),
        ({"eval_key": "no key"}, ConfigurationError, "variable name"),
        ({"curves": [0]}, ConfigurationError, "from 1"),
        ({"curves": True, "methods": ["magic"]}, ConfigurationError, "magic"),
        ({"curves": True, "methods": ["every"]}, ConfigurationError, "number of them.*'every'"),
    ],
)
def test_what_does_not_fit_is_said(dataset: fo.Dataset, change: dict[str, Any], error: type, message: str) -> None:
    fill(dataset, "truth", [{1: HERE}] * COUNT)
    fill(dataset, "guess", [{1: HERE}] * COUNT)
    options = {"pred_field": "guess", "gt_field": "truth", "engine": "hold", **QUIET, **change}
    with pytest.raises(error, match=message):
        lp.evaluate(dataset, **options)
    assert not dataset.list_evaluations()


def test_nothing_to_compare(dataset: fo.Dataset) -> None:
    fill(dataset, "truth", [{1: HERE}] * COUNT)
    fill(dataset, "guess", [{}] * COUNT)
    with pytest.raises(DataError, match=r"nothing to compare.*no predictions"):
        evaluate(dataset, eval_key="ev")
    assert not dataset.list_evaluations()
    assert dataset.get_field("ev_j") is None
    assert evaluate(dataset, unfilled="score", eval_key="ev").scores.j == 0.0
    fill(dataset, "guess", [{1: HERE}] * COUNT, keyframes=range(COUNT))
    with pytest.raises(DataError, match="nothing to compare"):
        evaluate(dataset, eval_key="ev")
    # The earlier evaluation stays, as nothing takes its place.
    assert dataset.list_evaluations() == ["ev"]
    assert set(dataset.values("ev_j")) == {0.0}
