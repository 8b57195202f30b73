"""The configured instances of the backends: their options, paths and servers."""

from __future__ import annotations

import re
from collections.abc import Iterator

from imagebroker.backends.backend import BackendHost
from imagebroker.cli.check import insecure, paths, plugins, servers, unknown_options
from imagebroker.cli.check.configuration import Configuration, Instance
from imagebroker.cli.check.problem import FAILURE, Problem, failure
from imagebroker.config.settings import Section
from imagebroker.exceptions import ImageBrokerError
from imagebroker.redaction import redact


def check(configuration: Configuration) -> Iterator[Problem]:
    hosts: list[BackendHost] = []
    for instance in configuration.instances():
        try:
            yield from _check_instance(instance, hosts)
        except Exception as error:  # `options` with something else in it, for example
            yield Problem(
                FAILURE, f"[{instance.section.group}]",
                redact(f"the plugin failed with {type(error).__name__}: {error}"),
                "this is a bug in the plugin: report it to its authors",
            )  # fmt: skip
    if configuration.offline:
        return
    patience = configuration.settings.limits.connect_timeout
    unreachable = list(servers.check(hosts, configuration.backends, patience))
    yield from unreachable
    silent = {problem.where.partition("]")[0].lstrip("[") for problem in unreachable}
    sections = [Section(host.name, host.instance) for host in hosts]
    yield from plugins.check(configuration, [s for s in sections if s.group not in silent])


def _check_instance(instance: Instance, hosts: list[BackendHost]) -> Iterator[Problem]:
    """One instance; the host of its backend is added to `hosts` if it could be loaded."""
    yield from unknown_options.check_instance(instance)
    errors, host = instance.load()
    settings = instance.configuration.settings
    if settings.personal and settings.line(instance.section.group) is None:
        return  # not configured: no mistake that it cannot be used
    yield from (_problem(instance, error) for error in errors)
    if host is not None:
        yield from insecure.check(host)
        yield from paths.check(host, instance.backend.options)
        hosts.append(host)


def _problem(instance: Instance, error: ImageBrokerError) -> Problem:
    """At the option that the error's text begins with; else at the first option that it, or its
    hint, names and that is in the file; else at the section."""
    group = instance.section.group
    begin = re.match(rf"\[{re.escape(group)}\](?: ([a-z0-9_]+))?: ", str(error))
    what = re.sub(rf"^\[{re.escape(group)}\]:? ", "", str(error))
    if begin is not None and begin[1]:
        return failure(f"[{group}] {begin[1]}", error)
    settings = instance.configuration.settings
    written = {o.dest for o in instance.options if settings.line(group, o.dest) is not None}
    named = [word for word in re.findall(r"[a-z0-9_]+", f"{what} {error.hint}") if word in written]
    if not named:
        return Problem(FAILURE, f"[{group}]", what, error.hint)
    return Problem(FAILURE, f"[{group}] {named[0]}", what.removeprefix(f"{named[0]} "), error.hint)
