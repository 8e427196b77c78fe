"""Keeps every test away from the user's own FiftyOne: database, settings, plugins."""

from __future__ import annotations

import atexit
import os
import shutil
import tempfile
from pathlib import Path

from labelprop_cvat.demo.database import PrivateDatabase
from labelprop_cvat.registration import CLASS_VARIABLE

_HOME = Path(tempfile.mkdtemp(prefix="labelprop-tests-"))
_DATABASE = PrivateDatabase()
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
