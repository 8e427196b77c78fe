"""Segments and what was measured for them, stored on images, videos and the frames of videos, and found again."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import cv2
import fiftyone as fo
import numpy as np
import pytest

from labelprop_cvat import cli, workflow
from labelprop_cvat.errors import ConfigurationError, DataError
from labelprop_cvat.propagation.segments import score_frames
from labelprop_cvat.propagation.types import Segment
from labelprop_cvat.sequences import TemporalSegment, segments_of, sequences_of, write_scores, write_segments

CUT, LENGTH = 12, 20


def frames(seed: int) -> list[np.ndarray]:
    """Two shots of small noise, the second from frame 12 on."""
    rng = np.random.default_rng(seed)
    shots = [cv2.resize(rng.integers(0, 255, (6, 10, 3), np.uint8), (80, 48)) for _ in range(2)]
    return [shots[index >= CUT] for index in range(LENGTH)]


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Iterator[fo.Dataset]:
    """Two groups of 20 images, stored backwards."""
    folder = tmp_path_factory.mktemp("images")
    dataset = fo.Dataset()
    for scene in ("harbour", "street/north"):
        samples = []
        for index, frame in enumerate(frames(len(scene))):
            path = folder / f"{scene.replace('/', '_')}{index:02}.png"
            cv2.imwrite(str(path), frame)
            samples.append(fo.Sample(filepath=str(path), scene=scene, number=index))
        dataset.add_samples(samples[::-1], progress=False)
    yield dataset
    dataset.delete()


@pytest.fixture
def videos(tmp_path: Path) -> Iterator[fo.Dataset]:
    """Two videos of 20 frames; the first has one frame in the database."""
    dataset = fo.Dataset()
    for name, seed in (("one", 1), ("two", 2)):
        path = tmp_path / f"{name}.mp4"
        writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"mp4v"), 25.0, (80, 48))
        for frame in frames(seed):
            writer.write(frame)
        writer.release()
        sample = fo.Sample(filepath=str(path))
        if name == "one":
            sample.frames[3] = fo.Frame(mark="kept")
        dataset.add_sample(sample)
    yield dataset
    dataset.delete()


class TestImages:
    def test_scores_and_plots(self, images: fo.Dataset, tmp_path: Path) -> None:
        view = images.group_by("scene", order_by="number")
        count = workflow.segment(view, "segments", scores_field="newness", plot=tmp_path / "plots")
        assert count == 4
        assert sorted(path.name for path in (tmp_path / "plots").iterdir()) == ["harbour.png", "street_north.png"]
        for scene in ("harbour", "street/north"):
            own = images.match({"scene": scene}).sort_by("number")
            labels = own.values("segments.classifications.label")
            assert [entry[0] for entry in labels] == [f"{scene}/segment_001"] * CUT + [f"{scene}/segment_002"] * 8
            measured = own.values("newness")
            assert int(np.argmax(measured)) == CUT
            assert measured == pytest.approx(list(score_frames(sequences_of(own)[0].source).scores["change"]))

    def test_metric_of_the_method(self, images: fo.Dataset) -> None:
        view = images.match({"scene": "harbour"}).sort_by("number")
        workflow.segment(view, "by_content", method="content", scores_field="content", minimum_length=9)
        assert set(view.values("by_content.classifications.label", unwind=True)) == {"segment_001"}
        assert max(view.values("content")) > 27

    def test_refusals(self, images: fo.Dataset, tmp_path: Path) -> None:
        view = images.group_by("scene", order_by="number")
        fields = set(images.get_field_schema())
        for method in ("none", "fixed:4"):
            for option in ({"scores_field": "x"}, {"plot": tmp_path / "p"}):
                with pytest.raises(ConfigurationError, match="measures nothing"):
                    workflow.segment(view, "refused", method=method, **option)
        with pytest.raises(ConfigurationError, match="no segmentation method 'magic'"):
            workflow.segment(view, "refused", method="magic", scores_field="x")
        with pytest.raises(ConfigurationError, match="two fields"):
            workflow.segment(view, "refused", scores_field="refused")
        with pytest.raises(ConfigurationError, match="2 sequences"):
            workflow.segment(view, "refused", plot=tmp_path / "one.png")
        with pytest.raises(DataError, match=r"'scene' .* is a StringField"):
            workflow.segment(view, "refused", scores_field="scene")
        with pytest.raises(DataError, match="Name the field 'refused'"):
            workflow.segment(view, "frames.refused")
        assert set(images.get_field_schema()) == fields
        assert not list(tmp_path.iterdir())


class TestVideos:
    def test_scores_go_to_frames(self, videos: fo.Dataset, tmp_path: Path) -> None:
        for name in ("newness", "frames.newness"):
            assert workflow.segment(videos, "segments", scores_field=name) == 4
        assert [[list(d.support) for d in v.detections] for v in videos.values("segments")] == [[[1, 12], [13, 20]]] * 2
        for sample in videos:
            measured = [sample.frames[number]["newness"] for number in range(1, LENGTH + 1)]
            assert int(np.argmax(measured)) == CUT
        assert videos.count("frames") == 2 * LENGTH
        assert videos.first().frames[3].mark == "kept"
        assert videos.match_frames(fo.ViewField("newness") > 0.5).count("frames") == 2
        workflow.segment(videos.limit(1), "segments", plot=tmp_path / "curve.svg")
        assert "<svg" in (tmp_path / "curve.svg").read_text()

    def test_segments_on_frames(self, videos: fo.Dataset) -> None:
        first, second = sequences_of(videos)
        written = [
            TemporalSegment(Segment(0, 8), "a", (1.0, *[0.25] * 7)),
            TemporalSegment(Segment(10, 20), "b", (0.5, *[None] * 9)),
        ]
        write_segments(videos, first, "frames.parts", written)
        assert segments_of(first, videos, "frames.parts") == written
        assert videos.first().frames[1].parts.classifications[0].exemplar_score == 1.0
        assert videos.first().frames[10].parts is None
        assert videos.first().frames[3].mark == "kept"
        assert [s.label for s in segments_of(second, videos, "frames.parts", method="none")] == ["segment_001"]
        again = [TemporalSegment(Segment(0, 20), "whole")]
        write_segments(videos, first, "frames.parts", again)
        assert segments_of(first, videos, "frames.parts") == again

    def test_select_on_frames(self, videos: fo.Dataset) -> None:
        workflow.segment(videos, "frames.parts")
        assert workflow.select(videos, "frames.parts", method="first") == 4
        scores = videos.first().frames
        assert [n for n in range(1, 21) if scores[n].parts.classifications[0].exemplar_score >= 0.5] == [1, 13]

    def test_classification_on_frames(self, videos: fo.Dataset) -> None:
        sample = videos.first()
        for number in (4, 5, 9):
            sample.frames[number]["part"] = fo.Classification(label="p")
        sample.save()
        found = segments_of(sequences_of(videos)[0], videos, "frames.part")
        assert [(s.segment, s.label) for s in found] == [(Segment(3, 5), "p"), (Segment(8, 9), "p")]

    def test_refusals(self, videos: fo.Dataset) -> None:
        sequence = sequences_of(videos)[0]
        videos.add_frame_field("boxes", fo.EmbeddedDocumentField, embedded_doc_type=fo.Detections)
        videos.add_sample_field("tag", fo.EmbeddedDocumentField, embedded_doc_type=fo.Classification)
        with pytest.raises(DataError, match=r"frames of videos are kept in fo.Classifications or .* holds Detections"):
            segments_of(sequence, videos, "frames.boxes")
        with pytest.raises(DataError, match=r"Segments of videos are kept in fo.TemporalDetections"):
            segments_of(sequence, videos, "tag")
        with pytest.raises(DataError, match="FloatField"):
            write_scores(videos, sequence, "mark", [0.0] * LENGTH)
        with pytest.raises(DataError, match=r"go into a field of fo.Classifications"):
            write_segments(videos, sequence, "frames.boxes", [TemporalSegment(Segment(0, 20), "a")])
        frame = videos.first().frames[3]
        frame["parts"] = fo.Classifications(classifications=[fo.Classification(label=n) for n in "pq"])
        frame.save()
        with pytest.raises(DataError, match=r"Frame 3 of the sample .* has 2 segment labels"):
            segments_of(sequence, videos, "frames.parts")

    def test_numbers_that_are_none(self, videos: fo.Dataset) -> None:
        sequence = sequences_of(videos)[0]
        write_scores(videos, sequence, "x", [float("inf"), float("nan"), *range(18)])
        assert videos.limit(1).values("frames.x", unwind=True)[:4] == [None, None, 0.0, 1.0]


def test_command(videos: fo.Dataset, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["segment", "--dataset", videos.name, "--segments-field", "shots", "--scores-field", "newness"]
    assert cli.main([*command, "--plot", str(tmp_path / "plots"), "--threshold", "0.4", "--minimum-length", "4"]) == 0
    assert "4 segments in shots" in capsys.readouterr().out
    assert sorted(path.name for path in (tmp_path / "plots").iterdir()) == ["one.png", "two.png"]
    assert videos.count("frames.newness") == 2 * LENGTH
    assert cli.main([*command, "--method", "content", "--threshold", "250"]) == 0
    assert "2 segments in shots" in capsys.readouterr().out
