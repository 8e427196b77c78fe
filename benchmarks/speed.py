"""``python -m benchmarks.speed``: milliseconds per frame and peak memory of ``flow``, on frames made as they are read.

Speed is told as a ratio to a plain DIS warp of the same frames in the same process, because machines differ.
Memory is the peak of a process of its own for each length.
"""

from __future__ import annotations

import argparse
import resource
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt

from labelprop_cvat.propagation._workers import available_threads
from labelprop_cvat.propagation.frames import ArraySource
from labelprop_cvat.propagation.propagator import get_propagator
from labelprop_cvat.propagation.types import ObjectMask, Prompt, Segment

WIDTH, HEIGHT = 854, 480
OBJECTS = (1, 3, 10)
LENGTHS = (100, 1000)

Image = npt.NDArray[np.uint8]


class MovingDisks:
    """Textured ellipses on a slowly moving textured ground, made when asked for.

    Args:
        length: number of frames
        objects: number of ellipses
        size: ``(height, width)``
    """

    def __init__(self, length: int, objects: int, size: tuple[int, int] = (HEIGHT, WIDTH)) -> None:
        self.size = size
        self._length = length
        noise = np.random.default_rng(0)
        self._ground = _texture(noise, size[0] + 64, size[1] + 64)
        radius = size[0] // 6 if objects < 4 else size[0] // 12
        self._radius = radius
        self._skins = [_texture(noise, 2 * radius, 2 * radius) for _ in range(objects)]
        self._starts = noise.uniform(
            (2 * radius, 2 * radius), (size[1] - 2 * radius, size[0] - 2 * radius), (objects, 2)
        )
        self._phases = noise.uniform(0, 2 * np.pi, objects)
        self._shape = np.zeros((2 * radius, 2 * radius), np.uint8)
        cv2.ellipse(self._shape, (radius, radius), (radius - 2, int(radius * 0.7)), 0, 0, 360, 1, -1)

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, index: int) -> Image:
        shift = int(16 + 15 * np.sin(index / 40))
        image = self._ground[shift : shift + self.size[0], shift : shift + self.size[1]].copy()
        for number, skin in enumerate(self._skins):
            x, y = self._corner(number, index)
            part = image[y : y + 2 * self._radius, x : x + 2 * self._radius]
            part[self._shape > 0] = skin[self._shape > 0]
        return image

    def read(self, start: int, stop: int, step: int = 1) -> Iterator[tuple[int, Image]]:
        """Yields ``(index, frame)`` for ``range(start, stop, step)``."""
        for index in range(start, stop, step):
            yield index, self[index]

    def prompts(self, frame: int) -> list[Prompt]:
        """Every object's mask on a frame; objects may overlap."""
        corners = [self._corner(number, frame) for number in range(len(self._skins))]
        masks = [ObjectMask.from_crop(x, y, self._shape) for x, y in corners]
        return [Prompt(frame, number, mask=mask) for number, mask in enumerate(masks, 1) if mask is not None]

    def _corner(self, number: int, frame: int) -> tuple[int, int]:
        angle = self._phases[number] + frame / 15
        x, y = self._starts[number] + self._radius * 0.8 * np.array([np.sin(angle), np.cos(angle)]) - self._radius
        return int(x), int(y)


def report(quick: bool = False) -> None:
    """Prints both tables."""
    span = 11
    print(f"\nflow at {WIDTH}x{HEIGHT}, exemplars on both sides of {span - 2} frames")
    print("objects   threads   ms/frame   ratio to a plain DIS warp")
    for objects in OBJECTS[:2] if quick else OBJECTS:
        frames = MovingDisks(span, objects)
        for threads in sorted({1, available_threads()}):
            warp, flow = plain_warp_seconds(frames), flow_seconds(frames, threads)
            print(f"{objects:<10}{threads:<10}{1000 * flow:<11.0f}{flow / warp:.1f}", flush=True)
    print(f"\npeak memory of a process at {WIDTH // 2}x{HEIGHT // 2}, one object, exemplars at both ends")
    print("frames    MiB")
    for length in (20, 60) if quick else LENGTHS:
        print(f"{length:<10}{peak_mebibytes(length):.0f}", flush=True)


def plain_warp_seconds(frames: MovingDisks) -> float:
    """Seconds per frame of the simplest thing that works: DIS flow from frame to frame, masks warped backwards."""
    engine = cv2.DISOpticalFlow_create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)  # type: ignore[attr-defined]
    height, width = frames.size
    x, y = np.meshgrid(np.arange(width, dtype=np.float32), np.arange(height, dtype=np.float32))
    masks = [p.mask.to_full(frames.size).astype(np.float32) for p in frames.prompts(0) if p.mask is not None]
    images = [frames[index] for index in range(len(frames))]
    started = time.perf_counter()
    before = cv2.cvtColor(images[0], cv2.COLOR_RGB2GRAY)
    for image in images[1:]:
        grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
        back = engine.calc(grey, before, None)
        at = x + back[..., 0], y + back[..., 1]
        masks = [np.asarray(cv2.remap(mask, *at, cv2.INTER_LINEAR), dtype=np.float32) for mask in masks]
        before = grey
    return (time.perf_counter() - started) / (len(images) - 1)


def flow_seconds(frames: MovingDisks, threads: int) -> float:
    """Seconds per frame of ``flow`` between two exemplars, on frames that are made already."""
    prompts = [*frames.prompts(0), *frames.prompts(len(frames) - 1)]
    made = ArraySource([frames[index] for index in range(len(frames))])
    started = time.perf_counter()
    for _ in get_propagator("flow", threads=threads).propagate(made, prompts, Segment(0, len(frames))):
        pass
    return (time.perf_counter() - started) / (len(frames) - 2)


def peak_mebibytes(length: int) -> float:
    """Peak resident memory of a fresh process that propagates one gap of that length."""
    command = [sys.executable, "-m", "benchmarks.speed", "--memory-of", str(length)]
    answer = subprocess.run(command, check=True, capture_output=True, text=True)
    return float(answer.stdout)


def _propagate_and_print_memory(length: int) -> None:
    frames = MovingDisks(length, 1, (HEIGHT // 2, WIDTH // 2))
    prompts = [*frames.prompts(0), *frames.prompts(length - 1)]
    for _ in get_propagator("flow").propagate(frames, prompts, Segment(0, length)):
        pass
    print(_peak_mebibytes_so_far())


def _peak_mebibytes_so_far() -> float:
    status = Path("/proc/self/status")
    if status.is_file():
        # Linux counts the memory of the process that started this one into ru_maxrss.
        return int(status.read_text().split("VmHWM:")[1].split()[0]) / 2**10
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (2**20 if sys.platform == "darwin" else 2**10)


def _texture(noise: np.random.Generator, height: int, width: int) -> Image:
    coarse = noise.integers(0, 255, (height // 8 + 1, width // 8 + 1, 3)).astype(np.uint8)
    return np.ascontiguousarray(cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC), dtype=np.uint8)


def main() -> None:
    """Command line of this benchmark."""
    parser = argparse.ArgumentParser(prog="benchmarks.speed", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="fewer objects and frames")
    parser.add_argument("--memory-of", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.memory_of:
        _propagate_and_print_memory(options.memory_of)
    else:
        report(options.quick)


if __name__ == "__main__":
    main()
