"""Requests to registries: the distribution specification, over the core's connections."""

from __future__ import annotations

import hashlib
import re
import threading
from collections.abc import Sequence
from urllib.parse import urlsplit

from imagebroker.plugin import (
    BackendHost,
    ImageNotFound,
    MalformedAnswer,
    TransferError,
    VerificationError,
    http,
    peer,
    printable,
)
from imagebroker_oci.credentials import PullSecrets
from imagebroker_oci.errors import error_of
from imagebroker_oci.identity import PULL, Asker, Identity, keep
from imagebroker_oci.manifests import MANIFEST_TYPES, Descriptor, Document
from imagebroker_oci.names import REPOSITORY, TAG, Name

#: Bytes of a manifest, as the specification has it.
_MAX_MANIFEST = 4 * 1024 * 1024
#: Tags of one repository.
_MAX_TAGS = 10_000
_API = rf"/v2/(?P<repository>{REPOSITORY})/(?:blobs|manifests|tags)/.+"


class Client(http.Client):
    """The core's client, whose requests to a registry say who asks."""

    def __init__(self, host: BackendHost, identity: Identity) -> None:
        super().__init__(host)
        self._identity = identity
        self.registry: Registry | None = None

    def fields(self, place: http.Place) -> list[tuple[str, str]]:
        """The headers of every request. A token that runs out within a transfer is replaced."""
        found = super().fields(place)
        match = re.fullmatch(_API, place.url.path)
        if self.registry is None or match is None or not place.home:
            return found
        name = self.registry.name_at(place.url, match["repository"])
        known = None if name is None else self._identity.known(self.registry, name, PULL)
        return found if known is None else [*found, ("Authorization", known)]


class Registry(Asker):
    """The registries of one instance. One serves all threads."""

    def __init__(self, host: BackendHost) -> None:
        """:raises ConfigError: an option is wrong."""
        self.host = host
        self._scheme = "http" if host.options.plain_http else "https"
        self.identity = Identity(host, PullSecrets(host))
        self.http = Client(host, self.identity)
        self.http.registry = self
        self._pools = self.http.pools()
        #: What refs call the servers that were asked.
        self._names: dict[tuple[str, str, int], Name] = {}
        self._lock = threading.Lock()

    def url(self, name: Name, path: str) -> str:
        site = f"{self._scheme}://{name.server}"
        with self._lock:
            keep(self._names, http.Url.parse(f"{site}/").origin, name)
        return f"{site}/v2/{name.repository}/{path}"

    def blob_url(self, name: Name, descriptor: Descriptor) -> str:
        return self.url(name, f"blobs/{descriptor.digest}")

    def name_at(self, url: http.Url, repository: str) -> Name | None:
        """A repository of a server that was asked before."""
        known = self._names.get(url.origin)
        return None if known is None else Name(known.host, known.port, repository)

    def send(
        self, method: str, name: Name, url: str, *fields: tuple[str, str],
        body: bytes | None = None, actions: str = PULL,
    ) -> http.Answer:  # fmt: skip
        """The answer to one request, whatever its status but 401: that is answered once.

        :raises NotAuthorized: the registry does not want us.
        """
        answer = self._once(method, name, url, fields, body, actions)
        if answer.head.status != 401:
            return answer
        try:
            if not self.identity.learn(answer.place.url.site, name, actions, answer.head):
                raise error_of(name.place, answer, self.identity.secrets.hint)
        finally:
            answer.close()
        answer = self._once(method, name, url, fields, body, actions)
        if answer.head.status == 401:
            raise error_of(name.place, answer, self.identity.secrets.hint)
        return answer

    def _once(
        self, method: str, name: Name, url: str, fields: Sequence[tuple[str, str]],
        body: bytes | None, actions: str,
    ) -> http.Answer:  # fmt: skip
        def send(place: http.Place) -> http.Answer:
            every = [
                ("Host", place.url.netloc), ("User-Agent", http.user_agent()),
                ("Accept-Encoding", "identity"), *fields,
            ]  # fmt: skip
            if place.home:
                known = self.identity.known(self, name, actions)
                every += [("Authorization", known)] if known is not None else []
            return self._pools.send(method, place, every, body)

        place = self.http.start(url)
        try:
            return self.http.followed(place, send) if method in ("GET", "HEAD") else send(place)
        except TransferError as error:
            if "http://" in (error.hint or ""):  # how a URL would be mended, which a ref is not
                section = f"[backend:{self.host.title}]"
                error.hint = f"if that registry has no TLS, set plain_http = yes in {section}"
            raise

    def ask_token(
        self, method: str, url: str, authorization: str | None, body: bytes | None
    ) -> http.Answer:
        place = self.http.start(url)
        fields = [
            ("Host", place.url.netloc), ("User-Agent", http.user_agent()),
            ("Accept", "application/json"), ("Accept-Encoding", "identity"),
        ]  # fmt: skip
        if authorization is not None:
            fields.append(("Authorization", authorization))
        if body is not None:
            fields.append(("Content-Type", "application/x-www-form-urlencoded"))
        return self._pools.send(method, place, fields, body)

    def document(self, name: Name, *, known: Descriptor | None = None) -> Document:
        """The manifest or index that a name, or a descriptor in an index, leads to.

        :raises ImageNotFound: there is none. The tags that there are, are in the hint.
        :raises VerificationError: it is not the one with that digest.
        """
        reference = name.reference if known is None else known.digest
        answer = self.send(
            "GET", name, self.url(name, f"manifests/{reference}"),
            ("Accept", ", ".join(MANIFEST_TYPES)),
        )  # fmt: skip
        if answer.head.status != 200:
            raise self._missing(name, reference, answer)
        body = answer.read(min(_MAX_MANIFEST, self.host.limits.max_answer))
        digest = _checked_digest(name, reference, answer.head, body, known)
        media_type = (answer.head.get("content-type") or "").partition(";")[0].strip().lower()
        return Document.parse(f"the manifest of {name}", digest, media_type, body)

    def _missing(self, name: Name, reference: str, answer: http.Answer) -> Exception:
        error = error_of(f"{name.place} has no {reference}", answer, self.identity.secrets.hint)
        if not isinstance(error, ImageNotFound) or name.digest is not None:
            return error
        try:
            tags = self.tags(name)
        except ImageNotFound:
            return ImageNotFound(
                f"{name.registry} has no repository {name.repository}",
                hint="check the name of the repository",
            )
        except TransferError:
            return error
        shown = ", ".join(tags[:20]) + (f" and {len(tags) - 20} more" if len(tags) > 20 else "")
        hint = f"use a tag that is there: {shown}" if tags else "the repository has no tags"
        return ImageNotFound(f"{name.place} has no tag {reference}", hint=hint)

    def blob(self, name: Name, descriptor: Descriptor, limit: int) -> bytes:
        """A small blob, a config: checked.

        :raises VerificationError: it is not the one with that digest.
        """
        if descriptor.size > limit:
            raise MalformedAnswer(
                f"{name}: a config of {descriptor.size} bytes, where {limit} are allowed"
            )
        answer = self.send("GET", name, self.blob_url(name, descriptor))
        if answer.head.status != 200:
            raise error_of(f"{name.place}, blob {descriptor.digest}", answer)
        body = answer.read(descriptor.size + 1)
        check_digest(f"{name.place}, blob {descriptor.digest}", descriptor, body)
        return body

    def renew(self, name: Name, descriptor: Descriptor) -> None:
        """Find out who we have to be for a blob; a token may have been withdrawn.

        :raises NotAuthorized: the registry does not want us.
        """
        answer = self.send("GET", name, self.blob_url(name, descriptor), ("Range", "bytes=0-0"))
        answer.close()

    def tags(self, name: Name) -> list[str]:
        """The tags of a repository; none that is not spelled as one."""
        found: dict[str, None] = {}  # in their order
        url: str | None = self.url(name, "tags/list?n=1000")
        while url is not None and len(found) < _MAX_TAGS:
            answer = self.send("GET", name, url)
            if answer.head.status != 200:
                raise error_of(name.place, answer, self.identity.secrets.hint)
            following = _next(answer.head)
            here = answer.place.url.text
            who = f"the tags of {name.place}"
            page = peer.document(answer.read(self.host.limits.max_answer), dict, who)
            tags = peer.texts(page.get("tags"), "tags", who) or ()
            new = [each for each in tags if each not in found and re.fullmatch(TAG, each)]
            found |= dict.fromkeys(new)
            url = self._same_site(here, following) if following and new else None
        return list(found)[:_MAX_TAGS]

    def _same_site(self, old: str, new: str) -> str | None:
        """Where a list goes on: at the same registry only."""
        url = self.host.redirect(old, new)
        same = urlsplit(url)[:2] == urlsplit(old)[:2]
        return url if same else None

    def close(self) -> None:
        self._pools.close()


def _checked_digest(
    name: Name, reference: str, head: http.Head, body: bytes, known: Descriptor | None
) -> str:
    """The digest of a manifest: what it was asked for by, or else what the registry says it is."""
    if known is not None:
        check_digest(f"the manifest {known.digest} in {name.place}", known, body)
        return known.digest
    digest = f"sha256:{hashlib.sha256(body).hexdigest()}"
    expected = name.digest or head.get("docker-content-digest")
    if expected is not None and expected.startswith("sha512:"):
        digest = f"sha512:{hashlib.sha512(body).hexdigest()}"
    if expected is not None and digest != expected:
        raise VerificationError(
            f"the manifest {reference} in {name.place} should have the digest "
            f"{printable(expected, 140)}, and has {digest}",
            hint="do not use the image, and report it to the owner of the registry",
        )
    return digest


def check_digest(what: str, descriptor: Descriptor, body: bytes) -> None:
    """:raises VerificationError: these are other bytes than those that are described."""
    found = hashlib.new(descriptor.algorithm, body).hexdigest()
    if len(body) != descriptor.size or found != descriptor.hex:
        raise mismatch(what, descriptor, len(body), found)


def mismatch(what: str, descriptor: Descriptor, size: int, found: str) -> VerificationError:
    return VerificationError(
        f"{what} should have {descriptor.size} bytes and the digest {descriptor.digest}, and has "
        f"{size} bytes and {descriptor.algorithm}:{found}",
        hint="do not use the image, and report it to the owner of the registry",
    )


def _next(head: http.Head) -> str | None:
    """Where a list goes on (RFC 8288)."""
    for value in head.all("link"):
        match = re.match(r'\s*<([^<>\s]{1,2000})>\s*;\s*rel="?next"?', value)
        if match is not None:
            return match[1]
    return None
