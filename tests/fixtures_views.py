"""Videos and group slices with a few labels, and what to compare when views of them come back from CVAT."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import fiftyone as fo
from fixtures_roundtrip import login, scene_masks, write_images, write_video

from labelprop_cvat.backend.local_cvat import LocalCVAT
from labelprop_cvat.labels import mask_to_detection
from labelprop_cvat.propagation.types import ObjectMask
from labelprop_cvat.sequences import every_sample

FRAMES = 12
CLASSES = ["person", "car"]


def scene_labels(frame: int, **values: Any) -> fo.Detections:
    """The scene's two objects on a frame, as instances of the field ``objects``."""
    labels = []
    for object_id, mask in scene_masks(frame).items():
        box, crop = mask_to_detection(ObjectMask.from_full(mask), (72, 128))
        name = {1: "person", 2: "car"}[object_id]
        labels.append(fo.Detection(label=name, bounding_box=box, mask=crop, index=object_id, **values))
    return fo.Detections(detections=labels)


def write_media(folder: Path) -> Path:
    """``a.mp4`` and ``b.mp4`` with twelve frames each, and the same frames as images."""
    write_video(folder / "a.mp4", FRAMES)
    write_video(folder / "b.mp4", FRAMES)
    write_images(folder / "images", FRAMES)
    return folder


def labelled_videos(media: Path) -> fo.Dataset:
    """Two videos with metadata; frames 2, 5, 8 and 11 of the first are labelled, it has two events."""
    dataset = fo.Dataset()
    for name in ("a", "b"):
        metadata = fo.VideoMetadata(total_frame_count=FRAMES, frame_rate=24.0)
        sample = fo.Sample(str(media / f"{name}.mp4"), metadata=metadata, name=name)
        if name == "a":
            for number in (2, 5, 8, 11):
                sample.frames[number] = fo.Frame(objects=scene_labels(number - 1, mood="calm"))
            sample["events"] = fo.TemporalDetections(
                detections=[
                    fo.TemporalDetection(label="early", support=[2, 5]),
                    fo.TemporalDetection(label="late", support=[8, 11]),
                ]
            )
        dataset.add_sample(sample)
    return dataset


def camera_rig(media: Path) -> fo.Dataset:
    """Six groups of a left and a right image, the first with a video too; labels on the third and the fifth."""
    dataset = fo.Dataset()
    dataset.add_group_field("group", default="left")
    samples = []
    for number in range(6):
        group = fo.Group()
        for side in ("left", "right"):
            at = number if side == "left" else number + 6
            sample = fo.Sample(
                str(media / "images" / f"{at:04d}.png"), group=group.element(side), number=number, half=number // 3
            )
            if number in (2, 4):
                sample["objects"] = scene_labels(at)
            samples.append(sample)
        if number == 0:
            samples.append(fo.Sample(str(media / "a.mp4"), group=group.element("clip"), number=0, half=0))
    dataset.add_samples(samples, progress=False)
    return dataset


def filled(dataset: fo.Dataset, field: str = "objects_propagated") -> dict[str, list[int]]:
    """The frame numbers that hold labels in a field, by video name."""
    found = {}
    for sample in dataset:
        labels = {number: frame.get_field(field) for number, frame in sample.frames.items()}
        found[sample["name"]] = sorted(n for n, value in labels.items() if value is not None and value.detections)
    return found


def send(server: LocalCVAT, view: Any, label_field: str, key: str = "run", **options: Any) -> Any:
    """Starts a run of instances in which people annotate every frame of the view."""
    wanted = {"label_type": "instances", "classes": CLASSES, "engine": "interpolate", "exemplars": "all", **options}
    wanted.setdefault("segmentation", "none")
    return view.annotate(key, backend="labelprop", label_field=label_field, **wanted, **login(server))


def contents(dataset: fo.Dataset) -> dict[str, Any]:
    """All that a dataset holds, frame by frame, but for the times of its last changes."""

    def plain(document: dict[str, Any]) -> dict[str, Any]:
        return {k: v for k, v in document.items() if k not in ("last_modified_at", "_id", "id") and v is not None}

    found = {}
    for sample in every_sample(dataset).iter_samples():
        found[sample.id] = plain(sample.to_dict(include_private=True))
        found[sample.id].pop("frames", None)
        if sample.media_type == "video":
            for number, frame in sample.frames.items():
                found[f"{sample.id}/{number}"] = plain(frame.to_dict(include_private=True))
    return found


def without(values: dict[str, Any], *fields: str) -> dict[str, Any]:
    """Contents less some fields, and less frames that hold nothing else."""
    left = {key: {k: v for k, v in entry.items() if k not in fields} for key, entry in values.items()}
    bare = {"frame_number", "_sample_id", "_dataset_id", "created_at", "_cls"}
    return {key: entry for key, entry in left.items() if not set(entry) <= bare}


def is_the_scene(value: fo.Detections | None, frame: int) -> bool:
    """Whether labels are the scene's objects on a frame, pixel by pixel."""
    truth = {(label.label, label.mask.tobytes(), tuple(label.bounding_box)) for label in scene_labels(frame).detections}
    labels = value.detections if value is not None else []
    return {(label.label, label.mask.tobytes(), tuple(label.bounding_box)) for label in labels} == truth
