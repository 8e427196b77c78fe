"""What people may do to SAM 2 that nobody planned for."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from fixtures_roundtrip import annotate_by_script, image_dataset, login, write_images
from fixtures_sam2 import CountingFrames, noise_frames

import labelprop_cvat  # noqa: F401 - registers the backend
from labelprop_cvat.backend.local_cvat import LocalCVAT
from labelprop_cvat.errors import ConfigurationError, DataError
from labelprop_cvat.propagation._gaps import Gap
from labelprop_cvat.propagation.frames import ArraySource, FrameSource, Image
from labelprop_cvat.propagation.propagator import get_propagator
from labelprop_cvat.propagation.sam2._answers import AnswerMaker, quality
from labelprop_cvat.propagation.sam2._passes import FrameSightings, Sighting
from labelprop_cvat.propagation.sam2._tracker import Prediction
from labelprop_cvat.propagation.sam2.engine import Sam2Propagator
from labelprop_cvat.propagation.sam2.model import Sam2Model
from labelprop_cvat.propagation.sam2.options import SEMANTICS, Sam2Options
from labelprop_cvat.propagation.sam2.weights import find_checkpoint, model_info
from labelprop_cvat.propagation.types import FrameObjects, ObjectMask, Prompt, Segment


@pytest.fixture(scope="module")
def frames() -> ArraySource:
    return noise_frames(4)


def block(x: int, y: int, width: int, height: int) -> ObjectMask:
    return ObjectMask(x, y, np.ones((height, width), dtype=np.bool_))


def filled(
    model: Sam2Model, frames: FrameSource, prompts: Sequence[Prompt], length: int = 4, **options: object
) -> list[FrameObjects]:
    engine = Sam2Propagator(Sam2Options(image_size=model.image_size, **options), model=model)
    return list(engine.propagate(frames, prompts, Segment(0, length)))


@pytest.mark.parametrize("semantics", SEMANTICS)
def test_what_a_person_said_of_a_frame_stands(small_sam2_model: Sam2Model, frames: ArraySource, semantics: str) -> None:
    outside = block(500, 500, 4, 4)
    said = [
        Prompt(0, 1, absent=True),
        Prompt(1, 1, mask=block(10, 10, 30, 20)),
        Prompt(3, 1, absent=True),
        Prompt(0, 2, mask=outside),
        Prompt(2, 2, mask=block(60, 40, 30, 20)),
    ]
    found = filled(small_sam2_model, frames, said, semantics=semantics)
    assert [1 in one.objects for one in found] == [False, True, True, False]
    assert (found[0].objects[2].mask, found[0].objects[2].keyframe) == (outside, True)


def test_half_precision(small_sam2_model: Sam2Model, frames: ArraySource) -> None:
    prompts = [Prompt(0, 1, mask=block(10, 10, 30, 20)), Prompt(0, 2, box=(50, 20, 90, 60))]
    (exact, *halves) = (
        filled(Sam2Model(small_sam2_model.network, small_sam2_model.info, dtype), frames, prompts, 2)
        for dtype in (torch.float32, torch.float16, torch.bfloat16)
    )
    for half in halves:
        assert [sorted(one.objects) for one in half] == [[1, 2]] * 2
        for one, other in zip(half, exact, strict=True):
            masks = [answer.objects[1].mask for answer in (one, other)]
            first, second = (mask.to_full(frames.size) for mask in masks if mask is not None)
            assert (first & second).sum() / (first | second).sum() > 0.8


@pytest.mark.parametrize("semantics", SEMANTICS)
@pytest.mark.parametrize(
    "prompts",
    [
        [],
        [Prompt(2, 1, absent=True)],
        [Prompt(number, 1, mask=block(3, 3, 5, 5)) for number in range(4)],
        [Prompt(0, 1, box=(900, 900, 950, 950))],
    ],
    ids=["nothing", "absent", "every frame", "outside"],
)
def test_weights_are_not_loaded_where_nothing_is_left_to_fill(
    frames: ArraySource, prompts: list[Prompt], semantics: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = Sam2Propagator(Sam2Options(semantics=semantics))
    monkeypatch.setattr(engine, "load", lambda: pytest.fail("weights were loaded"))
    found = list(engine.propagate(frames, prompts, Segment(0, 4)))
    shown = {(prompt.frame, prompt.object_id) for prompt in prompts if not prompt.absent}
    assert {(one.frame, number) for one in found for number in one.objects} == shown
    assert [one.frame for one in found] == [0, 1, 2, 3]


def test_numbers_of_objects_may_be_large(small_sam2_model: Sam2Model, frames: ArraySource) -> None:
    prompts = [Prompt(0, 2**40, mask=block(10, 10, 30, 20)), Prompt(0, 2, mask=block(60, 40, 30, 20))]
    assert [sorted(one.objects) for one in filled(small_sam2_model, frames, prompts, 2)] == [[2, 2**40]] * 2


def test_only_a_person_is_sure() -> None:
    saturated = Prediction(np.zeros((2, 2), np.float32), iou=1.0, score=100.0)
    assert 0.99 < quality(saturated) < 1


@pytest.mark.parametrize("logits", [(18.0, 25.0), (25.0, 18.0)])
def test_the_surer_of_two_sure_objects_gets_the_pixels(logits: tuple[float, float]) -> None:
    prompts = {number: Prompt(0, number, mask=block(0, 0, 4, 4)) for number in (1, 2)}
    sightings = {
        number: Sighting(
            Gap(number, 1, 2, prompts[number], None),
            Prediction(np.full((32, 32), value, np.float32), iou=0.9, score=5.0, exemplars=(0,)),
            None,
        )
        for number, value in enumerate(logits, start=1)
    }
    maker = AnswerMaker({0: prompts}, (64, 64), Sam2Options())
    (winner,) = maker.answer(FrameSightings(1, sightings, {})).objects
    assert winner == 1 + int(np.argmax(logits))


def test_few_open_files_do_for_many_objects(small_sam2_model: Sam2Model, frames: ArraySource) -> None:
    resource = pytest.importorskip("resource", reason="Only POSIX systems have limits of this kind")
    prompts = [
        Prompt(frame, number, mask=block(number, 2 * number, 20, 15)) for number in range(1, 10) for frame in (0, 2)
    ]
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with Path(os.devnull).open() as newest:
        resource.setrlimit(resource.RLIMIT_NOFILE, (newest.fileno() + 5, hard))
        try:
            found = filled(small_sam2_model, frames, prompts, 3, overlaps="keep")
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert [len(one.objects) for one in found] == [9] * 3


class EndsEarly(CountingFrames):
    """A source that says it has more frames than it gives."""

    def read(self, start: int, stop: int, step: int = 1) -> Iterator[tuple[int, Image]]:
        return super().read(start, min(stop, 2), step)


def test_a_source_that_ends_early(small_sam2_model: Sam2Model, frames: ArraySource) -> None:
    with pytest.raises(DataError, match="Frame 2 can't be read"):
        filled(small_sam2_model, EndsEarly(frames), [Prompt(0, 1, mask=block(10, 10, 30, 20))])


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"checkpoint": 5}, "checkpoint must be the path of a file, got 5"),
        ({"int8": "no"}, "int8 must be True or False, got 'no'"),
        ({"compile": 1}, "compile must be True or False"),
        ({"masks_from_boxes": "yes"}, "masks_from_boxes must be True or False"),
        ({"chekpoint": "a.pt"}, "no option 'chekpoint'; 'checkpoint' is meant, perhaps. Its options are model, check"),
        ({"qqqqqq": 1}, "no option 'qqqqqq'. Its options are model"),
    ],
)
def test_options_of_the_wrong_kind(options: dict[str, object], said: str) -> None:
    with pytest.raises(ConfigurationError, match=said):
        get_propagator("sam2", **options)


def test_weights_that_are_moved_between_annotating_and_loading(
    small_sam2_model: Sam2Model, random_sam2_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def found(engine: Sam2Propagator) -> Sam2Model:
        assert find_checkpoint(model_info("tiny"), engine.options.checkpoint) is not None
        return small_sam2_model

    monkeypatch.setattr(Sam2Propagator, "load", found)
    mine = tmp_path / "mine.pt"
    mine.symlink_to(random_sam2_checkpoint)
    dataset = image_dataset(write_images(tmp_path / "scene", 3))
    run = {"label_field": "objects", "label_type": "instances", "classes": ["person", "car"], "sort_field": "number"}
    run |= {"segmentation": "none", "exemplars": "every:2", "engine": "sam2"}
    options = {"checkpoint": str(mine), "image_size": 128}
    with LocalCVAT(anonymous_rate=None) as server:
        results = dataset.annotate("run", backend="labelprop", **run, engine_options=options, **login(server))
        annotate_by_script(server, results)
        mine.unlink()
        with pytest.raises(ConfigurationError, match=r"mine.pt' does not exist.*in 'objects' already.*engine_options="):
            dataset.load_annotations("run")
        held = dataset.sort_by("number").values("objects.detections")
        assert [len(labels or ()) for labels in held] == [2, 0, 2]
        dataset.load_annotations("run", engine_options={"checkpoint": str(random_sam2_checkpoint)})
    filled_in = dataset.sort_by("number").values("objects_propagated.detections")
    assert [len(labels) for labels in filled_in] == [2, 2, 2]
    dataset.delete()


def test_eight_bits_without_a_word_of_pytorch(
    random_sam2_checkpoint: Path, frames: ArraySource, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = {"checkpoint": random_sam2_checkpoint, "image_size": 64, "device": "cpu", "int8": True}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        engine = get_propagator("sam2", **options)
        found = list(engine.propagate(frames, [Prompt(0, 1, mask=block(10, 10, 30, 20))], Segment(0, 2)))
    assert [sorted(one.objects) for one in found] == [[1]] * 2
    monkeypatch.delattr("torch.ao.quantization.quantize_dynamic")
    with pytest.raises(ConfigurationError, match="Leave int8 out"):
        list(get_propagator("sam2", **options).propagate(frames, [Prompt(0, 1, box=(1, 1, 9, 9))], Segment(0, 2)))
