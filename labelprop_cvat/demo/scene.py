"""Renders scenes, with the exact visible pixels of every object on every frame."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, TypeAlias

import cv2
import numpy as np
import numpy.typing as npt

from labelprop_cvat.demo import sprites
from labelprop_cvat.demo.sprites import Floats, mix, noise

WIDTH, HEIGHT = 640, 360
FRAME_RATE = 24.0
#: Frames in which a :class:`Shot` shows all of its scene, at the least: nothing hurries because a shot is short.
PACE = 48

#: The class of every object by its id.
LABELS = {
    1: "leaf", 2: "beetle", 3: "ball", 4: "turtle", 5: "fish", 6: "fish", 7: "leaf", 8: "ball", 9: "beetle"
}  # fmt: skip

#: ``(height, width)``, pixels.
Size: TypeAlias = tuple[int, int]


@dataclass(frozen=True)
class Pose:
    """Where a sprite is drawn.

    Args:
        x: column of its centre as a share of the frame's width; outside [0, 1] it is partly or wholly out of the frame
        y: row of its centre as a share of the frame's height
        size: its side as a share of the frame's height
        angle: degrees, clockwise
        beat: phase of its tail in radians, for those that swim
        flipped: mirrored top to bottom, so that one that turned around does not swim on its back
    """

    x: float
    y: float
    size: float
    angle: float = 0.0
    beat: float | None = None
    flipped: bool = False


@dataclass(frozen=True)
class Actor:
    """One object: who it is, how it looks, and where it is at time ``t`` in [0, 1] of its scene."""

    object_id: int
    label: str
    sprite: Floats
    pose: Callable[[float], Pose]


@dataclass(frozen=True)
class Scene:
    """A shot without a cut: actors in drawing order (the last one is in front) over a background that a camera passes.

    Args:
        name: for people
        background: array of shape ``(H, W, 3)``, float32 in [0, 1], larger than the frame
        camera: the way over the background at time ``t``: ``(x, y, zoom)``, x and y in [0, 1]
        actors: in drawing order
        shadow: how dark the shadow under an object is, in [0, 1]
    """

    name: str
    background: Floats
    camera: Callable[[float], tuple[float, float, float]]
    actors: tuple[Actor, ...]
    shadow: float


@dataclass(frozen=True)
class RenderedFrame:
    """One frame: image of shape ``(H, W, 3)``, uint8, RGB, and the object id of every pixel; 0 is background."""

    image: npt.NDArray[np.uint8]
    ids: npt.NDArray[np.unsignedinteger[Any]]


def _between(t: float, *stops: float) -> float:
    """Passes evenly spaced stops, smoothly."""
    at = np.clip(t, 0, 1) * (len(stops) - 1)
    first = min(int(at), len(stops) - 2)
    share = at - first
    before, after = stops[max(first - 1, 0)], stops[min(first + 2, len(stops) - 1)]
    p, q = stops[first], stops[first + 1]
    m, n = (q - before) / 2, (after - p) / 2
    s, c = share * share, share * share * share
    return float((2 * c - 3 * s + 1) * p + (c - 2 * s + share) * m + (3 * s - 2 * c) * q + (c - s) * n)


def _forest_floor(size: Size) -> Floats:
    shape = (size[0] * 7 // 4, size[1] * 7 // 4)
    moss = noise(shape, 7, 5, 11)
    fine = noise(shape, 90, 3, 12)
    ground = mix((0.16, 0.20, 0.10), (0.40, 0.47, 0.22), moss)
    ground = mix(ground, (0.36, 0.27, 0.17), np.clip(noise(shape, 4, 3, 13) * 3.2 - 1.7, 0, 1))
    ground = ground * (0.62 + 0.62 * fine[..., None])
    random = np.random.default_rng(14)
    litter = (np.clip(ground, 0, 1) * 255).astype(np.uint8)
    for _ in range(420):
        centre = (int(random.integers(shape[1])), int(random.integers(shape[0])))
        axes = (int(random.integers(3, 13)), int(random.integers(2, 6)))
        tone = np.array([96, 84, 52]) * random.uniform(0.45, 1.35) + random.normal(0, 9, 3)
        angle = float(random.uniform(0, 180))
        cv2.ellipse(litter, centre, axes, angle, 0, 360, tuple(map(float, tone)), -1, cv2.LINE_AA)
    return cv2.GaussianBlur(litter, (0, 0), 0.7).astype(np.float32) / 255


def _sea_floor(size: Size) -> Floats:
    shape = (size[0] * 7 // 4, size[1] * 7 // 4)
    sand = mix((0.05, 0.29, 0.41), (0.20, 0.56, 0.62), noise(shape, 5, 4, 21))
    ripples = np.abs(noise(shape, 11, 3, 22) - 0.5) * 2
    caustics = np.clip(1 - ripples * 5.5, 0, 1) ** 2
    sand = mix(sand, (0.62, 0.90, 0.88), caustics * 0.42)
    sand = sand * (0.78 + 0.40 * noise(shape, 110, 2, 23)[..., None])
    random = np.random.default_rng(24)
    pebbles = (np.clip(sand, 0, 1) * 255).astype(np.uint8)
    for _ in range(170):
        centre = (int(random.integers(shape[1])), int(random.integers(shape[0])))
        axes = (int(random.integers(3, 12)), int(random.integers(3, 9)))
        tone = np.array([38, 108, 124]) * random.uniform(0.55, 1.5)
        angle = float(random.uniform(0, 180))
        cv2.ellipse(pebbles, centre, axes, angle, 0, 360, tuple(map(float, tone)), -1, cv2.LINE_AA)
    return cv2.GaussianBlur(pebbles, (0, 0), 0.8).astype(np.float32) / 255


def _table_top(size: Size) -> Floats:
    shape = (size[0] * 7 // 4, size[1] * 7 // 4)
    across, down = np.meshgrid(
        np.linspace(0, 1, shape[1], dtype=np.float32), np.linspace(0, 6, shape[0], dtype=np.float32)
    )
    plank = np.floor(down)
    warp = noise(shape, 5, 3, 31)
    grain = np.sin((down - plank) * 34 + warp * 26 + plank * 9 + across * 4) * 0.5 + 0.5
    wood = mix((0.50, 0.31, 0.17), (0.76, 0.55, 0.34), (grain * 0.6 + noise(shape, 60, 3, 32) * 0.4).astype(np.float32))
    wood = wood * (0.84 + 0.05 * (plank % 3))[..., None]
    wood = mix(wood, (0.20, 0.12, 0.07), np.clip(1 - np.abs(down - plank - 0.5) * -26 - 12.2, 0, 1))
    random = np.random.default_rng(34)
    crumbs = (np.clip(wood, 0, 1) * 255).astype(np.uint8)
    for _ in range(240):
        centre = (int(random.integers(shape[1])), int(random.integers(shape[0])))
        axes = (int(random.integers(1, 7)), int(random.integers(1, 4)))
        tone = np.array([214, 190, 148]) * random.uniform(0.35, 1.15)
        angle = float(random.uniform(0, 180))
        cv2.ellipse(crumbs, centre, axes, angle, 0, 360, tuple(map(float, tone)), -1, cv2.LINE_AA)
    return cv2.GaussianBlur(crumbs, (0, 0), 0.7).astype(np.float32) / 255


@lru_cache(maxsize=1)
def _forest(size: Size) -> Scene:
    return Scene(
        name="forest floor",
        background=_forest_floor(size),
        camera=lambda t: (_between(t, 0.15, 0.45, 0.80), _between(t, 0.25, 0.40, 0.75), 1.0 + 0.12 * t),
        actors=(
            Actor(
                1,
                LABELS[1],
                sprites.leaf(),
                lambda t: Pose(_between(t, 0.66, 0.56, 0.40, 0.30), _between(t, 0.26, 0.44, 0.58, 0.70),
                               _between(t, 0.36, 0.44, 0.56), _between(t, -30, 20, 95)),
            ),
            Actor(
                2,
                LABELS[2],
                sprites.beetle(),
                lambda t: Pose(_between(t, 0.16, 0.34, 0.55, 0.80), _between(t, 0.76, 0.62, 0.54, 0.24), 0.27,
                               _between(t, -28, -14, -22, -52)),
            ),
            Actor(
                3,
                LABELS[3],
                sprites.ball(),
                lambda t: Pose(_between(t, 1.16, 0.78, 0.48, 0.16), _between(t, 0.80, 0.62, 0.60, 0.30),
                               _between(t, 0.46, 0.40, 0.34), -330 * t),
            ),
        ),
        shadow=0.42,
    )  # fmt: skip


@lru_cache(maxsize=1)
def _sea(size: Size) -> Scene:
    return Scene(
        name="shallow sea",
        background=_sea_floor(size),
        camera=lambda t: (_between(t, 0.75, 0.50, 0.20), _between(t, 0.60, 0.45, 0.40), 1.10 - 0.06 * t),
        actors=(
            Actor(
                4,
                LABELS[4],
                sprites.turtle(),
                lambda t: Pose(_between(t, 0.30, 0.42, 0.52, 0.56), _between(t, 0.62, 0.56, 0.50, 0.46),
                               _between(t, 0.46, 0.56, 0.66), _between(t, -10, -32, -70)),
            ),
            Actor(
                5,
                LABELS[5],
                sprites.fish((0.98, 0.45, 0.10), (0.99, 0.95, 0.90), 4),
                # Swims out of the frame and comes back.
                lambda t: Pose(_between(t, 0.54, 0.86, 1.24, 0.96, 0.66), _between(t, 0.22, 0.26, 0.36, 0.62, 0.74),
                               0.36, _between(t, 2, 10, 95, 160, 172), 26 * t, t > 0.5),
            ),
            Actor(
                6,
                LABELS[6],
                sprites.fish((0.96, 0.82, 0.16), (0.13, 0.20, 0.52), 5),
                lambda t: Pose(_between(t, 0.02, 0.34, 0.62, 0.88), _between(t, 0.34, 0.46, 0.52, 0.30),
                               _between(t, 0.30, 0.36, 0.32), _between(t, 18, 6, -12, -26), 30 * t),
            ),
        ),
        shadow=0.22,
    )  # fmt: skip


@lru_cache(maxsize=1)
def _table(size: Size) -> Scene:
    return Scene(
        name="table top",
        background=_table_top(size),
        camera=lambda t: (_between(t, 0.60, 0.45, 0.20), _between(t, 0.15, 0.50, 0.65), 1.16 - 0.10 * t),
        actors=(
            Actor(
                7,
                LABELS[7],
                sprites.leaf(13),
                lambda t: Pose(_between(t, 0.28, 0.34, 0.50, 0.66), _between(t, 0.70, 0.58, 0.50, 0.30),
                               _between(t, 0.50, 0.46, 0.42), _between(t, 160, 120, 60)),
            ),
            Actor(
                8,
                LABELS[8],
                sprites.ball(11),
                lambda t: Pose(_between(t, 0.24, 0.42, 0.64, 0.82), _between(t, 0.26, 0.40, 0.58, 0.62),
                               _between(t, 0.30, 0.36, 0.42), 300 * t),
            ),
            Actor(
                9,
                LABELS[9],
                sprites.beetle(12),
                lambda t: Pose(_between(t, 0.84, 0.70, 0.46, 0.22), _between(t, 0.30, 0.44, 0.36, 0.24),
                               _between(t, 0.26, 0.30, 0.28), _between(t, 150, 185, 205)),
            ),
        ),
        shadow=0.36,
    )  # fmt: skip


def scenes(size: Size = (HEIGHT, WIDTH)) -> tuple[Scene, ...]:
    """The two scenes of the video, for frames of ``size``. Object ids count through both."""
    return _forest(size), _sea(size)


def labels() -> dict[int, str]:
    """The class of every object of the video of two scenes by its id."""
    return {object_id: LABELS[object_id] for object_id in range(1, 2 * _ACTORS + 1)}


def render(frames_per_scene: int, size: Size | None = None) -> Iterator[RenderedFrame]:
    """Renders the video frame by frame; the same on every run.

    Args:
        frames_per_scene: length of each of the two scenes
        size: ``(height, width)`` of the frames in pixels; by default ``(HEIGHT, WIDTH)``
    """
    size = size or (HEIGHT, WIDTH)
    for scene in scenes(size):
        for index in range(frames_per_scene):
            yield _render_frame(scene, index / max(frames_per_scene - 1, 1), size)


@dataclass(frozen=True)
class Shot:
    """One of any number of shots without a cut: each of the three scenes in turn, then the same in other guises.

    Args:
        number: which one it is, from 0
    """

    number: int

    @property
    def _turn(self) -> int:
        return self.number // len(_SCENES)

    @property
    def name(self) -> str:
        """Unique among the shots: ``"shallow-sea"``, the next time ``"shallow-sea-2"``."""
        name = _SCENES[self.number % len(_SCENES)][0]
        return f"{name}-{self._turn + 1}" if self._turn else name

    @property
    def labels(self) -> dict[int, str]:
        """The class of each of its objects by id. Ids count through all shots."""
        first = 1 + self.number % len(_SCENES) * _ACTORS
        return {first + place + self._shift: LABELS[first + place] for place in range(_ACTORS)}

    @property
    def _shift(self) -> int:
        return self._turn * len(LABELS)

    def render(self, length: int, size: Size | None = None) -> Iterator[RenderedFrame]:
        """Renders its frames; the same on every run.

        Args:
            length: frames; fewer than :data:`PACE` show the beginning of what happens in the scene
            size: ``(height, width)`` of the frames in pixels; by default ``(HEIGHT, WIDTH)``
        """
        size = size or (HEIGHT, WIDTH)
        scene = _SCENES[self.number % len(_SCENES)][1](size)
        mirrored, backwards = self._turn % 2 == 1, self._turn % 4 >= 2
        for index in range(length):
            t = index / max(length - 1, PACE - 1)
            frame = _render_frame(scene, 1 - t if backwards else t, size)
            ids = np.where(frame.ids > 0, frame.ids.astype(np.uint16) + np.uint16(self._shift), 0).astype(np.uint16)
            flip = slice(None, None, -1 if mirrored else 1)
            yield RenderedFrame(np.ascontiguousarray(frame.image[:, flip]), np.ascontiguousarray(ids[:, flip]))


_SCENES: tuple[tuple[str, Callable[[Size], Scene]], ...] = (
    ("forest-floor", _forest),
    ("shallow-sea", _sea),
    ("table-top", _table),
)
# In each of them.
_ACTORS = 3


def _render_frame(scene: Scene, t: float, size: Size) -> RenderedFrame:
    canvas = _backdrop(scene, t, size)
    ids = np.zeros(size, np.uint8)
    for actor in scene.actors:
        layer = _placed(actor, actor.pose(t), size)
        opacity = layer[..., 3:]
        shadow = cv2.GaussianBlur(_shifted(layer[..., 3], 7, 10), (0, 0), 5)[..., None] * scene.shadow
        canvas = canvas * (1 - shadow * (1 - opacity))
        canvas = canvas * (1 - opacity) + layer[..., :3] * opacity
        ids[opacity[..., 0] >= 0.5] = actor.object_id
    return RenderedFrame(np.round(np.clip(canvas, 0, 1) * 255).astype(np.uint8), ids)


def _backdrop(scene: Scene, t: float, size: Size) -> Floats:
    x, y, zoom = scene.camera(t)
    height, width = scene.background.shape[:2]
    left, top = x * (width - size[1] / zoom), y * (height - size[0] / zoom)
    matrix = np.array([[zoom, 0, -left * zoom], [0, zoom, -top * zoom]], np.float32)
    moved = cv2.warpAffine(scene.background, matrix, (size[1], size[0]), borderMode=cv2.BORDER_REFLECT)
    return moved.astype(np.float32)


def _placed(actor: Actor, pose: Pose, size: Size) -> Floats:
    """The sprite on a transparent frame. Colours are weighted by opacity while they are resampled: no dark fringe."""
    sprite = actor.sprite if pose.beat is None else sprites.bent(actor.sprite, pose.beat, 0.10)
    sprite = sprite[::-1] if pose.flipped else sprite
    scale = pose.size * size[0] / sprites.SIZE
    # Shrinking without blur would make the texture flicker.
    sprite = cv2.GaussianBlur(sprite, (0, 0), 0.45 / scale) if scale < 0.9 else sprite
    weighted = np.dstack([sprite[..., :3] * sprite[..., 3:], sprite[..., 3]])
    matrix = cv2.getRotationMatrix2D((sprites.SIZE / 2, sprites.SIZE / 2), -pose.angle, scale)
    centre = sprites.SIZE / 2
    matrix = matrix + np.array([[0, 0, pose.x * size[1] - centre], [0, 0, pose.y * size[0] - centre]])
    layer = cv2.warpAffine(weighted, matrix, (size[1], size[0]), flags=cv2.INTER_LINEAR)
    opacity = layer[..., 3:]
    return np.dstack([layer[..., :3] / np.maximum(opacity, 1e-4), opacity]).astype(np.float32)


def _shifted(opacity: Floats, right: int, down: int) -> Floats:
    moved = np.zeros_like(opacity)
    moved[down:, right:] = opacity[:-down, :-right]
    return moved


__all__ = [
    "FRAME_RATE",
    "HEIGHT",
    "PACE",
    "WIDTH",
    "Actor",
    "Pose",
    "RenderedFrame",
    "Scene",
    "Shot",
    "labels",
    "render",
    "scenes",
]
