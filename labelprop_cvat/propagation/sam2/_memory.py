"""What is remembered of an object: its exemplars, and the last frames of the pass that follows it."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

import torch


@dataclass(frozen=True)
class Memory:
    """One object on one frame, as later frames attend to it.

    Args:
        maps: the memory encoder's map, array of shape ``(1, Cm, h, w)``, bfloat16 as in the official predictor; None
            once it is too old to be attended to
        pointer: the object pointer, array of shape ``(1, C)``
    """

    maps: torch.Tensor | None
    pointer: torch.Tensor


@dataclass(frozen=True)
class Attended:
    """What one pass attends to on one frame, in the order in which the network gets it.

    Args:
        maps: ``(t_pos, map)``; ``t_pos`` is 0 for exemplars, else 1 for the oldest to 6 for the last frame
        pointers: ``(distance in frames, pointer)``; signed where the network wants it
        exemplars: the exemplar frames among them, ascending
    """

    maps: tuple[tuple[int, torch.Tensor], ...]
    pointers: tuple[tuple[int, torch.Tensor], ...]
    exemplars: tuple[int, ...]

    @property
    def shape(self) -> tuple[int, int]:
        """``(number of maps, number of pointers)``: only passes with equal ones can be computed in one batch."""
        return len(self.maps), len(self.pointers)


@dataclass(frozen=True)
class MemoryRules:
    """How many memories there are and which ones count; taken from the network.

    Args:
        maps: number of memory maps, exemplar included (``num_maskmem``)
        pointers: number of object pointers, at most; 0 where the network uses none. As in the official predictor this
            also scales their positions, and is no larger than the number of frames
        stride: every how many frames a memory is taken
        past_only: whether pointers of exemplars that lie ahead are left out
        signed: whether the distances of exemplars' pointers are signed
        exemplars: how many exemplars are attended to at most; None for all
        spare_exemplars: whether exemplars beyond those count as ordinary frames, as in the official predictor
    """

    maps: int
    pointers: int
    stride: int
    past_only: bool
    signed: bool
    exemplars: int | None
    spare_exemplars: bool = False

    @property
    def reach(self) -> int:
        """How many frames back anything is still attended to."""
        return max(self.map_reach, self.pointers - 1, 1)

    @property
    def map_reach(self) -> int:
        """How many frames back a map is still attended to."""
        return max(1, (self.maps - 2) * self.stride + self.stride)


@dataclass
class Pass:
    """One object on its way in one direction, with a memory of its own.

    Args:
        object_id: the object
        direction: 1 forward in time, -1 backward
        exemplars: memories of the object's exemplars by frame; shared by the passes of the object
        recent: memories of frames that were tracked, by frame
    """

    object_id: int
    direction: int
    exemplars: Mapping[int, Memory]
    recent: dict[int, Memory] = field(default_factory=dict)

    def attended(self, frame: int, rules: MemoryRules) -> Attended:
        """What the object attends to on ``frame``."""
        chosen = {at: self.exemplars[at] for at in closest(frame, self.exemplars, rules.exemplars)}
        others = {}
        if rules.spare_exemplars:
            others = {at: memory for at, memory in self.exemplars.items() if at not in chosen}
        maps = [(0, memory.maps) for memory in chosen.values()]
        for t_pos in range(1, rules.maps):
            at = self._remembered_frame(frame, rules.maps - t_pos, rules.stride)
            memory = self.recent.get(at) or others.get(at)
            if memory is not None:
                maps.append((t_pos, memory.maps))
        pointers = []
        if rules.pointers:
            for at, memory in chosen.items():
                if not rules.past_only or (frame - at) * self.direction >= 0:
                    distance = (frame - at) * self.direction if rules.signed else abs(frame - at)
                    pointers.append((distance, memory.pointer))
            for distance in range(1, rules.pointers):
                at = frame - distance * self.direction
                memory = self.recent.get(at) or others.get(at)
                if memory is not None:
                    pointers.append((distance, memory.pointer))
        return Attended(
            tuple((t_pos, found) for t_pos, found in maps if found is not None), tuple(pointers), tuple(sorted(chosen))
        )

    def remember(self, frame: int, memory: Memory, rules: MemoryRules) -> None:
        """Adds the memory of ``frame`` and forgets what no later frame attends to."""
        self.recent[frame] = memory
        for at in list(self.recent):
            age = (frame - at) * self.direction
            if age >= rules.reach:
                del self.recent[at]
            elif age >= rules.map_reach and self.recent[at].maps is not None:
                self.recent[at] = Memory(None, self.recent[at].pointer)

    def _remembered_frame(self, frame: int, back: int, stride: int) -> int:
        if back == 1:
            return frame - self.direction
        # Of the frames before the last one, every stride-th counts, on a grid that does not move with the frame.
        if self.direction > 0:
            return ((frame - 2) // stride) * stride - (back - 2) * stride
        return -(-(frame + 2) // stride) * stride + (back - 2) * stride


def closest(frame: int, exemplars: Collection[int], most: int | None) -> list[int]:
    """The exemplars that a frame attends to: the nearest one on each side, then those nearest in time.

    Args:
        frame: the frame
        exemplars: frames of exemplars
        most: how many, at least 2; None for all
    """
    if most is None or len(exemplars) <= most:
        return list(exemplars)
    before = max((at for at in exemplars if at < frame), default=None)
    after = min((at for at in exemplars if at >= frame), default=None)
    chosen = [at for at in (before, after) if at is not None]
    rest = sorted((at for at in exemplars if at not in chosen), key=lambda at: abs(at - frame))
    return chosen + rest[: most - len(chosen)]


__all__ = ["Attended", "Memory", "MemoryRules", "Pass", "closest"]
