"""Where the local server keeps its state: one SQLite file, and plain files beside it.

Layout of a server's directory::

    server.sqlite3            users, tasks, jobs, annotations, ...
    data/<task id>/raw/       the uploaded files as they came
    data/<task id>/uploads/   resumable uploads under way

Ids come from counters kept in the database, one per kind of object, so that an id is never given out twice, not even
after its object is deleted or the server restarted. All access goes through :meth:`Database.transaction`, which is
serialised by a lock: concurrent requests see each other's work whole or not at all.
"""

from __future__ import annotations

import json
import sqlite3
import threading
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from labelprop_cvat.errors import ConfigurationError

SCHEMA_VERSION = 1
_BUSY_TIMEOUT_S = 0.5

_SCHEMA = """
CREATE TABLE counter (name TEXT PRIMARY KEY, value INTEGER NOT NULL);
CREATE TABLE user (
    id INTEGER PRIMARY KEY, username TEXT NOT NULL UNIQUE, password TEXT NOT NULL, email TEXT NOT NULL DEFAULT '',
    first_name TEXT NOT NULL DEFAULT '', last_name TEXT NOT NULL DEFAULT '', is_staff INTEGER NOT NULL DEFAULT 0,
    is_superuser INTEGER NOT NULL DEFAULT 0, is_active INTEGER NOT NULL DEFAULT 1, last_login TEXT,
    date_joined TEXT NOT NULL);
CREATE TABLE token (
    id INTEGER PRIMARY KEY, kind TEXT NOT NULL, digest TEXT NOT NULL UNIQUE, user_id INTEGER NOT NULL, csrf TEXT,
    name TEXT, read_only INTEGER NOT NULL DEFAULT 0, expiry_date TEXT, created_date TEXT NOT NULL,
    updated_date TEXT NOT NULL, last_used_date TEXT,
    FOREIGN KEY (user_id) REFERENCES user (id) ON DELETE CASCADE);
CREATE TABLE organization (
    id INTEGER PRIMARY KEY, slug TEXT NOT NULL UNIQUE, name TEXT NOT NULL DEFAULT '',
    description TEXT NOT NULL DEFAULT '', owner_id INTEGER, created_date TEXT NOT NULL, updated_date TEXT NOT NULL);
CREATE TABLE project (
    id INTEGER PRIMARY KEY, name TEXT NOT NULL, owner_id INTEGER, assignee_id INTEGER, assignee_updated_date TEXT,
    bug_tracker TEXT NOT NULL DEFAULT '', organization_id INTEGER, created_date TEXT NOT NULL,
    updated_date TEXT NOT NULL);
CREATE TABLE task (
    id INTEGER PRIMARY KEY, project_id INTEGER, name TEXT NOT NULL, mode TEXT NOT NULL DEFAULT '', owner_id INTEGER,
    assignee_id INTEGER, assignee_updated_date TEXT, bug_tracker TEXT NOT NULL DEFAULT '', overlap INTEGER,
    segment_size INTEGER NOT NULL DEFAULT 0, subset TEXT NOT NULL DEFAULT '', organization_id INTEGER,
    validation_mode TEXT, created_date TEXT NOT NULL, updated_date TEXT NOT NULL,
    FOREIGN KEY (project_id) REFERENCES project (id) ON DELETE CASCADE);
CREATE INDEX task_project ON task (project_id);
CREATE TABLE label (
    id INTEGER PRIMARY KEY, task_id INTEGER, project_id INTEGER, parent_id INTEGER, name TEXT NOT NULL,
    color TEXT NOT NULL, type TEXT NOT NULL, svg TEXT NOT NULL DEFAULT '',
    FOREIGN KEY (task_id) REFERENCES task (id) ON DELETE CASCADE,
    FOREIGN KEY (project_id) REFERENCES project (id) ON DELETE CASCADE,
    FOREIGN KEY (parent_id) REFERENCES label (id) ON DELETE CASCADE);
CREATE INDEX label_task ON label (task_id);
CREATE INDEX label_project ON label (project_id);
CREATE TABLE attribute (
    id INTEGER PRIMARY KEY, label_id INTEGER NOT NULL, name TEXT NOT NULL, mutable INTEGER NOT NULL,
    input_type TEXT NOT NULL, default_value TEXT NOT NULL, "values" TEXT NOT NULL,
    FOREIGN KEY (label_id) REFERENCES label (id) ON DELETE CASCADE);
CREATE INDEX attribute_label ON attribute (label_id);
CREATE TABLE data (
    task_id INTEGER PRIMARY KEY, id INTEGER NOT NULL, size INTEGER NOT NULL DEFAULT 0,
    chunk_size INTEGER, image_quality INTEGER NOT NULL DEFAULT 50, start_frame INTEGER NOT NULL DEFAULT 0,
    stop_frame INTEGER NOT NULL DEFAULT 0, frame_filter TEXT NOT NULL DEFAULT '',
    compressed_chunk_type TEXT NOT NULL DEFAULT 'imageset', original_chunk_type TEXT NOT NULL DEFAULT 'imageset',
    deleted_frames TEXT NOT NULL DEFAULT '[]', video TEXT, chunks_updated_date TEXT, ready INTEGER NOT NULL DEFAULT 0,
    FOREIGN KEY (task_id) REFERENCES task (id) ON DELETE CASCADE);
CREATE TABLE image (
    task_id INTEGER NOT NULL, frame INTEGER NOT NULL, name TEXT NOT NULL, path TEXT NOT NULL, width INTEGER NOT NULL,
    height INTEGER NOT NULL, PRIMARY KEY (task_id, frame),
    FOREIGN KEY (task_id) REFERENCES task (id) ON DELETE CASCADE) WITHOUT ROWID;
CREATE TABLE file (
    position INTEGER PRIMARY KEY, task_id INTEGER NOT NULL, name TEXT NOT NULL, UNIQUE (task_id, name),
    FOREIGN KEY (task_id) REFERENCES task (id) ON DELETE CASCADE);
CREATE TABLE upload (
    id TEXT PRIMARY KEY, task_id INTEGER NOT NULL, filename TEXT NOT NULL, length INTEGER NOT NULL,
    FOREIGN KEY (task_id) REFERENCES task (id) ON DELETE CASCADE);
CREATE TABLE job (
    id INTEGER PRIMARY KEY, task_id INTEGER NOT NULL, type TEXT NOT NULL, start_frame INTEGER NOT NULL,
    stop_frame INTEGER NOT NULL, frames TEXT, assignee_id INTEGER, assignee_updated_date TEXT,
    stage TEXT NOT NULL DEFAULT 'annotation', state TEXT NOT NULL DEFAULT 'new', created_date TEXT NOT NULL,
    updated_date TEXT NOT NULL, FOREIGN KEY (task_id) REFERENCES task (id) ON DELETE CASCADE);
CREATE INDEX job_task ON job (task_id);
CREATE TABLE tag (
    id INTEGER PRIMARY KEY, job_id INTEGER NOT NULL, frame INTEGER NOT NULL, label_id INTEGER NOT NULL,
    "group" INTEGER, source TEXT NOT NULL, attributes TEXT NOT NULL,
    FOREIGN KEY (job_id) REFERENCES job (id) ON DELETE CASCADE,
    FOREIGN KEY (label_id) REFERENCES label (id) ON DELETE CASCADE);
CREATE INDEX tag_job ON tag (job_id);
CREATE INDEX tag_label ON tag (label_id);
CREATE TABLE shape (
    id INTEGER PRIMARY KEY, job_id INTEGER NOT NULL, parent_id INTEGER, frame INTEGER NOT NULL,
    label_id INTEGER NOT NULL, "group" INTEGER, source TEXT NOT NULL, type TEXT NOT NULL, occluded INTEGER NOT NULL,
    outside INTEGER NOT NULL, z_order INTEGER NOT NULL, rotation REAL NOT NULL, points TEXT NOT NULL,
    attributes TEXT NOT NULL,
    FOREIGN KEY (job_id) REFERENCES job (id) ON DELETE CASCADE,
    FOREIGN KEY (parent_id) REFERENCES shape (id) ON DELETE CASCADE,
    FOREIGN KEY (label_id) REFERENCES label (id) ON DELETE CASCADE);
CREATE INDEX shape_job ON shape (job_id);
CREATE INDEX shape_parent ON shape (parent_id);
CREATE INDEX shape_label ON shape (label_id);
CREATE TABLE track (
    id INTEGER PRIMARY KEY, job_id INTEGER NOT NULL, parent_id INTEGER, frame INTEGER NOT NULL,
    label_id INTEGER NOT NULL, "group" INTEGER, source TEXT NOT NULL, attributes TEXT NOT NULL,
    FOREIGN KEY (job_id) REFERENCES job (id) ON DELETE CASCADE,
    FOREIGN KEY (parent_id) REFERENCES track (id) ON DELETE CASCADE,
    FOREIGN KEY (label_id) REFERENCES label (id) ON DELETE CASCADE);
CREATE INDEX track_job ON track (job_id);
CREATE INDEX track_parent ON track (parent_id);
CREATE INDEX track_label ON track (label_id);
CREATE TABLE tracked_shape (
    id INTEGER PRIMARY KEY, track_id INTEGER NOT NULL, frame INTEGER NOT NULL, type TEXT NOT NULL,
    occluded INTEGER NOT NULL, outside INTEGER NOT NULL, z_order INTEGER NOT NULL, rotation REAL NOT NULL,
    points TEXT NOT NULL, attributes TEXT NOT NULL,
    FOREIGN KEY (track_id) REFERENCES track (id) ON DELETE CASCADE);
CREATE INDEX tracked_shape_track ON tracked_shape (track_id);
CREATE TABLE request (
    id TEXT PRIMARY KEY, type TEXT NOT NULL, target TEXT NOT NULL, task_id INTEGER, owner_id INTEGER,
    status TEXT NOT NULL, message TEXT NOT NULL DEFAULT '', arguments TEXT NOT NULL DEFAULT '{}',
    created_date TEXT NOT NULL, started_date TEXT, finished_date TEXT, expiry_date TEXT,
    FOREIGN KEY (task_id) REFERENCES task (id) ON DELETE CASCADE);
CREATE TABLE issue (
    id INTEGER PRIMARY KEY, job_id INTEGER NOT NULL, frame INTEGER NOT NULL, position TEXT NOT NULL, owner_id INTEGER,
    assignee_id INTEGER, resolved INTEGER NOT NULL DEFAULT 0, created_date TEXT NOT NULL, updated_date TEXT NOT NULL,
    FOREIGN KEY (job_id) REFERENCES job (id) ON DELETE CASCADE);
CREATE INDEX issue_job ON issue (job_id);
CREATE TABLE comment (
    id INTEGER PRIMARY KEY, issue_id INTEGER NOT NULL, owner_id INTEGER, message TEXT NOT NULL,
    created_date TEXT NOT NULL, updated_date TEXT NOT NULL,
    FOREIGN KEY (issue_id) REFERENCES issue (id) ON DELETE CASCADE);
CREATE INDEX comment_issue ON comment (issue_id);
CREATE TABLE webhook (
    id INTEGER PRIMARY KEY, target_url TEXT NOT NULL, description TEXT NOT NULL, type TEXT NOT NULL,
    content_type TEXT NOT NULL, secret TEXT NOT NULL, is_active INTEGER NOT NULL, enable_ssl INTEGER NOT NULL,
    project_id INTEGER, owner_id INTEGER, events TEXT NOT NULL, created_date TEXT NOT NULL,
    updated_date TEXT NOT NULL, FOREIGN KEY (project_id) REFERENCES project (id) ON DELETE CASCADE);
CREATE TABLE webhook_delivery (
    id INTEGER PRIMARY KEY, webhook_id INTEGER NOT NULL, event TEXT NOT NULL, status_code INTEGER,
    redelivery INTEGER NOT NULL DEFAULT 0, changed_fields TEXT NOT NULL DEFAULT '', request TEXT NOT NULL,
    response TEXT NOT NULL DEFAULT '', created_date TEXT NOT NULL, updated_date TEXT NOT NULL,
    FOREIGN KEY (webhook_id) REFERENCES webhook (id) ON DELETE CASCADE);
CREATE TABLE quality_settings (
    id INTEGER PRIMARY KEY, task_id INTEGER NOT NULL UNIQUE, "values" TEXT NOT NULL, created_date TEXT NOT NULL,
    updated_date TEXT NOT NULL, FOREIGN KEY (task_id) REFERENCES task (id) ON DELETE CASCADE);
"""


def now() -> str:
    """The present moment as CVAT writes it: UTC, microseconds, ``Z``."""
    return datetime.now(timezone.utc).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


class Transaction:
    """Queries inside one transaction. Column names are the program's own, values are always bound."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection

    def run(self, sql: str, *args: Any) -> int:
        """Execute a statement; returns the number of rows it touched."""
        return self._connection.execute(sql, args).rowcount

    def many(self, sql: str, rows: Iterable[Sequence[Any]]) -> None:
        self._connection.executemany(sql, rows)

    def one(self, sql: str, *args: Any) -> sqlite3.Row | None:
        row: sqlite3.Row | None = self._connection.execute(sql, args).fetchone()
        return row

    def all(self, sql: str, *args: Any) -> list[sqlite3.Row]:
        return self._connection.execute(sql, args).fetchall()

    def value(self, sql: str, *args: Any) -> Any:
        """The first column of the first row, None without rows."""
        row = self.one(sql, *args)
        return None if row is None else row[0]

    def next_ids(self, counter: str, count: int) -> range:
        """``count`` fresh ids of a kind of object."""
        first = self.value("SELECT value FROM counter WHERE name = ?", counter) or 0
        self._set_counter(counter, first + count)
        return range(first + 1, first + count + 1)

    def reserve_id(self, counter: str, used: int) -> None:
        """Never give out ``used`` or anything below it: a client chose that id itself."""
        if used > (self.value("SELECT value FROM counter WHERE name = ?", counter) or 0):
            self._set_counter(counter, used)

    def _set_counter(self, counter: str, value: int) -> None:
        self.run(
            "INSERT INTO counter (name, value) VALUES (?, ?) ON CONFLICT (name) DO UPDATE SET value = excluded.value",
            counter,
            value,
        )

    def insert(self, table: str, **values: Any) -> int:
        """Insert a row with a fresh id from the table's counter and return the id."""
        identity = int(self.next_ids(table, 1)[0])
        self.insert_row(table, id=identity, **values)
        return identity

    def insert_row(self, table: str, **values: Any) -> None:
        columns = ", ".join(f'"{name}"' for name in values)
        marks = ", ".join("?" for _ in values)
        self.run(f'INSERT INTO "{table}" ({columns}) VALUES ({marks})', *values.values())

    def update(self, table: str, identity: int | str, **values: Any) -> None:
        if not values:
            return
        changes = ", ".join(f'"{name}" = ?' for name in values)
        self.run(f'UPDATE "{table}" SET {changes} WHERE id = ?', *values.values(), identity)


class Database:
    """The server's SQLite file.

    Args:
        path: the file, made with its tables when missing; nobody else may have it open

    Raises:
        ConfigurationError: another server uses the file, or another version of this module wrote it
    """

    def __init__(self, path: Path) -> None:
        self._lock = threading.RLock()
        self._depth = 0
        self._connection = sqlite3.connect(path, check_same_thread=False, isolation_level=None, timeout=_BUSY_TIMEOUT_S)
        try:
            self._open(path)
        except sqlite3.OperationalError as error:
            self._connection.close()
            raise ConfigurationError(
                f"{path} cannot be opened ({error}); stop the other local server on this directory, or choose another"
            ) from None
        except BaseException:
            self._connection.close()
            raise

    def _open(self, path: Path) -> None:
        self._connection.row_factory = sqlite3.Row
        self._connection.execute("PRAGMA locking_mode = EXCLUSIVE")
        self._connection.execute("PRAGMA foreign_keys = ON")
        self._connection.execute("PRAGMA journal_mode = WAL")
        self._connection.execute("PRAGMA synchronous = NORMAL")
        found = self._connection.execute("PRAGMA user_version").fetchone()[0]
        if found == 0:
            self._connection.executescript(_SCHEMA)
            self._connection.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")
        elif found != SCHEMA_VERSION:
            raise ConfigurationError(
                f"{path} was written by another version of the local server (format {found}, this one reads "
                f"{SCHEMA_VERSION}); start it on an empty directory"
            )

    @contextmanager
    def transaction(self) -> Iterator[Transaction]:
        """All or nothing; an exception rolls back. A transaction begun inside another joins it."""
        with self._lock:
            if self._depth:
                yield Transaction(self._connection)
                return
            self._connection.execute("BEGIN IMMEDIATE")
            self._depth += 1
            try:
                yield Transaction(self._connection)
            except BaseException:
                self._connection.execute("ROLLBACK")
                raise
            else:
                self._connection.execute("COMMIT")
            finally:
                self._depth -= 1

    def close(self) -> None:
        with self._lock:
            self._connection.close()


class Files:
    """The folders beside the database."""

    def __init__(self, directory: Path) -> None:
        self._data = directory / "data"

    def task(self, task_id: int) -> Path:
        return self._data / str(task_id)

    def raw(self, task_id: int) -> Path:
        return self.task(task_id) / "raw"

    def uploads(self, task_id: int) -> Path:
        return self.task(task_id) / "uploads"


def dumps(value: Any) -> str:
    """Compact JSON, for columns."""
    return json.dumps(value, separators=(",", ":"))


__all__ = ["Database", "Files", "Transaction", "dumps", "now"]
