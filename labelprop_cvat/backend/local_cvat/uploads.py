"""Files on their way in: whole forms, batches, and resumable uploads (the TUS protocol).

Bodies go to disk as they come; however large a file is, only a chunk of it is ever in memory.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import html
import uuid
from collections.abc import Callable, Mapping
from email.header import Header
from pathlib import Path, PurePosixPath
from typing import Any

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response

from .access import task_for
from .multipart import nested_fields, read_form
from .replies import Call, RefusalError, ServerFaultError, empty_response, invalid, json_response, read_body
from .storage import Transaction

_MAX_FILE = 26843545600
# Characters of a frame's name, bytes of a file's on disk.
_MAX_NAME, _MAX_PART = 1024, 250
TUS_HEADERS = {
    "Tus-Resumable": "1.0.0",
    "Tus-Version": "1.0.0",
    "Tus-Extension": "",
    "Tus-Max-Size": str(_MAX_FILE),
    "Access-Control-Allow-Origin": "*",
    "Access-Control-Allow-Methods": "PATCH,HEAD,GET,POST,OPTIONS",
    "Access-Control-Expose-Headers": "Tus-Resumable,upload-length,upload-metadata,Location,Upload-Offset",
    "Access-Control-Allow-Headers": "Tus-Resumable,upload-length,upload-metadata,Location,Upload-Offset,content-type",
    "Cache-Control": "no-store",
}


def form_name(name: str) -> str:
    """What a form's file is called: as Django has it, without folders and characters that cannot be shown.

    Raises:
        RefusalError: 400 when nothing is left of it
    """
    last = html.unescape(name).replace("\\", "/").rsplit("/", 1)[-1]
    shown = "".join(character for character in last if character.isprintable())
    if shown in ("", ".", ".."):
        raise invalid({"client_files": [f"{name!r} is not a file name"]})
    return _short(shown)


def resumable_name(name: str) -> str:
    """What a resumable upload's file is called: a path below the task's folder.

    Raises:
        RefusalError: 400 for one that leads elsewhere
    """
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or not path.parts or "\0" in name:
        raise invalid(f"File name {name!r} is not allowed")
    return _short(str(path))


def _short(name: str) -> str:
    if len(name) > _MAX_NAME or any(len(part.encode()) > _MAX_PART for part in name.split("/")):
        raise invalid({"client_files": [f"Ensure this filename has at most {_MAX_NAME} characters."]})
    return name


async def post_data(request: Request, call: Call) -> Response:
    """``POST /api/tasks/{id}/data``: everything at once, or a step of an upload, told apart by headers."""
    task_id = int(call.params["id"])
    await run_in_threadpool(_check_task, call, task_id)
    if "upload-length" in call.headers:
        return await run_in_threadpool(_create_upload, call, task_id)
    arguments = await _read_arguments(request, call, task_id)
    if "upload-start" in call.headers and "upload-finish" not in call.headers:
        await run_in_threadpool(_start, call, task_id)
        return empty_response(202)
    if "upload-multiple" in call.headers and "upload-finish" not in call.headers:
        return empty_response(200)
    return await run_in_threadpool(_finish, call, task_id, arguments)


def _check_task(call: Call, task_id: int) -> None:
    with call.state.database.transaction() as tx:
        task_for(tx, call.me, task_id)
        if tx.value("SELECT ready FROM data WHERE task_id = ?", task_id):
            raise invalid("Adding more data is not supported")


async def _read_arguments(request: Request, call: Call, task_id: int) -> Mapping[str, Any]:
    kind = call.headers.get("content-type", "")
    if kind.startswith("multipart/form-data"):
        root = call.state.files.raw(task_id)
        form = await read_form(kind, request.stream(), lambda name: root / form_name(name), _MAX_FILE)
        files = sorted(form.files, key=lambda file: _file_index(file[0]))
        await run_in_threadpool(_remember, call, task_id, [form_name(name) for _, name, _ in files])
        return nested_fields(form.fields)
    call.body = await read_body(request.stream())
    return call.fields


def _file_index(field: str) -> int:
    digits = "".join(character for character in field if character.isdecimal())
    return int(digits or 0)


def _remember(call: Call, task_id: int, names: list[str]) -> None:
    with call.state.database.transaction() as tx:
        for name in names:
            add_file(tx, task_id, name)


def add_file(tx: Transaction, task_id: int, name: str) -> None:
    """Note an uploaded file; one sent again keeps its place."""
    if tx.one("SELECT 1 FROM file WHERE task_id = ? AND name = ?", task_id, name) is None:
        tx.run("INSERT INTO file (task_id, name) VALUES (?, ?)", task_id, name)


def _start(call: Call, task_id: int) -> None:
    with call.state.database.transaction() as tx:
        _ensure_data(tx, task_id)


def _ensure_data(tx: Transaction, task_id: int) -> None:
    if tx.one("SELECT 1 FROM data WHERE task_id = ?", task_id) is None:
        tx.insert_row("data", id=tx.next_ids("data", 1)[0], task_id=task_id)


def _finish(call: Call, task_id: int, arguments: Mapping[str, Any]) -> Response:
    with call.state.database.transaction() as tx:
        _ensure_data(tx, task_id)
        running = tx.one("SELECT 1 FROM request WHERE task_id = ? AND status IN ('queued', 'started')", task_id)
        if running is not None:
            raise RefusalError(409, {"detail": "The data of this task is being processed already."})
        quality = _quality(arguments)
        tx.run("UPDATE data SET image_quality = ? WHERE task_id = ?", quality, task_id)
        identity = call.state.ingest.submit(tx, task_id, call.me.id, dict(arguments))
    return json_response({"rq_id": identity}, 202)


def _quality(arguments: Mapping[str, Any]) -> int:
    value = arguments.get("image_quality")
    if value is None:
        raise invalid({"image_quality": ["This field is required."]})
    try:
        quality = int(value)
    except (TypeError, ValueError):
        raise invalid({"image_quality": ["A valid integer is required."]}) from None
    if not 0 <= quality <= 100:
        raise invalid({"image_quality": ["Ensure this value is less than or equal to 100."]})
    return quality


# Resumable uploads


def _create_upload(call: Call, task_id: int) -> Response:
    # The real server builds the answer from the Origin header and fails without one.
    if "origin" not in call.headers:
        raise ServerFaultError("a resumable upload without an Origin header")
    length = _header_number(call, "upload-length")
    if length > _MAX_FILE:
        raise RefusalError(413, {"detail": f"File is too big; at most {_MAX_FILE} bytes."})
    name = resumable_name(_metadata(call).get("filename") or str(uuid.uuid4()))
    if "\n" in name or "\r" in name:
        # It goes into a header of the answer, which Django refuses to make.
        raise ServerFaultError("a line break in the name of a resumable upload")
    identity = f"{call.me.id}_{uuid.uuid4()}"
    path = _partial(call, task_id, identity)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()
    with call.state.database.transaction() as tx:
        tx.insert_row("upload", id=identity, task_id=task_id, filename=name, length=length)
    if length == 0:
        _complete(call, task_id, identity, name)
    location = call.url(f"/api/tasks/{task_id}/data/{identity}")
    return empty_response(201, {**TUS_HEADERS, "Location": location, "Upload-Filename": _header_text(name)})


def _header_text(text: str) -> str:
    """Text as Django puts it into a header: what Latin-1 cannot hold is MIME-encoded."""
    try:
        text.encode("latin-1")
    except UnicodeEncodeError:
        return Header(text, "utf-8", maxlinelen=10**6).encode()
    return text


def _metadata(call: Call) -> dict[str, str]:
    values = {}
    for item in call.headers.get("upload-metadata", "").split(","):
        key, _, encoded = item.strip().partition(" ")
        try:
            values[key] = base64.b64decode(encoded).decode()
        except (binascii.Error, UnicodeDecodeError):
            raise RefusalError(400, {"detail": "Upload-Metadata is not base64."}) from None
    return values


def _header_number(call: Call, name: str) -> int:
    text = call.headers.get(name, "")
    if not text.isdecimal():
        raise RefusalError(400, {"detail": f"The {name} header must be a whole number."})
    return int(text)


def _partial(call: Call, task_id: int, identity: str) -> Path:
    return call.state.files.uploads(task_id) / identity


def _upload_row(call: Call, task_id: int, identity: str) -> Any:
    with call.state.database.transaction() as tx:
        task_for(tx, call.me, task_id)
        row = tx.one("SELECT * FROM upload WHERE id = ? AND task_id = ?", identity, task_id)
    if row is None:
        raise RefusalError(404, {"detail": "No such upload."}, TUS_HEADERS)
    return row


def head_upload(call: Call) -> Response:
    task_id, identity = int(call.params["id"]), str(call.params["upload"])
    row = _upload_row(call, task_id, identity)
    offset = _partial(call, task_id, identity).stat().st_size
    return empty_response(200, {**TUS_HEADERS, "Upload-Offset": str(offset), "Upload-Length": str(row["length"])})


async def patch_upload(request: Request, call: Call) -> Response:
    """Add to an upload at its end; what arrived before a cut connection stays."""
    task_id, identity = int(call.params["id"]), str(call.params["upload"])
    # A client that lost its connection comes back while its first request may still be writing.
    async with call.state.upload_locks.setdefault(identity, asyncio.Lock()):
        row = await run_in_threadpool(_upload_row, call, task_id, identity)
        if call.headers.get("content-type") != "application/offset+octet-stream":
            raise RefusalError(415, {"detail": "Expected application/offset+octet-stream."}, TUS_HEADERS)
        path = _partial(call, task_id, identity)
        offset = path.stat().st_size
        if _header_number(call, "upload-offset") != offset:
            headers = {**TUS_HEADERS, "Upload-Offset": str(offset)}
            raise RefusalError(409, {"detail": f"The upload stands at {offset}."}, headers)
        with path.open("ab") as file:
            offset = await _append(request, file.write, offset, row["length"])
        if offset == row["length"]:
            await run_in_threadpool(_complete, call, task_id, identity, row["filename"])
            call.state.upload_locks.pop(identity, None)
    return empty_response(204, {**TUS_HEADERS, "Upload-Offset": str(offset)})


async def _append(request: Request, write: Callable[[bytes], int], offset: int, length: int) -> int:
    async for chunk in request.stream():
        if offset + len(chunk) > length:
            raise RefusalError(413, {"detail": "More than Upload-Length announced."}, TUS_HEADERS)
        write(chunk)
        offset += len(chunk)
    return offset


def _complete(call: Call, task_id: int, identity: str, name: str) -> None:
    target = call.state.files.raw(task_id) / name
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        _partial(call, task_id, identity).replace(target)
    except (FileExistsError, NotADirectoryError, IsADirectoryError) as error:
        raise invalid(f"File name {name!r} is not allowed: another file stands in its way") from error
    with call.state.database.transaction() as tx:
        tx.run("DELETE FROM upload WHERE id = ?", identity)
        add_file(tx, task_id, name)


__all__ = ["add_file", "form_name", "head_upload", "patch_upload", "post_data", "resumable_name"]
