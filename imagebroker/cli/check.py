"""What `imagebroker check` finds: mistakes that would otherwise show at the first download.

It works with a configuration that no broker can be made of, and goes on after each mistake.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from oslo_config import cfg

from imagebroker.backends.backend import BackendHost
from imagebroker.backends.declaration import Declaration
from imagebroker.cli import packages, reach
from imagebroker.cli.finding import FAILURE, WARNING, Finding, failure
from imagebroker.config.option_value import value_of
from imagebroker.config.settings import (
    BACKEND_NAME,
    CORE_OPTIONS,
    GROUP,
    PREFIX,
    Section,
    Settings,
    backend_options,
    parse_backend,
)
from imagebroker.exceptions import ConfigError, ImageBrokerError, InvalidImageRef
from imagebroker.redaction import redact
from imagebroker.registry import Registry, find_entry_points
from imagebroker.verify.checks import format_policy
from imagebroker.verify.openpgp import Keyring
from imagebroker.verify.signature import SignaturePolicy


def check(path: Path | None) -> list[Finding]:
    """All that is wrong with a config file, or with what works without one (None)."""
    loaded = load(path)
    if not loaded.readable:
        return list(loaded.findings)
    written = {} if path is None else _sections(path)
    registry = Registry(loaded.settings)
    try:
        found = [*loaded.findings, *_Check(loaded.settings, registry, written).findings()]
    finally:
        registry.close()
    return [
        each if each.file else replace(each, file=_file(loaded.settings, each.where))
        for each in found
    ]


def _file(settings: Settings, where: str) -> str:
    """File and line of `[section] option`, or of the section."""
    match = re.fullmatch(r"\[([^\]]+)\](?: (\w[\w-]*))?", where)
    if match is None:
        return ""
    line = settings.line(match[1], match[2] or "") or settings.line(match[1])
    return "" if line is None else str(line)


@dataclass(frozen=True)
class Loaded:
    """The values of a config file, those that cannot be used replaced by their defaults."""

    settings: Settings
    findings: Sequence[Finding] = ()
    #: What a broker would raise.
    error: ConfigError | None = None
    #: Whether the file is there and has the form of a config file.
    readable: bool = True


def load(path: Path | None) -> Loaded:
    """The settings of a config file, as far as possible."""
    if path is None:
        return Loaded(Settings.for_person())
    try:
        return Loaded(Settings.from_file(path))
    except ConfigError as error:
        first = error
    conf = cfg.ConfigOpts()
    try:
        _read(conf, [str(path)])
    except (cfg.Error, ValueError, OSError):
        empty = cfg.ConfigOpts()
        _read(empty, [])
        found = failure(str(path), first)
        return Loaded(Settings(empty), [found], first, readable=False)
    conf.register_opts(CORE_OPTIONS, group=GROUP)
    findings = []
    for option in CORE_OPTIONS:
        try:
            value_of(conf, GROUP, option)
        except ConfigError as problem:
            findings.append(failure(f"[{GROUP}] {option.name}", problem))
            conf.set_override(option.dest, option.default, group=GROUP)
    return Loaded(Settings(conf), findings, first)


def _read(conf: cfg.ConfigOpts, files: list[str]) -> None:
    conf([], project=GROUP, default_config_files=files, default_config_dirs=[], use_env=False)


def _sections(path: Path) -> dict[str, dict[str, Any]]:
    """What is written in the file: section to option to values. oslo.config tells of no section
    that nobody asks for.
    """
    found: dict[str, dict[str, Any]] = {}
    cfg.ConfigParser(str(path), found).parse()
    return found


#: Sections that castellan reads, from which the certificates of signatures come.
_CASTELLAN = ("key_manager", "barbican", "barbican_service_user", "vault")


class _Check:
    """The checks of one configuration whose core options have usable values."""

    def __init__(
        self, settings: Settings, registry: Registry, written: Mapping[str, Mapping[str, Any]]
    ) -> None:
        self._settings, self._registry, self._written = settings, registry, written
        #: The enabled backends that can be loaded, by name.
        self._declared: dict[str, Declaration] = {}

    def findings(self) -> Iterator[Finding]:
        broken = list(self._load())
        yield from self._unknown_sections()
        yield from self._misplaced()
        yield from self._unknown_options(GROUP, CORE_OPTIONS)
        yield from self._core_values()
        if not self._registry.enabled:
            yield Finding(
                WARNING, f"[{GROUP}] enabled_schemes", "no scheme is enabled: nothing works",
                "name the schemes that refs may have, such as file, https",
            )  # fmt: skip
        yield from broken
        yield from self._default_backend()
        yield from self._direct_schemes()
        yield from self._own_directories()
        yield from self._instances()
        yield from self._secrets()
        yield from packages.damage(self._registry.damaged)
        yield from packages.fights(self._registry.distributions())

    def _core_values(self) -> Iterator[Finding]:
        """What a broker would refuse although each value is of its type."""
        core, limits = self._settings.core, self._settings.limits
        for option, use in (
            ("allowed_formats", lambda: format_policy(core, None)),
            ("trusted_certificate_ids", lambda: SignaturePolicy.configured(core, limits)),
            ("checksum_keyring", lambda: Keyring.configured(core)),
        ):
            try:
                use()
            except ConfigError as error:
                yield failure(f"[{GROUP}] {option}", error)

    def _load(self) -> Iterator[Finding]:
        """Import the enabled plugins."""
        for scheme in self._registry.enabled:
            try:
                declared = self._registry.declaration(scheme)
            except ImageBrokerError as error:
                if not self._settings.personal:  # where everything installed is tried
                    yield failure(f"[{GROUP}] enabled_schemes", error)
            else:
                self._declared[declared.name] = declared

    # -- what is written but never read ----------------------------------------------------------

    def _unknown_sections(self) -> Iterator[Finding]:
        guest = _belongs_to_a_service(self._written)
        names = {*self._registry.enabled, *self._declared, *find_entry_points()}
        known = [GROUP, *(PREFIX + name for name in sorted(names))]
        for title in self._written:
            name = _backend_name(title)
            if title.lower() == GROUP or title in ("DEFAULT", *_CASTELLAN):
                continue
            if name in names:
                yield from self._shared(title, name)
                continue
            near = difflib.get_close_matches(title.lower(), known, n=1, cutoff=0.75)
            if near or not guest:
                yield Finding(
                    WARNING, f"[{title}]", "nobody reads this section", _did_you_mean(near, "[{}]")
                )  # fmt: skip

    def _shared(self, title: str, scheme: str) -> Iterator[Finding]:
        """A section for a scheme whose backend has another name, as https has with http."""
        if scheme in self._declared or scheme not in self._registry.enabled:
            return
        try:
            owner = self._registry.declaration(scheme).name
        except ImageBrokerError:
            return  # which is said elsewhere
        yield Finding(
            WARNING, f"[{title}]", f"nobody reads this section: {scheme} belongs to the backend "
            f"{owner}", f"write the options into [{PREFIX}{owner}]",
        )  # fmt: skip

    def _misplaced(self) -> Iterator[Finding]:
        ours = {option.dest for option in CORE_OPTIONS} - {"fsync", "retries", "deadline"}
        for name in self._written.get("DEFAULT", {}):
            if name in ours:
                yield Finding(
                    WARNING, f"[DEFAULT] {name}", "nobody reads this option here",
                    f"write it into [{GROUP}]",
                )  # fmt: skip

    def _unknown_options(self, title: str, options: Iterable[cfg.Opt]) -> Iterator[Finding]:
        known = set()
        for option in options:
            known |= {option.dest, *(_dest(old.name) for old in option.deprecated_opts if old.name)}
        for name in self._written.get(title, {}):
            if name not in known:
                near = difflib.get_close_matches(name, sorted(known), n=1, cutoff=0.6)
                yield Finding(
                    WARNING, f"[{title}] {name}", "there is no such option: it has no effect",
                    _did_you_mean(near, "{}"),
                )  # fmt: skip

    # -- what cannot work ------------------------------------------------------------------------

    def _default_backend(self) -> Iterator[Finding]:
        where = f"[{GROUP}] default_backend"
        try:
            section = parse_backend(self._settings.core.default_backend)
        except InvalidImageRef as error:
            yield failure(where, error)
            return
        if "default_backend" not in self._written.get(GROUP, {}):
            return  # that the default default is not enabled is no mistake
        if section.name not in self._registry.enabled and section.name not in self._declared:
            yield Finding(
                WARNING, where, f"{section.name!r} is not enabled: bare ids lead nowhere",
                f"add {section.name} to enabled_schemes, or name an enabled backend",
            )  # fmt: skip
        elif section.instance is not None and section not in self._settings.sections():
            yield Finding(
                WARNING, where, f"no instance {section.title!r} is configured",
                f"add a section [{section.group}]",
            )  # fmt: skip

    def _direct_schemes(self) -> Iterator[Finding]:
        for scheme in self._settings.core.direct_url_schemes:
            if scheme not in self._registry.enabled:
                yield Finding(
                    WARNING, f"[{GROUP}] direct_url_schemes",
                    f"{scheme!r} is not enabled: such locations are never read",
                    f"add {scheme} to enabled_schemes, or remove it here",
                )  # fmt: skip

    def _own_directories(self) -> Iterator[Finding]:
        for name in ("state_dir", "cache_dir"):
            if path := self._settings.core[name]:
                found = reach.check_owned(f"[{GROUP}] {name}", path)
                if found is not None:
                    yield found

    def _instances(self) -> Iterator[Finding]:
        """Each instance that is written, and where none is, the one that needs no section."""
        written = [s for s in self._settings.sections() if s.name in self._declared]
        named = {section.name for section in written}
        alone = [Section(name, None) for name in self._declared if name not in named]
        hosts: list[BackendHost] = []
        for section in [*dict.fromkeys(written), *alone]:
            try:
                yield from self._instance(section, hosts)
            except Exception as error:  # options that are none, for example
                yield Finding(
                    FAILURE, f"[{section.group}]",
                    redact(f"the plugin fails with {type(error).__name__}: {error}"),
                    "this is a bug of the plugin: report it to its authors",
                )  # fmt: skip
        yield from reach.check_servers(hosts, self._settings.limits.connect_timeout)

    def _instance(self, section: Section, hosts: list[BackendHost]) -> Iterator[Finding]:
        """One instance; what its backend works with is added to `hosts` if it can be made."""
        declared = self._declared[section.name]
        options = [*backend_options(declared.require_checksum), *declared.options]
        yield from self._unknown_options(section.group, options)
        problems, host = self._make(section, declared)
        if self._settings.personal:
            return  # nobody configured it: that it cannot be used is no mistake
        yield from (failure(_where(section, problem), problem) for problem in problems)
        if host is not None:
            if host.options.get("insecure"):
                yield Finding(
                    WARNING, f"[{section.group}] insecure",
                    "no server's certificate is checked: whoever is on the way may change images",
                    "remove it, and name the authority that signed the certificate instead",
                )  # fmt: skip
            yield from reach.check_paths(host, declared.options)
            hosts.append(host)

    def _secrets(self) -> Iterator[Finding]:
        """Secrets that stand in a file which every user of this host may read."""
        for section in self._settings.sections():
            declared = self._declared.get(section.name)
            if declared is None:
                continue
            for option in [*declared.options, *self._proxy(section, declared)]:
                line = self._settings.line(section.group, option.dest)
                if option.secret and line is not None and reach.is_open_to_all(line.file):
                    yield Finding(
                        WARNING, f"[{section.group}] {option.dest}",
                        f"a secret stands in {line.file}, which every user of this host may read",
                        f"chmod o= {line.file}",
                    )  # fmt: skip

    def _proxy(self, section: Section, declared: Declaration) -> list[cfg.Opt]:
        """The option, where there is a password in it."""
        try:
            values = self._settings.backend(section, [], declared.require_checksum)
        except ConfigError:
            return []  # which is found elsewhere
        if "@" not in (values.get("proxy") or ""):
            return []
        return [option for option in backend_options() if option.dest == "proxy"]

    def _make(
        self, section: Section, declared: Declaration
    ) -> tuple[list[ImageBrokerError], BackendHost | None]:
        """All that is wrong with the options of an instance, or what its backend works with."""
        problems: dict[str, ImageBrokerError] = {}
        for chosen in ([], *([option] for option in declared.options)):
            try:
                values = self._settings.backend(section, chosen, declared.require_checksum)
                self._settings.policy(section, values)
            except ConfigError as error:
                problems[str(error)] = error
        if problems:
            return list(problems.values()), None
        try:
            return [], self._registry.backend(section).host
        except ImageBrokerError as error:
            return [error], None


def _backend_name(title: str) -> str:
    """The name in a section's `backend:NAME[:INSTANCE]`, empty if it is no such section."""
    match = BACKEND_NAME.fullmatch(title.removeprefix(PREFIX))
    return match["name"] if match is not None and title.startswith(PREFIX) else ""


def _dest(name: str) -> str:
    return name.replace("-", "_")


def _belongs_to_a_service(written: Mapping[str, Mapping[str, Any]]) -> bool:
    """Whether this is the config file of a whole service, whose other sections are its own."""
    ours = {option.dest for option in CORE_OPTIONS}
    others = set(written.get("DEFAULT", {})) - ours
    return bool(others) or any(
        re.match(r"oslo_|keystone|database$|api_database$|placement$", title) for title in written
    )


def _did_you_mean(near: Sequence[str], form: str) -> str:
    if near:
        return f"did you mean {form.format(near[0])}?"
    return "remove it, or correct its name; `imagebroker config sample` shows all there are"


def _where(section: Section, error: ImageBrokerError) -> str:
    """The option that the error's text begins with, or the section."""
    match = re.match(rf"(\[{re.escape(section.group)}\] [a-z0-9_]+): ", str(error))
    return match[1] if match else f"[{section.group}]"
