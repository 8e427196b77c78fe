"""The next frames are those that gain, with reasons that people understand."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from labelprop_cvat.errors import ConfigurationError, DataError
from labelprop_cvat.propagation.exemplars import (
    DEFAULT_MODEL,
    Evidence,
    QualityModel,
    next_frames,
    predicted_j_of,
)
from labelprop_cvat.propagation.frames import ArraySource
from labelprop_cvat.propagation.types import Segment

SEGMENT = Segment(100, 141)
SHARES = st.floats(0.0, 1.0)
# Fixed here, so that what is fitted anew moves no test.
MODEL = QualityModel(one_sided=(-1.4, 2.4, 0.23), two_sided=(-0.3, 1.5, 0.6, 0.1))


def track(
    object_id: int = 1, bad: range = range(0), ends: tuple[int, ...] = (100, 140), doubt: float = 0.9
) -> list[Evidence]:
    """An object that is followed well, but for some frames."""
    found = []
    for frame in SEGMENT.frames:
        fine = frame not in bad
        agreement = (0.95 if fine else 0.1) if min(ends) < frame < max(ends) else None
        found.append(Evidence(frame, object_id, 0.99 if fine else doubt, agreement, 0.1, frame in ends))
    return [Evidence(e.frame, object_id, 1.0, None, 0.1, True) if e.keyframe else e for e in found]


def test_the_frames_that_went_wrong_come_next() -> None:
    (best, *_) = next_frames(SEGMENT, track(bad=range(115, 125)), [100, 140], 2, objects={1: "dog"}, model=MODEL)
    assert 115 <= best.frame < 125
    assert best.score == 1.0
    (reason,) = best.reasons
    assert (reason.object_id, reason.label) == (1, "dog")
    assert reason.why == "the passes from frames 100 and 140 disagree (IoU 0.10)"
    assert reason.predicted_j == pytest.approx(
        predicted_j_of(SEGMENT, track(bad=range(115, 125)), [100, 140], MODEL)[best.frame, 1]
    )


def test_every_object_counts() -> None:
    evidence = (
        track(1, range(110, 113), doubt=0.6)
        + track(2, range(126, 130), doubt=0.5)
        + track(3, range(126, 130), doubt=0.6)
    )
    (best,) = next_frames(SEGMENT, evidence, [100, 140], 1, model=MODEL)
    assert 124 <= best.frame < 132
    first, second = next_frames(SEGMENT, evidence, [100, 140], 2, model=MODEL)
    assert 124 <= first.frame < 132
    assert 108 <= second.frame < 115
    assert first.gain > second.gain > 0
    assert [reason.object_id for reason in next_frames(Segment(127, 129), evidence, [], 1, model=MODEL)[0].reasons][
        :2
    ] == [2, 3]


def test_words_for_what_is_wrong() -> None:
    known = {e.frame: e for e in track(ends=(100,))}
    unsure = {**known, 130: Evidence(130, 1, 0.1, None, 0.1, False)}
    gone = [e for e in known.values() if e.frame < 120]

    def why(evidence: list[Evidence], frame: int, **options: object) -> str:
        return next_frames(SEGMENT, evidence, [100], 1, allowed={frame}, model=MODEL, **options)[0].reasons[0].why

    assert why(list(unsure.values()), 130) == "confidence 0.10"
    assert why(list(known.values()), 135) == "35 frames from the nearest exemplar"
    assert why(gone, 120) == "it disappears here"
    assert why(gone, 125) == "it is lost here"
    between = track(bad=range(110, 112))
    assert "frames #100 and #140" in why(between, 110, frame_name="#{}".format)


def test_without_evidence_the_reason_says_so() -> None:
    found = next_frames(SEGMENT, [Evidence(100, 1, 1.0, None, 0.1, True)], [100], 3)
    assert len(found) == 3
    assert {reason.object_id for entry in found for reason in entry.reasons} == {None}
    assert all("nothing was propagated yet" in entry.reasons[0].why for entry in found)
    assert all(entry.gain > 0 for entry in found)


def test_nothing_to_choose() -> None:
    assert next_frames(SEGMENT, track(), [100, 140], 0) == []
    assert next_frames(SEGMENT, track(), SEGMENT.frames, 3) == []
    assert next_frames(SEGMENT, track(), [100, 140], 3, allowed=()) == []
    with pytest.raises(ConfigurationError, match="budget counts frames from 0, got -1"):
        next_frames(SEGMENT, track(), [100, 140], -1)


def test_frames_are_looked_at_once() -> None:
    random = np.random.default_rng(2)
    source = ArraySource(random.integers(0, 255, (141, 16, 24, 3), dtype=np.uint8))
    seen: list[int] = []
    found = next_frames(SEGMENT, track(bad=range(110, 130)), [100, 140], 3, source=source, progress=seen.append)
    assert seen == list(range(1, len(SEGMENT) + 1))
    assert len(found) == 3


@settings(deadline=None, max_examples=50)
@given(st.data())
def test_choices_keep_the_rules(data: st.DataObject) -> None:
    annotated = data.draw(st.sets(st.sampled_from(SEGMENT.frames), max_size=4))
    allowed = data.draw(st.none() | st.sets(st.sampled_from(SEGMENT.frames), max_size=12))
    budget = data.draw(st.integers(0, 6))
    frames = data.draw(st.sets(st.integers(95, 145)))
    agreements = data.draw(st.lists(st.none() | SHARES, min_size=60, max_size=60))
    evidence = [
        Evidence(frame, 1 + frame % 2, data.draw(SHARES), agreements[frame - 95], 0.1, frame in annotated)
        for frame in sorted(frames)
    ]
    found = next_frames(SEGMENT, evidence, annotated, budget, allowed=allowed)
    chosen = [entry.frame for entry in found]
    assert len(chosen) == len(set(chosen)) <= budget
    assert all(f in SEGMENT and f not in annotated and (allowed is None or f in allowed) for f in chosen)
    assert [entry.gain for entry in found] == sorted((entry.gain for entry in found), reverse=True)
    assert all(0.5 <= entry.score <= 1.0 and entry.gain > 0 for entry in found)
    assert all(0.0 <= j <= 1.0 for j in predicted_j_of(SEGMENT, evidence, annotated).values())


def test_absences() -> None:
    evidence = [e for e in track() if e.frame not in range(110, 120)]
    predicted = predicted_j_of(SEGMENT, evidence, [100, 140])
    assert predicted[100, 1] == 1.0
    assert predicted[112, 1] == DEFAULT_MODEL.vanished
    # A person said that it is not there, on one side or on both.
    predicted = predicted_j_of(SEGMENT, evidence, [100, 114, 117, 140])
    assert predicted[112, 1] == DEFAULT_MODEL.left
    assert (115, 1) not in predicted
    assert (114, 1) not in predicted


@settings(deadline=None, max_examples=50)
@given(SHARES, SHARES, SHARES, SHARES, st.integers(1, 200), st.integers(1, 200), st.booleans())
def test_predictions_are_monotone(a: float, b: float, c: float, d: float, near: int, far: int, both: bool) -> None:
    low, high, near, far = *sorted((a, b)), *sorted((near, far))
    less, more = sorted((c, d)) if both else (None, None)
    worse, better = Evidence(5, 1, low, less, 0.1, False), Evidence(5, 1, high, more, 0.1, False)
    for model in (DEFAULT_MODEL, DEFAULT_MODEL.fitted([(worse, near, 0.9), (better, far, 0.1)] * 50)):
        assert 0.0 <= model.predict(worse, far) <= model.predict(better, near) <= 1.0
        assert model.predict(Evidence(5, 1, low, less, 0.1, True), far) == 1.0


def test_measurements_move_the_model_little_by_little() -> None:
    known = [Evidence(5, 1, confidence, agreement, 0.1, False) for confidence, agreement in
             itertools.product((0.3, 0.6, 0.9), (None, 0.4, 0.9))]  # fmt: skip
    before = np.array([DEFAULT_MODEL.predict(e, 5) for e in known])

    def away(times: int) -> float:
        model = DEFAULT_MODEL.fitted([(e, 5, 0.2) for e in known] * times)
        return float(np.abs(np.array([model.predict(e, 5) for e in known]) - 0.2).mean())

    assert DEFAULT_MODEL.fitted([]) == DEFAULT_MODEL
    assert np.abs(before - 0.2).mean() > away(1) > away(10) > away(200)
    assert away(200) < 0.05


def test_a_few_labels_say_how_good_the_engine_is_on_this_footage() -> None:
    one, two = (Evidence(5, 1, 0.9, agreement, 0.1, False) for agreement in (None, 0.8))
    model = DEFAULT_MODEL.fitted([(one, 5, 0.5)] * 6)
    assert model.predict(two, 5) < DEFAULT_MODEL.predict(two, 5) - 0.1


def test_evidence_is_checked() -> None:
    for confidence, agreement, area in ((1.1, None, 0.1), (0.5, -0.1, 0.1), (0.5, 0.5, 300.0)):
        with pytest.raises(DataError, match="share of the frame"):
            Evidence(0, 1, confidence, agreement, area, False)
