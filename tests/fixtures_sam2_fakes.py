"""A model that says which frame it saw, and frames that know who reads them: for the parts of ``sam2`` around it."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Iterator
from types import SimpleNamespace

import numpy as np
import torch
from fixtures_sam2 import CountingFrames

from labelprop_cvat.errors import DataError
from labelprop_cvat.propagation.frames import ArraySource, Image
from labelprop_cvat.propagation.sam2.model import FrameFeatures

RECORD = 2 * 16 * 16 * 4 + 3 * 32 * 32 * 2
"""Bytes of the features of one frame."""


class FakeModel:
    """Encodes a frame as its own index, in 8 KiB; knows which features are still held by anybody.

    Args:
        room: features that fit into memory at once
        device: what it says that it computes on
    """

    image_size = 64
    official_most_exemplars = 2
    network = SimpleNamespace(max_obj_ptrs_in_encoder=6, num_maskmem=5, memory_temporal_stride_for_eval=1)

    def __init__(self, room: int = 10**9, device: str = "cpu") -> None:
        self.room = room
        self.device = torch.device(device)
        self.encoded: list[int] = []
        self.encoders: set[str] = set()
        self._made: list[weakref.ref[torch.Tensor]] = []

    @property
    def held(self) -> int:
        self._made = [made for made in self._made if made() is not None]
        return len(self._made)

    def prepare(self, image: Image) -> int:
        return int(image[0, 0, 0])

    def encode(self, index: int) -> FrameFeatures:
        if self.held >= self.room:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        self.encoded.append(index)
        self.encoders.add(threading.current_thread().name)
        top = torch.full((1, 2, 16, 16), float(index), dtype=torch.float32)
        self._made.append(weakref.ref(top))
        return FrameFeatures(top, (torch.full((1, 3, 32, 32), index, dtype=torch.bfloat16),))


class NumberedFrames(CountingFrames):
    """Frames whose pixels say which one they are; knows how many readings are open.

    Args:
        count: how many there are
        broken: one that can't be read
    """

    def __init__(self, count: int, broken: int | None = None) -> None:
        numbers = np.arange(count, dtype=np.uint8)[:, None, None, None]
        super().__init__(ArraySource(np.broadcast_to(numbers, (count, 8, 8, 3))))
        self.broken, self.readings = broken, 0

    def read(self, start: int, stop: int, step: int = 1) -> Iterator[tuple[int, Image]]:
        self.readings += 1
        try:
            for index in range(start, stop, step):
                if index == self.broken:
                    raise DataError(f"Frame {index} is broken.")
                yield index, self[index]
        finally:
            self.readings -= 1


def feeding_threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name.startswith("sam2-features")]
