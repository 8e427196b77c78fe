"""Gets a checkpoint over the network, so that what stands under its name is always the whole published file."""

from __future__ import annotations

import errno
import fcntl
import hashlib
import logging
import os
import re
import shutil
import ssl
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from http.client import HTTPException
from importlib.metadata import PackageNotFoundError, version
from io import FileIO
from pathlib import Path
from typing import Protocol
from urllib.error import HTTPError, URLError
from urllib.request import Request, build_opener

from labelprop_cvat.errors import ConfigurationError, EngineError
from labelprop_cvat.propagation.sam2._models import ModelInfo

logger = logging.getLogger(__name__)

Progress = Callable[[int, int], None]
"""Called with the bytes that are there and the bytes in all."""

_CHUNK = 1 << 18
_WORTH_A_TRY = 1 << 20
_SPARE = 16 << 20
_LONGEST_WAIT = 30.0
_FULL = (errno.ENOSPC, errno.EDQUOT)
_WAIT_AND_SEE = (408, 425, 429, 500, 502, 503, 504)


class Answer(Protocol):
    """What an opener returns, as far as it is used: an ``http.client.HTTPResponse``."""

    status: int

    @property
    def headers(self) -> Headers: ...

    def read1(self, n: int = -1, /) -> bytes: ...

    def close(self) -> None: ...


class Headers(Protocol):
    """The headers of an answer, in upper or lower case."""

    def get(self, name: str, /) -> str | None: ...


class Opener(Protocol):
    """Sends requests, as ``urllib.request.OpenerDirector`` does; raises ``HTTPError`` for answers that say no."""

    def open(self, fullurl: Request, /, *, timeout: float) -> Answer: ...


@dataclass(frozen=True)
class Patience:
    """How long a download goes on when the network does not.

    Args:
        timeout: seconds without an answer or a byte until a try counts as failed
        attempts: tries in a row that bring less than a mebibyte until the download is given up
        pause: seconds before the second try; doubles from try to try
    """

    timeout: float = 30.0
    attempts: int = 4
    pause: float = 1.0


def cache_folder() -> Path:
    """Where this package keeps the checkpoints that it downloads: ``$XDG_CACHE_HOME/labelprop-cvat/sam2``."""
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "labelprop-cvat" / "sam2"


def fetch_checkpoint(
    info: ModelInfo,
    *,
    folder: str | os.PathLike[str] | None = None,
    progress: Progress | None = None,
    opener: Opener | None = None,
    patience: Patience = Patience(),
) -> Path:
    """Downloads the published checkpoint of a model, unless it is there already.

    The bytes go to ``<name>.part``, which a later call goes on with, and get their name once length and SHA-256 are as
    published. Several processes may ask at the same time: one downloads, the others wait for it.

    Args:
        info: the model
        folder: where to put the file; by default :func:`cache_folder`
        progress: called with the bytes that are there and the bytes in all; what it raises ends the download, of which
            the part remains
        opener: sends the requests; by default urllib's, which takes proxies from the environment and verifies TLS
        patience: how often to try again

    Returns:
        the path of the file

    Raises:
        ConfigurationError: the folder cannot be written, has too little space, or another file has the name
        EngineError: the file cannot be had from the network; says what to put where instead
    """
    place = Path(folder).expanduser() if folder is not None else cache_folder()
    target = place / info.file_name
    with _writing(info, place):
        place.mkdir(parents=True, exist_ok=True)
    with _part_of_one_writer(info, target, patience.timeout) as part:
        if part is None:
            check_file(info, target)
        else:
            _Download(info, target, part, progress, opener or build_opener(), patience).run()
    return target


def check_file(info: ModelInfo, path: str | os.PathLike[str]) -> None:
    """Raises an error unless a file is, bit for bit, the published checkpoint of the model.

    Raises:
        ConfigurationError: it has another length or another SHA-256, or cannot be read
    """
    path = Path(path)
    try:
        length = path.stat().st_size
        found = _digest(path) if length == info.size_bytes else None
    except OSError as error:
        raise ConfigurationError(f"{path} cannot be read: {error.strerror or error}.") from error
    if found != info.sha256:
        differs = f"{length:,} bytes" if found is None else f"SHA-256 {found}"
        published = f"{info.size_bytes:,} bytes" if found is None else f"SHA-256 {info.sha256}"
        raise ConfigurationError(
            f"{path} is not the published {info.file_name}: expected {published}, found {differs}. Delete it to have "
            f"it downloaded again; if it is a model of your own, give it another name and pass checkpoint=FILE."
        )


class _PassingError(Exception):
    """This try failed; the next one may not. ``wait`` is what the server asks for, in seconds."""

    def __init__(self, why: str, wait: float = 0.0) -> None:
        super().__init__(why)
        self.wait = wait


class _LastingError(Exception):
    """Trying again would change nothing."""


@contextmanager
def _part_of_one_writer(info: ModelInfo, target: Path, patience: float) -> Iterator[FileIO | None]:
    """The part of a file, open for appending, while no other process has it; None when the file itself is there.

    The lock is on the part, so that nothing else is left behind, and goes with the process that holds it.
    """
    path = target.with_name(f"{target.name}.part")
    while not target.exists():
        with _writing(info, target.parent):
            # Unbuffered, as bytes that a full disk refused would be written once more when it is closed.
            opened = path.open("ab+", buffering=0)
        with opened as part:
            _lock(part, path, patience)
            # Who had it before may have renamed or removed it: then this lock is on a file without a name.
            if not _is_same(part, path):
                continue
            try:
                if not target.exists():
                    yield part
                    return
            finally:
                if _is_same(part, path) and os.fstat(part.fileno()).st_size == 0:
                    path.unlink()
    yield None


def _lock(part: FileIO, path: Path, patience: float) -> None:
    seen, since, told = -1, time.monotonic(), False
    while True:
        try:
            fcntl.flock(part, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except OSError as error:
            if error.errno in (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP):
                logger.warning("%s cannot be locked there: do not download it twice at the same time.", path)
                return
            if error.errno not in (errno.EAGAIN, errno.EACCES):
                raise
        if not told:
            logger.info("Another process is downloading %s: waiting for it.", path)
            told = True
        length = os.fstat(part.fileno()).st_size
        if length != seen:
            seen, since = length, time.monotonic()
        elif time.monotonic() - since > 4 * patience:
            raise EngineError(
                f"Another process holds {path} and has not added to it for {4 * patience:.0f} s. End that process, or "
                f"download into another folder."
            )
        time.sleep(min(0.2, patience))


def _is_same(part: FileIO, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(part.fileno()), path.stat())
    except FileNotFoundError:
        return False


class _Download:
    """One call's way to the whole file: tries, checks, and gives it its name."""

    def __init__(
        self,
        info: ModelInfo,
        target: Path,
        part: FileIO,
        progress: Progress | None,
        opener: Opener,
        patience: Patience,
    ) -> None:
        self._info = info
        self._target = target
        self._part = part
        self._progress = progress
        self._opener = opener
        self._patience = patience
        self._validator: str | None = None
        self._ranges = True
        self._pieced = False

    def run(self) -> None:
        self._check_space()
        logger.info(
            "Downloading %s (%d MB) from %s to %s, %d MB of it are there.",
            self._info.file_name,
            self._info.size_bytes // 10**6,
            self._info.url,
            self._target.parent,
            self._have() // 10**6,
        )
        try:
            self._complete()
            found = self._found()
            if found != self._info.sha256 and self._pieced:
                logger.warning("%s is not what was published once its parts are put together: anew.", self._target.name)
                self._restart()
                self._complete()
                found = self._found()
            if found != self._info.sha256:
                self._restart()
                raise _LastingError(f"what came has SHA-256 {found}, expected {self._info.sha256}")
        except (_LastingError, _PassingError) as error:
            raise EngineError(self._sentence(str(error))) from error
        with _writing(self._info, self._target.parent):
            os.fsync(self._part.fileno())
            Path(self._part.name).replace(self._target)

    def _complete(self) -> None:
        """Tries until all bytes are there; raises the last reason when that is hopeless."""
        if self._have() > self._info.size_bytes:
            self._restart()
        self._pieced = self._have() > 0
        self._tell()
        most, fruitless = self._have(), 0
        while self._have() < self._info.size_bytes:
            try:
                self._attempt()
            except _PassingError as error:
                gained = self._have() - most
                most = max(most, self._have())
                fruitless = 0 if gained >= _WORTH_A_TRY else fruitless + 1
                if fruitless >= self._patience.attempts:
                    raise
                pause = max(error.wait, self._patience.pause * 2 ** max(0, fruitless - 1))
                logger.warning("%s: %s; again in %.1f s.", self._info.file_name, error, pause)
                time.sleep(min(pause, _LONGEST_WAIT))

    def _attempt(self) -> None:
        """One request, whose answer is appended to the part."""
        offset = self._have() if self._ranges else 0
        request = Request(self._info.url, headers={"User-Agent": _user_agent(), "Accept-Encoding": "identity"})
        if offset:
            request.add_header("Range", f"bytes={offset}-")
            if self._validator:
                request.add_header("If-Range", self._validator)
        try:
            answer = self._opener.open(request, timeout=self._patience.timeout)
        except HTTPError as error:
            with error:
                raise self._refusal(error) from error
        except URLError as error:
            raise _no_answer(error) from error
        except (OSError, HTTPException) as error:
            raise _PassingError(f"no answer ({_said(error)})") from error
        try:
            self._begin(answer, offset)
            self._copy(answer)
        finally:
            answer.close()

    def _begin(self, answer: Answer, offset: int) -> None:
        """Makes the part end where the answer starts."""
        tag = answer.headers.get("ETag")
        self._validator = tag if tag and not tag.startswith("W/") else None
        if answer.status != 206:
            self._restart()
            length = answer.headers.get("Content-Length")
            if length is not None and length.isdecimal() and int(length) != self._info.size_bytes:
                kind = answer.headers.get("Content-Type") or "of no stated type"
                raise _LastingError(
                    f"the server offers {int(length):,} bytes ({kind}), expected {self._info.size_bytes:,}"
                )
            return
        match = re.fullmatch(r"bytes (\d+)-\d+/(\d+|\*)", (answer.headers.get("Content-Range") or "").strip())
        if match and match[2] not in ("*", str(self._info.size_bytes)):
            self._restart()
            raise _LastingError(f"the server's file has {int(match[2]):,} bytes, expected {self._info.size_bytes:,}")
        if match is None or int(match[1]) != offset:
            self._ranges = False
            raise _PassingError("the server answered with another part than was asked for")
        self._pieced = True

    def _copy(self, answer: Answer) -> None:
        while True:
            try:
                # read1 returns what is there: of a stalled answer nothing is lost.
                chunk = answer.read1(_CHUNK)
            except (OSError, HTTPException) as error:
                raise _PassingError(f"cut off after {self._have():,} bytes ({_said(error)})") from error
            if not chunk:
                break
            self._write(chunk)
            if self._have() > self._info.size_bytes:
                self._restart()
                raise _LastingError(f"the server sends more than the expected {self._info.size_bytes:,} bytes")
            self._tell()
        if self._have() < self._info.size_bytes:
            raise _PassingError(f"cut off after {self._have():,} of {self._info.size_bytes:,} bytes")

    def _refusal(self, error: HTTPError) -> Exception:
        said = f"the server answers {error.code} {error.reason}".rstrip()
        if error.code == 416:
            self._restart()
            return _PassingError(f"{said}: it has no such part")
        if error.code in _WAIT_AND_SEE:
            wait = error.headers.get("Retry-After") if error.headers else None
            return _PassingError(said, float(wait) if wait and wait.isdecimal() else 0.0)
        if error.code == 407:
            return _LastingError(f"{said}: the proxy of this network wants a login, in HTTPS_PROXY")
        return _LastingError(said)

    def _write(self, chunk: bytes) -> None:
        with _writing(self._info, self._target.parent):
            rest = memoryview(chunk)
            while rest:
                rest = rest[self._part.write(rest) :]

    def _have(self) -> int:
        return os.fstat(self._part.fileno()).st_size

    def _restart(self) -> None:
        self._part.truncate(0)
        self._pieced = False

    def _found(self) -> str:
        return _digest(Path(self._part.name))

    def _tell(self) -> None:
        if self._progress is not None:
            self._progress(self._have(), self._info.size_bytes)

    def _check_space(self) -> None:
        needed = max(0, self._info.size_bytes - self._have()) + _SPARE
        free = shutil.disk_usage(self._target.parent).free
        if free < needed:
            raise ConfigurationError(
                f"{self._target.parent} has {free // 10**6:,} MB left, but {self._info.file_name} needs "
                f"{needed // 10**6:,} MB. Make room, set XDG_CACHE_HOME to a folder with more, or put the file "
                f"anywhere and pass checkpoint=FILE."
            )

    def _sentence(self, why: str) -> str:
        info = self._info
        return (
            f"The weights {info.file_name} ({info.size_bytes // 10**6} MB) cannot be downloaded: {why.rstrip('.')}. "
            f"Get {info.url} on a machine that can, and put it at {self._target}, or pass its path as checkpoint=FILE."
        )


def _no_answer(error: URLError) -> Exception:
    reason = error.reason
    if isinstance(reason, ssl.SSLCertVerificationError):
        return _LastingError(
            f"the TLS certificate of the server is not trusted ({reason.verify_message}); where the network has a "
            f"certificate authority of its own, set SSL_CERT_FILE to its certificates"
        )
    return _PassingError(f"no answer ({_said(reason)})")


def _said(reason: object) -> str:
    if isinstance(reason, OSError) and reason.strerror:
        return reason.strerror
    return str(reason) or type(reason).__name__


@contextmanager
def _writing(info: ModelInfo, place: Path) -> Iterator[None]:
    """What the file system refuses inside becomes a sentence that says what to do."""
    try:
        yield
    except OSError as error:
        if error.errno in _FULL:
            raise ConfigurationError(
                f"{place} is full; {info.file_name} takes {info.size_bytes // 10**6} MB. Make room and call again, "
                f"which goes on where it stopped, or set XDG_CACHE_HOME to a folder with more."
            ) from error
        raise ConfigurationError(
            f"{info.file_name} cannot be written into {place}: {error.strerror or error}. Set XDG_CACHE_HOME to a "
            f"folder that can be written, or get {info.url} and pass its path as checkpoint=FILE."
        ) from error


def _digest(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()


def _user_agent() -> str:
    with suppress(PackageNotFoundError):
        return f"labelprop-cvat/{version('labelprop-cvat')}"
    return "labelprop-cvat"


__all__ = ["Patience", "Progress", "cache_folder", "check_file", "fetch_checkpoint"]
