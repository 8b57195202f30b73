"""How the conformance kit gets at this backend: `imagebroker backend test ftp` runs it."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import uuid
from pathlib import Path

import testtools

from imagebroker.testing import BackendContract
from imagebroker_ftp import FtpBackend

#: A real FTP server, in a process of its own; it ends when its standard input does.
_SERVER = """
import os, sys, threading
from pyftpdlib.authorizers import DummyAuthorizer
from pyftpdlib.handlers import FTPHandler
from pyftpdlib.log import config_logging
from pyftpdlib.servers import ThreadedFTPServer

config_logging(level=50)
authorizer = DummyAuthorizer()
authorizer.add_user("kit", "kit-password", sys.argv[1])
FTPHandler.authorizer = authorizer
server = ThreadedFTPServer(("127.0.0.1", 0), FTPHandler)
print(server.address[1], flush=True)
threading.Thread(target=lambda: (sys.stdin.read(), os._exit(0)), daemon=True).start()
server.serve_forever()
"""


class FtpServer:
    """pyftpdlib, serving a folder to `kit`."""

    def __init__(self, folder: Path) -> None:
        self._process = subprocess.Popen(  # noqa: S603 - the program above
            [sys.executable, "-W", "ignore", "-c", _SERVER, str(folder)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            self.close()
            raise RuntimeError("no FTP server: pip install pyftpdlib")
        self.port = int(line)

    def close(self) -> None:
        self._process.communicate()


class FtpContract(BackendContract, testtools.TestCase):
    """Against pyftpdlib, with a user and a password."""

    folder: tempfile.TemporaryDirectory[str]
    server: FtpServer

    @classmethod
    def setUpClass(cls) -> None:
        super().setUpClass()
        cls.folder = tempfile.TemporaryDirectory()
        cls.addClassCleanup(cls.folder.cleanup)
        cls.server = FtpServer(Path(cls.folder.name))
        cls.addClassCleanup(cls.server.close)

    def make_backend(self) -> FtpBackend:
        return FtpBackend(
            self.make_host(
                FtpBackend,
                username="kit",
                password="kit-password",  # noqa: S106 - the one above
                endpoint=[f"ftp://127.0.0.1:{self.server.port}/"],
            )
        )

    def publish(self, data: bytes) -> str:
        name = f"{uuid.uuid4().hex}.img"
        Path(self.folder.name, name).write_bytes(data)
        self.addCleanup(Path(self.folder.name, name).unlink, missing_ok=True)
        return f"ftp://127.0.0.1:{self.server.port}/{name}"

    def replace(self, ref: str, data: bytes) -> None:
        new = Path(self.folder.name, "new")
        new.write_bytes(data)
        # MDTM has whole seconds.
        later = int(self._file(ref).stat().st_mtime) + 1
        os.utime(new, (later, later))
        os.replace(new, self._file(ref))

    def take_away(self, ref: str) -> None:
        self._file(ref).unlink()

    def publish_sparse(self, size: int) -> str:
        ref = self.publish(b"")
        with self._file(ref).open("r+b") as file:
            file.seek(size - len(self.SPARSE_END))
            file.write(self.SPARSE_END)
        return ref

    def _file(self, ref: str) -> Path:
        return Path(self.folder.name, ref.rpartition("/")[2])
