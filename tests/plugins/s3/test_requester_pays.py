"""A bucket whose owner wants others to pay: every request says that we do."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest
from testtools.assertions import assert_that
from testtools.matchers import Equals

import imagebroker
from tests.servers.raw import Connection, RawServer

pytest.importorskip("boto3")
DATA = b"\0data"


@pytest.mark.parametrize("pays", [True, False])
def test_a_request_for_a_record_or_bytes_agrees_to_pay_where_that_is_set(
    pays: bool, make_broker: Callable[..., imagebroker.Broker], tmp_path: Path
) -> None:
    asked: list[tuple[str, bool, bool]] = []

    def talk(connection: Connection, index: int) -> None:
        while head := connection.read_head().decode("latin-1").lower():
            method = head.partition(" ")[0]
            signed = re.search(r"signedheaders=([\w;-]+)", head)
            asked.append((
                method,
                "\r\nx-amz-request-payer: requester\r\n" in head,
                signed is not None and "x-amz-request-payer" in signed[1].split(";"),
            ))  # fmt: skip
            connection.sendall(
                b'HTTP/1.1 200 OK\r\nETag: "1"\r\nContent-Length: %d\r\n\r\n' % len(DATA)
                + (b"" if method == "head" else DATA)
            )

    with RawServer(talk) as server:
        broker = make_broker(
            "[imagebroker]\nenabled_schemes = s3\nretries = 0\n[backend:s3]\n"
            f"endpoint_url = http://127.0.0.1:{server.port}\naccess_key = a\nsecret_key = b\n"
            f"requester_pays = {pays}\n"
        )
        broker.download(None, "s3://bucket/disk", tmp_path / "disk")
    assert_that((tmp_path / "disk").read_bytes(), Equals(DATA))
    assert_that(set(asked), Equals({("head", pays, pays), ("get", pays, pays)}))
