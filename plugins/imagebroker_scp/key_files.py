"""Reads a file with a private key, and the certificate beside it; says why one cannot be used."""

from __future__ import annotations

import base64
import io
import os
import shlex
import stat
import struct
from dataclasses import dataclass
from pathlib import Path

import paramiko
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey
from paramiko.pkey import PublicBlob

from imagebroker.plugin import own_login
from imagebroker_scp.certificates import Certificate

_LARGEST = 64 * 1024
_ANOTHER = "create another key: ssh-keygen -t ed25519"
_OPENSSH = b"-----BEGIN OPENSSH PRIVATE KEY-----"
_OPENSSH_MAGIC = b"openssh-key-v1\0"


class Unusable(Exception):
    """A key or certificate that exists but cannot be used. The text is the predicate of a sentence
    about the file."""

    def __init__(self, reason: str, remedy: str, *, locked: bool = False) -> None:
        super().__init__(reason)
        #: A command, or what to do.
        self.remedy = remedy
        #: Whether only the passphrase is missing.
        self.locked = locked


class Missing(Unusable):
    """The file does not exist."""


@dataclass(frozen=True)
class _Envelope:
    """The part of a key in OpenSSH's format that can be read without its passphrase."""

    encrypted: bool
    public: bytes

    @property
    def kind(self) -> str:
        return _text(self.public)[0].decode("ascii", "replace")


def load(file: Path, passphrase: str | None, locked: str) -> paramiko.PKey:
    """The private key in `file`. `locked` is the remedy if only its passphrase is missing.

    :raises Unusable: it cannot be used.
    """
    content = _read(file)
    _check_kind(content, file)
    try:
        private = _decrypted(content, passphrase)
    except TypeError:
        raise Unusable("is protected by a passphrase", locked, locked=True) from None
    except UnsupportedAlgorithm as error:
        raise Unusable(f"cannot be used ({error})", _ANOTHER) from None
    except Exception:
        # The libraries raise all kinds of errors for damaged data.
        if passphrase is not None and _is_encrypted(content):
            raise Unusable(
                "cannot be decrypted", "check identity_passphrase", locked=True
            ) from None
        raise Unusable("is damaged", f"restore it from a copy, or {_ANOTHER}") from None
    return _for_paramiko(private)


def public_half(file: Path) -> bytes | None:
    """The public key of a private one, read without the passphrase; None if unknown."""
    try:
        envelope = _envelope(_read(file))
        if envelope is not None:
            return envelope.public
    except Unusable:
        pass  # the .pub file beside it may have it
    return public_key(beside(file, ".pub"))


def public_key(file: Path) -> bytes | None:
    """The key in a .pub file; None if the file has no key."""
    try:
        return base64.b64decode(_read(file, private=False).split()[1], validate=True)
    except (Unusable, ValueError, IndexError):
        return None


def certificate(file: Path, key: bytes) -> PublicBlob | None:
    """The certificate in `file` for a public key, valid now; None if there is no such file.

    :raises Unusable: it is damaged, for another key, a host certificate, or not valid now.
    """
    try:
        found = Certificate.parse(_read(file, private=False))
    except Missing:
        return None
    except ValueError:
        reason = "is a certificate that cannot be used: it is damaged"
        raise Unusable(reason, f"replace or remove {file}") from None
    problem = found.problem
    if found.public != key:
        problem = "is a certificate that cannot be used: it is for another key"
    if problem is not None:
        raise Unusable(problem, f"get a new certificate, and replace {file}")
    return found.shown


def beside(file: Path, ending: str) -> Path:
    return file.with_name(file.name + ending)


def _read(file: Path, *, private: bool = True) -> bytes:
    try:
        # Without blocking, in case it is a FIFO.
        descriptor = os.open(file, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            status = os.fstat(descriptor)
            if not stat.S_ISREG(status.st_mode):
                raise Unusable("is not a file", "name a file with a private key")
            if private:
                _check_mode(file, status)
            return os.read(descriptor, _LARGEST)
        finally:
            os.close(descriptor)
    except FileNotFoundError as error:
        raise Missing("does not exist", f"correct the path, or {_ANOTHER}") from error
    except OSError as error:
        raise Unusable(f"cannot be read: {error.strerror}", owning(file)) from error


def owning(path: Path) -> str:
    """The command that makes the user the owner."""
    return f"sudo chown -R {shlex.quote(own_login() or str(os.geteuid()))} {shlex.quote(str(path))}"


def _check_mode(file: Path, status: os.stat_result) -> None:
    """Only its owner can read the user's own key, as ssh requires; another's can have a group."""
    if status.st_mode & (0o077 if status.st_uid == os.geteuid() else 0o007):
        raise Unusable(
            f"can be read by other users (mode {stat.S_IMODE(status.st_mode):04o})",
            f"chmod 600 {shlex.quote(str(file))}",
        )


def _check_kind(content: bytes, file: Path) -> None:
    """:raises Unusable: it is a kind of file that cannot be used."""
    name = shlex.quote(str(file))
    envelope = _envelope(content)
    if not content.strip():
        raise Unusable("is empty", f"restore it from a copy, or {_ANOTHER}")
    if content.startswith(b"PuTTY-User-Key-File"):
        raise Unusable(
            "is a key in PuTTY's format",
            f"puttygen {name} -O private-openssh -o {name}.new && mv {name}.new {name}",
        )
    if content.startswith((b"ssh-", b"ecdsa-", b"sk-", b"---- BEGIN SSH2 PUB", b"-----BEGIN PUB")):
        private = file.with_suffix("") if file.suffix == ".pub" else "the file without .pub"
        raise Unusable("is a public key", f"name the private key: {private}")
    kind = "ssh-dss" if b"BEGIN DSA PRIVATE KEY" in content else envelope.kind if envelope else ""
    if kind == "ssh-dss":
        raise Unusable("is a DSA key, which servers no longer accept", _ANOTHER)
    if kind.startswith("sk-"):
        raise Unusable("is a security key, which only ssh itself can use", _ANOTHER)
    if b" PRIVATE KEY-----" not in content:
        raise Unusable("is not a private key", f"name a key created by ssh-keygen, or {_ANOTHER}")


def _envelope(content: bytes) -> _Envelope | None:
    """The unencrypted part of a file in OpenSSH's format (PROTOCOL.key); None for other files."""
    if not content.lstrip().startswith(_OPENSSH):
        return None
    try:
        body = base64.b64decode(b"".join(content.split(b"-----")[2].split()))
        if not body.startswith(_OPENSSH_MAGIC):
            return None
        cipher, rest = _text(body[len(_OPENSSH_MAGIC) :])
        _, rest = _text(rest)  # the key derivation function
        _, rest = _text(rest)
        return _Envelope(cipher != b"none", _text(rest[4:])[0])
    except (ValueError, IndexError, struct.error):
        return None


def _text(data: bytes) -> tuple[bytes, bytes]:
    [length] = struct.unpack_from(">I", data)
    return data[4 : 4 + length], data[4 + length :]


def _is_encrypted(content: bytes) -> bool:
    envelope = _envelope(content)
    return b"ENCRYPTED" in content if envelope is None else envelope.encrypted


def _decrypted(content: bytes, passphrase: str | None) -> object:
    """:raises TypeError: the passphrase is missing."""
    encrypted = _is_encrypted(content)
    if encrypted and passphrase is None:
        raise TypeError("the passphrase is missing")
    openssh = content.lstrip().startswith(_OPENSSH)
    decode = serialization.load_ssh_private_key if openssh else serialization.load_pem_private_key
    return decode(content, passphrase.encode() if passphrase and encrypted else None)


def _for_paramiko(private: object) -> paramiko.PKey:
    """Convert a key in any format of ssh for paramiko, which reads OpenSSH's own format."""
    kind: type[paramiko.PKey]
    if isinstance(private, Ed25519PrivateKey):
        kind = paramiko.Ed25519Key
    elif isinstance(private, EllipticCurvePrivateKey):
        kind = paramiko.ECDSAKey
    elif isinstance(private, RSAPrivateKey):
        kind = paramiko.RSAKey
    else:
        raise Unusable("is a type of key that ssh does not support", _ANOTHER)
    text = private.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.OpenSSH,
        serialization.NoEncryption(),
    )
    return kind.from_private_key(io.StringIO(text.decode()))
