"""The keys that are offered to a server: the configured one, or a person's own."""

from __future__ import annotations

import os
import pwd
import shlex
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import paramiko
from paramiko.pkey import PublicBlob

from imagebroker.plugin import ConfigError, NotAuthorized, own_home, printable
from imagebroker_scp.certificates import CERTIFICATE
from imagebroker_scp.held_keys import HeldKey
from imagebroker_scp.key_files import (
    Missing,
    Unusable,
    beside,
    certificate,
    load,
    owning,
    public_half,
    public_key,
)

#: Files that a person's keys are in, best first.
_PERSONAL = ("id_ed25519", "id_ecdsa", "id_rsa")
#: Others that ssh looks for. They cannot be used here, and loading them says why.
_OTHERS = ("id_ed25519_sk", "id_ecdsa_sk", "id_dsa")


@dataclass(frozen=True)
class PassedOver:
    """A key that was there and could not be offered."""

    #: The file, or what the agent calls it.
    what: str
    #: Completes a sentence that begins with it.
    reason: str
    #: One command, or what to do.
    remedy: str

    def __str__(self) -> str:
        return f"{self.what} {self.reason}"


@dataclass(frozen=True)
class Identity:
    """One key or certificate that is shown to a server, and what messages call it."""

    key: paramiko.PKey
    name: str

    @property
    def fails_to_sign(self) -> bool:
        return isinstance(self.key, HeldKey) and self.key.fails_to_sign


@dataclass(frozen=True)
class Offer:
    """What may be shown to a server, best first."""

    identities: tuple[Identity, ...]
    passed_over: tuple[PassedOver, ...] = ()
    #: How many keys the agent holds.
    in_agent: int = 0


@contextmanager
def configured_key(file: Path, passphrase: str | None) -> Iterator[Offer]:
    """The key in `file` with the certificate beside it, and no other.

    :raises ConfigError: the file is missing, no key, or readable for others.
    :raises NotAuthorized: it needs a passphrase, or another one.
    """
    try:
        key = load(file, passphrase, "set identity_passphrase, or use a key without one")
    except Unusable as unusable:
        kind = NotAuthorized if unusable.locked else ConfigError
        raise kind(f"identity_file {file} {unusable}", hint=unusable.remedy) from unusable
    passed_over: list[PassedOver] = []
    certified = _certificate(file, key.asbytes(), passed_over)
    identities = [Identity(key, str(file))]
    if certified is not None:
        shown = load(file, passphrase, "")
        shown.public_blob = certified
        identities.insert(0, Identity(shown, f"{file} with its certificate"))
    yield Offer(tuple(identities), tuple(passed_over))


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
        offer = _personal([HeldKey(key) for key in agent.get_keys()])
        if not offer.identities:
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


def _personal(held: list[HeldKey]) -> Offer:
    passed_over: list[PassedOver] = []
    in_agent = [key for key in held if _counts(key, passed_over)]
    folder = ssh_folder()
    if folder is None:
        offered: list[Identity] = []
    elif is_closed(folder):
        offered = []
        reason, remedy = "may not be looked into by this user", _remedy_for_folder(folder)
        passed_over.append(PassedOver(str(folder), reason, remedy))
    else:
        offered = _of_folder(folder, in_agent, passed_over)
    shown = {id(each.key) for each in offered}
    offered += [_held(key) for key in in_agent if id(key) not in shown]
    return Offer(tuple(offered), tuple(passed_over), len(held))


def _counts(key: HeldKey, passed_over: list[PassedOver]) -> bool:
    if key.certificate is not None and key.certificate.problem is not None:
        name = _held(key).name
        passed_over.append(PassedOver(name, key.certificate.problem, "ssh-add -D, then ssh-add"))
        return False
    return True


def _of_folder(
    folder: Path, in_agent: list[HeldKey], passed_over: list[PassedOver]
) -> list[Identity]:
    """What the files of a person's folder stand for: keys in the agent, and keys."""
    offered: list[Identity] = []
    publics = {public_key(file) for file in sorted(folder.glob("id_*.pub"))}
    publics |= {public_half(folder / name) for name in _PERSONAL}
    for key in in_agent:
        if key.public in publics:
            offered.append(_held(key))
    for name in (*_PERSONAL, *_OTHERS):
        try:
            offered += _from_file(folder / name, in_agent, passed_over)
        except Missing:
            if beside(folder / name, ".pub").exists() and not offered:
                remedy = "restore the private key, or ssh-add it"
                reason = "is missing, and only its .pub is there"
                passed_over.append(PassedOver(str(folder / name), reason, remedy))
        except Unusable as unusable:
            passed_over.append(PassedOver(str(folder / name), str(unusable), unusable.remedy))
    return offered


def _from_file(
    file: Path, in_agent: list[HeldKey], passed_over: list[PassedOver]
) -> list[Identity]:
    """The key in a person's file, its certificate first. Where the agent has the key, only a
    certificate that lies beside it.

    :raises Unusable: it cannot be used, and the agent does not have it.
    """
    public = public_half(file)
    held = next((key for key in in_agent if key.public == public and not key.certificate), None)
    key = held or load(file, None, _adding(file))
    certified = _certificate(file, key.asbytes(), passed_over)
    identities = [] if held else [Identity(key, str(file))]
    if certified is not None:
        shown = HeldKey(held) if held else load(file, None, "")
        shown.public_blob = certified
        identities.insert(0, Identity(shown, f"{file} with its certificate"))
    return identities


def _certificate(file: Path, public: bytes, passed_over: list[PassedOver]) -> PublicBlob | None:
    """The certificate beside a key; one that does not count keeps the key from nothing."""
    path = beside(file, "-cert.pub")
    try:
        return certificate(path, public)
    except Unusable as unusable:
        passed_over.append(PassedOver(str(path), str(unusable), unusable.remedy))
        return None


def _adding(file: Path) -> str:
    command = f"ssh-add {shlex.quote(str(file))}"
    return command if os.environ.get("SSH_AUTH_SOCK") else f'eval "$(ssh-agent)" && {command}'


def _remedy_for_folder(folder: Path) -> str:
    """It belongs to another, as after `su` or `sudo` that left HOME as it was."""
    try:
        home = pwd.getpwuid(os.geteuid()).pw_dir
    except KeyError:
        return "set HOME to a folder of your own"
    own = os.path.realpath(home) == os.path.realpath(folder.parent)
    return owning(folder) if own else f"export HOME={shlex.quote(home)}"


def _held(key: HeldKey) -> Identity:
    kind = key.get_name().removesuffix(CERTIFICATE).removeprefix("ssh-")
    what = "certificate" if key.certificate else "key"
    comment = printable(key.comment, 64) or "without a comment"
    return Identity(key, f"{kind} {what} {comment} of the ssh agent")


def ssh_folder() -> Path | None:
    """~/.ssh; None for a user without a home."""
    home = own_home()
    return None if home is None else Path(home, ".ssh")


def is_closed(folder: Path) -> bool:
    """Whether it is another user's, as after a change of the user that left HOME as it was."""
    try:
        os.stat(os.path.join(folder, "."))
    except PermissionError:
        return True
    except OSError:
        return False
    return False
