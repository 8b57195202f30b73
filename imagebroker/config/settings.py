"""The options of a deployment, and the values that a broker works with.

Core options are in `[imagebroker]`, a backend's in `[backend:<name>]`, those of a named instance in
`[backend:<name>:<instance>]`, so that all of them can also be part of a service's config file.
"""

from __future__ import annotations

import copy
import os
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from oslo_config import cfg, types

from imagebroker.backends.backend import Limits, Options
from imagebroker.backends.entry_points import uncache_stevedore
from imagebroker.backends.listing import ListLimits
from imagebroker.config.lines import Line, Lines
from imagebroker.config.option_value import typed, value_of
from imagebroker.config.tuning import DEFAULT, Tuning
from imagebroker.exceptions import ConfigError, ImageBrokerError, InvalidImageRef
from imagebroker.model.reference import DEFAULT_PORTS, ImageRef, parse
from imagebroker.policy.addresses import Policy, networks
from imagebroker.policy.proxies import Proxy
from imagebroker.redaction import redact
from imagebroker.system.person import own_folder, own_home

GROUP = "imagebroker"
#: How the sections of backends begin.
PREFIX = "backend:"
#: The form of `default_backend` and `backend=`.
BACKEND_NAME = re.compile(
    r"(?P<name>[a-z][a-z0-9+.-]{0,31})(?::(?P<instance>[A-Za-z0-9_][A-Za-z0-9_.-]*))?"
)

#: Values by section and option, for options that a service's own configuration does not set there.
Inherited = Mapping[str, Mapping[str, Any]]

_UNITS = {"": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30, "t": 1 << 40}


class Size(types.ConfigType):
    """Bytes, with an optional binary unit: `4096`, `10G`, `16 TiB`. At least 1."""

    def __init__(self) -> None:
        super().__init__(type_name="size")

    def __call__(self, value: Any) -> int:
        match = re.fullmatch(r"(\d{1,18})\s*(?:([kmgt])(?:i?b)?|b)?", str(value).strip().lower())
        if match is None or int(match[1]) < 1:
            raise ValueError(f"{value!r} is not a size: write bytes, or a number like 512M or 10G")
        return int(match[1]) * _UNITS[match[2] or ""]

    def __repr__(self) -> str:
        return "Size"

    def __eq__(self, other: object) -> bool:
        return type(self) is type(other)

    __hash__ = None  # type: ignore[assignment]

    def _formatter(self, value: Any) -> str:
        return str(value)


def reloadable(options: Iterable[cfg.Opt]) -> list[cfg.Opt]:
    """The same options, marked so that a service's `mutate_config_files` updates their values,
    and with explanations that are not wrapped.

    A broker uses the new values after `reload`, not before.
    """
    found = [copy.copy(option) for option in options]
    for option in found:
        option.mutable = True
        # Wrapped once, where it is shown.
        option.help = " ".join((option.help or "").split()) or None
    return found


CORE_OPTIONS: Sequence[cfg.Opt] = reloadable((
    cfg.ListOpt(
        "enabled_schemes", default=[], sample_default=["file", "https", "glance"],
        help="Schemes to allow in refs. Plugins of other schemes are not even imported. If empty, "
        "every image is refused."),
    cfg.StrOpt(
        "default_backend", default="file",
        help="Backend (NAME or NAME:INSTANCE) for plain UUIDs, and for calls that name no "
        "backend."),
    cfg.ListOpt(
        "direct_url_schemes", default=[],
        help="Read an image directly from its locations with one of these schemes, and fall back "
        "to the backend itself. What they send must match the strong checksum of the image."),
    cfg.Opt(
        "max_size", type=Size(), default=16 << 40, sample_default="16T",
        help="Refuse to download larger images (bytes, or with K, M, G, T)."),
    cfg.IntOpt(
        "max_compression_ratio", default=1000, min=1,
        help="When an image is decompressed: refuse more than this many times the bytes received, "
        "beyond the first GiB. max_size also applies to the decompressed image."),
    cfg.IntOpt(
        "deadline", default=86400, min=1,
        help="Seconds after which a transfer is aborted, even if bytes still arrive."),
    cfg.FloatOpt(
        "connect_timeout", default=10.0, min=0.01,
        help="Seconds within which a connection must be established."),
    cfg.FloatOpt(
        "stall_timeout", default=30.0, min=0.01,
        help="Seconds without a byte after which a connection is dropped and retried."),
    cfg.FloatOpt(
        "list_deadline", default=600.0, min=0.01,
        help="Seconds that a backend may take in total to list images. Time that the caller "
        "spends between two images does not count."),
    cfg.IntOpt(
        "list_max_records", default=100000, min=1,
        help="Maximum number of images in one list. A longer list ends in an error after these."),
    cfg.Opt(
        "list_max_size", type=Size(), default=256 << 20, sample_default="256M",
        help="Maximum size of all records in one list (bytes, or with K, M, G, T)."),
    cfg.IntOpt(
        "min_rate", default=1024, min=0,
        help="Minimum bytes a second, on average over each stall_timeout; a slower connection is "
        "dropped and retried. 0: no minimum."),
    cfg.Opt(
        "rate_limit", type=Size(),
        help="Maximum bytes a second for one transfer (or with K, M, G). Not set: no limit."),
    cfg.IntOpt(
        "retries", default=4, min=0,
        help="Retries in a row without new bytes, after which a transfer fails."),
    cfg.FloatOpt(
        "retry_backoff", default=0.5, min=0.0,
        help="Seconds to wait before the first retry; doubled for each further one, up to 16 "
        "times this value."),
    cfg.BoolOpt(
        "keep_partial",
        default=False,
        help="When a transfer fails or is interrupted, keep a hidden part file and its journal "
        "beside the destination, if a strong version or a required checksum can prove that the "
        "rest will match. The next download of the same image to the same destination resumes "
        "it. Removed after a day.",
    ),
    cfg.BoolOpt(
        "preallocate", default=False,
        help="Reserve disk space for the whole image before the first byte is written, if the "
        "file system supports it (fallocate). The file is then not sparse."),
    cfg.BoolOpt(
        "share_downloads", default=True,
        help="Share one transfer between simultaneous downloads of the same image to files: one "
        "fetches the data, the others read what it has stored. The backend must allow each caller "
        "to read the image, and each caller verifies its own copy."),
    cfg.StrOpt(
        "state_dir",
        help="Directory through which the processes of one user share transfers, on a local file "
        "system. It must belong to that user, with mode 0700, and is created if missing. Not set: "
        "a service shares within each broker only; the command uses "
        "$XDG_RUNTIME_DIR/imagebroker, or else $XDG_STATE_HOME/imagebroker."),
    cfg.StrOpt(
        "cache_dir",
        help="Directory of a cache of verified images. It must belong to the user of the service, "
        "with mode 0700, and is created if missing. Not set: no cache."),
    cfg.Opt(
        "cache_size", type=Size(), default=20 << 30, sample_default="20G",
        help="Maximum size of the cache (bytes, or with K, M, G, T). The least recently used "
        "images are removed first; images in use are never removed."),
    cfg.BoolOpt(
        "swarm", default=False,
        help="Experimental. Take images with a strong checksum from other hosts of the fleet that "
        "download them at the same time: each reads a share from the backend, with its own "
        "credentials. Needs imagebroker[swarm] and certificates of the fleet; see fleet.md."),
    cfg.StrOpt(
        "swarm_address",
        help="Address of this host at which other hosts of the fleet reach it."),
    cfg.StrOpt(
        "swarm_ports", default="7881-7888",
        help="Ports for other hosts, as FIRST-LAST: hosts call each other in the first half, and "
        "images travel in the second. So many downloads as half of the range has ports can be in "
        "swarms at the same time."),
    cfg.ListOpt(
        "swarm_members", default=[],
        help="Addresses of the hosts of the fleet, with a port where it is always the same. This "
        "host may be among them."),
    cfg.ListOpt(
        "swarm_rendezvous", default=[],
        help="HOST:PORT of `imagebroker swarm rendezvous`, where hosts find each other. Several: "
        "the first that answers is used."),
    cfg.StrOpt(
        "swarm_ca",
        help="File with the certificate of the fleet's own CA: whoever has a certificate of it is "
        "a host of the fleet. `imagebroker swarm init` creates all three files."),
    cfg.StrOpt(
        "swarm_certificate",
        help="File with the certificate of this host. Each host needs its own."),
    cfg.StrOpt(
        "swarm_key",
        help="File with the key of this host's certificate."),
    cfg.StrOpt(
        "swarm_dir",
        help="Directory for images on their way, on a disk with room for them. It must belong to "
        "the user of the service, with mode 0700, and is created if missing."),
    cfg.Opt(
        "swarm_from", type=Size(), default=64 << 20, sample_default="64M",
        help="Minimum size of an image to be taken from other hosts (bytes, or with K, M, G, T)."),
    cfg.FloatOpt(
        "swarm_linger", default=15.0, min=0.0,
        help="Seconds for which a process stays and passes an image on after it was downloaded."),
    cfg.Opt(
        "swarm_upload_limit", type=Size(),
        help="Maximum bytes a second that one download sends to other hosts (or with K, M, G). Not "
        "set: no limit."),
    cfg.BoolOpt(
        "fsync", default=True,
        help="Flush an image and its directory entry to disk before reporting success. Without "
        "it, a power loss can lose the image; kill -9 still never leaves a partial one."),
    cfg.BoolOpt(
        "direct_io", default=True,
        help="Write images with O_DIRECT, bypassing the page cache, on file systems where that "
        "pays (ext4, XFS): it costs less CPU time and does not evict data that others use. Turn "
        "it off if images are read right after the download. No effect without fsync."),
    cfg.BoolOpt(
        "allow_md5", default=False,
        help="Accept md5 and sha1 where a checksum is required. They do not protect against "
        "attackers."),
    cfg.StrOpt(
        "checksum_keyring",
        help="File with OpenPGP keys, as exported by gpg --export. A checksum file that a call "
        "names by its URL is then accepted only with a signature by one of these keys. Needs "
        "imagebroker[openpgp]."),
    cfg.BoolOpt(
        "allow_unknown_size", default=False,
        help="Accept images with neither a known size nor a checksum."),
    cfg.BoolOpt(
        "allow_empty", default=False,
        help="Accept empty images even if neither a record nor a checksum says that they are "
        "empty."),
    cfg.BoolOpt(
        "inspect_formats", default=True,
        help="Inspect the content of every image: it must have the declared disk format and no "
        "other, and must not refer to other files. If off, only images that allowed_formats "
        "restricts are inspected."),
    cfg.ListOpt(
        "allowed_formats", default=[],
        help="Disk formats to accept, whatever the record declares (raw, qcow2, vmdk, vhd, vhdx, "
        "vdi, iso, luks). Empty: all of these."),
    cfg.Opt(
        "max_virtual_size", type=Size(), default=64 << 40, sample_default="64T",
        help="Refuse images with a larger virtual disk (bytes, or with K, M, G, T)."),
    cfg.IntOpt(
        "convert_timeout", default=3600, min=1,
        help="Seconds that qemu-img may take to convert an image to raw."),
    cfg.Opt(
        "convert_memory", type=Size(), default=2 << 30, sample_default="2G",
        help="Address space that qemu-img may use to convert an image (bytes, or with K, M, G)."),
    cfg.StrOpt(
        "convert_dir", default="/var/tmp",  # noqa: S108 - part files are made so that it is safe
        help="Directory that an image is stored in until it is converted and written to a device. "
        "One that goes to a file is stored beside it."),
    cfg.BoolOpt(
        "convert_unconfined", default=False,
        help="Run qemu-img without confinement where bubblewrap (bwrap) is missing or does not "
        "work. A malicious image that finds a bug in qemu-img can then do what the service can "
        "do. If off, such a host converts no images."),
    cfg.BoolOpt(
        "verify_signatures", default=False,
        help="Refuse images without a valid signature (properties img_signature...). Certificates "
        "are read from the key manager configured in [key_manager]. Needs "
        "imagebroker[signature]."),
    cfg.ListOpt(
        "trusted_certificate_ids", default=[],
        help="Ids of trusted certificates in the key manager, for calls that name none: issuers "
        "of signing certificates, up to the self-signed root."),
    cfg.BoolOpt(
        "enable_certificate_validation", default=True,
        help="Refuse a signature unless a trusted certificate issued its certificate. If off, any "
        "certificate in the key manager can sign, unless the call names trusted ones."),
    cfg.BoolOpt(
        "metrics", default=True,
        help="Count calls, bytes, seconds, retries and failures in the default registry of "
        "prometheus-client, if it is installed."),
    cfg.BoolOpt(
        "tracing", default=True,
        help="Record a span for each call, if OpenTelemetry's API is installed."),
))  # fmt: skip


def backend_options(require_checksum: bool = False) -> Sequence[cfg.Opt]:
    """The options that every backend has: the core implements them."""
    return reloadable((
        cfg.ListOpt(
            "endpoint", default=[],
            help="URI prefixes ending in /: refs that begin with one belong to this instance. For "
            "glance, also the URLs of its servers; other backends have an option of their own for "
            "that."),
        cfg.ListOpt(
            "allowed_networks", default=[],
            help="Networks to allow in addition to global addresses, for example 10.0.0.0/8."),
        cfg.ListOpt(
            "allowed_ports", default=[], item_type=types.Integer(min=1, max=65535),
            help="Ports to allow in addition to 80, 443, the default port of the scheme, and "
            "ports from 1024 up that no well-known service uses."),
        cfg.BoolOpt(
            "require_checksum", default=require_checksum,
            help="Refuse to download an image if neither the caller nor the record has a strong "
            "checksum for it."),
        cfg.StrOpt(
            "proxy", secret=True,
            help="HTTP proxy, as http://[user:password@]host:port. Write characters of the "
            "password other than letters and digits as %XX. If there is a config file, proxies "
            "in the environment are ignored. Protect a file that contains a password."),
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
        self._conf = conf
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
            self.core = self._snapshot(GROUP, CORE_OPTIONS)
        except ConfigError as error:
            self.locate(error)
            raise

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
        return Settings(self._conf, overrides=self._overrides, inherited=self._inherit)

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
        """The line of an option, or of the title of a section; None if it is not in a file."""
        return self._lines.find(group, option)

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
        for group in dict.fromkeys([*self._conf.list_all_sections(), *self._inherited]):
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
        self._conf.register_opts(every, group=cfg.OptGroup(section.group))
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
        found = self._conf.get_location(option, group)
        defaults = (cfg.Locations.opt_default, cfg.Locations.set_default)
        return found is not None and found.location not in defaults

    def _snapshot(self, group: str, options: Iterable[cfg.Opt]) -> Options:
        options = list(options)
        values = {option.dest: value_of(self._conf, group, option) for option in options}
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
            f"{where}: {shown!r} is no URL: it has no scheme",
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
        raise ConfigError(
            f"the config file {', '.join(files)} cannot be read: {error}",
            hint="make sure that this user can read it, and that it has the form: [section], then "
            "lines option = value",
            where=_place_of(error) or ", ".join(files),
        ) from error
    return conf


def _place_of(error: Exception) -> str:
    """FILE:LINE of a syntax error, from the text of oslo.config's error."""
    match = re.search(r"at (\S+:\d+)", str(error))
    return match[1] if match else ""
