"""Whoever makes mistakes with the command, what it says of them, and a web server to make them at."""

from __future__ import annotations

import hashlib
import json
import os
import re
import ssl
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from testtools.assertions import assert_that
from testtools.matchers import Equals, MatchesRegex

from tests.cli.conftest import Inside
from tests.servers.raw import Connection, RawServer

DATA = bytes(range(256)) * 40
DIGEST = hashlib.sha256(DATA).hexdigest()
IMAGE = "3f2504e0-4f89-11d3-9a0c-0305e82c3301"
HTTP = "[imagebroker]\nenabled_schemes = http, https\nretries = 0\n[backend:http]\n"
LOCAL = f"{HTTP}allowed_networks = 127.0.0.1\n"


@dataclass
class Mistake:
    """What the command says of one."""

    id: str
    message: str
    where: str | None
    hint: str
    exit_status: int

    @property
    def line(self) -> str:
        """The line for the config file that the hint holds, `option = value`."""
        found = re.search(r"\b([a-z_]+ = [^;(]*[^;( ])", self.hint)
        assert found is not None, self.hint
        return found[1]


class Person:
    """Makes mistakes with the command, and corrects them."""

    def __init__(self, imagebroker: Inside) -> None:
        self.run = imagebroker
        self.work = imagebroker.work
        self.config = imagebroker.folder / "config" / "imagebroker" / "imagebroker.conf"

    def writes(self, text: str) -> None:
        self.run.config(text)

    def replaces(self, old: str, new: str) -> None:
        self.config.write_text(self.config.read_text().replace(old, new))

    def adds(self, line: str) -> None:
        """At the end of the config file, which is in the section that it is about."""
        self.config.write_text(f"{self.config.read_text()}{line}\n")

    def fails(self, *argv: str) -> Mistake:
        done = self.run(*argv, "-f", "json")
        said = json.loads(done.stderr.splitlines()[-1])
        assert_that(done.status, Equals(said["exit_status"]))
        assert_that(said["hint"], MatchesRegex("(?s).+"), "a mistake without a remedy")
        assert_that(
            [name for name in os.listdir(self.work) if "imagebroker-part" in name], Equals([])
        )
        return Mistake(said["id"], said["message"], said["where"], said["hint"], done.status)

    def succeeds(self, *argv: str) -> None:
        done = self.run(*argv)
        assert_that(done.status, Equals(0), done.stderr)

    def types(self, line: str) -> None:
        """A line of shell, such as a hint holds."""
        subprocess.run(line, shell=True, check=True, capture_output=True, cwd=self.work, timeout=30)

    def checks(self) -> list[dict[str, str]]:
        found: list[dict[str, str]] = self.run("check", "-f", "json").record
        return found


@contextmanager
def web(certificate: Path | None = None, status: str = "200 OK", port: int = 0) -> Iterator[str]:
    """The URL of an image on a web server."""

    def serve(connection: Connection, number: int) -> None:
        connection.read_head()
        head = f"HTTP/1.1 {status}\r\nContent-Length: {len(DATA)}\r\nConnection: close\r\n\r\n"
        connection.sendall(head.encode() + DATA)

    tls = None
    if certificate is not None:
        tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        tls.load_cert_chain(certificate)
    with RawServer(serve, tls=tls) as server:
        yield f"{server.url}/disk.raw"
