"""``python -m benchmarks``: quality (where there is data), then speed and memory."""

from __future__ import annotations

import argparse
from pathlib import Path

from benchmarks import quality, speed


def main() -> None:
    """Runs both benchmarks with their defaults."""
    parser = argparse.ArgumentParser(prog="benchmarks", description=__doc__)
    parser.add_argument("--data", type=Path, default=quality.DEFAULT_DATA, help="folder of sequences with ground truth")
    parser.add_argument("--quick", action="store_true", help="fewer sequences and frames")
    options = parser.parse_args()
    quality.report(options.data, limit=2 if options.quick else None)
    speed.report(quick=options.quick)


if __name__ == "__main__":
    main()
