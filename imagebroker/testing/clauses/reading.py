"""Clauses C12 to C14 without faults: exactly the requested bytes."""

from __future__ import annotations

import hashlib
import io
import itertools
import os
import tempfile
from functools import partial
from pathlib import Path
from typing import Any

from imagebroker.backends.backend import ImageSource
from imagebroker.exceptions import VerificationError
from imagebroker.testing.harness.background import BackgroundCall, ReadResult
from imagebroker.testing.hooks import KIB, MIB, Hooks, random_bytes

GIB = 1024 * MIB


class ReadingClauses(Hooks):
    """C12 to C14."""

    def test_c13_every_size_is_read_exactly(self) -> None:
        """Images would arrive cut, or with bytes that are not theirs."""
        for size in self.sizes:
            data = random_bytes(size)
            with self.opened(self.publish(data)) as source:
                self.assert_same(self.bytes_of(source), data, f"an image of {size} bytes")

    def test_c13_runs_of_zeros_are_bytes_like_others(self) -> None:
        """The empty parts of a disk would be missing, and all after them in the wrong place."""
        data = random_bytes(1000) + bytes(2 * MIB) + random_bytes(1000, seed=1) + bytes(100)
        with self.opened(self.publish(data)) as source:
            self.assert_same(self.bytes_of(source), data, "an image with runs of zeros")

    def test_c13_stop_ends_a_read(self) -> None:
        """A range would bring more than was asked for."""
        size = 200_000
        data = random_bytes(size)
        ref = self.publish(data)
        for stop in (0, 1, 64 * KIB, size - 1, size):
            with self.opened(ref) as source:
                self.assert_same(
                    self.bytes_of(source, 0, stop), data[:stop], f"read(0, {stop}) of {size} bytes"
                )

    def test_c13_start_is_where_a_read_begins(self) -> None:
        """A resumed download would hold some bytes twice and others not at all."""
        size = 200_000
        data = random_bytes(size)
        source = self.open(self.publish(data))
        if not source.seekable:
            self.skipTest("the source is not seekable")
        for start in (1, 100, 64 * KIB - 1, 64 * KIB, size - 1, size):
            found = self.read_from(source, start)
            self.assert_same(found, data[start:], f"read({start}) of {size} bytes")

    def test_c13_any_stretch_can_be_read(self) -> None:
        """Parallel ranges would overlap or leave gaps."""
        size = 200_000
        data = random_bytes(size)
        source = self.open(self.publish(data))
        if not source.seekable:
            self.skipTest("the source is not seekable")
        stretches = ((0, 1), (1, 2), (5, 5), (100, 64 * KIB + 100), (size - 1, size), (7, size))
        for start, stop in stretches:
            found = self.read_from(source, start, stop)
            self.assert_same(found, data[start:stop], f"read({start}, {stop}) of {size} bytes")

    def test_c12_a_seekable_source_can_be_read_again(self) -> None:
        """A second attempt would fail, or get what was left of the first."""
        data = random_bytes(300_000)
        source = self.open(self.publish(data))
        if not source.seekable:
            self.skipTest("the source is not seekable")
        for most in (None, 1, None):
            taken = self.take(source, most=most)
            self.assert_same(taken.data, data[: len(taken.data)], "read once more")
            if taken.error is not None:
                raise taken.error
        self.assert_same(self.read_from(source, 1000), data[1000:], "read(1000) after others")

    def test_c12_parallel_reads_do_not_disturb_one_another(self) -> None:
        """Fast downloads would be wrong ones."""
        size = 2 * MIB
        data = random_bytes(size)
        source = self.open(self.publish(data))
        parallel = min(source.parallel_reads, 4)
        if parallel == 1:
            self.skipTest("parallel_reads is 1")
        bounds = [size * each // parallel for each in range(parallel + 1)]
        stretches = list(itertools.pairwise(bounds))
        self._in_turns(source, data, stretches)
        under_way = [
            BackgroundCall(partial(ReadResult().take, source, *each, None)) for each in stretches
        ]
        for running, (start, stop) in zip(under_way, stretches, strict=True):
            if not running.ended(self.patience):
                self.fail(f"one of {parallel} reads at once does not end")
            taken = running.answer()
            if taken.error is not None:
                raise taken.error
            self.assert_same(taken.data, data[start:stop], f"one of {parallel} reads at once")

    def _in_turns(self, source: ImageSource, data: bytes, stretches: list[tuple[int, int]]) -> None:
        """Read one chunk of each stretch at a time."""

        def read() -> list[bytes]:
            iterators = [iter(source.read(start, stop)) for start, stop in stretches]
            found = [bytearray() for _ in stretches]
            waiting = dict(enumerate(iterators))
            while waiting:
                for index, iterator in list(waiting.items()):
                    chunk = next(iterator, None)
                    if chunk is None:
                        del waiting[index]
                    else:
                        found[index] += chunk
            return [bytes(each) for each in found]

        found = self.in_time("reads in turns", read)
        for bytes_found, (start, stop) in zip(found, stretches, strict=True):
            self.assert_same(bytes_found, data[start:stop], "one of several reads in turns")

    def test_c13_more_than_4_gib_are_counted_right(self) -> None:
        """Large images would begin again at byte 0 where 32 bits end."""
        size = 4 * GIB + MIB + 17
        source = self.open(self.publish_sparse(size))
        if source.image.size is not None:
            self.assertEqual(size, source.image.size)
        end, wrapped = self.SPARSE_END, size - 4 * GIB
        if not source.seekable:
            taken = _Counted()
            running = BackgroundCall(lambda: taken.take(source))
            self.assertTrue(running.ended(10 * self.patience), "4 GiB take too long")
            running.answer()
            self.assertEqual((size, end), (taken.size, taken.tail[-len(end) :]))
            return
        self.assert_same(self.bytes_of(source, size - len(end)), end, "the end of a large image")
        for start in (4 * GIB - 1000, wrapped - len(end)):
            found = self.bytes_of(source, start, start + 2000)
            self.assert_same(found, bytes(2000), f"read({start}, {start + 2000}) of zeros")

    def test_c14_memory_does_not_depend_on_the_image(self) -> None:
        """A large image would exhaust the memory of the whole service."""
        source = self.open(self.publish_sparse(4 * GIB + MIB + 17))
        taken = self.take(source, 0, None, 1)
        if taken.error is not None:
            raise taken.error
        if len(taken.data) > 64 * MIB:
            self.fail(f"the first chunk of an image of 4 GiB has {len(taken.data) // MIB} MiB")

    def test_c14_chunks_are_bytes_and_none_is_empty(self) -> None:
        """The core would refuse the image; who reads until an empty chunk would stop early."""
        data = random_bytes(MIB)
        source = self.open(self.publish(data))
        for chunk in self.in_time("read", lambda: list(source.read())):
            if not isinstance(chunk, bytes | bytearray | memoryview):
                self.fail(f"read yielded {type(chunk).__name__}, not bytes")
            if isinstance(chunk, memoryview) and not chunk.c_contiguous:
                self.fail("read yielded a memoryview that is not contiguous")
            if not len(chunk):
                self.fail("read yielded an empty chunk among others")

    def test_c14_read_is_an_iterator_that_brings_chunk_after_chunk(self) -> None:
        """Nothing could be stopped, resumed or limited before the whole is in memory."""
        source = self.open(self.publish(random_bytes(1000)))
        reading: Any = source.read()
        if isinstance(reading, bytes | bytearray | memoryview | str | list | tuple):
            self.fail(f"read returned {type(reading).__name__}, not an iterator")
        iter(reading)
        if hasattr(reading, "close"):
            reading.close()

    def test_c14_a_chunk_is_left_alone_after_it_was_yielded(self) -> None:
        """Bytes would change after they were verified."""
        data = random_bytes(MIB)
        ref = self.publish(data)
        with self.opened(ref) as source:
            # Held as the core holds them: without a copy, while more arrive.
            chunks: list[Any] = self.in_time("read", lambda: list(source.read()))
            self.assert_same(b"".join(map(bytes, chunks)), data, "chunks that were kept a while")

    def test_c13_through_a_broker_into_a_file(self) -> None:
        """`imagebroker download` would fail or store other bytes."""
        with tempfile.TemporaryDirectory() as folder:
            for size in (0, 1, 64 * KIB + 1, 2 * MIB):
                data = random_bytes(size)
                ref = self.publish(data)
                dest = Path(folder, f"image-{size}")
                digest = hashlib.sha256(data).hexdigest()
                done = self.broker(ref).download(
                    self.context, ref, dest, checksum=f"sha256:{digest}"
                )
                self.assert_same(dest.read_bytes(), data, "the downloaded file")
                self.assertEqual(size, done.size)
            self.assertEqual(4, len(os.listdir(folder)))

    def test_c13_through_a_broker_into_a_file_object_and_a_reader(self) -> None:
        """Services that read images as a stream would fail or get other bytes."""
        data = random_bytes(MIB + 1)
        ref = self.publish(data)
        checksum = f"sha256:{hashlib.sha256(data).hexdigest()}"
        broker = self.broker(ref)
        target = io.BytesIO()
        broker.download(self.context, ref, target, checksum=checksum)
        self.assert_same(target.getvalue(), data, "what the file object received")
        with broker.open(self.context, ref, checksum=checksum) as reader:
            self.assert_same(b"".join(reader), data, "what the reader handed out")

    def test_c13_a_wrong_checksum_is_found_through_a_broker(self) -> None:
        """A user would get an image other than the one that was asked for."""
        ref = self.publish(random_bytes(100_000))
        with tempfile.TemporaryDirectory() as folder:
            error = self.error_of(
                "download",
                lambda: self.broker(ref).download(
                    self.context, ref, Path(folder, "image"), checksum=f"sha256:{'0' * 64}"
                ),
            )
            self.assertEqual([], os.listdir(folder))
        if not isinstance(error, VerificationError):
            self.fail(f"a wrong checksum is {type(error).__name__}: {error}")


class _Counted:
    """Counts bytes and keeps the last of them."""

    def __init__(self) -> None:
        self.size, self.tail = 0, b""

    def take(self, source: ImageSource) -> None:
        for chunk in source.read():
            self.size += len(chunk)
            self.tail = (self.tail + bytes(chunk[-100:]))[-100:]
