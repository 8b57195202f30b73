"""Where an image is: `registry[:port]/repository[:tag][@digest]`, and which disk of several."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from urllib.parse import unquote

from imagebroker.plugin import ImageRef, InvalidImageRef

_PART = r"[a-z0-9]+(?:(?:\.|__?|-+)[a-z0-9]+)*"
REPOSITORY = rf"{_PART}(?:/{_PART})*"
TAG = r"[A-Za-z0-9_][A-Za-z0-9._-]{0,127}"
_PATH = rf"/(?P<repository>{REPOSITORY})(?::(?P<tag>{TAG}))?(?:@(?P<digest>sha256:[0-9a-f]{{64}}))?"
_PLACE = r"(?P<host>\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+)(?::(?P<port>[0-9]{1,5}))?"
_LONGEST = 255
#: Docker's own registry answers under another name than refs have.
_HUB = ("docker.io", "index.docker.io")
_HUB_SERVER = "registry-1.docker.io"


@dataclass(frozen=True)
class Choice:
    """Which one of several disks, from the query of a ref; None: not said."""

    disktype: str | None = None
    arch: str | None = None
    title: str | None = None

    def __bool__(self) -> bool:
        return (self.disktype, self.arch, self.title) != (None, None, None)


@dataclass(frozen=True)
class Name:
    """An image in a repository of a registry."""

    host: str
    port: int | None
    repository: str
    tag: str | None = None
    digest: str | None = None

    @property
    def registry(self) -> str:
        """As refs and pull secrets have it."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port is None else f"{host}:{self.port}"

    @property
    def server(self) -> str:
        """What answers: host and port of a URL."""
        return _HUB_SERVER if self.is_hub else self.registry

    @property
    def is_hub(self) -> bool:
        return self.port is None and self.host in _HUB

    @property
    def reference(self) -> str:
        """What the manifest is asked for by."""
        return self.digest or self.tag or "latest"

    @property
    def place(self) -> str:
        return f"{self.registry}/{self.repository}"

    def with_tag(self, tag: str) -> Name:
        return replace(self, tag=tag, digest=None)

    def __str__(self) -> str:
        tag = "" if self.tag is None else f":{self.tag}"
        digest = "" if self.digest is None else f"@{self.digest}"
        return f"{self.place}{tag}{digest}"


def parse(ref: ImageRef) -> tuple[Name, Choice]:
    """:raises InvalidImageRef: it names no image of a registry."""
    match = re.fullmatch(_PATH, ref.path or "")
    if match is None or len(match["repository"]) > _LONGEST:
        raise InvalidImageRef(
            f"{ref} names no repository of a registry",
            hint="write oci://registry/repository:tag or …/repository@sha256:DIGITS; only the tag "
            "may have capitals",
        )
    name = Name(
        ref.host or "", ref.port, _repository(ref.host or "", match["repository"]), match["tag"],
        match["digest"],
    )  # fmt: skip
    return name, _choice(ref)


def _repository(host: str, repository: str) -> str:
    return f"library/{repository}" if host in _HUB and "/" not in repository else repository


def _choice(ref: ImageRef) -> Choice:
    found: dict[str, str] = {}
    for part in (ref.query or "").split("&") if ref.query else []:
        key, _, value = part.partition("=")
        value = unquote(value)
        if key not in ("disktype", "arch", "title") or not value or key in found:
            raise InvalidImageRef(
                f"{ref} has an unknown parameter in its query",
                hint="the query may have disktype=, arch= and title=, each once",
            )
        found[key] = value
    return Choice(**found)


def repository_of(text: str) -> Name | None:
    """The repository in `REGISTRY[:PORT]/REPOSITORY`; None if it is none."""
    place, _, repository = text.partition("/")
    match = re.fullmatch(_PLACE, place)
    if match is None or not re.fullmatch(REPOSITORY, repository) or len(repository) > _LONGEST:
        return None
    port = None if match["port"] is None else int(match["port"])
    host = match["host"].strip("[]").lower()
    return Name(host, port, _repository(host, repository))
