"""VM images in OCI registries: `oci://registry[:port]/repository[:tag][@sha256:…]`.

A disk is found in every layout that is in use: a blob of its own (ORAS, Ironic, podman machine,
KubeVirt), a file in a layer of a container image (containerDisk), or chunks (Tart, KubeSwift). Each
part is checked against the digest in what led to it, from the manifest on.
"""

from imagebroker_oci.backend import OciBackend

__all__ = ["OciBackend"]
