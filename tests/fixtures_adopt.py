"""Tasks in CVAT that no run made: of images and videos, drawn by script or by hand."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from fixtures_local_cvat import Api
from fixtures_roundtrip import LABELS, client_of, scene_masks

from labelprop_cvat.backend.cvat import UploadFile
from labelprop_cvat.backend.local_cvat import LocalCVAT
from labelprop_cvat.backend.local_cvat.annotator import ScriptedAnnotator, TruthObject
from labelprop_cvat.propagation.types import ObjectMask

INDEX = {"name": "index", "mutable": False, "input_type": "number", "values": ["0", "999", "1"], "default_value": "0"}
POSE = {"name": "pose", "mutable": True, "input_type": "select", "values": ["up", "down"], "default_value": "up"}


def labels(*attributes: Mapping[str, Any], kind: str = "any") -> list[dict[str, Any]]:
    return [{"name": name, "type": kind, "attributes": list(attributes)} for name in LABELS.values()]


def image_task(
    server: LocalCVAT,
    paths: Sequence[Path],
    definitions: Sequence[Mapping[str, Any]] | None = None,
    *,
    names: Sequence[str] | None = None,
    **fields: Any,
) -> int:
    """A task of images with labels of its own, or of its project; its number."""
    with client_of(server) as client:
        body = {"name": "foreign", "labels": labels() if definitions is None else definitions, **fields}
        task = client._session.json("POST", "/api/tasks", json=body)
        called = names or [path.name for path in paths]
        files = [UploadFile(name, path) for name, path in zip(called, paths, strict=True)]
        client.upload_images(task["id"], files, jobs=None)
        return int(task["id"])


def video_task(
    server: LocalCVAT, path: Path, definitions: Sequence[Mapping[str, Any]] | None = None, **fields: Any
) -> int:
    """A task of a video, as somebody makes one in CVAT's web pages; its number."""
    api = Api(server)
    data = {name: fields.pop(name) for name in ("start_frame", "stop_frame", "frame_filter") if name in fields}
    task_id = api.make_task("footage", labels() if definitions is None else definitions, **fields)
    ended = api.upload(task_id, [(path.name, path.read_bytes())], **data)
    assert ended["status"] == "finished", ended["message"]
    return task_id


def scene(first_number: int = 0, step: int = 1) -> Callable[[str, str], list[TruthObject]]:
    """The truth about the scene by the number in a frame's name, ``first_number`` for the first frame."""

    def objects(task: str, name: str) -> list[TruthObject]:
        number = int("".join(c for c in Path(name).stem if c.isdigit())) * step + first_number
        found = []
        for object_id, mask in scene_masks(number).items():
            tight = ObjectMask.from_full(mask)
            assert tight is not None
            found.append(TruthObject(object_id, LABELS[object_id], tight))
        return found

    return objects


def annotate(
    server: LocalCVAT,
    task_id: int,
    shape: Any = "rectangle",
    truth: Any = None,
    *,
    complete: bool = False,
    **options: Any,
) -> None:
    """Somebody draws in a task; labels without an index get none."""
    with client_of(server) as client:
        has_index = any(a.name == "index" for label in client.labels(task_id) for a in label.attributes)
        annotator = ScriptedAnnotator(client, truth or scene())
        index = "index" if has_index else None
        annotator.annotate_task(task_id, shape=shape, index_attribute=index, complete=complete, **options)


@contextmanager
def counted_calls(server: LocalCVAT, pattern: str) -> Iterator[list[str]]:
    """The requests that match, as they come."""
    import re

    seen: list[str] = []
    faults = server.faults
    original = faults.next

    def watching(method: str, path: str) -> Any:
        if re.search(pattern, f"{method} {path}"):
            seen.append(f"{method} {path}")
        return original(method, path)

    faults.next = watching  # type: ignore[method-assign]
    try:
        yield seen
    finally:
        faults.next = original  # type: ignore[method-assign]
