"""botocore without what only its own connections need: it signs, and the core sends.

Import it late, and nothing of botocore before it. What is left out is a third of the processor time
that a short command takes: pyOpenSSL, which botocore imports where it is installed, and a look into
the folders of 400 services.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def _not_installed(name: str) -> Iterator[None]:
    """Inside the block, an import of the module fails, if it was not imported before."""
    if name in sys.modules:
        yield
        return
    sys.modules[name] = None  # type: ignore[assignment] # how Python notes this
    try:
        yield
    finally:
        sys.modules.pop(name, None)


with _not_installed("urllib3.contrib.pyopenssl"):
    import botocore.session
    from botocore import UNSIGNED, exceptions
    from botocore.auth import S3SigV4Auth
    from botocore.awsrequest import AWSRequest
    from botocore.config import Config
    from botocore.credentials import CredentialProvider, Credentials, RefreshableCredentials
    from botocore.loaders import Loader
    from botocore.parsers import ResponseParserError

__all__ = [
    "UNSIGNED",
    "AWSRequest",
    "Config",
    "Credentials",
    "Known",
    "RefreshableCredentials",
    "ResponseParserError",
    "S3SigV4Auth",
    "exceptions",
    "new_session",
]


class _OnlyS3(Loader):  # type: ignore[misc] # botocore has no types
    """Finds a service without listing them all."""

    def list_available_services(self, type_name: str) -> list[str]:
        return ["s3"]


class Known(CredentialProvider):  # type: ignore[misc] # botocore has no types
    """Keys that were found already."""

    METHOD = "imagebroker"

    def __init__(self, keys: Any) -> None:
        super().__init__()
        self._keys = keys

    def load(self) -> Any:
        return self._keys


def new_session() -> Any:
    """A session of botocore's that knows S3."""
    session = botocore.session.Session()
    session.register_component("data_loader", _loader())
    return session


@functools.cache
def _loader() -> _OnlyS3:
    """One for all sessions: most of the time to make a client is that to read what S3 is."""
    return _OnlyS3()
