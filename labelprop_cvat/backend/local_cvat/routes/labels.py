"""``/api/labels``."""

from __future__ import annotations

from typing import Any

from starlette.responses import Response

from .. import filters
from ..access import find, has_job_in, job_for, may_use_project, may_use_task
from ..labels import change_label, check_labels
from ..replies import Call, RefusalError, empty_response, forbidden, invalid, json_response, page
from ..representations import label as represent
from ..routing import route
from ..storage import Transaction


def _of_task(tx: Transaction, task_id: int) -> list[Any]:
    project_id = tx.value("SELECT project_id FROM task WHERE id = ?", task_id)
    if project_id is not None:
        return _of_project(tx, project_id)
    return tx.all("SELECT * FROM label WHERE task_id = ? AND parent_id IS NULL ORDER BY id", task_id)


def _of_project(tx: Transaction, project_id: int) -> list[Any]:
    return tx.all("SELECT * FROM label WHERE project_id = ? AND parent_id IS NULL ORDER BY id", project_id)


def _asked_for(call: Call, tx: Transaction) -> list[Any]:
    user = call.me
    job_id, task_id, project_id = (call.number(name) for name in ("job_id", "task_id", "project_id"))
    if job_id is not None:
        return _of_task(tx, job_for(tx, user, job_id)["task_id"])
    if task_id is not None:
        task = find(tx, "task", task_id)
        if not may_use_task(tx, user, task) and not has_job_in(tx, user, task_id):
            raise forbidden()
        return _of_task(tx, task_id)
    if project_id is not None:
        if not may_use_project(tx, user, find(tx, "project", project_id)):
            raise forbidden()
        return _of_project(tx, project_id)
    rows = tx.all("SELECT * FROM label WHERE parent_id IS NULL ORDER BY id")
    return [row for row in rows if _may_use(tx, call, row)]


def _may_use(tx: Transaction, call: Call, row: Any) -> bool:
    if row["project_id"] is not None:
        return may_use_project(tx, call.me, find(tx, "project", row["project_id"]))
    return may_use_task(tx, call.me, find(tx, "task", row["task_id"]))


def _list(call: Call) -> Response:
    with call.state.database.transaction() as tx:
        records = [{**dict(row), "row": row} for row in _asked_for(call, tx)]
        chosen = filters.apply(call, records, ("name", "type", "color"), ("name",))
        return page(call, chosen, lambda record: represent(tx, record["row"]))


def _find(call: Call, tx: Transaction) -> Any:
    row = find(tx, "label", call.params["id"])
    if not _may_use(tx, call, row):
        raise forbidden()
    return row


def _get(call: Call) -> Response:
    with call.state.database.transaction() as tx:
        return json_response(represent(tx, _find(call, tx)))


def _change(call: Call) -> Response:
    with call.state.database.transaction() as tx:
        row = _find(call, tx)
        if call.fields.get("deleted"):
            problem = "Labels cannot be deleted by updating in this endpoint. Please use the DELETE method instead."
            raise invalid({"non_field_errors": [problem]})
        check_labels([{**call.fields, "id": row["id"]}])
        change_label(tx, row["id"], call.fields)
        return json_response(represent(tx, find(tx, "label", row["id"])))


def _delete(call: Call) -> Response:
    with call.state.database.transaction() as tx:
        row = _find(call, tx)
        if row["parent_id"] is not None:
            raise RefusalError(400, ["Sublabels cannot be deleted this way. Please send a PATCH request instead."])
        tx.run("DELETE FROM label WHERE id = ?", row["id"])
    return empty_response(204)


ROUTES = [
    route("/api/labels", GET=_list),
    route("/api/labels/{id:int}", GET=_get, PATCH=_change, DELETE=_delete),
]
