"""``python -m benchmarks.choosing_fit``: fits what predicts J, and says how far off it is on other sequences.

Two things are fitted on what the engine ``flow`` makes of real sequences, with an exemplar every 10 and every 20 frames
and on the first frame only: :class:`~labelprop_cvat.propagation.exemplars.Decay`, which knows the frames but nothing of
objects, and :class:`~labelprop_cvat.propagation.exemplars.QualityModel`, which knows what the engine says of its own
work. Of ``Decay``, the cost of a step is fitted; its losses, and that two passes lose twice as fast of what one of them
would, are given.

Every error is measured on one sequence after fitting on the others.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
from scipy.optimize import least_squares

from benchmarks.choosing import QUICK_PIXELS, Filled, read_footage
from benchmarks.quality import DEFAULT_DATA, mask_folders
from labelprop_cvat.propagation.exemplars import DECAY, DEFAULT_MODEL, Decay, Evidence, QualityModel, survey
from labelprop_cvat.propagation.propagator import get_propagator

SPACINGS = (10, 20)
QUICK_SPACINGS = (4, 8)

FloatArray = npt.NDArray[np.float64]
Pair = tuple[Evidence, float, float]


@dataclass(frozen=True, eq=False)
class Measured:
    """What came of one sequence with several choices of exemplars: J of each object and frame that is no exemplar."""

    name: str
    difficulty: FloatArray
    choices: tuple[tuple[int, ...], ...]
    frames: tuple[tuple[int, ...], ...]
    truth: tuple[tuple[float, ...], ...]
    pairs: tuple[Pair, ...]

    def misses(self, decay: Decay) -> FloatArray:
        """Predicted less measured J of every frame, choice after choice."""
        places = np.concatenate([[0.0], np.cumsum(decay.lengths(self.difficulty))])
        errors = [decay.errors(places, choice)[list(at)] for choice, at in zip(self.choices, self.frames, strict=True)]
        return 1.0 - np.concatenate(errors) - np.concatenate([np.array(js) for js in self.truth])


def measure(folder: Path, quick: bool) -> Measured:
    """Fills a sequence from every choice of exemplars."""
    cv2.setNumThreads(1)
    footage = read_footage(folder, quick)
    filled = Filled(footage, get_propagator("flow", **({"max_pixels": QUICK_PIXELS} if quick else {})))
    length = len(footage.truth)
    choices = [tuple(range(0, length, spacing)) for spacing in (QUICK_SPACINGS if quick else SPACINGS)] + [(0,)]
    frames, truth = [], []
    pairs: list[Pair] = []
    for choice in choices:
        outcomes = filled.outcomes(choice)
        frames.append(tuple(at for at, _ in outcomes))
        truth.append(tuple(outcome.j for outcome in outcomes.values()))
        for (at, _), outcome in outcomes.items():
            if outcome.evidence is not None:
                pairs.append((outcome.evidence, float(min(abs(at - other) for other in choice)), outcome.j))
    difficulty = survey(footage.frames, footage.segment, features=False).difficulty
    return Measured(folder.name, difficulty, tuple(choices), tuple(frames), tuple(truth), tuple(pairs))


def fitted_decay(measured: Sequence[Measured], start: Decay = DECAY) -> Decay:
    """The cost of a step that fits best; every sequence counts the same."""

    def misses(logs: FloatArray) -> FloatArray:
        decay = replace(start, base=float(np.exp(logs[0])), weight=float(np.exp(logs[1])))
        parts = [entry.misses(decay) for entry in measured]
        return np.concatenate([part / np.sqrt(len(part)) for part in parts])

    best = least_squares(misses, np.log([start.base, start.weight])).x
    return replace(start, base=float(np.exp(best[0])), weight=float(np.exp(best[1])))


def balanced(measured: Iterable[Measured], each: int = 500) -> list[Pair]:
    """As many pairs of every sequence, drawn with a fixed seed."""
    random = np.random.default_rng(0)
    found: list[Pair] = []
    for entry in measured:
        if entry.pairs:
            found += [entry.pairs[i] for i in random.choice(len(entry.pairs), each, replace=len(entry.pairs) < each)]
    return found


def report(data: Path, quick: bool = False, limit: int | None = None, processes: int = 2) -> None:
    """Prints the constants that fit, and the errors on sequences left out; says so when there is too little data."""
    folders = mask_folders(data)[:limit]
    if len(folders) < 2:
        print(f"Fewer than two sequences with masks in {data}: nothing to fit on. Name a folder with --data.")
        return
    with ProcessPoolExecutor(processes) as pool:
        measured = list(pool.map(measure, folders, [quick] * len(folders)))
    print("\nmean absolute error (mean error) of the predicted J on a sequence left out of the fit | with the defaults")
    print("sequence".ljust(26) + "from the frames".ljust(34) + "one pass".ljust(34) + "two passes")
    rows = []
    for entry in measured:
        others = [other for other in measured if other is not entry]
        decay, model = fitted_decay(others), DEFAULT_MODEL.fitted(balanced(others))
        cells = [(entry.misses(decay), entry.misses(DECAY))]
        for two in (False, True):
            cells.append((misses(model, entry.pairs, two), misses(DEFAULT_MODEL, entry.pairs, two)))
        print(entry.name.ljust(26) + "".join(f"{_cell(left)} | {_cell(default)}".ljust(34) for left, default in cells))
        rows.append([[float(np.abs(part).mean()) if len(part) else np.nan for part in cell] for cell in cells])
    means = np.nanmean(np.array(rows), axis=0)
    print("mean".ljust(26) + "".join(f"{left:.3f} | {default:.3f}".ljust(34) for left, default in means))
    print(f"\nfitted on all: {fitted_decay(measured)}\n{DEFAULT_MODEL.fitted(balanced(measured))}")


def misses(model: QualityModel, pairs: Sequence[Pair], two_passes: bool) -> FloatArray:
    """Predicted less measured J where one pass ran, or two."""
    some = [pair for pair in pairs if (pair[0].agreement is not None) == two_passes]
    return np.array([model.predict(evidence, distance) - j for evidence, distance, j in some])


def _cell(part: FloatArray) -> str:
    return f"{np.abs(part).mean():.3f} ({part.mean():+.3f})" if len(part) else "-"


def main() -> None:
    """Command line of this benchmark."""
    parser = argparse.ArgumentParser(prog="benchmarks.choosing_fit", description=__doc__)
    parser.add_argument("--data", type=Path, default=DEFAULT_DATA, help="folder of sequences (default: %(default)s)")
    parser.add_argument("--quick", action="store_true", help="half the size, at most 28 frames, every 4 and every 8")
    parser.add_argument("--limit", type=int, help="only the first so many sequences")
    parser.add_argument("--processes", type=int, default=2)
    options = parser.parse_args()
    report(options.data, options.quick, options.limit, options.processes)


if __name__ == "__main__":
    main()
