"""``workflow.select`` looks at the frames of images and videos and leaves a grade on each."""

from __future__ import annotations

from collections.abc import Iterator

import cv2
import fiftyone as fo
import numpy as np
import pytest

from labelprop_cvat.errors import ConfigurationError
from labelprop_cvat.sequences import segments_of, sequences_of
from labelprop_cvat.workflow import plan_exemplars, segment, select

COUNT = 24
HARD = range(14, 20)


def pictures() -> list[np.ndarray]:
    """Noise that stands still, and that is torn by other noise on a few frames."""
    random = np.random.default_rng(5)
    still = cv2.GaussianBlur(random.integers(0, 255, (48, 64, 3), dtype=np.uint8), (0, 0), 2)
    frames = []
    for number in range(COUNT):
        frame = np.roll(still, number, axis=1)
        if number in HARD:
            other = cv2.GaussianBlur(random.integers(0, 255, (48, 64, 3), dtype=np.uint8), (0, 0), 2)
            frame = cv2.addWeighted(frame, 0.2, other, 0.8, 0)
        frames.append(frame)
    return frames


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Iterator[fo.Dataset]:
    folder = tmp_path_factory.mktemp("frames")
    dataset = fo.Dataset()
    for number, frame in enumerate(pictures()):
        path = folder / f"{number:03}.png"
        cv2.imwrite(str(path), frame)
        dataset.add_sample(fo.Sample(filepath=str(path), number=number))
    segment(dataset, "segments", method="none", sort_field="number")
    yield dataset
    dataset.delete()


@pytest.fixture(scope="module")
def video(tmp_path_factory: pytest.TempPathFactory) -> Iterator[fo.Dataset]:
    path = tmp_path_factory.mktemp("video") / "noise.mp4"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"mp4v"), 25.0, (64, 48))
    for frame in pictures():
        writer.write(frame)
    writer.release()
    dataset = fo.Dataset()
    dataset.add_sample(fo.Sample(filepath=str(path)))
    segment(dataset, "segments", method="fixed:12")
    yield dataset
    dataset.delete()


def grades(dataset: fo.Dataset) -> list[float]:
    return [c[0].exemplar_score for c in dataset.sort_by("number").values("segments.classifications")]


@pytest.mark.parametrize("method", ["uniform:3", "diverse:3", "coverage:3"])
def test_images_are_graded(images: fo.Dataset, method: str) -> None:
    assert select(images, "segments", method=method, sort_field="number") == 3
    scores = grades(images)
    assert sum(score >= 0.5 for score in scores) == 3
    assert all(0.0 <= score <= 1.0 for score in scores)
    assert len({score for score in scores if score < 0.5}) > 3
    ((_, ((_, _, planned),)),) = plan_exemplars(images, sort_field="number", segments_field="segments")
    assert planned == [at for at, score in enumerate(scores) if score >= 0.5]


def test_coverage_goes_where_it_is_hard(images: fo.Dataset) -> None:
    inside = []
    for method in ("uniform:6", "coverage:6"):
        select(images, "segments", method=method, sort_field="number")
        chosen = [at for at, score in enumerate(grades(images)) if score >= 0.5]
        inside.append(sum(at in range(HARD.start - 3, HARD.stop + 3) for at in chosen))
    assert inside[1] > inside[0]


def test_a_target_takes_as_many_as_it_needs(images: fo.Dataset) -> None:
    few, many = (select(images, "segments", method=m, sort_field="number") for m in ("coverage:0.5", "coverage:0.95"))
    assert 1 <= few < many <= COUNT


def test_every_segment_of_a_video_is_read(video: fo.Dataset) -> None:
    assert select(video, "segments", method="coverage:2") == 4
    (sequence,) = sequences_of(video)
    for entry in segments_of(sequence, video, "segments"):
        assert sum((score or 0.0) >= 0.5 for score in entry.exemplar_scores) == 2


def test_active_needs_a_run(images: fo.Dataset) -> None:
    with pytest.raises(ConfigurationError, match=r"'coverage:3'.*workflow\.suggest"):
        select(images, "segments", method="active:3", sort_field="number")


def test_the_first_frames_of_an_active_run(images: fo.Dataset, caplog: pytest.LogCaptureFixture) -> None:
    plans = [
        next(iter(plan_exemplars(images, sort_field="number", segments_field="segments", exemplars=method)))[1]
        for method in ("active:3", "coverage:3")
    ]
    assert plans[0] == plans[1]
    assert "chosen by coverage:3" in caplog.text


def test_frames_that_may_not_be_exemplars(images: fo.Dataset) -> None:
    for method in ("diverse:3", "coverage:3"):
        ((_, ((_, _, planned),)),) = plan_exemplars(
            images,
            sort_field="number",
            segments_field="segments",
            exemplars=method,
            allowed=lambda *_: {2, 9, 11, 16},
        )
        assert len(planned) == 3
        assert set(planned) <= {2, 9, 11, 16}
