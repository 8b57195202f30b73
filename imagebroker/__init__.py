"""Gets, stores and lists disk images, wherever they live.

::

    import imagebroker

    with imagebroker.Broker.from_config("/etc/imagebroker/imagebroker.conf") as broker:
        broker.download(None, "https://example.org/image.qcow2", "/var/lib/images/image.qcow2")
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from imagebroker._version import VERSION
from imagebroker.exceptions import (
    BackendError,
    BackendLoadError,
    ConfigError,
    Conflict,
    DestinationError,
    ImageBrokerError,
    ImageChanged,
    ImageNotFound,
    InvalidImageRef,
    NotAuthorized,
    PolicyViolation,
    QuotaExceeded,
    SchemeNotEnabled,
    TransferError,
    UnsupportedOperation,
    VerificationError,
)

if TYPE_CHECKING:
    from imagebroker.backend import BackendHost, ImageBackend, ImageSource
    from imagebroker.broker import Broker
    from imagebroker.data import ImageData
    from imagebroker.image import Image, ImageQuery, Location
    from imagebroker.reference import ImageRef, RefForm
    from imagebroker.registry import BackendInfo
    from imagebroker.routing import Resolution
    from imagebroker.transfer.download import Download
    from imagebroker.transfer.reader import ImageReader
    from imagebroker.transfer.rules import Progress

__version__ = VERSION

#: Loaded at first use: `import imagebroker` alone costs no more than its errors.
_LAZY = {
    "BackendHost": "imagebroker.backend",
    "BackendInfo": "imagebroker.registry",
    "Broker": "imagebroker.broker",
    "Download": "imagebroker.transfer.download",
    "Image": "imagebroker.image",
    "ImageBackend": "imagebroker.backend",
    "ImageData": "imagebroker.data",
    "ImageQuery": "imagebroker.image",
    "ImageReader": "imagebroker.transfer.reader",
    "ImageRef": "imagebroker.reference",
    "ImageSource": "imagebroker.backend",
    "Location": "imagebroker.image",
    "Progress": "imagebroker.transfer.rules",
    "RefForm": "imagebroker.reference",
    "Resolution": "imagebroker.routing",
}


def __getattr__(name: str) -> Any:
    module = _LAZY.get(name)
    if module is None:
        raise AttributeError(f"module 'imagebroker' has no attribute {name!r}")
    value = getattr(importlib.import_module(module), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)


__all__ = [
    "BackendError",
    "BackendHost",
    "BackendInfo",
    "BackendLoadError",
    "Broker",
    "ConfigError",
    "Conflict",
    "DestinationError",
    "Download",
    "Image",
    "ImageBackend",
    "ImageBrokerError",
    "ImageChanged",
    "ImageData",
    "ImageNotFound",
    "ImageQuery",
    "ImageReader",
    "ImageRef",
    "ImageSource",
    "InvalidImageRef",
    "Location",
    "NotAuthorized",
    "PolicyViolation",
    "Progress",
    "QuotaExceeded",
    "RefForm",
    "Resolution",
    "SchemeNotEnabled",
    "TransferError",
    "UnsupportedOperation",
    "VerificationError",
    "__version__",
]
