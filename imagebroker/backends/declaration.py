"""The declarations in a plugin's class, read once, when the plugin is loaded.

Reading an attribute of a plugin's class may run its code (properties, descriptors, metaclasses), so
this is the only place that does; all others use these values.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, NamedTuple

from imagebroker.backends.backend import API_VERSION, ImageBackend
from imagebroker.model.image import SETTABLE
from imagebroker.model.reference import RefForm
from imagebroker.redaction import redact, shown_error

if TYPE_CHECKING:
    from oslo_config import cfg

#: The optional verbs, in the order in which they are shown.
_VERBS = (
    "get", "get_all", "create", "update", "delete", "import_image", "purge", "stores", "members",
)  # fmt: skip


class Misdeclared(Exception):
    """The class is not a usable backend; the text follows the name of the plugin."""


class Declaration(NamedTuple):
    """A backend's class, and what it declares."""

    cls: type[ImageBackend]
    name: str
    ref_form: RefForm
    options: tuple[cfg.Opt, ...]
    servers: tuple[str, ...]
    #: None: every field of a record is passed on.
    record_fields: frozenset[str] | None
    require_checksum: bool
    served_checksums: str | None
    serves_pages: bool
    #: The verbs that it supports: the methods that its class overrides. All can download.
    capabilities: tuple[str, ...]

    @classmethod
    def of(cls, plugin: Any, taken: Iterable[cfg.Opt] = ()) -> Declaration:
        """`taken`: the options that every backend has already.

        :raises Misdeclared: it is not a backend class, or for another version of the contract.
        """
        try:
            return cls._of(plugin, list(taken))
        except (Misdeclared, KeyboardInterrupt, MemoryError):
            raise
        except BaseException as error:
            raise Misdeclared(f"cannot be inspected: {shown_error(error)}") from error

    @classmethod
    def _of(cls, plugin: Any, taken: list[cfg.Opt]) -> Declaration:
        if not isinstance(plugin, type) or not issubclass(plugin, ImageBackend):
            raise Misdeclared(f"is {_shown(plugin)}, not a subclass of ImageBackend")
        missing = sorted(getattr(plugin, "__abstractmethods__", ()))
        if missing:
            raise Misdeclared(f"does not implement {', '.join(missing)}")
        _check_version(getattr(plugin, "api_version", None))
        form = getattr(plugin, "ref_form", None)
        if not isinstance(form, RefForm):
            raise Misdeclared("has no ref_form")
        if form.authority and form.host:
            raise Misdeclared("has a ref_form whose authority is both a host and an opaque name")
        name = getattr(plugin, "name", None)
        if not isinstance(name, str):
            raise Misdeclared(f"has the name {_shown(name)}, which is not text")
        own = [v for v in _VERBS if getattr(plugin, v) is not getattr(ImageBackend, v)]
        served = plugin.served_checksums
        return cls(
            plugin, name, form, _options(plugin.options, taken), tuple(plugin.servers),
            _fields(plugin.record_fields),
            bool(plugin.require_checksum),
            None if served is None else str(served), bool(plugin.serves_pages),
            ("download", *own),
        )  # fmt: skip


def _check_version(version: Any) -> None:
    if isinstance(version, bool) or not isinstance(version, int):
        raise Misdeclared(
            f"has the api_version {_shown(version)}; this core supports {API_VERSION}"
        )
    if not 1 <= version <= API_VERSION:
        raise Misdeclared(
            f"was written for version {version} of the plugin API; this core supports "
            f"1 to {API_VERSION}"
        )


def _fields(declared: Any) -> frozenset[str] | None:
    if declared is None:
        return None
    found = frozenset([declared] if isinstance(declared, str) else declared)
    if unknown := sorted(map(_shown, found - set(SETTABLE))):
        raise Misdeclared(f"has {', '.join(unknown)} in record_fields; use {', '.join(SETTABLE)}")
    return found


def _options(declared: Any, taken: list[cfg.Opt]) -> tuple[cfg.Opt, ...]:
    """The plugin's options, checked to be registrable together with those of every backend."""
    from oslo_config import cfg

    if isinstance(declared, str) or not isinstance(declared, Iterable):
        raise Misdeclared(f"has the options {_shown(declared)}, not a list of oslo.config options")
    found = []
    together = cfg.ConfigOpts()
    for option in [*taken, *declared]:
        if not isinstance(option, cfg.Opt):
            raise Misdeclared(f"has {_shown(option)} among its options, which is not an option")
        try:
            new = together.register_opt(option, group="backend")
        except cfg.DuplicateOptError:
            why = "which the core has already" if _has(taken, option) else "twice, and different"
            raise Misdeclared(f"has the option {option.dest!r} {why}") from None
        if new and not any(option is each for each in taken):
            found.append(option)
    return tuple(found)


def _has(options: list[cfg.Opt], option: cfg.Opt) -> bool:
    return any(each.dest == option.dest for each in options)


def _shown(value: object) -> str:
    try:
        return redact(repr(value), 80)
    except Exception:
        return f"something of type {type(value).__name__}"
