"""``python -m benchmarks.faults``: what can go wrong between FiftyOne and CVAT, provoked, and what came of it.

Each row is a fault that really happens: a proxy between the backend and the local server breaks the wire, the server is
restarted, processes are killed. Most rows are whole jobs: "complete" means that after ``annotate``, a person's work and
``load_annotations`` there is one task, no shape and no label is there twice or missing, masks are the same bit for bit
and label ids are kept. Where a call cannot succeed, the row says which error came and what was left behind, and
"again: complete" that the same call succeeded once the fault was over.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import socket
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from unittest import mock

from benchmarks import faults_proxy as proxies
from benchmarks.faults_proxy import Break, Exchange, Proxy, Wire

if TYPE_CHECKING:
    import fiftyone as fo

    from benchmarks.faults_stage import Stage

_WRITES = r"^/api/(tasks|jobs)"
_READS = r"^/api/(users|tasks|jobs|labels|requests)"
WHOLE = "annotate + load"


@dataclass(frozen=True)
class Case:
    """A row of the table.

    Attributes:
        fault: what goes wrong
        where: during what
        expected: what shall be seen
        provoke: makes it happen, and says what was seen
        slow: takes more than a few seconds
    """

    fault: str
    where: str
    expected: str
    provoke: Callable[[Stage], str]
    slow: bool = False

    @property
    def name(self) -> str:
        """For test ids and the command line."""
        return re.sub(r"[^a-z0-9]+", "-", f"{self.where} {self.fault}".lower()).strip("-")


# How a row is played


def _once_each(act: Break, methods: str, most: int = 1000) -> Break:
    """Breaks each different request the first time; the second time it passes."""
    seen: set[tuple[str, str, str]] = set()

    def once(proxy: Proxy, exchange: Exchange, wire: Wire) -> None:
        upload = re.search(rb"upload-(start|multiple|finish|length|offset)", exchange.head, re.IGNORECASE)
        place = re.sub(r"(/data/)[^/?]+", r"\1", exchange.path)
        key = exchange.method, place, upload[0].decode().lower() if upload else ""
        if exchange.method not in methods.split() or key in seen or len(seen) == most:
            wire.sendall(proxy.ask(exchange, wire))
            return
        seen.add(key)
        act(proxy, exchange, wire)

    return once


def _job(
    method: str, path: str, act: Break, times: int | None = 1, *, skip: int = 0, **options: Any
) -> Callable[[Stage], str]:
    """A whole job during which a fault happens and is overcome."""

    def provoke(stage: Stage) -> str:
        dataset, original = _new(stage)
        stage.proxy.on(method, path, act, times, skip=skip)
        stage.annotate(dataset, **options)
        seen = stage.finish(dataset, original)
        return seen if stage.proxy.broken else "the fault never happened"

    return provoke


def _each(
    act: Callable[[], Break], methods: str, path: str, most: int = 1000, **options: Any
) -> Callable[[Stage], str]:
    """A whole job during which a fault happens to each different request once."""

    def provoke(stage: Stage) -> str:
        return _job("*", path, _once_each(act(), methods, most), None, **options)(stage)

    return provoke


def _failing_annotate(
    prepare: Callable[[Stage, fo.Dataset], None], options: Callable[[Stage], dict[str, Any]] | None = None
) -> Callable[[Stage], str]:
    """An ``annotate`` that cannot succeed, and the same call once the fault is over."""

    def provoke(stage: Stage) -> str:
        dataset, original = _new(stage)
        prepare(stage, dataset)
        wrong = options(stage) if options else {}
        seen = stage.attempt(dataset, lambda: stage.annotate(dataset, **wrong))
        stage.proxy.clear()
        if not seen:
            return "no error"
        stage.annotate(dataset)
        return f"{seen}; again: {stage.finish(dataset, original)}"

    return provoke


def _failing_load(
    prepare: Callable[[Stage, fo.Dataset], Callable[[], object] | None],
) -> Callable[[Stage], str]:
    """A ``load_annotations`` that cannot succeed, and the same call once the fault is over.

    ``prepare`` may return what ends the fault.
    """

    def provoke(stage: Stage) -> str:
        dataset, original = _new(stage)
        stage.annotate(dataset)
        stage.draw(dataset)
        mend = prepare(stage, dataset)
        seen = stage.attempt(dataset, lambda: stage.load(dataset))
        stage.proxy.clear()
        if not seen:
            return f"no error; {stage.verdict(dataset, original)}"
        if mend is not None:
            mend()
        stage.load(dataset)
        return f"{seen}; again: {stage.verdict(dataset, original)}"

    return provoke


def _tolerant_load(
    prepare: Callable[[Stage, fo.Dataset], None], more: dict[int, int] | None = None
) -> Callable[[Stage], str]:
    """A ``load_annotations`` that finds something strange on the server and brings home everything else.

    ``more`` is the number of labels by frame that belong there besides.
    """

    def provoke(stage: Stage) -> str:
        dataset, original = _new(stage)
        stage.annotate(dataset)
        stage.draw(dataset)
        prepare(stage, dataset)
        stage.load(dataset)
        return stage.verdict(dataset, original, more)

    return provoke


def _new(stage: Stage) -> tuple[fo.Dataset, list[str]]:
    from benchmarks.faults_stage import ids_of

    stage.proxy.clear()
    dataset = stage.dataset()
    return dataset, ids_of(dataset)


def _on(method: str, path: str, act: Break, times: int | None = None, skip: int = 0) -> Any:
    """The preparation that breaks requests."""

    def prepare(stage: Stage, dataset: fo.Dataset) -> None:
        stage.proxy.on(method, path, act, times, skip=skip)

    return prepare


# Faults that need more than a rule


def _nothing(stage: Stage, dataset: fo.Dataset) -> None:
    """No rule."""


def _closed_port(stage: Stage) -> dict[str, Any]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return {"url": f"http://127.0.0.1:{listener.getsockname()[1]}"}


def _log_out(proxy: Proxy, exchange: Exchange, wire: Wire) -> None:
    """Ends the login that a request carries, then passes the request on."""
    token = re.search(rb"\r\n(authorization: [^\r]+)", exchange.head, re.IGNORECASE)
    if token is not None:
        head = b"POST /api/auth/logout HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\n" + token[1] + b"\r\n\r\n"
        proxy.ask(Exchange("POST", "/api/auth/logout", head, 0), wire)
    wire.sendall(proxy.ask(exchange, wire))


def _expiring_token(stage: Stage, dataset: fo.Dataset) -> str:
    """Makes a personal access token."""
    with stage.person() as client:
        return str(client._session.json("POST", "/api/auth/access_tokens", json={"name": dataset.name})["value"])


def _token_revoked(stage: Stage) -> str:
    """A personal access token that is revoked while labels are sent; nobody but a person can make another."""
    dataset, original = _new(stage)
    token = _expiring_token(stage, dataset)

    def revoke() -> None:
        with stage.person() as client:
            listed = client._session.json("GET", "/api/auth/access_tokens")["results"]
            for entry in listed:
                client._session.request("DELETE", f"/api/auth/access_tokens/{entry['id']}")

    stage.proxy.on("PATCH", "/annotations", proxies.first(revoke))
    seen = stage.attempt(dataset, lambda: stage.annotate(dataset, token=token))
    stage.proxy.clear()
    stage.annotate(dataset, token=_expiring_token(stage, dataset))
    return f"{seen}; again: {stage.finish(dataset, original)}"


def _task_deleted_in_upload(stage: Stage, dataset: fo.Dataset) -> None:
    def delete() -> None:
        with stage.person() as client:
            client.delete_task(stage.tasks(dataset)[0])

    stage.proxy.on("POST", r"/data/", proxies.first(delete), skip=2)


def _task_deleted(stage: Stage) -> str:
    """A task that somebody deleted: the run says so, and goes on without it when told to."""
    dataset, _ = _new(stage)
    results = stage.annotate(dataset)
    (task,) = stage.tasks(dataset)
    with stage.person() as client:
        client.delete_task(task)
    seen = stage.attempt(dataset, lambda: stage.load(dataset))
    results.forget_task(task)
    stage.load(dataset)
    return f"{seen}; forgotten: {dataset.count('objects.detections')} labels as before"


def _project_deleted(stage: Stage) -> str:
    dataset, original = _new(stage)
    with stage.person() as client:
        from labelprop_cvat.backend.cvat import LabelSpec

        project = client.create_project(f"{dataset.name} p", [LabelSpec("car")]).id
        client.delete_project(project)
    seen = stage.attempt(dataset, lambda: stage.annotate(dataset, project_id=project))
    stage.annotate(dataset)
    return f"{seen}; again: {stage.finish(dataset, original)}"


def _no_jobs(body: bytes) -> bytes:
    return json.dumps({"count": 0, "next": None, "previous": None, "results": []}).encode()


def _label_deleted(stage: Stage, dataset: fo.Dataset) -> None:
    with stage.person() as client:
        label = next(label for label in client.labels(stage.tasks(dataset)[0]) if label.name == "car")
        client._session.request("DELETE", f"/api/labels/{label.id}")


def _label_gone(stage: Stage) -> str:
    """Deleting a label deletes its shapes, which no person did one by one: no label may follow them in FiftyOne."""
    dataset, _ = _new(stage)
    stage.annotate(dataset)
    stage.draw(dataset)
    _label_deleted(stage, dataset)
    return stage.attempt(dataset, lambda: stage.load(dataset))


def _other_ids(shift: int) -> Callable[[bytes], bytes]:
    """Labels and attributes under other ids, as after a restored backup."""

    def change(body: bytes) -> bytes:
        value = json.loads(body)
        for label in value.get("results", ()):
            label["id"] += shift
            for attribute in label["attributes"]:
                attribute["id"] += shift
        for kind in ("tags", "shapes", "tracks"):
            for item in value.get(kind, ()):
                item["label_id"] += shift
                for keyframe in (item, *item.get("shapes", ())):
                    for attribute in keyframe["attributes"]:
                        attribute["spec_id"] += shift
        return json.dumps(value).encode()

    return change


def _moved_ids(stage: Stage, dataset: fo.Dataset) -> None:
    stage.proxy.on("GET", r"/api/labels|/annotations", proxies.rewrite(_other_ids(5000)), None)


def _moved_to_project(stage: Stage, dataset: fo.Dataset) -> None:
    from labelprop_cvat.backend.cvat import AttributeSpec, LabelSpec

    with stage.person() as client:
        (task,) = stage.tasks(dataset)
        specs = [
            LabelSpec(
                label.name,
                tuple(
                    AttributeSpec(a.name, a.mutable, a.input_type, a.values, a.default_value) for a in label.attributes
                ),
                label.type,
            )
            for label in client.labels(task)
        ]
        project = client.create_project(f"{dataset.name} project", specs).id
        client._session.json("PATCH", f"/api/tasks/{task}", json={"project_id": project})


def _spoiled(**values: Any) -> Callable[[Stage, fo.Dataset], None]:
    """One shape more on the way, that no editor of CVAT's makes."""

    def change(body: bytes) -> bytes:
        value = json.loads(body)
        value["shapes"].append({**value["shapes"][0], "id": 999_999, **values})
        return json.dumps(value).encode()

    def prepare(stage: Stage, dataset: fo.Dataset) -> None:
        stage.proxy.on("GET", r"/api/jobs/\d+/annotations", proxies.rewrite(change), None)

    return prepare


def _spoiled_known(body: bytes) -> bytes:
    """The first shape, which the run sent itself, is no mask any more."""
    value = json.loads(body)
    value["shapes"][0]["points"] = [1, 2, 3, 4, 5]
    return json.dumps(value).encode()


def _strays(stage: Stage, dataset: fo.Dataset) -> None:
    """Shapes on frames that do not exist, and a track with two keyframes on one frame: the server takes them all."""
    with stage.person() as client:
        (task,) = stage.tasks(dataset)
        label = next(label for label in client.labels(task) if label.name == "car")
        for job in client.jobs(task):
            mask = {"type": "mask", "points": [0, 4, 0, 0, 1, 1], "label_id": label.id, "attributes": []}
            box = {"type": "rectangle", "points": [1.0, 1.0, 9.0, 9.0], "outside": False, "attributes": []}
            track = {"label_id": label.id, "frame": 0, "attributes": []}
            payload = {
                "version": 0,
                "tags": [],
                "shapes": [{**mask, "frame": frame} for frame in (77, 1_000_000)],
                "tracks": [{**track, "shapes": [{**box, "frame": job.start_frame}] * 2}],
            }
            path = f"/api/jobs/{job.id}/annotations"
            client._session.json("PATCH", path, params={"action": "create"}, json=payload)


def _corrupt_image(stage: Stage) -> str:
    """A picture whose head can be read and whose end is missing: only the server finds out."""
    import cv2
    import numpy as np

    from benchmarks.faults_stage import FRAMES, SIZE

    paths = [stage.folder / f"{time.time_ns()}-{number}.jpg" for number in range(FRAMES)]
    for number, path in enumerate(paths):
        cv2.imwrite(str(path), np.random.default_rng(number).integers(0, 255, (*SIZE, 3), dtype=np.uint8))
    whole = paths[2].read_bytes()
    paths[2].write_bytes(whole[: len(whole) // 3])
    dataset = stage.dataset(paths)
    seen = stage.attempt(dataset, lambda: stage.annotate(dataset))
    paths[2].write_bytes(whole)
    stage.annotate(dataset)
    from benchmarks.faults_stage import ids_of

    return f"{seen}; again: {stage.finish(dataset, ids_of(dataset))}"


def _queue_that_stands(stage: Stage) -> str:
    """The server's import worker is not running."""
    from labelprop_cvat.backend.cvat import CVATClient

    def standing(body: bytes) -> bytes:
        return json.dumps({**json.loads(body), "status": "queued"}).encode()

    prepare = _on("GET", "/api/requests/.+", proxies.rewrite(standing), None, skip=1)
    with mock.patch.dict(CVATClient.upload_images.__kwdefaults__, wait=0.5):
        return _failing_annotate(prepare)(stage)


def _large_images(limit: int) -> Callable[[Stage], str]:
    """Pictures that do not fit together, or not even alone, into one request of the server's."""

    def provoke(stage: Stage) -> str:
        import cv2
        import numpy as np

        from labelprop_cvat.backend.cvat import CVATClient, LabelSpec, UploadFile

        stage.proxy.clear()
        files = []
        for number in range(4):
            path = stage.folder / f"large-{number}.png"
            cv2.imwrite(str(path), np.random.default_rng(number).integers(0, 255, (300, 400, 3), dtype=np.uint8))
            files.append(UploadFile(path.name, path))
        stage.proxy.on("*", "/data/", proxies.at_most(limit), None)
        with CVATClient(stage.proxy.url, _login()) as client:
            task = client.create_task("large", [LabelSpec("car")])
            client.upload_images(task.id, files, jobs=None)
            same = all(client.frame(task.id, n) == file.path.read_bytes() for n, file in enumerate(files))
            client.delete_task(task.id)
        return "complete" if same else "other pictures came back"

    return provoke


def _login() -> Any:
    from benchmarks.faults_stage import LOGIN
    from labelprop_cvat.backend.cvat import Credentials

    return Credentials(**LOGIN)


def _restarts(stage: Stage) -> str:
    """The server is restarted before each single call of a job."""
    dataset, original = _new(stage)
    stage.proxy.on("*", "/api/", proxies.first(stage.restart), None)
    stage.annotate(dataset)
    stage.draw(dataset)
    stage.load(dataset)
    return stage.verdict(dataset, original)


def _server_down(stage: Stage) -> str:
    """The server is stopped when the labels are to be loaded."""
    dataset, original = _new(stage)
    stage.annotate(dataset, url=stage.url)
    stage.draw(dataset)
    stage.stop()
    try:
        seen = stage.attempt(dataset, lambda: stage.load(dataset), tasks=False)
    finally:
        stage.start()
    stage.load(dataset)
    return f"{seen}; again: {stage.verdict(dataset, original)}"


def _away_for_a_while(stage: Stage) -> str:
    """The server is down for several attempts in the middle of an upload."""
    dataset, original = _new(stage)

    def refuse(proxy: Proxy, exchange: Exchange, wire: Wire) -> None:
        proxies.reset(wire)

    stage.proxy.on("*", "/annotations|/data", refuse, 3)
    stage.annotate(dataset)
    return stage.finish(dataset, original)


def _edited_meanwhile(stage: Stage) -> str:
    """A script reads a job's annotations; a person changes one object and deletes another; the script sends its own."""
    dataset, _ = _new(stage)
    stage.annotate(dataset)
    stage.draw(dataset)
    (task,) = stage.tasks(dataset)
    from labelprop_cvat.backend.cvat import CVATClient

    with CVATClient(stage.proxy.url, _login()) as script, stage.person() as person:
        job = script.jobs(task)[0].id
        before = script.annotations(job_id=job)["shapes"]
        mine, deleted, others = before[0], before[1], before[2]
        person.delete_annotations({"shapes": [deleted]}, job_id=job)
        person.update_annotations({"shapes": [{**others, "occluded": True}]}, job_id=job)
        script.update_annotations({"shapes": [{**mine, "occluded": True}, deleted]}, job_id=job)
        after = {s["id"]: s["occluded"] for s in person.annotations(job_id=job)["shapes"]}
    expected = {s["id"]: s["id"] in (mine["id"], others["id"]) for s in before if s["id"] != deleted["id"]}
    return "both edits are there, the deleted stays deleted" if after == expected else f"{after} instead of {expected}"


def _killed(step: Any, stride: int) -> Callable[[Stage], str]:
    """Killed right before and (with a stride of 1) right after each write of the ledger, and called again."""

    def provoke(stage: Stage) -> str:
        stage.proxy.clear()
        forks = stage.forks()
        for moment in range(0, 1000, stride):
            seen, died = _kill_once(stage, forks, step, moment)
            if seen != "complete":
                return f"killed at moment {moment}: {seen}"
            if not died:
                return "complete" if moment > 3 else f"only {moment} moments"
        return "never came to an end"

    return provoke


def _review(step: Any, stride: int) -> Callable[[Stage], str]:
    """The same for reviews."""

    def provoke(stage: Stage) -> str:
        from benchmarks.faults_review import killed_review

        return killed_review(step, stride)(stage)

    return provoke


def _is_uploaded(dataset: fo.Dataset, step: Any) -> bool:
    """Whether a killed ``annotate`` had done all: it is refused then, because the run exists."""
    from benchmarks.faults_stage import KEY

    dataset.reload()
    if step != "annotate" or KEY not in dataset.list_annotation_runs():
        return False
    results = dataset.load_annotation_results(KEY, cache=False)
    return results is not None and bool(results.ledger.uploaded)


def _kill_once(stage: Stage, forks: Any, step: Any, moment: int) -> tuple[str, bool]:
    from benchmarks.faults_stage import ids_of

    dataset = stage.dataset()
    dataset.persistent = True
    original = ids_of(dataset)
    try:
        if step == "load":
            stage.annotate(dataset)
            stage.draw(dataset)
        ended = forks.run(step, dataset.name, stage.proxy.url, moment)
        if ended == -9 and not _is_uploaded(dataset, step):
            again = forks.run(step, dataset.name, stage.proxy.url)
            if again != 0:
                return f"the second call ended with {again}", True
        elif ended not in (0, -9):
            return f"ended with {ended}", True
        dataset.reload()
        dataset._annotation_cache.clear()
        if step == "annotate":
            stage.draw(dataset)
            stage.load(dataset)
        return stage.verdict(dataset, original), ended == -9
    finally:
        dataset.delete()


def _responding(*answers: dict[str, Any], expected_calls: int) -> Callable[[Stage], str]:
    """A client whose reads are answered by ``responses``, without any network."""

    def provoke(stage: Stage) -> str:
        import responses

        from labelprop_cvat.backend.cvat import Credentials, CVATClient, CVATError

        url = "http://cvat.test"
        with responses.RequestsMock(assert_all_requests_are_fired=False) as wire:
            about = {"name": "Computer Vision Annotation Tool", "version": "2.54.1"}
            wire.get(f"{url}/api/server/about", json=about)
            for answer in answers:
                wire.get(f"{url}/api/tasks/1", **answer)
            with CVATClient(url, Credentials(token="a personal one")) as client:
                try:
                    outcome = client.task(1).name
                except CVATError as error:
                    outcome = type(error).__name__
            calls = sum(call.request.path_url == "/api/tasks/1" for call in wire.calls)
        return outcome if calls == expected_calls else f"{outcome} after {calls} calls"

    return provoke


def _with_responses() -> list[Case]:
    import requests
    import urllib3

    task = {"json": {"id": 1, "name": "the task"}}
    pool = urllib3.HTTPConnectionPool("cvat.test")
    refused = requests.ConnectionError(
        urllib3.exceptions.MaxRetryError(pool, "/", urllib3.exceptions.NewConnectionError(pool, "refused"))  # type: ignore[arg-type]
    )
    unknown = requests.ConnectionError(
        urllib3.exceptions.MaxRetryError(
            pool,
            "/",
            urllib3.exceptions.NameResolutionError("cvat.test", pool, socket.gaierror(-2, "unknown")),  # type: ignore[arg-type]
        )
    )
    rows: list[tuple[str, dict[str, Any], str]] = [
        ("connection refused", {"body": refused}, "the task"),
        ("DNS failure", {"body": unknown}, "the task"),
        ("connection reset", {"body": requests.ConnectionError("reset")}, "the task"),
        ("no answer in time", {"body": requests.ReadTimeout("slow")}, "the task"),
        ("half an answer", {"body": requests.exceptions.ChunkedEncodingError("cut")}, "the task"),
        ("half of the JSON", {"body": b'{"id": 1, "na', "content_type": "application/json"}, "the task"),
        ("a web page", {"body": "<html>", "content_type": "text/html"}, "the task"),
        ("401", {"status": 401}, "LoginRefused"),
        ("403", {"status": 403}, "PermissionRefused"),
        ("404", {"status": 404}, "NotFound"),
        ("409", {"status": 409}, "Invalid"),
        ("413", {"status": 413}, "PayloadTooLarge"),
        ("429", {"status": 429, "headers": {"Retry-After": "0"}}, "the task"),
        ("429 for an hour", {"status": 429, "headers": {"Retry-After": "3600"}}, "Throttled"),
        ("500", {"status": 500}, "the task"),
        ("502", {"status": 502}, "the task"),
        ("503", {"status": 503}, "the task"),
        ("504", {"status": 504}, "the task"),
    ]
    return [
        Case(
            fault,
            "read (responses)",
            expected,
            _responding(answer, task, expected_calls=2 if expected == "the task" else 1),
        )
        for fault, answer, expected in rows
    ]


# The table


def cases(stride: int = 1, review_stride: int | None = None) -> list[Case]:
    """All rows.

    Args:
        stride: 1 to kill right before and right after each write of the ledger, 2 to kill right before it only
        review_stride: the same for loads of reviews, which take longer; by default as ``stride``
    """
    gone = "Unreachable, nothing changed; again: complete"
    broken_reads: dict[str, Callable[[], Break]] = {
        "answers cut in half": lambda: proxies.cut_answer,
        "JSON cut in half": lambda: proxies.half_json,
        "web pages in place of answers": lambda: proxies.web_page,
    }
    rows = [
        Case("connection refused", "annotate", gone, _failing_annotate(_nothing, _closed_port)),
        Case(
            "DNS failure",
            "annotate",
            gone,
            _failing_annotate(_nothing, lambda stage: {"url": "http://no-such-host.invalid"}),
        ),
        Case("connection refused", "load", gone, _server_down),
        Case(
            "every connection reset",
            "load",
            "ConnectionCut, nothing changed; again: complete",
            _failing_load(_on("*", "/api/", lambda proxy, exchange, wire: proxies.reset(wire))),
        ),
        Case("server away for a while", WHOLE, "complete", _away_for_a_while),
        Case("server restarted before every call", WHOLE, "complete", _restarts),
        Case("reset in mid-upload", WHOLE, "complete", _job("POST", "/data/", proxies.cut_request(0.5), skip=1)),
        Case(
            "reset in mid-upload, again in each file",
            WHOLE,
            "complete",
            _each(lambda: proxies.cut_request(0.5), "POST PATCH", "/data/"),
        ),
        Case(
            "each write reset half-way",
            WHOLE,
            "complete",
            _each(lambda: proxies.cut_request(0.5), "POST PATCH", _WRITES),
        ),
        Case(
            "no answer to reads",
            WHOLE,
            "complete",
            _each(lambda: proxies.silence, "GET", _READS, 3, timeout=0.4),
        ),
        Case(
            "no answer to writes",
            WHOLE,
            "complete",
            _each(lambda: proxies.silence, "POST PATCH", _WRITES, 3, timeout=0.4),
        ),
        Case(
            "a byte every 0.1 s, once",
            WHOLE,
            "complete",
            _job("GET", "/annotations", proxies.drip(0.1), timeout=0.3),
        ),
        Case(
            "a byte every 0.1 s, always",
            "load",
            "Timeout, nothing changed; again: complete",
            _dripping_load,
        ),
    ]
    rows += [Case(name, WHOLE, "complete", _each(act, "GET", _READS)) for name, act in broken_reads.items()]
    rows += [
        Case(f"{name}, of writes", WHOLE, "complete", _each(act, "POST PATCH", _WRITES))
        for name, act in broken_reads.items()
    ]
    for status in (500, 502, 503, 504):
        rows += [
            Case(f"{status} to each read", WHOLE, "complete", _each(_before(status), "GET", _READS)),
            Case(f"{status} before each write", WHOLE, "complete", _each(_before(status), "POST PATCH", _WRITES)),
            Case(f"{status} after each write", WHOLE, "complete", _each(_after(status), "POST PATCH", _WRITES)),
        ]
    rows += [
        Case(
            "500 to everything that is written",
            "annotate",
            "ServerFailure, nothing changed; again: complete",
            _failing_annotate(_on("POST", _WRITES, proxies.status_before(500))),
        ),
        Case("401: the login ends in an upload", WHOLE, "complete", _job("PATCH", "/annotations", _log_out)),
        Case(
            "401: the login ends before every call",
            WHOLE,
            "complete",
            _each(lambda: _log_out, "GET POST PATCH", _READS),
        ),
        Case("403: the session has expired", WHOLE, "complete", _job("GET", "/api/labels", _before_stale())),
        Case(
            "401: the access token is revoked",
            "annotate",
            "LoginRefused, the run is kept; again: complete",
            _token_revoked,
        ),
        Case(
            "403 to a new task",
            "annotate",
            "PermissionRefused, nothing changed; again: complete",
            _failing_annotate(_on("POST", "/api/tasks$", proxies.status_before(403))),
        ),
        Case(
            "404: the task is deleted in mid-upload",
            "annotate",
            "NotFound, nothing changed; again: complete",
            _failing_annotate(_task_deleted_in_upload),
        ),
        Case(
            "404: the project is deleted",
            "annotate",
            "ConfigurationError, nothing changed; again: complete",
            _project_deleted,
        ),
        Case(
            "404: the task is deleted",
            "load",
            "DataError, nothing changed; forgotten: 4 labels as before",
            _task_deleted,
        ),
        Case(
            "404: a job is gone",
            "load",
            "DataError, nothing changed; again: complete",
            _failing_load(_on("GET", "/api/jobs[?]", proxies.rewrite(_no_jobs))),
        ),
        Case("404: a label is deleted", "load", "DataError, nothing changed", _label_gone),
        Case(
            "409 to the end of an upload",
            "annotate",
            "Invalid, nothing changed; again: complete",
            _failing_annotate(_on("POST", "/data/", proxies.status_before(409), None, 2)),
        ),
        Case("413 to pictures together", "client", "complete", _large_images(600_000)),
        Case("413 to a single picture", "client", "complete", _large_images(150_000)),
        Case("413 to annotations", WHOLE, "complete", _job("PATCH", "/annotations", proxies.at_most(900), None)),
        Case(
            "413 to a single annotation",
            "annotate",
            "PayloadTooLarge, nothing changed; again: complete",
            _failing_annotate(_on("PATCH", "/annotations", proxies.at_most(50))),
        ),
        Case(
            "429 with Retry-After",
            WHOLE,
            "complete",
            _job("*", _READS, proxies.status_before(429, "Retry-After: 1\r\n"), 2, skip=3),
        ),
        Case(
            "429 for an hour",
            "annotate",
            "Throttled, nothing changed; again: complete",
            _failing_annotate(_on("POST", "/api/tasks$", proxies.status_before(429, "Retry-After: 3600\r\n"))),
        ),
        Case(
            "a picture that the server cannot read",
            "annotate",
            "DataFailed, nothing changed; again: complete",
            _corrupt_image,
        ),
        Case(
            "a requests queue that never finishes",
            "annotate",
            "Timeout, nothing changed; again: complete",
            _queue_that_stands,
        ),
        Case("the task is moved to a project", "load", "complete", _tolerant_load(_moved_to_project)),
        Case("label ids changed", "load", "complete", _tolerant_load(_moved_ids)),
        Case(
            "concurrent edits before a re-upload",
            "client",
            "both edits are there, the deleted stays deleted",
            _edited_meanwhile,
        ),
        Case("duplicate keyframes, frames out of range", "load", "complete", _tolerant_load(_strays, {0: 1, 2: 1})),
        Case("a mask whose runs lie", "load", "complete", _tolerant_load(_spoiled(points=[10**15, 0, 0, 5, 5]))),
        Case(
            "a mask of 10^10 pixels",
            "load",
            "complete",
            _tolerant_load(_spoiled(points=[0, 10**10, 0, 0, 10**5 - 1, 10**5 - 1])),
        ),
        Case(
            "a shape of the run's own that nobody can read",
            "load",
            "DataError, nothing changed; again: complete",
            _failing_load(_on("GET", r"/api/jobs/\d+/annotations", proxies.rewrite(_spoiled_known))),
        ),
        Case(
            "points that are no numbers",
            "load",
            "complete",
            _tolerant_load(_spoiled(type="polygon", points=[1e999] * 6)),
        ),
        Case(
            "an answer that unpacks to gigabytes",
            "load",
            "AnswerTooLarge, nothing changed; again: complete",
            _failing_load(_on("GET", "/annotations", proxies.unpacks_to(300))),
        ),
        Case(
            "an answer that announces gigabytes",
            "load",
            "AnswerTooLarge, nothing changed; again: complete",
            _failing_load(_on("GET", "/annotations", proxies.announces(2**33))),
        ),
        Case(
            "a redirect to another host",
            "load",
            "NotCVAT, nothing changed; again: complete",
            _failing_load(_on("GET", "/annotations", proxies.status_before(302, "Location: http://evil.test/\r\n"))),
        ),
        Case("killed at each write of the ledger", "annotate", "complete", _killed("annotate", stride), slow=True),
        Case("killed at each write of the ledger", "load", "complete", _killed("load", stride), slow=True),
        Case(
            "killed at each write of the ledger",
            "review goes out",
            "complete",
            _review("out", stride),
            slow=True,
        ),
        Case(
            "killed at each write of the ledger",
            "review comes back",
            "complete",
            _review("back", review_stride or stride),
            slow=True,
        ),
    ]
    return rows + _with_responses()


def _before(status: int) -> Callable[[], Break]:
    return lambda: proxies.status_before(status)


def _after(status: int) -> Callable[[], Break]:
    return lambda: proxies.status_after(status)


def _before_stale() -> Break:
    return proxies.status_before(403, detail="Authentication credentials were not provided.")


def _dripping_load(stage: Stage) -> str:
    dataset, original = _new(stage)
    stage.annotate(dataset, timeout=0.15)
    stage.draw(dataset)
    stage.proxy.on("GET", "/annotations", proxies.drip(0.1), None)
    seen = stage.attempt(dataset, lambda: stage.load(dataset))
    stage.proxy.clear()
    stage.load(dataset)
    return f"{seen}; again: {stage.verdict(dataset, original)}"


def play(case: Case, stage: Stage) -> str:
    """Provokes a fault and says what was seen; an error that nobody expected is what was seen, too."""
    try:
        return case.provoke(stage)
    except Exception as error:
        return f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
    finally:
        stage.proxy.clear()


def main() -> int:
    """Prints the table. Returns 1 when a row is not as it should be."""
    parser = argparse.ArgumentParser(prog="benchmarks.faults", description=__doc__.split("\n")[0] if __doc__ else None)
    parser.add_argument("--only", default="", help="play the rows whose fault or place holds this text")
    parser.add_argument("--quick", action="store_true", help="leave out the rows that take long")
    options = parser.parse_args()

    from labelprop_cvat.demo.database import PrivateDatabase

    database = PrivateDatabase()
    os.environ.update(FIFTYONE_DATABASE_URI=database.uri, FIFTYONE_DATABASE_VALIDATION="false")
    try:
        return _print_table(options.only.lower(), options.quick)
    finally:
        database.stop()


def _print_table(only: str, quick: bool) -> int:
    from rich.console import Console
    from rich.table import Table

    from benchmarks.faults_stage import Stage

    chosen = [c for c in cases() if only in f"{c.fault} {c.where}".lower() and not (quick and c.slow)]
    table = Table("fault", "where", "expected", "seen", "ok", "s", title="Faults between FiftyOne and CVAT")
    wrong = 0
    with Stage() as stage:
        for case in chosen:
            started = time.monotonic()
            seen = play(case, stage)
            good = seen == case.expected
            wrong += not good
            seconds = f"{time.monotonic() - started:.1f}"
            table.add_row(case.fault, case.where, case.expected, seen, "yes" if good else "NO", seconds)
    Console(width=None if sys.stdout.isatty() else 180).print(table)
    print(f"{len(chosen) - wrong} of {len(chosen)} rows as expected")
    return 1 if wrong else 0


if __name__ == "__main__":
    raise SystemExit(main())

__all__ = ["WHOLE", "Case", "cases", "play"]
