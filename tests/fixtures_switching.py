"""What people do in CVAT, for tests of scripts that were written for FiftyOne's own backend."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from fixtures_label_types import finish_jobs
from fixtures_roundtrip import client_of, login

from labelprop_cvat.backend.cvat import CVATClient, Label
from labelprop_cvat.backend.local_cvat import LocalCVAT


class Page:
    """One job, open in front of a person."""

    def __init__(self, client: CVATClient, job_id: int) -> None:
        self.client = client
        self.job_id = job_id

    @property
    def labels(self) -> dict[str, Label]:
        return {label.name: label for label in self.client.labels(job_id=self.job_id)}

    def there(self, kind: str) -> list[dict[str, Any]]:
        """The ``"tags"``, ``"shapes"`` or ``"tracks"`` of the job, by frame."""
        found: list[dict[str, Any]] = self.client.annotations(job_id=self.job_id)[kind]
        return sorted(found, key=lambda item: (item["frame"], item["id"]))

    def values(self, item: dict[str, Any]) -> dict[str, str]:
        """The attributes of an object, by name."""
        names = {a.id: a.name for label in self.labels.values() for a in label.attributes}
        return {names[entry["spec_id"]]: entry["value"] for entry in item["attributes"]}

    def name(self, item: dict[str, Any]) -> str:
        return next(label.name for label in self.labels.values() if label.id == item["label_id"])

    def draw(self, label: str, shape: str, points: Sequence[float], frame: int = 0, **attributes: str) -> None:
        """A new shape; ``shape="tag"`` has no points."""
        found = self.labels[label]
        specs = [{"spec_id": found.attribute(name).id, "value": value} for name, value in attributes.items()]
        item = {"label_id": found.id, "frame": frame, "group": 0, "source": "manual", "attributes": specs}
        if shape == "tag":
            self.client.create_annotations({"tags": [item]}, job_id=self.job_id)
            return
        item |= {"type": shape, "points": list(points), "occluded": False, "z_order": 0, "rotation": 0}
        self.client.create_annotations({"shapes": [item]}, job_id=self.job_id)

    def track(self, label: str, places: dict[int, Sequence[float]], **attributes: str) -> None:
        """A new box track; attributes are immutable ones."""
        found = self.labels[label]
        specs = [{"spec_id": found.attribute(name).id, "value": value} for name, value in attributes.items()]
        shape = {"type": "rectangle", "occluded": False, "outside": False, "z_order": 0, "attributes": []}
        shapes = [{**shape, "frame": frame, "points": list(points)} for frame, points in places.items()]
        item = {"label_id": found.id, "frame": min(places), "group": 0, "source": "manual", "attributes": specs}
        self.client.create_annotations({"tracks": [{**item, "shapes": shapes}]}, job_id=self.job_id)

    def change(self, kind: str, change: Callable[[dict[str, Any]], Any], number: int = 0) -> None:
        item = self.there(kind)[number]
        change(item)
        self.client.update_annotations({kind: [item]}, job_id=self.job_id)

    def give(self, kind: str, name: str, value: str, number: int = 0) -> None:
        """Sets an attribute of an object, or of the first keyframe of a track whose attribute is mutable."""
        item = self.there(kind)[number]
        spec = self.labels[self.name(item)].attribute(name)
        place = item["shapes"][0] if kind == "tracks" and spec.mutable else item
        others = [entry for entry in place["attributes"] if entry["spec_id"] != spec.id]
        place["attributes"] = [*others, {"spec_id": spec.id, "value": value}]
        self.client.update_annotations({kind: [item]}, job_id=self.job_id)

    def erase(self, kind: str, number: int = 0) -> None:
        self.client.delete_annotations({kind: [self.there(kind)[number]]}, job_id=self.job_id)


def annotate(samples: Any, server: LocalCVAT, **options: Any) -> Any:
    """``annotate()`` as a script for the stock backend has it, but for the backend and that nothing is filled."""
    return samples.annotate("run", backend="labelprop", **{"engine": "none", **login(server), **options})


def work(server: LocalCVAT, results: Any, *steps: Callable[[Page], Any]) -> None:
    """A person does all steps on the page of the first job; then all jobs are finished."""
    left = list(steps)

    def edit(client: CVATClient, job_id: int) -> None:
        while left:
            left.pop(0)(Page(client, job_id))

    finish_jobs(server, results, edit)


def pages(server: LocalCVAT, results: Any) -> list[dict[str, list[dict[str, Any]]]]:
    """What CVAT holds in each job of a run."""
    with client_of(server) as client:
        return [client.annotations(job_id=job.id) for _, job in results.ledger.jobs()]


__all__ = ["Page", "annotate", "pages", "work"]
