"""What CVAT knows of the tasks that shall be adopted."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath

from labelprop_cvat.backend.cvat import Annotations, CVATClient, DataMeta, Job, Label, NotFound, ServerFailure, Task
from labelprop_cvat.errors import ConfigurationError, DataError


@dataclass(frozen=True)
class FoundTask:
    """A task as it is in CVAT.

    Args:
        task: the task
        labels: its own, or those of its project
        meta: its frames
        jobs: its annotation jobs by first frame; they may share frames
    """

    task: Task
    labels: tuple[Label, ...]
    meta: DataMeta
    jobs: tuple[Job, ...]

    @property
    def is_video(self) -> bool:
        """Whether its frames are those of one video file."""
        return self.task.mode == "interpolation"

    @property
    def step(self) -> int:
        """Every so-manieth frame of the video is in the task."""
        name, _, value = self.meta.frame_filter.partition("=")
        return int(value) if name.strip() == "step" and value.strip().isdecimal() and int(value) else 1

    @property
    def shares_frames(self) -> bool:
        """Whether neighbouring jobs have frames in common, so that CVAT cuts tracks and joins them again."""
        return self.task.overlap > 0 and len(self.jobs) > 1

    @property
    def is_whole(self) -> bool:
        """Whether the task has all frames of its video from the first one on."""
        return self.meta.start_frame == 0 and self.step == 1

    def number_in_video(self, frame: int) -> int:
        """FiftyOne's 1-based number, in the file that was uploaded, of a frame of the task."""
        return self.meta.start_frame + frame * self.step + 1

    def file_name(self, frame: int = 0) -> str:
        """What CVAT calls the file of a frame; it may have folders."""
        return self.meta.frames[0 if self.is_video else frame].name

    def frames(self) -> list[int]:
        """The frames that people did not delete; 0-based, as CVAT counts them in the task."""
        deleted = set(self.meta.deleted_frames)
        return [frame for frame in range(self.task.size) if frame not in deleted]

    def __str__(self) -> str:
        return f"task {self.task.id} ({self.task.name})"


def find_tasks(
    client: CVATClient,
    *,
    task_ids: int | Iterable[int] | None = None,
    project_id: int | None = None,
    project_name: str | None = None,
) -> list[FoundTask]:
    """Reads the tasks to adopt.

    Args:
        client: connection to the server
        task_ids: their numbers
        project_id: or the project whose tasks they are
        project_name: or its name

    Returns:
        the tasks, in the order given or by number

    Raises:
        ConfigurationError: not exactly one of the three was given, or CVAT does not have it
        DataError: a task has no frames, or there is no task
    """
    given = [value for value in (task_ids, project_id, project_name) if value is not None]
    if len(given) != 1:
        raise ConfigurationError(
            f"Say which tasks to adopt by one of task_ids, project_id and project_name, got {len(given)} of them."
        )
    if task_ids is not None:
        numbers = [int(number) for number in ([task_ids] if isinstance(task_ids, int | str) else task_ids)]
        return [_found(client, _task(client, number)) for number in dict.fromkeys(numbers)]
    if project_id is None:
        project = client.find_project(str(project_name))
        if project is None:
            raise ConfigurationError(
                f"CVAT at {client.url} has no project {project_name!r} that this login can see. Check the name, and "
                f"`organization` where it belongs to one."
            )
        project_id = project.id
    tasks = client.project_tasks(project_id)
    if not tasks:
        raise DataError(
            f"Project {project_id} has no task that this login can see; there is nothing to adopt. Try as its owner."
        )
    return [_found(client, task) for task in tasks]


def _task(client: CVATClient, number: int) -> Task:
    try:
        return client.task(number)
    except NotFound as error:
        raise ConfigurationError(
            f"CVAT at {client.url} has no task {number} that this login can see. Check the number, and `organization` "
            f"where it belongs to one."
        ) from error


def _found(client: CVATClient, task: Task) -> FoundTask:
    if not task.size:
        raise DataError(
            f"Task {task.id} ({task.name}) has no frames in CVAT. Upload its images there, or leave it out of task_ids."
        )
    meta = client.data_meta(task_id=task.id)
    return FoundTask(task, tuple(client.labels(task.id)), meta, tuple(client.jobs(task.id)))


def all_labels(tasks: Iterable[FoundTask]) -> list[Label]:
    """The labels of several tasks, each name once, with every attribute that it has in any of them."""
    united: dict[str, Label] = {}
    for label in (label for found in tasks for label in found.labels):
        known = united.get(label.name)
        if known is None:
            united[label.name] = label
            continue
        names = {attribute.name for attribute in known.attributes}
        more = tuple(attribute for attribute in label.attributes if attribute.name not in names)
        kind = known.type if known.type == label.type else "any"
        united[label.name] = Label(
            known.id, known.name, kind, known.color, known.attributes + more, known.sublabels or label.sublabels
        )
    return list(united.values())


@dataclass(frozen=True)
class Content:
    """What people drew in one job."""

    job: Job
    annotations: Annotations


def contents(client: CVATClient, found: FoundTask) -> list[Content]:
    """Reads the annotations of a task's jobs."""
    return [Content(job, client.annotations(job_id=job.id)) for job in found.jobs]


@dataclass(frozen=True)
class Summary:
    """What there is in a task, without its geometry.

    Args:
        kinds: how many there are of each of CVAT's shape types; tags are ``"tag"``, a track counts once
        shape_labels: ids of the labels of shapes that belong to no track
        has_tracks: whether there is a track
    """

    kinds: Counter[str]
    shape_labels: frozenset[int]
    has_tracks: bool = False


def summary(client: CVATClient, found: FoundTask) -> Summary:
    """Reads what kinds of things people drew in a task, job by job."""
    kinds: Counter[str] = Counter()
    labels: set[int] = set()
    has_tracks = False
    for job in found.jobs:
        held = client.annotations(job_id=job.id)
        has_tracks = has_tracks or bool(held["tracks"])
        kinds["tag"] += len(held["tags"])
        kinds.update(str(shape["type"]) for shape in held["shapes"])
        kinds.update(str(track["shapes"][0]["type"]) for track in held["tracks"] if track["shapes"])
        labels.update(int(shape["label_id"]) for shape in held["shapes"])
    return Summary(+kinds, frozenset(labels), has_tracks)


def joined_tracks(client: CVATClient, found: FoundTask, held: Sequence[Content]) -> list[list[str]]:
    """Tracks of neighbouring jobs that CVAT takes for one where the jobs share frames.

    Returns:
        lists of two and more keys ``"track:<id>"``, by first frame
    """
    try:
        whole = client.annotations(task_id=found.task.id)
    except ServerFailure:
        # CVAT fails here on mask tracks; each part is then an object of its own.
        return []
    owner = {shape.get("id"): place for place, track in enumerate(whole["tracks"]) for shape in track["shapes"]}
    owner.pop(None, None)
    groups: dict[int, list[str]] = {}
    for content in held:
        for track in content.annotations["tracks"]:
            places = {owner[shape["id"]] for shape in track["shapes"] if shape.get("id") in owner}
            if places:
                groups.setdefault(min(places), []).append(f"track:{track['id']}")
    return [keys for keys in groups.values() if len(keys) > 1]


def base_name(name: str) -> str:
    """The last part of a name that may have folders, of any system."""
    return PurePosixPath(name.replace("\\", "/")).name


__all__ = [
    "Content",
    "FoundTask",
    "Summary",
    "all_labels",
    "base_name",
    "contents",
    "find_tasks",
    "joined_tracks",
    "summary",
]
