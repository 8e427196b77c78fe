"""``/api/jobs/{id}/annotations`` and ``/api/tasks/{id}/annotations``."""

from __future__ import annotations

from typing import Any

from starlette.responses import Response

from .. import annotations as store
from ..access import find, job_for, task_for
from ..payload import read_payload
from ..replies import Call, empty_response, invalid, json_response
from ..representations import job as represent_job
from ..routing import route
from ..storage import Transaction


def _action(call: Call) -> str:
    action = call.query.get("action")
    if action not in store.PATCH_ACTIONS:
        raise invalid(["Please specify a correct 'action' for the request"])
    return action


def _representation(call: Call, tx: Transaction, job_id: int) -> dict[str, Any]:
    return represent_job(call, tx, find(tx, "job", job_id))


def _get_job(call: Call) -> Response:
    with call.state.database.transaction() as tx:
        row = job_for(tx, call.me, call.params["id"])
        return json_response(store.read_job(tx, row["id"], row["task_id"]))


def _write_job(call: Call) -> Response:
    with call.state.database.transaction() as tx:
        row = job_for(tx, call.me, call.params["id"])
        action = None if call.method == "PUT" else _action(call)
        payload = read_payload(call.json)
        old = _representation(call, tx, row["id"])
        if action is None:
            body: Any = store.put_job(tx, row["id"], row["task_id"], payload)
        else:
            body = store.patch_job(tx, row["id"], row["task_id"], payload, action)
        new = _representation(call, tx, row["id"])
    call.state.webhooks.announce(call, new["project_id"], "update:job", {"job": new}, old)
    return json_response(body)


def _delete_job(call: Call) -> Response:
    with call.state.database.transaction() as tx:
        row = job_for(tx, call.me, call.params["id"])
        old = _representation(call, tx, row["id"])
        store.delete_job(tx, row["id"])
        new = _representation(call, tx, row["id"])
    call.state.webhooks.announce(call, new["project_id"], "update:job", {"job": new}, old)
    return empty_response(204)


def _get_task(call: Call) -> Response:
    with call.state.database.transaction() as tx:
        row = task_for(tx, call.me, call.params["id"])
        return json_response(store.read_task(tx, row["id"]))


def _write_task(call: Call) -> Response:
    with call.state.database.transaction() as tx:
        row = task_for(tx, call.me, call.params["id"])
        action = None if call.method == "PUT" else _action(call)
        payload = read_payload(call.json)
        if action is None:
            return json_response(store.put_task(tx, row["id"], payload))
        return json_response(store.patch_task(tx, row["id"], payload, action))


def _delete_task(call: Call) -> Response:
    with call.state.database.transaction() as tx:
        row = task_for(tx, call.me, call.params["id"])
        store.delete_task(tx, row["id"])
    return empty_response(204)


ROUTES = [
    route("/api/jobs/{id:int}/annotations", GET=_get_job, PUT=_write_job, PATCH=_write_job, DELETE=_delete_job),
    route("/api/tasks/{id:int}/annotations", GET=_get_task, PUT=_write_task, PATCH=_write_task, DELETE=_delete_task),
]
