"""What is expected of boxes that were filled between keyframes."""

from __future__ import annotations

import numpy as np
import pytest

from labelprop_cvat.backend.doubts import FieldDoubts
from labelprop_cvat.backend.evidence import KnownLabel, followed_as
from labelprop_cvat.backend.ledger import FillRecord, SegmentRecord
from labelprop_cvat.propagation._boxes import straight_confidence, waywardness
from labelprop_cvat.propagation.exemplars import BOX_MODEL, DEFAULT_MODEL, Evidence
from labelprop_cvat.propagation.flow import FlowPropagator
from labelprop_cvat.propagation.frames import ArraySource
from labelprop_cvat.propagation.types import Box, Prompt, PromptKind, Segment


def _box(x: float, y: float = 20.0) -> Box:
    return x, y, x + 20.0, y + 30.0


def _known(frame: int, confidence: float, agreement: float | None, kind: PromptKind) -> Evidence:
    return Evidence(frame, 1, confidence, agreement, 0.1, keyframe=False, kind=kind)


def _doubts(evidence: list[Evidence]) -> list[str]:
    ends = [Evidence(frame, 1, 1.0, None, 0.1, keyframe=True, kind=evidence[0].kind) for frame in (0, 20)]
    known = [KnownLabel(e, "person", _box(10), e.keyframe) for e in [*ends, *evidence]]
    segment = SegmentRecord(0, 21, "all", [0, 20])
    return [
        d.why for d in FieldDoubts("objects", segment, known, [0, 20], (), DEFAULT_MODEL, str).doubts(range(21), 0.8)
    ]


def test_keyframes_on_a_straight_way_vouch_for_it() -> None:
    straight = [Prompt(frame, 1, box=_box(2.0 * frame)) for frame in (0, 10, 20, 30)]
    assert waywardness(straight) == pytest.approx({10: 0.0, 20: 0.0})
    assert straight_confidence(10, 15, 20, [0.0, 0.0]) == 1.0


def test_keyframes_off_the_straight_way_speak_against_it_most_in_the_middle() -> None:
    winding = [Prompt(frame, 1, box=_box(x)) for frame, x in ((0, 0.0), (10, 30.0), (20, 0.0))]
    strays = waywardness(winding)
    assert list(strays) == [10]
    at = [straight_confidence(10, frame, 20, list(strays.values())) for frame in range(10, 21)]
    assert at[0] == at[10] == 1.0
    assert at == pytest.approx(at[::-1])
    assert min(at) == at[5] < 0.4
    # Neither the end of a track nor a frame without the object says anything.
    assert waywardness(winding[:2]) == {}
    assert waywardness([winding[0], Prompt(10, 1, absent=True), winding[2]]) == {}


def test_a_way_that_nobody_checked_is_worth_less_the_longer_it_is() -> None:
    assert straight_confidence(0, 5, 10, []) > straight_confidence(0, 10, 20, []) > 0.0


def test_passes_that_lose_a_straight_walker_do_not_make_its_box_doubtful() -> None:
    random = np.random.default_rng(0)
    # Noise that is another one on every frame: nothing can be followed.
    frames = ArraySource([random.integers(0, 255, (64, 96, 3)).astype(np.uint8) for _ in range(25)])
    ways = {"straight": (0.0, 16.0, 32.0, 48.0), "winding": (0.0, 40.0, 8.0, 60.0)}
    confidence = {}
    for name, places in ways.items():
        prompts = [Prompt(8 * n, 1, box=_box(x)) for n, x in enumerate(places)]
        states = [found.objects[1] for found in FlowPropagator().propagate(frames, prompts, Segment(0, 25))]
        confidence[name] = states[12].confidence
        assert states[12].agreement is not None
        assert states[12].agreement < 0.3
    assert confidence["straight"] > 0.9
    assert confidence["winding"] < 0.6


def test_boxes_are_not_doubted_for_passes_that_disagree() -> None:
    assert _doubts([_known(frame, 0.98, 0.0, PromptKind.BOX) for frame in range(1, 20)]) == []
    box, mask = (_known(10, 0.2, 0.1, kind) for kind in (PromptKind.BOX, PromptKind.MASK))
    assert DEFAULT_MODEL.predict(box, 10.0) > DEFAULT_MODEL.predict(mask, 10.0) + 0.1
    assert DEFAULT_MODEL.predict(box, 10.0) == BOX_MODEL.predict(box, 10.0)


def test_what_is_as_good_as_lost_is_called_so() -> None:
    (why,) = _doubts([_known(frame, 0.01, 0.0, PromptKind.MASK) for frame in range(1, 20)])
    assert why == "person 1: most likely lost on frames 1 to 19; the passes from frames 0 and 20 disagree (IoU 0.00)."
    (why,) = _doubts([_known(frame, 0.3, 0.0, PromptKind.MASK) for frame in range(1, 20)])
    assert "expected IoU 0." in why


def test_measured_boxes_say_nothing_of_masks() -> None:
    box, mask = (_known(5, 0.8, 0.5, kind) for kind in (PromptKind.BOX, PromptKind.MASK))
    model = DEFAULT_MODEL.fitted([(box, 5.0, 0.2)] * 30)
    assert model.predict(box, 5.0) < DEFAULT_MODEL.predict(box, 5.0) - 0.1
    assert model.predict(mask, 5.0) == DEFAULT_MODEL.predict(mask, 5.0)
    model = DEFAULT_MODEL.fitted([(mask, 5.0, 0.2)] * 30)
    assert model.predict(mask, 5.0) < DEFAULT_MODEL.predict(mask, 5.0) - 0.1
    assert model.predict(box, 5.0) == DEFAULT_MODEL.predict(box, 5.0)


def test_boxes_around_masks_are_known_as_well_as_these() -> None:
    assert followed_as(PromptKind.BOX, FillRecord(engine="flow")) is PromptKind.BOX
    assert followed_as(PromptKind.BOX, FillRecord(engine="sam2")) is PromptKind.MASK
    assert followed_as(PromptKind.POLYGON, FillRecord(engine="flow")) is PromptKind.MASK
