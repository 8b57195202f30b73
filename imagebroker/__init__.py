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
    from imagebroker.backends.backend import BackendHost, ImageBackend, ImageSource
    from imagebroker.broker import Broker
    from imagebroker.model.image import Image, ImageQuery, Location
    from imagebroker.model.reference import ImageRef, RefForm
    from imagebroker.model.service import Member, Store, Target
    from imagebroker.model.upload_data import ImageData
    from imagebroker.registry import BackendInfo
    from imagebroker.routing import Resolution
    from imagebroker.transfer.download import Download
    from imagebroker.transfer.limits import Progress
    from imagebroker.transfer.reader import ImageReader

__version__ = VERSION

#: Loaded at first use: `import imagebroker` alone only imports the errors.
_LAZY = {
    "BackendHost": "imagebroker.backends.backend",
    "BackendInfo": "imagebroker.registry",
    "Broker": "imagebroker.broker",
    "Download": "imagebroker.transfer.download",
    "Image": "imagebroker.model.image",
    "ImageBackend": "imagebroker.backends.backend",
    "ImageData": "imagebroker.model.upload_data",
    "ImageQuery": "imagebroker.model.image",
    "ImageReader": "imagebroker.transfer.reader",
    "ImageRef": "imagebroker.model.reference",
    "ImageSource": "imagebroker.backends.backend",
    "Location": "imagebroker.model.image",
    "Member": "imagebroker.model.service",
    "Progress": "imagebroker.transfer.limits",
    "RefForm": "imagebroker.model.reference",
    "Resolution": "imagebroker.routing",
    "Store": "imagebroker.model.service",
    "Target": "imagebroker.model.service",
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
    "Member",
    "NotAuthorized",
    "PolicyViolation",
    "Progress",
    "QuotaExceeded",
    "RefForm",
    "Resolution",
    "SchemeNotEnabled",
    "Store",
    "Target",
    "TransferError",
    "UnsupportedOperation",
    "VerificationError",
    "__version__",
]
