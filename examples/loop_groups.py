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


def make_dataset(clips: dict[str, list[Path]]) -> fo.Dataset:
    """A dataset of all frames, with a view of it in which each clip is a group, in order."""
    dataset = fo.Dataset()
    dataset.add_samples(
        fo.Sample(filepath=str(path), clip=clip, number=number)
        for clip, files in clips.items()
        for number, path in enumerate(sorted(files))
    )
    dataset.save_view("by_clip", dataset.group_by("clip", order_by="number"))
    return dataset


def send(dataset: fo.Dataset, classes: list[str], reviews: int, **connection: str):
    """Boxes become tracks, thinned to the keyframes that matter: one correction moves a whole stretch."""
    return dataset.load_saved_view("by_clip").annotate(
        RUN,
        backend="labelprop",
        label_field="objects",
        label_type="detections",
        classes=classes,
        exemplars="every:8",
        missing="absent",  # everything is drawn: what is not drawn is not there
        review=True,
        max_rounds=reviews,
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
    parser.add_argument("--reviews", type=int, default=3, help="how many reviews of a shot at most (3)")
    options = parser.parse_args()

    if options.mine:
        folders = sorted(folder for folder in options.mine.iterdir() if folder.is_dir())
        dataset = make_dataset({folder.name: list(folder.glob("*.[jp][pn]g")) for folder in folders})
        results = send(dataset, options.classes.split(","), options.reviews)
        play(dataset, results, work=lambda results: results.wait())
        return
    with tempfile.TemporaryDirectory() as folder, LocalCVAT(users={"me": "only-here"}) as server:
        half = options.length // 2
        footage = render_images(Path(folder), half, size=(108, 192))
        dataset = make_dataset({"forest": list(footage.images[:half]), "sea": list(footage.images[half:])})
        login = {"url": server.url, "username": "me", "password": "only-here"}
        results = send(dataset, sorted(set(footage.labels.values())), options.reviews, **login)
        people = ScriptedPeople(server, truth_of(footage), shape="rectangle")
        play(dataset, results, work=people.work)


if __name__ == "__main__":
    main()
