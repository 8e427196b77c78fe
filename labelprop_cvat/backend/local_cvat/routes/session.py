"""``/api/auth``: login, logout, access tokens."""

from __future__ import annotations

import secrets
from typing import Any

from starlette.responses import Response

from ..access import find
from ..auth import CSRF_COOKIE, SESSION_COOKIE, issue_token, password_matches, token_digest
from ..replies import Call, RefusalError, empty_response, forbidden, invalid, json_response, page, required
from ..representations import short_user
from ..routing import route
from ..storage import Transaction, now

_SESSION_S = 14 * 24 * 3600


def _login(call: Call) -> Response:
    fields = call.fields
    if not fields.get("password"):
        raise required("password")
    name = fields.get("username") or fields.get("email")
    with call.state.database.transaction() as tx:
        row = tx.one("SELECT * FROM user WHERE username = ? OR (email != '' AND email = ?)", name, name)
    if row is None or not row["is_active"] or not password_matches(str(fields["password"]), row["password"]):
        raise invalid({"non_field_errors": ["Unable to log in with provided credentials."]})
    csrf = secrets.token_hex(16)
    with call.state.database.transaction() as tx:
        _, key = issue_token(tx, row["id"], "token")
        _, session = issue_token(tx, row["id"], "session", csrf=csrf)
        tx.update("user", row["id"], last_login=now())
    response = json_response({"key": key})
    response.set_cookie(CSRF_COOKIE, csrf, max_age=_SESSION_S, samesite="lax")
    response.set_cookie(SESSION_COOKIE, session, max_age=_SESSION_S, httponly=True, samesite="lax")
    return response


def _logout(call: Call) -> Response:
    scheme, _, token = call.headers.get("authorization", "").partition(" ")
    with call.state.database.transaction() as tx:
        if scheme.lower() == "token":
            tx.run("DELETE FROM token WHERE digest = ? AND kind = 'token'", token_digest(token.strip()))
        session = call.cookies.get(SESSION_COOKIE)
        if session:
            tx.run("DELETE FROM token WHERE digest = ? AND kind = 'session'", token_digest(session))
    response = json_response({"detail": "Successfully logged out."})
    response.delete_cookie(SESSION_COOKIE)
    return response


# Access tokens


def _token_body(call: Call, tx: Transaction, row: Any) -> dict[str, Any]:
    return {
        "id": row["id"],
        "name": row["name"],
        "created_date": row["created_date"],
        "updated_date": row["updated_date"],
        "expiry_date": row["expiry_date"],
        "last_used_date": row["last_used_date"],
        "read_only": bool(row["read_only"]),
        "owner": short_user(call, tx, row["user_id"]),
    }


def _list_tokens(call: Call) -> Response:
    with call.state.database.transaction() as tx:
        rows = tx.all("SELECT * FROM token WHERE kind = 'access' AND user_id = ? ORDER BY id DESC", call.me.id)
        return page(call, rows, lambda row: _token_body(call, tx, row))


def _create_token(call: Call) -> Response:
    name = call.fields.get("name")
    if not name:
        raise required("name")
    with call.state.database.transaction() as tx:
        identity, secret = issue_token(
            tx,
            call.me.id,
            "access",
            name=str(name),
            read_only=bool(call.fields.get("read_only")),
            expiry_date=call.fields.get("expiry_date"),
        )
        body = _token_body(call, tx, find(tx, "token", identity))
    return json_response({**body, "value": secret}, 201)


def _own_token(call: Call) -> Any:
    with call.state.database.transaction() as tx:
        row = find(tx, "token", call.params["id"])
    if row["kind"] != "access":
        raise RefusalError(404, {"detail": "No AccessToken matches the given query."})
    if row["user_id"] != call.me.id:
        raise forbidden()
    return row


def _get_token(call: Call) -> Response:
    row = _own_token(call)
    with call.state.database.transaction() as tx:
        return json_response(_token_body(call, tx, row))


def _revoke_token(call: Call) -> Response:
    row = _own_token(call)
    with call.state.database.transaction() as tx:
        tx.run("DELETE FROM token WHERE id = ?", row["id"])
    return empty_response(204)


ROUTES = [
    route("/api/auth/login", POST=_login, anonymous=True),
    route("/api/auth/logout", POST=_logout, anonymous=True),
    route("/api/auth/access_tokens", GET=_list_tokens, POST=_create_token),
    route("/api/auth/access_tokens/{id:int}", GET=_get_token, DELETE=_revoke_token),
]
