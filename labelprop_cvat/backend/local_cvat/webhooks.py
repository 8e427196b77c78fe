"""Webhook deliveries, sent in the background and signed as CVAT signs them."""

from __future__ import annotations

import hashlib
import hmac
import json
import logging
import queue
import threading
import urllib.error
import urllib.request
from typing import Any

from .replies import Call
from .representations import short_user
from .storage import Database, dumps, now

_LOGGER = logging.getLogger(__name__)
_TIMEOUT_S = 5.0
EVENTS = tuple(
    f"{action}:{resource}"
    for action in ("create", "delete", "update")
    for resource in ("comment", "issue", "job", "project", "task")
    if (action, resource) != ("create", "project")
)


class WebhookSender:
    """Posts deliveries one after another; a receiver that does not answer delays nobody but other receivers."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._queue: queue.Queue[tuple[int, str, dict[str, Any]] | None] = queue.Queue()
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._work, name="local-cvat-webhooks", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """End after the delivery under way; those that wait are dropped."""
        self._stopping.set()
        self._queue.put(None)
        self._thread.join()

    def announce(
        self,
        call: Call,
        project_id: int | None,
        event: str,
        body: dict[str, Any],
        old: dict[str, Any] | None = None,
    ) -> None:
        """Send an event of a project's to all its webhooks that ask for it.

        Args:
            call: the request that caused it
            project_id: None for what belongs to no project; nothing is sent then
            event: ``"update:job"``, ...
            body: the object under its name, as ``{"job": {...}}``
            old: the object as it was, for updates
        """
        if project_id is None:
            return
        with self._database.transaction() as tx:
            rows = tx.all("SELECT * FROM webhook WHERE project_id = ? AND is_active", project_id)
            sender = short_user(call, tx, call.me.id)
        payload = {**body, "sender": sender, "event": event}
        if old is not None:
            (new,) = body.values()
            payload["before_update"] = {name: value for name, value in old.items() if new.get(name) != value}
        for row in rows:
            if event in json.loads(row["events"]):
                self._queue.put((row["id"], event, {**payload, "webhook_id": row["id"]}))

    def deliver(self, webhook_id: int, event: str, payload: dict[str, Any]) -> int | None:
        """Send now; returns the id of the delivery's record, None when the webhook is gone."""
        with self._database.transaction() as tx:
            row = tx.one("SELECT * FROM webhook WHERE id = ?", webhook_id)
        if row is None:
            return None
        content = json.dumps(payload).encode()
        status, answer = _post(row["target_url"], content, row["secret"])
        moment = now()
        with self._database.transaction() as tx:
            return tx.insert(
                "webhook_delivery",
                webhook_id=webhook_id,
                event=event,
                status_code=status,
                request=dumps(payload),
                response=answer,
                created_date=moment,
                updated_date=moment,
            )

    def _work(self) -> None:
        while (item := self._queue.get()) is not None and not self._stopping.is_set():
            try:
                self.deliver(*item)
            except Exception:
                _LOGGER.exception("webhook delivery failed")


def _post(url: str, content: bytes, secret: str) -> tuple[int, str]:
    headers = {"Content-Type": "application/json"}
    if secret:
        digest = hmac.new(secret.encode(), content, hashlib.sha256).hexdigest()
        headers["X-Signature-256"] = f"sha256={digest}"
    try:
        request = urllib.request.Request(url, content, headers)
        with urllib.request.urlopen(request, timeout=_TIMEOUT_S) as answer:
            return answer.status, answer.read(64 * 1024).decode("utf-8", "replace")
    except urllib.error.HTTPError as error:
        return error.code, ""
    except (OSError, ValueError) as error:
        _LOGGER.info("webhook receiver does not answer: %s", error)
        return 502, ""


__all__ = ["EVENTS", "WebhookSender"]
