"""The engine ``flow`` on small scenes whose truth is known, and the promises that every built-in engine makes."""

from __future__ import annotations

import threading
import tracemalloc
from collections.abc import Callable, Iterator

import cv2
import numpy as np
import pytest

from labelprop_cvat.errors import ConfigurationError, DataError
from labelprop_cvat.propagation import flow
from labelprop_cvat.propagation.frames import ArraySource
from labelprop_cvat.propagation.metrics import box_iou, jaccard
from labelprop_cvat.propagation.propagator import Propagator, get_propagator
from labelprop_cvat.propagation.types import FrameObjects, ObjectMask, Prompt, PromptKind, Segment, rasterize

HEIGHT, WIDTH = 96, 144
SIZE = (HEIGHT, WIDTH)


def _texture(seed: int, height: int, width: int, tint: tuple[int, int, int], blur: float = 1.5) -> np.ndarray:
    noise = np.random.default_rng(seed).normal(0.0, 1.0, (height, width, 3)).astype(np.float32)
    noise = cv2.GaussianBlur(noise, (0, 0), blur) * 60 * blur
    return np.clip(noise + np.array(tint, np.float32), 0, 255).astype(np.uint8)


BACKGROUND = _texture(1, HEIGHT, WIDTH, (120, 125, 118))


class Sprite:
    """A textured ellipse that a matrix places on each frame."""

    def __init__(self, seed: int, tint: tuple[int, int, int], place: Callable[[int], tuple[float, ...] | None]) -> None:
        self._texture = _texture(seed, 40, 40, tint)
        self._place = place
        self._shape = np.zeros((40, 40), np.uint8)
        cv2.ellipse(self._shape, (20, 20), (17, 12), 0, 0, 360, 1, -1)

    def draw(self, frame: int) -> tuple[np.ndarray, np.ndarray] | None:
        """``(colours, mask)`` on a full frame; None when it is not there. A place is ``(x, y[, degrees, scale])``."""
        place = self._place(frame)
        if place is None:
            return None
        x, y, turn, scale = (*place, 0.0, 1.0)[:4] if len(place) == 2 else place
        matrix = cv2.getRotationMatrix2D((20, 20), turn, scale)
        matrix[:, 2] += (x - 20, y - 20)
        colours = cv2.warpAffine(self._texture, matrix, (WIDTH, HEIGHT), borderMode=cv2.BORDER_REFLECT)
        return colours, cv2.warpAffine(self._shape, matrix, (WIDTH, HEIGHT), flags=cv2.INTER_NEAREST) > 0


def _film(length: int, *sprites: Sprite, pole: slice | None = None) -> tuple[ArraySource, list[dict[int, ObjectMask]]]:
    """Frames and truth; later sprites cover earlier ones, the pole covers all of them."""
    images, truth = [], []
    for frame in range(length):
        image, masks = BACKGROUND.copy(), {}
        for object_id, sprite in enumerate(sprites, 1):
            drawn = sprite.draw(frame)
            if drawn is None:
                continue
            image[drawn[1]] = drawn[0][drawn[1]]
            for other in masks:
                masks[other] = masks[other] & ~drawn[1]
            masks[object_id] = drawn[1]
        if pole is not None:
            image[:, pole] = (40, 60, 160)
            for mask in masks.values():
                mask[:, pole] = False
        images.append(image)
        truth.append({i: m for i, mask in masks.items() if (m := ObjectMask.from_full(mask)) is not None})
    return ArraySource(images), truth


def _prompts(truth: list[dict[int, ObjectMask]], *frames: int) -> list[Prompt]:
    return [Prompt(f, object_id, mask=mask) for f in frames for object_id, mask in truth[f].items()]


def _run(frames: ArraySource, prompts: list[Prompt], **options: float) -> list[FrameObjects]:
    return list(get_propagator("flow", **options).propagate(frames, prompts, Segment(0, len(frames))))


def _scores(results: list[FrameObjects], truth: list[dict[int, ObjectMask]], object_id: int) -> list[float]:
    return [
        jaccard(r.objects[object_id].mask if object_id in r.objects else None, truth[r.frame].get(object_id))
        for r in results
    ]


def _moving(frame: int) -> tuple[float, float]:
    return 30.0 + 5.0 * frame, 40.0 + 2.0 * frame


def test_translation_forward_backward_and_between() -> None:
    frames, truth = _film(13, Sprite(2, (170, 90, 70), _moving))
    for exemplars in ((0,), (12,), (0, 12), (5,)):
        results = _run(frames, _prompts(truth, *exemplars))
        assert min(_scores(results, truth, 1)) > 0.75, exemplars
        assert np.mean(_scores(results, truth, 1)) > 0.82, exemplars
        for result in results:
            assert result.objects[1].keyframe == (result.frame in exemplars)
            assert set(result.objects[1].exemplar_frames) <= set(exemplars)
    assert results[0].objects[1].exemplar_frames == (5,)


def test_rotation_and_scale() -> None:
    frames, truth = _film(11, Sprite(2, (170, 90, 70), lambda f: (40 + 4 * f, 46, 6.0 * f, 1.0 + 0.05 * f)))
    results = _run(frames, _prompts(truth, 0, 10))
    assert min(_scores(results, truth, 1)) > 0.85
    hold = list(get_propagator("hold").propagate(frames, _prompts(truth, 0, 10), Segment(0, 11)))
    assert np.mean(_scores(results, truth, 1)) > np.mean(_scores(hold, truth, 1)) + 0.2


def test_behind_a_pole_and_out_again() -> None:
    frames, truth = _film(15, Sprite(2, (170, 90, 70), lambda f: (34.0 + 5.5 * f, 46.0)), pole=slice(66, 80))
    results = _run(frames, _prompts(truth, 0, 14))
    scores = _scores(results, truth, 1)
    assert np.mean(scores) > 0.8
    pole = np.zeros(SIZE, bool)
    pole[:, 66:80] = True
    for result in results[1:-1]:
        mask = result.objects[1].mask
        assert mask is not None
        assert (mask.to_full(SIZE) & pole).sum() < 0.1 * mask.area


def test_wholly_covered_and_found_again_from_the_first_frame_alone() -> None:
    frames, truth = _film(19, Sprite(2, (190, 80, 60), lambda f: (28.0 + 4.5 * f, 46.0)), pole=slice(52, 86))
    hidden = [f for f in range(19) if truth[f].get(1) is None or truth[f][1].area < 30]
    assert hidden
    results = _run(frames, _prompts(truth, 0))
    ghosts = [results[f].objects[1].mask for f in hidden if 1 in results[f].objects]
    assert all(mask is not None and mask.area < 0.2 * truth[0][1].area for mask in ghosts)
    assert min(_scores(results, truth, 1)[-3:]) > 0.6


def test_what_leaves_the_frame_ends_and_comes_back_at_the_next_exemplar() -> None:
    def place(frame: int) -> tuple[float, float] | None:
        return (110.0 + 8.0 * frame, 46.0) if frame < 9 else (-30.0 + 8.0 * (frame - 9), 50.0)

    frames, truth = _film(21, Sprite(2, (170, 90, 70), place))
    gone = [f for f in range(21) if 1 not in truth[f]]
    assert gone
    results = _run(frames, _prompts(truth, 0, 20))
    scores = _scores(results, truth, 1)
    assert np.mean([scores[f] for f in gone]) > 0.7
    assert np.mean([s for f, s in enumerate(scores) if f not in gone]) > 0.7


def test_absent_ends_the_object() -> None:
    frames, truth = _film(12, Sprite(2, (170, 90, 70), lambda f: (40.0 + 4 * f, 46.0) if f < 5 else None))
    results = _run(frames, [*_prompts(truth, 0), Prompt(6, 1, absent=True)])
    assert all(1 not in result.objects for result in results[6:])
    assert min(_scores(results, truth, 1)[:5]) > 0.8
    only_absent = _run(frames, [Prompt(6, 1, absent=True)])
    assert [dict(result.objects) for result in only_absent] == [{}] * 12


def test_crossing_objects_share_no_pixel() -> None:
    frames, truth = _film(
        13,
        Sprite(2, (190, 80, 60), lambda f: (30.0 + 6 * f, 44.0)),
        Sprite(3, (60, 90, 190), lambda f: (102.0 - 6 * f, 54.0)),
    )
    results = _run(frames, _prompts(truth, 0, 12))
    for object_id in (1, 2):
        assert np.mean(_scores(results, truth, object_id)) > 0.8
    for result in results[1:-1]:
        full = [state.mask.to_full(SIZE) for state in result.objects.values() if state.mask is not None]
        assert not np.logical_and.reduce(full).any() or len(full) < 2


def test_an_exemplar_need_not_show_every_object() -> None:
    frames, truth = _film(
        13,
        Sprite(2, (190, 80, 60), lambda f: (30.0 + 4 * f, 24.0)),
        Sprite(3, (60, 90, 190), lambda f: (102.0 - 4 * f, 70.0)),
    )
    partial = [
        Prompt(0, 1, mask=truth[0][1]),
        Prompt(6, 2, mask=truth[6][2]),
        Prompt(12, 1, mask=truth[12][1]),
    ]
    results = _run(frames, partial)
    for object_id in (1, 2):
        assert min(_scores(results, truth, object_id)) > 0.8
    assert results[6].objects[1].keyframe is False
    assert results[6].objects[1].exemplar_frames == (0, 12)
    assert {r.objects[2].exemplar_frames for r in results} == {(6,)}
    alone = _run(frames, [p for p in partial if p.object_id == 1])
    apart = [jaccard(a.objects[1].mask, b.objects[1].mask) for a, b in zip(alone, results, strict=True)]
    assert min(apart) > 0.95


def test_masks_of_people_are_untouched_even_where_they_overlap() -> None:
    frames, truth = _film(5, Sprite(2, (190, 80, 60), lambda f: (50.0 + 3 * f, 44.0)))
    wide = ObjectMask(30, 30, np.ones((30, 60), bool))
    prompts = [Prompt(0, 1, mask=truth[0][1]), Prompt(2, 2, mask=wide), Prompt(2, 3, mask=wide)]
    result = _run(frames, prompts)[2]
    assert result.objects[2].mask == wide
    assert result.objects[3].mask == wide
    if 1 in result.objects and result.objects[1].mask is not None:
        assert not (result.objects[1].mask.to_full(SIZE) & wide.to_full(SIZE)).any()


def test_boxes_follow_what_linear_interpolation_cannot() -> None:
    def place(frame: int) -> tuple[float, float]:
        return 40.0 + 5.0 * frame, 40.0 + 14.0 * np.sin(frame / 12 * np.pi)

    frames, truth = _film(13, Sprite(2, (170, 90, 70), place))
    boxes = [tuple(float(v) for v in truth[f][1].box) for f in range(13)]
    prompts = [Prompt(f, 1, box=boxes[f]) for f in (0, 12)]
    overlap = {
        engine: np.mean(
            [
                box_iou(r.objects[1].box, boxes[r.frame])
                for r in get_propagator(engine).propagate(frames, prompts, Segment(0, 13))
            ][1:-1]
        )
        for engine in ("flow", "interpolate")
    }
    assert overlap["flow"] > 0.85
    assert overlap["flow"] > overlap["interpolate"] + 0.15


def test_polygons_move_with_their_pixels() -> None:
    frames, truth = _film(9, Sprite(2, (170, 90, 70), _moving))
    shape = np.array([(-17, 0), (-8, -11), (8, -11), (17, 0), (8, 11), (-8, 11)]) + 0.5
    polygon = [(tuple((float(x), float(y)) for x, y in shape + _moving(f)),) for f in range(9)]
    results = _run(frames, [Prompt(0, 1, polygon=polygon[0]), Prompt(8, 1, polygon=polygon[8])])
    assert results[0].objects[1].polygon == polygon[0]
    for result in results[1:-1]:
        state = result.objects[1]
        assert state.mask is not None
        assert state.polygon is not None
        assert jaccard(rasterize(state.polygon, SIZE), rasterize(polygon[result.frame], SIZE)) > 0.7
        assert jaccard(state.mask, truth[result.frame][1]) > 0.75


def test_confidence_tells_lost_from_found() -> None:
    frames, truth = _film(16, Sprite(2, (170, 90, 70), _moving))
    images = [frames[f] for f in range(16)]
    # From frame 6 on it is another scene: nothing to follow.
    images[6:] = [_texture(50 + f, HEIGHT, WIDTH, (90, 140, 120)) for f in range(10)]
    results = _run(ArraySource(images), _prompts(truth, 0))
    sure = [result.objects[1].confidence for result in results[1:6]]
    lost = [result.objects[1].confidence if 1 in result.objects else 0.0 for result in results[8:]]
    assert min(sure) > max(lost) + 0.1


def test_the_same_twice() -> None:
    frames, truth = _film(8, Sprite(2, (170, 90, 70), _moving), Sprite(3, (60, 90, 190), lambda f: (100 - 3 * f, 60)))
    first, second = (_run(frames, _prompts(truth, 0, 7)) for _ in range(2))
    assert [dict(r.objects) for r in first] == [dict(r.objects) for r in second]


@pytest.mark.parametrize("options", [{"max_pixels": 10}, {"min_confidence": 1.0}, {"threads": 0}, {"speed": 3}])
def test_bad_options_are_refused(options: dict[str, float]) -> None:
    with pytest.raises(ConfigurationError):
        get_propagator("flow", **options)


def test_large_objects_are_followed_at_a_smaller_scale() -> None:
    frames, truth = _film(6, Sprite(2, (170, 90, 70), lambda f: (50.0 + 5 * f, 46, 0.0, 1.6)))
    assert min(_scores(_run(frames, _prompts(truth, 0), max_pixels=4096), truth, 1)) > 0.6


class _Endless:
    """Frames made when they are asked for, so that only the engine can hold on to them."""

    size = SIZE

    def __init__(self, length: int, read: list[int] | None = None) -> None:
        self._length, self._read = length, read if read is not None else []
        self._sprite = Sprite(2, (170, 90, 70), lambda f: (72 + 20 * np.sin(f / 8), 46 + 8 * np.cos(f / 9)))

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, index: int) -> np.ndarray:
        self._read.append(index)
        image = BACKGROUND.copy()
        colours, mask = self._sprite.draw(index)
        image[mask] = colours[mask]
        return image

    def read(self, start: int, stop: int, step: int = 1) -> Iterator[tuple[int, np.ndarray]]:
        for index in range(start, stop, step):
            yield index, self[index]

    def mask(self, index: int) -> ObjectMask:
        mask = ObjectMask.from_full(self._sprite.draw(index)[1])
        assert mask is not None
        return mask


def _peak(length: int) -> int:
    frames = _Endless(length)
    prompts = [Prompt(0, 1, mask=frames.mask(0)), Prompt(length - 1, 1, mask=frames.mask(length - 1))]
    tracemalloc.start()
    try:
        for _ in get_propagator("flow").propagate(frames, prompts, Segment(0, length)):
            pass
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_memory_does_not_grow_with_a_gap() -> None:
    _peak(4)
    assert _peak(48) < 1.25 * _peak(16) + 200_000


def _threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name.startswith("labelprop-flow")]


@pytest.mark.parametrize("threads", [1, 3])
def test_closing_early_leaves_no_file_and_no_thread(monkeypatch: pytest.MonkeyPatch, threads: int) -> None:
    spools: list[flow.Spool] = []

    class Watched(flow.Spool):
        def __init__(self) -> None:
            super().__init__()
            spools.append(self)

    monkeypatch.setattr(flow, "Spool", Watched)
    frames, truth = _film(7, Sprite(2, (170, 90, 70), _moving), Sprite(3, (60, 90, 190), lambda f: (100, 70)))
    propagator = get_propagator("flow", threads=threads)
    prompts = [*_prompts(truth, 0, 6), Prompt(3, 1, mask=truth[3][1])]
    answers = propagator.propagate(frames, prompts, Segment(0, 7))
    for _ in range(3):
        next(answers)
    # One file for what begins together, whatever the number of objects.
    assert [spool.closed for spool in spools] == [False]
    assert bool(_threads()) == (threads > 1)
    answers.close()
    assert [spool.closed for spool in spools] == [True]
    assert not _threads()
    spools.clear()
    list(propagator.propagate(frames, prompts, Segment(0, 7)))
    assert [spool.closed for spool in spools] == [True, True]
    assert not _threads()


def test_any_number_of_threads_gives_the_same() -> None:
    frames, truth = _film(
        6,
        Sprite(2, (190, 80, 60), lambda f: (30.0 + 6 * f, 44.0)),
        Sprite(3, (60, 90, 190), lambda f: (102.0 - 6 * f, 54.0)),
        Sprite(4, (90, 170, 80), lambda f: (110.0, 20.0 + 3 * f)),
    )
    x1, y1, x2, y2 = truth[1][2].box
    prompts = [
        *(Prompt(f, 1, mask=truth[f][1]) for f in (0, 3)),
        Prompt(1, 2, polygon=(((x1, y1), (x2, y1), (x2, y2), (x1, y2)),)),
        *(Prompt(f, 3, box=tuple(float(v) for v in truth[f][3].box)) for f in (0, 5)),
    ]
    alone, together = (_run(frames, prompts, threads=threads) for threads in (1, 4))
    assert [dict(r.objects) for r in alone] == [dict(r.objects) for r in together]


class _BrokenError(Exception):
    """What only the test raises."""


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("place", ["step", "refined"])
def test_what_goes_wrong_in_a_thread_comes_out_as_itself(
    monkeypatch: pytest.MonkeyPatch, threads: int, place: str
) -> None:
    frames, truth = _film(6, Sprite(2, (170, 90, 70), _moving))

    def breaks(*_: object) -> None:
        raise _BrokenError

    monkeypatch.setattr(*((flow.MaskTracker, "step") if place == "step" else (flow, "refined")), breaks)
    for exemplars in ((0,), (5,), (0, 5)):
        with pytest.raises(_BrokenError):
            _run(frames, _prompts(truth, *exemplars), threads=threads)
        assert not _threads()


def test_agreement_is_what_both_passes_say_of_each_other() -> None:
    frames, truth = _film(11, Sprite(2, (170, 90, 70), _moving))
    both = _run(frames, _prompts(truth, 2, 8))
    told = [result.objects[1].agreement for result in both]
    assert told[:3] == [None] * 3
    assert told[8:] == [None] * 3
    assert all(agreement is not None and 0.6 < agreement <= 1.0 for agreement in told[3:8])
    boxes = [Prompt(f, 1, box=tuple(float(v) for v in truth[f][1].box)) for f in (0, 10)]
    states = [result.objects[1] for result in _run(frames, boxes)[1:-1]]
    assert all(state.agreement is not None and state.agreement > 0.7 for state in states)


def test_agreement_is_nothing_where_one_pass_lost_the_object() -> None:
    frames, truth = _film(10, Sprite(2, (170, 90, 70), lambda f: (40.0, 46.0)))
    # The second half is another scene, and what is drawn there is something else.
    images = [frames[f] if f < 5 else _texture(50 + f, HEIGHT, WIDTH, (90, 140, 120)) for f in range(10)]
    prompts = [Prompt(0, 1, mask=truth[0][1]), Prompt(9, 1, mask=ObjectMask(100, 60, np.ones((20, 30), bool)))]
    told = [r.objects[1].agreement for r in _run(ArraySource(images), prompts)[1:-1] if 1 in r.objects]
    assert told
    assert all(agreement is not None and agreement < 0.1 for agreement in told)
    assert 0.0 in told


# ---- what every engine promises -------------------------------------------------------------------------------------

ENGINES = ["flow", "hold", "interpolate"]
SPAN = Segment(4, 14)


def _geometry(kind: PromptKind, frames: _Endless, frame: int, object_id: int = 1) -> Prompt:
    mask = frames.mask(frame)
    x1, y1, x2, y2 = (float(v) for v in mask.box)
    if kind is PromptKind.BOX:
        return Prompt(frame, object_id, box=(x1, y1, x2, y2))
    if kind is PromptKind.POLYGON:
        return Prompt(frame, object_id, polygon=(((x1, y1), (x2, y1 + 1), (x2, y2), (x1 + 1, y2)),))
    return Prompt(frame, object_id, mask=mask)


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("kind", [PromptKind.MASK, PromptKind.BOX, PromptKind.POLYGON])
def test_every_promise_of_propagate(engine: str, kind: PromptKind) -> None:
    read: list[int] = []
    frames = _Endless(20, read)
    propagator = get_propagator(engine)
    assert isinstance(propagator, Propagator)
    assert propagator.spec.name == engine
    assert kind in propagator.spec.accepts
    prompts = [
        _geometry(kind, frames, 6),
        _geometry(kind, frames, 11),
        _geometry(kind, frames, 11, 2),
        Prompt(13, 2, absent=True),
    ]
    results = list(propagator.propagate(frames, prompts[::-1], SPAN))
    assert [result.frame for result in results] == list(SPAN.frames)
    assert set(read) <= set(SPAN.frames)
    assert bool(read) == propagator.spec.reads_frames
    given = {(p.frame, p.object_id): p for p in prompts}
    for result in results:
        for object_id, state in result.objects.items():
            prompt = given.get((result.frame, object_id))
            assert state.keyframe == (prompt is not None)
            assert 0.0 <= state.confidence <= 1.0
            assert set(state.exemplar_frames) <= {p.frame for p in prompts if p.object_id == object_id}
            assert list(state.exemplar_frames) == sorted(state.exemplar_frames)
            assert getattr(state, kind.value) is not None
            if prompt is not None:
                assert (state.mask, state.box, state.polygon) == (prompt.mask, prompt.box, prompt.polygon)
                assert state.confidence == 1.0
                assert state.exemplar_frames == (prompt.frame,)
    assert 2 not in results[13 - SPAN.start].objects


@pytest.mark.parametrize("engine", ENGINES)
def test_broken_prompts_are_refused_before_any_work(engine: str) -> None:
    read: list[int] = []
    frames = _Endless(20, read)
    inside = _geometry(PromptKind.MASK, frames, 6)
    bad = {
        "outside the span": [_geometry(PromptKind.MASK, frames, 3)],
        "two prompts": [inside, inside],
        "of kind points": [Prompt(6, 1, points=((3.0, 3.0),))],
    }
    for message, prompts in bad.items():
        with pytest.raises(DataError, match=message):
            get_propagator(engine).propagate(frames, prompts, SPAN)
    assert read == []


@pytest.mark.parametrize("engine", ENGINES)
def test_no_prompts_no_objects(engine: str) -> None:
    read: list[int] = []
    results = list(get_propagator(engine).propagate(_Endless(20, read), [], SPAN))
    assert [(result.frame, len(result.objects)) for result in results] == [(f, 0) for f in SPAN.frames]
    assert read == []


@pytest.mark.parametrize("engine", ENGINES)
def test_stopping_early(engine: str) -> None:
    frames = _Endless(20)
    answers = get_propagator(engine).propagate(frames, [_geometry(PromptKind.MASK, frames, 6)], SPAN)
    assert next(answers).frame == SPAN.start
    answers.close()
    assert next(answers, None) is None
