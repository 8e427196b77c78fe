"""``python -m benchmarks``: quality (where there is data), speed and memory, SAM 2, images and labels to CVAT."""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

from benchmarks import quality, sam2, speed, transfer


def main() -> None:
    """Runs all benchmarks with their defaults."""
    parser = argparse.ArgumentParser(prog="benchmarks", description=__doc__)
    parser.add_argument("--data", type=Path, default=quality.DEFAULT_DATA, help="folder of sequences with ground truth")
    parser.add_argument("--quick", action="store_true", help="fewer sequences and frames")
    options = parser.parse_args()
    quality.report(options.data, limit=2 if options.quick else None)
    speed.report(quick=options.quick)
    # The whole of it takes most of an hour: python -m benchmarks.sam2
    sam2.report(quick=True)
    transfer.report(quick=options.quick)
    # A process of its own: FiftyOne keeps to the database that it found when it was imported.
    command = [sys.executable, "-m", "benchmarks.labels", *(["--quick"] if options.quick else [])]
    subprocess.run(command, check=True)


if __name__ == "__main__":
    main()
