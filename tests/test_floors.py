"""The floors of the house: a module imports only what lies below it."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = "labelprop_cvat"
ROOT = Path(__file__).resolve().parents[1] / PACKAGE

# The longest prefix that fits says on which floor a module lives.
FLOORS = {
    "errors": 0,
    "wording": 0,
    "registration": 1,
    "propagation": 1,
    "progress": 2,
    "sequences": 2,
    "labels": 2,
    "backend": 3,
    "evaluation": 3,
    "workflow": 3,
    "doctor": 4,
    "demo": 4,
    "cli": 4,
    "plugin": 4,
}

# (modules, what they must not import, except for): beyond the floors.
FORBIDDEN = [
    ("", {"fiftyone", "requests"}, "the package itself"),
    ("errors", {"fiftyone", "requests"}, ""),
    ("propagation", {"fiftyone", "requests", f"{PACKAGE}.registration"}, ""),
    ("backend.cvat", {"fiftyone", f"{PACKAGE}.propagation"}, ""),
    ("backend.local_cvat", {"fiftyone", f"{PACKAGE}.backend.cvat"}, "backend.local_cvat.annotator"),
]


def modules(root: Path) -> Iterator[tuple[str, Path]]:
    """Dotted names below the package ("" for the package itself) and files."""
    for path in sorted(root.rglob("*.py")):
        parts = path.relative_to(root).with_suffix("").parts
        yield ".".join(parts[:-1] if parts[-1] == "__init__" else parts), path


def imports(name: str, path: Path) -> Iterator[tuple[int, str]]:
    """(line, absolute dotted target) of every import, those inside functions and for type checkers included."""
    here = f"{PACKAGE}.{name}" if name else PACKAGE
    package = here.split(".") if path.name == "__init__.py" else here.split(".")[:-1]
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"), str(path))):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield node.lineno, alias.name
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            target = ".".join([*base, *([node.module] if node.module else [])])
            for alias in node.names:
                yield node.lineno, f"{target}.{alias.name}"


def floor_of(name: str) -> int | None:
    parts = name.split(".")
    for length in range(len(parts), 0, -1):
        floor = FLOORS.get(".".join(parts[:length]))
        if floor is not None:
            return floor
    return None


def within(name: str, prefix: str) -> bool:
    return name == prefix or name.startswith(f"{prefix}.")


def breaches(root: Path) -> list[str]:
    """A sentence for each import that breaks the rules, and for each module that stands on no floor."""
    found = []
    for name, path in modules(root):
        floor = floor_of(name) if name else None
        if name and floor is None:
            found.append(f"{name}: stands on no floor; add it to FLOORS")
            continue
        for line, target in imports(name, path):
            if within(target, PACKAGE) and floor is not None:
                goal = target.removeprefix(PACKAGE).removeprefix(".")
                above = floor_of(goal) if goal else None
                if above is not None and above > floor:
                    found.append(f"{name}:{line}: floor {floor} imports {target} from floor {above}")
            if not name and within(target, PACKAGE) and not within(target, f"{PACKAGE}.registration"):
                found.append(f"{PACKAGE}/__init__.py:{line}: must stay light, but imports {target}")
            for prefix, forbidden, exception in FORBIDDEN:
                concerned = within(name, prefix) if prefix else not name
                if concerned and not (exception and within(name, exception)):
                    found += [f"{name}:{line}: must not import {bad}" for bad in forbidden if within(target, bad)]
    return found


def test_nobody_imports_upward():
    assert breaches(ROOT) == []


def plant(root: Path, **files: str) -> Path:
    for dotted, text in {"__init__": "", **files}.items():
        path = root / (dotted.replace("__", "/") if dotted != "__init__" else dotted)
        path = path.with_suffix(".py")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        (
            {"labels": "from labelprop_cvat.workflow import load"},
            "labels:1: floor 2 imports labelprop_cvat.workflow.load",
        ),
        ({"labels": "def f():\n    import labelprop_cvat.backend.shapes"}, "labels:2: floor 2 imports"),
        ({"propagation__flow": "from labelprop_cvat import labels"}, "propagation.flow:1: floor 1 imports"),
        ({"propagation__flow": "from ..labels import x"}, "propagation.flow:1: floor 1 imports"),
        ({"propagation__flow": "from .. import cli"}, "propagation.flow:1: floor 1 imports"),
        (
            {"propagation__sam2__engine": "import fiftyone.core.labels"},
            "propagation.sam2.engine:1: must not import fiftyone",
        ),
        ({"propagation__flow": "from requests import get"}, "propagation.flow:1: must not import requests"),
        ({"backend__cvat__client": "import fiftyone as fo"}, "backend.cvat.client:1: must not import fiftyone"),
        ({"backend__cvat__x": "from labelprop_cvat.propagation.types import Box"}, "backend.cvat.x:1: must not import"),
        (
            {"backend__local_cvat__x": "from labelprop_cvat.backend.cvat import CVATClient"},
            "backend.local_cvat.x:1: must",
        ),
        ({"errors": "import labelprop_cvat.propagation"}, "errors:1: floor 0 imports"),
        ({"mystery": ""}, "mystery: stands on no floor"),
        ({"__init__": "import fiftyone"}, ":1: must not import fiftyone"),
        ({"__init__": "from .cli import main"}, "__init__.py:1: must stay light"),
    ],
)
def test_a_breach_is_found(tmp_path, files, expected):
    found = breaches(plant(tmp_path / PACKAGE, **files))
    assert len(found) == 1
    assert found[0].startswith(expected) or expected in found[0]


def test_what_is_allowed_is_not_reported(tmp_path):
    root = plant(
        tmp_path / PACKAGE,
        __init__="from labelprop_cvat.registration import register",
        errors="import math",
        registration="from labelprop_cvat.errors import X",
        propagation__flow="from .types import Box\nfrom labelprop_cvat.errors import X\nimport requests_like",
        backend__local_cvat__annotator="from labelprop_cvat.backend.cvat import CVATClient",
        backend__labelprop="import fiftyone\nfrom labelprop_cvat.backend.cvat import CVATClient",
        cli="from labelprop_cvat import workflow, demo",
    )
    assert breaches(root) == []


def loaded_by(code: str) -> set[str]:
    """The top-level modules in a fresh process after ``code``."""
    script = f"import sys\n{code}\nprint('\\n'.join(sorted(n.split('.')[0] for n in sys.modules)))"
    environ = {**os.environ, "PYTHONPATH": str(ROOT.parent)}
    return set(
        subprocess.run(
            [sys.executable, "-c", script], check=True, capture_output=True, text=True, env=environ
        ).stdout.split()
    )


def test_the_package_is_light():
    assert not loaded_by("import labelprop_cvat") & {"fiftyone", "numpy", "cv2", "torch", "requests"}


def test_propagation_loads_neither_fiftyone_nor_requests():
    names = [f"{PACKAGE}.{name}" for name, _ in modules(ROOT) if within(name, "propagation")]
    loaded = loaded_by("\n".join(f"import {name}" for name in names))
    assert "labelprop_cvat" in loaded
    assert not loaded & {"fiftyone", "requests"}


def test_the_cvat_client_loads_without_fiftyone():
    names = [f"{PACKAGE}.{name}" for name, _ in modules(ROOT) if within(name, "backend.cvat")]
    loaded = loaded_by("\n".join(f"import {name}" for name in names))
    assert "fiftyone" not in loaded
