"""``/api/projects``."""

from __future__ import annotations

from typing import Any

from starlette.responses import Response

from .. import filters
from ..access import may_use_project, project_for
from ..labels import change_labels, check_labels, create_labels
from ..replies import Call, empty_response, invalid, json_response, page, required
from ..representations import project as represent
from ..routing import route
from ..storage import Transaction, now


def named_user(tx: Transaction, call: Call, row: Any, column: str) -> str | None:
    identity = row[column]
    return None if identity is None else tx.value("SELECT username FROM user WHERE id = ?", identity)


def check_assignee(tx: Transaction, identity: Any) -> int | None:
    if identity is None:
        return None
    if not isinstance(identity, int) or tx.one("SELECT 1 FROM user WHERE id = ?", identity) is None:
        raise invalid({"assignee_id": [f'Invalid pk "{identity}" - object does not exist.']})
    return identity


def _list(call: Call) -> Response:
    with call.state.database.transaction() as tx:
        rows = [row for row in tx.all("SELECT * FROM project ORDER BY id DESC") if call.in_organization(row)]
        rows = [row for row in rows if may_use_project(tx, call.me, row)]
        records = [
            {
                **dict(row),
                "row": row,
                "owner": named_user(tx, call, row, "owner_id"),
                "assignee": named_user(tx, call, row, "assignee_id"),
            }
            for row in rows
        ]
        chosen = filters.apply(call, records, ("id", "name", "owner", "assignee"), ("name", "owner", "assignee"))
        return page(call, chosen, lambda record: represent(call, tx, record["row"]))


def _create(call: Call) -> Response:
    fields = call.fields
    if not fields.get("name"):
        raise required("name")
    labels = check_labels(fields.get("labels") or [])
    moment = now()
    with call.state.database.transaction() as tx:
        identity = tx.insert(
            "project",
            name=fields["name"],
            owner_id=call.me.id,
            assignee_id=check_assignee(tx, fields.get("assignee_id")),
            bug_tracker=fields.get("bug_tracker") or "",
            organization_id=call.new_organization_id,
            created_date=moment,
            updated_date=moment,
        )
        create_labels(tx, labels, project_id=identity)
        body = represent(call, tx, project_for(tx, call.me, identity))
    return json_response(body, 201, {"Location": body["url"]})


def _get(call: Call) -> Response:
    with call.state.database.transaction() as tx:
        return json_response(represent(call, tx, project_for(tx, call.me, call.params["id"])))


def _change(call: Call) -> Response:
    fields = call.fields
    with call.state.database.transaction() as tx:
        row = project_for(tx, call.me, call.params["id"])
        old = represent(call, tx, row)
        changes: dict[str, Any] = {name: fields[name] for name in ("name", "bug_tracker") if name in fields}
        if "assignee_id" in fields:
            changes["assignee_id"] = check_assignee(tx, fields["assignee_id"])
            changes["assignee_updated_date"] = now()
        tx.update("project", row["id"], **changes, updated_date=now())
        change_labels(tx, check_labels(fields.get("labels") or []), project_id=row["id"])
        body = represent(call, tx, project_for(tx, call.me, row["id"]))
    call.state.webhooks.announce(call, row["id"], "update:project", {"project": body}, old)
    return json_response(body)


def _delete(call: Call) -> Response:
    with call.state.database.transaction() as tx:
        row = project_for(tx, call.me, call.params["id"])
        tasks = [task["id"] for task in tx.all("SELECT id FROM task WHERE project_id = ?", row["id"])]
        tx.run("DELETE FROM project WHERE id = ?", row["id"])
    for task_id in tasks:
        call.state.ingest.forget(task_id)
    return empty_response(204)


ROUTES = [
    route("/api/projects", GET=_list, POST=_create),
    route("/api/projects/{id:int}", GET=_get, PATCH=_change, DELETE=_delete),
]
