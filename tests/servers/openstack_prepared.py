"""Databases, keys and users for Keystone and Glance, prepared once per version and then copied."""

from __future__ import annotations

import base64
import contextlib
import fcntl
import hashlib
import json
import os
import shutil
import socket
import sqlite3
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.canaries import secret
from tests.servers import openstack_files
from tests.servers.openstack_service import (
    cache_directory,
    call,
    environment,
    start_keystone,
    token,
    url_of,
    variables,
)
from tests.servers.process import HOST, StartError

REGION = "RegionOne"


@dataclass(frozen=True)
class User:
    """Somebody that Keystone knows, in the domain Default."""

    name: str
    project: str
    roles: tuple[str, ...]

    @property
    def password(self) -> str:
        return secret(f"{self.name}-password")


USERS = {
    user.name: user
    for user in (
        User("admin", "admin", ("admin",)),
        User("red", "red", ("member",)),
        User("blue", "blue", ("member",)),
        #: May look at what red has, but not download it.
        User("reader", "red", ("reader",)),
        #: Whose token goes along as X-Service-Token.
        User("service", "service", ("service",)),
        #: Glance itself.
        User("glance", "service", ("service", "admin")),
    )
}


@contextlib.contextmanager
def open_database(file: Path) -> Iterator[sqlite3.Connection]:
    with contextlib.closing(sqlite3.connect(file)) as database, database:
        yield database


def prepared_databases() -> Path:
    """Return a directory with databases, keys and users, which is made once per version."""
    versions = (environment() / "versions").read_bytes()
    sources = Path(__file__).read_bytes() + Path(openstack_files.__file__).read_bytes()
    prepared = cache_directory() / f"prepared-{hashlib.sha256(versions + sources).hexdigest()[:16]}"
    with (cache_directory() / "prepare.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not prepared.exists():
            unfinished = prepared.with_suffix(".new")
            shutil.rmtree(unfinished, ignore_errors=True)
            _prepare(unfinished)
            unfinished.rename(prepared)
    return prepared


def _prepare(directory: Path) -> None:
    keystone, glance = directory / "keystone", directory / "glance"
    for each in (keystone, glance):
        each.mkdir(parents=True)
    with socket.create_server((HOST, 0), backlog=128) as listener:
        auth_url = url_of(listener) + "/v3"
        (glance / "glance-api.conf").write_text(
            f"[database]\nconnection = sqlite:///{glance}/glance.db\nsqlite_synchronous = false\n"
        )
        (keystone / "keystone.conf").write_text(openstack_files.keystone(keystone))
        glance_manage = _manage(glance, "glance-manage", "db_sync")
        _make_keystone(keystone, auth_url)
        _finish(glance_manage, glance)
        service = start_keystone(keystone, listener)
    try:
        service.wait("/v3")
        ids = _make_users(auth_url)
    finally:
        service.process.stop()
    (directory / "ids.json").write_text(json.dumps(ids))
    for database in directory.glob("*/*.db"):
        # Otherwise the last changes are in a second file.
        with open_database(database) as connection:
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")


def _manage(directory: Path, *command: str) -> subprocess.Popen[bytes]:
    program, *arguments = command
    file = directory / ("keystone.conf" if program == "keystone-manage" else "glance-api.conf")
    with (directory / "prepare.log").open("ab") as log:
        return subprocess.Popen(
            [environment() / "bin" / program, "--config-file", file, *arguments],
            env=variables(directory),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
        )


def _finish(process: subprocess.Popen[bytes], directory: Path) -> None:
    if process.wait() != 0:
        log = (directory / "prepare.log").read_text(errors="replace")
        raise StartError(f"{process.args!r} failed:\n{log[-4000:]}")


def _make_keystone(directory: Path, auth_url: str) -> None:
    keys = directory / "fernet-keys"
    keys.mkdir(mode=0o700)
    for name in ("0", "1"):
        # What fernet_setup and credential_setup do, in two seconds each.
        (keys / name).write_bytes(base64.urlsafe_b64encode(os.urandom(32)))
        (keys / name).chmod(0o600)
    options = {
        "password": USERS["admin"].password,
        "region-id": REGION,
        **{f"{kind}-url": auth_url for kind in ("public", "admin", "internal")},
    }
    bootstrap = [f"--bootstrap-{name}={value}" for name, value in options.items()]
    for command in (["db_sync"], ["bootstrap", *bootstrap]):
        _finish(_manage(directory, "keystone-manage", *command), directory)


def _make_users(auth_url: str) -> dict[str, dict[str, str]]:
    """Make all but the admin, and Glance's entry in the catalogue; return project and user ids."""
    admin = USERS["admin"]
    headers = {"X-Auth-Token": token(auth_url, admin.name, admin.password, admin.project)}

    def make(kind: str, **fields: object) -> str:
        return str(call("POST", f"{auth_url}/{kind}s", {kind: fields}, headers)[kind]["id"])

    def ids(kind: str) -> dict[str, str]:
        found = call("GET", f"{auth_url}/{kind}s", headers=headers)[f"{kind}s"]
        return {each["name"]: each["id"] for each in found}

    roles = ids("role")
    for user in USERS.values():
        if user == admin:
            continue
        projects = ids("project")
        project = projects.get(user.project) or make("project", name=user.project)
        person = make("user", name=user.name, password=user.password)
        for role in user.roles:
            grant = f"{auth_url}/projects/{project}/users/{person}/roles/{roles[role]}"
            call("PUT", grant, headers=headers)
    service = make("service", name="glance", type="image")
    for interface in ("public", "internal", "admin"):
        place = {"interface": interface, "region_id": REGION, "service_id": service}
        make("endpoint", url="http://127.0.0.1/", **place)
    return {"projects": ids("project"), "users": ids("user")}
