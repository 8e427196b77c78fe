"""Filling anew only what changed since a segment was filled."""

from __future__ import annotations

import hashlib
from bisect import bisect_left, bisect_right
from collections import Counter
from collections.abc import Collection, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, field, replace
from itertools import groupby, pairwise
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
from labelprop_cvat.propagation.types import FrameObjects, ObjectState, Prompt, PromptKind, Segment
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

#: From the keyframes of an object on both sides of a frame.
BOTH = "both"
#: From the last keyframe of an object before a frame.
FORWARD = "forward"
#: From the first keyframe of an object behind a frame.
BACKWARD = "backward"
DIRECTIONS = (BOTH, FORWARD, BACKWARD)

_LENGTH = 12
# In the place of a geometry: a keyframe says that the object is not there, or a reviewer who saw every frame does.
_ABSENT, _HIDDEN = "absent", "hidden"


@dataclass(frozen=True)
class ObjectChange:
    """What has to become of one object. Its labels on other frames stay as they are.

    Args:
        stretches: the frames on which it is to be filled anew, ascending, no two of them touching
        gone: the frames on which its labels go and none come
        marked: the frames on which its labels stay but for their class, attributes or source
    """

    stretches: tuple[Segment, ...] = ()
    gone: frozenset[int] = frozenset()
    marked: frozenset[int] = frozenset()

    @property
    def frames(self) -> frozenset[int]:
        """The frames of all stretches."""
        return frozenset(frame for stretch in self.stretches for frame in stretch.frames)


def prompt_digests(
    prompts: Iterable[Prompt], exemplars: Mapping[int, Sequence[fo.Label]], hidden: Iterable[Sequence[int]] = ()
) -> dict[int, dict[int, str]]:
    """Names what each object is made from; objects that are shown nowhere are left out.

    Args:
        prompts: see :func:`make_prompts`
        exemplars: the labels that the prompts were made of, by position
        hidden: ``[index, position]`` where somebody who saw every frame said that an object is not there; a label at
            the same place wins
    """
    geometry = {(prompt.object_id, prompt.frame): _geometry(prompt) for prompt in prompts}
    said = {
        (label.index, position): _said(label)
        for position, labels in exemplars.items()
        for label in labels
        if label.index is not None and label.index >= 1
    }
    for index, position in hidden:
        if geometry.get((index, position), _ABSENT) == _ABSENT:
            geometry[index, position] = _HIDDEN
    shown = {index for index, _ in said}
    digests: dict[int, dict[int, str]] = {}
    for index, position in sorted(geometry.keys() | said.keys()):
        if index in shown:
            digest = f"{geometry.get((index, position), '')}:{said.get((index, position), '::')}"
            digests.setdefault(index, {})[position] = digest
    return digests


def _geometry(prompt: Prompt) -> str:
    if prompt.absent:
        return _ABSENT
    digest = hashlib.sha256(repr((prompt.box, prompt.polygon, prompt.points, prompt.point_labels)).encode())
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

    Frames on which a reviewer hid an object cut its time in pieces, and everything else was seen and left: hiding
    changes nothing on other frames, no stretch reaches over hidden frames, and a piece without a prompt keeps its
    labels, but for those of prompts that were taken back. Frames that are hidden no more are filled anew.

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
            changes[index] = ObjectChange(gone=frozenset(span.frames))
            continue
        old, new = (_Made.of(side.get(index, {})) for side in (before, after))
        stretches = old.stretches_to(new, span)
        filled = {frame for stretch in stretches for frame in stretch.frames}
        # What somebody took back stands for nobody, also where nothing takes its place.
        taken_back = old.shown - new.shown - filled
        gone = frozenset((new.hidden - old.hidden) | taken_back)
        marked = frozenset(old.said_anew(new, span) - filled - new.hidden - gone)
        change = ObjectChange(stretches, gone, marked)
        if change != ObjectChange():
            changes[index] = change
    return changes


def whole_objects(digests: Digests, span: Segment) -> dict[int, ObjectChange]:
    """All objects, to be filled anew wherever there is a prompt to do it from.

    Between hidden frames (see :func:`changed_objects`) without a prompt, labels stay; they are ``marked``.

    Args:
        digests: what the segment is to be made from
        span: the segment
    """
    changes = {}
    for index, places in digests.items():
        made = _Made.of(places)
        pieces = _pieces(made.hidden, span)
        filled = tuple(piece for piece in pieces if made.shows_in(piece))
        kept = frozenset(frame for piece in pieces if piece not in filled for frame in piece.frames)
        changes[index] = ObjectChange(filled, frozenset(made.hidden), kept)
    return changes


@dataclass(frozen=True)
class _Made:
    """What one object is made from, by position; ``shapes`` are those of prompts, absent ones too."""

    shapes: Mapping[int, str]
    classes: Mapping[int, str]
    attributes: Mapping[int, str]
    sources: Mapping[int, str]
    hidden: frozenset[int]

    @classmethod
    def of(cls, digests: Mapping[int, str]) -> _Made:
        parts = {position: digest.split(":") for position, digest in sorted(digests.items())}
        shapes, *said = ({position: part[n] for position, part in parts.items() if part[n]} for n in range(4))
        hidden = frozenset(position for position, shape in shapes.items() if shape == _HIDDEN)
        shapes = {position: shape for position, shape in shapes.items() if position not in hidden}
        return cls(shapes, said[0], said[1], said[2], hidden)

    @property
    def shown(self) -> set[int]:
        """The positions of prompts that show the object."""
        return {position for position, shape in self.shapes.items() if shape != _ABSENT}

    def shows_in(self, piece: Segment) -> bool:
        """Whether a prompt shows the object on some frame of ``piece``."""
        return any(position in piece and shape != _ABSENT for position, shape in self.shapes.items())

    def stretches_to(self, new: _Made, span: Segment) -> tuple[Segment, ...]:
        """The frames around everything that has another shape, or one at all, in ``new``."""
        both = self.shapes.keys() & new.shapes.keys()
        kept = {position for position in both if self.shapes[position] == new.shapes[position]}
        moved = (self.shapes.keys() | new.shapes.keys() | self.hidden) - kept - new.hidden
        barriers = sorted(kept | new.hidden)
        found = {_around(position, barriers, span) for position in moved}
        followed = [piece for piece in _pieces(new.hidden, span) if new.shows_in(piece)]
        return tuple(Segment(start, stop) for start, stop in sorted(found) if any(start in piece for piece in followed))

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


def _pieces(hidden: Collection[int], span: Segment) -> list[Segment]:
    """The runs of frames of a segment that are not hidden."""
    ends = [span.start - 1, *sorted(frame for frame in hidden if frame in span), span.stop]
    return [Segment(first + 1, last) for first, last in pairwise(ends) if first + 1 < last]


def _around(position: int, kept: Sequence[int], span: Segment) -> tuple[int, int]:
    before, behind = bisect_left(kept, position), bisect_right(kept, position)
    start = kept[before - 1] + 1 if before else span.start
    return start, kept[behind] if behind < len(kept) else span.stop


def frames_to_fill(changes: Mapping[int, ObjectChange]) -> list[int]:
    """The frames that an engine has to answer for some object, ascending."""
    return sorted({frame for change in changes.values() for frame in change.frames})


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
    hidden: Iterable[Sequence[int]] = (),
    instances: Mapping[str, str] | None = None,
    attribute_types: Mapping[str, type | None] | None = None,
    attribute_names: Iterable[str] = (),
    on_frame: OnFrame | None = None,
    only_these: bool = False,
    direction: str = BOTH,
    near: bool = False,
) -> None:
    """Fills some stretches of some objects of a segment, all of them or nothing.

    Every other label of the field stays as it is, bit for bit. New masks give way to what people drew of any object,
    not to propagated masks of objects that are not filled anew: those may be as wrong as what was corrected.

    Args:
        dataset: where to write
        sequence: the sequence
        start: first position of the segment
        stop: the position after its last
        changes: see :func:`changed_objects` and :func:`whole_objects`
        exemplars: position -> labels with an index, of all objects of the segment
        engine: what propagates; may be None where :func:`frames_to_fill` are none
        output_field: where the labels are
        absences: ``[index, position]`` where an object is known not to be
        hidden: see :func:`prompt_digests`
        instances: ids of the objects' ``fo.Instance`` by ``str(index)``
        attribute_types: see :class:`~labelprop_cvat.labels.ObjectWriter`
        attribute_names: attributes that keyframes may have lost, which propagated labels then lose as well
        on_frame: called once a frame that an engine answered
        only_these: labels that are in no stretch and not marked go from the segment, those of other objects too
        direction: :data:`BOTH`, or whether a frame is filled only from the last keyframe of its object before it
            (:data:`FORWARD`) or from the first one behind it (:data:`BACKWARD`). The label of an object goes from
            frames of its stretches that nothing reaches
        near: a frame is filled from the nearest keyframes of its object alone, and other frames are not looked at

    Raises:
        EngineError: the engine failed; the field is as it was, and the error names the frames
        DataError: the field can't be written to
    """
    span, instances = Segment(start, stop), instances or {}
    known = {**_instances_of(dataset, sequence, output_field, span, changes, exemplars, instances), **instances}
    histories = {index: found for index, found in histories_of(exemplars, known).items() if index in changes}
    tracks = {index: history.track for index, history in histories.items()}
    histories = {index: history.fitted(dataset, output_field) for index, history in histories.items()}
    marking = _Marking(
        histories,
        {index: changes[index].marked for index in histories},
        exemplars,
        frozenset(attribute_names),
    )
    replaced = {index: change.frames | change.gone for index, change in changes.items()}
    prompts = make_prompts(exemplars, sequence.size, absences)
    found: Iterator[FrameObjects] = iter(())
    spared: Mapping[int, frozenset[int]] = {}
    with ExitStack() as stack:
        writer = stack.enter_context(
            ObjectWriter(dataset, sequence, output_field, tracks, attribute_types=attribute_types)
        )
        if engine is not None and frames_to_fill(changes):
            sees = engine.spec.reads_frames
            if direction != BOTH:
                questions = _Question.one_way(changes, prompts, span, direction)
            elif sees and near:
                questions = _Question.near(changes, prompts)
            else:
                questions = [_Question.of(changes, prompts, hidden, span, sees=sees)]
            spared = questions[0].spared if questions else {}
            found = stack.enter_context(closing(_answers(questions, engine, sequence)))
        following = next(found, None)
        for position in span.frames:
            new = FrameObjects(position)
            if following is not None and following.frame == position:
                new, following = following, next(found, None)
                if on_frame is not None:
                    on_frame()
            stays = {index for index, frames in spared.items() if position in frames and index not in new.objects}
            gone = {index for index, frames in replaced.items() if position in frames} - stays
            marks = {**{index: {} for index in stays if only_these}, **marking.on(position)}
            if gone or marks or only_these:
                writer.write(
                    new,
                    gone,
                    sources=confirmed_sources(exemplars.get(position, ())),
                    attributes={index: histories[index].attributes_on(position) for index in new.objects},
                    marks=marks,
                    only_these=only_these,
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
    if missing and dataset.get_field(output_field) is not None:
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

    An engine that looks at the frames gets all prompts of the objects to be filled, from which it may learn wherever
    they are. Beyond its stretches an object is called absent at both ends of every run of frames without a prompt, so
    that nothing is done there; it also gets what people drew of other objects on those frames, which is not given away.

    One that does not look at them gets a piece of an object between hidden frames as an object of its own, with the
    prompts in it: it would take a hidden frame for a keyframe that says something of the frames beside it.

    Args:
        prompts: those
        span: the frames that the engine goes through
        parts: index and frames of what is asked for, by the number that the engine knows it by
        spared: frames on which an object's labels stay where the engine has no answer, by index: reviewers saw it
            there, behind a frame where they hid it, and some engines know no object before its first keyframe
    """

    prompts: tuple[Prompt, ...]
    span: Segment
    parts: Mapping[int, tuple[int, frozenset[int]]]
    spared: Mapping[int, frozenset[int]] = field(default_factory=dict)

    @classmethod
    def of(
        cls,
        changes: Mapping[int, ObjectChange],
        prompts: Iterable[Prompt],
        hidden: Iterable[Sequence[int]],
        span: Segment,
        *,
        sees: bool,
    ) -> _Question:
        """What to ask of a segment.

        Args:
            changes: what is to be filled, some stretch of some object at least
            prompts: of all objects of the segment
            hidden: ``[index, position]``; a prompt that shows the object there wins
            span: the segment
            sees: whether the engine looks at the frames
        """
        by_object = _by_object(prompts)
        stretches = {index: change.frames for index, change in changes.items() if change.stretches}
        if sees:
            return cls._with_surroundings(by_object, stretches)
        places: dict[int, set[int]] = {}
        for index, position in hidden:
            own = by_object.get(index, {}).get(position)
            if own is None or own.absent:
                places.setdefault(index, set()).add(position)
        given: list[Prompt] = []
        parts: dict[int, tuple[int, frozenset[int]]] = {}
        spared: dict[int, frozenset[int]] = {}
        for index, asked in stretches.items():
            for piece in _pieces(places.get(index, ()), span):
                if not asked.isdisjoint(piece.frames):
                    parts[len(parts) + 1] = index, asked.intersection(piece.frames)
                    inside = [p for frame, p in sorted(by_object.get(index, {}).items()) if frame in piece]
                    given += [replace(prompt, object_id=len(parts)) for prompt in inside]
                    if piece.start > span.start and inside:
                        before = range(piece.start, inside[0].frame)
                        spared[index] = spared.get(index, frozenset()).union(before)
        return cls(tuple(given), _around_all([prompt.frame for prompt in given], stretches), parts, spared)

    @classmethod
    def near(cls, changes: Mapping[int, ObjectChange], prompts: Iterable[Prompt]) -> list[_Question]:
        """What to ask of an engine that looks at the frames, where a few frames are wanted and soon.

        Each frame is filled from the nearest prompts of its object on both sides, and no frame is looked at beyond
        these; frames far from each other are questions of their own.
        """
        by_object = _by_object(prompts)
        wanted = {index: change.frames for index, change in changes.items() if change.stretches}
        reached = {index: _reached(by_object.get(index, ()), frames) for index, frames in wanted.items()}
        questions = []
        for piece in runs(frozenset[int]().union(*reached.values())):
            inside = {index: frames.intersection(piece.frames) for index, frames in wanted.items()}
            asked = {index: frames for index, frames in inside.items() if frames}
            known = {index: {at: own[at] for at in own if at in piece} for index, own in by_object.items()}
            passed = {index: reached[index].intersection(piece.frames) for index in asked}
            questions.append(cls._with_surroundings(known, asked, passed))
        return questions

    @classmethod
    def one_way(
        cls, changes: Mapping[int, ObjectChange], prompts: Iterable[Prompt], span: Segment, direction: str
    ) -> list[_Question]:
        """What to ask where every frame is filled from one keyframe: a question for the objects that share it."""
        by_object = _by_object(prompts)
        asked: dict[tuple[Segment, int], dict[int, frozenset[int]]] = {}
        for index, change in changes.items():
            own = by_object.get(index, {})
            for at, piece in _one_way_pieces(sorted(own), span, direction):
                wanted = change.frames.intersection(piece.frames)
                if wanted and not own[at].absent:
                    way = Segment(min(at, *wanted), max(at, *wanted) + 1)
                    asked.setdefault((way, at), {})[index] = wanted
        questions = []
        for (way, at), wanted_of in sorted(asked.items(), key=lambda item: (item[0][0].start, item[0][0].stop)):
            known = {
                index: {at: own[at]} if index in wanted_of else {place: own[place] for place in own if place in way}
                for index, own in by_object.items()
            }
            passed = dict.fromkeys(wanted_of, frozenset(way.frames))
            questions.append(cls._with_surroundings(known, wanted_of, passed))
        return questions

    @classmethod
    def _with_surroundings(
        cls,
        by_object: Mapping[int, Mapping[int, Prompt]],
        stretches: Mapping[int, frozenset[int]],
        passed: Mapping[int, frozenset[int]] | None = None,
    ) -> _Question:
        # ``passed``: where each object is followed; on its way from a prompt also over frames that nobody asks for.
        passed = stretches if passed is None else passed
        filled = {frame for frames in stretches.values() for frame in frames}
        chosen = {
            index: {frame: prompt for frame, prompt in own.items() if index in stretches or _is_drawn(prompt, filled)}
            for index, own in by_object.items()
        }
        span = _around_all([frame for own in chosen.values() for frame in own], stretches)
        given = [
            prompt
            for index, own in chosen.items()
            for prompt in (*own.values(), *(_kept_out(index, own, span, passed.get(index, ())) if own else ()))
        ]
        return cls(tuple(given), span, {index: (index, frames) for index, frames in stretches.items()})

    def answers(self, engine: Propagator, sequence: FrameSequence) -> Generator[FrameObjects, None, None]:
        """The frames of the stretches, ascending, with the objects that were asked for on them."""
        last = max(frame for _, frames in self.parts.values() for frame in frames)
        with closing(answers_of(engine, sequence, self.prompts, self.span)) as found:
            for answer in found:
                wanted = {number: index for number, (index, frames) in self.parts.items() if answer.frame in frames}
                if wanted:
                    states = {wanted[number]: state for number, state in answer.objects.items() if number in wanted}
                    yield FrameObjects(answer.frame, states)
                if answer.frame == last:
                    return


def _by_object(prompts: Iterable[Prompt]) -> dict[int, dict[int, Prompt]]:
    by_object: dict[int, dict[int, Prompt]] = {}
    for prompt in prompts:
        by_object.setdefault(prompt.object_id, {})[prompt.frame] = prompt
    return by_object


def _one_way_pieces(places: Sequence[int], span: Segment, direction: str) -> Iterator[tuple[int, Segment]]:
    """Each prompt of an object and the frames that it decides, its own included."""
    if direction == FORWARD:
        for at, following in pairwise([*places, span.stop]):
            yield at, Segment(at, following)
    else:
        for previous, at in pairwise([span.start - 1, *places]):
            yield at, Segment(previous + 1, at + 1)


def _answers(
    questions: Sequence[_Question], engine: Propagator, sequence: FrameSequence
) -> Generator[FrameObjects, None, None]:
    """The answers to several questions, one a frame, ascending; each is asked when its first frame comes up."""
    waiting = list(questions)
    with ExitStack() as stack:
        asked: list[Iterator[FrameObjects]] = []
        heads: list[FrameObjects | None] = []
        while waiting or any(head is not None for head in heads):
            starts = [head.frame for head in heads if head is not None]
            while waiting and (not starts or waiting[0].span.start <= min(starts)):
                asked.append(stack.enter_context(closing(waiting.pop(0).answers(engine, sequence))))
                heads.append(next(asked[-1], None))
                starts = [head.frame for head in heads if head is not None]
            if not starts:
                continue
            frame = min(starts)
            objects: dict[int, ObjectState] = {}
            for number, head in enumerate(heads):
                if head is not None and head.frame == frame:
                    objects |= head.objects
                    heads[number] = next(asked[number], None)
            yield FrameObjects(frame, objects)


def _reached(prompts: Iterable[int], asked: Collection[int]) -> frozenset[int]:
    """Frames that are asked for, and those between them and the nearest prompts on both sides."""
    places = sorted(prompts)
    reached = set(asked)
    for frame in asked:
        before, behind = bisect_left(places, frame), bisect_right(places, frame)
        if before:
            reached.update(range(places[before - 1], frame))
        if behind < len(places):
            reached.update(range(frame, places[behind] + 1))
    return frozenset(reached)


def runs(frames: Collection[int]) -> list[Segment]:
    """The runs of consecutive frames, ascending."""
    ordered = sorted(frames)
    starts = [frame for frame in ordered if frame - 1 not in frames]
    stops = [frame + 1 for frame in ordered if frame + 1 not in frames]
    return [Segment(start, stop) for start, stop in zip(starts, stops, strict=True)]


def _around_all(frames: Iterable[int], stretches: Mapping[int, frozenset[int]]) -> Segment:
    every = {*frames}.union(*stretches.values())
    return Segment(min(every), max(every) + 1)


def _is_drawn(prompt: Prompt, frames: Collection[int]) -> bool:
    """Whether a person drew the pixels of an object on one of some frames."""
    return prompt.kind in (PromptKind.MASK, PromptKind.POLYGON) and prompt.points is None and prompt.frame in frames


def _kept_out(index: int, own: Collection[int], span: Segment, asked: Collection[int]) -> Iterator[Prompt]:
    """Absences at both ends of every run of frames on which nobody asks for an object and no prompt shows it."""
    for is_free, run in groupby(span.frames, lambda frame: frame not in asked and frame not in own):
        frames = list(run)
        if is_free:
            for frame in sorted({frames[0], frames[-1]}):
                yield Prompt(frame, index, absent=True)


__all__ = [
    "BACKWARD",
    "BOTH",
    "DIRECTIONS",
    "FORWARD",
    "Digests",
    "ObjectChange",
    "changed_objects",
    "frames_to_fill",
    "prompt_digests",
    "refill_segment",
    "runs",
    "whole_objects",
]
