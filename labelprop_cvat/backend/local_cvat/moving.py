"""Moving a task into a project: its labels give way to the project's of the same names."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from .replies import invalid
from .storage import Transaction, dumps

# (parent's name or None, name) of a label.
_Name = tuple[str | None, str]


def move_task(tx: Transaction, task: Any, project_id: int, renamed: Sequence[Mapping[str, Any]]) -> None:
    """Give a task to a project; its annotations take over the project's labels and attributes.

    Args:
        tx: the transaction
        task: the task's row
        project_id: a project that exists
        renamed: label definitions with ``id`` and ``name``: that label becomes the project's of this name

    Raises:
        RefusalError: 400 when the project lacks a label, or an attribute with the same name, type and values
    """
    names = {int(entry["id"]): str(entry["name"]) for entry in renamed if entry.get("id") and entry.get("name")}
    own = "task_id" if task["project_id"] is None else "project_id"
    old = _labels(tx, own, task["id"] if own == "task_id" else task["project_id"], names)
    new = _labels(tx, "project_id", project_id, {})
    if not set(old) <= set(new):
        problem = "All task or project label names must be mapped to the target project"
        raise invalid({"non_field_errors": [problem]})
    labels = {identity: new[name][0] for name, identities in old.items() for identity in identities}
    _rewrite(tx, task["id"], labels, _attributes(tx, labels))
    tx.update("task", task["id"], project_id=project_id)
    if own == "task_id":
        tx.run("DELETE FROM label WHERE task_id = ?", task["id"])


def _labels(tx: Transaction, column: str, owner: int, names: Mapping[int, str]) -> dict[_Name, list[int]]:
    """Label ids by name; several labels may be renamed to the same one."""
    rows = {row["id"]: row for row in tx.all(f"SELECT * FROM label WHERE {column} = ?", owner)}
    found: dict[_Name, list[int]] = {}
    for row in rows.values():
        parent = rows.get(row["parent_id"])
        above = None if parent is None else names.get(parent["id"], parent["name"])
        found.setdefault((above, names.get(row["id"], row["name"])), []).append(row["id"])
    return found


def _attributes(tx: Transaction, labels: Mapping[int, int]) -> dict[int, int]:
    """New ids of attributes by old ones."""
    specs = {}
    for old, new in labels.items():
        theirs = {_kind(row): row["id"] for row in _specs(tx, new)}
        for row in _specs(tx, old):
            if _kind(row) not in theirs:
                label = tx.value("SELECT name FROM label WHERE id = ?", new)
                raise invalid([f'Target project does not have "{label}" label with "{row["name"]}" attribute'])
            specs[row["id"]] = theirs[_kind(row)]
    return specs


def _specs(tx: Transaction, label_id: int) -> list[Any]:
    return tx.all("SELECT * FROM attribute WHERE label_id = ?", label_id)


def _kind(row: Any) -> tuple[str, str, str]:
    return row["name"], row["values"], row["input_type"]


def _rewrite(tx: Transaction, task_id: int, labels: Mapping[int, int], specs: Mapping[int, int]) -> None:
    jobs = "SELECT id FROM job WHERE task_id = ?"
    for table in ("tag", "shape", "track"):
        rows = tx.all(f"SELECT id, label_id, attributes FROM {table} WHERE job_id IN ({jobs})", task_id)
        changes = [(labels[row["label_id"]], _respecified(row["attributes"], specs), row["id"]) for row in rows]
        tx.many(f"UPDATE {table} SET label_id = ?, attributes = ? WHERE id = ?", changes)
    rows = tx.all(
        f"SELECT s.id, s.attributes FROM tracked_shape s JOIN track t ON t.id = s.track_id WHERE t.job_id IN ({jobs})",
        task_id,
    )
    keyframes: Iterable[tuple[str, int]] = ((_respecified(row["attributes"], specs), row["id"]) for row in rows)
    tx.many("UPDATE tracked_shape SET attributes = ? WHERE id = ?", keyframes)


def _respecified(attributes: str, specs: Mapping[int, int]) -> str:
    items = json.loads(attributes)
    return dumps([{**item, "spec_id": specs[item["spec_id"]]} for item in items if item["spec_id"] in specs])


__all__ = ["move_task"]
