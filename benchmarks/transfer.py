"""``python -m benchmarks.transfer``: seconds, bytes and memory of an upload, beside FiftyOne's own ``cvat`` backend.

Frames of 1920x1080 go to a local server that runs in this process; each backend sends them from a process of its own,
one after the other. Memory is the highest resident memory between the call of ``annotate`` and its end, over what the
process held right before.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, NamedTuple

FRAMES = 500
MOST_MEBIBYTES = 100.0
"""What our backend may hold over idle."""
_PICTURES = 16
_PASSWORD = "a password"
_OPTIONS: dict[str, dict[str, Any]] = {
    "labelprop": {"sort_field": "number", "segmentation": "fixed:100", "exemplars": "every:1", "engine": "interpolate"},
    "cvat": {"segment_size": 100},
}


class Measured(NamedTuple):
    """What one upload took.

    Args:
        seconds: of ``annotate``
        sent: bytes of all requests' bodies
        requests: their number
        mebibytes: peak over idle
        frames: how many the server has in the end
    """

    seconds: float
    sent: int
    requests: int
    mebibytes: float
    frames: int


def report(quick: bool = False, frames: int | None = None) -> bool:
    """Prints the table. Returns whether our backend stayed below its limit and all frames arrived."""
    from labelprop_cvat.backend.local_cvat import LocalCVAT
    from labelprop_cvat.demo.database import PrivateDatabase

    count = frames or (60 if quick else FRAMES)
    with tempfile.TemporaryDirectory(prefix="labelprop-transfer-") as name:
        folder = Path(name)
        size = _write_frames(folder / "frames", count)
        database = PrivateDatabase()
        environment = {
            **os.environ,
            "FIFTYONE_DATABASE_URI": database.uri,
            "FIFTYONE_DATABASE_VALIDATION": "false",
            "FIFTYONE_DO_NOT_TRACK": "1",
        }
        try:
            with LocalCVAT(folder / "server", users={"admin": _PASSWORD}, anonymous_rate=None) as server:
                found = {name: _measured(name, folder / "frames", server.url, environment) for name in _OPTIONS}
        finally:
            database.stop()
    print(f"\nupload of {count} frames of 1920x1080, {size / 2**20:.0f} MiB in files, to a server on this machine")
    print("backend     seconds   MiB sent   requests   peak memory over idle, MiB")
    for name, seen in found.items():
        sent = seen.sent / 2**20
        print(f"{name:<12}{seen.seconds:<10.1f}{sent:<11.0f}{seen.requests:<11}{seen.mebibytes:.0f}", flush=True)
    ours = found["labelprop"]
    good = ours.mebibytes < MOST_MEBIBYTES and all(seen.frames == count for seen in found.values())
    if not good:
        print(f"expected {count} frames on the server, and labelprop below {MOST_MEBIBYTES:.0f} MiB")
    return good


def _write_frames(folder: Path, count: int) -> int:
    """Writes JPEG files of about 400 kB; returns their bytes in all.

    The pictures repeat, but no two files are the same: each carries its number as a comment.
    """
    import cv2
    import numpy as np

    folder.mkdir()
    noise = np.random.default_rng(0)
    pictures = []
    for _ in range(min(_PICTURES, count)):
        coarse = noise.integers(0, 255, (180, 320, 3), dtype=np.uint8)
        picture = cv2.resize(coarse, (1920, 1080), interpolation=cv2.INTER_LINEAR)
        pictures.append(cv2.imencode(".jpg", picture, [cv2.IMWRITE_JPEG_QUALITY, 70])[1].tobytes())
    total = 0
    for number in range(count):
        text = f"frame {number:06d}".encode()
        comment = b"\xff\xfe" + (len(text) + 2).to_bytes(2, "big") + text
        picture_bytes = pictures[number % len(pictures)]
        total += (folder / f"{number:06d}.jpg").write_bytes(picture_bytes[:2] + comment + picture_bytes[2:])
    return total


def _measured(backend: str, frames: Path, url: str, environment: dict[str, str]) -> Measured:
    command = [
        sys.executable,
        "-m",
        "benchmarks.transfer",
        "--upload",
        backend,
        "--frames-in",
        str(frames),
        "--to",
        url,
    ]
    answer = subprocess.run(command, check=True, capture_output=True, text=True, env=environment)
    return Measured(**json.loads(answer.stdout.splitlines()[-1]))


def _upload(backend: str, folder: Path, url: str) -> Measured:
    """Uploads from this process and measures it."""
    import fiftyone as fo
    from requests.adapters import HTTPAdapter

    import labelprop_cvat  # noqa: F401 - registers the backend

    fo.config.show_progress_bars = False
    dataset = fo.Dataset()
    paths = sorted(folder.iterdir())
    dataset.add_samples([fo.Sample(str(path), number=n) for n, path in enumerate(paths)], progress=False)
    dataset.compute_metadata(progress=False, num_workers=1)
    sent: list[int] = []
    send = HTTPAdapter.send

    def counted(adapter: HTTPAdapter, request: Any, *args: Any, **options: Any) -> Any:
        sent.append(int(request.headers.get("Content-Length") or 0))
        return send(adapter, request, *args, **options)

    setattr(HTTPAdapter, "send", counted)  # noqa: B010 - both backends send with it
    _warm_up(url)
    gc.collect()
    idle = _forget_peak()
    started = time.perf_counter()
    results = dataset.annotate(
        "run",
        backend=backend,
        label_field="objects",
        label_type="detections",
        classes=["car"],
        url=url,
        username="admin",
        password=_PASSWORD,
        **_OPTIONS[backend],
    )
    seconds = time.perf_counter() - started
    peak = _peak()
    requests_sent, body_bytes = len(sent), sum(sent)
    with _client(url) as client:
        tasks = results.task_ids if backend == "cvat" else [task.server_id for task in results.ledger.tasks()]
        there = sum(client.task(task).size for task in tasks)
    return Measured(round(seconds, 2), body_bytes, requests_sent, round(peak - idle, 1), there)


def _client(url: str) -> Any:
    from labelprop_cvat.backend.cvat import Credentials, CVATClient

    return CVATClient(url, Credentials("admin", _PASSWORD))


def _warm_up(url: str) -> None:
    """Imports what either backend imports at its first use, so that idle is idle."""
    import fiftyone.utils.cvat  # noqa: F401

    with _client(url) as client:
        client.about()


def _forget_peak() -> float:
    """Starts anew to look for the peak; returns the resident memory of now in MiB."""
    Path("/proc/self/clear_refs").write_text("5")
    return _status("VmRSS")


def _peak() -> float:
    """The highest resident memory since :func:`_forget_peak`, in MiB."""
    return _status("VmHWM")


def _status(name: str) -> float:
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
        return next(int(line.split()[1]) / 1024 for line in lines if line.startswith(f"{name}:"))
    except (OSError, StopIteration):
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10


def main() -> int:
    """Command line of this benchmark. Returns 1 when our backend needs more memory than it may."""
    parser = argparse.ArgumentParser(prog="benchmarks.transfer", description=__doc__)
    parser.add_argument("--frames", type=int, help=f"how many, {FRAMES} by default")
    parser.add_argument("--quick", action="store_true", help="fewer frames")
    parser.add_argument("--upload", choices=sorted(_OPTIONS), help=argparse.SUPPRESS)
    parser.add_argument("--frames-in", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--to", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.upload:
        print(json.dumps(_upload(options.upload, options.frames_in, options.to)._asdict()))
        return 0
    return 0 if report(options.quick, options.frames) else 1


if __name__ == "__main__":
    raise SystemExit(main())
