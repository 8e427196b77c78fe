"""``/api/users`` and ``/api/organizations``."""

from __future__ import annotations

from typing import Any

from starlette.responses import Response

from ..access import find
from ..replies import Call, json_response, page, required
from ..representations import full_user, short_user
from ..routing import route
from ..storage import now


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


# Organizations: enough to make one and to be known by name in a header.


def _organization(call: Call, row: Any) -> dict[str, Any]:
    with call.state.database.transaction() as tx:
        owner = short_user(call, tx, row["owner_id"])
    names = ("id", "slug", "name", "description", "created_date", "updated_date")
    return {**{name: row[name] for name in names}, "contact": {}, "owner": owner}


def _organizations(call: Call) -> Response:
    with call.state.database.transaction() as tx:
        rows = tx.all("SELECT * FROM organization ORDER BY id DESC")
    slug = call.query.get("slug")
    return page(call, [row for row in rows if not slug or row["slug"] == slug], lambda row: _organization(call, row))


def _create_organization(call: Call) -> Response:
    slug = call.fields.get("slug")
    if not slug:
        raise required("slug")
    moment = now()
    with call.state.database.transaction() as tx:
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


ROUTES = [
    route("/api/users", GET=_list),
    route("/api/users/self", GET=_self),
    route("/api/users/{id:int}", GET=_get),
    route("/api/organizations", GET=_organizations, POST=_create_organization),
]
