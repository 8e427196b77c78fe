"""Chunks of frames as CVAT serves them: ZIP archives of images, of which nothing is believed before it was measured."""

from __future__ import annotations

import io
import zipfile
import zlib

from labelprop_cvat.backend.cvat.errors import AnswerTooLarge, Invalid, NotCVAT

MOST_FRAMES = 4096
UNPACKED_BYTES = 2**30
_BLOCK = 2**20


def images_of(content: bytes, what: str) -> list[bytes]:
    """Unpacks a chunk.

    Args:
        content: the archive
        what: method and path of the request, for sentences

    Returns:
        its files, by name: CVAT counts them up. Names lead nowhere, nothing is written

    Raises:
        Invalid: it is a video
        NotCVAT: it is no archive, or a damaged one
        AnswerTooLarge: it unpacks to more than :data:`UNPACKED_BYTES`, or holds more than :data:`MOST_FRAMES` files
    """
    if content[4:8] == b"ftyp":
        raise Invalid(f"{what}: the task serves its chunks as videos; read its frames one by one.")
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            entries = sorted(archive.infolist(), key=lambda entry: entry.filename)
            if len(entries) > MOST_FRAMES:
                raise _too_large(what)
            images, left = [], UNPACKED_BYTES
            for entry in entries:
                images.append(_unpacked(archive, entry, left, what))
                left -= len(images[-1])
            return images
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError, ValueError) as error:
        raise NotCVAT(f"{what}: expected an archive of frames, got something else ({type(error).__name__}).") from None


def _unpacked(archive: zipfile.ZipFile, entry: zipfile.ZipInfo, limit: int, what: str) -> bytes:
    # The size that an entry declares may be a lie, so what comes out is counted.
    pieces: list[bytes] = []
    with archive.open(entry) as stream:
        while block := stream.read(min(_BLOCK, limit + 1)):
            limit -= len(block)
            if limit < 0:
                raise _too_large(what)
            pieces.append(block)
    return b"".join(pieces)


def _too_large(what: str) -> AnswerTooLarge:
    return AnswerTooLarge(
        f"{what}: the chunk holds more than {MOST_FRAMES} files or {UNPACKED_BYTES // 2**20} MiB, which none of CVAT's "
        f"does; it was not unpacked. Check what answers at the address, or read frames one by one."
    )


__all__ = ["MOST_FRAMES", "UNPACKED_BYTES", "images_of"]
