"""FiftyOne's labels and the propagation package's plain types, and the way to write and read them frame by frame.

Coordinates: FiftyOne keeps ``bounding_box = [x, y, width, height]`` relative to the image and a mask that fills that
box; the propagation package keeps pixels, right and bottom exclusive. Sizes are ``(height, width)`` in pixels. Going
there and back keeps every mask pixel, and boxes to a millionth of a pixel.
"""

from __future__ import annotations

import logging
import math
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from collections.abc import Sequence as Items
from dataclasses import dataclass, field, replace
from datetime import datetime, timezone
from types import MappingProxyType, TracebackType
from typing import IO, Any, TypeVar

import bson
import cv2
import fiftyone as fo
import fiftyone.core.media as fom
import fiftyone.core.odm as foo
import numpy as np
import numpy.typing as npt
from pymongo import DeleteMany, InsertOne, UpdateOne

from labelprop_cvat.errors import DataError
from labelprop_cvat.propagation.types import (
    Box,
    FrameObjects,
    ObjectMask,
    ObjectState,
    Point,
    Prompt,
    Segment,
    rasterize,
)
from labelprop_cvat.sequences import FrameRef, Sequence

logger = logging.getLogger(__name__)

Progress = Callable[[int, int], None]

SOURCE_MANUAL = "manual"
SOURCE_PROPAGATED = "propagated"
SOURCE_REVIEWED = "reviewed"

#: Attributes of keypoints that say for each point whether it is on the object; the first that is there counts.
CLICK_LABELS = ("sam_labels", "sam2_labels")

_NO_MARKS = frozenset(
    {"_cls", "_id", "bounding_box", "id", "index", "mask", "mask_path", "tags"}
)  # fmt: skip
_FRAMES_PREFIX = "frames."
_BATCH_FRAMES = 100
_BATCH_BYTES = 8 * 2**20
# CVAT's and most image formats' limit, pixels.
_LARGEST_MASK = 65535

_PIXEL_DECIMALS = 6


def mask_to_detection(mask: ObjectMask, size: tuple[int, int]) -> tuple[list[float], npt.NDArray[np.bool_]] | None:
    """Turns a mask into what a ``fo.Detection`` holds.

    The relative numbers are chosen so that FiftyOne, which cuts fractions of pixels off, draws the mask where it is.

    Args:
        mask: what lies outside the frame is cut off
        size: ``(height, width)`` of the frame

    Returns:
        ``bounding_box`` and ``mask``, array of shape ``(h, w)``, bool; None when no pixel lies inside the frame
    """
    height, width = size
    x1, y1, x2, y2 = mask.box
    if x2 > width or y2 > height:
        inside = ObjectMask.from_crop(mask.x, mask.y, mask.crop[: max(0, height - y1), : max(0, width - x1)])
        return None if inside is None else mask_to_detection(inside, size)
    x, w = _relative(x1, x2, width)
    y, h = _relative(y1, y2, height)
    return [x, y, w, h], mask.crop


def detection_to_mask(label: fo.Detection, size: tuple[int, int]) -> ObjectMask | None:
    """Reads the pixels of a label with ``mask`` or ``mask_path``.

    A mask that does not have the size of its box in pixels, give or take one, is scaled to it.

    Returns:
        the mask, what lies outside the frame cut off; None when the label has no mask or no pixel is set

    Raises:
        DataError: the mask's file cannot be read, or the box is not four numbers or is far larger than any image
    """
    if not label.has_mask:
        return None
    try:
        crop = np.asarray(label.get_mask())
    except Exception as error:
        raise DataError(
            f"Cannot read the mask {label.mask_path} of the label {label.id}: {error}. Restore the file, or delete the "
            f"label."
        ) from error
    if not crop.size:
        return None
    crop = (crop if crop.ndim == 2 else crop.any(axis=-1)) != 0
    height, width = size
    x, y, w, h = _checked_box(label)
    left, top = round(x * width), round(y * height)
    columns, rows = round((x + w) * width) - left, round((y + h) * height) - top
    if max(columns, rows) > _LARGEST_MASK:
        raise DataError(
            f"The mask of the label {label.id} ({label.label}) is {columns} x {rows} pixels, expected at most "
            f"{_LARGEST_MASK} each way. Correct its bounding_box, which is relative to the image, or delete it."
        )
    if abs(crop.shape[0] - rows) > 1 or abs(crop.shape[1] - columns) > 1:
        scaled = cv2.resize(
            crop.astype(np.uint8), (max(1, columns), max(1, rows)), interpolation=cv2.INTER_NEAREST_EXACT
        )
        crop = scaled != 0
    crop = crop[max(0, -top) : max(0, height - top), max(0, -left) : max(0, width - left)]
    return ObjectMask.from_crop(max(0, left), max(0, top), crop)


def box_to_detection(box: Box, size: tuple[int, int]) -> list[float]:
    """Turns ``(x1, y1, x2, y2)`` in pixels into FiftyOne's relative ``[x, y, width, height]``."""
    height, width = size
    x1, y1, x2, y2 = box
    return [x1 / width, y1 / height, (x2 - x1) / width, (y2 - y1) / height]


def detection_to_box(label: fo.Detection, size: tuple[int, int]) -> Box:
    """Reads a label's box as ``(x1, y1, x2, y2)`` in pixels, right and bottom exclusive.

    Raises:
        DataError: the box is not four finite numbers with a positive width and height
    """
    height, width = size
    x, y, w, h = _checked_box(label)
    edges = (x * width, y * height, (x + w) * width, (y + h) * height)
    x1, y1, x2, y2 = (round(edge, _PIXEL_DECIMALS) for edge in edges)
    return x1, y1, x2, y2


def label_to_prompt(
    label: fo.Detection | fo.Polyline | fo.Keypoint, *, frame: int, object_id: int, size: tuple[int, int]
) -> Prompt:
    """Makes a prompt of an annotated label.

    A polygon is one (rings of fewer than three points are left out), and so are keypoints; a detection gives its mask
    when it has one with pixels, else its box. What keypoints say is in their attribute ``sam_labels``, as for the SAM 2
    models of FiftyOne's zoo: one of 1 (on the object) or 0 (not on it) a point; without it all points are on the
    object. Points that are NaN are left out.

    Args:
        label: the annotation; keypoints need at least one point that is not NaN, see :func:`has_points`
        frame: 0-based position in the sequence
        object_id: the object's number, from 1
        size: ``(height, width)`` of the frame

    Raises:
        DataError: the label's mask cannot be read, its box is malformed, or its points and their labels do not fit
    """
    if isinstance(label, fo.Keypoint):
        points, labels = _clicks(label, size)
        return Prompt(frame, object_id, points=points, point_labels=labels)
    if isinstance(label, fo.Polyline):
        height, width = size
        rings = tuple(tuple((x * width, y * height) for x, y in ring) for ring in label.points if len(ring) > 2)
        return Prompt(frame, object_id, polygon=rings)
    mask = detection_to_mask(label, size)
    if mask is not None:
        return Prompt(frame, object_id, mask=mask)
    return Prompt(frame, object_id, box=detection_to_box(label, size))


def has_region(label: fo.Polyline) -> bool:
    """Whether a polyline bounds a region: it is closed or filled, and has an outline of three points or more."""
    return bool(label.closed or label.filled) and any(len(ring) > 2 for ring in label.points or ())


def has_points(label: fo.Keypoint) -> bool:
    """Whether keypoints have a point that is not NaN, which is how FiftyOne writes points that are not there."""
    return any(_is_there(point) for point in label.points or ())


def _is_there(point: Items[float]) -> bool:
    return not any(math.isnan(value) for value in point)


def _clicks(label: fo.Keypoint, size: tuple[int, int]) -> tuple[tuple[Point, ...], tuple[int, ...]]:
    """The points that are there, in pixels, and what each of them says."""
    height, width = size
    points = label.points or []
    given = next((said for name in CLICK_LABELS if (said := label.get_attribute_value(name, None)) is not None), None)
    said = [1] * len(points) if given is None else list(given)
    if len(said) != len(points) or any(value not in (0, 1) for value in said):
        raise DataError(
            f"The keypoints {label.id} ({label.label}) have {len(points)} points and {CLICK_LABELS[0]}={said!r}, "
            f"expected one of 1 (on the object) or 0 (not on it) a point. Correct it, or take it away where all points "
            f"are on the object."
        )
    kept = [(point, int(value)) for point, value in zip(points, said, strict=True) if _is_there(point)]
    return tuple((x * width, y * height) for (x, y), _ in kept), tuple(value for _, value in kept)


def state_to_detection(
    state: ObjectState,
    *,
    label: str | None,
    index: int,
    instance: fo.Instance | None,
    size: tuple[int, int],
    source: str,
    attributes: Mapping[str, Any] | None = None,
) -> fo.Detection:
    """Makes the label of one object on one frame, with its provenance.

    A state with a box becomes a box; without one, its mask, or its polygon filled, becomes an instance mask.

    Args:
        state: where the object is
        label: class name
        index: number of the track, from 1
        instance: the track's own, shared by all its labels
        size: ``(height, width)`` of the frame
        source: ``"manual"``, ``"propagated"`` or ``"reviewed"``
        attributes: further attributes; provenance wins where names are the same

    Raises:
        DataError: the object lies outside the frame
    """
    geometry: dict[str, Any] = {}
    if state.box is not None:
        geometry["bounding_box"] = box_to_detection(state.box, size)
    else:
        mask = state.mask if state.mask is not None else rasterize(state.polygon or (), size)
        placed = None if mask is None else mask_to_detection(mask, size)
        if placed is None:
            raise DataError(
                f"The object {index} ({label}) has no pixel inside the frame of {size[1]}x{size[0]} pixels; leave it "
                f"out of frames on which it is not visible."
            )
        geometry["bounding_box"], geometry["mask"] = placed
    detection = fo.Detection(
        label=label,
        index=index,
        confidence=float(state.confidence),
        **geometry,
        **{
            **(attributes or {}),
            "source": source,
            "keyframe": state.keyframe,
            "pass_agreement": None if state.agreement is None else float(state.agreement),
            "exemplar_frames": [int(frame) for frame in state.exemplar_frames],
        },
    )
    if instance is not None:
        detection.instance = instance
    return detection


def instance_id(label: fo.Detection) -> str | None:
    """The id of the ``fo.Instance`` that a label belongs to; None when it belongs to none."""
    instance = label.get_attribute_value("instance", None)
    return None if instance is None else str(instance.id)


def held_instances(
    dataset: fo.Dataset, sequence: Sequence, label_field: str, frames: Segment | None = None
) -> dict[int, str]:
    """The ids of the ``fo.Instance`` of each object that a ``Detections`` field shows in a sequence, by index.

    Of an object with several, the first; empty where there is no such field.

    Args:
        dataset: the dataset
        sequence: the sequence
        label_field: see :func:`read_labels`
        frames: only on these frames
    """
    store = _FieldStore(dataset, sequence, label_field)
    if dataset.get_field(store.path) is None:
        return {}
    positions = list(range(len(sequence)) if frames is None else frames.frames)
    found: dict[int, str] = {}
    for start in range(0, len(positions), _BATCH_FRAMES):
        for document in store.fetch(positions[start : start + _BATCH_FRAMES], ("index", "instance._id")):
            for label in (store.value(document) or {}).get("detections") or ():
                instance = (label.get("instance") or {}).get("_id")
                if instance is not None and label.get("index") is not None:
                    found.setdefault(label["index"], str(instance))
    return found


def detection_to_state(label: fo.Detection, *, size: tuple[int, int]) -> ObjectState:
    """Reads back what :func:`state_to_detection` wrote; labels of other origin count as propagated with certainty.

    ``exemplar_frames`` are those of the label, which :class:`SegmentWriter` gives as frame numbers on videos.

    Raises:
        DataError: the label's mask cannot be read or its box is malformed
    """
    mask = detection_to_mask(label, size)
    return ObjectState(
        mask=mask,
        box=detection_to_box(label, size) if mask is None else None,
        confidence=1.0 if label.confidence is None else min(1.0, max(0.0, float(label.confidence))),
        exemplar_frames=tuple(label.get_attribute_value("exemplar_frames", None) or ()),
        keyframe=bool(label.get_attribute_value("keyframe", False)),
        agreement=label.get_attribute_value("pass_agreement", None),
    )


def _with_positions(state: ObjectState, sequence: Sequence) -> ObjectState:
    """The state with positions for the frame numbers that labels of videos name; of frames of another view, without."""
    if sequence.media_type != fom.VIDEO or not state.exemplar_frames:
        return state
    refs = (FrameRef(sequence.sample_ids[0], number) for number in state.exemplar_frames)
    return replace(state, exemplar_frames=tuple(sequence.position(ref) for ref in refs if sequence.holds(ref)))


@dataclass(frozen=True)
class Track:
    """What all labels of one object in one sequence have in common.

    Args:
        label: class name
        index: number of the track, from 1, unique in its sequence
        instance: shared by all its labels
        attributes: values that hold on every frame
    """

    label: str | None
    index: int
    instance: fo.Instance = field(default_factory=fo.Instance)
    attributes: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if int(self.index) != self.index or self.index < 1:
            raise DataError(f"The index of a track counts from 1, got {self.index!r}.")
        object.__setattr__(self, "attributes", MappingProxyType(dict(self.attributes)))


@dataclass(frozen=True)
class FrameLabels:
    """The stored labels of one frame.

    Args:
        frame: 0-based position in the sequence
        labels: as FiftyOne keeps them, in their order
    """

    frame: int
    labels: tuple[fo.Detection | fo.Polyline | fo.Keypoint, ...]

    def tracked(self) -> dict[int, fo.Detection]:
        """The labels that have an index, by index; the first one where several share it."""
        found: dict[int, fo.Detection] = {}
        for label in self.labels:
            if label.index is not None:
                found.setdefault(int(label.index), label)
        return found


def read_labels(
    samples: fo.core.collections.SampleCollection,
    sequence: Sequence,
    label_field: str,
    frames: Segment | Iterable[int] | None = None,
) -> Iterator[FrameLabels]:
    """Reads the labels of a sequence in bounded memory: all that are stored, whatever a view filters away.

    Args:
        samples: the collection that the sequence was made of
        sequence: one of :func:`~labelprop_cvat.sequences.sequences_of`
        label_field: a field of ``fo.Detections``, ``fo.Polylines`` or ``fo.Keypoints``; of videos the frame field, with
            or without ``frames.``
        frames: 0-based positions, all when left out

    Yields:
        every asked frame in the order asked, without labels where there are none

    Raises:
        DataError: the field does not exist or has another type
    """
    return _labels(samples, sequence, label_field, frames, (fo.Detections, fo.Polylines, fo.Keypoints))


def _labels(
    samples: fo.core.collections.SampleCollection,
    sequence: Sequence,
    label_field: str,
    frames: Segment | Iterable[int] | None,
    kinds: tuple[type[fo.Label], ...],
) -> Iterator[FrameLabels]:
    store = _FieldStore(samples._root_dataset, sequence, label_field)
    kind = store.check(must_exist=True, kinds=kinds)
    if frames is None:
        frames = range(len(sequence))
    return _read(store, kind, list(frames.frames if isinstance(frames, Segment) else frames))


def _read(store: _FieldStore, kind: Any, positions: list[int]) -> Iterator[FrameLabels]:
    for start in range(0, len(positions), _BATCH_FRAMES):
        batch = positions[start : start + _BATCH_FRAMES]
        for position, document in zip(batch, store.fetch(batch), strict=True):
            value = store.value(document)
            labels = kind.from_dict(value)[kind._LABEL_LIST_FIELD] if value else ()
            yield FrameLabels(position, tuple(labels))


def read_states(
    samples: fo.core.collections.SampleCollection,
    sequence: Sequence,
    label_field: str,
    segment: Segment | Iterable[int] | None = None,
) -> Iterator[tuple[FrameObjects, dict[int, fo.Detection]]]:
    """Like :func:`read_labels` of ``fo.Detections``, as the propagation package sees it.

    Yields:
        per frame the states by index, and the labels they were read from by index; labels without an index are left
        out
    """
    size = sequence.size
    for entry in _labels(samples, sequence, label_field, segment, (fo.Detections,)):
        labels = entry.tracked()
        states = {
            index: _with_positions(detection_to_state(label, size=size), sequence) for index, label in labels.items()
        }
        yield FrameObjects(entry.frame, states), labels


_Writer = TypeVar("_Writer", bound="_FrameWriter")


class _FrameWriter:
    """Collects what is to become of frames in a temporary file, and then does it to all of them or to none.

    Memory does not grow with the frames; nothing reaches the dataset before the end. Then frames are written in
    batches: images into their samples, videos into their frames, which are created where they do not exist yet. When a
    write fails, or the process is interrupted, everything written so far is put back as it was.
    """

    def __init__(
        self,
        samples: fo.core.collections.SampleCollection,
        sequence: Sequence,
        output_field: str,
        tracks: Mapping[int, Track] | None,
        attribute_types: Mapping[str, type | None] | None,
        *,
        must_exist: bool = False,
    ) -> None:
        self._store = _FieldStore(samples._root_dataset, sequence, output_field)
        if must_exist:
            self._store.check(must_exist=True)
        self._store.check(must_exist=False)
        self._sequence = sequence
        self._tracks = dict(tracks or {})
        self._attributes: dict[str, Any] = {}
        self._attribute_types = dict(attribute_types or {})
        self._spool: IO[bytes] | None = tempfile.TemporaryFile(prefix="labelprop-")  # noqa: SIM115

    def __enter__(self: _Writer) -> _Writer:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Throws away what was collected and not committed."""
        if self._spool is not None:
            self._spool.close()
            self._spool = None

    def _open_spool(self) -> IO[bytes]:
        if self._spool is None:
            raise DataError("This writer was closed; make a new one to write the frames again.")
        return self._spool

    def _detections(
        self,
        objects: FrameObjects,
        sources: Mapping[int, str] | None,
        attributes: Mapping[int, Mapping[str, Any]] | None,
    ) -> list[fo.Detection]:
        """The labels of one frame as an engine gave it."""
        detections = []
        for object_id, state in sorted(objects.objects.items()):
            track = self._tracks.get(object_id)
            if track is None:
                raise DataError(f"There is no track for the object {object_id} on frame {objects.frame}.")
            usual = SOURCE_MANUAL if state.keyframe else SOURCE_PROPAGATED
            detections.append(
                state_to_detection(
                    replace(state, exemplar_frames=tuple(self._number(at) for at in state.exemplar_frames)),
                    label=track.label,
                    index=track.index,
                    instance=track.instance,
                    size=self._sequence.size,
                    source=(sources or {}).get(object_id, usual),
                    attributes={**track.attributes, **(attributes or {}).get(object_id, {})},
                )
            )
        return detections

    def _number(self, position: int) -> int:
        """What a label calls a frame: FiftyOne's number of it in a video, and the position in a sequence of images."""
        frames = self._sequence.frames
        number = frames[position].frame_number if position < len(frames) else None
        return position if number is None else number

    def _stored(self, frame: int, labels: Items[fo.Detection]) -> dict[str, Any]:
        """The value of the field that holds some labels, as the database keeps it; notes their attributes."""
        for label in labels:
            for name, value in label.iter_attributes():
                _note(self._attributes, name, value)
        try:
            stored: dict[str, Any] = fo.Detections(detections=list(labels)).to_dict()
        except (TypeError, ValueError) as error:
            raise _not_kept(frame, error) from error
        return stored

    def _collect(self, frame: int, **entry: Any) -> None:
        try:
            data = bson.encode({"frame": frame, **entry})
        except (TypeError, ValueError, bson.errors.BSONError) as error:
            raise _not_kept(frame, error) from error
        self._open_spool().write(data)

    def _become(self, entry: dict[str, Any], before: dict[str, Any] | None) -> dict[str, Any] | None:
        """What the field of one frame holds afterwards; ``before`` itself where it stays as it is.

        Args:
            entry: as collected; may be changed
            before: what it holds now; None for nothing. Never changed
        """
        raise NotImplementedError

    def _commit(self, total: int, progress: Progress | None) -> None:
        spool = self._open_spool()
        spool.seek(0)
        with tempfile.TemporaryFile(prefix="labelprop-") as backup:
            created = self._store.prepare(self._attributes, self._attribute_types)
            try:
                self._replace(spool, backup, total, progress)
            except BaseException:
                self._restore(backup, created)
                raise
        self.close()

    def _replace(self, spool: IO[bytes], backup: IO[bytes], total: int, progress: Progress | None) -> None:
        done = 0
        for batch in _spooled_batches(spool):
            done += len(batch)
            found = self._store.fetch([entry["frame"] for entry in batch])
            changes = []
            for entry, document in zip(batch, found, strict=True):
                held = self._store.value(document)
                value = self._become(entry, held)
                if value is not held and value is not None:
                    changes.append((entry["frame"], document, value))
            for position, document, _ in changes:
                backup.write(bson.encode({"frame": position, "before": document}))
            if changes:
                positions, before, values = zip(*changes, strict=True)
                self._store.put(positions, before, values)
            if progress is not None:
                progress(done, total)

    def _restore(self, backup: IO[bytes], field_created: bool) -> None:
        logger.warning("Writing %s failed; putting back what was there.", self._store)
        backup.seek(0)
        for batch in _spooled_batches(backup):
            self._store.put_back([entry["frame"] for entry in batch], [entry["before"] for entry in batch])
        if field_created:
            self._store.remove()


def _not_kept(frame: int, error: Exception) -> DataError:
    return DataError(f"The database cannot keep a label of the frame {frame}: {error}. Use plain values.")


class SegmentWriter(_FrameWriter):
    """Replaces the labels of one temporal segment, all or nothing.

    Frames are collected in a temporary file, so that memory does not grow with the segment; nothing reaches the
    dataset before :meth:`commit`. Then the frames are written in batches: images into their samples, videos into their
    frames, which are created where they do not exist yet. When a write fails, or the process is interrupted, everything
    written so far is put back as it was. No other field, frame or sample is touched.

    Use it as a context manager; leaving without ``commit`` throws the collected frames away::

        with SegmentWriter(view, sequence, "ground_truth_propagated", segment, tracks) as writer:
            for objects in propagator.propagate(sequence.source, prompts, segment):
                writer.write(objects)
            writer.commit()

    Args:
        samples: the collection that the sequence was made of
        sequence: one of :func:`~labelprop_cvat.sequences.sequences_of`
        output_field: a field of ``fo.Detections``, created by ``commit`` when missing; of videos the frame field, with
            or without ``frames.``
        segment: the frames to replace
        tracks: the objects that :meth:`write` may meet, by object id
        attribute_types: FiftyOne field classes of attributes that are not to be guessed from their values; None leaves
            an attribute undeclared, for values of several types

    Raises:
        DataError: the field has another type, is embedded or read-only, or the segment leaves the sequence
    """

    def __init__(
        self,
        samples: fo.core.collections.SampleCollection,
        sequence: Sequence,
        output_field: str,
        segment: Segment,
        tracks: Mapping[int, Track] | None = None,
        *,
        attribute_types: Mapping[str, type | None] | None = None,
    ) -> None:
        if segment.stop > len(sequence):
            raise DataError(
                f"The segment {segment.start}..{segment.stop - 1} is not inside {sequence.name!r}, whose frames are "
                f"0..{len(sequence) - 1}."
            )
        super().__init__(samples, sequence, output_field, tracks, attribute_types)
        self._segment = segment
        self._written: set[int] = set()

    def write(
        self,
        objects: FrameObjects,
        *,
        sources: Mapping[int, str] | None = None,
        attributes: Mapping[int, Mapping[str, Any]] | None = None,
    ) -> None:
        """Collects one frame as an engine gave it.

        Args:
            objects: the visible objects; each id must be one of ``tracks``
            sources: the ``source`` of some objects by id; otherwise keyframes are ``"manual"``, others ``"propagated"``
            attributes: attribute values on this frame by object id, over those of the track

        Raises:
            DataError: an object is no known track, lies outside the frame, or the frame was written before
        """
        self.write_labels(objects.frame, self._detections(objects, sources, attributes))

    def write_labels(self, frame: int, labels: Items[fo.Detection]) -> None:
        """Collects one frame as ready labels.

        Raises:
            DataError: the frame is outside the segment or was written before, or the writer is closed
        """
        self._open_spool()
        if frame not in self._segment or frame in self._written:
            reason = "was written before" if frame in self._written else "is outside"
            raise DataError(f"The frame {frame} {reason} the segment {self._segment.start}..{self._segment.stop - 1}.")
        self._collect(frame, value=self._stored(frame, labels))
        self._written.add(frame)

    def commit(self, progress: Progress | None = None) -> None:
        """Replaces the segment's frames in the dataset by the collected ones.

        Args:
            progress: called with frames written and frames in all

        Raises:
            DataError: a frame of the segment was not collected, an attribute is declared with another type, or the
                writer is closed. The field is as it was.
        """
        self._open_spool()
        missing = [frame for frame in self._segment.frames if frame not in self._written]
        if missing:
            raise DataError(
                f"{len(missing)} of the {len(self._segment)} frames of the segment were not written, first "
                f"{missing[0]}. Write every frame, those without objects too."
            )
        self._commit(len(self._segment), progress)

    def _become(self, entry: dict[str, Any], before: dict[str, Any] | None) -> dict[str, Any]:
        value: dict[str, Any] = entry["value"]
        return value


class ObjectWriter(_FrameWriter):
    """Changes labels of some objects on some frames, all or nothing; every other label stays as it is, bit for bit.

    Works like :class:`SegmentWriter`: nothing reaches the dataset before :meth:`commit`, and what other labels a frame
    holds is looked up only then. Labels are told apart by their index.

    Args:
        samples: the collection that the sequence was made of
        sequence: one of :func:`~labelprop_cvat.sequences.sequences_of`
        output_field: a field of ``fo.Detections``, created by ``commit`` when missing; of videos the frame field, with
            or without ``frames.``
        tracks: the objects that :meth:`write` may meet, by object id
        attribute_types: see :class:`SegmentWriter`
        must_exist: whether the field has to be there already

    Raises:
        DataError: the field is missing, has another type, is embedded or read-only
    """

    def __init__(
        self,
        samples: fo.core.collections.SampleCollection,
        sequence: Sequence,
        output_field: str,
        tracks: Mapping[int, Track] | None = None,
        *,
        attribute_types: Mapping[str, type | None] | None = None,
        must_exist: bool = False,
    ) -> None:
        super().__init__(samples, sequence, output_field, tracks, attribute_types, must_exist=must_exist)
        self._written: set[int] = set()
        self.marked = 0

    def write(
        self,
        objects: FrameObjects,
        replaced: Iterable[int],
        *,
        sources: Mapping[int, str] | None = None,
        attributes: Mapping[int, Mapping[str, Any]] | None = None,
        marks: Mapping[int, Mapping[str, Any]] | None = None,
        only_these: bool = False,
    ) -> None:
        """Collects one frame; each may be collected once.

        Args:
            objects: the new labels; each id must be one of ``tracks``
            replaced: the indices whose labels go from this frame; those of ``objects`` go anyway
            sources: as of :meth:`SegmentWriter.write`
            attributes: as of :meth:`SegmentWriter.write`
            marks: see :func:`mark_labels`; for labels that are there and stay
            only_these: of the labels that are there, none but marked ones stay; the frame then holds an empty list
                where there is nothing to hold

        Raises:
            DataError: an object is no known track or lies outside the frame, the frame is outside the sequence or was
                written before, a mark can't be set, or the writer is closed
        """
        frame = objects.frame
        if frame >= len(self._sequence) or frame in self._written:
            reason = "was written before" if frame in self._written else f"is not in {self._sequence.name!r}"
            raise DataError(f"The frame {frame} {reason}. Write every frame of the sequence once at most.")
        new = self._stored(frame, self._detections(objects, sources, attributes))
        self._collect(
            frame,
            value=new,
            gone=sorted({*replaced, *objects.objects}),
            only_these=only_these,
            marks=[[index, self._plain_marks(frame, values)] for index, values in (marks or {}).items()],
        )
        self._written.add(frame)

    def commit(self, progress: Progress | None = None) -> None:
        """Makes the collected changes; frames on which nothing comes out different are not written.

        Args:
            progress: called with frames done and frames in all

        Raises:
            DataError: an attribute is declared with another type, or the writer is closed. The field is as it was.
        """
        self.marked = 0
        self._commit(len(self._written), progress)

    def _plain_marks(self, frame: int, values: Mapping[str, Any]) -> dict[str, Any]:
        fixed = sorted(_NO_MARKS & values.keys())
        if fixed:
            raise DataError(
                f"{', '.join(fixed)} of a label can't be set on frame {frame}. Set attributes, its class, source or "
                f"instance."
            )
        label = fo.Detection(**values)
        stored = self._stored(frame, [label])["detections"][0]
        return {name: stored.get(name) for name in values}

    def _become(self, entry: dict[str, Any], before: dict[str, Any] | None) -> dict[str, Any] | None:
        held = [] if before is None else before.get("detections") or []
        gone, marks = set(entry["gone"]), dict(entry["marks"])
        if entry["only_these"]:
            gone |= {label.get("index") for label in held} - marks.keys()
        after = [self._marked(label, marks) for label in held if label.get("index") not in gone]
        for label in entry["value"]["detections"]:
            # Behind the last label with a lower index, as segments are written.
            place = next((n for n, other in enumerate(after) if (other.get("index") or 0) > label["index"]), len(after))
            after.insert(place, label)
        if before is None:
            return entry["value"] if after or entry["only_these"] else None
        if len(after) == len(held) and all(one is other for one, other in zip(after, held, strict=True)):
            return before
        return {**before, "detections": after}

    def _marked(self, label: dict[str, Any], marks: Mapping[int, Mapping[str, Any]]) -> dict[str, Any]:
        values = marks.get(label.get("index") or 0)
        if values is None:
            return label
        self.marked += 1
        changed = {name: value for name, value in values.items() if label.get(name) != value}
        return {**label, **changed} if changed else label


def mark_labels(
    samples: fo.core.collections.SampleCollection,
    sequence: Sequence,
    output_field: str,
    marks: Mapping[int, Mapping[int, Mapping[str, Any]]],
    *,
    attribute_types: Mapping[str, type | None] | None = None,
) -> int:
    """Sets attributes of labels that are there, and nothing else: no label is made, moved or renamed.

    Attributes that the field does not declare yet are declared. All marks are set, or none.

    Args:
        samples: the collection that the sequence was made of
        sequence: one of :func:`~labelprop_cvat.sequences.sequences_of`
        output_field: a field of ``fo.Detections``; of videos the frame field, with or without ``frames.``
        marks: 0-based position -> index of the object -> attribute -> value; None takes a value away. Objects that a
            frame does not show are passed over
        attribute_types: see :class:`SegmentWriter`

    Returns:
        the number of labels found

    Raises:
        DataError: there is no such field, a position is outside the sequence, an attribute is declared with another
            type, or it is no attribute but the label's geometry, index or id; nothing was changed
    """
    with ObjectWriter(samples, sequence, output_field, attribute_types=attribute_types, must_exist=True) as writer:
        for position in sorted(marks):
            writer.write(FrameObjects(position), (), marks=marks[position])
        writer.commit()
        return writer.marked


class _FieldStore:
    """One label field of the documents that hold the frames of one sequence: samples of images, frames of a video."""

    def __init__(self, dataset: fo.Dataset, sequence: Sequence, name: str) -> None:
        self._dataset = dataset
        self._sequence = sequence
        self._in_frames = sequence.media_type == fom.VIDEO
        self._name = name.removeprefix(_FRAMES_PREFIX) if self._in_frames else name
        self._path = _FRAMES_PREFIX + self._name if self._in_frames else self._name
        self._collection = dataset._frame_collection if self._in_frames else dataset._sample_collection

    def __str__(self) -> str:
        return f"{self._path!r} of {self._sequence.name!r}"

    @property
    def path(self) -> str:
        """The field as FiftyOne names it, with its ``frames.`` prefix on videos."""
        return self._path

    def check(self, *, must_exist: bool, kinds: tuple[type[fo.Label], ...] = (fo.Detections,)) -> type[fo.Label]:
        """Raises a :class:`DataError` when the field can't be used; returns what it holds, one of ``kinds``."""
        if not self._name or "." in self._name:
            raise DataError(f"Labels are kept in a field of their own, {self._name!r} is embedded. Name another field.")
        found = self._dataset.get_field(self._path)
        if found is None:
            if must_exist:
                raise DataError(f"{self._dataset.name!r} has no field {self._path!r}. Name an existing label field.")
            return kinds[0]
        kind: type[fo.Label] = getattr(found, "document_type", None) or type(found)
        if kind not in kinds:
            raise DataError(
                f"Expected a field of {' or '.join(f'fo.{k.__name__}' for k in kinds)}; the field {self._path!r} of "
                f"{self._dataset.name!r} holds {kind.__name__}. Name another field."
            )
        if found.read_only and not must_exist:
            raise DataError(f"The field {self._path!r} of {self._dataset.name!r} is read-only. Name another field.")
        return kind

    def prepare(self, attributes: Mapping[str, Any], types: Mapping[str, type | None]) -> bool:
        """Makes the field and declares attributes, so that the App lists them; returns whether it made the field."""
        loose = {name for name, kind in types.items() if kind is None}
        self._check_attributes({name: value for name, value in attributes.items() if name not in loose})
        created = self._dataset.get_field(self._path) is None
        if created:
            self._add(self._name, fo.EmbeddedDocumentField, embedded_doc_type=fo.Detections)
        declared: dict[str, dict[str, Any]] = {
            "source": {"ftype": fo.StringField},
            "keyframe": {"ftype": fo.BooleanField},
            "pass_agreement": {"ftype": fo.FloatField},
            "exemplar_frames": {"ftype": fo.ListField, "subfield": fo.IntField},
        }
        for name, value in attributes.items():
            if name in declared or name in loose or value is None:
                continue
            kind = types.get(name)
            declared[name] = foo.get_implied_field_kwargs(value) if kind is None else {"ftype": kind}
        self._declare(
            {
                f"{self._name}.detections.{name}": foo.create_field(name, **kwargs)
                for name, kwargs in declared.items()
                if self._dataset.get_field(f"{self._path}.detections.{name}") is None
            }
        )
        return created

    def remove(self) -> None:
        """Deletes the field."""
        if self._in_frames:
            self._dataset.delete_frame_field(self._name)
        else:
            self._dataset.delete_sample_field(self._name)

    def fetch(self, positions: Items[int], parts: Items[str] = ()) -> list[dict[str, Any] | None]:
        """Per position the document that holds the frame, cut down to its id and the field; None when there is none.

        Of the field's labels, all is there or only ``parts``.
        """
        refs = [self._sequence.frames[position] for position in positions]
        keys: list[Any]
        if self._in_frames:
            key_field = "frame_number"
            keys = [ref.frame_number for ref in refs]
            query = {"_sample_id": bson.ObjectId(self._sequence.sample_ids[0]), key_field: {"$in": keys}}
        else:
            key_field = "_id"
            keys = [bson.ObjectId(ref.sample_id) for ref in refs]
            query = {key_field: {"$in": keys}}
        wanted = [f"{self._name}.detections.{part}" for part in parts] or [self._name]
        found = {d[key_field]: d for d in self._collection.find(query, dict.fromkeys([key_field, *wanted], 1))}
        return [found.get(key) for key in keys]

    def value(self, document: Mapping[str, Any] | None) -> dict[str, Any] | None:
        """The field's value in a document of :meth:`fetch`, as stored."""
        return None if document is None else document.get(self._name)

    def put(
        self, positions: Items[int], before: Items[Mapping[str, Any] | None], values: Items[dict[str, Any]]
    ) -> None:
        """Sets the field in the documents that :meth:`fetch` found; makes those of a video that it did not."""
        now = datetime.now(timezone.utc).replace(tzinfo=None)
        operations: list[Any] = []
        touched = []
        for position, document, value in zip(positions, before, values, strict=True):
            if document is None:
                created = self._new_frame(self._sequence.frames[position], now)
                operations.append(InsertOne({**created, self._name: value}))
                touched.append(created["_id"])
            else:
                change = {"$set": {self._name: value, "last_modified_at": now}}
                operations.append(UpdateOne({"_id": document["_id"]}, change))
                touched.append(document["_id"])
        self._dataset._bulk_write(operations, ids=touched, frames=self._in_frames)

    def put_back(self, positions: Items[int], before: Items[Mapping[str, Any] | None]) -> None:
        """Undoes :meth:`put`."""
        changes: list[Any] = []
        touched = []
        created = []
        for position, document in zip(positions, before, strict=True):
            if document is None:
                # An image without a document is a sample that was deleted meanwhile.
                if self._in_frames:
                    created.append(self._sequence.frames[position].frame_number)
                continue
            there = self._name in document
            change = {"$set": {self._name: document[self._name]}} if there else {"$unset": {self._name: ""}}
            changes.append(UpdateOne({"_id": document["_id"]}, change))
            touched.append(document["_id"])
        if changes:
            self._dataset._bulk_write(changes, ids=touched, frames=self._in_frames)
        if created:
            sample_id = self._sequence.sample_ids[0]
            query = {"_sample_id": bson.ObjectId(sample_id), "frame_number": {"$in": created}}
            self._dataset._bulk_write([DeleteMany(query)], ids=[], frames=True)
            fo.core.frame.Frame._reset_docs_for_sample(self._dataset._frame_collection_name, sample_id, created)

    def _new_frame(self, ref: FrameRef, now: datetime) -> dict[str, Any]:
        if ref.frame_number is None:
            raise DataError(
                f"The sample {ref.sample_id} is no longer in {self._dataset.name!r}. Make the sequences again."
            )
        return {
            "_id": bson.ObjectId(),
            "_sample_id": bson.ObjectId(ref.sample_id),
            "_dataset_id": self._dataset._doc.id,
            "frame_number": ref.frame_number,
            "created_at": now,
            "last_modified_at": now,
        }

    def _add(self, path: str, ftype: type, **kwargs: Any) -> None:
        if self._in_frames:
            self._dataset.add_frame_field(path, ftype, **kwargs)
        else:
            self._dataset.add_sample_field(path, ftype, **kwargs)

    def _declare(self, fields: Mapping[str, fo.Field]) -> None:
        # One by one, each would write and read the whole dataset's description.
        if fields and self._in_frames:
            self._dataset._merge_frame_field_schema(fields)
        elif fields:
            self._dataset._merge_sample_field_schema(fields)

    def _check_attributes(self, attributes: Mapping[str, Any]) -> None:
        for name, value in attributes.items():
            declared = self._dataset.get_field(f"{self._path}.detections.{name}")
            if declared is None or value is None:
                continue
            try:
                declared.validate(value)
            except Exception as error:
                raise DataError(
                    f"The attribute {name!r} of {self._path!r} is declared as {type(declared).__name__} and would get "
                    f"{value!r}. Use values of that type, or write to another field."
                ) from error


def _note(attributes: dict[str, Any], name: str, value: Any) -> None:
    """Keeps one value per attribute to tell its type by: a fraction rather than a whole number."""
    if name == "instance" or value is None:
        # FiftyOne finds instances without a declaration, and exports declared ones as text attributes.
        return
    known = attributes.get(name)
    if known is None or (type(known) is int and isinstance(value, float)):
        attributes[name] = value


def _spooled_batches(spool: IO[bytes]) -> Iterator[list[dict[str, Any]]]:
    """Reads documents back in batches of bounded number and size."""
    batch: list[dict[str, Any]] = []
    size = 0
    while True:
        head = spool.read(4)
        if len(head) < 4:
            break
        data = head + spool.read(int.from_bytes(head, "little") - 4)
        batch.append(bson.decode(data))
        size += len(data)
        if len(batch) >= _BATCH_FRAMES or size >= _BATCH_BYTES:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


def _relative(start: int, stop: int, extent: int) -> tuple[float, float]:
    """``start / extent`` and ``(stop - start) / extent``, each a hair larger where cutting off would lose a pixel."""
    first = start / extent
    while int(extent * first) < start:
        first = math.nextafter(first, math.inf)
    length = (stop - start) / extent
    while int(extent * (first + length)) < stop:
        length = math.nextafter(length, math.inf)
    return first, length


def _checked_box(label: fo.Detection) -> tuple[float, float, float, float]:
    box = label.bounding_box
    if box is None or len(box) != 4 or not all(isinstance(v, int | float) and math.isfinite(v) for v in box):
        raise DataError(
            f"The label {label.id} ({label.label}) needs bounding_box = [x, y, width, height], found {box!r}. "
            f"Correct or delete it."
        )
    x, y, w, h = (float(value) for value in box)
    if not (w > 0 and h > 0):
        raise DataError(
            f"The label {label.id} ({label.label}) has an empty bounding_box {box!r}. Correct or delete it."
        )
    return x, y, w, h


__all__ = [
    "CLICK_LABELS",
    "SOURCE_MANUAL",
    "SOURCE_PROPAGATED",
    "SOURCE_REVIEWED",
    "FrameLabels",
    "ObjectWriter",
    "SegmentWriter",
    "Track",
    "box_to_detection",
    "detection_to_box",
    "detection_to_mask",
    "detection_to_state",
    "has_points",
    "held_instances",
    "instance_id",
    "label_to_prompt",
    "mark_labels",
    "mask_to_detection",
    "read_labels",
    "read_states",
    "state_to_detection",
]
