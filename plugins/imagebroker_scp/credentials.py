"""The keys that are offered to a server: the configured one, or the user's own."""

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

#: The files of a user's keys, best first.
_PERSONAL = ("id_ed25519", "id_ecdsa", "id_rsa")
#: Other files that ssh tries. They cannot be used here, and loading them says why.
_OTHERS = ("id_ed25519_sk", "id_ecdsa_sk", "id_dsa")


@dataclass(frozen=True)
class PassedOver:
    """A key that exists but could not be offered."""

    #: The file, or the key's name in the agent.
    what: str
    #: The predicate of a sentence about it.
    reason: str
    #: A command, or what to do.
    remedy: str

    def __str__(self) -> str:
        return f"{self.what} {self.reason}"


@dataclass(frozen=True)
class Identity:
    """A key or certificate that is offered to a server, and its name in messages."""

    key: paramiko.PKey
    name: str

    @property
    def fails_to_sign(self) -> bool:
        return isinstance(self.key, HeldKey) and self.key.fails_to_sign


@dataclass(frozen=True)
class Offer:
    """The keys to offer to a server, best first."""

    identities: tuple[Identity, ...]
    passed_over: tuple[PassedOver, ...] = ()
    #: The number of keys in the agent.
    in_agent: int = 0


@contextmanager
def configured_key(file: Path, passphrase: str | None) -> Iterator[Offer]:
    """The key in `file` with the certificate beside it, and no other.

    :raises ConfigError: the file is missing, not a key, or readable by other users.
    :raises NotAuthorized: it needs a passphrase, or a different one.
    """
    try:
        key = load(file, passphrase, "set identity_passphrase, or use a key without a passphrase")
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
    """The keys of the user who runs the command: in the ssh agent and in ~/.ssh.

    First keys of the agent whose public key is in ~/.ssh, then the files, then the other keys of
    the agent: a server disconnects after some refused keys (`MaxAuthTries` of sshd), and an agent
    may have more keys than that.

    :raises NotAuthorized: no key can be used.
    """
    agent = paramiko.Agent()
    try:
        offer = _personal([HeldKey(key) for key in agent.get_keys()])
        if not offer.identities:
            passed_over = "".join(f"; {each}" for each in offer.passed_over)
            raise NotAuthorized(
                f"no ssh key to log in with{passed_over}",
                hint=offer.passed_over[0].remedy
                if offer.passed_over
                else "add one to the ssh agent with ssh-add, or create one with ssh-keygen",
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
        reason, remedy = "cannot be read by this user", _remedy_for_folder(folder)
        passed_over.append(PassedOver(str(folder), reason, remedy))
    else:
        offered = _of_folder(folder, in_agent, passed_over)
    shown = {id(each.key) for each in offered}
    offered += [_held(key) for key in in_agent if id(key) not in shown]
    return Offer(tuple(offered), tuple(passed_over), len(held))


def _counts(key: HeldKey, passed_over: list[PassedOver]) -> bool:
    if key.certificate is not None and key.certificate.problem is not None:
        name = _held(key).name
        passed_over.append(PassedOver(name, key.certificate.problem, "ssh-add -D && ssh-add"))
        return False
    return True


def _of_folder(
    folder: Path, in_agent: list[HeldKey], passed_over: list[PassedOver]
) -> list[Identity]:
    """The identities of the files in ~/.ssh: keys of the agent, and keys in files."""
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
                remedy = "restore the private key, or add it to the ssh agent with ssh-add"
                reason = "is missing: only its .pub exists"
                passed_over.append(PassedOver(str(folder / name), reason, remedy))
        except Unusable as unusable:
            passed_over.append(PassedOver(str(folder / name), str(unusable), unusable.remedy))
    return offered


def _from_file(
    file: Path, in_agent: list[HeldKey], passed_over: list[PassedOver]
) -> list[Identity]:
    """The key in a file of ~/.ssh, its certificate first. If the agent has the key, only the
    certificate beside it.

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
    """The certificate beside a key. If it is not valid, the key is still offered."""
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
    """The remedy for another user's ~/.ssh, as after `su` or `sudo` that kept HOME."""
    try:
        home = pwd.getpwuid(os.geteuid()).pw_dir
    except KeyError:
        return "set HOME to a directory of your own"
    own = os.path.realpath(home) == os.path.realpath(folder.parent)
    return owning(folder) if own else f"export HOME={shlex.quote(home)}"


def _held(key: HeldKey) -> Identity:
    kind = key.get_name().removesuffix(CERTIFICATE).removeprefix("ssh-")
    what = "certificate" if key.certificate else "key"
    comment = printable(key.comment, 64) or "without a comment"
    return Identity(key, f"{kind} {what} {comment} in the ssh agent")


def ssh_folder() -> Path | None:
    """~/.ssh; None for a user without a home directory."""
    home = own_home()
    return None if home is None else Path(home, ".ssh")


def is_closed(folder: Path) -> bool:
    """Whether this user cannot read it: another user's, as after a `su` that kept HOME."""
    try:
        os.stat(os.path.join(folder, "."))
    except PermissionError:
        return True
    except OSError:
        return False
    return False
