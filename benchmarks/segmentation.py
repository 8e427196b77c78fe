"""``python -m benchmarks.segmentation``: cuts, fades and dissolves found, missed and imagined by every method.

Data is a folder of sequences, ``NAME/frames/*.jpg``, each a single shot, unless its ``meta.json`` names ``cuts``: those
are checked as they are. Films are made from the single shots: part of one, a transition, part of another, at 320x180.
Everything is drawn from one seed.

A hard cut counts as found where it is exact (0) or at most 2 frames off (2); a fade or dissolve where the cut lies
between its first mixed frame and the first clean one, or at most 2 frames outside. What is left over is false.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from itertools import product
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from benchmarks.quality import DEFAULT_DATA
from labelprop_cvat.propagation.frames import ArraySource, ImageSequenceSource, read_image
from labelprop_cvat.propagation.segments import Segmentation, score_frames

Frames = npt.NDArray[np.uint8]
Truth = tuple[int, int]

METHODS = ("heuristic", "adaptive", "content", "histogram", "hash")
KINDS = ("cut", "dissolve", "fade")
SIZE = (320, 180)
SEED = 5
FILMS = {"cut": 4, "dissolve": 4, "fade": 3}
CONDITION_FILMS = {"cut": 1, "dissolve": 1, "fade": 1}

# What leave-one-out chooses from.
GRIDS: Mapping[str, Mapping[str, Sequence[float]]] = {
    "heuristic": {"threshold": (0.3, 0.4, 0.5, 0.6, 0.8), "gradual": (0.2, 0.35, 0.5, 0.65, 0.8)},
    "adaptive": {"threshold": (2.0, 2.5, 3.0, 3.5, 4.0), "minimum_change": (8.0, 10.0, 12.0, 15.0, 20.0)},
    "content": {"threshold": (18.0, 22.0, 27.0, 32.0, 40.0, 50.0)},
    "histogram": {"threshold": (0.1, 0.15, 0.2, 0.3, 0.4, 0.5)},
    "hash": {"threshold": (0.25, 0.3, 0.35, 0.4, 0.45)},
}


@dataclass(frozen=True)
class Recipe:
    """How to make a film: two shots and what comes between them, or one shot, and what spoils it."""

    first: str
    second: str = ""
    kind: str = ""
    seed: int = SEED
    condition: str = ""


@dataclass(frozen=True)
class Film:
    """Some frames and what is known of them.

    Args:
        shots: names of the sequences that it was made of, one or two
        kind: the transition between them; empty for a single shot
        truth: first mixed frame and first clean frame of each transition; twice the same number for a hard cut
        frames: array of shape ``(n, 180, 320, 3)``, uint8, RGB
    """

    shots: tuple[str, ...]
    kind: str
    truth: tuple[Truth, ...]
    frames: Frames


@dataclass(frozen=True)
class Count:
    """Transitions found within a tolerance, transitions in all, and cuts that are none."""

    found: int = 0
    known: int = 0
    false: int = 0

    def __add__(self, other: Count) -> Count:
        return Count(self.found + other.found, self.known + other.known, self.false + other.false)

    @property
    def recall(self) -> float:
        return self.found / self.known if self.known else 1.0

    @property
    def precision(self) -> float:
        return self.found / (self.found + self.false) if self.found + self.false else 1.0

    @property
    def f1(self) -> float:
        both = 2 * self.found + self.false + (self.known - self.found)
        return 2 * self.found / both if both else 1.0


@dataclass(frozen=True)
class Watched:
    """A film without its frames, and what each method measured on it."""

    shots: tuple[str, ...]
    kind: str
    truth: tuple[Truth, ...]
    found: Mapping[str, Segmentation]


def report(data: Path, *, quick: bool = False, processes: int = 2) -> None:
    """Prints the tables; says so when there is no data.

    Args:
        data: folder of sequences
        quick: a third of the films, and no spoiled ones
        processes: how many films to watch side by side
    """
    names = [folder.name for folder in _single_folders(data)]
    if len(names) < 3:
        print(f"{len(names)} single shots in {data}: films need three or more. Name a folder with --data.")
        return
    with ProcessPoolExecutor(processes) as pool:
        films = list(pool.map(partial(watch, data), recipes(names, CONDITION_FILMS if quick else FILMS, SEED)))
        singles = list(pool.map(partial(watch, data), map(Recipe, names)))
        _print_methods(films, singles, _speeds(data))
        _print_left_out(films, singles)
        if not quick:
            _print_conditions(data, names, pool)
    _print_known(data)


@lru_cache(maxsize=32)
def single_shot(folder: Path) -> Frames:
    """The frames of a sequence, cropped and scaled to 320x180."""
    return np.stack([_fitted(read_image(path)) for path in sorted((folder / "frames").glob("*"))])


def _single_folders(data: Path) -> list[Path]:
    return sorted(path for path in data.glob("*/") if (path / "frames").is_dir() and not known_cuts(path))


def known_cuts(folder: Path) -> list[int]:
    """The cuts that a sequence's ``meta.json`` names."""
    meta = folder / "meta.json"
    return list(json.loads(meta.read_text()).get("cuts", [])) if meta.is_file() else []


def recipes(names: Sequence[str], numbers: Mapping[str, int], seed: int) -> list[Recipe]:
    """Films of two shots: for every sequence so many of each kind that begin with it."""
    rng = np.random.default_rng(seed)
    return [
        Recipe(first, str(rng.choice([name for name in names if name != first])), kind, int(rng.integers(2**31)))
        for first, (kind, number) in product(names, numbers.items())
        for _ in range(number)
    ]


def make_film(data: Path, recipe: Recipe) -> Film:
    """Follows a recipe."""
    rng = np.random.default_rng(recipe.seed)
    if recipe.second:
        before, after = (_part(single_shot(data / name), rng) for name in (recipe.first, recipe.second))
        frames, truth = _JOINS[recipe.kind](before, after, rng)
        film = Film((recipe.first, recipe.second), recipe.kind, (truth,), frames)
    else:
        film = Film((recipe.first,), "", (), single_shot(data / recipe.first))
    return CONDITIONS[recipe.condition](film, rng) if recipe.condition else film


def _part(frames: Frames, rng: np.random.Generator) -> Frames:
    length = int(rng.integers(min(25, len(frames)), min(45, len(frames)) + 1))
    start = int(rng.integers(0, len(frames) - length + 1))
    return frames[start : start + length]


def _cut(before: Frames, after: Frames, rng: np.random.Generator) -> tuple[Frames, Truth]:
    return np.concatenate([before, after]), (len(before), len(before))


def _dissolve(before: Frames, after: Frames, rng: np.random.Generator) -> tuple[Frames, Truth]:
    length = int(rng.integers(6, 21))
    share = ((np.arange(length) + 1) / (length + 1))[:, None, None, None]
    mixed = _rounded(before[-length:] * (1 - share) + after[:length] * share)
    start = len(before) - length
    return np.concatenate([before[:start], mixed, after[length:]]), (start, start + length)


def _fade(before: Frames, after: Frames, rng: np.random.Generator) -> tuple[Frames, Truth]:
    """Through black, 3 to 12 frames down and as many up, with 0 to 5 black ones between."""
    length, black = int(rng.integers(3, 13)), int(rng.integers(0, 6))
    share = ((np.arange(length) + 1) / (length + 1))[:, None, None, None]
    parts = [
        before[:-length],
        _rounded(before[-length:] * (1 - share)),
        np.zeros((black, *before.shape[1:]), np.uint8),
        _rounded(after[:length] * share),
        after[length:],
    ]
    return np.concatenate(parts), (len(before) - length, len(before) + black + length)


_JOINS: Mapping[str, Callable[[Frames, Frames, np.random.Generator], tuple[Frames, Truth]]] = {
    "cut": _cut,
    "dissolve": _dissolve,
    "fade": _fade,
}


def watch(data: Path, recipe: Recipe) -> Watched:
    """All methods, with their defaults, over one film."""
    cv2.setNumThreads(1)
    film = make_film(data, recipe)
    source = ArraySource(film.frames)
    return Watched(film.shots, film.kind, film.truth, {name: score_frames(source, name) for name in METHODS})


def count(cuts: Sequence[int], truth: Iterable[Truth], tolerance: int) -> Count:
    """Gives every transition at most one cut: of those near enough, the one nearest to its middle."""
    left, found, known = list(cuts), 0, 0
    for start, stop in truth:
        known += 1
        near = [cut for cut in left if start - tolerance <= cut <= stop + tolerance]
        if near:
            found += 1
            left.remove(min(near, key=lambda cut: abs(cut - (start + stop) / 2)))
    return Count(found, known, len(left))


# --- conditions ----------------------------------------------------------------------------------------------------


def _gray(film: Film, rng: np.random.Generator) -> Film:
    return _changed(film, lambda frame: np.repeat(cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY)[..., None], 3, 2))


def _small(film: Film, rng: np.random.Generator) -> Film:
    return _changed(film, lambda frame: cv2.resize(frame, (64, 36), interpolation=cv2.INTER_AREA))


def _dark(film: Film, rng: np.random.Generator) -> Film:
    return _changed(film, lambda frame: _rounded(frame * 0.35))


def _noisy(film: Film, rng: np.random.Generator) -> Film:
    return _changed(film, lambda frame: _rounded(frame + rng.normal(0, 15, frame.shape)))


def _letterbox(film: Film, rng: np.random.Generator) -> Film:
    def boxed(frame: Frames) -> Frames:
        inside = cv2.resize(frame, (320, 126), interpolation=cv2.INTER_AREA)
        return np.pad(np.asarray(inside, np.uint8), ((27, 27), (0, 0), (0, 0)))

    return _changed(film, boxed)


def _flicker(film: Film, rng: np.random.Generator) -> Film:
    return _changed(film, lambda frame: _rounded(frame * rng.uniform(0.85, 1.15)))


def _flashes(film: Film, rng: np.random.Generator) -> Film:
    lit = {int(at) + more for at in rng.integers(3, len(film.frames) - 4, 3) for more in range(int(rng.integers(1, 4)))}
    frames = [_rounded(f * 1.2 + 110) if index in lit else f for index, f in enumerate(film.frames)]
    return Film(film.shots, film.kind, film.truth, np.stack(frames))


def _brighter(film: Film, rng: np.random.Generator) -> Film:
    """From one frame to the next 1.6 times the light, a fifth into the film, and back a fifth before its end."""
    gain = np.ones(len(film.frames))
    for at in (len(gain) // 5, 4 * len(gain) // 5):
        gain[at:] *= 1.6 if gain[at] == 1 else 1 / 1.6
    return Film(film.shots, film.kind, film.truth, _rounded(film.frames * gain[:, None, None, None]))


def _picked(film: Film, order: Sequence[int]) -> Film:
    """Some frames of a film, in ascending order, perhaps several times."""
    truth = tuple((int(np.searchsorted(order, start)), int(np.searchsorted(order, stop))) for start, stop in film.truth)
    return Film(film.shots, film.kind, truth, film.frames[list(order)])


def _fast(film: Film, rng: np.random.Generator) -> Film:
    return _picked(film, range(0, len(film.frames), 2))


def _doubled(film: Film, rng: np.random.Generator) -> Film:
    return _picked(film, [int(n) for n in np.repeat(np.arange(len(film.frames)), rng.integers(1, 4, len(film.frames)))])


def _dropped(film: Film, rng: np.random.Generator) -> Film:
    kept = rng.random(len(film.frames)) < 0.75
    return _picked(film, [int(n) for n in np.flatnonzero(kept)])


CONDITIONS: Mapping[str, Callable[[Film, np.random.Generator], Film]] = {
    "as they are": lambda film, rng: film,
    "gray": _gray,
    "64x36 pixels": _small,
    "dark (35 %)": _dark,
    "noise (15 levels)": _noisy,
    "letterbox": _letterbox,
    "flicker (15 %)": _flicker,
    "flashes": _flashes,
    "exposure x 1.6": _brighter,
    "twice as fast": _fast,
    "frames doubled": _doubled,
    "frames dropped": _dropped,
}


def _changed(film: Film, change: Callable[[Frames], npt.NDArray[np.uint8] | cv2.typing.MatLike]) -> Film:
    frames = np.stack([np.asarray(change(frame), np.uint8) for frame in film.frames])
    return Film(film.shots, film.kind, film.truth, frames)


def _rounded(values: npt.NDArray[np.floating]) -> Frames:
    return np.asarray(np.clip(np.rint(values), 0, 255), np.uint8)


def _fitted(frame: Frames) -> Frames:
    """A frame's middle at 320x180."""
    height, width = frame.shape[:2]
    scale = max(SIZE[0] / width, SIZE[1] / height)
    scaled = (round(width * scale), round(height * scale))
    small = np.asarray(cv2.resize(frame, scaled, interpolation=cv2.INTER_AREA), np.uint8)
    left, top = (scaled[0] - SIZE[0]) // 2, (scaled[1] - SIZE[1]) // 2
    return small[top : top + SIZE[1], left : left + SIZE[0]]


# --- tables --------------------------------------------------------------------------------------------------------


def _counted(films: Iterable[Watched], method: str, tolerance: int) -> Count:
    return sum((count(film.found[method].cuts, film.truth, tolerance) for film in films), Count())


def _print_methods(films: Sequence[Watched], singles: Sequence[Watched], speeds: Mapping[str, float]) -> None:
    of = {kind: [film for film in films if film.kind == kind] for kind in KINDS}
    transitions = ", ".join(f"{len(of[kind])} {name}" for kind, name in zip(KINDS, _NAMES, strict=True))
    frames = sum(len(film.found["heuristic"].scores["change"]) for film in singles)
    print(f"\nTransitions: {transitions}. Single shots: {len(singles)}, {frames} frames. Found at 0 / 2 frames, in %.")
    print("| method | cuts | dissolves | fades | precision | recall | F1 | false cuts in single shots | time |")
    print("|---|---|---|---|---|---|---|---|---|")
    for method in METHODS:
        cells = [" / ".join(_percent(_counted(of[kind], method, t).recall) for t in (0, 2)) for kind in KINDS]
        counts = [_counted(films, method, tolerance) for tolerance in (0, 2)]
        for rate in ("precision", "recall", "f1"):
            cells.append(" / ".join(_percent(getattr(each, rate)) for each in counts))
        false = _counted(singles, method, 0).false
        print(f"| {method} | {' | '.join(cells)} | {false} | {speeds[method] / speeds['heuristic']:.1f} |")


_NAMES = ("hard cuts", "dissolves of 6 to 20 frames", "fades through black of 6 to 29 frames")


def _percent(value: float) -> str:
    return f"{100 * value:.0f}" if value in (0, 1) else f"{100 * value:.1f}"


def _speeds(data: Path, repeats: int = 3) -> dict[str, float]:
    """Seconds of processor time a frame and method, on frames of full size that are in memory; the best of some."""
    folder = next(path for path in sorted(data.glob("*/frames")))
    source = ArraySource([read_image(path) for path in sorted(folder.glob("*"))[:25]])
    best = dict.fromkeys(METHODS, float("inf"))
    threads = cv2.getNumThreads()
    cv2.setNumThreads(1)
    for _, method in product(range(repeats), METHODS):
        begin = time.process_time()
        score_frames(source, method)
        best[method] = min(best[method], (time.process_time() - begin) / len(source))
    cv2.setNumThreads(threads)
    height, width = source.size
    print(f"One core, {width}x{height}: " + ", ".join(f"{name} {1e3 * best[name]:.1f} ms a frame" for name in METHODS))
    return best


def _print_left_out(films: Sequence[Watched], singles: Sequence[Watched]) -> None:
    """Thresholds chosen on all films without a sequence, tried on those that begin with it."""
    print("\nF1 at 2 frames in %, single shots among the films: with the defaults, and with thresholds chosen on the")
    print("other sequences.")
    print("| method | defaults | chosen on the others | chosen on all | what was chosen |")
    print("|---|---|---|---|---|")
    names = sorted({film.shots[0] for film in films})
    everything = [*films, *singles]
    for method in METHODS:
        options: list[dict[str, Any]] = [
            dict(zip(GRIDS[method], values, strict=True)) for values in product(*GRIDS[method].values())
        ]
        table = [
            [count(film.found[method].recut(**choice).cuts, film.truth, 2) for film in everything] for choice in options
        ]
        held_out, choices = Count(), []
        for name in names:
            others = [n for n, film in enumerate(everything) if name not in film.shots]
            own = [n for n, film in enumerate(everything) if film.shots[0] == name]
            best = max(range(len(options)), key=partial(_f1_of, table, others))
            choices.append(best)
            held_out = sum((table[best][n] for n in own), held_out)
        every = range(len(everything))
        best = max(range(len(options)), key=partial(_f1_of, table, every))
        chosen = sorted({", ".join(f"{key} {value:g}" for key, value in options[n].items()) for n in choices})
        rates = (_counted(everything, method, 2).f1, held_out.f1, _f1_of(table, every, best))
        print(f"| {method} | {' | '.join(_percent(rate) for rate in rates)} | {'; '.join(chosen)} |")


def _f1_of(table: Sequence[Sequence[Count]], films: Iterable[int], choice: int) -> float:
    return sum((table[choice][film] for film in films), Count()).f1


def _print_conditions(data: Path, names: Sequence[str], pool: ProcessPoolExecutor) -> None:
    films = [*recipes(names, CONDITION_FILMS, SEED + 1), *map(Recipe, names)]
    print(
        f"\n{len(films) - len(names)} other films and the single shots, spoiled. F1 at 2 frames in %, + false cuts in"
    )
    print("single shots.")
    print(f"| frames | {' | '.join(METHODS)} |")
    print(f"|---|{'---|' * len(METHODS)}")
    for condition in CONDITIONS:
        spoiled = [replace(recipe, condition=condition) for recipe in films]
        watched = list(pool.map(partial(watch, data), spoiled))
        joined, alone = [w for w in watched if w.truth], [w for w in watched if not w.truth]
        cells = [f"{_percent(_counted(joined, m, 2).f1)} + {_counted(alone, m, 2).false}" for m in METHODS]
        print(f"| {condition} | {' | '.join(cells)} |", flush=True)


def _print_known(data: Path) -> None:
    for folder in sorted(path for path in data.glob("*/") if known_cuts(path)):
        source = ImageSequenceSource(sorted((folder / "frames").glob("*")))
        truth = [(cut, cut) for cut in known_cuts(folder)]
        print(f"\n{folder.name}, {len(truth)} hard cuts in {len(source)} frames:")
        for method in METHODS:
            exact = count(score_frames(source, method).cuts, truth, 0)
            print(f"  {method}: {exact.found} found exactly, {exact.false} false")


def main() -> None:
    """Runs the benchmark from the command line."""
    parser = argparse.ArgumentParser(prog="benchmarks.segmentation", description=__doc__)
    parser.add_argument("--data", type=Path, default=DEFAULT_DATA, help="folder of sequences")
    parser.add_argument("--quick", action="store_true", help="fewer films")
    parser.add_argument("--processes", type=int, default=2, help="films watched side by side (2)")
    options = parser.parse_args()
    report(options.data, quick=options.quick, processes=options.processes)


if __name__ == "__main__":
    main()
