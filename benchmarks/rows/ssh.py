"""From OpenSSH's server on this host."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from benchmarks import peers
from benchmarks.bench import GIB, Bench
from benchmarks.contest import Goal, Row


@contextmanager
def scp(bench: Bench) -> Iterator[Row]:
    dest, server = bench.dest(), bench.sshd()
    where = server.port, server.user, server.key, server.known_hosts
    options = (
        f"known_hosts = {server.known_hosts}\nidentity_file = {server.key}\n"
        "require_strict_kex = false\nallowed_networks = 127.0.0.0/8"
    )
    with bench.image(GIB) as image:
        path, remote = image.path, f"127.0.0.1:{image.path}"
        words = "download", server.url(path), dest
        sftp = (
            f":sftp,host=127.0.0.1,port={server.port},user={server.user},"
            f"key_file={server.key},known_hosts_file={server.known_hosts}:{path}"
        )
        others = [
            peers.command("scp", ["scp", "-q", *server.ssh_options(), remote, dest]),
            peers.command("sftp", ["sftp", "-q", *server.ssh_options(), remote, dest]),
            peers.command("rclone copyto", ["rclone", "copyto", sftp, dest]),
            peers.library("paramiko's get", "paramiko_get", *where, path, dest),
            peers.library("asyncssh", "asyncssh_get", *where, path, dest),
        ]
        config = bench.config("scp", scp=options)
        contenders = [
            peers.ours(config, *words),
            *(peers.synced(each, dest) for each in others),
        ]
        goals = [Goal(1.0, "scp"), Goal(0.4, "paramiko's get")]
        title = f"`scp:` from OpenSSH, {bench.size_text(GIB)}"
        yield Row(title, contenders, goals, dest, image.checker(dest))
