"""Exemplars lie inside their segment, where their method says."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from labelprop_cvat.errors import ConfigurationError, DataError
from labelprop_cvat.propagation.exemplars import Decay, ExemplarSpec, select_exemplars
from labelprop_cvat.propagation.frames import ArraySource
from labelprop_cvat.propagation.types import Segment

SOURCE = ArraySource(np.random.default_rng(1).integers(0, 255, (30, 18, 32, 3), dtype=np.uint8))


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


@pytest.mark.parametrize(
    "text",
    ["first", "uniform:3", "every:10", "all", "diverse:4", "coverage:4", "coverage:0.9", "active:2", "scores:0.125"],
)
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
        *("scores:", "scores:high", "scores:nan", "diverse", "active", "active:0", "diverse:0.5"),
        *("coverage:0", "coverage:0.0", "coverage:1.5", "coverage:nan", "coverage:", "first:0.5"),
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


@settings(deadline=None, max_examples=60)
@given(st.data())
def test_every_method_keeps_the_rules(data: st.DataObject) -> None:
    start = data.draw(st.integers(0, 29))
    segment = Segment(start, data.draw(st.integers(start + 1, 30)))
    allowed = data.draw(st.none() | st.sets(st.integers(0, 29)))
    annotated = data.draw(st.sets(st.integers(0, 29), max_size=4))
    name = data.draw(st.sampled_from(["uniform", "diverse", "coverage", "active", "every", "first", "middle", "all"]))
    count = data.draw(st.integers(1, 12))
    spec = ExemplarSpec(name) if name in ("first", "middle", "all") else ExemplarSpec(name, count=count)
    found = spec.choose(segment, SOURCE if spec.needs_frames else None, allowed=allowed, annotated=annotated)
    free = [f for f in segment.frames if f not in annotated and (allowed is None or f in allowed)]
    assert list(found.frames) == sorted(set(found.frames))
    assert set(found.frames) <= set(free)
    if name not in ("every", "all"):
        assert len(found.frames) == min(len(free), 1 if name in ("first", "middle") else count)
    assert len(found.scores) == len(segment)
    for frame, score in zip(segment.frames, found.scores, strict=True):
        assert 0.0 <= score <= 1.0
        assert (score >= 0.5) == (frame in found.frames)
    if found.frames and allowed is None:
        assert ExemplarSpec("scores").choose(segment, scores=found.scores).frames == found.frames


def test_scores_tell_what_would_come_next() -> None:
    scores = ExemplarSpec.parse("first").choose(Segment(0, 10)).scores
    assert scores[0] == 1.0
    assert list(scores[1:]) == sorted(scores[1:])
    scores = ExemplarSpec.parse("scores:0.25").choose(Segment(0, 4), scores=[1.0, 0.3, 0.2, None]).scores
    assert scores == pytest.approx((1.0, 0.5 + 0.5 * 0.05 / 0.75, 0.4, 0.0))
    scores = ExemplarSpec("scores").choose(Segment(0, 3), scores=[1.0, 0.7, 0.2], allowed={1}).scores
    assert scores[0] < 0.5 <= scores[1]


@pytest.mark.parametrize(
    ("method", "expected"),
    [("first", [1]), ("middle", [13]), ("uniform:2", [7, 15]), ("every:8", [8, 16]), ("all", [*range(1, 20)])],
)
def test_beside_exemplars_that_there_are(method: str, expected: list[int]) -> None:
    assert list(ExemplarSpec.parse(method).choose(Segment(0, 20), annotated=[0, 40]).frames) == expected


def test_a_target_that_is_reached_needs_nothing_more() -> None:
    spec = ExemplarSpec.parse("coverage:0.5")
    assert spec.choose(Segment(0, 30), SOURCE, annotated=range(0, 30, 2)).frames == ()
    assert len(ExemplarSpec.parse("coverage:1.0").choose(Segment(0, 30), SOURCE).frames) == 30


def test_methods_that_look_need_something_to_look_at() -> None:
    for method in ("diverse:3", "coverage", "active:2"):
        with pytest.raises(ConfigurationError, match="looks at the frames, but got none"):
            select_exemplars(Segment(0, 30), method)
        assert select_exemplars(Segment(0, 30), method, source=SOURCE)


def test_looks_decide_what_is_diverse() -> None:
    frames = np.zeros((30, 18, 32, 3), dtype=np.uint8)
    frames[4:6] = 255
    frames[20:, :, :16] = (255, 0, 0)
    chosen = select_exemplars(Segment(0, 30), "diverse:3", source=ArraySource(frames))
    assert [sum(at in some for at in chosen) for some in (range(4, 6), range(20, 30))] == [1, 1]


def test_numbers_of_coverage() -> None:
    assert (ExemplarSpec.parse("coverage:3").count, ExemplarSpec.parse("coverage:3").target) == (3, None)
    assert (ExemplarSpec.parse("coverage:0.9").count, ExemplarSpec.parse("coverage:0.9").target) == (None, 0.9)
    assert ExemplarSpec.parse("coverage") == ExemplarSpec.parse("coverage:0.85")
    assert ExemplarSpec.parse(str(ExemplarSpec("coverage", target=1.0))).target == 1.0


@pytest.mark.parametrize(
    "values", [{"one_loss": 0.0}, {"two_rate": 0.0}, {"base": -1.0}, {"base": 0.0, "weight": 0.0}, {"local": 1.1}]
)
def test_decay_is_checked(values: dict[str, float]) -> None:
    with pytest.raises(ConfigurationError, match="Decay needs losses"):
        Decay(**values)
