"""As a stranger would: an empty environment, `pip install '.[all]'`, and real servers."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from testtools.assertions import assert_that
from testtools.matchers import Contains, Equals, LessThan

from tests.bounds import HANGS
from tests.servers import nginx
from tests.servers.fixtures import require
from tests.servers.images import make_qcow2, missing
from tests.servers.nginx import Nginx
from tests.servers.openstack import OpenStack
from tests.servers.sshd import Sshd
from tests.servers.tcp import Fault, TcpProxy

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def command(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`imagebroker`, installed with pip into an empty virtual environment."""
    folder = tmp_path_factory.mktemp("fresh")
    subprocess.run([sys.executable, "-m", "venv", folder / "venv"], check=True)
    pip = [folder / "venv/bin/python", "-m", "pip", "--quiet", "--disable-pip-version-check"]
    subprocess.run([*pip, "install", f"{ROOT}[all]"], check=True, cwd=folder)
    return folder / "venv/bin/imagebroker"


class Shell:
    """Runs the command with a config file, in a folder and with a home of its own."""

    def __init__(self, command: Path, folder: Path) -> None:
        self.command, self.folder = command, folder
        self.config = folder / "imagebroker.conf"
        self.environment = {
            "PATH": os.environ["PATH"], "HOME": str(folder), "LANG": "C.UTF-8",
        }  # fmt: skip

    def __call__(self, *arguments: str | Path, status: int = 0) -> subprocess.CompletedProcess[str]:
        config = ["--config-file", self.config] if self.config.exists() else []
        done = subprocess.run(
            [self.command, *config, *arguments], cwd=self.folder, env=self.environment,
            capture_output=True, text=True, check=False, timeout=HANGS,
        )  # fmt: skip
        assert done.returncode == status, (done.returncode, done.stdout, done.stderr)
        return done


@pytest.fixture
def shell(command: Path, tmp_path: Path) -> Shell:
    return Shell(command, tmp_path)


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A qcow2 made by qemu-img."""
    if problem := missing():
        require(problem)
    folder = tmp_path_factory.mktemp("images")
    return make_qcow2(folder / "disk.qcow2", 64 << 20, data=8 << 20)


@pytest.fixture(scope="module")
def web(image: Path) -> Iterator[Nginx]:
    if problem := nginx.missing():
        require(problem)
    with Nginx(image.parent) as server:
        yield server


def same(one: Path, other: Path) -> None:
    digests = [hashlib.sha256(path.read_bytes()).hexdigest() for path in (one, other)]
    assert_that(digests[0], Equals(digests[1]))


class TestRealImage:
    """A qcow2 from each backend, byte for byte."""

    def test_an_id_in_the_embedded_store_without_any_config_file(
        self, shell: Shell, image: Path
    ) -> None:
        made = shell("create", "--file", image, "--name", "disk", "--disk-format", "qcow2",
                     "-f", "json")  # fmt: skip
        record = json.loads(made.stdout)
        shell("download", record["id"], "copy.qcow2")
        same(image, shell.folder / "copy.qcow2")
        shown = json.loads(shell("show", record["id"], "-f", "json").stdout)
        assert_that(shown["size"], Equals(image.stat().st_size))

    def test_a_file_below_an_allowed_directory(self, shell: Shell, image: Path) -> None:
        shell.config.write_text(
            "[imagebroker]\nenabled_schemes = file\n"
            f"[backend:file]\nstore_dir = {shell.folder}/store\nallowed_paths = {image.parent}\n"
        )
        shell("download", f"file://{image}", "copy.qcow2")
        same(image, shell.folder / "copy.qcow2")
        shell("download", "file:///etc/passwd", "passwd", status=4)

    @pytest.mark.parametrize("scheme", ["http", "https"])
    def test_a_web_server(self, shell: Shell, image: Path, web: Nginx, scheme: str) -> None:
        shell.config.write_text(
            f"[imagebroker]\nenabled_schemes = {scheme}\n"
            f"[backend:http]\nallowed_networks = 127.0.0.0/8\nca_file = {web.ca_file}\n"
        )
        url = (web.http_url if scheme == "http" else web.https_url).rstrip("/")
        shell("download", f"{url}/disk.qcow2", "copy.qcow2")
        same(image, shell.folder / "copy.qcow2")

    def test_an_ssh_server(self, shell: Shell, image: Path, sshd: Sshd) -> None:
        shell.config.write_text(
            "[imagebroker]\nenabled_schemes = scp\n"
            f"[backend:scp]\nallowed_networks = 127.0.0.0/8\nknown_hosts = {sshd.known_hosts}\n"
            f"identity_file = {sshd.key}\nusername = {sshd.user}\n"
        )
        shell("download", f"scp://{sshd.host}:{sshd.port}{image}", "copy.qcow2")
        same(image, shell.folder / "copy.qcow2")

    @pytest.mark.parametrize("form", ["glance:{}", "{}", "{endpoint}/v2/images/{}"])
    def test_glance_with_keystone(
        self, shell: Shell, image: Path, openstack: OpenStack, form: str
    ) -> None:
        image_id = openstack.create_image(image.read_bytes(), user="red", disk_format="qcow2")
        options = "".join(f"{k} = {v}\n" for k, v in openstack.auth_options("red").items())
        endpoint = openstack.endpoint.rstrip("/")
        shell.config.write_text(
            "[imagebroker]\nenabled_schemes = glance\ndefault_backend = glance\n"
            f"[backend:glance]\nendpoint = {endpoint}/\n{options}"
        )
        shell("download", form.format(image_id, endpoint=endpoint), "copy.qcow2")
        same(image, shell.folder / "copy.qcow2")


class TestFailures:
    """Each ends with its own status, a line that says what to do, and dest as it was."""

    @pytest.fixture
    def url(self, shell: Shell, web: Nginx) -> str:
        shell.config.write_text(
            "[imagebroker]\nenabled_schemes = http, scp\nretries = 0\n"
            f"[backend:http]\nallowed_networks = 127.0.0.0/8\n"
            f"[backend:scp]\nallowed_networks = 127.0.0.0/8\nusername = nobody\n"
            f"known_hosts = {shell.folder}/known_hosts\n"
        )
        (shell.folder / "dest").write_bytes(b"what was there")
        return web.http_url.rstrip("/") + "/disk.qcow2"

    def fails(self, shell: Shell, status: int, *arguments: str) -> str:
        inode = (shell.folder / "dest").stat().st_ino
        done = shell("download", *arguments, status=status)
        assert_that((shell.folder / "dest").read_bytes(), Equals(b"what was there"))
        assert_that((shell.folder / "dest").stat().st_ino, Equals(inode))
        assert_that([p.name for p in shell.folder.iterdir() if "part" in p.name], Equals([]))
        assert_that(done.stderr, Contains("hint:"))
        assert_that("Traceback" in done.stderr, Equals(False))
        return done.stderr

    def test_a_wrong_checksum(self, shell: Shell, url: str) -> None:
        self.fails(shell, 6, url, "dest", "--checksum", "sha256:" + "0" * 64)

    def test_a_cut_connection_with_no_retry_left(self, shell: Shell, url: str, web: Nginx) -> None:
        with TcpProxy("127.0.0.1", web.ports["http"], Fault(cut_after=100_000)) as proxy:
            url = f"http://127.0.0.1:{proxy.port}/disk.qcow2"
            self.fails(shell, 5, url, "dest", "--no-keep-partial")
            # By default the command leaves what a later call goes on with, and nothing else.
            shell("download", url, "dest", status=5)
        left = [p.name for p in shell.folder.iterdir() if "imagebroker-" in p.name]
        assert_that(len(left), Equals(2))
        assert_that((shell.folder / "dest").read_bytes(), Equals(b"what was there"))

    def test_an_unknown_host_key(self, shell: Shell, url: str, sshd: Sshd) -> None:
        told = self.fails(shell, 4, f"scp://{sshd.host}:{sshd.port}/etc/hostname", "dest")
        assert_that(told, Contains("ssh-keyscan"))

    def test_a_scheme_that_is_not_enabled(self, shell: Shell, url: str) -> None:
        assert_that(self.fails(shell, 7, "file:///etc/passwd", "dest"), Contains("enabled_schemes"))

    def test_a_full_disk(self, shell: Shell, url: str) -> None:
        if os.geteuid() != 0:
            pytest.skip("needs root to mount a small file system")
        small = shell.folder / "small"
        small.mkdir()
        subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", small], check=True)
        try:
            done = shell("download", url, "small/dest", status=9)
            assert_that(list(small.iterdir()), Equals([]))
            assert_that(done.stderr, Contains("free some space"))
        finally:
            subprocess.run(["umount", small], check=True)

    def test_a_missing_image(self, shell: Shell, url: str) -> None:
        self.fails(shell, 3, url + ".missing", "dest")

    def test_a_malformed_ref(self, shell: Shell, url: str) -> None:
        self.fails(shell, 2, "http:/x", "dest")


@pytest.mark.promise("memory")
def test_ten_gibibytes_from_a_server_need_less_than_100_mib_of_memory(
    shell: Shell, web: Nginx, image: Path
) -> None:
    big = image.parent / "big.raw"
    with open(big, "wb") as file:
        file.truncate(10 << 30)
        file.seek(5 << 30)
        file.write(b"some data" * 1_000_000)
    shell.config.write_text(
        "[imagebroker]\nenabled_schemes = http\n[backend:http]\nallowed_networks = 127.0.0.0/8\n"
    )
    url = web.http_url.rstrip("/") + "/big.raw"
    measured = subprocess.run(
        [sys.executable, "-c", PEAK, shell.command, "--config-file", shell.config, "download", url,
         shell.folder / "big.raw"],
        capture_output=True, text=True, check=True, timeout=HANGS,
    )  # fmt: skip
    assert_that((shell.folder / "big.raw").stat().st_size, Equals(10 << 30))
    assert_that(int(measured.stdout.split()[-1]), LessThan(100 * 1024))


#: Runs a command and prints its peak memory (KiB).
PEAK = """
import resource, subprocess, sys
subprocess.run(sys.argv[1:], check=True)
print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)
"""


def test_each_plugin_is_listed_with_its_distribution_and_what_is_wrong_with_it(
    shell: Shell,
) -> None:
    shell.config.write_text("[imagebroker]\nenabled_schemes = file, http\n")
    found = json.loads(shell("backends", "-f", "json").stdout)
    by_scheme = {row["scheme"]: row for row in found}
    assert_that(
        sorted(by_scheme),
        Equals(["file", "glance", "http", "https", "oci", "rbd", "s3", "scp", "swift"]),
    )
    assert_that(by_scheme["http"]["distribution"], Equals("imagebroker"))
    assert_that([s for s, row in by_scheme.items() if row["enabled"]], Equals(["file", "http"]))
