"""What a CVAT server holds, as frozen values.

Each ``from_json`` takes an object of the server's JSON and ignores what it does not know, so that older and newer
servers parse alike; a missing required key raises :class:`~labelprop_cvat.backend.cvat.errors.NotCVAT`.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias, TypeVar

from labelprop_cvat.backend.cvat.errors import Invalid, LabelMissing, NotCVAT

JSONObject: TypeAlias = Mapping[str, Any]
T = TypeVar("T")

_NOT_IN_NAMES = frozenset({"Cc", "Cs", "Zl", "Zp"})
"""Unicode categories: control characters, halves of characters, ends of lines and paragraphs."""
INPUT_TYPES = ("checkbox", "radio", "number", "text", "select")
LABEL_TYPES = (
    "any", "cuboid", "ellipse", "mask", "points", "polygon", "polyline", "rectangle", "skeleton", "tag",
)  # fmt: skip


def parsed(what: str, make: Callable[[JSONObject], T], data: object) -> T:
    """Applies ``make`` to a JSON object of the server.

    Raises:
        NotCVAT: the object is not one, lacks a key, or a value has the wrong type
    """
    if not isinstance(data, Mapping):
        raise NotCVAT(f"Expected {what} as a JSON object, the server sent {type(data).__name__}.")
    try:
        return make(data)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise NotCVAT(
            f"Expected {what}, but the server's answer does not have its form ({type(error).__name__}: {error}). Is "
            f"this a CVAT server of version 2?"
        ) from error


def _time(value: str | None) -> datetime | None:
    return None if value is None else datetime.fromisoformat(value.replace("Z", "+00:00"))


def _user_or_none(value: JSONObject | None) -> User | None:
    return None if value is None else User.from_json(value)


@dataclass(frozen=True)
class ServerAbout:
    """Name and version of a server; ``version`` is "" where the server hides it."""

    name: str
    version: str

    @classmethod
    def from_json(cls, data: JSONObject) -> ServerAbout:
        return parsed("server/about", lambda d: cls(str(d["name"]), str(d["version"])), data)


@dataclass(frozen=True)
class User:
    """A user account."""

    id: int
    username: str

    @classmethod
    def from_json(cls, data: JSONObject) -> User:
        return parsed("a user", lambda d: cls(int(d["id"]), str(d["username"])), data)


@dataclass(frozen=True)
class Project:
    """A project."""

    id: int
    name: str
    owner: User | None

    @classmethod
    def from_json(cls, data: JSONObject) -> Project:
        def make(d: JSONObject) -> Project:
            return cls(int(d["id"]), str(d["name"]), _user_or_none(d.get("owner")))

        return parsed("a project", make, data)


@dataclass(frozen=True)
class Task:
    """A task.

    Attributes:
        bug_tracker: free text; holds the marker that ``create_task`` was given
        size: number of frames; 0 while no data is in
        data_id: number of the server's record of the upload; None when no upload was ever begun
        segment_size: frames a job, 0 when not set
    """

    id: int
    name: str
    project_id: int | None
    owner: User | None
    assignee: User | None
    bug_tracker: str
    segment_size: int
    overlap: int
    size: int
    data_id: int | None
    mode: str
    created_date: datetime | None
    updated_date: datetime | None

    @classmethod
    def from_json(cls, data: JSONObject) -> Task:
        def make(d: JSONObject) -> Task:
            return cls(
                id=int(d["id"]),
                name=str(d["name"]),
                project_id=d.get("project_id"),
                owner=_user_or_none(d.get("owner")),
                assignee=_user_or_none(d.get("assignee")),
                bug_tracker=d.get("bug_tracker") or "",
                segment_size=int(d.get("segment_size") or 0),
                overlap=int(d.get("overlap") or 0),
                size=int(d.get("size") or 0),
                data_id=d.get("data"),
                mode=d.get("mode") or "",
                created_date=_time(d.get("created_date")),
                updated_date=_time(d.get("updated_date")),
            )

        return parsed("a task", make, data)


@dataclass(frozen=True)
class Job:
    """A job: the frames ``start_frame..stop_frame`` of a task, both inclusive.

    Attributes:
        stage: "annotation", "validation" or "acceptance"
        state: "new", "in progress", "completed" or "rejected"; completed jobs stay editable
        type: "annotation", "ground_truth" or "consensus_replica"
    """

    id: int
    task_id: int
    start_frame: int
    stop_frame: int
    stage: str
    state: str
    type: str
    assignee: User | None
    project_id: int | None
    created_date: datetime | None
    updated_date: datetime | None
    mode: str = ""

    @property
    def frames(self) -> range:
        """The frame numbers of the job, numbered as in its task."""
        return range(self.start_frame, self.stop_frame + 1)

    @classmethod
    def from_json(cls, data: JSONObject) -> Job:
        def make(d: JSONObject) -> Job:
            return cls(
                id=int(d["id"]),
                task_id=int(d["task_id"]),
                start_frame=int(d["start_frame"]),
                stop_frame=int(d["stop_frame"]),
                stage=str(d["stage"]),
                state=str(d["state"]),
                type=str(d.get("type") or "annotation"),
                assignee=_user_or_none(d.get("assignee")),
                project_id=d.get("project_id"),
                created_date=_time(d.get("created_date")),
                updated_date=_time(d.get("updated_date")),
                mode=d.get("mode") or "",
            )

        return parsed("a job", make, data)


@dataclass(frozen=True)
class Attribute:
    """An attribute of a label; its ``id`` is the ``spec_id`` of annotations.

    Attributes:
        mutable: True: a value per keyframe; False: one value per track or shape
    """

    id: int
    name: str
    mutable: bool
    input_type: str
    default_value: str
    values: tuple[str, ...]

    @classmethod
    def from_json(cls, data: JSONObject) -> Attribute:
        def make(d: JSONObject) -> Attribute:
            return cls(
                id=int(d["id"]),
                name=str(d["name"]),
                mutable=bool(d["mutable"]),
                input_type=str(d["input_type"]),
                default_value=str(d.get("default_value") or ""),
                values=tuple(str(v) for v in d.get("values") or ()),
            )

        return parsed("a label's attribute", make, data)


@dataclass(frozen=True)
class Label:
    """A label of a task or project. ``sublabels`` are the points of a skeleton."""

    id: int
    name: str
    type: str
    color: str
    attributes: tuple[Attribute, ...]
    sublabels: tuple[Label, ...] = ()

    @classmethod
    def from_json(cls, data: JSONObject) -> Label:
        def make(d: JSONObject) -> Label:
            return cls(
                id=int(d["id"]),
                name=str(d["name"]),
                type=str(d.get("type") or "any"),
                color=str(d.get("color") or ""),
                attributes=tuple(Attribute.from_json(a) for a in d.get("attributes") or ()),
                sublabels=tuple(cls.from_json(s) for s in d.get("sublabels") or ()),
            )

        return parsed("a label", make, data)

    def attribute(self, name: str) -> Attribute:
        """Finds an attribute by name.

        Raises:
            LabelMissing: there is none of that name
        """
        for attribute in self.attributes:
            if attribute.name == name:
                return attribute
        there = ", ".join(f'"{a.name}"' for a in self.attributes) or "none"
        raise LabelMissing(
            f'Label "{self.name}" has no attribute "{name}" on the server; it has {there}. '
            f"Add the attribute in CVAT or take it out of the label schema."
        )


class LabelMap:
    """The labels of a task by name, looked up once and up front.

    Example::

        labels = LabelMap(client.labels(task_id))
        labels.label("car").attribute("index").id
    """

    def __init__(self, labels: Iterable[Label]) -> None:
        self._labels = tuple(labels)
        self._by_name = {label.name: label for label in self._labels}
        self._by_id = {label.id: label for top in self._labels for label in (top, *top.sublabels)}

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the top-level labels, in the server's order."""
        return tuple(self._by_name)

    def __iter__(self) -> Iterator[Label]:
        return iter(self._labels)

    def __len__(self) -> int:
        return len(self._labels)

    def __contains__(self, name: object) -> bool:
        return name in self._by_name

    def label(self, name: str) -> Label:
        """Finds a label by name.

        Raises:
            LabelMissing: there is none of that name
        """
        found = self._by_name.get(name)
        if found is None:
            there = ", ".join(f'"{n}"' for n in self._by_name) or "no labels at all"
            raise LabelMissing(
                f'Label "{name}" is missing on the server, which has {there}. '
                f"Was it renamed or deleted in CVAT? Rename it back, or change `classes`."
            )
        return found

    def by_id(self, label_id: int) -> Label:
        """Finds a label or sublabel by the server's id.

        Raises:
            LabelMissing: the id is unknown
        """
        found = self._by_id.get(label_id)
        if found is None:
            there = ", ".join(f'{label.id} ("{label.name}")' for label in self._by_id.values()) or "no labels at all"
            raise LabelMissing(f"No label has id {label_id!r} on the server, which has {there}.")
        return found


class Frame(NamedTuple):
    """Name and size of a frame."""

    name: str
    width: int
    height: int


@dataclass(frozen=True)
class DataMeta:
    """The frames of a task or a job.

    Attributes:
        start_frame: number of the first frame, counted as in the task; of a video as in its file
        stop_frame: number of the last frame, inclusive, counted likewise
        frames: name and size, ``frames[0]`` is ``start_frame``; a video has one entry for all of its frames
        deleted_frames: numbers of frames that people removed, counted as in the task; annotations on them stay
    """

    size: int
    start_frame: int
    stop_frame: int
    frames: tuple[Frame, ...]
    deleted_frames: tuple[int, ...]
    chunk_size: int | None = None
    image_quality: int | None = None
    frame_filter: str = ""

    @classmethod
    def from_json(cls, data: JSONObject) -> DataMeta:
        def make(d: JSONObject) -> DataMeta:
            return cls(
                size=int(d["size"]),
                start_frame=int(d["start_frame"]),
                stop_frame=int(d["stop_frame"]),
                frames=tuple(Frame(str(f["name"]), int(f["width"]), int(f["height"])) for f in d["frames"] or ()),
                deleted_frames=tuple(int(f) for f in d.get("deleted_frames") or ()),
                chunk_size=d.get("chunk_size"),
                image_quality=d.get("image_quality"),
                frame_filter=d.get("frame_filter") or "",
            )

        return parsed("data/meta", make, data)


@dataclass(frozen=True)
class Comment:
    """A comment on an issue."""

    id: int
    issue_id: int
    owner: User | None
    message: str
    created_date: datetime | None

    @classmethod
    def from_json(cls, data: JSONObject) -> Comment:
        def make(d: JSONObject) -> Comment:
            owner = _user_or_none(d.get("owner"))
            return cls(int(d["id"]), int(d["issue"]), owner, str(d["message"]), _time(d.get("created_date")))

        return parsed("a comment", make, data)


@dataclass(frozen=True)
class Issue:
    """A reviewer's remark.

    Attributes:
        position: ``(x, y)`` or ``(x1, y1, x2, y2)`` or more points, flat, pixels
        comments: oldest first; the first is the issue's own message
    """

    id: int
    job_id: int
    frame: int
    position: tuple[float, ...]
    resolved: bool
    owner: User | None
    created_date: datetime | None
    comments: tuple[Comment, ...] = ()

    @classmethod
    def from_json(cls, data: JSONObject, comments: Iterable[Comment] = ()) -> Issue:
        def make(d: JSONObject) -> Issue:
            return cls(
                id=int(d["id"]),
                job_id=int(d["job"]),
                frame=int(d["frame"]),
                position=tuple(float(p) for p in d["position"]),
                resolved=bool(d["resolved"]),
                owner=_user_or_none(d.get("owner")),
                created_date=_time(d.get("created_date")),
                comments=tuple(comments),
            )

        return parsed("an issue", make, data)


@dataclass(frozen=True)
class Request:
    """Work that the server does in the background.

    Attributes:
        status: "queued", "started", "finished" or "failed"
        message: what the server says about it; on failure the reason
        progress: in [0, 1]
    """

    id: str
    status: str
    message: str
    progress: float

    @classmethod
    def from_json(cls, data: JSONObject) -> Request:
        def make(d: JSONObject) -> Request:
            return cls(str(d["id"]), str(d["status"]), str(d.get("message") or ""), float(d.get("progress") or 0.0))

        return parsed("a request", make, data)

    @classmethod
    def from_status(cls, identity: str, data: JSONObject) -> Request:
        """From ``/api/tasks/{id}/status``, which is what servers before about 2.19 have."""

        def make(d: JSONObject) -> Request:
            return cls(identity, str(d["state"]).lower(), str(d.get("message") or ""), float(d.get("progress") or 0.0))

        return parsed("a task's status", make, data)


@dataclass(frozen=True)
class AttributeSpec:
    """An attribute to create.

    Args:
        name: 1 to 64 characters
        mutable: whether it may differ from keyframe to keyframe of a track
        input_type: one of checkbox, radio, number, text, select
        values: the choices of radio and select; ``(minimum, maximum, step)`` of number
        default_value: what a new object gets

    Raises:
        Invalid: the server would reject it
    """

    name: str
    mutable: bool = False
    input_type: str = "text"
    values: tuple[str, ...] = ()
    default_value: str = ""

    def __post_init__(self) -> None:
        object.__setattr__(self, "values", tuple(str(v) for v in self.values))
        object.__setattr__(self, "default_value", str(self.default_value))
        _check_name("attribute", self.name)
        if self.input_type not in INPUT_TYPES:
            raise Invalid(
                f'Attribute "{self.name}" needs an input type out of {", ".join(INPUT_TYPES)}, got "{self.input_type}".'
            )
        if self.input_type in ("radio", "select") and not self.values:
            raise Invalid(f'Attribute "{self.name}" of type {self.input_type} needs at least one value to choose from.')
        if self.input_type == "number" and len(self.values) != 3:
            raise Invalid(
                f'Attribute "{self.name}" of type number needs values (minimum, maximum, step), got {self.values}.'
            )

    def to_json(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "mutable": self.mutable,
            "input_type": self.input_type,
            "values": list(self.values),
            "default_value": self.default_value,
        }


@dataclass(frozen=True)
class Organization:
    """An organization, whose members share projects and tasks.

    Attributes:
        slug: its short name, unique on the server; what ``X-Organization`` takes
        name: what people call it
    """

    id: int
    slug: str
    name: str

    @classmethod
    def from_json(cls, data: JSONObject) -> Organization:
        def make(d: JSONObject) -> Organization:
            return cls(int(d["id"]), str(d["slug"]), str(d.get("name") or d["slug"]))

        return parsed("an organization", make, data)


@dataclass(frozen=True)
class LabelSpec:
    """A label to create.

    Args:
        name: 1 to 64 characters
        attributes: with unique names
        type: "any", or the one kind of shape that the label allows
        color: ``#rrggbb``; None leaves the choice to the server
        sublabels: of a skeleton its points, labels of type "points" with unique names
        svg: of a skeleton its drawing: circles and lines, whose circles name the points in ``data-label-name``

    Raises:
        Invalid: the server would reject it
    """

    name: str
    attributes: tuple[AttributeSpec, ...] = ()
    type: str = "any"
    color: str | None = None
    sublabels: tuple[LabelSpec, ...] = ()
    svg: str = ""

    def __post_init__(self) -> None:
        object.__setattr__(self, "attributes", tuple(self.attributes))
        object.__setattr__(self, "sublabels", tuple(self.sublabels))
        _check_name("label", self.name)
        names = [a.name for a in self.attributes]
        if len(set(names)) != len(names):
            raise Invalid(f'Label "{self.name}" needs attributes with different names, got {names}.')
        if self.type not in LABEL_TYPES:
            raise Invalid(f'Label "{self.name}" needs a type out of {", ".join(LABEL_TYPES)}, got "{self.type}".')
        if (self.type == "skeleton") is not bool(self.sublabels):
            raise Invalid(
                f'Label "{self.name}" is of type {self.type} and has {len(self.sublabels)} sublabels; a skeleton needs '
                f"some, and nothing else has any."
            )
        nodes = [sub.name for sub in self.sublabels]
        if len(set(nodes)) != len(nodes):
            raise Invalid(f'Label "{self.name}" needs points with different names, got {nodes}.')

    def to_json(self) -> dict[str, Any]:
        label: dict[str, Any] = {
            "name": self.name,
            "type": self.type,
            "attributes": [a.to_json() for a in self.attributes],
        }
        if self.sublabels:
            label |= {"sublabels": [sub.to_json() for sub in self.sublabels], "svg": self.svg}
        if self.color is not None:
            label["color"] = self.color
        return label


def _check_name(what: str, name: str) -> None:
    if not 1 <= len(name) <= 64:
        raise Invalid(f"The name of a CVAT {what} has 1 to 64 characters, got {len(name)}: {name[:80]!r}.")


@dataclass(frozen=True)
class UploadFile:
    """An image to upload.

    Args:
        name: the frame's name in the task; unique in it, without folders
        path: where the image is on disk

    Raises:
        Invalid: the name holds a folder or is empty
    """

    name: str
    path: Path

    def __post_init__(self) -> None:
        object.__setattr__(self, "path", Path(self.path))
        folder = "/" in self.name or "\\" in self.name or self.name in (".", "..")
        broken = any(unicodedata.category(c) in _NOT_IN_NAMES for c in self.name)
        if not self.name.strip() or folder or broken:
            raise Invalid(
                f"A frame's name has no folder, no line break and no other control character, and is not empty; got "
                f"{self.name[:80]!r}."
            )


__all__ = [
    "Attribute",
    "AttributeSpec",
    "Comment",
    "DataMeta",
    "Frame",
    "Issue",
    "Job",
    "Label",
    "LabelMap",
    "LabelSpec",
    "Organization",
    "Project",
    "Request",
    "ServerAbout",
    "Task",
    "UploadFile",
    "User",
    "parsed",
]
