"""Cinder: its tests of images, and of volumes that are made of images and become some."""

from __future__ import annotations

from tests.services.model import Reason, Service, Suite

SERVICE = Service(
    name="cinder",
    packages=(
        "cinder", "ddt", "fixtures", "oslotest", "testtools", "testscenarios", "PyMySQL",
        "SQLAlchemy-Utils", "moto", "distro",
    ),
    suites={
        "image": Suite(
            ("cinder.tests.unit.image", "cinder.tests.unit.test_image_utils"), sample=True
        ),
        "volume": Suite(
            ("cinder.tests.unit.volume.test_image",
             "cinder.tests.unit.volume.flows.test_create_volume_flow",
             "cinder.tests.unit.api.contrib.test_volume_actions",
             "cinder.tests.unit.api.v3.test_volumes"),
        ),
    },
    reasons=(
        Reason(
            r"cinder\.tests\.unit\.image\.test_glance\.TestGlanceImageService\."
            r"test_(?!call_|get_api_servers|extracting_missing|plain_translated).*",
            "gives Cinder's own service a stub of glanceclient, or looks into its conversions",
        ),
        Reason(
            r"cinder\.tests\.unit\.volume\.test_image\.CopyVolumeToImagePrivateFunctionsTestCase\."
            r"test_(filter_reserved_namespaces_metadata|merge_volume_image_meta)",
            "calls a private conversion of Cinder's own service, which nothing else in Cinder calls",
        ),
    ),
    backends={"cindertests": "cinder_swap:Backend"},
)  # fmt: skip
