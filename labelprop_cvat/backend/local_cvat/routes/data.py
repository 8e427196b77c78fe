"""``/api/tasks/{id}/data`` and ``/api/jobs/{id}/data``: uploads, frames, chunks, previews, frame lists."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Any

from starlette.responses import Response

from ..access import job_for, task_for
from ..media import TaskMedia, UnreadableMediaError, job_frames
from ..replies import Call, RefusalError, ServerFaultError, invalid, json_response
from ..representations import data_meta
from ..routing import route, upload_route
from ..storage import Transaction, dumps, now
from ..uploads import head_upload, patch_upload, post_data


def _media_of(call: Call, job: bool) -> tuple[TaskMedia, Sequence[int]]:
    with call.state.database.transaction() as tx:
        if job:
            row = job_for(tx, call.me, call.params["id"])
            return TaskMedia.load(tx, row["task_id"]), job_frames(row)
        task = task_for(tx, call.me, call.params["id"])
        media = TaskMedia.load(tx, task["id"])
        return media, range(media.size)


def _get(job: bool) -> Callable[[Call], Response]:
    def handler(call: Call) -> Response:
        media, frames = _media_of(call, job)
        kind = call.query.get("type")
        try:
            if kind == "frame":
                content, mime = _frame(call, media, frames, job)
            elif kind == "chunk":
                content, mime = _chunk(call, media, frames, job)
            elif kind == "preview":
                content, mime = call.state.media.preview(media, frames[0])
            else:
                raise invalid(["Data type not specified or not supported"])
        except UnreadableMediaError as error:
            raise ServerFaultError(str(error)) from error
        return Response(content, media_type=mime)

    return handler


def _quality(call: Call) -> str:
    quality = call.query.get("quality") or "compressed"
    if quality not in ("compressed", "original"):
        raise invalid([f"Wrong data quality {quality}"])
    return quality


def _frame(call: Call, media: TaskMedia, frames: Sequence[int], job: bool) -> tuple[bytes, str]:
    number = call.number("number")
    if number is None:
        raise invalid(["Number is not specified"])
    if job and number not in frames:
        raise RefusalError(400, ["The frame number doesn't belong to the job"])
    return call.state.media.frame(media, number, _quality(call))


def _chunk(call: Call, media: TaskMedia, frames: Sequence[int], job: bool) -> tuple[bytes, str]:
    """A chunk by ``number`` counts from the task's first frame, one by ``index`` from the job's."""
    number, index = call.number("number"), call.number("index")
    if (number is None) == (index is None or not job):
        raise invalid(["Number is not specified" if number is None else "Either number or index"])
    if number is not None:
        low = number * media.chunk_size
        chosen = [frame for frame in frames if low <= frame < low + media.chunk_size]
    else:
        low = (index or 0) * media.chunk_size
        chosen = list(frames[low : low + media.chunk_size])
    if not chosen:
        raise RefusalError(404, {"detail": "The chunk does not exist"})
    return call.state.media.chunk(media, chosen, _quality(call))


def _preview(job: bool) -> Callable[[Call], Response]:
    def handler(call: Call) -> Response:
        media, frames = _media_of(call, job)
        content, mime = call.state.media.preview(media, frames[0])
        return Response(content, media_type=mime)

    return handler


# Frame lists


def _ready(tx: Transaction, task_id: int) -> None:
    if not tx.value("SELECT ready FROM data WHERE task_id = ?", task_id):
        raise ServerFaultError("data/meta of a task without data")


def _task_meta(call: Call) -> Response:
    with call.state.database.transaction() as tx:
        task = task_for(tx, call.me, call.params["id"])
        _ready(tx, task["id"])
        if call.method == "PATCH":
            _delete_frames(call, tx, task["id"], None)
        return json_response(data_meta(tx, task["id"]))


def _job_meta(call: Call) -> Response:
    with call.state.database.transaction() as tx:
        job = job_for(tx, call.me, call.params["id"])
        if call.method == "PATCH":
            _delete_frames(call, tx, job["task_id"], job_frames(job))
        return json_response(data_meta(tx, job["task_id"], job))


def _delete_frames(call: Call, tx: Transaction, task_id: int, within: Sequence[int] | None) -> None:
    wanted: Any = call.fields.get("deleted_frames")
    if wanted is None:
        return
    if not isinstance(wanted, list) or not all(isinstance(frame, int) and frame >= 0 for frame in wanted):
        raise invalid({"deleted_frames": ["A valid integer is required."]})
    if within is not None:
        known = json.loads(tx.value("SELECT deleted_frames FROM data WHERE task_id = ?", task_id))
        inside = set(within)
        wanted = [frame for frame in known if frame not in inside] + [frame for frame in wanted if frame in inside]
    size = tx.value("SELECT size FROM data WHERE task_id = ?", task_id)
    kept = sorted({frame for frame in wanted if frame < size})
    tx.run("UPDATE data SET deleted_frames = ? WHERE task_id = ?", dumps(kept), task_id)
    tx.update("task", task_id, updated_date=now())


ROUTES = [
    upload_route("/api/tasks/{id:int}/data", uploads={"POST": post_data}, GET=_get(job=False)),
    route("/api/tasks/{id:int}/data/meta", GET=_task_meta, PATCH=_task_meta),
    upload_route("/api/tasks/{id:int}/data/{upload:str}", uploads={"PATCH": patch_upload}, HEAD=head_upload),
    route("/api/tasks/{id:int}/preview", GET=_preview(job=False)),
    route("/api/jobs/{id:int}/data", GET=_get(job=True)),
    route("/api/jobs/{id:int}/data/meta", GET=_job_meta, PATCH=_job_meta),
    route("/api/jobs/{id:int}/preview", GET=_preview(job=True)),
]
