"""J, F and the other measures equal their definitions, and the official code where there is one."""

from __future__ import annotations

import itertools
import math

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from labelprop_cvat.errors import DataError
from labelprop_cvat.propagation.metrics import (
    IdentityScorer,
    annotation_effort,
    boundary_f,
    box_iou,
    identity_switches,
    jaccard,
    mean_box_iou,
    score_sequence,
)
from labelprop_cvat.propagation.types import FrameObjects, ObjectMask, ObjectState, Segment


def _blobs(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    noise = cv2.GaussianBlur(rng.random((height, width)).astype(np.float32), (0, 0), float(rng.uniform(1, 6)))
    return noise > np.quantile(noise, rng.uniform(0.0, 1.0))


def _official(prediction: np.ndarray, truth: np.ndarray) -> tuple[float, float]:
    evaluator = pytest.importorskip("vos_benchmark.evaluator", reason="vos-benchmark is not installed")
    judge = evaluator.Evaluator()
    judge.feed_frame(prediction.astype(np.uint8), truth.astype(np.uint8))
    return float(judge.object_iou[1][0]), float(judge.boundary_f[1][0])


@pytest.mark.parametrize("seed", range(30))
def test_equal_to_official_code(seed: int) -> None:
    rng = np.random.default_rng(seed)
    height, width = int(rng.integers(20, 260)), int(rng.integers(20, 400))
    truth, prediction = _blobs(rng, height, width), _blobs(rng, height, width)
    truth[0, 0] = True  # the official code only scores objects that exist
    if seed % 3 == 0:  # boundaries at the frame's own last row and column are defined differently
        truth[-3:], prediction[:, -2:] = True, True
    if seed % 3 == 1:  # small masks: only a crop of the frame is looked at
        truth[height // 3 :], prediction[: height // 5] = False, False
    j, f = _official(prediction, truth)
    assert jaccard(prediction, truth) == pytest.approx(j, abs=1e-9)
    assert boundary_f(prediction, truth) == pytest.approx(f, abs=1e-9)
    masks = ObjectMask.from_full(prediction), ObjectMask.from_full(truth)
    assert boundary_f(*masks, (height, width)) == pytest.approx(f, abs=1e-9)


@pytest.mark.parametrize("shape", [(480, 854), (1080, 1920), (2160, 3840)])
def test_equal_to_official_code_at_real_sizes(shape: tuple[int, int]) -> None:
    truth, prediction = np.zeros(shape, np.uint8), np.zeros(shape, np.uint8)
    cv2.circle(truth, (shape[1] // 2, shape[0] // 2), shape[0] // 5, 1, -1)
    cv2.ellipse(prediction, (shape[1] // 2 + 9, shape[0] // 2), (shape[0] // 4, shape[0] // 6), 20, 0, 360, 1, -1)
    j, f = _official(prediction, truth)
    assert 0.1 < f < 0.95
    assert jaccard(prediction, truth) == pytest.approx(j, abs=1e-9)
    assert boundary_f(prediction, truth) == pytest.approx(f, abs=1e-9)


def test_empty_masks() -> None:
    full = np.zeros((50, 60), bool)
    full[10:20, 10:30] = True
    empty = np.zeros_like(full)
    assert jaccard(empty, empty) == jaccard(None, None) == 1.0
    assert boundary_f(empty, empty) == boundary_f(None, None, (50, 60)) == 1.0
    for prediction, truth in ((empty, full), (full, empty), (None, full), (full, None)):
        assert jaccard(prediction, truth) == 0.0
        assert boundary_f(prediction, truth) == 0.0
    assert jaccard(full, full) == boundary_f(full, full) == 1.0
    assert boundary_f(np.ones_like(full), np.ones_like(full)) == 1.0  # no boundary inside the frame


def test_f_needs_the_frame_size() -> None:
    mask = ObjectMask(3, 3, np.ones((4, 4), bool))
    with pytest.raises(DataError, match="no size"):
        boundary_f(mask, mask)
    with pytest.raises(DataError, match="one frame size"):
        boundary_f(mask, np.zeros((9, 9), bool), (10, 10))


def test_boxes() -> None:
    assert box_iou((0, 0, 10, 10), (5, 0, 15, 10)) == pytest.approx(1 / 3)
    assert box_iou((0, 0, 10, 10), (10, 0, 20, 10)) == 0.0
    assert mean_box_iou([((0, 0, 1, 1), (0, 0, 1, 1)), (None, (0, 0, 1, 1)), (None, None)]) == pytest.approx(2 / 3)
    assert math.isnan(mean_box_iou([]))


@given(st.lists(st.floats(0, 100), min_size=8, max_size=8))
@settings(max_examples=60, deadline=None)
def test_box_iou_is_symmetric_and_bounded(values: list[float]) -> None:
    x1, y1, w1, h1, x2, y2, w2, h2 = values
    first, second = (x1, y1, x1 + w1 + 1, y1 + h1 + 1), (x2, y2, x2 + w2 + 1, y2 + h2 + 1)
    assert box_iou(first, second) == pytest.approx(box_iou(second, first))
    assert 0.0 <= box_iou(first, second) <= 1.0 + 1e-9
    assert box_iou(first, first) == pytest.approx(1.0)


def test_identity_switches() -> None:
    left, right, far = (0.0, 0.0, 10.0, 10.0), (40.0, 0.0, 50.0, 10.0), (90.0, 0.0, 99.0, 9.0)
    truth = [{1: left, 2: right}] * 4
    assert identity_switches([{7: left, 8: right}] * 4, truth) == 0
    assert identity_switches([{7: left, 8: right}] * 2 + [{8: left, 7: right}] * 2, truth) == 2
    lost_then_renamed = [{7: left, 8: right}, {8: right, 7: far}, {8: right}, {9: left, 8: right}]
    assert identity_switches(lost_then_renamed, truth) == 1


def test_identity_switches_keep_a_pair_that_still_overlaps() -> None:
    truth: list[dict[int, tuple[float, float, float, float]]] = [{1: (0, 0, 10, 10)}] * 2
    better_newcomer = [{7: (0.0, 0.0, 10.0, 10.0)}, {7: (0.0, 0.0, 10.0, 7.0), 8: (0.0, 0.0, 10.0, 10.0)}]
    assert identity_switches(better_newcomer, truth) == 0


def test_identity_switches_of_masks() -> None:
    one, two = ObjectMask(0, 0, np.ones((5, 5), bool)), ObjectMask(20, 0, np.ones((5, 5), bool))
    assert identity_switches([{1: one, 2: two}, {1: two, 2: one}], [{1: one, 2: two}] * 2) == 2
    with pytest.raises(DataError, match="same frames"):
        identity_switches([{}], [{}, {}])
    with pytest.raises(DataError, match="one of each"):
        identity_switches([{1: one}], [{1: (0.0, 0.0, 5.0, 5.0)}])


def test_annotation_effort() -> None:
    assert annotation_effort([0, 5, 5, 99], Segment(0, 10)) == pytest.approx(0.2)
    assert annotation_effort([], Segment(0, 10)) == 0.0


def test_score_sequence_means_over_frames_not_annotated_and_objects() -> None:
    size = (40, 40)
    square = ObjectMask(5, 5, np.ones((10, 10), bool))
    truth = {0: {1: square}, 1: {1: square}, 2: {1: square, 2: square}, 3: {2: square}}
    state = ObjectState(mask=square, confidence=0.5)
    results = [FrameObjects(f, {1: state}) for f in range(3)] + [FrameObjects(3, {1: state, 9: state})]
    score = score_sequence(results, lambda frame: truth[frame], annotated=[0], size=size)
    # object 1: right on 1 and 2, still shown on 3 though gone; object 2: rightly absent on 1, missed on 2 and 3
    assert [(o.object_id, o.frames) for o in score.objects] == [(1, 3), (2, 3)]
    assert [o.j for o in score.objects] == pytest.approx([2 / 3, 1 / 3])
    assert [o.f for o in score.objects] == pytest.approx([2 / 3, 1 / 3])
    assert (score.j, score.f, score.effort) == pytest.approx((0.5, 0.5, 0.25))
    assert [s.confidence for s in score.frames if s.object_id == 1] == [0.5, 0.5, 0.5]


def test_score_sequence_takes_boxes_and_polygons() -> None:
    square = ObjectMask(5, 5, np.ones((10, 10), bool))
    ring = ((5.2, 5.2), (14.8, 5.2), (14.8, 14.8), (5.2, 14.8))
    results = [
        FrameObjects(0, {1: ObjectState(box=(5, 5, 15, 15))}),
        FrameObjects(1, {1: ObjectState(polygon=(ring,))}),
    ]
    assert score_sequence(results, lambda frame: {1: square}, [], (40, 40)).j == 1.0


def _boxes(**places: int) -> dict[int, tuple[float, float, float, float]]:
    """Boxes of 10 pixels: ``_1=20`` is the object 1 at x = 20."""
    return {int(name[1:]): (float(x), 0.0, x + 10.0, 10.0) for name, x in places.items()}


def test_idf1_by_hand() -> None:
    truth = [_boxes(_1=0, _2=50)] * 5
    scorer = IdentityScorer()
    # The predicted 7 follows the object 1 for three frames, 8 for two; the object 2 is followed by 9, once missed.
    for frame, predicted in enumerate(
        [_boxes(_7=0, _9=50), _boxes(_7=0, _9=50), _boxes(_7=0), _boxes(_8=0, _9=50), _boxes(_8=0, _9=50)]
    ):
        scorer.add(predicted, truth[frame])
    total = scorer.total()
    # 7 belongs to 1 (3 frames), 9 to 2 (4): 10 true ones, 9 predicted ones.
    assert (total.idtp, total.idfp, total.idfn, total.switches) == (7, 2, 3, 1)
    assert total.idf1 == pytest.approx(2 * 7 / (10 + 9))
    objects = scorer.objects()
    assert objects[1].idf1 == pytest.approx(2 * 3 / (5 + 3))
    assert objects[2].idf1 == pytest.approx(2 * 4 / (5 + 4))
    assert (objects[1].switches, objects[2].switches) == (1, 0)


def test_idf1_chooses_over_the_whole_sequence() -> None:
    # Greedily 7 would go to the object 1, with which it is for three frames of five; but then 8 would be left with
    # nothing, which is with the object 1 for two, and 7 is with the object 2 for two more.
    scorer = IdentityScorer()
    for _ in range(3):
        scorer.add(_boxes(_7=0), _boxes(_1=0))
    for _ in range(2):
        scorer.add(_boxes(_8=0, _7=50), _boxes(_1=0, _2=50))
    assert scorer.total().idtp == 4
    assert scorer.total().idf1 == pytest.approx(2 * 4 / (7 + 7))


def test_idf1_where_there_is_nothing() -> None:
    assert math.isnan(IdentityScorer().total().idf1)
    scorer = IdentityScorer()
    scorer.add({}, _boxes(_1=0))
    scorer.add(_boxes(_5=0), {})
    assert (scorer.total().idtp, scorer.total().idfp, scorer.total().idfn) == (0, 1, 1)
    assert scorer.total().idf1 == 0.0
    assert (scorer.total() + scorer.total()).idfn == 2
    with pytest.raises(DataError, match="above 0"):
        IdentityScorer(0.0)


@given(st.integers(0, 10_000))
@settings(max_examples=40, deadline=None)
def test_idf1_equals_all_assignments_tried(seed: int) -> None:
    rng = np.random.default_rng(seed)
    scorer = IdentityScorer()
    together = np.zeros((3, 3), int)
    trues = guesses = 0
    for _ in range(6):
        true = {k: int(rng.integers(0, 3)) * 40 for k in range(3) if rng.random() < 0.8}
        guess = {k: int(rng.integers(0, 3)) * 40 for k in range(3) if rng.random() < 0.8}
        scorer.add(_boxes(**{f"_{k}": x for k, x in guess.items()}), _boxes(**{f"_{k}": x for k, x in true.items()}))
        trues, guesses = trues + len(true), guesses + len(guess)
        for t, x in true.items():
            for g, y in guess.items():
                together[t, g] += x == y
    best = max(sum(int(together[t, g]) for t, g in enumerate(order)) for order in itertools.permutations(range(3)))
    assert scorer.total().idtp == best
    assert scorer.total().idfn == trues - best
    assert scorer.total().idfp == guesses - best
