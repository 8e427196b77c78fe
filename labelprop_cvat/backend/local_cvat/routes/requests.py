"""``/api/requests``: how far background work is."""

from __future__ import annotations

from starlette.responses import Response

from .. import filters
from ..replies import Call, RefusalError, json_response, page
from ..representations import request as represent
from ..routing import route


def _list(call: Call) -> Response:
    with call.state.database.transaction() as tx:
        rows = tx.all("SELECT * FROM request WHERE owner_id = ? ORDER BY created_date DESC", call.me.id)
        records = [{**dict(row), "action": row["type"].split(":")[0], "row": row} for row in rows]
        chosen = filters.apply(call, records, ("status", "task_id", "target", "action"), ())
        return page(call, chosen, lambda record: represent(tx, record["row"]))


def _get(call: Call) -> Response:
    with call.state.database.transaction() as tx:
        row = tx.one("SELECT * FROM request WHERE id = ?", call.params["id"])
        if row is None or (row["owner_id"] != call.me.id and not call.me.is_superuser):
            raise RefusalError(404, {"detail": "There is no request with specified id"})
        return json_response(represent(tx, row))


ROUTES = [route("/api/requests", GET=_list), route("/api/requests/{id:str}", GET=_get)]
