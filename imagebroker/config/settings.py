"""The options of a deployment, and the values that a broker works with.

Core options are in `[imagebroker]`, a backend's in `[backend:<name>]`, those of a named instance in
`[backend:<name>:<instance>]`, so that all of them can also be part of a service's config file.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from oslo_config import cfg

from imagebroker.backends.backend import Limits, Options
from imagebroker.backends.entry_points import uncache_stevedore
from imagebroker.backends.listing import ListLimits
from imagebroker.config.lines import Line, Lines
from imagebroker.config.option_value import typed, value_of
from imagebroker.config.options import CORE_OPTIONS, GROUP, backend_options, reloadable
from imagebroker.config.tuning import DEFAULT, Tuning
from imagebroker.exceptions import ConfigError, ImageBrokerError, InvalidImageRef
from imagebroker.model.reference import DEFAULT_PORTS, ImageRef, parse
from imagebroker.policy.addresses import Policy, networks
from imagebroker.policy.proxies import Proxy
from imagebroker.redaction import redact
from imagebroker.system.person import own_folder, own_home

#: How the sections of backends begin.
PREFIX = "backend:"
#: The form of `default_backend` and `backend=`.
BACKEND_NAME = re.compile(
    r"(?P<name>[a-z][a-z0-9+.-]{0,31})(?::(?P<instance>[A-Za-z0-9_][A-Za-z0-9_.-]*))?"
)

#: Values by section and option, for options that a service's own configuration does not set there.
Inherited = Mapping[str, Mapping[str, Any]]


@dataclass(frozen=True)
class Section:
    """A `[backend:NAME]` or `[backend:NAME:INSTANCE]` in the configuration."""

    name: str
    instance: str | None

    @property
    def group(self) -> str:
        return PREFIX + self.title

    @property
    def title(self) -> str:
        return ":".join(filter(None, (self.name, self.instance)))


def parse_backend(title: str) -> Section:
    """The section that `default_backend` or `backend=` names.

    :raises InvalidImageRef: it is not NAME or NAME:INSTANCE.
    """
    match = BACKEND_NAME.fullmatch(title) if isinstance(title, str) else None
    if match is None:
        raise InvalidImageRef(
            f"{title!r} is not the name of a backend", hint="write NAME or NAME:INSTANCE"
        )
    return Section(match["name"], match["instance"])


class Settings:
    """A snapshot of the core's values, and access to those of the backends."""

    def __init__(
        self,
        conf: cfg.ConfigOpts,
        *,
        personal: bool = False,
        state_home: Path | None = None,
        tuning: Tuning = DEFAULT,
        overrides: Mapping[str, Any] | None = None,
        inherited: Callable[[], Inherited] | None = None,
    ) -> None:
        """`overrides`: values for the options of every backend that has one of that name.
        `inherited`: what other options of a service's own configuration mean here.

        :raises ConfigError: a core option has an invalid value.
        """
        #: The whole configuration, for libraries that have sections of their own in it.
        self.conf = conf
        self._inherit = inherited
        self._inherit_from_file: Callable[[cfg.ConfigOpts], Inherited] | None = None
        self._inherited = inherited() if inherited else {}
        self.tuning = tuning
        #: True if a person runs the command, with no config file but their own.
        self.personal = personal
        self._overrides = dict(overrides or {})
        #: Where state is kept if `state_dir` is not set.
        self.state_home = state_home
        #: The file that was read; None if a service passes its own configuration object.
        self._file: str | None = None
        conf.register_opts(CORE_OPTIONS, group=GROUP)
        try:
            core = self.core = self._snapshot(GROUP, CORE_OPTIONS)
        except ConfigError as error:
            self.locate(error)
            raise
        self.limits = Limits(
            connect_timeout=core.connect_timeout,
            stall_timeout=core.stall_timeout,
            lists=ListLimits(core.list_deadline, core.list_max_records, core.list_max_size),
        )

    @classmethod
    def from_file(
        cls,
        path: str | os.PathLike[str],
        *,
        personal: bool = False,
        state_home: Path | None = None,
        tuning: Tuning = DEFAULT,
        overrides: Mapping[str, Any] | None = None,
        inherited: Callable[[cfg.ConfigOpts], Inherited] | None = None,
    ) -> Settings:
        """`personal`: what the file does not set is as without a file, see `for_person`.
        `inherited`: what the other options of a service's file mean here.

        :raises ConfigError: the file is missing, not readable, or not valid oslo.config.
        """
        conf = _parse([os.fspath(path)])
        settings = cls(
            conf, personal=personal, state_home=state_home, tuning=tuning, overrides=overrides,
            inherited=None if inherited is None else lambda: inherited(conf),
        )  # fmt: skip
        settings._inherit_from_file = inherited
        settings._file = os.path.abspath(path)
        settings._check_titles()
        return settings

    @classmethod
    def for_person(cls, *, overrides: Mapping[str, Any] | None = None) -> Settings:
        """The settings without a config file: defaults, and trust in the user at the shell."""
        return cls(_parse([]), personal=True, state_home=own_state_home(), overrides=overrides)

    def again(self) -> Settings:
        """The same files read again, or the current values of the service's own object.

        :raises ConfigError: they are invalid.
        """
        if self._file is not None:
            return Settings.from_file(
                self._file, personal=self.personal, state_home=self.state_home,
                tuning=self.tuning, overrides=self._overrides,
                inherited=self._inherit_from_file,
            )  # fmt: skip
        if self.personal:
            return Settings.for_person(overrides=self._overrides)
        return Settings(self.conf, overrides=self._overrides, inherited=self._inherit)

    @property
    def files(self) -> list[Path]:
        """The config files that were read, those of a `--config-dir` too."""
        # A service's object has neither before it has read its files.
        found = [Path(name) for name in getattr(self.conf, "config_file", None) or []]
        for folder in getattr(self.conf, "config_dir", None) or []:
            found += sorted(Path(folder).glob("*.conf"))
        return found

    def line(self, group: str, option: str = "") -> Line | None:
        """The line of an option, or of the title of a section; None if it is not in a file."""
        return self._lines.find(group, option)

    def titles(self) -> Iterable[tuple[str, Line]]:
        """The sections of the files, whoever reads them."""
        return self._lines.titles().items()

    def written(self, group: str) -> Iterable[tuple[str, Line]]:
        """What the files have in a section, options or not."""
        return self._lines.options(group).items()

    def _check_titles(self) -> None:
        """:raises ConfigError: a section of ours has blanks in its title, and so another one."""
        for title, line in self._lines.padded.items():
            if title == GROUP or title.startswith("backend:"):
                raise ConfigError(
                    f"the title of the section [{title}] has blanks in its brackets, and nothing"
                    " reads such a section",
                    hint=f"write [{title}]",
                    where=str(line),
                )

    @cached_property
    def _lines(self) -> Lines:
        return Lines(self.files)

    def where(self, group: str, option: str) -> str:
        """File and line of an option, or the file to set it in; empty without a config file."""
        if line := self.line(group, option):
            return f"{line}: [{group}] {option}".rstrip()
        if not self.files:
            return ""
        file = self.line(group) or self.files[-1]
        return f"{file}: [{group}] {option} is not set" if option else f"{file}: [{group}]"

    def locate(
        self, error: ImageBrokerError, section: Section | None = None, names: Iterable[str] = ()
    ) -> None:
        """Set `error.where` to the file and line of the option that the error depends on.

        `names`: the options of `section`, whose backend raised the error.
        """
        if error.where or (self.personal and not self.files):
            return
        groups = {option.dest: GROUP for option in CORE_OPTIONS}
        if section is not None:
            groups |= dict.fromkeys(names, section.group)
        group, option = _decisive(error, groups)
        if group:
            error.option = f"[{group}] {option}".rstrip()
            error.where = self.where(group, option)

    def sections(self) -> list[Section]:
        """The sections of backends in the configuration, those with valid names."""
        found = []
        for group in dict.fromkeys([*self.conf.list_all_sections(), *self._inherited]):
            match = BACKEND_NAME.fullmatch(group.removeprefix(PREFIX))
            if group.startswith(PREFIX) and match:
                found.append(Section(match["name"], match["instance"]))
        return found

    def endpoints(self, section: Section) -> list[str]:
        """The URI prefixes that belong to this instance, each ending in `/`.

        :raises ConfigError: one is not a URI.
        """
        options = [opt for opt in backend_options() if opt.name == "endpoint"]
        self.conf.register_opts(options, group=cfg.OptGroup(section.group))
        prefixes = []
        for value in self._snapshot(section.group, options).endpoint:
            prefix = value if value.endswith("/") else value + "/"
            _parsed(section, "endpoint", prefix)
            prefixes.append(prefix)
        return prefixes

    def backend(self, section: Section, options: Iterable[cfg.Opt], strict: bool) -> Options:
        """The values of one instance: the core's options for backends and its own.

        `strict` is the default of `require_checksum`.

        :raises ConfigError: a value cannot be used.
        """
        common = backend_options(strict)
        every = [*common, *reloadable(options)]
        # The default of require_checksum differs between backends; endpoint is registered already.
        self.conf.register_opts(every, group=cfg.OptGroup(section.group))
        values = self._snapshot(section.group, every)
        over = {name: value for name, value in self._overrides.items() if name in values}
        return Options({**values, **over}) if over else values

    def policy(self, section: Section, options: Options, servers: Iterable[str] = ()) -> Policy:
        """The network policy of one instance; `servers`: its options with URLs of servers.

        :raises ConfigError: `allowed_networks` or a URL is invalid.
        """
        try:
            allowed = networks(options.allowed_networks)
        except ValueError as error:
            raise ConfigError(
                f"[{section.group}] allowed_networks: {error}",
                hint="write networks or addresses, like 10.0.0.0/8 or 192.0.2.7, not names",
            ) from error
        named = [("endpoint", url) for url in self.endpoints(section)]
        named += [
            (name, url)
            for name in dict.fromkeys(["auth_url", *servers])
            for url in _each(options.get(name))
        ]
        allowed_as_they_are = {_host_and_port(section, *each) for each in named}
        if options.get("proxy"):
            allowed_as_they_are.add(_proxy_address(section, options["proxy"]))
        return Policy(
            allowed_networks=allowed,
            allowed_ports=frozenset(options.allowed_ports),
            configured=frozenset(allowed_as_they_are),
            # A person who lists networks means these.
            trusting=self.personal and not allowed,
        )

    def is_set(self, group: str, option: str) -> bool:
        """Whether this option is set, even if to its default."""
        found = self.conf.get_location(option, group)
        defaults = (cfg.Locations.opt_default, cfg.Locations.set_default)
        return found is not None and found.location not in defaults

    def _snapshot(self, group: str, options: Iterable[cfg.Opt]) -> Options:
        options = list(options)
        values = {option.dest: value_of(self.conf, group, option) for option in options}
        known = {old.name: option for option in options for old in option.deprecated_opts}
        known |= {option.dest: option for option in options}
        for name, value in self._inherited.get(group, {}).items():
            option = known.get(name)
            if option is not None and not self.is_set(group, option.dest):
                values[option.dest] = typed(group, option, value)
        return Options(values)


def _decisive(error: ImageBrokerError, groups: Mapping[str, str]) -> tuple[str, str]:
    """The section and option that an error depends on; `groups` has the section of each option.

    They are in `error.option`, or at the beginning of its text, or its hint names the option to
    change.
    """
    for text in (f"{error.option}:", str(error)):
        if match := _PLACE.match(text):
            named = match["option"] or ""
            return match["group"], named if match["colon"] or named in groups else ""
    if error.option in groups:
        return groups[error.option], error.option
    for name in re.findall(r"\b[a-z]+(?:_[a-z0-9]+)+\b", f"{error.hint} {error}"):
        if name in groups:
            return groups[name], name
    return "", ""


#: `[section] option`, at the beginning of a message.
_PLACE = re.compile(
    rf"\[(?P<group>{GROUP}|{PREFIX}[^\]\s]+)\](?:\W{{1,2}}(?P<option>[a-z][a-z0-9_]*)(?P<colon>:?))?"
)


def own_state_home() -> Path | None:
    """The directory for state of the user who runs this process; None if there is none.

    A directory of another user is not used: under sudo, these variables may name one.
    """
    runtime = os.environ.get("XDG_RUNTIME_DIR", "")
    state, home = own_folder("XDG_STATE_HOME", ".local/state"), own_home()
    places = [(Path(runtime), runtime)] if runtime.startswith("/") else []
    places += [(state, home)] if state and home else []
    for folder, owned in places:
        try:
            if os.stat(owned).st_uid == os.geteuid():
                return folder / "imagebroker"
        except OSError:
            continue  # not there
    return None


def _each(value: str | list[str] | None) -> list[str]:
    """The values of an option with one URL, or with a list of them."""
    return [value] if isinstance(value, str) and value else list(value or ())


def _parsed(section: Section, option: str, url: str) -> ImageRef:
    """:raises ConfigError: it is no URL."""
    where = f"[{section.group}] {option}"
    if "://" not in url:
        schemes = [section.name] if section.name in DEFAULT_PORTS else ["https", "http"]
        shown = redact(url, 200)
        address = re.sub(r"^([^/:]+):/", r"\1/", shown)  # scp and rsync write HOST:/PATH
        raise ConfigError(
            f"{where}: {shown!r} is not a URL: it has no scheme",
            hint="write " + " or ".join(f"{scheme}://{address}" for scheme in schemes),
        )
    try:
        return parse(url)
    except InvalidImageRef as error:
        raise ConfigError(f"{where}: {error}", hint=error.hint) from error


def _host_and_port(section: Section, option: str, url: str) -> tuple[str, int]:
    ref = _parsed(section, option, url if url.count("/") > 2 else url + "/")
    return ref.host or "", ref.port or DEFAULT_PORTS.get(ref.scheme or "", 0)


def _proxy_address(section: Section, text: str) -> tuple[str, int]:
    try:
        proxy = Proxy.parse(text, "option proxy")
    except ValueError as error:
        raise ConfigError(
            f"[{section.group}] proxy: {error}",
            hint="write it as http://HOST:PORT, or http://USER:PASSWORD@HOST:PORT",
        ) from None
    return proxy.host, proxy.port


def _parse(files: list[str]) -> cfg.ConfigOpts:
    """A ConfigOpts of these files only: no environment variables, no default locations."""
    uncache_stevedore()  # oslo.config uses it to look for `config_source` drivers
    conf = cfg.ConfigOpts()
    try:
        conf([], project=GROUP, default_config_files=files, default_config_dirs=[], use_env=False)
    except cfg.ConfigFilesNotFoundError as error:
        raise ConfigError(
            f"the config file {', '.join(error.config_files)} does not exist",
            hint=f"create one with: imagebroker config sample > {files[-1]}",
            where=", ".join(error.config_files),
        ) from error
    except (cfg.Error, ValueError, OSError) as error:
        raise _unreadable(", ".join(files), error) from error
    return conf


def _unreadable(file: str, error: Exception) -> ConfigError:
    what, where, hint = str(error), file, "write it as [section], then lines option = value"
    if isinstance(error, cfg.ConfigFilesPermissionDeniedError):
        what, hint = "Permission denied", "name a file that this user can read"
    elif isinstance(error, UnicodeDecodeError) or "\\ufeff" in what:
        what = "it is not UTF-8 text" if isinstance(error, UnicodeError) else (
            "it begins with a byte order mark"
        )  # fmt: skip
        hint = "save it as plain UTF-8, without a byte order mark"
    elif isinstance(error, OSError):
        what, hint = error.strerror or what, "name a file that this user can read"
    elif match := re.search(r"(?s): at .*:(\d+), (.*)", what):  # oslo.config's text
        what, where = f"line {match[1]}: {match[2]}", f"{file}:{match[1]}"
    return ConfigError(f"the config file {file} cannot be read: {what}", hint=hint, where=where)
