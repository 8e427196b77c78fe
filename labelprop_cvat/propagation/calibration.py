"""Whether a confidence is honest: does it say how good a result is, and does it tell good results from bad ones?

Here a confidence is a prediction of quality: a mask with confidence 0.8 should have a J of about 0.8. Confidences and
qualities are given as two sequences of one length, numbers in [0, 1], the same place in both for the same result.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from labelprop_cvat.errors import DataError

GOOD_J = 0.75
"""A result whose J is below needs a person's eye."""

BINS = 10

Numbers: TypeAlias = Sequence[float] | npt.NDArray[Any]
Floats: TypeAlias = npt.NDArray[np.float64]


@dataclass(frozen=True)
class ReliabilityBin:
    """The results whose confidence lies in ``low <= confidence < high``; the last bin holds 1 too.

    Args:
        low: lower edge
        high: upper edge
        count: number of results
        confidence: their mean confidence; NaN where there are none
        quality: their mean quality; NaN where there are none
        good: share of them whose quality is :data:`GOOD_J` or more; NaN where there are none
    """

    low: float
    high: float
    count: int
    confidence: float
    quality: float
    good: float


@dataclass(frozen=True)
class Calibration:
    """What a confidence is worth.

    Args:
        count: number of results
        confidence: their mean confidence
        quality: their mean quality; a lower one means that the confidence promises too much
        error: expected calibration error, see :func:`expected_calibration_error`
        auroc: see :func:`auroc`
        spearman: see :func:`spearman`
        bins: the reliability table, ascending
    """

    count: int
    confidence: float
    quality: float
    error: float
    auroc: float
    spearman: float
    bins: tuple[ReliabilityBin, ...]


def calibrate(confidence: Numbers, quality: Numbers, *, good: float = GOOD_J, bins: int = BINS) -> Calibration:
    """Everything that this module says, at once.

    Args:
        confidence: in [0, 1]
        quality: in [0, 1]
        good: quality from which a result counts as good
        bins: number of bins of equal width

    Raises:
        DataError: the two differ in length, or hold something else than numbers in [0, 1]
    """
    promised, kept = _checked(confidence, quality)
    return Calibration(
        count=len(promised),
        confidence=_mean(promised),
        quality=_mean(kept),
        error=expected_calibration_error(promised, kept, bins=bins),
        auroc=auroc(promised, kept, good=good),
        spearman=spearman(promised, kept),
        bins=reliability_bins(promised, kept, good=good, bins=bins),
    )


def reliability_bins(
    confidence: Numbers, quality: Numbers, *, good: float = GOOD_J, bins: int = BINS
) -> tuple[ReliabilityBin, ...]:
    """What quality results of each confidence have, in ``bins`` bins of equal width over [0, 1].

    Raises:
        DataError: as :func:`calibrate`
    """
    promised, kept = _checked(confidence, quality)
    table = []
    places = _places(promised, bins)
    for place in range(bins):
        inside = places == place
        table.append(
            ReliabilityBin(
                low=place / bins,
                high=(place + 1) / bins,
                count=int(np.count_nonzero(inside)),
                confidence=_mean(promised[inside]),
                quality=_mean(kept[inside]),
                good=_mean((kept[inside] >= good).astype(np.float64)),
            )
        )
    return tuple(table)


def expected_calibration_error(confidence: Numbers, quality: Numbers, *, bins: int = BINS) -> float:
    """How far mean quality lies from mean confidence, over the bins, each weighted with its number of results.

    (Naeini, Cooper and Hauskrecht, *Obtaining Well Calibrated Probabilities Using Bayesian Binning*, AAAI 2015, with
    quality where they have the share of right answers.)

    Returns:
        in [0, 1], 0 is honest; NaN where there are no results

    Raises:
        DataError: as :func:`calibrate`
    """
    promised, kept = _checked(confidence, quality)
    if not len(promised):
        return math.nan
    gaps = np.bincount(_places(promised, bins), weights=promised - kept, minlength=bins)
    return float(np.abs(gaps).sum() / len(promised))


def auroc(confidence: Numbers, quality: Numbers, *, good: float = GOOD_J) -> float:
    """Area under the ROC curve of finding bad results (quality below ``good``) by low confidence.

    Returns:
        the chance that a bad result has a lower confidence than a good one, equal ones counting half: 1 where the
        confidence tells them apart, 0.5 where it says nothing; NaN where there are no good or no bad ones

    Raises:
        DataError: as :func:`calibrate`
    """
    promised, kept = _checked(confidence, quality)
    is_good = kept >= good
    above, below = int(np.count_nonzero(is_good)), int(np.count_nonzero(~is_good))
    if not above or not below:
        return math.nan
    wins = _ranks(promised)[is_good].sum() - above * (above + 1) / 2
    return float(wins / (above * below))


def spearman(first: Numbers, second: Numbers) -> float:
    """Rank correlation, equal numbers sharing the mean of their ranks.

    Returns:
        in [-1, 1]; NaN where there are fewer than two results, or all of one side are equal

    Raises:
        DataError: as :func:`calibrate`
    """
    one, two = _checked(first, second)
    if len(one) < 2 or np.ptp(one) == 0.0 or np.ptp(two) == 0.0:
        return math.nan
    return float(np.corrcoef(_ranks(one), _ranks(two))[0, 1])


def _checked(first: Numbers, second: Numbers) -> tuple[Floats, Floats]:
    one, two = np.asarray(first, dtype=np.float64), np.asarray(second, dtype=np.float64)
    if one.ndim != 1 or one.shape != two.shape:
        raise DataError(
            f"Confidences and qualities must be two sequences of one length, got the shapes {one.shape} and "
            f"{two.shape}."
        )
    for numbers in (one, two):
        wrong = numbers[~((numbers >= 0.0) & (numbers <= 1.0))]
        if len(wrong):
            raise DataError(f"Confidences and qualities lie in [0, 1], got {wrong[0]!r}. Leave unknown ones out.")
    return one, two


def _places(confidence: Floats, bins: int) -> npt.NDArray[np.intp]:
    if bins < 1:
        raise DataError(f"A reliability table has one bin or more, got {bins}.")
    # Not by division: 0.3 * 10 is above 3, and 0.29999999999999999 / 0.1 may be, too.
    edges = np.arange(1, bins) / bins
    return np.searchsorted(edges, confidence, side="right")


def _ranks(values: Floats) -> Floats:
    """Ranks from 1; equal values share the mean of theirs."""
    _, places, counts = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    means: Floats = last - (counts - 1) / 2
    return means[places]


def _mean(values: Floats) -> float:
    return float(values.mean()) if len(values) else math.nan


__all__ = [
    "BINS",
    "GOOD_J",
    "Calibration",
    "ReliabilityBin",
    "auroc",
    "calibrate",
    "expected_calibration_error",
    "reliability_bins",
    "spearman",
]
