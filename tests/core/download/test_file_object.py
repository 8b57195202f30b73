"""A file object receives the bytes once, at its position."""

from __future__ import annotations

import io
import os
import threading
from pathlib import Path
from typing import Any

import pytest
from testtools.assertions import assert_that
from testtools.matchers import (
    Equals,
    GreaterThan,
    LessThan,
    MatchesAll,
    MatchesStructure,
    StartsWith,
)

from imagebroker.exceptions import DestinationError, ImageChanged, TransferError, VerificationError
from tests.conftest import Scripted
from tests.core.download.destination import DATA


class TestFileObject:
    def test_a_buffer_receives_the_bytes_at_its_position(self, scripted: Scripted) -> None:
        ref, _ = scripted.image(DATA)
        target = io.BytesIO(b"12345")
        target.seek(3)
        done = scripted.broker.download(None, ref, target)
        assert_that(target.getvalue(), Equals(b"123" + DATA))
        assert_that(done, MatchesStructure.byEquality(path=None, size=len(DATA)))

    @pytest.mark.promise("file-objects")
    @pytest.mark.parametrize("start", [0, 3])
    def test_after_an_error_a_seekable_object_has_its_length_and_position_back(
        self, scripted: Scripted, start: int, tmp_path: Path
    ) -> None:
        ref, _ = scripted.image(DATA, version="v1", breaks=[(5000, None)] * 9)
        (tmp_path / "f").write_bytes(b"12345")
        with open(tmp_path / "f", "r+b") as target:
            target.seek(start)
            with pytest.raises(TransferError) as caught:
                scripted.broker.download(None, ref, target)
            assert_that(target.tell(), Equals(start))
        assert_that((tmp_path / "f").stat().st_size, Equals(5))
        assert_that(caught.value.bytes_written, MatchesAll(GreaterThan(3000), LessThan(5001)))
        assert_that(caught.value.__notes__[0], StartsWith(f"{5 - start} old bytes of "))

    def test_an_object_in_append_mode_is_cut_back_to_its_length(
        self, scripted: Scripted, tmp_path: Path
    ) -> None:
        ref, _ = scripted.image(DATA, breaks=[(5000, VerificationError("no"))])
        (tmp_path / "f").write_bytes(b"12345")
        with open(tmp_path / "f", "ab") as target, pytest.raises(VerificationError):
            scripted.broker.download(None, ref, target)
        assert_that((tmp_path / "f").read_bytes(), Equals(b"12345"))

    @pytest.mark.promise("file-objects")
    def test_a_pipe_receives_each_byte_once_though_the_transfer_begins_again(
        self, scripted: Scripted
    ) -> None:
        ref, script = scripted.image(DATA, seekable=False, breaks=[(1500, None), (777, None)])
        read_end, write_end = os.pipe()
        received: list[bytes] = []
        with open(read_end, "rb") as pipe:
            drain = threading.Thread(target=lambda: received.append(pipe.read()))
            drain.start()
            with open(write_end, "wb", buffering=0) as target:
                scripted.broker.download(None, ref, target)
            drain.join()
        assert_that(received, Equals([DATA]))
        assert_that(script.reads, Equals([0, 0, 0]))

    @pytest.mark.promise("file-objects")
    def test_a_repetition_with_other_bytes_is_found(self, scripted: Scripted) -> None:
        ref, script = scripted.image(DATA, seekable=False, breaks=[(5000, None)])

        def change(offset: int) -> None:
            if len(script.reads) == 2:
                script.data = b"x" * len(DATA)

        script.before_chunk = change
        with pytest.raises(ImageChanged):
            scripted.broker.download(None, ref, io.BytesIO())

    @pytest.mark.parametrize("kind", ["closed", "text", "read only", "no write", "broken pipe",
                                      "raises", "returns nonsense"])  # fmt: skip
    def test_an_object_that_cannot_be_written_is_a_destination_error(
        self, scripted: Scripted, tmp_path: Path, kind: str
    ) -> None:
        ref, _ = scripted.image(DATA)
        (tmp_path / "f").write_bytes(b"")
        target: Any = io.BytesIO()
        if kind == "closed":
            target.close()
        elif kind == "text":
            target = io.StringIO()
        elif kind == "read only":
            target = open(tmp_path / "f", "rb")  # noqa: SIM115
        elif kind == "no write":
            target = object()
        elif kind == "broken pipe":
            read_end, write_end = os.pipe()
            os.close(read_end)
            target = open(write_end, "wb", buffering=0)  # noqa: SIM115
        else:
            target = Odd(ValueError("odd") if kind == "raises" else "nonsense")
        with pytest.raises(DestinationError):
            scripted.broker.download(None, ref, target)
        if kind in ("read only", "broken pipe"):
            target.close()

    def test_short_and_refused_writes_are_completed(self, scripted: Scripted) -> None:
        ref, _ = scripted.image(DATA)
        read_end, write_end = os.pipe()
        os.set_blocking(write_end, False)
        received: list[bytes] = []
        with open(read_end, "rb") as pipe:
            drain = threading.Thread(target=lambda: received.append(pipe.read()))
            with open(write_end, "wb", buffering=0) as target:
                os.write(write_end, b"x" * 65536)  # full before it begins
                drain.start()
                scripted.broker.download(None, ref, target)
            drain.join()
        assert_that(received[0][65536:], Equals(DATA))


class Odd:
    """An object whose write() does what files do not."""

    def __init__(self, answer: Any) -> None:
        self._answer = answer

    def write(self, data: Any) -> Any:
        if isinstance(self._answer, Exception):
            raise self._answer
        return self._answer
