"""Certificates of image signatures: fetches them from the key manager, and checks their trust."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from queue import Empty, SimpleQueue
from time import monotonic
from typing import TYPE_CHECKING, Any, TypeVar

from imagebroker.config.option_value import explained
from imagebroker.exceptions import (
    ConfigError,
    ImageBrokerError,
    NotAuthorized,
    SignatureError,
    TransferError,
    TransferTimeout,
)
from imagebroker.system.exhaustion import start
from imagebroker.system.forks import Thread

if TYPE_CHECKING:
    from cryptography.x509 import Certificate
    from oslo_config import cfg

    from imagebroker.backends.backend import Context

LOG = logging.getLogger(__name__)
T = TypeVar("T")

#: Maximum number of trusted certificates, as in Nova.
MAX_CERTIFICATES = 50
#: An id ends up in the path of a request to the key manager.
_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,254}")
#: Seconds between two calls of `waiting`.
_POLL_INTERVAL = 0.1


def is_certificate_id(name: object) -> bool:
    return isinstance(name, str) and _ID.fullmatch(name) is not None


class KeyManager:
    """Castellan's key manager, called in a thread so that every wait ends."""

    def __init__(
        self,
        conf: cfg.ConfigOpts,
        context: Context,
        *,
        timeout: float,
        waiting: Callable[[], Any],
    ) -> None:
        """`timeout`: seconds for all requests. `waiting` is called meanwhile, and may raise."""
        self._conf, self._context = conf, context
        self._timeout, self._waiting = timeout, waiting
        self._ends = monotonic() + timeout

    def certificates(self, names: Iterable[str]) -> dict[str, Certificate]:
        """The certificates with these ids; missing ones are left out.

        :raises TransferError: the key manager is down or slow. :raises NotAuthorized: it refuses.
        :raises SignatureError: an id belongs to something other than a certificate.
        """
        api = self._ask("cannot be reached", self._api)
        found = {}
        for name in dict.fromkeys(names):
            what_failed = f"did not return the certificate {name}"
            certificate = self._ask(what_failed, partial(self._certificate, api, name))
            if certificate is not None:
                found[name] = certificate
        return found

    def _api(self) -> Any:
        from castellan import key_manager
        from oslo_config import cfg

        try:
            return key_manager.API(self._conf)
        except (cfg.Error, RecursionError) as error:
            why = explained(error)[0]
        except Exception as error:
            raise ConfigError(
                f"the key manager cannot be used: {type(error).__name__}: {error}",
                hint="correct [key_manager] in the configuration of the service",
            ) from error
        # Outside of the `except`: the cause may contain part of a password.
        raise ConfigError(
            f"the key manager cannot be used: {why}",
            hint="correct [key_manager] in the configuration of the service; write $$ for a $",
        )

    def _certificate(self, api: Any, name: str) -> Certificate | None:
        """None if there is no such object."""
        from castellan.common.exception import ManagedObjectNotFoundError

        try:
            stored = api.get(self._context, name)
        except (ManagedObjectNotFoundError, KeyError):
            LOG.warning("the key manager has no certificate %s", name)
            return None
        return _loaded(name, stored)

    def _ask(self, what_failed: str, call: Callable[[], T]) -> T:
        outcome: SimpleQueue[tuple[bool, Any]] = SimpleQueue()

        def run() -> None:
            try:
                outcome.put((True, call()))
            except BaseException as error:  # even SystemExit: the caller waits for the outcome
                outcome.put((False, error))

        start(Thread(target=run, name="imagebroker-certificate"))
        while (left := self._ends - monotonic()) > 0:
            try:
                done, answer = outcome.get(timeout=min(left, _POLL_INTERVAL))
            except Empty:
                self._waiting()
                continue
            if done:
                return answer  # type: ignore[no-any-return]
            if isinstance(answer, ImageBrokerError):
                raise answer
            raise _translated(what_failed, answer) from answer
        raise TransferTimeout(
            f"the key manager {what_failed} within {self._timeout:.3g} s",
            hint="check the key manager configured in [key_manager]",
        )


def _translated(what_failed: str, error: BaseException) -> ImageBrokerError:
    if _is_refusal(error):
        return NotAuthorized(
            f"the key manager {what_failed}: {error}",
            hint="pass the context of a user who is allowed to read the certificates",
        )
    return TransferError(
        f"the key manager {what_failed}: {type(error).__name__}: {error}",
        hint="check the key manager configured in [key_manager]",
    )


def _is_refusal(error: BaseException | None) -> bool:
    """Castellan wraps the exceptions of its drivers: the reason is in a cause."""
    from castellan.common.exception import Forbidden, InsufficientCredentialDataError

    while error is not None:
        status = getattr(error, "status_code", None) or getattr(error, "http_status", None)
        if isinstance(error, (Forbidden, InsufficientCredentialDataError)) or status in (401, 403):
            return True
        error = error.__cause__ or error.__context__
    return False


def _loaded(name: str, stored: Any) -> Certificate:
    from cryptography.x509 import load_der_x509_certificate

    try:
        if stored.format != "X.509":
            raise ValueError("another kind of object")
        return load_der_x509_certificate(stored.get_encoded())
    except Exception as error:  # without its text, which may quote a stored secret
        raise SignatureError(
            f"the object {name} in the key manager is not a certificate ({type(error).__name__})",
            hint="correct img_signature_certificate_uuid, or the ids of the trusted certificates",
        ) from None


def check_trusted(name: str, certificate: Certificate, trusted: Mapping[str, Certificate]) -> None:
    """Check the chain from a certificate to a trusted self-signed one.

    :raises SignatureError: there is no chain, or a certificate in it is expired or not a CA.
    """
    from cursive.certificate_utils import CertificateVerificationContext
    from cursive.exception import SignatureVerificationError

    try:
        _check_that_it_ends(certificate, trusted.values())
        chain = CertificateVerificationContext(list(trusted.items()))
        chain.update(certificate)
        chain.verify()
    except SignatureVerificationError as error:
        raise _not_trusted(name, str(error)) from error
    except SignatureError:
        raise
    except Exception as error:
        # Certificates come from outside: one that breaks the library is not trusted.
        raise _not_trusted(name, f"it cannot be validated ({type(error).__name__})") from error


def _check_that_it_ends(certificate: Certificate, trusted: Iterable[Certificate]) -> None:
    """Refuse cycles: cursive would follow issuers that sign each other forever."""
    from cursive import certificate_utils as cursive

    usable = [
        one for one in trusted
        if cursive.is_within_valid_dates(one) and cursive.can_sign_certificates(one)
    ]  # fmt: skip
    chain = [certificate]
    while True:
        issuer = next((one for one in usable if cursive.is_issuer(one, chain[-1])), None)
        if issuer is None or issuer == chain[-1]:
            return
        if issuer in chain:
            raise SignatureError(
                "the trusted certificates issued each other, in a cycle",
                hint="trust only one of them",
            )
        chain.append(issuer)


def _not_trusted(name: str, why: str) -> SignatureError:
    return SignatureError(
        f"the signing certificate {name} is not trusted: {why.rstrip('.')}",
        hint="list all issuers, up to the self-signed root, in trusted_certs or "
        "trusted_certificate_ids",
    )
