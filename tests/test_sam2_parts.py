"""The parts of the engine ``sam2`` one by one: answers, features, options, and what happens where memory is short."""

from __future__ import annotations

import gc
import math
import os
import resource
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
import torch
from fixtures_sam2 import noise_frames
from fixtures_sam2_fakes import RECORD, FakeModel, NumberedFrames, feeding_threads
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from labelprop_cvat.errors import ConfigurationError, DataError, EngineError
from labelprop_cvat.propagation._gaps import Gap
from labelprop_cvat.propagation.frames import Image
from labelprop_cvat.propagation.propagator import get_propagator
from labelprop_cvat.propagation.sam2._answers import AnswerMaker, merge, outline, quality, upsampled
from labelprop_cvat.propagation.sam2._features import FeatureFeeder
from labelprop_cvat.propagation.sam2._memory import Memory
from labelprop_cvat.propagation.sam2._passes import FrameSightings, Sighting
from labelprop_cvat.propagation.sam2._tracker import Exemplar, Prediction
from labelprop_cvat.propagation.sam2.engine import Sam2Propagator
from labelprop_cvat.propagation.sam2.model import FrameFeatures, Sam2Model, pick_device
from labelprop_cvat.propagation.sam2.options import Sam2Options
from labelprop_cvat.propagation.types import Box, ObjectMask, Prompt, Segment, rasterize

GRID = 32
SIZE = (64, 128)
"""Height and width of frames; a place of the model's logits is two pixels high and four wide."""

# Shared models are only looked at; examples that follow each other do not depend on them.
STEADY = settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def drawn(*boxes: Box) -> np.ndarray:
    """Logits of 10 within boxes given in pixels of the frame, -10 elsewhere."""
    logits = np.full((GRID, GRID), -10.0, dtype=np.float32)
    for x1, y1, x2, y2 in boxes:
        logits[round(y1 / 2) : round(y2 / 2), round(x1 / 4) : round(x2 / 4)] = 10.0
    return logits


def seen(*boxes: Box, iou: float = 0.9, score: float = 4.0, exemplars: tuple[int, ...] = (0,)) -> Prediction:
    return Prediction(drawn(*boxes), iou, score, exemplars)


# --- answers: logits at the frame's resolution, outlines -------------------------------------------------------------

sides = st.integers(1, 12)


@STEADY
@given(
    st.tuples(sides, sides).flatmap(
        lambda shape: arrays.arrays(np.float32, shape, elements=st.floats(-30, 30, width=32))
    ),
    st.tuples(st.integers(1, 45), st.integers(1, 45)),
)
def test_logits_are_scaled_as_torch_scales_them(logits: np.ndarray, size: tuple[int, int]):
    window, scaled = upsampled(logits, size)
    whole = torch.nn.functional.interpolate(
        torch.from_numpy(logits)[None, None], size=size, mode="bilinear", align_corners=False
    )[0, 0].numpy()
    assert scaled.shape == window.shape
    assert scaled.dtype == np.float32
    inside = slice(window.y1, window.y2), slice(window.x1, window.x2)
    assert np.allclose(scaled, whole[inside], atol=1e-3)
    outside = whole.copy()
    outside[inside] = 0.0
    assert outside.max() <= 1e-3
    assert window.empty == (not (logits > 0).any())


@STEADY
@given(arrays.arrays(np.bool_, st.tuples(st.integers(1, 9), st.integers(1, 9))), st.integers(0, 3), st.integers(0, 3))
def test_an_outline_filled_is_the_mask(crop: np.ndarray, x: int, y: int):
    mask = ObjectMask.from_crop(x, y, crop)
    if mask is not None:
        assert rasterize(outline(mask), (14, 14)) == mask


# --- answers: two passes become one ----------------------------------------------------------------------------------

predictions = st.builds(
    Prediction,
    arrays.arrays(np.int8, (4, 4), elements=st.integers(-20, 20)).map(lambda logits: logits.astype(np.float32)),
    st.floats(-0.1, 1.1),
    st.integers(-50, 50).map(lambda score: score / 4),
    st.just((0,)),
)


@STEADY
@given(st.none() | predictions, st.none() | predictions, st.floats(0.01, 0.99))
def test_what_is_merged_is_sane(forward: Prediction | None, backward: Prediction | None, progress: float):
    merged = merge(forward, backward, progress)
    sides = [one for one in (forward, backward) if one is not None and one.score > 0]
    if merged is None:
        assert len(sides) < 2 or forward is None or backward is None
        return
    assert sides
    assert 0.0 <= merged.confidence <= 1.0
    assert merged.confidence <= max(quality(one) for one in sides) + 1e-9
    inside = [one.logits > 0 for one in sides]
    assert not (merged.logits > 0)[~np.logical_or.reduce(inside)].any()
    assert (merged.logits > 0)[np.logical_and.reduce(inside)].all()


def test_nobody_saw_it():
    assert merge(None, None, 0.5) is None
    assert merge(seen((0, 0, 40, 40), score=-0.1), None, 0.5) is None
    assert merge(None, seen((0, 0, 40, 40), score=0.0), 0.5) is None


def test_one_pass_alone_is_the_answer():
    only = seen((0, 0, 40, 40), iou=0.7, score=1.0, exemplars=(3, 9))
    for merged in (merge(only, None, 0.9), merge(None, only, 0.1)):
        assert merged is not None
        assert np.array_equal(merged.logits, only.logits)
        assert merged.confidence == pytest.approx(0.7 / (1 + math.exp(-1.0)))
        assert merged.exemplars == (3, 9)


def test_the_nearer_and_the_surer_pass_count_more():
    left, right = (0, 0, 40, 40), (60, 0, 100, 40)

    def answer(progress: float, first: float = 0.9, second: float = 0.9) -> tuple[bool, bool]:
        merged = merge(seen(left, iou=first, exemplars=(0,)), seen(right, iou=second, exemplars=(8,)), progress)
        assert merged is not None
        assert merged.exemplars == (0, 8)
        return bool(merged.logits[5, 5] > 0), bool(merged.logits[5, 20] > 0)

    assert answer(0.2) == (True, False)
    assert answer(0.8) == (False, True)
    assert answer(0.4, first=0.5, second=0.95) == (False, True)
    assert answer(0.6, first=0.95, second=0.5) == (True, False)


def test_a_pass_that_saw_nothing_counts_the_more_the_nearer_it_is():
    there, gone = seen((0, 0, 40, 40)), seen(score=-6.0)
    near, far = merge(there, gone, 0.1), merge(there, gone, 0.4)
    assert near is not None
    assert far is not None
    assert near.confidence == pytest.approx(0.9 * quality(there))
    assert far.confidence == pytest.approx(0.6 * quality(there))
    assert np.array_equal(far.logits, there.logits)
    assert merge(there, gone, 0.6) is None
    assert merge(gone, there, 0.6) is not None
    assert merge(gone, there, 0.4) is None
    # Who hardly knows does not outvote who is sure.
    assert merge(there, seen(score=-0.01), 0.9) is not None


def test_passes_that_agree_are_surer_than_passes_that_do_not():
    confidences = []
    for shift in (0, 8, 20, 60):
        merged = merge(seen((20, 10, 60, 40)), seen((20 + shift, 10, 60 + shift, 40)), 0.5)
        assert merged is not None
        confidences.append(merged.confidence)
    assert confidences[0] == pytest.approx(quality(seen()))
    assert confidences == sorted(confidences, reverse=True)
    assert len(set(confidences)) == 4
    nearly_alone = merge(seen((20, 10, 60, 40)), seen((80, 10, 120, 40)), 0.01)
    assert nearly_alone is not None
    assert nearly_alone.confidence > 0.9 * quality(seen())


def test_small_holes_are_filled_and_large_ones_and_the_background_are_not():
    logits = np.full((12, 20), 5.0, dtype=np.float32)
    logits[2:4, 2:6] = -3.0  # a hole of 8
    logits[6:9, 2:5] = -3.0  # a hole of 9
    logits[0, 19] = -3.0  # a corner: small, and no less a hole to the model
    logits[:, 12:14] = -3.0  # background
    given = logits.copy()

    def filled(most: int) -> np.ndarray:
        merged = merge(Prediction(logits, 0.9, 5.0, ()), None, 0.0, fill_holes=most)
        assert merged is not None
        return merged.logits > 0

    assert np.array_equal(filled(0), given > 0)
    corner = given > 0
    corner[0, 19] = True
    assert np.array_equal(filled(7), corner)
    hole = corner.copy()
    hole[2:4, 2:6] = True
    assert np.array_equal(filled(8), hole)
    assert np.array_equal(logits, given)
    tiny = np.full((12, 20), -3.0, dtype=np.float32)
    tiny[3:5, 3:5] = 5.0
    small = merge(Prediction(tiny, 0.9, 5.0, ()), None, 0.0, fill_holes=8)
    assert small is not None
    assert np.array_equal(small.logits, tiny), "a small object is no hole"


# --- answers: boxes --------------------------------------------------------------------------------------------------

TIGHT = (40, 20, 80, 40)
DRAWN = (36.0, 18.0, 84.0, 44.0)
"""With margins of 0.1 of its size left, above and on the right, and 0.2 below."""


def boxed(
    found: Prediction,
    *,
    frame: int = 1,
    before: tuple[Box, Prediction] | None = (DRAWN, seen(TIGHT)),
    behind: tuple[Box, Prediction] | None = None,
) -> Box | None:
    """The box that is answered on ``frame`` between exemplars on frames 0 and 10, of which ``found`` was seen."""
    ends = {at: end for at, end in ((0, before), (10, behind)) if end is not None}
    prompts = {at: Prompt(at, 1, box=box) for at, (box, _) in ends.items()}
    exemplars = {at: Exemplar(Memory(None, torch.zeros(1)), p) for at, (_, p) in ends.items()}
    gap = Gap(1, 1, 10, prompts.get(0), prompts.get(10))
    maker = AnswerMaker({at: {1: prompt} for at, prompt in prompts.items()}, SIZE, Sam2Options())
    answer = maker.answer(FrameSightings(frame, {1: Sighting(gap, found, None)}, {1: exemplars}))
    return answer.objects[1].box if 1 in answer.objects else None


def test_the_margins_of_a_drawn_box_stay():
    assert boxed(seen(TIGHT)) == pytest.approx(DRAWN)
    assert boxed(seen((48, 24, 88, 44))) == pytest.approx((44, 22, 92, 48))
    assert boxed(seen((20, 10, 40, 20))) == pytest.approx((18, 9, 42, 22)), "margins shrink with the object"


def test_boxes_end_where_the_frame_does():
    assert boxed(seen((0, 20, 40, 64))) == pytest.approx((0, 20 - 4.4, 44, 64))
    assert boxed(seen((88, 0, 128, 20))) == pytest.approx((84, 0, 128, 24))


def test_a_side_that_the_frame_cut_off_says_nothing_of_margins():
    cut = ((0.0, 18.0, 44.0, 44.0), seen((0, 20, 40, 40)))
    assert boxed(seen(TIGHT), before=cut) == pytest.approx(DRAWN), "the margin on the left is that on the right"
    both = ((0.0, 18.0, 128.0, 44.0), seen((0, 20, 128, 40)))
    assert boxed(seen(TIGHT), before=both) == pytest.approx((40, 18, 80, 44))


def test_margins_go_over_from_one_exemplar_to_the_next():
    wide = (32.0, 20.0, 80.0, 40.0)
    for frame, left in ((2, 40 - 0.8 * 4 - 0.2 * 8), (9, 40 - 0.1 * 4 - 0.9 * 8)):
        box = boxed(seen(TIGHT), frame=frame, behind=(wide, seen(TIGHT)))
        assert box is not None
        assert box[0] == pytest.approx(left)
    assert boxed(seen(TIGHT), before=None, behind=(wide, seen(TIGHT))) == pytest.approx(wide)


def test_specks_do_not_stretch_a_box_and_cut_off_limbs_are_not_lost():
    assert boxed(seen(TIGHT, (116, 56, 120, 58))) == pytest.approx(DRAWN)
    stretched = boxed(seen(TIGHT, (100, 20, 112, 40)))
    assert stretched is not None
    assert stretched[2] == pytest.approx(112 + 0.1 * 72)
    assert boxed(seen(TIGHT), before=(DRAWN, seen(TIGHT, (116, 56, 120, 58)))) == pytest.approx(DRAWN)


def test_margins_that_cannot_be_meant_are_bounded():
    found = boxed(seen(TIGHT), before=((0.0, 0.0, 128.0, 64.0), seen(TIGHT)))
    assert found == pytest.approx((30, 15, 90, 45))
    inner = boxed(seen(TIGHT), before=((58.0, 28.0, 62.0, 32.0), seen(TIGHT)))
    assert inner == pytest.approx((50, 25, 70, 35))
    assert boxed(seen(TIGHT), before=(DRAWN, seen())) == pytest.approx(TIGHT), "nothing was seen in the drawn box"


def test_a_box_of_nothing_is_no_box():
    assert boxed(seen()) is None
    assert boxed(seen(TIGHT, score=-1.0)) is None


def test_what_is_less_sure_than_asked_is_left_out():
    gap = Gap(1, 1, 10, Prompt(0, 1, mask=ObjectMask(40, 20, np.ones((20, 40), bool))), None)
    for least, there in ((0.5, True), (0.95, False)):
        maker = AnswerMaker({0: {1: gap.before}}, SIZE, Sam2Options(min_confidence=least))
        assert (1 in maker.answer(FrameSightings(1, {1: Sighting(gap, seen(TIGHT), None)}, {})).objects) == there


# --- features --------------------------------------------------------------------------------------------------------


Feed = Callable[..., FeatureFeeder]


@pytest.fixture
def feed() -> Iterator[Feed]:
    opened = []

    def feeding(model: FakeModel, frames: Any, plan: Sequence[int], window: int = 4, disk: int = 0) -> FeatureFeeder:
        opened.append(FeatureFeeder(model, frames, plan, window=window, disk_bytes=disk))  # type: ignore[arg-type]
        return opened[-1]

    yield feeding
    for feeder in opened:
        feeder.close()
    assert not feeding_threads()


def taken(feeder: FeatureFeeder, plan: Sequence[int]) -> None:
    """Takes a whole plan and checks that each frame is given its own features."""
    for index in plan:
        check(feeder.take(index), index)


def check(features: FrameFeatures, index: int) -> None:
    (fine,) = features.fine
    assert features.top.shape == (1, 2, 16, 16)
    assert (features.top == index).all()
    assert fine.dtype is torch.bfloat16
    assert (fine == index).all()


THERE_AND_BACK = [*range(8), *range(7, -1, -1), *range(12)]


@pytest.mark.parametrize(
    ("window", "disk", "again"),
    [(12, 0, 0), (2, 12 * RECORD, 0), (2, 3 * RECORD, None), (4, 0, None), (2, 0, None)],
    ids=["all in memory", "the rest on disk", "some of it on disk", "memory alone", "next to nothing"],
)
def test_each_frame_is_encoded_once_where_memory_or_disk_allow(feed: Feed, window: int, disk: int, again: int | None):
    model, frames = FakeModel(), NumberedFrames(12)
    feeder = feed(model, frames, THERE_AND_BACK, window, disk)
    taken(feeder, THERE_AND_BACK)
    repeated = feeder.encoded - 12
    assert len(model.encoded) == len(frames.read_indices) == feeder.encoded
    if again is not None:
        assert repeated == again
    else:
        assert 0 < repeated <= 2 * (8 - window) - (disk > 0)


def test_as_much_is_held_in_memory_as_the_window_says(feed: Feed):
    model = FakeModel()
    plan = [*range(40), *range(39, -1, -1)]
    feeder = feed(model, NumberedFrames(40), plan, window=5, disk=40 * RECORD)
    most = 0
    for index in plan:
        check(feeder.take(index), index)
        most = max(most, model.held)
    # Two wait to be taken, one is being made, one was taken just now.
    assert 5 <= most <= 5 + 4
    assert feeder.encoded == 40


def test_the_file_does_not_grow_with_the_video(feed: Feed):
    plan = [index for first in range(0, 200, 10) for index in (*range(first, first + 10), *range(first + 9, first, -1))]
    feeder = feed(FakeModel(), NumberedFrames(200), plan, window=2, disk=1000 * RECORD)
    taken(feeder, plan)
    assert feeder.encoded == 200
    assert 0 < file_size(feeder) <= 10 * RECORD


def test_the_file_is_no_larger_than_allowed(feed: Feed):
    plan = [*range(30), *range(30)]
    feeder = feed(FakeModel(), NumberedFrames(30), plan, window=2, disk=7 * RECORD + RECORD // 2)
    taken(feeder, plan)
    assert file_size(feeder) == 7 * RECORD
    assert feeder.encoded == 30 + 30 - 7 - 2


def file_size(feeder: FeatureFeeder) -> int:
    return os.fstat(feeder._held._file._file.fileno()).st_size  # type: ignore[union-attr]


@pytest.mark.parametrize("over", [0, 1, 100, RECORD - 1], ids=lambda over: f"{over} bytes over")
def test_a_full_disk_costs_time_and_nothing_else(feed: Feed, caplog: pytest.LogCaptureFixture, over: int):
    plan = [*range(30), *range(30), *range(30)]
    with largest_file(6 * RECORD + over):
        feeder = feed(FakeModel(), NumberedFrames(30), plan, window=2, disk=100 * RECORD)
        taken(feeder, plan)
        feeder.close()
    assert feeder.encoded > 30
    assert [record.message for record in caplog.records if "can't be written" in record.message]
    assert len(caplog.records) == 1


@contextmanager
def largest_file(size: int) -> Iterator[None]:
    """As if the disk were full: no file can grow beyond ``size`` bytes."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize("broken", [0, 5])
def test_what_a_source_raises_reaches_who_takes(feed: Feed, broken: int):
    frames = NumberedFrames(10, broken=broken)
    feeder = feed(FakeModel(), frames, range(10))
    taken(feeder, range(broken))
    with pytest.raises(DataError, match=f"Frame {broken} is broken"):
        feeder.take(broken)
    with pytest.raises(EngineError, match="plan has ended"):
        feeder.take(broken + 1)
    assert not feeding_threads()


def test_only_the_plan_can_be_taken(feed: Feed):
    feeder = feed(FakeModel(), NumberedFrames(10), [3, 2])
    with pytest.raises(EngineError, match="Frame 2 was asked for, but frame 3 is next"):
        feeder.take(2)
    taken(feeder, [3, 2])
    with pytest.raises(EngineError, match="Frame 1 was asked for, but the plan has ended"):
        feeder.take(1)


@pytest.mark.parametrize(("device", "ahead"), [("cpu", False), ("mps", True)])
def test_a_gpu_encodes_ahead_of_the_reader(feed: Feed, device: str, ahead: bool):
    model = FakeModel(device=device)
    feeder = feed(model, NumberedFrames(30), [*range(20), *range(20)], window=30)
    feeder.take(0)
    deadline = time.monotonic() + 5
    while ahead and len(model.encoded) < 3 and time.monotonic() < deadline:
        time.sleep(0.01)
    assert len(model.encoded) == (3 if ahead else 1), "two frames ahead, and no more"
    taken(feeder, [*range(1, 20), *range(20)])
    assert sorted(model.encoded) == list(range(20))
    assert all(name.startswith("sam2-features") is ahead for name in model.encoders)


def test_short_memory_ahead_of_the_reader_is_relieved_by_the_reader(feed: Feed):
    model = FakeModel(room=9, device="mps")
    taken(feed(model, NumberedFrames(20), [*range(20), *range(5)], window=20), [*range(20), *range(5)])
    assert set(model.encoded) == set(range(20))


def test_frames_that_follow_each_other_are_read_on(feed: Feed):
    class Seeks(NumberedFrames):
        def read(self, start: int, stop: int, step: int = 1) -> Iterator[tuple[int, Image]]:
            asked.append((start, stop, step))
            return super().read(start, stop, step)

    asked: list[tuple[int, int, int]] = []
    plan = [7, 6, 5, 4, 5, 6, 7, 8, 9, 10, 3]
    taken(feed(FakeModel(), Seeks(12), plan, window=8), plan)
    assert asked == [(7, 3, -1), (8, 11, 1), (3, 4, 1)]


def test_closing_while_the_thread_waits_ends_it(feed: Feed):
    model, frames = FakeModel(), NumberedFrames(100)
    feeder = feed(model, frames, [*range(100), *range(100)], window=100, disk=RECORD)
    feeder.take(0)
    time.sleep(0.05)
    assert feeding_threads()
    assert frames.readings == 1
    started = time.monotonic()
    feeder.close()
    assert time.monotonic() - started < 2
    assert not feeding_threads()
    assert frames.readings == 0
    assert len(model.encoded) < 10, "it ran ahead of the reader"
    assert feeder._held._file._file.closed  # type: ignore[union-attr]
    gc.collect()
    assert model.held <= 1, "one may have been on its way into the queue"


def test_a_window_that_is_too_large_for_memory_shrinks(feed: Feed, caplog: pytest.LogCaptureFixture):
    model = FakeModel(room=9)
    plan = [*range(20), *range(19, -1, -1)]
    taken(feed(model, NumberedFrames(20), plan, window=20, disk=20 * RECORD), plan)
    assert sorted(model.encoded) == list(range(20))
    assert "only" in caplog.text


def test_a_frame_that_does_not_fit_at_all_is_said(feed: Feed):
    feeder = feed(FakeModel(room=0), NumberedFrames(3), range(3))
    with pytest.raises(EngineError, match=r"memory on cpu for the features of one frame.*image_size \(it is 64\)"):
        feeder.take(0)


def test_the_window_shrinks_to_one_frame_and_no_further(feed: Feed):
    feeder = feed(FakeModel(), NumberedFrames(3), range(3), window=9)
    assert [feeder.shrink() for _ in range(3)][-1] is False
    taken(feeder, range(3))


# --- where memory is short -------------------------------------------------------------------------------------------

FRAMES = noise_frames(6)
OBJECTS = 5


def five_objects() -> list[Prompt]:
    """Masks of five objects on frame 2."""
    return [
        Prompt(2, number, mask=ObjectMask(20 * number, 10 * number, np.ones((30, 15), bool))) for number in range(1, 6)
    ]


def found(model: Sam2Model, **options: Any) -> list[FrameSightings]:
    """What the network sees of five objects on frames 0 to 3."""
    engine = Sam2Propagator(Sam2Options(image_size=model.image_size, **options), model=model)
    return list(engine.sightings(FRAMES, five_objects(), Segment(0, 4)))


def equal(one: list[FrameSightings], other: list[FrameSightings]) -> None:
    assert [known.frame for known in one] == [known.frame for known in other]
    for first, second in zip(one, other, strict=True):
        assert first.sightings.keys() == second.sightings.keys()
        for number, sighting in first.sightings.items():
            for mine, yours in zip(
                (sighting.forward, sighting.backward),
                (second.sightings[number].forward, second.sightings[number].backward),
                strict=True,
            ):
                assert (mine is None) == (yours is None)
                if mine is not None and yours is not None:
                    assert np.abs(mine.logits - yours.logits).max() < 5e-5


class Crowded:
    """Stands before a function of the network and fails as CUDA does when memory is short.

    Args:
        function: what is called where there is memory
        fits: says for the arguments of a call whether there is
    """

    def __init__(self, function: Callable[..., Any], fits: Callable[..., bool]) -> None:
        self._function, self._fits = function, fits
        self.sizes: list[int] = []

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        self.sizes.append(len(args[0]) if args else 1)
        if not self._fits(*args):
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB.")
        return self._function(*args, **kwargs)


@pytest.mark.parametrize(("room", "sizes"), [(4, [4, 1]), (2, [4, 2, 2, 1]), (1, [4, 2, 1, 1, 1, 1, 1])])
def test_batches_are_halved_until_they_fit(
    tiny_sam2_model: Sam2Model, monkeypatch: pytest.MonkeyPatch, room: int, sizes: list[int]
):
    expected = found(tiny_sam2_model, batch_size=1)
    crowded = Crowded(tiny_sam2_model.attend, lambda tokens, *_: len(tokens) <= room)
    monkeypatch.setattr(tiny_sam2_model, "attend", crowded)
    equal(found(tiny_sam2_model, batch_size=4), expected)
    assert crowded.sizes[: len(sizes)] == sizes
    assert set(crowded.sizes[len(sizes) :]) <= {room, 1}, "what did not fit once is not tried again"


class Relief:
    """Counts how often the window of features was halved; there is memory after ``enough`` times."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, enough: int) -> None:
        self.times = 0
        self.windows: list[int] = []
        shrink = FeatureFeeder.shrink

        def shrinking(feeder: FeatureFeeder) -> bool:
            self.times += 1
            shrunk = shrink(feeder)
            self.windows.append(feeder._held._window)
            return shrunk

        monkeypatch.setattr(FeatureFeeder, "shrink", shrinking)
        self.fits = lambda *_: self.times >= enough


PLACES = {
    "memory attention": lambda model: (model, "attend"),
    "self-attention": lambda model: (model.network.memory_attention.layers[0], "_forward_sa"),
    "an exemplar's memory": lambda model: (model.network.memory_encoder, "forward"),
    "an exemplar's pointer": lambda model: (model.network.sam_mask_decoder, "forward"),
}


@pytest.mark.parametrize("place", PLACES)
def test_then_the_window_is_halved(tiny_sam2_model: Sam2Model, monkeypatch: pytest.MonkeyPatch, place: str):
    expected = found(tiny_sam2_model)
    owner, name = PLACES[place](tiny_sam2_model)
    relief = Relief(monkeypatch, enough=1)
    monkeypatch.setattr(owner, name, Crowded(getattr(owner, name), relief.fits))
    equal(found(tiny_sam2_model, window=8), expected)
    assert relief.times == 1
    assert relief.windows[0] < 8


@pytest.mark.parametrize("place", PLACES)
def test_then_it_is_said_what_to_change(tiny_sam2_model: Sam2Model, monkeypatch: pytest.MonkeyPatch, place: str):
    owner, name = PLACES[place](tiny_sam2_model)
    relief = Relief(monkeypatch, enough=99)
    monkeypatch.setattr(owner, name, Crowded(getattr(owner, name), relief.fits))
    says = (
        r"memory on cpu to track a single object.*image_size \(it is 64\), a smaller model \(it is sam2.1_hiera_tiny\)"
    )
    with pytest.raises(EngineError, match=says) as caught:
        found(tiny_sam2_model, batch_size=4)
    assert isinstance(caught.value.__cause__, torch.OutOfMemoryError)
    assert relief.windows[-1] == 1
    assert not feeding_threads()


def test_an_encoder_without_memory_says_so(tiny_sam2_model: Sam2Model, monkeypatch: pytest.MonkeyPatch):
    def full(*_: Any) -> Any:
        raise RuntimeError("MPS backend out of memory (MPS allocated: 9.06 GB)")

    monkeypatch.setattr(tiny_sam2_model.network, "forward_image", full)
    with pytest.raises(EngineError, match="features of one frame"):
        found(tiny_sam2_model)
    assert not feeding_threads()


def test_other_failures_are_not_mended(tiny_sam2_model: Sam2Model, monkeypatch: pytest.MonkeyPatch):
    relief = Relief(monkeypatch, enough=0)

    def broken(*_: Any) -> Any:
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")

    monkeypatch.setattr(tiny_sam2_model, "attend", broken)
    with pytest.raises(RuntimeError, match="mat1 and mat2"):
        found(tiny_sam2_model)
    assert relief.times == 0
    assert not feeding_threads()


@pytest.mark.parametrize("nth", [1, 7, 14], ids=["at once", "on the way back", "on the way forward"])
def test_an_interrupt_ends_the_work_within_the_frame(
    tiny_sam2_model: Sam2Model, monkeypatch: pytest.MonkeyPatch, nth: int
):
    attend, calls = tiny_sam2_model.attend, []

    def interrupted(*args: Any) -> Any:
        calls.append(len(calls))
        if len(calls) == nth:
            raise KeyboardInterrupt
        return attend(*args)

    monkeypatch.setattr(tiny_sam2_model, "attend", interrupted)
    with pytest.raises(KeyboardInterrupt):
        found(tiny_sam2_model)
    assert len(calls) == nth
    assert not feeding_threads()


# --- options ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"dtype": "int8"}, "dtype must be one of auto, float32, bfloat16, float16, got 'int8'"),
        ({"semantics": "exact"}, "semantics must be one of exemplars, official, got 'exact'"),
        ({"overlaps": "no"}, "overlaps must be one of resolve, keep, got 'no'"),
        ({"device": "gpu"}, "device must be one of auto, cuda, mps, cpu or like 'cuda:1', got 'gpu'"),
        ({"device": ""}, "device must be one of"),
        ({"device": None}, "device must be one of .* got None"),
        ({"device": "cuda:x"}, "device must be one of .* got 'cuda:x'"),
        ({"device": "cuda:"}, "device must be one of .* got 'cuda:'"),
        ({"image_size": 1000}, "image_size must be a multiple of 32 from 64, got 1000.*448, 672, 896"),
        ({"image_size": 32}, "image_size must be a multiple of 32 from 64, got 32"),
        ({"image_size": -1024}, "image_size must be"),
        ({"image_size": 1024.0}, "image_size must be .* got 1024.0"),
        ({"image_size": "1024"}, "image_size must be .* got '1024'"),
        ({"max_exemplars": 1}, "max_exemplars must be at least 2 .* or None for all, got 1"),
        ({"max_exemplars": 2.5}, "max_exemplars must be"),
        ({"window": 1}, "window must be a number of frames from 2, got 1"),
        ({"window": True}, "window must be .* got True"),
        ({"batch_size": 0}, "batch_size must be a number of objects from 1, got 0"),
        ({"disk_gib": -0.1}, "disk_gib must be a number from 0, got -0.1"),
        ({"disk_gib": math.nan}, "disk_gib must be .* got nan"),
        ({"disk_gib": math.inf}, "disk_gib must be .* got inf"),
        ({"disk_gib": "8"}, "disk_gib must be .* got '8'"),
        ({"fill_holes": -1}, "fill_holes must be a number of pixels from 0, got -1"),
        ({"fill_holes": 1.5}, "fill_holes must be"),
        ({"min_confidence": 1.0}, r"min_confidence must lie in \[0, 1\), got 1.0"),
        ({"min_confidence": -0.1}, "min_confidence must lie"),
        ({"min_confidence": math.nan}, "min_confidence must lie .* got nan"),
        ({"min_confidence": "0.5"}, "min_confidence must lie .* got '0.5'"),
    ],
    ids=lambda value: next(f"{k}={v!r}" for k, v in value.items()) if isinstance(value, dict) else "",
)
def test_options_out_of_range_are_refused(options: dict[str, Any], says: str):
    with pytest.raises(ConfigurationError, match=says):
        Sam2Options(**options)


def test_options_at_the_edge_of_their_range_are_taken():
    Sam2Options(image_size=64, window=2, max_exemplars=2, batch_size=1, disk_gib=0, fill_holes=0, min_confidence=0)
    Sam2Options(max_exemplars=None, batch_size=None, disk_gib=None, device="cuda:11", min_confidence=0.999)


def test_options_that_do_not_exist_are_refused_by_name():
    with pytest.raises(ConfigurationError, match=r"'sam2' has no option 'imagesize'; 'image_size'"):
        get_propagator("sam2", imagesize=512)


@pytest.mark.skipif(torch.cuda.is_available(), reason="There is a GPU here.")
def test_a_device_that_is_not_there_is_said():
    with pytest.raises(ConfigurationError, match="no device 'cuda:1'; it has cpu"):
        pick_device("cuda:1")
