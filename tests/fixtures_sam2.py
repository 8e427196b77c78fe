"""SAM 2 with random weights, made once for a whole run of the tests, and small frames for it to look at.

Every test run loads this file, so torch is imported only where it is used.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from PIL import Image as PILImage

if TYPE_CHECKING:
    from labelprop_cvat.propagation.frames import ArraySource, Image
    from labelprop_cvat.propagation.sam2.model import Sam2Model

SMALL = 128


@pytest.fixture(scope="session")
def random_sam2_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An official checkpoint of ``sam2.1_hiera_tiny`` whose weights are random, the same in every run."""
    from benchmarks.sam2_random import random_checkpoint

    return random_checkpoint(tmp_path_factory.mktemp("sam2") / "random.pt")


@pytest.fixture(scope="session")
def small_sam2_model(random_sam2_checkpoint: Path) -> Sam2Model:
    """The random weights at 128 px on the CPU. It holds no state: tests may share it, but must not change it."""
    return _loaded(random_sam2_checkpoint, SMALL)


@pytest.fixture(scope="session")
def tiny_sam2_model(random_sam2_checkpoint: Path) -> Sam2Model:
    """The same at 64 px."""
    return _loaded(random_sam2_checkpoint, SMALL // 2)


@pytest.fixture(scope="session")
def small_official_predictor() -> Any:
    """The official video predictor with the same weights at 128 px."""
    from benchmarks.sam2_random import random_official_predictor

    return random_official_predictor(image_size=SMALL)


def noise_frames(count: int, size: tuple[int, int] = (96, 120), seed: int = 0) -> ArraySource:
    """Smooth random pictures that drift to the left by two pixels a frame; ``size`` is ``(height, width)``."""
    from labelprop_cvat.propagation.frames import ArraySource

    height, width = size
    coarse = np.random.default_rng(seed).integers(0, 256, (height // 8 + 2, width // 8 + 2, 3), dtype=np.uint8)
    wide = np.asarray(PILImage.fromarray(coarse).resize((width + 2 * count, height)))
    return ArraySource([np.ascontiguousarray(wide[:, 2 * index : 2 * index + width]) for index in range(count)])


def official_state(predictor: Any, model: Sam2Model, frames: ArraySource) -> dict[str, Any]:
    """What ``init_state`` of the official predictor makes of a video, made of frames in memory."""
    from unittest import mock

    import torch

    mean, std = (torch.tensor(v).view(1, 3, 1, 1) for v in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    images = torch.cat([model.prepare(frames[index]) for index in range(len(frames))]).float() / 255.0
    loaded = ((images - mean) / std, *frames.size)
    with mock.patch("sam2.sam2_video_predictor.load_video_frames", return_value=loaded):
        state: dict[str, Any] = predictor.init_state("frames that are in memory")
    return state


class CountingFrames:
    """Frames of another source; remembers which were read."""

    def __init__(self, frames: ArraySource) -> None:
        self.frames = frames
        self.read_indices: list[int] = []

    @property
    def size(self) -> tuple[int, int]:
        return self.frames.size

    def __len__(self) -> int:
        return len(self.frames)

    def __getitem__(self, index: int) -> Image:
        self.read_indices.append(index)
        return self.frames[index]

    def read(self, start: int, stop: int, step: int = 1) -> Iterator[tuple[int, Image]]:
        for index in range(start, stop, step):
            yield index, self[index]


def _loaded(checkpoint: Path, image_size: int) -> Sam2Model:
    from labelprop_cvat.propagation.sam2.model import load_model
    from labelprop_cvat.propagation.sam2.options import Sam2Options

    return load_model(Sam2Options(checkpoint=checkpoint, image_size=image_size, device="cpu"))
