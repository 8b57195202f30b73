"""The kit passes on backends that are as they should be: in memory, on the network, on a disk."""

from __future__ import annotations

from typing import ClassVar

from imagebroker.plugin import ImageBackend
from tests.testing import hookups
from tests.testing.peers import FolderBackend, LineBackend, StoringLineBackend, WebBackend


class TestMemory(hookups.MemoryContract):
    """Every hook but that of large images."""


class TestLine(hookups.LineContract):
    """A protocol that the kit knows nothing about."""

    backend_class: ClassVar[type[ImageBackend]] = LineBackend


class TestStoringLine(hookups.StoringContract):
    """The same, with uploads."""

    backend_class: ClassVar[type[ImageBackend]] = StoringLineBackend


class TestWeb(hookups.WebContract):
    """HTTP, about which the kit can lie."""

    backend_class: ClassVar[type[ImageBackend]] = WebBackend


class TestFolder(hookups.FolderContract):
    """Files of this host, sparse ones too."""

    backend_class: ClassVar[type[ImageBackend]] = FolderBackend
