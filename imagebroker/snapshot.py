"""What a configuration makes of a broker."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from imagebroker.config.settings import Settings
from imagebroker.exceptions import ConfigError
from imagebroker.registry import Registry
from imagebroker.telemetry import Telemetry
from imagebroker.transfer.layers.flights import Slots, SlotsInMemory, SlotsOnDisk
from imagebroker.verify.checks import format_policy
from imagebroker.verify.openpgp import Keyring
from imagebroker.verify.signature import SignaturePolicy


@dataclass(frozen=True)
class Values:
    """What a configuration makes of a broker; replaced as a whole."""

    settings: Settings
    registry: Registry
    telemetry: Telemetry
    #: Where transfers are announced; None where nothing is shared.
    slots: Slots | None
    #: Whose signatures checksum files must have; None: nobody's.
    keyring: Keyring | None = None

    @classmethod
    def of(cls, settings: Settings, backends: Callable[[Settings], Registry]) -> Self:
        """:raises ConfigError: a value of the core is wrong, or a scheme has no single plugin."""
        core = settings.core
        try:
            format_policy(core, None)
            SignaturePolicy.configured(core, settings.limits)
            keyring = Keyring.configured(core)
            registry = backends(settings)
            registry.check_schemes()
        except ConfigError as error:
            settings.locate(error)
            raise
        telemetry = Telemetry(metrics=core.metrics, tracing=core.tracing)
        return cls(settings, registry, telemetry, _slots(settings), keyring)


def _slots(settings: Settings) -> Slots | None:
    if not settings.core.share_downloads:
        return None
    if settings.core.state_dir:
        return SlotsOnDisk(Path(settings.core.state_dir))
    if settings.state_home is not None:
        return SlotsOnDisk(settings.state_home, configured=False)
    return SlotsInMemory()
