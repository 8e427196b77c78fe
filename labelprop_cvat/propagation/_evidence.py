"""What a frame's own clear pixels teach about its doubtful ones."""

from __future__ import annotations

import math

import numpy as np

from labelprop_cvat.propagation._plate import STEPS, UNSEEN, Novelty
from labelprop_cvat.propagation._windows import FloatMap, opencv
from labelprop_cvat.propagation.types import BoolArray

# Upper ends of the steps of novelty, in weighted Lab units, and how often each came up on objects and beside them in
# DAVIS-like videos, per mille; this counts as much as so many pixels.
_EDGES = (1.0, 2.0, 3.5, 5.5, 8.0, 11.0, 15.0, 20.0, 27.0, 36.0, 50.0)
_ON_OBJECTS = np.array([5, 4, 8, 12, 18, 28, 47, 66, 98, 133, 194, 387]) / 1000.0
_BESIDE = np.array([641, 156, 79, 39, 22, 16, 12, 9, 8, 7, 4, 7]) / 1000.0
_PRIOR_PIXELS = 100.0
_SURE = 0.8
_LEAST_SHARE = 0.001
_STRONGEST = 4.0
# Islands: parts that hang together and are smaller than so much of the largest. They stay where the scene does not
# explain them, the farther off the clearer: by so many logits for the object's size in distance, beyond a small slack.
_ISLAND = 0.25
_PER_DISTANCE = 6.0
_SLACK = 0.5


def scene_odds(novelty: Novelty, probability: FloatMap, least: float = -_STRONGEST) -> FloatMap:
    """How much likelier departures from the scene are on the object than beside it, as logarithms.

    How much of its surroundings departs from the scene, by waves, parallax or others that move, is learned from the
    pixels that are clear already: in a restless scene departures say little.

    Args:
        novelty: see :data:`~labelprop_cvat.propagation._plate.Novelty`
        probability: array of the same shape in [0, 1]
        least: no answer is below

    Returns:
        array of the same shape in [``least``, 4]; 0 where the scene was not seen
    """
    counts = [np.bincount(novelty[clear], minlength=256) for clear in (probability > _SURE, probability < 1.0 - _SURE)]
    ends = [0, *(int(edge * STEPS) for edge in _EDGES)]
    shares = []
    for count, usual in zip(counts, (_ON_OBJECTS, _BESIDE), strict=True):
        steps = np.add.reduceat(count[:UNSEEN], ends) + _PRIOR_PIXELS * usual
        shares.append(steps / steps.sum() + _LEAST_SHARE)
    # The farther off, the likelier it is the object: what a few pixels say against that is chance.
    odds = np.maximum.accumulate(np.log(shares[0] / shares[1]))
    centres = (np.array(ends) + np.array([*ends[1:], UNSEEN])) / 2.0
    table = np.interp(np.arange(256), centres, np.clip(odds, least, _STRONGEST)).astype(np.float32)
    table[UNSEEN] = 0.0
    found: FloatMap = opencv.LUT(novelty, table)
    return found


def islands(probability: FloatMap, odds: FloatMap) -> BoolArray:
    """Small parts off the object that the scene explains: what a pass took along by mistake.

    Args:
        probability: array of shape ``(h, w)`` in [0, 1]
        odds: array of the same shape: what :func:`scene_odds` says

    Returns:
        array of the same shape: where they are
    """
    number, labels, stats, _ = opencv.connectedComponentsWithStats((probability > 0.5).view(np.uint8))
    if number <= 2:
        return np.zeros(probability.shape, dtype=np.bool_)
    areas = stats[:, opencv.CC_STAT_AREA].astype(np.float64)
    areas[0] = 0.0
    largest = int(areas.argmax())
    away = opencv.distanceTransform((labels != largest).view(np.uint8), opencv.DIST_L2, opencv.DIST_MASK_3)
    nearest = np.full(number, np.inf)
    np.minimum.at(nearest, labels.ravel(), away.ravel())
    mean = np.bincount(labels.ravel(), odds.ravel(), minlength=number) / np.maximum(areas, 1.0)
    off = mean + _SLACK < _PER_DISTANCE * nearest / math.sqrt(areas[largest])
    off &= areas < _ISLAND * areas[largest]
    off[0] = False
    return np.asarray(off[labels])
