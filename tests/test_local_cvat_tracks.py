"""Tracks cut at job borders and joined again are the same tracks."""

from __future__ import annotations

import copy
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from labelprop_cvat.backend.local_cvat.interpolation import interpolate_track
from labelprop_cvat.backend.local_cvat.replies import ServerFaultError
from labelprop_cvat.backend.local_cvat.tracks import join_payloads, slice_payload


def _shape(frame: int, points: list[float], kind: str = "rectangle", outside: bool = False) -> dict[str, Any]:
    return {
        "type": kind,
        "frame": frame,
        "points": points,
        "outside": outside,
        "occluded": False,
        "rotation": 0,
        "z_order": 0,
        "attributes": [],
    }


def _track(shapes: list[dict[str, Any]]) -> dict[str, Any]:
    return {"label_id": 1, "frame": shapes[0]["frame"], "group": None, "shapes": shapes, "elements": []}


def _payload(*tracks: dict[str, Any]) -> dict[str, Any]:
    return {"version": 0, "tags": [], "shapes": [], "tracks": list(tracks)}


@st.composite
def _tracks(draw: st.DrawFn) -> dict[str, Any]:
    frames = sorted(draw(st.sets(st.integers(0, 29), min_size=1, max_size=6)))
    corner = st.floats(0, 100, allow_nan=False)
    shapes = []
    for frame in frames:
        x, y = draw(corner), draw(corner)
        shapes.append(_shape(frame, [x, y, x + 10, y + 10], outside=draw(st.booleans()) and frame != frames[0]))
    return _track(shapes)


def _visible(track: dict[str, Any], start: int, stop: int) -> dict[int, list[float]]:
    shapes = interpolate_track(track, start, stop + 1)
    return {shape["frame"]: shape["points"] for shape in shapes if not shape["outside"]}


@given(track=_tracks(), borders=st.sets(st.integers(1, 29), max_size=4))
def test_a_track_shows_the_same_on_both_sides_of_a_cut(track: dict[str, Any], borders: set[int]) -> None:
    starts = [0, *sorted(borders)]
    stops = [start - 1 for start in starts[1:]] + [29]
    for start, stop in zip(starts, stops, strict=True):
        part = slice_payload(_payload(copy.deepcopy(track)), start, stop)["tracks"]
        whole = _visible(track, start, stop)
        found = _visible(part[0], start, stop) if part else {}
        assert sorted(found) == sorted(whole)
        for frame, points in whole.items():
            assert found[frame] == pytest.approx(points, abs=1e-6)


@given(track=_tracks())
def test_a_track_inside_a_job_passes_unchanged(track: dict[str, Any]) -> None:
    assert slice_payload(_payload(track), 0, 29)["tracks"] == [track]


def test_parts_without_overlap_stay_apart_and_end_outside() -> None:
    track = _track([_shape(0, [0, 0, 10, 10]), _shape(9, [90, 0, 100, 10])])
    parts = [(start, slice_payload(_payload(track), start, start + 4)) for start in (0, 5)]
    joined = join_payloads(parts, overlap=0)["tracks"]
    assert [[(s["frame"], s["outside"]) for s in part["shapes"]] for part in joined] == [
        [(0, False), (4, False), (5, True)],
        [(5, False), (9, False)],
    ]


def test_parts_that_overlap_become_one_again() -> None:
    track = _track([_shape(0, [0, 0, 50, 50]), _shape(8, [8, 0, 58, 50])])
    parts = [(start, slice_payload(_payload(track), start, start + 4)) for start in (0, 4)]
    (joined,) = join_payloads(parts, overlap=1)["tracks"]
    assert [shape["frame"] for shape in joined["shapes"]] == [0, 4, 8]


def test_keyframes_made_at_a_border_have_no_id_yet() -> None:
    track = _track([{**_shape(0, [0, 0, 9, 9]), "id": 5}, {**_shape(9, [9, 0, 18, 9]), "id": 6}])
    parts = [slice_payload(_payload(track), start, start + 4)["tracks"][0]["shapes"] for start in (0, 5)]
    assert [[shape.get("id") for shape in part] for part in parts] == [[5, None], [None, 6]]


def test_masks_cannot_be_cut() -> None:
    track = _track([_shape(0, [0, 4, 0, 0, 1, 1], "mask"), _shape(9, [0, 4, 0, 0, 1, 1], "mask")])
    with pytest.raises(ServerFaultError, match="mask"):
        slice_payload(_payload(track), 0, 4)


def test_a_polygon_may_change_its_number_of_corners() -> None:
    left, right = [0, 0, 50, 0, 50, 50], [110, 0, 160, 0, 160, 50, 110, 50]
    track = _track([_shape(0, left, "polygon"), _shape(11, right, "polygon")])
    middle = interpolate_track(track, 0, 12)[3]
    # As a real server answered.
    assert middle["points"] == pytest.approx([30, 0, 80, 0, 80, 50, 66.36363636, 50])


def test_polylines_and_points_hold_still() -> None:
    for kind in ("polyline", "points"):
        track = _track([_shape(0, [0, 0, 9, 9], kind), _shape(4, [8, 8, 20, 20], kind)])
        assert [shape["points"][0] for shape in interpolate_track(track, 0, 5)] == [0, 0, 0, 0, 8]
