"""Keeps every test away from the user's own FiftyOne: database, settings, plugins."""

from __future__ import annotations

import atexit
import gc
import os
import shutil
import sys
import tempfile
from pathlib import Path

from labelprop_cvat.demo.database import PrivateDatabase
from labelprop_cvat.registration import CLASS_VARIABLE

# Importing makes a million objects that all stay; looking for garbage among them takes seconds.
gc.disable()


def _folder_in_memory() -> Path | None:
    """Where files never wait for a disk; None where there is no room."""
    shared_memory = Path("/dev/shm")
    has_room = os.access(shared_memory, os.W_OK) and shutil.disk_usage(shared_memory).free > 4 * 2**30
    return shared_memory if has_room else None


_HOME = Path(tempfile.mkdtemp(prefix="labelprop-tests-"))
_DATABASE = PrivateDatabase(_folder_in_memory())
# Registered before FiftyOne is imported, so they run after what FiftyOne registers.
atexit.register(shutil.rmtree, _HOME, ignore_errors=True)
atexit.register(_DATABASE.stop)

_OF_THE_USER = ("FIFTYONE_CVAT_", "FIFTYONE_LABELPROP_")
for _name in [name for name in os.environ if name.startswith(_OF_THE_USER) and name != CLASS_VARIABLE]:
    del os.environ[_name]
os.environ["FIFTYONE_DATABASE_URI"] = _DATABASE.uri
os.environ["FIFTYONE_DATABASE_NAME"] = "labelprop_tests"
os.environ["FIFTYONE_DATABASE_DIR"] = str(_HOME / "db")
os.environ["FIFTYONE_DATABASE_ADMIN"] = "true"
os.environ["FIFTYONE_DATABASE_VALIDATION"] = "false"
os.environ["FIFTYONE_ANNOTATION_CONFIG_PATH"] = str(_HOME / "annotation_config.json")
os.environ["FIFTYONE_PLUGINS_DIR"] = str(_HOME / "plugins")
os.environ["FIFTYONE_DO_NOT_TRACK"] = "1"
# Tests run side by side, one process a core. Several threads of PyTorch in each would wait for each other by spinning,
# which takes up to forty times as long.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# Registered, not imported by each file: what takes seconds to make is made once in a run.
pytest_plugins = ["fixtures_sam2"]

SHARED = Path(__file__).resolve().parents[2] / "shared"


def pytest_collection_finish() -> None:
    gc.enable()
    # What is imported stays: the collector need not look through it again and again, nor through what tests make as
    # often as in a process that has to live for long.
    gc.freeze()
    gc.set_threshold(20_000, 20, 50)


def pytest_sessionfinish() -> None:
    # FiftyOne would delete the datasets of all tests one by one, out of a database that is deleted in a moment.
    database = sys.modules.get("fiftyone.core.odm.database")
    atexit.unregister(getattr(database, "_delete_non_persistent_datasets_if_allowed", None))
