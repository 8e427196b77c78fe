"""The benchmark of reviews: what it counts, and that its scores are no matter of names."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from benchmarks.review import Bench, Clip, _print_goal, _spread, folders_of, read_sequence
from labelprop_cvat.backend.local_cvat import LocalCVAT
from labelprop_cvat.propagation.types import ObjectMask


def box(x: float) -> tuple[float, float, float, float]:
    return x, 0.0, x + 10.0, 10.0


#: Object 1 stands, object 2 comes on frame 2 and is 30 pixels to the right.
TRUTH: tuple[dict[int, Any], ...] = ({1: box(0)}, {1: box(0)}, {1: box(0), 2: box(30)}, {1: box(0), 2: box(30)})


def bench(truth: tuple[dict[int, Any], ...] = TRUTH) -> Bench:
    server: LocalCVAT = None  # type: ignore[assignment] - nothing of this goes to a server
    return Bench(server, Clip("made", (), truth), 1, 1)


def test_objects_are_known_by_where_they_are_and_not_by_their_number() -> None:
    renamed = {frame: {i + 6: thing for i, thing in here.items()} for frame, here in enumerate(TRUTH)}
    assert bench()._score(renamed) == 1.0
    swapped = {frame: {3 - i: thing for i, thing in here.items()} for frame, here in enumerate(TRUTH)}
    assert bench()._score(swapped) == 1.0


def test_what_is_missing_or_too_much_counts_as_nothing() -> None:
    first_only = {frame: {1: here[1]} for frame, here in enumerate(TRUTH)}
    assert bench()._score(first_only) == pytest.approx(4 / 6)
    ghost = {frame: {**here, 9: box(60)} for frame, here in enumerate(TRUTH)}
    assert bench()._score(ghost) == pytest.approx(6 / 10)
    assert bench()._score({}) == 0.0


def test_keyframes_of_the_baselines_are_as_many_as_they_were_given() -> None:
    prompts = list(_spread(TRUTH, {1: 3, 2: 9}))
    assert [(p.frame, p.object_id) for p in prompts if p.box] == [(0, 1), (2, 1), (3, 1), (2, 2), (3, 2)]
    # Where an object comes is said for nothing.
    assert [(p.frame, p.object_id) for p in prompts if not p.box] == [(1, 2)]


def test_drawing_everything_costs_two_clicks_a_box() -> None:
    row = bench()._drawn("every frame", [(f, i) for f, here in enumerate(TRUTH) for i in here], 1.0)
    assert (row.clicks, row.keyframes) == (12, 6)
    assert row.minutes == pytest.approx((6 * 7.0 + 4 * 0.1) / 60)


def test_masks_cost_the_corners_of_their_outline() -> None:
    mask = ObjectMask(5, 5, np.ones((20, 30), bool))
    row = bench(({1: mask},))._drawn("every frame", [(0, 1)], 1.0)
    assert row.clicks == 4


def test_a_goal_that_is_missed_says_by_what() -> None:
    made = bench()
    ways = ["CVAT alone", "exemplars only", "exemplars only, same clicks"]
    every = made._drawn("every frame", [(f, i) for f, here in enumerate(TRUTH) for i in here], 1.0)
    lines: list[str] = []
    for j, clicks in ((0.96, 2), (0.96, 6), (0.90, 2)):
        rows = [made._drawn(way, [(0, 1)], 0.5) for way in ways]
        loop = type(every)("loop: exemplars", 1, j, 1.0, clicks)
        _print_goal([(Clip("made", (), TRUTH), [every, loop, *rows])], lambda line="": lines.append(line))
    told = [line for line in lines if line.startswith("| made")]
    assert [line.split("|")[-2].strip() for line in told] == [
        "reached",
        "missed: 50% of the clicks",
        "missed: J 0.900",
    ]


def test_sequences_are_halved_and_thinned(tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / name / "frames").mkdir(parents=True)
        for number in range(4):
            cv2.imwrite(str(tmp_path / name / "frames" / f"{number}.jpg"), np.full((20, 40, 3), 90, np.uint8))
        rows = [f"{n},7,{10 + n},4,12,8,person" for n in range(4)]
        (tmp_path / name / "boxes.csv").write_text("\n".join(["frame,track_id,x,y,w,h,label", *rows]) + "\n")
    assert [folder.name for folder in folders_of(tmp_path, None)] == ["one", "two"]
    assert [folder.name for folder in folders_of(tmp_path, 1)] == ["one"]
    place = tmp_path / "place"
    place.mkdir()
    clip = read_sequence(tmp_path / "one", place, full=False)
    assert clip.boxes
    assert clip.labels == len(clip.images) == 4
    assert clip.truth[1][7] == (5.5, 2.0, 11.5, 6.0)
    assert cv2.imread(str(clip.images[0])).shape == (10, 20, 3)  # type: ignore[union-attr]
