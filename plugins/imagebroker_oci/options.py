"""The options of `[backend:oci]`."""

from __future__ import annotations

from oslo_config import cfg

from imagebroker.plugin import http

OPTIONS = (
    cfg.StrOpt(
        "pull_secret_file",
        help="File with the credentials for registries, as `docker login`, `skopeo login` and "
        "Kubernetes write it. Without one, requests are anonymous; if there is no config file, "
        "the files of podman and docker in the home directory are used."),
    cfg.BoolOpt(
        "plain_http", default=False,
        help="Speak http with the registry, without TLS: anybody on the network path can then read "
        "credentials. What is downloaded is checked against its digest."),
    cfg.StrOpt(
        "create_in", metavar="REGISTRY[:PORT]/REPOSITORY",
        help="Repository in which create stores images and whose tags list shows."),
    cfg.StrOpt(
        "create_as", default="artifact", choices=["artifact", "containerdisk"],
        help="artifact: the image is a blob, which ORAS and skopeo read. containerdisk: it is a "
        "file in a container image, which KubeVirt and its importer read; its size must be known, "
        "and a download of it cannot resume."),
    cfg.IntOpt(
        "part_size", default=16, min=1, max=1024,
        help="MiB in one request of an upload. It is in memory."),
    # Credentials are in pull_secret_file.
    *(option for option in http.OPTIONS if option.dest not in ("username", "password")),
)  # fmt: skip
