"""Backends that do not verify the certificates of their servers."""

from __future__ import annotations

from collections.abc import Iterator

from imagebroker.backends.backend import BackendHost
from imagebroker.cli.check.problem import WARNING, Problem
from imagebroker.config.settings import Section


def check(host: BackendHost) -> Iterator[Problem]:
    if host.options.get("insecure"):
        yield Problem(
            WARNING, f"[{Section(host.name, host.instance).group}] insecure",
            "certificates are not verified: anyone on the network path can replace images",
            "remove it, and set ca_file to the CA that signed the server's certificate",
        )  # fmt: skip
