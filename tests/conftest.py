"""Keeps every test away from the user's own FiftyOne database and settings."""

from __future__ import annotations

import atexit
import os
import shutil
import tempfile
from pathlib import Path

_HOME = Path(tempfile.mkdtemp(prefix="labelprop-tests-"))
os.environ["FIFTYONE_DATABASE_DIR"] = str(_HOME / "db")
os.environ["FIFTYONE_ANNOTATION_CONFIG_PATH"] = str(_HOME / "annotation_config.json")
os.environ["FIFTYONE_PLUGINS_DIR"] = str(_HOME / "plugins")
os.environ["FIFTYONE_DO_NOT_TRACK"] = "1"
os.environ["FIFTYONE_DATABASE_ADMIN"] = "true"
for _name in [name for name in os.environ if name.startswith(("FIFTYONE_CVAT_", "FIFTYONE_LABELPROP_"))]:
    del os.environ[_name]

SHARED = Path(__file__).resolve().parents[2] / "shared"


# Registered before FiftyOne registers the end of its database, so it runs after it.
atexit.register(shutil.rmtree, _HOME, ignore_errors=True)
