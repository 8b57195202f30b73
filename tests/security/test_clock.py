"""A clock that jumps: what is limited in time is measured by a clock that does not."""

from __future__ import annotations

import datetime
import itertools
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from testtools.assertions import assert_that
from testtools.matchers import Equals

import imagebroker
from imagebroker.exceptions import TransferTimeout
from tests.bounds import in_time
from tests.plugins.glance_stub import ID, OneImage, Stub, caller
from tests.plugins.http_peers import answer
from tests.servers.raw import RawServer

DAY = 86400.0
DATA = bytes(range(256)) * 1000


@pytest.fixture(params=[DAY, -DAY], ids=["a day forward", "a day back"])
def jumping(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every look at the clock finds it another day further."""
    real, looks = time.time, itertools.count(1)
    real_ns = time.time_ns

    class Jumping(datetime.datetime):
        @classmethod
        def now(cls, tz: Any = None) -> Any:
            jumped = datetime.timedelta(seconds=next(looks) * request.param)
            return datetime.datetime.fromtimestamp(real(), tz) + jumped

    def jump() -> float:
        return real() + next(looks) * float(request.param)

    clocks: dict[Any, Any] = {
        real: jump,
        real_ns: lambda: real_ns() + int(next(looks) * request.param * 1e9),
        datetime.datetime: Jumping,
    }
    for module, name, clock in clocks_of_the_product(clocks):
        monkeypatch.setattr(module, name, clocks[clock])
    monkeypatch.setattr(time, "time", jump)
    monkeypatch.setattr(time, "time_ns", clocks[real_ns])


def clocks_of_the_product(clocks: Iterable[Any]) -> Iterator[tuple[ModuleType, str, Any]]:
    """Every name under which a module of ours looks at a clock."""
    for title, module in list(sys.modules.items()):
        if title.partition(".")[0].startswith("imagebroker"):
            for name, value in list(vars(module).items()):
                if any(value is clock for clock in clocks):
                    yield module, name, value


def config(kind: str, where: str, stall: float) -> tuple[str, str]:
    core = (
        "[imagebroker]\nenabled_schemes = http, glance\nretries = 2\nretry_backoff = 0\n"
        f"stall_timeout = {stall}\nconnect_timeout = 5\ndeadline = 20\nkeep_partial = true\n"
    )
    if kind == "http":
        return core + "[backend:http]\nallowed_networks = 127.0.0.1/32\n", f"{where}/image"
    return core + f"[backend:glance]\nendpoint = {where}/\n", f"glance:{ID}"


@pytest.mark.promise("time-limits")
@pytest.mark.usefixtures("jumping")
@pytest.mark.parametrize("kind", ["http", "glance"])
def test_a_download_that_takes_a_moment_is_not_given_up(
    kind: str, make_broker: Callable[[str], imagebroker.Broker], tmp_path: Path
) -> None:
    """It is cut once and goes on, so that every limit is looked at."""
    whole = answer(DATA, 'ETag: "1"', "Accept-Ranges: bytes")
    part = answer(
        DATA[100_000:], 'ETag: "1"', f"Content-Range: bytes 100000-{len(DATA) - 1}/{len(DATA)}",
        status="206 Part",
    )  # fmt: skip
    busy = answer(b"", "Retry-After: Sun, 06 Nov 1994 08:49:37 GMT", status="503 Busy")
    replies = iter([busy, whole[: len(whole) - len(DATA) + 100_000], part])
    image = OneImage(DATA)
    image.file = lambda request, connection: connection.sendall(next(replies))

    def script(connection: Any, index: int) -> None:
        connection.read_head()
        connection.sendall(next(replies))

    with RawServer(script) if kind == "http" else Stub(image) as server:
        text, ref = config(kind, server.url, stall=10)
        make_broker(text).download(caller(), ref, tmp_path / "image")
    assert_that((tmp_path / "image").read_bytes() == DATA, Equals(True))


@pytest.mark.promise("time-limits")
@pytest.mark.usefixtures("jumping")
@pytest.mark.parametrize("kind", ["http", "glance"])
def test_a_stall_ends_when_it_should(
    kind: str, make_broker: Callable[[str], imagebroker.Broker], tmp_path: Path
) -> None:
    begin = answer(DATA, 'ETag: "1"')[:-1000]
    image = OneImage(DATA)

    def stall(connection: Any) -> None:
        connection.sendall(begin)
        connection.wait_for_close(20)

    image.file = lambda request, connection: stall(connection)

    def script(connection: Any, index: int) -> None:
        connection.read_head()
        stall(connection)

    with RawServer(script) if kind == "http" else Stub(image) as server:
        text, ref = config(kind, server.url, stall=0.5)
        began = time.monotonic()
        with pytest.raises(TransferTimeout):
            make_broker(text).download(caller(), ref, tmp_path / "image", retries=0)
        assert_that(time.monotonic() - began, in_time(1))
