"""Ctrl-C at a real process in the middle of its work: what is finished stays, and the same command goes on."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import fiftyone as fo
import pytest
from fixtures_roundtrip import annotate_by_script, image_dataset, write_images

from labelprop_cvat.backend.local_cvat import LocalCVAT
from labelprop_cvat.cli import main

FRAMES = 8

# Commands one after the other, with an engine that stops for good in the second segment, and says so by a file.
STUCK = """
import json, signal, sys, time
from pathlib import Path
from labelprop_cvat.cli import main
from labelprop_cvat.propagation.propagator import get_propagator, register_propagator

class Stuck:
    def __init__(self):
        self.inner = get_propagator("hold")
        self.spec = self.inner.spec

    def propagate(self, frames, prompts, span):
        for found in self.inner.propagate(frames, prompts, span):
            if span.start > 0:
                marker.touch()
                time.sleep(60)
            yield found

register_propagator("stuck", Stuck)
for command in json.loads(sys.argv[1]):
    signal.signal(signal.SIGINT, signal.default_int_handler)
    marker, sys.argv[1:] = Path(command[0]), command[1:]
    code = main()
    sys.stderr.write(f"exit code {code}\\n")
    sys.stdout.write("---")
"""


def interrupted(*commands: list[str]) -> list[tuple[str, str]]:
    """Runs commands in a process of its own and presses Ctrl-C in the middle of each.

    Args:
        commands: the file by which each says that it is in its middle, and its words

    Returns:
        what each wrote to standard output, and to standard error with its exit code at the end
    """
    process = subprocess.Popen(
        [sys.executable, "-c", STUCK, json.dumps(commands)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    for marker, *_ in commands:
        end = time.monotonic() + 90
        while not Path(marker).exists() and process.poll() is None and time.monotonic() < end:
            time.sleep(0.05)
        process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    return list(zip(out.split("---"), re.findall(r".*?exit code \d+\n", err, re.DOTALL), strict=False))


def filled(dataset: fo.Dataset, field: str) -> list[bool]:
    dataset.reload()
    return [bool(labels) for labels in dataset.sort_by("number").values(f"{field}.detections")]


def test_what_is_finished_stays_and_the_same_command_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    dataset = image_dataset(write_images(tmp_path / "frames", FRAMES))
    dataset.persistent = True
    words = [dataset.name, "--sort-field", "number", "--segments-field", "parts"]
    assert main(["segment", *words, "--method", "fixed:4"]) == 0
    box = fo.Detection(label="person", index=1, bounding_box=[0.2, 0.2, 0.3, 0.5])
    for sample in dataset.match({"number": {"$in": [0, 4]}}):
        sample["boxes"] = fo.Detections(detections=[box.copy()])
        sample.save()
    with LocalCVAT(anonymous_rate=None) as server:
        for name, value in (("URL", server.url), ("USERNAME", server.username), ("PASSWORD", server.password)):
            monkeypatch.setenv(f"FIFTYONE_CVAT_{name}", str(value))
        labels = ["--label-field", "objects", "--label-type", "instances", "--classes", "person,car"]
        assert main(["annotate", words[0], "run", *labels, *words[1:], "--exemplars", "first", "--engine", "hold"]) == 0
        annotate_by_script(server, dataset.load_annotation_results("run"))
        propagate, load = interrupted(
            [str(tmp_path / "p"), "propagate", *words, "--input-field", "boxes", "--engine", "stuck"],
            [str(tmp_path / "l"), "load", words[0], "run", "--engine", "stuck", "--json"],
        )
        assert "labelprop: interrupted. The segments that were finished are in the output field" in propagate[1]
        assert propagate[0] == ""
        assert filled(dataset, "boxes_propagated") == [True] * 4 + [False] * 4
        assert "What came home stays, and so do the segments that were filled; the same command goes on" in load[1]
        assert json.loads(load[0])["error"]["type"] == "Interrupted"
        assert filled(dataset, "objects_propagated") == [True] * 4 + [False] * 4
        for _, said in (propagate, load):
            assert said.endswith("exit code 130\n")
            assert "Traceback" not in said

        before = dataset.sort_by("number").limit(4).values("objects_propagated.detections.id")
        dataset._annotation_cache.clear()
        assert main(["load", words[0], "run"]) == 0
        assert filled(dataset, "objects_propagated") == [True] * 8
        assert dataset.sort_by("number").limit(4).values("objects_propagated.detections.id") == before
    dataset.delete()
