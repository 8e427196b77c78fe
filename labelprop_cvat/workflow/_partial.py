"""Which part of a collection is to be propagated: a direction, a range of frames, some samples, some tracks."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import fiftyone as fo
from bson import ObjectId

from labelprop_cvat.errors import ConfigurationError, DataError
from labelprop_cvat.labels import read_labels
from labelprop_cvat.propagation.types import Segment
from labelprop_cvat.sequences import FrameRef, members_of
from labelprop_cvat.sequences import Sequence as FrameSequence
from labelprop_cvat.workflow._refilling import BOTH, DIRECTIONS, ObjectChange, runs

FrameRange = tuple[int | None, int | None]


@dataclass(frozen=True)
class Part:
    """What of a collection is wanted.

    Args:
        direction: one of :data:`~labelprop_cvat.workflow.DIRECTIONS`
        first: number of the first wanted frame, from 1: FiftyOne's on videos, the place in the sequence on images
        last: that of the last, inclusive
        tracks: indices of the wanted objects; None for all
        chosen: the wanted frames, by sample and, of videos, frame number (None for all frames of the video); None for
            all

    Raises:
        ConfigurationError: a value makes no sense
    """

    direction: str = BOTH
    first: int | None = None
    last: int | None = None
    tracks: frozenset[int] | None = None
    chosen: Mapping[str, frozenset[int] | None] | None = None

    def __post_init__(self) -> None:
        if self.direction not in DIRECTIONS:
            raise ConfigurationError(f"direction is one of {', '.join(DIRECTIONS)}, got {self.direction!r}.")
        for name, value in (("first", self.first), ("last", self.last)):
            if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < 1):
                raise ConfigurationError(f"The {name} frame is a number from 1, got {value!r}.")
        if self.first is not None and self.last is not None and self.last < self.first:
            raise ConfigurationError(
                f"The frames {self.first} to {self.last} are none: the last must not come before the first."
            )
        if self.tracks is not None and not self.tracks:
            raise ConfigurationError("tracks names no index. Leave it out to propagate all objects.")
        for track in self.tracks or ():
            if isinstance(track, bool) or not isinstance(track, int) or track < 1:
                raise ConfigurationError(f"A track is an object's index, a number from 1, got {track!r}.")

    @classmethod
    def of(
        cls,
        samples: fo.core.collections.SampleCollection,
        direction: str = BOTH,
        frames: FrameRange | None = None,
        tracks: Iterable[int] | None = None,
        only: Iterable[str] | None = None,
    ) -> Part:
        """Reads what a caller asked for.

        Args:
            samples: the collection
            direction: see :class:`Part`
            frames: first and last frame, either may be None
            tracks: indices of objects
            only: ids of what is selected in ``samples``, as the App has them: samples, frames, clips or patches

        Raises:
            ConfigurationError: a value makes no sense
            DataError: ``samples`` has none of the ids
        """
        if frames is not None and (isinstance(frames, str) or len(tuple(frames)) != 2):
            raise ConfigurationError(f"frames is a pair, the first and the last frame, got {frames!r}.")
        first, last = (None, None) if frames is None else frames
        return cls(
            direction,
            first,
            last,
            None if tracks is None else frozenset(tracks),
            None if only is None else _chosen(samples, list(only)),
        )

    @property
    def is_everything(self) -> bool:
        """Whether nothing limits it."""
        return self == Part()

    @property
    def is_piece(self) -> bool:
        """Whether it leaves some frames or objects out; a direction alone does not."""
        return self != Part(direction=self.direction)

    def may_touch(self, sequence: FrameSequence) -> bool:
        """Whether some frame of a sequence may be wanted; looks at no media."""
        if self.chosen is None:
            return True
        return not self.chosen.keys().isdisjoint(sequence.sample_ids)

    def positions(self, sequence: FrameSequence) -> frozenset[int]:
        """The wanted frames of a sequence, 0-based positions."""
        return frozenset(at for at, ref in enumerate(sequence.frames) if self._has(at, ref))

    def _has(self, position: int, ref: FrameRef) -> bool:
        number = position + 1 if ref.frame_number is None else ref.frame_number
        if (self.first is not None and number < self.first) or (self.last is not None and number > self.last):
            return False
        if self.chosen is None:
            return True
        numbers = self.chosen.get(ref.sample_id, frozenset())
        return numbers is None or ref.frame_number in numbers

    def changes(
        self,
        dataset: fo.Dataset,
        sequence: FrameSequence,
        output_field: str,
        span: Segment,
        wanted: Collection[int],
        known: Collection[int],
    ) -> dict[int, ObjectChange]:
        """What has to become of each object of a segment; what is not wanted stays as it is.

        Args:
            dataset: the dataset
            sequence: the sequence
            output_field: where propagated labels are
            span: the segment
            wanted: see :meth:`positions`
            known: the indices of objects that a keyframe of the segment shows
        """
        frames = frozenset(wanted).intersection(span.frames)
        stretches = tuple(runs(frames))
        indices = set(known) if self.tracks is None else self.tracks.intersection(known)
        changes = {index: ObjectChange(stretches) for index in indices}
        if self.tracks is None:
            # Objects that no keyframe shows any more would not be there if all of it was filled.
            there = {
                index
                for found in (
                    read_labels(dataset, sequence, output_field, sorted(frames))
                    if dataset.get_field(output_field) is not None
                    else ()
                )
                for index in found.tracked()
            }
            changes |= {index: ObjectChange(gone=frames) for index in there - set(known)}
        return changes


def _chosen(samples: Any, ids: list[str]) -> dict[str, frozenset[int] | None]:
    """The frames that ids stand for in a collection of any kind."""
    if not ids:
        raise ConfigurationError("only names no id. Leave it out to propagate everything.")
    for one in ids:
        if not ObjectId.is_valid(one):
            raise ConfigurationError(f"An id is 24 hexadecimal digits, as in the field id of a sample, got {one!r}.")
    found: dict[str, frozenset[int] | None] = {}
    if samples._is_dynamic_groups:
        found = _in_groups(samples, set(ids))
    elif samples._is_frames or samples._is_clips:
        numbers = "frame_number" if samples._is_frames else "support"
        rows = zip(*samples.select(ids).values(["sample_id", numbers]), strict=True)
        for sample_id, value in rows:
            more = range(value[0], value[1] + 1) if samples._is_clips else [value]
            found[sample_id] = frozenset(more) | (found.get(sample_id) or frozenset())
    elif samples._is_patches:
        found = dict.fromkeys(samples.select(ids).values("sample_id"))
    else:
        every = samples.select_group_slices(_allow_mixed=True) if samples.media_type == "group" else samples
        found = dict.fromkeys(every.select(ids).values("id"))
    if not found:
        raise DataError(
            f"None of the {len(ids)} chosen ids is one of this view, which has {len(samples)} samples. Choose samples "
            f"of the view that is propagated."
        )
    return found


def _in_groups(samples: Any, ids: set[str]) -> dict[str, frozenset[int] | None]:
    """Frames of dynamic groups; a group that is chosen by the frame that stands for it is chosen as a whole."""
    members = members_of(samples)
    found: dict[str, frozenset[int] | None] = {}
    standing = set(samples.select(list(ids)).values("id"))
    groups = list(samples.iter_dynamic_groups()) if standing else []
    for group in groups:
        inside = group.values("id")
        if standing.intersection(inside) and len(ids.intersection(inside)) == 1:
            found.update(dict.fromkeys(inside))
    return found | dict.fromkeys(i for i in members.select(list(ids)).values("id"))


__all__ = ["FrameRange", "Part"]
