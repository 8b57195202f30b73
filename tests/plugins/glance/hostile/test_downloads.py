"""The whole way, through a broker."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from testtools.assertions import assert_that
from testtools.matchers import Equals, Is

import imagebroker
from imagebroker.plugin import PolicyViolation, VerificationError
from tests.plugins.glance_stub import DATA, ID, OneImage, Request, Stub, answer, caller
from tests.servers.raw import Connection

MakeBroker = Callable[[str], imagebroker.Broker]


def through(stub: Stub, make_broker: MakeBroker, core: str = "") -> imagebroker.Broker:
    return make_broker(
        f"[imagebroker]\nenabled_schemes = glance\nretry_backoff = 0\n{core}\n"
        f"[backend:glance]\nendpoint = {stub.endpoint}\n"
    )


WITHOUT_DIGEST = {"os_hash_algo": None, "os_hash_value": None}


@pytest.mark.promise("security-26")
@pytest.mark.parametrize(
    ("changes", "asked"),
    [
        ({"os_hash_value": "ab" * 64}, True),
        ({"os_hash_algo": None}, False),
        ({"os_hash_value": ""}, False),
        ({"os_hash_algo": "crc32"}, False),
        ({"os_hash_algo": "shake_128"}, False),
        ({"os_hash_algo": "md5", "os_hash_value": hashlib.md5(DATA).hexdigest()}, False),
        ({**WITHOUT_DIGEST, "checksum": None}, False),
        (WITHOUT_DIGEST, False),
    ],
)
def test_what_no_strong_digest_proves_is_not_stored(
    glance: tuple[Stub, OneImage],
    make_broker: MakeBroker,
    tmp_path: Path,
    changes: dict[str, Any],
    asked: bool,
) -> None:
    stub, image = glance
    image.record.update(changes)
    with pytest.raises((VerificationError, PolicyViolation)):
        through(stub, make_broker).download(caller(), f"glance:{ID}", tmp_path / "image")
    assert_that((tmp_path / "image").exists(), Is(False))
    assert_that(stub.count("GET", "/file"), Equals(int(asked)))


def test_md5_alone_will_do_where_the_deployer_says_so(
    glance: tuple[Stub, OneImage], make_broker: MakeBroker, tmp_path: Path
) -> None:
    stub, image = glance
    image.record.update(WITHOUT_DIGEST)
    broker = through(stub, make_broker, "allow_md5 = true")
    broker.download(caller(), f"glance:{ID}", tmp_path / "image")
    assert_that((tmp_path / "image").read_bytes() == DATA, Is(True))


def test_another_images_bytes_of_the_same_size_are_noticed(
    glance: tuple[Stub, OneImage], make_broker: MakeBroker, tmp_path: Path
) -> None:
    stub, image = glance
    image.data = bytes(len(DATA))
    with pytest.raises(VerificationError):
        through(stub, make_broker).download(caller(), f"glance:{ID}", tmp_path / "image")
    assert_that((tmp_path / "image").exists(), Is(False))


def test_a_server_that_ignores_ranges_costs_a_new_beginning(
    glance: tuple[Stub, OneImage], make_broker: MakeBroker, tmp_path: Path
) -> None:
    stub, image = glance
    asked: list[str | None] = []

    def file(request: Request, connection: Connection) -> bytes | None:
        asked.append(request.headers.get("range"))
        if len(asked) == 1:
            connection.sendall(image.good_file(request)[:100_000])
            return None
        return answer(200, DATA)

    image.file = file
    through(stub, make_broker).download(caller(), f"glance:{ID}", tmp_path / "image")
    assert_that((tmp_path / "image").read_bytes() == DATA, Is(True))
    assert_that(asked[0], Is(None))
    assert_that(asked[-1], Is(None))
