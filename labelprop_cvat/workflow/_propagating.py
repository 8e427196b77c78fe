"""Filling a field from the labels of another one, without CVAT."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import Any

import fiftyone as fo
from bson import ObjectId

from labelprop_cvat.errors import ConfigurationError, DataError
from labelprop_cvat.labels import has_region, held_instances, instance_id, read_labels
from labelprop_cvat.progress import progress_bar
from labelprop_cvat.propagation.propagator import Propagator
from labelprop_cvat.propagation.types import PromptKind, Segment
from labelprop_cvat.sequences import Sequence as FrameSequence
from labelprop_cvat.sequences import normal_field, plain_view
from labelprop_cvat.workflow._filling import checked_output_field, engine_at_work, fill_segment
from labelprop_cvat.workflow._partial import Part
from labelprop_cvat.workflow._refilling import refill_segment
from labelprop_cvat.workflow._sequences import check_segments_field, checked_sequences, temporal_segments


def propagate(
    samples: fo.core.collections.SampleCollection,
    input_field: str,
    output_field: str | None = None,
    *,
    engine: str | Propagator = "auto",
    engine_options: Mapping[str, Any] | None = None,
    direction: str = "both",
    frames: tuple[int | None, int | None] | None = None,
    tracks: Iterable[int] | None = None,
    only: Iterable[str] | None = None,
    sort_field: str | None = None,
    segments_field: str | None = None,
    segmentation: str = "auto",
    media_field: str = "filepath",
    progress: bool | None = None,
) -> int:
    """Fills a field from the labels that another field holds on some frames, without CVAT.

    Every label of ``input_field`` with an index, also where a view filters it away, is a prompt on its frame, in its
    own temporal segment. Labels of one object carry the same index. Of keypoints, which are clicks on the object or
    beside it (see :func:`~labelprop_cvat.labels.label_to_prompt`), an engine that takes points makes masks. Polygons
    become masks on every frame; polylines that are neither closed nor filled cover no pixels and are left out.

    A part of it is filled at a time with ``frames``, ``tracks`` and ``only``: then every other label of the output
    field stays as it is, bit for bit, and an engine looks at no frame beyond the nearest keyframes on both sides of
    those that are wanted, nor is one searched for cuts but these and some around them.

    Args:
        samples: images, videos, groups, clips, frames or patches
        input_field: ``Detections``, ``Polylines`` or ``Keypoints`` field with labels on some frames, with its
            ``frames.`` prefix on videos; of a frames view, the name that it has there
        output_field: where to write, ``Detections``; by default ``<input_field>_propagated``
        engine: name of an engine, or one made before
        engine_options: options of a named engine
        direction: ``"both"``; ``"forward"`` fills a frame only from the last keyframe of its object before it,
            ``"backward"`` only from the first one behind it. What that does not reach holds nothing of the object
        frames: first and last frame to fill, both inclusive and either may be None: FiftyOne's frame numbers on videos,
            places in the sequence from 1 on images
        tracks: indices of the objects to fill; all by default
        only: ids of what is to be filled, as they are selected in the App: of images these frames, of videos all of
            theirs, of frames, clips and patches views what these show, of grouped views the groups, or single images of
            them. Keyframes are read from all of ``samples``
        sort_field: what orders an image collection
        segments_field: where segments are stored; computed by ``segmentation`` where there are none
        segmentation: method that computes segments
        media_field: field with the media's paths
        progress: whether to show a progress bar; None asks FiftyOne's configuration

    Returns:
        the number of frames written

    Raises:
        ConfigurationError: the engine is not to be had, does not take points where there are points, the output field
            can't be used, or what limits the work makes no sense; nothing was written
        DataError: no label of ``input_field`` has an index, or none of those covers pixels, or what is chosen is not
            there; nothing was written
        EngineError: the engine failed; the segments before are written, the one that it names is as it was
    """
    dataset = samples._root_dataset
    input_field = normal_field(samples, input_field)
    output_field = None if output_field is None else normal_field(samples, output_field)
    target = checked_output_field(dataset, input_field, output_field)
    part = Part.of(samples, direction, frames, tracks, only)
    samples = plain_view(samples)
    with engine_at_work(engine, engine_options) as driver:
        _check_takes_points(driver, dataset, input_field)
        check_segments_field(samples, segments_field)
        work = []
        indices: set[int] = set()
        for sequence in checked_sequences(samples, sort_field, media_field, input_field, wanted=part.may_touch):
            wanted = part.positions(sequence)
            if not wanted:
                continue
            within = _around(samples, sequence, input_field, part, wanted) if part.is_piece else None
            for entry in temporal_segments(sequence, samples, segments_field, segmentation, within=within):
                if wanted.isdisjoint(entry.segment.frames):
                    continue
                exemplars = {
                    found.frame: [label for label in found.labels if _is_to_follow(label)]
                    for found in read_labels(samples, sequence, input_field, entry.segment)
                    if found.labels
                }
                known = {label.index for labels in exemplars.values() for label in labels}
                indices |= known
                if known if part.tracks is None else known & part.tracks:
                    work.append((sequence, entry.segment, exemplars, wanted.intersection(entry.segment.frames), known))
        _check_found(part, input_field, indices, bool(work))
        written = sum(len(wanted) for *_, wanted, _ in work)
        identities = _Identities(dataset, target, [(sequence, exemplars) for sequence, _, exemplars, *_ in work])
        with progress_bar(written, progress=progress) as bar:
            for sequence, span, exemplars, wanted, known in work:
                asked: dict[str, Any] = {
                    "start": span.start,
                    "stop": span.stop,
                    "exemplars": exemplars,
                    "engine": driver,
                    "output_field": target,
                    "on_frame": bar.update,
                }
                if part.is_everything:
                    fill_segment(dataset, sequence, instances=identities.of(sequence, exemplars), **asked)
                    continue
                refill_segment(
                    dataset,
                    sequence,
                    instances=identities.of(sequence, exemplars, span),
                    changes=part.changes(dataset, sequence, target, span, wanted, known),
                    direction=part.direction,
                    near=part.is_piece,
                    **asked,
                )
    return written


def _around(
    samples: fo.core.collections.SampleCollection,
    sequence: FrameSequence,
    input_field: str,
    part: Part,
    wanted: Collection[int],
) -> Segment:
    """The wanted frames and the nearest keyframes of every wanted object around them; no cut elsewhere matters."""
    first, last = min(wanted), max(wanted)
    before: dict[int, int] = {}
    behind: dict[int, int] = {}
    for found in read_labels(samples, sequence, input_field):
        for label in found.labels:
            if _is_to_follow(label) and (part.tracks is None or label.index in part.tracks):
                if found.frame <= first:
                    before[label.index] = found.frame
                if found.frame >= last:
                    behind.setdefault(label.index, found.frame)
    return Segment(min([first, *before.values()]), max([last, *behind.values()]) + 1)


class _Identities:
    """One ``fo.Instance`` for each object of a sequence, whatever number of temporal segments show it.

    Args:
        dataset: the dataset
        output_field: where propagated labels are, or will be
        work: sequences and labels by position, an entry for each segment
    """

    def __init__(
        self, dataset: fo.Dataset, output_field: str, work: Iterable[tuple[FrameSequence, Mapping[int, Any]]]
    ) -> None:
        self._dataset, self._field = dataset, output_field
        self._given: dict[str, dict[int, str]] = {}
        self._held: dict[str, dict[int, str]] = {}
        for sequence, exemplars in work:
            given = self._given.setdefault(sequence.key, {})
            for index, instance in _own_instances(exemplars).items():
                given.setdefault(index, instance)

    def of(self, sequence: FrameSequence, exemplars: Mapping[int, Any], span: Segment | None = None) -> dict[str, str]:
        """The ids for the objects of a segment that its labels give none, by ``str(index)``.

        Args:
            sequence: the sequence
            exemplars: the segment's labels by position
            span: the segment, where propagated labels stay in it whose ids are to be gone on with
        """
        own = _own_instances(exemplars)
        missing = {label.index for labels in exemplars.values() for label in labels} - own.keys()
        if not missing:
            return {}
        if sequence.key not in self._held:
            self._held[sequence.key] = held_instances(self._dataset, sequence, self._field)
        given, held = self._given.setdefault(sequence.key, {}), self._held[sequence.key]
        beside = {} if span is None else held_instances(self._dataset, sequence, self._field, span)
        for index in missing:
            given.setdefault(index, held.get(index) or str(ObjectId()))
        return {str(index): beside.get(index) or given[index] for index in missing}


def _own_instances(exemplars: Mapping[int, Any]) -> dict[int, str]:
    found: dict[int, str] = {}
    for position in sorted(exemplars):
        for label in exemplars[position]:
            instance = instance_id(label)
            if instance is not None:
                found.setdefault(label.index, instance)
    return found


def _check_found(part: Part, input_field: str, indices: Collection[int], is_any: bool) -> None:
    """Raises a sentence where nothing is to be propagated, or not all that was asked for."""
    if not indices and part.is_everything:
        raise DataError(
            f"No label of {input_field!r} in this view has an index, so there is nothing to propagate. Give the "
            f"labels of one object the same index, from 1; polygons also need closed=True or filled=True."
        )
    if not indices:
        raise DataError(
            f"No label of {input_field!r} with an index lies in the temporal segments of the frames that are to be "
            f"filled. Draw the object on one frame of each, or choose other frames."
        )
    missing = sorted((part.tracks or set()) - set(indices))
    if missing or not is_any:
        there = ", ".join(map(str, sorted(indices)))
        raise DataError(
            f"There is no track {', '.join(map(str, missing))} in {input_field!r}, in the temporal segments of the "
            f"frames that are to be filled; there are: {there}. A track is the index of an object's labels."
        )


def _is_to_follow(label: fo.Label) -> bool:
    if isinstance(label, fo.Polyline) and not has_region(label):
        return False
    return label.index is not None and label.index >= 1


def _check_takes_points(engine: Propagator, dataset: fo.Dataset, input_field: str) -> None:
    held = getattr(dataset.get_field(input_field), "document_type", None)
    if held is fo.Keypoints and PromptKind.POINTS not in engine.spec.accepts:
        taken = ", ".join(sorted(kind.value for kind in engine.spec.accepts))
        raise ConfigurationError(
            f"{input_field!r} holds points, and the engine {engine.spec.name!r} takes {taken}. Pass engine='sam2', "
            f"which makes masks of points."
        )


__all__ = ["propagate"]
