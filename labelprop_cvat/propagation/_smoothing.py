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
    links = [link for reach in options.reaches for link in _links(colours, reach, options.colour_sigma)]
    weight = options.strength / (2 * len(_DIRECTIONS) * len(options.reaches))
    opinion = np.tanh(logit / 2.0)
    for _ in range(options.rounds):
        pull = np.zeros_like(logit)
        for first, second, alike in links:
            pull[first] += alike * opinion[second]
            pull[second] += alike * opinion[first]
        opinion = np.tanh((logit + weight * pull) / 2.0)
    return np.asarray((opinion + 1.0) / 2.0, dtype=np.float32)


_Part = tuple[slice, slice]


def _links(colours: FloatMap, reach: int, sigma: float) -> list[tuple[_Part, _Part, FloatMap]]:
    height, width = colours.shape[:2]
    links = []
    for down, right in _DIRECTIONS:
        dy, dx = down * reach, right * reach
        if dy >= height or abs(dx) >= width:
            continue
        first = slice(0, height - dy), slice(max(0, -dx), width - max(0, dx))
        second = slice(dy, height), slice(max(0, dx), width + min(0, dx))
        difference = colours[first] - colours[second]
        distance = np.einsum("ijk,ijk->ij", difference, difference)
        links.append((first, second, np.exp(distance * (-0.5 / sigma**2))))
    return links
