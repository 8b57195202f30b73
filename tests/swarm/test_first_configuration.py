"""The first configuration in docs/fleet.md is one: hosts that have it download together."""

from __future__ import annotations

from pathlib import Path

import pytest
from testtools.assertions import assert_that
from testtools.matchers import Contains, Equals

from tests.docs.snippets import snippets
from tests.servers.nginx import Nginx
from tests.swarm.fleet import Fleet, fleet, needs_libtorrent, published

__all__ = ["fleet"]
PAGE = Path(__file__).parents[2] / "docs" / "fleet.md"
MIB = 1024 * 1024


@pytest.fixture
def rate() -> int:
    return 2 * MIB


@needs_libtorrent
@pytest.mark.parametrize("fleet", [2], indirect=True)
def test_hosts_with_the_first_configuration_of_the_page_download_together(
    fleet: Fleet, nginx: Nginx
) -> None:
    (written,) = [each.text for each in snippets(PAGE) if each.language == "ini"]
    assert_that(len(written.splitlines()), Equals(10))
    for host in fleet.hosts:
        replaced = {
            "swarm_members = 10.0.0.17, 10.0.0.18, 10.0.0.19":
                f"swarm_members = {', '.join(each.address for each in fleet.hosts)}",
            "swarm_address = 10.0.0.17": f"swarm_address = {host.address}",
            "/etc/imagebroker/swarm/ca.pem": str(fleet.pki / "ca.pem"),
            "/etc/imagebroker/swarm/host1": str(fleet.pki / host.name),
            "/var/lib/imagebroker/swarm": str(host.directory / "spool"),
        }  # fmt: skip
        text = written
        for asked, meant in replaced.items():
            assert_that(text, Contains(asked))
            text = text.replace(asked, meant)
        # The page's image is larger, and its server is no host of this machine.
        host.config.write_text(
            f"{text}swarm_from = 1M\nshare_downloads = false\n"
            "[backend:http]\nallowed_networks = 127.0.0.0/8\n"
        )
    _, checksum = published(nginx.root, "image.raw", 8 * MIB)
    for host in fleet.hosts:
        host.download(nginx.url("image.raw", prefix="slow"), checksum)
    for host in fleet.hosts:
        assert_that(host.wait(), Equals(0), host.output)
        assert_that(host.output, Contains("via=swarm"))
