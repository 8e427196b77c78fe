"""Shot changes are found where they are, and nowhere else."""

from __future__ import annotations

import json
import sys
from functools import lru_cache
from pathlib import Path

import cv2
import numpy as np
import pytest
from conftest import SHARED

from labelprop_cvat.errors import ConfigurationError
from labelprop_cvat.propagation.frames import ArraySource, SubsetSource, read_image
from labelprop_cvat.propagation.segments import (
    AdaptiveContentDetector,
    ColourDetector,
    find_segments,
    score_frames,
)
from labelprop_cvat.propagation.types import Segment

DATA = SHARED / "data"
# Those that move fastest; benchmarks/segmentation.py looks at all there are.
SINGLE_SHOTS = ("davis16-dog-agility", "davis16-motorbike", "davis16-rollerblade")
METHODS = ("heuristic", "adaptive", "content")

Frames = list[np.ndarray]


def texture(seed: int) -> np.ndarray:
    """A large smooth coloured picture to pan over."""
    noise = np.random.default_rng(seed).integers(0, 255, (8, 16, 3), dtype=np.uint8)
    return cv2.resize(noise, (1200, 600), interpolation=cv2.INTER_CUBIC)


def shot(seed: int, length: int, speed: int = 3, gain: float = 1.0) -> Frames:
    picture = np.clip(texture(seed) * gain, 0, 255).astype(np.uint8)
    small = cv2.resize(picture, (600, 300), interpolation=cv2.INTER_AREA)
    return [np.ascontiguousarray(small[30:120, 5 + i * speed // 2 : 165 + i * speed // 2]) for i in range(length)]


def cuts(frames: Frames, method: str, **options: float) -> list[int]:
    return score_frames(ArraySource(frames), method, **options).cuts


@lru_cache(maxsize=1)
def real(name: str) -> ArraySource:
    paths = sorted((DATA / name / "frames").glob("*.jpg"))
    if not paths:
        pytest.skip(f"{name} is not among the reference data")
    return ArraySource([cv2.resize(read_image(path), (320, 180), interpolation=cv2.INTER_AREA) for path in paths])


class TestRealVideo:
    def test_cuts_between_real_shots(self) -> None:
        source = real("scenes-dev")
        expected = json.loads((DATA / "scenes-dev" / "meta.json").read_text())["cuts"]
        assert expected == [35, 75, 100, 135]
        for method in ("auto", "adaptive", "histogram", "hash"):
            assert score_frames(source, method).cuts == expected, method

    @pytest.mark.parametrize("name", SINGLE_SHOTS)
    def test_single_shots_stay_whole(self, name: str) -> None:
        source = real(name)
        twice_as_fast = SubsetSource(source, range(0, len(source), 2))
        for method in ("auto", "adaptive"):
            assert find_segments(source, method) == [Segment(0, len(source))], method
        assert find_segments(twice_as_fast) == [Segment(0, len(twice_as_fast))]


class TestSyntheticVideo:
    @pytest.mark.parametrize("method", METHODS)
    def test_hard_cuts(self, method: str) -> None:
        frames = shot(1, 20) + shot(2, 13, speed=8) + shot(3, 40)
        segments = find_segments(ArraySource(frames), method)
        assert segments == [Segment(0, 20), Segment(20, 33), Segment(33, 73)]

    @pytest.mark.parametrize("method", METHODS)
    @pytest.mark.parametrize("speed", [0, 2, 12])
    def test_motion_is_no_cut(self, method: str, speed: int) -> None:
        assert cuts(shot(4, 50, speed=speed), method) == []

    def test_slow_brightening_is_no_cut(self) -> None:
        frames = [np.clip(f * (0.5 + i / 60), 0, 255).astype(np.uint8) for i, f in enumerate(shot(5, 60))]
        assert cuts(frames, "heuristic") == []

    @pytest.mark.parametrize("length", [1, 2, 3])
    def test_flash_is_no_cut(self, length: int) -> None:
        frames = shot(6, 40)
        for index in range(18, 18 + length):
            frames[index] = np.clip(frames[index].astype(int) + 150, 0, 255).astype(np.uint8)
        assert score_frames(ArraySource(frames), "heuristic").scores["change"][18] > 0.5
        assert cuts(frames, "heuristic") == []

    def test_cut_within_fast_motion_stands_out(self) -> None:
        assert cuts(shot(7, 25, speed=20) + shot(8, 25, speed=20), "heuristic") == [25]

    def test_shortest_segment(self) -> None:
        frames = shot(1, 20) + shot(2, 6) + shot(3, 20)
        assert cuts(frames, "heuristic") == [20, 26]
        assert len(cuts(frames, "heuristic", minimum_length=7)) == 1
        assert cuts(frames, "heuristic", minimum_length=30) == []

    def test_one_frame_is_one_segment(self) -> None:
        for method in (*METHODS, "fixed:3", "none"):
            assert find_segments(ArraySource(shot(1, 1)), method) == [Segment(0, 1)]

    def test_gray_and_black_frames(self) -> None:
        black = [np.zeros((90, 160, 3), np.uint8)] * 15
        white = [np.full((90, 160, 3), 255, np.uint8)] * 15
        for method in METHODS:
            assert cuts(black + white, method) == [15]
            assert cuts(black, method) == []


class TestManager:
    def test_scores_and_progress_are_kept(self) -> None:
        seen: list[tuple[int, int]] = []
        source = ArraySource(shot(1, 10) + shot(2, 10))
        found = score_frames(source, "heuristic", progress=lambda done, total: seen.append((done, total)))
        assert seen == [(n, 20) for n in range(1, 21)]
        assert set(ColourDetector.metrics) == set(found.scores)
        assert all(scores.shape == (20,) for scores in found.scores.values())
        assert int(found.scores["change"].argmax()) == 10
        assert found.scores["change"][0] == 0
        content = score_frames(source, "adaptive").scores
        assert set(AdaptiveContentDetector.metrics) == set(content)
        assert int(content["content"].argmax()) == 10

    def test_fixed_and_none(self) -> None:
        source = ArraySource(shot(1, 10))
        assert find_segments(source, "fixed:4") == [Segment(0, 4), Segment(4, 8), Segment(8, 10)]
        assert find_segments(source, "fixed:10") == find_segments(source, "none") == [Segment(0, 10)]
        assert score_frames(source, "none").scores == {}

    @pytest.mark.parametrize("method", ["magic", "", "fixed", "fixed:0", "fixed:x", "heuristic:3", "none:1"])
    def test_unknown_method(self, method: str) -> None:
        with pytest.raises(ConfigurationError, match="fixed:n"):
            find_segments(ArraySource(shot(1, 2)), method)

    def test_options(self) -> None:
        source = ArraySource(shot(1, 12) + shot(2, 12))
        assert find_segments(source, "heuristic", threshold=50.0) == [Segment(0, 24)]
        assert find_segments(source, "adaptive", minimum_change=200.0) == [Segment(0, 24)]
        for method, options in (
            ("heuristic", {"speed": 1}),
            ("heuristic", {"threshold": 0}),
            ("adaptive", {"speed": 1}),
            ("adaptive", {"window": 0}),
            ("none", {"threshold": 1}),
            ("heuristic", {"minimum_length": 0}),
        ):
            with pytest.raises(ConfigurationError):
                find_segments(source, method, **options)

    def test_adaptive_without_its_package(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(sys.modules, "scenedetect.detectors", None)
        with pytest.raises(ConfigurationError, match="pip install scenedetect-headless"):
            find_segments(ArraySource(shot(1, 2)), "adaptive")


def test_module_does_not_import_pyscenedetect_by_itself() -> None:
    import subprocess

    code = "import sys, labelprop_cvat.propagation.segments; sys.exit('scenedetect' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parents[1]).returncode == 0
