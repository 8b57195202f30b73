"""A config file as far as it can be used: for commands that also work with a broken one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from oslo_config import cfg

from imagebroker.config.option_value import value_of
from imagebroker.config.options import CORE_OPTIONS, GROUP
from imagebroker.config.settings import Inherited, Settings
from imagebroker.exceptions import ConfigError


@dataclass(frozen=True)
class LoadedConfig:
    """The values of a config file; a core option whose value is invalid has its default."""

    settings: Settings
    #: The invalid core options: `[section] option`, or the file, and the error.
    invalid: Sequence[tuple[str, ConfigError]] = ()
    #: What a broker would raise.
    error: ConfigError | None = None
    #: Whether the file exists and can be parsed.
    readable: bool = True


def load(path: Path | None, personal: bool = False, *, service: bool = False) -> LoadedConfig:
    """Load the config file `path`; None: the personal defaults, without a file.

    `personal`: it is the user's own, and overlays the personal defaults. `service`: where it is the
    file of a service (Nova, Ironic, Cinder), that service's own options count, too.
    """
    if path is None:
        return LoadedConfig(Settings.for_person())
    try:
        inherited = _inheritance(path) if service else None
        return LoadedConfig(Settings.from_file(path, personal=personal, inherited=inherited))
    except ConfigError as error:
        first = error
    conf = cfg.ConfigOpts()
    try:
        _parse(conf, [str(path)])
    except (cfg.Error, ValueError, OSError):
        empty = cfg.ConfigOpts()
        _parse(empty, [])
        broken = Settings(empty, personal=personal)
        return LoadedConfig(broken, [(str(path), first)], first, readable=False)
    conf.register_opts(CORE_OPTIONS, group=GROUP)
    invalid = []
    for option in CORE_OPTIONS:
        try:
            value_of(conf, GROUP, option)
        except ConfigError as error:
            invalid.append((f"[{GROUP}] {option.name}", error))
            conf.set_override(option.dest, option.default, group=GROUP)
    return LoadedConfig(Settings(conf, personal=personal), invalid, first)


def _inheritance(path: Path) -> Callable[[cfg.ConfigOpts], Inherited] | None:
    from imagebroker.cli.check.configuration import written_in
    from imagebroker.cli.check.service import inheritance

    try:
        return inheritance(path, written_in(path))
    except (cfg.Error, ValueError, OSError):
        return None  # whoever reads it says what is wrong


def _parse(conf: cfg.ConfigOpts, files: list[str]) -> None:
    conf([], project=GROUP, default_config_files=files, default_config_dirs=[], use_env=False)
