"""Rows of the database as the JSON objects of CVAT's API."""

from __future__ import annotations

import json
from typing import Any

from .media import frame_step, job_frames
from .replies import Call
from .storage import Transaction

ABOUT = {
    "name": "Computer Vision Annotation Tool",
    "description": "A local server that speaks CVAT's REST API, for labelprop-cvat. It has no web interface.",
    "version": "2.54.1",
    "subtitle": "labelprop-cvat local server",
}


def short_user(call: Call, tx: Transaction, user_id: int | None) -> dict[str, Any] | None:
    row = None if user_id is None else tx.one("SELECT * FROM user WHERE id = ?", user_id)
    if row is None:
        return None
    return {
        "url": call.url(f"/api/users/{row['id']}"),
        "id": row["id"],
        "username": row["username"],
        "first_name": row["first_name"],
        "last_name": row["last_name"],
    }


def full_user(call: Call, row: Any) -> dict[str, Any]:
    return {
        "url": call.url(f"/api/users/{row['id']}"),
        "id": row["id"],
        "username": row["username"],
        "first_name": row["first_name"],
        "last_name": row["last_name"],
        "email": row["email"],
        "groups": ["admin", "user"] if row["is_superuser"] else ["user"],
        "is_staff": bool(row["is_staff"]),
        "is_superuser": bool(row["is_superuser"]),
        "is_active": bool(row["is_active"]),
        "last_login": row["last_login"],
        "date_joined": row["date_joined"],
        "has_analytics_access": bool(row["is_superuser"]),
    }


def project(call: Call, tx: Transaction, row: Any) -> dict[str, Any]:
    tasks = tx.all("SELECT mode, subset FROM task WHERE project_id = ?", row["id"])
    return {
        "url": call.url(f"/api/projects/{row['id']}"),
        "id": row["id"],
        "name": row["name"],
        "owner": short_user(call, tx, row["owner_id"]),
        "assignee": short_user(call, tx, row["assignee_id"]),
        "guide_id": None,
        "bug_tracker": row["bug_tracker"],
        "created_date": row["created_date"],
        "updated_date": row["updated_date"],
        "status": "annotation",
        "dimension": "2d" if tasks else None,
        "organization": row["organization_id"],
        "organization_id": row["organization_id"],
        "target_storage": None,
        "source_storage": None,
        "tasks": {"count": len(tasks), "url": call.url("/api/tasks", project_id=row["id"])},
        "labels": {"url": call.url("/api/labels", project_id=row["id"])},
        "assignee_updated_date": row["assignee_updated_date"],
        "task_subsets": sorted({task["subset"] for task in tasks if task["subset"]}),
    }


def job_status(stage: str, state: str) -> str:
    """The old single status, derived from stage and state."""
    if stage == "annotation":
        return "annotation"
    return "completed" if stage == "acceptance" and state == "completed" else "validation"


def task(call: Call, tx: Transaction, row: Any) -> dict[str, Any]:
    data = tx.one("SELECT * FROM data WHERE task_id = ?", row["id"])
    jobs = tx.all("SELECT stage, state, type FROM job WHERE task_id = ?", row["id"])
    annotation = [job for job in jobs if job["type"] == "annotation"]
    statuses = {job_status(job["stage"], job["state"]) for job in annotation}
    body = {
        "url": call.url(f"/api/tasks/{row['id']}"),
        "id": row["id"],
        "name": row["name"],
        "project_id": row["project_id"],
        "mode": row["mode"],
        "owner": short_user(call, tx, row["owner_id"]),
        "assignee": short_user(call, tx, row["assignee_id"]),
        "bug_tracker": row["bug_tracker"],
        "created_date": row["created_date"],
        "updated_date": row["updated_date"],
        "overlap": row["overlap"],
        "segment_size": row["segment_size"],
        "status": next((s for s in ("annotation", "validation", "completed") if s in statuses), "annotation"),
        "guide_id": None,
        "dimension": "2d",
        "subset": row["subset"],
        "organization_id": row["organization_id"],
        "organization": row["organization_id"],
        "target_storage": None,
        "source_storage": None,
        "jobs": {
            "count": len(jobs),
            "completed": sum(job["stage"] == "acceptance" and job["state"] == "completed" for job in jobs),
            "validation": sum(job["stage"] == "validation" for job in jobs),
            "url": call.url("/api/jobs", task_id=row["id"]),
        },
        "labels": {"url": call.url("/api/labels", task_id=row["id"])},
        "assignee_updated_date": row["assignee_updated_date"],
        "validation_mode": row["validation_mode"],
        "consensus_enabled": False,
    }
    if data is not None:
        body |= {
            "data_chunk_size": data["chunk_size"],
            "data_original_chunk_type": data["original_chunk_type"],
            "data_compressed_chunk_type": data["compressed_chunk_type"],
            "data_cloud_storage_id": None,
            "size": data["size"],
            "image_quality": data["image_quality"],
            "data": data["id"],
        }
    return body


def job(call: Call, tx: Transaction, row: Any) -> dict[str, Any]:
    parent = tx.one("SELECT * FROM task WHERE id = ?", row["task_id"])
    data = tx.one("SELECT * FROM data WHERE task_id = ?", row["task_id"])
    if parent is None or data is None:
        raise LookupError(f"job {row['id']} has lost its task")
    tracker = None
    if parent["project_id"] is not None:
        tracker = tx.value("SELECT bug_tracker FROM project WHERE id = ?", parent["project_id"])
    return {
        "url": call.url(f"/api/jobs/{row['id']}"),
        "id": row["id"],
        "task_id": row["task_id"],
        "project_id": parent["project_id"],
        "assignee": short_user(call, tx, row["assignee_id"]),
        "guide_id": None,
        "dimension": "2d",
        "bug_tracker": tracker,
        "status": job_status(row["stage"], row["state"]),
        "stage": row["stage"],
        "state": row["state"],
        "mode": parent["mode"],
        "frame_count": len(job_frames(row)),
        "start_frame": row["start_frame"],
        "stop_frame": row["stop_frame"],
        "data_chunk_size": data["chunk_size"],
        "data_compressed_chunk_type": data["compressed_chunk_type"],
        "data_original_chunk_type": data["original_chunk_type"],
        "created_date": row["created_date"],
        "updated_date": row["updated_date"],
        "issues": {
            "url": call.url("/api/issues", job_id=row["id"]),
            "count": tx.value("SELECT count(*) FROM issue WHERE job_id = ?", row["id"]),
        },
        "labels": {"url": call.url("/api/labels", job_id=row["id"])},
        "type": row["type"],
        "organization": parent["organization_id"],
        "target_storage": None,
        "source_storage": None,
        "assignee_updated_date": row["assignee_updated_date"],
        "parent_job_id": None,
        "consensus_replicas": 0,
    }


def label(tx: Transaction, row: Any) -> dict[str, Any]:
    attributes = tx.all("SELECT * FROM attribute WHERE label_id = ? ORDER BY id", row["id"])
    children = tx.all("SELECT * FROM label WHERE parent_id = ? ORDER BY id", row["id"])
    body: dict[str, Any] = {
        "id": row["id"],
        "name": row["name"],
        "color": row["color"],
        "attributes": [
            {
                "id": item["id"],
                "name": item["name"],
                "mutable": bool(item["mutable"]),
                "input_type": item["input_type"],
                "default_value": item["default_value"],
                "values": json.loads(item["values"]),
            }
            for item in attributes
        ],
        "type": row["type"],
        "sublabels": [_sublabel(tx, child) for child in children],
        "parent_id": row["parent_id"],
        "has_parent": row["parent_id"] is not None,
    }
    if row["type"] == "skeleton":
        body["svg"] = row["svg"]
    owner = "task_id" if row["task_id"] is not None else "project_id"
    body[owner] = row[owner]
    return body


def _sublabel(tx: Transaction, row: Any) -> dict[str, Any]:
    body = label(tx, row)
    return {name: body[name] for name in ("id", "name", "color", "attributes", "type", "has_parent")}


def data_meta(tx: Transaction, task_id: int, job_row: Any = None) -> dict[str, Any]:
    """``data/meta`` of a task, or of one of its jobs."""
    data = tx.one("SELECT * FROM data WHERE task_id = ?", task_id)
    if data is None:
        raise LookupError(f"task {task_id} has no data")
    frames = tx.all("SELECT * FROM image WHERE task_id = ? ORDER BY frame", task_id)
    deleted = json.loads(data["deleted_frames"])
    start, stop, size, included = data["start_frame"], data["stop_frame"], data["size"], None
    if job_row is not None:
        numbers = set(job_frames(job_row))
        deleted = [number for number in deleted if number in numbers]
        included = sorted(numbers) if job_row["frames"] is not None else None
        step = frame_step(data["frame_filter"])
        start = data["start_frame"] + job_row["start_frame"] * step
        stop = data["start_frame"] + job_row["stop_frame"] * step
        size = len(numbers)
        if data["video"] is None:
            frames = [row for row in frames if job_row["start_frame"] <= row["frame"] <= job_row["stop_frame"]]
    return {
        "chapters": None if data["video"] is None else [],
        "chunks_updated_date": data["chunks_updated_date"],
        "chunk_size": data["chunk_size"],
        "size": size,
        "image_quality": data["image_quality"],
        "start_frame": start,
        "stop_frame": stop,
        "frame_filter": data["frame_filter"],
        "frames": [
            {
                "width": row["width"],
                "height": row["height"],
                "name": row["name"],
                "related_files": 0,
                "has_related_context": False,
            }
            for row in frames
        ],
        "deleted_frames": deleted,
        "included_frames": included,
        "storage": "local",
        "cloud_storage_id": None,
    }


def issue(call: Call, tx: Transaction, row: Any) -> dict[str, Any]:
    return {
        "id": row["id"],
        "frame": row["frame"],
        "position": json.loads(row["position"]),
        "job": row["job_id"],
        "owner": short_user(call, tx, row["owner_id"]),
        "assignee": short_user(call, tx, row["assignee_id"]),
        "created_date": row["created_date"],
        "updated_date": row["updated_date"],
        "resolved": bool(row["resolved"]),
        "comments": {
            "count": tx.value("SELECT count(*) FROM comment WHERE issue_id = ?", row["id"]),
            "url": call.url("/api/comments", issue_id=row["id"]),
        },
    }


def comment(call: Call, tx: Transaction, row: Any) -> dict[str, Any]:
    return {
        "id": row["id"],
        "issue": row["issue_id"],
        "owner": short_user(call, tx, row["owner_id"]),
        "message": row["message"],
        "created_date": row["created_date"],
        "updated_date": row["updated_date"],
    }


def request(tx: Transaction, row: Any) -> dict[str, Any]:
    owner = tx.one("SELECT id, username FROM user WHERE id = ?", row["owner_id"])
    parent = tx.one("SELECT project_id FROM task WHERE id = ?", row["task_id"])
    return {
        "status": row["status"],
        "message": row["message"],
        "id": row["id"],
        "operation": {
            "type": row["type"],
            "target": row["target"],
            "project_id": None if parent is None else parent["project_id"],
            "task_id": row["task_id"],
            "job_id": None,
            **({"format": None} if row["type"] == "create:task" else {}),
            "lightweight": None,
        },
        "progress": 0.0,
        "created_date": row["created_date"],
        "started_date": row["started_date"],
        "finished_date": row["finished_date"],
        "expiry_date": row["expiry_date"],
        "owner": None if owner is None else {"id": owner["id"], "username": owner["username"]},
        "result_url": None,
        "result_id": None,
    }
