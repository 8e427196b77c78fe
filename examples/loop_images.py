"""The review loop on images: masks on a few frames, all frames filled, reviewed, and filled anew where they were wrong.

As it is, scripts draw and review in a local CVAT, on a rendered scene::

    python examples/loop_images.py

With a CVAT of your own, people do; the address and login come from ``FIFTYONE_CVAT_URL`` and so on::

    python examples/loop_images.py --mine clip/frames --classes person,car
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


def make_dataset(files: list[Path]) -> fo.Dataset:
    """One sample a frame; ``number`` says in which order."""
    dataset = fo.Dataset()
    dataset.add_samples(fo.Sample(filepath=str(path), number=number) for number, path in enumerate(sorted(files)))
    return dataset


def send(dataset: fo.Dataset, classes: list[str], reviews: int, **connection: str):
    """The exemplars of every shot go to CVAT. With ``review=True``, what is filled from them follows by itself."""
    return dataset.annotate(
        RUN,
        backend="labelprop",
        label_field="objects",
        label_type="instances",
        classes=classes,
        sort_field="number",
        exemplars="every:8",
        missing="absent",  # everything is drawn: what is not drawn is not there
        review=True,
        max_rounds=reviews,
        **connection,
    )


def play(dataset: fo.Dataset, results, work) -> None:
    """Loads whenever people are done, until no further round goes out."""
    while not results.history().is_over:
        work(results)
        dataset.load_annotations(RUN)
        results = dataset.load_annotation_results(RUN)
        print(results.summary)
    results.history().print()
    print("By source:", dataset.count_values("objects_propagated.detections.source"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mine", type=Path, metavar="DIR", help="images of yours, which people annotate in your CVAT")
    parser.add_argument("--classes", default="object", help="comma-separated, of your images (object)")
    parser.add_argument("--length", type=int, default=40, help="frames of the rendered scene (40)")
    parser.add_argument("--reviews", type=int, default=3, help="how many reviews of a shot at most (3)")
    options = parser.parse_args()

    if options.mine:
        dataset = make_dataset([path for path in options.mine.iterdir() if path.suffix in (".jpg", ".png")])
        results = send(dataset, options.classes.split(","), options.reviews)
        play(dataset, results, work=lambda results: results.wait())
        return
    with tempfile.TemporaryDirectory() as folder, LocalCVAT(users={"me": "only-here"}) as server:
        footage = render_images(Path(folder), options.length // 2, size=(108, 192))
        dataset = make_dataset(list(footage.images))
        login = {"url": server.url, "username": "me", "password": "only-here"}
        results = send(dataset, sorted(set(footage.labels.values())), options.reviews, **login)
        play(dataset, results, work=ScriptedPeople(server, truth_of(footage)).work)


if __name__ == "__main__":
    main()
