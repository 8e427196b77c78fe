"""The things that move through the rendered video, painted with numpy.

A sprite is an array of shape ``(S, S, 4)``, float32: red, green, blue and opacity, all in [0, 1], head to the right.
Each is textured all over, as real things are, so that optical flow has something to hold on to.
"""

from __future__ import annotations

from typing import Any, TypeAlias

import cv2
import numpy as np
import numpy.typing as npt

# float32 throughout; OpenCV's own type information is too wide for a narrower alias.
Floats: TypeAlias = npt.NDArray[Any]
Colour: TypeAlias = tuple[float, ...]

SIZE = 320


def noise(shape: tuple[int, int], cells: int, octaves: int, seed: int) -> Floats:
    """Fractal value noise of shape ``shape`` in [0, 1]; ``cells`` is the number of cells across the first octave."""
    random = np.random.default_rng(seed)
    height, width = shape
    total = np.zeros(shape, np.float32)
    for octave in range(octaves):
        across = cells * 2**octave
        grid = random.random((max(2, across * height // width), max(2, across)), dtype=np.float32)
        total += cv2.resize(grid, (width, height), interpolation=cv2.INTER_CUBIC) * np.float32(0.5**octave)
    low, high = float(total.min()), float(total.max())
    return ((total - low) / (high - low)).astype(np.float32)


def _plane() -> tuple[Floats, Floats]:
    axis = np.linspace(-1.0, 1.0, SIZE, dtype=np.float32)
    u, v = np.meshgrid(axis, axis)
    return u, v


def _soft(distance: Floats, width: float = 0.012) -> Floats:
    """Opacity from a signed distance that is negative inside."""
    return np.clip(0.5 - distance / (2 * width), 0.0, 1.0).astype(np.float32)


def mix(first: Floats | Colour, second: Floats | Colour, share: Floats) -> Floats:
    """Blends two colours or pictures; ``share`` in [0, 1] is the weight of the second."""
    weight = share[..., None]
    blended: Floats = np.asarray(first, np.float32) * (1 - weight) + np.asarray(second, np.float32) * weight
    return blended.astype(np.float32)


def _ellipse(u: Floats, v: Floats, a: float, b: float) -> Floats:
    radius = np.sqrt((u / a) ** 2 + (v / b) ** 2)
    return ((radius - 1.0) * min(a, b)).astype(np.float32)


def _finish(colour: Floats, opacity: Floats, seed: int, grain: float = 0.28) -> Floats:
    """Adds fine texture, light from the top left and a darker rim, which makes a flat shape look round."""
    texture = noise((SIZE, SIZE), 22, 3, seed)
    depth = cv2.GaussianBlur(opacity, (0, 0), 16)
    rim = np.clip(depth * 1.6 - 0.55, 0.0, 1.0)
    slope = cv2.Sobel(depth, cv2.CV_32F, 1, 0, ksize=5) + cv2.Sobel(depth, cv2.CV_32F, 0, 1, ksize=5)
    light = (0.66 + 0.34 * rim + np.clip(slope * 0.05, -0.16, 0.16))[..., None]
    shaded = colour * light * (1 - grain / 2 + grain * texture[..., None])
    return np.dstack([np.clip(shaded, 0, 1), opacity]).astype(np.float32)


def ball(seed: int = 1) -> Floats:
    """A striped ball with a highlight."""
    u, v = _plane()
    angle: Floats = np.arctan2(v, u)
    sector = np.floor((angle + np.pi) / (2 * np.pi) * 8).astype(int) % 4
    palette = np.array([(0.93, 0.22, 0.20), (0.98, 0.93, 0.84), (0.16, 0.42, 0.80), (0.99, 0.80, 0.22)], np.float32)
    colour = palette[sector]
    radius = np.hypot(u, v)
    colour = mix(colour, (0.98, 0.93, 0.84), _soft((radius - 0.16).astype(np.float32)))
    highlight = np.exp(-((u + 0.32) ** 2 + (v + 0.36) ** 2) / 0.06).astype(np.float32) * 0.55
    return _finish(mix(colour, (1.0, 1.0, 1.0), highlight), _soft((radius - 0.92).astype(np.float32)), seed, 0.2)


def beetle(seed: int = 2) -> Floats:
    """A red beetle with black spots, six legs and a head."""
    u, v = _plane()
    body = _ellipse(u + 0.08, v, 0.70, 0.56)
    head = _ellipse(u - 0.62, v, 0.24, 0.28)
    legs = np.full_like(u, 9.0)
    for along in (-0.45, -0.05, 0.35):
        for side in (-1, 1):
            out = side * v
            slanted = np.abs(u - along - 0.16 * (out - 0.5)) - 0.055
            legs = np.minimum(legs, np.maximum(slanted, np.maximum(-out, out - 0.86)))
    opacity = np.maximum(_soft(np.minimum(body, head)), _soft(legs.astype(np.float32)))
    colour = mix((0.10, 0.09, 0.10), (0.85, 0.14, 0.10), _soft(body))
    for x, y in ((-0.45, 0.22), (-0.45, -0.22), (-0.08, 0.30), (-0.08, -0.30), (0.24, 0.20), (0.24, -0.20)):
        colour = mix(colour, (0.08, 0.07, 0.08), _soft(_ellipse(u - x, v - y, 0.12, 0.11)))
    colour = mix(colour, (0.08, 0.07, 0.08), _soft((np.abs(v) - 0.018).astype(np.float32)) * _soft(body))
    return _finish(colour, opacity, seed)


def leaf(seed: int = 3) -> Floats:
    """A toothed autumn leaf with veins."""
    u, v = _plane()
    half = 0.58 * np.sqrt(np.clip(1 - np.abs(u * 1.06) ** 1.7, 0, None)) * (1 + 0.07 * np.sin(u * 34))
    blade = (np.abs(v) - half).astype(np.float32)
    stalk = np.maximum(np.abs(v) - 0.03, np.maximum(-u - 1.0, u + 0.6)).astype(np.float32)
    opacity = np.maximum(_soft(np.where(np.abs(u) < 0.93, blade, 1.0).astype(np.float32)), _soft(stalk))
    patches = noise((SIZE, SIZE), 6, 3, seed)
    colour = mix((0.95, 0.60, 0.10), (0.80, 0.20, 0.08), np.clip(patches * 1.8 - 0.4, 0, 1))
    veins = np.minimum(np.abs(v), np.abs(((u - np.abs(v) * 0.8) * 4.5 + 0.5) % 1 - 0.5) / 4.5 * 1.2)
    return _finish(mix(colour, (0.99, 0.86, 0.52), _soft((veins - 0.012).astype(np.float32))), opacity, seed)


def fish(body: Colour, stripe: Colour, seed: int) -> Floats:
    """A striped fish with fins and an eye, swimming to the right."""
    u, v = _plane()
    trunk = _ellipse(u - 0.14, v, 0.74, 0.40)
    tail = np.maximum(np.abs(v) - (-(u + 0.42)) * 0.95, np.maximum(u + 0.46, -u - 0.96)).astype(np.float32)
    notch = _ellipse(u + 1.08, v, 0.26, 0.30)
    fins = _ellipse(u - 0.05, np.abs(v) - 0.36, 0.34, 0.17)
    opacity = _soft(np.minimum(np.minimum(trunk, fins), np.maximum(tail, -notch)))
    bands = np.abs(((u + 0.1 * v * v + 0.32) * 1.75) % 1 - 0.5) - 0.27
    colour = mix(body, stripe, _soft((-bands).astype(np.float32), 0.03))
    colour = mix(colour, tuple(0.55 * c for c in body), _soft(-np.minimum(trunk, tail)) * 0.9)
    scales = np.sin(u * 46 + np.sin(v * 46) * 1.6) * 0.5 + 0.5
    colour = mix(colour, tuple(0.6 * c for c in body), (scales * 0.22).astype(np.float32))
    colour = mix(colour, (1.0, 1.0, 0.95), _soft(_ellipse(u - 0.62, v + 0.10, 0.10, 0.10)))
    colour = mix(colour, (0.05, 0.05, 0.08), _soft(_ellipse(u - 0.64, v + 0.10, 0.055, 0.055)))
    return _finish(colour, opacity, seed, 0.22)


def turtle(seed: int = 6) -> Floats:
    """A sea turtle from above."""
    u, v = _plane()
    shell = _ellipse(u + 0.06, v, 0.60, 0.50)
    skin = _ellipse(u - 0.74, v, 0.22, 0.17)
    for along, turn, length in ((0.36, 0.8, 0.46), (-0.46, 2.3, 0.28)):
        for side in (-1, 1):
            x, y = u - along, v - side * 0.46
            across, forth = np.cos(turn) * x + side * np.sin(turn) * y, -side * np.sin(turn) * x + np.cos(turn) * y
            skin = np.minimum(skin, _ellipse(across.astype(np.float32), forth.astype(np.float32), length, 0.14))
    spots = noise((SIZE, SIZE), 16, 2, seed)
    colour = mix((0.62, 0.70, 0.38), (0.30, 0.40, 0.20), np.clip(spots * 3 - 1, 0, 1))
    cells = np.minimum(
        np.abs((u * 3.0 + 0.5) % 1 - 0.5), np.abs((v * 2.6 + (np.floor(u * 3.0 + 0.5) % 2) / 2) % 1 - 0.5)
    )
    plates = mix((0.52, 0.33, 0.13), (0.86, 0.70, 0.36), _soft((cells - 0.045).astype(np.float32), 0.03))
    colour = mix(colour, plates, _soft(shell))
    colour = mix(colour, (0.80, 0.66, 0.36), _soft((np.abs(shell) - 0.02).astype(np.float32)))
    for side in (-1, 1):
        colour = mix(colour, (0.05, 0.05, 0.05), _soft(_ellipse(u - 0.84, v - side * 0.10, 0.035, 0.035)))
    return _finish(colour, _soft(np.minimum(shell, skin)), seed)


def bent(sprite: Floats, phase: float, amplitude: float) -> Floats:
    """Swings the rear of a sprite sideways, as a fish swims.

    Args:
        sprite: head to the right
        phase: radians; a full turn is one beat of the tail
        amplitude: sideways way of the tail's end, as a share of the sprite's size
    """
    size = sprite.shape[0]
    columns, rows = np.meshgrid(np.arange(size, dtype=np.float32), np.arange(size, dtype=np.float32))
    rear = np.clip(0.75 - columns / size, 0, 1) ** 1.5
    shift = amplitude * size * rear * np.sin(phase - columns / size * 2.5)
    return cv2.remap(sprite, columns, (rows + shift).astype(np.float32), cv2.INTER_LINEAR, borderValue=(0, 0, 0, 0))


__all__ = ["SIZE", "Floats", "ball", "beetle", "bent", "fish", "leaf", "mix", "noise", "turtle"]
