"""The loop in a script: a folder of frames goes to CVAT, a few of them are annotated, all of them come back labelled.

With a CVAT of your own (you annotate, then press Enter)::

    export FIFTYONE_CVAT_URL=http://localhost:8080 FIFTYONE_CVAT_USERNAME=me FIFTYONE_CVAT_PASSWORD=...
    python examples/round_trip.py clip/frames --classes person,car

Without one (a local CVAT, and a script that draws from masks in which the pixel value is the object's id)::

    python examples/round_trip.py clip/frames --classes object --masks clip/masks
"""

from __future__ import annotations

import argparse
from pathlib import Path

import fiftyone as fo

import labelprop_cvat  # noqa: F401  (registers backend="labelprop")
from labelprop_cvat.backend.cvat import Credentials, CVATClient
from labelprop_cvat.backend.local_cvat import LocalCVAT
from labelprop_cvat.backend.local_cvat.annotator import ScriptedAnnotator, TruthObject
from labelprop_cvat.demo.footage import read_ids
from labelprop_cvat.propagation.types import ObjectMask


def make_dataset(frames: Path) -> fo.Dataset:
    """One sample a frame; ``number`` says in which order."""
    dataset = fo.Dataset()
    files = sorted(path for path in frames.iterdir() if path.suffix.lower() in (".jpg", ".jpeg", ".png"))
    dataset.add_samples(fo.Sample(filepath=str(path), number=number) for number, path in enumerate(files))
    return dataset


def send(dataset: fo.Dataset, options: argparse.Namespace, **connection: str):
    """Every tenth frame goes to CVAT. The labels will be masks, tied together by an index."""
    return dataset.annotate(
        "round_trip",
        backend="labelprop",
        label_field="objects",
        label_type="instances",
        classes=options.classes.split(","),
        sort_field="number",
        exemplars=options.exemplars,
        **connection,
    )


def draw(results, server: LocalCVAT, masks: Path, label: str) -> None:
    """Draws what the masks show, as a person would."""
    files = {path.stem: path for path in masks.glob("*.png")}

    def truth(_task: str, frame: str) -> list[TruthObject]:
        ids = read_ids(files[Path(frame).stem])
        objects = {int(value): ObjectMask.from_full(ids == value) for value in set(ids.flat) if value}
        return [TruthObject(number, label, mask=mask) for number, mask in objects.items()]

    with CVATClient(server.url, Credentials(username=server.username, password=server.password)) as client:
        for task_id in {row["task_id"] for row in results.get_status()}:
            ScriptedAnnotator(client, truth).annotate_task(task_id)


def report(dataset: fo.Dataset) -> None:
    """Counts what came back: people's labels in ``objects``, everything in ``objects_propagated``."""
    drawn = len(dataset.exists("objects"))
    filled = len(dataset.match(fo.ViewField("objects_propagated.detections").length() > 0))
    print(f"{drawn} frames were annotated; {filled} of {len(dataset)} are labelled now.")
    print("By source:", dataset.count_values("objects_propagated.detections.source"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("frames", type=Path, help="folder of images, in the order of their names")
    parser.add_argument("--classes", default="object", help="comma-separated (object)")
    parser.add_argument("--masks", type=Path, help="let a script annotate in a local CVAT instead of you in yours")
    parser.add_argument("--exemplars", default="every:10", help="which frames are annotated (every:10)")
    options = parser.parse_args()

    dataset = make_dataset(options.frames)
    if options.masks is None:
        results = send(dataset, options)
        results.print_status()
        for row in results.get_status():
            print(row["url"])
        input("Annotate these, give the same object the same index, set the jobs to 'completed', then press Enter. ")
        dataset.load_annotations("round_trip")
    else:
        with LocalCVAT(users={"me": "only-here"}) as server:
            results = send(dataset, options, url=server.url, username="me", password="only-here")
            draw(results, server, options.masks, options.classes.split(",")[0])
            dataset.load_annotations("round_trip")
    report(dataset)


if __name__ == "__main__":
    main()
