"""Deleting an image: its tag, or its manifest where no other tag leads to it."""

from __future__ import annotations

from imagebroker.plugin import Conflict, UnsupportedOperation
from imagebroker_oci.client import Registry
from imagebroker_oci.errors import error_of
from imagebroker_oci.identity import DELETE
from imagebroker_oci.manifests import MANIFEST_TYPES, Document
from imagebroker_oci.names import Name

#: Answers of registries that delete only what is named by its digest.
_NOT_BY_TAG = (400, 404, 405, 501)


def remove(registry: Registry, name: Name, manifest: Document) -> None:
    """Remove what `name` leads to, `manifest`. The registry's garbage collector takes the blobs.

    :raises Conflict: other tags would be lost.
    :raises UnsupportedOperation: the registry deletes nothing.
    """
    if name.digest is None:
        answer = registry.send(
            "DELETE", name, registry.url(name, f"manifests/{name.reference}"), actions=DELETE
        )
        answer.close()
        if answer.head.status in (200, 202, 204):
            return
        if answer.head.status not in _NOT_BY_TAG:
            raise error_of(name, answer, registry.identity.secrets.hint)
        _check_alone(registry, name, manifest)
    url = registry.url(name, f"manifests/{manifest.digest}")
    answer = registry.send("DELETE", name, url, actions=DELETE)
    if answer.head.status == 405:
        answer.close()
        raise UnsupportedOperation(
            f"{name.registry} does not delete images",
            hint="ask its owner to allow that (docker-registry: storage.delete.enabled)",
        )
    if answer.head.status not in (200, 202, 204):
        raise error_of(name, answer, registry.identity.secrets.hint)
    answer.close()


def _check_alone(registry: Registry, name: Name, manifest: Document) -> None:
    """:raises Conflict: another tag leads to the same manifest, and would be lost with it."""
    accept = "Accept", ", ".join(MANIFEST_TYPES)
    for tag in registry.tags(name):
        if tag == name.reference:
            continue
        url = registry.url(name, f"manifests/{tag}")
        answer = registry.send("HEAD", name, url, accept, actions=DELETE)
        answer.close()
        if answer.head.get("docker-content-digest") == manifest.digest:
            raise Conflict(
                f"{name} has the same manifest as {name.place}:{tag}, and {name.registry} cannot "
                "delete one tag of two",
                hint="to delete both, name the manifest by its digest: "
                f"oci://{name.place}@{manifest.digest}",
            )
