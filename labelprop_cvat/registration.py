"""Makes FiftyOne know the annotation backend ``labelprop``.

FiftyOne has no entry points for annotation backends. It reads, once, while it is imported: the file
``~/.fiftyone/annotation_config.json`` (or the one that ``FIFTYONE_ANNOTATION_CONFIG_PATH`` names), the list of names in
``FIFTYONE_ANNOTATION_BACKENDS``, and ``FIFTYONE_<NAME>_<SETTING>`` for each name. This module serves all three ways:

- :func:`register` runs on ``import labelprop_cvat``, before or after ``import fiftyone``, and without importing it;
- :func:`write_registration` puts the backend into the file, for processes that never import this package;
- the variables that :func:`register` sets are inherited by the processes that FiftyOne starts.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
import tempfile
from collections.abc import MutableMapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from labelprop_cvat.errors import ConfigurationError

BACKEND = "labelprop"
CONFIG_CLASS = "labelprop_cvat.backend.labelprop.LabelPropBackendConfig"

NAMES_VARIABLE = "FIFTYONE_ANNOTATION_BACKENDS"
CLASS_VARIABLE = "FIFTYONE_LABELPROP_CONFIG_CLS"
PATH_VARIABLE = "FIFTYONE_ANNOTATION_CONFIG_PATH"


@dataclass(frozen=True)
class Registration:
    """What :func:`write_registration` did.

    Args:
        path: the file
        changed: whether it was written; it is left untouched when it already says what was asked
        dropped: names of the user's own settings of this backend that went away when it was unregistered
    """

    path: Path
    changed: bool
    dropped: tuple[str, ...] = ()


def config_path() -> Path:
    """Where FiftyOne looks for its annotation config; the file need not exist."""
    return Path(os.environ.get(PATH_VARIABLE) or Path.home() / ".fiftyone" / "annotation_config.json")


def read_config(path: Path | None = None) -> dict[str, Any]:
    """Reads FiftyOne's annotation config; ``{}`` when there is no such file.

    Raises:
        ConfigurationError: it is not a JSON object whose ``backends`` are an object of objects
    """
    path = path or config_path()
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return {}
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"FiftyOne's annotation config {path} cannot be read: {error}.") from error
    try:
        config = json.loads(text)
    except json.JSONDecodeError as error:
        raise ConfigurationError(
            f"FiftyOne's annotation config {path} is not valid JSON (line {error.lineno}, column {error.colno}: "
            f"{error.msg}). It was left as it is; mend it or move it away, then try again."
        ) from error
    backends = config.get("backends", {}) if isinstance(config, dict) else None
    if not isinstance(backends, dict) or not all(isinstance(entry, dict) for entry in backends.values()):
        raise ConfigurationError(
            f"FiftyOne's annotation config {path} should be an object like {{'backends': {{'cvat': {{...}}}}}}, but is "
            f"something else. It was left as it is; mend it or move it away, then try again."
        )
    return dict(config)


def is_registered_in_file(path: Path | None = None) -> bool:
    """Whether processes that never import this package find the backend through FiftyOne's annotation config."""
    return "config_cls" in read_config(path).get("backends", {}).get(BACKEND, {})


def write_registration(path: Path | None = None, *, remove: bool = False) -> Registration:
    """Adds the backend to FiftyOne's annotation config, or takes it out; all else in the file stays as it is.

    The file is replaced in one step, so that a reader never sees half of it.

    Args:
        path: the file; by default where FiftyOne looks
        remove: take the backend out

    Raises:
        ConfigurationError: the file is malformed or cannot be written; it was not touched
    """
    path = path or config_path()
    config = read_config(path)
    backends: dict[str, dict[str, Any]] = config.get("backends", {})
    dropped: tuple[str, ...] = ()
    if remove:
        if BACKEND not in backends:
            return Registration(path, changed=False)
        dropped = tuple(sorted(set(backends.pop(BACKEND)) - {"config_cls"}))
    else:
        entry = backends.setdefault(BACKEND, {})
        if entry.get("config_cls") == CONFIG_CLASS:
            return Registration(path, changed=False)
        entry["config_cls"] = CONFIG_CLASS
        config["backends"] = backends
    _replace(path, json.dumps(config, indent=4) + "\n")
    return Registration(path, changed=True, dropped=dropped)


def _replace(path: Path, text: str) -> None:
    """Writes a file in one step. A link stays a link. The mode stays, or is the owner's alone: passwords stand here."""
    target = path.resolve()
    temporary = None
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        mode = target.stat().st_mode & 0o777 if target.exists() else 0o600
        handle, temporary = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.")
        with os.fdopen(handle, "w", encoding="utf-8") as stream:
            stream.write(text)
            stream.flush()
            os.fsync(stream.fileno())
        Path(temporary).chmod(mode)
        Path(temporary).replace(target)
    except OSError as error:
        if temporary is not None:
            Path(temporary).unlink(missing_ok=True)
        raise ConfigurationError(f"FiftyOne's annotation config {path} cannot be written: {error}.") from error


def register(environ: MutableMapping[str, str] | None = None) -> None:
    """Registers the backend for this process and those it starts. Never fails, never overrides what the user set.

    Args:
        environ: the environment to extend, by default this process's own
    """
    environ = os.environ if environ is None else environ
    try:
        backends = read_config().get("backends", {})
    except ConfigurationError:
        # FiftyOne itself complains about this file; an import is not the place to do it first.
        backends = {}
    if "config_cls" not in backends.get(BACKEND, {}):
        environ.setdefault(CLASS_VARIABLE, CONFIG_CLASS)
    _extend_names(environ, list(backends))
    fiftyone = sys.modules.get("fiftyone")
    annotation_config = getattr(fiftyone, "annotation_config", None)
    if annotation_config is not None:
        _extend_loaded(annotation_config)


def _extend_names(environ: MutableMapping[str, str], in_file: list[str]) -> None:
    listed = environ.get(NAMES_VARIABLE, "").strip()
    names = listed.split(",") if listed else []
    if not names and BACKEND in in_file:
        return
    if BACKEND in names:
        return
    # FiftyOne drops every backend of the file that this variable leaves out, so ours alone would hide the user's own.
    names = [*(names or ["*", *(name for name in in_file if name != BACKEND)]), BACKEND]
    environ[NAMES_VARIABLE] = ",".join(names)


def _extend_loaded(annotation_config: Any) -> None:
    """FiftyOne was imported first and has read its config: read it again and take over the part about this backend."""
    from fiftyone.core.config import load_annotation_config

    fresh: dict[str, Any] = {}
    with contextlib.suppress(Exception):
        read = load_annotation_config()
        fresh = read.backends.get(BACKEND, {})
        if read.default_backend == BACKEND:
            annotation_config.default_backend = BACKEND
    current = annotation_config.backends.get(BACKEND, {})
    annotation_config.backends[BACKEND] = {"config_cls": CONFIG_CLASS, **fresh, **current}


__all__ = [
    "BACKEND",
    "CONFIG_CLASS",
    "Registration",
    "config_path",
    "is_registered_in_file",
    "read_config",
    "register",
    "write_registration",
]
