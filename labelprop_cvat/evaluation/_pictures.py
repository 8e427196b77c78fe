"""The worst frames as pictures: truth on the left, prediction on the right."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
import numpy.typing as npt

from labelprop_cvat.errors import DataError
from labelprop_cvat.evaluation._reading import Thing
from labelprop_cvat.evaluation.scores import Sample, SequenceResult
from labelprop_cvat.propagation.frames import Image

TRUE_COLOUR = (46, 204, 113)
PREDICTED_COLOUR = (255, 140, 26)

_TILE = (448, 252)
_GAP = 6
_MARGIN = 0.25
_QUALITY = 82
_SMALLEST = 64


def worst_frames(sequences: Sequence[SequenceResult], count: int) -> list[Sample]:
    """The object-frames of true objects with the lowest IoU, the worst first.

    Neighbours show the same: of one object, frames lie a sixth of its sequence apart, and five frames at least.
    """
    candidates = []
    for number, sequence in enumerate(sequences):
        table = sequence.object_frames
        quality = table.quality
        there = ~table.extra & ~np.isnan(quality) & (quality < 1.0)
        # Of each sequence only what can get into the list.
        places = np.flatnonzero(there)
        places = places[np.argsort(quality[places], kind="stable")]
        apart = max(5, sequence.length // 6)
        taken: dict[int, list[int]] = {}
        kept = 0
        for place in places:
            position, index = int(table.position[place]), int(table.index[place])
            if any(abs(position - other) < apart for other in taken.get(index, ())):
                continue
            taken.setdefault(index, []).append(position)
            sample = Sample(
                sequence=number,
                position=position,
                index=index,
                quality=float(quality[place]),
                f=float(table.f[place]),
                confidence=float(table.confidence[place]),
                distance=int(table.distance[place]),
                predicted=bool(table.predicted[place]),
                true=bool(table.true[place]),
            )
            candidates.append(sample)
            kept += 1
            if kept == count:
                break
    return sorted(candidates, key=lambda sample: (sample.quality, sample.sequence, sample.position))[:count]


def pair(image: Image, true: Thing | None, predicted: Thing | None) -> bytes:
    """A JPEG of one object: its true outline on the left, the predicted one on the right, both with what is around.

    Args:
        image: the frame
        true: the object as it is; None where it is not there
        predicted: the object as predicted; None where it is not

    Raises:
        DataError: this OpenCV writes no JPEG
    """
    view = _window(image.shape[:2], [thing for thing in (true, predicted) if thing is not None])
    tiles = [
        _tile(image, view, thing, colour) for thing, colour in ((true, TRUE_COLOUR), (predicted, PREDICTED_COLOUR))
    ]
    gap = np.zeros((tiles[0].shape[0], _GAP, 3), np.uint8)
    sheet = cv2.cvtColor(np.hstack([tiles[0], gap, tiles[1]]), cv2.COLOR_RGB2BGR)
    done, data = cv2.imencode(".jpg", sheet, [cv2.IMWRITE_JPEG_QUALITY, _QUALITY])
    if not done:
        raise DataError("This OpenCV cannot write JPEG, so the report can hold no pictures. Pass worst=0.")
    return data.tobytes()


def _window(size: tuple[int, ...], things: Sequence[Thing]) -> tuple[int, int, int, int]:
    """The part of the frame to show: the object with a margin, shaped as a tile where the frame is large enough."""
    height, width = size[0], size[1]
    boxes = np.array([thing.box for thing in things] or [(0.0, 0.0, width, height)])
    x1, y1 = boxes[:, :2].min(axis=0)
    x2, y2 = boxes[:, 2:].max(axis=0)
    wide, high = max(x2 - x1, _SMALLEST) * (1 + 2 * _MARGIN), max(y2 - y1, _SMALLEST) * (1 + 2 * _MARGIN)
    shape = _TILE[0] / _TILE[1]
    wide, high = max(wide, high * shape), max(high, wide / shape)
    if wide > width or high > height:
        wide, high = min(wide, float(width)), min(high, float(height))
    left = float(np.clip((x1 + x2 - wide) / 2, 0, width - wide))
    top = float(np.clip((y1 + y2 - high) / 2, 0, height - high))
    return int(left), int(top), int(np.ceil(left + wide)), int(np.ceil(top + high))


def _tile(
    image: Image, view: tuple[int, int, int, int], thing: Thing | None, colour: tuple[int, int, int]
) -> npt.NDArray[np.uint8]:
    left, top, right, bottom = view
    right, bottom = min(right, image.shape[1]), min(bottom, image.shape[0])
    part = image[top:bottom, left:right]
    scale = min(_TILE[0] / part.shape[1], _TILE[1] / part.shape[0])
    size = (max(1, round(part.shape[1] * scale)), max(1, round(part.shape[0] * scale)))
    shown = cv2.resize(part, size, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC)
    if thing is not None and thing.mask is not None:
        pixels = thing.mask.to_full(image.shape[:2])[top:bottom, left:right].astype(np.float32)
        inside = cv2.resize(pixels, size, interpolation=cv2.INTER_LINEAR)
        share = (inside * 0.28)[..., None]
        shown = (shown * (1 - share) + np.array(colour, np.float32) * share).astype(np.uint8)
        outlines, _ = cv2.findContours((inside >= 0.5).astype(np.uint8), cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
        cv2.drawContours(shown, outlines, -1, (0, 0, 0), 4, cv2.LINE_AA)
        cv2.drawContours(shown, outlines, -1, colour, 2, cv2.LINE_AA)
    elif thing is not None:
        x1, y1, x2, y2 = (
            round(float(edge - start) * scale) for edge, start in zip(thing.box, (left, top, left, top), strict=True)
        )
        cv2.rectangle(shown, (x1, y1), (x2, y2), (0, 0, 0), 4, cv2.LINE_AA)
        cv2.rectangle(shown, (x1, y1), (x2, y2), colour, 2, cv2.LINE_AA)
    canvas = np.zeros((_TILE[1], _TILE[0], 3), np.uint8)
    x, y = (_TILE[0] - size[0]) // 2, (_TILE[1] - size[1]) // 2
    canvas[y : y + size[1], x : x + size[0]] = shown
    return canvas


__all__ = ["PREDICTED_COLOUR", "TRUE_COLOUR", "pair", "worst_frames"]
