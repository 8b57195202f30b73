"""What a download would refuse is not stored either: in a store, in Glance, over SFTP."""

from __future__ import annotations

import io
import os
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from testtools.assertions import assert_that
from testtools.matchers import Contains, Equals, MatchesStructure

import imagebroker
from imagebroker.exceptions import Conflict, FormatError, UploadFailed
from tests.servers.images import make_qcow2
from tests.servers.openstack import OpenStack
from tests.servers.sshd import Sshd
from tests.verify import specimens
from tests.verify.specimens import DESCRIPTOR, overlay, real

pytestmark = pytest.mark.usefixtures("qemu_img")


@dataclass
class Target:
    """A backend that stores, and how to see what it has."""

    name: str
    broker: imagebroker.Broker
    directory: Path

    def create(self, data: Any, **info: Any) -> imagebroker.Image:
        how = {key: info.pop(key) for key in ("check_format", "keep_record") if key in info}
        record = {"name": f"checked-{uuid.uuid4().hex}", **info}
        if self.name != "scp":
            record.setdefault("container_format", "bare")
        else:  # a directory has names and bytes
            record = {"name": record["name"]}
        return self.broker.create(None, record, data, backend=self.name, **how)

    def update(self, ref: str, data: bytes) -> imagebroker.Image:
        """Give a record its data, once Glance has noticed that an earlier upload has ended.

        No status tells when that is: Glance may not even have begun to look at that upload.
        """
        ends = time.monotonic() + 60
        while True:
            try:
                return self.broker.update(None, ref, {}, data)
            except Conflict:
                if time.monotonic() > ends:
                    raise
                time.sleep(0.2)

    def left(self) -> list[str]:
        """Everything there is, whatever its state."""
        if self.name == "scp":
            return sorted(os.listdir(self.directory))
        states = ("active", "queued", "saving")
        found = [
            image.ref
            for status in states
            for image in self.broker.get_all(None, backend=self.name, filters={"status": status})
        ]
        return sorted(found)


@pytest.fixture(params=["file", "scp"])
def target(
    request: pytest.FixtureRequest, make_broker: Callable[..., imagebroker.Broker], tmp_path: Path
) -> Target:
    """Those that take data of which nothing is declared."""
    directory = tmp_path / "scp"
    directory.mkdir()
    config = f"[imagebroker]\nenabled_schemes = file, {request.param}\nretry_backoff = 0\n"
    config += f"[backend:file]\nstore_dir = {tmp_path}/store\nallowed_paths = {tmp_path}\n"
    if request.param == "scp":
        sshd: Sshd = request.getfixturevalue("sshd")
        config += f"[backend:scp]\nendpoint = {sshd.url(directory)}/\n"
        config += f"known_hosts = {sshd.known_hosts}\nidentity_file = {sshd.key}\n"
        config += "allowed_networks = 127.0.0.0/8\n"
    return Target(request.param, make_broker(config), directory)


#: What is given as the data of the same bytes.
FORMS: dict[str, Callable[[bytes, Path], Any]] = {
    "bytes": lambda data, path: data,
    "path": lambda data, path: path,
    "file": lambda data, path: io.BytesIO(data),
    "iterator": lambda data, path: iter([data[:700], data[700:]]),
    "small pieces": lambda data, path: (data[at : at + 100] for at in range(0, len(data), 100)),
}
#: What no declaration makes acceptable, and a word of why.
UNSAFE = {
    "qcow2 with a backing file": (lambda: overlay("qcow2"), "backing file"),
    "qcow2 with a data file": (lambda: real("qcow2 with a data file"), "another file"),
    "vmdk descriptor": (DESCRIPTOR.encode, "descriptor"),
    "qed": (lambda: real("qed"), "qed"),
    "raw with a damaged footer": (lambda: specimens.raw() + real("vhd")[:512], "vhd"),
}  # fmt: skip


@pytest.mark.promise("security-3")
@pytest.mark.parametrize("form", FORMS)
def test_what_is_not_safe_is_not_stored(target: Target, form: str, tmp_path: Path) -> None:
    before = target.left()
    path = tmp_path / "data"
    for make, why in UNSAFE.values():
        data = make()
        path.write_bytes(data)
        with pytest.raises(FormatError, match=why) as caught:
            target.create(FORMS[form](data, path))
        assert_that(str(caught.value), Contains("the data: "))
        assert_that(caught.value.hint, Contains("--no-check-format"))
    assert_that(target.left(), Equals(before))


@pytest.mark.promise("security-3")
def test_it_is_refused_in_the_words_of_a_download(target: Target, tmp_path: Path) -> None:
    for make, _ in UNSAFE.values():
        (tmp_path / "data").write_bytes(make())
        with pytest.raises(FormatError) as stored:
            target.create(make())
        with pytest.raises(FormatError) as fetched:
            target.broker.download(None, f"file://{tmp_path}/data", tmp_path / "back")
        words = [str(each.value).split(": ", 2)[-1] for each in (stored, fetched)]
        assert_that(words[1], Contains(words[0]))


def test_what_is_stored_can_be_had_again(target: Target, tmp_path: Path) -> None:
    for data in (real("qcow2"), specimens.raw(), specimens.gpt(), specimens.iso(), real("vdi")):
        image = target.create(data)
        target.broker.download(None, image.ref, tmp_path / "back")
        assert_that((tmp_path / "back").read_bytes(), Equals(data))


def test_a_caller_who_knows_better_may_store_anything(target: Target, tmp_path: Path) -> None:
    for make, _ in UNSAFE.values():
        image = target.create(make(), check_format=False)
        with pytest.raises(FormatError):
            target.broker.download(None, image.ref, tmp_path / "back")
        target.broker.download(None, image.ref, tmp_path / "back", check_format=False)
        assert_that((tmp_path / "back").read_bytes(), Equals(make()))


def test_a_copy_is_judged_too(target: Target, tmp_path: Path) -> None:
    before = target.left()
    for make, why in UNSAFE.values():
        (tmp_path / "data").write_bytes(make())
        ref = f"file://{tmp_path}/data"
        with pytest.raises(FormatError, match=why):
            target.broker.copy(None, ref, {"name": "copy"}, backend=target.name)
    assert_that(target.left(), Equals(before))


class TestRecords:
    """Backends whose records declare a format."""

    @pytest.fixture(params=["file", "glance"])
    def target(
        self,
        request: pytest.FixtureRequest,
        make_broker: Callable[..., imagebroker.Broker],
        tmp_path: Path,
    ) -> Target:
        config = f"[imagebroker]\nenabled_schemes = file, {request.param}\nretry_backoff = 0\n"
        config += f"[backend:file]\nstore_dir = {tmp_path}/store\nallowed_paths = {tmp_path}\n"
        if request.param == "glance":
            openstack: OpenStack = request.getfixturevalue("openstack")
            options = openstack.auth_options("red").items()
            config += f"[backend:glance]\nendpoint = {openstack.endpoint}/\n"
            config += "".join(f"{key} = {value}\n" for key, value in options)
        return Target(request.param, make_broker(config), tmp_path)

    @pytest.mark.promise("security-3")
    def test_the_data_has_to_be_what_is_declared(self, target: Target, tmp_path: Path) -> None:
        before = target.left()
        qcow2 = make_qcow2(tmp_path / "a.qcow2", 1 << 26).read_bytes()
        wrong = [("raw", qcow2), ("iso", qcow2), ("qcow2", specimens.raw()), ("vhd", real("vdi")),
                 ("vmdk", specimens.gpt())]  # fmt: skip
        for declared, data in wrong:
            with pytest.raises(FormatError, match=declared):
                target.create(data, disk_format=declared)
        assert_that(target.left(), Equals(before))
        target.create(qcow2, disk_format="raw", check_format=False)

    @pytest.mark.parametrize("form", FORMS)
    def test_what_is_not_safe_is_not_stored(
        self, target: Target, form: str, tmp_path: Path
    ) -> None:
        before = target.left()
        for declared, name in (("qcow2", "qcow2 with a backing file"), ("vmdk", "vmdk descriptor")):
            data = UNSAFE[name][0]()
            (tmp_path / "data").write_bytes(data)
            with pytest.raises(FormatError, match="the data: "):
                target.create(FORMS[form](data, tmp_path / "data"), disk_format=declared)
        assert_that(target.left(), Equals(before))

    def test_an_archive_of_a_disk_is_none(self, target: Target) -> None:
        image = target.create(specimens.tar(), disk_format="vmdk", container_format="ova")
        assert_that(image, MatchesStructure.byEquality(status="active", disk_format="vmdk"))

    def test_data_for_a_record_is_judged_by_the_record(self, target: Target) -> None:
        record = target.create(None, disk_format="qcow2")
        with pytest.raises(FormatError, match="is not qcow2"):
            target.update(record.ref, specimens.raw())
        with pytest.raises(FormatError, match="backing file"):
            target.update(record.ref, overlay("qcow2"))
        image = target.update(record.ref, real("qcow2"))
        assert_that(image.status, Equals("active"))

    def test_a_format_that_comes_with_the_data_counts(self, target: Target) -> None:
        record = target.create(None, disk_format="qcow2")
        image = target.broker.update(None, record.ref, {"disk_format": "raw"}, specimens.raw())
        assert_that(image, MatchesStructure.byEquality(status="active", disk_format="raw"))

    def test_an_update_may_go_unchecked(self, target: Target) -> None:
        record = target.create(None, disk_format="ploop")
        image = target.broker.update(None, record.ref, {}, b"no disk", check_format=False)
        assert_that(image.status, Equals("active"))

    def test_a_record_that_is_to_be_kept_is_kept(self, target: Target) -> None:
        with pytest.raises((FormatError, UploadFailed), match="backing file") as caught:
            target.create(overlay("qcow2"), disk_format="qcow2", keep_record=True)
        kept = target.broker.get(None, f"{target.name}:{caught.value.image_id}")  # type: ignore[attr-defined]
        assert_that((kept.status, kept.size), Equals(("queued", None)))


def test_without_inspection_anything_is_stored(
    make_broker: Callable[..., imagebroker.Broker], tmp_path: Path
) -> None:
    broker = make_broker(
        "[imagebroker]\nenabled_schemes = file\ninspect_formats = false\n"
        f"[backend:file]\nstore_dir = {tmp_path}/store\n"
    )
    image = broker.create(None, {"name": "x", "disk_format": "raw"}, overlay("qcow2"))
    broker.download(None, image.ref, tmp_path / "back")
