"""Ironic: its tests of images, and of what deploys them."""

from __future__ import annotations

from tests.services.model import Reason, Service, Suite

SERVICE = Service(
    name="ironic",
    packages=(
        "ironic", "python-glanceclient", "ddt", "fixtures", "oslotest", "testtools", "PyMySQL",
        "oslo.reports", "WebTest", "stestr",
    ),
    suites={
        "image": Suite(
            ("ironic.tests.unit.common.test_image_service",
             "ironic.tests.unit.common.test_glance_service",
             "ironic.tests.unit.common.test_images",
             "ironic.tests.unit.common.test_checksum_utils",
             "ironic.tests.unit.drivers.modules.test_image_cache"),
            sample=True,
        ),
        "deploy": Suite(
            ("ironic.tests.unit.common.test_pxe_utils",
             "ironic.tests.unit.common.test_kickstart_utils",
             "ironic.tests.unit.drivers.modules.test_deploy_utils",
             "ironic.tests.unit.drivers.modules.test_image_utils",
             "ironic.tests.unit.drivers.modules.test_agent",
             "ironic.tests.unit.drivers.modules.test_ramdisk",
             "ironic.tests.unit.drivers.modules.redfish.test_firmware_utils"),
        ),
    },
    reasons=(
        Reason(
            r"ironic\.tests\.unit\.common\.test_image_service\.HttpImageServiceTestCase\."
            r"test_(?!download_fail_verify_false_connerror|.*_basic_auth_failed|.*_invalid_basic_auth)"
            r"(download_(success|fail_verify)|show_|get_|validate_href_).*",
            "mocks the requests inside Ironic's own service, or writes into a mock; "
            "tests/compat gives the same answers to both",
        ),
        Reason(
            r"ironic\.tests\.unit\.common\.test_image_service\.FileImageServiceTestCase\..*",
            "mocks the functions of os and shutil inside Ironic's own service",
        ),
        Reason(
            r"ironic\.tests\.unit\.common\.test_image_service\.OciImageServiceTestCase\."
            r"test_download_direct_manifest_reference.*",
            "mocks the download in Ironic's own client for registries",
        ),
        Reason(
            r"ironic\.tests\.unit\.common\.test_image_service\.ServiceGetterTestCase\."
            r"test_get_(file|glance)_image_service(_url)?",
            "mocks the constructor of Ironic's own class",
        ),
        Reason(
            r"ironic\.tests\.unit\.common\.test_pxe_utils\.PXEInterfacesTestCase\."
            r"test_get_instance_image_info_(kickstart_stage2_missing|with_kickstart_boot_option)",
            "mocks show of Ironic's own class, where it is defined",
        ),
        Reason(
            r"ironic\.tests\.unit\.drivers\.modules\.test_deploy_utils\."
            r"TestBuildInstanceInfoForDeploy\.test_build_instance_info_for_deploy_file_url_valid",
            "mocks os.path.isfile inside Ironic's own service; there is no such file",
        ),
    ),
    here=("ironic",),
)  # fmt: skip
