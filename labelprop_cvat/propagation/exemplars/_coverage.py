"""The exemplars that leave the least predicted error, by dynamic programming.

In the spirit of Vijayanarasimhan and Grauman, *Active Frame Selection for Label Propagation in Videos* (ECCV 2012): the
error of a frame depends on the exemplars on its two sides only, so that the best choice for a segment is put together
from best choices for its beginnings.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from labelprop_cvat.propagation.exemplars._decay import Decay

FloatArray = npt.NDArray[np.float64]
IndexArray = npt.NDArray[np.intp]

LARGEST = 2000
"""Candidates that are weighed exactly; of more, so many at equal ways from each other, which are then moved."""

_FIRST_COUNT = 8


@dataclass(frozen=True, eq=False)
class Cover:
    """A choice.

    Args:
        chosen: indices of the new exemplars, ascending
        errors: predicted ``1 - J`` of every frame with them and with those that were exemplars before; shape ``(n,)``
    """

    chosen: tuple[int, ...]
    errors: FloatArray


def cover(steps: FloatArray, decay: Decay, candidates: Sequence[int], annotated: Sequence[int], count: int) -> Cover:
    """The ``count`` further exemplars that leave the least predicted error over all frames of a segment.

    Args:
        steps: array of shape ``(n - 1,)``: the cost of each step, above 0
        decay: what J a way means
        candidates: indices in ``0..n-1`` that may be chosen, ascending
        annotated: indices that are exemplars already, ascending
        count: how many; all candidates when there are no more
    """
    return _Problem(steps, decay, candidates, annotated).best(count)


def cover_to(
    steps: FloatArray, decay: Decay, candidates: Sequence[int], annotated: Sequence[int], target: float
) -> Cover:
    """The fewest further exemplars with which the mean of the predicted J reaches ``target``; see :func:`cover`.

    All candidates where even they do not reach it; at least one where there is a candidate and no exemplar yet.
    """
    return _Problem(steps, decay, candidates, annotated).fewest(target)


class _Problem:
    def __init__(self, steps: FloatArray, decay: Decay, candidates: Sequence[int], annotated: Sequence[int]) -> None:
        self._decay = decay
        self._places = np.concatenate([[0.0], np.cumsum(steps)])
        self._annotated = np.unique(np.asarray(annotated, dtype=np.intp))
        free = np.setdiff1d(np.asarray(candidates, dtype=np.intp), self._annotated)
        self._free = free
        self._thinned = _thinned(free, self._places)
        self._nodes = np.union1d(self._thinned, self._annotated)
        self._known = -1
        self._gaps: list[_Gap] = []

    def best(self, count: int) -> Cover:
        """The best choice of so many."""
        count = min(count, len(self._free))
        if count == len(self._free):
            return self._covered(self._free)
        # A choice of more than the thinned candidates fills up with the others.
        chosen = self._chosen(min(count, len(self._thinned)))
        if len(self._thinned) < len(self._free):
            chosen = self._moved(self._filled(chosen, count))
        return self._covered(chosen)

    def fewest(self, target: float) -> Cover:
        """The best choice of the smallest number that reaches a mean predicted J."""
        allowance = (1.0 - target) * len(self._places)
        least = 0 if len(self._annotated) else min(1, len(self._free))
        bound = _FIRST_COUNT
        while True:
            bound = min(bound, len(self._thinned))
            errors = self._totals(bound)
            enough = np.flatnonzero(errors[least:] <= allowance + 1e-9)
            if len(enough):
                return self.best(least + int(enough[0]))
            if bound == len(self._thinned):
                return self.best(len(self._free))
            bound *= 2

    def _covered(self, chosen: IndexArray) -> Cover:
        errors = self._decay.errors(self._places, np.union1d(chosen, self._annotated))
        return Cover(tuple(int(index) for index in np.sort(chosen)), errors)

    def _solve(self, most: int) -> None:
        """Works out every gap between exemplars for up to ``most`` new ones."""
        if not self._gaps:
            costs = _Costs(self._places, self._nodes, self._decay)
            fixed = [None, *np.searchsorted(self._nodes, self._annotated).tolist(), None]
            self._gaps = [_Gap(costs, left, right) for left, right in pairwise(fixed)]
        for gap in self._gaps:
            gap.extend(most)
        self._known = max(self._known, most)

    def _totals(self, most: int) -> FloatArray:
        """The least error with 0 to ``most`` new exemplars in all."""
        self._solve(most)
        total = self._gaps[0].errors[: most + 1]
        for gap in self._gaps[1:]:
            total, _ = _joined(total, gap.errors[: most + 1], most)
        return total

    def _chosen(self, count: int) -> IndexArray:
        self._solve(count)
        totals = [self._gaps[0].errors[: count + 1]]
        splits = []
        for gap in self._gaps[1:]:
            total, split = _joined(totals[-1], gap.errors[: count + 1], count)
            totals.append(total)
            splits.append(split)
        nodes: list[int] = []
        left = min(count, len(totals[-1]) - 1)
        for gap, split in zip(reversed(self._gaps[1:]), reversed(splits), strict=True):
            mine = int(split[left])
            nodes += gap.chosen(mine)
            left -= mine
        nodes += self._gaps[0].chosen(left)
        chosen: IndexArray = np.sort(self._nodes[np.array(nodes, dtype=np.intp)])
        return chosen

    def _filled(self, chosen: IndexArray, count: int) -> IndexArray:
        while len(chosen) < count:
            errors = self._decay.errors(self._places, np.union1d(chosen, self._annotated))
            open_ = np.setdiff1d(self._free, chosen)
            worst = open_[np.argsort(-errors[open_], kind="stable")[: count - len(chosen)]]
            chosen = np.union1d(chosen, worst)
        return chosen

    def _moved(self, chosen: IndexArray) -> IndexArray:
        """Each exemplar to its best place between its neighbours, until none moves."""
        reach = 2 * -(-len(self._free) // max(1, len(self._thinned)))
        moved: IndexArray = chosen.copy()
        for _ in range(8):
            before = moved.copy()
            for place in range(len(moved)):
                moved[place] = self._best_place(moved, place, reach)
            if np.array_equal(before, moved):
                break
        return moved

    def _best_place(self, chosen: IndexArray, place: int, reach: int) -> int:
        others = np.union1d(np.delete(chosen, place), self._annotated)
        at = int(chosen[place])
        spot = int(np.searchsorted(others, at))
        low = int(others[spot - 1]) if spot else 0
        high = int(others[spot]) if spot < len(others) else len(self._places) - 1
        ends = [int(others[i]) - low for i in (spot - 1, spot) if 0 <= i < len(others)]
        near = self._free[(self._free >= max(low, at - reach)) & (self._free <= min(high, at + reach))]
        near = np.setdiff1d(near, others)
        part = self._places[low : high + 1]
        costs = [self._decay.errors(part, [*ends, int(index) - low]).sum() for index in near]
        best = int(near[int(np.argmin(costs))])
        return best if min(costs) < costs[int(np.searchsorted(near, at))] - 1e-12 else at


def _thinned(free: IndexArray, places: FloatArray) -> IndexArray:
    if len(free) <= LARGEST:
        return free
    wanted = np.linspace(places[free[0]], places[free[-1]], LARGEST)
    kept: IndexArray = free[np.unique(np.minimum(np.searchsorted(places[free], wanted), len(free) - 1))]
    return kept


def _joined(first: FloatArray, second: FloatArray, most: int) -> tuple[FloatArray, IndexArray]:
    """The least sums of two parts for every number in all, and how many of it the second part gets."""
    length = min(most + 1, len(first) + len(second) - 1)
    totals = np.full(length, np.inf)
    split = np.zeros(length, dtype=np.intp)
    for mine, error in enumerate(second[:length]):
        stop = min(length, mine + len(first))
        sums = first[: stop - mine] + error
        better = sums < totals[mine:stop]
        totals[mine:stop][better] = sums[better]
        split[mine:stop][better] = mine
    return totals, split


class _Costs:
    """Summed errors of the frames strictly between two nodes, before the first and after the last exemplar.

    Sums of exponentials are carried from node to node: a difference of running totals would lose its digits on long
    segments.
    """

    def __init__(self, places: FloatArray, nodes: IndexArray, decay: Decay) -> None:
        self.length = len(places)
        count = len(nodes)
        at = places[nodes]
        rate = decay.two_rate
        inner = np.diff(nodes) - 1
        jumps = np.exp(-rate * np.diff(at))
        # rising[i, j]: sum over the frames t of (i, j] of exp(-rate * way from i); falling: over [i, j), to j.
        rising, falling = np.zeros((count, count)), np.zeros((count, count))
        for i in range(count - 2, -1, -1):
            block = np.exp(-rate * (places[nodes[i] + 1 : nodes[i + 1] + 1] - at[i])).sum()
            rising[i, i + 1 :] = block + jumps[i] * rising[i + 1, i + 1 :]
        for j in range(1, count):
            block = np.exp(-rate * (at[j] - places[nodes[j - 1] : nodes[j]])).sum()
            falling[:j, j] = block + jumps[j - 1] * falling[:j, j - 1]
        between = np.concatenate([[0], np.cumsum(inner + 1)])
        frames = np.maximum(between[None, :] - between[:, None] - 1, 0)
        whole = np.exp(-rate * np.maximum(at[None, :] - at[:, None], 0.0))
        self.between = decay.two_loss * ((1.0 + whole) * frames - (rising - whole) - (falling - whole))
        # Only pairs in order are real.
        self.between[np.tril_indices(count)] = np.inf
        np.maximum(self.between, 0.0, out=self.between)
        self.head = np.array([decay.error(None, places[n] - places[:n]).sum() for n in nodes])
        self.tail = np.array([decay.error(places[n + 1 :] - places[n], None).sum() for n in nodes])


class _Gap:
    """The nodes between two exemplars, or on the open side of one, and the best choices among them."""

    def __init__(self, costs: _Costs, left: int | None, right: int | None) -> None:
        count = len(costs.head)
        self._first = 0 if left is None else left + 1
        stop = count if right is None else right
        inside = slice(self._first, stop)
        self._size = stop - self._first
        self._between = costs.between[inside, inside]
        self._entry = costs.head[inside] if left is None else costs.between[left, inside]
        self._exit = costs.tail[inside] if right is None else costs.between[inside, right]
        if left is None and right is None:
            nothing = float(costs.length)
        elif left is None:
            nothing = float(costs.head[right])
        else:
            nothing = float(costs.tail[left] if right is None else costs.between[left, right])
        self.errors: FloatArray = np.array([nothing])
        """The least error with 0, 1, ... new exemplars in the gap, as far as worked out."""
        self._best = self._entry
        self._from: list[IndexArray] = []
        self._last: list[int] = []

    def extend(self, most: int) -> None:
        """Works out the choices of up to ``most``, or of all nodes when there are fewer."""
        errors = list(self.errors)
        while len(errors) <= min(most, self._size):
            if len(errors) > 1:
                sums = self._best[:, None] + self._between
                came = np.argmin(sums, axis=0)
                self._from.append(came)
                self._best = sums[came, np.arange(self._size)]
            ends = self._best + self._exit
            self._last.append(int(np.argmin(ends)))
            errors.append(float(ends[self._last[-1]]))
        self.errors = np.array(errors)

    def chosen(self, count: int) -> list[int]:
        """The nodes of the best choice of ``count``."""
        if count == 0:
            return []
        nodes = [self._last[count - 1]]
        for came in reversed(self._from[: count - 1]):
            nodes.append(int(came[nodes[-1]]))
        return [self._first + node for node in reversed(nodes)]


__all__ = ["LARGEST", "Cover", "cover", "cover_to"]
