"""Whether this host can use what a configuration names: files, directories, servers."""

from __future__ import annotations

import os
import pwd
import re
import stat
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from oslo_config import cfg

from imagebroker.backends.backend import BackendHost
from imagebroker.cli.finding import FAILURE, WARNING, Finding, failure
from imagebroker.config.settings import Section
from imagebroker.exceptions import ConfigError, ImageBrokerError
from imagebroker.model.reference import DEFAULT_PORTS, parse
from imagebroker.policy.proxies import Proxy
from imagebroker.system.owned_directory import open_owned

#: Seconds that a server has to accept a connection; `connect_timeout` where that is less.
ANSWER_TIMEOUT = 3.0


def check_paths(host: BackendHost, options: Iterable[cfg.Opt]) -> Iterator[Finding]:
    """Options that hold absolute paths name something that should be there, whatever they are.

    One that ends in `_dir` is a directory of the backend's own, which it may still have to make.
    """
    for option in options:
        if option.secret:
            continue
        value = host.options.get(option.dest)
        for path in value if isinstance(value, list) else [value]:
            if isinstance(path, str) and path.startswith("/"):
                where = f"[{_group(host)}] {option.name}"
                look = (
                    _store if option.dest.endswith("_dir")
                    else _key if _KEY.search(option.dest) else _readable
                )  # fmt: skip
                found = look(where, path)
                if found is not None:
                    yield found


#: Options that name a private key.
_KEY = re.compile(r"(?:identity|key)_?file$")


def is_open_to_all(path: str | os.PathLike[str]) -> bool:
    """Whether every user of this host may read it."""
    try:
        return bool(os.stat(path).st_mode & stat.S_IROTH)
    except OSError:
        return False


def _key(where: str, path: str) -> Finding | None:
    if is_open_to_all(path):
        return Finding(
            FAILURE, where, f"every user of this host may read {path}",
            f"chmod 600 {path}, and consider the key known",
        )  # fmt: skip
    return _readable(where, path)


def _group(host: BackendHost) -> str:
    return Section(host.name, host.instance).group


def _own_directory(where: str, path: str) -> Finding | None:
    nearest = path
    while not os.path.lexists(nearest):
        nearest = os.path.dirname(nearest)
    if not os.path.isdir(nearest):
        return Finding(FAILURE, where, f"{nearest} is not a directory", "name a directory")
    if not os.access(nearest, os.R_OK | os.W_OK | os.X_OK):
        return Finding(
            FAILURE, where, f"this user may not write to {nearest}",
            f"give {_user()} the directory {path}, or run this as the user that will use it",
        )  # fmt: skip
    return None


def _store(where: str, path: str) -> Finding | None:
    return check_owned(where, path, readable=True)


def check_owned(where: str, path: str, *, readable: bool = False) -> Finding | None:
    """A directory that is to be this user's own, which is not made here if it is missing."""
    try:
        if os.path.lexists(path) or not os.path.isabs(path):
            os.close(open_owned(Path(path), where, readable=readable, make=False))
            return None
    except ConfigError as error:
        return failure(where, error)
    except OSError:
        pass  # said below
    return _own_directory(where, path)


def _readable(where: str, path: str) -> Finding | None:
    try:
        is_directory = stat.S_ISDIR(os.stat(path).st_mode)
    except (FileNotFoundError, NotADirectoryError):
        return Finding(WARNING, where, f"{path} does not exist", "create it, or correct the path")
    except OSError:
        is_directory = False  # not even looking at it is allowed
    if not os.access(path, os.R_OK | (os.X_OK if is_directory else 0)):
        return Finding(
            FAILURE, where, f"this user may not read {path}",
            f"let {_user()} read it, or run this as the user that will use it",
        )  # fmt: skip
    return None


def _user() -> str:
    try:
        return pwd.getpwuid(os.geteuid()).pw_name
    except KeyError:
        return f"user {os.geteuid()}"


def check_servers(hosts: Iterable[BackendHost], connect_timeout: float) -> Iterator[Finding]:
    """Connect to every server that the configuration names, all at once, and say nothing there."""
    targets = [(host, option, url) for host in hosts for option, url in _servers(host.options)]
    if not targets:
        return
    timeout = min(ANSWER_TIMEOUT, connect_timeout)
    with ThreadPoolExecutor(max_workers=min(16, len(targets))) as pool:
        running = [pool.submit(_answers, *target, timeout) for target in targets]
        yield from (found for each in running if (found := each.result()) is not None)


def _servers(options: Mapping[str, Any]) -> list[tuple[str, str]]:
    """The URLs that will be connected to, with their options."""
    if options.get("proxy"):  # the servers behind it are its business
        return [("proxy", Proxy.parse(options["proxy"], "option proxy").site)]
    named = [("endpoint", url) for url in options.get("endpoint") or ()]
    return [*named, *([("auth_url", options["auth_url"])] if options.get("auth_url") else [])]


def _answers(host: BackendHost, option: str, url: str, timeout: float) -> Finding | None:
    """Connects through the backend's own policy."""
    ref = parse(url if url.count("/") > 2 else url + "/")
    port = ref.port or DEFAULT_PORTS.get(ref.scheme or "")
    if ref.host is None or port is None:
        return None
    try:
        host.connect(ref.host, port, timeout=timeout).close()
    except ImageBrokerError as error:
        return failure(f"[{_group(host)}] {option}", error)
    return None
