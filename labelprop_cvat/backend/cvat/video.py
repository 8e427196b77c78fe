"""Puts a video into a task, piece by piece, whole or a stretch of its frames."""

from __future__ import annotations

from typing import Any

from labelprop_cvat.backend.cvat.errors import DataFailed, Invalid, InvalidPayload
from labelprop_cvat.backend.cvat.models import DataMeta, Task, UploadFile
from labelprop_cvat.backend.cvat.session import Session
from labelprop_cvat.backend.cvat.upload import Upload, UploadSettings


class VideoUpload(Upload):
    """One upload of a video into one task.

    Args:
        file: the video
        settings: how frames are served
        start_frame: the first frame of the file that the task shows, from 0
        stop_frame: the last one, inclusive; None for the file's last

    Raises:
        InvalidPayload: the file is missing or empty, or there is no frame from the first to the last
    """

    def __init__(
        self,
        session: Session,
        task_id: int,
        file: UploadFile,
        settings: UploadSettings,
        *,
        start_frame: int,
        stop_frame: int | None,
    ) -> None:
        if start_frame < 0 or (stop_frame is not None and stop_frame < start_frame):
            raise InvalidPayload(
                f"A task shows the frames start_frame..stop_frame of a video, counted from 0; got {start_frame}.."
                f"{stop_frame}."
            )
        super().__init__(session, task_id, [file], settings, what="video", batches=False)
        self._file = file
        self._start, self._stop = start_frame, stop_frame
        self._bytes = file.path.stat().st_size

    @property
    def _named(self) -> str:
        return f"the video {self._file.name}"

    @property
    def _total(self) -> int:
        return self._bytes

    def _piece_sent(self, offset: int) -> None:
        self._progress(min(offset, self._bytes - 1), self._bytes)

    def _check_task(self, task: Task) -> None:
        if task.segment_size > 0:
            raise InvalidPayload(
                f"Task {task.id} was made with segment_size={task.segment_size}, which would cut the video into "
                f"several jobs. Create the task without segment_size, and give start_frame and stop_frame."
            )

    def _check_same_data(self) -> None:
        meta = DataMeta.from_json(self._session.json("GET", f"/api/tasks/{self._task_id}/data/meta"))
        there = [frame.name for frame in meta.frames]
        same_end = self._stop is None or meta.stop_frame == self._stop
        if there != [self._file.name] or meta.start_frame != self._start or not same_end or meta.frame_filter:
            shown = f"{there[:1]}, frames {meta.start_frame}..{meta.stop_frame}"
            shown += f" by {meta.frame_filter}" if meta.frame_filter else ""
            raise Invalid(
                f"Task {self._task_id} already holds {meta.size} frames ({shown}), and they are not those of this "
                f"upload ([{self._file.name!r}], frames {self._start}..{self._end}). Upload into a new task."
            )

    def _order_settings(self) -> dict[str, Any]:
        content: dict[str, Any] = {}
        if self._start:
            content["start_frame"] = self._start
        if self._stop is not None:
            content["stop_frame"] = self._stop
        return content

    def _check_size(self, size: int) -> None:
        if self._stop is not None and size != self._stop - self._start + 1:
            raise DataFailed(
                f"CVAT made {size} frames of the video {self._file.name} for task {self._task_id}, frames "
                f"{self._start}..{self._stop} are {self._stop - self._start + 1}: the file has fewer frames than was "
                f"thought, or CVAT cannot decode them all. Delete the task, and upload images or frames that are there."
            )

    @property
    def _end(self) -> str:
        return "the last" if self._stop is None else str(self._stop)


__all__ = ["VideoUpload"]
