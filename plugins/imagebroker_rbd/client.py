"""The cluster of one instance: one connection, which all threads share."""

from __future__ import annotations

import base64
import contextlib
import errno
import json
import math
import re
import sys
import threading
import weakref
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from time import monotonic, sleep
from typing import Any

from imagebroker.plugin import (
    BackendError,
    BackendHost,
    BackendLoadError,
    ConfigError,
    ImageNotFound,
    NotAuthorized,
    TransferError,
    forks,
)
from imagebroker_rbd.errors import error_of, translated
from imagebroker_rbd.names import Place
from imagebroker_rbd.operations import OpenImage

#: Seconds that images which were closed may still wait for their last operation.
_GRACE = 1.0


class Cluster:
    """A connection that is made when it is first needed, and again after the cluster dropped it."""

    def __init__(self, host: BackendHost) -> None:
        """:raises BackendLoadError: Ceph's modules are missing, or would crash this process."""
        if "libtorrent" in sys.modules:
            # Both have Boost's event loop, in versions that differ, and share its global state.
            raise BackendLoadError(
                "the rbd backend cannot work in a process that has imported libtorrent: Ceph's "
                "library crashes there",
                hint="use one of them in a process of its own",
                scheme="rbd",
            )
        try:
            import rados
            import rbd
        except ImportError as error:
            raise BackendLoadError(
                f"the rbd backend needs the modules rados and rbd: {error}",
                hint="apt-get install python3-rbd; in a virtual environment, create it with "
                "/usr/bin/python3 -m venv --system-site-packages",
                scheme="rbd",
            ) from error
        self._rados, self.rbd = rados, rbd.RBD()
        self._image_class = rbd.Image
        self._host = host
        self._lock = threading.Lock()
        self._connection: Any = None
        self._closed = False
        #: Calls that are inside the library with the connection.
        self._users: Counter[int] = Counter()
        self._open: weakref.WeakSet[OpenImage] = weakref.WeakSet()
        forks.tell_in_child(self)

    def in_child(self) -> None:
        # Its finalizer would wait for threads that only the parent has.
        if self._connection is not None:
            forks.never_finalize(self._connection)

    @property
    def fsid(self) -> str:
        """The id of the cluster."""
        with self._connected() as connection:
            return str(connection.get_fsid()).lower()

    def open(self, place: Place, subject: str, *, writable: bool = False) -> OpenImage:
        """The image, or its snapshot.

        :raises ImageNotFound, NotAuthorized, TransferError: as usual.
        """
        with self._connected() as connection:
            pool = self._ioctx(connection, place.pool, place.namespace)
            try:
                with translated(f"cannot open {subject}"):
                    image = self._image_class(
                        pool, place.image, snapshot=place.snapshot, read_only=not writable
                    )
            except BaseException:
                pool.close()
                raise
            opened = OpenImage(pool, image, subject)
            self._open.add(opened)
            return opened

    @contextmanager
    def pool(self, pool: str, namespace: str) -> Iterator[Any]:
        """The Ioctx of a pool."""
        with self._connected() as connection:
            found = self._ioctx(connection, pool, namespace)
            try:
                yield found
            finally:
                found.close()

    def _ioctx(self, connection: Any, pool: str, namespace: str) -> Any:
        try:
            with translated(f"cannot open the pool {pool}"):
                found = connection.open_ioctx(pool)
        except ImageNotFound as error:
            raise ImageNotFound(
                f"there is no pool {pool}", hint="check its name: ceph osd pool ls"
            ) from error
        if namespace:
            found.set_namespace(namespace)
        return found

    def command(self, doing: str, prefix: str, **arguments: str) -> Any:
        """The answer of the monitors to a command."""
        asked = json.dumps({"prefix": prefix, "format": "json", **arguments})
        with self._connected() as connection, translated(doing):
            number, answer, _ = connection.mon_command(asked, b"")
        if number:
            raise error_of(doing, abs(number))
        return json.loads(answer)

    @contextmanager
    def _connected(self) -> Iterator[Any]:
        """The connection, which is not shut down as long as somebody is in here.

        :raises TransferError: this was closed; nobody would end another connection.
        """
        with self._lock:
            if self._closed:
                raise TransferError(
                    f"the connection to the cluster of {self._title} was closed",
                    hint="close the broker when its calls are over",
                )
            if self._connection is None:
                self._connection = self._connect()
            connection = self._connection
            self._users[id(connection)] += 1
        try:
            yield connection
        finally:
            with self._lock:
                self._users[id(connection)] -= 1

    def _connect(self) -> Any:
        options, doing = self._host.options, f"cannot connect to the cluster of {self._title}"
        for name in ("ceph_conf", "keyring"):
            self._check_file(name, options[name])
        with translated(doing, connecting=True):
            made = self._rados.Rados(
                rados_id=options.user, conffile=options.ceph_conf, conf=self._settings()
            )
        try:
            with translated(doing, connecting=True):
                made.connect()
        except BaseException as error:
            problem = None
            if isinstance(error, (*_NO_KEY, BackendError)):
                problem = self._problem_with_key(made, may_lack=isinstance(error, _NO_KEY))
            with contextlib.suppress(Exception):
                made.shutdown()
            if problem is not None:
                raise problem from error
            raise
        return made

    def _problem_with_key(self, made: Any, *, may_lack: bool) -> ConfigError | None:
        """Why there is no key, or none that could be one, which the library does not say."""
        user = f"client.{self._host.options.user}"
        names = [each.strip() for each in str(made.conf_get("keyring") or "").split(",")]
        unreadable: list[str] = []
        for name in filter(None, names):
            try:
                with open(name, errors="replace") as file:
                    _, found, entry = file.read(_MAX_KEYRING).partition(f"[{user}]")
                if found and _has_key(entry):
                    return None
                if found:
                    where = f"[backend:{self._host.title}] keyring"
                    return ConfigError(
                        f"{where}: {name} has no valid key of {user}",
                        hint=f"write it as this prints it: ceph auth get {user}",
                        option=where,
                    )
            except PermissionError:
                unreadable.append(name)
            except OSError:
                continue
        where = f"[backend:{self._host.title}] keyring"
        if not may_lack:
            return None
        if unreadable:
            return ConfigError(
                f"{where}: this user may not read {' and '.join(unreadable)}, where the key of "
                f"{user} would be",
                hint="set keyring to a file that this user can read, and user to whose key it has",
                option=where,
            )
        return ConfigError(
            f"{where}: there is no key of {user} in {' or '.join(filter(None, names))}",
            hint="set user and keyring: ceph auth get-or-create client.NAME prints a key",
            option=where,
        )

    def _check_file(self, name: str, path: str | None) -> None:
        """:raises ConfigError: the file of an option cannot be read."""
        if not path:
            return
        try:
            with open(path, "rb"):
                pass
        except OSError as error:
            raise ConfigError(
                f"[backend:{self._host.title}] {name}: cannot read {path}: {error.strerror}",
                hint=f"set {name} to a file that this user can read",
                option=f"[backend:{self._host.title}] {name}",
            ) from error

    @property
    def _title(self) -> str:
        return f"[backend:{self._host.title}] ceph_conf {self._host.options.ceph_conf}"

    def _settings(self) -> dict[str, str]:
        """What is set whatever Ceph's config file says."""
        options, limits = self._host.options, self._host.limits
        mon = str(options.mon_timeout or max(1, math.ceil(limits.connect_timeout)))
        osd = str(options.osd_timeout or max(1, math.ceil(limits.stall_timeout)))
        settings = {
            # Without these, the library waits forever.
            "client_mount_timeout": mon, "rados_mon_op_timeout": mon, "rados_osd_op_timeout": osd,
            # Whole chunks are read and written once: a cache would only copy them.
            "rbd_cache": "false",
            # The process and its output are the caller's.
            "log_to_stderr": "false", "err_to_stderr": "false",
        }  # fmt: skip
        if options.keyring:
            settings["keyring"] = options.keyring
        return settings

    def drop_if_dead(self, error: BaseException) -> None:
        """After an error: connect anew at the next call, if the cluster has dropped us."""
        cause = error.__cause__
        if isinstance(error, TransferError) and getattr(cause, "errno", 0) in _DROPPED:
            with self._lock:
                dropped, self._connection = self._connection, None
            if dropped is not None:
                forks.never_finalize(dropped)  # images may still be open in it

    def close(self) -> None:
        """End the connection, after the calls that are inside it and what was opened in it.

        What waits for the cluster may take as long as its time-outs. Then the connection stays: to
        end it under a call would hang that call for ever, or crash the process.
        """
        with self._lock:
            connection, self._connection, self._closed = self._connection, None, True
        if connection is None:
            return
        ends = monotonic() + _GRACE
        while self._is_used(connection):
            if monotonic() > ends:
                forks.never_finalize(connection)
                return
            sleep(0.01)
        connection.shutdown()

    def _is_used(self, connection: Any) -> bool:
        """Whether a call or an image still is in the connection; what is open is closed."""
        with self._lock:
            used = self._users[id(connection)] > 0
        opened = list(self._open)
        for each in opened:
            each.close()
        return used or any(not each.is_gone for each in opened)


#: What the library raises where it finds no key, and for other reasons.
_NO_KEY = (ConfigError, NotAuthorized)
_MAX_KEYRING = 1024 * 1024
_SHORTEST_KEY = 28
#: The cluster has blocklisted or forgotten this client.
_DROPPED = frozenset({errno.ESHUTDOWN, -errno.ESHUTDOWN, errno.ENOTCONN, -errno.ENOTCONN})


def _has_key(entry: str) -> bool:
    """Whether the entry of a keyring, and what follows it, has a key of cephx: type, time, length
    and 16 bytes or more.
    """
    found = re.search(r"^\s*key\s*=\s*(\S+)", entry.partition("\n[")[0], re.MULTILINE)
    try:
        return found is not None and len(base64.b64decode(found[1], validate=True)) >= _SHORTEST_KEY
    except ValueError:
        return False
