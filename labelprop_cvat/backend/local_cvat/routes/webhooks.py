"""``/api/webhooks``, for projects."""

from __future__ import annotations

import json
from typing import Any

from starlette.responses import Response

from ..access import find, project_for
from ..replies import Call, RefusalError, empty_response, forbidden, invalid, json_response, page, required
from ..representations import short_user
from ..routing import route
from ..storage import Transaction, dumps, now
from ..webhooks import EVENTS


def _body(call: Call, tx: Transaction, row: Any) -> dict[str, Any]:
    names = ("id", "target_url", "description", "type", "content_type", "created_date", "updated_date", "project_id")
    return {
        **{name: row[name] for name in names},
        "url": call.url(f"/api/webhooks/{row['id']}"),
        "is_active": bool(row["is_active"]),
        "enable_ssl": bool(row["enable_ssl"]),
        "owner": short_user(call, tx, row["owner_id"]),
        "organization": None,
        "events": json.loads(row["events"]),
    }


def _events(call: Call) -> Response:
    return json_response({"webhook_type": call.query.get("type") or "project", "events": sorted(EVENTS)})


def _checked_events(events: Any) -> list[str]:
    wrong = [event for event in events if event not in EVENTS] if isinstance(events, list) else [events]
    if wrong or not events:
        raise invalid({"events": [f'"{wrong[0] if wrong else ""}" is not a valid choice.']})
    return sorted(set(events))


def _list(call: Call) -> Response:
    with call.state.database.transaction() as tx:
        rows = [row for row in tx.all("SELECT * FROM webhook ORDER BY id DESC") if _may_use(call, row)]
        wanted = call.number("project_id")
        rows = [row for row in rows if wanted is None or row["project_id"] == wanted]
        return page(call, rows, lambda row: _body(call, tx, row))


def _may_use(call: Call, row: Any) -> bool:
    return call.me.is_superuser or row["owner_id"] == call.me.id


def _create(call: Call) -> Response:
    fields = call.fields
    absent = [name for name in ("target_url", "type", "events") if not fields.get(name)]
    if absent:
        raise required(*absent)
    if fields["type"] != "project":
        raise invalid({"type": ["Only project webhooks exist here."]})
    if fields.get("project_id") is None:
        raise required("project_id")
    moment = now()
    with call.state.database.transaction() as tx:
        project = project_for(tx, call.me, int(fields["project_id"]))
        identity = tx.insert(
            "webhook",
            target_url=fields["target_url"],
            description=fields.get("description") or "",
            type="project",
            content_type="application/json",
            secret=fields.get("secret") or "",
            is_active=bool(fields.get("is_active", True)),
            enable_ssl=bool(fields.get("enable_ssl", True)),
            project_id=project["id"],
            owner_id=call.me.id,
            events=dumps(_checked_events(fields["events"])),
            created_date=moment,
            updated_date=moment,
        )
        return json_response(_body(call, tx, find(tx, "webhook", identity)), 201)


def _own(call: Call, tx: Transaction) -> Any:
    row = find(tx, "webhook", call.params["id"])
    if not _may_use(call, row):
        raise forbidden()
    return row


def _get(call: Call) -> Response:
    with call.state.database.transaction() as tx:
        return json_response(_body(call, tx, _own(call, tx)))


def _change(call: Call) -> Response:
    fields = call.fields
    with call.state.database.transaction() as tx:
        row = _own(call, tx)
        names = ("target_url", "description", "secret", "is_active", "enable_ssl")
        changes = {name: fields[name] for name in names if name in fields}
        if "events" in fields:
            changes["events"] = dumps(_checked_events(fields["events"]))
        tx.update("webhook", row["id"], **changes, updated_date=now())
        return json_response(_body(call, tx, find(tx, "webhook", row["id"])))


def _delete(call: Call) -> Response:
    with call.state.database.transaction() as tx:
        row = _own(call, tx)
        tx.run("DELETE FROM webhook WHERE id = ?", row["id"])
    return empty_response(204)


def _delivery(row: Any) -> dict[str, Any]:
    names = ("id", "webhook_id", "event", "status_code", "created_date", "updated_date", "changed_fields", "response")
    return {
        **{name: row[name] for name in names},
        "redelivery": bool(row["redelivery"]),
        "request": json.loads(row["request"]),
    }


def _ping(call: Call) -> Response:
    with call.state.database.transaction() as tx:
        row = _own(call, tx)
        payload = {
            "event": "ping",
            "webhook": _body(call, tx, row),
            "sender": short_user(call, tx, call.me.id),
        }
    delivery = call.state.webhooks.deliver(row["id"], "ping", payload)
    with call.state.database.transaction() as tx:
        found = tx.one("SELECT * FROM webhook_delivery WHERE id = ?", delivery)
    if found is None:
        raise RefusalError(404, {"detail": "No Webhook matches the given query."})
    return json_response(_delivery(found))


def _deliveries(call: Call) -> Response:
    with call.state.database.transaction() as tx:
        row = _own(call, tx)
        rows = tx.all("SELECT * FROM webhook_delivery WHERE webhook_id = ? ORDER BY id DESC", row["id"])
    return page(call, rows, _delivery)


ROUTES = [
    route("/api/webhooks", GET=_list, POST=_create),
    route("/api/webhooks/events", GET=_events),
    route("/api/webhooks/{id:int}", GET=_get, PATCH=_change, DELETE=_delete),
    route("/api/webhooks/{id:int}/ping", POST=_ping),
    route("/api/webhooks/{id:int}/deliveries", GET=_deliveries),
]
