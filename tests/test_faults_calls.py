"""The rows of ``make faults`` that are single calls: the fault is provoked, and what is seen is what the table says."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from benchmarks.faults import WHOLE, Case, cases, play
from benchmarks.faults_stage import Stage


@pytest.fixture(scope="module")
def stage() -> Iterator[Stage]:
    with Stage() as running:
        yield running


@pytest.mark.parametrize(
    "case", [case for case in cases() if case.where != WHOLE and not case.slow], ids=lambda case: case.name
)
def test_fault(case: Case, stage: Stage) -> None:
    assert play(case, stage) == case.expected
