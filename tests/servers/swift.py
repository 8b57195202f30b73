"""Swift with its S3 API, on one node: tempauth, four servers and a memcached.

boto3 talks to it with the access key `broker:broker`. A second user, `broker:guest`, may do what
the ACLs of containers allow. tests/install-servers puts Swift into a virtual
environment of its own; memcached comes from the distribution.
"""

from __future__ import annotations

import getpass
import json
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import requests

from tests.bounds import HANGS
from tests.servers.boto import client_of
from tests.servers.openstack_service import cache_directory
from tests.servers.process import HOST, ServerProcess, accepts, free_ports, retried

ACCESS_KEY, SECRET_KEY = "broker:broker", "canary-of-the-swift-test-3301"
GUEST, GUEST_KEY = "broker:guest", "canary-of-the-swift-guest-3302"
#: Its servers, and what each one's configuration has beside the common part.
_STORAGE = {"object": "[object-expirer]", "container": "[container-sync]", "account": ""}
_FILTERS = {
    "catch_errors": "catch_errors", "gatekeeper": "gatekeeper", "healthcheck": "healthcheck",
    "cache": "memcache", "listing_formats": "listing_formats", "bulk": "bulk",
    "tempurl": "tempurl", "s3api": "s3api", "tempauth": "tempauth", "copy": "copy", "slo": "slo",
    "dlo": "dlo", "versioned_writes": "versioned_writes", "symlink": "symlink",
}  # fmt: skip
#: Swift reads /etc/swift/swift.conf at import, whatever it is told.
_LAUNCH = """
import runpy, sys
import swift.common.utils
swift.common.utils.SWIFT_CONF_FILE = sys.argv[1]
sys.argv = sys.argv[2:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


#: A ring of one device for each file and port: all in one process, as it takes long to start.
_RINGS = """
import sys
from swift.common.ring import RingBuilder
for each in sys.argv[2:]:
    file, _, port = each.rpartition("=")
    builder = RingBuilder(4, 1, 1)
    builder.add_dev({
        "region": 1, "zone": 1, "ip": sys.argv[1], "port": int(port), "device": "d1", "weight": 100.0,
        "replication_ip": sys.argv[1], "replication_port": int(port), "meta": "",
    })
    builder.rebalance()
    builder.get_ring().save(file)
"""


def _environment() -> Path:
    """The virtual environment with Swift."""
    return cache_directory() / "swift"


def missing() -> str | None:
    """What to install, in a sentence; None if everything is there."""
    if not (_environment() / "bin" / "swift-proxy-server").exists():
        return "install Swift: tests/install-servers"
    if shutil.which("memcached") is None:
        return "install memcached: tests/install-servers"
    return None


class SwiftUser:
    """Somebody with a token, who talks to Swift's own API: the other side."""

    def __init__(self, account_url: str, token: str) -> None:
        self.account_url, self.token = account_url, token

    def call(
        self, method: str, path: str, body: bytes | None = None, **headers: str
    ) -> requests.Response:
        """`path`: container, or container/object, percent-encoded, with its query.

        :param headers: their names with `_` instead of `-`.
        :raises requests.HTTPError: the answer is an error.
        """
        fields = {name.replace("_", "-"): value for name, value in headers.items()}
        answer = self.ask(method, path, body, fields)
        answer.raise_for_status()
        return answer

    def ask(
        self, method: str, path: str, body: bytes | None, fields: Mapping[str, str]
    ) -> requests.Response:
        """The answer, whatever it is."""
        with requests.Session() as session:
            session.trust_env = False
            return session.request(
                method, f"{self.account_url}/{path}" if path else self.account_url, data=body, timeout=60,
                headers={"X-Auth-Token": self.token, "Accept-Encoding": "identity", **fields},
            )  # fmt: skip

    def names(self, container: str) -> list[str]:
        """The objects of a container, if it is there."""
        answer = self.ask("GET", f"{container}?format=json", None, {})
        return [each["name"] for each in answer.json()] if answer.status_code == 200 else []

    def make_static(self, path: str, segments: Sequence[str], **headers: str) -> None:
        """A static large object of `segments`, as container/object; one may be named often."""
        manifest = json.dumps([{"path": f"/{each}"} for each in segments]).encode()
        self.call("PUT", f"{path}?multipart-manifest=put", manifest, **headers)


class Swift:
    """Use it as a context manager."""

    region = "us-east-1"

    def __init__(
        self,
        *,
        most_segments: int = 1000,
        token_seconds: int = 86400,
        directory: Path | None = None,
        workers: str = "0",
    ) -> None:
        """:param most_segments: that a manifest can name.
        :param workers: processes of each server; 0: one that does all, auto: Swift's own default,
            one for each processor.
        :param directory: in which it keeps everything, by default that for temporary files.
        """
        self._most_segments, self._token_seconds = most_segments, token_seconds
        self._workers = workers
        self._processes: list[ServerProcess] = []
        self._folder = Path(tempfile.mkdtemp(prefix="imagebroker-swift-", dir=directory))

    @property
    def url(self) -> str:
        return f"http://{HOST}:{self.port}"

    def options(self, **others: Any) -> dict[str, Any]:
        """Those of an s3 backend."""
        keys = {"access_key": ACCESS_KEY, "secret_key": SECRET_KEY}
        return {"endpoint_url": self.url, **keys, **others}

    @property
    def auth_url(self) -> str:
        return f"{self.url}/auth/v1.0"

    def swift_options(self, **others: Any) -> dict[str, Any]:
        """Those of a swift backend."""
        login = {"auth_type": "v1password", "username": ACCESS_KEY, "password": SECRET_KEY}
        return {"auth_url": self.auth_url, **login, **others}

    def user(self, name: str = ACCESS_KEY, key: str = SECRET_KEY) -> SwiftUser:
        headers = {"X-Auth-User": name, "X-Auth-Key": key}
        with requests.Session() as session:
            session.trust_env = False
            answer = session.get(self.auth_url, headers=headers, timeout=60)
        answer.raise_for_status()
        return SwiftUser(answer.headers["X-Storage-Url"], answer.headers["X-Auth-Token"])

    def forget_tokens(self) -> None:
        """As if all of them had expired: they are in memcached only."""
        with socket.create_connection((HOST, self._cache), timeout=60) as sock:
            sock.sendall(b"flush_all\r\n")
            if sock.recv(16) != b"OK\r\n":
                raise AssertionError("memcached does not forget")

    def client(self) -> Any:
        """A client of boto3's own, with its own connections: the other side. Always the same."""
        return client_of(self.url, self.region, ACCESS_KEY, SECRET_KEY)

    def __enter__(self) -> Self:
        try:
            retried(self._attempt)
        except BaseException:
            self._end()
            raise
        return self

    def _attempt(self) -> None:
        self._stop()
        self.port, self._cache, *ports = free_ports(5)
        self._ports = dict(zip(_STORAGE, ports, strict=True))
        self._configure()
        self._start()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._end()

    def _stop(self) -> None:
        while self._processes:
            self._processes.pop().stop()

    def _end(self) -> None:
        self._stop()
        shutil.rmtree(self._folder, ignore_errors=True)

    def _configure(self) -> None:
        folder = self._folder
        for name in ("node/d1", "cache"):
            (folder / name).mkdir(parents=True, exist_ok=True)
        self._write(
            "swift.conf",
            "[swift-hash]\nswift_hash_path_prefix = t\nswift_hash_path_suffix = t\n"
            "[storage-policy:0]\nname = one\ndefault = yes\n",
        )
        rings = [_environment() / "bin" / "python", "-W", "ignore", "-c", _RINGS, HOST]
        places = [f"{folder / kind}.ring.gz={port}" for kind, port in self._ports.items()]
        subprocess.run([*rings, *places], check=True, capture_output=True, timeout=HANGS)
        for kind, port in self._ports.items():
            self._write(
                f"{kind}.conf",
                self._common(port) + f"devices = {folder}/node\nmount_check = false\n"
                f"disable_fallocate = true\nfallocate_reserve = 0\n"
                f"recon_cache_path = {folder}/cache\n"
                f"[pipeline:main]\npipeline = {kind}-server\n"
                f"[app:{kind}-server]\nuse = egg:swift#{kind}\n{_STORAGE[kind]}\n",
            )
        own = self._own_options()
        filters = "".join(
            f"[filter:{name}]\n{egg if '=' in egg else f'use = egg:swift#{egg}'}\n"
            f"{own.get(name, '')}"
            for name, egg in self._filters.items()
        )
        self._write(
            "proxy.conf",
            self._common(self.port)
            + f"[pipeline:main]\npipeline = {' '.join(self._filters)} proxy-server\n"
            "[app:proxy-server]\nuse = egg:swift#proxy\naccount_autocreate = true\n"
            f"allow_account_management = true\n{filters}",
        )

    @property
    def _filters(self) -> dict[str, str]:
        """What the proxy consists of: the names of eggs, or lines that say what to use."""
        return _FILTERS

    def _own_options(self) -> dict[str, str]:
        """What filters have beside that."""
        return {
            "tempauth": f"user_broker_broker = {SECRET_KEY} .admin\n"
            f"user_broker_guest = {GUEST_KEY}\nstorage_url_scheme = default\n"
            f"token_life = {self._token_seconds}\n",
            "slo": f"max_manifest_segments = {self._most_segments}\n",
            "s3api": f"s3_acl = false\nmin_segment_size = 5242880\nlocation = {self.region}\n",
            "cache": f"memcache_servers = {HOST}:{self._cache}\n",
            "versioned_writes": "allow_versioned_writes = true\nallow_object_versioning = true\n",
        }

    def _common(self, port: int) -> str:
        return (
            f"[DEFAULT]\nswift_dir = {self._folder}\nbind_ip = {HOST}\nbind_port = {port}\n"
            f"workers = {self._workers}\nuser = {getpass.getuser()}\nlog_address = {self._folder}/none\n"
        )

    def _write(self, name: str, text: str) -> None:
        (self._folder / name).write_text(text)

    def _start(self) -> None:
        memcached = ["memcached", "-l", HOST, "-p", str(self._cache), "-U", "0", "-m", "16"]
        if getpass.getuser() == "root":
            memcached += ["-u", "nobody"]
        self._launch("memcached", memcached)
        bin_folder = _environment() / "bin"
        for kind in (*_STORAGE, "proxy"):
            self._launch(
                kind,
                [str(bin_folder / "python"), "-W", "ignore", "-c", _LAUNCH, str(self._folder / "swift.conf"),
                 str(bin_folder / f"swift-{kind}-server"), str(self._folder / f"{kind}.conf")],
            )  # fmt: skip
        self._processes[-1].wait_until(self._answers, seconds=60)

    def _launch(self, name: str, argv: list[str]) -> None:
        self._processes.append(
            ServerProcess(argv, log=self._folder / f"{name}.log", cwd=self._folder)
        )

    def _answers(self) -> bool:
        if not all(map(accepts, (self.port, self._cache, *self._ports.values()))):
            return False
        try:
            self._try()
        except Exception:
            return False
        return True

    def _try(self) -> None:
        """:raises Exception: it does not serve yet."""
        self.client().list_buckets()
