"""Filling anew only what changed since a segment was filled."""

from __future__ import annotations

import hashlib
from bisect import bisect_left, bisect_right
from collections import Counter
from collections.abc import Collection, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass
from itertools import groupby
from typing import Any, TypeAlias

import fiftyone as fo
import numpy as np

from labelprop_cvat.labels import (
    SOURCE_MANUAL,
    SOURCE_REVIEWED,
    ObjectWriter,
    instance_id,
    read_labels,
)
from labelprop_cvat.propagation.propagator import Propagator
from labelprop_cvat.propagation.types import FrameObjects, Prompt, PromptKind, Segment
from labelprop_cvat.sequences import Sequence as FrameSequence
from labelprop_cvat.workflow._filling import (
    ObjectHistory,
    OnFrame,
    answers_of,
    carried_attributes,
    confirmed_sources,
    histories_of,
    make_prompts,
)

Digests: TypeAlias = Mapping[int, Mapping[int, str]]
"""What objects were made from, by index and 0-based position: ``"<geometry>:<class>:<attributes>:<source>"``."""

_LENGTH = 12


@dataclass(frozen=True)
class ObjectChange:
    """What has to become of one object.

    Args:
        stretches: the frames on which it is to be filled anew, ascending, no two of them touching
        marked: other frames, on which its labels stay but for their class, attributes or source
        is_shown: whether there is anything to fill it from; without, its labels go
    """

    stretches: tuple[Segment, ...] = ()
    marked: frozenset[int] = frozenset()
    is_shown: bool = True

    @property
    def frames(self) -> frozenset[int]:
        """The frames of all stretches."""
        return frozenset(frame for stretch in self.stretches for frame in stretch.frames)


def prompt_digests(prompts: Iterable[Prompt], exemplars: Mapping[int, Sequence[fo.Label]]) -> dict[int, dict[int, str]]:
    """Names what each object is made from; objects that are shown nowhere are left out.

    Args:
        prompts: see :func:`make_prompts`
        exemplars: the labels that the prompts were made of, by position
    """
    geometry = {(prompt.object_id, prompt.frame): _geometry(prompt) for prompt in prompts}
    said = {
        (label.index, position): _said(label)
        for position, labels in exemplars.items()
        for label in labels
        if label.index is not None and label.index >= 1
    }
    shown = {index for index, _ in said}
    digests: dict[int, dict[int, str]] = {}
    for index, position in sorted(geometry.keys() | said.keys()):
        if index in shown:
            digest = f"{geometry.get((index, position), '')}:{said.get((index, position), '::')}"
            digests.setdefault(index, {})[position] = digest
    return digests


def _geometry(prompt: Prompt) -> str:
    digest = hashlib.sha256(
        repr((prompt.box, prompt.polygon, prompt.points, prompt.point_labels, prompt.absent)).encode()
    )
    if prompt.mask is not None:
        digest.update(repr(prompt.mask.box).encode())
        digest.update(np.packbits(prompt.mask.crop).tobytes())
    return digest.hexdigest()[:_LENGTH]


def _said(label: fo.Label) -> str:
    confirmed = label.get_attribute_value("source", None) == SOURCE_REVIEWED
    parts = label.label, sorted(carried_attributes(label).items())
    name, attributes = (hashlib.sha256(repr(part).encode()).hexdigest()[:_LENGTH] for part in parts)
    return f"{name}:{attributes}:{SOURCE_REVIEWED if confirmed else SOURCE_MANUAL}"


def changed_objects(before: Digests, after: Digests, span: Segment) -> dict[int, ObjectChange]:
    """Which objects are to be filled anew, and where.

    A stretch reaches from the nearest prompt before a change that stayed as it was to the nearest one behind it, both
    exclusive, or to the end of the segment. A prompt that came, went or became another one is a change.

    Args:
        before: what the segment was filled from
        after: what it is to be made from
        span: the segment
    """
    changes = {}
    for index in sorted(before.keys() | after.keys()):
        if before.get(index) == after.get(index):
            continue
        if index not in after:
            changes[index] = ObjectChange((span,), is_shown=False)
            continue
        old, new = (_Made.of(side.get(index, {})) for side in (before, after))
        stretches = old.stretches_to(new, span)
        filled = {frame for stretch in stretches for frame in stretch.frames}
        change = ObjectChange(stretches, frozenset(old.said_anew(new, span) - filled))
        if change.stretches or change.marked:
            changes[index] = change
    return changes


@dataclass(frozen=True)
class _Made:
    """What one object is made from, by position."""

    shapes: Mapping[int, str]
    classes: Mapping[int, str]
    attributes: Mapping[int, str]
    sources: Mapping[int, str]

    @classmethod
    def of(cls, digests: Mapping[int, str]) -> _Made:
        parts: tuple[dict[int, str], ...] = ({}, {}, {}, {})
        for position, digest in sorted(digests.items()):
            for part, value in zip(parts, digest.split(":"), strict=True):
                if value:
                    part[position] = value
        return cls(*parts)

    def stretches_to(self, new: _Made, span: Segment) -> tuple[Segment, ...]:
        """The frames around everything that has another shape, or one at all, in ``new``."""
        both = self.shapes.keys() & new.shapes.keys()
        kept = sorted(position for position in both if self.shapes[position] == new.shapes[position])
        moved = (self.shapes.keys() | new.shapes.keys()) - set(kept)
        found = {_around(position, kept, span) for position in moved}
        return tuple(Segment(start, stop) for start, stop in sorted(found))

    def said_anew(self, new: _Made, span: Segment) -> set[int]:
        """The frames whose labels get another class, other attributes or another source than before."""
        if _majority(self.classes) != _majority(new.classes):
            return set(span.frames)
        sources = {p for p in self.sources.keys() & new.sources.keys() if self.sources[p] != new.sources[p]}
        if self.attributes == new.attributes:
            return sources
        places = sorted(self.attributes), sorted(new.attributes)
        if len(set(self.attributes.values()) | set(new.attributes.values())) == 1:
            return sources
        return sources | {
            frame
            for frame in span.frames
            if _in_force(self.attributes, places[0], frame) != _in_force(new.attributes, places[1], frame)
        }


def _majority(values: Mapping[int, str]) -> str | None:
    """What most keyframes say; of equally many the earliest."""
    return Counter(values.values()).most_common(1)[0][0] if values else None


def _in_force(values: Mapping[int, str], places: Sequence[int], position: int) -> str | None:
    """What the last keyframe up to a frame says, or the first one behind it."""
    return values[places[max(0, bisect_right(places, position) - 1)]] if places else None


def _around(position: int, kept: Sequence[int], span: Segment) -> tuple[int, int]:
    before, behind = bisect_left(kept, position), bisect_right(kept, position)
    start = kept[before - 1] + 1 if before else span.start
    return start, kept[behind] if behind < len(kept) else span.stop


def frames_to_fill(changes: Mapping[int, ObjectChange]) -> list[int]:
    """The frames that an engine has to answer for some object, ascending."""
    return sorted({frame for change in changes.values() if change.is_shown for frame in change.frames})


def refill_segment(
    dataset: fo.Dataset,
    sequence: FrameSequence,
    *,
    start: int,
    stop: int,
    changes: Mapping[int, ObjectChange],
    exemplars: Mapping[int, Sequence[fo.Label]],
    engine: Propagator | None,
    output_field: str,
    absences: Iterable[Sequence[int]] = (),
    instances: Mapping[str, str] | None = None,
    attribute_types: Mapping[str, type | None] | None = None,
    attribute_names: Iterable[str] = (),
    on_frame: OnFrame | None = None,
) -> None:
    """Fills some stretches of some objects of a segment that was filled before, all of them or nothing.

    Every other label of the field stays as it is, bit for bit. New masks give way to what people drew of any object,
    not to propagated masks of objects that are not filled anew: those may be as wrong as what was corrected.

    Args:
        dataset: where to write
        sequence: the sequence
        start: first position of the segment
        stop: the position after its last
        changes: see :func:`changed_objects`
        exemplars: position -> labels with an index, of all objects of the segment
        engine: what propagates; may be None where :func:`frames_to_fill` are none
        output_field: where the labels are
        absences: ``[index, position]`` where an object is known not to be
        instances: ids of the objects' ``fo.Instance`` by ``str(index)``
        attribute_types: see :class:`~labelprop_cvat.labels.ObjectWriter`
        attribute_names: attributes that keyframes may have lost, which propagated labels then lose as well
        on_frame: called once a frame that an engine answered

    Raises:
        EngineError: the engine failed; the field is as it was, and the error names the frames
        DataError: the field is not there any more
    """
    span = Segment(start, stop)
    own = {index for index, change in changes.items() if change.is_shown}
    instances = instances or {}
    known = {**_instances_of(dataset, sequence, output_field, span, own, exemplars, instances), **instances}
    histories = histories_of(exemplars, known)
    tracks = {index: history.track for index, history in histories.items() if index in own}
    histories = {index: histories[index].fitted(dataset, output_field) for index in tracks}
    marking = _Marking(
        histories,
        {index: changes[index].marked for index in tracks},
        exemplars,
        frozenset(attribute_names),
    )
    question = _Question.of(changes, make_prompts(exemplars, sequence.size, absences), span)
    found: Iterator[FrameObjects] = iter(())
    stretches = {index: change.frames for index, change in changes.items()}
    with ExitStack() as stack:
        writer = stack.enter_context(
            ObjectWriter(dataset, sequence, output_field, tracks, attribute_types=attribute_types)
        )
        if engine is not None and question is not None:
            found = stack.enter_context(closing(question.answers(engine, sequence)))
        following = next(found, None)
        for position in span.frames:
            new = FrameObjects(position)
            if following is not None and following.frame == position:
                new, following = following, next(found, None)
                if on_frame is not None:
                    on_frame()
            replaced = [index for index, frames in stretches.items() if position in frames]
            marks = marking.on(position)
            if replaced or marks:
                writer.write(
                    new,
                    replaced,
                    sources=confirmed_sources(exemplars.get(position, ())),
                    attributes={index: histories[index].attributes_on(position) for index in new.objects},
                    marks=marks,
                )
        writer.commit()


def _instances_of(
    dataset: fo.Dataset,
    sequence: FrameSequence,
    output_field: str,
    span: Segment,
    wanted: Iterable[int],
    exemplars: Mapping[int, Sequence[fo.Label]],
    instances: Mapping[str, str],
) -> dict[str, str]:
    """The instances of objects for which neither keyframes nor ``instances`` have one, as propagated labels say."""
    named = {label.index for labels in exemplars.values() for label in labels if instance_id(label) is not None}
    missing = {index for index in set(wanted) - named if str(index) not in instances}
    found: dict[str, str] = {}
    if missing:
        for frame in read_labels(dataset, sequence, output_field, span):
            for index in missing & frame.tracked().keys():
                instance = instance_id(frame.tracked()[index])
                if instance is not None:
                    found.setdefault(str(index), instance)
            if len(found) == len(missing):
                break
    return found


@dataclass(frozen=True)
class _Marking:
    """What labels that are not filled anew get from keyframes that say something else than before."""

    histories: Mapping[int, ObjectHistory]
    frames: Mapping[int, frozenset[int]]
    exemplars: Mapping[int, Sequence[fo.Label]]
    names: frozenset[str]

    def on(self, position: int) -> dict[int, dict[str, Any]]:
        """The marks of one frame, by index."""
        marks: dict[int, dict[str, Any]] = {}
        labels = self.exemplars.get(position, ())
        shown, confirmed = {label.index for label in labels}, confirmed_sources(labels)
        for index, history in self.histories.items():
            if position not in self.frames[index]:
                continue
            names = self.names.union(*(values for _, values in history.attributes))
            values = history.attributes_on(position)
            marks[index] = {name: values.get(name) for name in names}
            marks[index] |= {"label": history.track.label, "instance": history.track.instance}
            if index in shown:
                marks[index]["source"] = confirmed.get(index, SOURCE_MANUAL)
        return marks


@dataclass(frozen=True)
class _Question:
    """What an engine is asked so that it fills the stretches and hardly anything else.

    It gets all prompts of the objects to be filled, which it may learn from wherever they are. Beyond its stretches an
    object is called absent at both ends of every run of frames without a prompt, so that nothing is done there.

    Args:
        prompts: those, those absences, and what people drew of other objects on frames of the stretches
        span: the frames that the engine goes through
        stretches: the frames that are asked for, by object
    """

    prompts: tuple[Prompt, ...]
    span: Segment
    stretches: Mapping[int, frozenset[int]]

    @classmethod
    def of(cls, changes: Mapping[int, ObjectChange], prompts: Iterable[Prompt], span: Segment) -> _Question | None:
        """What to ask of a segment; None for nothing.

        Args:
            changes: what is to be filled
            prompts: of all objects of the segment
            span: the segment
        """
        stretches = {i: change.frames for i, change in changes.items() if change.is_shown and change.stretches}
        filled = {frame for frames in stretches.values() for frame in frames}
        if not filled:
            return None
        by_object: dict[int, dict[int, Prompt]] = {}
        for prompt in prompts:
            # What people drew of other objects is not given away.
            is_drawn = prompt.kind in (PromptKind.MASK, PromptKind.POLYGON) and prompt.points is None
            if prompt.object_id in stretches or (is_drawn and prompt.frame in filled):
                by_object.setdefault(prompt.object_id, {})[prompt.frame] = prompt
        frames = filled.union(*by_object.values())
        asked = Segment(min(frames), max(frames) + 1)
        given = [
            prompt
            for index, own in by_object.items()
            for prompt in (*own.values(), *_kept_out(index, own, asked, stretches.get(index, frozenset())))
        ]
        return cls(tuple(given), asked, stretches)

    def answers(self, engine: Propagator, sequence: FrameSequence) -> Generator[FrameObjects, None, None]:
        """The frames of the stretches, ascending, with the objects that were asked for on them."""
        last = max(frame for frames in self.stretches.values() for frame in frames)
        with closing(answers_of(engine, sequence, self.prompts, self.span)) as found:
            for answer in found:
                wanted = {index for index, frames in self.stretches.items() if answer.frame in frames}
                if wanted:
                    states = {index: state for index, state in answer.objects.items() if index in wanted}
                    yield FrameObjects(answer.frame, states)
                if answer.frame == last:
                    return


def _kept_out(index: int, own: Collection[int], span: Segment, asked: Collection[int]) -> Iterator[Prompt]:
    """Absences at both ends of every run of frames on which nobody asks for an object and no prompt shows it."""
    for is_free, run in groupby(span.frames, lambda frame: frame not in asked and frame not in own):
        frames = list(run)
        if is_free:
            for frame in sorted({frames[0], frames[-1]}):
                yield Prompt(frame, index, absent=True)


__all__ = [
    "Digests",
    "ObjectChange",
    "changed_objects",
    "frames_to_fill",
    "prompt_digests",
    "refill_segment",
]
