"""Machines as the engine ``auto`` finds them: with and without the weights of SAM 2, with and without a GPU."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from labelprop_cvat.propagation import propagator
from labelprop_cvat.propagation.propagator import PropagatorSpec, check_prompts
from labelprop_cvat.propagation.sam2.options import DEFAULT_MODEL
from labelprop_cvat.propagation.sam2.weights import model_info
from labelprop_cvat.propagation.types import FrameObjects, ObjectMask, ObjectState, PromptKind

GPU = "Imagined GPU"


class Machine:
    """This machine, with a home of its own: no weights are on it and no GPU, until somebody puts them there."""

    def __init__(self, home: Path, patch: pytest.MonkeyPatch) -> None:
        self._zoo, self._patch = home / "zoo", patch
        patch.setenv("FIFTYONE_MODEL_ZOO_DIR", str(self._zoo))
        for name in ("TORCH_HOME", "HF_HUB_CACHE", "XDG_CACHE_HOME"):
            patch.setenv(name, str(home / name))
        self.has_gpu(False)

    def get_weights(self, model: str = DEFAULT_MODEL) -> Path:
        """A file that looks like the weights; it takes no space, and nothing but its name and length are right."""
        info = model_info(model)
        self._zoo.mkdir(exist_ok=True)
        path = self._zoo / f"{Path(info.file_name).stem}_video.pt"
        with path.open("wb") as file:
            file.truncate(info.size_bytes)
        return path

    def has_gpu(self, there: bool) -> None:
        self._patch.setattr(torch.cuda, "is_available", lambda: there)
        self._patch.setattr(torch.cuda, "get_device_name", lambda *_: GPU)
        self._patch.setattr(torch.backends.mps, "is_available", lambda: False)


class Recorder:
    """An engine that holds shapes, makes squares of points, and remembers what it was asked, made and let go of.

    Args:
        name: what it goes by
        fails_at: frame at which it gives up, or None
        error: what it raises there
    """

    def __init__(self, name: str, fails_at: int | None = None, error: Exception | None = None) -> None:
        self.name, self.fails_at, self.error = name, fails_at, error
        self.made: list[dict[str, Any]] = []
        self.spans: list[tuple[int, int]] = []
        self.open_passes = 0
        self.released = 0

    @property
    def spec(self) -> PropagatorSpec:
        return PropagatorSpec(self.name, frozenset(PromptKind) - {PromptKind.ABSENT}, reads_frames=False)

    def __call__(self, **options: Any) -> Recorder:
        self.made.append(options)
        return self

    def close(self) -> None:
        self.released += 1

    def propagate(self, frames: Any, prompts: Any, span: Any) -> Iterator[FrameObjects]:
        check_prompts(self.spec, prompts, span)
        self.spans.append((span.start, span.stop))
        self.open_passes += 1
        try:
            last: dict[int, Any] = {}
            for frame in span.frames:
                if frame == self.fails_at:
                    raise self.error or RuntimeError("out of ideas")
                here = {p.object_id: p for p in prompts if p.frame == frame}
                last |= here
                yield FrameObjects(
                    frame,
                    {
                        number: ObjectState(mask=_pixels(prompt), keyframe=number in here, confidence=0.5)
                        for number, prompt in last.items()
                        if not prompt.absent
                    },
                )
        finally:
            self.open_passes -= 1


def _pixels(prompt: Any) -> ObjectMask:
    if prompt.mask is not None:
        return prompt.mask
    x, y = (int(value) for value in (prompt.points[0] if prompt.points else prompt.box[:2]))
    mask = ObjectMask.from_crop(x, y, _SQUARE)
    assert mask is not None
    return mask


_SQUARE = torch.ones(4, 4).numpy()


class Engines:
    """Engines of a test's own, by name, in the place of real ones."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self._factories = dict(propagator._factories)
        patch.setattr(propagator, "_factories", self._factories)

    def record(self, name: str, **options: Any) -> Recorder:
        engine = self._factories[name] = Recorder(name, **options)
        return engine
