"""Thinned tracks show, by CVAT's rule, what the full ones did, with as few keyframes as that takes."""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Collection, Mapping, Sequence

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from labelprop_cvat.backend.interpolation import TrackShape, shown
from labelprop_cvat.backend.thinning import Tolerance, are_near, is_good, needed_keyframes, outline_iou
from labelprop_cvat.errors import ConfigurationError, DataError

few = settings(max_examples=60, deadline=None)


def sent(shapes: Mapping[int, TrackShape], frames: Sequence[int], needed: Collection[int]) -> list[TrackShape]:
    """The keyframes that go to CVAT: the chosen ones, and one that hides the object wherever it goes."""
    keyframes: list[TrackShape] = []
    last: TrackShape | None = None
    for frame in frames:
        if frame in needed:
            keyframes.append(shapes[frame])
        elif last is not None and frame not in shapes:
            keyframes.append(TrackShape(frame, last.points, outside=True, rotation=last.rotation))
        last = shapes.get(frame)
    return keyframes


def boxes(rows: Sequence[Sequence[float]] | np.ndarray, first: int = 0) -> dict[int, TrackShape]:
    return {first + n: TrackShape(first + n, tuple(map(float, row))) for n, row in enumerate(rows)}


def is_box_good(box: Sequence[float], truth: Sequence[float], tolerance: Tolerance) -> bool:
    width, height = (min(box[i + 2], truth[i + 2]) - max(box[i], truth[i]) for i in (0, 1))
    common = max(0.0, width) * max(0.0, height)
    whole = sum((b[2] - b[0]) * (b[3] - b[1]) for b in (box, truth)) - common
    near = max(abs(a - b) for a, b in zip(box, truth, strict=True)) <= tolerance.pixels + 1e-6
    return near or common / whole >= tolerance.iou - 1e-6


@st.composite
def walks(draw: st.DrawFn, longest: int = 60) -> tuple[dict[int, TrackShape], range]:
    """A box that wanders, grows and shrinks, and is not always there; down to a pixel, and beyond the frame."""
    seed = draw(st.integers(0, 2**32 - 1))
    noise = np.random.default_rng(seed)
    length = draw(st.integers(1, longest))
    size = draw(st.sampled_from([1.0, 8.0, 40.0, 200.0]))
    speed = draw(st.sampled_from([0.0, 0.3, 1.0, 4.0]))
    steps = noise.normal(0, speed, (length, 2)).cumsum(axis=0) * draw(st.sampled_from([0.1, 1.0]))
    sides = np.maximum(1.0, size * np.exp(noise.normal(0, 0.01 * speed, (length, 2)).cumsum(axis=0)))
    rows = np.hstack([steps, steps + sides])
    # Edges that tremble, each by itself: by themselves along one axis good enough, together not.
    rows += noise.normal(0, 1, (length, 4)) * size * draw(st.sampled_from([0.0, 0.004, 0.02]))
    rows[:, 2:] = np.maximum(rows[:, 2:], rows[:, :2] + 0.5)
    if draw(st.booleans()):
        rows = np.hstack([rows[:, :2].round(), rows[:, :2].round() + np.maximum(1, sides.round())])
    there = noise.random(length) > draw(st.sampled_from([0.0, 0.1, 0.5]))
    start = draw(st.integers(0, 5))
    shapes = {frame: shape for frame, shape in boxes(rows, start).items() if there[frame - start]}
    return shapes, range(start, start + length)


@few
@given(
    walk=walks(),
    fixed=st.sets(st.integers(0, 64), max_size=8),
    tolerance=st.builds(Tolerance, st.sampled_from([0.8, 0.97, 1.0]), st.sampled_from([0.0, 1.0])),
)
def test_every_box_is_good_enough(
    walk: tuple[dict[int, TrackShape], range], fixed: set[int], tolerance: Tolerance
) -> None:
    shapes, frames = walk
    needed = needed_keyframes(shapes, "rectangle", frames, fixed, tolerance)
    assert fixed & set(shapes) <= needed <= set(shapes)
    found = shown(sent(shapes, frames, needed), "rectangle", frames)
    assert set(found) == set(shapes)
    for frame, shape in found.items():
        assert is_box_good(shape.points, shapes[frame].points, tolerance)


@few
@given(walk=walks(longest=8), fixed=st.sets(st.integers(0, 12), max_size=2))
def test_no_choice_of_boxes_is_smaller(walk: tuple[dict[int, TrackShape], range], fixed: set[int]) -> None:
    shapes, frames = walk
    tolerance = Tolerance()
    needed = needed_keyframes(shapes, "rectangle", frames, fixed)
    must = fixed & set(shapes)
    free = sorted(set(shapes) - must)
    for count in range(len(needed) - len(must)):
        for chosen in itertools.combinations(free, count):
            found = shown(sent(shapes, frames, must | set(chosen)), "rectangle", frames)
            good = set(found) == set(shapes) and all(
                is_good(shape, shapes[frame], "rectangle", tolerance) for frame, shape in found.items()
            )
            assert not good


def walked(length: int, step: float, size: float = 100.0) -> dict[int, TrackShape]:
    return boxes([(step * n, 0, step * n + size, size) for n in range(length)])


def test_a_steady_way_needs_its_ends() -> None:
    assert needed_keyframes(walked(50, 7.0), "rectangle", range(50), ()) == {0, 49}


def test_what_does_not_move_needs_one() -> None:
    assert needed_keyframes(walked(50, 0.0), "rectangle", range(50), ()) == {0}


def test_pixels_or_iou_either_is_enough() -> None:
    # One frame of a still box is 2 px off: IoU 0.96 at 100 px, 0.98 at 200 px.
    shapes = walked(9, 0.0) | {4: TrackShape(4, (2, 0, 102, 100))}
    assert len(needed_keyframes(shapes, "rectangle", range(9), ())) == 3
    assert needed_keyframes(shapes, "rectangle", range(9), (), Tolerance(pixels=2.0)) == {0}
    larger = walked(9, 0.0, 200.0) | {4: TrackShape(4, (2, 0, 202, 200))}
    assert needed_keyframes(larger, "rectangle", range(9), ()) == {0}


def test_what_leaves_is_shown_until_it_does() -> None:
    # The keyframe that hides it has the place of the last frame: a little late for what moves fast.
    frames = range(20)
    for step, expected in ((0.5, {0}), (8.0, {0, 9})):
        shapes = {frame: shape for frame, shape in walked(20, step).items() if frame < 10}
        needed = needed_keyframes(shapes, "rectangle", frames, ())
        assert needed == expected
        assert set(shown(sent(shapes, frames, needed), "rectangle", frames)) == set(range(10))


def test_every_visible_run_starts_with_a_keyframe() -> None:
    shapes = {frame: shape for frame, shape in walked(20, 0.0).items() if frame in (3, 7, 8, 9, 19)}
    assert needed_keyframes(shapes, "rectangle", range(20), ()) == {3, 7, 19}


def test_frames_of_people_stay_keyframes() -> None:
    shapes = walked(20, 3.0)
    assert needed_keyframes(shapes, "rectangle", range(20), {5, 6, 50}) == {0, 5, 6, 19}
    assert needed_keyframes(shapes, "rectangle", range(20), set(range(20))) == set(range(20))


def test_frame_numbers_may_have_gaps() -> None:
    frames = [0, 1, 2, 10, 11, 12]
    shapes = {frame: TrackShape(frame, (5.0 * frame, 0, 5.0 * frame + 50, 50)) for frame in frames}
    assert needed_keyframes(shapes, "rectangle", frames, ()) == {0, 12}


def test_nothing_needs_nothing() -> None:
    assert needed_keyframes({}, "rectangle", range(5), {1}) == frozenset()


def test_a_thousand_frames_take_no_time() -> None:
    noise = np.random.default_rng(0)
    corner = 100 * np.sin(np.arange(1000)[:, None] / (40.0, 70.0)) + noise.normal(0, 0.3, (1000, 2))
    shapes = boxes(np.hstack([corner, corner + np.array([120, 260])]))
    started = time.process_time()
    needed = needed_keyframes(shapes, "rectangle", range(1000), ())
    assert time.process_time() - started < 3
    assert 10 < len(needed) < 200


# Turned boxes


def corners(shape: TrackShape) -> np.ndarray:
    x1, y1, x2, y2 = shape.points
    return np.asarray(cv2.boxPoints((((x1 + x2) / 2, (y1 + y2) / 2), (x2 - x1, y2 - y1), shape.rotation)), float)


def test_a_box_that_turns_evenly_needs_its_ends() -> None:
    # Through 0 degrees, the shorter way round.
    shapes = {n: TrackShape(n, (10 + n, 20, 60 + n, 40), rotation=(350 + 2 * n) % 360) for n in range(11)}
    assert needed_keyframes(shapes, "rectangle", range(11), ()) == {0, 10}


def test_a_neighbour_that_is_turned_otherwise_is_a_keyframe() -> None:
    shapes = {n: TrackShape(n, (10, 20, 60, 40), rotation=25.0 if n == 5 else 0.0) for n in range(11)}
    assert needed_keyframes(shapes, "rectangle", range(11), ()) == {0, 4, 5, 6}


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), turn=st.sampled_from([1.0, 10.0]))
def test_every_turned_box_is_good_enough(seed: int, turn: float) -> None:
    noise = np.random.default_rng(seed)
    angles = noise.normal(0, turn, 15).cumsum() % 360
    rows = np.array([30, 30, 90, 60]) + noise.normal(0, 0.7, (15, 4)).cumsum(axis=0)
    shapes = {n: TrackShape(n, tuple(rows[n]), rotation=float(angles[n])) for n in range(15)}
    needed = needed_keyframes(shapes, "rectangle", range(15), ())
    for frame, shape in shown(sent(shapes, range(15), needed), "rectangle", range(15)).items():
        ours, theirs = corners(shape), corners(shapes[frame])
        common = cv2.intersectConvexConvex(ours.astype(np.float32), theirs.astype(np.float32))[0]
        whole = sum(cv2.contourArea(c.astype(np.float32)) for c in (ours, theirs)) - common
        # The rows on which they are compared are 64.
        assert common / whole >= 0.965 or are_near(ours, theirs, 1.01)


# Polygons


def blob(noise: np.random.Generator, count: int, radius: float, at: float) -> np.ndarray:
    angles = np.arange(count) * (2 * math.pi / count)
    reach = radius * (1 + 0.2 * np.sin(3 * angles + at) + noise.normal(0, 0.01, count))
    return np.stack([200 + 3 * at + reach * np.cos(angles), 200 + reach * np.sin(angles)], axis=1)


def polygons(outlines: Sequence[np.ndarray]) -> dict[int, TrackShape]:
    return {n: TrackShape(n, tuple(outline.ravel().tolist())) for n, outline in enumerate(outlines)}


def filled(shape: TrackShape, scale: int = 2) -> np.ndarray:
    canvas = np.zeros((400 * scale, 500 * scale), np.uint8)
    outline = np.asarray(shape.points).reshape(-1, 2) * scale
    return cv2.fillPoly(canvas, [outline.round().astype(np.int32)], 1) != 0


@settings(max_examples=8, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), speed=st.sampled_from([0.05, 0.4]), same=st.booleans())
def test_every_polygon_is_good_enough(seed: int, speed: float, same: bool) -> None:
    noise = np.random.default_rng(seed)
    counts = [24 if same else int(noise.integers(12, 30)) for _ in range(12)]
    shapes = polygons([blob(noise, count, 60, speed * n) for n, count in enumerate(counts)])
    shapes = {frame: shape for frame, shape in shapes.items() if frame != 7}
    needed = needed_keyframes(shapes, "polygon", range(12), {3})
    assert {3, 8} <= needed
    found = shown(sent(shapes, range(12), needed), "polygon", range(12))
    assert set(found) == set(shapes)
    for frame, shape in found.items():
        ours, theirs = filled(shape), filled(shapes[frame])
        assert (ours & theirs).sum() / (ours | theirs).sum() >= 0.965


def test_a_polygon_that_drifts_needs_its_ends() -> None:
    outline = blob(np.random.default_rng(0), 20, 60, 0)
    shapes = polygons([outline + np.array([4.0 * n, n]) for n in range(40)])
    assert needed_keyframes(shapes, "polygon", range(40), ()) == {0, 39}


def test_a_long_still_polygon_that_jumps_needs_the_jump() -> None:
    outline = blob(np.random.default_rng(0), 20, 60, 0)
    shapes = polygons([outline + (0 if n < 50 else 30) for n in range(100)])
    assert needed_keyframes(shapes, "polygon", range(100), ()) == {0, 49, 50}


def test_polygons_that_cover_nothing_are_told_apart_by_pixels() -> None:
    flat = np.array([(10.0, 10.0), (20.0, 10.0), (30.0, 10.0)])
    shapes = polygons([flat, flat, flat + 50, flat])
    assert needed_keyframes(shapes, "polygon", range(4), ()) == {0, 1, 2, 3}


@pytest.mark.parametrize("kind", ["polyline", "points"])
def test_lines_and_points_show_the_same_whether_cvat_holds_or_moves_them(kind: str) -> None:
    line = np.array([(0.0, 0.0), (10.0, 10.0)])
    shapes = polygons([line, line, line + 0.5, line, line + 5, line + 5, line + 5.5])
    assert needed_keyframes(shapes, kind, range(7), ()) == {0, 3, 4}


def test_how_outlines_are_compared() -> None:
    square = np.array([(0.0, 0.0), (10.0, 0.0), (10.0, 10.0), (0.0, 10.0)])
    assert outline_iou(square, square[::-1]) == pytest.approx(1)
    assert outline_iou(square, square + np.array([5, 0])) == pytest.approx(1 / 3)
    assert outline_iou(square, square + np.array([0, 5])) == pytest.approx(1 / 3, abs=0.02)
    assert outline_iou(square, square + 50) == 0
    assert are_near(square, square + np.array([1, 0]), 1.0)
    assert not are_near(square, square + np.array([1.1, 0]), 1.0)
    # A notch that only one of them has; the other's corners all lie on it.
    notched = np.insert(square, 1, [(4, 0), (5, 6), (6, 0)], axis=0)
    assert not are_near(square, notched, 1.0)
    assert not are_near(notched, square, 1.0)


def test_errors_say_what_to_do() -> None:
    with pytest.raises(DataError, match="one mask shape a frame"):
        needed_keyframes({}, "mask", range(3), ())
    with pytest.raises(DataError, match=r"does not have: \[7\]"):
        needed_keyframes({7: TrackShape(7, (0, 0, 1, 1))}, "rectangle", range(3), ())
    for wrong in ({"iou": 0.0}, {"iou": 1.1}, {"pixels": -1.0}, {"pixels": math.nan}):
        with pytest.raises(ConfigurationError, match="tolerance"):
            Tolerance(**wrong)
