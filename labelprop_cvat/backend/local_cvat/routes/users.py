"""``/api/users`` and ``/api/organizations``."""

from __future__ import annotations

import re
from typing import Any

from starlette.responses import Response

from .. import filters
from ..access import find
from ..replies import Call, empty_response, forbidden, invalid, json_response, page, required
from ..representations import full_user, short_user
from ..routing import route
from ..storage import Transaction, now


def _list(call: Call) -> Response:
    search = call.query.get("search", "").lower()
    limit = call.number("limit")
    with call.state.database.transaction() as tx:
        rows = tx.all("SELECT * FROM user ORDER BY id DESC")
    if not call.me.is_superuser:
        # Others see nobody but themselves, and little of that.
        rows = [row for row in rows if row["id"] == call.me.id]
    rows = [row for row in rows if search in row["username"].lower()]
    username = call.query.get("username")
    if username:
        rows = [row for row in rows if row["username"] == username]
    active = call.query.get("is_active")
    if active:
        rows = [row for row in rows if bool(row["is_active"]) == (active.lower() == "true")]
    if limit:
        rows = rows[:limit]

    def render(row: Any) -> dict[str, Any]:
        if call.me.is_superuser:
            return full_user(call, row)
        with call.state.database.transaction() as tx:
            return short_user(call, tx, row["id"]) or {}

    return page(call, rows, render)


def _self(call: Call) -> Response:
    return json_response(full_user(call, call.me.row))


def _get(call: Call) -> Response:
    with call.state.database.transaction() as tx:
        row = find(tx, "user", call.params["id"])
        body = full_user(call, row) if call.me.is_superuser else short_user(call, tx, row["id"])
    return json_response(body)


# Organizations: enough to make one, to be known by name in a header, and to be looked up.


def _organization(call: Call, row: Any) -> dict[str, Any]:
    with call.state.database.transaction() as tx:
        owner = short_user(call, tx, row["owner_id"])
    names = ("id", "slug", "name", "description", "created_date", "updated_date")
    return {**{name: row[name] for name in names}, "contact": {}, "owner": owner}


def _organizations(call: Call) -> Response:
    with call.state.database.transaction() as tx:
        rows = [dict(row) for row in tx.all("SELECT * FROM organization ORDER BY id DESC")]
    chosen = filters.apply(call, rows, ("slug", "name"), ("slug", "name"))
    return page(call, chosen, lambda row: _organization(call, row))


def _create_organization(call: Call) -> Response:
    slug = call.fields.get("slug")
    if not slug:
        raise required("slug")
    if not re.fullmatch(r"[-a-zA-Z0-9_]{1,16}", str(slug)):
        problem = 'Enter a valid "slug" consisting of letters, numbers, underscores or hyphens.'
        raise invalid({"slug": [problem]})
    moment = now()
    with call.state.database.transaction() as tx:
        if tx.one("SELECT 1 FROM organization WHERE slug = ?", slug) is not None:
            raise invalid({"slug": ["organization with this slug already exists."]})
        identity = tx.insert(
            "organization",
            slug=slug,
            name=call.fields.get("name") or slug,
            description=call.fields.get("description") or "",
            owner_id=call.me.id,
            created_date=moment,
            updated_date=moment,
        )
        row = find(tx, "organization", identity)
    return json_response(_organization(call, row), 201)


def _own_organization(call: Call, tx: Transaction) -> Any:
    row = find(tx, "organization", call.params["id"])
    if not call.me.is_superuser and row["owner_id"] != call.me.id:
        raise forbidden()
    return row


def _get_organization(call: Call) -> Response:
    with call.state.database.transaction() as tx:
        return json_response(_organization(call, find(tx, "organization", call.params["id"])))


def _change_organization(call: Call) -> Response:
    with call.state.database.transaction() as tx:
        row = _own_organization(call, tx)
        changes = {name: str(call.fields[name]) for name in ("name", "description") if name in call.fields}
        tx.update("organization", row["id"], **changes, updated_date=now())
        return json_response(_organization(call, find(tx, "organization", row["id"])))


def _delete_organization(call: Call) -> Response:
    """Deletes an organization with its projects and tasks."""
    with call.state.database.transaction() as tx:
        row = _own_organization(call, tx)
        tasks = [task["id"] for task in tx.all("SELECT id FROM task WHERE organization_id = ?", row["id"])]
        for table in ("task", "project"):
            tx.run(f"DELETE FROM {table} WHERE organization_id = ?", row["id"])
        tx.run("DELETE FROM organization WHERE id = ?", row["id"])
    for task_id in tasks:
        call.state.ingest.forget(task_id)
    return empty_response(204)


ROUTES = [
    route("/api/users", GET=_list),
    route("/api/users/self", GET=_self),
    route("/api/users/{id:int}", GET=_get),
    route("/api/organizations", GET=_organizations, POST=_create_organization),
    route(
        "/api/organizations/{id:int}", GET=_get_organization, PATCH=_change_organization, DELETE=_delete_organization
    ),
]
