"""Image signatures as Nova knows them: which one must hold, and verifying it behind the writes."""

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
from imagebroker.verify.behind import Behind
from imagebroker.verify.certificate import (
    MOST,
    KeyManager,
    check_trusted,
    is_certificate_id,
)

if TYPE_CHECKING:
    from cryptography.x509 import Certificate
    from oslo_config import cfg

    from imagebroker.backends.backend import Context

SIGNATURE, HASH_METHOD, KEY_TYPE, CERTIFICATE = PROPERTIES = (
    "img_signature", "img_signature_hash_method", "img_signature_key_type",
    "img_signature_certificate_uuid",
)  # fmt: skip
#: Methods that cursive knows and that are too weak to prove content.
_WEAK = frozenset({"SHA-224"})


@dataclass(frozen=True)
class SignaturePolicy:
    """What this deployment demands of signatures."""

    #: Of every image, also where the caller names no certificates.
    verify_signatures: bool = False
    #: Ids of the certificates that are trusted where the caller names none.
    trusted_certificate_ids: tuple[str, ...] = ()
    #: Refuse a signature by a certificate that none of those vouch for.
    enable_certificate_validation: bool = True
    #: Seconds in which the key manager has to hand out all certificates.
    timeout: float = 160.0

    @classmethod
    def configured(cls, core: Options, limits: Limits) -> SignaturePolicy:
        """That of the options in `[imagebroker]`.

        :raises ConfigError: trusted_certificate_ids are no ids of certificates.
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
    """A signature that the stored bytes must have, by a certificate that was looked at."""

    ref: str
    certificate_id: str
    #: `RSA-PSS with SHA-256`.
    method: str
    #: A trusted certificate vouches for the one that signed.
    validated: bool
    #: Makes a verifier of cursive; one belongs to one attempt.
    new_verifier: Callable[[], Any] = field(repr=False)

    def __str__(self) -> str:
        trust = "" if self.validated else ", which was not validated"
        return f"{self.method} by the certificate {self.certificate_id}{trust}"

    def start(self) -> SignatureCheck:
        return SignatureCheck(self)


def checked_certificates(trusted_certs: Sequence[str] | None) -> tuple[str, ...] | None:
    """A caller's `trusted_certs`, before any I/O.

    :raises InvalidImageRef: they are not ids of certificates, or too many.
    """
    if trusted_certs is None:
        return None
    if isinstance(trusted_certs, (str, bytes)) or not isinstance(trusted_certs, Sequence):
        raise InvalidImageRef(
            f"trusted_certs is {type(trusted_certs).__name__}, not a list of ids of certificates"
        )
    names = tuple(trusted_certs)
    for name in names:
        if not is_certificate_id(name):
            raise InvalidImageRef(
                f"trusted_certs: {redact(name, 80)!r} is not the id of a certificate",
                hint="pass ids as the key manager has them, such as UUIDs",
            )
    if len(names) > MOST:
        raise InvalidImageRef(
            f"trusted_certs: {len(names)} certificates, and at most {MOST} are allowed"
        )
    return names


def required_signature(
    context: Context,
    trusted_certs: Sequence[str] | None,
    policy: SignaturePolicy,
    conf: cfg.ConfigOpts,
    image: Image,
    waiting: Callable[[], Any] = lambda: None,
) -> Signature | None:
    """The signature that must hold for the bytes of `image`; None if nobody asks for one.

    All that can be judged without the bytes is judged here. `trusted_certs` ask for a signature,
    and the certificate that made it must be one of theirs or issued by one; an empty list stands
    for those of the policy. `waiting` is called while the key manager is asked, and may raise.

    :raises SignatureError: the image has no signature that could be verified, or its certificate
        is not trusted.
    :raises TransferError: the key manager is down or slow. :raises NotAuthorized: it refuses.
    """
    if trusted_certs is None and not policy.verify_signatures:
        return None
    values = _properties(image)
    make = _verifier_of(image, values)
    validate = policy.enable_certificate_validation or trusted_certs is not None
    trusted = tuple(trusted_certs or policy.trusted_certificate_ids) if validate else ()
    if validate and not trusted:
        raise SignatureError(
            f"{image.ref}: no certificate is trusted, so nobody's signature can be",
            hint="pass trusted_certs, or set trusted_certificate_ids in [imagebroker]",
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
    signature.start().close()  # a key that does not fit must fail before any byte
    return signature


def _properties(image: Image) -> dict[str, str]:
    """The four properties. :raises SignatureError: one is missing or makes no sense."""
    values = {name: image.properties.get(name) for name in PROPERTIES}
    missing = [name for name, value in values.items() if value in (None, "")]
    if missing:
        none = len(missing) == len(values)
        raise SignatureError(
            f"{image.ref} has no signature, and one is required" if none
            else f"the signature of {image.ref} lacks {', '.join(missing)}",
            hint=f"sign the image, and set {', '.join(PROPERTIES)} in its record",
        )  # fmt: skip
    for name, value in values.items():
        if not isinstance(value, str) or (name == CERTIFICATE and not is_certificate_id(value)):
            raise _unusable(image, name, value)
    return {name: str(value) for name, value in values.items()}


def _verifier_of(image: Image, values: Mapping[str, str]) -> Callable[[Certificate], Any]:
    """What makes a verifier for a certificate.

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
            raise _unusable(image, name, values[name], f"it has to be one of {', '.join(known)}")
    try:
        signature = b64decode("".join(values[SIGNATURE].split()), validate=True)
    except ValueError:
        signature = b""
    if not signature:
        raise _unusable(image, SIGNATURE, values[SIGNATURE], "it has to be base64")
    method = cursive.get_hash_method(values[HASH_METHOD])
    kind = cursive.SignatureKeyType.lookup(values[KEY_TYPE])

    def make(signer: Certificate) -> Any:
        key = signer.public_key()
        curve = getattr(key, "curve", None)
        if not isinstance(key, kind.public_key_type) or (
            curve is not None and kind.name != f"ECC_{curve.name.upper()}"
        ):
            raise _unusable(image, KEY_TYPE, kind.name, "the certificate has a key of another kind")
        return kind.create_verifier(signature, method, key)

    return make


def _unusable(image: Image, name: str, value: object, why: str = "") -> SignatureError:
    return SignatureError(
        f"{image.ref}: {name} is {redact(value, 80)!r}, which cannot be verified",
        hint=why or "correct the record of the image",
    )


class SignatureCheck:
    """The check of one attempt: feed it what is stored, in order; `evidence` passes judgement."""

    def __init__(self, signature: Signature) -> None:
        """:raises SignatureError: the key of the certificate does not fit."""
        self._signature = signature
        self._verifier = signature.new_verifier()
        self._behind = Behind(self._verifier.update)

    def feed(self, chunk: Buffer) -> None:
        with self._judged():
            self._behind.feed(chunk)

    def evidence(self) -> dict[str, Any]:
        """What was verified. To be asked for once.

        :raises SignatureError: the signature is not one of these bytes.
        """
        with self._judged():
            self._behind.wait()
            self._verifier.verify()
        return {"signature": str(self._signature)}

    @contextmanager
    def _judged(self) -> Iterator[None]:
        """Whatever the library raises, the bytes are not verified."""
        try:
            yield
        except Exception as error:
            raise SignatureError(
                f"{self._signature.ref}: the bytes do not have the signature that the certificate "
                f"{self._signature.certificate_id} is said to have made ({type(error).__name__})",
                hint="the image is damaged, or not the one that was signed; do not use it",
            ) from error

    def close(self) -> None:
        self._behind.close()
