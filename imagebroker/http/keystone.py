"""Tokens and catalogues of OpenStack's identity service, by keystoneauth over our connections.

keystoneauth is imported at the first use, and is a dependency of whoever needs it.
"""

from __future__ import annotations

import difflib
import logging
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from typing import Any, TypeVar

from oslo_config import cfg

from imagebroker.backends.backend import Options
from imagebroker.backends.entry_points import entry_points
from imagebroker.exceptions import ConfigError
from imagebroker.http.client import Client
from imagebroker.http.urls import Url
from imagebroker.redaction import redact

LOG = logging.getLogger(__name__)
T = TypeVar("T")

#: Maximum size of Keystone's responses: requests and keystoneauth need 30 times as much memory.
MAX_ANSWER = 1024 * 1024


def auth_options(taken: Collection[str]) -> list[cfg.Opt]:
    """The options of all auth types that can be used here, but for those that are `taken`."""
    found: dict[str, cfg.Opt] = {}
    for opt in _auth_options():
        if opt.dest not in taken:
            found.setdefault(opt.dest, _oslo(opt))
    return [found[dest] for dest in sorted(found)]


def _auth_options() -> Iterator[Any]:
    """Not by `get_available_plugin_loaders`, which logs an error for each type whose dependencies
    (lxml, Kerberos, ...) are not installed.
    """
    for point in sorted(entry_points("keystoneauth1.plugin"), key=lambda each: each.name):
        try:
            loader = point.load()()
            options = loader.get_options() if loader.available else []
        except Exception as error:
            LOG.debug("the auth type %s cannot be used: %s", point.name, error)
            continue
        yield from options


def _oslo(opt: Any) -> cfg.Opt:
    """A keystoneauth option for oslo.config: never required, since auth types differ."""
    return cfg.StrOpt(
        opt.dest,
        help=opt.help,
        secret=opt.secret,
        deprecated_opts=[cfg.DeprecatedOpt(old.dest) for old in opt.deprecated],
    )


#: What auth types need that keystoneauth does not ask for, and what would do instead.
_NEEDED = {"password": {"username": "user_id", "password": ""}, "token": {"token": ""}}

#: Options that say what a token is for, and of which kind that is: Keystone gives one for a single
#: thing.
_SCOPES = {
    "project_id": "project", "project_name": "project", "tenant_id": "project",
    "tenant_name": "project", "domain_id": "domain", "domain_name": "domain",
    "system_scope": "system", "trust_id": "trust",
}  # fmt: skip


def check_complete(options: Options, where: str) -> None:
    """Without a user or a password, Keystone only says which JSON is malformed.

    :raises ConfigError: something is missing, or auth_url is not a URL.
    """
    url = str(options.get("auth_url") or "")
    if url and not url.startswith(("http://", "https://")):
        raise ConfigError(
            f"{where}: auth_url {redact(url, 200)!r} is not a URL",
            hint="write it, or OS_AUTH_URL, as https://HOST:5000/v3",
            option="auth_url",
        )
    name = str(options.get("auth_type") or "")
    for option, instead in _NEEDED.get(name.removeprefix("v2").removeprefix("v3"), {}).items():
        if not options.get(option) and not options.get(instead):
            raise ConfigError(
                f"{where}: auth_type is {name}, but {option} is not set",
                hint=f"set {option}, or another auth_type",
            )
    scopes = [option for option in _SCOPES if options.get(option)]
    if len({_SCOPES[option] for option in scopes}) > 1:
        raise ConfigError(
            f"{where}: a token is for one of {', '.join(scopes)}, and all are set",
            hint=f"remove all but one, or unset {' '.join(f'OS_{o.upper()}' for o in scopes[1:])}",
            option=scopes[1],
        )


def load_auth(options: Options, where: str, endpoint: str | None = None) -> Any:
    """The auth plugin of keystoneauth that the options name; None without `auth_type`.

    :param endpoint: for auth types whose own option `endpoint` is the core's here.
    :raises ConfigError: they do not fit together.
    """
    from keystoneauth1 import exceptions as ks
    from keystoneauth1 import loading

    name = options.get("auth_type")
    if not name:
        if options.get("username") or options.get("password"):
            raise ConfigError(
                f"{where}: username or password is set, but auth_type is not",
                hint="set auth_type = password",
            )
        return None
    # Before stevedore looks for it, which logs what it does not find.
    _check_known(name, where)
    check_complete(options, where)

    def value(opt: Any) -> Any:
        given = endpoint if opt.dest == "endpoint" else options.get(opt.dest)
        return opt.default if given is None else given

    try:
        return loading.get_plugin_loader(name).load_from_options_getter(value)
    except ks.NoMatchingPlugin as error:
        raise ConfigError(
            f"{where}: auth_type {name!r} cannot be loaded: a library that it needs is missing",
            hint="install that library, or set auth_type to password or v3applicationcredential",
        ) from error
    except ks.MissingRequiredOptions as error:
        missing = " and ".join(opt.dest for opt in error.options)
        raise ConfigError(
            f"{where}: auth_type is {name}, but {missing} is not set",
            hint=f"set {missing}",
        ) from error
    except (ks.OptionError, TypeError, ValueError) as error:
        what = str(error).rstrip(".")
        raise ConfigError(
            f"{where}: the options of auth_type {name!r} are incomplete: {what}",
            hint=f"set the options of {name} that it names",
        ) from error


def _check_known(name: str, where: str) -> None:
    """:raises ConfigError: nothing installed provides this auth type."""
    known = sorted(point.name for point in entry_points("keystoneauth1.plugin"))
    if name in known:
        return
    near = difflib.get_close_matches(name, known, n=1)
    raise ConfigError(
        f"{where}: unknown auth_type {name!r}",
        hint=f"did you mean {near[0]}?" if near else
        "set it to password, v3applicationcredential or token",
    )  # fmt: skip


def configured_urls(options: Options, names: Iterable[str], where: str) -> list[str]:
    """The URLs in these options: no other server gets a password.

    :raises ConfigError: one is invalid.
    """
    urls = [str(options.get(name) or "") for name in names]
    found = [url for url in urls if url.startswith(("http://", "https://"))]
    for url in found:
        try:
            Url.parse(url)
        except ValueError:
            raise ConfigError(
                f"{where}: {redact(url)} is not an http or https URL",
                hint="write it without a user name and a fragment: https://host:5000/v3",
            ) from None
    return found


def identity_session(
    client: Client, auth: Any, origins: Sequence[str], kind: Callable[..., T] | None = None
) -> T:
    """A session of keystoneauth: only to these URLs' servers, because requests have a password in
    them.

    :param kind: its class, by default keystoneauth's own.
    """
    from keystoneauth1 import session

    from imagebroker.http.requests_session import requests_session

    limit = min(MAX_ANSWER, client.host.limits.max_answer)
    made = requests_session(client, origins=origins, limit=limit, streams=False, redirects=False)
    make: Callable[..., Any] = session.Session if kind is None else kind
    found: T = make(auth=auth, session=made, redirect=False)
    return found
