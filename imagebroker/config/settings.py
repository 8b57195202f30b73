"""The deployer's options: what there is, and the values that a broker works with.

Core options stand in `[imagebroker]`, a backend's in `[backend:<name>]`, those of a named instance
in `[backend:<name>:<instance>]`, so that the file can also live inside a service's own.
"""

from __future__ import annotations

import copy
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from oslo_config import cfg, types

from imagebroker.backends.backend import Limits, Options
from imagebroker.backends.entry_points import uncache_stevedore
from imagebroker.backends.listing import ListLimits
from imagebroker.config.lines import Line, Lines
from imagebroker.config.option_value import value_of
from imagebroker.config.tuning import DEFAULT, Tuning
from imagebroker.exceptions import ConfigError, ImageBrokerError, InvalidImageRef
from imagebroker.model.reference import DEFAULT_PORTS, parse
from imagebroker.policy.addresses import Policy, networks
from imagebroker.policy.proxies import Proxy
from imagebroker.system.person import own_folder, own_home

GROUP = "imagebroker"
#: Beginning of the sections that belong to backends.
PREFIX = "backend:"
#: What `default_backend` and `backend=` may look like.
BACKEND_NAME = re.compile(
    r"(?P<name>[a-z][a-z0-9+.-]{0,31})(?::(?P<instance>[A-Za-z0-9_][A-Za-z0-9_.-]*))?"
)

_UNITS = {"": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30, "t": 1 << 40}


class Size(types.ConfigType):
    """Bytes, with an optional binary unit: `4096`, `10G`, `16 TiB`. At least 1."""

    def __init__(self) -> None:
        super().__init__(type_name="size")

    def __call__(self, value: Any) -> int:
        match = re.fullmatch(r"(\d{1,18})\s*(?:([kmgt])(?:i?b)?|b)?", str(value).strip().lower())
        if match is None or int(match[1]) < 1:
            raise ValueError(f"{value!r} is not a size: write bytes or a number with K, M, G or T")
        return int(match[1]) * _UNITS[match[2] or ""]

    def __repr__(self) -> str:
        return "Size"

    def __eq__(self, other: object) -> bool:
        return type(self) is type(other)

    __hash__ = None  # type: ignore[assignment]

    def _formatter(self, value: Any) -> str:
        return str(value)


def reloadable(options: Iterable[cfg.Opt]) -> list[cfg.Opt]:
    """The same options, such that a service's `mutate_config_files` takes up their new values.

    A broker sees them after `reload`, and no sooner.
    """
    found = [copy.copy(option) for option in options]
    for option in found:
        option.mutable = True
    return found


CORE_OPTIONS: Sequence[cfg.Opt] = reloadable((
    cfg.ListOpt(
        "enabled_schemes", default=[], sample_default=["file", "https", "glance"],
        help="Schemes that refs may have. The plugin of any other scheme is not even imported. "
        "Empty: nothing works."),
    cfg.StrOpt(
        "default_backend", default="file",
        help="NAME or NAME:INSTANCE of the backend that answers bare UUIDs, and calls that name "
        "no backend."),
    cfg.ListOpt(
        "direct_url_schemes", default=[],
        help="Locations of an image with one of these schemes are read directly, before the "
        "backend itself is asked; the image's strong checksum must hold for what they send."),
    cfg.Opt(
        "max_size", type=Size(), default=16 << 40, sample_default="16T",
        help="Largest image that is downloaded (bytes, or with K, M, G, T)."),
    cfg.IntOpt(
        "max_compression_ratio", default=1000, min=1,
        help="Where a call asks to unpack an image: times as many bytes as were received that may "
        "come out, beyond a first GiB. max_size holds for them too."),
    cfg.IntOpt(
        "deadline", default=86400, min=1,
        help="Seconds after which a transfer is given up, however it fares."),
    cfg.FloatOpt(
        "connect_timeout", default=10.0, min=0.01, help="Seconds until a connection must stand."),
    cfg.FloatOpt(
        "stall_timeout", default=30.0, min=0.01,
        help="Seconds without a byte after which a peer counts as gone."),
    cfg.FloatOpt(
        "list_deadline", default=600.0, min=0.01,
        help="Seconds that a backend may take for one list of images, in all. What its reader does "
        "in between does not count."),
    cfg.IntOpt(
        "list_max_records", default=100000, min=1,
        help="Images in one list. With more it ends in an error, after those."),
    cfg.Opt(
        "list_max_size", type=Size(), default=256 << 20, sample_default="256M",
        help="Bytes of all records in one list (or with K, M, G, T)."),
    cfg.IntOpt(
        "min_rate", default=1024, min=0,
        help="Bytes a second that must arrive on average over each stall_timeout; 0: any."),
    cfg.Opt(
        "rate_limit", type=Size(),
        help="Bytes a second that one transfer takes at most (or with K, M, G). Not set: as fast "
        "as it goes."),
    cfg.IntOpt(
        "retries", default=4, min=0,
        help="Attempts after the first without progress, before a transfer is given up."),
    cfg.FloatOpt(
        "retry_backoff", default=0.5, min=0.0,
        help="Seconds before the first retry; doubled for each further one, up to 16 times that."),
    cfg.BoolOpt(
        "keep_partial",
        default=False,
        help="Leave a hidden part file and its journal beside the destination when a transfer "
        "breaks or is interrupted and something proves that the rest will match; the next "
        "download of the same image to the same place goes on with it. Swept after a day.",
    ),
    cfg.BoolOpt(
        "preallocate", default=False,
        help="Set aside the whole size of an image on the disk before its first byte is written, "
        "where the file system can (fallocate). The file then has no holes."),
    cfg.BoolOpt(
        "share_downloads", default=True,
        help="Let downloads of the same image into paths, at the same time, share one transfer: "
        "one asks for the bytes, the others read what it has stored. Each caller is asked for "
        "its right to read, and each verifies its own copy."),
    cfg.StrOpt(
        "state_dir",
        help="Directory, on a local file system, in which the processes of one user find each "
        "other's transfers. Its owner is that user, and nobody else may enter it (mode 0700); it "
        "is made if it is missing. Unset, a service shares within each broker only; the command "
        "uses $XDG_RUNTIME_DIR/imagebroker, or else $XDG_STATE_HOME/imagebroker."),
    cfg.StrOpt(
        "cache_dir",
        help="Directory of a cache of verified images, by digest. Its owner is the user of the "
        "service, and nobody else may enter it (mode 0700); it is made if it is missing. Unset: "
        "nothing is cached."),
    cfg.Opt(
        "cache_size", type=Size(), default=20 << 30, sample_default="20G",
        help="Bytes that the cache may hold (or with K, M, G, T). What was not used for the "
        "longest time goes first, and never what is in use."),
    cfg.BoolOpt(
        "fsync", default=True,
        help="Force an image and its directory entry to the disk before success is reported. "
        "Without it a power loss may take the image back; it is never partial after kill -9."),
    cfg.BoolOpt(
        "direct_io", default=True,
        help="Write images past the page cache, where that is known to pay (ext4, XFS): a transfer "
        "takes less of the processor, and pushes nothing out of the cache that others use. Without "
        "it an image is in the cache when it is stored, for whoever reads it next. Has no effect "
        "without fsync."),
    cfg.BoolOpt(
        "allow_md5", default=False,
        help="Let md5 and sha1 satisfy a required checksum. They prove nothing against attackers."),
    cfg.StrOpt(
        "checksum_keyring",
        help="File of OpenPGP keys, as gpg --export writes it. A checksum that a call names by the "
        "URL of a file is then believed only if the file has a signature by one of them; needs "
        "imagebroker[openpgp]."),
    cfg.BoolOpt(
        "allow_unknown_size", default=False,
        help="Accept images whose size nobody knows beforehand and that no checksum covers."),
    cfg.BoolOpt(
        "allow_empty", default=False,
        help="Accept images of 0 bytes though neither a record nor a checksum says so."),
    cfg.BoolOpt(
        "inspect_formats", default=True,
        help="Look at the content of every image that is downloaded: it must be of the declared "
        "disk format and of no other, and refer to no other file. Off, this is done only where "
        "allowed_formats says what is allowed."),
    cfg.ListOpt(
        "allowed_formats", default=[],
        help="Disk formats that may be downloaded (raw, qcow2, vmdk, vhd, vhdx, vdi, iso, luks), "
        "whatever is declared. Empty: all of them."),
    cfg.Opt(
        "max_virtual_size", type=Size(), default=64 << 40, sample_default="64T",
        help="Largest disk that an image may hold (bytes, or with K, M, G, T)."),
    cfg.BoolOpt(
        "verify_signatures", default=False,
        help="Refuse every download whose image has no valid signature (the properties "
        "img_signature...). Certificates are read from the key manager that [key_manager] names; "
        "needs imagebroker[signature]."),
    cfg.ListOpt(
        "trusted_certificate_ids", default=[],
        help="Ids, in the key manager, of the certificates that may sign images, where a call does "
        "not name its own: issuers up to the self-signed root."),
    cfg.BoolOpt(
        "enable_certificate_validation", default=True,
        help="Refuse signatures whose certificate none of the trusted ones issued. Off, any "
        "certificate in the key manager may sign, as long as a call names none to trust."),
    cfg.BoolOpt(
        "metrics", default=True,
        help="Count calls, bytes, seconds, retries and failures in prometheus-client's default "
        "registry, where prometheus-client is installed."),
    cfg.BoolOpt(
        "tracing", default=True,
        help="Record a span for each call, where OpenTelemetry's API is installed."),
))  # fmt: skip


def backend_options(require_checksum: bool = False) -> Sequence[cfg.Opt]:
    """Options that every backend has, because the core acts on them."""
    return reloadable((
        cfg.ListOpt(
            "endpoint", default=[],
            help="URI prefixes ending in / that belong to this instance; also the servers that it "
            "speaks to, where the backend has servers."),
        cfg.ListOpt(
            "allowed_networks", default=[],
            help="Networks (10.0.0.0/8) that may be connected to beyond the global addresses."),
        cfg.ListOpt(
            "allowed_ports", default=[], item_type=types.Integer(min=1, max=65535),
            help="Ports that may be connected to beyond 80, 443, the scheme's own, and those from "
            "1024 up that belong to no well-known service."),
        cfg.BoolOpt(
            "require_checksum", default=require_checksum,
            help="Refuse a download for which neither the caller nor the record has a strong "
            "checksum."),
        cfg.StrOpt(
            "proxy", secret=True,
            help="HTTP proxy to use: http://[user:password@]host:port, other characters than "
            "letters and digits in the password as %XX. With a config file, none is taken from "
            "the environment. Let nobody else read a file with a password in it."),
    ))  # fmt: skip


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
        raise InvalidImageRef(f"{title!r} names no backend", hint="write NAME or NAME:INSTANCE")
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
    ) -> None:
        """:raises ConfigError: a core option has a value that cannot be used."""
        self._conf = conf
        self.tuning = tuning
        #: True where a person runs the command without a config file.
        self.personal = personal
        #: Where state is kept if the configuration does not say.
        self.state_home = state_home
        #: The file that these are the values of; None where a service hands in its own.
        self._file: str | None = None
        conf.register_opts(CORE_OPTIONS, group=GROUP)
        try:
            self.core = self._snapshot(GROUP, CORE_OPTIONS)
        except ConfigError as error:
            self.locate(error)
            raise

    @classmethod
    def from_file(
        cls,
        path: str | os.PathLike[str],
        *,
        state_home: Path | None = None,
        tuning: Tuning = DEFAULT,
    ) -> Settings:
        """:raises ConfigError: the file is missing, not readable, or not in oslo.config's form."""
        settings = cls(_parse([os.fspath(path)]), state_home=state_home, tuning=tuning)
        settings._file = os.path.abspath(path)
        return settings

    @classmethod
    def for_person(cls) -> Settings:
        """What holds without any config file: defaults, and trust in the person who types."""
        return cls(_parse([]), personal=True, state_home=own_state_home())

    def again(self) -> Settings:
        """The same files read again, or what the service's own object has by now.

        :raises ConfigError: they cannot be used.
        """
        if self._file is not None:
            return Settings.from_file(self._file, state_home=self.state_home, tuning=self.tuning)
        return Settings.for_person() if self.personal else Settings(self._conf)

    @property
    def limits(self) -> Limits:
        core = self.core
        return Limits(
            connect_timeout=core.connect_timeout,
            stall_timeout=core.stall_timeout,
            lists=ListLimits(core.list_deadline, core.list_max_records, core.list_max_size),
        )

    @property
    def conf(self) -> cfg.ConfigOpts:
        """The whole configuration, for libraries that have sections of their own in it."""
        return self._conf

    @property
    def files(self) -> list[Path]:
        """The config files that were read, those of a `--config-dir` too."""
        found = [Path(name) for name in self._conf.config_file or []]
        for folder in getattr(self._conf, "config_dir", None) or []:
            found += sorted(Path(folder).glob("*.conf"))
        return found

    def line(self, group: str, option: str = "") -> Line | None:
        """Where an option is written, or the title of a section; None if it is not."""
        return self._lines.find(group, option)

    @cached_property
    def _lines(self) -> Lines:
        return Lines(self.files)

    def where(self, group: str, option: str) -> str:
        """File and line of an option, or the file in which it is not set; empty without any."""
        if line := self.line(group, option):
            return f"{line}: [{group}] {option}".rstrip()
        if not self.files:
            return ""
        file = self.line(group) or self.files[-1]
        return f"{file}: [{group}] {option} is not set" if option else f"{file}: [{group}]"

    def locate(
        self, error: ImageBrokerError, section: Section | None = None, names: Iterable[str] = ()
    ) -> None:
        """Say in `error.where` where the option stands that decides.

        `names`: the options of `section`, whose backend the error comes from.
        """
        if error.where or self.personal:
            return
        groups = {option.dest: GROUP for option in CORE_OPTIONS}
        if section is not None:
            groups |= dict.fromkeys(names, section.group)
        group, option = _decisive(error, groups)
        if group:
            error.option = f"[{group}] {option}".rstrip()
            error.where = self.where(group, option)

    def sections(self) -> list[Section]:
        """The backends' sections that the configuration has, valid names only."""
        found = []
        for group in self._conf.list_all_sections():
            match = BACKEND_NAME.fullmatch(group.removeprefix(PREFIX))
            if group.startswith(PREFIX) and match:
                found.append(Section(match["name"], match["instance"]))
        return found

    def endpoints(self, section: Section) -> list[str]:
        """The URI prefixes that belong to this instance, each ending in `/`.

        :raises ConfigError: one is not a URI.
        """
        options = [opt for opt in backend_options() if opt.name == "endpoint"]
        self._conf.register_opts(options, group=cfg.OptGroup(section.group))
        prefixes = []
        for value in self._snapshot(section.group, options).endpoint:
            prefix = value if value.endswith("/") else value + "/"
            try:
                ref = parse(prefix)
            except InvalidImageRef as error:
                raise ConfigError(
                    f"[{section.group}] endpoint: {error}", hint=error.hint
                ) from error
            if ref.host is None and ref.path is None:
                raise ConfigError(f"[{section.group}] endpoint: {value!r} is not a URI")
            prefixes.append(prefix)
        return prefixes

    def backend(self, section: Section, options: Iterable[cfg.Opt], strict: bool) -> Options:
        """The values of one instance: the core's options for backends and its own.

        `strict` is the default of `require_checksum`.

        :raises ConfigError: a value cannot be used.
        """
        common = backend_options(strict)
        every = [*common, *reloadable(options)]
        # The default of require_checksum differs between backends; endpoint was registered before.
        self._conf.register_opts(every, group=cfg.OptGroup(section.group))
        return self._snapshot(section.group, every)

    def policy(self, section: Section, options: Options) -> Policy:
        """What one instance may reach.

        :raises ConfigError: `allowed_networks` or a URL cannot be parsed.
        """
        try:
            allowed = networks(options.allowed_networks)
        except ValueError as error:
            raise ConfigError(
                f"[{section.group}] allowed_networks: {error}", hint="write networks as 10.0.0.0/8"
            ) from error
        named = [("endpoint", url) for url in self.endpoints(section)]
        named += [("auth_url", options["auth_url"])] if options.get("auth_url") else []
        allowed_as_they_are = {_host_and_port(section, *each) for each in named}
        if options.get("proxy"):
            allowed_as_they_are.add(_proxy_address(section, options["proxy"]))
        return Policy(
            allowed_networks=allowed,
            allowed_ports=frozenset(options.allowed_ports),
            configured=frozenset(allowed_as_they_are),
            trusting=self.personal,
        )

    def is_set(self, group: str, option: str) -> bool:
        """Whether somebody has set this option, whatever to; False: its value is the default."""
        found = self._conf.get_location(option, group)
        defaults = (cfg.Locations.opt_default, cfg.Locations.set_default)
        return found is not None and found.location not in defaults

    def _snapshot(self, group: str, options: Iterable[cfg.Opt]) -> Options:
        return Options({option.dest: value_of(self._conf, group, option) for option in options})


def _decisive(error: ImageBrokerError, groups: Mapping[str, str]) -> tuple[str, str]:
    """Section and option that an error is about; `groups` has the section of each option.

    An error says so itself, or its text begins with them, or its hint names the option that is to
    be changed.
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


#: `[section] option`, as messages begin.
_PLACE = re.compile(
    rf"\[(?P<group>{GROUP}|{PREFIX}[^\]\s]+)\](?:\W{{1,2}}(?P<option>[a-z][a-z0-9_]*)(?P<colon>:?))?"
)


def own_state_home() -> Path | None:
    """Where the state of the person who runs this process belongs; None if nowhere.

    A directory of somebody else (of the person who called sudo) is none.
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


def _host_and_port(section: Section, option: str, url: str) -> tuple[str, int]:
    try:
        ref = parse(url if url.count("/") > 2 else url + "/")
    except InvalidImageRef as error:
        raise ConfigError(f"[{section.group}] {option}: {error}", hint=error.hint) from error
    return ref.host or "", ref.port or DEFAULT_PORTS.get(ref.scheme or "", 0)


def _proxy_address(section: Section, text: str) -> tuple[str, int]:
    try:
        proxy = Proxy.parse(text, "option proxy")
    except ValueError as error:
        raise ConfigError(
            f"[{section.group}] proxy: {error}", hint="write http://host:port"
        ) from None
    return proxy.host, proxy.port


def _parse(files: list[str]) -> cfg.ConfigOpts:
    """A ConfigOpts of these files alone: no environment driver, no default locations."""
    uncache_stevedore()  # where `config_source` has oslo.config look for drivers
    conf = cfg.ConfigOpts()
    try:
        conf([], project=GROUP, default_config_files=files, default_config_dirs=[], use_env=False)
    except cfg.ConfigFilesNotFoundError as error:
        raise ConfigError(
            f"no config file {', '.join(error.config_files)}",
            hint=f"`imagebroker config sample > {files[-1]}` writes one to begin with",
            where=", ".join(error.config_files),
        ) from error
    except (cfg.Error, ValueError, OSError) as error:
        raise ConfigError(
            f"the config file {', '.join(files)} cannot be read: {error}",
            hint="it has lines `option = value` below lines `[section]`, and this user may read it",
            where=_place_of(error) or ", ".join(files),
        ) from error
    return conf


def _place_of(error: Exception) -> str:
    """FILE:LINE where oslo.config says where it stopped understanding."""
    match = re.search(r"at (\S+:\d+)", str(error))
    return match[1] if match else ""
