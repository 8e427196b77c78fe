"""Turns a few frames annotated by people in CVAT into a fully labelled video in FiftyOne.

Importing this package registers the FiftyOne annotation backend ``labelprop`` and does nothing else: it imports neither
FiftyOne nor an engine. See :mod:`labelprop_cvat.registration`.
"""

from labelprop_cvat.registration import register as _register

__version__ = "0.1.0"
__all__ = ["__version__"]

_register()
