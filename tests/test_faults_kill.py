"""``kill -9`` at every write of the ledger: the slow rows of ``make faults``."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from benchmarks.faults import Case, cases, play
from benchmarks.faults_stage import Stage


@pytest.fixture(scope="module")
def stage() -> Iterator[Stage]:
    with Stage() as running:
        yield running


# An odd stride dies now before a write, now after it; `make faults` dies at all of them.
@pytest.mark.parametrize(
    "case", [case for case in cases(stride=3, review_stride=7) if case.slow], ids=lambda case: case.name
)
def test_killed(case: Case, stage: Stage) -> None:
    assert play(case, stage) == case.expected
