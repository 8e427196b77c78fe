"""``/api/quality``: settings are kept; reports are never computed here and their requests fail saying so."""

from __future__ import annotations

import json
from typing import Any

from starlette.responses import Response

from ..access import find, task_for
from ..replies import Call, invalid, json_response, page, required
from ..routing import route
from ..storage import Transaction, dumps, now

_DEFAULTS: dict[str, Any] = {
    "job_filter": "",
    "inherit": True,
    "target_metric": "accuracy",
    "target_metric_threshold": 0.7,
    "max_validations_per_job": 0,
    "iou_threshold": 0.4,
    "oks_sigma": 0.09,
    "point_size_base": "group_bbox_size",
    "line_thickness": 0.01,
    "low_overlap_threshold": 0.8,
    "compare_line_orientation": True,
    "line_orientation_threshold": 0.1,
    "compare_groups": True,
    "group_match_threshold": 0.5,
    "check_covered_annotations": True,
    "object_visibility_threshold": 0.05,
    "panoptic_comparison": True,
    "compare_attributes": True,
    "empty_is_annotated": False,
}


def _body(row: Any) -> dict[str, Any]:
    return {
        "id": row["id"],
        "task_id": row["task_id"],
        "project_id": None,
        **_DEFAULTS,
        **json.loads(row["values"]),
        "created_date": row["created_date"],
        "updated_date": row["updated_date"],
    }


def _settings_of(tx: Transaction, task_id: int) -> Any:
    row = tx.one("SELECT * FROM quality_settings WHERE task_id = ?", task_id)
    if row is not None:
        return row
    moment = now()
    identity = tx.insert("quality_settings", task_id=task_id, values="{}", created_date=moment, updated_date=moment)
    return find(tx, "quality_settings", identity)


def _list_settings(call: Call) -> Response:
    task_id = call.number("task_id")
    if task_id is None:
        raise required("task_id")
    with call.state.database.transaction() as tx:
        task = task_for(tx, call.me, task_id)
        return page(call, [_settings_of(tx, task["id"])], _body)


def _get_settings(call: Call) -> Response:
    with call.state.database.transaction() as tx:
        row = find(tx, "quality_settings", call.params["id"])
        task_for(tx, call.me, row["task_id"])
        return json_response(_body(row))


def _change_settings(call: Call) -> Response:
    with call.state.database.transaction() as tx:
        row = find(tx, "quality_settings", call.params["id"])
        task_for(tx, call.me, row["task_id"])
        values = json.loads(row["values"]) | {name: call.fields[name] for name in _DEFAULTS if name in call.fields}
        tx.update("quality_settings", row["id"], values=dumps(values), updated_date=now())
        return json_response(_body(find(tx, "quality_settings", row["id"])))


def _reports(call: Call) -> Response:
    return page(call, [], lambda row: row)


def _create_report(call: Call) -> Response:
    task_id = call.fields.get("task_id")
    if not isinstance(task_id, int):
        raise invalid({"task_id": ["A valid integer is required."]})
    identity = f"action=calculate&target=task&target_id={task_id}&subresource=quality"
    moment = now()
    with call.state.database.transaction() as tx:
        task_for(tx, call.me, task_id)
        tx.run("DELETE FROM request WHERE id = ?", identity)
        tx.insert_row(
            "request",
            id=identity,
            type="calculate:quality",
            target="task",
            task_id=task_id,
            owner_id=call.me.id,
            status="failed",
            message="The local server does not compute quality reports",
            created_date=moment,
            started_date=moment,
            finished_date=moment,
            expiry_date=moment,
        )
    return json_response({"rq_id": identity}, 202)


ROUTES = [
    route("/api/quality/settings", GET=_list_settings),
    route("/api/quality/settings/{id:int}", GET=_get_settings, PATCH=_change_settings),
    route("/api/quality/reports", GET=_reports, POST=_create_report),
]
