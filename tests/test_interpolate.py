"""The engines that never look at an image: linear interpolation as CVAT does it, and holding the nearest shape."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from labelprop_cvat.errors import ConfigurationError, DataError
from labelprop_cvat.propagation.interpolate import PolygonPath
from labelprop_cvat.propagation.metrics import jaccard
from labelprop_cvat.propagation.propagator import get_propagator, propagator_names
from labelprop_cvat.propagation.types import FrameObjects, ObjectMask, Prompt, Segment, rasterize


class _NoFrames:
    """Frames that nobody may read."""

    size = (100, 100)

    def __len__(self) -> int:
        return 1000

    def __getitem__(self, index: int) -> np.ndarray:
        raise AssertionError("this engine must not read frames")

    def read(self, start: int, stop: int, step: int = 1) -> Iterator[tuple[int, np.ndarray]]:
        raise AssertionError("this engine must not read frames")


def _run(engine: str, prompts: list[Prompt], stop: int, start: int = 0) -> list[FrameObjects]:
    results = list(get_propagator(engine).propagate(_NoFrames(), prompts, Segment(start, stop)))
    assert [result.frame for result in results] == list(range(start, stop))
    return results


def _square(x: float, y: float, side: float) -> tuple[tuple[float, float], ...]:
    return ((x, y), (x + side, y), (x + side, y + side), (x, y + side))


def _area(ring: tuple[tuple[float, float], ...]) -> float:
    x, y = np.array(ring).T
    return abs(float(np.dot(x, np.roll(y, -1)) - np.dot(np.roll(x, -1), y))) / 2


def test_both_engines_are_known_by_name() -> None:
    assert {"hold", "interpolate"} <= set(propagator_names())
    assert [get_propagator(name).spec.name for name in ("hold", "interpolate")] == ["hold", "interpolate"]
    with pytest.raises(ConfigurationError, match="no options"):
        get_propagator("hold", speed=3)


def test_boxes_move_linearly_nothing_before_the_first_and_held_after_the_last() -> None:
    prompts = [Prompt(2, 1, box=(0, 0, 10, 10)), Prompt(6, 1, box=(8, 4, 22, 10))]
    results = _run("interpolate", prompts, 9)
    assert [bool(r.objects) for r in results] == [False, False] + [True] * 7
    assert results[3].objects[1].box == (2.0, 1.0, 13.0, 10.0)
    assert results[5].objects[1].box == (6.0, 3.0, 19.0, 10.0)
    assert results[8].objects[1].box == (8.0, 4.0, 22.0, 10.0)
    assert [r.objects[1].keyframe for r in results[2:]] == [True, False, False, False, True, False, False]
    assert results[4].objects[1].exemplar_frames == (2, 6)
    assert results[2].objects[1].confidence == 1.0 > results[3].objects[1].confidence > 0.0
    assert results[4].objects[1].confidence < results[3].objects[1].confidence


def test_absent_ends_the_object_until_its_next_keyframe() -> None:
    box, later = (0.0, 0.0, 10.0, 10.0), (50.0, 0.0, 60.0, 10.0)
    prompts = [Prompt(0, 1, box=box), Prompt(3, 1, absent=True), Prompt(6, 1, box=later), Prompt(0, 2, box=box)]
    results = _run("interpolate", prompts, 8)
    assert [r.objects[1].box if 1 in r.objects else None for r in results] == [box] * 3 + [None] * 3 + [later] * 2
    assert all(r.objects[2].box == box for r in results)


def test_masks_hold() -> None:
    first, second = ObjectMask(1, 1, np.ones((3, 3), bool)), ObjectMask(9, 9, np.ones((4, 4), bool))
    results = _run("interpolate", [Prompt(1, 1, mask=first), Prompt(4, 1, mask=second)], 6)
    assert [r.objects[1].mask if r.objects else None for r in results] == [None] + [first] * 3 + [second] * 2


def test_a_change_of_geometry_holds() -> None:
    prompts = [Prompt(0, 1, box=(0, 0, 10, 10)), Prompt(4, 1, polygon=(_square(40, 40, 10),))]
    results = _run("interpolate", prompts, 6)
    assert [r.objects[1].box for r in results] == [(0, 0, 10, 10)] * 4 + [None] * 2


def test_polygons_keep_their_vertices_order_when_dragged() -> None:
    prompts = [Prompt(0, 1, polygon=(_square(0, 0, 10),)), Prompt(4, 1, polygon=(_square(8, 4, 14),))]
    assert _run("interpolate", prompts, 5)[1].objects[1].polygon == (_square(2, 1, 11),)


@pytest.mark.parametrize("reverse", [False, True])
def test_polygons_with_different_vertices_start_and_direction(reverse: bool) -> None:
    first = _square(10, 10, 30)
    dense = [(50 + x, 20 + y) for x, y in ((30, 15), (30, 30), (15, 30), (0, 30), (0, 15), (0, 0), (15, 0), (30, 0))]
    path = PolygonPath((first,), (tuple(dense[::-1] if reverse else dense),))
    for weight in (0.0, 0.25, 0.5, 1.0):
        expected = rasterize((_square(10 + 40 * weight, 10 + 10 * weight, 30),), (100, 100))
        assert jaccard(rasterize(path.at(weight), (100, 100)), expected) > 0.98


def test_polygons_of_several_rings_pair_by_place_and_size() -> None:
    outer, hole, blob = _square(10, 10, 40), _square(20, 20, 10), _square(70, 70, 8)
    path = PolygonPath((outer, hole), (_square(30, 30, 10), _square(20, 20, 40), blob))
    middle = rasterize(path.at(0.25), (100, 100))
    assert jaccard(middle, rasterize((_square(12.5, 12.5, 40), _square(22.5, 22.5, 10)), (100, 100))) > 0.9
    assert len(path.at(0.4)) == 2
    assert len(path.at(0.6)) == 3


@given(st.integers(3, 12), st.integers(3, 12), st.integers(0, 11), st.floats(0, 6.2))
@settings(max_examples=60, deadline=None)
def test_polygon_path_ends_are_the_polygons(n: int, m: int, shift: int, turn: float) -> None:
    def ring(count: int, radius: float, start: float) -> tuple[tuple[float, float], ...]:
        angles = start + 2 * np.pi * np.arange(count) / count
        return tuple((float(50 + radius * np.cos(a)), float(50 + radius * np.sin(a))) for a in angles)

    first, second = ring(n, 40, 0.0), ring(m, 25, turn)
    second = second[shift % m :] + second[: shift % m]
    path = PolygonPath((first,), (second,))
    size = (100, 100)
    assert jaccard(rasterize(path.at(0.0), size), rasterize((first,), size)) > 0.9
    assert jaccard(rasterize(path.at(1.0), size), rasterize((second,), size)) > 0.9
    assert _area(path.at(0.0)[0]) == pytest.approx(_area(first))
    assert _area(path.at(1.0)[0]) == pytest.approx(_area(second))


def test_hold_takes_the_nearest_on_either_side() -> None:
    first, second = ObjectMask(1, 1, np.ones((3, 3), bool)), ObjectMask(9, 9, np.ones((4, 4), bool))
    results = _run("hold", [Prompt(2, 1, mask=first), Prompt(6, 1, mask=second), Prompt(9, 1, absent=True)], 11)
    masks = [r.objects[1].mask if r.objects else None for r in results]
    assert masks == [first] * 5 + [second] * 3 + [None] * 3


@pytest.mark.parametrize("engine", ["hold", "interpolate"])
def test_prompts_outside_the_span_or_of_another_kind_are_refused(engine: str) -> None:
    with pytest.raises(DataError, match="outside the span"):
        _run(engine, [Prompt(9, 1, box=(0, 0, 1, 1))], 5)
    with pytest.raises(DataError, match="of kind points"):
        _run(engine, [Prompt(0, 1, points=((1, 1),))], 5)
