"""Steps that are scheduled: another process does them, says how far it is, and no secret is stored anywhere."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fiftyone as fo
import fiftyone.core.odm as foo_odm
import fiftyone.operators as foo
import pytest
from bson import json_util
from fiftyone.operators.delegated import DelegatedOperationService
from fiftyone.operators.executor import ExecutionError
from fixtures_plugin import (
    plugin,  # noqa: F401 - a fixture
    uri,
)
from fixtures_roundtrip import annotate_by_script, image_dataset, write_images
from fixtures_views import scene_labels

from labelprop_cvat.backend.local_cvat import LocalCVAT
from labelprop_cvat.plugin import _activity
from labelprop_cvat.workflow import run_keys, run_results

pytestmark = pytest.mark.usefixtures("plugin")

PASSWORD = "Kw3-nobody-may-read-this"
FRAMES = 6


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalCVAT]:
    users = {"berta": PASSWORD}
    with LocalCVAT(tmp_path_factory.mktemp("cvat"), users=users, anonymous_rate=None) as running:
        yield running


@pytest.fixture(autouse=True)
def login(server: LocalCVAT, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FIFTYONE_CVAT_URL", server.url)
    monkeypatch.setenv("FIFTYONE_CVAT_USERNAME", "berta")
    monkeypatch.setenv("FIFTYONE_CVAT_PASSWORD", PASSWORD)
    monkeypatch.setattr(_activity, "_LOOK_SECONDS", 0.0)


@pytest.fixture
def dataset(tmp_path: Path) -> fo.Dataset:
    return image_dataset(write_images(tmp_path, FRAMES))


def schedule(name: str, dataset: fo.Dataset, **params: Any) -> Any:
    """Schedules a step as a script does; its operation as it waits in the database."""
    queued = foo.execute_operator(uri(name), {"dataset": dataset, "request_delegation": True}, params=params)
    assert queued.delegated
    return DelegatedOperationService().get(queued.result["id"])


def launch(operation: Any) -> Any:
    """Does what is scheduled for a dataset, as ``fiftyone delegated launch`` does; the operation as it ended."""
    service = DelegatedOperationService()
    service.execute_queued_operations(dataset_name=operation.context.request_params["dataset_name"])
    return service.get(operation.id)


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> list[tuple[float | None, str]]:
    """How far scheduled steps said they are, in order."""
    found: list[tuple[float | None, str]] = []
    note = DelegatedOperationService.set_progress

    def noted(self: Any, doc_id: Any, progress: Any) -> Any:
        found.append((progress.progress, progress.label))
        return note(self, doc_id, progress)

    monkeypatch.setattr(DelegatedOperationService, "set_progress", noted)
    return found


def test_what_is_scheduled_is_done_by_another_process_and_says_how_far_it_is(
    dataset: fo.Dataset, told: list[tuple[float | None, str]]
) -> None:
    sample = dataset.first()
    sample["objects"] = scene_labels(0)
    sample.save()
    asked = {"input_annotation_field": "objects", "output_annotation_field": "filled", "propagation_method": "hold"}
    operation = schedule("propagate_labels", dataset, **asked)
    assert operation.run_state == "queued"
    assert dataset.get_field("filled") is None
    done = launch(operation)
    assert done.run_state == "completed", done.result.error
    assert done.result.result["message"].startswith("Annotations propagated from objects to filled")
    assert dataset.count("filled.detections") == 2 * FRAMES
    assert done.status.progress > 0
    assert told[-1] == (1.0, f"{FRAMES} of {FRAMES} frames")
    activity = _activity.current(dataset)
    assert activity is not None
    assert (activity.operator, activity.state, activity.delegated) == ("propagate_labels", "done", True)


def test_a_run_is_requested_and_loaded_by_schedule_and_nobody_finds_the_password(
    server: LocalCVAT,
    dataset: fo.Dataset,
    told: list[tuple[float | None, str]],
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    caplog.set_level(logging.DEBUG)
    monkeypatch.setattr(logging.getLogger("labelprop_cvat"), "propagate", True)
    asked = {"label_field": "objects", "label_type": "instances", "classes": ["person", "car"], "engine": "hold"}
    sent = launch(schedule("request_annotations", dataset, anno_key="run1", url=server.url, username="berta", **asked))
    assert sent.run_state == "completed", sent.result.error
    annotate_by_script(server, run_results(dataset, "run1"))
    told.clear()
    home = launch(schedule("load_annotations", dataset, anno_key="run1"))
    assert home.run_state == "completed", home.result.error
    assert "by hold" in home.result.result["message"]
    assert dataset.count("objects_propagated.detections") == 2 * FRAMES
    assert told[-1][0] == 1.0
    # Of one that fails, the trace of where it did is stored, too.
    with monkeypatch.context() as patched:
        patched.setenv("FIFTYONE_CVAT_URL", "http://127.0.0.1:1")
        failed = launch(schedule("load_annotations", dataset, url="http://127.0.0.1:1"))
    assert failed.run_state == "failed"
    assert "Unreachable" in failed.result.error
    out, err = capfd.readouterr()
    found = [where for where, text in everything_stored(dataset) if PASSWORD in text]
    assert found == []
    assert [text for text in (caplog.text, out, err) if PASSWORD in text] == []
    # It would have been found: the address, which may be stored, is.
    assert any(server.url in text for where, text in everything_stored(dataset) if where == "delegated_ops")


def everything_stored(dataset: fo.Dataset) -> Iterator[tuple[str, str]]:
    """All that the database holds of a dataset and of what is done with it: where it is, and as text."""
    database = foo_odm.get_db_conn()
    for name in database.list_collection_names():
        if name.startswith(("samples.", "frames.")) and name != dataset._sample_collection_name:
            continue
        for document in database[name].find({}):
            data = document.pop("data", None)
            yield name, json_util.dumps(document) + (data.decode("latin-1") if isinstance(data, bytes) else str(data))


def test_a_password_among_the_parameters_is_refused_before_anything_is_stored(dataset: fo.Dataset) -> None:
    for name in ("request_annotations", "load_annotations"):
        with pytest.raises(ExecutionError):
            schedule(name, dataset, password=PASSWORD)
    assert DelegatedOperationService().list_operations(dataset_name=dataset.name) == []
    assert run_keys(dataset) == []


def test_what_went_wrong_is_kept_with_what_was_scheduled(dataset: fo.Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    sample = dataset.first()
    sample["objects"] = scene_labels(0)
    sample.save()
    asked = {"input_annotation_field": "objects", "output_annotation_field": "filled", "propagation_method": "hold"}
    operation = schedule("propagate_labels", dataset, **asked)
    # The world changes while it waits.
    dataset.delete_sample_field("objects")
    failed = launch(operation)
    assert failed.run_state == "failed"
    assert "has no field 'objects'" in failed.result.error
    assert dataset.get_field("filled") is None


def test_a_scheduled_step_that_is_stopped_says_so(dataset: fo.Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    sample = dataset.first()
    sample["objects"] = scene_labels(0)
    sample.save()
    see = _activity.Work.see

    def impatient(self: Any, progress: Any) -> None:
        asking = threading.Thread(target=_activity.request_stop, args=(dataset,))
        asking.start()
        asking.join()
        see(self, progress)

    monkeypatch.setattr(_activity.Work, "see", impatient)
    asked = {"input_annotation_field": "objects", "output_annotation_field": "filled", "propagation_method": "hold"}
    ended = launch(schedule("propagate_labels", dataset, **asked))
    assert ended.run_state == "completed"
    assert ended.result.result["stopped"] is True
    activity = _activity.current(dataset)
    assert activity is not None
    assert activity.state == "stopped"
