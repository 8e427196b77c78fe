"""The errors of labelprop-cvat.

::

    LabelPropError
    ├── ConfigurationError    a setting, argument or installation is wrong; nothing was started
    ├── DataError             samples, media or labels are not what the call needs
    │   └── RunInUse              another process works on the run at this moment
    ├── EngineError           a propagation engine cannot do, or failed to do, its work
    └── CVATError             (labelprop_cvat.backend.cvat.errors) talking to a CVAT server
        ├── CVATTransportError    no answer: unreachable, timed out, TLS, cut connection
        └── CVATRefusal           an answer that says no: login, permission, missing, invalid, server error

Every message says what was expected, what was found and what to do.
"""

from __future__ import annotations


class LabelPropError(Exception):
    """Base class of every error that this package raises on purpose."""


class ConfigurationError(LabelPropError, ValueError):
    """A setting, an argument or the installation is wrong. Nothing was started."""


class DataError(LabelPropError, ValueError):
    """Samples, media or labels are not what the call needs."""


class RunInUse(DataError):  # noqa: N818 - read as a sentence: `except RunInUse`
    """Another process works on the run at this moment."""


class EngineError(LabelPropError, RuntimeError):
    """A propagation engine cannot do, or failed to do, its work."""


__all__ = ["ConfigurationError", "DataError", "EngineError", "LabelPropError", "RunInUse"]
