"""Turning uploaded files into a task's frames and jobs, in the background.

A request goes ``queued -> started -> finished`` or ``failed`` with a message. A failed one leaves a task without data
and without jobs, as the real server does. Requests that a stopped server left behind are taken up by the next.
"""

from __future__ import annotations

import json
import logging
import queue
import random
import re
import shutil
import threading
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta, timezone
from typing import Any

from .media import MediaStore, UnreadableMediaError, frame_step, image_size, is_video, video_shape
from .storage import Database, Files, Transaction, dumps, now

_LOGGER = logging.getLogger(__name__)
# An image chunk holds this many full-HD frames' worth of pixels, within bounds, as the real server sizes them.
_CHUNK_PIXELS = 36 * 1920 * 1080
_EXPIRY = timedelta(minutes=8, seconds=20)


class IngestError(Exception):
    """The data cannot become a task; the message is shown to the client."""


def request_id(task_id: int) -> str:
    return f"action=create&target=task&target_id={task_id}"


class Ingest:
    """The worker that makes tasks out of uploads, one at a time."""

    def __init__(self, database: Database, files: Files, media: MediaStore) -> None:
        self._database = database
        self._files = files
        self._media = media
        self._queue: queue.Queue[str | None] = queue.Queue()
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._work, name="local-cvat-ingest", daemon=True)

    def start(self) -> None:
        with self._database.transaction() as tx:
            pending = tx.all("SELECT id FROM request WHERE status IN ('queued', 'started') ORDER BY created_date")
        for row in pending:
            self._queue.put(row["id"])
        self._thread.start()

    def stop(self) -> None:
        """End after the upload under way; those that wait are for the next server on this directory."""
        self._stopping.set()
        self._queue.put(None)
        self._thread.join()

    def submit(self, tx: Transaction, task_id: int, owner_id: int, arguments: Mapping[str, Any]) -> str:
        """Queue a task's upload; the worker waits until the caller's transaction is through."""
        identity = request_id(task_id)
        tx.run("DELETE FROM request WHERE id = ?", identity)
        tx.insert_row(
            "request",
            id=identity,
            type="create:task",
            target="task",
            task_id=task_id,
            owner_id=owner_id,
            status="queued",
            arguments=dumps(arguments),
            created_date=now(),
        )
        self._queue.put(identity)
        return identity

    def forget(self, task_id: int) -> None:
        """Remove the files of a task that was deleted."""
        self._media.forget(task_id)
        shutil.rmtree(self._files.task(task_id), ignore_errors=True)

    def _work(self) -> None:
        while (identity := self._queue.get()) is not None and not self._stopping.is_set():
            try:
                self._process(identity)
            except Exception:
                _LOGGER.exception("ingest of %s failed", identity)

    def _process(self, identity: str) -> None:
        with self._database.transaction() as tx:
            row = tx.one("SELECT * FROM request WHERE id = ?", identity)
            if row is None:
                return
            tx.update("request", identity, status="started", started_date=now())
        try:
            _TaskBuilder(self._database, self._files, row["task_id"], json.loads(row["arguments"]), identity).build()
        except (IngestError, UnreadableMediaError) as failure:
            self._finish(identity, "failed", str(failure))
        except Exception as error:
            _LOGGER.exception("task %s: data could not be read", row["task_id"])
            self._finish(identity, "failed", f"{type(error).__name__}: {error}")
        else:
            self._finish(identity, "finished", "")

    def _finish(self, identity: str, status: str, message: str) -> None:
        expiry = (datetime.now(timezone.utc) + _EXPIRY).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
        with self._database.transaction() as tx:
            tx.update("request", identity, status=status, message=message, finished_date=now(), expiry_date=expiry)


class _TaskBuilder:
    def __init__(
        self, database: Database, files: Files, task_id: int, arguments: Mapping[str, Any], request: str
    ) -> None:
        self._database = database
        self._raw = files.raw(task_id)
        self._task_id = task_id
        self._arguments = arguments
        self._request = request

    def build(self) -> None:
        with self._database.transaction() as tx:
            task = tx.one("SELECT * FROM task WHERE id = ?", self._task_id)
            names = [
                row["name"]
                for row in tx.all("SELECT name FROM file WHERE task_id = ? ORDER BY position", self._task_id)
            ]
        if task is None:
            return
        mapping = self._file_mapping(task)
        videos = [name for name in names if is_video(name)]
        self._say("Media files are being extracted...")
        if not names:
            raise IngestError("No media data found")
        if videos and len(names) > 1:
            raise IngestError("Only one video, archive, pdf or many images, or a 3D scene can be added at a time")
        if videos:
            if mapping is not None:
                raise IngestError("job_file_mapping can't be used with sequence-based data like videos")
            self._build_video(task, videos[0])
        else:
            self._build_images(task, names, mapping)

    def _say(self, message: str) -> None:
        with self._database.transaction() as tx:
            tx.update("request", self._request, message=message)

    # Images

    def _build_images(self, task: Any, names: Sequence[str], mapping: list[list[str]] | None) -> None:
        ordered = self._order(names, mapping)
        sizes = {name: image_size(self._raw / name, name) for name in ordered}
        chosen = ordered if mapping is not None else ordered[self._range(len(ordered))]
        if not chosen:
            raise IngestError("The frame range leaves no frame")
        width, height = sizes[chosen[0]]
        last = self._last_frame(len(ordered), len(chosen))
        with self._database.transaction() as tx:
            tx.many(
                "INSERT INTO image (task_id, frame, name, path, width, height) VALUES (?, ?, ?, ?, ?, ?)",
                [(self._task_id, i, name, name, *sizes[name]) for i, name in enumerate(chosen)],
            )
            self._save(tx, task, len(chosen), last, (width, height), "annotation", None, mapping)

    def _order(self, names: Sequence[str], mapping: list[list[str]] | None) -> list[str]:
        if mapping is not None:
            return self._mapped(names, mapping)
        wanted = self._arguments.get("upload_file_order") or []
        method = self._arguments.get("sorting_method") or "lexicographical"
        if method == "predefined":
            return self._predefined(names, wanted)
        if wanted:
            raise IngestError("The 'upload_file_order' parameter can only be used with sorting_method 'predefined'")
        if method == "natural":
            return sorted(names, key=_natural_key)
        if method == "random":
            return random.sample(list(names), len(names))
        return sorted(names)

    def _predefined(self, names: Sequence[str], wanted: Sequence[str]) -> list[str]:
        if not wanted:
            return list(names)
        if sorted(wanted) != sorted(names):
            odd = sorted(set(wanted) ^ set(names))
            raise IngestError(f"Uploaded files do not match the 'upload_file_order' field contents: {odd[:5]}")
        return list(wanted)

    def _mapped(self, names: Sequence[str], mapping: list[list[str]]) -> list[str]:
        flat = [name for part in mapping for name in part]
        if len(set(flat)) != len(flat):
            raise IngestError("job_file_mapping: a file is listed more than once")
        if set(flat) != set(names):
            odd = sorted(set(flat) ^ set(names))
            raise IngestError(f"job_file_mapping: must match the uploaded files; different are {odd[:5]}")
        return flat

    def _file_mapping(self, task: Any) -> list[list[str]] | None:
        mapping = self._arguments.get("job_file_mapping")
        if mapping is None:
            return None
        clashes = [
            name
            for name in ("sorting_method", "start_frame", "stop_frame", "frame_filter")
            if self._arguments.get(name)
        ]
        clashes += [name for name in ("segment_size", "overlap") if task[name]]
        if clashes:
            raise IngestError(f"job_file_mapping: can't be used together with {', '.join(sorted(clashes))}")
        if not mapping or not all(mapping):
            raise IngestError("job_file_mapping: every job needs at least one file")
        return [[str(name) for name in part] for part in mapping]

    # Videos

    def _build_video(self, task: Any, name: str) -> None:
        self._say("Preparing a manifest file")
        count, width, height = video_shape(self._raw / name, name)
        size = len(range(count)[self._range(count)])
        if size == 0:
            raise IngestError(f"The frame range leaves no frame: the video has {count} frames")
        last = self._last_frame(count, size)
        with self._database.transaction() as tx:
            tx.insert_row("image", task_id=self._task_id, frame=0, name=name, path=name, width=width, height=height)
            self._save(tx, task, size, last, (width, height), "interpolation", name, None)

    # Both

    def _range(self, count: int) -> slice:
        stop = self._number("stop_frame")
        return slice(
            self._number("start_frame") or 0,
            count if stop is None else min(count, stop + 1),
            frame_step(str(self._arguments.get("frame_filter") or "")),
        )

    def _last_frame(self, count: int, size: int) -> int:
        stop = self._number("stop_frame")
        if stop is not None:
            return min(stop, count - 1)
        step = frame_step(str(self._arguments.get("frame_filter") or ""))
        return (self._number("start_frame") or 0) + (size - 1) * step

    def _number(self, name: str) -> int | None:
        value = self._arguments.get(name)
        return None if value in (None, "") else int(value)  # type: ignore[arg-type]

    def _save(
        self,
        tx: Transaction,
        task: Any,
        size: int,
        last: int,
        shape: tuple[int, int],
        mode: str,
        video: str | None,
        mapping: list[list[str]] | None,
    ) -> None:
        self._say("Task is being saved in database")
        overlap, segment_size, spans = _segments(task, size, mode, mapping)
        moment = now()
        tx.update("task", self._task_id, mode=mode, overlap=overlap, segment_size=segment_size, updated_date=moment)
        chunk = self._number("chunk_size") or max(2, min(72, _CHUNK_PIXELS // max(1, shape[0] * shape[1])))
        zip_chunks = str(self._arguments.get("use_zip_chunks", "")).lower() in ("true", "1")
        tx.run(
            "UPDATE data SET size = ?, start_frame = ?, stop_frame = ?, frame_filter = ?, chunk_size = ?, video = ?, "
            "compressed_chunk_type = ?, original_chunk_type = ?, chunks_updated_date = ?, ready = 1 WHERE task_id = ?",
            size,
            self._number("start_frame") or 0,
            last,
            str(self._arguments.get("frame_filter") or ""),
            chunk,
            video,
            "imageset" if video is None or zip_chunks else "video",
            "imageset" if video is None else "video",
            moment,
            self._task_id,
        )
        for start, stop in spans:
            tx.insert(
                "job",
                task_id=self._task_id,
                type="annotation",
                start_frame=start,
                stop_frame=stop,
                created_date=moment,
                updated_date=moment,
            )


def _segments(
    task: Any, size: int, mode: str, mapping: list[list[str]] | None
) -> tuple[int, int, list[tuple[int, int]]]:
    """Overlap, segment size and the jobs' first and last frames."""
    if mapping is not None:
        spans, start = [], 0
        for part in mapping:
            spans.append((start, start + len(part) - 1))
            start += len(part)
        return 0, 0, spans
    length = task["segment_size"] or size
    single = length >= size
    length = min(length, size)
    wanted = task["overlap"] if task["overlap"] is not None else (5 if mode == "interpolation" else 0)
    overlap = min(wanted, length // 2)
    if single:
        return overlap, length, [(0, size - 1)]
    starts = range(0, size, length - overlap)
    return overlap, length, [(start, min(start + length, size) - 1) for start in starts]


def _natural_key(name: str) -> list[tuple[int, int | str]]:
    parts = re.split(r"(\d+)", name)
    return [(0, int(part)) if part.isdecimal() else (1, part) for part in parts if part]


__all__ = ["Ingest", "IngestError", "request_id"]
