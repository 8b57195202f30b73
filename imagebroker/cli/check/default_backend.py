"""Whether `default_backend` names a backend that is enabled and configured."""

from __future__ import annotations

from collections.abc import Iterator

from imagebroker.cli.check.configuration import Configuration
from imagebroker.cli.check.problem import WARNING, Problem, failure
from imagebroker.cli.check.suggestion import similar
from imagebroker.config.options import GROUP
from imagebroker.config.settings import parse_backend
from imagebroker.exceptions import InvalidImageRef

_WHERE = f"[{GROUP}] default_backend"


def check(configuration: Configuration) -> Iterator[Problem]:
    settings = configuration.settings
    try:
        section = parse_backend(settings.core.default_backend)
    except InvalidImageRef as error:
        yield failure(_WHERE, error)
        return
    if "default_backend" not in configuration.written.get(GROUP, {}):
        return  # not configured: no mistake that it is not enabled
    enabled = {*configuration.registry.enabled, *configuration.backends}
    if section.name not in enabled:
        yield Problem(
            WARNING, _WHERE,
            f"{section.name!r} is not enabled: ids without a backend's name are refused",
            f"did you mean {near}?" if (near := similar(section.name, enabled)) else
            f"add {section.name} to enabled_schemes, or name an enabled backend",
        )  # fmt: skip
    elif section.instance is not None and section not in settings.sections():
        yield Problem(
            WARNING, _WHERE, f"the instance {section.title!r} is not configured",
            f"add a section [{section.group}]",
        )  # fmt: skip
