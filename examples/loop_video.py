"""The review loop on a video: masks, reviewed as polygons over the frames of the video file itself.

As it is, scripts draw and review in a local CVAT, on a rendered video::

    python examples/loop_video.py

With a CVAT of your own, people do; the address and login come from ``FIFTYONE_CVAT_URL`` and so on::

    python examples/loop_video.py --mine clip.mp4 --classes person,car
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import fiftyone as fo

import labelprop_cvat  # noqa: F401  (registers backend="labelprop")
from labelprop_cvat.backend.local_cvat import LocalCVAT
from labelprop_cvat.demo.footage import render_footage
from labelprop_cvat.demo.people import ScriptedPeople, truth_of

RUN = "loop"


def make_dataset(video: Path) -> fo.Dataset:
    """A dataset of one video."""
    dataset = fo.Dataset()
    dataset.add_sample(fo.Sample(filepath=str(video)))
    return dataset


def send(dataset: fo.Dataset, classes: list[str], **connection: str):
    """The exemplars of every shot go to CVAT. Without ``review=True``, reviews go out when they are asked for."""
    return dataset.annotate(
        RUN,
        backend="labelprop",
        label_field="frames.objects",
        label_type="instances",
        classes=classes,
        exemplars="every:8",
        missing="absent",  # everything is drawn: what is not drawn is not there
        review_as="polygons",
        **connection,
    )


def play(dataset: fo.Dataset, results, work, reviews: int) -> None:
    """Annotates, then asks for reviews one by one: what ``review=True`` would do by itself."""
    work(results)
    dataset.load_annotations(RUN)
    for _ in range(reviews):
        results = dataset.load_annotation_results(RUN)
        if results.request_review() is None:
            break
        work(results)
        dataset.load_annotations(RUN)
        print(results.summary)
    results.history().print()
    print("By source:", dataset.count_values("frames.objects_propagated.detections.source"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mine", type=Path, metavar="FILE", help="a video of yours, annotated in your CVAT")
    parser.add_argument("--classes", default="object", help="comma-separated, of your video (object)")
    parser.add_argument("--length", type=int, default=40, help="frames of the rendered video (40)")
    parser.add_argument("--reviews", type=int, default=2, help="how many reviews at most (2)")
    options = parser.parse_args()

    if options.mine:
        dataset = make_dataset(options.mine)
        results = send(dataset, options.classes.split(","))
        play(dataset, results, lambda results: results.wait(), options.reviews)
        return
    with tempfile.TemporaryDirectory() as folder, LocalCVAT(users={"me": "only-here"}) as server:
        footage = render_footage(Path(folder), options.length // 2, on_frame=lambda: None, size=(108, 192))
        dataset = make_dataset(Path(folder) / "video.mp4")
        login = {"url": server.url, "username": "me", "password": "only-here"}
        results = send(dataset, sorted(set(footage.labels.values())), **login)
        play(dataset, results, ScriptedPeople(server, truth_of(footage)).work, options.reviews)


if __name__ == "__main__":
    main()
