"""What ``flow`` knows of the scene behind an object, and what it makes of it."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from labelprop_cvat.propagation import flow
from labelprop_cvat.propagation._appearance import colour_odds
from labelprop_cvat.propagation._evidence import islands, scene_odds
from labelprop_cvat.propagation._plate import STEPS, UNSEEN, ScenePlate, doubled, halved
from labelprop_cvat.propagation._tracking import Estimate
from labelprop_cvat.propagation._views import FrameView
from labelprop_cvat.propagation._windows import Window
from labelprop_cvat.propagation.frames import ArraySource
from labelprop_cvat.propagation.fuse import fuse_sides, without_strays
from labelprop_cvat.propagation.metrics import jaccard
from labelprop_cvat.propagation.propagator import get_propagator
from labelprop_cvat.propagation.types import ObjectMask, Prompt, Segment

SIZE = (96, 144)
WHOLE = Window(0, 0, 144, 96)


def _ground(height: int, width: int) -> np.ndarray:
    noise = np.random.default_rng(5).normal(0.0, 1.0, (height, width, 3)).astype(np.float32)
    return np.clip(cv2.GaussianBlur(noise, (0, 0), 2.0) * 120 + 120, 0, 255).astype(np.uint8)


GROUND = _ground(140, 260)


def _scene(shift: int, *boxes: tuple[int, int, int, int], colour: tuple[int, int, int] = (220, 60, 40)) -> np.ndarray:
    image = GROUND[20:116, 20 + shift : 164 + shift].copy()
    for x1, y1, x2, y2 in boxes:
        image[y1:y2, x1:x2] = colour
    return image


def _full(*boxes: tuple[int, int, int, int]) -> np.ndarray:
    mask = np.zeros(SIZE, dtype=np.float32)
    for x1, y1, x2, y2 in boxes:
        mask[y1:y2, x1:x2] = 1.0
    return mask


def _shifted(dx: float) -> np.ndarray:
    motion = np.eye(3)
    motion[0, 2] = dx
    return motion


def test_what_covers_the_scene_is_new_and_what_nobody_saw_is_unknown() -> None:
    first, then = (40, 30, 64, 60), (80, 30, 104, 60)
    plate = ScenePlate(FrameView(0, _scene(0, first)), _full(first), 1.0)
    plate.move(_shifted(-6))
    second = FrameView(1, _scene(6, then))
    novelty = plate.novelty(second, WHOLE)
    assert novelty.shape == (48, 72)
    assert novelty[16:29, 41:51].min() > 20 * STEPS
    assert (novelty[16:29, 18:28] == UNSEEN).all()
    beside = novelty[:12, 2:68]
    assert np.median(beside) < 2 * STEPS
    assert beside.max() < 8 * STEPS

    plate.learn(second, WHOLE, _full(then))
    uncovered = plate.novelty(second, WHOLE)[16:29, 18:28]
    assert uncovered.max() < STEPS
    # What lies near the object stays as it was: its overlooked pixels would become scene.
    near = _scene(6, then, (104, 30, 110, 60), colour=(20, 200, 30))
    assert plate.novelty(FrameView(2, near), WHOLE)[16:29, 52:54].min() > 10 * STEPS


def test_learning_leaves_the_exemplar_as_it_is() -> None:
    box = (40, 30, 64, 60)
    view = FrameView(0, _scene(0, box))
    before = view.lab(0.5).copy()
    plate = ScenePlate(view, _full(box), 1.0)
    plate.move(np.eye(3))
    plate.learn(FrameView(1, _scene(9)), WHOLE, _full(box))
    assert (view.lab(0.5) == before).all()


def _novelty(object_steps: float, scene_steps: float) -> tuple[np.ndarray, np.ndarray]:
    probability = np.full((40, 60), 0.05, dtype=np.float32)
    probability[10:30, 20:40] = 0.95
    noise = np.random.default_rng(0)
    novelty = noise.exponential(scene_steps * STEPS, probability.shape)
    novelty[10:30, 20:40] = noise.normal(object_steps * STEPS, 4.0, (20, 20))
    return np.clip(novelty, 0, 254).astype(np.uint8), probability


def test_departures_count_by_how_rare_they_are_beside_the_object() -> None:
    still, probability = _novelty(30.0, 0.5)
    still[2, 2], still[2, 3] = int(30 * STEPS), UNSEEN
    odds = scene_odds(still, probability)
    assert odds[2, 2] > 2.0
    assert odds[2, 3] == 0.0
    assert odds[5, 5] < -1.5
    assert scene_odds(still, probability, -0.5).min() == pytest.approx(-0.5)

    restless, probability = _novelty(30.0, 30.0)
    restless[2, 2] = int(30 * STEPS)
    assert abs(scene_odds(restless, probability)[2, 2]) < odds[2, 2] / 2


def test_islands_go_where_the_scene_explains_them() -> None:
    probability = np.zeros((60, 120), dtype=np.float32)
    odds = np.zeros_like(probability)
    body, close, far, new = np.s_[10:50, 10:50], np.s_[20:30, 52:60], np.s_[20:30, 90:100], np.s_[40:50, 90:100]
    for part in (body, close, far, new):
        probability[part] = 0.9
    odds[far], odds[new] = -1.0, 8.0
    found = islands(probability, odds)
    assert found[far].all()
    assert found.sum() == 100
    probability[20:50, 80:120] = 0.9
    assert not islands(probability, odds).any(), "half an object behind a pole is no island"


def test_colours_of_clear_pixels_speak_for_doubtful_ones() -> None:
    colours = np.full((30, 60, 3), (120, 128, 128), dtype=np.uint8)
    probability = np.full((30, 60), 0.02, dtype=np.float32)
    probability[:, :20] = 0.98
    colours[:, :20] = (150, 180, 150)
    colours[5, 50], colours[6, 50] = (150, 180, 150), (20, 90, 90)
    odds = colour_odds(colours, probability)
    assert odds[5, 50] > 1.5
    assert odds[10, 50] < -1.3
    assert abs(odds[6, 50]) < 0.5


@pytest.mark.parametrize("window", [Window(3, 5, 20, 18), Window(0, 0, 16, 8), Window(7, 2, 9, 5)])
def test_half_the_resolution_and_back(window: Window) -> None:
    ramp = np.add.outer(np.arange(window.y1, window.y2), np.arange(window.x1, window.x2)).astype(np.float32)
    small = halved(ramp, window)
    assert small.shape == window.halved.shape
    again = doubled(small, window)
    assert again.shape == window.shape
    assert np.abs(again - ramp).max() <= 1.5


def test_what_either_pass_knows_as_scene_is_scene() -> None:
    sides = []
    for window, level in ((Window(4, 4, 20, 20), 200), (Window(12, 4, 30, 20), 8)):
        flat = np.full(window.shape, 0.5, dtype=np.float32)
        novelty = np.full(window.halved.shape, level, dtype=np.uint8)
        sides.append(Estimate(window, flat, flat, novelty=novelty))
    fused = fuse_sides(sides[0], sides[1], 0.5)
    assert fused is not None
    assert fused.novelty is not None
    assert fused.novelty.shape == fused.window.halved.shape == (8, 13)
    assert (fused.novelty[:, :4] == 200).all()
    assert (fused.novelty[:, 4:] == 8).all()

    kept = flow.unpack(flow.pack(sides[0]))
    assert isinstance(kept, Estimate)
    assert kept.novelty is not None
    assert (kept.novelty == 200).all()
    without = flow.unpack(flow.pack(Estimate(sides[0].window, sides[0].probability, sides[0].trust)))
    assert isinstance(without, Estimate)
    assert without.novelty is None


def test_a_part_that_comes_out_from_behind_the_object_is_taken_along() -> None:
    """An arm in a colour that neither exemplar shows: only that it covers the scene tells that it is there."""
    images, truth = [], []
    for frame in range(9):
        x = 40 + 4 * frame
        body = (x, 34, x + 26, 70)
        reach = max(0, 14 - 4 * abs(frame - 4))
        arm = (x + 26, 44, x + 26 + reach, 54)
        image = _scene(2 * frame, body)
        image[arm[1] : arm[3], arm[0] : arm[2]] = (240, 200, 30)
        images.append(image)
        truth.append((ObjectMask.from_full(_full(body, arm) > 0), _full(arm) > 0))
    prompts = [Prompt(f, 1, mask=truth[f][0]) for f in (0, 8)]
    results = list(get_propagator("flow", threads=1).propagate(ArraySource(images), prompts, Segment(0, 9)))
    for frame in (3, 4, 5):
        mask = results[frame].objects[1].mask
        assert mask is not None
        assert jaccard(mask, truth[frame][0]) > 0.9
        assert mask.to_full(SIZE)[truth[frame][1]].mean() > 0.7, frame


def test_a_shadow_departs_from_the_scene_less_than_a_light_does() -> None:
    plate = ScenePlate(FrameView(0, np.full((*SIZE, 3), 120, np.uint8)), _full((2, 2, 6, 6)), 1.0)
    image = np.full((*SIZE, 3), 120, np.uint8)
    image[30:60, 30:60], image[30:60, 90:120] = 80, 160
    novelty = plate.novelty(FrameView(1, image), WHOLE)
    shadow, light = int(novelty[20, 20]), int(novelty[20, 50])
    assert 0 < shadow < light / 2


def test_passes_that_agree_are_not_talked_out_of_it() -> None:
    window = Window(0, 0, 60, 40)
    one, other = np.zeros((2, *window.shape), dtype=np.float32)
    one[10:30, 10:40] = other[10:30, 10:40] = 1.0
    trust = np.ones(window.shape, dtype=np.float32)
    alike = fuse_sides(Estimate(window, one, trust), Estimate(window, other, trust), 0.5)
    other[10:30, 10:25] = 0.0
    apart = fuse_sides(Estimate(window, one, trust), Estimate(window, other, trust), 0.5)
    alone = fuse_sides(Estimate(window, one, trust), None, 0.5)
    assert alike is not None
    assert apart is not None
    assert alone is not None
    assert 0.0 < alike.doubt < 0.3
    assert apart.doubt == alone.doubt == 1.0


def test_small_parts_off_the_expected_place_go_and_those_in_it_stay() -> None:
    full = np.zeros(SIZE, np.bool_)
    full[40:70, 40:70] = True
    inside, far = full.copy(), full.copy()
    inside[75:77, 45:47] = True
    far[2:4, 2:4] = True
    large_and_far = full.copy()
    large_and_far[40:70, 90:120] = True

    def left(mask: np.ndarray) -> np.ndarray:
        whole = ObjectMask.from_full(mask)
        assert whole is not None
        return without_strays(whole, (40.0, 40.0, 70.0, 75.0)).to_full(SIZE)

    assert np.array_equal(left(full), full)
    assert np.array_equal(left(inside), inside)
    assert np.array_equal(left(far), full)
    assert np.array_equal(left(large_and_far), large_and_far)
