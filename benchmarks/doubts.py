"""``python -m benchmarks.doubts``: whether reviewers are sent to what is wrong.

The engine ``flow`` fills every sequence from 2 and from 4 evenly spread exemplars, and what is doubted of that is
compared with the truth: an object on a frame is bad below an IoU of 0.75. ``left out`` is what the target that is best
(F1) on the other sequences comes to on each; the model behind it was fitted on the same sequences, and
docs/choosing-frames.md says how far that is off on others.

Data is a folder of sequences as for ``benchmarks.quality``. The quick mode halves the pictures and takes every second
or third frame of the longer sequences, so that things move faster than they do.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import cv2

from benchmarks.choosing import Filled, exemplars_of, read_footage
from benchmarks.quality import DEFAULT_DATA, mask_folders
from labelprop_cvat.backend.doubts import DOUBTED_BELOW, FieldDoubts
from labelprop_cvat.backend.evidence import KnownLabel
from labelprop_cvat.backend.ledger import SegmentRecord
from labelprop_cvat.propagation.calibration import GOOD_J
from labelprop_cvat.propagation.exemplars import DEFAULT_MODEL
from labelprop_cvat.propagation.propagator import get_propagator

TARGETS = (0.6, 0.65, 0.7, 0.75, 0.8, 0.85, 0.9)
EXEMPLARS = (2, 4)


@dataclass(frozen=True)
class Tally:
    """Objects on frames, and doubts.

    Args:
        doubts: stretches that are doubted
        right: those of them that hold a bad frame
        found: bad ones that are doubted
        wrong: good ones that are doubted
        missed: bad ones that are not
        good: good ones that are not
    """

    doubts: int = 0
    right: int = 0
    found: int = 0
    wrong: int = 0
    missed: int = 0
    good: int = 0

    def __add__(self, other: Tally) -> Tally:
        return Tally(**{name: value + getattr(other, name) for name, value in vars(self).items()})

    @property
    def precision(self) -> float:
        """Share of what is doubted that is bad."""
        return self.found / max(1, self.found + self.wrong)

    @property
    def recall(self) -> float:
        """Share of what is bad that is doubted."""
        return self.found / max(1, self.found + self.missed)

    @property
    def f1(self) -> float:
        """Of both."""
        return 2 * self.found / max(1, 2 * self.found + self.wrong + self.missed)

    def row(self) -> str:
        """As cells of a table."""
        total = self.found + self.wrong + self.missed + self.good
        return (
            f"{self.doubts} | {self.right / max(1, self.doubts):.0%} | {(self.found + self.wrong) / max(1, total):.0%} "
            f"| {(self.found + self.missed) / max(1, total):.0%} | {self.precision:.2f} | {self.recall:.2f}"
        )


def tallies(folder: Path, quick: bool) -> tuple[str, dict[float, Tally]]:
    """The name of a sequence, and what each target comes to on it."""
    cv2.setNumThreads(1)
    footage = read_footage(folder, quick)
    filled = Filled(footage, get_propagator("flow"))
    found = dict.fromkeys(TARGETS, Tally())
    frames = range(len(footage.truth))
    for count in EXEMPLARS:
        exemplars = sorted(exemplars_of(footage, "uniform", count))
        evidence = filled.evidence(exemplars)
        known = [KnownLabel(entry, "object", (0.0, 0.0, 1.0, 1.0), entry.keyframe) for entry in evidence]
        shown = {(entry.frame, entry.object_id) for entry in evidence}
        is_bad = {
            place: outcome.j < GOOD_J
            for place, outcome in filled.outcomes(exemplars).items()
            if place in shown or place[1] in footage.truth[place[0]]
        }
        segment = SegmentRecord(0, len(frames), "all", exemplars)
        for target in TARGETS:
            doubts = list(FieldDoubts("", segment, known, exemplars, (), DEFAULT_MODEL, str).doubts(frames, target))
            doubted = {(frame, doubt.index) for doubt in doubts for frame in range(doubt.start, doubt.stop)}
            right = sum(any(is_bad.get((f, d.index), False) for f in range(d.start, d.stop)) for d in doubts)
            found[target] += Tally(
                len(doubts),
                right,
                sum(bad and place in doubted for place, bad in is_bad.items()),
                sum(not bad and place in doubted for place, bad in is_bad.items()),
                sum(bad and place not in doubted for place, bad in is_bad.items()),
                sum(not bad and place not in doubted for place, bad in is_bad.items()),
            )
    return footage.name, found


def report(data: Path, quick: bool = False, limit: int | None = None, processes: int = 2) -> None:
    """Prints the table; says so when there is no data.

    Args:
        data: folder of sequences
        quick: smaller pictures, fewer frames
        limit: only the first so many sequences
        processes: how many sequences to run side by side
    """
    folders = mask_folders(data)[:limit]
    if not folders:
        print(f"No sequences with masks in {data}: nothing to doubt. Name a folder with --data.")
        return
    with ProcessPoolExecutor(processes) as pool:
        every = dict(pool.map(tallies, folders, [quick] * len(folders)))
    print(f"{len(every)} sequences{', quick mode' if quick else ''}; reviews take {DOUBTED_BELOW:g}\n")
    print("| target | doubts | that hold a bad frame | doubted | bad | precision | recall |")
    print("|---|---|---|---|---|---|---|")
    for target in TARGETS:
        print(f"| {target:g} | {_sum([found[target] for found in every.values()]).row()} |")
    if len(every) > 1:
        left_out = []
        for name, found in every.items():
            others = [other for key, other in every.items() if key != name]
            best = max(TARGETS, key=lambda t: _sum([other[t] for other in others]).f1)
            left_out.append(found[best])
        print(f"| left out | {_sum(left_out).row()} |")


def _sum(entries: Sequence[Tally]) -> Tally:
    return sum(entries, Tally())


def main() -> None:
    """Command line of this benchmark."""
    parser = argparse.ArgumentParser(prog="benchmarks.doubts", description=__doc__)
    parser.add_argument("--data", type=Path, default=DEFAULT_DATA, help="folder of sequences (default: %(default)s)")
    parser.add_argument("--quick", action="store_true", help="half the size, at most 28 frames a sequence")
    parser.add_argument("--limit", type=int, help="only the first so many sequences")
    parser.add_argument("--processes", type=int, default=2)
    options = parser.parse_args()
    report(options.data, options.quick, options.limit, options.processes)


if __name__ == "__main__":
    main()
