"""The order of work of the engine ``sam2``: what is remembered, who is followed when, and from which exemplars."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from fixtures_sam2_fakes import FakeModel, NumberedFrames, feeding_threads
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from labelprop_cvat.propagation._spool import Spool
from labelprop_cvat.propagation.sam2 import _passes
from labelprop_cvat.propagation.sam2._features import FeatureFeeder
from labelprop_cvat.propagation.sam2._memory import Memory, MemoryRules, Pass, closest
from labelprop_cvat.propagation.sam2._passes import ExemplarPasses, OfficialPasses, pack, unpack
from labelprop_cvat.propagation.sam2._tracker import NO_OBJECT, Exemplar, Prediction
from labelprop_cvat.propagation.sam2.model import FrameFeatures
from labelprop_cvat.propagation.sam2.options import Sam2Options
from labelprop_cvat.propagation.types import ObjectMask, Prompt, Segment

STEADY = settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def numbered(frame: int) -> Memory:
    """A memory that says which frame it is of."""
    return Memory(torch.tensor([[frame]]), torch.tensor([frame]))


# --- memories --------------------------------------------------------------------------------------------------------


def attended_by_the_book(
    frame: int, direction: int, exemplars: Sequence[int], tracked: set[int], rules: MemoryRules
) -> tuple[list[tuple[int, int]], list[tuple[int, int]]]:
    """What the published rules attend to, of everything that was ever tracked: ``(t_pos, frame)`` of maps and
    ``(distance, frame)`` of pointers."""
    chosen = list(exemplars)
    if rules.exemplars is not None and len(chosen) > rules.exemplars:
        chosen = []
        left = [at for at in exemplars if at < frame]
        right = [at for at in exemplars if at >= frame]
        chosen = [*left[-1:], *right[:1]]
        for at in sorted(set(exemplars) - set(chosen), key=lambda at: (abs(at - frame), at)):
            if len(chosen) < rules.exemplars:
                chosen.append(at)
    ordinary = set(tracked)
    if rules.spare_exemplars:
        ordinary |= set(exemplars) - set(chosen)
    past = [frame - direction]
    on_grid = [at for at in range(-100, 200) if at % rules.stride == 0 and (frame - at) * direction >= 2]
    past += sorted(on_grid, key=lambda at: -at * direction)[: rules.maps - 2]
    maps = [(0, at) for at in chosen]
    maps += [(rules.maps - 1 - age, at) for age, at in enumerate(past) if at in ordinary][::-1]
    pointers = [
        ((frame - at) * direction if rules.signed else abs(frame - at), at)
        for at in chosen
        if not rules.past_only or (frame - at) * direction >= 0
    ]
    pointers += [
        (age, frame - age * direction) for age in range(1, rules.pointers) if frame - age * direction in ordinary
    ]
    return maps, pointers if rules.pointers else []


@STEADY
@given(
    exemplars=st.lists(st.integers(0, 40), min_size=1, max_size=9, unique=True).map(sorted),
    start=st.integers(0, 40),
    length=st.integers(1, 30),
    direction=st.sampled_from([1, -1]),
    rules=st.builds(
        MemoryRules,
        maps=st.sampled_from([2, 3, 7]),
        pointers=st.sampled_from([0, 1, 4, 16]),
        stride=st.sampled_from([1, 2, 3]),
        past_only=st.booleans(),
        signed=st.booleans(),
        exemplars=st.sampled_from([None, 2, 3, 4]),
        spare_exemplars=st.booleans(),
    ),
)
def test_a_frame_attends_to_what_the_rules_say_whatever_was_forgotten(
    exemplars: list[int], start: int, length: int, direction: int, rules: MemoryRules
):
    one = Pass(1, direction, {at: numbered(at) for at in exemplars})
    tracked: set[int] = set()
    for frame in range(start, start + length * direction, direction):
        found = one.attended(frame, rules)
        maps, pointers = attended_by_the_book(frame, direction, exemplars, tracked, rules)
        of_exemplars = [at for t_pos, at in maps if t_pos == 0]
        assert sorted((t, int(m)) for t, m in found.maps if t == 0) == sorted((0, at) for at in of_exemplars)
        assert [(t, int(m)) for t, m in found.maps if t] == [(t, at) for t, at in maps if t]
        count = len(pointers) - sum(frame - age * direction == at and at not in of_exemplars for age, at in pointers)
        assert sorted((d, int(p)) for d, p in found.pointers[:count]) == sorted(pointers[:count])
        assert [(d, int(p)) for d, p in found.pointers[count:]] == pointers[count:]
        assert found.exemplars == tuple(sorted(of_exemplars))
        if frame not in exemplars:
            one.remember(frame, numbered(frame), rules)
            tracked.add(frame)
        assert len(one.recent) <= rules.reach
        assert sum(memory.maps is not None for memory in one.recent.values()) <= rules.map_reach


def test_of_many_exemplars_the_ones_around_a_frame_are_taken_first():
    exemplars = [0, 1, 2, 3, 40]
    assert sorted(closest(4, exemplars, 2)) == [3, 40]
    assert sorted(closest(4, exemplars, 3)) == [2, 3, 40]
    assert sorted(closest(40, exemplars, 2)) == [3, 40]
    assert sorted(closest(41, exemplars, 2)) == [3, 40]
    assert sorted(closest(41, exemplars, None)) == exemplars


# --- passes ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Followed:
    """One object on one frame, as the tracker was asked to find it.

    Args:
        exemplars: the exemplars that it attended to
        remembered: frames of its pass that it knew
    """

    object_id: int
    frame: int
    direction: int
    exemplars: tuple[int, ...]
    remembered: frozenset[int]


def logit_of(frame: int, direction: int) -> int:
    """What the tracker that is no tracker answers on a frame."""
    return frame if direction > 0 else 100 + frame


class Recorder:
    """What happened while passes ran: stands for the tracker, and is told of feeders and files."""

    def __init__(self) -> None:
        self.made: Counter[tuple[int, int]] = Counter()
        self.followed: list[Followed] = []
        self.taken = 0
        self.feeders: list[FeatureFeeder] = []
        self.spools: list[Spool] = []

    def tracker(
        self,
        model: FakeModel,
        frame_count: int,
        *,
        exemplars: int | None,
        spare_exemplars: bool,
        batch_size: int,
        relieve: Any,
    ) -> Recorder:
        self.rules = MemoryRules(4, min(frame_count, 6), 1, True, True, exemplars, spare_exemplars)
        return self

    def exemplar(self, features: FrameFeatures, prompt: Prompt, size: tuple[int, int], keep_thin: bool) -> Exemplar:
        assert (features.top == prompt.frame).all()
        self.made[prompt.object_id, prompt.frame] += 1
        prediction = Prediction(np.ones((4, 4), np.float32), 1.0, 10.0)
        return Exemplar(numbered(prompt.frame), prediction)

    def step(self, frame: int, features: FrameFeatures, passes: Sequence[Pass]) -> list[Prediction]:
        assert (features.top == frame).all()
        found = []
        for one in passes:
            attended = one.attended(frame, self.rules)
            assert attended.exemplars
            known = frozenset(one.recent)
            self.followed.append(Followed(one.object_id, frame, one.direction, attended.exemplars, known))
            one.remember(frame, numbered(frame), self.rules)
            logits = np.full((4, 4), logit_of(frame, one.direction), np.float32)
            found.append(Prediction(logits, 0.5, float(one.object_id), attended.exemplars))
        return found


@pytest.fixture(scope="module")
def recording() -> Iterator[Recorder]:
    """The recorder of the passes that run now; each example begins with an empty one."""
    recorder = Recorder()

    class Feeder(FeatureFeeder):
        def __init__(self, *args: Any, **how: Any) -> None:
            super().__init__(*args, **how)
            recorder.feeders.append(self)

        def take(self, index: int) -> FrameFeatures:
            recorder.taken += 1
            return super().take(index)

    class File(Spool):
        def __init__(self) -> None:
            super().__init__()
            recorder.spools.append(self)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_passes, "Tracker", lambda *args, **how: recorder.tracker(*args, **how))
        patch.setattr(_passes, "FeatureFeeder", Feeder)
        patch.setattr(_passes, "Spool", File)
        yield recorder


KINDS = ["mask", "box", "polygon", "points", "mask and points", "absent", "outside"]


def prompted(object_id: int, frame: int, kind: str) -> Prompt:
    mask = ObjectMask(2, 2, np.ones((3, 3), bool))
    shapes: dict[str, dict[str, Any]] = {
        "mask": {"mask": mask},
        "box": {"box": (1, 1, 5, 5)},
        "polygon": {"polygon": (((1, 1), (6, 1), (6, 6)),)},
        "points": {"points": ((3, 3),)},
        "mask and points": {"mask": mask, "points": ((3, 3),)},
        "absent": {"absent": True},
        "outside": {"box": (20, 20, 30, 30)},
    }
    return Prompt(frame, object_id, **shapes[kind])


@st.composite
def jobs(draw: Any) -> tuple[Segment, list[Prompt], Sam2Options]:
    """A span, prompts of up to three objects on it, and options."""
    start, length = draw(st.integers(0, 3)), draw(st.integers(1, 20))
    span = Segment(start, start + length)
    shown = st.dictionaries(st.sampled_from(list(span.frames)), st.sampled_from(KINDS), max_size=8)
    prompts = [prompted(object_id, frame, kind) for object_id in (1, 2, 3) for frame, kind in draw(shown).items()]
    options = Sam2Options(
        max_exemplars=draw(st.sampled_from([2, 3, 4, None])),
        window=draw(st.sampled_from([2, 24])),
        disk_gib=draw(st.sampled_from([0, 1])),
        masks_from_boxes=draw(st.booleans()),
    )
    return span, draw(st.permutations(prompts)), options


def run(recorder: Recorder, way: Any, job: tuple[Segment, list[Prompt], Sam2Options]) -> tuple[Any, NumberedFrames]:
    recorder.__init__()  # type: ignore[misc]
    span, prompts, options = job
    frames = NumberedFrames(span.stop + 1)
    return way(FakeModel(), frames, prompts, span, options), frames


def is_over(recorder: Recorder, frames: NumberedFrames) -> None:
    assert not feeding_threads()
    assert frames.readings == 0
    assert all(spool.closed for spool in recorder.spools)


def around(prompts: Sequence[Prompt], object_id: int, frame: int) -> tuple[Prompt | None, Prompt | None]:
    """The object's prompts before and behind a frame; None also for those that show nothing."""
    mine = sorted((p for p in prompts if p.object_id == object_id), key=lambda p: p.frame)
    before = [p for p in mine if p.frame < frame][-1:]
    behind = [p for p in mine if p.frame > frame][:1]
    first, second = (next(iter(found), None) for found in (before, behind))
    return first if first in visible(prompts) else None, second if second in visible(prompts) else None


def visible(prompts: Sequence[Prompt]) -> list[Prompt]:
    return [prompt for prompt in prompts if not prompt.absent and prompt.box != (20.0, 20.0, 30.0, 30.0)]


@STEADY
@given(job=jobs())
def test_every_object_is_followed_from_its_exemplars_and_from_nowhere_else(recording: Recorder, job: Any):
    span, prompts, options = job
    passes, frames = run(recording, ExemplarPasses, job)
    on = {(prompt.object_id, prompt.frame) for prompt in prompts}
    ends = {
        (object_id, frame): around(prompts, object_id, frame)
        for object_id in {prompt.object_id for prompt in prompts}
        for frame in span.frames
        if (object_id, frame) not in on
    }
    answered = []
    for known in passes.frames():
        answered.append(known.frame)
        expected = {o: both for (o, frame), both in ends.items() if frame == known.frame and any(both)}
        seen = {o for o, sighting in known.sightings.items() if sighting.forward or sighting.backward}
        assert seen == expected.keys()
        for object_id, (before, behind) in expected.items():
            sighting = known.sightings[object_id]
            assert (sighting.forward is not None) == (before is not None)
            assert (sighting.backward is not None) == (behind is not None)
            for direction, prediction in ((1, sighting.forward), (-1, sighting.backward)):
                if prediction is not None:
                    assert (prediction.logits == logit_of(known.frame, direction)).all()
                    assert prediction.score == object_id
        if options.max_exemplars is not None:
            most = 2 * options.max_exemplars + 1
            assert all(len(known.exemplars[object_id]) <= most for object_id in known.exemplars)
    assert answered == list(span.frames)
    is_over(recording, frames)

    steps = {(one.object_id, one.frame, one.direction): one for one in recording.followed}
    assert len(steps) == len(recording.followed), "followed twice"
    assert steps.keys() == {
        (object_id, frame, direction)
        for (object_id, frame), both in ends.items()
        for direction, end in zip((1, -1), both, strict=True)
        if end is not None
    }
    for (object_id, frame, direction), one in steps.items():
        # A pass knows the frames between its own exemplar and here, as far as they matter, and no others.
        begin = around(prompts, object_id, frame)[0 if direction > 0 else 1]
        assert begin is not None
        way = range(begin.frame + direction, frame, direction)
        assert one.remembered == frozenset(way[-recording.rules.reach :])
        mine = sorted(prompt.frame for prompt in visible(prompts) if prompt.object_id == object_id)
        assert one.exemplars == tuple(sorted(closest(frame, mine, options.max_exemplars)))


@STEADY
@given(job=jobs())
def test_the_plan_is_what_is_taken(recording: Recorder, job: Any):
    span, prompts, options = job
    passes, frames = run(recording, ExemplarPasses, job)
    asked = {
        (known.frame, o) for known in passes.frames() for o in known.exemplars if known.frame in known.exemplars[o]
    }
    (feeder,) = recording.feeders
    assert recording.taken == len(feeder._plan)
    if options.window == 24 or options.disk_gib:
        assert passes.encoded == len(set(feeder._plan))
    assert max(recording.made.values(), default=1) == 1
    for prompt in visible(prompts):
        # Whoever asks what clicks stand for gets an answer on their own frame.
        if prompt.points is not None or (prompt.box is not None and options.masks_from_boxes):
            assert (prompt.frame, prompt.object_id) in asked
    assert set(frames.read_indices) <= set(span.frames)


@STEADY
@given(job=jobs(), stop=st.integers(0, 20))
def test_stopping_early_leaves_nothing_behind(recording: Recorder, job: Any, stop: int):
    for way in (ExemplarPasses, OfficialPasses):
        passes, frames = run(recording, way, job)
        working = passes.frames()
        for _, _ in zip(range(stop), working, strict=False):
            pass
        working.close()
        is_over(recording, frames)


@STEADY
@given(job=jobs())
def test_the_official_way_answers_every_frame_of_every_object(recording: Recorder, job: Any):
    span, prompts, _ = job
    passes, frames = run(recording, OfficialPasses, job)
    shown = {(prompt.object_id, prompt.frame) for prompt in visible(prompts)}
    objects = {object_id for object_id, _ in shown}
    answered = []
    for known in passes.frames():
        answered.append(known.frame)
        assert known.sightings.keys() == {o for o in objects if (o, known.frame) not in shown}
        assert all(sighting.backward is None for sighting in known.sightings.values())
        start = min(frame for _, frame in shown) if shown else 0
        for sighting in known.sightings.values():
            # The way back begins where the way there did, and has the last word.
            direction = -1 if known.frame <= start > span.start else 1
            assert sighting.forward is not None
            assert (sighting.forward.logits == logit_of(known.frame, direction)).all()
    assert answered == list(span.frames)
    assert recording.taken == sum(len(feeder._plan) for feeder in recording.feeders)
    assert set(recording.made) == shown
    is_over(recording, frames)


def test_gaps_of_a_thousand_exemplars_hold_few_of_them(recording: Recorder):
    prompts = [prompted(1, frame, "mask") for frame in range(0, 200, 2)]
    passes, _ = run(recording, ExemplarPasses, (Segment(0, 200), prompts, Sam2Options(max_exemplars=3)))
    held = [(len(known.exemplars[1]), len(passes._memories[1])) for known in passes.frames()]
    assert max(exemplars for exemplars, _ in held) <= 7
    assert max(memories for _, memories in held) <= 7
    assert sum(recording.made.values()) == 100


# --- results on disk -------------------------------------------------------------------------------------------------


def test_what_is_kept_on_disk_comes_back():
    logits = np.full((16, 16), -20.0, np.float32)
    logits[3:9, 5:7] = np.linspace(-15.9, 12, 6)[:, None]
    prediction = Prediction(logits, 0.625, -1.5, (3, 17))
    back = unpack(pack(prediction))
    assert (back.iou, back.score, back.exemplars) == (0.625, -1.5, (3, 17))
    assert np.array_equal(back.logits[3:9, 5:7], logits[3:9, 5:7])
    surely_not = np.ones((16, 16), bool)
    surely_not[3:9, 5:7] = False
    assert (back.logits[surely_not] == NO_OBJECT).all()
    assert np.array_equal(unpack(pack(prediction, whole=True)).logits, logits)


def test_nothing_on_disk_is_nothing():
    nothing = Prediction(np.full((16, 16), NO_OBJECT, np.float32), 0.1, -9.0, ())
    assert np.array_equal(unpack(pack(nothing)).logits, nothing.logits)
    assert pack(nothing)[2].size == 0
