"""From a scheme to its backend: finds plugins, and loads the enabled ones when they are needed.

Entry points are read by `imagebroker.backends.entry_points`, not from stevedore's cache, which is
up to two minutes old and does not know the distribution of a plugin. stevedore then loads the one
plugin that is needed, so that no other is imported.
"""

from __future__ import annotations

import importlib.metadata
import logging
import re
import threading
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from imagebroker.backends.backend import BackendHost
from imagebroker.backends.boundary import Boundary
from imagebroker.backends.declaration import Declaration, Misdeclared
from imagebroker.backends.entry_points import (
    Damage,
    distribution_name,
    distribution_version,
    installed,
)
from imagebroker.config.options import CORE_OPTIONS, GROUP, backend_options, reloadable
from imagebroker.config.settings import PREFIX, Section, Settings
from imagebroker.exceptions import BackendLoadError, ConfigError, ImageBrokerError, SchemeNotEnabled
from imagebroker.redaction import shown_error
from imagebroker.system.exhaustion import limit_of, started
from imagebroker.system.forks import never_finalize, tell_in_child
from imagebroker.system.spelling import nearest

LOG = logging.getLogger(__name__)

#: How other tools call the place that one of our schemes leads to.
_SAME_PLACE = {
    "sftp": "scp", "ssh": "scp", "rsync": "scp", "docker": "oci", "oras": "oci", "ceph": "rbd",
}  # fmt: skip

ENTRY_POINTS = "imagebroker.backends"
#: Seconds after which an import that is still running is logged.
SLOW_IMPORT = 5.0


@dataclass(frozen=True)
class BackendInfo:
    """An installed or enabled scheme, as `imagebroker backends` shows it."""

    scheme: str
    distribution: str | None
    version: str | None
    enabled: bool
    #: The verbs it supports; None if it is not enabled (its class is then not imported).
    capabilities: tuple[str, ...] | None
    #: Why it cannot be used, and what to do about it; None if it can be used.
    problem: str | None = None
    remedy: str | None = None


_SCHEME = r"[a-z][a-z0-9+.-]{0,31}"


class Registry:
    """The backends of one broker."""

    def __init__(
        self,
        settings: Settings,
        slow_import: float = SLOW_IMPORT,
        plugins: Iterable[importlib.metadata.EntryPoint] | None = None,
    ) -> None:
        """`slow_import`: seconds after which an import that is still running is logged.
        `plugins`: those to choose from, by default all that are installed."""
        self._settings = settings
        self._slow_import = slow_import
        #: Distributions whose metadata cannot be read; their plugins may be missing.
        self.damaged: tuple[Damage, ...] = ()
        if plugins is None:
            found = installed()
            plugins, self.damaged = found.group(ENTRY_POINTS), found.damaged
        self._found = _by_scheme(plugins)
        enabled = settings.core.enabled_schemes
        #: Every installed scheme is enabled: one whose plugin cannot be loaded is not a mistake.
        self.all_installed = settings.personal and not enabled
        if self.all_installed:
            enabled = sorted(self._found)
        self.enabled: tuple[str, ...] = tuple(dict.fromkeys(enabled))
        #: The sections whose backend is enabled, maybe through another scheme of its class.
        self.sections = [s for s in settings.sections() if self._scheme_of(s.name) is not None]
        self._endpoints: dict[Section, list[str]] = {}
        self._declared: dict[str, Declaration] = {}
        self._backends: dict[Section, Boundary] = {}
        self._locks: dict[str | Section, threading.Lock] = defaultdict(threading.Lock)
        self._lock = threading.RLock()
        tell_in_child(self)
        #: The number of calls and readers that use it.
        self._users = 0
        self._retired = False

    def check_schemes(self) -> None:
        """Check that each enabled scheme has exactly one plugin.

        :raises ConfigError: names the scheme, and the distributions if there are several.
        """
        for scheme in self.enabled:
            problem = self._scheme_problem(scheme)
            if problem is not None and not self.all_installed:
                raise problem

    def _scheme_problem(self, scheme: str) -> ConfigError | None:
        points = self._found.get(scheme, ())
        if not re.fullmatch(_SCHEME, scheme):
            meant = [word for word in re.findall(r"[a-z0-9+.-]+", scheme) if word in self._found]
            example = ", ".join(dict.fromkeys(meant)) or "file, https"
            return ConfigError(
                f"enabled_schemes has {scheme!r}, which is not a scheme",
                hint="write only schemes, with commas between them, and comments in lines of "
                f"their own: enabled_schemes = {example}",
                option="enabled_schemes",
                scheme=scheme,
            )
        if not points:
            return ConfigError(
                f"enabled_schemes has {scheme!r}, which no installed distribution provides",
                hint=f"{_unprovided(scheme, self._found)}; installed schemes: {_list(self._found)}",
                option="enabled_schemes",
                scheme=scheme,
            )
        if len(points) == 1:
            return None  # whose it is does not matter: finding that out takes a file
        owners = {_distribution(point) for point in points}
        if len(owners) == 1:
            return ConfigError(
                f"{_origin(points[0])} provides the scheme {scheme!r} {len(points)} times: "
                f"{' and '.join(sorted(point.value for point in points))}",
                hint=f"reinstall it: pip install --force-reinstall {_distribution(points[0])}",
                option="enabled_schemes",
                scheme=scheme,
            )
        return ConfigError(
            f"more than one distribution provides the scheme {scheme!r}: "
            f"{' and '.join(map(_origin, points))}",
            hint=f"uninstall all but one: pip uninstall {_distribution(points[-1])} (or "
            f"{_distribution(points[0])})",
            option="enabled_schemes",
            scheme=scheme,
        )

    def check_enabled(self, scheme: str) -> None:
        """:raises SchemeNotEnabled: names the schemes that are."""
        if scheme in self.enabled:
            return
        enabled = f"enabled schemes: {_list(self.enabled)}"
        near = _near(scheme, self.enabled)
        if scheme in self._found:
            line = ", ".join((*self.enabled, scheme))
            hint = f"add it to [{GROUP}]: enabled_schemes = {line}"
        elif near:
            hint = f"did you mean {near}? {enabled}"
        elif _SAME_PLACE.get(scheme) in self.enabled:
            hint = f"write {_SAME_PLACE[scheme]}:// instead; {enabled}"
        else:
            hint = f"{_unprovided(scheme, self._found)}; {enabled}"
        raise SchemeNotEnabled(
            f"the scheme {scheme!r} is not enabled" if scheme in self._found else
            f"the scheme {scheme!r} is unknown: no installed distribution provides it",
            hint=hint, option="enabled_schemes", scheme=scheme,
        )  # fmt: skip

    def endpoints(self, section: Section) -> list[str]:
        """The URI prefixes of an instance, each ending in `/`.

        :raises ConfigError: one is not a URI.
        """
        if section not in self._endpoints:
            self._endpoints[section] = self._settings.endpoints(section)
        return self._endpoints[section]

    def _scheme_of(self, name: str) -> str | None:
        """An enabled scheme of the backend `name`, found without importing it."""
        if name in self.enabled:
            return name
        values = {point.value for point in self._found.get(name, ())}
        for scheme in self.enabled:
            if any(point.value in values for point in self._found.get(scheme, ())):
                return scheme
        return None

    def declaration(self, scheme: str) -> Declaration:
        """The declaration of an enabled scheme's plugin, which is imported at the first call.

        :raises SchemeNotEnabled: the scheme is not enabled.
        :raises ConfigError: no plugin, or more than one, provides it.
        :raises BackendLoadError: the plugin cannot be used.
        """
        self.check_enabled(scheme)
        with self._lock:
            lock = self._locks[scheme]
        with lock:  # per scheme: a slow import does not block other schemes
            if scheme not in self._declared:
                problem = self._scheme_problem(scheme)
                if problem is not None:
                    raise problem
                self._declared[scheme] = _load(
                    self._found[scheme][0], self._found, self._slow_import
                )
            return self._declared[scheme]

    def backend(self, section: Section) -> Boundary:
        """The backend of an instance, created at the first call.

        :raises SchemeNotEnabled: it is not enabled, or the instance is not configured.
        :raises BackendLoadError, ConfigError: it cannot be used.
        """
        scheme = self._scheme_of(section.name)
        if scheme is None:
            self.check_enabled(section.name)
            raise AssertionError("unreachable")
        declared = self.declaration(scheme)
        section = Section(declared.name, section.instance)
        if section.instance is not None and section not in self._settings.sections():
            raise SchemeNotEnabled(
                f"the instance {section.title!r} is not configured",
                hint=self._instances_hint(section),
                scheme=scheme,
            )
        with self._lock:
            lock = self._locks[section]
        with lock:
            if section not in self._backends:
                self._backends[section] = self._make(declared, section, scheme)
            return self._backends[section]

    def _instances_hint(self, section: Section) -> str:
        there = [s.title for s in self._settings.sections() if s.name == section.name]
        near = _near(section.title, there)
        return (
            (f"did you mean {near}? " if near else "")
            + f"add a section [{section.group}]"
            + (f"; configured instances: {_list(there)}" if there else "")
        )

    def _make(self, declared: Declaration, section: Section, scheme: str) -> Boundary:
        options = self._settings.backend(section, declared.options, declared.require_checksum)
        host = BackendHost(
            name=section.name,
            options=options,
            instance=section.instance,
            limits=self._settings.limits,
            personal=self._settings.personal,
            policy=self._settings.policy(section, options, declared.servers),
        )
        names = tuple(options)

        def locate(error: ImageBrokerError) -> None:
            if isinstance(error, ConfigError) and (named := self._only_named(section)):
                error.hint = f"no section [{section.group}] is configured: name one of {named}"
            self._settings.locate(error, section, names)

        return Boundary(declared, host, _origin(self._found[scheme][0]), locate)

    def _only_named(self, section: Section) -> str:
        """The instances of a backend whose unnamed one is not configured; empty otherwise."""
        written = self._settings.sections()
        if section.instance is not None or section in written:
            return ""
        return ", ".join(s.title for s in written if s.name == section.name)

    def distributions(self) -> list[str]:
        """The names of the distributions whose plugins are enabled."""
        points = (point for scheme in self.enabled for point in self._found.get(scheme, ()))
        one_each = {id(point.dist): point for point in points}.values()
        return sorted({name for point in one_each if (name := distribution_name(point))})

    def describe(self) -> list[BackendInfo]:
        """All installed or enabled schemes. Enabled plugins are loaded for this."""
        return [self._describe(scheme) for scheme in sorted({*self._found, *self.enabled})]

    def _describe(self, scheme: str) -> BackendInfo:
        points = self._found.get(scheme, ())
        names = " and ".join(filter(None, map(distribution_name, points))) or None
        versions = " and ".join(filter(None, map(distribution_version, points))) or None
        enabled = scheme in self.enabled
        problem = self._scheme_problem(scheme)
        capabilities: tuple[str, ...] | None = None
        error: ImageBrokerError | None = problem if enabled or len(points) > 1 else None
        if enabled and error is None:
            try:
                declared = self.declaration(scheme)
                capabilities = declared.capabilities
                self.backend(Section(declared.name, None))
            except ImageBrokerError as found:
                error = found
        return BackendInfo(
            scheme, names, versions, enabled, capabilities,
            str(error) if error else None, (error.hint or None) if error else None,
        )  # fmt: skip

    def hold(self) -> bool:
        """Count a user of this registry, until `let_go`; False if it is about to be closed."""
        with self._lock:
            if self._retired and not self._users:
                return False
            self._users += 1
            return True

    def let_go(self) -> None:
        with self._lock:
            self._users = max(self._users - 1, 0)  # a forked child starts at 0
            unused = self._retired and not self._users
        if unused:
            # Not in this thread: the garbage collector may be calling.
            threading.Thread(target=self.close, name="imagebroker-close", daemon=True).start()

    def retire(self) -> None:
        """Accept no new users, and close it after the last `let_go`."""
        with self._lock:
            self._retired = True
            unused = not self._users
        if unused:
            self.close()

    def close(self) -> None:
        """Close all backends that were created."""
        with self._lock:
            backends, self._backends = list(self._backends.values()), {}
        for backend in backends:
            backend.close()

    def in_child(self) -> None:
        """Forget the backends, so that new ones with connections of their own are created. The
        parent's are not closed: that would end its sessions on the connections both share."""
        for backend in self._backends.values():
            never_finalize(backend)
        self._backends = {}
        self._users = 0
        self._locks, self._lock = defaultdict(threading.Lock), threading.RLock()


def find_entry_points() -> dict[str, tuple[importlib.metadata.EntryPoint, ...]]:
    """The installed plugins by scheme; several if distributions provide the same scheme."""
    return _by_scheme(installed().group(ENTRY_POINTS))


def _by_scheme(
    points: Iterable[importlib.metadata.EntryPoint],
) -> dict[str, tuple[importlib.metadata.EntryPoint, ...]]:
    found: dict[str, list[importlib.metadata.EntryPoint]] = defaultdict(list)
    for point in points:
        found[point.name].append(point)
    return {scheme: tuple(points) for scheme, points in found.items()}


def _origin(point: importlib.metadata.EntryPoint) -> str:
    name = distribution_name(point)
    version = distribution_version(point)
    return " ".join(filter(None, (name, version))) or point.value


def _distribution(point: importlib.metadata.EntryPoint) -> str:
    return distribution_name(point) or point.value


def _list(names: Iterable[str]) -> str:
    return ", ".join(sorted(names)) or "none"


def _near(name: str, names: Iterable[str]) -> str:
    """The most similar name; empty if none is similar."""
    return next(iter(nearest(name, list(names))), "")


def _unprovided(scheme: str, found: Iterable[str]) -> str:
    """The hint for a scheme that no installed distribution provides."""
    if near := _near(scheme, found):
        return f"did you mean {near}?"
    return (
        f"install a distribution that provides {scheme!r}, or write your own: "
        f"imagebroker backend new {scheme}"
    )


def _load(
    point: importlib.metadata.EntryPoint,
    found: dict[str, tuple[importlib.metadata.EntryPoint, ...]],
    slow: float = SLOW_IMPORT,
) -> Declaration:
    """Import one plugin, and check its class.

    :raises BackendLoadError: the import failed, or it is not a backend of a supported API version.
    """
    # Imported here: stevedore's cache module would slow down `imagebroker --version`.
    from stevedore.named import NamedExtensionManager

    class OnePlugin(NamedExtensionManager):  # type: ignore[type-arg]
        def list_entry_points(self) -> list[importlib.metadata.EntryPoint]:
            return [point]

    if point.pattern.match(point.value) is None:
        raise _unloadable(point, "is not of the form module:attribute")
    failures: list[BaseException] = []
    imported = threading.Event()

    def watch() -> None:
        if not imported.wait(slow):
            LOG.warning("importing the plugin %s (%s) is slow", point.name, point.value)

    watching = started(watch, "imagebroker-import")
    try:
        manager = OnePlugin(
            ENTRY_POINTS,
            [point.name],
            on_load_failure_callback=lambda _, __, error: failures.append(error),
            on_missing_entrypoints_callback=None,
        )
    except (KeyboardInterrupt, MemoryError):
        raise
    except BaseException as error:  # stevedore does not catch SystemExit and the like
        failures.append(error)
    finally:
        imported.set()
        if watching is not None:
            watching.join()
    if failures:
        limit = limit_of(failures[0])
        unloadable = _unloadable(
            point,
            f"cannot be imported: {shown_error(failures[0])}",
            _missing_extra(point, failures[0]) if limit is None else limit[1],
        )
        unloadable.retryable = limit is not None
        raise unloadable from failures[0]
    return _declaration(point, manager[point.name].plugin, found)


def _unloadable(
    point: importlib.metadata.EntryPoint, why: str, remedy: str = ""
) -> BackendLoadError:
    return BackendLoadError(
        f"the plugin {point.value} for {point.name!r} from {_origin(point)} {why}",
        hint=remedy
        or f"reinstall or update it (pip install --upgrade {_distribution(point)}), or remove "
        f"{point.name!r} from enabled_schemes",
        option="enabled_schemes",
        scheme=point.name,
    )


def _missing_extra(point: importlib.metadata.EntryPoint, error: BaseException) -> str:
    """The command that installs the module a plugin could not import, if its metadata names it."""
    if not isinstance(error, ModuleNotFoundError) or not error.name or point.dist is None:
        return ""
    missing = error.name.partition(".")[0].lower().replace("-", "_")
    for requirement in point.dist.requires or ():
        wanted = re.match(r"[A-Za-z0-9._-]+", requirement)
        if wanted is None or wanted[0].lower().replace("-", "_") != missing:
            continue
        extra = re.search(r"extra\s*==\s*['\"]([^'\"]+)['\"]", requirement)
        if extra:
            return f"pip install '{point.dist.name}[{extra[1]}]'"
        return f"pip install '{wanted[0]}'"
    return f"install the distribution that provides the module {error.name!r}"


def _declaration(
    point: importlib.metadata.EntryPoint,
    plugin: Any,
    found: dict[str, tuple[importlib.metadata.EntryPoint, ...]],
) -> Declaration:
    try:
        declared = Declaration.of(plugin, backend_options())
    except Misdeclared as error:
        raise _unloadable(point, str(error)) from error.__cause__
    name = declared.name
    if name != point.name and not any(p.value == point.value for p in found.get(name, ())):
        raise _unloadable(
            point, f"has the name {name!r}, but its distribution does not provide that scheme"
        )
    return declared


def installed_backends() -> Iterator[Declaration]:
    """All installed plugins that can be imported, each once."""
    found, seen = find_entry_points(), set()
    for scheme in sorted(found):
        try:
            declared = _load(found[scheme][0], found)
        except BackendLoadError as error:
            LOG.warning("%s", error)
            continue
        if declared.name not in seen:
            seen.add(declared.name)
            yield declared


def list_opts() -> Iterator[tuple[Any, Sequence[Any]]]:
    """All options of the core and of the installed plugins, for oslo.config's generator."""
    yield GROUP, CORE_OPTIONS
    for backend in installed_backends():
        yield (
            PREFIX + backend.name,
            [*backend_options(backend.require_checksum), *reloadable(backend.options)],
        )
