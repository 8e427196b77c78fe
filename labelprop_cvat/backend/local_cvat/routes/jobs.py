"""``/api/jobs``."""

from __future__ import annotations

import random
from typing import Any

from starlette.responses import Response

from .. import filters
from ..access import find, job_for, may_run_job, may_use_job, task_for
from ..replies import (
    Call,
    RefusalError,
    ServerFaultError,
    empty_response,
    forbidden,
    invalid,
    json_response,
    page,
    required,
)
from ..representations import job as represent
from ..representations import job_status
from ..routing import route
from ..storage import Transaction, dumps, now
from .projects import named_user

STAGES = ("annotation", "validation", "acceptance")
STATES = ("new", "in progress", "completed", "rejected")
_PLAIN = ("id", "task_id", "project_id", "assignee", "state", "stage", "status", "type", "mode", "dimension")


def _list(call: Call) -> Response:
    with call.state.database.transaction() as tx:
        rows = [row for row in tx.all("SELECT * FROM job ORDER BY id DESC") if may_use_job(tx, call.me, row)]
        records = [_record(call, tx, row) for row in rows if call.in_organization(find(tx, "task", row["task_id"]))]
        chosen = filters.apply(call, records, _PLAIN, ("task_name", "project_name", "assignee", "state", "stage"))
        return page(call, chosen, lambda record: represent(call, tx, record["row"]))


def _record(call: Call, tx: Transaction, row: Any) -> dict[str, Any]:
    parent = find(tx, "task", row["task_id"])
    return {
        **dict(row),
        "row": row,
        "assignee": named_user(tx, call, row, "assignee_id"),
        "project_id": parent["project_id"],
        "task_name": parent["name"],
        "project_name": tx.value("SELECT name FROM project WHERE id = ?", parent["project_id"]),
        "mode": parent["mode"],
        "dimension": "2d",
        "status": job_status(row["stage"], row["state"]),
    }


def _get(call: Call) -> Response:
    with call.state.database.transaction() as tx:
        return json_response(represent(call, tx, job_for(tx, call.me, call.params["id"])))


def _change(call: Call) -> Response:
    fields = call.fields
    with call.state.database.transaction() as tx:
        row = job_for(tx, call.me, call.params["id"])
        if set(fields) - {"assignee", "stage", "state"}:
            raise forbidden("Attempted to update an unknown field")
        if set(fields) & {"assignee", "stage"} and not may_run_job(tx, call.me, row):
            raise forbidden()
        changes = _changes(tx, row, fields)
        old = represent(call, tx, row)
        tx.update("job", row["id"], **changes, updated_date=now())
        body = represent(call, tx, find(tx, "job", row["id"]))
    call.state.webhooks.announce(call, body["project_id"], "update:job", {"job": body}, old)
    return json_response(body)


def _changes(tx: Transaction, row: Any, fields: dict[str, Any]) -> dict[str, Any]:
    changes: dict[str, Any] = {}
    for name, choices in (("stage", STAGES), ("state", STATES)):
        if name in fields:
            if fields[name] not in choices:
                raise invalid({name: [f'"{fields[name]}" is not a valid choice.']})
            changes[name] = fields[name]
    # A job that moves to another stage starts it anew.
    if "stage" in changes and "state" not in changes and changes["stage"] != row["stage"]:
        changes["state"] = "new"
    if "assignee" in fields:
        changes["assignee_id"] = check_job_assignee(tx, fields["assignee"])
        if changes["assignee_id"] != row["assignee_id"]:
            changes["assignee_updated_date"] = now()
    return changes


def check_job_assignee(tx: Transaction, identity: Any) -> int | None:
    """A user's id. Anything but a number breaks the real server, and so it does here."""
    if identity is None:
        return None
    if not isinstance(identity, int) or isinstance(identity, bool):
        raise ServerFaultError("a job's assignee must be a user's id")
    if tx.one("SELECT 1 FROM user WHERE id = ?", identity) is None:
        raise invalid({"assignee": [f'Invalid pk "{identity}" - object does not exist.']})
    return identity


# Ground truth


def _create(call: Call) -> Response:
    fields = call.fields
    if fields.get("type") != "ground_truth":
        raise invalid({"type": [f'"{fields.get("type")}" is not a valid choice.']})
    if fields.get("task_id") is None:
        raise required("task_id")
    with call.state.database.transaction() as tx:
        task = task_for(tx, call.me, int(fields["task_id"]))
        size = tx.value("SELECT size FROM data WHERE task_id = ? AND ready", task["id"])
        if not size:
            raise invalid(["This task has no data"])
        if tx.one("SELECT 1 FROM job WHERE task_id = ? AND type = 'ground_truth'", task["id"]) is not None:
            raise invalid(['Task with validation mode "gt" cannot have more than 1 GT job'])
        frames = _chosen_frames(fields, size)
        moment = now()
        identity = tx.insert(
            "job",
            task_id=task["id"],
            type="ground_truth",
            start_frame=0,
            stop_frame=size - 1,
            frames=dumps(frames),
            created_date=moment,
            updated_date=moment,
        )
        tx.update("task", task["id"], validation_mode="gt", updated_date=moment)
        body = represent(call, tx, find(tx, "job", identity))
    call.state.webhooks.announce(call, body["project_id"], "create:job", {"job": body})
    return json_response(body, 201)


def _chosen_frames(fields: dict[str, Any], size: int) -> list[int]:
    method = fields.get("frame_selection_method")
    if method == "manual":
        frames = sorted({int(frame) for frame in fields.get("frames") or []})
        if not frames or frames[0] < 0 or frames[-1] >= size:
            raise invalid({"frames": [f"Frames must be between 0 and {size - 1}, and at least one"]})
        return frames
    if method == "random_uniform":
        count = int(fields.get("frame_count") or round(size * float(fields.get("frame_share") or 0)))
        if not 0 < count <= size:
            raise invalid({"frame_count": [f"Must be between 1 and {size}"]})
        return sorted(random.Random(fields.get("random_seed")).sample(range(size), count))
    raise invalid({"frame_selection_method": [f'"{method}" is not a valid choice.']})


def _delete(call: Call) -> Response:
    with call.state.database.transaction() as tx:
        row = job_for(tx, call.me, call.params["id"])
        if row["type"] != "ground_truth":
            raise RefusalError(400, [f"Can't delete job with type {row['type']}"])
        if not may_run_job(tx, call.me, row):
            raise forbidden()
        tx.run("DELETE FROM job WHERE id = ?", row["id"])
        tx.update("task", row["task_id"], validation_mode=None, updated_date=now())
    return empty_response(204)


ROUTES = [
    route("/api/jobs", GET=_list, POST=_create),
    route("/api/jobs/{id:int}", GET=_get, PATCH=_change, DELETE=_delete),
]
