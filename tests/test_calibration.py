"""Whether a confidence is honest: known values by hand, against SciPy and scikit-learn, ties included."""

from __future__ import annotations

import math

import numpy as np
import pytest

from labelprop_cvat.errors import DataError
from labelprop_cvat.propagation.calibration import (
    auroc,
    calibrate,
    expected_calibration_error,
    reliability_bins,
    spearman,
)


def test_auroc_by_hand() -> None:
    assert auroc([0.1, 0.2, 0.8, 0.9], [0.1, 0.3, 0.8, 0.9]) == 1.0
    assert auroc([0.9, 0.8, 0.2, 0.1], [0.1, 0.3, 0.8, 0.9]) == 0.0
    # Bad ones say 0.5 and 0.2, good ones 0.5 and 0.9: three pairs of four are right, and one of them is a tie.
    assert auroc([0.5, 0.2, 0.5, 0.9], [0.1, 0.1, 0.75, 0.8]) == pytest.approx(3.5 / 4)
    assert auroc([0.4, 0.4, 0.4], [0.1, 0.8, 0.9]) == 0.5
    assert auroc([0.3, 0.6], [0.5, 0.7], good=0.6) == 1.0


def test_undefined_is_nan() -> None:
    assert math.isnan(auroc([0.1, 0.2], [0.8, 0.9]))
    assert math.isnan(auroc([], []))
    assert math.isnan(spearman([0.5], [0.5]))
    assert math.isnan(spearman([0.5, 0.5], [0.1, 0.9]))
    assert math.isnan(expected_calibration_error([], []))
    empty = calibrate([], [])
    assert empty.count == 0
    assert math.isnan(empty.quality)
    assert all(entry.count == 0 and math.isnan(entry.quality) for entry in empty.bins)


@pytest.mark.parametrize("seed", range(5))
def test_equal_to_scipy_and_scikit_learn(seed: int) -> None:
    stats = pytest.importorskip("scipy.stats")
    metrics = pytest.importorskip("sklearn.metrics")
    rng = np.random.default_rng(seed)
    # Few different values: many ties on both sides.
    confidence, quality = rng.integers(0, 7, 200) / 6, rng.integers(0, 9, 200) / 8
    assert spearman(confidence, quality) == pytest.approx(stats.spearmanr(confidence, quality)[0])
    assert auroc(confidence, quality) == pytest.approx(metrics.roc_auc_score(quality >= 0.75, confidence))


def test_reliability_table() -> None:
    table = reliability_bins([0.0, 0.3, 0.3, 0.65, 1.0, 1.0], [0.2, 0.7, 0.8, 0.5, 1.0, 0.6])
    assert len(table) == 10
    # An edge belongs to the bin above it, and 1 to the last one.
    assert {entry.low: entry.count for entry in table if entry.count} == {0.0: 1, 0.3: 2, 0.6: 1, 0.9: 2}
    third, last = table[3], table[9]
    assert (third.confidence, third.quality, third.good) == pytest.approx((0.3, 0.75, 0.5))
    assert (last.confidence, last.quality, last.good) == pytest.approx((1.0, 0.8, 0.5))


def test_expected_calibration_error() -> None:
    assert expected_calibration_error([0.2, 0.8], [0.2, 0.8]) == 0.0
    # In one bin over- and understatement make up for each other; in two they do not.
    assert expected_calibration_error([0.42, 0.48], [0.4, 0.5]) == pytest.approx(0.0, abs=1e-12)
    assert expected_calibration_error([0.2, 0.8, 0.8, 0.8], [0.3, 0.6, 0.6, 0.6]) == pytest.approx((0.1 + 0.6) / 4)


def test_what_is_no_confidence_is_refused() -> None:
    with pytest.raises(DataError, match="one length"):
        calibrate([0.1], [0.1, 0.2])
    with pytest.raises(DataError, match=r"lie in \[0, 1\]"):
        auroc([0.1, math.nan], [0.1, 0.2])
    with pytest.raises(DataError, match=r"got .*1\.5"):
        spearman([0.1, 0.2], [1.5, 0.2])
    with pytest.raises(DataError, match="one bin or more"):
        reliability_bins([0.1], [0.1], bins=0)
