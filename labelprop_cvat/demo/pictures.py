"""Draws what was propagated: overlays, contact sheets, a comparison, a video.

Images are arrays of shape ``(H, W, 3)``, uint8, RGB.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from types import TracebackType
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
from PIL import Image as Picture
from PIL import ImageDraw, ImageFont

from labelprop_cvat.demo.video import VideoWriter
from labelprop_cvat.errors import DataError
from labelprop_cvat.propagation.frames import Image
from labelprop_cvat.propagation.types import ObjectMask

Colour = tuple[int, int, int]

# Bright, and far apart from each other on green, brown and blue alike.
PALETTE: tuple[Colour, ...] = (
    (255, 84, 196),
    (64, 224, 255),
    (188, 255, 72),
    (255, 160, 48),
    (176, 132, 255),
    (255, 240, 92),
    (92, 255, 176),
    (255, 112, 104),
)
BACKGROUND: Colour = (19, 22, 28)
PANEL: Colour = (31, 35, 43)
TEXT: Colour = (236, 239, 244)
FAINT: Colour = (150, 158, 172)
HUMAN: Colour = (255, 200, 64)
MACHINE: Colour = (96, 190, 255)
TRUTH: Colour = (255, 255, 255)

CAPTION = 30
GAP = 12


def colour_of(object_id: int) -> Colour:
    """The colour of an object, the same in every picture."""
    return PALETTE[(object_id - 1) % len(PALETTE)]


@dataclass(frozen=True)
class Tile:
    """One picture of a contact sheet and what its caption says.

    Args:
        image: the frame, overlays included
        title: at the left of the caption
        badge: a word on a coloured ground behind it, or ""
        badge_colour: that ground
        note: at the right of the caption
    """

    image: Image
    title: str
    badge: str = ""
    badge_colour: Colour = MACHINE
    note: str = ""


@dataclass(frozen=True)
class Legend:
    """What stands above a contact sheet.

    Args:
        title: large
        subtitle: small, below it
        entries: ``(text, colour)``, in a row
    """

    title: str
    subtitle: str = ""
    entries: Sequence[tuple[str, Colour]] = field(default_factory=tuple)


def overlay(
    image: Image,
    objects: Mapping[int, ObjectMask],
    truth: Mapping[int, ObjectMask] | None = None,
    *,
    width: int | None = None,
    strength: float = 0.42,
) -> Image:
    """Draws objects over a frame: filled and outlined in their colours, the true outline as a dotted white line.

    Args:
        image: the frame
        objects: the masks to draw by object id, in the frame's pixels
        truth: the true masks, where they are known
        width: width of the answer in pixels; the frame's own by default
        strength: opacity of the filling, in [0, 1]
    """
    scale = 1.0 if width is None else width / image.shape[1]
    size = (round(image.shape[1] * scale), round(image.shape[0] * scale))
    canvas = cv2.resize(image, size, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC)
    # The frame steps back a little, so that the objects stand out.
    canvas = (canvas * 0.86).astype(np.uint8)
    for object_id, mask in sorted(objects.items()):
        colour = np.array(colour_of(object_id), np.float32)
        inside = cv2.resize(mask.to_full(image.shape[:2]).astype(np.float32), size, interpolation=cv2.INTER_LINEAR)
        share = (inside * strength)[..., None]
        canvas = (canvas * (1 - share) + colour * share).astype(np.uint8)
        outlines, _ = cv2.findContours((inside >= 0.5).astype(np.uint8), cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
        cv2.drawContours(canvas, outlines, -1, colour_of(object_id), 2, cv2.LINE_AA)
    for mask in (truth or {}).values():
        inside = cv2.resize(mask.to_full(image.shape[:2]).astype(np.float32), size, interpolation=cv2.INTER_LINEAR)
        outlines, _ = cv2.findContours((inside >= 0.5).astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
        for outline in outlines:
            _dotted(canvas, outline[:, 0])
    return np.ascontiguousarray(canvas)


def _dotted(canvas: npt.NDArray[Any], outline: npt.NDArray[Any]) -> None:
    for start in range(0, len(outline), 7):
        cv2.polylines(canvas, [outline[start : start + 3]], False, TRUTH, 1, cv2.LINE_AA)


def contact_sheet(tiles: Sequence[Tile], columns: int, legend: Legend) -> Image:
    """Lays tiles of one size out in rows, each with a caption below, under a legend.

    Raises:
        DataError: there are no tiles, or they differ in size
    """
    if not tiles or len({tile.image.shape for tile in tiles}) != 1:
        raise DataError(
            f"A contact sheet needs tiles of one size, got {sorted({tile.image.shape[:2] for tile in tiles})}."
        )
    height, width = tiles[0].image.shape[:2]
    columns = min(columns, len(tiles))
    rows = -(-len(tiles) // columns)
    top = 92
    sheet = Picture.new(
        "RGB", (GAP + columns * (width + GAP), top + rows * (height + CAPTION + GAP) + GAP // 2), BACKGROUND
    )
    draw = ImageDraw.Draw(sheet)
    _draw_legend(draw, legend, sheet.width)
    for number, tile in enumerate(tiles):
        row, column = divmod(number, columns)
        x, y = GAP + column * (width + GAP), top + row * (height + CAPTION + GAP)
        sheet.paste(Picture.fromarray(tile.image), (x, y))
        _draw_caption(draw, tile, x, y + height, width)
    return np.asarray(sheet)


def _draw_legend(draw: ImageDraw.ImageDraw, legend: Legend, width: int) -> None:
    draw.text((GAP, 12), legend.title, TEXT, _font(24))
    draw.text((GAP, 44), legend.subtitle, FAINT, _font(15))
    x = GAP
    for text, colour in legend.entries:
        length = 20 + int(draw.textlength(text, _font(15))) + 22
        if x + length > width:
            break
        draw.rounded_rectangle((x, 70, x + 13, 83), 3, colour)
        draw.text((x + 20, 76), text, TEXT, _font(15), anchor="lm")
        x += length


def _draw_caption(draw: ImageDraw.ImageDraw, tile: Tile, x: int, y: int, width: int) -> None:
    middle = y + CAPTION // 2
    draw.rectangle((x, y, x + width - 1, y + CAPTION - 1), PANEL)
    draw.text((x + 9, middle), tile.title, TEXT, _font(15), anchor="lm")
    if tile.badge:
        left = x + 9 + int(draw.textlength(tile.title, _font(15))) + 10
        length = int(draw.textlength(tile.badge, _font(13)))
        draw.rounded_rectangle((left, middle - 9, left + length + 14, middle + 9), 9, tile.badge_colour)
        draw.text((left + 7, middle), tile.badge, BACKGROUND, _font(13), anchor="lm")
    draw.text((x + width - 9, middle), tile.note, FAINT, _font(14), anchor="rm")


@lru_cache
def _font(size: int) -> ImageFont.ImageFont | ImageFont.FreeTypeFont:
    return ImageFont.load_default(size)


def save_png(image: Image, path: Path) -> None:
    """Writes a PNG."""
    # A tenth larger than the smallest, and written in a tenth of the time.
    Picture.fromarray(image).save(path, compress_level=3)


@dataclass(frozen=True)
class Timeline:
    """The bar below the video: where people annotated, where segments begin.

    Args:
        length: number of frames
        keyframes: frames that a person annotated
        starts: first frames of the temporal segments
    """

    length: int
    keyframes: frozenset[int]
    starts: tuple[int, ...]


class OverlayVideo:
    """Writes a video of overlays with a timeline, which browsers play; a context manager.

    Args:
        path: the file, which ends in ``.webm``
        frame_rate: frames a second
        timeline: what the bar below the picture shows

    Raises:
        DataError: this OpenCV cannot write it
    """

    BAR = 44

    def __init__(self, path: Path, frame_rate: float, timeline: Timeline) -> None:
        self._path = path
        self._frame_rate = frame_rate
        self._timeline = timeline
        self._writer: VideoWriter | None = None

    def __enter__(self) -> OverlayVideo:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._writer is not None:
            self._writer.close()

    def add(self, frame: int, image: Image, tags: Iterable[tuple[str, int, tuple[float, float]]], note: str) -> None:
        """Adds the next frame.

        Args:
            frame: its index, 0-based
            image: overlays included, always of one size
            tags: ``(text, object id, (x, y))``, drawn at that place of the image
            note: at the right of the bar
        """
        height, width = image.shape[:2]
        page = Picture.new("RGB", (width - width % 2, (height + self.BAR) // 2 * 2), PANEL)
        page.paste(Picture.fromarray(image), (0, 0))
        draw = ImageDraw.Draw(page)
        for text, object_id, (x, y) in tags:
            _draw_tag(draw, text, colour_of(object_id), x, y, width)
        self._draw_bar(draw, frame, note, width, height)
        self._write(np.asarray(page))

    def _draw_bar(self, draw: ImageDraw.ImageDraw, frame: int, note: str, width: int, top: int) -> None:
        timeline = self._timeline
        left, right, line = 12, width - 13, top + 32

        def place(index: float) -> float:
            return left + (right - left) * index / max(timeline.length - 1, 1)

        person = frame in timeline.keyframes
        draw.text((12, top + 14), f"frame {frame}", TEXT, _font(14), anchor="lm")
        draw.text((96, top + 14), "drawn by a person" if person else "propagated", HUMAN if person else MACHINE,
                  _font(14), anchor="lm")  # fmt: skip
        draw.text((right, top + 14), note, FAINT, _font(14), anchor="rm")
        draw.line((left, line, right, line), (74, 82, 96), 3)
        draw.line((left, line, place(frame), line), MACHINE, 3)
        for start in timeline.starts[1:]:
            draw.line((place(start - 0.5), line - 7, place(start - 0.5), line + 7), TEXT, 1)
        for keyframe in timeline.keyframes:
            x = place(keyframe)
            draw.ellipse((x - 4, line - 4, x + 4, line + 4), HUMAN)
        x = place(frame)
        draw.ellipse((x - 6, line - 6, x + 6, line + 6), TEXT)

    def _write(self, page: Image) -> None:
        if self._writer is None:
            self._writer = VideoWriter(self._path, page.shape[:2], self._frame_rate)
        self._writer.write(page)


def _draw_tag(draw: ImageDraw.ImageDraw, text: str, colour: Colour, x: float, y: float, width: int) -> None:
    length = draw.textlength(text, _font(13)) + 12
    left = min(max(x - length / 2, 2), width - length - 2)
    top = max(y - 24, 2)
    draw.rounded_rectangle((left, top, left + length, top + 19), 5, BACKGROUND, colour)
    draw.text((left + 6, top + 9), text, colour, _font(13), anchor="lm")


__all__ = [
    "HUMAN",
    "MACHINE",
    "TRUTH",
    "Legend",
    "OverlayVideo",
    "Tile",
    "Timeline",
    "colour_of",
    "contact_sheet",
    "overlay",
    "save_png",
]
