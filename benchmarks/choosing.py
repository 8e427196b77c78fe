"""``python -m benchmarks.choosing``: what the frames that people annotate are worth, method by method.

Every method chooses the same number of exemplars, the engine ``flow`` fills the others, and the mean J over all frames
is taken. Annotated frames count 1: every method is given as many of those. The controls are ``uniform`` shifted by half
a step, which is ``every``, and frames drawn at random: what lies within their spread is noise.

Data is a folder of sequences as for ``benchmarks.quality``. The quick mode halves the pictures and takes every second
or third frame of the longer sequences, so that things move faster than they do.
"""

from __future__ import annotations

import argparse
import logging
import math
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import cv2
import numpy as np

from benchmarks.quality import DEFAULT_DATA, mask_folders, read_masks
from labelprop_cvat.propagation.exemplars import (
    DEFAULT_MODEL,
    Evidence,
    QualityModel,
    Survey,
    next_frames,
    select_exemplars,
    survey,
)
from labelprop_cvat.propagation.frames import ArraySource, ImageSequenceSource
from labelprop_cvat.propagation.metrics import jaccard
from labelprop_cvat.propagation.propagator import Propagator, get_propagator
from labelprop_cvat.propagation.types import ObjectMask, Prompt, Segment

COUNTS = (2, 3, 5, 8)
METHODS = ("uniform", "every", "random", "diverse", "coverage", "active")
QUICK_FRAMES = 28
QUICK_PIXELS = 40_000
SEEDS = (1, 2, 3)


@dataclass(frozen=True, eq=False)
class Footage:
    """A sequence in memory: its frames, and the true objects of each by their id."""

    name: str
    frames: ArraySource
    truth: tuple[dict[int, ObjectMask], ...]

    @property
    def ids(self) -> tuple[int, ...]:
        """Every object that is ever there."""
        return tuple(sorted({object_id for objects in self.truth for object_id in objects}))

    @property
    def segment(self) -> Segment:
        """All of it."""
        return Segment(0, len(self.truth))


@dataclass(frozen=True)
class Outcome:
    """What became of one object on one frame; ``evidence`` is None where the engine shows nothing."""

    j: float
    evidence: Evidence | None


class Filled:
    """Fills a sequence from any exemplars; what lies between two is worked out once.

    On an exemplar a person says of every object where it is, or that it is not there, so that the frames between two
    exemplars depend on these alone.
    """

    def __init__(self, footage: Footage, engine: Propagator) -> None:
        self._footage = footage
        self._engine = engine
        self._gaps: dict[tuple[int | None, int | None], dict[tuple[int, int], Outcome]] = {}

    def outcomes(self, exemplars: Sequence[int]) -> dict[tuple[int, int], Outcome]:
        """What becomes of every object on every frame that is no exemplar."""
        found: dict[tuple[int, int], Outcome] = {}
        for gap in pairwise([None, *sorted(exemplars), None]):
            found.update(self.gap(*gap))
        return found

    def gap(self, before: int | None, after: int | None) -> dict[tuple[int, int], Outcome]:
        """The same between two exemplars, or on the open side of one."""
        key = before, after
        if key not in self._gaps:
            self._gaps[key] = self._propagated(before, after)
        return self._gaps[key]

    def mean_j(self, exemplars: Sequence[int]) -> float:
        """Over all frames and objects, in %."""
        total = len(self._footage.truth) * len(self._footage.ids)
        missing = sum(1.0 - outcome.j for outcome in self.outcomes(exemplars).values())
        return 100.0 * (1.0 - missing / total)

    def evidence(self, exemplars: Sequence[int]) -> list[Evidence]:
        """What a product knows without the truth."""
        found = [outcome.evidence for outcome in self.outcomes(exemplars).values() if outcome.evidence is not None]
        for frame in exemplars:
            for object_id, mask in self._footage.truth[frame].items():
                found.append(Evidence(frame, object_id, 1.0, None, self._share(mask), True))
        return found

    def _propagated(self, before: int | None, after: int | None) -> dict[tuple[int, int], Outcome]:
        truth = self._footage.truth
        first = 0 if before is None else before
        last = len(truth) - 1 if after is None else after
        if last - first < (0 if before is None or after is None else 2):
            return {}
        prompts = [
            Prompt(frame, i, mask=truth[frame][i]) if i in truth[frame] else Prompt(frame, i, absent=True)
            for frame in (before, after)
            if frame is not None
            for i in self._footage.ids
        ]
        found = {}
        for result in self._engine.propagate(self._footage.frames, prompts, Segment(first, last + 1)):
            if result.frame in (before, after):
                continue
            for i in self._footage.ids:
                state = result.objects.get(i)
                mask = state.mask if state is not None else None
                known = None
                if state is not None and mask is not None:
                    known = Evidence(
                        result.frame, i, state.confidence, state.agreement, self._share(mask), keyframe=False
                    )
                found[result.frame, i] = Outcome(jaccard(mask, truth[result.frame].get(i)), known)
        return found

    def _share(self, mask: ObjectMask) -> float:
        return mask.area / float(np.prod(self._footage.frames.size))


def read_footage(folder: Path, quick: bool) -> Footage:
    """Reads a sequence; in the quick mode at half the size, and thinned to 28 frames at most."""
    source = ImageSequenceSource(sorted((folder / "frames").glob("*.jpg")))
    every = math.ceil(len(source) / QUICK_FRAMES) if quick else 1
    height, width = source.size
    frames, truth = [], []
    for index, objects in list(enumerate(read_masks(folder)))[::every]:
        frame = source[index]
        if quick:
            frame = np.asarray(cv2.resize(frame, (width // 2, height // 2), interpolation=cv2.INTER_AREA), np.uint8)
            halves = {i: ObjectMask.from_full(mask.to_full((height, width))[::2, ::2]) for i, mask in objects.items()}
            objects = {i: mask for i, mask in halves.items() if mask is not None}
        frames.append(frame)
        truth.append(dict(objects))
    return Footage(folder.name, ArraySource(frames), tuple(truth))


def exemplars_of(footage: Footage, method: str, count: int, seed: int = 1) -> list[int]:
    """The choice of one method that does not go by rounds."""
    if method == "random":
        return sorted(np.random.default_rng(seed).choice(len(footage.truth), count, replace=False).tolist())
    if method == "every":
        return select_exemplars(footage.segment, f"every:{math.ceil(len(footage.truth) / count)}")
    return select_exemplars(footage.segment, f"{method}:{count}", source=footage.frames)


def grown(
    footage: Footage, filled: Filled, counts: Sequence[int], seen: Survey, model: QualityModel = DEFAULT_MODEL
) -> list[list[int]]:
    """The choices of ``active``, each beside the one before; the first is ``uniform``'s."""
    choices = [exemplars_of(footage, "uniform", counts[0])]
    for fewer, more in pairwise(counts):
        chosen = list(choices[-1])
        found = next_frames(
            footage.segment,
            filled.evidence(chosen),
            chosen,
            more - fewer,
            source=footage.frames,
            seen=seen,
            model=model,
        )
        choices.append(sorted([*chosen, *(entry.frame for entry in found)]))
    return choices


def curves(folder: Path, quick: bool) -> tuple[str, int, dict[str, list[float]]]:
    """Mean J of one sequence by method and number of exemplars, in %; and how many frames it has."""
    cv2.setNumThreads(1)
    logging.disable(logging.INFO)
    footage = read_footage(folder, quick)
    filled = Filled(footage, get_propagator("flow", **({"max_pixels": QUICK_PIXELS} if quick else {})))
    seen = survey(footage.frames, footage.segment)
    found: dict[str, list[float]] = {"first": [filled.mean_j([0])] * len(COUNTS)}
    for method in METHODS:
        if method == "active":
            choices = [[choice] for choice in grown(footage, filled, COUNTS, seen)]
        else:
            seeds = SEEDS[: 2 if quick else 3] if method == "random" else SEEDS[:1]
            choices = [[exemplars_of(footage, method, count, seed) for seed in seeds] for count in COUNTS]
        found[method] = [float(np.mean([filled.mean_j(choice) for choice in some])) for some in choices]
    return folder.name, len(footage.truth), found


def area(curve: Sequence[float]) -> float:
    """Mean height of a curve over the numbers of exemplars."""
    return float(np.trapezoid(curve, COUNTS) / (COUNTS[-1] - COUNTS[0]))


def report(data: Path, quick: bool = False, limit: int | None = None, processes: int = 2) -> None:
    """Prints the tables; says so when there is no data.

    Args:
        data: folder of sequences
        quick: smaller pictures, fewer frames
        limit: only the first so many sequences
        processes: how many sequences to run side by side
    """
    folders = mask_folders(data)[:limit]
    if not folders:
        print(f"No sequences with masks in {data}: nothing to choose frames of. Name a folder with --data.")
        return
    names = ("first", *METHODS)
    print(
        f"\nmean J in % over all frames (annotated ones count 1), engine flow, {', '.join(map(str, COUNTS))} exemplars"
    )
    print("sequence (frames)".ljust(30) + "".join(name.ljust(25) for name in names))
    every: dict[str, list[list[float]]] = {name: [] for name in names}
    with ProcessPoolExecutor(processes) as pool:
        for sequence, length, found in pool.map(curves, folders, [quick] * len(folders)):
            cells = "".join(" ".join(f"{j:5.1f}" for j in found[name]).ljust(25) for name in names)
            print(f"{sequence} ({length})".ljust(30) + cells, flush=True)
            for name in names:
                every[name].append(found[name])
    means = {name: np.mean(every[name], axis=0) for name in names}
    print("mean".ljust(30) + "".join(" ".join(f"{j:5.1f}" for j in means[name]).ljust(25) for name in names))
    _print_against_uniform(every)


def _print_against_uniform(every: dict[str, list[list[float]]]) -> None:
    uniform = np.array(every["uniform"])
    print("\narea under the curve in %, and against uniform with as many exemplars (by more than 0.1)")
    print("method".ljust(12) + "area".ljust(9) + "difference, and its standard error".ljust(37) + "wins  losses")
    for name, found in every.items():
        table = np.array(found)
        ahead = np.array([area(curve) for curve in table]) - np.array([area(curve) for curve in uniform])
        spread = float(ahead.std(ddof=1) / math.sqrt(len(ahead))) if len(ahead) > 1 else math.nan
        apart = table - uniform
        mean = float(np.mean([area(curve) for curve in table]))
        print(
            f"{name:<12}{mean:<9.2f}{f'{ahead.mean():+.2f}  +- {spread:.2f}':<37}"
            f"{int((apart > 0.1).sum()):<6}{int((apart < -0.1).sum())}"
        )


def main() -> None:
    """Command line of this benchmark."""
    parser = argparse.ArgumentParser(prog="benchmarks.choosing", description=__doc__)
    parser.add_argument("--data", type=Path, default=DEFAULT_DATA, help="folder of sequences (default: %(default)s)")
    parser.add_argument("--quick", action="store_true", help="half the size, at most 28 frames a sequence")
    parser.add_argument("--limit", type=int, help="only the first so many sequences")
    parser.add_argument("--processes", type=int, default=2)
    options = parser.parse_args()
    report(options.data, options.quick, options.limit, options.processes)


if __name__ == "__main__":
    main()
