"""Labels to CVAT's shapes and back: masks bit for bit, boxes to a thousandth of a pixel, nothing lost beside them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import fiftyone as fo
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from labelprop_cvat.backend.cvat import check_payload, mask_to_points
from labelprop_cvat.backend.cvat.models import Attribute, Label, LabelMap
from labelprop_cvat.backend.ledger import LabelRecord
from labelprop_cvat.backend.schema import FieldSchema, RunSchema, run_schema
from labelprop_cvat.backend.shapes import (
    DrawnKeyframe,
    Placed,
    attribute_texts,
    drawn_mask,
    fingerprint,
    is_sendable,
    paint_segmentation,
    read_annotations,
    scalar_value,
    update_label,
    write_annotations,
)
from labelprop_cvat.labels import detection_to_box, detection_to_mask, mask_to_detection
from labelprop_cvat.propagation.types import ObjectMask

LABELS = {"car": LabelRecord(4, {"index": 11, "pose": 12, "plate": 13})}
ATTRIBUTES = {
    "pose": {"type": "select", "values": ["up", "down"], "default": "up", "mutable": True},
    "plate": {"type": "text", "mutable": False},
}


def run(kind: str) -> RunSchema:
    return run_schema(
        {"objects": {"type": kind, "classes": ["car"], "attributes": ATTRIBUTES}},
        occluded_attr="hidden",
        group_id_attr="crowd",
    )


def schema(kind: str) -> FieldSchema:
    return run(kind)["objects"]


def stored(body: dict[str, Any]) -> dict[str, Any]:
    """The body as CVAT would give it back: with ids, floats and all keys."""
    number = iter(range(100, 10**6))
    shapes = [
        {"id": next(number), "outside": False, **s, "points": [float(p) for p in s["points"]]} for s in body["shapes"]
    ]
    tracks = [
        {**t, "id": next(number), "shapes": [{"id": next(number), **s} for s in t["shapes"]]} for t in body["tracks"]
    ]
    return {"tags": [], "shapes": shapes, "tracks": tracks}


texts = st.text(st.characters(codec="utf-8", exclude_characters="\x00"), min_size=1, max_size=5)
sizes = st.tuples(st.integers(8, 700), st.integers(8, 700))


@st.composite
def masks(draw: st.DrawFn) -> tuple[tuple[int, int], ObjectMask]:
    height, width = draw(sizes)
    h, w = draw(st.integers(1, min(12, height))), draw(st.integers(1, min(12, width)))
    crop = draw(hnp.arrays(bool, (h, w)))
    x, y = draw(st.integers(0, width - w)), draw(st.integers(0, height - h))
    crop[0, 0] = True
    mask = ObjectMask.from_crop(x, y, crop)
    assert mask is not None
    return (height, width), mask


@given(case=masks(), occluded=st.booleans(), crowd=st.integers(1, 9), plate=texts)
@settings(max_examples=150, deadline=None)
def test_a_mask_goes_there_and_back(
    case: tuple[tuple[int, int], ObjectMask], occluded: bool, crowd: int, plate: str
) -> None:
    size, mask = case
    placed = mask_to_detection(mask, size)
    assert placed is not None
    label = fo.Detection(label="car", bounding_box=placed[0], mask=placed[1], index=3)
    label["hidden"], label["crowd"], label["plate"], label["pose"] = occluded, crowd, plate, "down"
    body = write_annotations([Placed(2, 3, label, schema("instances"), size)], range(4), LABELS).body
    found = read_annotations(stored(body), LABELS, run("instances"))
    (drawn,) = found.objects
    assert not found.others
    assert (drawn.index, drawn.label, drawn.is_track) == (3, "car", False)
    back = update_label(None, drawn, drawn.keyframes[0], schema("instances"), size)
    assert back is not None
    assert detection_to_mask(back, size) == mask
    assert (back.hidden, back.crowd, back.plate, back.pose) == (occluded, crowd, plate, "down")
    kept = update_label(label, drawn, drawn.keyframes[0], schema("instances"), size)
    assert kept is not None
    assert kept.id == label.id
    assert kept.bounding_box == label.bounding_box


@st.composite
def box_tracks(draw: st.DrawFn) -> tuple[tuple[int, int], dict[int, tuple[float, ...]]]:
    height, width = draw(sizes)

    def box() -> tuple[float, ...]:
        x1, y1 = draw(st.floats(-5, width - 1)), draw(st.floats(-5, height - 1))
        return x1, y1, x1 + draw(st.floats(0.5, width)), y1 + draw(st.floats(0.5, height))

    frames = draw(st.sets(st.integers(0, 5), min_size=1))
    return (height, width), {frame: box() for frame in frames}


@given(case=box_tracks(), rotation=st.floats(1, 359))
@settings(max_examples=150, deadline=None)
def test_boxes_of_one_index_go_there_and_back_as_one_track(
    case: tuple[tuple[int, int], dict[int, tuple[float, ...]]], rotation: float
) -> None:
    size, boxes = case
    height, width = size
    labels = {
        frame: fo.Detection(
            label="car",
            bounding_box=[x1 / width, y1 / height, (x2 - x1) / width, (y2 - y1) / height],
            rotation=rotation,
        )
        for frame, (x1, y1, x2, y2) in boxes.items()
    }
    placed = [Placed(frame, 7, label, schema("detections"), size) for frame, label in labels.items()]
    body = write_annotations(placed, range(6), LABELS).body
    assert len(body["tracks"]) == 1
    (drawn,) = read_annotations(stored(body), LABELS, run("detections")).objects
    shown = {k.frame: k for k in drawn.keyframes if not k.outside}
    assert shown.keys() == boxes.keys()
    for keyframe in drawn.keyframes:
        assert keyframe.outside == (keyframe.frame not in boxes)
        assert not keyframe.outside or keyframe.frame - 1 in boxes
    for frame, keyframe in shown.items():
        back = update_label(None, drawn, keyframe, schema("detections"), size)
        assert back is not None
        assert detection_to_box(back, size) == pytest.approx(boxes[frame], abs=1e-3)
        assert back.rotation == rotation


def test_what_is_written_passes_the_checks_of_the_client() -> None:
    labels = LabelMap(
        [
            Label(
                4,
                "car",
                "any",
                "",
                (
                    Attribute(11, "index", False, "number", "0", ("0", "9", "1")),
                    Attribute(12, "pose", True, "select", "up", ("up", "down")),
                    Attribute(13, "plate", False, "text", "", ()),
                ),
            )
        ]
    )
    mask = np.ones((3, 4), bool)
    label = fo.Detection(label="car", bounding_box=[0.1, 0.1, 0.4, 0.3], mask=mask, plate="x")
    for kind in ("detections", "instances"):
        placed = [Placed(frame, 1, label, schema(kind), (10, 10)) for frame in (0, 2)]
        body = write_annotations(placed, range(3), LABELS).body
        check_payload(body, labels, range(3), ids="absent")


def keyframe(**changes: Any) -> DrawnKeyframe:
    values: dict[str, Any] = {"frame": 0, "shape_type": "rectangle", "points": (1.0, 2.0, 3.0, 4.0)}
    return DrawnKeyframe(**{**values, **changes})


def test_a_polygon_drawn_instead_of_a_mask_is_filled() -> None:
    found = drawn_mask(keyframe(shape_type="polygon", points=(2.0, 2.0, 6.0, 2.0, 6.0, 5.0, 2.0, 5.0)), (10, 10))
    assert found is not None
    assert found.box == (2, 2, 6, 5)
    assert found.area == 12


def test_a_turned_box_drawn_instead_of_a_mask_is_filled_as_it_stands() -> None:
    upright = drawn_mask(keyframe(points=(6.0, 2.0, 8.0, 12.0)), (14, 14))
    quarter = drawn_mask(keyframe(points=(2.0, 6.0, 12.0, 8.0), rotation=90.0), (14, 14))
    assert quarter == upright
    # Clockwise: the right end goes down.
    slanted = drawn_mask(keyframe(points=(1.0, 6.0, 13.0, 8.0), rotation=30.0), (14, 14))
    assert slanted is not None
    assert slanted.to_full((14, 14))[9, 10]
    assert not slanted.to_full((14, 14))[4, 10]


def test_a_mask_that_hangs_over_the_edge_is_cut_there() -> None:
    points = tuple(float(p) for p in mask_to_points(8, 8, np.ones((4, 4), bool)))
    found = drawn_mask(keyframe(shape_type="mask", points=points), (10, 10))
    assert found is not None
    assert found.box == (8, 8, 10, 10)


@pytest.mark.parametrize(
    "change",
    [
        {"points": (1.0, 2.0, 3.0, 4.002)},
        {"outside": True},
        {"occluded": True},
        {"rotation": 1.0},
        {"attributes": {"pose": "down"}},
    ],
)
def test_the_fingerprint_tells_every_change(change: dict[str, Any]) -> None:
    label = fo.Detection(label="car", bounding_box=[0.1, 0.1, 0.4, 0.3])
    body = write_annotations([Placed(0, 1, label, schema("detections"), (10, 10))], range(1), LABELS).body
    (drawn,) = read_annotations(stored(body), LABELS, run("detections")).objects
    assert fingerprint(drawn, keyframe()) == fingerprint(drawn, keyframe(points=(1.0, 2.0, 3.0, 4.0000001)))
    assert fingerprint(drawn, keyframe()) != fingerprint(drawn, keyframe(**change))


def test_shapes_that_the_field_does_not_hold_are_unexpected_and_others_are_counted() -> None:
    common = {"frame": 0, "label_id": 4, "attributes": []}
    payload = {
        "tags": [{"id": 3, **common}],
        "shapes": [
            {"id": 1, "type": "points", "points": [1, 2], **common},
            {"id": 2, "type": "cuboid", "points": [1] * 16, **common},
            {"id": 5, "type": "rectangle", "points": [1, 2, 3, 4], **common, "label_id": 99},
        ],
        "tracks": [{"id": 4, "shapes": [], **common}],
    }
    found = read_annotations(payload, LABELS, run("detections"))
    assert not found.objects
    assert [drawn.key for drawn in found.unexpected] == ["tag:3", "shape:1"]
    assert found.others == {"cuboid": 1, "unknown label": 1, "empty track": 1}


def test_a_label_of_another_class_stays_at_home() -> None:
    label = fo.Detection(label="tree", bounding_box=[0.1, 0.1, 0.4, 0.3])
    assert not is_sendable(label, schema("detections"), (10, 10))
    label.label = "car"
    assert is_sendable(label, schema("detections"), (10, 10))


# Every other conversion, there and back without a server

POINTS = st.tuples(st.floats(-0.5, 1.5), st.floats(-0.5, 1.5)).map(list)


def there_and_back(label: fo.Label, kind: str, size: tuple[int, int]) -> list[tuple[Any, DrawnKeyframe]]:
    """What CVAT would hold of one label, as it is read."""
    body = write_annotations([Placed(0, 1, label, schema(kind), size, tracked=False)], range(1), LABELS).body
    found = read_annotations(stored(body), LABELS, run(kind))
    assert not found.unexpected
    assert not found.others
    return [(drawn, drawn.keyframes[0]) for drawn in found.objects]


@given(
    size=sizes, rings=st.lists(st.lists(POINTS, min_size=3, max_size=6), min_size=1, max_size=3), filled=st.booleans()
)
@settings(max_examples=100, deadline=None)
def test_outlines_go_there_and_back(size: tuple[int, int], rings: list[Any], filled: bool) -> None:
    height, width = size
    kind = "polygons" if filled else "polylines"
    label = fo.Polyline(label="car", points=rings, closed=filled, filled=filled)
    drawn = there_and_back(label, kind, size)
    assert len(drawn) == len(rings)
    first, outlines = drawn[0], [keyframe.points for _, keyframe in drawn[1:]]
    anew = update_label(None, *first, schema(kind), size, outlines=outlines)
    assert anew is not None
    assert (anew.closed, anew.filled) == (filled, filled)
    for one, other in zip(anew.points, rings, strict=True):
        assert np.allclose(np.array(one) * [width, height], np.array(other) * [width, height], rtol=0, atol=1e-3)
    kept = update_label(label, *first, schema(kind), size)
    assert kept is not None
    assert len(rings) > 1 or kept.points == label.points


@given(size=sizes, points=st.lists(POINTS | st.just([float("nan")] * 2), min_size=1, max_size=6), data=st.data())
@settings(max_examples=100, deadline=None)
def test_points_go_there_and_back(size: tuple[int, int], points: list[list[float]], data: st.DataObject) -> None:
    height, width = size
    confidence = data.draw(st.none() | st.lists(st.floats(0, 1), min_size=len(points), max_size=len(points)))
    label = fo.Keypoint(label="car", points=points, confidence=confidence)
    if all(np.isnan(points).ravel()):
        assert not is_sendable(label, schema("keypoints"), size)
        return
    ((drawn, keyframe),) = there_and_back(label, "keypoints", size)
    anew = update_label(None, drawn, keyframe, schema("keypoints"), size)
    assert anew is not None
    expected = [point for point in points if not np.isnan(point).any()]
    assert np.allclose(np.array(anew.points) * [width, height], np.array(expected) * [width, height], rtol=0, atol=1e-3)
    # Moved as a whole, points that were not there stay so, and each keeps its confidence.
    moved = replace(keyframe, points=tuple(value + 5 for value in keyframe.points))
    edited = update_label(label, drawn, moved, schema("keypoints"), size)
    assert edited is not None
    assert edited.confidence == confidence
    shifted = np.array(points) * [width, height] + 5
    assert np.allclose(np.array(edited.points) * [width, height], shifted, rtol=0, atol=1e-3, equal_nan=True)


TARGETS: dict[bool, dict[int | str, str]] = {
    False: {0: "nothing", 1: "car", 255: "sky", 7: "tree"},
    True: {"#000001": "car", "#ff8000": "sky", "#0a0b0c": "tree"},
}


@given(size=st.tuples(st.integers(1, 40), st.integers(1, 40)), in_colour=st.booleans(), data=st.data())
@settings(max_examples=100, deadline=None)
def test_segmentations_go_there_and_back(size: tuple[int, int], in_colour: bool, data: st.DataObject) -> None:
    targets = TARGETS[in_colour]
    info = {"type": "segmentation", "classes": [v for k, v in targets.items() if k != 0], "mask_targets": targets}
    of_run = run_schema({"stuff": info})
    labels = {name: LabelRecord(number) for number, name in enumerate(of_run["stuff"].classes, start=3)}
    values = [int(t.lstrip("#"), 16) if isinstance(t, str) else t for t in targets]
    pixels = data.draw(hnp.arrays(np.int64, size, elements=st.sampled_from([*values, 0, 99])))
    mask = pixels.astype(np.uint8)
    if in_colour:
        mask = np.stack([(pixels >> shift) & 255 for shift in (16, 8, 0)], axis=-1).astype(np.uint8)
    label = fo.Segmentation(mask=mask)
    body = write_annotations([Placed(0, 0, label, of_run["stuff"], size)], range(1), labels).body
    drawn = read_annotations(stored(body), labels, of_run).objects
    shapes = [(entry.label, entry.keyframes[0]) for entry in drawn]
    # Values that the run does not annotate are nobody's to change, and nowhere to be seen in CVAT.
    again = paint_segmentation(label, shapes, of_run["stuff"], size)
    assert np.array_equal(again.mask, mask)
    assert again.mask.dtype == mask.dtype
    anew = paint_segmentation(None, shapes, of_run["stuff"], size)
    assert np.array_equal(anew.mask, np.where(np.expand_dims(pixels == 99, -1) if in_colour else pixels == 99, 0, mask))


@given(value=st.integers(-(2**53), 2**53) | st.floats(allow_nan=False) | st.booleans() | texts)
def test_plain_values_go_there_and_back(value: Any) -> None:
    of_run = run_schema({"word": {"type": "scalar"}})
    labels = {"word": LabelRecord(3, {"value": 9})}
    body = write_annotations([Placed(0, 0, value, of_run["word"], (1, 1))], range(1), labels).body
    tags = [{**tag, "id": 5} for tag in body["tags"]]
    (drawn,) = read_annotations({"tags": tags}, labels, of_run).objects
    kinds = {bool: fo.BooleanField, int: fo.IntField, float: fo.FloatField, str: fo.StringField}
    back = scalar_value(drawn, drawn.keyframes[0], of_run["word"], kinds[type(value)](), None)
    assert (back, type(back)) == (value, type(value))


@pytest.mark.parametrize(
    ("own", "shown", "after"), [(-30, 330.0, -30), (45, 45.0, 45), (45, 50.0, 50.0), (None, 0.0, None)]
)
def test_a_moved_box_keeps_its_angle_as_it_was_written(own: int | None, shown: float, after: float | None) -> None:
    label = fo.Detection(label="car", bounding_box=[0.1, 0.1, 0.4, 0.3], rotation=own)
    body = write_annotations([Placed(0, 1, label, schema("detections"), (10, 10))], range(1), LABELS).body
    (drawn,) = read_annotations(stored(body), LABELS, run("detections")).objects
    assert drawn.keyframes[0].rotation == (own or 0) % 360
    moved = update_label(label, drawn, keyframe(rotation=shown), schema("detections"), (10, 10))
    assert moved is not None
    assert (moved.bounding_box, moved.rotation) == (pytest.approx([0.1, 0.2, 0.2, 0.2]), after)
    assert type(moved.rotation) is type(after)


def test_only_a_group_that_a_person_changed_reaches_the_labels_of_a_track() -> None:
    labels = [fo.Detection(label="car", bounding_box=[0.1, 0.1, 0.4, 0.3], crowd=crowd) for crowd in (3, None, 5)]
    placed = [Placed(frame, 1, label, schema("detections"), (10, 10)) for frame, label in enumerate(labels)]
    body = write_annotations(placed, range(3), LABELS).body
    (drawn,) = read_annotations(stored(body), LABELS, run("detections")).objects
    for group, expected in ((3, [3, None, 5]), (7, [7, 7, 7]), (0, [None, None, None])):
        for label, shown, after in zip(labels, drawn.keyframes, expected, strict=True):
            seen = attribute_texts(drawn, shown)
            moved = replace(shown, points=(1.0, 2.0, 3.0, 4.0))
            updated = update_label(label, replace(drawn, group=group), moved, schema("detections"), (10, 10), seen)
            assert updated is not None
            assert updated.crowd == after
