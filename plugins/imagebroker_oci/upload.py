"""The upload of an artefact: a disk as a blob, and a manifest that says what it is."""

from __future__ import annotations

import hashlib
import json
import logging
import re
from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import Any
from urllib.parse import urlsplit

from imagebroker.plugin import (
    Conflict,
    Image,
    ImageBrokerError,
    ImageData,
    InvalidImageRef,
    MalformedAnswer,
    PolicyViolation,
    TransferError,
    UploadFailed,
    http,
)
from imagebroker_oci.client import Registry
from imagebroker_oci.errors import error_of
from imagebroker_oci.identity import PUSH
from imagebroker_oci.manifests import MANIFEST_TYPES, OCI_MANIFEST, Document
from imagebroker_oci.names import TAG, Name
from imagebroker_oci.packing import FORMS
from imagebroker_oci.records import annotations_of

LOG = logging.getLogger(__name__)

_MIB = 1024 * 1024
#: Bytes of one request, whatever the registry asks for.
_MAX_PART = 1024 * _MIB


def checked_tag(name: str | None) -> str:
    """:raises InvalidImageRef: no tag can be made of a name."""
    if name is None or not re.fullmatch(TAG, name):
        raise InvalidImageRef(
            f"{name!r:.100} cannot be the tag of an image in a registry",
            hint="set name to at most 128 letters, digits, dots, hyphens and underscores",
        )
    return name


class Upload:
    """One upload: the image is there when its manifest is, and not before."""

    def __init__(self, registry: Registry, name: Name, image: Image, data: ImageData) -> None:
        self._registry, self._name, self._image, self._data = registry, name, image, data
        self._part_size = registry.host.options.part_size * _MIB
        self._form = FORMS[registry.host.options.create_as](name.tag or "", image)
        self._form.check(data)
        annotations_of(image)  # a record that is too large shows now

    def run(self) -> Document:
        """The manifest that is stored.

        :raises Conflict: the tag is taken.
        :raises UploadFailed: nothing is stored.
        """
        self._check_free()
        try:
            digest, size = self._send_data()
            config_type, config = self._form.config(digest)
            described = {
                "mediaType": config_type, "digest": self._send_small(config), "size": len(config),
            }  # fmt: skip
            manifest = self._manifest(described, self._form.described(digest, size))
            return put_manifest(self._registry, self._name, manifest)
        except TransferError as error:
            if isinstance(error, UploadFailed) or self._data.failure is not None:
                raise
            raise UploadFailed(
                f"{self._name} could not be stored: {error}", hint=error.hint,
                retryable=error.retryable,
            ) from error  # fmt: skip

    def _check_free(self) -> None:
        url = self._registry.url(self._name, f"manifests/{self._name.tag}")
        accept = "Accept", ", ".join(MANIFEST_TYPES)
        answer = self._registry.send("HEAD", self._name, url, accept, actions=PUSH)
        answer.close()
        if answer.head.status == 200:
            raise Conflict(f"{self._name} already exists", hint="choose another name, or delete it")
        if answer.head.status != 404:
            raise error_of(self._name, answer, self._registry.identity.secrets.hint)

    def _send_data(self) -> tuple[str, int]:
        """Upload the data in parts, one after the other; digest and size of the blob.

        If it fails, the registry is told that nothing more comes.
        """
        location, part_size = self._begin()
        sent, hasher = 0, None if self._form.is_bare else hashlib.sha256()
        try:
            for part in _parts(self._form.packed(self._data), part_size):
                span = f"{sent}-{sent + len(part) - 1}"
                answer = self._send(
                    "PATCH", location, ("Content-Range", span),
                    ("Content-Type", "application/octet-stream"), body=part,
                )  # fmt: skip
                location = self._location(answer, location, 202)
                sent += len(part)
                if hasher is not None:
                    hasher.update(part)
            found = self._data.checksums["sha256"] if hasher is None else hasher.hexdigest()
            digest = f"sha256:{found}"
            self._end(location, digest)
        except BaseException:
            self._cancel(location)
            raise
        return digest, sent

    def _send_small(self, content: bytes) -> str:
        """Upload a small blob, unless it is there; its digest."""
        digest = f"sha256:{hashlib.sha256(content).hexdigest()}"
        if self._is_there(digest):
            return digest
        location, _ = self._begin()
        try:
            self._end(location, digest, content)
        except BaseException:
            self._cancel(location)
            raise
        return digest

    def _begin(self) -> tuple[str, int]:
        """Where an upload goes, and the bytes of one part."""
        url = self._registry.url(self._name, "blobs/uploads/")
        answer = self._send("POST", url)
        least = answer.head.get("oci-chunk-min-length") or ""
        asked = int(least) if least.isascii() and least.isdigit() and len(least) < 12 else 0
        size = min(max(self._part_size, asked), _MAX_PART)
        return self._location(answer, url, 202), size

    def _end(self, location: str, digest: str, content: bytes = b"") -> None:
        sign = "&" if "?" in location else "?"
        url = f"{location}{sign}digest={digest}"
        kind = "Content-Type", "application/octet-stream"
        try:
            answer = self._send("PUT", url, kind, body=content)
        except TransferError:
            if self._is_there(digest):
                return  # only the answer was lost
            raise
        if answer.head.status not in (201, 204):
            raise error_of(f"{self._name}, upload", answer)
        answer.close()

    def _is_there(self, digest: str) -> bool:
        url = self._registry.url(self._name, f"blobs/{digest}")
        answer = self._send("HEAD", url)
        answer.close()
        return answer.head.status == 200

    def _cancel(self, location: str) -> None:
        """Have the registry forget what was sent."""
        try:
            answer = self._send("DELETE", location)
            if answer.head.status in (200, 202, 204):
                answer.close()
                return
            problem: ImageBrokerError = error_of("cancel", answer)
            if "BLOB_UPLOAD_UNKNOWN" in str(problem):
                return
        except ImageBrokerError as error:
            problem = error
        LOG.warning(
            "what was uploaded for %s stays until the registry removes it: %s", self._name, problem
        )

    def _send(
        self, method: str, url: str, *fields: tuple[str, str], body: bytes | None = None
    ) -> http.Answer:
        return self._registry.send(method, self._name, url, *fields, body=body, actions=PUSH)

    def _location(self, answer: http.Answer, url: str, expected: int) -> str:
        """Where the next request goes: to the same registry."""
        if answer.head.status != expected:
            raise error_of(f"{self._name}, upload", answer, self._registry.identity.secrets.hint)
        answer.close()
        found = answer.head.get("location")
        if not found:
            raise MalformedAnswer(f"{self._name}, upload: the registry does not say where to")
        new = self._registry.host.redirect(url, found)
        if urlsplit(new)[:2] != urlsplit(url)[:2]:
            raise PolicyViolation(
                f"{self._name}, upload: the registry sends the data on to {urlsplit(new).netloc}",
                hint="use the registry's own address in create_in",
            )
        return new

    def _manifest(self, config: dict[str, Any], layer: dict[str, Any]) -> dict[str, Any]:
        image = self._image
        if not self._form.is_bare:  # nothing else in the manifest says what the disk is
            digests = {"sha256": self._data.checksums["sha256"]}
            image = replace(image, size=self._data.sent, checksums=digests)
        return {
            "schemaVersion": 2,
            "mediaType": OCI_MANIFEST,
            **self._form.fields,
            "config": config,
            "layers": [layer],
            "annotations": annotations_of(image, content=not self._form.is_bare),
        }


def put_manifest(registry: Registry, name: Name, document: dict[str, Any]) -> Document:
    """Store a manifest under a tag.

    :raises TransferError: the registry does not say that it is there.
    """
    body = json.dumps(document, ensure_ascii=False, separators=(",", ":")).encode()
    digest = f"sha256:{hashlib.sha256(body).hexdigest()}"
    url = registry.url(name, f"manifests/{name.tag}")
    media_type = document["mediaType"]
    try:
        answer = registry.send(
            "PUT", name, url, ("Content-Type", media_type), body=body, actions=PUSH
        )
        if answer.head.status not in (200, 201, 202):
            raise error_of(f"{name}, manifest", answer, registry.identity.secrets.hint)
        answer.close()
    except TransferError:
        if _stored(registry, name) != digest:
            raise  # else only the answer was lost
    return Document.parse(f"the manifest of {name}", digest, media_type, body)


def _stored(registry: Registry, name: Name) -> str | None:
    """The digest of what a tag leads to now."""
    try:
        return registry.document(name).digest
    except ImageBrokerError:
        return None


def _parts(data: Iterable[bytes], size: int) -> Iterator[bytes]:
    """The data in pieces of one size, the last one shorter."""
    held = bytearray()
    for chunk in data:
        held += chunk
        while len(held) >= size:
            yield bytes(memoryview(held)[:size])
            del held[:size]
    if held:
        yield bytes(held)
