"""Imports glanceclient, which takes 0.3 s, while Keystone checks the password."""

from __future__ import annotations

import contextlib
import importlib
import sys
import threading
from collections.abc import Iterator


@contextlib.contextmanager
def importing(name: str) -> Iterator[None]:
    """Import the module `name` in a thread of its own, which has ended afterwards.

    An error is raised by the next import.
    """
    if name in sys.modules:
        yield
        return

    def load() -> None:
        with contextlib.suppress(Exception):
            importlib.import_module(name)

    thread = threading.Thread(target=load, daemon=True, name=f"import {name}")
    thread.start()
    try:
        yield
    finally:
        thread.join()
