"""What a ref names: an image in a pool, or one of its snapshots."""

from __future__ import annotations

import re
from dataclasses import dataclass
from urllib.parse import unquote

from imagebroker.plugin import BackendHost, ImageRef, InvalidImageRef

_FSID = re.compile(r"[0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}")
#: Images with such names are uploads under way, or what is left of them.
UPLOAD = "imagebroker.upload."


@dataclass(frozen=True)
class Place:
    """An image in a pool, or a snapshot of it."""

    pool: str
    image: str
    #: None: the image as it is now.
    snapshot: str | None = None
    namespace: str = ""
    #: The cluster, where a location of Glance names it.
    fsid: str | None = None

    def uri(self, host: BackendHost) -> str:
        """The ref of this place in an instance."""
        image = f"{self.namespace}/{self.image}" if self.namespace else self.image
        return host.uri(self.pool, image if self.snapshot is None else f"{image}@{self.snapshot}")

    def at(self, snapshot: str | None) -> Place:
        """Another snapshot of the same image."""
        return Place(self.pool, self.image, snapshot, self.namespace)


def place_of(ref: ImageRef) -> Place:
    """What `rbd://pool/[namespace/]image[@snapshot]`, or Glance's `rbd://fsid/pool/image/snapshot`,
    names.

    :raises InvalidImageRef: it is neither.
    """
    authority, path = ref.authority or "", (ref.path or "")[1:]
    parts = [unquote(part) for part in path.split("/")]
    if _FSID.fullmatch(authority) and len(parts) == 3 and "@" not in path:
        pool, image, snapshot = parts
        return _checked(ref, Place(pool, image, snapshot, fsid=authority.lower()))
    # The name of a snapshot may have slashes and further at signs in it.
    named, at, snapshot = path.partition("@")
    parts = [unquote(part) for part in named.split("/")]
    if len(parts) > 2 or (at and not snapshot):
        raise InvalidImageRef(f"{ref} does not name an image", hint=_FORM)
    namespace = parts[0] if len(parts) == 2 else ""
    return _checked(ref, Place(authority, parts[-1], unquote(snapshot) or None, namespace))


_FORM = "write it as rbd://POOL/IMAGE or rbd://POOL/IMAGE@SNAPSHOT"


def _checked(ref: ImageRef, place: Place) -> Place:
    for what, name in (
        ("pool", place.pool), ("namespace", place.namespace), ("image", place.image),
        ("snapshot", place.snapshot or ""),
    ):  # fmt: skip
        # Ceph's library would use what stands before a NUL.
        if "\0" in name:
            raise InvalidImageRef(f"{ref}: the name of the {what} contains a NUL", hint=_FORM)
    for what, name in (("pool", place.pool), ("image", place.image)):
        if not name or "/" in name or "@" in name:
            raise InvalidImageRef(f"{ref}: the {what} cannot be named {name!r}", hint=_FORM)
    return place


def can_be_named(place: Place) -> bool:
    """Whether a ref can name it."""
    names = [place.pool, place.image, place.namespace, place.snapshot or "x"]
    parts = (place.snapshot or "x").split("/")
    return (
        not any("\0" in name for name in names)
        and not any(sign in place.image for sign in "/@")
        and not {"", ".", ".."} & {place.image, *parts[1:]}
        and _is_text(*names)
    )


def _is_text(*names: str) -> bool:
    try:
        return all(name.encode() is not None for name in names)
    except UnicodeEncodeError:
        return False


def new_name(name: str | None) -> str:
    """The name for a new image. :raises InvalidImageRef: Ceph would not take it."""
    found = name or ""
    if not found or found in (".", "..") or "/" in found or "@" in found:
        raise InvalidImageRef(
            f"{name!r} cannot be the name of an image in Ceph",
            hint="set name to text without / and @",
        )
    if len(found.encode(errors="replace")) > 200 or not found.isprintable():
        raise InvalidImageRef(
            f"{found[:50]!r} cannot be the name of an image in Ceph",
            hint="set name to at most 200 bytes of printable text",
        )
    if found.startswith(UPLOAD):
        raise InvalidImageRef(
            f"{found[:50]!r} is reserved for unfinished uploads", hint="choose another name"
        )
    return found
