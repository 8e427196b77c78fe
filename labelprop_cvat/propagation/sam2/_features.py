"""Image features of frames, in the order in which they will be asked for, decoded and encoded ahead of the tracker."""

from __future__ import annotations

import logging
import queue
import tempfile
import threading
from collections import Counter, OrderedDict
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from labelprop_cvat.errors import DataError, EngineError
from labelprop_cvat.propagation.frames import FrameSource, Image
from labelprop_cvat.propagation.sam2.model import FrameFeatures, Sam2Model, is_out_of_memory

logger = logging.getLogger(__name__)

_AHEAD = 2
_PATIENCE_SECONDS = 0.2


class FeatureFeeder:
    """Hands out the features of frames in a planned order, each frame encoded once where memory and disk allow.

    A thread of its own decodes and encodes ahead of the reader. Features that the plan asks for again stay in memory,
    the last ``window`` of them; those that are pushed out go to a temporary file of limited size, or are computed anew.

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
        self._reader = _Reader(frames, plan)
        self._held = _HeldFeatures(window, disk_bytes, model.device)
        self._ready: queue.Queue[tuple[int, FrameFeatures, Any] | BaseException] = queue.Queue(maxsize=_AHEAD)
        self._stopped = threading.Event()
        self.encoded = 0
        """How many times a frame was encoded so far."""
        self._thread = threading.Thread(target=self._run, name="sam2-features", daemon=True)
        self._thread.start()

    def take(self, index: int) -> FrameFeatures:
        """The features of the next frame of the plan, which must be ``index``.

        Raises:
            EngineError: memory is too small for a single frame
            Exception: what the frame source raised
        """
        while True:
            try:
                found = self._ready.get(timeout=_PATIENCE_SECONDS)
                break
            except queue.Empty:
                if not self._thread.is_alive() and self._ready.empty():
                    raise EngineError(f"Frame {index} was asked for, but the plan has ended.") from None
        if isinstance(found, BaseException):
            raise found
        planned, features, event = found
        if planned != index:
            raise EngineError(f"Frame {index} was asked for, but frame {planned} is next in the plan.")
        if event is not None:
            stream = torch.cuda.current_stream(self._model.device)
            stream.wait_event(event)
            for part in features.tensors():
                part.record_stream(stream)
        return features

    def shrink(self) -> bool:
        """Halves the number of features held in memory; False when it is at its least."""
        return self._held.shrink()

    def close(self) -> None:
        """Stops the thread within a frame and deletes the temporary file; harmless when done twice."""
        self._stopped.set()
        while True:
            try:
                self._ready.get_nowait()
            except queue.Empty:
                break
        self._thread.join()
        self._reader.close()
        self._held.close()

    def _run(self) -> None:
        try:
            for item in self._features():
                self._put(item)
                if self._stopped.is_set():
                    return
        except BaseException as error:
            self._put(error)

    def _put(self, item: tuple[int, FrameFeatures, Any] | BaseException) -> None:
        while not self._stopped.is_set():
            try:
                self._ready.put(item, timeout=_PATIENCE_SECONDS)
                return
            except queue.Full:
                continue

    def _features(self) -> Iterator[tuple[int, FrameFeatures, Any]]:
        remaining = Counter(self._plan)
        cuda = self._model.device.type == "cuda"
        streams: Any = torch.cuda
        stream = streams.Stream(self._model.device) if cuda else None
        with torch.cuda.stream(stream) if stream is not None else nullcontext():
            for place, index in enumerate(self._plan):
                remaining[index] -= 1
                features = self._held.get(index)
                if features is None:
                    features = self._encoded(place)
                if remaining[index]:
                    self._held.put(index, features)
                else:
                    self._held.drop(index)
                event = None
                if stream is not None:
                    event = streams.Event()
                    event.record(stream)
                yield index, features, event

    def _encoded(self, place: int) -> FrameFeatures:
        prepared = self._model.prepare(self._reader.read(place))
        self.encoded += 1
        while True:
            try:
                return self._model.encode(prepared)
            except Exception as error:
                if not is_out_of_memory(error):
                    raise
                if not self._held.shrink():
                    raise EngineError(
                        f"There is not enough memory on {self._model.device} for the features of one frame. Pass a "
                        f"smaller image_size (it is {self._model.image_size}), a smaller model, or device='cpu'."
                    ) from error


class _HeldFeatures:
    """Features by frame: the ones used last in memory, older ones in a file."""

    def __init__(self, window: int, disk_bytes: int, device: torch.device) -> None:
        self._window = window
        self._memory: OrderedDict[int, FrameFeatures] = OrderedDict()
        self._file = _FeatureFile(disk_bytes, device) if disk_bytes else None
        self._lock = threading.Lock()

    def get(self, index: int) -> FrameFeatures | None:
        with self._lock:
            found = self._memory.get(index)
            if found is None and self._file is not None:
                return self._file.get(index)
            return found

    def put(self, index: int, features: FrameFeatures) -> None:
        with self._lock:
            self._memory[index] = features
            self._memory.move_to_end(index)
            self._make_room()

    def drop(self, index: int) -> None:
        with self._lock:
            self._memory.pop(index, None)
            if self._file is not None:
                self._file.drop(index)

    def shrink(self) -> bool:
        with self._lock:
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
