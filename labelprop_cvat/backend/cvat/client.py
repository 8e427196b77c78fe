"""The verbs of CVAT's REST API that this package needs.

Reads repeat by themselves; writes are repeated only after a look at what the first attempt did, so that nothing is
doubled and nothing is lost when an answer is. Nothing is ever PUT into a job: annotations change by PATCH with ids.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from os import PathLike
from pathlib import Path
from types import EllipsisType, TracebackType
from typing import Any, Literal, TypeVar

from requests.adapters import BaseAdapter

from labelprop_cvat.backend.cvat.annotations import (
    KINDS,
    Annotations,
    by_job,
    check_deletion,
    check_keys,
    check_payload,
    empty,
    objects,
)
from labelprop_cvat.backend.cvat.chunks import images_of
from labelprop_cvat.backend.cvat.credentials import Credentials
from labelprop_cvat.backend.cvat.errors import Invalid, InvalidPayload, NotCVAT, NotFound, ServerFailure
from labelprop_cvat.backend.cvat.models import (
    Comment,
    DataMeta,
    Issue,
    Job,
    Label,
    LabelMap,
    LabelSpec,
    Organization,
    Project,
    ServerAbout,
    Task,
    UploadFile,
    User,
)
from labelprop_cvat.backend.cvat.session import RetryPolicy, Session
from labelprop_cvat.backend.cvat.upload import ImageUpload, Progress, UploadSettings
from labelprop_cvat.backend.cvat.video import VideoUpload
from labelprop_cvat.backend.cvat.writing import JobWriter, create_once

logger = logging.getLogger(__name__)

Numbered = TypeVar("Numbered", Project, Task, Issue)

PAGE_SIZE = 100
_MOST_PAGES = 10_000


class CVATClient:
    """A login to a CVAT server, made at the first call that needs it. Close it, or use it in a ``with`` statement.

    Args:
        url: address of the server, with or without a trailing slash, ``/api`` or a path prefix
        credentials: user name and password, or a token; kept in memory only
        headers: sent with every request
        organization: short name of the organization to work in; None for the personal workspace
        verify: True, False, or the path of a CA bundle
        timeout: seconds to connect, seconds to wait for (the next piece of) an answer
        deadline: seconds in which an answer must be there in all, and more for a large body to be sent; None for five
            times the second ``timeout``
        retry: how long to keep trying
        user_agent: None for this package's name and version
        adapter: carries the requests instead of the network

    Raises:
        ConfigurationError: the URL cannot be one of a server

    Every method raises :class:`~labelprop_cvat.backend.cvat.errors.CVATTransportError` when the server cannot be
    reached or does not answer, and a :class:`~labelprop_cvat.backend.cvat.errors.CVATRefusal` when it says no.
    """

    def __init__(
        self,
        url: str,
        credentials: Credentials,
        *,
        headers: Mapping[str, str] | None = None,
        organization: str | None = None,
        verify: bool | str = True,
        timeout: tuple[float, float] = (10.0, 120.0),
        deadline: float | None = None,
        retry: RetryPolicy | None = None,
        user_agent: str | None = None,
        adapter: BaseAdapter | None = None,
    ) -> None:
        self._session = Session(
            url,
            credentials,
            headers=headers,
            organization=organization,
            verify=verify,
            timeout=timeout,
            deadline=deadline,
            retry=retry,
            user_agent=user_agent,
            adapter=adapter,
        )
        self._me: User | None = None

    def __enter__(self) -> CVATClient:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"CVATClient({self.url!r}, username={self._session.username!r})"

    @property
    def url(self) -> str:
        """Address as it is used: without trailing slash, login and ``/api``; https where redirected."""
        return self._session.base

    def close(self) -> None:
        """Drops connections; other clients of the same account stay logged in."""
        self._session.close()

    # Server and users

    def about(self) -> ServerAbout:
        """Says what answers at the address; works without a login."""
        return self._session.about()

    def whoami(self) -> User:
        """Returns the user that is logged in."""
        if self._me is None:
            self._me = User.from_json(self._session.json("GET", "/api/users/self"))
        return self._me

    def find_user(self, username: str) -> User:
        """Finds a user by exact name.

        Raises:
            NotFound: there is none of that name, or this login may not see them
        """
        for data in self._pages("/api/users", {"search": username}):
            user = User.from_json(data)
            if user.username == username:
                return user
        raise NotFound(
            f'CVAT at {self.url} has no user "{username}" that {self._session.username or "this login"} can see. '
            f"Check the name; members of an organization are found only when it is set.",
            method="GET",
            path="/api/users",
        )

    def find_organization(self, name: str) -> Organization:
        """Finds an organization by its short name, or else by the name that people call it.

        Ask with a client that works in none: CVAT answers 404 to everything in an organization that it does not know.

        Raises:
            NotFound: this login is in none of that name
            Invalid: several are called so
        """
        path = "/api/organizations"
        # Searching on the server would look at one of the two names only, on some versions.
        everyone = [Organization.from_json(data) for data in self._pages(path, {})]
        found = [entry for entry in everyone if entry.slug == name] or [e for e in everyone if e.name == name]
        if len(found) > 1:
            slugs = ", ".join(sorted(f'"{entry.slug}"' for entry in found))
            raise Invalid(f'Several organizations of CVAT at {self.url} are called "{name}". Take one of {slugs}.')
        if not found:
            there = ", ".join(sorted(f'"{entry.slug}"' for entry in everyone)) or "none"
            raise NotFound(
                f'CVAT at {self.url} has no organization "{name}" that {self._session.username or "this login"} is in; '
                f"it is in {there}. Take one of those, or have its owner invite this user.",
                method="GET",
                path=path,
            )
        return found[0]

    # Projects

    def projects(self) -> list[Project]:
        """Reads all projects that this login may see, oldest first."""
        return sorted((Project.from_json(d) for d in self._pages("/api/projects", {})), key=lambda p: p.id)

    def project(self, project_id: int) -> Project:
        """Reads a project."""
        return Project.from_json(self._session.json("GET", f"/api/projects/{project_id}"))

    def find_project(self, name: str) -> Project | None:
        """Finds a project by exact name; the newest when there are several, None when there is none."""
        found = [Project.from_json(d) for d in self._pages("/api/projects", {"name": name}) if d.get("name") == name]
        return max(found, key=lambda p: p.id, default=None)

    def create_project(self, name: str, labels: Sequence[LabelSpec]) -> Project:
        """Creates a project with its labels."""
        content = {"name": name, "labels": [label.to_json() for label in labels]}

        def projects() -> dict[int, Project]:
            return {
                int(d["id"]): Project.from_json(d)
                for d in self._pages("/api/projects", {"name": name})
                if d.get("name") == name
            }

        before = set(projects())
        return create_once(
            self._session,
            lambda: Project.from_json(self._session.json("POST", "/api/projects", repeat="if_unsent", json=content)),
            lambda: _newest(p for i, p in projects().items() if i not in before),
            f'project "{name}"',
        )

    def delete_project(self, project_id: int) -> None:
        """Deletes a project with its tasks; one that is gone already is fine."""
        self._delete(f"/api/projects/{project_id}")

    # Tasks

    def tasks(self) -> list[Task]:
        """Reads all tasks that this login may see, oldest first."""
        return sorted((Task.from_json(d) for d in self._pages("/api/tasks", {})), key=lambda t: t.id)

    def task(self, task_id: int) -> Task:
        """Reads a task."""
        return Task.from_json(self._session.json("GET", f"/api/tasks/{task_id}"))

    def find_tasks(self, name: str) -> list[Task]:
        """Finds tasks by exact name, oldest first."""
        found = [Task.from_json(d) for d in self._pages("/api/tasks", {"name": name}) if d.get("name") == name]
        return sorted(found, key=lambda t: t.id)

    def project_tasks(self, project_id: int) -> list[Task]:
        """Reads the tasks of a project, oldest first; none where there is no such project."""
        found = [Task.from_json(d) for d in self._pages("/api/tasks", {"project_id": project_id})]
        return sorted((t for t in found if t.project_id == project_id), key=lambda t: t.id)

    def create_task(
        self,
        name: str,
        labels: Sequence[LabelSpec] | None,
        *,
        project_id: int | None = None,
        assignee_id: int | None = None,
        bug_tracker: str | None = None,
        segment_size: int | None = None,
        overlap: int = 0,
        marker: str | None = None,
    ) -> Task:
        """Creates a task without data.

        Args:
            name: 1 to 256 characters
            labels: None when the task takes the labels of its project
            project_id: the project it belongs to
            assignee_id: id of a user
            bug_tracker: free text shown with the task
            segment_size: frames a job; leave it out when the upload lists the files of each job
            overlap: frames that neighbouring jobs share
            marker: a text that no other task has. A task of this name that carries it is returned instead of making a
                second one, so that a killed program can call again. It is kept at the end of ``bug_tracker``, after
                ``#``

        Raises:
            Invalid: the server rejects a label or a setting, or labels and a project are given both
        """
        if (labels is None) == (project_id is None):
            raise InvalidPayload(
                f'Task "{name}" needs either labels or a project that has them, got '
                f"{'neither' if labels is None else 'both'}."
            )
        tracker = f"{bug_tracker or ''}#{marker}" if marker is not None else bug_tracker or ""
        content: dict[str, Any] = {"name": name, "overlap": overlap}
        if labels is not None:
            content["labels"] = [label.to_json() for label in labels]
        optional = {"project_id": project_id, "assignee_id": assignee_id, "segment_size": segment_size}
        content.update({key: value for key, value in optional.items() if value is not None})
        if tracker:
            content["bug_tracker"] = tracker
        before = self.find_tasks(name)
        if marker is not None:
            marked = _newest(t for t in before if t.bug_tracker == tracker)
            if marked is not None:
                return marked
        known = {task.id for task in before}
        return create_once(
            self._session,
            lambda: Task.from_json(self._session.json("POST", "/api/tasks", repeat="if_unsent", json=content)),
            lambda: _newest(t for t in self.find_tasks(name) if t.id not in known and t.bug_tracker == tracker),
            f'task "{name}"',
        )

    def delete_task(self, task_id: int) -> None:
        """Deletes a task; one that is gone already is fine."""
        self._delete(f"/api/tasks/{task_id}")

    def upload_images(
        self,
        task_id: int,
        files: Sequence[UploadFile],
        *,
        jobs: Sequence[Sequence[str]] | None,
        image_quality: int = 75,
        use_cache: bool = True,
        use_zip_chunks: bool = True,
        chunk_size: int | None = None,
        progress: Progress | None = None,
        wait: float = 1800.0,
    ) -> None:
        """Uploads images and waits until the task has its frames.

        May be called again after any failure or kill: it goes on where the last call stopped, or returns when the
        data is in. Reads from disk at most 16 MiB at a time.

        Args:
            task_id: a task without data
            files: the images, in frame order
            jobs: lists of file names, one job each; frames follow their order. None: frames in the order of ``files``,
                jobs by the task's ``segment_size``
            image_quality: 1..100, of the frames shown to annotators
            use_cache: frames are prepared when first shown instead of at once
            use_zip_chunks: serve frames as images
            chunk_size: frames a chunk; None leaves it to the server
            progress: called with (files that are in, all files); the last call comes when the frames are there
            wait: seconds that the server may take to make frames of the files

        Raises:
            InvalidPayload: names, files and jobs do not fit together; nothing was sent
            DataFailed: the server cannot use the files; delete the task
            Invalid: the task holds other data
            Timeout: the server is still at work after ``wait``; call again to go on waiting
        """
        settings = UploadSettings(image_quality, use_cache, use_zip_chunks, chunk_size, progress, wait)
        ImageUpload(self._session, task_id, files, settings, jobs=jobs).run()

    def upload_video(
        self,
        task_id: int,
        path: str | PathLike[str],
        *,
        name: str | None = None,
        start_frame: int = 0,
        stop_frame: int | None = None,
        image_quality: int = 75,
        use_cache: bool = True,
        use_zip_chunks: bool = True,
        chunk_size: int | None = None,
        progress: Progress | None = None,
        wait: float = 1800.0,
    ) -> int:
        """Uploads a video and waits until the task has its frames.

        May be called again after any failure or kill: the file is sent on where a lost answer left it, anew after a
        kill, and not at all when it is in. The task has one job; its frames count from 0, which is ``start_frame`` in
        the file.

        Args:
            task_id: a task without data, made without ``segment_size``
            path: the video, in a container that the server decodes
            name: its name in the task; None for the file's
            start_frame: the first frame of the file that the task shows, from 0
            stop_frame: the last one, inclusive; None for the file's last
            image_quality: 1..100, of the frames shown to annotators
            use_cache: frames are prepared when first shown instead of at once
            use_zip_chunks: serve frames as images, not as stretches of video
            chunk_size: frames a chunk; None leaves it to the server
            progress: called with (bytes that are in, all bytes); the last call comes when the frames are there
            wait: seconds that the server may take to make frames of the file

        Returns:
            how many frames the task has

        Raises:
            InvalidPayload: there is no such file, or no such frames; nothing was sent
            DataFailed: the server cannot use the file, or it has fewer frames than was asked for; delete the task
            Invalid: the task holds other data
            Timeout: the server is still at work after ``wait``; call again to go on waiting
        """
        video = Path(path)
        settings = UploadSettings(image_quality, use_cache, use_zip_chunks, chunk_size, progress, wait)
        file = UploadFile(video.name if name is None else name, video)
        VideoUpload(self._session, task_id, file, settings, start_frame=start_frame, stop_frame=stop_frame).run()
        return self.task(task_id).size

    def labels(
        self, task_id: int | None = None, *, job_id: int | None = None, project_id: int | None = None
    ) -> list[Label]:
        """Reads the labels of a task, a job or a project; make a :class:`LabelMap` of them to look them up by name."""
        scopes = {"task_id": task_id, "job_id": job_id, "project_id": project_id}
        scope = {key: value for key, value in scopes.items() if value is not None}
        if len(scope) != 1:
            raise InvalidPayload(f"Labels belong to one of a task, a job or a project, got {scope or 'none'}.")
        return sorted((Label.from_json(d) for d in self._pages("/api/labels", scope)), key=lambda label: label.id)

    # Jobs

    def jobs(self, task_id: int) -> list[Job]:
        """Reads the annotation jobs of a task by their first frame, without ground-truth and replica jobs."""
        found = [Job.from_json(d) for d in self._pages("/api/jobs", {"task_id": task_id})]
        return sorted((j for j in found if j.type == "annotation"), key=lambda j: (j.start_frame, j.id))

    def job(self, job_id: int) -> Job:
        """Reads a job."""
        return Job.from_json(self._session.json("GET", f"/api/jobs/{job_id}"))

    def update_job(
        self,
        job_id: int,
        *,
        assignee_id: int | EllipsisType | None = ...,
        stage: str | None = None,
        state: str | None = None,
    ) -> Job:
        """Changes a job.

        Args:
            assignee_id: id of a user, None for nobody, ``...`` to leave it
            stage: "annotation", "validation" or "acceptance"; a change resets ``state`` to "new" unless it is given too
            state: "new", "in progress", "completed" or "rejected"

        Raises:
            PermissionRefused: e.g. an assignee who sets the stage
        """
        content: dict[str, Any] = {}
        if assignee_id is not ...:
            content["assignee"] = assignee_id
        if stage is not None:
            content["stage"] = stage
        if state is not None:
            content["state"] = state
        if not content:
            return self.job(job_id)
        return Job.from_json(self._session.json("PATCH", f"/api/jobs/{job_id}", json=content))

    # Frames

    def data_meta(self, *, task_id: int | None = None, job_id: int | None = None) -> DataMeta:
        """Reads names, sizes and deletions of the frames of a task or a job."""
        return DataMeta.from_json(self._read(f"{_owner(task_id, job_id)}/data/meta"))

    def set_deleted_frames(
        self, frames: Iterable[int], *, task_id: int | None = None, job_id: int | None = None
    ) -> DataMeta:
        """Says which frames of a task or a job are deleted; the others are there again. Annotations stay.

        Args:
            frames: frame numbers, counted as in the task; those outside the job are left out by the server

        Returns:
            the frames as they are now
        """
        content = {"deleted_frames": sorted({int(frame) for frame in frames})}
        return DataMeta.from_json(self._session.json("PATCH", f"{_owner(task_id, job_id)}/data/meta", json=content))

    def frame(self, task_id: int, number: int, quality: str = "original") -> bytes:
        """Reads one frame as an encoded image.

        Args:
            number: frame number in the task, from 0
            quality: "original" or "compressed"
        """
        params: dict[str, str | int] = {"type": "frame", "number": number, "quality": quality}
        return self._session.request("GET", f"/api/tasks/{task_id}/data", params=params).content

    def chunk(self, task_id: int, number: int, quality: str = "original") -> list[bytes]:
        """Reads the frames of one chunk, in order, as encoded images; quicker than one by one.

        Args:
            number: of the chunk, from 0; ``data_meta().chunk_size`` says how many frames make one
            quality: "original" or "compressed"

        Raises:
            Invalid: the task serves its chunks as videos
            AnswerTooLarge: the chunk unpacks to more than any that CVAT makes
        """
        params: dict[str, str | int] = {"type": "chunk", "number": number, "quality": quality}
        path = f"/api/tasks/{task_id}/data"
        return images_of(self._session.request("GET", path, params=params).content, f"GET {path}")

    # Annotations

    def annotations(self, *, task_id: int | None = None, job_id: int | None = None) -> Annotations:
        """Reads all annotations: keyframes only, the server does not interpolate; ids are the server's.

        Returns:
            ``{"version", "tags", "shapes", "tracks"}`` as the server gives it
        """
        answer = self._read(f"{_owner(task_id, job_id)}/annotations")
        if not isinstance(answer, dict) or not all(
            isinstance(answer.get(k), list) for k in ("tags", "shapes", "tracks")
        ):
            raise NotCVAT("Expected annotations with tags, shapes and tracks, the server sent something else.")
        return answer

    def create_annotations(
        self,
        payload: Mapping[str, Any],
        *,
        task_id: int | None = None,
        job_id: int | None = None,
        resume: bool = False,
        progress: Progress | None = None,
    ) -> Annotations:
        """Adds annotations to what is there.

        Checked against the labels and frames of the job or task first; sent to each job by itself, in pieces below
        10 MB. When an answer gets lost, the annotations are read back and only what is missing is sent again.

        Args:
            payload: tags, shapes and tracks without ids; a track lies in one job
            resume: take an equal object that is there already for the one to create; for a call that is repeated
            because
                the first was killed
            progress: called with (objects that are there, all objects of the job)

        Returns:
            what was created, in the order given, with ids

        Raises:
            InvalidPayload: an object is wrong; nothing was sent
        """

        def create(writer: JobWriter, share: Annotations) -> Annotations:
            return writer.create(share, resume, progress or (lambda done, total: None))

        return self._write(payload, task_id, job_id, "absent", create)

    def update_annotations(
        self, payload: Mapping[str, Any], *, task_id: int | None = None, job_id: int | None = None
    ) -> Annotations:
        """Changes annotations that are there, whole objects at a time.

        Args:
            payload: tags, shapes and tracks with the ids that the server gave them

        Returns:
            the objects as the server has them now. One that somebody deleted in the meantime stays deleted, and comes
            back as it was given

        Raises:
            InvalidPayload: an object is wrong or has no id; nothing was sent
        """
        return self._write(payload, task_id, job_id, "required", lambda writer, share: writer.update(share))

    def delete_annotations(
        self, payload: Mapping[str, Any], *, task_id: int | None = None, job_id: int | None = None
    ) -> Annotations:
        """Deletes annotations; those that are gone already are fine.

        Args:
            payload: tags, shapes and tracks as the server gave them

        Raises:
            InvalidPayload: an object lacks its id, label, frame or type; nothing was sent
        """
        check_deletion(payload)
        return self._write(payload, task_id, job_id, None, lambda writer, share: writer.delete(share))

    # Issues

    def issues(self, job_id: int) -> list[Issue]:
        """Reads the issues of a job with their comments, oldest first."""
        return self._issues({"job_id": job_id})

    def task_issues(self, task_id: int) -> list[Issue]:
        """Reads the issues of all jobs of a task with their comments, oldest first; one call where there are none."""
        return self._issues({"task_id": task_id})

    def _issues(self, scope: Mapping[str, str | int]) -> list[Issue]:
        found = self._pages("/api/issues", scope)
        comments: dict[int, list[Comment]] = {}
        for job_id in sorted({int(data["job"]) for data in found}):
            for data in self._pages("/api/comments", {"job_id": job_id}):
                comment = Comment.from_json(data)
                comments.setdefault(comment.issue_id, []).append(comment)
        issues = [Issue.from_json(d, sorted(comments.get(int(d["id"]), ()), key=lambda c: c.id)) for d in found]
        return sorted(issues, key=lambda issue: issue.id)

    def create_issue(self, job_id: int, frame: int, position: Sequence[float], message: str) -> Issue:
        """Opens an issue.

        Args:
            frame: frame number in the task
            position: ``(x, y)`` or ``(x1, y1, x2, y2)``, pixels
            message: its first comment
        """
        place = [float(p) for p in position]
        if not place or not message:
            raise InvalidPayload(f"An issue needs a position and a message, got {place} and {message!r}.")
        content = {"job": job_id, "frame": frame, "position": place, "message": message}
        known = {issue.id for issue in self.issues(job_id)}

        def created() -> Issue | None:
            return _newest(
                i
                for i in self.issues(job_id)
                if i.id not in known and i.frame == frame and any(c.message == message for c in i.comments)
            )

        return create_once(
            self._session,
            lambda: Issue.from_json(self._session.json("POST", "/api/issues", repeat="if_unsent", json=content)),
            created,
            f"issue on frame {frame}",
        )

    def resolve_issue(self, issue_id: int, resolved: bool = True) -> Issue:
        """Marks an issue as resolved, or opens it again."""
        return Issue.from_json(self._session.json("PATCH", f"/api/issues/{issue_id}", json={"resolved": resolved}))

    # How it is done

    def _pages(self, path: str, params: Mapping[str, str | int]) -> list[dict[str, Any]]:
        """Reads all pages of a list by number, because ``next`` may name a host that only the server knows."""
        found: list[dict[str, Any]] = []
        for page in range(1, _MOST_PAGES):
            answer = self._session.json("GET", path, params={**params, "page": page, "page_size": PAGE_SIZE})
            if not isinstance(answer, dict) or not isinstance(answer.get("results"), list):
                raise NotCVAT(f"Expected a list of results from {path}, the server sent something else.", path=path)
            found += answer["results"]
            if not answer.get("next") or not answer["results"]:
                break
        return found

    def _read(self, path: str) -> Any:
        try:
            return self._session.json("GET", path)
        except ServerFailure as error:
            if error.status != 500:
                raise
            raise ServerFailure(
                f"{error} CVAT says so for a task whose data is not in, and for annotations that hold mask tracks in "
                f"a task of several jobs.",
                method=error.method,
                path=error.path,
                status=500,
            ) from None

    def _delete(self, path: str) -> None:
        try:
            self._session.request("DELETE", path)
        except NotFound:
            logger.debug("%s was gone already", path)

    def _write(
        self,
        payload: Mapping[str, Any],
        task_id: int | None,
        job_id: int | None,
        ids: Literal["absent", "required"] | None,
        write: Callable[[JobWriter, Annotations], Annotations],
    ) -> Annotations:
        """Checks all of a payload, then writes each job's share; ``ids`` None skips the check."""
        _owner(task_id, job_id)
        check_keys(payload)
        if not any(True for _ in objects(payload)):
            return empty()
        if job_id is not None:
            places = [(kind, position) for kind in KINDS for position in range(len(payload.get(kind) or ()))]
            shares = [(self.job(job_id), {**empty(), **payload}, places)]
        else:
            shares = by_job(payload, self.jobs(int(task_id or 0)))
        if ids is not None:
            labels = LabelMap(self.labels(task_id, job_id=job_id))
            for job, share, _ in shares:
                check_payload(share, labels, job.frames, ids=ids)
        answers: dict[tuple[str, int], dict[str, Any]] = {}
        for job, share, places in shares:
            written = [item for _, item in objects(write(JobWriter(self._session, job.id), share))]
            answers.update(zip(places, written, strict=True))
        result = empty()
        for (kind, _), item in sorted(answers.items(), key=lambda entry: entry[0]):
            result[kind].append(item)
        return result


def _owner(task_id: int | None, job_id: int | None) -> str:
    if (task_id is None) == (job_id is None):
        raise Invalid(f"Exactly one of task_id and job_id must be given, got task_id={task_id}, job_id={job_id}.")
    return f"/api/tasks/{task_id}" if job_id is None else f"/api/jobs/{job_id}"


def _newest(found: Iterable[Numbered]) -> Numbered | None:
    return max(found, key=lambda item: item.id, default=None)


__all__ = ["CVATClient"]
