"""Which CVAT shapes and tracks are the same object, and where a track is seen."""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Claim:
    """What one shape or track in CVAT says of its identity.

    Args:
        key: names it for good: ``"shape:<id>"`` or ``"track:<id>"`` within its task
        order: position among all claims, lower ones are older
        label: its class
        index: the value of its index attribute; 0 when nobody gave one
        frames: the frame positions on which it is visible
    """

    key: str
    order: int
    label: str
    index: int
    frames: frozenset[int]


@dataclass(frozen=True)
class KnownIdentity:
    """What an earlier look settled for a key: its index, and the claim that it made then."""

    index: int
    claim: int


def resolve_identities(
    claims: Sequence[Claim],
    known: Mapping[str, KnownIdentity],
    *,
    reserved: Collection[int] = (),
    next_index: int = 1,
) -> dict[str, int]:
    """Gives every claim an index, 1-based and unique among the objects of its sequence.

    The key decides where it is known, so an index that CVAT reset is not lost. A changed index is an edit by a
    person and is followed, unless another object holds that index on the same frame. Among the unknown, claims to
    one index belong together as long as they agree on the class and never share a frame; copies and claims without
    an index get a new one. Nothing is ever attached to an object on doubt.

    Args:
        claims: all claims of one sequence
        known: what was settled before, by key
        reserved: indices of objects that were not sent to CVAT, which nobody there can have meant
        next_index: the lowest index that was never in use

    Returns:
        the index of every claim by key
    """
    # An index that CVAT never showed can't have been meant by anybody there.
    unseen = {identity.index for identity in known.values() if identity.claim == 0}
    holders: dict[int, list[Claim]] = defaultdict(list)
    result: dict[str, int] = {}

    def free(index: int, claim: Claim, same_label: bool) -> bool:
        return (
            index not in reserved
            and index not in unseen
            and all(
                holder.frames.isdisjoint(claim.frames) and (not same_label or holder.label == claim.label)
                for holder in holders[index]
            )
        )

    def settle(claim: Claim, index: int) -> None:
        holders[index].append(claim)
        result[claim.key] = index

    ordered = sorted(claims, key=lambda claim: claim.order)
    unchanged = [c for c in ordered if c.key in known and c.index in (0, known[c.key].claim)]
    edited = [c for c in ordered if c.key in known and c.index not in (0, known[c.key].claim)]
    fresh = [c for c in ordered if c.key not in known]
    for claim in unchanged:
        settle(claim, known[claim.key].index)
    for claim in edited:
        if free(claim.index, claim, same_label=False):
            settle(claim, claim.index)
        else:
            logger.warning(
                "A %s was given index %d in CVAT, which another object holds on the same frame; it keeps index %d.",
                claim.label,
                claim.index,
                known[claim.key].index,
            )
            settle(claim, known[claim.key].index)

    next_index = max([next_index, *(1 + i for i in (*reserved, *result.values(), *(c.index for c in ordered)))])
    twins: dict[tuple[int, str], list[int]] = defaultdict(list)
    for claim in fresh:
        if claim.index > 0 and free(claim.index, claim, same_label=True):
            settle(claim, claim.index)
            continue
        # Copies made from one object (and objects numbered per class) stay together among themselves.
        candidates = twins[(claim.index, claim.label)] if claim.index > 0 else []
        index = next((i for i in candidates if free(i, claim, same_label=True)), None)
        if index is None:
            index, next_index = next_index, next_index + 1
            candidates.append(index)
        if claim.index > 0:
            logger.warning(
                "A second object with index %d (%s) was found in CVAT on a frame or under a class where that index is "
                "taken; it is object %d now.",
                claim.index,
                claim.label,
                index,
            )
        settle(claim, index)
    return result


def visible_frames(keyframes: Sequence[tuple[int, bool]], frames: Sequence[int]) -> frozenset[int]:
    """The frames on which CVAT shows a track.

    Args:
        keyframes: ``(frame, outside)`` of each keyframe, any order
        frames: all frames of the job

    Returns:
        those of ``frames`` from a visible keyframe up to, not including, the next outside one
    """
    ordered = sorted(keyframes)
    seen: set[int] = set()
    for (start, outside), following in zip(ordered, [*ordered[1:], None], strict=True):
        if outside:
            continue
        seen.update(f for f in frames if f >= start and (following is None or f < following[0]))
    return frozenset(seen)


__all__ = ["Claim", "KnownIdentity", "resolve_identities", "visible_frames"]
