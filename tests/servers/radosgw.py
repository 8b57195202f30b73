"""Ceph's S3 server, on a cluster of tests/servers/ceph.py.

What it does that Swift's S3 API does not: public objects, error codes of its own, buckets in the
name of the host, an empty ETag where parts are joined.
"""

from __future__ import annotations

import base64
import shutil
import subprocess
from types import TracebackType
from typing import Any, Self

from tests.canaries import secret
from tests.servers.boto import client_of
from tests.servers.ceph import Ceph
from tests.servers.process import HOST, ServerProcess, accepts, free_ports, retried

ACCESS_KEY, SECRET_KEY = "broker", secret("canary-of-radosgw-5512")
#: The domain whose names begin with that of a bucket.
DOMAIN = "s3.test"

#: What encrypts objects if their owner says so: its name, and 32 bytes.
KMS_KEY = "of-radosgw"
_KEYS = (
    f"{KMS_KEY}={base64.b64encode(secret('canary-of-radosgw-kms-key-000061').encode()).decode()}"
)


def missing() -> str | None:
    """What to install, in a sentence; None if everything is there."""
    lacking = [name for name in ("radosgw", "radosgw-admin") if shutil.which(name) is None]
    return f"install {', '.join(lacking)}: tests/install-servers" if lacking else None


class Radosgw:
    """Use it as a context manager, while the cluster runs."""

    region = "us-east-1"

    def __init__(self, ceph: Ceph) -> None:
        self._ceph = ceph
        self._process: ServerProcess | None = None
        self._folder = ceph.folder / "rgw"

    @property
    def url(self) -> str:
        return f"http://{HOST}:{self.port}"

    def options(self, **others: Any) -> dict[str, Any]:
        """Those of an s3 backend."""
        keys = {"access_key": ACCESS_KEY, "secret_key": SECRET_KEY}
        return {"endpoint_url": self.url, **keys, **others}

    def client(self) -> Any:
        """A client of boto3's own, with its own connections: the other side. Always the same."""
        return client_of(self.url, self.region, ACCESS_KEY, SECRET_KEY)

    def __enter__(self) -> Self:
        self._folder.mkdir(exist_ok=True)
        caps = ["mon", "allow rw", "osd", "allow rwx", "mgr", "allow rw"]
        self._ceph.add_key("client.rgw", caps, self._folder / "keyring")
        self._add_user()
        retried(self._start)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._process is not None:
            self._process.stop(seconds=10)

    def _add_user(self) -> None:
        subprocess.run(
            ["radosgw-admin", *self._common("admin", self._ceph.keyring("admin")), "user", "create",
             "--uid", "broker", "--display-name", "broker", "--access-key", ACCESS_KEY,
             "--secret-key", SECRET_KEY],
            check=True, capture_output=True, timeout=120,
        )  # fmt: skip

    def _start(self) -> None:
        (self.port,) = free_ports(1)
        self._process = ServerProcess(
            ["radosgw", "-f", *self._common("rgw", self._folder / "keyring"),
             "--rgw-data", self._folder, "--rgw-frontends", f"beast endpoint={HOST}:{self.port}",
             "--rgw-dns-name", DOMAIN,
             "--rgw-crypt-require-ssl", "false", "--rgw-crypt-s3-kms-backend", "testing",
             "--rgw-crypt-s3-kms-encryption-keys", _KEYS, "--log-file", self._folder / "rgw.log"],
            log=self._folder / "out", cwd=self._folder,
        )  # fmt: skip
        self._process.wait_until(lambda: accepts(self.port), seconds=60)

    def _common(self, user: str, keyring: Any) -> list[str]:
        return [
            "--conf", str(self._ceph.folder / "ceph.conf"), "--id", user, "--keyring", str(keyring),
        ]  # fmt: skip
