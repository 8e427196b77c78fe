"""What a way to find cuts is."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

import numpy as np
import numpy.typing as npt

from labelprop_cvat.propagation.frames import Image

Scores = npt.NDArray[np.float64]


class SegmentDetector(Protocol):
    """One way to find cuts; used for one sequence and thrown away.

    What it measures does not depend on what it is measured against: :meth:`cuts` of a detector with other thresholds
    can be asked with the scores of this one, see :meth:`~labelprop_cvat.propagation.segments.Segmentation.recut`.
    """

    @property
    def metrics(self) -> tuple[str, ...]:
        """The names of the numbers that :meth:`process` gives per frame; the first one says how strong a cut is."""
        ...

    @property
    def measuring(self) -> frozenset[str]:
        """The options that decide what is measured: with other values frames must be read again."""
        ...

    def process(self, frame: Image) -> Mapping[str, float]:
        """Takes the next frame, ``(H, W, 3)``, uint8, RGB, and measures it."""
        ...

    def bars(self, scores: Mapping[str, Scores]) -> Mapping[str, Scores]:
        """What metrics had to exceed for a cut, per frame: arrays like those of ``scores``, for some of its names."""
        ...

    def cuts(self, scores: Mapping[str, Scores]) -> list[int]:
        """The 0-based first frames of new shots, ascending, without frame 0; asked after the last frame."""
        ...


__all__ = ["Scores", "SegmentDetector"]
