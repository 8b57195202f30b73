"""Modules of other distributions that are imported at every start, and hardly ever used."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from importlib.util import LazyLoader
from types import ModuleType

#: oslo.config imports these for option types that no backend here uses, which takes a sixth of the
#: time until a download begins.
_SELDOM_USED = {"netaddr", "rfc3986"}


class _Finder(MetaPathFinder):
    """Finds them, and has them loaded when an attribute of theirs is used for the first time."""

    def find_spec(
        self, name: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        spec = PathFinder.find_spec(name, path, target) if name in _SELDOM_USED else None
        if spec is not None and spec.loader is not None:
            spec.loader = LazyLoader(spec.loader)
        return spec


def load_lazily() -> None:
    """Load them at their first use, in this process."""
    if not any(isinstance(finder, _Finder) for finder in sys.meta_path):
        sys.meta_path.insert(0, _Finder())
