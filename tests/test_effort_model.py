"""The model of annotation time: its numbers, its sums, and what it refuses."""

from __future__ import annotations

import dataclasses
import json

import pytest

from labelprop_cvat.errors import ConfigurationError, DataError
from labelprop_cvat.propagation.effort import Actions, EffortModel
from labelprop_cvat.propagation.types import PromptKind


@pytest.mark.parametrize(
    ("actions", "seconds"),
    [
        (Actions(masks=2), 160.0),
        (Actions(boxes=3), 21.0),
        (Actions(edited=1, clicks=3), 1.0 + 4.5),
        (Actions(absent=2), 6.0),
        (Actions(examined=300), 30.0),
        (Actions(located=4), 4.0),
        (Actions(polygons=1, points=10), 7.0 + 15.0),
        (Actions(edited=1, redrawn=0.25), 1.0 + 20.0),
        (Actions(deleted=2), 3.0),
        (Actions(attributes=1), 3.0),
        (Actions(), 0.0),
    ],
)
def test_the_published_seconds(actions, seconds):
    assert EffortModel().seconds(actions) == pytest.approx(seconds)
    assert EffortModel().minutes(actions) == pytest.approx(seconds / 60)


def test_every_count_costs_something():
    """An action that the sum forgets would be free."""
    for field in dataclasses.fields(Actions):
        assert EffortModel().seconds(Actions(**{field.name: 1})) > 0, field.name


def test_sums_cost_the_sum():
    model = EffortModel(mask=40.0, click=2.0)
    first, second = Actions(masks=1, redrawn=0.5, examined=3), Actions(clicks=4, redrawn=0.25, located=1)
    both = first + second
    assert both == Actions(masks=1, redrawn=0.75, clicks=4, examined=3, located=1)
    assert model.seconds(both) == pytest.approx(model.seconds(first) + model.seconds(second))
    assert Actions(masks=1, boxes=2, polygons=3, points=9).drawn == 6
    assert both
    assert not Actions()


def test_counts_survive_json():
    actions = Actions(masks=1, polygons=2, points=11, redrawn=0.375, examined=7)
    stored = json.loads(json.dumps(actions.to_dict()))
    assert Actions.from_dict(stored) == actions
    assert Actions.from_dict({**stored, "thoughts": 3}) == actions
    assert json.loads(json.dumps(EffortModel().to_dict()))["mask"] == 80.0


@pytest.mark.parametrize(
    "wrong", [{"masks": -1}, {"clicks": 1.5}, {"redrawn": float("nan")}, {"redrawn": -0.1}, {"located": float("inf")}]
)
def test_impossible_counts_are_refused(wrong):
    with pytest.raises(DataError, match=rf"Actions\.{next(iter(wrong))} needs"):
        Actions(**wrong)


@pytest.mark.parametrize("wrong", [{"mask": -1.0}, {"click": float("nan")}, {"box": "7"}, {"edit_share": 1.5}])
def test_impossible_seconds_are_refused(wrong):
    with pytest.raises(ConfigurationError, match=next(iter(wrong))):
        EffortModel(**wrong)
    with pytest.raises(ConfigurationError, match=next(iter(wrong))):
        EffortModel().changed(**wrong)


def test_a_constant_is_changed_by_its_name():
    assert EffortModel().changed(mask=38.0) == EffortModel(mask=38.0)
    with pytest.raises(ConfigurationError, match="no 'masks'; it has mask, box"):
        EffortModel().changed(masks=38.0)


@pytest.mark.parametrize(
    ("kind", "drawn", "edited"),
    [
        (PromptKind.MASK, 80.0, 2.0 + 8.0),
        (PromptKind.BOX, 7.0, 2.0 + 4.5),
        (PromptKind.POLYGON, 7.0 + 45.0, 2.0 + 4.5),
        (PromptKind.POINTS, 1.0 + 4.5, 5.5),
        (PromptKind.ABSENT, 4.0, 4.0),
    ],
)
def test_what_a_frame_is_expected_to_take(kind, drawn, edited):
    model = EffortModel()
    assert model.minutes_for_frame(kind, 3) == pytest.approx((0.1 + 3 * drawn) / 60)
    assert model.minutes_for_frame(kind, 3, prefilled=True) == pytest.approx((0.1 + 3 * edited) / 60)
    assert model.minutes_for_frame(kind, 0) == pytest.approx(0.1 / 60)


def test_the_worse_a_prefilled_shape_the_more_it_costs_up_to_drawing_it():
    model = EffortModel()
    for kind in (PromptKind.MASK, PromptKind.BOX, PromptKind.POLYGON):
        costs = [model.seconds_for_object(kind, prefilled=True, quality=q) for q in (1.0, 0.95, 0.5, 0.2, 0.0)]
        assert costs == sorted(costs)
        assert costs[0] == 0.0 < costs[1]
        assert costs[-1] == model.seconds_for_object(kind)
    assert model.seconds_for_object(PromptKind.MASK, prefilled=True, quality=0.5) == pytest.approx(42.0)


def test_impossible_plans_are_refused():
    with pytest.raises(ConfigurationError, match=r"\[0, 1\], got 1.2"):
        EffortModel().seconds_for_object(PromptKind.MASK, prefilled=True, quality=1.2)
    with pytest.raises(ConfigurationError, match="got -1"):
        EffortModel().minutes_for_frame(PromptKind.MASK, -1)
