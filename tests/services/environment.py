"""The virtual environment of a service, and what its test processes find there."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Collection, Mapping
from pathlib import Path

from tests.compat.nova_process import working_tree
from tests.servers.openstack_service import cache_directory
from tests.services.model import Service

#: What runs in the environments; modules beside this one are called as the services are.
INSIDE = Path(__file__).parent / "inside"


class Environment:
    """An environment with one service, which is nobody's else; kept for the next run."""

    def __init__(self, service: Service, folder: Path | None = None) -> None:
        self.service = service
        self.folder = folder or cache_directory() / "services" / service.name

    @property
    def python(self) -> Path:
        return self.folder / "bin" / "python"

    def install(self, *, renew: bool = False) -> str:
        """Install what is missing; the service's name and version.

        :param renew: take the newest of everything, even if it is complete.
        """
        wanted = "\n".join([*self.service.packages, *self.service.sources])
        stamp = self.folder / "complete"
        if renew or not stamp.exists() or stamp.read_text() != wanted:
            shutil.rmtree(self.folder, ignore_errors=True)
            self.folder.parent.mkdir(parents=True, exist_ok=True)
            uv = shutil.which("uv")
            if uv is None:
                _run([sys.executable, "-m", "venv", self.folder])
                _run([self.python, "-m", "pip", "-q", "install", *self.service.packages])
            else:
                _run([uv, "venv", "-q", "--seed", "--python", sys.executable, self.folder])
                _run([uv, "pip", "install", "-q", "-p", self.python, *self.service.packages])
            self._add_sources()
            stamp.write_text(wanted)
        folders = {Path(name).parts[0] for name in self.service.sources}
        for name in {*self.service.beside, *folders}:
            _link(self._site / name, self.folder / name)
        return f"{self.service.name} {self._version()}"

    def _add_sources(self) -> None:
        """Take from the source distribution what the service's package does not install."""
        if not self.service.sources:
            return
        name = self.service.packages[0]
        with tempfile.TemporaryDirectory() as work:
            _run([self.python, "-m", "pip", "-q", "download", "--no-deps", "--no-binary", name,
                  "--dest", work, f"{name}=={self._version()}"])  # fmt: skip
            (archive,) = Path(work).glob("*.tar.gz")
            unpack_folders(archive, self.service.sources, self.folder)

    @property
    def _site(self) -> Path:
        (found,) = self.folder.glob("lib/python*/site-packages")
        return found

    def _version(self) -> str:
        code = (
            f"from importlib.metadata import version; print(version({self.service.packages[0]!r}))"
        )
        done = subprocess.run([self.python, "-c", code], capture_output=True, text=True, check=True)
        return done.stdout.strip()

    def variables(self, work: Path, more: Mapping[str, str]) -> dict[str, str]:
        """Those of a test process: nothing of the caller's, above all no proxies.

        :param work: a folder for what the process writes, which has a link to our packages.
        """
        site = work / "site"
        if not site.exists():
            working_tree(site)
            self._register(site)
        for name in self.service.here:
            _link(work / name, self._site / name)
        return {
            "PATH": f"{self.folder}/bin:/usr/sbin:/usr/bin:/sbin:/bin",
            "HOME": str(work),
            "TMPDIR": str(work),
            "LANG": "C.UTF-8",
            "PYTHONHASHSEED": "0",
            "PYTHONPATH": f"{site}:{INSIDE}",
            # The campaign has a limit of its own; theirs are for machines that do nothing else.
            "OS_TEST_TIMEOUT": "0",
            "BASE_TEST_TIMEOUT": "0",
            **more,
        }

    def _register(self, site: Path) -> None:
        """Let the entry points name the backends of the swap."""
        if not self.service.backends:
            return
        info = site / f"{self.service.name}_swap-0.dist-info"
        info.mkdir()
        name = f"{self.service.name}-swap"
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 0\n")
        points = "".join(f"{k} = {v}\n" for k, v in self.service.backends.items())
        (info / "entry_points.txt").write_text(f"[imagebroker.backends]\n{points}")


def _link(path: Path, target: Path) -> None:
    """Let `path` be a link to `target`, if nothing is there."""
    if not path.exists():
        path.symlink_to(target)


def unpack_folders(archive: Path, folders: Collection[str], target: Path) -> None:
    """Put folders of a source distribution below `target`, without the folder that all are in.

    :raises KeyError: it has no such folder.
    """
    with tarfile.open(archive) as files:
        inside = {each.name.partition("/")[2]: each for each in files}
        for folder in folders:
            found = [
                each.replace(name=path, deep=False)
                for path, each in inside.items()
                if f"{path}/".startswith(f"{folder}/")
            ]
            if not found:
                raise KeyError(f"{archive.name} has no {folder}")
            files.extractall(target, found, filter="data")


def _run(command: list[str | Path]) -> None:
    subprocess.run(command, check=True, env={**os.environ, "UV_LINK_MODE": "hardlink"})


def write_job(path: Path, **job: object) -> None:
    """What `program.py` is to do."""
    path.write_text(json.dumps(job))
