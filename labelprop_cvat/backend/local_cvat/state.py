"""What every handler of one server shares."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .auth import Throttle
    from .ingest import Ingest
    from .media import MediaStore
    from .storage import Database, Files
    from .webhooks import WebhookSender


@dataclass(frozen=True)
class ServerState:
    """One server's database, files and background workers."""

    database: Database
    files: Files
    media: MediaStore
    ingest: Ingest
    webhooks: WebhookSender
    throttle: Throttle
    upload_locks: dict[str, asyncio.Lock] = field(default_factory=dict)
