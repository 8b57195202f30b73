"""Image signatures as in Nova: which one is required, and verifying it in the background."""

from __future__ import annotations

from base64 import b64decode
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

from imagebroker.backends.backend import Buffer, Limits, Options
from imagebroker.exceptions import ConfigError, InvalidImageRef, SignatureError
from imagebroker.model.image import Image
from imagebroker.redaction import redact
from imagebroker.verify.certificate import (
    MAX_CERTIFICATES,
    KeyManager,
    check_trusted,
    is_certificate_id,
)
from imagebroker.verify.checksum import in_background

if TYPE_CHECKING:
    from cryptography.x509 import Certificate
    from oslo_config import cfg

    from imagebroker.backends.backend import Context

SIGNATURE, HASH_METHOD, KEY_TYPE, CERTIFICATE = PROPERTIES = (
    "img_signature", "img_signature_hash_method", "img_signature_key_type",
    "img_signature_certificate_uuid",
)  # fmt: skip
#: Hash methods of cursive that are too weak.
_WEAK = frozenset({"SHA-224"})


@dataclass(frozen=True)
class SignaturePolicy:
    """Which signatures this deployment requires."""

    #: Require one of every image, even if the caller names no certificates.
    verify_signatures: bool = False
    #: Ids of the certificates to trust if the caller names none.
    trusted_certificate_ids: tuple[str, ...] = ()
    #: Refuse a signing certificate that none of them issued.
    enable_certificate_validation: bool = True
    #: Seconds within which the key manager must return all certificates.
    timeout: float = 160.0

    @classmethod
    def configured(cls, core: Options, limits: Limits) -> SignaturePolicy:
        """The policy of the options in `[imagebroker]`.

        :raises ConfigError: trusted_certificate_ids has something else than ids of certificates.
        """
        try:
            trusted = checked_certificates(core.trusted_certificate_ids)
        except InvalidImageRef as error:
            what = str(error).removeprefix("trusted_certs: ")
            raise ConfigError(
                f"[imagebroker] trusted_certificate_ids: {what}", hint=error.hint
            ) from error
        return cls(
            bool(core.verify_signatures),
            trusted or (),
            bool(core.enable_certificate_validation),
            4 * (limits.connect_timeout + limits.stall_timeout),
        )


@dataclass(frozen=True)
class Signature:
    """A signature that the stored bytes must have, by a certificate that was checked."""

    ref: str
    certificate_id: str
    #: `RSA-PSS with SHA-256`.
    method: str
    #: Whether a trusted certificate issued the one that signed.
    validated: bool
    #: Makes a verifier of cursive, for one attempt.
    new_verifier: Callable[[], Any] = field(repr=False)

    def __str__(self) -> str:
        trust = "" if self.validated else ", which was not validated"
        return f"{self.method} by the certificate {self.certificate_id}{trust}"

    def start(self) -> SignatureCheck:
        return SignatureCheck(self)


def checked_certificates(trusted_certs: Sequence[str] | None) -> tuple[str, ...] | None:
    """Check a caller's `trusted_certs`, without I/O.

    :raises InvalidImageRef: they are not ids of certificates, or too many.
    """
    if trusted_certs is None:
        return None
    if isinstance(trusted_certs, (str, bytes)) or not isinstance(trusted_certs, Sequence):
        raise InvalidImageRef(
            f"trusted_certs must be a list of certificate ids, not {type(trusted_certs).__name__}"
        )
    names = tuple(trusted_certs)
    for name in names:
        if not is_certificate_id(name):
            raise InvalidImageRef(
                f"trusted_certs: {redact(name, 80)!r} is not a certificate id",
                hint="pass ids from the key manager, usually UUIDs",
            )
    if len(names) > MAX_CERTIFICATES:
        raise InvalidImageRef(
            f"trusted_certs has {len(names)} certificates; at most {MAX_CERTIFICATES} are allowed"
        )
    return names


def required_signature(
    context: Context,
    trusted_certs: Sequence[str] | None,
    policy: SignaturePolicy,
    conf: cfg.ConfigOpts,
    image: Image,
    waiting: Callable[[], Any] = lambda: None,
) -> Signature:
    """The signature that the bytes of `image` must have, where the caller or `policy` asks for one.

    Everything that does not need the bytes is checked here. `trusted_certs` require a signature by
    one of these certificates, or by one that they issued; an empty list means those of the policy.
    `waiting` is called while waiting for the key manager, and may raise.

    :raises SignatureError: the image has no signature that can be verified, or its certificate is
        not trusted.
    :raises TransferError: the key manager is down or slow. :raises NotAuthorized: it refuses.
    """
    values = _properties(image)
    make = _verifier_of(image, values)
    validate = policy.enable_certificate_validation or trusted_certs is not None
    trusted = tuple(trusted_certs or policy.trusted_certificate_ids) if validate else ()
    if validate and not trusted:
        raise SignatureError(
            f"{image.ref}: cannot verify its signature, because no certificate is trusted",
            hint="pass trusted certificates, or set trusted_certificate_ids in [imagebroker]",
        )
    signer_id = values[CERTIFICATE]
    key_manager = KeyManager(conf, context, timeout=policy.timeout, waiting=waiting)
    found = key_manager.certificates([signer_id, *trusted])
    signer = found.get(signer_id)
    if signer is None:
        raise SignatureError(
            f"{image.ref}: the key manager has no certificate {signer_id}",
            hint=f"store the certificate, or correct {CERTIFICATE} of the image",
        )
    if validate:
        check_trusted(signer_id, signer, {id: found[id] for id in trusted if id in found})
    description = f"{values[KEY_TYPE]} with {values[HASH_METHOD]}"
    signature = Signature(image.ref, signer_id, description, validate, partial(make, signer))
    signature.start().close()  # fails now, before any byte, if the key does not match
    return signature


def _properties(image: Image) -> dict[str, str]:
    """The four properties. :raises SignatureError: one is missing or invalid."""
    values = {name: image.properties.get(name) for name in PROPERTIES}
    missing = [name for name, value in values.items() if value in (None, "")]
    if missing:
        none = len(missing) == len(values)
        raise SignatureError(
            f"{image.ref} has no signature, but one is required" if none
            else f"the signature of {image.ref} lacks {', '.join(missing)}",
            hint=f"sign the image, and set {', '.join(PROPERTIES)} in its record",
        )  # fmt: skip
    for name, value in values.items():
        if not isinstance(value, str) or (name == CERTIFICATE and not is_certificate_id(value)):
            raise _unusable(image, name, value)
    return {name: str(value) for name, value in values.items()}


def _verifier_of(image: Image, values: Mapping[str, str]) -> Callable[[Certificate], Any]:
    """A function that makes a verifier from a certificate.

    :raises SignatureError: the method is unknown or weak, or cursive is not installed.
    """
    try:
        from cursive import signature_utils as cursive
    except Exception as error:
        raise SignatureError(
            f"verifying the signature of {image.ref} needs cursive, which cannot be used: {error}",
            hint="pip install 'imagebroker[signature]'",
        ) from error
    methods = sorted(set(cursive.HASH_METHODS) - _WEAK)
    kinds = sorted(cursive.SignatureKeyType.REGISTERED_TYPES)
    for name, known in ((HASH_METHOD, methods), (KEY_TYPE, kinds)):
        if values[name] not in known:
            raise _unusable(image, name, values[name], f"set it to one of {', '.join(known)}")
    try:
        signature = b64decode("".join(values[SIGNATURE].split()), validate=True)
    except ValueError:
        signature = b""
    if not signature:
        raise _unusable(image, SIGNATURE, values[SIGNATURE], "set it to the signature in base64")
    method = cursive.get_hash_method(values[HASH_METHOD])
    kind = cursive.SignatureKeyType.lookup(values[KEY_TYPE])

    def make(signer: Certificate) -> Any:
        key = signer.public_key()
        curve = getattr(key, "curve", None)
        if not isinstance(key, kind.public_key_type) or (
            curve is not None and kind.name != f"ECC_{curve.name.upper()}"
        ):
            raise _unusable(
                image, KEY_TYPE, kind.name, "set it to the type of the certificate's key"
            )
        return kind.create_verifier(signature, method, key)

    return make


def _unusable(image: Image, name: str, value: object, why: str = "") -> SignatureError:
    return SignatureError(
        f"{image.ref}: {name} is {redact(value, 80)!r}, which is not valid",
        hint=why or "correct the record of the image",
    )


class SignatureCheck:
    """The check of one attempt: feed it the stored bytes, in order, then call `evidence`."""

    def __init__(self, signature: Signature) -> None:
        """:raises SignatureError: the certificate's key does not match the key type."""
        self._signature = signature
        self._verifier = signature.new_verifier()
        self._worker = in_background(self._verifier.update)

    def feed(self, chunk: Buffer) -> None:
        with self._judged():
            self._worker.add(chunk)

    def evidence(self) -> dict[str, Any]:
        """The evidence. Call it once.

        :raises SignatureError: the signature does not match these bytes.
        """
        with self._judged():
            self._worker.wait()
            self._verifier.verify()
        return {"signature": str(self._signature)}

    @contextmanager
    def _judged(self) -> Iterator[None]:
        """Any exception of the library means that the signature is not valid."""
        try:
            yield
        except Exception as error:
            raise SignatureError(
                f"{self._signature.ref}: the data does not match its signature by the certificate "
                f"{self._signature.certificate_id} ({type(error).__name__})",
                hint="do not use this image: it is damaged, or not the one that was signed",
            ) from error

    def close(self) -> None:
        self._worker.close()
