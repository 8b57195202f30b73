"""The one parser of image identifiers: strict, run once, rejects rather than repairs.

::

    REF = UUID | NAME[:INSTANCE]:UUID | NAME://[user@]host[:port]/path[?query]
    each with an optional pin: #sha256=<64 hex> or #sha512=<128 hex>

`parse` knows the general grammar only. Which parts the refs of one backend have is its
`RefForm`, held by `check_form` once the backend is known.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from urllib.parse import unquote_to_bytes

from imagebroker.exceptions import InvalidImageRef, PolicyViolation
from imagebroker.redaction import redact

#: Longest identifier that is looked at (characters). Presigned URLs stay below 4 KiB.
MAX_LENGTH = 8192

#: Hex digits of the digests that a pin may name.
PIN_DIGITS = {"sha256": 64, "sha512": 128}

_UUID = r"[0-9a-fA-F]{8}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{12}"
_NAME = r"[a-z][a-z0-9+.-]{0,31}"
_INSTANCE = r"[A-Za-z0-9_](?:[A-Za-z0-9_.-]{0,62}[A-Za-z0-9_])?"
# RFC 3986 characters of a path and of a query; a percent sign must begin an escape.
_PCHAR = r"(?:[A-Za-z0-9._~!$&'()*+,;=:@-]|%[0-9A-Fa-f]{2})"
_ID_REF = re.compile(rf"(?:(?P<name>{_NAME})(?::(?P<instance>{_INSTANCE}))?:)?(?P<id>{_UUID})")
_URI = re.compile(
    rf"(?P<name>{_NAME})://(?P<authority>[^/?#]*)"
    rf"(?P<path>/(?:{_PCHAR}|/)*)?(?:\?(?P<query>(?:{_PCHAR}|[/?])*))?"
)
_AUTHORITY = re.compile(
    r"(?:(?P<user>[A-Za-z0-9_][A-Za-z0-9._-]{0,63})@)?"
    r"(?P<host>\[[0-9A-Fa-f:.]{2,45}\]|[A-Za-z0-9._-]{1,253})"
    r"(?::(?P<port>[1-9][0-9]{0,4}))?"
)
_HOST_NAME = re.compile(
    r"(?:[A-Za-z0-9_](?:[A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?\.)*"
    r"[A-Za-z0-9_](?:[A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?\.?"
)
_IMAGE_URL = re.compile(rf"(?P<id>{_UUID})(?:/file)?")


@dataclass(frozen=True)
class RefForm:
    """Which parts the refs of a backend have; the core refuses all others.

    `id`: refs are `NAME:UUID`. `host`, `path`: URIs have one (and must). `user`, `port`,
    `query`: URIs may have one. A backend may have ids, URIs, or both.
    """

    id: bool = False
    user: bool = False
    host: bool = False
    port: bool = False
    path: bool = False
    query: bool = False
    #: The path is for the peer to interpret and is sent as written (http). Otherwise it names
    #: one file: it may not end in `/`, and NUL is refused in every spelling.
    opaque_path: bool = False
    #: Further bytes that the decoded path may not hold.
    forbidden: bytes = b""
    #: Where an image's id stands below an `endpoint` (`v2/images/`): such URLs are refs too.
    id_path: str | None = None


@dataclass(frozen=True)
class ImageRef:
    """A parsed identifier. `str(ref)` is shown to people: it hides the query."""

    #: The identifier as it was given, without its pin.
    text: str
    #: The scheme, which is the first word; None for a bare id.
    scheme: str | None = None
    instance: str | None = None
    id: str | None = None
    user: str | None = None
    #: Lower case; an IPv6 address without its brackets.
    host: str | None = None
    port: int | None = None
    #: Percent-encoded, as written.
    path: str | None = None
    query: str | None = None
    #: `(algorithm, hex digest)` that the bytes must have.
    pin: tuple[str, str] | None = None

    @property
    def path_bytes(self) -> bytes:
        """The path with its percent-escapes decoded, once."""
        return unquote_to_bytes(self.path or "")

    def with_ending(self, ending: str) -> ImageRef:
        """The ref of the file beside this one that has a further ending; without a pin."""
        bare, sign, query = self.text.partition("?")
        path = None if self.path is None else self.path + ending
        return replace(self, text=f"{bare}{ending}{sign}{query}", path=path, pin=None)

    @property
    def file_name(self) -> bytes:
        """The last segment of the path, decoded, or the id: what a copy would be called."""
        return self.path_bytes.rsplit(b"/", 1)[-1] if self.path else (self.id or "").encode()

    def __str__(self) -> str:
        return redact(self.text)

    def __repr__(self) -> str:
        return f"ImageRef({redact(self.text)!r})"


def parse(identifier: object) -> ImageRef:
    """The ref that `identifier` spells.

    :raises InvalidImageRef: it is not in the grammar above.
    """
    if isinstance(identifier, ImageRef):
        return identifier
    if not isinstance(identifier, str):
        raise InvalidImageRef(
            f"an image identifier is text, not {type(identifier).__name__}", hint=_FORMS
        )
    if not identifier or len(identifier) > MAX_LENGTH:
        raise InvalidImageRef(
            f"the image identifier {redact(identifier, 64)!r} has {len(identifier)} characters, "
            f"not 1 to {MAX_LENGTH}",
            hint=_FORMS,
        )
    text, _, fragment = identifier.partition("#")
    pin = _parse_pin(identifier, fragment) if "#" in identifier else None
    if match := _ID_REF.fullmatch(text):
        return ImageRef(text, match["name"], match["instance"], match["id"], pin=pin)
    if match := _URI.fullmatch(text):
        return _from_uri(text, match, pin)
    raise InvalidImageRef(
        f"{redact(identifier, 200)!r} is not an image identifier", hint=_hint(text)
    )


_FORMS = "write a UUID, NAME:UUID, http(s)://host/path, file:///path or scp://host/path"


def _hint(text: str) -> str:
    """The likeliest slip, for the person who typed it."""
    if text.startswith(("/", "./", "~")):
        return "a local file is written file:///absolute/path"
    if re.match(r"[A-Z][A-Za-z0-9+.-]*:", text):
        return "schemes are written in lower case"
    if "://" in text and re.search(r"[^!-~]", text):
        return "percent-encode spaces, control characters and characters outside ASCII"
    return _FORMS


def _parse_pin(identifier: str, fragment: str) -> tuple[str, str]:
    algorithm, _, digest = fragment.partition("=")
    digits = PIN_DIGITS.get(algorithm)
    if digits is None or not re.fullmatch(rf"[0-9a-fA-F]{{{digits}}}", digest):
        raise InvalidImageRef(
            f"{redact(identifier, 200)!r} ends in a fragment that is not a pin",
            hint="the one fragment allowed is #sha256=<64 hex digits> or #sha512=<128 hex digits>",
        )
    return algorithm, digest.lower()


def _from_uri(text: str, match: re.Match[str], pin: tuple[str, str] | None) -> ImageRef:
    ref = ImageRef(text, match["name"], path=match["path"], query=match["query"], pin=pin)
    authority = match["authority"]
    if not authority and ref.path is None:
        raise InvalidImageRef(f"{redact(text, 200)!r} names no image", hint=_FORMS)
    if not authority:
        return ref
    if re.fullmatch(_UUID, authority) and ref.path is None and ref.query is None:
        # NAME://UUID is Ironic's spelling of NAME:UUID.
        return replace(ref, text=f"{ref.scheme}:{authority}", id=authority)
    parts = _AUTHORITY.fullmatch(authority)
    if parts is None:
        hint = "write user names without passwords, hosts as names or addresses, ports as 1..65535"
        raise InvalidImageRef(f"{redact(text, 200)!r} has no valid host", hint=hint)
    return ImageRef(
        text,
        ref.scheme,
        user=parts["user"],
        host=_host(text, parts["host"]),
        port=_port(text, parts["port"]),
        path=ref.path,
        query=ref.query,
        pin=pin,
    )


def _host(text: str, host: str) -> str:
    if host.startswith("["):
        import ipaddress  # only here: it costs 5 ms of start-up

        try:
            return str(ipaddress.IPv6Address(host[1:-1]))
        except ValueError:
            raise InvalidImageRef(f"{redact(text, 200)!r} has no valid IPv6 address") from None
    if not _HOST_NAME.fullmatch(host):
        raise InvalidImageRef(f"{redact(text, 200)!r} has no valid host name")
    return host.lower()


def _port(text: str, port: str | None) -> int | None:
    if port is None:
        return None
    if int(port) > 65535:
        raise InvalidImageRef(f"{redact(text, 200)!r}: port {port} is not in 1..65535")
    return int(port)


def check_form(ref: ImageRef, form: RefForm) -> None:
    """Hold `ref` to the form of its backend.

    :raises InvalidImageRef: a part is missing or not allowed.
    :raises PolicyViolation: the path has empty, `.` or `..` segments (in any spelling).
    """
    if ref.id is not None:
        if not form.id:
            raise InvalidImageRef(f"{ref} is an id, and {ref.scheme} refs have none")
        return
    if not form.path and not form.host:
        raise InvalidImageRef(f"{ref} is not an id", hint=f"write {ref.scheme}:UUID")
    for part in ("host", "path"):
        if getattr(form, part) and getattr(ref, part) is None:
            raise InvalidImageRef(f"{ref} has no {part}")
    for part in ("user", "host", "port", "path", "query"):
        if getattr(ref, part) is not None and not getattr(form, part):
            raise InvalidImageRef(f"{ref} has a {part}, and {ref.scheme} refs have none")
    if form.path:
        _check_path(ref, form)


def _check_path(ref: ImageRef, form: RefForm) -> None:
    path = ref.path_bytes
    if not form.opaque_path:
        if path.startswith(b"//") or path == b"/":
            raise InvalidImageRef(f"{ref} has no absolute path of a file")
        for byte in b"\0" + form.forbidden:
            if byte in path:
                raise InvalidImageRef(f"{ref}: the path holds the byte 0x{byte:02x}")
    segments = path.split(b"/")[1:]
    if b"." in segments or b".." in segments or (not form.opaque_path and b"" in segments):
        raise PolicyViolation(
            f"{ref}: the path has empty, '.' or '..' segments",
            hint="write the path in its shortest form",
        )


def below(ref: ImageRef, prefix: str) -> str | None:
    """What follows `prefix` (a URI that ends in `/`) in `ref`, or None.

    Only the path is compared as text; scheme, host and port are compared as parsed.
    """
    base = parse(prefix)
    if ref.scheme != base.scheme or ref.host != base.host or ref.path is None:
        return None
    if _effective_port(ref) != _effective_port(base):
        return None
    root = base.path or "/"
    return ref.path[len(root) :] if ref.path.startswith(root) else None


#: What a scheme's port is when none is written (RFC 9110, RFC 4253).
DEFAULT_PORTS = {"http": 80, "https": 443, "scp": 22, "sftp": 22, "ftp": 21}


def _effective_port(ref: ImageRef) -> int | None:
    return ref.port or DEFAULT_PORTS.get(ref.scheme or "")


def id_below(rest: str, form: RefForm) -> str | None:
    """The id in `rest` (what follows an endpoint), where the backend's form has one."""
    if form.id_path is None or not rest.startswith(form.id_path):
        return None
    match = _IMAGE_URL.fullmatch(rest[len(form.id_path) :])
    return match["id"] if match else None


def looks_like_image_url(ref: ImageRef) -> bool:
    """Whether `ref` is the URL of an image in some Glance: `http(s)://.../v2/images/UUID`."""
    if ref.scheme not in ("http", "https") or ref.path is None:
        return False
    path = ref.path_bytes.decode("latin-1")
    return re.search(rf"/v2/images/{_UUID}(?:/file)?/?\Z", path) is not None
