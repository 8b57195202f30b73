"""Whether the servers that the configuration names accept a connection."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from imagebroker.backends.backend import BackendHost
from imagebroker.backends.declaration import Declaration
from imagebroker.cli.check.problem import Problem, failure
from imagebroker.config.settings import Section
from imagebroker.exceptions import ImageBrokerError
from imagebroker.model.reference import DEFAULT_PORTS, parse
from imagebroker.policy.proxies import Proxy

#: Seconds that a server has to accept a connection; `connect_timeout` if that is less.
_TIMEOUT = 3.0


def check(
    hosts: Iterable[BackendHost], declared: Mapping[str, Declaration], connect_timeout: float
) -> Iterator[Problem]:
    """Connect to all servers at once, through each backend's own policy; nothing is sent."""
    targets = [
        (host, option, url)
        for host in hosts
        for option, url in _servers(host.options, declared[host.name].servers)
    ]
    if not targets:
        return
    timeout = min(_TIMEOUT, connect_timeout)
    with ThreadPoolExecutor(max_workers=min(16, len(targets))) as pool:
        running = [pool.submit(_connect, *target, timeout) for target in targets]
        yield from (found for each in running if (found := each.result()) is not None)


def _servers(options: Mapping[str, Any], declared: Iterable[str]) -> list[tuple[str, str]]:
    """The URLs that the backend will connect to, each with its option.

    `declared`: the options that its class says hold such URLs.
    """
    if options.get("proxy"):  # the proxy connects to the others
        return [("proxy", Proxy.parse(options["proxy"], "option proxy").site)]
    named = [("endpoint", url) for url in options.get("endpoint") or ()]
    others = {name: options.get(name) for name in ("auth_url", *declared)}
    return [*named, *((name, url) for name, url in others.items() if isinstance(url, str) and url)]


def _connect(host: BackendHost, option: str, url: str, timeout: float) -> Problem | None:
    where = f"[{Section(host.name, host.instance).group}] {option}"
    ref = parse(url if url.count("/") > 2 else url + "/")
    port = ref.port or DEFAULT_PORTS.get(ref.scheme or "")
    if ref.host is None or port is None:
        return None
    try:
        host.connect(ref.host, port, timeout=timeout).close()
    except ImageBrokerError as error:
        return failure(where, error)
    return None
