"""Makes a small dataset to play with in the FiftyOne App, from Python and on the command line.

A few rendered shots with cuts between them. ``labels_test`` has labels on the first frame of each shot only: propagate
them to the others, have CVAT correct what is wrong, and compare with ``ground_truth``::

    python examples/run_demo.py --num-scenes 2 --media-format image --launch

The dataset stays in your FiftyOne database until you delete it.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from rich.console import Console
from rich.progress import track

from labelprop_cvat.errors import LabelPropError

NEXT = """
In the App:
    labelprop plugin install
    fiftyone app launch {name}
    ({view}open the panel "Label Propagation", and press the button that stands out)

In Python:
    import fiftyone as fo
    from labelprop_cvat import workflow

    {load}
    workflow.propagate(samples, "{first}", "{filled}"{order})
    print(workflow.evaluate(samples, "{filled}", "{truth}"{order}).scores)

On the command line:
    labelprop propagate {name}{option} --input-field {first} --output-field {filled}
    labelprop evaluate {name}{option} --pred {filled} --gt {truth}
"""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--num-scenes", "--num_scenes", type=int, default=2, help="shots, with cuts between (2)")
    parser.add_argument(
        "--media-format",
        "--media_format",
        choices=("image", "group", "video"),
        default="image",
        help="images in one sequence; images grouped by shot; or one video (image)",
    )
    parser.add_argument("--length", type=int, default=24, help="frames of each shot, from 5 on (24)")
    parser.add_argument("--name", help="of the dataset (playground-FORMAT-SCENES)")
    parser.add_argument("--folder", type=Path, help="where its files go (where FiftyOne keeps datasets)")
    parser.add_argument("--overwrite", action="store_true", help="replace the playground that has this name")
    parser.add_argument("--launch", action="store_true", help="open it in the App")
    options = parser.parse_args()

    import fiftyone as fo

    from labelprop_cvat.demo import playground

    frames = iter(track(range(options.num_scenes * options.length), "Rendering", console=Console(stderr=True)))
    try:
        dataset = playground.make_playground(
            options.name,
            scenes=options.num_scenes,
            media_format=options.media_format,
            length=options.length,
            folder=options.folder,
            overwrite=options.overwrite,
            on_frame=lambda: next(frames, None),
        )
    except LabelPropError as error:
        print(error, file=sys.stderr)
        return 1
    next(frames, None)  # the bar comes to its end
    print(f"{dataset.name}: {len(dataset)} samples, {options.num_scenes} shots of {options.length} frames each.")
    print(next_steps(dataset.name, options.media_format))
    if options.launch:
        fo.launch_app(playground.playground_view(dataset)).wait()
    return 0


def next_steps(name: str, media_format: str) -> str:
    """What can be done with the dataset, line by line."""
    from labelprop_cvat.demo.playground import FIRST_LABELS, GROUPED_VIEW, ORDER, TRUTH

    prefix = "frames." if media_format == "video" else ""
    grouped = f'.load_saved_view("{GROUPED_VIEW}")' if media_format == "group" else ""
    return NEXT.format(
        name=name,
        view=f'choose the saved view "{GROUPED_VIEW}", ' if media_format == "group" else "",
        load=f'samples = fo.load_dataset("{name}"){grouped}',
        first=prefix + FIRST_LABELS,
        filled=f"{prefix}{FIRST_LABELS}_propagated",
        truth=prefix + TRUTH,
        order=f', sort_field="{ORDER}"' if media_format == "image" else "",
        option={"image": f" --sort-field {ORDER}", "group": f" --view {GROUPED_VIEW}", "video": ""}[media_format],
    )


if __name__ == "__main__":
    sys.exit(main())
