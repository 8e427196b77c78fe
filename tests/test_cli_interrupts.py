"""Ctrl-C at a real process in the middle of its work: what is finished stays, and the same command goes on."""

from __future__ import annotations

import functools
import json
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

# The command line with an engine that stops for good in the second segment, and says so by a file.
STUCK = """
import sys, time
from pathlib import Path
from labelprop_cvat.cli import main
from labelprop_cvat.propagation.propagator import get_propagator, register_propagator

marker = Path(sys.argv.pop(1))

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
sys.exit(main())
"""


class Command:
    """A command in a process of its own, which gets stuck half-way."""

    def __init__(self, marker: Path, *words: str) -> None:
        # Whoever starts the tests in the background may have set Ctrl-C to be ignored, which children inherit.
        heed = functools.partial(signal.signal, signal.SIGINT, signal.SIG_DFL)
        self._marker = marker
        self._process = subprocess.Popen(
            [sys.executable, "-c", STUCK, str(marker), *words],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            preexec_fn=heed,
        )

    def interrupted(self) -> tuple[int, str, str]:
        """Presses Ctrl-C in the middle of the work; returns exit code, standard output and standard error."""
        end = time.monotonic() + 90
        while not self._marker.exists() and self._process.poll() is None and time.monotonic() < end:
            time.sleep(0.05)
        self._process.send_signal(signal.SIGINT)
        out, err = self._process.communicate(timeout=30)
        return self._process.returncode, out, err


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
        # Both at the same time: most of it is the import of FiftyOne.
        propagate = Command(tmp_path / "p", "propagate", *words, "--input-field", "boxes", "--engine", "stuck")
        load = Command(tmp_path / "l", "load", words[0], "run", "--engine", "stuck", "--json")

        code, out, err = propagate.interrupted()
        assert (code, out) == (130, "")
        assert "labelprop: interrupted. The segments that were finished are in the output field" in err
        assert "Traceback" not in err
        assert filled(dataset, "boxes_propagated") == [True] * 4 + [False] * 4

        code, out, err = load.interrupted()
        assert code == 130
        assert json.loads(out)["error"]["type"] == "Interrupted"
        assert "What came home stays, and so do the segments that were filled; the same command goes on" in err
        assert "Traceback" not in err
        assert filled(dataset, "objects_propagated") == [True] * 4 + [False] * 4

        before = dataset.sort_by("number").limit(4).values("objects_propagated.detections.id")
        dataset._annotation_cache.clear()
        assert main(["load", words[0], "run"]) == 0
        assert filled(dataset, "objects_propagated") == [True] * 8
        assert dataset.sort_by("number").limit(4).values("objects_propagated.detections.id") == before
    dataset.delete()
