"""A Ceph cluster on one node, by hand: a monitor, a manager and an OSD on a sparse file.

No systemd, no LVM, no root; everything listens on the loopback interface. The packages come from the
distribution, and so do the Python modules rados and rbd: `modules()` makes them importable here,
if this Python is of the version that they were built for.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import shutil
import signal
import subprocess
import sys
import sysconfig
import tempfile
import threading
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from time import monotonic, sleep
from types import TracebackType
from typing import Any, Self

from tests.bounds import HANGS
from tests.canaries import secret
from tests.servers.openstack_service import cache_directory
from tests.servers.process import HOST, ServerProcess, accepts, free_ports, retried

#: Where Debian has Python modules.
_DISTRIBUTION = Path("/usr/lib/python3/dist-packages")
_PROGRAMS = ("ceph-mon", "ceph-mgr", "ceph-osd", "ceph-authtool", "monmaptool")
#: MiB of the file in which the OSD keeps everything; it is sparse.
_SIZE = 12 << 30

_COMMON = """\
[global]
fsid = {fsid}
mon host = v2:{host}:{port}
mon initial members = a
public addr = {host}
public network = {host}/32
ms bind msgr1 = false
ms bind port min = 16800
ms bind port max = 16999
auth cluster required = cephx
auth service required = cephx
auth client required = cephx
auth allow insecure global id reclaim = false
keyring = {folder}/admin.keyring
run dir = {folder}/run
admin socket = {folder}/run/$cluster-$name.asok
log file = {folder}/log/$name.log
log to stderr = false
err to stderr = false
crash dir = {folder}/log
osd pool default size = 1
osd pool default min size = 1
osd pool default pg num = 8
osd pool default pgp num = 8
osd pool default pg autoscale mode = off
mon allow pool size one = true
mon allow pool delete = true
mon max pg per osd = 1000
mon warn on pool no redundancy = false
# Or a full disk of the host would stop the cluster.
mon osd full ratio = .99
mon osd nearfull ratio = .99
mon osd backfillfull ratio = .99
osd failsafe full ratio = .995
mon data avail crit = 1
osd crush chooseleaf type = 0
rbd default features = 61
[mon]
mon data = {folder}/mon
keyring = {folder}/mon/keyring
# Or each snapshot would wait for a second, until the monitor notes the next change.
paxos propose interval = .02
paxos min wait = .01
mgr initial modules =
[mgr]
mgr data = {folder}/mgr
keyring = {folder}/mgr/keyring
[osd]
osd data = {folder}/osd
keyring = {folder}/osd/keyring
osd objectstore = bluestore
bluestore block create = true
bluestore block size = {size}
bluestore fsck on mount = false
bluestore block wal create = false
osd memory target = 939524096
osd memory target autotune = false
osd op num shards = 2
osd mclock skip benchmark = true
# Clients renew every five seconds what says that they use an image; this is half the default.
osd client watch timeout = 15
"""
#: What clients get: without the keyring of the administrator.
_OF_CLIENTS = "[global]\nfsid = {fsid}\nmon host = v2:{host}:{port}\nkeyring = {folder}/none\n"


def modules() -> str | None:
    """Make rados and rbd importable; a folder for PYTHONPATH, or None if they cannot be."""
    folder = cache_directory() / f"ceph-modules{sysconfig.get_config_var('EXT_SUFFIX')}"
    for name in ("rados", "rbd"):
        file = _DISTRIBUTION / f"{name}{sysconfig.get_config_var('EXT_SUFFIX')}"
        if not file.exists():
            return None
        folder.mkdir(parents=True, exist_ok=True)
        with contextlib.suppress(FileExistsError):
            (folder / file.name).symlink_to(file)
    if str(folder) not in sys.path:
        sys.path.append(str(folder))
        importlib.invalidate_caches()
    return str(folder)


def missing() -> str | None:
    """What to install, in a sentence; None if everything is there."""
    lacking = [name for name in _PROGRAMS if shutil.which(name) is None]
    if lacking:
        return f"install Ceph ({', '.join(lacking)}): tests/install-servers"
    if not any(_DISTRIBUTION.glob("rbd.*.so")):
        return "install python3-rbd: tests/install-servers"
    return None


def of_another_python() -> str | None:
    """Why this Python cannot have the distribution's modules; None if it can."""
    if modules() is None:
        version = ".".join(map(str, sys.version_info[:2]))
        return f"the distribution's python3-rbd is not for Python {version}"
    return None


class Ceph:
    """Use it as a context manager."""

    user, pool = "broker", "images"

    def __init__(self) -> None:
        modules()
        self._processes: dict[str, ServerProcess] = {}
        self.folder = Path(tempfile.mkdtemp(prefix="ceph-"))
        self.fsid = str(uuid.uuid4())

    def options(self, **others: Any) -> dict[str, Any]:
        """Those of an rbd backend."""
        return {
            "ceph_conf": str(self.folder / "client.conf"), "user": self.user,
            "keyring": str(self.keyring(self.user)), "pool": self.pool, **others,
        }  # fmt: skip

    def keyring(self, user: str) -> Path:
        return self.folder / f"{user}.keyring"

    @contextmanager
    def connected(self) -> Iterator[Any]:
        """A connection of the administrator's, from the library's own modules: the other side."""
        import rados

        made = rados.Rados(
            rados_id="admin", conffile=str(self.folder / "client.conf"),
            conf={
                "keyring": str(self.folder / "admin.keyring"), "client_mount_timeout": "10",
                "rados_mon_op_timeout": "60", "rados_osd_op_timeout": "60",
            },
        )  # fmt: skip
        try:
            made.connect()
            yield made
        finally:
            made.shutdown()

    def command(self, prefix: str, *, data: bytes = b"", **arguments: Any) -> Any:
        """The answer of the monitors, as `ceph PREFIX` gives it."""
        with self.connected() as connection:
            asked = json.dumps({"prefix": prefix, "format": "json", **arguments})
            number, answer, said = connection.mon_command(asked, data)
        if number:
            raise AssertionError(f"ceph {prefix}: {number} {said}")
        return json.loads(answer) if answer.strip() else None

    @contextmanager
    def opened(self, pool: str | None = None) -> Iterator[Any]:
        """The Ioctx of a pool, for the administrator."""
        with self.connected() as connection:
            found = connection.open_ioctx(pool or self.pool)
            try:
                yield found
            finally:
                found.close()

    def add_pool(self, name: str) -> None:
        self.command("osd pool create", pool=name, pg_num=8, pgp_num=8)
        self.command("osd pool application enable", pool=name, app="rbd")

    def add_user(self, name: str, pool: str, profile: str = "rbd") -> dict[str, str]:
        """A user with rights in one pool; the options for it."""
        self.command("auth get-or-create", entity=f"client.{name}", caps=_caps(pool, profile))
        found = self.command("auth get", entity=f"client.{name}")[0]
        text = f"[client.{name}]\n\tkey = {secret(found['key'])}\n"
        self.keyring(name).write_text(text)
        return {"user": name, "keyring": str(self.keyring(name))}

    def restrict(self, name: str, pool: str) -> None:
        """From now on, a user has rights in another pool only."""
        self.command("auth caps", entity=f"client.{name}", caps=_caps(pool, "rbd"))

    def write(
        self, name: str, data: bytes, snapshot: str | None = "snap", *, order: int = 22,
        size: int | None = None, at: int = 0, pool: str | None = None,
    ) -> None:  # fmt: skip
        """A new image with these bytes, as somebody else would make it."""
        import rbd

        with self.opened(pool) as place:
            rbd.RBD().create(place, name, len(data) if size is None else size, order,
                             old_format=False)  # fmt: skip
            with rbd.Image(place, name) as image:
                if data:
                    image.write(data, at)
                    image.flush()
                if snapshot is not None:
                    image.create_snap(snapshot)

    def remove(self, name: str, pool: str | None = None) -> None:
        """Remove an image, with its snapshots."""
        import rbd

        with self.opened(pool) as place:
            with rbd.Image(place, name) as image:
                for each in list(image.list_snaps()):
                    if image.is_protected_snap(each["name"]):
                        image.unprotect_snap(each["name"])
                    image.remove_snap(each["name"])
            rbd.RBD().remove(place, name)

    def names(self, pool: str | None = None) -> list[str]:
        import rbd

        with self.opened(pool) as place:
            return list(rbd.RBD().list(place))

    def counter(self, daemon: str, name: str) -> int:
        """A performance counter of a daemon."""
        (socket,) = (self.folder / "run").glob(f"ceph-{daemon}.*.asok")
        answer = self._run("ceph", "--admin-daemon", socket, "perf", "dump", daemon, name)
        return int(json.loads(answer)[daemon][name])

    # -- faults -----------------------------------------------------------------------------------

    def pause(self, daemon: str) -> None:
        """Stop `osd` or `mon` where it is: it keeps its connections, and answers nothing."""
        os.kill(self._processes[daemon].pid, signal.SIGSTOP)

    def resume(self, daemon: str) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(self._processes[daemon].pid, signal.SIGCONT)

    @contextmanager
    def paused(self, daemon: str) -> Iterator[None]:
        self.pause(daemon)
        try:
            yield
        finally:
            self.resume(daemon)

    # -- how it starts ----------------------------------------------------------------------------

    def __enter__(self) -> Self:
        try:
            retried(self._attempt)
        except BaseException:
            self._stop()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._stop()
        shutil.rmtree(self.folder, ignore_errors=True)

    def _attempt(self) -> None:
        self._stop()
        shutil.rmtree(self.folder, ignore_errors=True)
        for name in ("mon", "mgr", "osd", "log", "run"):
            (self.folder / name).mkdir(parents=True)
        (self.port,) = free_ports(1)
        values = {"fsid": self.fsid, "host": HOST, "port": self.port, "folder": self.folder}
        (self.folder / "ceph.conf").write_text(_COMMON.format(size=_SIZE, **values))
        (self.folder / "client.conf").write_text(_OF_CLIENTS.format(**values))
        self._start_monitor()
        self._start_manager()
        self._start_osd()
        self.add_pool(self.pool)
        self.add_user(self.user, self.pool)

    def _start_monitor(self) -> None:
        # The monitor's own folder must be empty until `--mkfs`, which does nothing otherwise.
        first, admin, mons = (self.folder / n for n in ("first", "admin.keyring", "monmap"))
        every = ["--cap", "mon", "allow *"]
        self._run("ceph-authtool", "--create-keyring", first, "--gen-key", "-n", "mon.", *every)
        self._run(
            "ceph-authtool", "--create-keyring", admin, "--gen-key", "-n", "client.admin", *every,
            "--cap", "osd", "allow *", "--cap", "mgr", "allow *",
        )  # fmt: skip
        self._run("ceph-authtool", first, "--import-keyring", admin)
        self._run("monmaptool", "--create", "--clobber", "--fsid", self.fsid,
                  "--addv", "a", f"[v2:{HOST}:{self.port}]", mons)  # fmt: skip
        self._run("ceph-mon", "--mkfs", "-i", "a", "--monmap", mons, "--keyring", first)
        self._launch("mon", "ceph-mon", "-f", "-i", "a").wait_until(
            lambda: accepts(self.port) and self._answers(), seconds=60
        )

    def _answers(self) -> bool:
        try:
            self.command("mon stat")
        except Exception:
            return False
        return True

    def _start_manager(self) -> None:
        caps = ["mon", "allow profile mgr", "osd", "allow *", "mds", "allow *"]
        self.add_key("mgr.x", caps, self.folder / "mgr" / "keyring")
        self._launch("mgr", "ceph-mgr", "-f", "-i", "x")

    def _start_osd(self) -> None:
        uid, key = str(uuid.uuid4()), self._run("ceph-authtool", "--gen-print-key").strip()
        secrets = json.dumps({"cephx_secret": key}).encode()
        number = str(self.command("osd new", uuid=uid, data=secrets)["osdid"])
        self._run("ceph-authtool", "--create-keyring", self.folder / "osd" / "keyring",
                  "--name", f"osd.{number}", "--add-key", key)  # fmt: skip
        self._run("ceph-osd", "-i", number, "--mkfs", "--osd-uuid", uid)
        self._launch("osd", "ceph-osd", "-f", "-i", number).wait_until(
            lambda: self.command("osd stat")["num_up_osds"] == 1, seconds=120
        )

    def add_key(self, entity: str, caps: list[str], file: Path) -> None:
        """A new key with rights, in a file."""
        self.command("auth get-or-create", entity=entity, caps=caps)
        key = self.command("auth get", entity=entity)[0]["key"]
        file.write_text(f"[{entity}]\n\tkey = {key}\n")

    def _launch(self, name: str, *argv: str) -> ServerProcess:
        self._processes[name] = ServerProcess(
            argv, log=self.folder / "log" / f"{name}.out", cwd=self.folder, env=self._environment()
        )
        return self._processes[name]

    def _run(self, *argv: str | Path) -> str:
        return subprocess.run(
            list(map(str, argv)), check=True, capture_output=True, text=True, timeout=120,
            env=self._environment(),
        ).stdout  # fmt: skip

    def _environment(self) -> dict[str, str]:
        return {
            "PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "HOME": str(self.folder), "LANG": "C.UTF-8",
            "CEPH_CONF": str(self.folder / "ceph.conf"),
        }  # fmt: skip

    def _stop(self) -> None:
        for name in ("osd", "mgr", "mon"):
            if (process := self._processes.pop(name, None)) is not None:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(process.pid, signal.SIGCONT)
                process.stop(seconds=10)


class Stopper:
    """Stops the OSD after so many bytes of an image were handed out, until that read ends."""

    def __init__(self, server: Ceph) -> None:
        self._server = server
        self._lock = threading.Lock()
        self._after: int | None = None

    def arm(self, after: int) -> None:
        """The next read meets it."""
        self._after = after

    def taken(self) -> int | None:
        """After how many bytes this read is to meet it; None: never."""
        with self._lock:
            after, self._after = self._after, None
            return after

    def stop(self) -> None:
        self._server.pause("osd")

    def end(self) -> None:
        self._server.resume("osd")


def _caps(pool: str, profile: str) -> list[str]:
    right = f"profile {profile} pool={pool}"
    return ["mon", "profile rbd", "osd", right, "mgr", right]


def wait_for(happens: Any, seconds: float = HANGS) -> None:
    """Wait until the cluster has noticed something."""
    ends = monotonic() + seconds
    while not happens():
        if monotonic() > ends:
            raise AssertionError(f"it did not happen within {seconds:g} s")
        sleep(0.1)
