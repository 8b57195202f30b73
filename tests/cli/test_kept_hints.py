"""A hint that bytes are kept is true: the command that it names asks for no more than the rest."""

from __future__ import annotations

import hashlib
import os
import random
import re
import shlex
from pathlib import Path
from typing import Any

import pytest
from testtools.assertions import assert_that
from testtools.matchers import Contains, Equals, Is, LessThan, Not

from tests.cli.conftest import Inside
from tests.servers.cutting import CuttingServer
from tests.servers.nginx import Nginx
from tests.servers.raw import RawServer
from tests.servers.sshd import Sshd
from tests.servers.tcp import Fault, TcpProxy

MIB = 1 << 20
DATA = random.Random(8).randbytes(24 * MIB)
CUT = 16 * MIB
SHA256 = hashlib.sha256(DATA).hexdigest()
#: What a server may send before it notices that a connection was closed.
SLACK = 6 * MIB
_HINT = re.compile(r"hint: .*16\.0 MiB are kept; resume with: (imagebroker .*)")

DIGEST = ("--checksum", f"sha256:{SHA256}")
KINDS: dict[str, tuple[dict[str, Any], tuple[str, ...], bool]] = {
    # Of the server; options of the command; whether the hint may be given.
    "ranges, strong": ({}, (), True),
    "ranges, strong, digest": ({}, DIGEST, True),
    "ranges, weak, digest": ({"etag": 'W/"1"'}, DIGEST, True),
    "ranges, none, digest": ({"etag": None}, DIGEST, True),
    "ranges, weak": ({"etag": 'W/"1"'}, (), False),
    "ranges, none": ({"etag": None}, (), False),
    "only shown, digest": ({"ranges": "shown"}, DIGEST, False),
    "refused, digest": ({"ranges": "refused"}, DIGEST, False),
    "ignored, digest": ({"ranges": "ignored"}, DIGEST, False),
    "ignored, strong": ({"ranges": "ignored"}, (), False),
    "chunked, digest": ({"ends": "chunked"}, DIGEST, False),
    "ends with the connection, digest": ({"ends": "close"}, DIGEST, False),
    "encoded, digest": ({"fields": ["Content-Encoding: aws-chunked"]}, DIGEST, True),
    "unpacked, digest": ({}, (*DIGEST, "--decompress"), False),
    "not kept, digest": ({}, (*DIGEST, "--no-keep-partial"), False),
}


def shown(stderr: str) -> list[str] | None:
    """The command that a hint names, in words."""
    found = _HINT.search(stderr)
    return None if found is None else shlex.split(found[1])[1:]


@pytest.mark.promise("kept-hints")
@pytest.mark.parametrize("kind", KINDS)
def test_what_the_hint_says_comes_true(kind: str, imagebroker: Inside) -> None:
    how, options, expected = KINDS[kind]
    server = CuttingServer(DATA, CUT, **how)
    with RawServer(server) as raw:
        argv = ("download", f"{raw.url}/a.img", "o.img", "--retries", "0", *options)
        first = imagebroker(*argv)
        command = shown(first.stderr)
        assert_that(command is not None, Is(expected))
        assert_that(bool(command) or "kept" not in first.stderr, Is(True))
        if command is None:
            return
        assert_that(tuple(command), Equals(argv))
        before = server.sent
        again = imagebroker(*command)
        sent = server.sent - before
    assert_that(again.status, Equals(0))
    assert_that(Path("o.img").read_bytes() == DATA, Is(True))
    assert_that(sent, LessThan(len(DATA) - CUT + SLACK))
    assert_that(server.answers[-1][1], Equals(CUT))
    assert_that(os.listdir("."), Equals(["o.img"]))


@pytest.mark.promise("kept-hints")
@pytest.mark.parametrize("ranges", ["shown", "ignored"])
def test_once_it_was_tried_it_is_known_whether_a_server_begins_in_the_middle(
    ranges: str, imagebroker: Inside
) -> None:
    """One retry shows it, though no header says it."""
    server = CuttingServer(DATA, 8 * MIB, ranges=ranges)
    answered = 0

    def refuse(line: str) -> str | None:
        nonlocal answered
        answered += 1
        return None if answered != 3 else "503 Busy"

    server.refuse = refuse
    with RawServer(server) as raw:
        argv = ("download", f"{raw.url}/a.img", "o.img", "--retries", "1", *DIGEST)
        first = imagebroker(*argv)
        command = shown(first.stderr)
        if ranges == "ignored":
            assert_that((command, os.listdir(".")), Equals((None, [])))
            return
        assert_that(command, Not(Is(None)))
        server.cut = len(DATA)
        imagebroker(*argv)
    assert_that(server.answers[-1][1], Equals(CUT))


def test_of_what_may_be_kept_in_vain_nothing_is_promised_and_it_is_tried(
    imagebroker: Inside,
) -> None:
    server = CuttingServer(DATA, CUT, ranges="shown")
    with RawServer(server) as raw:
        argv = ("download", f"{raw.url}/a.img", "o.img", "--retries", "0", *DIGEST)
        assert_that(imagebroker(*argv).stderr, Not(Contains("kept")))
        again = imagebroker(*argv)
    assert_that(again.status, Equals(0))
    assert_that(server.answers[-1][1], Equals(CUT))


def test_the_hint_comes_true_with_nginx(nginx: Nginx, imagebroker: Inside) -> None:
    (nginx.root / "hinted.img").write_bytes(DATA)
    for prefix, options in (("", ()), ("noetag", DIGEST)):
        with TcpProxy("127.0.0.1", nginx.ports["http"], Fault(cut_after=CUT), only=0) as proxy:
            url = "/".join(filter(None, [f"http://127.0.0.1:{proxy.port}", prefix, "hinted.img"]))
            name = f"{prefix}.img"
            first = imagebroker("download", url, name, "--retries", "0", *options)
            found = re.search(r"MiB are kept; resume with: (.*)", first.stderr)
            assert_that(found, Not(Is(None)))
            before = proxy.received
            again = imagebroker(*shlex.split(found[1] if found else "")[1:])
            assert_that(again.stderr, Contains("resumed at 1"))
            assert_that(proxy.received - before, LessThan(len(DATA) - CUT + SLACK))
        assert_that(Path(name).read_bytes() == DATA, Is(True))


def test_the_hint_comes_true_with_sshd(sshd: Sshd, imagebroker: Inside, tmp_path: Path) -> None:
    image = tmp_path / "image.raw"
    image.write_bytes(DATA)
    with TcpProxy("127.0.0.1", sshd.port, Fault(cut_after=CUT), only=0) as proxy:
        known = tmp_path / "known_hosts"
        known.write_text(sshd.known_hosts.read_text().replace(str(sshd.port), str(proxy.port)))
        imagebroker.config(
            f"""\
            [imagebroker]
            enabled_schemes = scp
            [backend:scp]
            username = {sshd.user}
            identity_file = {sshd.key}
            known_hosts = {known}
            allowed_networks = 127.0.0.0/8
            """
        )
        url = f"scp://127.0.0.1:{proxy.port}{image}"
        first = imagebroker("download", url, "o.img", "--retries", "0", *DIGEST)
        found = re.search(r"MiB are kept; resume with: (.*)", first.stderr)
        assert_that(found, Not(Is(None)), first.stderr)
        before = proxy.received
        again = imagebroker(*shlex.split(found[1] if found else "")[1:])
        assert_that(again.stderr, Contains("resumed at 1"))
        assert_that(proxy.received - before, LessThan(len(DATA) - CUT + SLACK))
    assert_that(Path("o.img").read_bytes() == DATA, Is(True))
