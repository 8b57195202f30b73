"""What would be refused if it were published without compression is refused when it comes out."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from testtools.assertions import assert_that
from testtools.matchers import Equals

import imagebroker
from imagebroker.exceptions import FormatError
from tests.conftest import Scripted
from tests.core.decompression.packing import DATA, PACK, sha256
from tests.servers.nginx import Nginx
from tests.verify.specimens import DESCRIPTOR, overlay, patched, real
from tests.verify.ways import Way

PAGE = b"<!DOCTYPE html><html><title>Log in</title><form action='/login'></form></html>" * 9
UNSAFE: dict[str, Callable[[], bytes]] = {
    "a backing file": lambda: overlay("qcow2"),
    "a data file": lambda: real("qcow2 with a data file"),
    "an unknown feature": lambda: patched(real("qcow2"), 72, ">Q", 1 << 40),
    "a descriptor of other files": DESCRIPTOR.encode,
    "a disk that was cut": lambda: real("qcow2")[:200],
}


def refusal(get: Callable[[], Any]) -> str:
    with pytest.raises(FormatError) as refused:
        get()
    return str(refused.value).partition(": ")[2]


@pytest.mark.usefixtures("qemu_img")
@pytest.mark.promise("security-1", "security-2", "security-4")
@pytest.mark.parametrize("content", UNSAFE)
@pytest.mark.parametrize("record", [{}, {"disk_format": "qcow2"}, {"disk_format": "raw"}], ids=str)
def test_a_disk_that_reaches_for_other_files_is_refused_in_the_same_words(
    scripted: Scripted, way: Way, content: str, record: dict[str, str]
) -> None:
    data = UNSAFE[content]()
    plain, _ = scripted.image(data, "/plain", record=record)
    said = refusal(lambda: way.get(scripted.broker, plain))
    for kind, pack in PACK.items():
        packed, _ = scripted.image(pack(data), f"/{kind}", record=record)
        for how in (kind, "auto"):
            again = refusal(lambda: way.get(scripted.broker, packed, decompress=how))  # noqa: B023
            assert_that(again, Equals(said))
    way.assert_nothing_came(len(data))


@pytest.mark.usefixtures("qemu_img")
@pytest.mark.parametrize(
    ("core", "how"),
    [
        ("allowed_formats = raw", {}),
        ("", {"allowed_formats": ["raw"]}),
        ("max_virtual_size = 1024", {}),
    ],
    ids=["configured", "of the call", "too large"],
)
def test_what_the_deployer_or_the_caller_forbids_is_forbidden_inside(
    scripted: Scripted, way: Way, core: str, how: dict[str, Any]
) -> None:
    broker, data = scripted.configured(core), real("qcow2")
    plain, _ = scripted.image(data, "/plain")
    packed, _ = scripted.image(PACK["xz"](data), "/packed")
    said = refusal(lambda: way.get(broker, plain, **how))
    assert_that(refusal(lambda: way.get(broker, packed, decompress="xz", **how)), Equals(said))


class TestPages:
    """A server that compresses whatever it sends, its error pages too."""

    @pytest.fixture
    def broker(self, make_broker: Callable[..., imagebroker.Broker]) -> imagebroker.Broker:
        return make_broker(
            "[imagebroker]\nenabled_schemes = http\nretries = 0\n"
            "[backend:http]\nallowed_networks = 127.0.0.0/8\n"
        )

    @pytest.fixture
    def put(self, nginx: Nginx, tmp_path: Path) -> Callable[[bytes], str]:
        def put(data: bytes) -> str:
            name = f"{tmp_path.name}-{sha256(data)[:12]}.img"
            (nginx.root / name).write_bytes(data)
            return nginx.url(name)

        return put

    @pytest.mark.parametrize("kind", PACK)
    @pytest.mark.parametrize(
        "page",
        [PAGE, b"404 page not found\n", "\n<?xml version='1.0'?><Error/>".encode("utf-16")],
        ids=["a login", "text", "XML in UTF-16"],
    )
    def test_a_page_that_comes_out_is_no_image(
        self, broker: imagebroker.Broker, put: Callable[[bytes], str], way: Way, kind: str,
        page: bytes,
    ) -> None:  # fmt: skip
        said = refusal(lambda: way.get(broker, put(page)))
        packed = put(PACK[kind](page))
        for how in (kind, "auto"):
            again = refusal(lambda: way.get(broker, packed, decompress=how))  # noqa: B023
            assert_that(again, Equals(said))
        way.assert_nothing_came(len(page))

    def test_whoever_has_the_digest_wants_text(
        self, broker: imagebroker.Broker, put: Callable[[bytes], str], way: Way
    ) -> None:
        for content in (PAGE, DATA):
            packed = PACK["gzip"](content)
            data, _ = way.get(
                broker, put(packed), decompress="gzip", checksum=f"sha256:{sha256(packed)}"
            )
            assert_that(data[-len(content) :], Equals(content))
