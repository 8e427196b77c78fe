"""How good a frame will be, by how far its exemplars are: before anything is propagated."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from labelprop_cvat.errors import ConfigurationError

FloatArray = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Decay:
    """Predicted J of a frame from its ways to the exemplars on both sides.

    A way is the sum of its steps. A step costs ``base + weight * d``, where ``d`` is its own difficulty by the share
    ``local`` and the mean of its segment by the rest. With an exemplar on one side, at a way ``x``, the error is
    ``one_loss * (1 - exp(-one_rate * x))``; between two, at ``x`` and ``y``, it is
    ``two_loss * (1 - exp(-two_rate * x)) * (1 - exp(-two_rate * y))``: both must fail.

    Args:
        one_loss: what is lost at last, in (0, 1]
        one_rate: how fast, above 0
        two_loss: the same between two exemplars
        two_rate: the same
        base: cost of a step where nothing is hard, at least 0
        weight: cost of a unit of difficulty, at least 0; not both 0
        local: how far a step's own difficulty is believed, in [0, 1]. What is hard for the whole picture is not always
            hard for the objects, which nobody has pointed at yet

    Raises:
        ConfigurationError: a value is out of range
    """

    one_loss: float = 0.6
    one_rate: float = 0.052
    two_loss: float = 0.4
    two_rate: float = 0.104
    base: float = 0.06
    weight: float = 7.0
    local: float = 0.4

    def __post_init__(self) -> None:
        losses = 0.0 < self.one_loss <= 1.0 and 0.0 < self.two_loss <= 1.0
        rates = self.one_rate > 0.0 and self.two_rate > 0.0
        costs = self.base >= 0.0 and self.weight >= 0.0 and self.base + self.weight > 0.0
        if not (losses and rates and costs and 0.0 <= self.local <= 1.0):
            raise ConfigurationError(
                f"Decay needs losses in (0, 1], rates above 0, costs from 0 and local in [0, 1], got {self}."
            )

    def lengths(self, difficulty: FloatArray) -> FloatArray:
        """Cost of each step of a segment, from its difficulty; array of the same shape, above 0."""
        each = np.asarray(difficulty, dtype=np.float64)
        if not each.size:
            return each
        believed = self.local * each + (1.0 - self.local) * each.mean()
        return np.asarray(np.maximum(self.base + self.weight * believed, 1e-6), dtype=np.float64)

    def error(self, before: FloatArray | None, after: FloatArray | None) -> FloatArray:
        """Predicted ``1 - J``.

        Args:
            before: ways to the exemplar before; None when there is none
            after: ways to the exemplar behind; None when there is none, not both
        """
        if before is not None and after is not None:
            return self.two_loss * -np.expm1(-self.two_rate * before) * -np.expm1(-self.two_rate * after)
        only = before if before is not None else after
        if only is None:
            raise ValueError("no exemplar on either side")
        return np.asarray(self.one_loss * -np.expm1(-self.one_rate * only), dtype=np.float64)

    def errors(self, places: FloatArray, exemplars: npt.ArrayLike) -> FloatArray:
        """Predicted ``1 - J`` of every frame of a segment.

        Args:
            places: way from the first frame to each, ascending; shape ``(n,)``
            exemplars: their indices in ``places``

        Returns:
            array of shape ``(n,)``: 0 on exemplars, 1 everywhere when there is none
        """
        known = np.unique(np.asarray(exemplars, dtype=np.intp))
        errors = np.ones(len(places))
        if not len(known):
            return errors
        frames = np.arange(len(places))
        behind = np.searchsorted(known, frames)
        after = known[np.minimum(behind, len(known) - 1)]
        before = known[np.maximum(behind - 1, 0)]
        head, tail = behind == 0, behind == len(known)
        both = ~head & ~tail
        errors[head] = self.error(None, places[after[head]] - places[head])
        errors[tail] = self.error(places[tail] - places[before[tail]], None)
        errors[both] = self.error(places[both] - places[before[both]], places[after[both]] - places[both])
        errors[known] = 0.0
        return errors


DECAY = Decay()
"""Of the engine ``flow``, fitted on real sequences; docs/choosing-frames.md says which, and how far it is off."""

__all__ = ["DECAY", "Decay"]
