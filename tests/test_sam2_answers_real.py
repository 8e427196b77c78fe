"""What lies behind SAM 2's network, on real objects: given the truth at a quarter of 1024, little of it may be lost."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache

import numpy as np
import pytest
import torch
from conftest import SHARED
from torch.nn.functional import interpolate

from benchmarks.quality import read_masks
from labelprop_cvat.propagation._gaps import Gap
from labelprop_cvat.propagation.metrics import boundary_f, box_iou, jaccard
from labelprop_cvat.propagation.sam2._answers import AnswerMaker, outline
from labelprop_cvat.propagation.sam2._memory import Memory
from labelprop_cvat.propagation.sam2._passes import FrameSightings, Sighting
from labelprop_cvat.propagation.sam2._tracker import NO_OBJECT, Exemplar, Prediction
from labelprop_cvat.propagation.sam2.options import Sam2Options
from labelprop_cvat.propagation.types import Box, ObjectMask, ObjectState, Prompt, rasterize

SIDE = 256
SIZE = (480, 854)
LOOSE = 0.1

# A swing whose ropes cut the child into pieces, a stick beside its player, a racket behind an arm, a dog behind poles.
SEQUENCES = ["davis16-swing", "davis16-hockey", "davis16-tennis", "davis16-dog-agility", "davis16-flamingo"]


@cache
def truth(sequence: str) -> list[ObjectMask]:
    folder = SHARED / "data" / sequence
    if not folder.is_dir():
        pytest.skip(f"The sequence {sequence} is not on this machine.")
    return [objects[1] for objects in read_masks(folder)]


def seen(mask: ObjectMask, specks: bool = False) -> Prediction:
    """What a perfect network answers: logits that say how much of each of its places the object covers."""
    full = torch.from_numpy(mask.to_full(SIZE).astype(np.float32))[None, None]
    logits = (interpolate(full, size=(SIDE, SIDE), mode="area")[0, 0].numpy() - 0.5) * 16.0
    if specks:
        logits[2:4, 2:4] = logits[-3:, -3:] = 4.0
    return Prediction(logits.astype(np.float32), 0.9, 8.0, (0,))


def widened(box: Box) -> Box:
    x1, y1, x2, y2 = box
    across, down = LOOSE * (x2 - x1), LOOSE * (y2 - y1)
    return max(0.0, x1 - across), max(0.0, y1 - down), min(SIZE[1], x2 + across), min(SIZE[0], y2 + down)


def answers(masks: list[ObjectMask], prompt: Prompt, specks: bool = False) -> Iterator[tuple[ObjectMask, ObjectState]]:
    """The truth and the answer on some frames, from one exemplar on frame 0."""
    maker = AnswerMaker({0: {1: prompt}}, SIZE, Sam2Options())
    exemplars = {1: {0: Exemplar(Memory(None, torch.zeros(1)), seen(masks[0]))}}
    for frame in range(2, len(masks), len(masks) // 8):
        sighting = Sighting(Gap(1, 1, len(masks), prompt, None), seen(masks[frame], specks), None)
        yield masks[frame], maker.answer(FrameSightings(frame, {1: sighting}, exemplars)).objects[1]


@pytest.mark.parametrize("sequence", SEQUENCES)
def test_masks_and_polygons(sequence: str) -> None:
    masks = truth(sequence)
    found = list(answers(masks, Prompt(0, 1, polygon=outline(masks[0]))))
    assert len(found) >= 6
    for mask, state in found:
        assert state.mask is not None
        assert jaccard(state.mask, mask) > 0.93
        assert boundary_f(state.mask, mask, SIZE) > 0.97
        assert state.polygon is not None
        again = rasterize(state.polygon, SIZE)
        assert again is not None
        assert np.array_equal(again.to_full(SIZE), state.mask.to_full(SIZE))
    assert np.mean([jaccard(state.mask, mask) for mask, state in found]) > 0.97


@pytest.mark.parametrize("specks", [False, True], ids=["clean", "specks"])
@pytest.mark.parametrize("sequence", SEQUENCES)
def test_tight_boxes(sequence: str, specks: bool) -> None:
    masks = truth(sequence)
    prompt = Prompt(0, 1, box=tuple(map(float, masks[0].box)))
    overlaps = [box_iou(state.box, mask.box) for mask, state in answers(masks, prompt, specks) if state.box]
    assert len(overlaps) >= 6
    assert np.mean(overlaps) > (0.95 if specks else 0.97)
    assert min(overlaps) > 0.75


@pytest.mark.parametrize("sequence", SEQUENCES)
def test_boxes_that_a_person_drew_loosely(sequence: str) -> None:
    masks = truth(sequence)
    prompt = Prompt(0, 1, box=widened(masks[0].box))
    overlaps = [box_iou(state.box, widened(mask.box)) for mask, state in answers(masks, prompt) if state.box]
    assert len(overlaps) >= 6
    assert np.mean(overlaps) > 0.94


def test_nothing_seen_is_no_answer() -> None:
    masks = truth(SEQUENCES[0])
    prompt = Prompt(0, 1, box=tuple(map(float, masks[0].box)))
    nothing = Prediction(np.full((SIDE, SIDE), NO_OBJECT, dtype=np.float32), 0.9, -8.0, (0,))
    maker = AnswerMaker({0: {1: prompt}}, SIZE, Sam2Options())
    sighting = Sighting(Gap(1, 1, 9, prompt, None), nothing, None)
    assert not maker.answer(FrameSightings(4, {1: sighting}, {1: {}})).objects
