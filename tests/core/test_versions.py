"""A version that differs may be that of another server: what the core makes of it."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from testtools.assertions import assert_that
from testtools.matchers import Equals, Is

from imagebroker.exceptions import ChecksumMismatch, ImageChanged, TransferError
from tests.conftest import Scripted
from tests.scripted import Script, ScriptedBackend

DATA = bytes(range(256)) * 40
OTHER = DATA[:1000] + b"?" * 1000 + DATA[2000:]
SHA256 = hashlib.sha256(DATA).hexdigest()
CHECKSUM = f"sha256:{SHA256}"


def versions(script: Script, *names: str) -> None:
    """Each time it is opened, the image has the next of these versions."""

    def next_one() -> None:
        script.version = names[min(script.opened, len(names)) - 1]

    script.before_open = next_one


@pytest.mark.promise("C36")
@pytest.mark.parametrize("seekable", [True, False])
def test_under_a_digest_another_version_of_the_same_size_is_no_error(
    seekable: bool, scripted: Scripted, tmp_path: Path
) -> None:
    """The plugin is one that knows nothing of servers with different versions."""
    ref, script = scripted.image(DATA, seekable=seekable, breaks=[(1500, ImageChanged("v2"))])
    versions(script, "v1", "v2")
    done = scripted.broker.download(None, ref, tmp_path / "image", checksum=CHECKSUM)
    assert_that((tmp_path / "image").read_bytes(), Equals(DATA))
    assert_that(script.reads, Equals([0, 1500] if seekable else [0, 0]))
    assert_that(done.image.version, Is(None))


def test_a_source_that_broke_and_is_opened_again_may_have_another_version_under_a_digest(
    scripted: Scripted, tmp_path: Path
) -> None:
    ref, script = scripted.image(DATA, breaks=[(1500, None), (0, None)])
    versions(script, "v1", "v2")
    scripted.broker.download(None, ref, tmp_path / "image", checksum=CHECKSUM)
    assert_that((tmp_path / "image").read_bytes(), Equals(DATA))
    assert_that(script.opened, Equals(2))
    assert_that(script.reads[-1], Equals(1500))


def another_size(script: Script) -> None:
    script.data += b"more"


def another_digest_in_the_record(script: Script) -> None:
    script.checksums = {"sha256": "0" * 64}


def another_at_each_request(script: Script) -> None:
    script.breaks = [(0, ImageChanged("another"))] * 9


@pytest.mark.promise("C36")
@pytest.mark.parametrize(
    "change", [another_size, another_digest_in_the_record, another_at_each_request]
)
def test_what_shows_that_it_is_another_image_ends_the_download(
    change: Callable[[Script], None], scripted: Scripted, tmp_path: Path
) -> None:
    ref, script = scripted.image(
        DATA, version="v1", checksums={"sha256": SHA256}, breaks=[(1500, ImageChanged("v2"))]
    )

    def reopened() -> None:
        if script.opened == 2:
            change(script)

    script.before_open = reopened
    with pytest.raises(ImageChanged):
        scripted.broker.download(None, ref, tmp_path / "image", checksum=CHECKSUM)
    assert_that((tmp_path / "image").exists(), Is(False))


@pytest.mark.promise("C36")
@pytest.mark.parametrize("into_object", [False, True])
def test_if_the_digest_does_not_hold_the_bytes_of_one_version_are_read(
    into_object: bool, scripted: Scripted, tmp_path: Path
) -> None:
    ref, script = scripted.image(OTHER, breaks=[(1500, ImageChanged("v2"))])
    versions(script, "v1", "v2")

    def replaced(offset: int) -> None:
        if len(script.reads) == 2:
            script.data = DATA

    script.before_chunk = replaced
    path = tmp_path / "image"
    target: Any = io.BytesIO() if into_object else path
    scripted.broker.download(None, ref, target, checksum=CHECKSUM)
    got = target.getvalue() if into_object else path.read_bytes()
    assert_that(got, Equals(DATA))
    assert_that(script.reads, Equals([0, 1500, 0]))


def test_a_reader_that_was_handed_joined_bytes_ends_with_an_error(scripted: Scripted) -> None:
    ref, script = scripted.image(OTHER, breaks=[(1500, ImageChanged("v2"))])
    versions(script, "v1", "v2")
    with scripted.broker.open(None, ref, checksum=CHECKSUM) as reader:
        with pytest.raises(ChecksumMismatch):
            reader.read()


def test_what_was_joined_is_no_proof_for_a_later_call_without_the_digest(
    scripted: Scripted, tmp_path: Path
) -> None:
    breaks: list[Any] = [(1500, ImageChanged("v2")), (3000, TransferError("x", retryable=False))]
    ref, script = scripted.image(OTHER, breaks=breaks)
    versions(script, "v1", "v2", "v1")
    path = tmp_path / "image"
    with pytest.raises(TransferError):
        scripted.broker.download(None, ref, path, checksum=CHECKSUM, keep_partial=True)
    script.data = DATA
    script.reads.clear()
    scripted.broker.download(None, ref, path)
    assert_that(path.read_bytes(), Equals(DATA))
    assert_that(script.reads, Equals([0]))


@pytest.mark.promise("C37")
def test_a_later_process_opens_the_image_at_the_first_missing_byte(
    scripted: Scripted, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ref, script = scripted.image(DATA, version="v1", breaks=[(1500, None)] * 3)
    starts: list[int] = []

    def open_at(self: ScriptedBackend, context: Any, ref: Any, start: int) -> Any:
        starts.append(start)
        return self.open(context, ref)

    monkeypatch.setattr(ScriptedBackend, "open_at", open_at)
    path = tmp_path / "image"
    with pytest.raises(TransferError):
        scripted.broker.download(None, ref, path, retries=0, keep_partial=True)
    assert_that(starts, Equals([]))
    script.breaks = [(1500, None), (1500, None)]
    scripted.broker.download(None, ref, path)
    assert_that(path.read_bytes(), Equals(DATA))
    assert_that(starts, Equals([1500, 1500]))
