"""The shared types refuse malformed values when they are made and lose nothing."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from labelprop_cvat.errors import DataError
from labelprop_cvat.propagation.types import (
    FrameObjects,
    ObjectMask,
    ObjectState,
    Prompt,
    PromptKind,
    Segment,
    rasterize,
)

MASK = ObjectMask(2, 3, np.ones((4, 5), bool))
SQUARE = ((10.0, 10.0), (20.0, 10.0), (20.0, 16.0), (10.0, 16.0))

full_masks = hnp.arrays(bool, st.tuples(st.integers(1, 24), st.integers(1, 24)))


class TestObjectMask:
    @given(full_masks)
    def test_full_frame_there_and_back(self, full: np.ndarray) -> None:
        mask = ObjectMask.from_full(full)
        if mask is None:
            assert not full.any()
            return
        np.testing.assert_array_equal(mask.to_full(full.shape), full)
        x1, y1, x2, y2 = mask.box
        assert full[y1:y2, x1:x2].shape == mask.crop.shape
        assert mask.area == full.sum()

    @given(full_masks, st.integers(0, 50), st.integers(0, 50))
    def test_margins_are_trimmed(self, full: np.ndarray, x: int, y: int) -> None:
        mask = ObjectMask.from_crop(x, y, full)
        padded = ObjectMask.from_crop(x, y, np.pad(full, ((0, 3), (0, 2))))
        assert mask == padded
        if mask is not None:
            assert hash(mask) == hash(padded)
            assert ObjectMask(mask.x, mask.y, mask.crop) == mask

    @given(full_masks, st.tuples(st.integers(1, 30), st.integers(1, 30)))
    def test_what_lies_outside_is_cut_off(self, full: np.ndarray, size: tuple[int, int]) -> None:
        mask = ObjectMask.from_full(full)
        if mask is None:
            return
        expected = np.zeros(size, bool)
        shared = full[: size[0], : size[1]]
        expected[: shared.shape[0], : shared.shape[1]] = shared
        np.testing.assert_array_equal(mask.to_full(size), expected)

    def test_nobody_changes_it(self) -> None:
        source = np.ones((3, 3), bool)
        mask = ObjectMask(0, 0, source)
        source[1, 1] = False
        assert mask.area == 9
        with pytest.raises(ValueError, match="read-only"):
            mask.crop[0, 0] = False
        assert MASK != "mask"

    @pytest.mark.parametrize(
        ("x", "y", "crop", "words"),
        [
            (0, 0, np.ones((2, 2), np.uint8), "2-D bool array"),
            (0, 0, np.ones((2, 2, 1), bool), "2-D bool array"),
            (0, 0, [[True]], "2-D bool array"),
            (0, 0, np.zeros((0, 3), bool), "tight"),
            (0, 0, np.zeros((2, 2), bool), "tight"),
            (0, 0, np.array([[True, False]]), "tight"),
            (-1, 0, np.ones((1, 1), bool), "inside the frame"),
            (0, -1, np.ones((1, 1), bool), "inside the frame"),
        ],
    )
    def test_malformed(self, x: int, y: int, crop: Any, words: str) -> None:
        with pytest.raises(DataError, match=words):
            ObjectMask(x, y, crop)


class TestRasterize:
    def test_pixels_whose_centre_is_inside(self) -> None:
        mask = rasterize((((10, 10), (20, 10), (20, 16), (10, 16)),), (40, 40))
        assert mask is not None
        x1, y1, x2, y2 = mask.box
        assert (x1, y1) == (10, 10)
        assert x2 in (20, 21)
        assert y2 in (16, 17)

    def test_a_ring_inside_a_ring_is_a_hole(self) -> None:
        outer = ((0, 0), (20, 0), (20, 20), (0, 20))
        inner = ((5, 5), (15, 5), (15, 15), (5, 15))
        mask = rasterize((outer, inner), (30, 30))
        assert mask is not None
        assert not mask.to_full((30, 30))[10, 10]
        assert mask.to_full((30, 30))[2, 2]

    def test_nothing_inside_the_frame(self) -> None:
        assert rasterize((((50, 50), (60, 50), (60, 60)),), (30, 30)) is None


class TestPrompt:
    @pytest.mark.parametrize(
        ("content", "kind"),
        [
            ({"mask": MASK}, PromptKind.MASK),
            ({"box": (0, 1, 2, 3)}, PromptKind.BOX),
            ({"polygon": (SQUARE,)}, PromptKind.POLYGON),
            ({"points": ((1, 2),)}, PromptKind.POINTS),
            ({"absent": True}, PromptKind.ABSENT),
            ({"mask": MASK, "points": ((1, 2),), "point_labels": (0,)}, PromptKind.MASK),
        ],
    )
    def test_kinds(self, content: dict[str, Any], kind: PromptKind) -> None:
        assert Prompt(0, 1, **content).kind is kind

    @pytest.mark.parametrize(
        ("content", "words"),
        [
            ({}, "exactly one .* got none"),
            ({"mask": MASK, "box": (0, 0, 1, 1)}, "got mask, box"),
            ({"mask": MASK, "absent": True}, "got mask, absent"),
            ({"box": (0, 0, 0, 1)}, "x2 > x1"),
            ({"box": (0, 0, float("nan"), 1)}, "finite"),
            ({"box": (0, 0, 1)}, "four"),
            ({"polygon": ()}, "three or more"),
            ({"polygon": (((0, 0), (1, 1)),)}, "three or more"),
            ({"polygon": (((0, 0), (1, 1), (float("inf"), 2)),)}, "finite"),
            ({"points": ()}, "one label"),
            ({"points": ((1, 2),), "point_labels": (1, 0)}, "one label"),
            ({"points": ((1, 2),), "point_labels": (2,)}, "one label"),
        ],
    )
    def test_malformed(self, content: dict[str, Any], words: str) -> None:
        with pytest.raises(DataError, match=words):
            Prompt(0, 1, **content)

    @pytest.mark.parametrize(("frame", "object_id"), [(-1, 1), (0.5, 1), (0, 0), (0, -3), (0, 1.5)])
    def test_numbers(self, frame: Any, object_id: Any) -> None:
        with pytest.raises(DataError, match="counts from"):
            Prompt(frame, object_id, absent=True)

    def test_points_without_labels_are_on_the_object(self) -> None:
        assert Prompt(0, 1, points=((1, 2), (3, 4))).point_labels == (1, 1)


class TestSegment:
    def test_frames(self) -> None:
        segment = Segment(3, 6)
        assert (len(segment), list(segment.frames)) == (3, [3, 4, 5])
        assert [frame in segment for frame in (2, 3, 5, 6)] == [False, True, True, False]
        assert np.int64(4) in segment
        assert "4" not in segment

    @pytest.mark.parametrize("bounds", [(3, 3), (4, 3), (-1, 3), (0.5, 2)])
    def test_malformed(self, bounds: tuple[Any, Any]) -> None:
        with pytest.raises(DataError):
            Segment(*bounds)


class TestStates:
    @pytest.mark.parametrize("confidence", [-0.1, 1.1, float("nan")])
    def test_confidence(self, confidence: float) -> None:
        with pytest.raises(DataError, match=r"\[0, 1\]"):
            ObjectState(mask=MASK, confidence=confidence)

    def test_geometry_is_needed(self) -> None:
        with pytest.raises(DataError, match="leave an invisible object out"):
            ObjectState()
        with pytest.raises(DataError, match="x2 > x1"):
            ObjectState(box=(3, 0, 1, 1))

    @settings(max_examples=20)
    @given(st.integers(0, 100))
    def test_frame_objects_do_not_follow_their_source(self, frame: int) -> None:
        objects = {1: ObjectState(mask=MASK)}
        found = FrameObjects(frame, objects)
        objects.clear()
        assert set(found.objects) == {1}
        with pytest.raises(TypeError):
            found.objects[2] = ObjectState(mask=MASK)  # type: ignore[index]
        with pytest.raises(DataError):
            FrameObjects(-1)
