"""A scripted annotator: draws what the ground truth says, as carelessly as wanted, through the REST API only.

It works the same on the embedded server and on a real CVAT, and does what a person in CVAT's web UI does: looks at
the frames of a job, corrects shapes that are there, draws the missing ones, gives each its index, and finishes the job.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any, Literal, Protocol

import cv2
import numpy as np
import numpy.typing as npt

from labelprop_cvat.backend.cvat import CVATClient, DataMeta, Job, Label, LabelMap, Task, mask_to_points
from labelprop_cvat.backend.cvat.annotations import Annotations, empty, objects
from labelprop_cvat.errors import ConfigurationError, DataError

Box = tuple[float, float, float, float]
ShapeKind = Literal["mask", "rectangle"]


class Mask(Protocol):
    """An object's pixels: a boolean crop of shape ``(h, w)`` whose top-left pixel is ``(x, y)``."""

    @property
    def x(self) -> int: ...
    @property
    def y(self) -> int: ...
    @property
    def crop(self) -> npt.NDArray[np.bool_]: ...


@dataclass(frozen=True)
class TruthObject:
    """An object as it truly is on one frame.

    Args:
        object_id: the object's number, the same on every frame; becomes the index
        label: name of its label
        mask: its pixels; needed to draw masks
        box: ``(x1, y1, x2, y2)``, pixels, right and bottom exclusive; taken from the mask when left out
        attributes: values by attribute name

    Raises:
        DataError: neither mask nor box is given, or the mask is empty
    """

    object_id: int
    label: str
    mask: Mask | None = None
    box: Box | None = None
    attributes: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.mask is None and self.box is None:
            raise DataError(f"Object {self.object_id} of the ground truth needs a mask or a box, got neither.")
        if self.mask is not None and not self.mask.crop.any():
            raise DataError(f"Object {self.object_id} of the ground truth has an empty mask; leave it out instead.")

    @property
    def outline(self) -> Box:
        """The box, given or around the mask."""
        if self.box is not None:
            return self.box
        if self.mask is None:
            raise DataError(f"Object {self.object_id} of the ground truth has no box.")
        left, top, crop = _tight(self.mask.x, self.mask.y, self.mask.crop)
        return float(left), float(top), float(left + crop.shape[1]), float(top + crop.shape[0])


@dataclass(frozen=True)
class Sloppiness:
    """How carelessly the annotator works; the default is perfect work.

    Args:
        box_jitter_px: standard deviation by which each edge of a box is off, pixels
        box_jitter: the same, as a share of the box's width or height
        mask_growth: pixels by which every mask is too large (negative: too small)
        mask_wobble: each mask is grown or shrunk by up to so many pixels more
        mask_shift: each mask is off by up to so many pixels in x and in y
        missed: probability that an object is overlooked on a frame
        wrong_label: probability that an object gets another label: per mask, or per track
        forgotten_index: probability that the index stays at its default: per mask, or per track

    Raises:
        ConfigurationError: a deviation is negative or a probability outside [0, 1]
    """

    box_jitter_px: float = 0.0
    box_jitter: float = 0.0
    mask_growth: int = 0
    mask_wobble: int = 0
    mask_shift: int = 0
    missed: float = 0.0
    wrong_label: float = 0.0
    forgotten_index: float = 0.0

    def __post_init__(self) -> None:
        if min(self.box_jitter_px, self.box_jitter, self.mask_wobble, self.mask_shift) < 0:
            raise ConfigurationError(f"Deviations of a sloppy annotator are >= 0, got {self}.")
        if not all(0.0 <= p <= 1.0 for p in (self.missed, self.wrong_label, self.forgotten_index)):
            raise ConfigurationError(f"Probabilities of a sloppy annotator lie in [0, 1], got {self}.")


@dataclass(frozen=True)
class AnnotatorCounts:
    """What the annotator did: ``drawn``, ``changed`` and ``confirmed`` count shapes and keyframes, the mistakes
    likewise."""

    jobs: int = 0
    frames: int = 0
    drawn: int = 0
    changed: int = 0
    confirmed: int = 0
    missed: int = 0
    wrong_labels: int = 0
    forgotten_indices: int = 0

    def __add__(self, other: AnnotatorCounts) -> AnnotatorCounts:
        return AnnotatorCounts(*(getattr(self, f.name) + getattr(other, f.name) for f in fields(self)))


class ScriptedAnnotator:
    """Annotates tasks from ground truth, the same way every time for the same seed.

    Args:
        client: a login that may see the task and edit its jobs
        truth: gives the visible objects for ``(task name, frame name)``; a frame of a video task is named
            ``frame_000000`` and so on
        sloppiness: how carelessly it works
        seed: chooses the mistakes
    """

    def __init__(
        self,
        client: CVATClient,
        truth: Callable[[str, str], Sequence[TruthObject]],
        sloppiness: Sloppiness | None = None,
        seed: int = 0,
    ) -> None:
        self._client = client
        self._truth = truth
        self._sloppiness = sloppiness or Sloppiness()
        self._seed = seed

    def annotate_task(
        self,
        task_id: int,
        *,
        shape: ShapeKind = "mask",
        index_attribute: str | None = "index",
        complete: bool = True,
        jobs: Collection[int] | None = None,
    ) -> AnnotatorCounts:
        """Draws every visible object on every frame of the jobs.

        Masks become mask shapes; boxes become one track per object and job with a keyframe on each frame where the
        object is seen and ``outside`` where it is gone. Shapes and tracks that carry the object's index are corrected
        in place; others are left alone.

        Args:
            task_id: the task
            shape: "mask" or "rectangle"
            index_attribute: attribute that takes the object's number; None when there is none
            complete: set the jobs to completed
            jobs: ids of jobs to work on; None for all that are not completed

        Raises:
            LabelMissing: the task lacks a label or attribute of the ground truth
            DataError: masks are wanted where the ground truth has none
        """
        if shape not in ("mask", "rectangle"):
            raise ConfigurationError(f'An annotator draws "mask" or "rectangle", got {shape!r}.')
        task = self._client.task(task_id)
        labels = LabelMap(self._client.labels(task_id))
        meta = self._client.data_meta(task_id=task_id)
        counts = AnnotatorCounts()
        for job in self._client.jobs(task_id):
            wanted = job.state != "completed" if jobs is None else job.id in jobs
            if not wanted:
                continue
            desk = _Desk(self, task, job, meta, labels, index_attribute, self._client.annotations(job_id=job.id))
            counts += desk.draw(shape)
            self._save(job, desk)
            if complete:
                self._client.update_job(job.id, state="completed")
        return counts

    def _save(self, job: Job, desk: _Desk) -> None:
        if any(True for _ in objects(desk.changed)):
            self._client.update_annotations(desk.changed, job_id=job.id)
        if any(True for _ in objects(desk.drawn)):
            self._client.create_annotations(desk.drawn, job_id=job.id)


class _Desk:
    """One job on the annotator's desk: what is there, what to draw, what to change."""

    def __init__(
        self,
        annotator: ScriptedAnnotator,
        task: Task,
        job: Job,
        meta: DataMeta,
        labels: LabelMap,
        index_attribute: str | None,
        existing: Annotations,
    ) -> None:
        self._hand = annotator._sloppiness
        self._seed = annotator._seed
        self._task = task
        self._job = job
        self._meta = meta
        self._labels = labels
        self._index_attribute = index_attribute
        self._existing = existing
        self._specs = {attribute.id: attribute for label in labels for attribute in label.attributes}
        self._truth = {frame: tuple(annotator._truth(task.name, self._name(frame))) for frame in self._frames()}
        self.drawn = empty()
        self.changed = empty()

    def draw(self, shape: ShapeKind) -> AnnotatorCounts:
        counts = AnnotatorCounts(jobs=1, frames=len(self._truth))
        if shape == "rectangle":
            seen = sorted({o.object_id for objects_here in self._truth.values() for o in objects_here})
            return sum((self._draw_track(object_id) for object_id in seen), counts)
        for frame, objects_here in self._truth.items():
            for truth in objects_here:
                counts += self._draw_mask(frame, truth)
        return counts

    def _frames(self) -> list[int]:
        deleted = set(self._meta.deleted_frames)
        return [frame for frame in self._job.frames if frame not in deleted]

    def _frame(self, frame: int) -> tuple[str, int, int]:
        video = len(self._meta.frames) == 1 and self._meta.size > 1
        name, width, height = self._meta.frames[0 if video else frame]
        return f"frame_{frame:06d}" if video else name, width, height

    def _name(self, frame: int) -> str:
        return self._frame(frame)[0]

    def _chance(self, *what: object) -> random.Random:
        """A source of chance that depends on what it is for, not on the order of work."""
        return random.Random("/".join(map(str, (self._seed, self._task.name, *what))))

    # Masks

    def _draw_mask(self, frame: int, truth: TruthObject) -> AnnotatorCounts:
        name, width, height = self._frame(frame)
        chance = self._chance("mask", name, truth.object_id)
        if chance.random() < self._hand.missed:
            return AnnotatorCounts(missed=1)
        if truth.mask is None:
            raise DataError(
                f'The ground truth of "{name}" has no mask for object {truth.object_id}; annotate with '
                f'shape="rectangle".'
            )
        label, wrong = self._label(truth, chance)
        attributes, forgotten = self._attributes(label, truth, chance)
        points = mask_to_points(*self._careless_mask(truth.mask, width, height, chance))
        content = {
            "type": "mask",
            "frame": frame,
            "label_id": label.id,
            "points": points,
            "occluded": False,
            "attributes": attributes,
        }
        counts = AnnotatorCounts(wrong_labels=wrong, forgotten_indices=forgotten)
        return counts + self._put_shape(content, truth.object_id)

    def _put_shape(self, content: dict[str, Any], object_id: int) -> AnnotatorCounts:
        there = self._existing_shape(content["type"], content["frame"], object_id)
        if there is None:
            self.drawn["shapes"].append({**content, "group": 0, "source": "manual", "z_order": 0})
            return AnnotatorCounts(drawn=1)
        if _same_content(content, there):
            return AnnotatorCounts(confirmed=1)
        attributes = self._kept_attributes(there, content)
        self.changed["shapes"].append(
            {**there, **content, "attributes": attributes, "source": _edited_source(there["source"])}
        )
        return AnnotatorCounts(changed=1)

    def _careless_mask(
        self, mask: Mask, width: int, height: int, chance: random.Random
    ) -> tuple[int, int, npt.NDArray[np.bool_]]:
        hand = self._hand
        growth = hand.mask_growth + chance.randint(-hand.mask_wobble, hand.mask_wobble)
        dx = chance.randint(-hand.mask_shift, hand.mask_shift)
        dy = chance.randint(-hand.mask_shift, hand.mask_shift)
        left, top, crop = mask.x, mask.y, np.asarray(mask.crop, dtype=np.bool_)
        if growth:
            left, top, crop = _grown(left, top, crop, growth)
        moved = _inside(left + dx, top + dy, crop, width, height)
        if moved is None:
            moved = _inside(mask.x, mask.y, np.asarray(mask.crop, dtype=np.bool_), width, height)
        if moved is None:
            raise DataError(f"A mask of the ground truth lies outside the frame of {width}x{height} pixels.")
        return moved

    # Rectangle tracks

    def _draw_track(self, object_id: int) -> AnnotatorCounts:
        chance = self._chance("track", self._job.start_frame, object_id)
        first = next(o for here in self._truth.values() for o in here if o.object_id == object_id)
        label, wrong = self._label(first, chance)
        attributes, forgotten = self._attributes(label, first, chance)
        levels = {a.id: a.mutable for a in label.attributes}
        there = self._existing_track(object_id)
        common = {a["spec_id"]: a["value"] for a in attributes if levels[a["spec_id"]]}
        keyframes, counts = self._keyframes(object_id, label, there, common)
        if not keyframes:
            return counts
        track = {
            "label_id": label.id,
            "frame": min(k["frame"] for k in keyframes),
            "attributes": [a for a in attributes if not levels[a["spec_id"]]],
            "shapes": keyframes,
        }
        counts += AnnotatorCounts(wrong_labels=wrong, forgotten_indices=forgotten)
        if there is None:
            self.drawn["tracks"].append({**track, "group": 0, "source": "manual"})
            return counts + AnnotatorCounts(drawn=len(keyframes))
        kept = self._kept_attributes(there, track)
        if _same_track(track, kept, there):
            return counts + AnnotatorCounts(confirmed=len(keyframes))
        edited = {**there, **track, "attributes": kept, "source": _edited_source(there["source"])}
        self.changed["tracks"].append(edited)
        return counts + AnnotatorCounts(changed=len(keyframes))

    def _keyframes(
        self, object_id: int, label: Label, there: dict[str, Any] | None, common: Mapping[int, str]
    ) -> tuple[list[dict[str, Any]], AnnotatorCounts]:
        old = {int(s["frame"]): s for s in (there or {}).get("shapes", ())}
        mutable = {a.name: a.id for a in label.attributes if a.mutable}
        keyframes: list[dict[str, Any]] = []
        counts = AnnotatorCounts()
        last: list[float] | None = None
        outside = True
        for frame, here in self._truth.items():
            truth = next((o for o in here if o.object_id == object_id), None)
            name, width, height = self._frame(frame)
            chance = self._chance("box", name, object_id)
            if truth is not None and chance.random() < self._hand.missed:
                counts += AnnotatorCounts(missed=1)
                if frame in old:
                    keyframes.append(old[frame])
                    last, outside = list(old[frame]["points"]), bool(old[frame]["outside"])
                continue
            if truth is not None:
                last = self._careless_box(truth.outline, width, height, chance)
                outside = False
            elif outside or last is None:
                continue
            else:
                outside = True
            here_given = {} if truth is None else truth.attributes
            own = {mutable[name]: str(value) for name, value in here_given.items() if name in mutable}
            before = {a["spec_id"]: a["value"] for a in old.get(frame, {}).get("attributes", ())}
            kept = {spec: value for spec, value in before.items() if spec in mutable.values()}
            keyframe = {
                "type": "rectangle",
                "frame": frame,
                "points": last,
                "outside": outside,
                "occluded": False,
                "attributes": [{"spec_id": k, "value": v} for k, v in {**kept, **common, **own}.items()],
            }
            keyframes.append({**old.get(frame, {}), **keyframe})
        return keyframes, counts

    def _careless_box(self, box: Box, width: int, height: int, chance: random.Random) -> list[float]:
        hand = self._hand
        x1, y1, x2, y2 = box

        def off(length: float) -> float:
            return chance.gauss(0.0, 1.0) * hand.box_jitter_px + chance.gauss(0.0, 1.0) * hand.box_jitter * length

        edges = [x1 + off(x2 - x1), y1 + off(y2 - y1), x2 + off(x2 - x1), y2 + off(y2 - y1)]
        left, right = _ordered(edges[0], edges[2], width)
        top, bottom = _ordered(edges[1], edges[3], height)
        return [left, top, right, bottom]

    # Labels and attributes

    def _label(self, truth: TruthObject, chance: random.Random) -> tuple[Label, int]:
        label = self._labels.label(truth.label)
        others = [other for other in self._labels if other.id != label.id]
        if others and chance.random() < self._hand.wrong_label:
            return chance.choice(others), 1
        return label, 0

    def _attributes(self, label: Label, truth: TruthObject, chance: random.Random) -> tuple[list[dict[str, Any]], int]:
        names = {a.name for a in label.attributes}
        right = label.name == truth.label
        values = {k: str(v) for k, v in truth.attributes.items() if right or k in names}
        forgotten = 0
        if self._index_attribute is not None and (right or self._index_attribute in names):
            label.attribute(self._index_attribute)
            forgotten = int(chance.random() < self._hand.forgotten_index)
            if not forgotten:
                values[self._index_attribute] = str(truth.object_id)
        return [{"spec_id": label.attribute(name).id, "value": value} for name, value in values.items()], forgotten

    def _kept_attributes(self, there: Mapping[str, Any], content: Mapping[str, Any]) -> list[dict[str, Any]]:
        """Attributes of an object that is there, overruled by those now given, as far as its label has them."""
        own = {a.id for a in self._labels.by_id(content["label_id"]).attributes}
        values = {a["spec_id"]: a["value"] for a in there.get("attributes") or () if a["spec_id"] in own}
        values.update({a["spec_id"]: a["value"] for a in content["attributes"]})
        return [{"spec_id": spec, "value": value} for spec, value in values.items()]

    # What is there

    def _index_of(self, item: Mapping[str, Any]) -> str | None:
        first_keyframe = (item.get("shapes") or [{}])[0]
        for entry in (*(item.get("attributes") or ()), *(first_keyframe.get("attributes") or ())):
            attribute = self._specs.get(entry["spec_id"])
            if attribute is not None and attribute.name == self._index_attribute:
                return str(entry["value"])
        return None

    def _existing_shape(self, kind: str, frame: int, object_id: int) -> dict[str, Any] | None:
        for shape in self._existing["shapes"]:
            if (shape["type"], shape["frame"]) == (kind, frame) and self._index_of(shape) == str(object_id):
                return dict(shape)
        return None

    def _existing_track(self, object_id: int) -> dict[str, Any] | None:
        for track in sorted(self._existing["tracks"], key=lambda t: int(t["id"])):
            if track["shapes"][0]["type"] == "rectangle" and self._index_of(track) == str(object_id):
                return dict(track)
        return None


def _edited_source(source: str) -> str:
    """What CVAT's web UI makes of a source when somebody edits the geometry."""
    return "semi-auto" if source in ("auto", "semi-auto") else "manual"


def _same_content(wanted: Mapping[str, Any], there: Mapping[str, Any]) -> bool:
    values = {a["spec_id"]: a["value"] for a in there["attributes"]}
    return (
        wanted["label_id"] == there["label_id"]
        and np.array_equal(wanted["points"], there["points"])
        and all(values.get(a["spec_id"]) == a["value"] for a in wanted["attributes"])
    )


def _same_track(track: Mapping[str, Any], attributes: Sequence[dict[str, Any]], there: Mapping[str, Any]) -> bool:
    def form(shape: Mapping[str, Any]) -> tuple[int, bool, tuple[float, ...]]:
        return int(shape["frame"]), bool(shape["outside"]), tuple(round(float(p), 3) for p in shape["points"])

    values = {a["spec_id"]: a["value"] for a in there["attributes"]}
    return (
        track["label_id"] == there["label_id"]
        and sorted(map(form, track["shapes"])) == sorted(map(form, there["shapes"]))
        and all(values.get(a["spec_id"]) == a["value"] for a in attributes)
    )


def _ordered(low: float, high: float, length: int) -> tuple[float, float]:
    """Two edges in order, inside ``0..length`` and at least one pixel apart."""
    low, high = sorted((min(max(low, 0.0), length), min(max(high, 0.0), length)))
    if high - low < 1.0:
        low = max(0.0, min(low, length - 1.0))
        high = low + 1.0
    return low, high


def _tight(left: int, top: int, crop: npt.NDArray[np.bool_]) -> tuple[int, int, npt.NDArray[np.bool_]]:
    rows = np.flatnonzero(crop.any(axis=1))
    columns = np.flatnonzero(crop.any(axis=0))
    inner = crop[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    return left + int(columns[0]), top + int(rows[0]), inner


def _grown(left: int, top: int, crop: npt.NDArray[np.bool_], growth: int) -> tuple[int, int, npt.NDArray[np.bool_]]:
    """Dilates (or erodes, below 0) by a disc; a mask that would vanish stays as it was."""
    margin = abs(growth)
    padded = np.pad(crop, margin).astype(np.uint8)
    disc = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * margin + 1, 2 * margin + 1))
    changed = cv2.dilate(padded, disc) if growth > 0 else cv2.erode(padded, disc)
    if not changed.any():
        return left, top, crop
    return left - margin, top - margin, changed.astype(np.bool_)


def _inside(
    left: int, top: int, crop: npt.NDArray[np.bool_], width: int, height: int
) -> tuple[int, int, npt.NDArray[np.bool_]] | None:
    """Cuts off what lies outside the frame; None when nothing is left."""
    x1, y1 = max(left, 0), max(top, 0)
    x2, y2 = min(left + crop.shape[1], width), min(top + crop.shape[0], height)
    if x2 <= x1 or y2 <= y1:
        return None
    cut = crop[y1 - top : y2 - top, x1 - left : x2 - left]
    return _tight(x1, y1, cut) if cut.any() else None


__all__ = ["AnnotatorCounts", "Mask", "ScriptedAnnotator", "Sloppiness", "TruthObject"]
