"""What CVAT shows of a track between its keyframes: one rule, for this package and for the server in its tests."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from labelprop_cvat.backend.interpolation import TrackShape, angle_between, shown
from labelprop_cvat.backend.local_cvat.interpolation import interpolate_track
from labelprop_cvat.errors import DataError

SQUARE = (0.0, 0.0, 10.0, 0.0, 10.0, 10.0, 0.0, 10.0)
_coordinate = st.floats(-50, 300, allow_nan=False).map(lambda value: round(value, 2))


def moved(points: tuple[float, ...], by: float) -> tuple[float, ...]:
    return tuple(value + by for value in points)


@st.composite
def tracks(draw: st.DrawFn) -> tuple[str, list[TrackShape]]:
    kind = draw(st.sampled_from(["rectangle", "ellipse", "polygon", "polyline", "points"]))
    frames = sorted(draw(st.sets(st.integers(0, 20), min_size=1, max_size=5)))
    shapes = []
    for frame in frames:
        count = 4 if kind in ("rectangle", "ellipse") else 2 * draw(st.integers(1 if kind == "points" else 3, 9))
        points = tuple(draw(st.lists(_coordinate, min_size=count, max_size=count)))
        rotation = draw(st.sampled_from([0.0, 10.0, 190.0, 350.0])) if kind == "rectangle" else 0.0
        shapes.append(TrackShape(frame, points, draw(st.booleans()) and frame != frames[0], rotation))
    return kind, shapes


def payload(kind: str, shapes: list[TrackShape]) -> dict[str, Any]:
    return {
        "shapes": [
            {
                "type": kind,
                "frame": shape.frame,
                "points": list(shape.points),
                "outside": shape.outside,
                "rotation": shape.rotation,
            }
            for shape in shapes
        ]
    }


@settings(max_examples=150, deadline=None)
@given(track=tracks())
def test_the_server_and_this_package_show_the_same(track: tuple[str, list[TrackShape]]) -> None:
    kind, shapes = track
    # The server drops points that crowd together from a polygon that holds still at its end; the web page does not.
    end = 25 if kind != "polygon" else shapes[-1].frame + 1
    expected = {s["frame"]: s for s in interpolate_track(payload(kind, shapes), 0, end) if not s["outside"]}
    found = shown(shapes, kind, range(end))
    assert sorted(found) == sorted(expected)
    for frame, shape in found.items():
        assert shape.frame == frame
        assert shape.points == pytest.approx(expected[frame]["points"], abs=1e-9)
        assert shape.rotation == pytest.approx(expected[frame]["rotation"], abs=1e-9)


def test_a_polygon_as_a_real_server_showed_it() -> None:
    keyframes = [
        TrackShape(0, (0, 0, 50, 0, 50, 50)),
        TrackShape(11, (110, 0, 160, 0, 160, 50, 110, 50)),
    ]
    assert shown(keyframes, "polygon", [3])[3].points == pytest.approx([30, 0, 80, 0, 80, 50, 66.36363636, 50])


def test_points_that_crowd_around_one_of_the_other_polygon_are_dropped() -> None:
    # Three points at one corner of the square: a run of 0.4 px. Nearer than a sixth of that, one is dropped; where only
    # two are left and they are that near, they become one.
    crowded = (0.0, 0.0, 10.0, 0.0, 10.0, 0.1, 10.0, 0.4, 10.0, 10.0, 0.0, 10.0)
    found = shown([TrackShape(0, crowded), TrackShape(20, SQUARE)], "polygon", [5, 10, 18])
    assert found[5].points == pytest.approx([0, 0, 10, 0, 10, 0.075, 10, 0.3, 10, 10, 0, 10])
    assert found[10].points == pytest.approx([0, 0, 10, 0, 10, 0.2, 10, 10, 0, 10])
    assert found[18].points == pytest.approx([0, 0, 10, 0.02, 10, 10, 0, 10])


def test_a_polygon_that_stands_still_keeps_its_points() -> None:
    keyframes = [TrackShape(0, SQUARE), TrackShape(4, SQUARE)]
    assert {shape.points for shape in shown(keyframes, "polygon", range(9)).values()} == {SQUARE}


def test_where_a_track_is_visible() -> None:
    keyframes = [
        TrackShape(2, (0, 0, 10, 10)),
        TrackShape(4, (4, 0, 14, 10), outside=True),
        TrackShape(7, (50, 0, 60, 10)),
    ]
    found = shown(keyframes, "rectangle", [9, 0, 2, 3, 4, 5, 7])
    assert list(found) == [9, 2, 3, 7]
    # The hidden keyframe is where the one before moves to; the last one holds.
    assert found[3].points == (2, 0, 12, 10)
    assert found[9] == TrackShape(9, (50, 0, 60, 10))


def test_keyframes_may_come_in_any_order_and_of_two_on_one_frame_the_first_counts() -> None:
    keyframes = [TrackShape(4, (4, 0, 14, 10)), TrackShape(0, (0, 0, 10, 10)), TrackShape(0, (90, 90, 99, 99))]
    assert shown(keyframes, "rectangle", [1])[1].points == (1, 0, 11, 10)


@pytest.mark.parametrize(
    ("left", "right", "offset", "expected"),
    [(350, 10, 0.5, 0), (10, 350, 0.25, 5), (0, 90, 0.5, 45), (0, 180, 0.5, 270), (30, 30, 0.7, 30)],
)
def test_angles_take_the_shorter_way(left: float, right: float, offset: float, expected: float) -> None:
    assert angle_between(left, right, offset) == pytest.approx(expected)


@pytest.mark.parametrize("kind", ["polyline", "points"])
def test_lines_and_several_points_hold_still(kind: str) -> None:
    keyframes = [TrackShape(0, SQUARE), TrackShape(4, moved(SQUARE, 8))]
    found = shown(keyframes, kind, range(6))
    assert [shape.points[0] for shape in found.values()] == [0, 0, 0, 0, 8, 8]


def test_a_single_point_moves() -> None:
    keyframes = [TrackShape(0, (0, 0)), TrackShape(4, (8, 4))]
    assert shown(keyframes, "points", [1])[1].points == (2, 1)


def test_no_keyframes_show_nothing() -> None:
    assert shown([], "rectangle", range(3)) == {}


def test_masks_have_no_tracks() -> None:
    with pytest.raises(DataError, match="one mask shape a frame"):
        shown([TrackShape(0, (0, 4, 0, 0, 1, 1))], "mask", [0])
