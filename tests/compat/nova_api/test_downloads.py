"""Every kind of destination that Nova has gets the right bytes."""

from __future__ import annotations

import errno
import gc
import hashlib
import io
import os
import tempfile
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from testtools.assertions import assert_that
from testtools.matchers import AllMatch, Equals, Is, IsInstance, LessThan

import imagebroker
from imagebroker import exceptions as ours
from imagebroker.compat.nova import API
from tests.compat import exceptions
from tests.compat.nova_api.callers import ALICE, DATA, Collector, VmwareHandle
from tests.conftest import Scripted


class TestDownload:
    def test_to_a_path(self, api: API, image_id: str, tmp_path: Path) -> None:
        dest = tmp_path / "disk"
        dest.write_bytes(b"old")
        assert_that(api.download(ALICE, image_id, dest_path=str(dest)), Is(None))
        assert_that(dest.read_bytes(), Equals(DATA))

    def test_to_a_file_object_that_stays_open(self, api: API, image_id: str) -> None:
        for make in (io.BytesIO, tempfile.TemporaryFile, tempfile.NamedTemporaryFile):
            with make() as data:
                assert_that(api.download(ALICE, image_id, data=data), Is(None))
                assert_that(data.closed, Is(False))
                data.seek(0)
                assert_that(data.read(), Equals(DATA))

    def test_the_file_object_wins_over_the_path(
        self, api: API, image_id: str, tmp_path: Path
    ) -> None:
        data = io.BytesIO()
        api.download(ALICE, image_id, data, str(tmp_path / "disk"))
        assert_that((data.getvalue(), (tmp_path / "disk").exists()), Equals((DATA, False)))

    def test_an_object_needs_nothing_but_write(self, api: API, image_id: str) -> None:
        for target in (Collector(), VmwareWriteHandle()):
            api.download(ALICE, image_id, data=target)
            assert_that(b"".join(target.chunks), Equals(DATA))
            assert_that(target.chunks, AllMatch(IsInstance(bytes)))

    def test_what_cannot_be_written_to_is_an_oserror(self, api: API, image_id: str) -> None:
        for data in (object(), io.StringIO()):
            with pytest.raises(OSError, match="destination"):
                api.download(ALICE, image_id, data=data)

    def test_without_a_destination_an_iterator(self, api: API, image_id: str) -> None:
        chunks = api.download(ALICE, image_id)
        assert chunks is not None
        assert_that(iter(chunks), Is(chunks))
        assert_that((chunks.size, len(chunks)), Equals((len(DATA), len(DATA))))
        assert_that(b"".join(chunks), Equals(DATA))
        assert_that(list(chunks), Equals([]))

    def test_an_iterator_may_be_left_early(self, api: API, image_id: str) -> None:
        """VMware reads an OVA until it has found the disk, and never closes."""
        before = threading.active_count()
        with api.download(ALICE, image_id) or () as chunks:  # type: ignore[union-attr]
            next(chunks)
        assert_that(list(chunks), Equals([]))
        for chunk in api.download(ALICE, image_id) or ():
            assert_that(DATA.startswith(chunk), Is(True))
            break
        gc.collect()
        assert_that(threading.active_count(), Equals(before))

    def test_a_pipe_is_filled(self, api: API, image_id: str, tmp_path: Path) -> None:
        fifo = tmp_path / "fifo"
        os.mkfifo(fifo)
        received = []
        reader = threading.Thread(target=lambda: received.append(fifo.read_bytes()))
        reader.start()
        api.download(ALICE, image_id, dest_path=str(fifo))
        reader.join(10)
        assert_that(received, Equals([DATA]))

    def test_a_device_is_filled_through_a_link_too(
        self, api: API, image_id: str, tmp_path: Path
    ) -> None:
        """/dev/mapper/volume is a link."""
        link = tmp_path / "volume"
        link.symlink_to("/dev/null")
        api.download(ALICE, image_id, dest_path=str(link))
        assert_that(link.is_symlink(), Is(True))

    def test_a_destination_that_cannot_be_written_is_an_oserror_with_its_number(
        self, api: API, image_id: str, tmp_path: Path
    ) -> None:
        with pytest.raises(OSError, match="cannot") as caught:
            api.download(ALICE, image_id, dest_path=str(tmp_path / "none" / "disk"))
        assert_that(caught.value.errno, Equals(errno.ENOENT))
        assert_that(caught.value, IsInstance(ours.DestinationError))
        with (
            open("/dev/full", "wb", buffering=0) as full,
            pytest.raises(OSError, match="space") as caught,
        ):
            api.download(ALICE, image_id, data=full)
        assert_that(caught.value.errno, Equals(errno.ENOSPC))

    def test_an_image_without_data_is_unacceptable(self, api: API, tmp_path: Path) -> None:
        queued = api.create(ALICE, {"name": "queued"})
        for arguments in ({}, {"data": io.BytesIO()}, {"dest_path": str(tmp_path / "disk")}):
            with pytest.raises(exceptions.ImageUnacceptable, match=queued["id"]):
                api.download(ALICE, queued["id"], **arguments)
        assert_that(list(tmp_path.glob("*disk*")), Equals([]))

    def test_certificates_reach_the_broker_as_ids(
        self,
        api: API,
        broker: imagebroker.Broker,
        image_id: str,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        """From Nova's object, or as a list. Nothing is passed where none are trusted."""
        seen: list[Any] = []

        def download(*arguments: Any, **options: Any) -> None:
            seen.append(options)
            original(*arguments)

        original = broker.download
        monkeypatch.setattr(broker, "download", download)
        for certificates in (SimpleNamespace(ids=["a"]), ["b"], None, SimpleNamespace(ids=[])):
            dest = str(tmp_path / "disk")
            api.download(ALICE, image_id, dest_path=dest, trusted_certs=certificates)
        assert_that(seen, Equals([{"trusted_certs": ["a"]}, {"trusted_certs": ["b"]}, {}, {}]))


class TestWrongBytes:
    """Verification, with an image whose record promises other bytes than its source sends."""

    @pytest.fixture
    def wrong(self, scripted: Scripted) -> tuple[API, str]:
        ref, _ = scripted.image(DATA, checksums={"sha256": "0" * 64})
        return API(scripted.broker, exceptions), ref

    def test_a_path_stays_what_it_was(self, wrong: tuple[API, str], tmp_path: Path) -> None:
        api, ref = wrong
        (tmp_path / "disk").write_bytes(b"old")
        with pytest.raises(exceptions.ImageUnacceptable, match="sha256"):
            api.download(ALICE, ref, dest_path=str(tmp_path / "disk"))
        assert_that((tmp_path / "disk").read_bytes(), Equals(b"old"))

    def test_a_file_object_gets_its_length_back(self, wrong: tuple[API, str]) -> None:
        api, ref = wrong
        data = io.BytesIO()
        with pytest.raises(exceptions.ImageUnacceptable):
            api.download(ALICE, ref, data=data)
        assert_that(data.getvalue(), Equals(b""))

    def test_an_iterator_ends_with_the_error_and_never_hands_out_the_last_byte(
        self, wrong: tuple[API, str]
    ) -> None:
        api, ref = wrong
        chunks = api.download(ALICE, ref)
        assert chunks is not None
        received: list[bytes] = []
        with pytest.raises(exceptions.ImageUnacceptable):
            received.extend(chunks)
        assert_that(DATA.startswith(b"".join(received)), Is(True))
        assert_that(sum(map(len, received)), LessThan(len(DATA)))
        with pytest.raises(exceptions.ImageUnacceptable):
            next(chunks)

    def test_a_broken_transfer_is_resumed(self, scripted: Scripted, tmp_path: Path) -> None:
        checksums = {"sha256": hashlib.sha256(DATA).hexdigest()}
        ref, script = scripted.image(
            DATA, version="1", checksums=checksums, breaks=[(5000, ours.TransferError("cut"))]
        )
        api = API(scripted.broker, exceptions)
        api.download(ALICE, ref, dest_path=str(tmp_path / "disk"))
        assert_that((tmp_path / "disk").read_bytes(), Equals(DATA))
        assert_that(script.reads, Equals([0, 5000]))


class VmwareWriteHandle(VmwareHandle, Collector):
    pass
