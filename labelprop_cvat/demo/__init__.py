"""The demo: the whole loop on a rendered video, or on footage of the user's own, measured against ground truth."""

from __future__ import annotations

import atexit
import os
import sys


def use_own_database() -> None:
    """Gives FiftyOne a new database that is deleted when this process ends, so that the user's is not touched.

    FiftyOne reads its settings while it is imported: where that has happened already, nothing changes.

    Raises:
        ConfigurationError: there is no MongoDB to start
    """
    if "fiftyone" in sys.modules:
        return
    from labelprop_cvat.demo.database import PrivateDatabase

    database = PrivateDatabase()
    # Registered before FiftyOne registers its last look at the database, so it runs after it.
    atexit.register(database.stop)
    os.environ["FIFTYONE_DATABASE_URI"] = database.uri
    # Whatever the user's database allows this process to do, in this one it may.
    os.environ["FIFTYONE_DATABASE_ADMIN"] = "true"
    # Only a notice about the age of the MongoDB that comes with FiftyOne.
    os.environ["FIFTYONE_DATABASE_VALIDATION"] = "false"
    os.environ.setdefault("FIFTYONE_DO_NOT_TRACK", "true")


__all__ = ["use_own_database"]
