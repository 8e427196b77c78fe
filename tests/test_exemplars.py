"""Exemplars lie inside their segment, where their method says."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from labelprop_cvat.errors import ConfigurationError, DataError
from labelprop_cvat.propagation.exemplars import ExemplarSpec, select_exemplars
from labelprop_cvat.propagation.types import Segment


@pytest.mark.parametrize(
    ("method", "expected"),
    [
        ("first", [10]),
        ("middle", [15]),
        ("uniform:1", [15]),
        ("uniform:2", [12, 17]),
        ("uniform:5", [11, 13, 15, 17, 19]),
        ("uniform:10", list(range(10, 20))),
        ("uniform:99", list(range(10, 20))),
        ("every:4", [10, 14, 18]),
        ("every:1", list(range(10, 20))),
        ("every:50", [10]),
        ("all", list(range(10, 20))),
    ],
)
def test_methods(method: str, expected: list[int]) -> None:
    assert select_exemplars(Segment(10, 20), method) == expected


@pytest.mark.parametrize(
    ("method", "expected"),
    [
        ("first", [12]),
        ("middle", [15]),
        ("uniform:2", [13, 16]),
        ("uniform:99", [12, 13, 15, 16, 19]),
        ("every:3", [12, 15, 19]),
        ("every:1", [12, 13, 15, 16, 19]),
        ("all", [12, 13, 15, 16, 19]),
    ],
)
def test_only_allowed_frames_are_chosen(method: str, expected: list[int]) -> None:
    assert select_exemplars(Segment(10, 20), method, allowed={3, 12, 13, 15, 16, 19, 20}) == expected
    assert select_exemplars(Segment(10, 20), method, allowed=range(20, 30)) == []


def test_scores_of_frames_that_are_not_allowed_do_not_count() -> None:
    segment, scores = Segment(3, 8), [1.0, 0.0, 0.5, 0.4, 0.3]
    assert select_exemplars(segment, "scores", scores, allowed=range(4, 8)) == [5]
    assert select_exemplars(segment, "scores", scores, allowed=range(6, 8)) == [6]
    assert select_exemplars(segment, "scores", scores, allowed=[4]) == []


def test_scores() -> None:
    segment = Segment(3, 8)
    assert select_exemplars(segment, "scores", [1.0, 0.0, 0.5, None, 0.49]) == [3, 5]
    assert select_exemplars(segment, "scores:0.9", [1.0, 0.0, 0.5, None, 0.49]) == [3]
    assert select_exemplars(segment, "scores:2", [0.1, 0.3, 0.2, 0.3, None]) == [4]
    assert select_exemplars(segment, "scores:0", [0.1, 0.0, 0.2, float("nan"), None]) == [3, 5]


@pytest.mark.parametrize("scores", [None, [None] * 5, [0.0] * 5, [0.0, None, 0.0, -1.0, float("nan")]])
def test_scores_that_choose_nothing(scores: list[float | None] | None) -> None:
    with pytest.raises(DataError, match=r"above 0.*first, middle"):
        select_exemplars(Segment(3, 8), "scores", scores)


def test_number_of_scores() -> None:
    with pytest.raises(DataError, match="5 frames needs as many exemplar scores, got 2"):
        select_exemplars(Segment(3, 8), "scores", [1.0, 0.0])


@given(
    st.integers(0, 1000),
    st.integers(1, 400),
    st.one_of(
        st.sampled_from(["first", "middle", "all"]),
        st.integers(1, 500).map("uniform:{}".format),
        st.integers(1, 500).map("every:{}".format),
    ),
)
def test_always_inside_sorted_and_never_empty(start: int, length: int, method: str) -> None:
    segment = Segment(start, start + length)
    chosen = select_exemplars(segment, method)
    assert chosen
    assert chosen == sorted(set(chosen))
    assert all(frame in segment for frame in chosen)


@given(st.integers(1, 300), st.integers(1, 40))
def test_uniform_leaves_no_frame_far_from_an_exemplar(length: int, count: int) -> None:
    chosen = select_exemplars(Segment(0, length), f"uniform:{count}")
    assert len(chosen) == min(count, length)
    assert max(min(abs(frame - other) for other in chosen) for frame in range(length)) <= length / (2 * count) + 1


@pytest.mark.parametrize("text", ["first", "middle", "uniform:3", "every:10", "all", "scores:0.5", "scores:0.125"])
def test_text_there_and_back(text: str) -> None:
    assert str(ExemplarSpec.parse(text)) == text
    assert ExemplarSpec.parse(f" {text} ") == ExemplarSpec.parse(text)


def test_default_threshold() -> None:
    assert ExemplarSpec.parse("scores") == ExemplarSpec.parse("scores:0.5")


@pytest.mark.parametrize(
    "text",
    [
        *("", "best", "first:1", "middle:2", "all:3"),
        *("uniform", "uniform:", "uniform:0", "uniform:-1", "uniform:2.5", "uniform:3:4", "every", "every:x"),
        *("scores:", "scores:high", "scores:nan"),
    ],
)
def test_malformed_text_lists_the_methods(text: str) -> None:
    with pytest.raises(
        ConfigurationError, match=r"first, middle, uniform:k, every:n, all, diverse:k, .*scores\[:threshold\]"
    ):
        ExemplarSpec.parse(text)


def test_spec_is_frozen_and_checked() -> None:
    with pytest.raises(ConfigurationError):
        ExemplarSpec("uniform")
    with pytest.raises(ConfigurationError):
        ExemplarSpec("first", count=2)
    with pytest.raises(ConfigurationError):
        ExemplarSpec("every", count=2, threshold=0.5)
    with pytest.raises(AttributeError):
        ExemplarSpec("first").method = "middle"  # type: ignore[misc]
