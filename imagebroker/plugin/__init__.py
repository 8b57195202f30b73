"""Everything that a backend plugin can import from imagebroker. See docs/writing-a-backend.md."""

from __future__ import annotations

from imagebroker.backends.backend import (
    API_VERSION,
    BackendHost,
    Buffer,
    Context,
    ImageBackend,
    ImageSource,
    Limits,
    Options,
)
from imagebroker.backends.entry_points import entry_points
from imagebroker.exceptions import (
    BackendError,
    BackendLoadError,
    ConfigError,
    Conflict,
    DestinationError,
    FormatError,
    Gone,
    ImageBrokerError,
    ImageChanged,
    ImageNotFound,
    InvalidImageRef,
    MalformedAnswer,
    NotAuthorized,
    NotReady,
    PolicyViolation,
    QuotaExceeded,
    RangeIgnored,
    TooLarge,
    TransferError,
    TransferTimeout,
    UnconfirmedEnd,
    UnsupportedOperation,
    UploadFailed,
    VerificationError,
)
from imagebroker.http.codings import foreign_coding
from imagebroker.model import peer
from imagebroker.model.finding import FAILURE, OK, WARNING, Finding
from imagebroker.model.image import ACTIVE, Image, ImageQuery, Location, visible
from imagebroker.model.reference import ImageRef, RefForm
from imagebroker.model.service import Member, Store, Target
from imagebroker.model.upload_data import ImageData
from imagebroker.policy.addresses import is_loopback
from imagebroker.policy.proxies import Proxy
from imagebroker.redaction import printable, redact
from imagebroker.system import forks
from imagebroker.system.file_state import FileState
from imagebroker.system.owned_directory import make_private, open_owned
from imagebroker.system.person import own_folder, own_home, own_login

__all__ = [
    "ACTIVE",
    "API_VERSION",
    "FAILURE",
    "OK",
    "WARNING",
    "BackendError",
    "BackendHost",
    "BackendLoadError",
    "Buffer",
    "ConfigError",
    "Conflict",
    "Context",
    "DestinationError",
    "FileState",
    "Finding",
    "FormatError",
    "Gone",
    "Image",
    "ImageBackend",
    "ImageBrokerError",
    "ImageChanged",
    "ImageData",
    "ImageNotFound",
    "ImageQuery",
    "ImageRef",
    "ImageSource",
    "InvalidImageRef",
    "Limits",
    "Location",
    "MalformedAnswer",
    "Member",
    "NotAuthorized",
    "NotReady",
    "Options",
    "PolicyViolation",
    "Proxy",
    "QuotaExceeded",
    "RangeIgnored",
    "RefForm",
    "Store",
    "Target",
    "TooLarge",
    "TransferError",
    "TransferTimeout",
    "UnconfirmedEnd",
    "UnsupportedOperation",
    "UploadFailed",
    "VerificationError",
    "entry_points",
    "foreign_coding",
    "forks",
    "is_loopback",
    "make_private",
    "open_owned",
    "own_folder",
    "own_home",
    "own_login",
    "peer",
    "printable",
    "redact",
    "visible",
]
