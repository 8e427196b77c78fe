"""Which CVAT servers this client works with.

========== ============================================================================================================
below 2.4  refused: no list of files per job (``job_file_mapping``), no ``/api/labels``
2.4 .. 2.x taken; where ``/api/requests`` is missing (added about 2.19), ``/api/tasks/{id}/status`` is asked instead
2.54       tested: every answer is held against recordings of 2.54.1
========== ============================================================================================================

Any version that is not tested is named in one warning per server and process.
"""

from __future__ import annotations

import logging
import re
import threading
from typing import TypeAlias

from labelprop_cvat.backend.cvat.errors import ServerTooOld
from labelprop_cvat.backend.cvat.models import ServerAbout

logger = logging.getLogger(__name__)

Version: TypeAlias = tuple[int, int]
"""Major and minor."""

OLDEST: Version = (2, 4)
TESTED: tuple[Version, Version] = (2, 54), (2, 54)
"""First and last tested version, both inclusive."""

_warned: set[tuple[str, str]] = set()
_lock = threading.Lock()


def version_of(about: ServerAbout) -> Version | None:
    """Major and minor version; None where the server hides them or calls itself by another scheme."""
    found = re.match(r"\s*v?(\d{1,4})\.(\d{1,4})(?!\d)", about.version)
    return (int(found[1]), int(found[2])) if found else None


def is_tested(about: ServerAbout) -> bool:
    """Whether this client was tested against that version."""
    version = version_of(about)
    return version is not None and TESTED[0] <= version <= TESTED[1]


def check_version(about: ServerAbout, host: str) -> None:
    """Warns, once per server, of a version that is not tested.

    Args:
        about: what the server says of itself
        host: the server, for sentences

    Raises:
        ServerTooOld: it lacks what this client needs
    """
    version = version_of(about)
    if version is not None and version < OLDEST:
        raise ServerTooOld(
            f"CVAT at {host} is of version {about.version}; needed is {_text(OLDEST)} or later, which can make jobs of "
            f"listed files. Update the server."
        )
    if is_tested(about):
        return
    with _lock:
        known = (host, about.version) in _warned
        _warned.add((host, about.version))
    if not known:
        first, last = TESTED
        tested = _text(first) if first == last else f"{_text(first)} to {_text(last)}"
        logger.warning(
            "CVAT at %s is of version %s; labelprop-cvat is tested with %s. It should work; look closely at what comes "
            "back, and report what is wrong.",
            host,
            about.version[:40] or "unknown",
            tested,
        )


def _text(version: Version) -> str:
    return f"{version[0]}.{version[1]}"


__all__ = ["OLDEST", "TESTED", "check_version", "is_tested", "version_of"]
