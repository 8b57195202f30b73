"""`--no-check-format`: for a person who knows better."""

from __future__ import annotations

import pytest
from testtools.assertions import assert_that
from testtools.matchers import Contains, Equals

from tests.cli.conftest import Inside
from tests.plugins.http_peers import answer, serving
from tests.verify.specimens import DESCRIPTOR, overlay

PAGE = b"<script>location.href='/login'</script>"
FLAG = "--no-check-format"


@pytest.mark.parametrize("dest", ["x", "-"])
def test_a_page_is_stored_only_with_it(dest: str, imagebroker: Inside) -> None:
    with serving(answer(PAGE)) as server:
        done = imagebroker("download", f"{server.url}/x.qcow2", dest)
        assert_that((done.status, done.stdout), Equals((6, b"")))
        assert_that(done.stderr, Contains("is a web page, not an image [format-error]"))
        assert_that(done.stderr, Contains(FLAG))
        assert_that((imagebroker.work / dest).exists(), Equals(False))
        done = imagebroker("download", f"{server.url}/x.qcow2", dest, FLAG)
        assert_that(done.status, Equals(0))
        content = done.stdout if dest == "-" else (imagebroker.work / dest).read_bytes()
        assert_that(content, Equals(PAGE))


def test_what_is_not_safe_is_created_and_copied_only_with_it(
    imagebroker: Inside, qemu_img: None
) -> None:
    (imagebroker.work / "disk").write_bytes(overlay("qcow2"))
    create = ("create", "--file", "disk", "--disk-format", "raw", "-f", "json")
    copy = ("copy", f"file://{imagebroker.work}/disk", "--backend", "file", "-f", "json")
    for argv in (create, copy):
        done = imagebroker(*argv)
        assert_that((done.status, done.stdout), Equals((6, b"")))
        assert_that(done.stderr, Contains(FLAG))
        assert_that(imagebroker("list", "-f", "json").stdout, Equals(b"[]\n"))
    refs = [imagebroker(*argv, FLAG).record["ref"] for argv in (create, copy)]
    for ref in refs:
        assert_that(imagebroker("download", ref, "back").status, Equals(6))
        assert_that(imagebroker("download", ref, "back", FLAG).status, Equals(0))


def test_data_for_a_record_goes_unchecked_only_with_it(imagebroker: Inside) -> None:
    record = imagebroker("create", "--disk-format", "raw", "-f", "json").record
    (imagebroker.work / "disk").write_bytes(DESCRIPTOR.encode())
    done = imagebroker("update", record["ref"], "--file", "disk")
    assert_that((done.status, done.stderr), Equals((6, done.stderr)))
    assert_that(done.stderr, Contains("VMDK descriptor"))
    assert_that(imagebroker("update", record["ref"], "--file", "disk", FLAG).status, Equals(0))


def test_it_contradicts_a_list_of_formats(imagebroker: Inside) -> None:
    (imagebroker.work / "disk").write_bytes(b"some text")
    done = imagebroker(
        "download", f"file://{imagebroker.work}/disk", "x", FLAG, "--allowed-formats", "raw"
    )
    assert_that(done.status, Equals(2))
    assert_that(done.stderr, Contains("hint: omit either --no-check-format"))
