"""The commands that work on datasets and runs, against a database and a local CVAT."""

from __future__ import annotations

import functools
import json
import signal
import subprocess
import sys
from pathlib import Path

import cv2
import fiftyone as fo
import numpy as np
import pytest
from PIL import Image

import labelprop_cvat  # noqa: F401
import labelprop_cvat.workflow as workflow
from labelprop_cvat.backend.cvat import Credentials, CVATClient
from labelprop_cvat.backend.cvat.errors import NotFound
from labelprop_cvat.backend.local_cvat import LocalCVAT
from labelprop_cvat.backend.local_cvat.annotator import ScriptedAnnotator, TruthObject
from labelprop_cvat.cli import main
from labelprop_cvat.doctor import Status, check_cvat
from labelprop_cvat.errors import ConfigurationError
from labelprop_cvat.propagation.types import ObjectMask

ROOT = Path(__file__).resolve().parents[1]
FRAMES = 8


def texture(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 255, (64, 96, 3)).astype(np.uint8)


def truth(index: int) -> ObjectMask:
    return ObjectMask(10 + 3 * index, 20, np.ones((18, 22), bool))


@pytest.fixture(scope="module")
def frames(tmp_path_factory) -> Path:
    """A textured square that moves right over a still background, and its masks."""
    folder = tmp_path_factory.mktemp("clip")
    (folder / "frames").mkdir()
    (folder / "masks").mkdir()
    ground, square = cv2.GaussianBlur(texture(1), (0, 0), 2), texture(2)
    for index in range(FRAMES):
        image = ground.copy()
        mask = truth(index).to_full((64, 96))
        image[mask] = square[:18, :22].reshape(-1, 3)
        cv2.imwrite(str(folder / "frames" / f"{index:03d}.png"), image)
        Image.fromarray(mask.astype(np.uint8) * 4).save(folder / "masks" / f"{index:03d}.png")
    return folder / "frames"


@pytest.fixture
def dataset(frames):
    dataset = fo.Dataset()
    paths = sorted(frames.iterdir())
    dataset.add_samples([fo.Sample(filepath=str(path), number=number) for number, path in enumerate(paths)])
    yield dataset
    dataset.delete()


@pytest.fixture(scope="module")
def server():
    with LocalCVAT(users={"me": "only-here"}) as server:
        yield server


@pytest.fixture
def configured(server, monkeypatch):
    monkeypatch.setenv("FIFTYONE_CVAT_URL", server.url)
    monkeypatch.setenv("FIFTYONE_CVAT_USERNAME", "me")
    monkeypatch.setenv("FIFTYONE_CVAT_PASSWORD", "only-here")
    return server


def test_segment_and_select(dataset, capsys):
    words = [dataset.name, "--sort-field", "number", "--segments-field", "segments"]
    assert main(["segment", *words, "--method", "fixed:4"]) == 0
    assert "2 segments in segments" in capsys.readouterr().out
    assert main(["select", *words, "--method", "every:2"]) == 0
    assert "4 exemplars in segments" in capsys.readouterr().out
    dataset.reload()
    assert len(dataset.exists("segments")) == FRAMES


def test_propagate_and_a_saved_view(dataset, capsys):
    for sample in dataset:
        if sample["number"] in (0, 7):
            box = [(10 + 3 * sample["number"]) / 96, 20 / 64, 22 / 96, 18 / 64]
            sample["objects"] = fo.Detections(detections=[fo.Detection(label="square", bounding_box=box, index=1)])
            sample.save()
    dataset.save_view("start", dataset.sort_by("number").limit(4))
    words = ["propagate", dataset.name, "--input-field", "objects", "--sort-field", "number"]
    assert main([*words, "--view", "start", "--output-field", "some", "--engine", "hold"]) == 0
    assert "4 frames in some" in capsys.readouterr().out
    assert main([*words, "--engine", "interpolate"]) == 0
    assert f"{FRAMES} frames in objects_propagated, by interpolate, in " in capsys.readouterr().out
    dataset.reload()
    assert dataset.count("some.detections") == 4
    middle = dataset.match(fo.ViewField("number") == 4).first()["objects_propagated"].detections[0]
    assert middle.bounding_box[0] * 96 == pytest.approx(22, abs=0.5)
    assert main([*words, "--view", "nonsense"]) == 1
    assert "has no saved view 'nonsense'; it has: start" in capsys.readouterr().err


def annotate(dataset, server) -> None:
    results = dataset.annotate(
        "run1",
        backend="labelprop",
        label_field="objects",
        label_type="instances",
        classes=["square"],
        sort_field="number",
        exemplars="every:4",
        engine="hold",
    )
    with CVATClient(server.url, Credentials(username="me", password="only-here")) as client:
        person = ScriptedAnnotator(client, lambda _, name: [TruthObject(4, "square", mask=truth(int(name[:3])))])
        for task_id in {row["task_id"] for row in results.get_status()}:
            person.annotate_task(task_id)


def test_status_load_and_cleanup(dataset, configured, capsys):
    annotate(dataset, configured)
    capsys.readouterr()
    assert main(["status", dataset.name, "run1", "--json"]) == 0
    (job,) = json.loads(capsys.readouterr().out)["jobs"]
    assert (job["state"], job["collected"], job["frames"]) == ("completed", False, 2)
    assert main(["load", dataset.name, "run1"]) == 0
    assert " filled in objects_propagated by hold." in capsys.readouterr().out
    dataset.reload()
    assert dataset.count("objects_propagated.detections") == FRAMES
    assert set(dataset.distinct("objects_propagated.detections.index")) == {4}
    capsys.readouterr()
    assert main(["status", dataset.name, "run1"]) == 0
    assert "Run run1" in capsys.readouterr().out
    with CVATClient(configured.url, Credentials(username="me", password="only-here")) as client:
        assert client.task(job["task_id"]).id == job["task_id"]
        assert main(["cleanup", dataset.name, "run1"]) == 0
        with pytest.raises(NotFound):
            client.task(job["task_id"])
    assert dataset.count("objects_propagated.detections") == FRAMES


def test_review_and_its_history(dataset, configured, capsys, tmp_path):
    annotate(dataset, configured)
    assert main(["review", dataset.name, "run1"]) == 3
    assert "Nothing to review: no segment is filled yet" in capsys.readouterr().out
    assert main(["load", dataset.name, "run1"]) == 0
    capsys.readouterr()
    assert main(["review", dataset.name, "run1", "--frames", "every:4", "--as", "polygons", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    (job,) = found["jobs"]
    assert (found["round"], job["kind"], job["stage"], job["collected"]) == (2, "review", "validation", False)
    assert job["frames"] < FRAMES
    with CVATClient(configured.url, Credentials(username="me", password="only-here")) as client:
        there = client.annotations(job_id=job["job_id"])
        assert (len(there["tracks"]), len(there["shapes"])) == (1, 0)
        client.update_job(job["job_id"], state="completed")
    assert main(["load", dataset.name, "run1"]) == 0
    label = dataset.load_annotation_results("run1").get_status(refresh=False)[0]["segment"]
    assert main(["review", dataset.name, "run1", "--segments", label]) == 0
    told = capsys.readouterr().out
    assert f"Round 3 is in CVAT for review: {FRAMES} frames in 1 job, with no doubts" in told
    assert f"{configured.url}/tasks/" in told
    assert main(["review", dataset.name, "run1", "--history"]) == 0
    assert "Run run1: rounds" in capsys.readouterr().out
    plot = tmp_path / "loop.png"
    assert main(["review", dataset.name, "run1", "--history", "--plot", str(plot), "--json"]) == 0
    rounds = json.loads(capsys.readouterr().out)["rounds"]
    assert [(row["kind"], row["collected"]) for row in rounds] == [("exemplars", 1), ("review", 1), ("review", 0)]
    assert plot.stat().st_size > 1000


def test_what_cannot_be_reviewed_is_a_sentence(dataset, configured, capsys):
    annotate(dataset, configured)
    assert main(["load", dataset.name, "run1"]) == 0
    assert workflow.review(dataset.limit(1), "run1") == 2
    for words, sentence in (
        (["--frames", "some"], "'all' frames of a segment, 'every:n'"),
        (["--segments", "nowhere"], "has no temporal segment 'nowhere'"),
    ):
        assert main(["review", dataset.name, "run1", *words]) == 1
        assert sentence in capsys.readouterr().err
    for words, sentence in (
        (["--plot", "loop.png"], "give --history with it"),
        (["--history", "--frames", "all", "--as", "polygons"], "leave out --frames, --as"),
    ):
        with pytest.raises(SystemExit) as exit_:
            main(["review", dataset.name, "run1", *words])
        assert exit_.value.code == 2
        assert sentence in capsys.readouterr().err
    with pytest.raises(ConfigurationError, match="no annotation run 'run2'; it has: run1"):
        workflow.review(dataset, "run2")


def test_what_does_not_exist_is_named(dataset, capsys):
    assert main(["load", "nowhere", "run1"]) == 1
    assert "no dataset 'nowhere'" in capsys.readouterr().err
    assert main(["load", dataset.name, "run1"]) == 1
    assert "no annotation run 'run1'; it has: none" in capsys.readouterr().err


def test_doctor_asks_cvat(server, monkeypatch):
    monkeypatch.setenv("FIFTYONE_CVAT_PASSWORD", "only-here")
    reached, login = check_cvat(server.url, "me")
    assert (reached.status, login.status) == (Status.OK, Status.OK)
    assert server.url in reached.detail
    assert "me" in login.detail
    monkeypatch.setenv("FIFTYONE_CVAT_PASSWORD", "wrong-one")
    reached, login = check_cvat(server.url, "me")
    assert (reached.status, login.status) == (Status.OK, Status.FAILED)
    assert login.remedy
    assert "wrong-one" not in f"{login}"


def test_serve_says_where_it_is_and_stops_on_ctrl_c(tmp_path):
    command = [sys.executable, "-m", "labelprop_cvat.cli", "cvat", "serve", "--directory", str(tmp_path), "--port", "0"]
    # Whoever starts the tests in the background may have set Ctrl-C to be ignored, which children inherit.
    heed = functools.partial(signal.signal, signal.SIGINT, signal.SIG_DFL)
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, preexec_fn=heed
    ) as process:
        lines = [process.stdout.readline() for _ in range(5)]
        settings = dict(line.split("export ")[1].strip().split("=") for line in lines if "export " in line)
        credentials = Credentials(settings["FIFTYONE_CVAT_USERNAME"], settings["FIFTYONE_CVAT_PASSWORD"])
        with CVATClient(settings["FIFTYONE_CVAT_URL"], credentials) as client:
            assert client.whoami().username == "admin"
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=20) in (0, 130)


def test_a_port_that_is_taken_is_a_sentence(server, tmp_path, capsys):
    port = server.url.rsplit(":", 1)[1]
    assert main(["cvat", "serve", "--directory", str(tmp_path), "--port", port]) == 1
    assert f"cannot start on port {port}" in capsys.readouterr().err


def test_the_round_trip_example(frames):
    masks = frames.parent / "masks"
    words = [str(frames), "--masks", str(masks), "--classes", "square", "--exemplars", "every:4"]
    done = subprocess.run(
        [sys.executable, str(ROOT / "examples" / "round_trip.py"), *words], capture_output=True, text=True, timeout=200
    )
    assert done.returncode == 0, done.stderr
    assert f"2 frames were annotated; {FRAMES} of {FRAMES} are labelled now." in done.stdout
    assert "'propagated': 6" in done.stdout
