"""``python -m benchmarks.sam2``: the engine ``sam2`` beside the official predictor and CVAT's published tracker.

All ways have the same seeded random weights, on which neither speed, memory nor numerical equality depend, and answer
the same frames in one process, in turns; machines differ, so look at the ratios. Peak memory is that of a process of
its own. ``--device cuda`` measures a GPU; ``--quality`` measures trained weights on footage with truth.
"""

from __future__ import annotations

import argparse
import dataclasses
import importlib.util
import platform
import sys
import tempfile
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import date
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

import psutil

from benchmarks import quality
from benchmarks.speed import HEIGHT, WIDTH
from labelprop_cvat.propagation.propagator import get_propagator

if TYPE_CHECKING:
    from benchmarks.sam2_measure import Row, Setup

RESULTS = Path(__file__).parent / "results"

_GPU_COLUMN = "GPU MiB"
_COLUMNS = {
    "objects": 7,
    "prompts": 7,
    "way": 41,
    "s/frame": 7,
    "x official": 10,
    "CPU s/frame": 11,
    "CPU x official": 14,
    "CPU x least work": 16,
    "encoder calls/frame": 19,
    "answered": 8,
    _GPU_COLUMN: 7,
}


def cpu_setup(quick: bool = False) -> Setup:
    """What is measured on the CPU: in about two minutes, or in about forty."""
    from benchmarks.sam2_measure import Setup

    if quick:
        return Setup("cpu", 256, 12, (1, 3), repeats=2, memory_frames=(20, 80))
    return Setup("cpu", 256, 20, (1, 3, 10), memory_frames=(50, 500), memory_objects=(1, 3))


def cuda_setup(quick: bool = False, device: str = "cuda") -> Setup:
    """What is measured on a GPU; without ``quick`` also compiled, which takes minutes to warm up."""
    from benchmarks.sam2_measure import OURS_COMPILED, WAYS, Setup

    if quick:
        return Setup(device, 1024, 30, (1, 10), ("frame 0", "spread"), repeats=2)
    return Setup(device, 1024, 60, (1, 3, 10, 20), ways=(*WAYS, OURS_COMPILED))


def report(quick: bool = False, setup: Setup | None = None) -> str:
    """Prints the tables; says so where SAM 2 is not installed.

    Args:
        quick: fewer objects, frames and repetitions
        setup: what to measure instead of the CPU's own tables

    Returns:
        what was printed, as Markdown
    """
    if any(importlib.util.find_spec(name) is None for name in ("torch", "sam2")):
        return _said("\nSAM 2 is not installed: nothing to measure of the engine 'sam2'. docs/sam2.md says how to.")
    from benchmarks.sam2_measure import MODEL
    from benchmarks.sam2_random import random_checkpoint

    setup = setup or cpu_setup(quick)
    parts: list[str] = []
    with tempfile.TemporaryDirectory(prefix="labelprop-sam2-") as folder, no_word_of_small_holes():
        checkpoint = random_checkpoint(Path(folder) / "random.pt", model=MODEL)
        if setup.layouts:
            parts += _speed_table(setup, checkpoint)
            if setup.device != "cpu":
                parts += _equality_table(setup, checkpoint)
        if setup.memory_frames:
            parts += _memory_table(setup, checkpoint)
    return "\n".join(parts)


def quality_report(data: Path, checkpoint: Path, image_size: int, device: str, limit: int | None = None) -> None:
    """Prints J and F of trained weights beside those of ``flow`` and ``hold`` on the same frames.

    Args:
        data: folder of sequences as :mod:`benchmarks.quality` describes them; those with masks count
        checkpoint: the weights
        image_size: side in pixels of the square that frames are scaled to
        device: where to run
        limit: only the first so many sequences
    """
    folders = quality.mask_folders(data)[:limit]
    if not folders:
        print(f"No sequences with masks in {data}: nothing to measure quality on. Name a folder with --data.")
        return
    engine = get_propagator("sam2", checkpoint=checkpoint, image_size=image_size, device=device)
    rows = [quality.mask_row(folder, "sam2", engine) for folder in folders]
    rows += [quality.mask_row(folder, name) for folder in folders for name in ("flow", "hold")]
    quality.print_masks(rows, ("sam2", "flow", "hold"))


def machine() -> str:
    """This machine and the versions of what ran, as a Markdown list."""
    import torch

    cores = psutil.cpu_count(logical=False) or psutil.cpu_count()
    memory = psutil.virtual_memory().total / 2**30
    lines = [
        f"- {_processor()}, {cores} cores, {torch.get_num_threads()} threads of PyTorch, {memory:.0f} GiB, "
        f"{platform.system()} {platform.machine()}"
    ]
    if torch.cuda.is_available():
        lines.append(f"- {torch.cuda.get_device_name()}, CUDA {torch.version.cuda}")
    packages = ("labelprop-cvat", "torch", "sam2", "numpy", "pillow")
    lines.append(f"- Python {platform.python_version()}, " + ", ".join(f"{name} {version(name)}" for name in packages))
    return "\n".join(lines)


def write(tables: str, folder: Path, device: str, command: Sequence[str]) -> Path:
    """Stores tables with the machine, the versions and the command that made them.

    Args:
        tables: what :func:`report` returned
        folder: where to, made if need be
        device: part of the file's name
        command: arguments of this program

    Returns:
        the file
    """
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"sam2-{device.partition(':')[0]}.md"
    head = f"# SAM 2 on {device}\n\n`python -m benchmarks.sam2 {' '.join(command)}`, {date.today()}\n\n{machine()}\n"
    path.write_text(head + tables + "\n", encoding="utf-8")
    return path


def _speed_table(setup: Setup, checkpoint: Path) -> list[str]:
    import torch

    from benchmarks.sam2_measure import LAYOUTS, MODEL, make_ways, measured_rows

    columns = [name for name in _COLUMNS if name != _GPU_COLUMN or setup.device != "cpu"]
    parts = [
        _said(
            f"\n{MODEL} with random weights at {setup.image_size} px on {setup.device}, {setup.frames} frames of "
            f"{setup.size[1]}x{setup.size[0]}, {torch.get_num_threads()} threads of PyTorch; ratios (x) above 1 are "
            "faster. Prompts: "
            + "; ".join(f"*{name}*, {LAYOUTS[name]}" for name in setup.layouts)
            + ". The official predictor goes forward from the first exemplar and backward from the last; its *least "
            "work*, which is its default, goes backward from the first one only.\n"
        ),
        _said(_line(columns) + "\n|" + "|".join("-" * (_COLUMNS[name] + 2) for name in columns) + "|"),
    ]
    ways = make_ways(setup.ways, setup, checkpoint)
    disturbed = 0.0
    for objects in setup.objects:
        for layout in setup.layouts:
            rows = measured_rows(ways, setup, objects, layout)
            parts += [_said(_cells(row)) for row in rows]
            disturbed = max(disturbed, *(row.disturbed for row in rows))
    parts.append(_said(f"\nOther programs took up to {100 * disturbed:.0f} % of the processors meanwhile."))
    return parts


def _cells(row: Row) -> str:
    return _line(
        [
            str(row.objects),
            row.layout,
            row.way,
            f"{row.seconds:.3f}" if row.seconds >= 0.1 else f"{row.seconds:.4f}",
            f"{row.ratio:.2f}",
            f"{row.cpu_seconds:.3f}",
            f"{row.cpu_ratio:.2f}",
            f"{row.least_ratio:.2f}" if row.least_ratio is not None else "",
            f"{row.encoded:.2f}" if row.encoded is not None else "",
            f"{100 * row.answered:.0f} %",
            *([] if row.gpu_mebibytes is None else [f"{row.gpu_mebibytes:.0f}"]),
        ]
    )


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cell.ljust(width) for cell, width in zip(cells, _COLUMNS.values(), strict=False)) + " |"


def _equality_table(setup: Setup, checkpoint: Path) -> list[str]:
    from benchmarks.sam2_measure import OURS_COMPILED, equality

    parts = [
        _said("\nOur engine with bfloat16 beside itself with float32, prompts on frame 0\n"),
        _said("| objects | compiled | mean IoU | least IoU | largest difference of logits |\n|---|---|---|---|---|"),
    ]
    for objects in setup.objects[:2]:
        for compiled in (False, True) if OURS_COMPILED in setup.ways else (False,):
            found = equality(setup, checkpoint, objects, compiled)
            numbers = f"{found.mean_iou:.4f} | {found.least_iou:.4f} | {found.logits:.3g}"
            parts.append(_said(f"| {objects} | {'yes' if compiled else 'no'} | {numbers} |"))
    return parts


def _memory_table(setup: Setup, checkpoint: Path) -> list[str]:
    from benchmarks.sam2_measure import MEMORY_WAYS, peak_mebibytes

    lengths = setup.memory_frames
    parts = [
        _said(
            f"\nPeak memory over the loaded model, in MiB, of a process each; {setup.image_size} px, frames of "
            f"{WIDTH // 2}x{HEIGHT // 2} made as they are read, the first and the last of them exemplars\n"
        ),
        _said(f"| objects | way | {' | '.join(f'{length} frames' for length in lengths)} |"),
        _said(f"|---|---|{'---:|' * len(lengths)}"),
    ]
    for objects in setup.memory_objects:
        for way in MEMORY_WAYS:
            peaks = [peak_mebibytes(way, length, objects, setup, checkpoint) for length in lengths]
            parts.append(_said(f"| {objects} | {way} | {' | '.join(f'{peak:.0f}' for peak in peaks)} |"))
    return parts


def _said(text: str) -> str:
    print(text, flush=True)
    return text


@contextmanager
def no_word_of_small_holes() -> Iterator[None]:
    """Keeps the official predictor from telling that its CUDA extension, which fills small holes, is not built."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=r"[\s\S]*Skipping the post-processing step")
        yield


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    names = [line for line in info.read_text().splitlines() if line.startswith("model name")] if info.exists() else []
    return names[0].partition(":")[2].strip() if names else platform.processor() or platform.machine()


def _chosen_setup(options: argparse.Namespace) -> Setup:
    chosen = cpu_setup(options.quick) if options.device == "cpu" else cuda_setup(options.quick, options.device)
    changes = {
        "image_size": options.image_size,
        "frames": options.frames,
        "objects": tuple(options.objects) if options.objects else None,
        "repeats": options.repeats,
        "ways": tuple(options.ways) if options.ways else None,
        "memory_frames": () if options.only == "speed" else None,
        "memory_objects": tuple(options.objects) if options.objects else None,
        "layouts": () if options.only == "memory" else tuple(options.layouts) if options.layouts else None,
    }
    return dataclasses.replace(chosen, **{name: value for name, value in changes.items() if value is not None})


def main() -> None:
    """Command line of this benchmark."""
    parser = argparse.ArgumentParser(prog="benchmarks.sam2", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="fewer objects, frames and repetitions")
    parser.add_argument("--device", default="cpu", help="cpu, cuda or cuda:N (default: %(default)s)")
    parser.add_argument("--image-size", type=int, help="side in pixels that frames are scaled to")
    parser.add_argument("--frames", type=int, help="length of the video")
    parser.add_argument("--objects", type=int, nargs="+", help="numbers of objects")
    parser.add_argument("--layouts", nargs="+", help="where the prompts are: 'frame 0', spread, several")
    parser.add_argument("--repeats", type=int, help="how often each way runs")
    parser.add_argument("--ways", nargs="+", help="names of ways as the table has them, the official one among them")
    parser.add_argument("--only", choices=("speed", "memory"), help="one of the tables")
    parser.add_argument("--write", action="store_true", help=f"also store the tables in {RESULTS.name}/")
    parser.add_argument("--quality", action="store_true", help="J and F of the weights in --checkpoint")
    parser.add_argument("--checkpoint", type=Path, help="trained weights, for --quality")
    parser.add_argument("--data", type=Path, default=quality.DEFAULT_DATA, help="sequences with truth, for --quality")
    parser.add_argument("--limit", type=int, help="only the first so many sequences, for --quality")
    parser.add_argument("--memory-of", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.quality:
        if options.checkpoint is None:
            parser.error("--quality needs trained weights: name them with --checkpoint FILE")
        quality_report(options.data, options.checkpoint, options.image_size or 1024, options.device, options.limit)
        return
    if options.ways:
        from benchmarks.sam2_measure import OFFICIAL, OUR_OPTIONS, WAYS

        known = {*WAYS, *OUR_OPTIONS}
        if OFFICIAL not in options.ways or not known.issuperset(options.ways):
            parser.error(f"--ways takes '{OFFICIAL}' and any of: {', '.join(repr(name) for name in sorted(known))}")
    setup = _chosen_setup(options)
    if options.memory_of:
        from benchmarks.sam2_measure import own_peak_mebibytes

        with no_word_of_small_holes():
            print(own_peak_mebibytes(options.memory_of, setup.frames, setup.objects[0], setup, options.checkpoint))
        return
    tables = report(setup=setup)
    if options.write:
        print(f"\nwritten to {write(tables, RESULTS, options.device, sys.argv[1:])}")


if __name__ == "__main__":
    main()
