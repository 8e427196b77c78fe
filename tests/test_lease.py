"""One process at a time works on a run."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path

import fiftyone as fo
import fiftyone.core.odm as foo
import pytest
from fixtures_roundtrip import annotate_by_script, image_dataset, login, write_images

from labelprop_cvat.backend import lease as leases
from labelprop_cvat.backend.lease import Lease
from labelprop_cvat.backend.local_cvat import LocalCVAT
from labelprop_cvat.errors import RunInUse

HOLDER = """
    import sys, time
    import fiftyone as fo
    from bson import ObjectId
    from labelprop_cvat.backend.lease import Lease
    fo.list_datasets()
    with Lease(ObjectId(sys.argv[1]), "run").held():
        print("held", flush=True)
        time.sleep(120)
"""


@contextmanager
def another_process(run_id: object) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-c", textwrap.dedent(HOLDER), str(run_id)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            while process.stdout.readline().strip() != "held":
                assert process.poll() is None
            yield process
        finally:
            process.kill()


@pytest.fixture
def dataset(tmp_path: Path) -> fo.Dataset:
    return image_dataset(write_images(tmp_path, 4))


def document(run_id: object) -> dict[str, object] | None:
    found: dict[str, object] | None = foo.get_db_conn()["labelprop_leases"].find_one({"_id": run_id})
    return found


def test_a_load_waits_for_nobody_but_says_who_is_at_work(tmp_path: Path, dataset: fo.Dataset) -> None:
    options = {"label_field": "objects", "label_type": "instances", "classes": ["person", "car"]}
    with LocalCVAT(tmp_path / "cvat", anonymous_rate=None) as server:
        results = dataset.annotate("run", backend="labelprop", sort_field="number", **options, **login(server))
        annotate_by_script(server, results)
        run_id = results.backend._get_run_doc(dataset, "run").id
        assert document(run_id) is None
        with another_process(run_id) as process:
            with pytest.raises(RunInUse, match=f"process {process.pid} on"):
                dataset.load_annotations("run")
            with pytest.raises(RunInUse):
                results.cleanup()
            assert "objects" not in dataset.get_field_schema() or not dataset.count("objects.detections")
            process.kill()
            process.wait()
            # A process that is gone holds nothing, whatever it wrote down.
            assert document(run_id) is not None
            dataset.load_annotations("run")
        assert dataset.count("objects_propagated.detections") > 0
        assert document(run_id) is None


def test_a_lease_is_nested_and_given_back(dataset: fo.Dataset) -> None:
    run_id = "nested"
    lease = Lease(run_id, "run")
    with lease.held(), lease.held():
        assert document(run_id) is not None
    assert document(run_id) is None
    lease.give_back()


def test_work_that_was_left_half_done_in_this_thread_locks_nobody_out(dataset: fo.Dataset) -> None:
    left = Lease("half", "run")
    left.take()
    left.pause()
    with Lease("half", "run").held():
        pass
    # It was lost meanwhile, so it is taken anew.
    with left.held():
        assert document("half") is not None
    left.give_back()
    assert document("half") is None


def test_a_lease_of_another_host_ends_when_nothing_is_heard(
    dataset: fo.Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(leases.socket, "gethostname", lambda: "elsewhere")
        Lease("far", "run").take()
    with pytest.raises(RunInUse, match="on elsewhere"):
        Lease("far", "run").take()
    later = leases._now() + timedelta(seconds=leases.LASTS + 60)
    monkeypatch.setattr(leases, "_now", lambda: later)
    with Lease("far", "run").held():
        pass


def test_a_lease_in_use_is_renewed(dataset: fo.Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(leases, "_BEAT", 0.02)
    with Lease("beat", "run").held():
        found = document("beat")
        assert found is not None
        first = found["until"]
        for _ in range(200):
            now = document("beat")
            assert now is not None
            if now["until"] > first:  # type: ignore[operator]
                return
            leases.threading.Event().wait(0.02)
    pytest.fail("the lease was not renewed")
