"""What a download has used is freed when it ends: it does not wait for the garbage collector, which
a service may not start for a long time."""

from __future__ import annotations

import gc
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from testtools import ExpectedException
from testtools.assertions import assert_that
from testtools.matchers import Equals

import imagebroker
from imagebroker.exceptions import ChecksumMismatch, TooLarge
from tests.plugins.http.test_downloads import CONFIG
from tests.servers.nginx import Nginx
from tests.servers.tcp import Fault, TcpProxy

pytestmark = pytest.mark.promise("memory")

Broken = tuple[dict[str, Any], type[imagebroker.ImageBrokerError]]
BROKEN: dict[str, Broken] = {
    "cut": ({}, imagebroker.TransferError),
    "missing": ({}, imagebroker.ImageNotFound),
    "too large": ({"max_size": 1000}, TooLarge),
    "of another digest": ({"checksum": "sha256:" + "0" * 64}, ChecksumMismatch),
}


@contextmanager
def left_over(found: Counter[str]) -> Iterator[None]:
    """Count what is left to the garbage collector of what is ours, and of what holds data."""
    gc.collect()
    gc.disable()
    try:
        yield
        gc.set_debug(gc.DEBUG_SAVEALL)
        gc.collect()
        gc.set_debug(0)
        for each in gc.garbage:
            for held in (each, *gc.get_referents(each)):
                ours = type(held).__module__.startswith("imagebroker")
                if ours or isinstance(held, (bytearray, memoryview)):
                    found[type(held).__name__] += 1
    finally:
        gc.set_debug(0)
        gc.garbage.clear()
        gc.enable()


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_of_a_complete_download(
    scheme: str, nginx: Nginx, image: Path, make_broker: Callable[..., imagebroker.Broker],
    tmp_path: Path,
) -> None:  # fmt: skip
    broker = make_broker(CONFIG.format(f"ca_file = {nginx.ca_file}"))
    url = f"{nginx.https_url if scheme == 'https' else nginx.http_url}/{image.name}"

    def download() -> None:
        broker.download(None, url, tmp_path / "dest")
        with (tmp_path / "file").open("w+b") as file:
            broker.download(None, url, file)
        with broker.open(None, url) as reader:
            while reader.read(100_000):
                pass

    assert_that(_left_by(download), Equals({}))


@pytest.mark.parametrize("how", BROKEN)
def test_of_a_download_that_fails(
    how: str, nginx: Nginx, image: Path, make_broker: Callable[..., imagebroker.Broker],
    tmp_path: Path,
) -> None:  # fmt: skip
    broker = make_broker(CONFIG.format(""))
    options, expected = BROKEN[how]
    fault = Fault(cut_after=700_000) if how == "cut" else Fault()
    with TcpProxy("127.0.0.1", nginx.ports["http"], fault) as proxy:
        name = image.name if how != "missing" else "none.img"
        url = f"http://127.0.0.1:{proxy.port}/{name}"

        def download() -> None:
            for dest in ("dest", "other"):
                with ExpectedException(expected):
                    broker.download(None, url, tmp_path / dest, retries=0, **options)

        assert_that(_left_by(download), Equals({}))


def _left_by(download: Callable[[], None]) -> Counter[str]:
    download()  # what is loaded with the first one is no rule
    found = Counter[str]()
    with left_over(found):
        download()
    return found
