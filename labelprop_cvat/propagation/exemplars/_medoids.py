"""k-medoids: the frames that stand best for all others."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float64]
IndexArray = npt.NDArray[np.intp]


def distances(features: FloatArray) -> FloatArray:
    """Euclidean distances between the rows; array of shape ``(n, n)``."""
    squares = np.square(features).sum(axis=1)
    table = squares[:, None] + squares[None, :] - 2.0 * features @ features.T
    np.fill_diagonal(table, 0.0)
    apart: FloatArray = np.sqrt(np.maximum(table, 0.0))
    return apart


def cost(apart: FloatArray, medoids: Sequence[int]) -> float:
    """The sum of every row's distance to its nearest medoid."""
    return float(apart[:, list(medoids)].min(axis=1).sum())


def k_medoids(
    apart: FloatArray, count: int, candidates: Sequence[int] | None = None, fixed: Sequence[int] = ()
) -> list[int]:
    """Partitioning around medoids: greedy building, then the best swap until none is one. Deterministic.

    Swaps are weighed all at once, as in Schubert and Rousseeuw's *Faster k-Medoids Clustering* (SISAP 2019): what a
    candidate takes over does not depend on which medoid goes, except for the rows of that one.

    Args:
        apart: array of shape ``(n, n)``: distances
        count: how many; all candidates when there are no more
        candidates: rows that may become medoids; all when left out
        fixed: rows that are medoids already and stay

    Returns:
        the new medoids, ascending
    """
    total = len(apart)
    allowed = np.setdiff1d(np.arange(total) if candidates is None else np.asarray(candidates, dtype=np.intp), fixed)
    if count >= len(allowed):
        return [int(index) for index in allowed]
    kept = list(fixed)
    chosen = _built(apart, count, allowed, kept)
    # Below it a gain is rounding, and swapping to and fro would never end.
    least = 1e-9 * (1.0 + float(apart.max()) * total)
    while True:
        medoids = np.array(chosen + kept, dtype=np.intp)
        gain, out, into = _best_swap(apart, medoids, count, np.setdiff1d(allowed, chosen))
        if gain <= least:
            return sorted(chosen)
        chosen[out] = into


def _built(apart: FloatArray, count: int, allowed: IndexArray, kept: Sequence[int]) -> list[int]:
    nearest = apart[:, list(kept)].min(axis=1) if len(kept) else np.full(len(apart), apart.max() + 1.0)
    chosen: list[int] = []
    for _ in range(count):
        gains = np.maximum(nearest[:, None] - apart[:, allowed], 0.0).sum(axis=0)
        gains[np.isin(allowed, chosen)] = -1.0
        chosen.append(int(allowed[int(np.argmax(gains))]))
        nearest = np.minimum(nearest, apart[:, chosen[-1]])
    return chosen


def _best_swap(apart: FloatArray, medoids: IndexArray, count: int, outside: IndexArray) -> tuple[float, int, int]:
    """How much the best swap gains, which of the first ``count`` medoids goes, and who comes."""
    if not len(outside):
        return 0.0, 0, 0
    rows = np.arange(len(apart))
    ways = apart[:, medoids]
    order = np.argsort(ways, axis=1, kind="stable")
    nearest = ways[rows, order[:, 0]]
    second = ways[rows, order[:, 1]] if len(medoids) > 1 else np.full(len(apart), apart.max() + 1.0)
    new = apart[:, outside]
    taken = np.minimum(new - nearest[:, None], 0.0)
    lost = np.minimum(new, second[:, None]) - nearest[:, None] - taken
    belongs = np.zeros((len(medoids), len(apart)))
    belongs[order[:, 0], rows] = 1.0
    changes = taken.sum(axis=0)[None, :] + (belongs @ lost)[:count]
    out, into = np.unravel_index(int(np.argmin(changes)), changes.shape)
    return -float(changes[out, into]), int(out), int(outside[into])


__all__ = ["cost", "distances", "k_medoids"]
