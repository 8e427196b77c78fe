"""``/api/tasks``: the tasks themselves; their data and annotations have modules of their own."""

from __future__ import annotations

import json
from typing import Any

from starlette.responses import Response

from .. import filters
from ..access import may_use_task, project_for, task_for
from ..labels import change_labels, check_labels, create_labels
from ..moving import move_task
from ..replies import Call, RefusalError, empty_response, invalid, json_response, page, required
from ..representations import task as represent
from ..routing import route
from ..storage import Transaction, now
from .projects import check_assignee, named_user

_PLAIN = ("id", "name", "project_id", "owner", "assignee", "mode", "subset", "status")


def _list(call: Call) -> Response:
    with call.state.database.transaction() as tx:
        rows = [row for row in tx.all("SELECT * FROM task ORDER BY id DESC") if call.in_organization(row)]
        rows = [row for row in rows if may_use_task(tx, call.me, row)]
        records = [_record(call, tx, row) for row in rows]
        ids = {text for text in call.query.get("ids", "").split(",") if text}
        if ids:
            records = [record for record in records if str(record["id"]) in ids]
        chosen = filters.apply(call, records, _PLAIN, ("name", "project_name", "owner", "assignee", "subset"))
        return page(call, chosen, lambda record: represent(call, tx, record["row"]))


def _record(call: Call, tx: Transaction, row: Any) -> dict[str, Any]:
    return {
        **dict(row),
        "row": row,
        "owner": named_user(tx, call, row, "owner_id"),
        "assignee": named_user(tx, call, row, "assignee_id"),
        "project_name": tx.value("SELECT name FROM project WHERE id = ?", row["project_id"]),
        "status": "annotation",
    }


def _create(call: Call) -> Response:
    fields = call.fields
    if not fields.get("name"):
        raise required("name")
    project_id = fields.get("project_id")
    definitions = check_labels(fields.get("labels") or [])
    if project_id is not None and definitions:
        raise invalid(["Project must have only one of Label set or project_id"])
    moment = now()
    with call.state.database.transaction() as tx:
        if project_id is not None:
            if tx.one("SELECT 1 FROM project WHERE id = ?", project_id) is None:
                raise invalid([f"The specified project #{project_id} does not exist. Please correct it and try again."])
            project_for(tx, call.me, project_id)
        assignee = check_assignee(tx, fields.get("assignee_id"))
        identity = tx.insert(
            "task",
            name=str(fields["name"]),
            project_id=project_id,
            owner_id=call.me.id,
            assignee_id=assignee,
            assignee_updated_date=None if assignee is None else moment,
            bug_tracker=fields.get("bug_tracker") or "",
            overlap=_natural(fields, "overlap"),
            segment_size=_natural(fields, "segment_size") or 0,
            subset=fields.get("subset") or "",
            organization_id=call.new_organization_id,
            created_date=moment,
            updated_date=moment,
        )
        create_labels(tx, definitions, task_id=identity)
        tx.run("UPDATE project SET updated_date = ? WHERE id = ?", moment, project_id)
        body = represent(call, tx, task_for(tx, call.me, identity))
    call.state.webhooks.announce(call, project_id, "create:task", {"task": body})
    return json_response(body, 201, {"Location": body["url"]})


def _natural(fields: dict[str, Any], name: str) -> int | None:
    value = fields.get(name)
    if value is None:
        return None
    try:
        number = int(value)
    except (TypeError, ValueError):
        raise invalid({name: ["A valid integer is required."]}) from None
    if number < 0:
        raise invalid({name: ["Ensure this value is greater than or equal to 0."]})
    return number


def _get(call: Call) -> Response:
    with call.state.database.transaction() as tx:
        return json_response(represent(call, tx, task_for(tx, call.me, call.params["id"])))


def _change(call: Call) -> Response:
    fields = call.fields
    with call.state.database.transaction() as tx:
        row = task_for(tx, call.me, call.params["id"])
        old = represent(call, tx, row)
        changes: dict[str, Any] = {name: fields[name] for name in ("name", "bug_tracker", "subset") if name in fields}
        if "assignee_id" in fields:
            changes["assignee_id"] = check_assignee(tx, fields["assignee_id"])
            if changes["assignee_id"] != row["assignee_id"]:
                changes["assignee_updated_date"] = now()
        labels = check_labels(fields.get("labels") or [])
        moves = "project_id" in fields and fields["project_id"] != row["project_id"]
        if row["project_id"] is not None and labels and not moves:
            raise invalid(["Failed to update labels of a task in a project. Update the project's labels instead."])
        tx.update("task", row["id"], **changes, updated_date=now())
        if moves:
            move_task(tx, row, _target_project(call, tx, fields["project_id"]), labels)
        else:
            change_labels(tx, labels, task_id=row["id"])
        body = represent(call, tx, task_for(tx, call.me, row["id"]))
    call.state.webhooks.announce(call, row["project_id"], "update:task", {"task": body}, old)
    return json_response(body)


def _target_project(call: Call, tx: Transaction, identity: Any) -> int:
    if not isinstance(identity, int) or tx.one("SELECT 1 FROM project WHERE id = ?", identity) is None:
        raise invalid({"non_field_errors": [f"Cannot find project with ID {identity}"]})
    return int(project_for(tx, call.me, identity)["id"])


def _delete(call: Call) -> Response:
    with call.state.database.transaction() as tx:
        row = task_for(tx, call.me, call.params["id"])
        body = represent(call, tx, row)
        tx.run("DELETE FROM task WHERE id = ?", row["id"])
    call.state.ingest.forget(row["id"])
    call.state.webhooks.announce(call, row["project_id"], "delete:task", {"task": body})
    return empty_response(204)


def _status(call: Call) -> Response:
    """The old way to ask; says Finished for a task that never got data, as the real server does."""
    with call.state.database.transaction() as tx:
        row = task_for(tx, call.me, call.params["id"])
        request = tx.one("SELECT * FROM request WHERE task_id = ? AND type = 'create:task'", row["id"])
    if request is None or request["status"] == "finished":
        return json_response({"state": "Finished", "message": "", "progress": 0.0})
    states = {"queued": "Queued", "started": "Started", "failed": "Failed"}
    return json_response({"state": states[request["status"]], "message": request["message"], "progress": 0.0})


def _validation_layout(call: Call) -> Response:
    with call.state.database.transaction() as tx:
        row = task_for(tx, call.me, call.params["id"])
        chosen = tx.value("SELECT frames FROM job WHERE task_id = ? AND type = 'ground_truth'", row["id"])
    if chosen is None:
        raise RefusalError(404, {"detail": "Not found."})
    return json_response(
        {
            "mode": "gt",
            "frames_per_job_count": None,
            "validation_frames": json.loads(chosen),
            "disabled_frames": [],
        }
    )


ROUTES = [
    route("/api/tasks", GET=_list, POST=_create),
    route("/api/tasks/{id:int}", GET=_get, PATCH=_change, DELETE=_delete),
    route("/api/tasks/{id:int}/status", GET=_status),
    route("/api/tasks/{id:int}/validation_layout", GET=_validation_layout),
]
