"""``python -m benchmarks``: quality, choosing, rounds, reviews (where there is data), speed, SAM 2, transfer.

On two cores it takes hours; ``--quick`` takes a good half of one.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

from benchmarks import choosing, quality, sam2, segmentation, speed, thinning, transfer


def main() -> None:
    """Runs all benchmarks with their defaults."""
    parser = argparse.ArgumentParser(prog="benchmarks", description=__doc__)
    parser.add_argument("--data", type=Path, default=quality.DEFAULT_DATA, help="folder of sequences with ground truth")
    parser.add_argument("--quick", action="store_true", help="fewer sequences and frames")
    options = parser.parse_args()
    quality.report(options.data, limit=2 if options.quick else None)
    segmentation.report(options.data, quick=options.quick)
    # At full size it takes hours: python -m benchmarks.choosing
    choosing.report(options.data, quick=True, limit=2 if options.quick else None)
    thinning.report(options.data, quick=options.quick)
    speed.report(quick=options.quick)
    # The whole of it takes most of an hour: python -m benchmarks.sam2
    sam2.report(quick=True)
    transfer.report(quick=options.quick)
    # A process of its own: FiftyOne keeps to the database that it found when it was imported.
    quick = ["--quick"] if options.quick else []
    for name in ("rounds", "review"):
        subprocess.run([sys.executable, "-m", f"benchmarks.{name}", "--data", str(options.data), *quick], check=True)
    subprocess.run([sys.executable, "-m", "benchmarks.labels", *quick], check=True)


if __name__ == "__main__":
    main()
