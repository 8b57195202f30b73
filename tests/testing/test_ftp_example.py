"""The example of a third party: installed with pip, enabled by configuration, held by the kit."""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from testtools.assertions import assert_that
from testtools.matchers import Contains, Equals, GreaterThan, HasLength

from tests.bounds import HANGS
from tests.servers.fixtures import require
from tests.servers.images import random_file
from tests.servers.tcp import Fault, TcpProxy

EXAMPLE = Path(__file__).parents[2] / "examples" / "imagebroker-ftp"


class Site:
    """A folder into which the example was installed, and a configuration that enables it."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.site = folder, folder / "site"
        self.environment = {
            "HOME": str(folder), "PATH": os.environ["PATH"], "LANG": "C.UTF-8",
            "PYTHONPATH": str(self.site),
        }  # fmt: skip
        # A copy: building leaves files beside the sources.
        shutil.copytree(EXAMPLE, folder / "source")
        self.run(
            "-m", "pip", "install", "--quiet", "--no-build-isolation", "--no-deps", "--no-index",
            "--disable-pip-version-check", "--target", str(self.site), str(folder / "source"),
        )  # fmt: skip

    def run(self, *arguments: str, status: int = 0) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            [sys.executable, *arguments], cwd=self.folder, env=self.environment,
            capture_output=True, text=True, timeout=HANGS, check=False,
        )  # fmt: skip
        assert_that(done.returncode, Equals(status), done.stdout + done.stderr)
        return done

    def command(self, *arguments: str, status: int = 0) -> subprocess.CompletedProcess[str]:
        return self.run("-m", "imagebroker", *arguments, status=status)

    @contextlib.contextmanager
    def server(self, folder: Path) -> Iterator[int]:
        """The port of the example's own FTP server, serving a folder."""
        program = (
            "import sys; from pathlib import Path; from imagebroker_ftp.contract import FtpServer\n"
            "server = FtpServer(Path(sys.argv[1]))\n"
            "print(server.port, flush=True)\n"
            "sys.stdin.read()\n"
            "server.close()\n"
        )
        with subprocess.Popen(
            [sys.executable, "-c", program, str(folder)], env=self.environment, text=True,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        ) as process:  # fmt: skip
            assert process.stdout is not None
            yield int(process.stdout.readline())
            process.communicate()


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Site:
    missing = importlib.util.find_spec("pyftpdlib") is None
    require("pyftpdlib is not installed: pip install pyftpdlib" if missing else None)
    return Site(tmp_path_factory.mktemp("ftp"))


def test_it_passes_the_kit(site: Site) -> None:
    rows = json.loads(site.command("backend", "test", "ftp", "-f", "json").stdout)
    assert_that([row for row in rows if row["result"] == "failed"], HasLength(0))
    assert_that(len([row for row in rows if row["result"] == "passed"]), GreaterThan(60))


def test_enabling_its_scheme_is_all_that_it_needs(site: Site, tmp_path: Path) -> None:
    data = random_file(tmp_path / "image.raw", 3_000_017).read_bytes()
    digest = hashlib.sha256(data).hexdigest()
    config = (EXAMPLE / "ftp.conf").read_text()
    with site.server(tmp_path) as port, TcpProxy("127.0.0.1", port) as proxy:
        login = f"endpoint = ftp://127.0.0.1:{proxy.port}/\nusername = kit\npassword = kit-password"
        (site.folder / "my.conf").write_text(config.replace("endpoint =", login, 1))
        ref = f"ftp://127.0.0.1:{proxy.port}/image.raw#sha256={digest}"
        done = site.command("--config-file", "my.conf", "download", ref, "copy")
        assert_that(done.stderr, Contains("verified"))
        assert_that((site.folder / "copy").read_bytes(), Equals(data))
        proxy.fault_for = {proxy.connections: Fault(refuse=True)}
        site.command("--config-file", "my.conf", "download", ref, "again")
        missing = f"ftp://127.0.0.1:{proxy.port}/missing.raw"
        site.command("--config-file", "my.conf", "show", missing, status=3)
        (site.folder / "none.conf").write_text("[imagebroker]\nenabled_schemes = file\n")
        site.command("--config-file", "none.conf", "show", missing, status=7)


def test_the_password_goes_to_no_other_server(site: Site, tmp_path: Path) -> None:
    (tmp_path / "image.raw").write_bytes(b"an image")
    config = (EXAMPLE / "ftp.conf").read_text()
    login = "endpoint = ftp://127.0.0.1:2121/\nusername = kit\npassword = kit-password"
    (site.folder / "other.conf").write_text(config.replace("endpoint =", login, 1))
    with site.server(tmp_path) as port, TcpProxy("127.0.0.1", port) as proxy:
        ref = f"ftp://127.0.0.1:{proxy.port}/image.raw"
        done = site.command("--config-file", "other.conf", "show", ref, status=4)
        assert_that(done.stderr, Contains("hint: set username"))
        assert b"kit" not in proxy.passages[0].first
        assert b"anonymous" in proxy.passages[0].first
