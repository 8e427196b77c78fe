"""The rows of ``make faults`` that are whole jobs: the fault is provoked, and what is seen is what the table says."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from benchmarks.faults import WHOLE, Case, cases, play
from benchmarks.faults_stage import Stage


@pytest.fixture(scope="module")
def stage() -> Iterator[Stage]:
    with Stage() as running:
        yield running


@pytest.mark.parametrize("case", [case for case in cases() if case.where == WHOLE], ids=lambda case: case.name)
def test_fault(case: Case, stage: Stage) -> None:
    assert play(case, stage) == case.expected


def test_the_rows_have_different_names() -> None:
    names = [case.name for case in cases()]
    assert len(names) == len(set(names))
