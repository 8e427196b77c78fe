"""``workflow.propagate`` with a field of polygons: regions become masks, open lines are left alone."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import fiftyone as fo
import numpy as np
import pytest
from fixtures_roundtrip import SIZE, image_dataset, write_images

import labelprop_cvat.workflow as lp
from labelprop_cvat.errors import DataError
from labelprop_cvat.labels import detection_to_mask

TRIANGLE = [(0.1, 0.1), (0.5, 0.1), (0.1, 0.9)]
HOLE = [(0.15, 0.2), (0.25, 0.2), (0.15, 0.4)]


@pytest.fixture
def dataset(tmp_path: Path) -> Iterator[fo.Dataset]:
    made = image_dataset(write_images(tmp_path, 4))
    yield made
    made.delete()


def draw(dataset: fo.Dataset, *lines: fo.Polyline) -> None:
    sample = dataset.sort_by("number").first()
    sample["outlines"] = fo.Polylines(polylines=list(lines))
    sample.save()


def propagate(dataset: fo.Dataset, engine: str) -> list[list[fo.Detection]]:
    assert lp.propagate(dataset, "outlines", engine=engine, sort_field="number", segmentation="none") == 4
    return [held.detections for held in dataset.sort_by("number").values("outlines_propagated")]


@pytest.mark.parametrize("engine", ["hold", "interpolate", "flow"])
def test_polygons_become_masks(dataset: fo.Dataset, engine: str) -> None:
    draw(
        dataset,
        fo.Polyline(label="person", index=3, points=[TRIANGLE, HOLE, TRIANGLE[:2]], filled=True, colour="red"),
        fo.Polyline(label="car", index=4, points=[TRIANGLE], closed=True),
        fo.Polyline(label="lane", index=5, points=[TRIANGLE]),
        fo.Polyline(label="dot", index=6, points=[TRIANGLE[:2]], filled=True),
        fo.Polyline(label="nobody", points=[TRIANGLE], filled=True),
    )
    found = propagate(dataset, engine)
    assert [(label.index, label.label) for label in found[0]] == [(3, "person"), (4, "car")]
    person, car = found[0]
    assert (person["colour"], person.source, person.keyframe) == ("red", "manual", True)
    with_hole, whole = (detection_to_mask(label, SIZE).to_full(SIZE) for label in (person, car))
    assert not (with_hole & ~whole).any()
    hole = np.argwhere(whole & ~with_hole)
    assert len(hole)
    assert hole[:, 1].min() >= 0.15 * SIZE[1] - 1
    assert hole[:, 1].max() <= 0.25 * SIZE[1]
    assert [sorted(label.index for label in labels) for labels in found[1:]] == [[3, 4]] * 3
    assert {label.source for labels in found[1:] for label in labels} == {"propagated"}
    assert all(label.has_mask for labels in found for label in labels)
    assert dataset.count("outlines.polylines") == 5


def test_open_lines_alone_are_refused(dataset: fo.Dataset) -> None:
    draw(dataset, fo.Polyline(label="lane", index=1, points=[TRIANGLE]))
    with pytest.raises(DataError, match="closed=True or filled=True"):
        propagate(dataset, "hold")
    assert not dataset.has_field("outlines_propagated")
