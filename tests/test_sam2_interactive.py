"""Clicks on single frames: what the official predictor answers, without encoding a frame twice."""

from __future__ import annotations

import copy
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
import torch
from fixtures_sam2 import SMALL, CountingFrames, noise_frames, official_state

from labelprop_cvat.errors import ConfigurationError, DataError, EngineError
from labelprop_cvat.propagation.frames import ArraySource, Image
from labelprop_cvat.propagation.sam2._tracker import Tracker
from labelprop_cvat.propagation.sam2.engine import Sam2Propagator
from labelprop_cvat.propagation.sam2.interactive import ClickAnswer, ClickSession
from labelprop_cvat.propagation.sam2.model import Sam2Model
from labelprop_cvat.propagation.sam2.options import Sam2Options
from labelprop_cvat.propagation.types import ObjectMask, Prompt, PromptKind, Segment

# The official predictor tells that its CUDA extension, which fills small holes, is not built.
pytestmark = pytest.mark.filterwarnings("ignore:cannot import name '_C'")

SIZE = (96, 120)
EQUAL = 5e-5
DISK = ObjectMask.from_full(np.hypot(*np.ogrid[-40:56, -50:70]) < 25)
assert DISK is not None

Step = tuple[str, Any]
STORIES: dict[str, list[Step]] = {
    "one click": [("click", (40.5, 30, True))],
    "a negative click": [("click", (70, 60, False))],
    "three clicks": [("click", (40, 30, True)), ("click", (80.25, 64, True)), ("click", (10, 90, False))],
    "a box": [("box", (20, 10, 90.5, 70))],
    "a box and two clicks": [("box", (20, 10, 90, 70)), ("click", (50, 40, False)), ("click", (60, 20, True))],
    "a mask": [("mask", DISK)],
    "a mask and a click": [("mask", DISK), ("click", (100, 50, True))],
    "a mask and two clicks": [("mask", DISK), ("click", (100, 50, True)), ("click", (50, 40, False))],
}
FRAMES = noise_frames(4, SIZE)
ACTS: dict[str, Callable[..., ClickAnswer]] = {
    "click": lambda session, frame, object_id, click: session.click(frame, object_id, *click),
    "box": ClickSession.draw_box,
    "mask": ClickSession.draw_mask,
    "choose": ClickSession.choose,
}


class Official:
    """The official predictor, clicked on as its examples do."""

    def __init__(self, predictor: Any, model: Sam2Model) -> None:
        self._predictor = predictor
        self._state = official_state(predictor, model, FRAMES)
        self._clicked: set[tuple[int, int]] = set()

    def act(self, frame: int, object_id: int, step: Step) -> tuple[torch.Tensor, torch.Tensor]:
        """``(logits of the model, logits at the frame's size)`` after one step; clicks add to what was there."""
        kind, what = step
        if kind == "mask":
            self._predictor.add_new_mask(self._state, frame, object_id, what.to_full(SIZE))
        elif kind == "box":
            return self.ask(frame, object_id, box=what)
        else:
            x, y, positive = what
            return self.ask(frame, object_id, [(x, y)], [int(positive)], clear_old_points=False)
        return self._answer(frame, object_id)

    def ask(self, frame: int, object_id: int, points: Any = None, labels: Any = None, **how: Any) -> Any:
        if points is not None:
            points, labels = np.array(points, np.float32), np.array(labels, np.int32)
        if how.get("box") is not None:
            how["box"] = np.array(how["box"], np.float32)
        self._predictor.add_new_points_or_box(self._state, frame, object_id, points, labels, **how)
        return self._answer(frame, object_id)

    def _answer(self, frame: int, object_id: int) -> tuple[torch.Tensor, torch.Tensor]:
        place = self._state["obj_id_to_idx"][object_id]
        low_res = self._state["temp_output_dict_per_obj"][place]["cond_frame_outputs"][frame]["pred_masks"]
        whole = torch.nn.functional.interpolate(low_res, size=SIZE, mode="bilinear", align_corners=False)
        return low_res[0, 0], whole[0, 0]


@pytest.fixture
def official(small_official_predictor: Any, small_sam2_model: Sam2Model) -> Official:
    return Official(small_official_predictor, small_sam2_model)


def engine(model: Sam2Model, **options: Any) -> Sam2Propagator:
    return Sam2Propagator(
        Sam2Options(image_size=SMALL, **{"fill_holes": 0, "overlaps": "keep", **options}), model=model
    )


@pytest.fixture
def session(small_sam2_model: Sam2Model) -> Iterator[ClickSession]:
    with ClickSession(engine(small_sam2_model), FRAMES) as opened:
        yield opened


def play(session: ClickSession, frame: int, object_id: int, steps: Sequence[Step]) -> list[ClickAnswer]:
    return [ACTS[kind](session, frame, object_id, what) for kind, what in steps]


def equal(answer: ClickAnswer, expected: tuple[torch.Tensor, torch.Tensor]) -> None:
    low_res, whole = expected
    assert np.abs(answer.low_res - low_res.numpy()).max() <= EQUAL
    shown = np.zeros(SIZE, bool) if answer.mask is None else answer.mask.to_full(SIZE)
    unsure = whole.abs().numpy() <= EQUAL
    assert np.array_equal(shown | unsure, (whole > 0).numpy() | unsure)


def same(one: ClickAnswer | None, other: ClickAnswer | None) -> bool:
    assert one is not None
    assert other is not None
    return one.mask == other.mask and np.array_equal(one.low_res, other.low_res) and one.confidence == other.confidence


# --- what is answered ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("story", [name for name in STORIES if name != "a mask"])
def test_every_step_is_what_the_official_predictor_answers(session: ClickSession, official: Official, story: str):
    last = None
    for step in STORIES[story]:
        (answer,) = play(session, 1, 3, [step])
        expected = official.act(1, 3, step)
        if step[0] == "mask":
            # Its logits are the official ones; the answer stays as it was drawn.
            assert np.abs(answer.low_res - expected[0].numpy()).max() <= EQUAL
            assert (answer.mask, answer.confidence) == (DISK, 1.0)
        else:
            equal(answer, expected)
        assert answer.mask is not None
        assert last is None or np.abs(answer.low_res - last).max() > 0.01, "the step changed nothing"
        last = answer.low_res


def test_objects_and_frames_do_not_disturb_each_other(session: ClickSession, official: Official):
    stories = {
        (0, 1): "three clicks",
        (0, 2): "a mask and a click",
        (2, 1): "a box and two clicks",
        (2, 2): "one click",
    }
    for number in range(3):
        for (frame, object_id), story in stories.items():
            for step in STORIES[story][number : number + 1]:
                (answer,) = play(session, frame, object_id, [step])
                expected = official.act(frame, object_id, step)
                if step[0] != "mask":
                    equal(answer, expected)


def test_a_question_holds_all_of_its_clicks(session: ClickSession, official: Official):
    points, labels, box = [(40, 30), (80, 64), (10, 90)], [1, 1, 0], (20, 10, 90, 70)
    equal(session.predict(1, points=points, labels=labels), official.ask(1, 1, points, labels))
    equal(session.predict(1, points=points), official.ask(1, 2, points, [1, 1, 1]))
    equal(session.predict(1, points=points, labels=labels, box=box), official.ask(1, 3, points, labels, box=box))
    equal(session.predict(1, box=box), official.ask(1, 4, box=box))


def test_a_question_refines_an_answer_or_a_mask(session: ClickSession, official: Official):
    first = session.predict(1, points=[(40, 30)])
    official.ask(1, 1, [(40, 30)], [1])
    more = session.predict(1, points=np.array([[40, 30], [80, 64]]), labels=np.array([1, 0]), refine=first)
    equal(more, official.ask(1, 1, [(80, 64)], [0], clear_old_points=False))
    equal(session.predict(1, box=(20, 10, 90, 70), refine=more), official.ask(1, 1, box=(20, 10, 90, 70)))
    official.act(1, 2, ("mask", DISK))
    equal(session.predict(1, mask=DISK, points=[(100, 50)]), official.ask(1, 2, [(100, 50)], [1]))
    assert session.predict(1, mask=DISK).mask == DISK
    assert session.prompts() == []


def test_one_click_has_several_meanings_and_the_surest_is_the_answer(session: ClickSession):
    answer = session.predict(1, points=[(40, 30)])
    assert len(answer.candidates) == 3
    sureness = [candidate.confidence for candidate in answer.candidates]
    assert sureness == sorted(sureness, reverse=True)
    assert len(set(sureness)) == 3
    assert all(0.0 < sure < 1.0 for sure in sureness)
    assert answer.mask == answer.candidates[0].mask
    assert len({candidate.mask for candidate in answer.candidates}) == 3
    assert len(session.predict(1, points=[(40, 30), (80, 64)]).candidates) == 1
    assert len(session.predict(1, box=(20, 10, 90, 70)).candidates) == 1


def test_further_clicks_refine_the_meaning_that_was_chosen(session: ClickSession):
    first = session.click(1, 1, 40, 30)
    chosen = session.choose(1, 1, 2)
    assert chosen.mask == first.candidates[2].mask
    refined = session.click(1, 1, 80, 64, positive=False)
    asked = session.predict(1, points=[(40, 30), (80, 64)], labels=[1, 0], refine=first.choosing(2))
    assert same(refined, asked)
    assert not same(refined, session.predict(1, points=[(40, 30), (80, 64)], labels=[1, 0], refine=first))


def test_masks_have_the_size_of_their_own_frame(small_sam2_model: Sam2Model):
    pictures = [noise_frames(1, size)[0] for size in ((40, 300), (SMALL, SMALL), (333, 50))]

    class Pictures(CountingFrames):
        def __getitem__(self, index: int) -> Image:
            return pictures[index]

        def __len__(self) -> int:
            return len(pictures)

    session = ClickSession(small_sam2_model, Pictures(FRAMES))
    for frame, picture in enumerate(pictures):
        height, width = picture.shape[:2]
        answer = session.click(frame, 1, width, height)
        alone = ClickSession(small_sam2_model, ArraySource([picture])).predict(0, points=[(width, height)])
        assert same(answer, alone)
        x1, y1, x2, y2 = answer.mask.box
        assert x2 <= width
        assert y2 <= height
        assert x2 - x1 > width / 2 or y2 - y1 > height / 2


def test_small_holes_are_filled_as_the_engine_fills_them(small_sam2_model: Sam2Model):
    whole = ClickSession(engine(small_sam2_model, fill_holes=200), FRAMES).predict(1, points=[(40, 30)])
    holed = ClickSession(engine(small_sam2_model), FRAMES).predict(1, points=[(40, 30)])
    assert whole.mask.area > holed.mask.area
    assert np.array_equal(whole.low_res, holed.low_res)


def test_what_the_model_does_not_see_has_no_mask(small_sam2_model: Sam2Model):
    network = copy.deepcopy(small_sam2_model.network)
    with torch.no_grad():
        network.sam_mask_decoder.pred_obj_score_head.layers[2].bias -= 1000
    session = ClickSession(Sam2Model(network, small_sam2_model.info), FRAMES)
    answer = session.click(1, 1, 40, 30)
    assert (answer.mask, answer.confidence) == (None, 0.0)
    assert session.click(1, 1, 50, 30).mask is None
    session.draw_mask(1, 2, DISK)
    assert [prompt.object_id for prompt in session.prompts()] == [2]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_half_precision_answers_nearly_the_same(session: ClickSession, small_sam2_model: Sam2Model, dtype: torch.dtype):
    halved = Sam2Model(small_sam2_model.network, small_sam2_model.info, dtype)
    with ClickSession(engine(halved), FRAMES) as other:
        for number, name in enumerate(("one click", "a negative click", "a mask and a click"), start=1):
            answers, nearly = (play(one, 1, number, STORIES[name]) for one in (session, other))
            for answer, near in zip(answers, nearly, strict=True):
                assert near.low_res.dtype == np.float32
                # Which of several meanings is the surest may well be another one.
                assert max(overlap(answer.mask, candidate.mask) for candidate in near.candidates) > 0.9


def overlap(one: ObjectMask | None, other: ObjectMask | None) -> float:
    assert one is not None
    assert other is not None
    first, second = one.to_full(SIZE), other.to_full(SIZE)
    return float((first & second).sum() / (first | second).sum())


# --- frames ----------------------------------------------------------------------------------------------------------


def test_each_frame_is_read_and_encoded_once(small_sam2_model: Sam2Model):
    frames = CountingFrames(FRAMES)
    session = ClickSession(small_sam2_model, frames)
    session.prepare(2)
    assert session.encoded == 1
    for frame in (2, 0, 2, 0):
        session.click(frame, 1, 40, 30)
        session.predict(frame, box=(20, 10, 90, 70))
        session.draw_mask(frame, 2, DISK)
        session.answer(frame, 1)
    assert session.encoded == 2
    assert frames.read_indices == [2, 0]


def test_frames_used_last_are_kept(small_sam2_model: Sam2Model):
    frames = CountingFrames(FRAMES)
    session = ClickSession(small_sam2_model, frames, cached_frames=2)
    for frame in (0, 1, 0, 2, 0, 1):
        session.predict(frame, points=[(40, 30)])
    assert frames.read_indices == [0, 1, 2, 1]


def test_clicks_outlive_their_frames_features(tiny_sam2_model: Sam2Model):
    kept = ClickSession(tiny_sam2_model, FRAMES)
    short = ClickSession(tiny_sam2_model, FRAMES, cached_frames=1)
    story = [*STORIES["a mask and two clicks"], ("box", (20, 10, 90, 70)), *STORIES["three clicks"]]
    expected = play(kept, 1, 1, story)
    for number, step in enumerate(story):
        (answer,) = play(short, 1, 1, [step])
        assert same(answer, expected[number])
        short.prepare(0)
    assert short.prompts() == kept.prompts()
    for before in (*reversed(expected[:-1]), None):
        short.prepare(0)
        undone = short.undo(1, 1)
        assert undone is before is None or same(undone, before)


def test_what_a_source_raises_reaches_the_caller_and_changes_nothing(small_sam2_model: Sam2Model):
    class Broken(CountingFrames):
        def __getitem__(self, index: int) -> Image:
            if index == 1:
                raise DataError("Frame 1 is broken.")
            return super().__getitem__(index)

    session = ClickSession(small_sam2_model, Broken(FRAMES))
    for _ in range(2):
        with pytest.raises(DataError, match="Frame 1 is broken"):
            session.click(1, 1, 40, 30)
    assert session.prompts() == []
    assert session.click(0, 1, 40, 30).mask is not None


# --- taking back -----------------------------------------------------------------------------------------------------


def test_undo_goes_back_step_by_step(session: ClickSession):
    story = [
        ("click", (40, 30, True)),
        ("choose", 1),
        ("click", (80, 64, False)),
        ("mask", DISK),
        ("box", (9, 9, 80, 70)),
    ]
    answers = play(session, 1, 1, story)
    session.click(1, 2, 20, 20)
    for before in reversed(answers[:-1]):
        assert same(session.undo(1, 1), before)
        assert same(session.answer(1, 1), before)
    assert session.undo(1, 1) is None
    assert session.undo(1, 1) is None
    assert session.answer(1, 1) is None
    assert [prompt.object_id for prompt in session.prompts()] == [2]
    assert same(session.click(1, 1, 40, 30), answers[0])


def test_a_box_or_a_mask_begins_anew(session: ClickSession):
    session.click(1, 1, 100, 80)
    session.click(1, 1, 10, 80)
    assert same(session.draw_box(1, 1, (20, 10, 90, 70)), session.predict(1, box=(20, 10, 90, 70)))
    session.draw_mask(1, 1, DISK)
    assert same(session.click(1, 1, 100, 50), session.predict(1, mask=DISK, points=[(100, 50)]))


@pytest.mark.parametrize(
    ("what", "left"),
    [
        ({}, []),
        ({"frame": 0}, [(1, 1), (1, 2)]),
        ({"object_id": 2}, [(0, 1), (1, 1)]),
        ({"frame": 1, "object_id": 1}, [(0, 1), (0, 2), (1, 2)]),
        ({"frame": 3}, [(0, 1), (0, 2), (1, 1), (1, 2)]),
    ],
)
def test_reset_forgets_what_it_is_asked_to(session: ClickSession, what: dict[str, int], left: list[tuple[int, int]]):
    first = {(frame, number): session.click(frame, number, 40, 30) for frame in (0, 1) for number in (1, 2)}
    session.reset(**what)
    assert [(prompt.frame, prompt.object_id) for prompt in session.prompts()] == left
    for (frame, number), answer in first.items():
        if (frame, number) not in left:
            assert same(session.click(frame, number, 80, 64), session.predict(frame, points=[(80, 64)]))
        else:
            assert same(session.answer(frame, number), answer)
    assert session.encoded == 2


def test_closing_forgets_frames_and_clicks(small_sam2_model: Sam2Model):
    with ClickSession(small_sam2_model, FRAMES) as session:
        session.click(0, 1, 40, 30)
    assert session.prompts() == []
    session.prepare(0)
    assert session.encoded == 2


# --- what is propagated ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("story", "kind", "points"),
    [
        ("one click", PromptKind.POINTS, 1),
        ("a negative click", PromptKind.POINTS, 1),
        ("three clicks", PromptKind.MASK, 0),
        ("a box", PromptKind.BOX, 0),
        ("a box and two clicks", PromptKind.MASK, 0),
        ("a mask", PromptKind.MASK, 0),
        ("a mask and a click", PromptKind.MASK, 1),
        ("a mask and two clicks", PromptKind.MASK, 0),
    ],
)
@pytest.mark.parametrize("options", [{"fill_holes": 0}, {"fill_holes": 8, "overlaps": "resolve"}])
def test_what_was_shown_is_what_is_propagated(
    small_sam2_model: Sam2Model, story: str, kind: PromptKind, points: int, options: dict[str, Any]
):
    propagator = engine(small_sam2_model, masks_from_boxes=True, **options)
    session = ClickSession(propagator, FRAMES)
    *_, shown = play(session, 1, 5, STORIES[story])
    (prompt,) = session.prompts()
    assert (prompt.frame, prompt.object_id, prompt.kind, len(prompt.points or ())) == (1, 5, kind, points)
    answers = list(propagator.propagate(FRAMES, [prompt], Segment(0, 3)))
    assert answers[1].objects[5].mask == shown.mask
    assert 5 in answers[0].objects
    assert 5 in answers[2].objects


@pytest.mark.parametrize("story", ["one click", "a negative click", "a box", "a mask and a click"])
def test_the_exemplar_of_clicks_is_what_the_session_saw(small_sam2_model: Sam2Model, story: str):
    session = ClickSession(engine(small_sam2_model, masks_from_boxes=True), FRAMES)
    *_, shown = play(session, 1, 5, STORIES[story])
    features = small_sam2_model.encode(small_sam2_model.prepare(FRAMES[1]))
    tracker = Tracker(small_sam2_model, len(FRAMES), exemplars=4, batch_size=1)
    exemplar = tracker.exemplar(features, session.prompts()[0], SIZE)
    assert exemplar is not None
    assert np.array_equal(exemplar.prediction.logits, shown.low_res)


def test_all_clicks_at_once_would_be_another_mask(small_sam2_model: Sam2Model):
    """Why several clicks are handed over as the mask that they led to."""
    session = ClickSession(engine(small_sam2_model), FRAMES)
    *_, shown = play(session, 1, 5, STORIES["three clicks"])
    clicks = [what for _, what in STORIES["three clicks"]]
    together = session.predict(1, points=[click[:2] for click in clicks], labels=[int(click[2]) for click in clicks])
    assert together.mask != shown.mask


def test_a_box_is_a_mask_to_an_engine_that_would_answer_boxes(session: ClickSession):
    shown = session.draw_box(1, 1, (20, 10, 90, 70))
    assert session.prompts() == [Prompt(1, 1, mask=shown.mask)]


# --- several threads -------------------------------------------------------------------------------------------------


def test_threads_share_a_session(small_sam2_model: Sam2Model):
    frames = CountingFrames(FRAMES)
    session = ClickSession(small_sam2_model, frames)
    alone = ClickSession(small_sam2_model, FRAMES)
    stories = {(frame, number): name for frame in (0, 1) for number, name in enumerate(STORIES, start=1)}
    expected = {key: play(alone, *key, STORIES[name]) for key, name in stories.items()}
    together = threading.Barrier(len(stories))

    def clicking(key: tuple[int, int]) -> list[ClickAnswer]:
        together.wait()
        return play(session, *key, STORIES[stories[key]])

    with ThreadPoolExecutor(len(stories)) as threads:
        found = dict(zip(stories, threads.map(clicking, stories), strict=True))
    assert all(same(a, b) for key in stories for a, b in zip(found[key], expected[key], strict=True))
    assert session.prompts() == alone.prompts()
    assert sorted(frames.read_indices) == [0, 1]


def test_clicks_are_answered_while_another_frame_is_on_its_way(small_sam2_model: Sam2Model):
    asked, go = threading.Event(), threading.Event()

    class Slow(CountingFrames):
        def __getitem__(self, index: int) -> Image:
            if index == 1:
                asked.set()
                assert go.wait(20)
            return super().__getitem__(index)

    session = ClickSession(small_sam2_model, Slow(FRAMES))
    session.prepare(0)
    with ThreadPoolExecutor(2) as threads:
        coming = threads.submit(session.click, 1, 1, 40, 30)
        assert asked.wait(20)
        try:
            here = threads.submit(session.click, 0, 1, 40, 30).result(timeout=20)
        finally:
            go.set()
        assert here.mask is not None
        assert coming.result(timeout=20).mask is not None


# --- memory ----------------------------------------------------------------------------------------------------------


def test_where_memory_is_short_other_frames_go(small_sam2_model: Sam2Model, monkeypatch: pytest.MonkeyPatch):
    session = ClickSession(small_sam2_model, FRAMES)
    for frame in (0, 1, 2):
        session.click(frame, 1, 40, 30)
    encode = small_sam2_model.encode

    def crowded(prepared: torch.Tensor) -> Any:
        if len(session._seen) > 1:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return encode(prepared)

    monkeypatch.setattr(small_sam2_model, "encode", crowded)
    assert session.click(3, 1, 40, 30).mask is not None
    assert len(session.prompts()) == 4
    session.click(0, 1, 50, 30)
    assert list(session._seen) == [0]


def test_where_not_even_one_frame_fits_it_is_said(small_sam2_model: Sam2Model, monkeypatch: pytest.MonkeyPatch):
    session = ClickSession(small_sam2_model, FRAMES)
    before = session.click(1, 1, 40, 30)
    session.prepare(0)

    def full(*_: Any, **__: Any) -> Any:
        raise torch.OutOfMemoryError("CUDA out of memory.")

    with monkeypatch.context() as patch:
        patch.setattr(small_sam2_model.network.sam_mask_decoder, "forward", full)
        with pytest.raises(EngineError, match=r"smaller image_size \(it is 128\)"):
            session.click(1, 1, 50, 30)
        patch.setattr(small_sam2_model, "encode", full)
        with pytest.raises(EngineError, match="not enough memory on cpu"):
            session.prepare(2)
    assert same(session.answer(1, 1), before)


def test_other_failures_are_not_taken_for_short_memory(small_sam2_model: Sam2Model, monkeypatch: pytest.MonkeyPatch):
    session = ClickSession(small_sam2_model, FRAMES)

    def broken(*_: Any) -> Any:
        raise RuntimeError("shapes do not match")

    monkeypatch.setattr(small_sam2_model, "encode", broken)
    with pytest.raises(RuntimeError, match="shapes do not match"):
        session.prepare(0)


# --- misuse ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda s: s.prepare(4), r"numbered 0\.\.3, got 4"),
        (lambda s: s.predict(-1, points=[(1, 1)]), r"numbered 0\.\.3, got -1"),
        (lambda s: s.predict(0), "nothing to answer"),
        (lambda s: s.predict(0, refine=s.predict(0, points=[(1, 1)])), "nothing to answer"),
        (lambda s: s.predict(0, labels=[1]), "Labels belong to points"),
        (lambda s: s.predict(0, points=[]), "0 points"),
        (lambda s: s.predict(0, points=[(1, 1)], labels=[1, 0]), "one label of 0 or 1 each"),
        (lambda s: s.predict(0, points=[(1, 1)], labels=[2]), "one label of 0 or 1 each"),
        (lambda s: s.predict(0, points=[(1, 1), (1, 96.5)]), r"click at \(1, 96.5\) .* 120 pixels wide and 96 high"),
        (lambda s: s.predict(0, points=[(float("nan"), 1)]), "click at"),
        (lambda s: s.predict(0, box=(5, 5, 5, 9)), "x2 > x1"),
        (lambda s: s.predict(0, box=(120, 5, 130, 9)), r"box at \(120, 5, 130, 9\) lies outside"),
        (lambda s: s.predict(0, mask=np.ones(SIZE, bool)), r"got ndarray\. ObjectMask\.from_full"),
        (lambda s: s.predict(0, mask=ObjectMask(130, 0, np.ones((1, 1), bool))), "mask at .* lies outside"),
        (lambda s: s.predict(0, mask=DISK, points=[(1, 1)], refine=s.predict(0, mask=DISK)), "not both"),
        (lambda s: s.click(0, 1, -0.5, 3), r"click at \(-0.5, 3\)"),
        (lambda s: s.click(0, 0, 1, 1), "object id counts from 1, got 0"),
        (lambda s: s.draw_box(0, 1, (5, 9, 6, 5)), "y2 > y1"),
        (lambda s: s.draw_box(0, 1, (-9, -9, 0, 5)), "box at .* lies outside"),
        (lambda s: s.draw_mask(0, 1, np.ones(SIZE, bool)), "got ndarray"),
        (lambda s: s.draw_mask(0, -1, DISK), "object id counts from 1"),
        (lambda s: s.choose(0, 1, 0), "Object 1 was not clicked on frame 0"),
        (lambda s: (s.click(0, 1, 40, 30), s.choose(0, 1, 3)), r"numbered 0\.\.2, got 3"),
        (lambda s: (s.draw_mask(0, 1, DISK), s.choose(0, 1, -1)), r"numbered 0\.\.0, got -1"),
    ],
)
def test_misuse_is_refused_with_what_was_expected(session: ClickSession, call: Callable[..., Any], says: str):
    with pytest.raises(DataError, match=says):
        call(session)


def test_a_refused_step_leaves_the_object_as_it_was(session: ClickSession):
    before = session.click(0, 1, 40, 30)
    for call in (lambda: session.choose(0, 1, 7), lambda: session.click(0, 1, 500, 30)):
        with pytest.raises(DataError):
            call()
    assert same(session.answer(0, 1), before)
    assert same(session.click(0, 1, 80, 64), session.predict(0, points=[(40, 30), (80, 64)], refine=before))


def test_an_answer_of_another_image_size_is_refused(session: ClickSession, tiny_sam2_model: Sam2Model):
    other = ClickSession(tiny_sam2_model, FRAMES).predict(0, points=[(40, 30)])
    with pytest.raises(DataError, match=r"shape \(32, 32\), got \(16, 16\)"):
        session.predict(0, points=[(40, 30)], refine=other)


def test_at_least_one_frame_is_kept(small_sam2_model: Sam2Model):
    with pytest.raises(ConfigurationError, match="cached_frames must be a number of frames from 1, got 0"):
        ClickSession(small_sam2_model, FRAMES, cached_frames=0)
