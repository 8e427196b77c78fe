"""Frames come exactly: right picture for every index, whatever the container says, in bounded memory."""

from __future__ import annotations

import random
import shutil
import struct
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from fixtures_media import HEIGHT, WIDTH, number_of, numbered_frame, write_av_video, write_cv_video
from PIL import Image as PILImage

from labelprop_cvat.errors import DataError
from labelprop_cvat.propagation import frames as frames_module
from labelprop_cvat.propagation.frames import (
    ArraySource,
    FrameSource,
    ImageSequenceSource,
    SubsetSource,
    VideoSource,
    image_size,
    read_image,
)

COUNT = 300


def uneven_stamps(count: int) -> list[int]:
    chance = random.Random(7)
    stamps, now = [], 0
    for _ in range(count):
        stamps.append(now)
        now += chance.choice([5, 10, 33, 40, 100, 400])
    return stamps


def make_b_frames(folder: Path) -> Path:
    return write_av_video(folder / "b.mp4", COUNT)


def make_variable_rate(folder: Path) -> Path:
    return write_av_video(folder / "vfr.mp4", COUNT, stamps=uneven_stamps(COUNT))


def make_variable_rate_mkv(folder: Path) -> Path:
    return write_av_video(folder / "vfr.mkv", COUNT, stamps=uneven_stamps(COUNT))


def make_open_gop(folder: Path) -> Path:
    return write_av_video(folder / "open.mp4", COUNT, options={"x264-params": "open-gop=1:bframes=4:keyint=40"})


def make_intra_refresh(folder: Path) -> Path:
    return write_av_video(folder / "refresh.mp4", COUNT, options={"x264-params": "intra-refresh=1:keyint=60"})


def make_without_times(folder: Path) -> Path:
    return write_av_video(folder / "raw.h264", COUNT)


def make_mpeg4_avi(folder: Path) -> Path:
    return write_av_video(folder / "b.avi", COUNT, codec="mpeg4")


def make_transport_stream(folder: Path) -> Path:
    return write_av_video(folder / "b.ts", COUNT)


def make_mp4(folder: Path) -> Path:
    return write_cv_video(folder / "cv.mp4", COUNT)


def make_mjpeg(folder: Path) -> Path:
    return write_cv_video(folder / "cv.avi", COUNT, "MJPG")


MAKERS: list[Callable[[Path], Path]] = [
    make_b_frames,
    make_variable_rate,
    make_variable_rate_mkv,
    make_open_gop,
    make_intra_refresh,
    make_without_times,
    make_mpeg4_avi,
    make_transport_stream,
    make_mp4,
    make_mjpeg,
]


@pytest.fixture(params=MAKERS, ids=lambda maker: maker.__name__.removeprefix("make_"), scope="module")
def video(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return request.param(tmp_path_factory.mktemp("videos"))


@pytest.fixture
def image_paths(tmp_path: Path) -> list[Path]:
    paths = []
    for number in range(6):
        path = tmp_path / f"{number:03}.png"
        cv2.imwrite(str(path), numbered_frame(number)[..., ::-1])
        paths.append(path)
    return paths


class TestVideoSource:
    def test_every_frame_forward_and_backward(self, video: Path) -> None:
        source = VideoSource(video)
        assert isinstance(source, FrameSource)
        assert len(source) == COUNT
        assert source.size == (HEIGHT, WIDTH)
        assert [(i, number_of(frame)) for i, frame in source.read(0, COUNT)] == [(i, i) for i in range(COUNT)]
        backward = range(COUNT - 1, -1, -1)
        assert [(i, number_of(frame)) for i, frame in source.read(COUNT - 1, -1, -1)] == [(i, i) for i in backward]

    def test_random_access(self, video: Path) -> None:
        source = VideoSource(video)
        chance = random.Random(3)
        for index in [0, COUNT - 1, 1, COUNT - 2, *(chance.randrange(COUNT) for _ in range(60))]:
            assert number_of(source[index]) == index
        source.close()
        assert number_of(source[77]) == 77

    def test_strided_and_arbitrary_reads(self, video: Path) -> None:
        source = VideoSource(video)
        for wanted in (range(10, 250, 60), range(299, 100, -37)):
            assert [number_of(f) for _, f in source.read(wanted.start, wanted.stop, wanted.step)] == list(wanted)
        mixed = [250, 3, 4, 5, 290, 289, 288, 100]
        assert [(i, number_of(frame)) for i, frame in source.read_positions(mixed)] == [(i, i) for i in mixed]

    def test_interleaved_reads_do_not_disturb_each_other(self, video: Path) -> None:
        source = VideoSource(video)
        forward, backward = source.read(100, 160), source.read(159, 99, -1)
        for (i, ahead), (j, behind) in zip(forward, backward, strict=True):
            assert (number_of(ahead), number_of(behind)) == (i, j)
            assert number_of(source[200]) == 200

    def test_reverse_chunks_join_without_a_gap(self, video: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(frames_module, "_MAX_CHUNK", 7)
        wanted = range(149, 99, -1)
        assert [number_of(f) for _, f in VideoSource(video).read(149, 99, -1)] == list(wanted)

    @pytest.mark.parametrize("fault", ["other pictures", "a frame left out"])
    def test_seek_that_goes_wrong_is_noticed(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: str) -> None:
        path = write_cv_video(tmp_path / "v.mp4", 200)
        real = cv2.VideoCapture

        class Misguided:
            """A decoder that is right from the start of the file and wrong after a seek."""

            def __init__(self, *arguments: Any) -> None:
                self.capture, self.lost, self.left_out = real(*arguments), False, 0

            def __getattr__(self, name: str) -> Any:
                return getattr(self.capture, name)

            def set(self, *arguments: Any) -> bool:
                self.lost = True
                self.left_out = 0
                return self.capture.set(*arguments)

            def grab(self) -> bool:
                self.left_out += 1
                if self.lost and fault == "a frame left out" and self.left_out == 2:
                    self.capture.grab()
                return self.capture.grab()

            def retrieve(self) -> tuple[bool, np.ndarray]:
                there, frame = self.capture.retrieve()
                return there, frame[::-1].copy() if self.lost and fault == "other pictures" else frame

        monkeypatch.setattr(cv2, "VideoCapture", Misguided)
        if fault == "a frame left out":
            # Pictures that differ only between the sampled pixels: the clock alone can tell.
            monkeypatch.setattr(frames_module, "_checksum", lambda frame: 0)
        source = VideoSource(path)
        wanted = [150, 151, 152, 20, 21, 199]
        assert [number_of(frame) for _, frame in source.read_positions(wanted)] == wanted
        assert [number_of(source[index]) for index in wanted] == wanted

    def test_header_that_counts_wrong_is_not_believed(self, tmp_path: Path) -> None:
        path = write_cv_video(tmp_path / "lie.avi", 60, "MJPG")
        data = bytearray(path.read_bytes())
        main, stream = data.find(b"avih"), data.find(b"strh")
        data[main + 8 + 16 : main + 8 + 20] = struct.pack("<I", 500)
        data[stream + 8 + 32 : stream + 8 + 36] = struct.pack("<I", 500)
        path.write_bytes(data)
        assert cv2.VideoCapture(str(path)).get(cv2.CAP_PROP_FRAME_COUNT) == 500
        source = VideoSource(path)
        assert len(source) == 60
        assert [number_of(source[index]) for index in (59, 0)] == [59, 0]

    def test_file_cut_short_ends_at_its_last_frame(self, tmp_path: Path) -> None:
        path = write_cv_video(tmp_path / "cut.avi", 100, "MJPG")
        data = path.read_bytes()
        path.write_bytes(data[: len(data) // 2])
        source = VideoSource(path)
        assert 10 < len(source) < 60
        assert number_of(source[len(source) - 1]) == len(source) - 1

    def test_rotation_is_applied(self, tmp_path: Path) -> None:
        path = write_cv_video(tmp_path / "r.mp4", 5)
        data = bytearray(path.read_bytes())
        # The track header's matrix, 16.16 fixed point: a quarter turn.
        at = data.find(b"tkhd") + 4 + 40
        data[at : at + 36] = struct.pack(">9i", 0, 1 << 16, 0, -(1 << 16), 0, 0, HEIGHT << 16, 0, 1 << 30)
        path.write_bytes(data)
        source = VideoSource(path)
        assert source.size == (WIDTH, HEIGHT)
        assert number_of(np.rot90(source[3])) == 3

    def test_memory_stays_flat_over_long_reads(self, tmp_path: Path) -> None:
        size = (480, 640)
        path = write_cv_video(tmp_path / "long.mp4", 400, size=size)
        source = VideoSource(path)
        assert len(source) == 400
        tracemalloc.start()
        for _ in source.read(0, 400):
            pass
        forward = tracemalloc.get_traced_memory()[1]
        tracemalloc.reset_peak()
        for _ in source.read(399, -1, -1):
            pass
        backward = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert forward < 12 * 3 * size[0] * size[1]
        assert backward < frames_module._CHUNK_BYTES + 12 * 3 * size[0] * size[1]

    def test_index_is_shared_until_the_file_changes(self, tmp_path: Path) -> None:
        path = write_cv_video(tmp_path / "v.mp4", 30)
        seen: list[int] = []
        assert len(VideoSource(path, progress=seen.append)) == 30
        assert seen == list(range(1, 31))
        assert len(VideoSource(path, progress=seen.append)) == 30
        assert len(seen) == 30
        write_cv_video(path, 44)
        assert len(VideoSource(path)) == 44

    def test_unreadable_files_are_named(self, tmp_path: Path) -> None:
        junk = tmp_path / "junk.mp4"
        junk.write_bytes(b"no video at all" * 100)
        for path in (junk, tmp_path / "missing.mp4"):
            with pytest.raises(DataError, match=path.name):
                len(VideoSource(path))

    def test_changed_file_is_reported(self, tmp_path: Path) -> None:
        path = write_cv_video(tmp_path / "v.avi", 120, "MJPG")
        source = VideoSource(path)
        assert number_of(source[5]) == 5
        shorter = write_cv_video(tmp_path / "w.avi", 20, "MJPG")
        shutil.copy(shorter, path)
        with pytest.raises(DataError, match="no longer decodes"):
            list(source.read(0, 120))

    def test_frame_rate(self, tmp_path: Path) -> None:
        assert VideoSource(write_cv_video(tmp_path / "v.mp4", 20)).frame_rate == pytest.approx(25.0)

    def test_outside_is_refused(self, tmp_path: Path) -> None:
        source = VideoSource(write_cv_video(tmp_path / "v.mp4", 10))
        for call in (lambda: source[10], lambda: source[-1], lambda: list(source.read(0, 11))):
            with pytest.raises(IndexError, match=r"0\.\.9"):
                call()
        assert list(source.read(5, 5)) == []


class TestImageSequenceSource:
    def test_frames_in_order(self, image_paths: list[Path]) -> None:
        source = ImageSequenceSource(image_paths)
        assert isinstance(source, FrameSource)
        assert (len(source), source.size) == (6, (HEIGHT, WIDTH))
        assert [(i, number_of(f)) for i, f in source.read(5, 0, -2)] == [(5, 5), (3, 3), (1, 1)]
        assert number_of(source[2]) == 2
        source.check()

    def test_rgb_order(self, tmp_path: Path) -> None:
        PILImage.new("RGB", (8, 6), (250, 120, 10)).save(tmp_path / "c.png")
        assert read_image(tmp_path / "c.png")[0, 0].tolist() == [250, 120, 10]

    @pytest.mark.parametrize("suffix", ["jpg", "png"])
    @pytest.mark.parametrize("orientation", range(1, 9))
    def test_orientation_as_viewers_show_it(self, tmp_path: Path, orientation: int, suffix: str) -> None:
        from PIL import ImageOps

        image = PILImage.fromarray(numbered_frame(0b1011001110))
        exif = image.getexif()
        exif[274] = orientation
        path = tmp_path / f"o.{suffix}"
        image.save(path, exif=exif, quality=95)
        with PILImage.open(path) as stored:
            shown = np.asarray(ImageOps.exif_transpose(stored).convert("RGB"))
        assert image_size(path) == shown.shape[:2]
        assert np.abs(read_image(path).astype(int) - shown).max() <= 4

    def test_other_pixel_formats_become_rgb(self, tmp_path: Path) -> None:
        gray = np.arange(48, dtype=np.uint8).reshape(6, 8)
        cv2.imwrite(str(tmp_path / "gray.png"), gray)
        cv2.imwrite(str(tmp_path / "deep.png"), gray.astype(np.uint16) << 8 | 77)
        rgba = np.dstack([gray, gray + 50, gray + 100, np.full_like(gray, 3)])
        PILImage.fromarray(rgba, "RGBA").save(tmp_path / "alpha.png")
        PILImage.fromarray(gray).quantize(48).save(tmp_path / "palette.png")
        for name in ("gray", "deep"):
            frame = read_image(tmp_path / f"{name}.png")
            assert frame.dtype == np.uint8
            np.testing.assert_array_equal(frame, np.dstack([gray] * 3))
        np.testing.assert_array_equal(read_image(tmp_path / "alpha.png"), rgba[..., :3])
        assert read_image(tmp_path / "palette.png").shape == (6, 8, 3)

    @pytest.mark.parametrize("damage", ["missing", "junk", "empty", "cut.jpg", "cut.png", "folder"])
    def test_unreadable_image_is_named(self, tmp_path: Path, image_paths: list[Path], damage: str) -> None:
        bad = tmp_path / (damage if "." in damage else f"{damage}.jpg")
        if damage == "junk":
            bad.write_bytes(b"not an image")
        elif damage == "empty":
            bad.touch()
        elif damage == "folder":
            bad.mkdir()
        elif damage.startswith("cut"):
            noise = np.random.default_rng(0).integers(0, 255, (HEIGHT, WIDTH, 3), dtype=np.uint8)
            cv2.imwrite(str(bad), noise)
            data = bad.read_bytes()
            bad.write_bytes(data[: len(data) // 2])
        source = ImageSequenceSource([image_paths[0], bad])
        with pytest.raises(DataError, match=bad.name):
            list(source.read(0, 2))

    def test_jpeg_with_something_behind_its_end_is_fine(self, tmp_path: Path) -> None:
        path = tmp_path / "motion.jpg"
        cv2.imwrite(str(path), numbered_frame(9)[..., ::-1])
        path.write_bytes(path.read_bytes() + b"\xff\xda trailing video")
        assert number_of(read_image(path)) == 9

    def test_size_change_is_named(self, tmp_path: Path, image_paths: list[Path]) -> None:
        other = tmp_path / "other.png"
        cv2.imwrite(str(other), np.zeros((40, 50, 3), dtype=np.uint8))
        source = ImageSequenceSource([*image_paths, other])
        for call in (source.check, lambda: source[6]):
            with pytest.raises(DataError, match=r"000\.png is 160x32 .*other\.png is 50x40"):
                call()

    def test_pictures_of_their_own_may_differ_in_size(self, tmp_path: Path, image_paths: list[Path]) -> None:
        other = tmp_path / "other.png"
        cv2.imwrite(str(other), np.full((40, 50, 3), 7, dtype=np.uint8))
        source = ImageSequenceSource([image_paths[3], other], uniform=False)
        seen: list[int] = []
        source.check(seen.append)
        assert seen == [1, 2]
        assert source.sizes == ((HEIGHT, WIDTH), (40, 50))
        assert source.size == (HEIGHT, WIDTH)
        assert source[1].shape == (40, 50, 3)
        assert [frame.shape[:2] for _, frame in source.read(0, 2)] == [(HEIGHT, WIDTH), (40, 50)]
        with pytest.raises(DataError, match="gone"):
            _ = ImageSequenceSource([other, tmp_path / "gone.png"], uniform=False).sizes

    def test_check_finds_a_missing_file(self, tmp_path: Path, image_paths: list[Path]) -> None:
        with pytest.raises(DataError, match="gone"):
            ImageSequenceSource([*image_paths, tmp_path / "gone.png"]).check()

    def test_frames_are_kept_for_a_while_only(self, image_paths: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(frames_module, "_CACHED_FRAMES", 2)
        source = ImageSequenceSource(image_paths)
        assert source[0] is source[0]
        with pytest.raises(ValueError, match="read-only"):
            source[0][0, 0] = 0
        first = source[0]
        assert [number_of(source[i]) for i in (1, 2)] == [1, 2]
        assert source[0] is not first

    def test_nothing_is_no_sequence(self) -> None:
        with pytest.raises(DataError, match="at least one image"):
            ImageSequenceSource([])


class TestOtherSources:
    def test_array_source(self) -> None:
        source = ArraySource(np.stack([numbered_frame(i) for i in range(4)]))
        assert isinstance(source, FrameSource)
        assert (len(source), source.size) == (4, (HEIGHT, WIDTH))
        assert [(i, number_of(f)) for i, f in source.read(3, -1, -1)] == [(3, 3), (2, 2), (1, 1), (0, 0)]
        with pytest.raises(DataError, match="frame 1"):
            ArraySource([numbered_frame(0), np.zeros((3, 3, 3), np.uint8)])
        with pytest.raises(DataError, match="at least one"):
            ArraySource([])
        with pytest.raises(DataError, match="step"):
            list(source.read(0, 3, 0))

    def test_subset_renumbers(self, tmp_path: Path) -> None:
        video = VideoSource(write_cv_video(tmp_path / "v.mp4", 200))
        array = ArraySource([numbered_frame(i) for i in range(200)])
        for source in (SubsetSource(video, [5, 9, 150, 151]), SubsetSource(array, [5, 9, 150, 151])):
            assert isinstance(source, FrameSource)
            assert (len(source), source.size) == (4, (HEIGHT, WIDTH))
            assert number_of(source[2]) == 150
            assert [(i, number_of(f)) for i, f in source.read(0, 4)] == [(0, 5), (1, 9), (2, 150), (3, 151)]
            assert [(i, number_of(f)) for i, f in source.read(3, 0, -1)] == [(3, 151), (2, 150), (1, 9)]
        with pytest.raises(IndexError):
            SubsetSource(array, [200])
        with pytest.raises(DataError, match="at least one"):
            SubsetSource(array, [])

    def test_a_subset_of_a_subset_of_a_video_reads_it_in_one_go(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        video = VideoSource(write_cv_video(tmp_path / "v.mp4", 40))
        subset = SubsetSource(SubsetSource(video, range(4, 40, 3)), [2, 3, 7])
        assert number_of(subset[1]) == 13

        def one_by_one(self: VideoSource, index: int) -> None:
            raise AssertionError("a frame was looked for by itself")

        monkeypatch.setattr(VideoSource, "__getitem__", one_by_one)
        assert [(i, number_of(f)) for i, f in subset.read(0, 3)] == [(0, 10), (1, 13), (2, 25)]
