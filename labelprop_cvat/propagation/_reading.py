"""Frames read in both directions at once, decoded as seldom as a bounded memory allows."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Generator, Iterator

from labelprop_cvat.propagation._views import FrameView
from labelprop_cvat.propagation.frames import FrameSource, Image

_KEPT_FRAMES = 16
_KEPT_BYTES = 64 * 2**20


class FrameReader:
    """Frames of a source as views. The last few are kept, for those who ask for the same ones a little later.

    Not for several threads: the source may not be either.
    """

    def __init__(self, frames: FrameSource) -> None:
        self._frames = frames
        self._kept: OrderedDict[int, Image] = OrderedDict()

    def views(self, start: int, stop: int, step: int = 1) -> Generator[FrameView, None, None]:
        """The frames ``range(start, stop, step)``; nothing is read before it is asked for."""
        reading: Iterator[tuple[int, Image]] | None = None
        following = start
        try:
            for index in range(start, stop, step):
                image = self._kept.get(index)
                if image is None:
                    if reading is None or following != index:
                        _close(reading)
                        reading = self._frames.read(index, stop, step)
                    _, image = next(reading)
                    following = index + step
                    self._keep(index, image)
                yield FrameView(index, image)
        finally:
            _close(reading)

    def _keep(self, index: int, image: Image) -> None:
        self._kept[index] = image
        most = min(_KEPT_FRAMES, max(1, _KEPT_BYTES // max(1, image.nbytes)))
        while len(self._kept) > most:
            self._kept.popitem(last=False)


class ForwardReader:
    """Frames in ascending order; those that nobody asks for are not decoded."""

    def __init__(self, reader: FrameReader, stop: int) -> None:
        self._reader, self._stop = reader, stop
        self._views: Iterator[FrameView] | None = None
        self._next = -1

    def view(self, frame: int) -> FrameView:
        """The frame; asking in steps of one reads on, anything else starts anew."""
        if self._views is None or frame != self._next:
            self.close()
            self._views = self._reader.views(frame, self._stop)
        self._next = frame + 1
        return next(self._views)

    def close(self) -> None:
        """Ends the reading, and with it whatever it holds open."""
        _close(self._views)
        self._views = None


def _close(reading: object) -> None:
    close = getattr(reading, "close", None)
    if close is not None:
        close()
