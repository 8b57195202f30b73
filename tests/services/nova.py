"""Nova: its tests of images and compute, and its functional tests."""

from __future__ import annotations

from tests.services.model import Reason, Service, Suite

SERVICE = Service(
    name="nova",
    packages=(
        "nova", "openstack-placement", "ddt", "fixtures", "oslotest", "testscenarios", "testtools",
        "requests-mock", "wsgi-intercept", "gabbi", "osprofiler", "oslo.vmware", "PyMySQL",
        "python-barbicanclient",
        "SQLAlchemy<2.1",  # Nova's tests fail at the first warning, and newer ones deprecate noload
    ),
    suites={
        "image": Suite(
            ("nova.tests.unit.image", "nova.tests.unit.virt.test_images",
             "nova.tests.unit.api.openstack.compute.test_images",
             "nova.tests.unit.api.openstack.compute.test_image_metadata"),
            sample=True,
        ),
        "api": Suite(
            ("nova.tests.unit.api.openstack.compute.test_servers",
             "nova.tests.unit.api.openstack.compute.test_server_actions",
             "nova.tests.unit.api.openstack.compute.test_create_backup",
             "nova.tests.unit.api.openstack.compute.test_rescue",
             "nova.tests.unit.api.openstack.compute.test_shelve",
             "nova.tests.unit.notifications"),
        ),
        "compute": Suite(("nova.tests.unit.compute", "nova.tests.unit.conductor")),
        "functional": Suite(("nova.tests.functional",)),
        "functional-images": Suite(
            ("nova.tests.functional.test_images", "nova.tests.functional.test_boot_from_volume",
             "nova.tests.functional.api_sample_tests.test_images",
             "nova.tests.functional.libvirt.test_machine_type"),
        ),
    },
    reasons=(
        Reason(
            r"nova\.tests\.unit\.image\.test_glance\.TestImportCopy\.test_api(_to_client)?",
            "mocks the glanceclient inside Nova's own API, which the drop-in does not have",
        ),
        Reason(
            r"nova\.tests\.unit\.compute\.test_compute\.ComputeAPITestCase\."
            r"test_rebuild(_in_error_state)?",
            "its image has no min_ram, which every image of Glance has",
        ),
        Reason(
            r"nova\.tests\.functional\.notification_sample_tests\..*",
            "its image has no key `checksum`, which Nova's own client always adds",
            says=r"^None != '': path: root\.payload\..*\bimage\.nova_object\.data\.checksum$",
        ),
    ),
    beside=("etc",),
    sources=("doc/api_samples", "doc/api_schemas", "doc/notification_samples"),
    backends={"novatests": "nova_swap:Backend"},
)  # fmt: skip
