"""Cinder: its tests of images, and of volumes that are made of images and become some."""

from __future__ import annotations

from tests.services.model import Reason, Service, Suite

_SERVICE = r"cinder\.tests\.unit\.image\.test_glance\.TestGlanceImageService\."

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
            _SERVICE + r"test_(create_with(out)?_.*|detail_marker(_and_limit)?"
            r"|(show|detail)_passes_.*)",
            "compares with a stub's record: no Glance has a key `deleted`, or images without status",
        ),
        Reason(
            _SERVICE + r"test_show_raises_.*",
            "has no token, as without Keystone: Cinder itself decides then who may see an image",
        ),
        Reason(
            _SERVICE + r"test_(show_shared_image_.*|update_(purge_props|base_image_ref)"
            r"|extracting_v2_boot_properties|v2_passes_visibility_param|translate_to_glance.*)",
            "calls or mocks private conversions of Cinder's own service",
        ),
        Reason(
            _SERVICE + r"test_(add|get)_location.*",
            "mocks Cinder's own client, which asks for locations",
        ),
        Reason(
            _SERVICE + r"test_download_from_direct_file",
            "mocks `open`; a location with `file:` is read if the configuration of the broker says so",
        ),
        Reason(
            _SERVICE + r"test_(client|plain)_translated_exc_includes_original_traceback",
            "compares frames: the error of Glance has its own traceback, as the cause of Cinder's",
        ),
        Reason(
            _SERVICE + r"test_update_with_data",
            "uploads text, where Cinder uploads files that are open for bytes",
        ),
        Reason(
            r"cinder\.tests\.unit\.volume\.test_image\.CopyVolumeToImagePrivateFunctionsTestCase\."
            r"test_(filter_reserved_namespaces_metadata|merge_volume_image_meta)",
            "calls a private conversion of Cinder's own service, which nothing else in Cinder calls",
        ),
    ),
    beside=("etc",),
    backends={"cindertests": "cinder_swap:Backend"},
)  # fmt: skip
