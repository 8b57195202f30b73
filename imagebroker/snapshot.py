"""The state of a broker under one configuration, and one call that works with it."""

from __future__ import annotations

import logging
import weakref
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, TypeVar

from imagebroker.backends.backend import Options
from imagebroker.backends.boundary import Boundary
from imagebroker.config.misspelt import misspelt
from imagebroker.config.options import GROUP
from imagebroker.config.settings import Settings
from imagebroker.exceptions import ConfigError, ImageBrokerError
from imagebroker.model.reference import ImageRef
from imagebroker.registry import Registry, find_entry_points
from imagebroker.routing import Routes
from imagebroker.system.forks import Process
from imagebroker.telemetry.calls import RecordedCall, Telemetry
from imagebroker.transfer.layers.flights import Flights, FlightsInMemory, FlightsOnDisk
from imagebroker.transfer.limits import Watch
from imagebroker.verify.checks import format_policy
from imagebroker.verify.disk_format import FormatPolicy
from imagebroker.verify.openpgp import Keyring
from imagebroker.verify.signature import SignaturePolicy

if TYPE_CHECKING:
    from imagebroker.swarm.fleet import Fleet
    from imagebroker.transfer.store.device_journal import DeviceJournal

LOG = logging.getLogger(__name__)

T = TypeVar("T")


@dataclass(frozen=True)
class Snapshot:
    """The state of a broker under one configuration. `Broker.reload` replaces it as a whole."""

    settings: Settings
    registry: Registry
    telemetry: Telemetry
    #: Where transfers are announced; None where downloads are not shared.
    flights: Flights | None
    #: What the content of each image may be; None: it is not checked.
    formats: FormatPolicy | None
    #: Which signatures images must have.
    signatures: SignaturePolicy
    #: Whose signatures checksum files must have; None: none.
    keyring: Keyring | None = None
    #: The hosts to share downloads with; None where there is no swarm.
    fleet: Fleet | None = None

    @classmethod
    def of(cls, settings: Settings, backends: Callable[[Settings], Registry]) -> Self:
        """:raises ConfigError: a value of the core is wrong, or a scheme has no single plugin."""
        core = settings.core
        try:
            decided = decided_about_content(settings)
            formats = format_policy(core, None, optional=decided is None)
            signatures = SignaturePolicy.configured(core, settings.limits)
            keyring = Keyring.configured(core)
            registry = backends(settings)
            for found in misspelt(settings, find_entry_points()):
                LOG.warning("%s", found)
            registry.check_schemes()
            fleet = _fleet(core)
        except ConfigError as error:
            settings.locate(error)
            raise
        telemetry = Telemetry(metrics=core.metrics, tracing=core.tracing)
        return cls(
            settings, registry, telemetry, _flights(settings), formats, signatures, keyring, fleet
        )

    def device_journal(self, device: Path) -> DeviceJournal | None:
        """Where a later process finds what it can go on with; None if there is no place for it."""
        from imagebroker.transfer.store.device_journal import DeviceJournal  # few calls do

        state_dir = self.settings.core.state_dir
        directory = Path(state_dir) if state_dir else self.settings.state_home
        if directory is None:
            return None
        try:
            return DeviceJournal(directory, device)
        except (ConfigError, OSError) as error:
            LOG.warning("%s: an interrupted download to %s starts over", error, device)
            return None


def decided_about_content(settings: Settings) -> str | None:
    """The option with which the deployer has written down what content may be: a call does not
    weaken that. None if there is no such option."""
    for name in ("allowed_formats", "inspect_formats"):
        if getattr(settings.core, name) and settings.is_set(GROUP, name):
            return name
    return None


def _fleet(core: Options) -> Fleet | None:
    if not core.swarm:
        return None
    from imagebroker.swarm.fleet import Fleet  # few hosts have one

    return Fleet.configured(core)


def _flights(settings: Settings) -> Flights | None:
    if not settings.core.share_downloads:
        return None
    if settings.core.state_dir:
        return FlightsOnDisk(Path(settings.core.state_dir))
    if settings.state_home is not None:
        return FlightsOnDisk(settings.state_home, configured=False)
    return FlightsInMemory()


class Call:
    """One call of a verb: it works with the snapshot that it began with, whatever `reload` does."""

    def __init__(
        self, snapshot: Snapshot, verb: str | None = None, asked: str | ImageRef = ""
    ) -> None:
        """`asked`: the identifier, as the caller wrote it."""
        self.snapshot = snapshot
        self.settings, self.core = snapshot.settings, snapshot.settings.core
        self.telemetry = snapshot.telemetry
        self._verb, self._asked = verb, asked
        self._recorded = False
        self.routes = Routes(snapshot.settings, snapshot.registry)
        #: Where the call began.
        self.process = Process()
        self._outlived = False

    @contextmanager
    def recorded(
        self, verb: str, backend: Boundary, ref: ImageRef, watch: Watch
    ) -> Iterator[RecordedCall]:
        """A transfer in the log, the metrics and spans, with what was moved."""
        with self.record(verb, backend.title, ref) as call:
            try:
                yield call
            finally:
                call.bytes, call.retries = watch.done, watch.retries

    def record(
        self, verb: str, backend: str, ref: ImageRef | str = ""
    ) -> AbstractContextManager[RecordedCall]:
        """A call of a backend in the log, the metrics and spans."""
        self._recorded = True
        return self.telemetry.call(verb, backend, ref)

    def iterated(self, verb: str, backend: str, start: Callable[[], Iterator[T]]) -> Iterator[T]:
        """The same for what an iterator yields."""
        self._recorded = True
        return self.telemetry.iterated(verb, backend, start)

    def refused(self, error: ImageBrokerError) -> None:
        """Record a call that has failed before any backend was asked."""
        if self._verb is None or self._recorded:
            return
        self.telemetry.begin(self._verb, "", self._asked).end(error)

    def locate(self, error: ImageBrokerError) -> None:
        """Say in the error where the option stands that decides."""
        asked = self.routes.asked
        (self.settings if asked is None else asked).locate(error)

    def outlived_by(self, answer: Iterator[Any]) -> None:
        """The backends stay until the reader or iterator is gone that the call answers with."""
        self._outlived = True
        weakref.finalize(answer, self.snapshot.registry.let_go).atexit = False

    def end(self) -> None:
        if not self._outlived:
            self.snapshot.registry.let_go()
