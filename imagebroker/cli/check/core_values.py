"""Core options that a broker would refuse although each value has the right type."""

from __future__ import annotations

from collections.abc import Iterator

from imagebroker.cli.check.configuration import Configuration
from imagebroker.cli.check.problem import Problem, failure
from imagebroker.config.options import GROUP
from imagebroker.exceptions import ConfigError
from imagebroker.verify.checks import format_policy
from imagebroker.verify.openpgp import Keyring
from imagebroker.verify.signature import SignaturePolicy


def check(configuration: Configuration) -> Iterator[Problem]:
    core, limits = configuration.settings.core, configuration.settings.limits
    for option, use in (
        ("allowed_formats", lambda: format_policy(core, None)),
        ("trusted_certificate_ids", lambda: SignaturePolicy.configured(core, limits)),
        ("checksum_keyring", lambda: Keyring.configured(core)),
    ):
        try:
            use()
        except ConfigError as error:
            yield failure(f"[{GROUP}] {option}", error)
