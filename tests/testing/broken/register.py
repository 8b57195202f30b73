"""Backends with one bug each. `broken(clause)` names the clause of the contract that it breaks."""

from collections.abc import Callable
from typing import Any

from imagebroker.plugin import (
    ImageBackend,
    ImageRef,
    ImageSource,
)
from imagebroker.testing import BackendContract
from imagebroker.testing.fakes.memory import MemoryBackend, MemorySource
from tests.testing import hookups
from tests.testing.peers import (
    LineBackend,
    LineSource,
    WebBackend,
    WebSource,
)

#: Each with the clause that it breaks and the hook-up that it is tested with.
BROKEN: list[tuple[str, type[ImageBackend], type[BackendContract]]] = []
#: What the leaking ones leave, for the test to take away.
LEAKED: list[Callable[[], object]] = []


def broken(
    clause: str, hookup: type[BackendContract] = hookups.MemoryContract
) -> Callable[[type], type]:
    """Note a broken backend, or a memory backend with a broken source."""

    def note(cls: type) -> type:
        backend = cls
        if issubclass(cls, MemorySource):
            backend = type(cls.__name__, (MemoryBackend,), {"api_version": 1, "source_class": cls})
        elif issubclass(cls, LineSource):
            backend = type(cls.__name__, (LineBackend,), {"api_version": 1, "open": _opens(cls)})
        elif issubclass(cls, WebSource):
            backend = type(cls.__name__, (WebBackend,), {"api_version": 1, "open": _opens(cls)})
        elif "api_version" not in vars(cls) and not cls.__name__.startswith("ApiVersion"):
            cls.api_version = 1  # type: ignore[attr-defined]
        BROKEN.append((clause, backend, hookup))
        return cls

    return note


def _opens(cls: Callable[[Any, ImageRef], ImageSource]) -> Callable[..., ImageSource]:
    return lambda self, context, ref: cls(self, ref)
