"""What Ironic's services say of an href, and bring, ours say and bring, too."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import pytest
from testtools.assertions import assert_that
from testtools.matchers import Equals, Is, StartsWith

from tests.compat.ironic_service.conftest import MISSING, Ironic
from tests.servers.images import random_file
from tests.servers.nginx import Nginx
from tests.servers.openstack import OpenStack

pytestmark = pytest.mark.promise("ironic")

#: What Ironic asks openstacksdk for by other names than it has, and so never gets.
UNREAD = ("os_hash_algo", "os_hash_value", "protected")
FAILED = "ironic.common.exception.ImageRefValidationFailed"


def test_a_stock_configuration_enables_what_ironic_can_read(one_ironic: Ironic) -> None:
    assert_that(one_ironic.use(), Equals(["file", "glance", "http", "https", "oci"]))


@pytest.mark.parametrize("href", [MISSING, f"glance://{MISSING}", "http://h/x", "file:///x"])
def test_a_service_is_of_the_class_that_ironic_looks_for(ironic: Ironic, href: str) -> None:
    assert_that(ironic.process("kinds", href=href), Equals([True, True]))


@pytest.mark.parametrize("href", ["no id", "usb://x/y", "scp://h/x", "ftp://host/x"])
def test_other_hrefs_are_refused_as_before(ironic: Ironic, href: str) -> None:
    assert_that(ironic.both("show", href), Equals([FAILED, FAILED]))


@pytest.mark.parametrize("href", ["nfs://host/x", "cifs://host/share/x"])
def test_what_only_a_bmc_reads_stays_with_ironic(ironic: Ironic, href: str) -> None:
    theirs, ours = ironic.both("show", href)
    assert_that(ours, Equals(theirs))


class TestWeb:
    def test_show_and_validate(self, ironic: Ironic, nginx: Nginx, tmp_path: Path) -> None:
        href = _served(nginx, tmp_path, 100_000)
        for method in ("show", "validate_href"):
            theirs, ours = ironic.both(method, href)
            assert_that(ours, Equals(theirs))

    @pytest.mark.parametrize("name", ["missing.img", "folder/missing/"])
    def test_what_is_not_there(self, ironic: Ironic, nginx: Nginx, name: str) -> None:
        for method in ("show", "validate_href"):
            assert_that(ironic.both(method, nginx.url(name)), Equals([FAILED, FAILED]))

    def test_a_download_with_its_checksum(
        self, ironic: Ironic, nginx: Nginx, tmp_path: Path
    ) -> None:
        href = _served(nginx, tmp_path, 300_000)
        digest = hashlib.sha256((nginx.root / f"{tmp_path.name}.img").read_bytes()).hexdigest()
        for api in ("ironic", "ours"):
            verified = ironic.download(api, href, tmp_path / api, checksum=digest, algo="sha256")
            assert_that(verified, Equals(f"sha256:{digest}"))
        assert_that(
            (tmp_path / "ours").read_bytes() == (tmp_path / "ironic").read_bytes(), Is(True)
        )
        assert_that(ironic.download("ours", href, tmp_path / "ours"), Is(None))

    @pytest.mark.parametrize("folder", [True, False])
    def test_whether_a_source_is_a_folder(
        self, ironic: Ironic, nginx: Nginx, tmp_path: Path, folder: bool
    ) -> None:
        href = _served(nginx, tmp_path, 1000)
        href = href.rpartition("/")[0] + "/" if folder else href
        found = [ironic.process("is_source_a_path", api=a, href=href) for a in ("ironic", "ours")]
        assert_that(found[1], Equals(found[0]))

    def test_a_document_as_text(self, ironic: Ironic, nginx: Nginx, tmp_path: Path) -> None:
        (nginx.root / f"{tmp_path.name}.sums").write_text("ab  c\n" * 3)
        href = nginx.url(f"{tmp_path.name}.sums")
        found = [ironic.process("text_of", api=api, href=href) for api in ("ironic", "ours")]
        assert_that(found[1], Equals(found[0]))

    def test_a_template_for_kickstart_is_downloaded(
        self, ironic: Ironic, nginx: Nginx, tmp_path: Path
    ) -> None:
        (nginx.root / f"{tmp_path.name}.ks").write_text("lang en_US\nkeyboard us\n" * 100)
        href = nginx.url(f"{tmp_path.name}.ks")
        ironic.download("ours", href, tmp_path / "ks")
        assert_that((tmp_path / "ks").read_text(), StartsWith("lang en_US\n"))


class TestFiles:
    def test_show_validate_and_download(self, ironic: Ironic, tmp_path: Path) -> None:
        path = random_file(ironic.files / f"{tmp_path.name}.img", 100_000)
        for method in ("show", "validate_href"):
            theirs, ours = ironic.both(method, path.as_uri())
            assert_that(ours, Equals(theirs))
        for api in ("ironic", "ours"):
            ironic.download(api, path.as_uri(), tmp_path / api)
            assert_that((tmp_path / api).read_bytes() == path.read_bytes(), Is(True))

    @pytest.mark.parametrize(
        "href", ["file:///etc/passwd", "file:///proc/self/environ", "file:///var/tmp/x"]
    )
    def test_what_is_not_allowed(self, ironic: Ironic, href: str) -> None:
        for method in ("show", "validate_href"):
            assert_that(ironic.both(method, href), Equals([FAILED, FAILED]))

    def test_a_link_below_an_allowed_directory(self, ironic: Ironic, tmp_path: Path) -> None:
        original = random_file(tmp_path / "elsewhere", 1000)
        link = ironic.files / f"{tmp_path.name}.link"
        link.symlink_to(original)
        theirs, ours = ironic.both("show", link.as_uri())
        assert_that(ours, Equals(theirs))
        ironic.download("ours", link.as_uri(), tmp_path / "dest")
        assert_that((tmp_path / "dest").read_bytes() == original.read_bytes(), Is(True))

    def test_a_deployer_may_forbid_links(self, one_ironic: Ironic, tmp_path: Path) -> None:
        one_ironic.use("[backend:file]\nfollow_links = false\n")
        link = one_ironic.files / f"{tmp_path.name}.link"
        link.symlink_to(random_file(tmp_path / "elsewhere", 1000))
        assert_that(one_ironic.both("show", link.as_uri())[1], Equals(FAILED))


@pytest.fixture(scope="module")
def images(openstack: OpenStack) -> dict[str, str]:
    return {
        "own": openstack.create_image(
            b"data", visibility="private", kernel_id=MISSING, tags=["a"], img_type="partition"
        ),
        "queued": openstack.create_image(None),
        "of others": openstack.create_image(b"data", user="blue", visibility="private"),
        "community": openstack.create_image(b"data", user="blue", visibility="community"),
        "shared": _shared(openstack),
        "kernel": openstack.create_image(b"k", disk_format="aki", container_format="aki"),
        "missing": MISSING,
    }


class TestGlance:
    @pytest.mark.parametrize("user", [None, "red", "blue"])
    @pytest.mark.parametrize(
        "kind", ["own", "queued", "of others", "community", "shared", "kernel", "missing"]
    )
    def test_show(
        self, ironic: Ironic, images: dict[str, str], kind: str, user: str | None
    ) -> None:
        theirs, ours = ironic.both("show", images[kind], user=user)
        if isinstance(theirs, dict):
            for record in (theirs, ours):
                for name in UNREAD:
                    record.pop(name)
            own = theirs["properties"].items() & ours["properties"].items()
            theirs["properties"] = dict(own)
        assert_that(ours, Equals(theirs))

    @pytest.mark.parametrize("kind", ["own", "community", "shared", "kernel"])
    def test_download(
        self, ironic: Ironic, images: dict[str, str], kind: str, tmp_path: Path
    ) -> None:
        for api in ("ironic", "ours"):
            ironic.download(api, f"glance://{images[kind]}", tmp_path / api)
        assert_that((tmp_path / "ours").read_bytes(), Equals((tmp_path / "ironic").read_bytes()))

    def test_download_without_data(
        self, ironic: Ironic, images: dict[str, str], tmp_path: Path
    ) -> None:
        found: list[Any] = [ironic.both("download", images["queued"])[1]]
        assert_that(found, Equals(["ironic.common.exception.ImageDownloadFailed"]))

    @pytest.mark.parametrize("href", ["glance://no-id"])
    def test_what_is_no_id(self, ironic: Ironic, href: str) -> None:
        kind = "ironic.common.exception.InvalidImageRef"
        assert_that(ironic.both("show", href), Equals([kind, kind]))

    def test_whether_an_image_is_a_whole_disk(self, ironic: Ironic, images: dict[str, str]) -> None:
        for kind in ("own", "community", "kernel", "missing"):
            info = {"image_source": images[kind]}
            found = [
                ironic.process("is_whole_disk_image", api=api, context=None, info=info)
                for api in ("ironic", "ours")
            ]
            assert_that(found[1], Equals(found[0]))

    def test_temporary_urls_of_swift(self, ironic: Ironic, images: dict[str, str]) -> None:
        urls = [
            ironic.process("temp_url", api=api, image_id=images["own"])
            for api in ("ironic", "ours")
        ]
        start = f"https://swift.example.org/v1/AUTH_glance/glance/{images['own']}?temp_url_sig="
        for url in urls:
            assert_that(url, StartsWith(start))


def _shared(openstack: OpenStack) -> str:
    image = openstack.create_image(b"data", user="blue", visibility="shared")
    red = openstack.project_ids["red"]
    openstack.call("blue", "POST", f"/images/{image}/members", {"member": red})
    openstack.call("red", "PUT", f"/images/{image}/members/{red}", {"status": "accepted"})
    return image


def _served(nginx: Nginx, tmp_path: Path, size: int) -> str:
    name = f"{tmp_path.name}.img"
    random_file(nginx.root / name, size)
    return nginx.url(name)
