"""Gaps: the frames of one object between two prompts, or on the open side of one."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

from labelprop_cvat.propagation.interpolate import keyframes_by_object
from labelprop_cvat.propagation.types import ObjectMask, Prompt, PromptKind, Segment, rasterize


@dataclass(frozen=True)
class Gap:
    """Frames of one object without a prompt: ``first <= frame < stop``, with the prompts at its ends."""

    object_id: int
    first: int
    stop: int
    before: Prompt | None
    after: Prompt | None

    @property
    def visible_before(self) -> Prompt | None:
        """The prompt before, where it shows the object."""
        return self.before if self.before is not None and not self.before.absent else None

    @property
    def visible_after(self) -> Prompt | None:
        """The prompt behind, where it shows the object."""
        return self.after if self.after is not None and not self.after.absent else None

    @property
    def kind(self) -> PromptKind:
        """The geometry of the answers: a mask where the ends differ."""
        kinds = {end.kind for end in (self.visible_before, self.visible_after) if end is not None}
        return kinds.pop() if len(kinds) == 1 else PromptKind.MASK

    def progress(self, frame: int) -> float:
        """0 at the exemplar before, 1 at the one behind."""
        if self.before is None or self.after is None:
            return 0.0 if self.after is None else 1.0
        return (frame - self.before.frame) / (self.after.frame - self.before.frame)


def find_gaps(prompts: Sequence[Prompt], span: Segment) -> Iterator[Gap]:
    """The gaps of every object in ``span`` that have a visible prompt at one end at least."""
    for object_id, keyframes in keyframes_by_object(prompts).items():
        ends: list[Prompt | None] = [None, *keyframes, None]
        for before, after in pairwise(ends):
            first = span.start if before is None else before.frame + 1
            stop = span.stop if after is None else after.frame
            gap = Gap(object_id, first, stop, before, after)
            if first < stop and (gap.visible_before is not None or gap.visible_after is not None):
                yield gap


def prompt_mask(prompt: Prompt, size: tuple[int, int]) -> ObjectMask | None:
    """The pixels of a prompt cut to the frame: its mask, its polygon filled, or its box; None when there are none."""
    if prompt.mask is not None:
        return ObjectMask.from_full(prompt.mask.to_full(size))
    if prompt.polygon is not None:
        return rasterize(prompt.polygon, size)
    if prompt.box is not None:
        x1, y1, x2, y2 = prompt.box
        return rasterize((((x1, y1), (x2, y1), (x2, y2), (x1, y2)),), size)
    return None
