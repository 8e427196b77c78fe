"""Which CVAT shapes and tracks are the same object, and where a track is seen.

What CVAT's editor does to ids decides how an object is known again: an edited object keeps its id; a deleted and
restored, split or merged one comes back under a new id with the same keyframes; a copy carries the index of what it
was made from. So the id decides where it is known, then keyframes that are exactly those of an object that is gone,
and then only the index.
"""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

logger = logging.getLogger(__name__)

#: Keyframes of objects that took the place of others: key -> position -> key of the object that the keyframe was of.
Heirs = Mapping[str, Mapping[int, str]]


@dataclass(frozen=True)
class Claim:
    """What one shape or track in CVAT says of its identity.

    Args:
        key: names it for good: ``"shape:<id>"`` or ``"track:<id>"`` within its task
        order: position among all claims, lower ones are older
        label: its class
        index: the value of its index attribute; 0 when nobody gave one
        frames: the frame positions on which it is visible, keyframe or not
        drawn: what names the geometry of each visible keyframe, by position; None for a keyframe on each of ``frames``
        ended: the same of the keyframes that are ``outside``
    """

    key: str
    order: int
    label: str
    index: int
    frames: frozenset[int]
    drawn: Mapping[int, str] | None = None
    ended: Mapping[int, str] = field(default_factory=dict)

    @property
    def is_track(self) -> bool:
        """Whether CVAT shows it between its keyframes too."""
        return self.key.startswith("track:")

    @property
    def keyframes(self) -> frozenset[int]:
        """The positions for which its geometry was drawn: each is one label of the object."""
        return self.frames if self.drawn is None else frozenset(self.drawn)


@dataclass(frozen=True)
class KnownIdentity:
    """What an earlier look settled for a key.

    Args:
        index: its number, from 1
        claim: the index that CVAT showed then; 0 when nobody had given one
        drawn: what named the geometry of its visible keyframes then, by position
        label: its class then; "" where that was not kept
    """

    index: int
    claim: int
    drawn: Mapping[int, str] = field(default_factory=dict)
    label: str = ""


def find_heirs(
    claims: Sequence[Claim], known: Mapping[str, KnownIdentity], gone: Collection[str]
) -> dict[str, dict[int, str]]:
    """Finds keyframes that live on under another id: those of objects that were restored, split or merged.

    Args:
        claims: all claims of one sequence
        known: what was settled before, by key
        gone: keys of ``known`` that were looked for and are not there any more

    Returns:
        for each new claim with such keyframes: position -> key of the object that the keyframe was of. No keyframe of
        an object has two heirs.
    """
    holders: dict[tuple[int, str], list[str]] = defaultdict(list)
    for key in sorted(set(gone)):
        for place in known[key].drawn.items():
            holders[place].append(key)
    heirs: dict[str, dict[int, str]] = {}
    for claim in sorted(claims, key=lambda claim: claim.order):
        if claim.key in known or not claim.drawn:
            continue
        shared: dict[str, int] = defaultdict(int)
        for place in claim.drawn.items():
            for key in holders[place]:
                shared[key] += 1

        def likeness(key: str, claim: Claim = claim, shared: Mapping[str, int] = shared) -> tuple[bool, bool, int]:
            before = known[key]
            return before.label == claim.label, before.claim == claim.index, shared[key]

        for place in sorted(claim.drawn.items()):
            if holders[place]:
                best = max(holders[place], key=likeness)
                holders[place].remove(best)
                heirs.setdefault(claim.key, {})[place[0]] = best
    return heirs


def resolve_identities(
    claims: Sequence[Claim],
    known: Mapping[str, KnownIdentity],
    *,
    heirs: Heirs | None = None,
    reserved: Collection[int] = (),
    next_index: int = 1,
) -> dict[str, int]:
    """Gives every claim an index, 1-based; no two claims with one index have a keyframe on the same frame.

    The key decides where it is known, so an index that CVAT reset is not lost. A changed index is an edit by a
    person and is followed, unless another object is on the same frame with that index. An heir is who it was: the
    earliest part of a split track, and of merged tracks the one whose attributes were kept. Later parts of a split
    track are new objects. Among the other new ones, claims to one index belong together as long as they agree on the
    class and are not seen on the same frame; copies and claims without an index get a new one. Nothing is ever
    attached to an object on doubt.

    Args:
        claims: all claims of one sequence, in any order
        known: what was settled before, by key
        heirs: what :func:`find_heirs` found
        reserved: indices of objects that were not sent to CVAT, which nobody there can have meant
        next_index: the lowest index that was never in use

    Returns:
        the index of every claim by key. Given back as ``known``, with the claims as they are, it comes out again.
    """
    ordered = sorted(claims, key=lambda claim: (claim.order, claim.key))
    settled, parts = _inherited(ordered, known, heirs or {})
    identities = {**known, **settled}
    register = _Register(identities, ordered, reserved)
    result = register.settle_known(ordered, identities)

    taken = (*reserved, *result.values(), *(i.index for i in known.values()), *(c.index for c in ordered))
    next_index = max([next_index, *(1 + index for index in taken)])
    twins: dict[tuple[int, str], list[int]] = defaultdict(list)
    for claim in ordered:
        if claim.key in result:
            continue
        is_own = claim.key in identities or (claim.key in parts and claim.index in (0, parts[claim.key]))
        if claim.index > 0 and not is_own and register.is_free(claim.index, claim, same_label=True):
            result[claim.key] = register.settle(claim, claim.index)
            continue
        # Copies made from one object (and objects numbered per class) stay together among themselves.
        candidates = twins[(claim.index, claim.label)] if claim.index > 0 and not is_own else []
        index = next((i for i in candidates if register.is_free(i, claim, same_label=True)), None)
        if index is None:
            index, next_index = next_index, next_index + 1
            candidates.append(index)
        if claim.key in parts and is_own:
            logger.info("A track of a %s was split in CVAT; its later part is object %d now.", claim.label, index)
        elif claim.index > 0:
            logger.warning(
                "A second object with index %d (%s) was found in CVAT on a frame or under a class where that index is "
                "taken; it is object %d now.",
                claim.index,
                claim.label,
                index,
            )
        result[claim.key] = register.settle(claim, index)
    return result


def _inherited(
    ordered: Sequence[Claim], known: Mapping[str, KnownIdentity], heirs: Heirs
) -> tuple[dict[str, KnownIdentity], dict[str, int]]:
    """Which new claims are known objects, and which are later parts of split ones, with the index copied to those."""
    by_key = {claim.key: claim for claim in ordered}
    cuts = _cuts(ordered, known)
    found_by_cut: set[str] = set()
    lines: dict[str, list[Claim]] = defaultdict(list)
    for key, places in heirs.items():
        claim = by_key[key]
        # Of merged objects the one that gave its attributes goes on, and among equals the first one.
        forebear = min(
            set(places.values()),
            key=lambda old: (
                known[old].claim != claim.index or claim.index == 0,
                min(position for position, holder in places.items() if holder == old),
                old,
            ),
        )
        lines[forebear].append(claim)
        # A part all of whose keyframes were changed is known by where it was cut.
        while (key := cuts.get(key, "")) and key not in heirs and key not in found_by_cut:
            found_by_cut.add(key)
            lines[forebear].append(by_key[key])
    settled: dict[str, KnownIdentity] = {}
    parts = {key: by_key[key].index for key in cuts}
    for forebear, line in lines.items():
        before = known[forebear]
        first, *others = sorted(line, key=lambda claim: (min(claim.keyframes), claim.order))
        settled[first.key] = KnownIdentity(before.index, before.claim)
        parts.update({claim.key: before.claim for claim in others})
    return settled, parts


def _cuts(ordered: Sequence[Claim], known: Mapping[str, KnownIdentity]) -> dict[str, str]:
    """New tracks that begin where another new one ends, with the very same shape: CVAT's mark of a split.

    Returns:
        key of the later part -> key of the earlier one
    """
    new = [claim for claim in ordered if claim.is_track and claim.key not in known and claim.drawn]
    ends = {
        (claim.label, claim.index, position, name): claim.key
        for claim in new
        for position, name in claim.ended.items()
        if position > min(claim.keyframes)
    }
    cuts = {}
    for claim in new:
        first = min(claim.keyframes)
        earlier = ends.get((claim.label, claim.index, first, (claim.drawn or {})[first]), claim.key)
        if earlier != claim.key:
            cuts[claim.key] = earlier
    return cuts


@dataclass
class _Holdings:
    """Where the objects with one index are."""

    drawn: set[int] = field(default_factory=set)
    tracked: set[int] = field(default_factory=set)
    labels: set[str] = field(default_factory=set)


class _Register:
    """Who holds which index where."""

    def __init__(
        self, identities: Mapping[str, KnownIdentity], ordered: Sequence[Claim], reserved: Collection[int]
    ) -> None:
        self._holdings: dict[int, _Holdings] = defaultdict(_Holdings)
        # An index that CVAT never showed can't have been meant by anybody there.
        shown = {identity.claim for identity in identities.values()}
        shown |= {c.index for c in ordered if c.key in identities and identities[c.key].index == c.index}
        self._unmeant = {*reserved, *({identity.index for identity in identities.values()} - shown)}

    def settle(self, claim: Claim, index: int) -> int:
        held = self._holdings[index]
        held.drawn |= claim.keyframes
        held.labels.add(claim.label)
        if claim.is_track:
            held.tracked |= claim.frames
        return index

    def is_free(self, index: int, claim: Claim, *, same_label: bool) -> bool:
        """Whether somebody who typed an index can have meant the object that holds it.

        Two tracks on one frame are two objects. What CVAT interpolates is nobody's word: a shape drawn on a frame
        between a track's keyframes corrects the track.
        """
        held = self._holdings[index]
        return (
            index not in self._unmeant
            and held.drawn.isdisjoint(claim.keyframes)
            and not (claim.is_track and held.tracked & claim.frames)
            and not (same_label and held.labels - {claim.label})
        )

    def settle_known(self, ordered: Sequence[Claim], identities: Mapping[str, KnownIdentity]) -> dict[str, int]:
        """Settles every claim of a known key that can have its index, and edits of indices where they are possible."""
        own = [claim for claim in ordered if claim.key in identities]
        edited = {c.key: c for c in own if c.index not in (0, identities[c.key].claim, identities[c.key].index)}
        while True:
            self._holdings.clear()
            result: dict[str, int] = {}
            for claim in own:
                index = identities[claim.key].index
                # Only tracks that people made longer can come upon another one with their own number.
                if claim.key not in edited and self._holdings[index].drawn.isdisjoint(claim.keyframes):
                    result[claim.key] = self.settle(claim, index)
            refused = []
            for claim in edited.values():
                if self.is_free(claim.index, claim, same_label=False):
                    result[claim.key] = self.settle(claim, claim.index)
                else:
                    refused.append(claim)
            if not refused:
                return result
            for claim in refused:
                # Back at its own number it may be in the way of another edit, so all are looked at again.
                del edited[claim.key]
                logger.warning(
                    "A %s was given index %d in CVAT, which another object holds on the same frame; it keeps index %d.",
                    claim.label,
                    claim.index,
                    identities[claim.key].index,
                )


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


@dataclass(frozen=True)
class TrackKeyframe:
    """One keyframe of a track, and whether a person had a hand in it.

    Args:
        frame: its frame, in whatever numbering
        outside: whether CVAT hides the object from here on
        by_person: whether a person set, changed or confirmed it; False for what was sent to CVAT and is as it was
    """

    frame: int
    outside: bool
    by_person: bool


def ended_frames(keyframes: Sequence[TrackKeyframe]) -> frozenset[int]:
    """The visible keyframes behind the end of an object that a person set.

    CVAT shows an object again at the next keyframe, so that on a track with a keyframe on every frame an end hides one
    frame only. Keyframes that no person had a hand in do not bring an object back that a person ended.

    Args:
        keyframes: the keyframes of one track, any order

    Returns:
        the frames of visible keyframes from an ``outside`` one that a person set up to, not including, the next visible
        one that a person had a hand in
    """
    hidden: set[int] = set()
    over = False
    for keyframe in sorted(keyframes, key=lambda keyframe: keyframe.frame):
        if keyframe.outside:
            over = over or keyframe.by_person
        elif keyframe.by_person:
            over = False
        elif over:
            hidden.add(keyframe.frame)
    return frozenset(hidden)


__all__ = [
    "Claim",
    "Heirs",
    "KnownIdentity",
    "TrackKeyframe",
    "ended_frames",
    "find_heirs",
    "resolve_identities",
    "visible_frames",
]
