"""What is installed, and how."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import tarfile
import zipfile
from importlib.metadata import entry_points, requires
from pathlib import Path

import pytest

tomllib = pytest.importorskip("tomllib")  # Python 3.11

ROOT = Path(__file__).resolve().parents[1]
LOCK = (ROOT / "requirements.lock").read_text()


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """A copy of what a build looks at: a build in the checkout itself would leave folders behind."""
    copy = tmp_path_factory.mktemp("project")
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    if listed.returncode:
        pytest.skip("not a git checkout")
    for name in listed.stdout.splitlines():
        source, target = ROOT / name, copy / name
        target.parent.mkdir(parents=True, exist_ok=True)
        if source.is_symlink():
            target.symlink_to(source.readlink())
        elif source.is_file():
            target.write_bytes(source.read_bytes())
    return copy


def build(project: Path, hook: str, out: Path) -> Path:
    code = f"from setuptools import build_meta; print('>' + build_meta.{hook}({str(out)!r}))"
    done = subprocess.run([sys.executable, "-c", code], cwd=project, capture_output=True, text=True, check=True)
    return out / done.stdout.rsplit(">", 1)[1].strip()


def modules_of_the_package() -> set[str]:
    return {str(path.relative_to(ROOT)) for path in (ROOT / "labelprop_cvat").rglob("*.py")}


def test_the_wheel_holds_the_package_and_nothing_else(project, tmp_path):
    with zipfile.ZipFile(build(project, "build_wheel", tmp_path)) as wheel:
        names = wheel.namelist()
    assert {name.split("/")[0] for name in names} == {"labelprop_cvat", "labelprop_cvat-0.1.0.dist-info"}
    assert modules_of_the_package() <= set(names)
    assert "labelprop_cvat/py.typed" in names
    assert "labelprop_cvat/evaluation/report.html.jinja" in names
    assert "labelprop_cvat/plugin/fiftyone.yml" in names
    assert any(name.endswith("licenses/LICENSE") for name in names)


def test_the_source_archive_holds_the_package_and_no_links(project, tmp_path):
    with tarfile.open(build(project, "build_sdist", tmp_path)) as archive:
        members = archive.getmembers()
    inside = {member.name.split("/", 1)[1] for member in members if "/" in member.name}
    assert not any(member.issym() for member in members)
    assert not [name for name in inside if name.split("/")[0] in ("backend", "propagation", "tests", "benchmarks")]
    assert modules_of_the_package() <= inside
    assert {"LICENSE", "README.md", "pyproject.toml", "labelprop_cvat/plugin/fiftyone.yml"} <= inside


def test_the_links_at_the_root_show_the_two_halves():
    assert (ROOT / "backend").resolve() == ROOT / "labelprop_cvat" / "backend"
    assert (ROOT / "propagation").resolve() == ROOT / "labelprop_cvat" / "propagation"


def test_the_command_is_installed():
    (command,) = [point for point in entry_points(group="console_scripts") if point.name == "labelprop"]
    assert command.load().__module__ == "labelprop_cvat.cli"


def test_what_installs_without_a_gpu_is_all_that_is_required():
    plain = [entry for entry in requires("labelprop-cvat") or [] if "extra ==" not in entry]
    names = {re.split(r"[<>=!~ \[;]", entry, maxsplit=1)[0] for entry in plain}
    assert not names & {"torch", "sam2", "torchvision", "opencv-python"}
    assert {"fiftyone", "opencv-python-headless"} <= names


def pins() -> dict[str, str]:
    lines = [line for line in LOCK.splitlines() if line and not line.startswith("#")]
    assert all(re.fullmatch(r"[A-Za-z0-9._-]+==[A-Za-z0-9.!]+", line) for line in lines), lines
    assert lines[0].startswith("torch==")
    return {re.sub(r"[-_.]+", "-", name).lower(): version for name, version in (line.split("==") for line in lines)}


def test_the_lock_is_exact_and_names_no_place():
    assert len(pins()) > 100
    assert "://" not in LOCK
    assert "--" not in LOCK


def test_the_lock_covers_what_the_project_asks_for():
    metadata = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    asked = [*metadata["dependencies"], *metadata["optional-dependencies"]["test"]]
    asked += [entry for entry in metadata["optional-dependencies"]["dev"] if not entry.startswith(metadata["name"])]
    names = {re.sub(r"[-_.]+", "-", re.split(r"[<>=!~ \[;]", entry, maxsplit=1)[0]).lower() for entry in asked}
    assert names <= set(pins())


def test_every_dependency_is_explained():
    metadata = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = [entry for group in metadata["optional-dependencies"].values() for entry in group]
    explained = (ROOT / "docs" / "dependencies.md").read_text()
    for entry in [*metadata["dependencies"], *extras]:
        name = re.split(r"[<>=!~ \[;]", entry, maxsplit=1)[0]
        if name != metadata["name"]:
            assert f"`{name}`" in explained, name


MODULES_OF = {
    "bson": "pymongo",
    "gridfs": "pymongo",
    "cv2": "opencv-python-headless",
    "PIL": "pillow",
    "scenedetect": "scenedetect-headless",
    "skimage": "scikit-image",
    "sklearn": "scikit-learn",
    "yaml": "pyyaml",
}
# Imported only where they are there: torch and sam2 by the engine of that name and by the doctor.
OPTIONAL = {"torch", "sam2", "hydra", "iopath", "omegaconf"}


def test_everything_imported_is_asked_for():
    """Nothing is used that is there only because something else happens to bring it."""
    plain = [entry for entry in requires("labelprop-cvat") or [] if "extra ==" not in entry]
    asked = {re.split(r"[<>=!~ \[;]", entry, maxsplit=1)[0].lower() for entry in plain}
    # urllib3 is part of the interface of requests.
    asked.add("urllib3")
    for path in (ROOT / "labelprop_cvat").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom) and not node.level and node.module:
                names = [node.module]
            for name in {name.split(".")[0] for name in names} - OPTIONAL - {"labelprop_cvat"}:
                if name not in sys.stdlib_module_names:
                    assert MODULES_OF.get(name, name) in asked, f"{path.name} imports {name}"


def test_make_lists_its_targets():
    done = subprocess.run(["make"], cwd=ROOT, capture_output=True, text=True, check=True)
    for target in ("demo", "test", "lint", "bench", "clean"):
        assert f"make {target} " in done.stdout


def test_lint_reads_every_module_of_the_package_and_each_once():
    ruff = Path(sys.executable).with_name("ruff")
    if not ruff.exists():
        pytest.skip("ruff is not installed beside this Python; the extra dev brings it")
    shown = subprocess.run([ruff, "check", ".", "--show-files"], cwd=ROOT, capture_output=True, text=True, check=True)
    read = [Path(line) for line in shown.stdout.splitlines() if line.endswith(".py")]
    package = set((ROOT / "labelprop_cvat").rglob("*.py"))
    assert package <= set(read)
    assert len({path.resolve() for path in read}) == len(read)
