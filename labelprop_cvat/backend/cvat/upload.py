"""Puts files into a task: small ones in batches, large ones piece by piece, each at most once.

:class:`Upload` is what images (:class:`ImageUpload`) and a video (:mod:`.video`) have in common.

The first upload into an untouched task sends images in batches (``Upload-Multiple``), which the server appends
blindly, so a batch is never sent twice. After anything unclear (a lost answer, an interrupted earlier upload), and
always for a video, each file goes by the resumable protocol (TUS), which knows files by name: a 409 says that the file
is already there in whole.

Files are read from disk as they are sent, 64 KiB at a time. Where the server, or a proxy before it, finds a request too
large (413), batches and pieces become smaller until they pass.
"""

from __future__ import annotations

import base64
import logging
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from email.header import decode_header, make_header
from time import monotonic, sleep
from typing import Any, TypeAlias
from urllib.parse import quote

from labelprop_cvat.backend.cvat.answers import is_unsure
from labelprop_cvat.backend.cvat.errors import (
    CVATError,
    CVATTransportError,
    DataFailed,
    Invalid,
    InvalidPayload,
    NotCVAT,
    NotFound,
    PayloadTooLarge,
    ServerFailure,
    Timeout,
)
from labelprop_cvat.backend.cvat.models import DataMeta, Request, Task, UploadFile
from labelprop_cvat.backend.cvat.session import Session
from labelprop_cvat.backend.cvat.transport import FileSlice, Multipart
from labelprop_cvat.backend.cvat.versions import is_tested

logger = logging.getLogger(__name__)

Progress: TypeAlias = Callable[[int, int], None]

BATCH_BYTES = 16 * 2**20
BATCH_FILES = 100
CHUNK_BYTES = 8 * 2**20
_SMALLEST_CHUNK = 64 * 2**10
_TRIES_PER_FILE = 4


@dataclass(frozen=True)
class UploadSettings:
    """How the server is to serve the frames, and how long one waits for them.

    Args:
        image_quality: 1..100, of the frames shown to annotators
        use_cache: frames are prepared when first shown instead of at once
        use_zip_chunks: serve frames as images
        chunk_size: frames a chunk; None leaves it to the server
        progress: called with (what is in, all there is): files of images, bytes of a video
        wait: seconds that the server may take to make frames of the files
    """

    image_quality: int
    use_cache: bool
    use_zip_chunks: bool
    chunk_size: int | None
    progress: Progress | None
    wait: float

    def to_json(self) -> dict[str, Any]:
        """What the server is told."""
        content = {
            "image_quality": self.image_quality,
            "use_cache": self.use_cache,
            "use_zip_chunks": self.use_zip_chunks,
        }
        return content if self.chunk_size is None else {**content, "chunk_size": self.chunk_size}


class Upload(ABC):
    """One upload of files into one task; :meth:`run` may be called again after any failure, by any process.

    Args:
        session: the login
        task_id: the task; holds no data, or exactly these files
        files: the files, in order
        settings: how frames are served
        what: what each file is, in sentences
        batches: whether files may go together in one request

    Raises:
        InvalidPayload: two files share a name, or a file is missing or empty
    """

    def __init__(
        self,
        session: Session,
        task_id: int,
        files: Sequence[UploadFile],
        settings: UploadSettings,
        *,
        what: str,
        batches: bool,
    ) -> None:
        _check_files(files, what)
        self._session = session
        self._task_id = task_id
        self._files = list(files)
        self._settings = settings
        self._what = what
        self._batches = batches
        self._progress = settings.progress or (lambda done, total: None)
        self._path = f"/api/tasks/{task_id}/data/"
        self._request_id = f"action=create&target=task&target_id={task_id}"
        self._sent: set[str] = set()
        self._batch_bytes, self._chunk_bytes = BATCH_BYTES, CHUNK_BYTES
        self._has_requests: bool | None = None

    @property
    def _named(self) -> str:
        """The files, in sentences."""
        return f"the {len(self._files)} files"

    @property
    def _total(self) -> int:
        """What progress counts up to."""
        return len(self._files)

    @abstractmethod
    def _check_task(self, task: Task) -> None:
        """Whether an empty task can take the files.

        Raises:
            InvalidPayload: it cannot
        """

    @abstractmethod
    def _check_same_data(self) -> None:
        """Whether the frames that the task has are those of the files.

        Raises:
            Invalid: they are others
        """

    @abstractmethod
    def _order_settings(self) -> dict[str, Any]:
        """What the server is told of the files besides the settings of all uploads."""

    @abstractmethod
    def _check_size(self, size: int) -> None:
        """Whether the server made as many frames as the files have.

        Raises:
            DataFailed: it did not
        """

    def _piece_sent(self, offset: int) -> None:  # noqa: B027 - images are counted by file
        """Hears how many bytes of a file are in that is sent piece by piece."""

    def run(self) -> None:
        """Brings the files in and waits until the task has its frames.

        Raises:
            DataFailed: the server cannot use the files; the task will never have frames, delete it
            Invalid: the task holds other data
            InvalidPayload: the task was made with settings that the files do not go with
            Timeout: the server is still at work after the time allowed; call again to go on waiting
        """
        task = Task.from_json(self._session.json("GET", f"/api/tasks/{self._task_id}"))
        if task.size > 0:
            self._check_same_data()
            self._progress(self._total, self._total)
            return
        self._check_task(task)
        if self._state() is None:
            self._send_files(untouched=task.data_id is None and self._batches)
            self._finish()
        self._await_frames()
        self._progress(self._total, self._total)

    def _state(self) -> Request | None:
        """What the server does with this task's files; None when it was not told to begin, or does not say."""
        if not self._knows_requests():
            return self._old_state()
        try:
            answer = self._session.json("GET", f"/api/requests/{quote(self._request_id, safe='')}")
        except NotFound:
            return None
        return Request.from_json(answer)

    def _knows_requests(self) -> bool:
        """Whether the server has ``/api/requests``, which those before about 2.19 have not."""
        if self._has_requests is None:
            self._has_requests = is_tested(self._session.about())
        if not self._has_requests:
            try:
                self._session.json("GET", "/api/requests", params={"page_size": 1})
            except NotFound:
                return False
            self._has_requests = True
        return True

    def _old_state(self) -> Request | None:
        """The same of an old server, which calls a task that never got data finished."""
        answer = self._session.json("GET", f"/api/tasks/{self._task_id}/status")
        state = Request.from_status(self._request_id, answer)
        return None if state.status == "finished" else state

    def _send_files(self, untouched: bool) -> None:
        self._session.request("POST", self._path, headers={"Upload-Start": "true", "Origin": self._session.host})
        waiting = list(self._files)
        while waiting:
            batch = self._next_batch(waiting)
            together = [file for file in batch if _fits_into_header(file.name)]
            if untouched and together and sum(f.path.stat().st_size for f in batch) <= self._batch_bytes:
                try:
                    self._send_batch(together)
                except PayloadTooLarge:
                    # Refused by its announced size, so nothing of it was kept.
                    self._batch_bytes = sum(f.path.stat().st_size for f in batch) // 2
                    logger.info("Batches of files are too large for the server, sending smaller ones")
                    continue
            for file in batch:
                if file.name not in self._sent:
                    self._send_resumable(file)
                    self._mark_sent([file])
            del waiting[: len(batch)]

    def _next_batch(self, waiting: Sequence[UploadFile]) -> list[UploadFile]:
        """The files that fit into one request; a file too large for any stands alone."""
        batch: list[UploadFile] = []
        held = 0
        for file in waiting[:BATCH_FILES]:
            held += file.path.stat().st_size
            if batch and held > self._batch_bytes:
                break
            batch.append(file)
        return batch

    def _mark_sent(self, files: Sequence[UploadFile]) -> None:
        self._sent.update(f.name for f in files)
        self._progress(min(len(self._sent), len(self._files) - 1), len(self._files))

    def _send_batch(self, batch: Sequence[UploadFile]) -> None:
        """Sends files in one request; marks them as sent unless it is unclear what arrived."""
        body = Multipart(
            [("image_quality", str(self._settings.image_quality))],
            [
                (f"client_files[{number}]", file.name, file.path, file.path.stat().st_size)
                for number, file in enumerate(batch)
            ],
        )
        headers = {"Upload-Multiple": "true", "Origin": self._session.host}
        try:
            self._session.request("POST", self._path, repeat="if_unsent", body=body, headers=headers)
        except (CVATTransportError, ServerFailure) as error:
            if isinstance(error, CVATTransportError) and error.not_sent:
                raise
            logger.warning("A batch of %d files may not have arrived, going on file by file", len(batch))
            return
        self._mark_sent(batch)

    def _send_resumable(self, file: UploadFile) -> None:
        """Sends one file by TUS, going on where the server stands after each lost answer."""
        for attempt in range(1, _TRIES_PER_FILE + 1):
            try:
                location = self._begin_resumable(file)
                if location is None:
                    return
                self._send_pieces(file, location)
                return
            except CVATError as error:
                if attempt == _TRIES_PER_FILE or not (is_unsure(error) or isinstance(error, NotFound)):
                    raise
                logger.warning(
                    "Sending %s was interrupted (%s), asking how far it got", file.name, type(error).__name__
                )
                sleep(self._session.retry.delay(attempt))

    def _begin_resumable(self, file: UploadFile) -> str | None:
        """Announces a file. Returns the path to send it to, or None when the server has it."""
        name = base64.b64encode(file.name.encode()).decode()
        headers = {
            "Upload-Length": str(file.path.stat().st_size),
            "Tus-Resumable": "1.0.0",
            "Upload-Metadata": f"filename {name}",
            "Origin": self._session.host,
        }
        try:
            response = self._session.request("POST", self._path, headers=headers)
        except Invalid as error:
            if error.status == 409:
                return None
            raise
        # Only the last part of Location is used: its host comes from headers that proxies change.
        number = response.headers.get("Location", "").rstrip("/").rpartition("/")[2]
        if not number:
            raise NotCVAT(
                f"The server began the upload of {file.name} but named no place for it.", method="POST", path=self._path
            )
        return self._path + quote(number, safe="")

    def _send_pieces(self, file: UploadFile, location: str) -> None:
        size = file.path.stat().st_size
        offset = 0
        failures = 0
        while offset < size:
            piece = FileSlice(file.path, offset, min(self._chunk_bytes, size - offset))
            headers = {"Upload-Offset": str(offset), "Tus-Resumable": "1.0.0", "Origin": self._session.host}
            try:
                response = self._session.request("PATCH", location, repeat="if_unsent", body=piece, headers=headers)
            except PayloadTooLarge:
                if piece.size <= _SMALLEST_CHUNK:
                    raise
                self._chunk_bytes = piece.size // 2
                continue
            except CVATError as error:
                failures += 1
                moved_on = isinstance(error, Invalid) and error.status == 409
                if failures >= _TRIES_PER_FILE or not (is_unsure(error) or moved_on):
                    raise
                # A line that breaks, or a proxy that closes it on large requests, may let smaller ones through.
                self._chunk_bytes = max(self._chunk_bytes // 2, min(self._chunk_bytes, _SMALLEST_CHUNK))
                offset = self._offset(location)
                continue
            offset = self._moved(offset, offset + piece.size, response.headers.get("Upload-Offset"), location)
            self._check_stored_name(file, response.headers.get("Upload-Filename"))
            self._piece_sent(offset)

    def _moved(self, before: int, sent: int, said: str | None, location: str) -> int:
        """Where a file goes on after a piece of it; a server that moves backwards would be sent pieces for ever."""
        if said is None:
            return sent
        if not said.isdecimal() or not before < int(said) <= sent:
            raise NotCVAT(
                f"The server was sent bytes {before} to {sent} of a file and says that it holds {said[:20]!r}.",
                method="PATCH",
                path=location,
            )
        return int(said)

    def _check_stored_name(self, file: UploadFile, stored: str | None) -> None:
        if stored is None:
            return
        # Names that do not fit into a header arrive MIME-encoded.
        stored = str(make_header(decode_header(stored)))
        if stored != file.name:
            raise Invalid(
                f"The server already had a file named {file.name} in task {self._task_id} and stored this one as "
                f"{stored}. Delete the task and upload again."
            )

    def _offset(self, location: str) -> int:
        response = self._session.request("HEAD", location, headers={"Tus-Resumable": "1.0.0"})
        said = response.headers.get("Upload-Offset", "")
        if not said.isdecimal():
            raise NotCVAT("The server does not say how far an upload got.", method="HEAD", path=location)
        return int(said)

    def _finish(self) -> None:
        """Tells the server to make frames of the files; the answer may get lost, the request's state tells."""
        content = {**self._settings.to_json(), **self._order_settings()}
        headers = {"Upload-Finish": "true", "Origin": self._session.host}
        for attempt in range(1, _TRIES_PER_FILE + 1):
            try:
                answer = self._session.json("POST", self._path, repeat="if_unsent", json=content, headers=headers)
            except CVATError as error:
                started = isinstance(error, Invalid) and error.status in (400, 409) and self._state() is not None
                if started:
                    return
                if not is_unsure(error) or attempt == _TRIES_PER_FILE:
                    raise
                sleep(self._session.retry.delay(attempt))
                if self._state() is not None:
                    return
                continue
            if isinstance(answer, dict) and answer.get("rq_id"):
                self._request_id = str(answer["rq_id"])
            return

    def _await_frames(self) -> None:
        deadline = monotonic() + self._settings.wait
        pause = 0.05
        while True:
            state = self._state()
            if state is not None and state.status == "failed":
                reason = " ".join(state.message.split())
                # The reason stands at the end of the server's traceback.
                shown = reason if len(reason) <= 300 else "..." + reason[-297:]
                raise DataFailed(
                    f"CVAT could not make frames of {self._named} of task {self._task_id}: "
                    f"{shown or 'no reason given'}. The task stays without frames: delete it, mend {self._named} "
                    f"and upload again.",
                    method="GET",
                    path=f"/api/requests/{quote(self._request_id, safe='')}",
                )
            if state is None or state.status == "finished":
                size = Task.from_json(self._session.json("GET", f"/api/tasks/{self._task_id}")).size
                if size > 0:
                    self._check_size(size)
                    return
            if monotonic() > deadline:
                raise Timeout(
                    f"CVAT is still preparing the frames of task {self._task_id} after {self._settings.wait:g} s "
                    f"(state: {state.status if state else 'unknown'}). Call again to go on waiting; if the state stays "
                    f"queued, the server's import worker is not running."
                )
            sleep(pause)
            pause = min(2.0, pause * 1.5)


class ImageUpload(Upload):
    """One upload of images into one task.

    Args:
        files: the images, in frame order
        jobs: lists of file names, one job each, in frame order; None leaves it to the task's ``segment_size``
        settings: how frames are served

    Raises:
        InvalidPayload: two files share a name, a file is missing or empty, or jobs and files do not match
    """

    def __init__(
        self,
        session: Session,
        task_id: int,
        files: Sequence[UploadFile],
        settings: UploadSettings,
        *,
        jobs: Sequence[Sequence[str]] | None,
    ) -> None:
        super().__init__(session, task_id, files, settings, what="image", batches=True)
        self._jobs = None if jobs is None else [list(job) for job in jobs]
        self._order = [f.name for f in files] if self._jobs is None else _checked_jobs(self._jobs, files)

    def _check_task(self, task: Task) -> None:
        if self._jobs is not None and task.segment_size > 0:
            raise InvalidPayload(
                f"Task {task.id} was made with segment_size={task.segment_size}, which CVAT does not combine with a "
                f"list of files per job. Create the task without segment_size."
            )

    def _check_same_data(self) -> None:
        meta = DataMeta.from_json(self._session.json("GET", f"/api/tasks/{self._task_id}/data/meta"))
        there = [frame.name for frame in meta.frames]
        if there != self._order:
            raise Invalid(
                f"Task {self._task_id} already holds {meta.size} frames, and they are not the {len(self._order)} "
                f"images of this upload (first there: {there[:1]}, first here: {self._order[:1]}). Upload into a new "
                f"task."
            )

    def _order_settings(self) -> dict[str, Any]:
        if self._jobs is not None:
            return {"job_file_mapping": self._jobs}
        return {"sorting_method": "predefined", "upload_file_order": self._order}

    def _check_size(self, size: int) -> None:
        if size != len(self._files):
            raise DataFailed(
                f"CVAT made {size} frames of the {len(self._files)} files of task {self._task_id}. Delete the task and "
                f"upload again."
            )


def _fits_into_header(name: str) -> bool:
    """Whether a name arrives as it is in the header of a batch; clients and servers rewrite what may break it."""
    return name.isprintable() and not set(name) & set('"%&')


def _check_files(files: Sequence[UploadFile], what: str) -> None:
    if not files:
        raise InvalidPayload(f"An upload needs at least one {what}, got none.")
    seen: set[str] = set()
    for file in files:
        if file.name in seen:
            raise InvalidPayload(f"The frames of a task need different names, {file.name!r} is there twice.")
        seen.add(file.name)
        try:
            size = file.path.stat().st_size
        except OSError as error:
            raise InvalidPayload(f"The {what} {file.path} cannot be read: {error.strerror}.") from None
        if size == 0:
            raise InvalidPayload(f"The {what} {file.path} is empty.")


def _checked_jobs(jobs: Sequence[Sequence[str]], files: Sequence[UploadFile]) -> list[str]:
    order = [name for job in jobs for name in job]
    names = {file.name for file in files}
    if not all(jobs) or len(set(order)) != len(order) or set(order) != names:
        missing = sorted(names - set(order))[:3]
        unknown = sorted(set(order) - names)[:3]
        raise InvalidPayload(
            f"The jobs must name each file exactly once and none may be empty: {len(files)} files, {len(order)} names "
            f"in {len(jobs)} jobs; in no job: {missing}; no such file: {unknown}."
        )
    return order


__all__ = ["ImageUpload", "Progress", "Upload", "UploadSettings"]
