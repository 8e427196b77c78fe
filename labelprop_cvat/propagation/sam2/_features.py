"""Image features of frames, in the order in which they will be asked for, decoded and encoded ahead of the tracker."""

from __future__ import annotations

import logging
import tempfile
from array import array
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from labelprop_cvat.errors import DataError, EngineError
from labelprop_cvat.propagation.frames import FrameSource, Image
from labelprop_cvat.propagation.sam2.model import FrameFeatures, Sam2Model, is_out_of_memory

logger = logging.getLogger(__name__)

_AHEAD = 2


class FeatureFeeder:
    """Hands out the features of frames in a planned order, each frame encoded once where memory and disk allow.

    A thread of its own works ahead of the reader. On a GPU it decodes and encodes frames. On the CPU it decodes them
    and scales them down; they are encoded when they are taken, as every operation there uses all cores by itself, and
    the threads that PyTorch keeps for a second caller would spin in the way of those of the first.

    Features that the plan asks for again stay in memory, the last ``window`` of them; those that are pushed out go to a
    temporary file of limited size, or are computed anew.

    Args:
        model: what encodes
        frames: where the frames come from; read in the thread only
        plan: frame indices in the order of :meth:`take`
        window: features held in memory at most
        disk_bytes: size of the temporary file at most
    """

    def __init__(
        self, model: Sam2Model, frames: FrameSource, plan: Sequence[int], *, window: int, disk_bytes: int
    ) -> None:
        self._model = model
        self._plan = plan
        self._place = 0
        self._first = min(plan, default=0)
        self._uses = array("l", bytes(array("l").itemsize * (max(plan, default=-1) + 1 - self._first)))
        for index in plan:
            self._uses[index - self._first] += 1
        self._reader = _Reader(frames, plan)
        self._held = _HeldFeatures(window, disk_bytes, model.device)
        self._ahead = _Ahead(model, self._reader)
        self.encoded = 0
        """How many times a frame was encoded so far."""

    def take(self, index: int) -> FrameFeatures:
        """The features of the next frame of the plan, which must be ``index``.

        Raises:
            EngineError: memory is too small for a single frame
            Exception: what the frame source raised
        """
        if self._place >= len(self._plan):
            raise EngineError(f"Frame {index} was asked for, but the plan has ended.")
        planned = self._plan[self._place]
        if planned != index:
            raise EngineError(f"Frame {index} was asked for, but frame {planned} is next in the plan.")
        try:
            features = self._features(self._place, index)
        except BaseException:
            self._place = len(self._plan)
            self._ahead.close()
            raise
        self._place += 1
        self._uses[index - self._first] -= 1
        if self._uses[index - self._first]:
            self._held.put(index, features)
        else:
            self._held.drop(index)
        return features

    def shrink(self) -> bool:
        """Halves the number of features held in memory; False when it is at its least."""
        return self._held.shrink()

    def close(self) -> None:
        """Stops the thread within a frame and deletes the temporary file; harmless when done twice."""
        self._place = len(self._plan)
        self._ahead.close()
        self._reader.close()
        self._held.close()

    def _features(self, place: int, index: int) -> FrameFeatures:
        self._look_ahead(place)
        held = self._held.get(index)
        if held is not None:
            self._ahead.forget(place)
            return held
        self.encoded += 1
        while True:
            try:
                return self._ahead.features(place)
            except Exception as error:
                if not is_out_of_memory(error):
                    raise
                if not self._held.shrink():
                    raise EngineError(
                        f"There is not enough memory on {self._model.device} for the features of one frame. Pass a "
                        f"smaller image_size (it is {self._model.image_size}), a smaller model, or device='cpu'."
                    ) from error

    def _look_ahead(self, place: int) -> None:
        """Has this frame prepared, and the next ones that are not held."""
        coming: set[int] = set()
        for at in range(place, min(place + 1 + _AHEAD, len(self._plan))):
            index = self._plan[at]
            if index not in coming and not self._held.has(index):
                self._ahead.start(at)
            coming.add(index)


class _Ahead:
    """Prepares places of the plan in a thread, one after the other, in the order in which they were started."""

    def __init__(self, model: Sam2Model, reader: _Reader) -> None:
        self._model, self._reader = model, reader
        self._jobs: dict[int, Future[_Prepared]] = {}
        self._encodes = model.device.type != "cpu"
        streams: Any = torch.cuda
        self._stream: Any = streams.Stream(model.device) if model.device.type == "cuda" else None
        self._worker = ThreadPoolExecutor(max_workers=1, thread_name_prefix="sam2-features")

    def start(self, place: int) -> None:
        if place not in self._jobs:
            self._jobs[place] = self._worker.submit(self._prepare, place)

    def forget(self, place: int) -> None:
        job = self._jobs.pop(place, None)
        if job is not None:
            job.cancel()

    def features(self, place: int) -> FrameFeatures:
        """The features of a place; when memory was short, the place may be asked for again."""
        self.start(place)
        prepared = self._jobs[place].result()
        features = prepared.features
        if features is None:
            features = self._model.encode(prepared.pixels)
        elif prepared.event is not None:
            stream = torch.cuda.current_stream(self._model.device)
            stream.wait_event(prepared.event)
            for part in features.tensors():
                part.record_stream(stream)
        del self._jobs[place]
        return features

    def close(self) -> None:
        self._worker.shutdown(wait=True, cancel_futures=True)
        self._jobs.clear()

    def _prepare(self, place: int) -> _Prepared:
        pixels = self._model.prepare(self._reader.read(place))
        if not self._encodes:
            return _Prepared(pixels)
        with nullcontext() if self._stream is None else torch.cuda.stream(self._stream):
            try:
                features = self._model.encode(pixels)
            except Exception as error:
                if not is_out_of_memory(error):
                    raise
                # Whoever takes it can make room first.
                return _Prepared(pixels)
            event = None if self._stream is None else self._stream.record_event()
        return _Prepared(pixels, features, event)


@dataclass(frozen=True)
class _Prepared:
    """A frame at the model's size, and its features where they were computed ahead."""

    pixels: torch.Tensor
    features: FrameFeatures | None = None
    event: Any = None


class _HeldFeatures:
    """Features by frame: the ones used last in memory, older ones in a file."""

    def __init__(self, window: int, disk_bytes: int, device: torch.device) -> None:
        self._window = window
        self._memory: OrderedDict[int, FrameFeatures] = OrderedDict()
        self._file = _FeatureFile(disk_bytes, device) if disk_bytes else None

    def has(self, index: int) -> bool:
        return index in self._memory or (self._file is not None and self._file.has(index))

    def get(self, index: int) -> FrameFeatures | None:
        found = self._memory.get(index)
        if found is None and self._file is not None:
            return self._file.get(index)
        return found

    def put(self, index: int, features: FrameFeatures) -> None:
        self._memory[index] = features
        self._memory.move_to_end(index)
        self._make_room()

    def drop(self, index: int) -> None:
        self._memory.pop(index, None)
        if self._file is not None:
            self._file.drop(index)

    def shrink(self) -> bool:
        if self._window <= 1:
            return False
        self._window = max(1, min(self._window, len(self._memory)) // 2)
        self._make_room()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        logger.warning("Memory is short: the features of only %d frames are held in it from here on.", self._window)
        return True

    def close(self) -> None:
        self._memory.clear()
        if self._file is not None:
            self._file.close()

    def _make_room(self) -> None:
        while len(self._memory) > self._window:
            index, features = self._memory.popitem(last=False)
            if self._file is not None:
                self._file.put(index, features)


class _FeatureFile:
    """Records of one size in a temporary file without a name; places of dropped ones are used again."""

    def __init__(self, limit: int, device: torch.device) -> None:
        self._limit, self._device = limit, device
        # Unbuffered: what a buffer could not write on a full disk would fail again wherever the file is used next.
        self._file = tempfile.TemporaryFile(prefix="labelprop-features-", buffering=0)  # noqa: SIM115 - see close()
        self._places: dict[int, int] = {}
        self._free: list[int] = []
        self._used = 0
        self._parts: list[tuple[torch.Size, torch.dtype, int]] = []

    def put(self, index: int, features: FrameFeatures) -> None:
        if index in self._places or not self._limit:
            return
        if not self._parts:
            self._parts = [(part.shape, part.dtype, part.numel() * part.element_size()) for part in features.tensors()]
        size = features.nbytes
        if self._free:
            place = self._free.pop()
        elif (self._used + 1) * size <= self._limit:
            place, self._used = self._used, self._used + 1
        else:
            return
        try:
            self._file.seek(place * size)
            for part in features.tensors():
                rest = part.contiguous().cpu().view(torch.uint8).numpy().data.cast("B")
                while len(rest):
                    rest = rest[self._file.write(rest) :]
        except OSError as error:
            logger.warning(
                "Image features can't be written to %s (%s); they are computed anew.", tempfile.gettempdir(), error
            )
            self._limit = 0
            return
        self._places[index] = place

    def get(self, index: int) -> FrameFeatures | None:
        place = self._places.get(index)
        if place is None:
            return None
        self._file.seek(place * sum(size for *_, size in self._parts))
        parts = []
        for shape, dtype, size in self._parts:
            data: npt.NDArray[np.uint8] = np.empty(size, dtype=np.uint8)
            rest = data.data
            while len(rest):
                count = self._file.readinto(rest)
                if not count:
                    return None
                rest = rest[count:]
            parts.append(torch.from_numpy(data).view(dtype).view(shape).to(self._device))
        return FrameFeatures(parts[0], tuple(parts[1:]))

    def has(self, index: int) -> bool:
        return index in self._places

    def drop(self, index: int) -> None:
        place = self._places.pop(index, None)
        if place is not None:
            self._free.append(place)

    def close(self) -> None:
        self._file.close()


class _Reader:
    """Frames of the plan; as long as they follow each other, the source reads on instead of seeking."""

    def __init__(self, frames: FrameSource, plan: Sequence[int]) -> None:
        self._frames, self._plan = frames, plan
        self._reading: Iterator[tuple[int, Image]] | None = None
        self._next, self._stop, self._step = -1, -1, 1

    def read(self, place: int) -> Image:
        """The frame at ``place`` of the plan."""
        index = self._plan[place]
        if self._reading is None or index != self._next or index == self._stop:
            self.close()
            self._stop, self._step = self._run_from(place)
            self._reading = self._frames.read(index, self._stop, self._step)
        found, image = next(self._reading, (None, None))
        if found is None or image is None:
            raise DataError(f"Frame {index} can't be read: what the frames come from ended before it.")
        self._next = found + self._step
        return image

    def close(self) -> None:
        """Ends the reading, and with it whatever it holds open."""
        close = getattr(self._reading, "close", None)
        if close is not None:
            close()
        self._reading = None

    def _run_from(self, place: int) -> tuple[int, int]:
        """Where the steps of one frame that begin at ``place`` stop (exclusive), and their direction."""
        plan = self._plan
        step = -1 if place + 1 < len(plan) and plan[place + 1] == plan[place] - 1 else 1
        last = place
        while last + 1 < len(plan) and plan[last + 1] == plan[last] + step:
            last += 1
        return plan[last] + step, step


__all__ = ["FeatureFeeder"]
