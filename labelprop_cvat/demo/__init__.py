"""The demo: the whole loop on a rendered video, or on footage of the user's own, measured against ground truth."""

from __future__ import annotations

import atexit
import contextlib
import os
import shutil
import sys
import tempfile
from pathlib import Path


def use_own_database() -> None:
    """Makes FiftyOne use a new database, deleted when this process ends, so that the user's is not touched.

    FiftyOne reads its settings while it is imported: where that has happened already, nothing changes.
    """
    if "fiftyone" in sys.modules:
        return
    folder = Path(tempfile.mkdtemp(prefix="labelprop-demo-"))
    # Registered before FiftyOne registers the end of its database, so it runs after it.
    atexit.register(_delete_when_closed, folder)
    os.environ.pop("FIFTYONE_DATABASE_URI", None)
    os.environ["FIFTYONE_DATABASE_DIR"] = str(folder)
    # Only a notice about the age of the MongoDB that comes with FiftyOne.
    os.environ.setdefault("FIFTYONE_DATABASE_VALIDATION", "false")
    os.environ.setdefault("FIFTYONE_DO_NOT_TRACK", "true")


def _delete_when_closed(folder: Path) -> None:
    """Stops FiftyOne's database and deletes its folder.

    FiftyOne leaves stopping to the end of the process, when nobody is there any more to delete anything, and has no
    public way to do it earlier.
    """
    service = getattr(sys.modules.get("fiftyone.core.odm.database"), "_db_service", None)
    process = getattr(service, "child", None)
    with contextlib.suppress(Exception):
        if service is not None and process is not None:
            service.stop()
            process.wait(timeout=20)
    shutil.rmtree(folder, ignore_errors=True)


__all__ = ["use_own_database"]
