"""Making a soft mask whole: neighbours of like colour agree."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from labelprop_cvat.propagation._windows import FloatMap

_DIRECTIONS = ((0, 1), (1, 0), (1, 1), (1, -1))


@dataclass(frozen=True)
class SmoothingOptions:
    """How strongly neighbours pull on each other.

    Args:
        reaches: distances in pixels at which pixels are neighbours
        strength: pull of all neighbours of the same colour together, in logits
        colour_sigma: colour difference at which the pull falls off
        rounds: how often the pull is passed on
    """

    reaches: tuple[int, ...] = (1, 3, 7)
    strength: float = 4.0
    colour_sigma: float = 10.0
    rounds: int = 4


def smoothed(logit: FloatMap, colours: FloatMap, options: SmoothingOptions) -> FloatMap:
    """Probabilities that follow the image's edges, from evidence pixel by pixel.

    Mean-field inference in a random field whose links cross no edges of colour, over a sparse neighbourhood (after
    Kraehenbuehl and Koltun, *Efficient Inference in Fully Connected CRFs with Gaussian Edge Potentials*, NIPS 2011).

    Args:
        logit: array of shape ``(h, w)``, evidence for the object
        colours: array of shape ``(h, w, 3)``, weighted Lab
        options: see there

    Returns:
        array of shape ``(h, w)`` in [0, 1]
    """
    height, width = logit.shape
    # Rows lie behind one another, each with a margin of nothing, so that every neighbour is at one fixed distance.
    stride = width + max(options.reaches)
    planes = [_laid_out(colours[..., channel], stride) for channel in range(colours.shape[2])]
    links = [
        _link(planes, (height, width), stride, (down * reach, right * reach), options.colour_sigma)
        for reach in options.reaches
        for down, right in _DIRECTIONS
        if down * reach < height and abs(right * reach) < width
    ]
    weight = np.float32(options.strength / (4 * len(_DIRECTIONS) * len(options.reaches)))
    evidence = _laid_out(logit, stride) / 2.0
    opinion = np.tanh(evidence)
    pull, part = np.empty_like(evidence), np.empty_like(evidence)
    for _ in range(options.rounds):
        pull[:] = 0.0
        for apart, alike in links:
            term = part[apart:]
            pull[:-apart] += np.multiply(alike, opinion[apart:], out=term)
            pull[apart:] += np.multiply(alike, opinion[:-apart], out=term)
        pull *= weight
        pull += evidence
        np.tanh(pull, out=opinion)
    return np.asarray((opinion.reshape(height, stride)[:, :width] + 1.0) / 2.0, dtype=np.float32)


def _laid_out(values: FloatMap, stride: int) -> FloatMap:
    """Array of shape ``(h * stride,)``: the rows of ``values``, each followed by zeros."""
    rows = np.zeros((values.shape[0], stride), dtype=np.float32)
    rows[:, : values.shape[1]] = values
    return rows.ravel()


def _link(
    planes: list[FloatMap], size: tuple[int, int], stride: int, step: tuple[int, int], sigma: float
) -> tuple[int, FloatMap]:
    """How far apart two neighbours lie, and how alike they are: array of shape ``(h * stride - apart,)`` in [0, 1]."""
    (height, width), (down, right) = size, step
    apart = down * stride + right
    alike = np.zeros(height * stride, dtype=np.float32)
    inner = alike[:-apart]
    for plane in planes:
        difference = plane[:-apart] - plane[apart:]
        inner += np.multiply(difference, difference, out=difference)
    inner *= np.float32(-0.5 / sigma**2)
    np.exp(inner, out=inner)
    rows = alike.reshape(height, stride)
    rows[:, width - max(0, right) :] = 0.0
    rows[:, : max(0, -right)] = 0.0
    return apart, inner
