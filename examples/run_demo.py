"""Runs the demo from Python: the same as ``labelprop demo``, in the steps that it is made of.

python examples/run_demo.py --output demo-output --length 120
"""

from __future__ import annotations

import argparse
from pathlib import Path

from rich.console import Console

from labelprop_cvat.demo import use_own_database


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path("demo-output"))
    parser.add_argument("--length", type=int, default=120, help="frames of the video (120)")
    parser.add_argument("--height", type=int, default=360, help="of the video, pixels (360)")
    parser.add_argument("--engine", default="flow")
    options = parser.parse_args()

    use_own_database()  # before FiftyOne is imported: your own datasets stay out of it

    from labelprop_cvat.demo.footage import render_footage
    from labelprop_cvat.demo.run import run_demo

    size = (options.height, options.height * 16 // 9)
    footage = render_footage(options.output / "input", options.length // 2, on_frame=lambda: None, size=size)
    summary = run_demo(footage, options.output, Console(), engine=options.engine, exemplars="every:10")
    best = summary["engines"][0]
    touched = summary["touched_share"]
    print(f"{best['name']}: J {best['j']:.3f}, F {best['f']:.3f}, with {touched:.0%} of the frames drawn by a person")


if __name__ == "__main__":
    main()
