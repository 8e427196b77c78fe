"""``/api/issues`` and ``/api/comments``."""

from __future__ import annotations

from typing import Any

from starlette.responses import Response

from .. import filters
from ..access import find, job_for, may_run_job, may_use_job
from ..replies import Call, empty_response, forbidden, invalid, json_response, page, required
from ..representations import comment as represent_comment
from ..representations import issue as represent_issue
from ..routing import route
from ..storage import Transaction, dumps, now
from .jobs import check_job_assignee
from .projects import named_user


def _announce(call: Call, job_id: int, event: str, body: dict[str, Any], old: dict[str, Any] | None = None) -> None:
    with call.state.database.transaction() as tx:
        project_id = tx.value("SELECT t.project_id FROM task t JOIN job j ON j.task_id = t.id WHERE j.id = ?", job_id)
    call.state.webhooks.announce(call, project_id, event, body, old)


# Issues


def _list(call: Call) -> Response:
    with call.state.database.transaction() as tx:
        rows = tx.all("SELECT * FROM issue ORDER BY id DESC")
        records = [_record(call, tx, row) for row in rows if _may_see(call, tx, row)]
        plain = ("id", "job_id", "task_id", "resolved", "frame_id", "owner", "assignee")
        chosen = filters.apply(call, records, plain, ("owner", "assignee"))
        return page(call, chosen, lambda record: represent_issue(call, tx, record["row"]))


def _record(call: Call, tx: Transaction, row: Any) -> dict[str, Any]:
    return {
        **dict(row),
        "row": row,
        "resolved": bool(row["resolved"]),
        "frame_id": row["frame"],
        "task_id": tx.value("SELECT task_id FROM job WHERE id = ?", row["job_id"]),
        "owner": named_user(tx, call, row, "owner_id"),
        "assignee": named_user(tx, call, row, "assignee_id"),
    }


def _may_see(call: Call, tx: Transaction, row: Any) -> bool:
    return call.me.id in (row["owner_id"], row["assignee_id"]) or may_use_job(
        tx, call.me, find(tx, "job", row["job_id"])
    )


def _create(call: Call) -> Response:
    fields = call.fields
    absent = [name for name in ("job", "frame", "position", "message") if fields.get(name) is None]
    if absent:
        raise required(*absent)
    position = _position(fields["position"])
    if not isinstance(fields["frame"], int) or fields["frame"] < 0:
        raise invalid({"frame": ["A valid integer is required."]})
    moment = now()
    with call.state.database.transaction() as tx:
        job = job_for(tx, call.me, int(fields["job"]))
        if fields.get("assignee") is not None and not may_run_job(tx, call.me, job):
            raise forbidden()
        identity = tx.insert(
            "issue",
            job_id=job["id"],
            frame=fields["frame"],
            position=dumps(position),
            owner_id=call.me.id,
            assignee_id=check_job_assignee(tx, fields.get("assignee")),
            created_date=moment,
            updated_date=moment,
        )
        _add_comment(tx, identity, call.me.id, str(fields["message"]))
        body = represent_issue(call, tx, find(tx, "issue", identity))
    _announce(call, job["id"], "create:issue", {"issue": body})
    return json_response(body, 201)


def _position(value: Any) -> list[float]:
    if not isinstance(value, list):
        raise invalid({"position": [f'Expected a list of items but got type "{type(value).__name__}".']})
    if not value:
        raise invalid({"position": ["This list may not be empty."]})
    if not all(isinstance(number, int | float) and not isinstance(number, bool) for number in value):
        raise invalid({"position": ["A valid number is required."]})
    return [float(number) for number in value]


def _add_comment(tx: Transaction, issue_id: int, owner_id: int, message: str) -> int:
    moment = now()
    return tx.insert(
        "comment", issue_id=issue_id, owner_id=owner_id, message=message, created_date=moment, updated_date=moment
    )


def _visible(call: Call, tx: Transaction) -> Any:
    row = find(tx, "issue", call.params["id"])
    if not _may_see(call, tx, row):
        raise forbidden()
    return row


def _get(call: Call) -> Response:
    with call.state.database.transaction() as tx:
        return json_response(represent_issue(call, tx, _visible(call, tx)))


def _change(call: Call) -> Response:
    """Resolve, move or assign; the frame and everything else are silently left alone."""
    fields = call.fields
    with call.state.database.transaction() as tx:
        row = _visible(call, tx)
        old = represent_issue(call, tx, row)
        changes: dict[str, Any] = {}
        if "resolved" in fields:
            changes["resolved"] = bool(fields["resolved"])
        if "position" in fields:
            changes["position"] = dumps(_position(fields["position"]))
        if "assignee" in fields:
            changes["assignee_id"] = check_job_assignee(tx, fields["assignee"])
        tx.update("issue", row["id"], **changes, updated_date=now())
        body = represent_issue(call, tx, find(tx, "issue", row["id"]))
    _announce(call, row["job_id"], "update:issue", {"issue": body}, old)
    return json_response(body)


def _delete(call: Call) -> Response:
    with call.state.database.transaction() as tx:
        row = _visible(call, tx)
        if call.me.id != row["owner_id"] and not may_run_job(tx, call.me, find(tx, "job", row["job_id"])):
            raise forbidden()
        body = represent_issue(call, tx, row)
        tx.run("DELETE FROM issue WHERE id = ?", row["id"])
    _announce(call, row["job_id"], "delete:issue", {"issue": body})
    return empty_response(204)


# Comments


def _list_comments(call: Call) -> Response:
    with call.state.database.transaction() as tx:
        records = []
        for row in tx.all("SELECT * FROM comment ORDER BY id DESC"):
            issue = find(tx, "issue", row["issue_id"])
            if _may_see(call, tx, issue):
                owner = named_user(tx, call, row, "owner_id")
                records.append({**dict(row), "row": row, "owner": owner, "job_id": issue["job_id"]})
        chosen = filters.apply(call, records, ("id", "issue_id", "job_id", "owner"), ("owner", "message"))
        return page(call, chosen, lambda record: represent_comment(call, tx, record["row"]))


def _create_comment(call: Call) -> Response:
    fields = call.fields
    absent = [name for name in ("issue", "message") if fields.get(name) is None]
    if absent:
        raise required(*absent)
    with call.state.database.transaction() as tx:
        issue = find(tx, "issue", int(fields["issue"]))
        if not _may_see(call, tx, issue):
            raise forbidden()
        identity = _add_comment(tx, issue["id"], call.me.id, str(fields["message"]))
        body = represent_comment(call, tx, find(tx, "comment", identity))
    _announce(call, issue["job_id"], "create:comment", {"comment": body})
    return json_response(body, 201)


def _comment(call: Call, tx: Transaction, change: bool) -> Any:
    row = find(tx, "comment", call.params["id"])
    allowed = _may_see(call, tx, find(tx, "issue", row["issue_id"]))
    if not allowed or (change and row["owner_id"] != call.me.id and not call.me.is_superuser):
        raise forbidden()
    return row


def _get_comment(call: Call) -> Response:
    with call.state.database.transaction() as tx:
        return json_response(represent_comment(call, tx, _comment(call, tx, change=False)))


def _change_comment(call: Call) -> Response:
    with call.state.database.transaction() as tx:
        row = _comment(call, tx, change=True)
        changes = {"message": str(call.fields["message"])} if "message" in call.fields else {}
        tx.update("comment", row["id"], **changes, updated_date=now())
        return json_response(represent_comment(call, tx, find(tx, "comment", row["id"])))


def _delete_comment(call: Call) -> Response:
    with call.state.database.transaction() as tx:
        row = _comment(call, tx, change=True)
        tx.run("DELETE FROM comment WHERE id = ?", row["id"])
    return empty_response(204)


ROUTES = [
    route("/api/issues", GET=_list, POST=_create),
    route("/api/issues/{id:int}", GET=_get, PATCH=_change, DELETE=_delete),
    route("/api/comments", GET=_list_comments, POST=_create_comment),
    route("/api/comments/{id:int}", GET=_get_comment, PATCH=_change_comment, DELETE=_delete_comment),
]
