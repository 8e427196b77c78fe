"""The CVAT connection that FiftyOne hands out, with the names that scripts for FiftyOne's own CVAT backend use."""

from __future__ import annotations

import webbrowser
from collections.abc import Iterable
from typing import Any

import fiftyone as fo
import fiftyone.utils.annotations as foua

from labelprop_cvat.backend.cvat import CVATClient, Invalid, NotFound
from labelprop_cvat.backend.cvat.transport import Answer, JSONBody


class LabelPropAPI(CVATClient, foua.AnnotationAPI):
    """What ``foua.connect_to_api(backend="labelprop")`` and ``results.connect_to_api()`` return.

    All of :class:`~labelprop_cvat.backend.cvat.client.CVATClient`, and the methods of FiftyOne's ``CVATAnnotationAPI``
    that need no knowledge of its uploads. Logged in once, at the first call that needs it; use it for several runs with
    ``results.use_api(api)``. There is no ``put``: CVAT replaces everything then, under the hands of whoever is at it.
    """

    @property
    def base_url(self) -> str:
        """The address that opens CVAT in a browser."""
        return self.url

    @property
    def base_api_url(self) -> str:
        """Where the REST API is."""
        return f"{self.url}/api"

    @property
    def server_version(self) -> str:
        """The version of the server, such as ``"2.54.1"``; empty where it hides it."""
        return self.about().version

    @property
    def about_url(self) -> str:
        """Where the server says what it is."""
        return f"{self.base_api_url}/server/about"

    @property
    def users_url(self) -> str:
        """Where users are listed."""
        return f"{self.base_api_url}/users"

    @property
    def projects_url(self) -> str:
        """Where projects are listed."""
        return f"{self.base_api_url}/projects"

    @property
    def tasks_url(self) -> str:
        """Where tasks are listed."""
        return f"{self.base_api_url}/tasks"

    def project_url(self, project_id: int) -> str:
        """A project in the API."""
        return f"{self.projects_url}/{project_id}"

    def task_url(self, task_id: int) -> str:
        """A task in the API."""
        return f"{self.tasks_url}/{task_id}"

    def task_data_url(self, task_id: int) -> str:
        """A task's frames in the API."""
        return f"{self.task_url(task_id)}/data"

    def task_data_meta_url(self, task_id: int) -> str:
        """What the API says of a task's frames."""
        return f"{self.task_data_url(task_id)}/meta"

    def labels_url(self, task_id: int) -> str:
        """Where a task's labels are listed."""
        return f"{self.base_api_url}/labels?task_id={task_id}"

    def task_annotation_url(self, task_id: int) -> str:
        """A task's annotations in the API."""
        return f"{self.task_url(task_id)}/annotations"

    def jobs_url(self, task_id: int) -> str:
        """Where a task's jobs are listed."""
        return f"{self.base_api_url}/jobs?task_id={task_id}"

    def job_url(self, task_id: int, job_id: int) -> str:
        """A job in the API; CVAT needs no task for that."""
        return self.taskless_job_url(job_id)

    def taskless_job_url(self, job_id: int) -> str:
        """A job in the API."""
        return f"{self.base_api_url}/jobs/{job_id}"

    def job_annotation_url(self, job_id: int) -> str:
        """A job's annotations in the API."""
        return f"{self.taskless_job_url(job_id)}/annotations"

    def base_task_url(self, task_id: int) -> str:
        """A task's page in the browser."""
        return f"{self.base_url}/tasks/{task_id}"

    def base_job_url(self, task_id: int, job_id: int) -> str:
        """A job's page in the browser."""
        return f"{self.base_task_url(task_id)}/jobs/{job_id}"

    # --- any call --------------------------------------------------------------------------------------------------

    def get(self, url: str, *, params: dict[str, Any] | None = None) -> Answer:
        """Reads anything of the server's API.

        Args:
            url: below ``base_url``, or a path that begins with ``/api``
            params: of the query

        Returns:
            the answer, with ``status``, ``headers``, ``content``, ``text`` and ``json()``

        Raises:
            Invalid: the address is on another server, where the login must not be sent
            CVATError: the server can't be reached or says no
        """
        return self._session.request("GET", self._path(url), params=params)

    def post(self, url: str, *, json: Any = None) -> Answer:
        """Creates something; see :meth:`get`. Never sent a second time, unless the first certainly had no effect."""
        return self._session.request("POST", self._path(url), repeat="if_unsent", body=_body(json))

    def patch(self, url: str, *, json: Any = None, params: dict[str, Any] | None = None) -> Answer:
        """Changes something; see :meth:`get`. Never sent a second time, unless the first certainly had no effect."""
        return self._session.request("PATCH", self._path(url), repeat="if_unsent", body=_body(json), params=params)

    def delete(self, url: str) -> Answer:
        """Deletes something; see :meth:`get`."""
        return self._session.request("DELETE", self._path(url), repeat="if_unsent")

    def _path(self, url: str) -> str:
        path = url.removeprefix(self.url) if url.startswith(f"{self.url}/") else url
        if not path.startswith("/api/"):
            raise Invalid(f"Expected an address below {self.base_api_url}/, got {url!r}. Other servers get no login.")
        return path

    # --- common questions ------------------------------------------------------------------------------------------

    def get_user_id(self, username: str) -> int | None:
        """The number of a user; None when there is none of that name that this login may see."""
        try:
            return self.find_user(username).id
        except NotFound:
            return None

    def list_projects(self) -> list[int]:
        """The numbers of all projects that this login may see."""
        return [project.id for project in self.projects()]

    def get_project_id(self, project_name: str) -> int | None:
        """The number of a project; of the newest where several have the name, None where none has it."""
        project = self.find_project(project_name)
        return None if project is None else project.id

    def get_project_name(self, project_id: int) -> str | None:
        """The name of a project; None when there is none."""
        try:
            return self.project(project_id).name
        except NotFound:
            return None

    def project_exists(self, project_id: int) -> bool:
        """Whether there is such a project."""
        return self.get_project_name(project_id) is not None

    def get_project_tasks(self, project_id: int) -> list[int]:
        """The numbers of the tasks of a project."""
        return [task.id for task in self.project_tasks(project_id)]

    def get_empty_projects(self, project_ids: Iterable[int]) -> list[int]:
        """Those of some projects that have no task, or are not there."""
        return [number for number in project_ids if not self.get_project_tasks(number)]

    def delete_projects(self, project_ids: Iterable[int], progress: bool | None = None) -> None:
        """Deletes projects with their tasks."""
        with fo.ProgressBar(progress=progress) as bar:
            for project_id in bar(list(project_ids)):
                self.delete_project(project_id)

    def list_tasks(self) -> list[int]:
        """The numbers of all tasks that this login may see."""
        return [task.id for task in self.tasks()]

    def task_exists(self, task_id: int) -> bool:
        """Whether there is such a task."""
        try:
            self.task(task_id)
        except NotFound:
            return False
        return True

    def delete_tasks(self, task_ids: Iterable[int], progress: bool | None = None) -> None:
        """Deletes tasks; a run that still counts on one is told with ``results.forget_task()``."""
        with fo.ProgressBar(progress=progress) as bar:
            for task_id in bar(list(task_ids)):
                self.delete_task(task_id)

    def launch_editor(self, url: str | None = None) -> None:
        """Opens an address in a browser, CVAT's first page by default."""
        webbrowser.open(url or self.base_url, new=2)


def _body(content: Any) -> JSONBody | None:
    return None if content is None else JSONBody(content)


__all__ = ["LabelPropAPI"]
