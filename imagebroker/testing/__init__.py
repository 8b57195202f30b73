"""For authors of backends, and for tests of services that use a broker.

`BackendContract` is the conformance kit; `faults` has a proxy and a server shim of their own.
`FakeBroker` is a broker whose images are in memory, `MemoryBackend` the backend behind it.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from imagebroker.testing import faults
    from imagebroker.testing.contract import BackendContract
    from imagebroker.testing.fakes.broker import FakeBroker
    from imagebroker.testing.fakes.memory import MemoryBackend

__all__ = ["BackendContract", "FakeBroker", "MemoryBackend", "faults"]

_LAZY = {
    "BackendContract": "imagebroker.testing.contract",
    "FakeBroker": "imagebroker.testing.fakes.broker",
    "MemoryBackend": "imagebroker.testing.fakes.memory",
}


def __getattr__(name: str) -> Any:
    module = _LAZY.get(name)
    if module is None:
        if name == "faults":
            return importlib.import_module("imagebroker.testing.faults")
        raise AttributeError(f"module 'imagebroker.testing' has no attribute {name!r}")
    if name == "BackendContract":
        _check_testtools()
    return getattr(importlib.import_module(module), name)


def _check_testtools() -> None:
    """:raises ImportError: the kit's one dependency beside imagebroker is not installed."""
    try:
        importlib.import_module("testtools")
    except ImportError as error:
        raise ImportError(
            f"the conformance kit needs testtools, which cannot be imported ({error}): "
            "pip install 'imagebroker[testing]'"
        ) from error
