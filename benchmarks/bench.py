"""What the rows share: folders, images of random bytes, servers, config files."""

from __future__ import annotations

import contextlib
import hashlib
import json
import random
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from benchmarks.contest import RunError
from tests.servers.images import random_file
from tests.servers.nginx import Nginx
from tests.servers.openstack import OpenStack
from tests.servers.sshd import Sshd
from tests.servers.swift import Swift

MIB = 1024 * 1024
GIB = 1024 * MIB


class Unmeasured(Exception):
    """A row cannot be measured here; the text says what it needs."""


class Image:
    """A file with the bytes that everybody moves."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.size = path.stat().st_size
        self._digests: dict[str, str] = {}

    def digest(self, algorithm: str = "sha256") -> str:
        if algorithm not in self._digests:
            with self.path.open("rb") as file:
                self._digests[algorithm] = hashlib.file_digest(file, algorithm).hexdigest()
        return self._digests[algorithm]

    def checker(self, dest: Path) -> _Checker:
        return _Checker(self, dest)


class _Checker:
    """Whether a destination holds the image: its length each time, its bytes for some time."""

    #: So many times the bytes are looked at: each contender's first round, as a rule.
    _LOOKS = 12

    def __init__(self, image: Image, dest: Path) -> None:
        self._image, self._dest, self._left = image, dest, self._LOOKS

    def __call__(self) -> None:
        if not self._dest.exists():
            raise RunError("nothing was stored")
        if self._dest.stat().st_size != self._image.size:
            raise RunError(f"{self._dest.stat().st_size} of {self._image.size} bytes were stored")
        if self._left:
            self._left -= 1
            if Image(self._dest).digest() != self._image.digest():
                raise RunError("other bytes were stored")


class Bench:
    """Everything lives below `folder`; `stack` ends what was started."""

    def __init__(self, folder: Path, scale: float, stack: contextlib.ExitStack) -> None:
        self.folder, self.scale, self._stack = folder, scale, stack
        self.images = self._made("images")
        self.dest_folder = self._made("dest")
        self.home = self._made("home")
        self._nginx: Nginx | None = None
        self._sshd: Sshd | None = None
        self._openstack: OpenStack | None = None
        self._swift: Swift | None = None

    def _made(self, name: str) -> Path:
        path = self.folder / name
        path.mkdir()
        return path

    def dest(self, name: str = "image.raw") -> Path:
        return self.dest_folder / name

    def scaled(self, size: int) -> int:
        """So many bytes in a sample; whole MiB."""
        return max(round(size * self.scale / MIB), 1) * MIB

    def size_text(self, size: int) -> str:
        size = self.scaled(size)
        return f"{size / GIB:g} GiB" if size >= GIB else f"{size / MIB:g} MiB"

    @contextlib.contextmanager
    def image(self, size: int, name: str = "image.raw") -> Iterator[Image]:
        """Random bytes, gone afterwards: the disk and its cache are needed for others."""
        path = self.images / name
        try:
            yield Image(random_file(path, self.scaled(size), seed=len(name)))
        finally:
            path.unlink(missing_ok=True)

    @contextlib.contextmanager
    def sparse_image(self, size: int, data: float) -> Iterator[Image]:
        """The part `data` of it is random bytes, in runs of a MiB; the rest holes."""
        path = self.images / "sparse.raw"
        size = self.scaled(size)
        numbers = random.Random(0)
        places = numbers.sample(range(size // MIB), max(1, round(size * data / MIB)))
        try:
            with path.open("wb") as file:
                file.truncate(size)
                for place in sorted(places):
                    file.seek(place * MIB)
                    file.write(numbers.randbytes(MIB))
            yield Image(path)
        finally:
            path.unlink(missing_ok=True)

    def nginx(self, rate: int) -> Nginx:
        """A server for the images; `/slow/` is limited to `rate` bytes a second and connection."""
        if self._nginx is None:
            server = Nginx(self.images, slow_rate=rate)
            self._nginx = self._stack.enter_context(server)
        return self._nginx

    def sshd(self) -> Sshd:
        if self._sshd is None:
            self._sshd = self._stack.enter_context(Sshd())
        return self._sshd

    def openstack(self) -> OpenStack:
        if self._openstack is None:
            # Its images are as large as ours and belong on the same disk.
            server = OpenStack(directory=self._made("openstack"))
            self._openstack = self._stack.enter_context(server)
        return self._openstack

    def swift(self) -> Swift:
        if self._swift is None:
            made = Swift(directory=self._made("swift"), workers="auto")
            self._swift = self._stack.enter_context(made)
        return self._swift

    def config(self, schemes: str, **sections: str) -> Path:
        """A config file as a deployer would write it."""
        path = self.home / f"{schemes.replace(', ', '-')}-{len([*self.home.iterdir()])}.conf"
        text = [f"[imagebroker]\nenabled_schemes = {schemes}\n"]
        text += [f"[backend:{name}]\n{lines}\n" for name, lines in sections.items()]
        path.write_text("".join(text))
        return path

    @contextlib.contextmanager
    def way(self, **limits: float) -> Iterator[Way]:
        """A proxy to a server on this host."""
        program = [sys.executable, "-m", "benchmarks.proxy", json.dumps(limits)]
        with subprocess.Popen(
            program, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
            cwd=Path(__file__).parents[1],
        ) as process:  # fmt: skip
            try:
                yield Way(process)
            finally:
                process.kill()


class Way:
    """A running proxy."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process
        self.port = int(self._read())

    def _read(self) -> str:
        output = self._process.stdout
        line = output.readline() if output is not None else ""
        if not line:
            raise RunError("the proxy ended")
        return line

    def handed(self) -> int:
        """Bytes that clients got since this was last asked."""
        if self._process.stdin is not None:
            self._process.stdin.write("\n")
            self._process.stdin.flush()
        return int(json.loads(self._read())["handed"])
