"""What the client checks before it sends, mask points there and back, and contents compared after a lost answer."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from labelprop_cvat.backend.cvat import (
    Attribute,
    AttributeSpec,
    Invalid,
    InvalidPayload,
    Label,
    LabelMap,
    LabelMissing,
    LabelSpec,
    check_payload,
    mask_to_points,
    points_to_mask,
)
from labelprop_cvat.backend.cvat.annotations import check_deletion
from labelprop_cvat.backend.cvat.matching import batches, find_new, same
from labelprop_cvat.errors import DataError

INDEX = Attribute(11, "index", False, "number", "0", ("0", "100", "1"))
SPEED = Attribute(12, "speed", True, "select", "slow", ("slow", "fast"))
HIDDEN = Attribute(13, "hidden", True, "checkbox", "false", ("false",))
NOTE = Attribute(14, "note", False, "text", "", ("",))
CAR = Label(1, "car", "any", "", (INDEX, SPEED, HIDDEN, NOTE))
BOX = Label(2, "box", "rectangle", "", (Attribute(21, "index", False, "number", "0", ("0", "100", "1")),))
TRUCK = Label(3, "truck", "any", "", (Attribute(31, "wheels", False, "number", "", ("2", "18", "1")),))
LABELS = LabelMap([CAR, BOX, TRUCK])
FRAMES = range(10, 20)


def shape(**changes: Any) -> dict[str, Any]:
    base: dict[str, Any] = {"type": "rectangle", "label_id": 1, "frame": 10, "points": [1, 2, 3, 4], "attributes": []}
    return {**base, **changes}


def keyframe(**changes: Any) -> dict[str, Any]:
    return {"type": "rectangle", "frame": 10, "points": [1, 2, 3, 4], "attributes": [], **changes}


def track(*keyframes: dict[str, Any], **changes: Any) -> dict[str, Any]:
    return {"label_id": 1, "frame": 10, "attributes": [], "shapes": list(keyframes), **changes}


def check(shapes: list[Any] = (), tracks: list[Any] = (), tags: list[Any] = (), **extra: Any) -> None:  # type: ignore[assignment]
    check_payload({"shapes": shapes, "tracks": tracks, "tags": tags, **extra}, LABELS, FRAMES, ids="absent")


def value(spec: int, text: object) -> list[dict[str, Any]]:
    return [{"spec_id": spec, "value": text}]


MASK = mask_to_points(3, 4, np.ones((2, 5), bool))


@pytest.mark.parametrize(
    "item",
    [
        shape(),
        shape(frame=19, attributes=value(11, "7") + value(12, "fast") + value(13, "true") + value(14, "any text")),
        shape(type="polygon", points=[1, 2, 3, 4, 5.5, 6]),
        shape(type="polyline", points=[1, 2, 3, 4]),
        shape(type="points", points=[1, 2]),
        shape(type="ellipse", points=[5, 5, 9, 2]),
        shape(type="cuboid", points=[float(n) for n in range(16)]),
        shape(type="mask", points=MASK),
        shape(type="mask", points=[float(p) for p in MASK]),
        shape(label_id=2),
        shape(points=[-5.5, -1, 700, 900]),
        shape(label_id=3, attributes=value(31, "")),
        shape(outside=False, occluded=True, rotation=10.0, z_order=2, group=1, source="labelprop"),
    ],
    ids=lambda s: s["type"],
)
def test_good_shapes_pass(item: dict[str, Any]) -> None:
    check(shapes=[item])


def test_good_tracks_and_tags_pass() -> None:
    later = keyframe(frame=15, outside=True, attributes=value(12, "fast"))
    check(
        tracks=[track(later, keyframe(), attributes=value(11, "3"))],
        tags=[{"label_id": 1, "frame": 12, "attributes": value(11, "3")}],
        version=0,
    )


@pytest.mark.parametrize(
    ("item", "said"),
    [
        (shape(frame=9), "frame 9, but the frames here are 10..19"),
        (shape(frame=20), "frame 20"),
        (shape(frame="10"), "frame '10'"),
        (shape(frame=True), "frame True"),
        (shape(frame=None), "frame None"),
        (shape(label_id=99), 'No label has id 99 on the server, which has 1 ("car"), 2 ("box"), 3 ("truck")'),
        (shape(type="blob"), "type 'blob'"),
        (shape(type=None), "type None"),
        (shape(points=[1, 2, 3]), "needs 4 numbers"),
        (shape(points=[1, 2, math.nan, 4]), "not finite"),
        (shape(points=[1, 2, math.inf, 4]), "not finite"),
        (shape(points=["1", 2, 3, 4]), "not finite"),
        (shape(points="1,2,3,4"), "as a list"),
        (shape(points=None), "as a list"),
        (shape(points=[3, 2, 1, 4]), "x2 > x1"),
        (shape(points=[1, 2, 3, 2]), "y2 > y1"),
        (shape(type="polygon", points=[1, 2, 3, 4]), "at least 3"),
        (shape(type="polygon", points=[1, 2, 3, 4, 5, 6, 7]), "pairs of x and y"),
        (shape(type="polyline", points=[1, 2]), "at least 2"),
        (shape(type="points", points=[]), "at least 1"),
        (shape(type="mask", points=[1, 2, 3, 4]), "at least 5 numbers"),
        (shape(type="mask", points=[0, 9, 3, 4, 7, 5]), "fill its box of 5x2 = 10 pixels, they sum to 9"),
        (shape(type="mask", points=[0, 11, 3, 4, 7, 5]), "they sum to 11"),
        (shape(type="mask", points=[-1, 11, 3, 4, 7, 5]), "runs must fill"),
        (shape(type="mask", points=[0.5, 9.5, 3, 4, 7, 5]), "whole numbers"),
        (shape(type="mask", points=[0, 10, 7, 4, 3, 5]), "inclusive"),
        (shape(type="mask", points=[0, 10, -1, 4, 3, 5]), "inclusive"),
        (shape(type="skeleton", points=[]), "no elements"),
        (shape(label_id=2, type="polygon", points=[1, 2, 3, 4, 5, 6]), '"box", which is for rectangle only'),
        (shape(attributes=value(21, "1")), 'attribute 21 is not one of label "car", which has 11 ("index")'),
        (shape(attributes=value(11, "1") * 2), '"index" twice'),
        (shape(attributes=value(11, 1)), "must be text, got 1"),
        (shape(attributes=value(11, "x")), "takes a number"),
        (shape(attributes=value(11, "101")), "takes a number"),
        (shape(attributes=value(12, "medium")), "takes one of slow, fast, got 'medium'"),
        (shape(attributes=value(13, "yes")), "takes true or false"),
        (shape(id=4), "has id 4"),
        ("shape", "must be a mapping"),
    ],
)
def test_bad_shapes_are_refused_by_name(item: Any, said: str) -> None:
    with pytest.raises(InvalidPayload) as caught:
        check(shapes=[shape(), item])
    assert said in str(caught.value)
    assert "Shape 1" in str(caught.value)
    assert isinstance(caught.value, DataError)


@pytest.mark.parametrize(
    ("item", "said"),
    [
        (track(), "no shapes"),
        (track(keyframe(), keyframe(frame=11), keyframe(frame=11)), "two keyframes on frame 11"),
        (track(keyframe(type="mask", points=MASK)), "mask track, which CVAT's web UI cannot open"),
        (track(keyframe(), keyframe(frame=11, type="polygon", points=[1, 2, 3, 4, 5, 6])), "mixes"),
        (track(keyframe(frame=20)), "frame 20"),
        (track(keyframe(points=[1])), "keyframe 10"),
        (track(keyframe(), attributes=value(12, "fast")), '"speed" is mutable: it belongs on each keyframe'),
        (track(keyframe(attributes=value(11, "1"))), '"index" is immutable: it belongs on the track itself'),
        (track(keyframe(), label_id=7), "No label has id 7"),
        (track(keyframe(), id=3), "has id 3"),
    ],
)
def test_bad_tracks_are_refused_by_name(item: dict[str, Any], said: str) -> None:
    with pytest.raises(InvalidPayload) as caught:
        check(tracks=[item])
    assert said in str(caught.value)
    assert "Track 0" in str(caught.value)


def test_a_label_for_shapes_makes_no_tag() -> None:
    with pytest.raises(InvalidPayload, match="rectangle only, not for tag"):
        check(tags=[{"label_id": 2, "frame": 12}])


def test_what_people_left_on_the_server_may_be_written_again() -> None:
    left = [
        shape(id=1, attributes=value(11, "999")),
        shape(id=2, attributes=value(12, "renamed since")),
        shape(id=3, points=[1, 2, 1, 4]),
    ]
    check_payload({"shapes": left}, LABELS, FRAMES, ids="required")
    for item in left:
        with pytest.raises(InvalidPayload):
            check(shapes=[{**item, "id": None}])
    for item in (shape(id=1, frame=9), shape(id=1, attributes=value(21, "1")), shape(id=1, points=[1, 2, 3, math.nan])):
        with pytest.raises(InvalidPayload):
            check_payload({"shapes": [item]}, LABELS, FRAMES, ids="required")


def test_unknown_keys_are_refused_because_the_server_drops_them() -> None:
    with pytest.raises(InvalidPayload, match="drop score"):
        check(score=1)


def test_deletion_needs_what_the_server_needs() -> None:
    check_deletion({"shapes": [shape(id=1)], "tracks": [track(keyframe(), id=1)]})
    with pytest.raises(InvalidPayload, match="Track 0 cannot be deleted without id"):
        check_deletion({"tracks": [track(keyframe())]})


# Masks


@given(
    hnp.arrays(np.bool_, hnp.array_shapes(min_dims=2, max_dims=2, min_side=1, max_side=40)),
    st.integers(0, 5000),
    st.integers(0, 5000),
)
def test_masks_survive_there_and_back(crop: npt.NDArray[np.bool_], x: int, y: int) -> None:
    points = mask_to_points(x, y, crop)
    left, top, back = points_to_mask(points)
    assert (left, top) == (x, y)
    np.testing.assert_array_equal(back, crop)
    assert all(isinstance(p, int) for p in points)
    assert all(run > 0 for run in points[1:-4]), "runs after the first are never empty"
    again = points_to_mask([float(p) for p in points])
    np.testing.assert_array_equal(again[2], crop)


def test_mask_points_as_recorded() -> None:
    crop = np.zeros((3, 4), bool)
    crop[0, 1:3] = True
    crop[2, 3] = True
    assert mask_to_points(10, 20, crop) == [1, 2, 8, 1, 10, 20, 13, 22]
    assert mask_to_points(10, 10, np.ones((10, 10), np.uint8)) == [0, 100, 10, 10, 19, 19]
    assert mask_to_points(0, 0, np.zeros((1, 3), bool)) == [3, 0, 0, 2, 0]


@pytest.mark.parametrize(
    ("x", "y", "crop"),
    [(0, 0, np.zeros((0, 3))), (0, 0, np.zeros(3)), (-1, 0, np.ones((2, 2))), (0, -1, np.ones((2, 2)))],
)
def test_masks_that_are_none(x: int, y: int, crop: npt.NDArray[np.float64]) -> None:
    with pytest.raises(InvalidPayload):
        mask_to_points(x, y, crop)


def test_a_large_mask_is_quick() -> None:
    crop = np.random.default_rng(0).random((1080, 1920)) < 0.5
    np.testing.assert_array_equal(points_to_mask(mask_to_points(0, 0, crop))[2], crop)


# Labels to create


@pytest.mark.parametrize(
    "make",
    [
        lambda: AttributeSpec("x", input_type="choice"),
        lambda: AttributeSpec("x", input_type="select"),
        lambda: AttributeSpec("x", input_type="number", values=("0", "1")),
        lambda: AttributeSpec(""),
        lambda: AttributeSpec("n" * 65),
        lambda: LabelSpec(""),
        lambda: LabelSpec("car", type="circle"),
        lambda: LabelSpec("car", (AttributeSpec("a"), AttributeSpec("a"))),
    ],
)
def test_specs_that_the_server_would_refuse(make: Any) -> None:
    with pytest.raises(Invalid):
        make()


def test_specs_become_json() -> None:
    spec = LabelSpec("car", (AttributeSpec("n", True, "number", (0, 9, 1), 3),), color="#00ff00")  # type: ignore[arg-type]
    assert spec.to_json() == {
        "name": "car",
        "type": "any",
        "color": "#00ff00",
        "attributes": [
            {"name": "n", "mutable": True, "input_type": "number", "values": ["0", "9", "1"], "default_value": "3"}
        ],
    }


def test_label_maps_know_ids_and_names() -> None:
    assert list(LABELS) == [CAR, BOX, TRUCK]
    assert len(LABELS) == 3
    assert "car" in LABELS
    assert "cat" not in LABELS
    assert LABELS.by_id(2) is BOX
    with pytest.raises(LabelMissing, match="no labels at all"):
        LabelMap([]).label("car")


# Contents compared


def numbered(items: list[dict[str, Any]], first: int) -> list[dict[str, Any]]:
    return [{**item, "id": first + n} for n, item in enumerate(items)]


def test_what_was_there_before_is_not_taken_for_new() -> None:
    sent = {"shapes": [shape(), shape()]}
    there = {"shapes": numbered([shape()] * 3, 1)}
    found, count = find_new(sent, there, {("shapes", 1), ("shapes", 2)})
    assert count == 1
    assert [m and m["id"] for _, _, m in found] == [3, None]
    assert find_new(sent, there, {("shapes", n) for n in (1, 2, 3)})[1] == 0


def test_equal_outlines_are_told_apart_by_attributes() -> None:
    first, second = shape(attributes=value(11, "1")), shape(attributes=value(11, "2"))
    there = numbered([second, first], 5)
    found, _ = find_new({"shapes": [first, second]}, {"shapes": there}, set())
    assert [m and m["id"] for _, _, m in found] == [6, 5]


def test_values_that_the_server_rewrites_are_recognized_by_the_outline() -> None:
    first, second = shape(attributes=value(13, "True")), shape(frame=11, attributes=value(11, "7"))
    there = numbered([shape(attributes=value(13, "true")), shape(frame=11, attributes=value(11, "7.0"))], 5)
    assert find_new({"shapes": [first, second]}, {"shapes": there}, set())[1] == 2


def test_what_the_server_adds_does_not_matter() -> None:
    sent = track(keyframe(points=[1, 2, 3, 4.5]), keyframe(frame=12), attributes=value(11, "1"))
    there = track(
        keyframe(frame=12, id=8, outside=False, z_order=0, attributes=value(12, "slow")),
        keyframe(points=[1.0, 2.0, 3.0, 4.5000000001], id=7, rotation=0.0, attributes=value(12, "slow")),
        attributes=value(11, "1") + value(14, ""),
        id=3,
        source="manual",
        elements=[],
    )
    assert same("tracks", sent, there)
    assert find_new({"tracks": [sent]}, {"tracks": [there]}, set())[1] == 1
    assert not same("tracks", {**sent, "attributes": value(11, "2")}, there)
    assert not same("tracks", {**sent, "label_id": 2}, there)
    assert not same("tracks", {**sent, "shapes": sent["shapes"][:1]}, there)
    assert not same("shapes", shape(points=[1, 2, 3, 5]), shape())
    assert not same("shapes", shape(frame=11), shape())


@given(st.lists(st.integers(1, 400), max_size=30), st.integers(1, 1000))
def test_batches_hold_everything_in_order_below_the_limit(sizes: list[int], limit: int) -> None:
    shapes = [{"n": "x" * size} for size in sizes]
    cut = list(batches({"shapes": shapes}, limit))
    assert [s for batch in cut for s in batch["shapes"]] == shapes
    for batch in cut:
        assert len(batch["shapes"]) == 1 or sum(len(s["n"]) + 11 for s in batch["shapes"]) <= limit
