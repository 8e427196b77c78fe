"""What ``benchmarks.sam2`` measures: seconds, encoder calls, peak memory and what 16-bit numbers change."""

from __future__ import annotations

import ctypes
import gc
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from operator import truediv
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import psutil
import torch

from benchmarks.sam2_random import random_official_predictor
from benchmarks.sam2_rivals import Answer, CvatTracker, OfficialPredictor, encoder_calls
from benchmarks.speed import HEIGHT, WIDTH, MovingDisks
from labelprop_cvat.propagation.frames import ArraySource, FrameSource
from labelprop_cvat.propagation.metrics import jaccard
from labelprop_cvat.propagation.propagator import Propagator, get_propagator
from labelprop_cvat.propagation.sam2.engine import make_sam2
from labelprop_cvat.propagation.types import Prompt, Segment

MODEL = "sam2.1_hiera_tiny"
LAYOUTS = {
    "frame 0": "every object on frame 0",
    "spread": "every object on one frame of its own, none of them near the ends",
    "several": "every object on the same three frames, none of them near the ends",
}
OFFICIAL = "official"
OFFICIAL_LEAST = "official, least work"
CVAT_SINGLE = "CVAT's tracker, object by object"
CVAT_TOGETHER = "CVAT's tracker, a frame's objects at once"
OURS = "labelprop"
OURS_OFFICIAL = 'labelprop, semantics="official"'
OURS_COMPILED = "labelprop, compile=True"
OUR_OPTIONS: dict[str, dict[str, Any]] = {
    OURS: {},
    OURS_OFFICIAL: {"semantics": "official"},
    OURS_COMPILED: {"compile": True},
    'labelprop, dtype="bfloat16"': {"dtype": "bfloat16"},
    "labelprop, int8=True": {"int8": True},
}
"""Options of our engine by the name of the way."""
WAYS = (OFFICIAL, OFFICIAL_LEAST, CVAT_SINGLE, CVAT_TOGETHER, OURS, OURS_OFFICIAL)
MEMORY_WAYS = (OFFICIAL, CVAT_TOGETHER, OURS)

_SAMPLE_SECONDS = 0.005


@dataclass(frozen=True)
class Setup:
    """What to measure.

    Args:
        device: ``"cpu"`` or a CUDA device
        image_size: side in pixels of the square that frames are scaled to
        frames: length of the video
        objects: numbers of objects
        layouts: some of :data:`LAYOUTS`
        repeats: how many turns count, in each of which every way runs once
        ways: some of :data:`WAYS`, the official one among them, and :data:`OUR_OPTIONS`
        memory_frames: lengths of the videos of the memory table; none leaves it out
        memory_objects: numbers of objects of the memory table
        size: ``(height, width)`` of the frames
    """

    device: str
    image_size: int
    frames: int
    objects: tuple[int, ...]
    layouts: tuple[str, ...] = tuple(LAYOUTS)
    repeats: int = 3
    ways: tuple[str, ...] = WAYS
    memory_frames: tuple[int, ...] = ()
    memory_objects: tuple[int, ...] = (1,)
    size: tuple[int, int] = (HEIGHT, WIDTH)


class Way(Protocol):
    """One way to run SAM 2 over a video."""

    def run(self, frames: FrameSource, prompts: Sequence[Prompt]) -> Iterator[Answer]:
        """Yields what it answers, object by object and frame by frame, in any order."""
        ...


class OurEngine:
    """The engine ``sam2`` with its options, its weights loaded."""

    def __init__(self, **options: Any) -> None:
        engine: Any = get_propagator("sam2", **options)
        engine.load()
        self._engine: Propagator = engine

    def run(self, frames: FrameSource, prompts: Sequence[Prompt]) -> Iterator[Answer]:
        """Yields every object on every frame; None where it is not visible."""
        numbers = sorted({prompt.object_id for prompt in prompts})
        for result in self._engine.propagate(frames, prompts, Segment(0, len(frames))):
            for number in numbers:
                state = result.objects.get(number)
                yield result.frame, number, state.mask if state is not None else None


@dataclass(frozen=True)
class Row:
    """One way on one video.

    Args:
        objects: number of objects
        layout: where the prompts are
        way: its name
        seconds: a frame of the video, the shortest of the turns
        ratio: how many times as fast as the official predictor, median over the turns
        cpu_seconds: of all processors, a frame of the video, the shortest of the turns
        cpu_ratio: as ``ratio``, of the seconds of the processors, which other programs disturb less
        least_ratio: as ``cpu_ratio``, beside the official predictor's least work; None where there is no difference
        encoded: images through the encoder, a frame of the video; None where they can't be counted
        answered: share of all frames of all objects that it says anything about
        gpu_mebibytes: peak memory on the GPU, weights included; None elsewhere
        disturbed: share of the processors that other programs took meanwhile, at most
    """

    objects: int
    layout: str
    way: str
    seconds: float
    ratio: float
    cpu_seconds: float
    cpu_ratio: float
    least_ratio: float | None
    encoded: float | None
    answered: float
    gpu_mebibytes: float | None
    disturbed: float


@dataclass(frozen=True)
class _Run:
    """One run of one way.

    Args:
        seconds: of the clock
        cpu_seconds: of all processors for this process
        encoded: images that went through the encoder; 0 where they can't be counted
        answered: frames that were answered, summed over the objects
        disturbed: share of the processors that other programs took
        gpu_mebibytes: peak memory; None without a GPU
    """

    seconds: float
    cpu_seconds: float
    encoded: int
    answered: int
    disturbed: float
    gpu_mebibytes: float | None


@dataclass(frozen=True)
class Equality:
    """How far apart two runs of our engine are.

    Args:
        mean_iou: of the masks at a quarter of the image size, over all frames that were not prompted and all objects
        least_iou: the smallest of them
        logits: the largest difference of two mask logits
    """

    mean_iou: float
    least_iou: float
    logits: float


def make_ways(names: Collection[str], setup: Setup, checkpoint: Path) -> dict[str, Way]:
    """Ways by their names, all with the weights that the checkpoint has.

    Args:
        names: some of :data:`WAYS` and :data:`OUR_OPTIONS`
        setup: device and image size
        checkpoint: written by :func:`~benchmarks.sam2_random.random_checkpoint` with its defaults
    """
    ours: dict[str, Any] = {"checkpoint": checkpoint, "image_size": setup.image_size, "device": setup.device}
    ways: dict[str, Way] = {}
    predictor = None if set(names) <= set(OUR_OPTIONS) else _official_predictor(setup)
    for name in names:
        if name in OUR_OPTIONS:
            ways[name] = OurEngine(**ours, **OUR_OPTIONS[name])
        elif name in (OFFICIAL, OFFICIAL_LEAST):
            ways[name] = OfficialPredictor(predictor, turn_back="last" if name == OFFICIAL else "first")
        else:
            ways[name] = CvatTracker(predictor, together=name == CVAT_TOGETHER)
    return ways


def layout_prompts(frames: MovingDisks, layout: str) -> list[Prompt]:
    """The masks that are given; ``layout`` is one of :data:`LAYOUTS`."""
    last = len(frames) - 1
    if layout == "frame 0":
        return frames.prompts(0)
    if layout == "several":
        places = sorted({round(last * share) for share in (0.2, 0.5, 0.8)})
        return [prompt for place in places for prompt in frames.prompts(place)]
    own = [round(place) for place in np.linspace(0.2 * last, 0.8 * last, len(frames.prompts(0)) + 2)[1:-1]]
    return [p for number, place in enumerate(own, 1) for p in frames.prompts(place) if p.object_id == number]


def measured_rows(ways: Mapping[str, Way], setup: Setup, objects: int, layout: str) -> list[Row]:
    """Runs every way ``setup.repeats`` times, in turns, and before that once to warm up, on a GPU with all frames.

    Ratios are taken within a turn, whose runs had the machine in about the same state.
    """
    disks = MovingDisks(setup.frames, objects, setup.size)
    frames = ArraySource([disks[index] for index in range(len(disks))])
    prompts = layout_prompts(disks, layout)
    # From frame 0 there is no way back: the official predictor has one way only.
    names = [name for name in ways if name != OFFICIAL_LEAST or layout != "frame 0"]
    warming = MovingDisks(2, objects, setup.size)
    for name in names:
        warm = (warming, warming.prompts(0)) if setup.device == "cpu" else (frames, prompts)
        _run(ways[name].run(*warm), setup.device)
    turns = []
    for turn in range(setup.repeats):
        # What runs first finds other caches than what runs last.
        first = turn % len(names)
        turns.append({n: _run(ways[n].run(frames, prompts), setup.device) for n in names[first:] + names[:first]})
    seconds = {name: [turn[name].seconds / len(frames) for turn in turns] for name in names}
    cpu = {name: [turn[name].cpu_seconds / len(frames) for turn in turns] for name in names}
    return [
        Row(
            objects,
            layout,
            name,
            min(seconds[name]),
            statistics.median(map(truediv, seconds[OFFICIAL], seconds[name])),
            min(cpu[name]),
            statistics.median(map(truediv, cpu[OFFICIAL], cpu[name])),
            statistics.median(map(truediv, cpu[OFFICIAL_LEAST], cpu[name])) if OFFICIAL_LEAST in cpu else None,
            turns[0][name].encoded / len(frames) or None,
            turns[0][name].answered / (len(frames) * objects),
            turns[0][name].gpu_mebibytes,
            max(turn[name].disturbed for turn in turns),
        )
        for name in names
    ]


def peak_mebibytes(way: str, length: int, objects: int, setup: Setup, checkpoint: Path) -> float:
    """Peak resident memory of a fresh process over what it holds once the model has run on three frames.

    Args:
        way: one of :data:`MEMORY_WAYS`
        length: number of frames, of which the first and the last are exemplars; made as they are read
        objects: number of objects
        setup: device and image size
        checkpoint: as in :func:`make_ways`
    """
    command = [sys.executable, "-m", "benchmarks.sam2", "--memory-of", way, "--checkpoint", str(checkpoint)]
    command += ["--frames", str(length), "--objects", str(objects), "--image-size", str(setup.image_size)]
    answer = subprocess.run(
        [*command, "--device", setup.device], check=True, stdout=subprocess.PIPE, text=True, timeout=3600
    )
    return float(answer.stdout)


def own_peak_mebibytes(way: str, length: int, objects: int, setup: Setup, checkpoint: Path) -> float:
    """What :func:`peak_mebibytes` asks a fresh process for."""
    size = (HEIGHT // 2, WIDTH // 2)
    chosen = make_ways([way], setup, checkpoint)[way]
    for count in (3, length):
        frames = MovingDisks(count, objects, size)
        prompts = [*frames.prompts(0), *frames.prompts(count - 1)]
        _let_go_of_free_memory()
        with _peak_memory() as peak:
            for _ in chosen.run(frames, prompts):
                pass
    return peak[0] / 2**20


def _let_go_of_free_memory() -> None:
    """What was used to load a model must not hide what is used afterwards."""
    gc.collect()
    if sys.platform == "linux" and hasattr(libc := ctypes.CDLL(None), "malloc_trim"):
        libc.malloc_trim(0)


def equality(setup: Setup, checkpoint: Path, objects: int, compiled: bool = False) -> Equality:
    """What 16-bit numbers, and compiling, change in what our engine sees; prompts on frame 0."""
    disks = MovingDisks(setup.frames, objects, setup.size)
    frames = ArraySource([disks[index] for index in range(len(disks))])
    exact = _logits(frames, disks.prompts(0), setup, checkpoint, dtype="float32")
    halved = _logits(frames, disks.prompts(0), setup, checkpoint, dtype="bfloat16", compile=compiled)
    overlaps = [jaccard(halved[at] > 0, logits > 0) for at, logits in exact.items()]
    differences = [float(np.abs(halved[at] - logits).max()) for at, logits in exact.items()]
    return Equality(statistics.fmean(overlaps), min(overlaps), max(differences))


def _logits(
    frames: FrameSource, prompts: Sequence[Prompt], setup: Setup, checkpoint: Path, **options: Any
) -> dict[tuple[int, int], Any]:
    """Mask logits of every pass forward, by frame and object; arrays of shape ``(S/4, S/4)``."""
    engine = make_sam2(checkpoint=checkpoint, image_size=setup.image_size, device=setup.device, **options)
    with _all_bits():
        return {
            (known.frame, number): sighting.forward.logits
            for known in engine.sightings(frames, prompts, Segment(0, len(frames)))
            for number, sighting in known.sightings.items()
            if sighting.forward is not None
        }


@contextmanager
def _peak_memory() -> Iterator[list[float]]:
    """Watches the resident memory of this process; the list holds its growth in bytes at most."""
    process = psutil.Process()
    before = process.memory_info().rss
    growth = [0.0]
    done = threading.Event()

    def watch() -> None:
        while not done.wait(_SAMPLE_SECONDS):
            growth[0] = max(growth[0], process.memory_info().rss - before)

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        yield growth
    finally:
        done.set()
        watcher.join()


@contextmanager
def _all_bits() -> Iterator[None]:
    """No TF32: 32-bit numbers keep their bits on a GPU too."""
    before = torch.backends.cudnn.allow_tf32, torch.get_float32_matmul_precision()
    torch.backends.cudnn.allow_tf32 = False
    torch.set_float32_matmul_precision("highest")
    try:
        yield
    finally:
        torch.backends.cudnn.allow_tf32 = before[0]
        torch.set_float32_matmul_precision(before[1])


def _run(answers: Iterator[Answer], device: str) -> _Run:
    """Takes all answers."""
    gc.collect()
    synchronize: Callable[[], object] = torch.cuda.synchronize if device != "cpu" else _nothing
    synchronize()
    if device != "cpu":
        torch.cuda.reset_peak_memory_stats()
    started, busy, own = time.perf_counter(), _busy_seconds(), time.process_time()
    with encoder_calls() as calls:
        answered = {(frame, number) for frame, number, _ in answers}
        synchronize()
    seconds, cpu_seconds = time.perf_counter() - started, time.process_time() - own
    disturbed = max(0.0, (_busy_seconds() - busy - cpu_seconds) / seconds / (psutil.cpu_count() or 1))
    peak = torch.cuda.max_memory_allocated() / 2**20 if device != "cpu" else None
    return _Run(seconds, cpu_seconds, sum(calls), len(answered), disturbed, peak)


def _busy_seconds() -> float:
    """What all processors have worked so far, for whomever."""
    times = psutil.cpu_times()
    return float(times.user + times.system + getattr(times, "nice", 0.0) + getattr(times, "steal", 0.0))


def _nothing() -> None:
    pass


def _official_predictor(setup: Setup) -> Any:
    predictor = random_official_predictor(image_size=setup.image_size, model=MODEL)
    if setup.device != "cpu":
        # It is mended for 32-bit numbers; under autocast that would only cost time.
        vars(predictor.memory_attention).pop("forward", None)
    return predictor.to(setup.device)
