"""What `imagebroker check` finds out: whether the login works, and the repository can be read."""

from __future__ import annotations

from collections.abc import Iterator

from imagebroker.plugin import WARNING, Finding, ImageNotFound, is_loopback
from imagebroker_oci.client import Registry
from imagebroker_oci.names import Name


def check(registry: Registry, place: Name | None) -> Iterator[Finding]:
    """Without a repository no registry is named that could be asked."""
    if place is None:
        return
    try:
        tags = registry.tags(place)
    except ImageNotFound:
        yield Finding(f"{place.registry} answers; {place.repository} is not there yet",
                      option="create_in")  # fmt: skip
        return
    options = registry.host.options
    if options.plain_http and options.pull_secret_file and not is_loopback(place.host):
        yield Finding(
            f"the credentials for {place.registry} are sent without TLS", WARNING,
            "remove plain_http, if the registry has TLS", "plain_http",
        )  # fmt: skip
    yield Finding(f"{place.place} has {len(tags)} tags", option="create_in")
