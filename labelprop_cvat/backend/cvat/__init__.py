"""A client for CVAT's REST API, checked against recordings of CVAT 2.54.1.

Knows CVAT; knows neither FiftyOne nor propagation.
"""

from __future__ import annotations

from labelprop_cvat.backend.cvat import errors
from labelprop_cvat.backend.cvat.annotations import Annotations, check_payload, unreadable
from labelprop_cvat.backend.cvat.client import CVATClient
from labelprop_cvat.backend.cvat.credentials import Credentials
from labelprop_cvat.backend.cvat.errors import (
    AnswerTooLarge,
    ConnectionCut,
    CVATError,
    CVATRefusal,
    CVATTransportError,
    DataFailed,
    Invalid,
    InvalidPayload,
    LabelMissing,
    LoginRefused,
    NotCVAT,
    NotFound,
    PayloadTooLarge,
    PermissionRefused,
    ServerFailure,
    ServerTooOld,
    Throttled,
    Timeout,
    TLSFailed,
    Unreachable,
)
from labelprop_cvat.backend.cvat.models import (
    Attribute,
    AttributeSpec,
    Comment,
    DataMeta,
    Frame,
    Issue,
    Job,
    Label,
    LabelMap,
    LabelSpec,
    Organization,
    Project,
    Request,
    ServerAbout,
    Task,
    UploadFile,
    User,
)
from labelprop_cvat.backend.cvat.rle import mask_to_points, points_to_mask
from labelprop_cvat.backend.cvat.session import RetryPolicy

__all__ = [
    "Annotations",
    "AnswerTooLarge",
    "Attribute",
    "AttributeSpec",
    "CVATClient",
    "CVATError",
    "CVATRefusal",
    "CVATTransportError",
    "Comment",
    "ConnectionCut",
    "Credentials",
    "DataFailed",
    "DataMeta",
    "Frame",
    "Invalid",
    "InvalidPayload",
    "Issue",
    "Job",
    "Label",
    "LabelMap",
    "LabelMissing",
    "LabelSpec",
    "LoginRefused",
    "NotCVAT",
    "NotFound",
    "Organization",
    "PayloadTooLarge",
    "PermissionRefused",
    "Project",
    "Request",
    "RetryPolicy",
    "ServerAbout",
    "ServerFailure",
    "ServerTooOld",
    "TLSFailed",
    "Task",
    "Throttled",
    "Timeout",
    "Unreachable",
    "UploadFile",
    "User",
    "check_payload",
    "errors",
    "mask_to_points",
    "points_to_mask",
    "unreadable",
]
