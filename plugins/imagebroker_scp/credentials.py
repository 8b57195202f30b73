"""The keys that are offered to a server: the configured one, or a person's own."""

from __future__ import annotations

import base64
import getpass
import io
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import paramiko

from imagebroker.plugin import ConfigError, NotAuthorized

#: Files that a person's keys are in, best first, and those of kinds that cannot be used here.
_PERSONAL = ("id_ed25519", "id_ecdsa", "id_rsa")
_OTHER_KINDS = {
    "id_ed25519_sk": "is a security key, which only ssh itself can use",
    "id_ecdsa_sk": "is a security key, which only ssh itself can use",
    "id_dsa": "is a DSA key, which servers no longer accept",
}
_LARGEST = 64 * 1024


@dataclass(frozen=True)
class PassedOver:
    """A key that was there and could not be offered."""

    file: Path
    #: Completes a sentence that begins with the file.
    reason: str
    #: One command, or what to do.
    remedy: str

    def __str__(self) -> str:
        return f"{self.file} {self.reason}"


@dataclass(frozen=True)
class Offer:
    """What may be shown to a server, best first."""

    keys: tuple[paramiko.PKey, ...]
    #: What messages call each of them.
    names: tuple[str, ...]
    passed_over: tuple[PassedOver, ...] = ()
    #: How many keys the agent holds.
    in_agent: int = 0


class _Unusable(Exception):
    def __init__(self, reason: str, remedy: str, *, locked: bool = False) -> None:
        super().__init__(reason)
        self.reason, self.remedy, self.locked = reason, remedy, locked


@contextmanager
def configured_key(file: Path, passphrase: str | None) -> Iterator[Offer]:
    """The key in `file` with the certificate beside it, and no other.

    :raises ConfigError: the file is missing, no key, or readable for others.
    :raises NotAuthorized: it needs a passphrase, or another one.
    """
    try:
        key = _load(file, passphrase)
        certified = _certified(file, passphrase)
    except _Unusable as unusable:
        kind = NotAuthorized if unusable.locked else ConfigError
        raise kind(f"identity_file {file} {unusable}", hint=unusable.remedy) from unusable
    keys = (key,) if certified is None else (certified, key)
    yield Offer(keys, (str(file),) * len(keys))


@contextmanager
def personal_keys() -> Iterator[Offer]:
    """The keys of a person who runs the command: in the ssh agent and in ~/.ssh.

    Those in the agent that ~/.ssh has the public half of come first, then the files, then what
    else the agent holds: a server hangs up after some refusals (`MaxAuthTries` of sshd), and an
    agent may hold more keys than that.

    :raises NotAuthorized: there is none that can be used.
    """
    agent = paramiko.Agent()
    try:
        offer = _personal(list(agent.get_keys()))
        if not offer.keys:
            passed_over = "".join(f"; {each}" for each in offer.passed_over)
            raise NotAuthorized(
                f"there is no ssh key to log in with{passed_over}",
                hint=offer.passed_over[0].remedy
                if offer.passed_over
                else "load one into the ssh agent with ssh-add, or make one with ssh-keygen",
            )
        yield offer
    finally:
        agent.close()


def _personal(in_agent: list[paramiko.AgentKey]) -> Offer:
    folder = ssh_folder()
    files = [] if folder is None else [folder / name for name in _PERSONAL]
    public = {blob for file in files if (blob := _public(file)) is not None}
    first = [key for key in in_agent if key.asbytes() in public]
    offered: list[tuple[paramiko.PKey, str]] = [(key, _agent_name(key)) for key in first]
    passed_over = []
    for file in files:
        try:
            offered += [(key, str(file)) for key in _from_file(file, first)]
        except _Unusable as unusable:
            passed_over.append(PassedOver(file, unusable.reason, unusable.remedy))
    if folder is not None:
        passed_over += _of_other_kinds(folder)
    offered += [(key, _agent_name(key)) for key in in_agent if key not in first]
    return Offer(
        tuple(key for key, _ in offered),
        tuple(name for _, name in offered),
        tuple(passed_over),
        len(in_agent),
    )


def _from_file(file: Path, in_agent: list[paramiko.AgentKey]) -> list[paramiko.PKey]:
    """The key in a person's file, its certificate first; none where the agent has it, or nothing
    is there."""
    if not file.exists():
        if file.with_name(file.name + ".pub").exists() and not in_agent:
            raise _Unusable("is missing, and only its .pub is there", "restore the private key")
        return []
    if _public(file) in {key.asbytes() for key in in_agent}:
        return []
    key = _load(file, None, personal=True)
    certified = _certified(file, None)
    return [key] if certified is None else [certified, key]


def _of_other_kinds(folder: Path) -> list[PassedOver]:
    return [
        PassedOver(folder / name, reason, "make another key: ssh-keygen -t ed25519")
        for name, reason in _OTHER_KINDS.items()
        if (folder / name).exists()
    ]


def ssh_folder() -> Path | None:
    """~/.ssh; None for a user without a home (no HOME and no passwd entry)."""
    try:
        return Path.home() / ".ssh"
    except (KeyError, RuntimeError):
        return None


def login_name() -> str | None:
    """The name of the person who runs this process."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return None


def _agent_name(key: paramiko.AgentKey) -> str:
    return f"{key.get_name()} of the ssh agent"


def _public(file: Path) -> bytes | None:
    """The public half that ssh-keygen writes beside a key."""
    try:
        line = file.with_name(file.name + ".pub").read_text("ascii")[:_LARGEST]
        return base64.b64decode(line.split()[1], validate=True)
    except (OSError, ValueError, IndexError):
        return None


def _load(file: Path, passphrase: str | None, *, personal: bool = False) -> paramiko.PKey:
    """:raises _Unusable: it is no private key that this process may use."""
    try:
        with open(file, "rb") as opened:
            _check_mode(file, os.fstat(opened.fileno()))
            text = opened.read(_LARGEST).decode("ascii", "replace")
    except OSError as error:
        raise _Unusable(
            f"cannot be read: {error.strerror}", "name a private key that this process may read"
        ) from error
    return _decoded(text, file, passphrase, personal=personal)


def _check_mode(file: Path, status: os.stat_result) -> None:
    """A key of ours is for us alone, as ssh itself demands; another owner's may have a group."""
    if not stat.S_ISREG(status.st_mode):
        raise _Unusable("is not a file", "name the file that has the private key")
    if status.st_mode & (0o077 if status.st_uid == os.geteuid() else 0o007):
        raise _Unusable(
            f"is open to others (mode {stat.S_IMODE(status.st_mode):04o})", f"chmod 600 {file}"
        )


def _decoded(text: str, file: Path, passphrase: str | None, *, personal: bool) -> paramiko.PKey:
    locked = "set identity_passphrase, or use a key without one"
    for kind in (paramiko.Ed25519Key, paramiko.ECDSAKey, paramiko.RSAKey):
        try:
            return kind.from_private_key(io.StringIO(text), passphrase)
        except paramiko.PasswordRequiredException:
            raise _Unusable(
                "is protected by a passphrase",
                f"ssh-add {file}" if personal else locked,
                locked=True,
            ) from None
        except Exception:  # noqa: S112 - not this kind; damaged files raise all sorts of errors
            continue
    if "ENCRYPTED" in text or ("BEGIN OPENSSH" in text and passphrase is not None):
        raise _Unusable("cannot be decrypted", "check identity_passphrase", locked=True)
    if text.startswith("PuTTY-User-Key-File"):
        raise _Unusable(
            "is a key of PuTTY", f"puttygen {file} -O private-openssh -o {file}.openssh"
        )
    raise _Unusable(
        "has no private key of a kind that is understood",
        "name an Ed25519, ECDSA or RSA key as ssh-keygen writes them "
        f"(ssh-keygen -p -f {file} converts others)",
    )


def _certified(file: Path, passphrase: str | None) -> paramiko.PKey | None:
    """The key with the certificate that lies beside it (`id_ed25519-cert.pub`), if one does.

    :raises _Unusable: the certificate is damaged, of another key, or not valid now.
    """
    beside = file.with_name(file.name + "-cert.pub")
    if not beside.exists():
        return None
    key = _load(file, passphrase)
    try:
        key.load_certificate(str(beside))
        _check_valid(beside)
    except (OSError, ValueError, paramiko.SSHException) as error:
        raise _Unusable(
            f"has a certificate that cannot be used: {error}", f"replace or remove {beside}"
        ) from error
    return key


def _check_valid(certificate: Path) -> None:
    """:raises ValueError: it is not valid now, which a server would not say."""
    from cryptography.hazmat.primitives.serialization import (
        SSHCertificate,
        load_ssh_public_identity,
    )

    found = load_ssh_public_identity(certificate.read_bytes()[:_LARGEST])
    now = datetime.now(UTC).timestamp()
    if not isinstance(found, SSHCertificate):
        raise ValueError("it is not a certificate")
    if now >= found.valid_before:
        when = datetime.fromtimestamp(found.valid_before, UTC)
        raise ValueError(f"it expired at {when:%Y-%m-%d %H:%M} UTC")
    if now < found.valid_after:
        raise ValueError("it is not valid yet")
