"""Rounds of a scripted annotator, as the benchmark plays them: frames, minutes and what comes of it."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
from fixtures_roundtrip import scene_image, scene_masks, write_images

from benchmarks.choosing import Footage
from benchmarks.rounds import Bench, Row
from labelprop_cvat.backend.local_cvat import LocalCVAT
from labelprop_cvat.backend.local_cvat.annotator import Sloppiness
from labelprop_cvat.propagation.frames import ArraySource
from labelprop_cvat.propagation.types import ObjectMask

FRAMES = 11


def footage() -> Footage:
    truth = [
        {number: mask for number, full in scene_masks(frame).items() if (mask := ObjectMask.from_full(full))}
        for frame in range(FRAMES)
    ]
    images = [cv2.cvtColor(scene_image(frame), cv2.COLOR_BGR2RGB) for frame in range(FRAMES)]
    return Footage("scene", ArraySource(np.stack(images)), tuple(truth))


def test_rounds_come_to_as_much_for_less(tmp_path: Path) -> None:
    write_images(tmp_path, FRAMES)
    with LocalCVAT(anonymous_rate=None) as server:
        bench = Bench(server, tmp_path, footage(), rounds=2, hand=Sloppiness())
        rows = list(bench.rows())
    shown = [(row.way, row.frames) for row in rows]
    ways = ("suggest", "widest gaps", "uniform")
    assert shown == [(way, frames) for way in ways for frames in (3, 6)] + [("first frame", 1)]
    by_way: dict[str, list[Row]] = {way: [row for row in rows if row.way == way] for way, _ in shown}
    drawn = 3 * 2 * 80 + 3 * 0.1
    for way in ways:
        first, second = by_way[way]
        assert first.drawn == second.drawn == 1.0
        # The engine fills this scene almost perfectly, so that there is little left to gain.
        assert 0.9 < first.j < second.j + 0.005
        assert first.minutes == pytest.approx(drawn / 60)
    assert by_way["uniform"][1].minutes == pytest.approx(2 * drawn / 60)
    for way in ("suggest", "widest gaps"):
        # Masks that are there already are looked at and mended, not drawn.
        assert drawn / 60 < by_way[way][1].minutes < 1.7 * drawn / 60
    (only,) = by_way["first frame"]
    assert only.minutes == pytest.approx((2 * 80 + 0.1) / 60)
    assert only.j < by_way["uniform"][1].j
    everything = bench.every_frame(0.9)
    assert (everything.frames, everything.j) == (FRAMES, 0.9)
    assert everything.minutes == pytest.approx((sum(map(len, bench.footage.truth)) * 80 + FRAMES * 0.1) / 60)
