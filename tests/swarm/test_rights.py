"""A host gets bytes from others only after a proof that its own backend lets it read the image."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from testtools.assertions import assert_that
from testtools.matchers import Contains, Equals, GreaterThan, Not

from tests.servers.nginx import Nginx
from tests.servers.nginx import missing as missing_nginx
from tests.swarm.fleet import COMMAND, Fleet, Host, fleet, needs_libtorrent, published
from tests.swarm.scene import SLOW, Scene

__all__ = ["fleet"]
pytestmark = [
    needs_libtorrent,
    pytest.mark.skipif(missing_nginx() is not None, reason=str(missing_nginx())),
    pytest.mark.parametrize("fleet", [2], indirect=True),
]
MIB = 1024 * 1024


@pytest.fixture
def rate() -> int:
    return SLOW


@pytest.fixture
def scene(fleet: Fleet, nginx: Nginx) -> Scene:
    return Scene(fleet, nginx)


def test_who_answers_with_bytes_of_the_image_is_told_of_chunks_and_gets_them(scene: Scene) -> None:
    found = scene.intrudes("right")
    assert_that(found["told"], Contains("accepted"))
    assert_that(found["told"], Contains("chunk"))
    assert_that(found["bytes"], GreaterThan(0))


@pytest.mark.parametrize("answers", ["wrong", "other", "never"])
def test_who_does_not_gets_no_byte(scene: Scene, answers: str) -> None:
    found = scene.intrudes(answers)
    assert_that(found["told"], Contains("challenge"))
    for word in ("accepted", "chunk", "on"):
        assert_that(found["told"], Not(Contains(word)))
    assert_that(found["bytes"], Equals(0))


def test_who_asks_again_and_again_is_left_out_and_nobody_else_leaves(scene: Scene) -> None:
    found = scene.intrudes("asks")
    assert_that(found["bytes"], Equals(0))
    scene.host.read_until("asks again and again; left out")
    assert_that(scene.host.output, Not(Contains("the swarm is left")))
    assert_that(scene.host.wait(), Equals(0), scene.host.output)
    assert_that(scene.host.output, Contains("via=swarm"))


def test_a_certificate_of_another_ca_is_not_spoken_with(scene: Scene, tmp_path: Path) -> None:
    from imagebroker.swarm import certificates

    certificates.init(tmp_path / "other", ["host1"])
    found = scene.intrudes(
        "right",
        certificate=str(tmp_path / "other" / "host1.pem"),
        key=str(tmp_path / "other" / "host1.key"),
    )
    assert_that(found["told"], Equals([]))
    assert_that(found["bytes"], Equals(0))


def test_whom_the_backend_refuses_joins_no_swarm(fleet: Fleet, nginx: Nginx) -> None:
    fleet.with_list()
    _, checksum = published(nginx.root, "image.raw", 2 * MIB)
    host: Host = fleet.hosts[0]
    done = subprocess.run(
        [*COMMAND, "--config-file", host.config, "-vv", "download",
         nginx.url("image.raw", prefix="private"), host.image, "--checksum", checksum],
        capture_output=True, text=True,
    )  # fmt: skip
    assert_that(done.returncode, Equals(4), done.stderr)
    assert_that(done.stderr, Not(Contains("swarm: ")))
    assert_that(host.spooled, Equals([]))
