"""Verifies OpenPGP signatures of checksum files, by keys that the deployer trusts."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from imagebroker.backends.backend import Options
from imagebroker.exceptions import ConfigError, SignatureError
from imagebroker.redaction import redact

#: File name extensions of detached signatures.
ENDINGS = (".gpg", ".sign", ".asc", ".sig")

_CLEARSIGNED = b"-----BEGIN PGP SIGNED MESSAGE-----"


@dataclass(frozen=True)
class Keyring:
    """The keys that can sign checksum files."""

    path: str
    _keys: list[Any] = field(repr=False)

    @classmethod
    def configured(cls, core: Options) -> Keyring | None:
        """The keyring of `checksum_keyring` in `[imagebroker]`; None if that is not set.

        :raises ConfigError: it cannot be read, or has no keys; pysequoia is not installed.
        """
        path = core.checksum_keyring
        if not path:
            return None
        where = f"[imagebroker] checksum_keyring: {path!r}"
        try:
            import pysequoia
        except ImportError as error:
            raise ConfigError(
                f"{where} needs pysequoia, which cannot be used: {error}",
                hint="pip install 'imagebroker[openpgp]'",
            ) from error
        try:
            with open(path, "rb") as file:
                keys = pysequoia.Cert.split_bytes(file.read())
        except OSError as error:
            raise ConfigError(
                f"{where} cannot be read: {error.strerror}",
                hint="correct the path, or let this user read the file",
            ) from error
        except Exception as error:
            raise ConfigError(
                f"{where} is not an OpenPGP keyring: {_first_line(error)}",
                hint="export the keys with: gpg --export KEY > FILE",
            ) from error
        if not keys:
            raise ConfigError(
                f"{where} has no keys", hint="export the keys with: gpg --export KEY > FILE"
            )
        return cls(path, keys)

    def verified(
        self, data: bytes, beside: Callable[[str], bytes | None], title: str
    ) -> tuple[bytes, str]:
        """The signed text, and the fingerprint of the key that signed it.

        The file is clearsigned, or its signature is in a file beside it: `beside` fetches the file
        with an extension of `ENDINGS`, and returns None if there is none.

        :raises SignatureError: it has no signature by one of the keys.
        """
        if _is_clearsigned(data):
            return self._clearsigned(data, title)
        for ending in ENDINGS:
            found = beside(ending)
            if found is None:
                continue
            if _is_clearsigned(found):  # the signed copy of the file
                return self._clearsigned(found, title + ending)
            if signatures := _signatures(found):
                return data, self._detached(data, signatures, title)
        raise SignatureError(
            f"{title} is not signed, but checksum_keyring requires a signature",
            hint=f"publish a signature beside it, as a file with the extension "
            f"{', '.join(ENDINGS[:-1])} or {ENDINGS[-1]}",
        )

    def _clearsigned(self, data: bytes, title: str) -> tuple[bytes, str]:
        import pysequoia

        try:
            result = pysequoia.verify(bytes=data, store=self._all)
        except Exception as error:
            raise self._bad(title, error) from error
        # Only the signed part: text outside of it is not included.
        return result.bytes or b"", self._signer(title, result)

    def _detached(self, data: bytes, signatures: list[Any], title: str) -> str:
        """One valid signature is enough: others may be by unknown keys."""
        import pysequoia

        failure: Exception | None = None
        for signature in signatures:
            try:
                result = pysequoia.verify(bytes=data, store=self._all, signature=signature)
            except Exception as error:
                failure = error
            else:
                return self._signer(title, result)
        raise self._bad(title, failure) from failure

    def _all(self, ids: list[str]) -> list[Any]:
        return self._keys

    def _signer(self, title: str, result: Any) -> str:
        known = {key.fingerprint.lower() for key in self._keys}
        for found in result.valid_sigs:
            if found.certificate.lower() in known:
                return str(found.certificate).upper()
        raise self._bad(title, None)

    def _bad(self, title: str, error: Exception | None) -> SignatureError:
        why = "" if error is None else f": {_first_line(error)}"
        return SignatureError(
            f"{title} has no valid signature by a key in {self.path!r}{why}",
            hint="check whether the file was changed, and whether the keyring has the publisher's "
            "current key",
        )


def _is_clearsigned(data: bytes) -> bool:
    return data.startswith(_CLEARSIGNED) or b"\n" + _CLEARSIGNED in data


def _signatures(data: bytes) -> list[Any]:
    """The signatures in a file; none if it is something else."""
    import pysequoia
    from pysequoia.packet import PacketPile, Tag

    try:
        packets = [packet for packet in PacketPile.from_bytes(data) if packet.tag == Tag.Signature]
        return [pysequoia.Sig.from_bytes(bytes(packet)) for packet in packets[:_MAX_SIGNATURES]]
    except Exception:  # the library has no other way to say so
        return []


#: Maximum number of signatures to try in one file.
_MAX_SIGNATURES = 16


def _first_line(error: Exception) -> str:
    """The text of a library's error, without the stack trace in it."""
    return redact(str(error).strip().split("\n", 1)[0], 160)
