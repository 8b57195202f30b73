"""The only parser of image identifiers: strict, and never repairs anything.

::

    REF = UUID | NAME[:INSTANCE]:UUID
        | NAME://[user@]host[:port]/path[?query]
        | NAME[:INSTANCE]://authority/key[?query]      authority: an opaque name, such as a bucket
    each with an optional pin: #sha256=<64 hex> or #sha512=<128 hex>

`parse` checks the general grammar only. The parts that the refs of a backend have are its
`RefForm`, which `in_form` checks once the backend is known: only then is it known whether an
authority is a host or an opaque name.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from urllib.parse import unquote_to_bytes

from imagebroker.exceptions import InvalidImageRef, PolicyViolation
from imagebroker.redaction import redact

#: Maximum length of an identifier (characters). Presigned URLs are shorter than 4 KiB.
MAX_LENGTH = 8192

#: The algorithms of a pin, and their number of hex digits.
PIN_DIGITS = {"sha256": 64, "sha512": 128}

_UUID = r"[0-9a-fA-F]{8}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{12}"
_NAME = r"[a-z][a-z0-9+.-]{0,31}"
_INSTANCE = r"[A-Za-z0-9_](?:[A-Za-z0-9_.-]{0,62}[A-Za-z0-9_])?"
# RFC 3986 characters of a path and of a query; a percent sign must begin an escape.
_PCHAR = r"(?:[A-Za-z0-9._~!$&'()*+,;=:@-]|%[0-9A-Fa-f]{2})"
_ID_REF = rf"(?:(?P<name>{_NAME})(?::(?P<instance>{_INSTANCE}))?:)?(?P<id>{_UUID})"
_URI = (
    rf"(?P<name>{_NAME})(?::(?P<instance>{_INSTANCE}))?://(?P<authority>[^/?#]*)"
    rf"(?P<path>/(?:{_PCHAR}|/)*)?(?:\?(?P<query>(?:{_PCHAR}|[/?])*))?"
)
_AUTHORITY = (
    r"(?:(?P<user>[A-Za-z0-9_][A-Za-z0-9._-]{0,63})@)?"
    r"(?P<host>\[[0-9A-Fa-f:.]{2,45}\]|[A-Za-z0-9._-]{1,253})"
    r"(?::(?P<port>[1-9][0-9]{0,4}))?"
)
#: An opaque name: the characters of a path segment without `@` and `:`, percent-encoded.
_OPAQUE = r"(?:[A-Za-z0-9._~!$&'()*+,;=-]|%[0-9A-Fa-f]{2}){1,1024}"
_HOST_NAME = (
    r"(?:[A-Za-z0-9_](?:[A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?\.)*"
    r"[A-Za-z0-9_](?:[A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?\.?"
)
_IMAGE_URL = rf"(?P<id>{_UUID})(?:/file)?"


@dataclass(frozen=True)
class RefForm:
    """The parts that the refs of a backend have; the core refuses others.

    `id`: refs are `NAME:UUID`. `host`, `path`: URIs must have one. `user`, `port`, `query`: URIs
    can have one. A backend can have ids, URIs, or both.

    `s3://bucket/key` has the form `RefForm(authority=True, path=True, opaque_path=True)`,
    `https://host:8443/path` the form `RefForm(host=True, port=True, path=True, opaque_path=True)`.
    """

    id: bool = False
    user: bool = False
    host: bool = False
    port: bool = False
    path: bool = False
    query: bool = False
    #: The authority is an opaque name (a bucket, a container, a pool), not a host: it keeps its
    #: case, and no address policy applies to it. URIs must have one and a key, both in UTF-8, and
    #: can name the instance. Not together with `host`.
    authority: bool = False
    #: URIs can name the instance: `NAME:INSTANCE://host/path`.
    instance: bool = False
    #: The server interprets the path, and it is sent as written (http). Otherwise the path names
    #: one file: it must not end in `/`, and NUL is refused in every spelling.
    opaque_path: bool = False
    #: Other bytes that the decoded path must not contain.
    forbidden: bytes = b""
    #: The path between an `endpoint` and the id of an image (`v2/images/`): such URLs are refs too.
    id_path: str | None = None


@dataclass(frozen=True)
class ImageRef:
    """A parsed identifier. `str(ref)` is for people, and hides the query."""

    #: The identifier as written, without its pin.
    text: str
    #: The scheme, which is the first word; None for a plain id.
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
    #: `(algorithm, hex digest)` that the data must have.
    pin: tuple[str, str] | None = None
    #: The authority as an opaque name, percent-decoded. None if it is a host.
    authority: str | None = None

    @property
    def key(self) -> str:
        """The path without its first slash, percent-decoded: the name of an object."""
        return self.path_bytes[1:].decode(errors="surrogateescape")

    @property
    def path_bytes(self) -> bytes:
        """The path with its percent-escapes decoded, once."""
        return unquote_to_bytes(self.path or "")

    def with_ending(self, ending: str) -> ImageRef:
        """The ref of the file with this name plus `ending`; without a pin."""
        bare, sign, query = self.text.partition("?")
        path = None if self.path is None else self.path + ending
        return replace(self, text=f"{bare}{ending}{sign}{query}", path=path, pin=None)

    @property
    def file_name(self) -> bytes:
        """The last segment of the path, decoded, or the id."""
        return self.path_bytes.rsplit(b"/", 1)[-1] if self.path else (self.id or "").encode()

    def __str__(self) -> str:
        return redact(self.text)

    def __repr__(self) -> str:
        return f"ImageRef({redact(self.text)!r})"


def parse(identifier: object) -> ImageRef:
    """Parse an identifier.

    :raises InvalidImageRef: it is not in the grammar above.
    """
    if isinstance(identifier, ImageRef):
        return identifier
    if not isinstance(identifier, str):
        raise InvalidImageRef(
            f"an image identifier must be text, not {type(identifier).__name__}", hint=_hint("")
        )
    if not identifier or len(identifier) > MAX_LENGTH:
        raise InvalidImageRef(
            f"the image identifier {redact(identifier, 64)!r} has {len(identifier)} characters "
            f"(allowed: 1 to {MAX_LENGTH})",
            hint=_hint(""),
        )
    text, _, fragment = identifier.partition("#")
    pin = _parse_pin(identifier, fragment) if "#" in identifier else None
    if match := re.fullmatch(_ID_REF, text):
        return ImageRef(text, match["name"], match["instance"], match["id"], pin=pin)
    if match := re.fullmatch(_URI, text):
        return _from_uri(text, match, pin)
    raise InvalidImageRef(
        f"{redact(identifier, 200)!r} is not an image identifier", hint=_hint(text)
    )


def _hint(text: str) -> str:
    from imagebroker.model.correction import correction  # where something is wrong

    return correction(text)


def _parse_pin(identifier: str, fragment: str) -> tuple[str, str]:
    algorithm, _, digest = fragment.partition("=")
    digits = PIN_DIGITS.get(algorithm)
    if digits is None or not re.fullmatch(rf"[0-9a-fA-F]{{{digits}}}", digest):
        raise InvalidImageRef(
            f"{redact(identifier, 200)!r} has an invalid fragment",
            hint="write a pin as #sha256=<64 hex digits> or #sha512=<128 hex digits>, or remove it",
        )
    return algorithm, digest.lower()


def _from_uri(text: str, match: re.Match[str], pin: tuple[str, str] | None) -> ImageRef:
    ref = ImageRef(
        text, match["name"], match["instance"], path=match["path"], query=match["query"], pin=pin
    )
    authority = match["authority"]
    if ref.instance is not None and (ref.scheme in DEFAULT_PORTS or not authority):
        raise InvalidImageRef(
            f"{redact(text, 200)!r}: such a URL cannot name an instance",
            hint=f"write {ref.scheme}://{redact(authority, 100)}{redact(ref.path or '', 100)}",
        )
    if not authority and ref.path is None:
        raise InvalidImageRef(f"{redact(text, 200)!r} does not name an image", hint=_hint(""))
    if not authority:
        return ref
    if re.fullmatch(_UUID, authority) and (ref.path, ref.query, ref.instance) == (None, None, None):
        # NAME://UUID is Ironic's spelling of NAME:UUID.
        return replace(ref, text=f"{ref.scheme}:{authority}", id=authority)
    try:
        return _with_host(ref, authority)
    except InvalidImageRef:
        if ref.scheme in DEFAULT_PORTS or not re.fullmatch(_OPAQUE, authority):
            raise
    return _with_name(ref, authority)


def _with_host(ref: ImageRef, authority: str) -> ImageRef:
    parts = re.fullmatch(_AUTHORITY, authority)
    if parts is None:
        from imagebroker.model.correction import host_correction

        hint = host_correction(authority, ref.scheme or "")
        raise InvalidImageRef(f"{redact(ref.text, 200)!r} has an invalid host", hint=hint)
    return replace(
        ref, user=parts["user"], host=_host(ref.text, parts["host"]),
        port=_port(ref.text, parts["port"]),
    )  # fmt: skip


def _with_name(ref: ImageRef, authority: str) -> ImageRef:
    name = unquote_to_bytes(authority).decode(errors="surrogateescape")
    return replace(ref, user=None, host=None, port=None, authority=name)


_HOST_HINT = "write letters, digits and hyphens, with single dots between them"


def _host(text: str, host: str) -> str:
    if host.startswith("["):
        import ipaddress  # here, because it takes 5 ms of start-up time

        try:
            return str(ipaddress.IPv6Address(host[1:-1]))
        except ValueError:
            raise InvalidImageRef(
                f"{redact(text, 200)!r} has an invalid IPv6 address",
                hint="write it in brackets, such as [2001:db8::1]",
            ) from None
    if not re.fullmatch(_HOST_NAME, host):
        raise InvalidImageRef(
            f"{redact(text, 200)!r} has an invalid host name",
            hint=_HOST_HINT,
        )
    return host.lower()


def _port(text: str, port: str | None) -> int | None:
    if port is None:
        return None
    if int(port) > 65535:
        raise InvalidImageRef(f"{redact(text, 200)!r}: port {port} is not in 1..65535",
                              hint="write the port of the server, or none")  # fmt: skip
    return int(port)


def with_opaque_authority(ref: ImageRef, form: RefForm) -> ImageRef:
    """`ref` with its authority as an opaque name, if its backend's form says so.

    :raises InvalidImageRef: it cannot be such a name.
    """
    if not form.authority or ref.id is not None or (ref.host is None and ref.authority is None):
        return ref
    match = re.fullmatch(_URI, ref.text)
    authority = match["authority"] if match else ""
    if not re.fullmatch(_OPAQUE, authority):
        raise InvalidImageRef(
            f"{ref} has an invalid name before its path",
            hint=f"write it as {ref.scheme}://NAME/KEY, with characters such as @ and : as %XX",
        )
    return _with_name(ref, authority)


def in_form(ref: ImageRef, form: RefForm) -> ImageRef:
    """`ref` as its backend gets it.

    :raises InvalidImageRef: a part is missing or not allowed.
    :raises PolicyViolation: the path has empty, `.` or `..` segments (in any spelling).
    """
    ref = with_opaque_authority(ref, form)
    check_form(ref, form)
    return ref


def check_form(ref: ImageRef, form: RefForm) -> None:
    """Check that `ref` has the form of its backend's refs.

    :raises InvalidImageRef, PolicyViolation: as `in_form`.
    """
    if ref.id is not None:
        if not form.id:
            raise InvalidImageRef(
                f"{ref} is an id, but {ref.scheme} refs are URLs",
                hint=f"write {ref.scheme}://, and where the image is",
            )
        return
    if not form.path and not form.host and not form.authority:
        raise InvalidImageRef(f"{ref} is not an id", hint=f"write {ref.scheme}:UUID")
    if ref.authority is not None and not form.authority:
        raise InvalidImageRef(
            f"{ref} has an invalid host name",
            hint=_HOST_HINT if form.host else _without(ref, "host"),
        )
    for part in ("authority", "host", "path"):
        if getattr(form, part) and getattr(ref, part) is None:
            raise InvalidImageRef(
                f"{ref} has no {'name' if part == 'authority' else part}",
                hint=f"write {_whole(ref, form)}",
            )
    for part in ("user", "host", "port", "path", "query"):
        if getattr(ref, part) is not None and not getattr(form, part):
            raise InvalidImageRef(
                f"{ref} has a {part}, which {ref.scheme} refs do not have",
                hint=_without(ref, part),
            )
    if ref.instance is not None and not (form.instance or form.authority):
        raise InvalidImageRef(
            f"{ref} names an instance, which {ref.scheme} URLs cannot do",
            hint=f"remove :{ref.instance} after {ref.scheme}",
        )
    if form.authority:
        _check_names(ref)
    if form.path:
        _check_path(ref, form)


def _whole(ref: ImageRef, form: RefForm) -> str:
    """How the refs of this backend are written, for one of which a part is missing."""
    if form.authority:
        return f"{ref.scheme}://NAME/KEY"
    if not form.host:
        return f"{ref.scheme}:///absolute/path"
    found = f"{ref.scheme}://HOST/PATH"
    if form.user or form.opaque_path or "." in (ref.host or "."):
        return found
    # `oci://debian:12`, as docker names it: what looks like a host is no domain.
    return f"{found}, with the host before it: {ref.scheme}://HOST/{ref.text.partition('://')[2]}"


def _without(ref: ImageRef, part: str) -> str:
    """The hint for a part that the refs of this backend do not have."""
    if part == "user":
        return "remove it: username and password stand in the backend's section, with endpoint"
    if part == "host" and ref.scheme == "file":
        return "write three slashes before the path: file:///absolute/path"
    if part == "query":
        return "remove the query; a signed URL is written as https://"
    return f"remove the {part}"


def _check_names(ref: ImageRef) -> None:
    """Check that the opaque name and the key are text, and that there is a key."""
    if ref.authority in (".", ".."):
        raise PolicyViolation(
            f"{ref}: {ref.authority!r} is not a valid name", hint="write another name"
        )
    if ref.path == "/":
        raise InvalidImageRef(f"{ref} has no key", hint=f"write {ref.scheme}://NAME/KEY")
    for what, text in (("name", ref.authority or ""), ("key", ref.key)):
        try:
            text.encode()
        except UnicodeEncodeError:
            raise InvalidImageRef(
                f"{ref}: the {what} is not valid UTF-8", hint="write UTF-8 in percent-escapes"
            ) from None


def _check_path(ref: ImageRef, form: RefForm) -> None:
    path = ref.path_bytes
    if not form.opaque_path:
        if path.startswith(b"//") or path == b"/":
            raise InvalidImageRef(
                f"{ref} does not have the absolute path of a file",
                hint=f"write {ref.scheme}://{'HOST' if form.host else ''}/absolute/path",
            )
        for byte in b"\0" + form.forbidden:
            if byte in path:
                raise InvalidImageRef(
                    f"{ref}: the path contains the byte 0x{byte:02x}",
                    hint="rename the file: its name has a control character",
                )
    segments = path.split(b"/")[1:]
    if b"." in segments or b".." in segments or (not form.opaque_path and b"" in segments):
        raise PolicyViolation(
            f"{ref}: the path has empty, '.' or '..' segments",
            hint="write the path without them",
        )


def below(ref: ImageRef, prefix: str) -> str | None:
    """The rest of `ref` after `prefix` (a URI that ends in `/`), or None.

    The paths are compared as text; scheme, host and port as parsed, opaque names exactly.
    """
    base = parse(prefix)
    if ref.scheme != base.scheme or ref.path is None:
        return None
    if ref.authority is not None:
        base = with_opaque_authority(base, RefForm(authority=True))
    if ref.host != base.host:
        return None
    if (ref.authority, ref.instance) != (base.authority, base.instance):
        return None
    if _effective_port(ref) != _effective_port(base):
        return None
    root = base.path or "/"
    return ref.path[len(root) :] if ref.path.startswith(root) else None


#: The default ports of schemes (RFC 9110, RFC 4253).
DEFAULT_PORTS = {"http": 80, "https": 443, "scp": 22, "sftp": 22, "ftp": 21}


def _effective_port(ref: ImageRef) -> int | None:
    return ref.port or DEFAULT_PORTS.get(ref.scheme or "")


def id_below(rest: str, form: RefForm) -> str | None:
    """The id in `rest` (the part after an endpoint), if the backend's form has one there."""
    if form.id_path is None or not rest.startswith(form.id_path):
        return None
    match = re.fullmatch(_IMAGE_URL, rest[len(form.id_path) :])
    return match["id"] if match else None


def looks_like_image_url(ref: ImageRef) -> bool:
    """Whether `ref` is the URL of an image in some Glance: `http(s)://.../v2/images/UUID`."""
    if ref.scheme not in ("http", "https") or ref.path is None:
        return False
    path = ref.path_bytes.decode("latin-1")
    return re.search(rf"/v2/images/{_UUID}(?:/file)?/?\Z", path) is not None
