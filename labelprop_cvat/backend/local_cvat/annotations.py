"""A job's and a task's annotations: kept, read, changed.

``PUT`` deletes everything and makes it again. ``PATCH update`` is a delete by id followed by a create with the ids
given, so an update without an id makes a duplicate. A task's annotations are those of its annotation jobs, cut at job
borders on the way in and joined on the way out (:mod:`.tracks`).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from .payload import LabelBook, Payload, empty_payload
from .replies import ServerFaultError, invalid
from .storage import Transaction, dumps, now
from .tracks import join_payloads, slice_payload

_CREATE, _UPDATE, _DELETE = "create", "update", "delete"
PATCH_ACTIONS = (_CREATE, _UPDATE, _DELETE)


# One job


def read_job(tx: Transaction, job_id: int, task_id: int) -> Payload:
    """A job's annotations as GET answers them."""
    payload = {
        "version": 0,
        "tags": [_tag(row) for row in tx.all("SELECT * FROM tag WHERE job_id = ? ORDER BY frame, id", job_id)],
        "shapes": _nest(
            tx.all("SELECT * FROM shape WHERE job_id = ? ORDER BY frame, id", job_id),
            _shape,
        ),
        "tracks": _read_tracks(tx, job_id),
    }
    LabelBook(tx, task_id).fill(payload)
    return payload


def put_job(tx: Transaction, job_id: int, task_id: int, payload: Payload) -> Payload:
    """Replace a job's annotations; returns the payload as it was taken, with ids."""
    _check_new(payload)
    delete_job(tx, job_id)
    return _create(tx, job_id, LabelBook(tx, task_id), payload)


def delete_job(tx: Transaction, job_id: int) -> None:
    for table in ("tag", "shape", "track"):
        tx.run(f"DELETE FROM {table} WHERE job_id = ?", job_id)
    _touch(tx, job_id)


def patch_job(tx: Transaction, job_id: int, task_id: int, payload: Payload, action: str) -> Payload:
    """Add to, change or delete from a job's annotations; returns the payload as it was taken, with ids."""
    labels = LabelBook(tx, task_id)
    if action == _CREATE:
        _check_new(payload)
        return _create(tx, job_id, labels, payload)
    for kind, table in (("tags", "tag"), ("shapes", "shape"), ("tracks", "track")):
        identities = [item["id"] for item in payload[kind] if "id" in item]
        tx.many(f"DELETE FROM {table} WHERE id = ? AND job_id = ?", [(i, job_id) for i in identities])
    _touch(tx, job_id)
    if action == _DELETE:
        return payload
    return _create(tx, job_id, labels, payload)


def _check_new(payload: Payload) -> None:
    """New objects bring no ids of their own.

    Measured for tracks; tags and shapes are held to the same, so that no client comes to lean on the difference. The
    ids of keyframes inside a track are taken over, as on the real server.
    """
    for kind in ("tags", "shapes", "tracks"):
        at_fault = [{"id": ["must be absent"]} for item in payload[kind] if "id" in item]
        if at_fault:
            raise invalid({kind: at_fault})


def _touch(tx: Transaction, job_id: int) -> None:
    moment = now()
    tx.update("job", job_id, updated_date=moment)
    tx.run("UPDATE task SET updated_date = ? WHERE id = (SELECT task_id FROM job WHERE id = ?)", moment, job_id)


# Writing


def _create(tx: Transaction, job_id: int, labels: LabelBook, payload: Payload) -> Payload:
    labels.check(payload)
    _number(tx, "tag", payload["tags"])
    tx.many(
        'INSERT INTO tag (id, job_id, frame, label_id, "group", source, attributes) VALUES (?, ?, ?, ?, ?, ?, ?)',
        [_identity_columns(tag, job_id) for tag in payload["tags"]],
    )
    _create_shapes(tx, job_id, payload["shapes"], None)
    _create_tracks(tx, job_id, payload["tracks"], None)
    _touch(tx, job_id)
    return payload


def _create_shapes(tx: Transaction, job_id: int, shapes: list[Payload], parent: int | None) -> None:
    _number(tx, "shape", shapes)
    tx.many(
        'INSERT INTO shape (id, job_id, frame, label_id, "group", source, attributes, parent_id, type, occluded, '
        "outside, z_order, rotation, points) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        [(*_identity_columns(shape, job_id), parent, *_geometry_columns(shape)) for shape in shapes],
    )
    for shape in shapes:
        if shape["elements"]:
            _create_shapes(tx, job_id, shape["elements"], shape["id"])


def _create_tracks(tx: Transaction, job_id: int, tracks: list[Payload], parent: int | None) -> None:
    for track in tracks:
        track["frame"] = min(shape["frame"] for shape in track["shapes"])
    _number(tx, "track", tracks)
    tx.many(
        'INSERT INTO track (id, job_id, frame, label_id, "group", source, attributes, parent_id) '
        "VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
        [(*_identity_columns(track, job_id), parent) for track in tracks],
    )
    for track in tracks:
        _number(tx, "tracked_shape", track["shapes"])
        tx.many(
            "INSERT INTO tracked_shape (id, track_id, frame, attributes, type, occluded, outside, z_order, rotation, "
            "points) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            [
                (shape["id"], track["id"], shape["frame"], dumps(shape["attributes"]), *_geometry_columns(shape))
                for shape in track["shapes"]
            ],
        )
        if track["elements"]:
            _create_tracks(tx, job_id, track["elements"], track["id"])


def _number(tx: Transaction, table: str, items: list[Payload]) -> None:
    """Give ids to the items that bring none; an id that is taken by a row elsewhere is what breaks the real server."""
    brought = [item["id"] for item in items if "id" in item]
    for identity in brought:
        if tx.one(f"SELECT 1 FROM {table} WHERE id = ?", identity) is not None:
            raise ServerFaultError(f"{table} id {identity} is already in use")
    if len(set(brought)) != len(brought):
        raise ServerFaultError(f"one {table} id twice in a payload")
    if brought:
        tx.reserve_id(table, max(brought))
    fresh = [item for item in items if "id" not in item]
    for item, identity in zip(fresh, tx.next_ids(table, len(fresh)), strict=True):
        item["id"] = identity


def _identity_columns(item: Payload, job_id: int) -> tuple[Any, ...]:
    return (
        item["id"],
        job_id,
        item["frame"],
        item["label_id"],
        item["group"],
        item["source"],
        dumps(item["attributes"]),
    )


def _geometry_columns(shape: Payload) -> tuple[Any, ...]:
    return (
        shape["type"],
        shape["occluded"],
        shape["outside"],
        shape["z_order"],
        shape["rotation"],
        dumps(shape["points"]),
    )


# Reading


def _read_tracks(tx: Transaction, job_id: int) -> list[Payload]:
    shapes: dict[int, list[Payload]] = {}
    query = (
        "SELECT s.* FROM tracked_shape s JOIN track t ON t.id = s.track_id WHERE t.job_id = ? ORDER BY s.frame, s.id"
    )
    for row in tx.all(query, job_id):
        shapes.setdefault(row["track_id"], []).append(_tracked_shape(row))
    rows = tx.all("SELECT * FROM track WHERE job_id = ? ORDER BY id", job_id)
    return _nest(rows, lambda row: _track(row, shapes.get(row["id"], [])))


def _nest(rows: Iterable[Any], render: Callable[[Any], Payload]) -> list[Payload]:
    """Top-level objects in order, each with the elements of its skeleton."""
    rows = list(rows)
    items = {row["id"]: render(row) for row in rows}
    top = []
    for row in rows:
        if row["parent_id"] is None:
            top.append(items[row["id"]])
        elif row["parent_id"] in items:
            items[row["parent_id"]]["elements"].append(items[row["id"]])
    return top


def _tag(row: Any) -> Payload:
    return {
        "id": row["id"],
        "frame": row["frame"],
        "label_id": row["label_id"],
        "group": row["group"],
        "source": row["source"],
        "attributes": json.loads(row["attributes"]),
    }


def _geometry(row: Any) -> Payload:
    return {
        "type": row["type"],
        "frame": row["frame"],
        "occluded": bool(row["occluded"]),
        "outside": bool(row["outside"]),
        "z_order": row["z_order"],
        "rotation": float(row["rotation"]),
        "points": [float(value) for value in json.loads(row["points"])],
    }


def _shape(row: Any) -> Payload:
    return {**_tag(row), **_geometry(row), "elements": []}


def _tracked_shape(row: Any) -> Payload:
    return {"id": row["id"], **_geometry(row), "attributes": json.loads(row["attributes"])}


def _track(row: Any, shapes: list[Payload]) -> Payload:
    return {**_tag(row), "shapes": shapes, "elements": []}


# A whole task


def _annotation_jobs(tx: Transaction, task_id: int) -> Sequence[Any]:
    if not tx.value("SELECT ready FROM data WHERE task_id = ?", task_id):
        raise ServerFaultError("annotations of a task without data")
    return tx.all("SELECT * FROM job WHERE task_id = ? AND type = 'annotation' ORDER BY id", task_id)


def read_task(tx: Transaction, task_id: int) -> Payload:
    """A task's annotations, tracks of overlapping jobs joined."""
    jobs = _annotation_jobs(tx, task_id)
    parts = [(job["start_frame"], read_job(tx, job["id"], task_id)) for job in jobs]
    return join_payloads(parts, _overlap(tx, task_id))


def put_task(tx: Transaction, task_id: int, payload: Payload) -> Payload:
    return _spread(tx, task_id, payload, lambda job_id, part: put_job(tx, job_id, task_id, part))


def patch_task(tx: Transaction, task_id: int, payload: Payload, action: str) -> Payload:
    return _spread(tx, task_id, payload, lambda job_id, part: patch_job(tx, job_id, task_id, part, action))


def delete_task(tx: Transaction, task_id: int) -> None:
    for job in _annotation_jobs(tx, task_id):
        delete_job(tx, job["id"])


def _spread(tx: Transaction, task_id: int, payload: Payload, write: Callable[[int, Payload], Payload]) -> Payload:
    jobs = _annotation_jobs(tx, task_id)
    LabelBook(tx, task_id).check(payload)
    parts = []
    for job in jobs:
        part = slice_payload(payload, job["start_frame"], job["stop_frame"])
        parts.append((job["start_frame"], write(job["id"], part)))
    return join_payloads(parts, _overlap(tx, task_id)) if parts else empty_payload()


def _overlap(tx: Transaction, task_id: int) -> int:
    return int(tx.value("SELECT overlap FROM task WHERE id = ?", task_id) or 0)


__all__ = [
    "PATCH_ACTIONS",
    "delete_job",
    "delete_task",
    "patch_job",
    "patch_task",
    "put_job",
    "put_task",
    "read_job",
    "read_task",
]
