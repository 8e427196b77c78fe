"""Masks as polygons: what the loader makes of them is the mask again, and CVAT can move them."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from labelprop_cvat.backend.interpolation import TrackShape
from labelprop_cvat.backend.outlines import PolygonTrack, polygon_track
from labelprop_cvat.backend.shapes.drawn import DrawnKeyframe
from labelprop_cvat.backend.shapes.geometry import drawn_mask
from labelprop_cvat.backend.thinning import Tolerance, needed_keyframes
from labelprop_cvat.errors import DataError
from labelprop_cvat.propagation.types import ObjectMask

SIZE = (120, 160)


def mask_of(full: np.ndarray) -> ObjectMask:
    mask = ObjectMask.from_full(full)
    assert mask is not None
    return mask


def person(x: float = 60, y: float = 20, grown: float = 1.0) -> np.ndarray:
    """A head, a trunk and two legs."""
    canvas = np.zeros(SIZE, np.uint8)

    def at(dx: float, dy: float) -> tuple[int, int]:
        return round(x + grown * dx), round(y + grown * dy)

    cv2.circle(canvas, at(15, 10), round(9 * grown), 1, -1)
    cv2.rectangle(canvas, at(5, 18), at(25, 50), 1, -1)
    cv2.line(canvas, at(10, 50), at(4, 75), 1, round(6 * grown))
    cv2.line(canvas, at(20, 50), at(27, 75), 1, round(6 * grown))
    return canvas


def pixels(*places: tuple[int, int]) -> np.ndarray:
    canvas = np.zeros(SIZE, np.uint8)
    for x, y in places:
        canvas[y, x] = 1
    return canvas


def rectangle(x1: int, y1: int, x2: int, y2: int) -> np.ndarray:
    canvas = np.zeros(SIZE, np.uint8)
    canvas[y1:y2, x1:x2] = 1
    return canvas


def loaded(track: PolygonTrack, frame: int) -> np.ndarray:
    """What the loader makes of a polygon."""
    mask = drawn_mask(drawn(track, frame), SIZE)
    assert mask is not None
    return mask.to_full(SIZE)


def drawn(track: PolygonTrack, frame: int) -> DrawnKeyframe:
    return DrawnKeyframe(frame=frame, shape_type="polygon", points=track.points[frame])


def overlap(one: np.ndarray, other: np.ndarray) -> float:
    return float((one & other).sum() / (one | other).sum())


@pytest.mark.parametrize(
    ("full", "at_least"),
    [
        (person(), 0.96),
        (rectangle(30, 40, 90, 70), 0.99),
        (rectangle(0, 0, 160, 120), 0.99),
        (rectangle(50, 0, 51, 120), 1.0),
        (rectangle(150, 110, 160, 120), 1.0),
        (pixels((7, 9)), 1.0),
        (pixels((159, 119)), 1.0),
        (pixels((7, 9), (8, 10)), 1.0),
        (pixels((7, 9), (8, 9), (8, 10)), 1.0),
    ],
    ids=["person", "box", "all", "line", "corner", "pixel", "last", "diagonal", "angle"],
)
def test_the_loader_makes_the_mask_again(full: np.ndarray, at_least: float) -> None:
    track = polygon_track({3: mask_of(full)}, SIZE)
    assert list(track.points) == list(track.iou) == [3]
    iou = overlap(loaded(track, 3), full != 0)
    assert iou >= at_least
    assert track.iou[3] == pytest.approx(iou)
    points = np.reshape(track.points[3], (-1, 2))
    assert len(points) >= 3
    assert (points >= 0).all()
    assert (points <= SIZE[::-1]).all()


def test_specks_and_pinholes_are_left_out_and_the_loss_is_told() -> None:
    full = rectangle(10, 10, 60, 60)
    full[30:36, 30:36] = 0
    full |= rectangle(100, 0, 101, 40)
    track = polygon_track({0: mask_of(full)}, SIZE)
    assert overlap(loaded(track, 0), rectangle(10, 10, 60, 60) != 0) >= 0.99
    assert track.iou[0] == pytest.approx(overlap(loaded(track, 0), full != 0))
    assert track.iou[0] == pytest.approx(2464 / 2540, abs=0.01)


def test_holes_are_opened_by_narrow_cuts() -> None:
    full = rectangle(10, 10, 90, 90)
    full[20:50, 30:60] = 0
    full[60:80, 50:70] = 0
    track = polygon_track({0: mask_of(full)}, SIZE)
    assert track.iou[0] >= 0.97
    assert not loaded(track, 0)[25:45, 35:55].any()
    assert not loaded(track, 0)[64:76, 54:66].any()


def test_parts_are_joined_by_narrow_bridges() -> None:
    # What stands behind two posts; the part in the middle is nearer to the right one.
    full = rectangle(10, 30, 60, 90) | rectangle(80, 40, 100, 80) | rectangle(110, 30, 150, 90)
    track = polygon_track({0: mask_of(full)}, SIZE)
    filled = loaded(track, 0)
    assert track.iou[0] >= 0.97
    assert cv2.connectedComponents(filled.astype(np.uint8))[0] == 2
    assert (filled & (full == 0)).sum() < 100


def test_few_points_where_few_will_do() -> None:
    track = polygon_track({n: mask_of(person(20 + 4 * n)) for n in range(10)}, SIZE)
    (count,) = {len(points) for points in track.points.values()}
    assert 20 <= count <= 2 * 40
    plain = polygon_track({n: mask_of(rectangle(30 + n, 40, 90 + n, 70)) for n in range(10)}, SIZE)
    assert max(len(points) for points in plain.points.values()) <= 2 * 16


def test_one_frame_that_is_harder_gets_more_points() -> None:
    comb = rectangle(20, 20, 140, 100)
    comb[20:70, 26:140:12] = comb[20:70, 27:140:12] = comb[20:70, 28:140:12] = comb[20:70, 29:140:12] = 0
    masks = {n: mask_of(rectangle(20, 20, 140, 100)) for n in range(20)} | {20: mask_of(comb)}
    track = polygon_track(masks, SIZE)
    assert len(track.points[20]) > len(track.points[0])
    assert track.iou[20] >= 0.96


@pytest.mark.parametrize(("step", "grown"), [(5.0, 1.0), (0.0, 1.02)])
def test_what_moves_and_grows_as_a_whole_needs_few_keyframes(step: float, grown: float) -> None:
    frames = range(16)
    masks = {}
    for n in frames:
        change = np.array([[grown**n, 0, step * n - 30 * (grown**n - 1)], [0, grown**n, -20 * (grown**n - 1)]])
        seen = cv2.warpAffine(255 * person(10, 20), change, SIZE[::-1], flags=cv2.INTER_LINEAR)
        masks[n] = mask_of(seen > 127)
    track = polygon_track(masks, SIZE)
    shapes = {n: TrackShape(n, points) for n, points in track.points.items()}
    # Its pixels alone make 3 % of what is so small.
    assert len(needed_keyframes(shapes, "polygon", frames, (), Tolerance(iou=0.95))) <= (2 if grown == 1.0 else 4)


def test_polygons_start_at_the_same_place_and_go_the_same_way_round() -> None:
    # The topmost pixel, where the first polygon starts, is on the head and then on a leg that is thrown up.
    masks = {}
    for n in range(12):
        turn = cv2.getRotationMatrix2D((75.0, 60.0), 8.0 * n, 1.0)
        masks[n] = mask_of(cv2.warpAffine(person(60, 20), turn, SIZE[::-1], flags=cv2.INTER_NEAREST))
    track = polygon_track(masks, SIZE)
    for n in range(11):
        one, other = (np.reshape(track.points[k], (-1, 2)) for k in (n, n + 1))
        assert np.linalg.norm(one[0] - other[0]) < 12
        areas = [cv2.contourArea(o.astype(np.float32), oriented=True) for o in (one, other)]
        assert areas[0] * areas[1] > 0


def test_gaps_are_fine_and_no_masks_make_no_track() -> None:
    masks = {n: mask_of(person(20 + n)) for n in (0, 1, 7)}
    assert list(polygon_track(masks, SIZE).points) == [0, 1, 7]
    assert polygon_track({}, SIZE) == PolygonTrack({}, {})


def test_a_mask_outside_the_frame_is_refused() -> None:
    with pytest.raises(DataError, match="160x100 pixels"):
        polygon_track({4: mask_of(rectangle(0, 90, 10, 110))}, (100, 160))
