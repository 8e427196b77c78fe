"""What can go wrong between this package and a CVAT server.

::

    CVATError                   carries ``method``, ``path`` and ``status`` of the request
    ├── CVATTransportError      no usable answer; ``not_sent`` says whether the server can have seen the request
    │   ├── Unreachable         no connection: unknown host, refused, no route
    │   ├── Timeout             the server took longer than allowed
    │   ├── TLSFailed           the server's certificate cannot be verified
    │   └── ConnectionCut       the connection broke before the answer was complete
    └── CVATRefusal             an answer that says no
        ├── NotCVAT             the answer does not come from a CVAT API (a web page, another service)
        ├── ServerTooOld        a CVAT server that lacks what is needed
        ├── LoginRefused        wrong password or token, or none given
        ├── PermissionRefused   403: this user may not do that
        ├── NotFound            404: the object is gone or hidden from this user
        │   └── LabelMissing    a label or attribute is not in the task's labels
        ├── Throttled           429, for longer than the client is allowed to wait
        ├── Invalid             400 and its kin: the server or the client's own checks reject the content
        │   ├── PayloadTooLarge 413: the server, or a proxy before it, takes no request of that size
        │   └── InvalidPayload  annotations that CVAT would accept, lose or choke on; nothing was sent
        ├── ServerFailure       5xx
        ├── AnswerTooLarge      more than any CVAT server sends; it was not read
        └── DataFailed          the server could not make frames of the uploaded files

Messages are one sentence or two, hold no secrets and shorten what the server said.
"""

# ruff: noqa: N818 -- read as sentences: `except Unreachable`, `except LoginRefused`
from __future__ import annotations

from labelprop_cvat.errors import DataError, LabelPropError


class CVATError(LabelPropError):
    """Base class of every failure in talking to a CVAT server.

    Args:
        message: what was expected, what was found, what to do; without secrets
        method: HTTP method of the request, None when nothing was sent
        path: path of its URL, without host and query
        status: HTTP status of the answer, None when there was none
    """

    def __init__(
        self, message: str, *, method: str | None = None, path: str | None = None, status: int | None = None
    ) -> None:
        super().__init__(message)
        self.method = method
        self.path = path
        self.status = status


class CVATTransportError(CVATError):
    """There is no usable answer.

    Args:
        not_sent: True when the request certainly did not reach the server, so that even a write may be sent again
    """

    def __init__(
        self,
        message: str,
        *,
        method: str | None = None,
        path: str | None = None,
        status: int | None = None,
        not_sent: bool = False,
    ) -> None:
        super().__init__(message, method=method, path=path, status=status)
        self.not_sent = not_sent


class Unreachable(CVATTransportError):
    """No connection to the server could be made."""


class Timeout(CVATTransportError):
    """The server took longer to answer, or to finish a job, than allowed."""


class TLSFailed(CVATTransportError):
    """The server's certificate cannot be verified."""


class ConnectionCut(CVATTransportError):
    """The connection broke before the answer was complete."""


class CVATRefusal(CVATError):
    """The server answered, and the answer is no."""


class NotCVAT(CVATRefusal):
    """Something answers at the address, but not a CVAT API."""


class ServerTooOld(CVATRefusal):
    """The server is of a version that lacks what this client needs."""


class LoginRefused(CVATRefusal):
    """Wrong user name, password or token, or none was given."""


class PermissionRefused(CVATRefusal):
    """The user may not do that."""


class NotFound(CVATRefusal):
    """The object does not exist, or the user may not see it."""


class LabelMissing(NotFound):
    """A label or an attribute is not among the labels of the task."""


class Throttled(CVATRefusal):
    """The server wants the client to wait longer than the retry policy allows.

    Attributes:
        retry_after: seconds that it wants to be left alone, None when it did not say
    """

    retry_after: float | None = None


class Invalid(CVATRefusal):
    """The content of the request was rejected."""


class PayloadTooLarge(Invalid):
    """The server, or a proxy before it, takes no request of that size."""


class InvalidPayload(Invalid, DataError):
    """The client's own check of annotations or files failed; nothing was sent."""


class ServerFailure(CVATRefusal):
    """The server failed at the request (5xx)."""


class AnswerTooLarge(CVATRefusal):
    """The answer is larger than any that a CVAT server sends; it was not read."""


class DataFailed(CVATRefusal):
    """The server could not make frames of the uploaded files."""


__all__ = [
    "AnswerTooLarge",
    "CVATError",
    "CVATRefusal",
    "CVATTransportError",
    "ConnectionCut",
    "DataFailed",
    "Invalid",
    "InvalidPayload",
    "LabelMissing",
    "LoginRefused",
    "NotCVAT",
    "NotFound",
    "PayloadTooLarge",
    "PermissionRefused",
    "ServerFailure",
    "ServerTooOld",
    "TLSFailed",
    "Throttled",
    "Timeout",
    "Unreachable",
]
