"""Modules of other distributions that are imported at every start, and hardly ever used."""

from __future__ import annotations

import sys
import threading
from collections.abc import Collection, Sequence
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType
from typing import TYPE_CHECKING, Any, cast

if TYPE_CHECKING:
    from importlib.abc import Loader, MetaPathFinder
else:
    Loader = MetaPathFinder = object  # importlib.abc imports what is to be loaded lazily

#: Who imports them, and for what. Together they take half of the time until Glance is asked.
SELDOM_USED = frozenset({
    # oslo.config and keystoneauth, for options that no backend here has
    "netaddr",
    "rfc3986",
    # cliff, for a log file of its own
    "logging.handlers",
    # oslo.config, to compare its states; importlib, for what describes a package, and for archives
    "pickle",
    "importlib.metadata._adapters",
    "zipfile",
    "tempfile",
    # shutil, to know whether they are there
    "bz2",
    "lzma",
    # glanceclient, for tables, TLS, patches and conversions: here others do that
    "OpenSSL",
    "jsonpatch",
    "oslo_utils.netutils",
    "oslo_utils.strutils",
    "prettytable",
    # wrapt, which glanceclient uses, for coroutines
    "asyncio",
})  # fmt: skip


class _Unloaded(ModuleType):
    """A module that is loaded when an attribute of it is asked for.

    Not `importlib.util.LazyLoader`: with that, importing a module for the second time loads it, and
    a thread that asks while another one loads finds half of it.
    """

    def __getattribute__(self, name: str) -> Any:
        own = ModuleType.__getattribute__
        if name not in ("__spec__", "__class__"):
            loader = own(self, "__dict__").get(_LOADER)
            if loader is not None:
                loader.load(self)
        return own(self, name)


#: Where an unloaded module has its `_Lazy`.
_LOADER = "__lazy_loader__"


class _Lazy(Loader):
    """Puts off what another loader does."""

    def __init__(self, loader: Loader) -> None:
        self._loader = loader
        self._lock = threading.RLock()
        self._loading = False

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        return self._loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        module.__dict__[_LOADER] = self
        if module.__spec__ is not None:
            module.__spec__.loader = module.__loader__ = self._loader
        module.__class__ = _Unloaded

    def load(self, module: ModuleType) -> None:
        """Load it, once; asked by the thread that is loading it, leave it as it is by then."""
        with self._lock:
            if self._loading or not isinstance(module, _Unloaded):
                return
            self._loading = True
            try:
                self._loader.exec_module(module)
                cast("ModuleType", module).__class__ = ModuleType
                del module.__dict__[_LOADER]
            finally:
                self._loading = False


class _Finder(MetaPathFinder):
    """Finds them, and has them loaded when an attribute of theirs is used for the first time."""

    def __init__(self, names: Collection[str]) -> None:
        self._names = frozenset(names)

    def find_spec(
        self, name: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        spec = PathFinder.find_spec(name, path, target) if name in self._names else None
        if spec is not None and spec.loader is not None:
            spec.loader = _Lazy(spec.loader)
        return spec


def load_lazily(names: Collection[str] = SELDOM_USED) -> None:
    """Load them at their first use, in this process."""
    if not any(isinstance(finder, _Finder) for finder in sys.meta_path):
        sys.meta_path.insert(0, _Finder(names))
