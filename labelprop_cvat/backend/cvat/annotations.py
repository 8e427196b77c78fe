"""Checks annotations before they are sent, because CVAT does not.

A server accepts frames that do not exist, masks whose runs do not fill their box, two keyframes on one frame and much
more; some of it is lost, some makes the job impossible to open. :func:`check_payload` refuses it with a sentence that
names the object.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Any, Literal, TypeAlias

from labelprop_cvat.backend.cvat.errors import InvalidPayload, LabelMissing
from labelprop_cvat.backend.cvat.models import Attribute, Job, Label, LabelMap
from labelprop_cvat.backend.cvat.rle import check_points

Annotations: TypeAlias = dict[str, Any]
"""``{"version": 0, "tags": [...], "shapes": [...], "tracks": [...]}`` as CVAT sends and takes it."""

KINDS = ("tags", "shapes", "tracks")
_NUMBERS_OF_SHAPE = {"rectangle": 4, "ellipse": 4, "cuboid": 16}
_FEWEST_POINTS = {"polygon": 3, "polyline": 2, "points": 1}
FARTHEST = 1e7
"""Pixels; beyond that, points can no longer be told apart in single precision, and no image is that large."""
_SHAPE_TYPES = (*_NUMBERS_OF_SHAPE, *_FEWEST_POINTS, "mask", "skeleton")


def empty() -> Annotations:
    """Returns annotations without any object."""
    return {"version": 0, "tags": [], "shapes": [], "tracks": []}


def objects(payload: Mapping[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yields ``(kind, object)`` for all tags, shapes and tracks."""
    for kind in KINDS:
        for item in payload.get(kind) or ():
            yield kind, item


def check_payload(
    payload: Mapping[str, Any],
    labels: LabelMap,
    frames: Collection[int],
    *,
    ids: Literal["absent", "required"],
) -> None:
    """Checks annotations against the labels and frames of their job.

    Args:
        payload: what is to be sent
        labels: labels of the task
        frames: frame numbers of the job, numbered as in its task
        ids: "absent" for what is to be created; "required" for what is to be updated, which may keep attribute values
        and
            flat boxes that people or older labels left on the server

    Raises:
        InvalidPayload: something is wrong; says which object and what
    """
    check_keys(payload)
    check = _Check(labels, frames, fresh=ids == "absent")
    for kind in KINDS:
        for position, item in enumerate(payload.get(kind) or ()):
            name = f"{kind[:-1].capitalize()} {position}"
            if not isinstance(item, Mapping):
                raise InvalidPayload(f"{name} must be a mapping, got {type(item).__name__}.")
            _check_id(name, item, ids)
            getattr(check, kind[:-1])(name, item)


def unreadable(answer: Mapping[str, Any]) -> Iterator[tuple[str, Any, str]]:
    """Finds what no editor of CVAT's makes and nobody can read: the server takes and keeps what any script sends.

    Args:
        answer: annotations as the server gave them

    Yields:
        kind, object, what is wrong with it
    """
    for kind in KINDS:
        for item in answer.get(kind) or ():
            try:
                _check_readable(kind, item)
            except InvalidPayload as error:
                yield kind, item, str(error)
            except (TypeError, ValueError, KeyError, AttributeError, RecursionError) as error:
                yield kind, item, f"It does not have the form of one ({type(error).__name__})."


def _check_readable(kind: str, item: Mapping[str, Any]) -> None:
    if not all(isinstance(number, int) for number in (item["id"], item["label_id"], item["frame"])):
        raise InvalidPayload("Its id, label and frame are not all whole numbers.")
    if kind == "tracks":
        _check_readable_track(item)
    elif kind == "shapes":
        _check_readable_shape(item)


def _check_readable_track(track: Mapping[str, Any]) -> None:
    for keyframe in track["shapes"]:
        _check_readable_shape(keyframe)
    for element in track.get("elements") or ():
        _check_readable_track(element)


def _check_readable_shape(shape: Mapping[str, Any]) -> None:
    # The nodes of a skeleton's track are tracks of their own.
    _check_geometry("It", shape, {"elements": True})
    if not isinstance(shape["frame"], int) or not math.isfinite(float(shape.get("rotation") or 0.0)):
        raise InvalidPayload("Its frame is not a whole number, or its rotation is no number.")
    if shape["type"] != "mask" and any(abs(point) > FARTHEST for point in shape.get("points") or ()):
        raise InvalidPayload(f"It has points farther out than {FARTHEST:g} pixels.")
    for element in shape.get("elements") or ():
        _check_readable_shape(element)


def check_deletion(payload: Mapping[str, Any]) -> None:
    """Checks that every object to delete carries what the server wants of it.

    Raises:
        InvalidPayload: one lacks ``id``, ``label_id`` or ``frame``, or a shape its ``type``
    """
    check_keys(payload)
    for kind in KINDS:
        needed = ("id", "label_id", "frame", "type") if kind == "shapes" else ("id", "label_id", "frame")
        for position, item in enumerate(payload.get(kind) or ()):
            missing = [key for key in needed if item.get(key) is None]
            if missing:
                raise InvalidPayload(
                    f"{kind[:-1].capitalize()} {position} cannot be deleted without {', '.join(missing)}: give the "
                    f"object as the server sent it."
                )


def by_job(payload: Mapping[str, Any], jobs: Sequence[Job]) -> list[tuple[Job, Annotations, list[tuple[str, int]]]]:
    """Sorts annotations of a whole task into its jobs.

    A track read from a whole task may be closed by an ``outside`` keyframe right behind its job, which the server adds;
    it is left out.

    Args:
        payload: annotations of the task
        jobs: all its jobs

    Returns:
        for each job that gets any: the job, its annotations, and ``(kind, position in payload)`` of each of them

    Raises:
        InvalidPayload: an object lies in no job, a track in several, or the jobs share frames
    """
    if any(set(a.frames) & set(b.frames) for a, b in pairwise(jobs)):
        raise InvalidPayload("The jobs of this task share frames; write to one of them with job_id.")
    shares = {job.id: (job, empty(), list[tuple[str, int]]()) for job in jobs}
    for kind in KINDS:
        for position, item in enumerate(payload.get(kind) or ()):
            job, item = _job_of(f"{kind[:-1].capitalize()} {position}", item, jobs)
            shares[job.id][1][kind].append(item)
            shares[job.id][2].append((kind, position))
    return [share for share in shares.values() if share[2]]


def _job_of(name: str, item: Any, jobs: Sequence[Job]) -> tuple[Job, Any]:
    if not isinstance(item, Mapping):
        raise InvalidPayload(f"{name} must be a mapping, got {type(item).__name__}.")
    shapes = item.get("shapes") or ()
    frames = [shape.get("frame") for shape in shapes] or [item.get("frame")]
    for job in jobs:
        if frames[0] not in job.frames:
            continue
        if all(frame in job.frames for frame in frames):
            return job, item
        inside = [s for s in shapes if s.get("frame") != job.stop_frame + 1 or not s.get("outside")]
        if all(shape.get("frame") in job.frames for shape in inside):
            return job, {**item, "shapes": inside}
        raise InvalidPayload(
            f"{name} reaches over frames {min(frames)}..{max(frames)}, which lie in several jobs; the server would "
            f"cut it into tracks without a common id. Send one track per job."
        )
    raise InvalidPayload(f"{name} is on frame {frames[0]!r}, which lies in no job of the task.")


def check_keys(payload: Mapping[str, Any]) -> None:
    """Checks that annotations hold nothing but tags, shapes and tracks.

    Raises:
        InvalidPayload: they hold something else
    """
    unknown = set(payload) - {"version", *KINDS}
    if unknown:
        raise InvalidPayload(
            f"Annotations hold version, tags, shapes and tracks; CVAT would drop {', '.join(sorted(unknown))} silently."
        )


def _check_id(name: str, item: Mapping[str, Any], ids: Literal["absent", "required"]) -> None:
    if ids == "absent" and item.get("id") is not None:
        raise InvalidPayload(f"{name} has id {item['id']}, but a new object gets its id from the server: leave it out.")
    if ids == "required" and not isinstance(item.get("id"), int):
        raise InvalidPayload(f"{name} has no id; an update without one would make a duplicate.")


class _Check:
    def __init__(self, labels: LabelMap, frames: Collection[int], *, fresh: bool) -> None:
        self._labels = labels
        self._frames = frames
        self._fresh = fresh

    def tag(self, name: str, tag: Mapping[str, Any]) -> None:
        label = self._label(name, tag)
        frame = self._frame(name, tag)
        name = f"{name} (frame {frame})"
        _check_label_type(name, label, "tag")
        self._attributes(name, label, tag, label.attributes)

    def shape(self, name: str, shape: Mapping[str, Any]) -> None:
        label = self._label(name, shape)
        frame = self._frame(name, shape)
        name = f"{name} ({shape.get('type')} on frame {frame})"
        self._geometry(name, shape)
        _check_label_type(name, label, str(shape["type"]))
        self._attributes(name, label, shape, label.attributes)
        for position, element in enumerate(shape.get("elements") or ()):
            self.shape(f"{name}, element {position}", element)

    def track(self, name: str, track: Mapping[str, Any]) -> None:
        label = self._label(name, track)
        keyframes = track.get("shapes") or ()
        if not keyframes:
            raise InvalidPayload(f"{name} has no shapes; a track needs at least one keyframe.")
        types = sorted({str(s.get("type")) for s in keyframes})
        if "mask" in types:
            raise InvalidPayload(
                f"{name} is a mask track, which CVAT's web UI cannot open. Send one mask shape per frame, tied "
                f"together by an immutable attribute."
            )
        if len(types) > 1:
            raise InvalidPayload(f"{name} mixes shapes of type {' and '.join(types)}; a track has one type.")
        _check_label_type(name, label, types[0])
        immutable = tuple(a for a in label.attributes if not a.mutable)
        mutable = tuple(a for a in label.attributes if a.mutable)
        self._attributes(name, label, track, immutable)
        seen: set[int] = set()
        for shape in keyframes:
            frame = self._frame(name, shape)
            if frame in seen:
                raise InvalidPayload(f"{name} has two keyframes on frame {frame}.")
            seen.add(frame)
            where = f"{name}, keyframe {frame}"
            # A skeleton's elements are tracks of their own, beside its keyframes.
            self._geometry(where, shape, track)
            self._attributes(where, label, shape, mutable)
        for position, element in enumerate(track.get("elements") or ()):
            self.track(f"{name}, element {position}", element)

    def _label(self, name: str, item: Mapping[str, Any]) -> Label:
        try:
            return self._labels.by_id(item.get("label_id"))  # type: ignore[arg-type]
        except LabelMissing as error:
            raise InvalidPayload(f"{name}: {error}") from None

    def _frame(self, name: str, item: Mapping[str, Any]) -> int:
        frame = item.get("frame")
        if not isinstance(frame, int) or isinstance(frame, bool) or frame not in self._frames:
            raise InvalidPayload(f"{name} is on frame {frame!r}, but the frames here are {_span(self._frames)}.")
        return frame

    def _geometry(self, name: str, shape: Mapping[str, Any], whole: Mapping[str, Any] | None = None) -> None:
        _check_geometry(name, shape, whole or shape)
        points: Sequence[float] = shape.get("points") or ()
        flat = shape["type"] == "rectangle" and not (points[2] > points[0] and points[3] > points[1])
        if flat and self._fresh:
            raise InvalidPayload(f"{name} needs points (x1, y1, x2, y2) with x2 > x1 and y2 > y1, got {list(points)}.")

    def _attributes(self, name: str, label: Label, item: Mapping[str, Any], allowed: Sequence[Attribute]) -> None:
        by_id = {a.id: a for a in allowed}
        seen: set[int] = set()
        for entry in item.get("attributes") or ():
            spec = entry.get("spec_id")
            attribute = by_id.get(spec)
            if attribute is None:
                raise InvalidPayload(f"{name}: {_wrong_spec(label, spec)}")
            if spec in seen:
                raise InvalidPayload(f'{name} gives attribute "{attribute.name}" twice.')
            seen.add(spec)
            if self._fresh:
                _check_value(name, attribute, entry.get("value"))


def _span(frames: Collection[int]) -> str:
    return f"{min(frames)}..{max(frames)}" if frames else "none"


def _check_geometry(name: str, shape: Mapping[str, Any], whole: Mapping[str, Any]) -> None:
    kind = shape.get("type")
    points = shape.get("points")
    if kind not in _SHAPE_TYPES:
        raise InvalidPayload(f"{name} has type {kind!r}; CVAT knows {', '.join(_SHAPE_TYPES)}.")
    if kind == "skeleton":
        if not whole.get("elements"):
            raise InvalidPayload(f"{name} has no elements; a skeleton is made of them.")
        return
    if isinstance(points, str | bytes) or not isinstance(points, Sequence):
        raise InvalidPayload(f"{name} needs points as a list of numbers, got {type(points).__name__}.")
    if not all(isinstance(p, int | float) and math.isfinite(p) for p in points):
        raise InvalidPayload(f"{name} has points that are not finite numbers.")
    if kind == "mask":
        try:
            check_points(points)
        except InvalidPayload as error:
            raise InvalidPayload(f"{name}: {error}") from None
    elif kind in _NUMBERS_OF_SHAPE:
        if len(points) != _NUMBERS_OF_SHAPE[kind]:
            raise InvalidPayload(f"{name} needs {_NUMBERS_OF_SHAPE[kind]} numbers as points, got {len(points)}.")
    elif len(points) % 2 or len(points) < 2 * _FEWEST_POINTS[kind]:
        raise InvalidPayload(
            f"{name} needs pairs of x and y, at least {_FEWEST_POINTS[kind]} of them, got {len(points)} numbers."
        )


def _check_label_type(name: str, label: Label, kind: str) -> None:
    if label.type not in ("any", kind):
        raise InvalidPayload(f'{name} has label "{label.name}", which is for {label.type} only, not for {kind}.')


def _wrong_spec(label: Label, spec: object) -> str:
    for attribute in label.attributes:
        if attribute.id == spec:
            level = "each keyframe" if attribute.mutable else "the track itself"
            kind = "mutable" if attribute.mutable else "immutable"
            return f'attribute "{attribute.name}" is {kind}: it belongs on {level}.'
    there = ", ".join(f'{a.id} ("{a.name}")' for a in label.attributes) or "none"
    return f'attribute {spec!r} is not one of label "{label.name}", which has {there}.'


def _check_value(name: str, attribute: Attribute, value: object) -> None:
    if not isinstance(value, str):
        raise InvalidPayload(f'{name}: the value of attribute "{attribute.name}" must be text, got {value!r}.')
    if value == attribute.default_value:
        return
    kind = attribute.input_type
    wrong = (
        (kind in ("select", "radio") and value not in attribute.values)
        or (kind == "checkbox" and value.lower() not in ("true", "false"))
        or (kind == "number" and not _in_range(value, attribute.values))
    )
    if wrong:
        wanted = {
            "checkbox": "true or false",
            "number": f"a number, (minimum, maximum, step) = {attribute.values}",
        }.get(kind, f"one of {', '.join(attribute.values)}")
        raise InvalidPayload(f'{name}: attribute "{attribute.name}" takes {wanted}, got {value!r}.')


def _in_range(value: str, limits: Sequence[str]) -> bool:
    try:
        number = float(value)
        lowest, highest = (float(v) for v in limits[:2]) if len(limits) >= 2 else (-math.inf, math.inf)
    except ValueError:
        return False
    return math.isfinite(number) and lowest <= number <= highest


__all__ = [
    "FARTHEST",
    "KINDS",
    "Annotations",
    "by_job",
    "check_deletion",
    "check_keys",
    "check_payload",
    "empty",
    "objects",
    "unreadable",
]
