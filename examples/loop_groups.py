"""The review loop on many clips in one image dataset: boxes, one task a clip, people at work on several at once.

As it is, scripts draw and review in a local CVAT, on two rendered clips::

    python examples/loop_groups.py

With a CVAT of your own, people do; a folder of images a clip, address and login from ``FIFTYONE_CVAT_URL`` and so on::

    python examples/loop_groups.py --mine clips --classes person,car
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import fiftyone as fo

import labelprop_cvat  # noqa: F401  (registers backend="labelprop")
from labelprop_cvat.backend.local_cvat import LocalCVAT
from labelprop_cvat.demo.footage import render_images
from labelprop_cvat.demo.people import ScriptedPeople, truth_of

RUN = "loop"


def make_view(clips: dict[str, list[Path]]) -> fo.DatasetView:
    """A dataset of all frames, and the view of it in which each clip is a group, in order."""
    dataset = fo.Dataset()
    dataset.add_samples(
        fo.Sample(filepath=str(path), clip=clip, number=number)
        for clip, files in clips.items()
        for number, path in enumerate(sorted(files))
    )
    view = dataset.group_by("clip", order_by="number")
    dataset.save_view("by_clip", view)
    return view


def send(view: fo.DatasetView, classes: list[str], **connection: str):
    """Boxes become tracks, thinned to the keyframes that matter: one correction moves a whole stretch."""
    return view.annotate(
        RUN,
        backend="labelprop",
        label_field="objects",
        label_type="detections",
        classes=classes,
        exemplars="every:8",
        missing="absent",  # everything is drawn: what is not drawn is not there
        review=True,
        max_rounds=3,
        **connection,
    )


def play(dataset: fo.Dataset, results, work) -> None:
    """Loads whenever people are done. A clip that is finished is reviewed while others are still being annotated."""
    while not results.history().is_over:
        work(results)
        dataset.load_annotations(RUN)
        results = dataset.load_annotation_results(RUN)
        print(results.summary)
    results.history().print()
    print("Boxes:", dataset.count_values("objects_propagated.detections.label"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mine", type=Path, metavar="DIR", help="a folder of clips of yours, each a folder of images")
    parser.add_argument("--classes", default="object", help="comma-separated, of your clips (object)")
    parser.add_argument("--length", type=int, default=40, help="frames of the rendered clips together (40)")
    options = parser.parse_args()

    if options.mine:
        folders = sorted(folder for folder in options.mine.iterdir() if folder.is_dir())
        view = make_view({folder.name: list(folder.glob("*.[jp][pn]g")) for folder in folders})
        results = send(view, options.classes.split(","))
        play(view._dataset, results, work=lambda results: results.wait())
        return
    with tempfile.TemporaryDirectory() as folder, LocalCVAT(users={"me": "only-here"}) as server:
        half = options.length // 2
        footage = render_images(Path(folder), half, size=(144, 256))
        view = make_view({"forest": list(footage.images[:half]), "sea": list(footage.images[half:])})
        results = send(view, sorted(set(footage.labels.values())), url=server.url, username="me", password="only-here")
        people = ScriptedPeople(server, truth_of(footage), shape="rectangle")
        play(view._dataset, results, work=people.work)


if __name__ == "__main__":
    main()
