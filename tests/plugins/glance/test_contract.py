"""The glance backend keeps the contract: the kit against Keystone and Glance."""

from __future__ import annotations

import pytest
import testtools
from imagebroker_glance import GlanceBackend

from imagebroker.testing import BackendContract
from tests.servers.openstack import OpenStack


class TestGlance(BackendContract, testtools.TestCase):
    """Images of one project, as one of its members."""

    openstack: OpenStack
    # A real service of Python, which other tests may keep busy at the same time.
    stall_timeout = 3.0

    @pytest.fixture(autouse=True)
    def _server(self, openstack: OpenStack) -> None:
        self.openstack = openstack

    def make_backend(self) -> GlanceBackend:
        return GlanceBackend(self.make_host(GlanceBackend, **self.openstack.auth_options("red")))

    def publish(self, data: bytes) -> str:
        image_id = self.openstack.create_image(data, name="published")
        self.addCleanup(self.remove, image_id)
        return f"glance:{image_id}"

    def remove(self, image_id: str) -> None:
        try:
            self.openstack.call("admin", "DELETE", f"/images/{image_id}")
        except AssertionError:
            pass  # the test has removed it

    def forbid(self, ref: str) -> None:
        image_id = ref.rpartition(":")[2]
        self.openstack.call("admin", "POST", f"/images/{image_id}/actions/deactivate")

    def take_away(self, ref: str) -> None:
        self.openstack.call("red", "DELETE", f"/images/{ref.rpartition(':')[2]}")
