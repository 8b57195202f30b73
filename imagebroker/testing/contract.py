"""The conformance kit: each clause of docs/contract.md as tests of a backend.

A backend is hooked up in about ten lines::

    import testtools
    from imagebroker.testing import BackendContract

    class TestShelf(BackendContract, testtools.TestCase):
        def setUp(self):
            super().setUp()
            self.shelf = self.useFixture(ShelfServer())  # the real thing

        def make_backend(self):
            return ShelfBackend  # or ShelfBackend(self.make_host(ShelfBackend, folder="/x"))

        def publish(self, data):
            self.shelf.put("/image", data)
            return f"shelf://127.0.0.1:{self.shelf.port}/image"

pytest, stestr and unittest run it. A test that fails is called after its clause; its docstring says
what a plugin that fails it does to a user. The optional hooks (`replace`, `forbid`, `take_away`,
`cut_after`, `stall_after`, `publish_sparse`) let it test more; what needs one that is left out is
skipped with its name. Connections that come from `host.connect` are cut, stalled, corrupted and
lied to without any hook.
"""

from __future__ import annotations

from imagebroker.testing.clauses.backend_class import ClassClauses
from imagebroker.testing.clauses.broken_reads import BrokenReadClauses
from imagebroker.testing.clauses.checking import CheckingClauses
from imagebroker.testing.clauses.cloning import CloneClauses
from imagebroker.testing.clauses.closing import ClosingClauses
from imagebroker.testing.clauses.errors import ErrorClauses
from imagebroker.testing.clauses.facade import FacadeClauses
from imagebroker.testing.clauses.forking import ForkClauses
from imagebroker.testing.clauses.imports_and_purge import ImportAndPurgeClauses
from imagebroker.testing.clauses.instances import InstanceClauses
from imagebroker.testing.clauses.lists import ListClauses
from imagebroker.testing.clauses.opening import OpeningClauses
from imagebroker.testing.clauses.process import ProcessClauses
from imagebroker.testing.clauses.reading import ReadingClauses
from imagebroker.testing.clauses.service import ServiceClauses
from imagebroker.testing.clauses.stored_fields import StoredFieldClauses


class BackendContract(
    ClassClauses,
    OpeningClauses,
    ReadingClauses,
    BrokenReadClauses,
    ClosingClauses,
    ErrorClauses,
    ImportAndPurgeClauses,
    ServiceClauses,
    CloneClauses,
    ListClauses,
    StoredFieldClauses,
    InstanceClauses,
    CheckingClauses,
    FacadeClauses,
    ProcessClauses,
    ForkClauses,
):
    """What every backend must keep; mix it into a `testtools.TestCase`.

    `make_backend` and `publish` must be given; see `imagebroker.testing.hooks` for the rest.
    """
