"""A backend for files below allowed directories, and how it is read and refused."""

from __future__ import annotations

import gc
import os
import time
from collections.abc import Callable
from pathlib import Path
from urllib.parse import quote

import pytest
from imagebroker_file import FileBackend
from testtools.assertions import assert_that
from testtools.matchers import Equals

from imagebroker.exceptions import ImageBrokerError
from imagebroker.model.reference import check_form, parse
from imagebroker.plugin import ImageSource
from tests.bounds import in_time

DATA = bytes(range(256)) * 10_000
MakeBackend = Callable[..., FileBackend]


def uri(path: os.PathLike[str] | str | bytes) -> str:
    return "file://" + quote(os.fsencode(path))


def open_ref(backend: FileBackend, text: str) -> ImageSource:
    """As the core does it: the ref is parsed and held to the backend's form first."""
    ref = parse(text)
    check_form(ref, backend.ref_form)
    return backend.open(None, ref)


def content(source: ImageSource) -> bytes:
    try:
        return b"".join(source.read())
    finally:
        source.close()


def refused(backend: FileBackend, text: str, *kinds: type[ImageBrokerError]) -> ImageBrokerError:
    """The error, which came at once and left no descriptor behind."""
    before, begin = open_files(), time.monotonic()
    with pytest.raises(kinds) as caught:
        open_ref(backend, text).close()
    assert_that(time.monotonic() - begin, in_time(1))
    assert_that(open_files(), Equals(before))
    return caught.value


def open_files() -> list[str]:
    gc.collect()  # what an earlier test left to the garbage collector must not go in between
    return sorted(os.listdir("/proc/self/fd"))


def link_to_a_file(folder: Path, secret: Path) -> Path:
    (folder / "link").symlink_to(secret)
    return folder / "link"
