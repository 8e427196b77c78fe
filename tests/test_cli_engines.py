"""What a person at a terminal is told of the engine that fills the frames."""

from __future__ import annotations

import logging
import re
from pathlib import Path

import fiftyone as fo
import pytest
from fixtures_roundtrip import image_dataset, write_images

from labelprop_cvat.cli import main


def test_the_engine_that_auto_takes_is_said_and_why(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    dataset = image_dataset(write_images(tmp_path, 3))
    sample = dataset.sort_by("number").first()
    box = fo.Detection(label="person", index=1, bounding_box=[0.2, 0.2, 0.3, 0.5])
    sample["objects"] = fo.Detections(detections=[box])
    sample.save()
    logger = logging.getLogger("labelprop_cvat.propagation")
    before = logger.level, list(logger.handlers)
    words = ["propagate", "--dataset", dataset.name, "--sort-field", "number", "--input-field", "objects"]
    assert main([*words, "--engine-option", "max_pixels=10000"]) == 0
    said = capsys.readouterr()
    assert "engine='auto' takes flow: only it has the option 'max_pixels'." in said.err
    assert "3 frames in objects_propagated, by flow" in said.out
    assert (logger.level, logger.handlers) == before
    assert main([*words, "--engine", "flow", "--engine-option", "max_pixel=9"]) == 1
    assert "'flow' has no option 'max_pixel'; 'max_pixels' is meant, perhaps." in capsys.readouterr().err
    dataset.delete()


def test_one_segment_is_no_plural(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    dataset = image_dataset(write_images(tmp_path, 3))
    words = [dataset.name, "--sort-field", "number", "--segments-field", "parts"]
    assert main(["segment", *words]) == 0
    assert main(["select", *words, "--method", "first"]) == 0
    assert re.findall("^1 .*$", capsys.readouterr().out, re.MULTILINE) == ["1 segment in parts", "1 exemplar in parts"]
    dataset.delete()
