"""Small media with the frame number coded in the pixels, so that a test knows which frame it got."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

BITS = 10
CELL = 16
HEIGHT, WIDTH = 2 * CELL, BITS * CELL


def numbered_frame(number: int, height: int = HEIGHT, width: int = WIDTH) -> np.ndarray:
    """An RGB frame whose upper row of cells is ``number`` in binary and whose lower row is its complement."""
    frame = np.full((height, width, 3), 128, dtype=np.uint8)
    for bit in range(BITS):
        value = 230 if number >> bit & 1 else 20
        frame[:CELL, bit * CELL : (bit + 1) * CELL] = value
        frame[CELL : 2 * CELL, bit * CELL : (bit + 1) * CELL] = 250 - value
    return frame


def number_of(frame: np.ndarray) -> int:
    """Reads the number back; fails the test when the picture is damaged."""
    number = 0
    for bit in range(BITS):
        column = slice(bit * CELL + 4, (bit + 1) * CELL - 4)
        upper, lower = frame[4 : CELL - 4, column].mean(), frame[CELL + 4 : 2 * CELL - 4, column].mean()
        assert abs(upper - lower) > 120, f"bit {bit} is unreadable: {upper:.0f} against {lower:.0f}"
        number |= int(upper > lower) << bit
    return number


def write_cv_video(path: Path, count: int, fourcc: str = "mp4v", size: tuple[int, int] = (HEIGHT, WIDTH)) -> Path:
    """A constant-rate video written by OpenCV."""
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*fourcc), 25.0, (size[1], size[0]))
    assert writer.isOpened()
    for number in range(count):
        writer.write(numbered_frame(number, *size)[..., ::-1])
    writer.release()
    return path


def write_av_video(
    path: Path,
    count: int,
    *,
    codec: str = "libx264",
    stamps: Sequence[int] | None = None,
    options: dict[str, str] | None = None,
    size: tuple[int, int] = (HEIGHT, WIDTH),
    b_frames: int = 3,
    gop: int = 30,
) -> Path:
    """A video with B-frames and any time stamps (in milliseconds); skips the test where PyAV is not installed."""
    av: Any = pytest.importorskip("av", reason="PyAV writes the B-frame videos")
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=25)
        tick = Fraction(1, 1000 if stamps is not None else 25)
        stream.time_base = tick
        stream.height, stream.width = size
        stream.pix_fmt = "yuv420p"
        stream.codec_context.gop_size = gop
        stream.codec_context.max_b_frames = b_frames
        stream.codec_context.time_base = tick
        stream.codec_context.thread_count = 1
        stream.options = options or {}
        for number in range(count):
            frame = av.VideoFrame.from_ndarray(numbered_frame(number, *size), format="rgb24")
            frame.time_base = tick
            frame.pts = stamps[number] if stamps is not None else number
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path
