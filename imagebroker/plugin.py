"""All that a backend plugin may import of imagebroker. See docs/writing-a-backend.md."""

from __future__ import annotations

from imagebroker import forks, peer
from imagebroker.backend import (
    API_VERSION,
    BackendHost,
    Buffer,
    Context,
    ImageBackend,
    ImageSource,
    Limits,
    Options,
)
from imagebroker.codings import foreign_coding
from imagebroker.data import ImageData
from imagebroker.entry_points import entry_points
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
from imagebroker.file_state import FileState
from imagebroker.image import ACTIVE, Image, ImageQuery, Location, visible
from imagebroker.owned_directory import make_private, open_owned
from imagebroker.person import own_folder, own_home, own_login
from imagebroker.proxies import Proxy
from imagebroker.redaction import printable, redact
from imagebroker.reference import ImageRef, RefForm

__all__ = [
    "ACTIVE",
    "API_VERSION",
    "BackendError",
    "BackendHost",
    "BackendLoadError",
    "Buffer",
    "ConfigError",
    "Conflict",
    "Context",
    "DestinationError",
    "FileState",
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
    "NotAuthorized",
    "NotReady",
    "Options",
    "PolicyViolation",
    "Proxy",
    "QuotaExceeded",
    "RangeIgnored",
    "RefForm",
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
