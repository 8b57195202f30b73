"""Clauses C9 to C12, C34 and C37: what `open` finds, and what it says about it."""

from __future__ import annotations

import hashlib
import os
import re
import stat
from collections.abc import Mapping
from datetime import datetime
from typing import Any

from imagebroker.backends.backend import ImageSource
from imagebroker.exceptions import ImageNotFound, NotAuthorized, PolicyViolation
from imagebroker.model.image import Image, Location
from imagebroker.testing.hooks import Hooks, random_bytes


class OpeningClauses(Hooks):
    """C9 to C12, C34 and C37."""

    def test_c9_open_answers_with_a_source(self) -> None:
        """No image could be downloaded."""
        source = self.open(self.publish(b"an image"))
        if not isinstance(source, ImageSource):
            self.fail(f"open returned {type(source).__name__}, not an ImageSource")

    def test_c9_a_missing_image_is_not_found(self) -> None:
        """A user would be told of a broken service when the name is wrong."""
        ref = self.ref(self.missing_ref())
        error = self.error_of(
            f"open of {ref}, which is not there,", lambda: self.backend.open(self.context, ref)
        )
        if not isinstance(error, ImageNotFound):
            self.fail(f"a missing image is {type(error).__name__}: {error}")

    def test_c9_a_missing_image_is_not_found_through_a_broker(self) -> None:
        """A service could not tell a wrong name from a broken server."""
        ref = self.missing_ref()
        broker = self.broker(ref)
        for what, call in {
            "open": lambda: broker.open(self.context, ref).close(),
            "get": lambda: broker.get(self.context, ref),
        }.items():
            error = self.error_of(f"{what} of a missing image", call)
            if not isinstance(error, ImageNotFound):
                self.fail(f"{what} of a missing image is {type(error).__name__}: {error}")

    def test_c9_an_image_that_was_removed_is_not_found(self) -> None:
        """A stale answer would be taken for the image."""
        ref = self.publish(b"soon gone")
        with self.opened(ref) as source:
            self.bytes_of(source)
        self.take_away(ref)
        error = self.error_of("open", lambda: self.backend.open(self.context, self.ref(ref)))
        if not isinstance(error, ImageNotFound):
            self.fail(f"an image that was removed is {type(error).__name__}: {error}")

    def test_c9_a_forbidden_image_is_refused(self) -> None:
        """A user would be told of a broken service, and would try again and again."""
        ref = self.publish(b"forbidden")
        self.forbid(ref)
        error = self.error_of("open", lambda: self._first_byte(ref))
        if not isinstance(error, NotAuthorized | PolicyViolation | ImageNotFound):
            self.fail(f"a forbidden image is {type(error).__name__}: {error}")

    def _first_byte(self, ref: str) -> Any:
        source = self.backend.open(self.context, self.ref(ref))
        try:
            return next(iter(source.read()), b"")
        finally:
            source.close()

    def test_c34_probe_answers_what_open_would(self) -> None:
        """Callers would follow a transfer of other bytes, or download again what is there."""
        ref = self.publish(random_bytes(100_000))
        with self.opened(ref) as source:
            opened = source.image
        probed = self.backend.probe(self.context, self.ref(ref))
        for name in ("version", "size", "checksums"):
            first, second = getattr(opened, name), getattr(probed, name)
            if first != second:
                self.fail(f"open settles {name} {first!r}, and probe answers {second!r}")

    def test_c34_revalidate_knows_the_version_from_another(self) -> None:
        """An old version would be left in place, or one that is up to date fetched again."""
        ref = self.publish(random_bytes(100_000))
        probed = self.backend.probe(self.context, self.ref(ref))
        if probed.version is None:
            self.skipTest("its images have no version")
        other = re.sub(
            "[0-9A-Za-z]", lambda m: "1" if m[0] == "0" else "0", probed.version, count=1
        )
        for version in (probed.version, other):
            found = self.backend.revalidate(self.context, self.ref(ref), version)
            if found.version != probed.version:
                self.fail(
                    f"the image has the version {probed.version!r}, and revalidate answers "
                    f"{found.version!r} to a caller that has {version!r}"
                )

    def test_c34_probe_of_a_missing_image_is_not_found(self) -> None:
        """An image that was removed would be handed out from somebody else's transfer."""
        ref = self.ref(self.missing_ref())
        error = self.error_of(
            f"probe of {ref}, which is not there,", lambda: self.backend.probe(self.context, ref)
        )
        if not isinstance(error, ImageNotFound):
            self.fail(f"a missing image is {type(error).__name__}: {error}")

    def test_c34_probe_of_a_forbidden_image_is_refused(self) -> None:
        """Who may not read an image would get it from the transfer of somebody who may."""
        ref = self.publish(b"forbidden")
        self.forbid(ref)
        error = self.error_of("probe", lambda: self.backend.probe(self.context, self.ref(ref)))
        if not isinstance(error, NotAuthorized | PolicyViolation | ImageNotFound):
            self.fail(f"a forbidden image is {type(error).__name__}: {error}")

    def test_c37_opened_at_a_later_byte_it_is_the_same_image(self) -> None:
        """A download that goes on would get other bytes, or begin again."""
        data, start = random_bytes(300_000), 200_000
        ref = self.publish(data)
        first = self.open(ref).image
        for begin in (start, 0):
            source = self.backend.open_at(self.context, self.ref(ref), start)
            self.addCleanup(source.close)
            for name in ("version", "size"):
                one, other = getattr(first, name), getattr(source.image, name)
                if one != other:
                    self.fail(f"open settles {name} {one!r}, and open_at {other!r}")
            if source.seekable or not begin:
                found = self.read_from(source, begin)
                self.assert_same(found, data[begin:], f"opened at {start}, read from {begin}")

    def test_c9_two_sources_of_one_image_are_independent(self) -> None:
        """Closing one download would end another."""
        data = random_bytes(300_000)
        ref = self.publish(data)
        with self.opened(ref) as other:
            with self.opened(ref) as source:
                self.take(source, most=1)
            self.assert_same(self.bytes_of(other), data, "a source beside one that was closed")

    def test_c10_its_claims_are_true(self) -> None:
        """The core would refuse a good image, or check it against nothing."""
        for size in (0, 1, 100_000):
            data = random_bytes(size)
            image = self.open(self.publish(data)).image
            if not isinstance(image, Image):
                self.fail(f"source.image is {type(image).__name__}, not an Image")
            if image.size not in (None, size) or isinstance(image.size, bool):
                self.fail(f"image.size is {image.size!r} for {size} bytes; unknown is None")
            self._check_checksums(image, data)

    def _check_checksums(self, image: Image, data: bytes) -> None:
        if not isinstance(image.checksums, Mapping):
            self.fail(f"image.checksums is {type(image.checksums).__name__}, not a mapping")
        for algorithm, digest in image.checksums.items():
            if algorithm not in hashlib.algorithms_available:
                self.fail(f"image.checksums names {algorithm!r}, which hashlib does not know")
            if hashlib.new(algorithm, data, usedforsecurity=False).hexdigest() != digest:
                self.fail(f"the {algorithm} that the record claims is not that of the bytes")

    def test_c10_what_is_unknown_is_none(self) -> None:
        """A service would take 0 or an empty name for what the image really has."""
        image = self.open(self.publish(b"known and unknown")).image
        for name in ("id", "name", "status", "visibility", "owner", "disk_format",
                     "container_format", "version"):  # fmt: skip
            value = getattr(image, name)
            if value is not None and (not isinstance(value, str) or not value):
                self.fail(f"image.{name} is {value!r}; unknown is None")
        for name in ("created_at", "updated_at", "deleted_at"):
            value = getattr(image, name)
            if value is not None and (not isinstance(value, datetime) or value.tzinfo is None):
                self.fail(f"image.{name} is {value!r}, not a datetime with a time zone")
        for name in ("virtual_size",):
            if getattr(image, name) == 0:
                self.fail(f"image.{name} is 0; unknown is None")
        for location in image.locations or ():
            if not isinstance(location, Location):
                self.fail(f"image.locations holds {location!r}, not a Location")

    def test_c10_image_ref_is_accepted_by_the_broker(self) -> None:
        """What one call returns could not be given to the next."""
        data = random_bytes(1000)
        published = self.publish(data)
        image = self.open(published).image
        if not isinstance(image.ref, str) or not image.ref:
            self.fail(f"image.ref is {image.ref!r}, not text")
        broker = self.broker(published, image.ref)
        found = broker.resolve(image.ref)
        self.assertEqual(self.cls.name, found.backend.partition(":")[0])
        with self.opened(image.ref) as source:
            self.assert_same(self.bytes_of(source), data, f"read through {image.ref}")

    def test_c11_version_stays_while_the_bytes_do(self) -> None:
        """Every broken download would begin again at byte 0, or end with ImageChanged."""
        ref = self.publish(random_bytes(1000))
        versions = {self.open(ref).image.version for _ in range(3)}
        versions.add(self.open(ref, self.new_backend()).image.version)
        if len(versions) != 1:
            self.fail(f"one image has the versions {sorted(map(str, versions))}")

    def test_c11_version_changes_with_the_bytes(self) -> None:
        """Halves of two images would be joined, and reported as one."""
        ref = self.publish(random_bytes(1000, seed=1))
        before = self.open(ref).image.version
        if before is None:
            self.skipTest("image.version is None: nothing is promised")
        # At once, and of the same size: what is made of size and time does not notice.
        self.replace(ref, random_bytes(1000, seed=2))
        after = self.open(ref, self.new_backend()).image.version
        if before == after:
            self.fail(f"other bytes have the same version {after!r}")

    def test_c12_what_open_settles_stays_settled(self) -> None:
        """The core would plan a transfer on what no longer holds."""
        source = self.open(self.publish(random_bytes(100_000)))
        before = source.image, source.parallel_reads, source.local_path
        seekable = source.seekable
        self.bytes_of(source)
        self.assertEqual(before, (source.image, source.parallel_reads, source.local_path))
        if source.seekable and not seekable:
            self.fail("seekable became true after open; it can only be lost")

    def test_c12_capabilities_are_what_they_must_be(self) -> None:
        """The core would fail on them, or never use them."""
        source = self.open(self.publish(b"capable"))
        if not isinstance(source.seekable, bool):
            self.fail(f"seekable is {source.seekable!r}, not True or False")
        reads = source.parallel_reads
        if not isinstance(reads, int) or isinstance(reads, bool) or reads < 1:
            self.fail(f"parallel_reads is {reads!r}, not a number from 1 up")
        if reads > 1 and not source.seekable:
            self.fail(f"parallel_reads is {reads}, and the source is not seekable")

    def test_c12_local_path_has_exactly_these_bytes(self) -> None:
        """A file that somebody else's bytes are in would be copied."""
        data = random_bytes(100_000)
        with self.opened(self.publish(data)) as source:
            path = source.local_path
            if path is None:
                self.skipTest("local_path is None")
            if not isinstance(path, os.PathLike):
                self.fail(f"local_path is {path!r}, not a path")
            if not stat.S_ISREG(os.stat(path).st_mode):
                self.fail(f"{path} is not a regular file")
            with open(path, "rb") as file:
                self.assert_same(file.read(), data, f"the file {path}")
            self.assert_same(self.bytes_of(source), data, "read beside local_path")
