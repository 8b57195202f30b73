"""The servers as pytest fixtures: ``pytest_plugins = ["tests.servers.fixtures"]``.

A fixture skips its test with a sentence that says what to install. With
``IMAGEBROKER_REQUIRE_SERVERS=1`` it fails instead: where the servers are meant to be there, a test
that did not run must not look like one that passed.
"""

from __future__ import annotations

import gc
import os
import sys
from collections.abc import Iterator

import pytest

from tests.servers import apache as apache_server
from tests.servers import ceph as ceph_server
from tests.servers import dropbear as dropbear_server
from tests.servers import images as image_files
from tests.servers import moto as moto_server
from tests.servers import nginx as nginx_server
from tests.servers import openstack as openstack_servers
from tests.servers import radosgw as radosgw_server
from tests.servers import registry as registry_server
from tests.servers import squid as squid_server
from tests.servers import sshd as sshd_server
from tests.servers import swift as swift_server


def pytest_collection_finish(session: pytest.Session) -> None:
    """Thousands of collected tests are no garbage: no later collection need look at them."""
    if "libtorrent" in sys.modules:  # Ceph's library would crash this process
        raise pytest.UsageError("a test imports libtorrent: do so in a process of its own")
    gc.collect()
    gc.freeze()


def require(problem: str | None) -> None:
    """Skip the test, or fail where servers are required, if there is a problem."""
    if problem is None:
        return
    if os.environ.get("IMAGEBROKER_REQUIRE_SERVERS") == "1":
        pytest.fail(problem, pytrace=False)
    pytest.skip(problem)


@pytest.fixture(scope="session")
def nginx(tmp_path_factory: pytest.TempPathFactory) -> Iterator[nginx_server.Nginx]:
    """nginx; put files below ``nginx.root``, under names that no other test uses."""
    require(nginx_server.missing())
    with nginx_server.Nginx(tmp_path_factory.mktemp("nginx-root")) as server:
        yield server


@pytest.fixture(scope="session")
def apache() -> Iterator[apache_server.Apache]:
    """Apache; put files below ``apache.root``, under names that no other test uses."""
    require(apache_server.missing())
    with apache_server.Apache() as server:
        yield server


@pytest.fixture(scope="session")
def swift() -> Iterator[swift_server.Swift]:
    """Swift with its S3 API; make a bucket that no other test uses."""
    require(swift_server.missing())
    with swift_server.Swift() as server:
        yield server


def _registry(kind: str) -> Iterator[registry_server.Registry]:
    require(registry_server.missing())
    with registry_server.Registry(kind) as server:
        yield server


@pytest.fixture(scope="session")
def registry() -> Iterator[registry_server.Registry]:
    """A registry where anybody may do everything; use repositories that no other test uses."""
    yield from _registry("open")


@pytest.fixture(scope="session")
def basic_registry() -> Iterator[registry_server.Registry]:
    """One with TLS, a user and a password."""
    yield from _registry("basic")


@pytest.fixture(scope="session")
def token_registry() -> Iterator[registry_server.Registry]:
    """One with a token server: anybody may pull, the user may push."""
    yield from _registry("token")


@pytest.fixture(scope="session")
def ceph() -> Iterator[ceph_server.Ceph]:
    """A Ceph cluster; give images names that no other test uses."""
    require(ceph_server.missing())
    if problem := ceph_server.of_another_python():
        pytest.skip(problem)
    with ceph_server.Ceph() as server:
        yield server


@pytest.fixture(scope="session")
def radosgw(ceph: ceph_server.Ceph) -> Iterator[radosgw_server.Radosgw]:
    """Ceph's S3 server; make a bucket that no other test uses."""
    require(radosgw_server.missing())
    with radosgw_server.Radosgw(ceph) as server:
        yield server


@pytest.fixture(scope="session")
def moto() -> Iterator[moto_server.Moto]:
    """A stand-in of AWS; make a bucket that no other test uses."""
    require(moto_server.missing())
    with moto_server.Moto() as server:
        yield server


@pytest.fixture(scope="session")
def squid() -> Iterator[squid_server.Squid]:
    """A proxy that lets `person` through, with a password."""
    require(squid_server.missing())
    with squid_server.Squid(user="person") as server:
        yield server


@pytest.fixture(scope="session")
def sshd() -> Iterator[sshd_server.Sshd]:
    """An sshd with sftp, exec and everything OpenSSH offers by default."""
    require(sshd_server.missing())
    with sshd_server.Sshd() as server:
        yield server


@pytest.fixture(scope="session")
def dropbear() -> Iterator[dropbear_server.Dropbear]:
    """dropbear with OpenSSH's sftp-server, for root."""
    require(dropbear_server.missing())
    if problem := dropbear_server.forbidden():
        pytest.skip(problem)
    with dropbear_server.Dropbear() as server:
        yield server


@pytest.fixture(scope="session")
def openstack() -> Iterator[openstack_servers.OpenStack]:
    """Keystone and Glance."""
    require(openstack_servers.missing())
    with openstack_servers.OpenStack() as servers:
        yield servers


@pytest.fixture(scope="session")
def qemu_img() -> None:
    """For tests that call ``make_qcow2``."""
    require(image_files.missing())
