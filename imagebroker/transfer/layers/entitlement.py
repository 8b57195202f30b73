"""Whether a caller may have bytes that are already on this host, or at a location.

One rule for the cache, for the transfer of another call, for a kept part file and for locations:

1. The backend of the caller's own ref was asked in this call, with the caller's own credentials,
   and would send the data. To be shown the record is not enough.
2. The bytes came from the same resource: the same ref at the same backend instance.
3. In its answer that backend itself named the strong version or digest under which they came.

A checksum of the caller's, a pin and a checksum file must hold for the bytes, and give access to
nothing. Neither does a digest that a backend names for another resource: an http server may send
any digest field, and Glance keeps whatever hash came with a location.

A part file is the caller's own disk and its rest comes from the caller's own backend, which is
thereby asked. So 2 holds there for the URL without its signature, and 3 only where the rest of the
URL's query differs (`may_resume`). What the very same caller has fetched before, with the same
strong digest required, is theirs whatever the ref is. Locations are those of the caller's own
record and are read with the caller's own credentials, so only 1 is left to ask.
"""

from __future__ import annotations

import hashlib
import logging
import re
from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

from imagebroker.backends.boundary import Boundary
from imagebroker.exceptions import Cancelled, ImageBrokerError, TransferTimeout
from imagebroker.model.algorithms import STRONG
from imagebroker.model.image import Image
from imagebroker.model.reference import ImageRef
from imagebroker.redaction import redact
from imagebroker.transfer.fetch.candidates import Waiting
from imagebroker.transfer.limits import Watch
from imagebroker.verify.checksum import required_checksums

if TYPE_CHECKING:
    from imagebroker.backends.backend import Context

LOG = logging.getLogger(__name__)

#: Begins the name of a version; every other name is a digest.
VERSION = "version "
#: Parameters of a query that sign it. They select nothing where one of them is the signature.
_SIGNING = (
    r"(?i)x-(?:amz|goog|oss|obs|cos)-.+|(?:aws|google|oss)access(?:key)?id|key-pair-id"
    r"|policy|expires"
    r"|(?:temp_url_)?sig(?:nature)?|temp_url_expires"
    r"|s[pretvs]|spr|sip|srt|sk[etsv]|skoid|sktid"  # Azure's SAS
)
_SIGNATURE = r"(?i)(?:.*[-_])?sig(?:nature)?"


class Resource(NamedTuple):
    """The resource of a ref at one backend instance. Digests: a query may hold a secret."""

    #: The same for all calls with this ref to this instance.
    key: str
    #: The same for refs that differ in their query, or its signature, only.
    path: str
    unsigned: str

    @classmethod
    def of(cls, backend: Boundary, ref: ImageRef) -> Resource:
        service, bare = _service(backend, ref), ref.text.partition("?")[0]
        query = _without_signature(ref.query) if ref.query else ""
        return cls(
            _digest(*service, ref.text), _digest(*service, bare), _digest(*service, bare, query)
        )


def _service(backend: Boundary, ref: ImageRef) -> list[str]:
    """Which service answers for a ref.

    An id means something at one service only, and without an endpoint any option may say which; a
    bucket or another opaque name does too, and an endpoint only says which refs are meant.
    """
    options = backend.host.options
    endpoint = list(options.endpoint or ())
    if ref.authority is None and (ref.id is None or endpoint):
        return [backend.title, *endpoint]
    secret = {option.dest for option in backend.declared.options if option.secret}
    return [
        backend.title,
        *(f"{name}={value!r}" for name, value in sorted(options.items()) if name not in secret),
    ]


def _without_signature(query: str) -> str:
    names = [part.partition("=")[0] for part in query.split("&")]
    if not any(re.fullmatch(_SIGNATURE, name) for name in names):
        return query
    return "&".join(
        part
        for name, part in zip(names, query.split("&"), strict=True)
        if not re.fullmatch(_SIGNING, name)
    )


def _digest(*texts: str) -> str:
    return hashlib.sha256("\n".join(texts).encode()).hexdigest()


class Entitlement:
    """The bytes that one call may have. Made without I/O; the backend is asked at most once."""

    def __init__(
        self,
        resource: Resource,
        ref: str,
        probe: Callable[[float, Waiting, str | None], Image],
        watch: Watch,
        caller: str = "",
    ) -> None:
        """`probe` asks the backend, within so many seconds, what this caller may read; its last
        argument is the version that is here.

        `caller`: identifies the user; the same for all calls of one user. Empty if unknown.
        """
        self._caller = caller
        self.resource = resource
        self._ref, self._probe, self._watch = ref, probe, watch
        self._asked = False
        self._answer: Image | None = None

    def ask(self, version: str | None = None) -> Image | None:
        """The image that the backend would send to this caller; None if it refuses, or fails.

        :param version: the one whose bytes are at the destination: the question can be whether it
            has changed.
        :raises Cancelled, TransferTimeout: of the caller and the deadline.
        """
        if not self._asked:
            self._asked = True
            try:
                self._answer = self._probe(self._watch.left, self._waiting, version)
            except (Cancelled, TransferTimeout):
                self._watch.check()
            except ImageBrokerError as error:
                # The own `open` says it, in its own words.
                LOG.debug("%s: cached and shared bytes are not used: %s", redact(self._ref), error)
        return self._answer

    def _waiting(self) -> None:
        self._watch.check()
        self._watch.report("wait")

    def keys(self, image: Image) -> list[str]:
        """Under which names the bytes of `image`, of this resource, are stored for later calls."""
        return [f"{self.resource.key}\n{image.size}\n{name}" for name in names(image)]

    def may_resume(
        self,
        resource: str,
        version: str | None,
        now: str | None,
        *,
        complete: bool,
        digest: bool = False,
    ) -> bool:
        """Whether a part file of `resource`, noted with `version`, may be gone on with.

        `now`: the version that the caller's own backend names. `complete`: no byte is missing, so
        the backend would send none. `digest`: a strong digest is required that was required before.
        """
        if not self._is_own(resource, digest=digest):
            if not self.may_fit(resource):
                return False
            _, unsigned, _ = _parts(resource)
            if unsigned != self.resource.unsigned and (now is None or now != version):
                return False
        return not complete or self.ask() is not None

    def may_fit(self, resource: str, *, digest: bool = False) -> bool:
        """Whether `may_resume` may come true when the backend has been asked."""
        path, _, _ = _parts(resource)
        return path == self.resource.path or self._is_own(resource, digest=digest)

    def _is_own(self, resource: str, *, digest: bool) -> bool:
        _, _, caller = _parts(resource)
        return digest and bool(caller) and caller == self._caller

    @property
    def noted(self) -> str:
        """The resource, as a later call passes it to `may_resume`."""
        return f"{self.resource.path} {self.resource.unsigned} {self._caller}"


def _parts(noted: str) -> tuple[str, str, str]:
    """Path, unsigned and caller."""
    path, _, rest = noted.partition(" ")
    unsigned, _, caller = rest.partition(" ")
    return path, unsigned, caller


def caller_of(context: Context, backend: Boundary) -> str:
    """The caller, for `Entitlement`. Without a context that is one person, who runs the command
    without a config file; a service may call so on behalf of anybody."""
    if context is None:
        return "person" if backend.host.personal else ""
    user = getattr(context, "user_id", None)
    project = getattr(context, "project_id", None)
    return _digest(str(user), str(project)) if user else ""


def names(image: Image) -> tuple[str, ...]:
    """The names of the bytes that the backend itself gives: a strong version, a strong digest.

    An id that is given to another image later is told apart by the time of its making.
    """
    try:
        found = required_checksums(image, (), require=False, allow_weak=False)
    except ImageBrokerError:
        return ()  # a record that will be refused
    made = "" if image.created_at is None else f" of {image.created_at.isoformat()}"
    version = [] if image.version is None else [f"{VERSION}{image.version}{made}"]
    digests = [f"{c.algorithm}:{c.digest}{made}" for c in found if c.algorithm in STRONG]
    return (*version, *digests)


def are_same(mine: tuple[str, ...], theirs: tuple[str, ...]) -> bool:
    """Whether both name the same bytes, and nothing that says otherwise."""
    versions = {name for name in (*mine, *theirs) if name.startswith(VERSION)}
    return len(versions) < 2 and bool(set(mine) & set(theirs))
