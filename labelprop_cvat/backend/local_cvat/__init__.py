"""An embedded server with CVAT's REST API, for work without a CVAT and for tests."""

from .faults import Faults
from .server import DEFAULT_PORT, LocalCVAT, serve

__all__ = ["DEFAULT_PORT", "Faults", "LocalCVAT", "serve"]
