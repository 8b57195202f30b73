"""The keys that may be offered: the configured one, or a person's own."""

from __future__ import annotations

import getpass
import io
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import paramiko

from imagebroker.plugin import ConfigError, NotAuthorized

#: Files that a person's keys are in, best first.
_PERSONAL = ("id_ed25519", "id_ecdsa", "id_rsa")
#: sshd hangs up after six failures by default.
_MOST_ATTEMPTS = 6


@contextmanager
def configured_key(file: Path, passphrase: str | None) -> Iterator[list[paramiko.PKey]]:
    """The key in `file`, and no other.

    :raises ConfigError: the file is missing, no key, or readable for others.
    :raises NotAuthorized: it needs a passphrase, or another one.
    """
    yield [_load(_read(file), file, passphrase)]


@contextmanager
def personal_keys() -> Iterator[list[paramiko.PKey]]:
    """The keys in the ssh agent and in ~/.ssh, of a person who runs the command.

    :raises NotAuthorized: there is none that can be used.
    """
    agent = paramiko.Agent()
    try:
        keys: list[paramiko.PKey] = list(agent.get_keys())
        for name in _PERSONAL:
            file = Path.home() / ".ssh" / name
            try:
                keys.append(_load(_read(file), file, None))
            except (ConfigError, NotAuthorized):
                continue  # absent, or with a passphrase: that is what the agent is for
        if not keys:
            raise NotAuthorized(
                "there is no ssh key to log in with",
                hint="load one into the ssh agent with ssh-add, or make one with ssh-keygen",
            )
        yield keys[:_MOST_ATTEMPTS]
    finally:
        agent.close()


def login_name() -> str | None:
    """The name of the person who runs this process."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return None


def _read(file: Path) -> str:
    try:
        with open(file, "rb") as opened:
            status = os.fstat(opened.fileno())
            _check_mode(file, status)
            return opened.read(64 * 1024).decode("ascii", "replace")
    except OSError as error:
        raise ConfigError(
            f"identity_file {file} cannot be read: {error.strerror}",
            hint="name a private key that this process may read",
        ) from error


def _check_mode(file: Path, status: os.stat_result) -> None:
    """A key of ours is for us alone, as ssh itself demands; another owner's may have a group."""
    if not stat.S_ISREG(status.st_mode):
        raise ConfigError(
            f"identity_file {file} is not a file", hint="name the file that has the private key"
        )
    open_to = status.st_mode & (0o077 if status.st_uid == os.geteuid() else 0o007)
    if open_to:
        raise ConfigError(
            f"identity_file {file} is open to others (mode {stat.S_IMODE(status.st_mode):04o})",
            hint=f"chmod 600 {file}",
        )


def _load(text: str, file: Path, passphrase: str | None) -> paramiko.PKey:
    for kind in (paramiko.Ed25519Key, paramiko.ECDSAKey, paramiko.RSAKey):
        try:
            return kind.from_private_key(io.StringIO(text), passphrase)
        except paramiko.PasswordRequiredException:
            raise NotAuthorized(
                f"identity_file {file} is protected by a passphrase",
                hint="set identity_passphrase, or use a key without one",
            ) from None
        except Exception:  # noqa: S112 - not this kind; damaged files raise all sorts of errors
            continue
    if "ENCRYPTED" in text or ("BEGIN OPENSSH" in text and passphrase is not None):
        raise NotAuthorized(
            f"identity_file {file} cannot be decrypted", hint="check identity_passphrase"
        )
    raise ConfigError(
        f"identity_file {file} has no private key of a kind that is understood",
        hint="name an Ed25519, ECDSA or RSA key as ssh-keygen writes them "
        f"(ssh-keygen -p -f {file} converts others)",
    )
