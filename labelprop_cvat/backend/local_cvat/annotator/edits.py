"""A job open in CVAT's web page, and what somebody does there with single objects.

Each edit does to the annotations what CVAT 2.54's web page was seen to do: an object that is changed keeps its id and
the ids of keyframes that are not touched, one that is split, merged or brought back by undo gets new ones, a copy keeps
its attributes, a new object has its label's defaults. :meth:`JobPage.save` sends what changed, as the page does: never
the whole job.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from types import TracebackType
from typing import Any

from labelprop_cvat.backend.cvat import (
    CVATClient,
    Issue,
    Job,
    Label,
    LabelMap,
    NotFound,
    PermissionRefused,
    mask_to_points,
)
from labelprop_cvat.backend.cvat.annotations import KINDS, Annotations, empty, objects
from labelprop_cvat.backend.cvat.models import Attribute
from labelprop_cvat.backend.interpolation import TrackShape, Way, shown
from labelprop_cvat.errors import DataError

from .content import edited_source
from .truth import Box, Mask

#: A tag, shape or track, as CVAT gives it; a keyframe of a track likewise.
Item = dict[str, Any]


class JobPage:
    """A job, as it is open in somebody's browser. In a ``with`` statement it is saved at the end.

    What edits take and return are the page's own objects, or copies of them with an id; :meth:`save` brings them up to
    date, with the ids that the server gave.

    Args:
        client: a login that may edit the job, such as its assignee's
        job_id: the job
        index_attribute: the attribute that holds an object's number

    Attributes:
        annotations: what the page shows, saved or not
        job: the job
        task_name: name of its task; empty where this login may not read the task, as a job's assignee may not
        labels: the labels that objects may have
        meta: names and sizes of the job's frames
        deleted_frames: numbers of the frames that are deleted
    """

    def __init__(self, client: CVATClient, job_id: int, *, index_attribute: str = "index") -> None:
        self.client = client
        self.job = client.job(job_id)
        self.task_name = _task_name(client, self.job)
        self.labels = LabelMap(client.labels(job_id=job_id))
        self.meta = client.data_meta(job_id=job_id)
        self.deleted_frames = set(self.meta.deleted_frames)
        self._index_attribute = index_attribute
        self.annotations: Annotations = client.annotations(job_id=job_id)
        self._saved = copy.deepcopy(self.annotations)

    def __enter__(self) -> JobPage:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self.save()

    # What is there

    @property
    def shapes(self) -> list[Item]:
        return list(self.annotations["shapes"])

    @property
    def tracks(self) -> list[Item]:
        return list(self.annotations["tracks"])

    def track(self, index: int, label: str | None = None) -> Item:
        """The first track with a number.

        Raises:
            DataError: there is none
        """
        return self._first("track", self.annotations["tracks"], index, label)

    def shape(self, index: int, frame: int, label: str | None = None) -> Item:
        """The first shape with a number on a frame.

        Raises:
            DataError: there is none
        """
        here = [shape for shape in self.annotations["shapes"] if shape["frame"] == frame]
        return self._first(f"shape on frame {frame}", here, index, label)

    def _first(self, what: str, items: Sequence[Item], index: int, label: str | None) -> Item:
        for item in items:
            if self.index_of(item) == index and label in (None, self.label_of(item).name):
                return item
        numbers = sorted({self.index_of(item) for item in items})
        raise DataError(f"Job {self.job.id} has no {what} of object {index}; its objects there are {numbers}.")

    def label_of(self, item: Mapping[str, Any]) -> Label:
        """The label of an object."""
        return self.labels.by_id(item["label_id"])

    def value_of(self, item: Mapping[str, Any], name: str) -> str | None:
        """The value of an attribute: of a mutable one of a track that of its first keyframe; None without it."""
        specs = {attribute.id for attribute in self.label_of(item).attributes if attribute.name == name}
        keyframes: Sequence[Item] = item.get("shapes") or [{}]
        for entry in (*(item.get("attributes") or ()), *(keyframes[0].get("attributes") or ())):
            if entry["spec_id"] in specs:
                return str(entry["value"])
        return None

    def index_of(self, item: Mapping[str, Any]) -> int:
        """The number of an object; 0 where it has none yet."""
        value = self.value_of(item, self._index_attribute) or "0"
        return int(value) if value.isdecimal() else 0

    def seen(self, track: Item, frame: int) -> Item | None:
        """What the page shows of a track on a frame, as a keyframe without id; None where it shows nothing."""
        keyframes = _keyframes(self._own("tracks", track))
        shape_type = str(keyframes[0]["type"])
        found = shown([_track_shape(keyframe) for keyframe in keyframes], shape_type, [frame]).get(frame)
        if found is None:
            return None
        return {**_before(keyframes, frame), "frame": frame, "points": list(found.points), "rotation": found.rotation}

    def frame_name(self, frame: int) -> str:
        """The name of a frame; ``frame_000000`` for the first of a task that shows a video."""
        return f"frame_{frame:06d}" if self._is_video else self.meta.frames[frame - self.job.start_frame].name

    def size_of(self, frame: int) -> tuple[int, int]:
        """``(height, width)`` of a frame, pixels."""
        _, width, height = self.meta.frames[0 if self._is_video else frame - self.job.start_frame]
        return height, width

    @property
    def _is_video(self) -> bool:
        return self.job.mode == "interpolation"

    # Geometry

    def redraw(self, item: Item, points: Sequence[float], frame: int | None = None) -> Item:
        """Gives a shape other points, or a track on a frame: on a keyframe these, elsewhere a keyframe is added.

        Args:
            item: the shape or track
            points: CVAT's numbers, pixels
            frame: of a track; it is shown there afterwards
        """
        if "shapes" not in item:
            own = self._own("shapes", item)
            own.update(points=_floats(points), source=edited_source(own["source"]))
            return own
        own = self._own("tracks", item)
        keyframe = self._keyframe(own, frame)
        keyframe.update(points=_floats(points), outside=False)
        if keyframe["type"] == "rectangle" and keyframe["rotation"]:
            keyframe["rotation"] = 0.0
        return self._edited(own)

    def move_box(self, track: Item, frame: int, box: Box) -> Item:
        """Moves or resizes a box to ``(x1, y1, x2, y2)``, pixels."""
        return self.redraw(track, box, frame)

    def drag_point(self, track: Item, frame: int, number: int, point: tuple[float, float]) -> Item:
        """Drags one point of an outline, counted from 0, somewhere else; pixels."""
        there = self.seen(track, frame)
        if there is None or not 0 <= number < len(there["points"]) // 2:
            raise DataError(f"On frame {frame} the track shows no point {number}; drag one that is there.")
        points = [*there["points"]]
        points[2 * number : 2 * number + 2] = point
        return self.redraw(track, points, frame)

    def brush_mask(self, shape: Item, mask: Mask | Sequence[float]) -> Item:
        """Gives a mask other pixels."""
        return self.redraw(shape, _mask_points(mask))

    def set_outside(self, track: Item, frame: int, outside: bool = True) -> Item:
        """Hides a track from a frame to its next keyframe, or shows it again."""
        own = self._own("tracks", track)
        self._keyframe(own, frame)["outside"] = outside
        return self._edited(own)

    def set_occluded(self, item: Item, frame: int | None = None, occluded: bool = True) -> Item:
        """Says that an object is partly hidden; of a track from a frame on."""
        own = self._own_object(item)
        (self._keyframe(own, frame) if "shapes" in own else own)["occluded"] = occluded
        return self._edited(own)

    def remove_keyframe(self, track: Item, frame: int) -> Item:
        """Takes a keyframe away.

        Raises:
            DataError: there is none on that frame, or it is the only one
        """
        own = self._own("tracks", track)
        kept = [keyframe for keyframe in own["shapes"] if keyframe["frame"] != frame]
        if not kept or len(kept) == len(own["shapes"]):
            there = sorted(keyframe["frame"] for keyframe in own["shapes"])
            raise DataError(f"Keyframes are on frames {there}; one of several can be taken away, not that on {frame}.")
        own.update(shapes=kept, frame=min(keyframe["frame"] for keyframe in kept))
        return own

    # Labels, attributes, groups

    def relabel(self, item: Item, label: str) -> Item:
        """Gives an object another label. A track loses all of its attributes to the label's defaults, also its number;
        a shape or tag keeps those of the same name."""
        own = self._own_object(item)
        new = self.labels.label(label)
        if "shapes" in own:
            own["attributes"] = _defaults(new, lambda attribute: not attribute.mutable)
            for keyframe in own["shapes"]:
                keyframe["attributes"] = _defaults(new, lambda attribute: attribute.mutable)
        else:
            values = {attribute.name: self.value_of(own, attribute.name) for attribute in self.label_of(own).attributes}
            own["attributes"] = [
                {**entry, "value": values.get(attribute.name) or entry["value"]}
                for attribute, entry in zip(new.attributes, _defaults(new), strict=True)
            ]
        own["label_id"] = new.id
        return own

    def set_attribute(self, item: Item, name: str, value: object, frame: int | None = None) -> Item:
        """Gives an attribute a value. A mutable one of a track gets it on a frame, where a keyframe is added.

        Raises:
            LabelMissing: the object's label has no such attribute
            DataError: a mutable attribute of a track needs a frame
        """
        own = self._own_object(item)
        attribute = self.label_of(own).attribute(name)
        holder = self._keyframe(own, frame) if "shapes" in own and attribute.mutable else own
        values = {entry["spec_id"]: entry["value"] for entry in holder["attributes"]}
        holder["attributes"] = [
            {"spec_id": spec, "value": held} for spec, held in {**values, attribute.id: str(value)}.items()
        ]
        return own

    def set_index(self, item: Item, index: int) -> Item:
        """Gives an object a number."""
        return self.set_attribute(item, self._index_attribute, index)

    def set_verdict(self, item: Item, verdict: str) -> Item:
        """Says what a reviewer thinks of an object."""
        return self.set_attribute(item, "verdict", verdict)

    def group(self, items: Iterable[Item], number: int) -> None:
        """Puts objects into a group, 0 for none."""
        for item in items:
            self._own_object(item)["group"] = number

    # New, gone, and the same under other ids

    def draw_track(
        self, label: str, frame: int, points: Sequence[float], shape_type: str = "rectangle", index: int | None = None
    ) -> Item:
        """Draws an object that was not there, on one frame; without a number unless one is given afterwards."""
        spec = self.labels.label(label)
        keyframe = {
            **_geometry(shape_type, frame, points),
            "attributes": _defaults(spec, lambda attribute: attribute.mutable),
        }
        track = {
            **_identity(spec, frame, _defaults(spec, lambda attribute: not attribute.mutable)),
            "shapes": [keyframe],
            "elements": [],
        }
        self.annotations["tracks"].append(track)
        return track if index is None else self.set_index(track, index)

    def draw_shape(
        self, label: str, frame: int, points: Sequence[float], shape_type: str = "rectangle", index: int | None = None
    ) -> Item:
        """Draws a shape that is on one frame only."""
        spec = self.labels.label(label)
        shape = {**_identity(spec, frame, _defaults(spec)), **_geometry(shape_type, frame, points), "elements": []}
        self.annotations["shapes"].append(shape)
        return shape if index is None else self.set_index(shape, index)

    def draw_mask(self, label: str, frame: int, mask: Mask | Sequence[float], index: int | None = None) -> Item:
        """Draws a mask."""
        return self.draw_shape(label, frame, _mask_points(mask), "mask", index)

    def copy_track(self, track: Item, frame: int, points: Sequence[float] | None = None) -> Item:
        """Makes a copy with all attributes, also the number, and one keyframe, here or where it is dragged to."""
        own = self._own("tracks", track)
        there = self.seen(own, frame)
        if there is None:
            raise DataError(f"On frame {frame} the track shows nothing to copy; copy it where it is seen.")
        if points is not None:
            there["points"] = _floats(points)
        made = _anew(own, [there])
        self.annotations["tracks"].append(made)
        return made

    def propagate_mask(self, shape: Item, frames: Iterable[int]) -> list[Item]:
        """Puts a mask onto other frames as well, deleted or not, with all of its attributes, also the number."""
        own = self._own("shapes", shape)
        made = [{**_without_id(own), "frame": int(frame), "group": 0} for frame in frames]
        self.annotations["shapes"] += made
        return made

    def delete(self, item: Item) -> None:
        """Deletes an object."""
        kind = _kind(item)
        own = self._own_object(item)
        self.annotations[kind] = [there for there in self.annotations[kind] if there is not own]

    def delete_and_undo(self, item: Item) -> Item:
        """Deletes an object and brings it back: the same under new ids."""
        own = self._own_object(item)
        self.delete(own)
        back = _without_id(own)
        self.annotations[_kind(item)].append(back)
        return back

    def split(self, track: Item, frame: int) -> tuple[Item, Item]:
        """Makes two tracks of one: the first ends before the frame, the second begins on it.

        Raises:
            DataError: the track is not seen there, or begins there
        """
        own = self._own("tracks", track)
        keyframes = _keyframes(own)
        there = self.seen(own, frame)
        if there is None or keyframes[0]["frame"] >= frame:
            raise DataError(f"A track is split on a frame where it is seen and was seen before; that is not {frame}.")
        first = [keyframe for keyframe in keyframes if keyframe["frame"] < frame]
        second = [keyframe for keyframe in keyframes if keyframe["frame"] > frame]
        parts = (_anew(own, [*first, {**there, "outside": True}]), _anew(own, [there, *second]))
        self.delete(own)
        self.annotations["tracks"] += parts
        return parts

    def merge(self, first: Item, second: Item) -> Item:
        """Makes one track of two; label and attributes are those of the one that is clicked on first.

        Raises:
            DataError: both are seen on a frame that is a keyframe of both, which the page refuses
        """
        one, other = self._own("tracks", first), self._own("tracks", second)
        united = {int(keyframe["frame"]): keyframe for keyframe in one["shapes"]}
        for keyframe in other["shapes"]:
            frame = int(keyframe["frame"])
            before = united.get(frame)
            if before is not None and not before["outside"] and not keyframe["outside"]:
                raise DataError(f"Both tracks are seen on frame {frame}, a keyframe of both; CVAT does not merge them.")
            if before is None or before["outside"]:
                united[frame] = keyframe
        same_label = one["label_id"] == other["label_id"]
        kept = [united[frame] for frame in sorted(united)]
        while len(kept) > 1 and kept[0]["outside"]:
            del kept[0]
        made = _anew(one, kept)
        if not same_label:
            for keyframe in made["shapes"]:
                keyframe["attributes"] = _defaults(self.label_of(one), lambda attribute: attribute.mutable)
        self.delete(one)
        self.delete(other)
        self.annotations["tracks"].append(made)
        return made

    # Frames and issues

    def delete_frame(self, frame: int) -> None:
        """Deletes a frame; what is drawn on it stays."""
        self.deleted_frames.add(frame)

    def restore_frame(self, frame: int) -> None:
        """Brings a deleted frame back."""
        self.deleted_frames.discard(frame)

    def issues(self) -> list[Issue]:
        """The job's issues, oldest first."""
        return self.client.issues(self.job.id)

    def resolve_issue(self, issue: Issue | int, resolved: bool = True) -> Issue:
        """Resolves an issue at once, or opens it again; the page does not wait for Save with these."""
        return self.client.resolve_issue(issue if isinstance(issue, int) else issue.id, resolved)

    # Saving

    def save(self) -> None:
        """Sends what changed: new objects, changed ones, gone ones, and which frames are deleted. The first Save turns
        a new job into one in progress; another state, also "completed", stays."""
        new, changed, gone = self._changes()
        fresh = [(kind, item) for kind, item in objects(self.annotations) if "id" not in item]
        if fresh:
            made = self.client.create_annotations(new, job_id=self.job.id)
            for (_, item), (_, answer) in zip(fresh, objects(made), strict=True):
                item["id"] = answer["id"]
        if any(True for _ in objects(changed)):
            self.client.update_annotations(changed, job_id=self.job.id)
        if any(True for _ in objects(gone)):
            self.client.delete_annotations(gone, job_id=self.job.id)
        self.client.set_deleted_frames(self.deleted_frames, job_id=self.job.id)
        self.job = self.client.job(self.job.id)
        if self.job.state == "new":
            self.job = self.client.update_job(self.job.id, state="in progress")
        self._refresh()

    def finish(self) -> None:
        """Saves, and sets the job to completed; its stage stays."""
        self.save()
        self.complete()

    def complete(self) -> None:
        """Sets the job to completed as it was saved."""
        self.job = self.client.update_job(self.job.id, state="completed")

    def _changes(self) -> tuple[Annotations, Annotations, Annotations]:
        before = {(kind, item["id"]): item for kind, item in objects(self._saved)}
        new, changed, gone = empty(), empty(), empty()
        for kind, item in objects(self.annotations):
            if "id" not in item:
                new[kind].append(item)
            elif before[kind, item["id"]] != item:
                changed[kind].append(item)
        there = {(kind, item.get("id")) for kind, item in objects(self.annotations)}
        for (kind, number), item in before.items():
            if (kind, number) not in there:
                gone[kind].append(item)
        return new, changed, gone

    def _refresh(self) -> None:
        """Reads what is there now; objects that callers hold stay the page's own."""
        answer = self.client.annotations(job_id=self.job.id)
        own = {(kind, item["id"]): item for kind, item in objects(self.annotations)}
        for kind in KINDS:
            for place, item in enumerate(answer[kind]):
                held = own.get((kind, item["id"]))
                if held is not None:
                    held.clear()
                    held.update(item)
                    answer[kind][place] = held
        self.annotations = answer
        self._saved = copy.deepcopy(answer)

    # How it is done

    def _own_object(self, item: Mapping[str, Any]) -> Item:
        return self._own(_kind(item), item)

    def _own(self, kind: str, item: Mapping[str, Any]) -> Item:
        """The page's own object for one that somebody holds."""
        for there in self.annotations[kind]:
            if there is item or ("id" in item and there.get("id") == item["id"]):
                found: Item = there
                return found
        raise DataError(f"Job {self.job.id} has none of this in its {kind}: it is gone, or in another job.")

    def _keyframe(self, track: Item, frame: int | None) -> Item:
        """The keyframe of a track on a frame; made of what would be there where there is none."""
        if frame is None or frame not in self.job.frames:
            raise DataError(f"A track is edited on a frame of the job ({self.job.frames}), got {frame}.")
        keyframes = _keyframes(track)
        for keyframe in keyframes:
            if keyframe["frame"] == frame:
                return keyframe
        made = _between(keyframes, frame)
        track["shapes"] = sorted([*keyframes, made], key=lambda keyframe: int(keyframe["frame"]))
        track["frame"] = track["shapes"][0]["frame"]
        return made

    def _edited(self, item: Item) -> Item:
        item["source"] = edited_source(item["source"])
        return item


def _task_name(client: CVATClient, job: Job) -> str:
    try:
        return client.task(job.task_id).name
    except (PermissionRefused, NotFound):
        return ""


def _kind(item: Mapping[str, Any]) -> str:
    if "shapes" in item:
        return "tracks"
    return "shapes" if "type" in item else "tags"


def _keyframes(track: Mapping[str, Any]) -> list[Item]:
    return sorted(track["shapes"], key=lambda keyframe: int(keyframe["frame"]))


def _track_shape(keyframe: Mapping[str, Any]) -> TrackShape:
    points = tuple(float(point) for point in keyframe["points"])
    return TrackShape(int(keyframe["frame"]), points, bool(keyframe["outside"]), float(keyframe["rotation"]))


def _before(keyframes: Sequence[Item], frame: int) -> Item:
    """The last keyframe up to a frame, or the first one, as a copy without id."""
    earlier = [keyframe for keyframe in keyframes if keyframe["frame"] <= frame]
    return _without_id(earlier[-1] if earlier else keyframes[0])


def _between(keyframes: Sequence[Item], frame: int) -> Item:
    """What would be on a frame that is no keyframe, seen or hidden."""
    made = {**_before(keyframes, frame), "frame": frame}
    earlier = [keyframe for keyframe in keyframes if keyframe["frame"] < frame]
    later = [keyframe for keyframe in keyframes if keyframe["frame"] > frame]
    if not earlier:
        return {**made, "outside": True}
    if later and made["type"] != "mask":
        moved = Way(_track_shape(earlier[-1]), _track_shape(later[0]), made["type"]).at(frame)
        made.update(points=list(moved.points), rotation=moved.rotation)
    return made


def _without_id(item: Mapping[str, Any]) -> Item:
    copied = copy.deepcopy({name: value for name, value in item.items() if name != "id"})
    for name in ("shapes", "elements"):
        if copied.get(name):
            copied[name] = [_without_id(part) for part in copied[name]]
    return copied


def _anew(track: Mapping[str, Any], keyframes: Sequence[Mapping[str, Any]]) -> Item:
    """A new track with the label and attributes of another, as splitting, merging and copying make it."""
    made = _without_id({**track, "shapes": list(keyframes), "group": 0, "source": "manual"})
    made["frame"] = min(int(keyframe["frame"]) for keyframe in keyframes)
    return made


def _floats(points: Sequence[float]) -> list[float]:
    return [float(point) for point in points]


def _mask_points(mask: Mask | Sequence[float]) -> list[float]:
    return _floats(mask) if isinstance(mask, Sequence) else _floats(mask_to_points(mask.x, mask.y, mask.crop))


def _geometry(shape_type: str, frame: int, points: Sequence[float]) -> Item:
    return {
        "type": shape_type,
        "frame": frame,
        "points": _floats(points),
        "occluded": False,
        "outside": False,
        "z_order": 0,
        "rotation": 0.0,
    }


def _identity(label: Label, frame: int, attributes: Collection[Item]) -> Item:
    return {"label_id": label.id, "frame": frame, "group": 0, "source": "manual", "attributes": list(attributes)}


def _defaults(label: Label, of: Callable[[Attribute], bool] = lambda attribute: True) -> list[Item]:
    return [
        {"spec_id": attribute.id, "value": attribute.default_value} for attribute in label.attributes if of(attribute)
    ]


__all__ = ["Item", "JobPage"]
