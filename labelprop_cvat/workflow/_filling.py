"""The driver of the propagation engines."""

from __future__ import annotations

import hashlib
import logging
from bisect import bisect_right
from collections import Counter
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from typing import Any

import fiftyone as fo
import numpy as np
from bson import ObjectId

from labelprop_cvat.errors import ConfigurationError, EngineError, LabelPropError
from labelprop_cvat.labels import (
    SOURCE_REVIEWED,
    SegmentWriter,
    Track,
    has_points,
    instance_id,
    label_to_prompt,
)
from labelprop_cvat.progress import pulse
from labelprop_cvat.propagation.frames import FrameSource, Image
from labelprop_cvat.propagation.propagator import Propagator, get_propagator
from labelprop_cvat.propagation.types import FrameObjects, Prompt, Segment
from labelprop_cvat.sequences import Sequence as FrameSequence
from labelprop_cvat.sequences import (
    every_sample,
)

logger = logging.getLogger(__name__)

OUTPUT_SUFFIX = "_propagated"

OnFrame = Callable[[], Any]


def checked_output_field(dataset: fo.Dataset, label_field: str, output_field: str | None) -> str:
    """The field that propagated labels go to.

    Args:
        dataset: where it is
        label_field: the field with people's labels
        output_field: what was asked for; None means ``<label_field>_propagated``

    Raises:
        ConfigurationError: it is the label field itself, on the other level (sample or frame), of another type, or it
            holds labels that this package did not write
    """
    name = output_field or f"{label_field}{OUTPUT_SUFFIX}"
    if name == label_field:
        raise ConfigurationError(
            f"Propagated labels never go into the field that people annotate, got output_field={name!r}. Name another."
        )
    if name.startswith("frames.") is not label_field.startswith("frames."):
        raise ConfigurationError(
            f'output_field={name!r} and label_field={label_field!r} must both be frame-level ("frames.") or both not.'
        )
    plain = name.removeprefix("frames.")
    if not plain or plain.startswith(("_", "$")) or "." in plain or "\0" in plain:
        raise ConfigurationError(
            f"Propagated labels need a field of their own, whose name has no dot and does not start with an "
            f"underscore or a dollar sign, got output_field={name!r}."
        )
    if dataset.get_field(name) is None:
        return name
    kind = getattr(dataset.get_field(name), "document_type", None)
    if kind is not fo.Detections:
        raise ConfigurationError(
            f"The field {name!r} exists and is no Detections field. Pass another name as output_field."
        )
    every = every_sample(dataset, "video" if name.startswith("frames.") else "image")
    if dataset.get_field(f"{name}.detections.source") is None:
        held = every.count(f"{name}.detections")
    else:
        held = every.filter_labels(name, ~fo.ViewField("source").exists()).count(f"{name}.detections")
    if held:
        raise ConfigurationError(
            f"The field {name!r} holds {held} labels that were not propagated by this package; they would be "
            f"overwritten. Pass another name as output_field."
        )
    return name


def make_prompts(
    exemplars: Mapping[int, Sequence[fo.Label]], size: tuple[int, int], absences: Iterable[Sequence[int]] = ()
) -> list[Prompt]:
    """Labels on exemplars as prompts.

    Args:
        exemplars: position -> labels; those without an index are left out, they belong to no object, and so are
            keypoints whose points are all NaN
        size: ``(height, width)`` of the frames
        absences: ``[index, position]`` where an object is known not to be; a label at the same place wins
    """
    prompts = {}
    for position, labels in exemplars.items():
        for label in labels:
            if isinstance(label, fo.Keypoint) and not has_points(label):
                continue
            if label.index is not None and label.index >= 1:
                prompts[position, label.index] = label_to_prompt(
                    label, frame=position, object_id=label.index, size=size
                )
    for index, position in absences:
        prompts.setdefault((position, index), Prompt(frame=position, object_id=index, absent=True))
    return [prompts[key] for key in sorted(prompts)]


def prompts_signature(prompts: Iterable[Prompt], exemplars: Mapping[int, Sequence[fo.Label]], engine: str) -> str:
    """Names everything that propagated labels are made from; it changes when they would."""
    digest = hashlib.sha256(engine.encode())
    for prompt in prompts:
        digest.update(repr((prompt.frame, prompt.object_id, prompt.box, prompt.polygon, prompt.absent)).encode())
        if prompt.mask is not None:
            digest.update(repr(prompt.mask.box).encode())
            digest.update(np.packbits(prompt.mask.crop).tobytes())
        # Only where there are some: what is made from masks and boxes keeps the name it has in earlier ledgers.
        if prompt.points is not None:
            digest.update(repr((prompt.points, prompt.point_labels)).encode())
    for position, labels in exemplars.items():
        for label in labels:
            digest.update(
                repr((position, label.index, label.label, sorted(carried_attributes(label).items()))).encode()
            )
    return digest.hexdigest()


_NOT_CARRIED = frozenset(
    {"bounding_box", "closed", "confidence", "exemplar_frames", "filled", "id", "index", "instance", "keyframe",
     "label", "mask", "mask_path", "pass_agreement", "points", "source", "tags"}
)  # fmt: skip


# What evaluations write to a label, FiftyOne's own and ours: how it did, by the end of the name after their key.
_EVALUATED = ("", "_id", "_iou", "_j", "_f", "_box_iou")


def carried_attributes(label: fo.Label) -> dict[str, Any]:
    """The attributes of a keyframe that propagated labels of its object get as well."""
    values = {name: value for name, value in label.iter_fields() if name not in _NOT_CARRIED and value is not None}
    said = {name: value for name, value in values.items() if isinstance(value, str)}
    keys = [name for name, value in said.items() if value in ("tp", "fp", "fn") and f"{name}_id" in said]
    for name in (f"{key}{end}" for key in keys for end in _EVALUATED):
        values.pop(name, None)
    if isinstance(label, fo.Keypoint):
        # Lists say something of each point, which is no attribute of the object.
        return {name: value for name, value in values.items() if not isinstance(value, list)}
    return values


def _fitted(values: Mapping[str, Any], dataset: fo.Dataset, output_field: str) -> dict[str, Any]:
    fitted = {}
    for name, value in values.items():
        declared = dataset.get_field(f"{output_field}.detections.{name}")
        try:
            if isinstance(declared, fo.StringField):
                value = str(value)
            elif isinstance(declared, fo.FloatField) and not isinstance(value, bool):
                value = float(value)
            elif declared is not None:
                declared.validate(value)
        except Exception:
            logger.warning(
                "The value %r of the attribute %r does not fit into %s, which holds %s there; it is left out.",
                value,
                name,
                output_field,
                type(declared).__name__,
            )
            continue
        fitted[name] = value
    return fitted


@dataclass(frozen=True)
class ObjectHistory:
    """What the keyframes of one object say beside its geometry; ``attributes`` are those of each, by position."""

    track: Track
    attributes: tuple[tuple[int, Mapping[str, Any]], ...]

    def fitted(self, dataset: fo.Dataset, output_field: str) -> ObjectHistory:
        """The same with values as the output field declares them; what does not fit is left out, with a warning."""
        return replace(
            self, attributes=tuple((at, _fitted(values, dataset, output_field)) for at, values in self.attributes)
        )

    def attributes_on(self, position: int) -> Mapping[str, Any]:
        """The values of the last keyframe up to ``position``, or of the first one after it."""
        place = bisect_right([at for at, _ in self.attributes], position)
        return self.attributes[max(0, place - 1)][1]


def histories_of(exemplars: Mapping[int, Sequence[fo.Label]], instances: Mapping[str, str]) -> dict[int, ObjectHistory]:
    """What the keyframes of each object say beside its geometry; ``instances`` go over those of the labels."""
    entries: dict[int, list[tuple[int, fo.Detection]]] = {}
    for position in sorted(exemplars):
        for label in exemplars[position]:
            if label.index is not None and label.index >= 1:
                entries.setdefault(label.index, []).append((position, label))
    histories = {}
    for index, labels in entries.items():
        own = next((known for _, label in labels if (known := instance_id(label)) is not None), None)
        instance = instances.get(str(index)) or own or str(ObjectId())
        # One class per object: the one that most of its keyframes say.
        name = Counter(label.label for _, label in labels).most_common(1)[0][0]
        histories[index] = ObjectHistory(
            Track(label=name, index=index, instance=fo.Instance(id=instance)),
            tuple((position, carried_attributes(label)) for position, label in labels),
        )
    return histories


@contextmanager
def engine_at_work(engine: str | Propagator, options: Mapping[str, Any] | None = None) -> Iterator[Propagator]:
    """An engine for as long as it is needed: one that is made here is let go of at the end.

    Args:
        engine: name of an engine, or one made before, which is left as it is
        options: options of a named engine

    Raises:
        ConfigurationError: there is no such engine, or it does not take these options
    """
    if not isinstance(engine, str):
        yield engine
        return
    made = get_propagator(engine, **(options or {}))
    try:
        yield made
    finally:
        close = getattr(made, "close", None)
        if close is not None:
            close()


def warn_if_not_ready(engine: Propagator) -> None:
    """Warns where an engine says, by its method ``missing()``, that something is not on this machine yet.

    For callers that need the engine only after people have worked for hours.
    """
    missing = getattr(engine, "missing", None)
    said = None if missing is None else missing()
    if said:
        logger.warning("The engine %r could not fill frames here and now: %s", engine.spec.name, said)


class _WatchedSource:
    """Frames of a source; with each that is read, whoever watches the work may end it."""

    def __init__(self, source: FrameSource, tell: Callable[[], None]) -> None:
        self._source, self._tell = source, tell

    @property
    def size(self) -> tuple[int, int]:
        return self._source.size

    def __len__(self) -> int:
        return len(self._source)

    def __getitem__(self, index: int) -> Image:
        self._tell()
        return self._source[index]

    def read(self, start: int, stop: int, step: int = 1) -> Iterator[tuple[int, Image]]:
        for index, image in self._source.read(start, stop, step):
            self._tell()
            yield index, image


def _watched(source: FrameSource) -> FrameSource:
    """A source as engines get it: many read long before they give a first answer, and may be stopped there too."""
    tell = pulse()
    return source if tell is None else _WatchedSource(source, tell)


def answers_of(
    engine: Propagator, sequence: FrameSequence, prompts: Sequence[Prompt], span: Segment
) -> Generator[FrameObjects, None, None]:
    """What an engine says, frame by frame; where it fails, the error says on which frames."""
    place = (
        f"That was on the frames {span.start}..{span.stop - 1} of {sequence.name!r} (counted from 0), which are as "
        f"they were."
    )
    try:
        yield from engine.propagate(_watched(sequence.source), prompts, span)
    except EngineError as error:
        raise EngineError(f"{error} {place}") from error
    except LabelPropError:
        raise
    except Exception as error:
        raise EngineError(
            f"The engine {engine.spec.name!r} failed: {type(error).__name__}: {error}. {place}"
        ) from error


def confirmed_sources(labels: Iterable[fo.Label]) -> dict[int, str]:
    """The ``source`` of those labels of a frame that a person confirmed as they were, by index."""
    return {
        label.index: SOURCE_REVIEWED
        for label in labels
        if label.index is not None and label.get_attribute_value("source", None) == SOURCE_REVIEWED
    }


def fill_segment(
    dataset: fo.Dataset,
    sequence: FrameSequence,
    *,
    start: int,
    stop: int,
    exemplars: Mapping[int, Sequence[fo.Label]],
    engine: Propagator,
    output_field: str,
    absences: Iterable[Sequence[int]] = (),
    instances: Mapping[str, str] | None = None,
    attribute_types: Mapping[str, type | None] | None = None,
    on_frame: OnFrame | None = None,
) -> None:
    """Propagates one temporal segment and writes it, all of it or nothing.

    Args:
        dataset: where to write
        sequence: the sequence
        start: first position of the segment
        stop: the position after its last
        exemplars: position -> labels with an index, all within the segment
        engine: what propagates
        output_field: where the labels go; replaced on the frames of the segment, untouched elsewhere
        absences: ``[index, position]`` where an object is known not to be
        instances: ids of the objects' ``fo.Instance`` by ``str(index)``
        attribute_types: see :class:`~labelprop_cvat.labels.SegmentWriter`
        on_frame: called once a frame

    Raises:
        EngineError: the engine failed; the field is as it was, and the error names the frames
    """
    prompts = make_prompts(exemplars, sequence.size, absences)
    histories = histories_of(exemplars, instances or {})
    prompts = [prompt for prompt in prompts if prompt.object_id in histories]
    span = Segment(start, stop)
    tracks = {index: history.track for index, history in histories.items()}
    histories = {index: history.fitted(dataset, output_field) for index, history in histories.items()}
    with (
        SegmentWriter(dataset, sequence, output_field, span, tracks, attribute_types=attribute_types) as writer,
        closing(answers_of(engine, sequence, prompts, span)) as answers,
    ):
        for frame in answers:
            attributes = {index: histories[index].attributes_on(frame.frame) for index in frame.objects}
            writer.write(frame, sources=confirmed_sources(exemplars.get(frame.frame, ())), attributes=attributes)
            if on_frame is not None:
                on_frame()
        writer.commit()
