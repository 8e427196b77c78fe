"""How much two shapes cover each other, and which of many belong together."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from .payload import Payload

# Polygons are drawn on a grid of this many cells along the longer side of both.
_GRID = 1024


def shape_similarity(one: Payload, other: Payload) -> float:
    """Intersection over union of rectangles or polygons; 0 for other types and across labels."""
    if one["type"] != other["type"] or one.get("label_id") != other.get("label_id"):
        return 0.0
    if one["type"] == "rectangle":
        return _box_iou(one["points"], other["points"])
    if one["type"] == "polygon":
        return _polygon_iou(one["points"], other["points"])
    return 0.0


def _box_iou(one: list[float], other: list[float]) -> float:
    width = min(one[2], other[2]) - max(one[0], other[0])
    height = min(one[3], other[3]) - max(one[1], other[1])
    shared = max(0.0, width) * max(0.0, height)
    total = _box_area(one) + _box_area(other) - shared
    return shared / total if total > 0 else 0.0


def _box_area(box: list[float]) -> float:
    return (box[2] - box[0]) * (box[3] - box[1])


def _polygon_iou(one: list[float], other: list[float]) -> float:
    corners = [np.asarray(points, dtype=np.float64).reshape(-1, 2) for points in (one, other)]
    low = np.min([points.min(axis=0) for points in corners], axis=0)
    high = np.max([points.max(axis=0) for points in corners], axis=0)
    scale = _GRID / max(float((high - low).max()), 1e-9)
    size = np.ceil((high - low) * scale).astype(int) + 1
    grids = []
    for points in corners:
        grid = np.zeros((int(size[1]), int(size[0])), np.uint8)
        cv2.fillPoly(grid, [np.rint((points - low) * scale).astype(np.int32)], (1,))
        grids.append(grid.astype(bool))
    union = int((grids[0] | grids[1]).sum())
    return int((grids[0] & grids[1]).sum()) / union if union else 0.0


def best_pairs(costs: NDArray[np.float64]) -> list[tuple[int, int]]:
    """The assignment of rows to columns with the least total cost."""
    if 0 in costs.shape:
        return []
    # Imported here because it takes longer than starting the server, and few tasks need it.
    from scipy.optimize import linear_sum_assignment

    rows, columns = linear_sum_assignment(costs)
    return [(int(row), int(column)) for row, column in zip(rows, columns, strict=True)]


__all__ = ["best_pairs", "shape_similarity"]
