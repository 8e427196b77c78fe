"""Who may do what: the few of CVAT's rules that its clients meet.

Administrators may do everything. A task's people are its owner and assignee and those of its project; they may do
everything with the task. A job's assignee may read the job and its labels, annotate, set its state and comment, but
not set its stage or assignee, and does not see the task.
"""

from __future__ import annotations

from typing import Any

from .auth import User
from .replies import forbidden, missing
from .storage import Transaction

_NAMES = {"task": "Task", "project": "Project", "job": "Job", "label": "Label", "issue": "Issue", "comment": "Comment"}


def find(tx: Transaction, table: str, identity: int) -> Any:
    """A row by id; 404 when missing."""
    row = tx.one(f'SELECT * FROM "{table}" WHERE id = ?', identity)
    if row is None:
        raise missing(_NAMES.get(table, table.capitalize()))
    return row


def _project_people(tx: Transaction, project_id: int | None) -> set[int]:
    if project_id is None:
        return set()
    row = tx.one("SELECT owner_id, assignee_id FROM project WHERE id = ?", project_id)
    return set() if row is None else {row["owner_id"], row["assignee_id"]}


def task_people(tx: Transaction, row: Any) -> set[int]:
    return {row["owner_id"], row["assignee_id"]} | _project_people(tx, row["project_id"])


def may_use_project(tx: Transaction, user: User, row: Any) -> bool:
    return user.is_superuser or user.id in (row["owner_id"], row["assignee_id"])


def may_use_task(tx: Transaction, user: User, row: Any) -> bool:
    return user.is_superuser or user.id in task_people(tx, row)


def may_run_job(tx: Transaction, user: User, row: Any) -> bool:
    """May set the job's stage and assignee."""
    return may_use_task(tx, user, find(tx, "task", row["task_id"]))


def may_use_job(tx: Transaction, user: User, row: Any) -> bool:
    return user.id == row["assignee_id"] or may_run_job(tx, user, row)


def project_for(tx: Transaction, user: User, identity: int) -> Any:
    row = find(tx, "project", identity)
    if not may_use_project(tx, user, row):
        raise forbidden()
    return row


def task_for(tx: Transaction, user: User, identity: int) -> Any:
    row = find(tx, "task", identity)
    if not may_use_task(tx, user, row):
        raise forbidden()
    return row


def job_for(tx: Transaction, user: User, identity: int) -> Any:
    row = find(tx, "job", identity)
    if not may_use_job(tx, user, row):
        raise forbidden()
    return row


def has_job_in(tx: Transaction, user: User, task_id: int) -> bool:
    found = tx.one("SELECT 1 FROM job WHERE task_id = ? AND assignee_id = ?", task_id, user.id)
    return found is not None


__all__ = [
    "find",
    "has_job_in",
    "job_for",
    "may_run_job",
    "may_use_job",
    "may_use_project",
    "may_use_task",
    "project_for",
    "task_for",
    "task_people",
]
