"""``python -m benchmarks.labels``: existing labels to CVAT and back, beside FiftyOne's own ``cvat`` backend.

Small pictures with boxes go to a local server, are finished there untouched, and are loaded twice. Both backends take
their turns in this process, on datasets with the same content. The last column says whether the labels were afterwards
what they had been.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from pathlib import Path
from typing import Any, NamedTuple

IMAGES = 500
BOXES = 10
_BACKENDS: dict[str, dict[str, Any]] = {"labelprop": {"engine": "none"}, "cvat": {}}


class Trip(NamedTuple):
    """Seconds of one trip, and whether it left the labels as they were."""

    annotate: float
    load: float
    again: float
    unchanged: bool


def report(quick: bool = False, images: int | None = None) -> bool:
    """Prints the table. Returns whether our backend left every label as it was."""
    from labelprop_cvat.demo.database import PrivateDatabase

    count = images or (60 if quick else IMAGES)
    database = PrivateDatabase()
    os.environ.update(
        FIFTYONE_DATABASE_URI=database.uri, FIFTYONE_DATABASE_VALIDATION="false", FIFTYONE_DO_NOT_TRACK="1"
    )
    try:
        with tempfile.TemporaryDirectory(prefix="labelprop-labels-") as folder:
            paths = _write_pictures(Path(folder) / "pictures", count)
            trips = {name: _trip(name, paths, Path(folder) / name) for name in _BACKENDS}
    finally:
        database.stop()
    print(f"\n{count} images with {BOXES} boxes each, to a local server and back, untouched")
    print("backend     annotate, s   load, s   load again, s   labels as they were")
    for name, trip in trips.items():
        same = "yes" if trip.unchanged else "no"
        print(f"{name:<12}{trip.annotate:<14.1f}{trip.load:<10.1f}{trip.again:<16.1f}{same}", flush=True)
    return trips["labelprop"].unchanged


def _write_pictures(folder: Path, count: int) -> list[Path]:
    import cv2
    import numpy as np

    folder.mkdir()
    noise = np.random.default_rng(0)
    paths = [folder / f"{number:06d}.jpg" for number in range(count)]
    for number, path in enumerate(paths):
        cv2.imwrite(str(path), noise.integers(0, 255, (240 + number % 7, 320, 3), dtype=np.uint8))
    return paths


def _trip(backend: str, paths: list[Path], folder: Path) -> Trip:
    import fiftyone as fo

    import labelprop_cvat  # noqa: F401 - registers the backend
    from labelprop_cvat.backend.cvat import Credentials, CVATClient
    from labelprop_cvat.backend.local_cvat import LocalCVAT

    fo.config.show_progress_bars = False
    dataset = fo.Dataset()
    dataset.add_samples(
        [
            fo.Sample(
                str(path),
                boxes=fo.Detections(
                    detections=[
                        fo.Detection(label=f"class{n % 5}", bounding_box=[0.08 * n, 0.1, 0.07, 0.2], note="a")
                        for n in range(BOXES)
                    ]
                ),
            )
            for path in paths
        ],
        progress=False,
    )
    before = [boxes.to_json() for boxes in dataset.values("boxes")]
    seconds = []
    with LocalCVAT(folder, anonymous_rate=None) as server:
        login = {"url": server.url, "username": server.username, "password": server.password}
        seconds.append(time.perf_counter())
        dataset.annotate("run", backend=backend, label_field="boxes", **_BACKENDS[backend], **login)
        seconds.append(time.perf_counter())
        with CVATClient(server.url, Credentials(username=server.username, password=server.password)) as client:
            for task in client.tasks():
                for job in client.jobs(task.id):
                    client.update_job(job.id, state="completed")
        for _ in range(2):
            seconds.append(time.perf_counter())
            dataset.load_annotations("run", **login)
            seconds.append(time.perf_counter())
    unchanged = [boxes.to_json() for boxes in dataset.values("boxes")] == before
    dataset.delete()
    return Trip(seconds[1] - seconds[0], seconds[3] - seconds[2], seconds[5] - seconds[4], unchanged)


def main() -> None:
    """Runs it from the command line."""
    parser = argparse.ArgumentParser(prog="benchmarks.labels", description=__doc__)
    parser.add_argument("--images", type=int, help=f"how many (default {IMAGES})")
    parser.add_argument("--quick", action="store_true", help="fewer images")
    options = parser.parse_args()
    raise SystemExit(0 if report(quick=options.quick, images=options.images) else 1)


if __name__ == "__main__":
    main()
