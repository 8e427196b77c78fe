"""The best exemplars are found: dynamic programming against every choice there is, k-medoids against no swap."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from labelprop_cvat.propagation.exemplars import Decay
from labelprop_cvat.propagation.exemplars._coverage import cover, cover_to
from labelprop_cvat.propagation.exemplars._medoids import cost, distances, k_medoids

DECAY = Decay(one_loss=0.9, one_rate=0.3, two_loss=0.8, two_rate=0.2, base=0.5, weight=1.0)
SIZES = st.integers(2, 9)


def error(steps: np.ndarray, exemplars: list[int]) -> float:
    """Summed frame by frame from the model's own words."""
    places = np.concatenate([[0.0], np.cumsum(steps)])
    total = 0.0
    for frame, place in enumerate(places):
        before = [place - places[e] for e in exemplars if e <= frame]
        after = [places[e] - place for e in exemplars if e >= frame]
        if frame in exemplars:
            continue
        ways = [np.array([min(side)]) if side else None for side in (before, after)]
        total += float(DECAY.error(*ways)[0]) if exemplars else 1.0
    return total


@st.composite
def problems(draw: st.DrawFn) -> tuple[np.ndarray, list[int], list[int]]:
    length = draw(SIZES)
    steps = np.array(draw(st.lists(st.floats(0.01, 5.0), min_size=length - 1, max_size=length - 1)))
    annotated = sorted(draw(st.sets(st.integers(0, length - 1), max_size=2)))
    candidates = sorted(draw(st.sets(st.integers(0, length - 1), min_size=1)))
    return steps, candidates, annotated


@settings(deadline=None)
@given(problems(), st.integers(1, 4))
def test_no_choice_is_better(problem: tuple[np.ndarray, list[int], list[int]], count: int) -> None:
    steps, candidates, annotated = problem
    found = cover(steps, DECAY, candidates, annotated, count)
    free = [at for at in candidates if at not in annotated]
    assert set(found.chosen) <= set(free)
    assert len(found.chosen) == min(count, len(free))
    mine = error(steps, sorted([*found.chosen, *annotated]))
    best = min(error(steps, sorted([*some, *annotated])) for some in combinations(free, len(found.chosen)))
    assert mine == pytest.approx(best, abs=1e-9)
    assert found.errors.sum() == pytest.approx(mine, abs=1e-9)


@settings(deadline=None)
@given(problems(), st.floats(0.05, 1.0))
def test_the_fewest_that_reach_a_target(problem: tuple[np.ndarray, list[int], list[int]], target: float) -> None:
    steps, candidates, annotated = problem
    found = cover_to(steps, DECAY, candidates, annotated, target)
    free = [at for at in candidates if at not in annotated]
    if len(found.chosen) < len(free):
        assert 1.0 - found.errors.mean() >= target - 1e-9
    fewer = len(found.chosen) - 1
    if fewer >= (0 if annotated else 1):
        assert 1.0 - cover(steps, DECAY, candidates, annotated, fewer).errors.mean() < target


def test_hard_steps_draw_exemplars() -> None:
    easy = np.full(99, 0.02)
    hard = easy.copy()
    hard[60:70] = 0.5
    inside = [sum(50 <= at <= 80 for at in cover(steps, DECAY, range(100), [], 6).chosen) for steps in (easy, hard)]
    assert inside[1] > inside[0]


def test_long_segments_are_thinned_and_moved(monkeypatch: pytest.MonkeyPatch) -> None:
    steps = np.random.default_rng(3).gamma(0.5, 0.1, 299)
    best = cover(steps, DECAY, range(300), [], 5)
    monkeypatch.setattr("labelprop_cvat.propagation.exemplars._coverage.LARGEST", 40)
    coarse = cover(steps, DECAY, range(300), [], 5)
    assert coarse.errors.sum() <= 1.005 * best.errors.sum()
    assert len(cover(steps, DECAY, range(300), [], 70).chosen) == 70


def test_sums_keep_their_digits_on_long_ways() -> None:
    steps = np.full(1500, 1.0)
    found = cover(steps, Decay(two_rate=1.0, one_rate=1.0, base=1.0), range(1501), [], 3)
    assert found.errors.sum() == pytest.approx(np.asarray(found.errors).clip(0, 1).sum())
    gaps = np.diff([-1, *found.chosen, 1501])
    assert gaps.min() > 0


@settings(deadline=None)
@given(st.integers(2, 12), st.integers(1, 4), st.integers(0, 2**32 - 1))
def test_medoids_cannot_be_swapped_for_better(length: int, count: int, seed: int) -> None:
    apart = distances(np.random.default_rng(seed).normal(size=(length, 2)))
    chosen = k_medoids(apart, count)
    assert len(chosen) == min(count, length)
    assert chosen == sorted(set(chosen))
    for out in chosen:
        for into in set(range(length)) - set(chosen):
            swapped = [into if at == out else at for at in chosen]
            assert cost(apart, chosen) <= cost(apart, swapped) + 1e-8


def test_medoids_beside_others() -> None:
    apart = distances(np.array([[0.0], [0.1], [5.0], [5.1], [5.2], [9.0], [9.1]]))
    assert k_medoids(apart, 1, fixed=[0]) == [4]
    assert k_medoids(apart, 2, fixed=[0]) in ([3, 5], [3, 6])
    assert k_medoids(apart, 1, candidates=[1, 6]) == [6]
