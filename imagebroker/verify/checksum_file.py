"""Checksum files: finds the entry of an image."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from urllib.parse import unquote_to_bytes

from imagebroker.exceptions import PolicyViolation, VerificationError
from imagebroker.model.algorithms import STRONG, WEAK
from imagebroker.model.reference import ImageRef
from imagebroker.redaction import redact
from imagebroker.verify.checksum import Checksum
from imagebroker.verify.checksum_json import digests_in
from imagebroker.verify.checksum_lines import Entry, entries
from imagebroker.verify.checksum_text import plain_text
from imagebroker.verify.formats.text import ENOUGH, PAGE, kind_of

#: Maximum size of a checksum file.
LARGEST = 1024 * 1024
#: Seconds within which it must be downloaded.
TIMEOUT = 60.0
#: Maximum number of names listed in an error.
_SHOWN = 4

#: The names that `sha256sum < FILE` and `openssl dgst < FILE` write.
_STANDARD_INPUT = (b"-", b"stdin", b"(stdin)")
#: Where the description of another file begins: a blank line, a section, an item of a list.
_NEXT_FILE = re.compile(rb"\n[ \t]*\n|\n(?=[ \t]*(?:\[[^\]\n]+\][ \t]*\n|-[ \r\n]|#+ ))")
_TAG = re.compile(rb"<[^<>]*>")
_ONLY_COMMENT = re.compile(rb"#+[ \t]+[^ \t\n]+[ \t][^\n]*")
_COMMENT = re.compile(rb"[ \t]+#[ \t].*", re.DOTALL)
#: U+200B to U+200F, U+2060 and U+FEFF at the end of a name.
_INVISIBLE = re.compile(rb"(?:\xe2\x80[\x8b-\x8f]|\xe2\x81\xa0|\xef\xbb\xbf)+\Z")
_NAME_BEGINS = frozenset(b" \t\"'`/\\|,;:([=*>")
_NAME_ENDS = frozenset(b" \t\"'`|,;:)]=<\r")


class NotListed(VerificationError):
    """The checksum file has no digest for the image."""


def find_checksum(
    text: bytes,
    ref: ImageRef,
    origin: str,
    *,
    allow_weak: bool,
    file: ImageRef | None = None,
    also_called: Sequence[bytes] = (),
) -> Checksum:
    """The strongest digest in a checksum file for the image.

    The entry is found by the ref's path, then by the names in its query, then by `also_called`. A
    digest without a name belongs to the image, and so does the only entry of a file that is named
    after the image (`disk.img.sha256`).

    :param origin: the name of the file in messages and in the evidence.
    :param file: the ref of the checksum file.
    :param also_called: other names of the image on the server, such as after a redirect.
    :raises NotListed: it has no digest for the image.
    :raises VerificationError: it has several different ones, or only unsupported algorithms.
    :raises PolicyViolation: it has only md5 or sha1, which the deployment does not allow.
    """
    called = [ref.file_name, *_names_in_query(ref), *also_called]
    file_name = b"" if file is None else file.file_name
    shown = _printable(ref.file_name)
    text = plain_text(text)
    if found := digests_in(text, called):
        in_json = [Entry(algorithm, digest, None) for algorithm, digest in found]
        return _strongest(in_json, shown, origin, allow_weak=allow_weak)
    all_entries = entries(text, _without_image(file_name, called), origin)
    chosen, as_named = _chosen(all_entries, ref, called, file_name)
    if _is_of_several(chosen):
        chosen = _described(text, called, origin) or chosen
    if not chosen:
        if any(e.name == b"^" + name for e in all_entries for name in called):
            raise VerificationError(
                f"{origin} lists {shown!r} with a digest of bits (shasum -0), not of its bytes",
                hint="pass the digest of its bytes: --checksum sha256:HEX",
            )
        if not all_entries and (reason := _is_no_list(text)):
            raise NotListed(f"{origin} {reason}", hint="check where the publisher has its list")
        raise NotListed(
            f"{origin} has no digest for {shown!r}{_listed(all_entries)}",
            hint="check that this is the right checksum file, and that it lists the image under "
            "that name",
        )
    return _strongest(chosen, shown, origin + as_named, allow_weak=allow_weak)


def _is_no_list(text: bytes) -> str | None:
    """What a text is in which nothing looks like a digest; None: text of another kind."""
    if not text.strip():
        return "is empty"
    if kind_of(text[:ENOUGH], whole=len(text) <= ENOUGH) == PAGE:
        return "is a web page without a digest, not a checksum file"
    return "is not text, and so no checksum file" if b"\0" in text[:ENOUGH] else None


def _strongest(chosen: list[Entry], shown: str, origin: str, *, allow_weak: bool) -> Checksum:
    said = [entry for entry in chosen if not entry.is_guess]
    found: dict[str, set[str]] = {}
    for entry in said if any(entry.algorithm in STRONG for entry in said) else chosen:
        found.setdefault(entry.algorithm, set()).add(entry.digest)
    for algorithm in (*STRONG, *WEAK):
        digests = found.get(algorithm, set())
        if len(digests) > 1:
            raise VerificationError(
                f"{origin} has {len(digests)} different {algorithm} digests for {shown!r}",
                hint="pass the right digest: --checksum sha256:HEX",
            )
        if digests and algorithm in WEAK and not allow_weak:
            raise PolicyViolation(
                f"{origin} has only {algorithm} for {shown!r}, which can be forged",
                hint="use a sha256 or sha512 file, or set allow_md5 in [imagebroker]",
            )
        if digests:
            return Checksum(algorithm, digests.pop(), origin)
    raise VerificationError(
        f"{origin} has only {' and '.join(sorted(found))} for {shown!r}, which is not supported",
        hint="use a sha256, sha512 or blake2b file",
    )


def _chosen(
    found: list[Entry], ref: ImageRef, called: list[bytes], file_name: bytes
) -> tuple[list[Entry], str]:
    """The image's entries, and a note for the evidence if their name differs from the ref's."""
    named = [e for e in found if not e.is_text and not _is_nameless(e)]
    if exact := _closest(named, ref):
        return exact, ""
    for name in called:
        if same := [e for e in named if any(n.rpartition(b"/")[2] == name for n in _spelled(e))]:
            return same, "" if name == ref.file_name else f" (for {_printable(name)!r})"
    for name in called:
        if texts := [e for e in found if e.is_text and _mentions(e.name or b"", name)]:
            return texts, ""
    for composed in filter(None, map(_composed, called)):
        if same := [e for e in named if composed in map(_composed, map(_last, _spelled(e)))]:
            return same, f" (for {_printable(same[0].name or b'')!r})"
    nameless = [e for e in found if _is_nameless(e)]
    if nameless and not named:
        return nameless, ""
    names = {e.name for e in named}
    if len(names) == 1 and any(_is_called_after(file_name, name) for name in called):
        return named, f" (for {_printable(names.pop() or b'')!r})"
    return [], ""


def _is_nameless(entry: Entry) -> bool:
    """Whether the digest is alone, or followed by a comment of several words."""
    name = entry.name
    return name in (None, *_STANDARD_INPUT) or _ONLY_COMMENT.fullmatch(name or b"") is not None


def _is_of_several(chosen: list[Entry]) -> bool:
    """Whether digests without a name belong to several files."""
    nameless = {(e.algorithm, e.digest) for e in chosen if e.name is None}
    return len(nameless) > len({algorithm for algorithm, _ in nameless})


def _described(text: bytes, called: list[bytes], origin: str) -> list[Entry]:
    """The digests that stand with the name: a section of virt-builder's index, an item in YAML."""
    found = [
        part
        for part in _NEXT_FILE.split(text)
        if any(_mentions(line, name) for line in part.split(b"\n") for name in called)
    ]
    if len(found) != 1:
        return []
    return [each for each in entries(found[0], b"", origin) if each.name is None]


def _closest(named: list[Entry], ref: ImageRef) -> list[Entry]:
    """The entries whose name is a suffix of the ref's path: the longest, best spelled exactly."""
    path = b"/" + (ref.path_bytes.lstrip(b"/") or ref.file_name)
    exact = [
        ((len(name), -number), entry)
        for entry in named
        for number, name in enumerate(_spelled(entry))
        if path.endswith(b"/" + name)
    ]
    best = max((rank for rank, _ in exact), default=None)
    return [entry for rank, entry in exact if rank == best]


def _spelled(entry: Entry) -> Iterator[bytes]:
    """The possible readings of a name: as written; without what surrounds it; without
    percent-escapes; with Windows' backslashes; after a size, which Debian's Release files put
    between the digest and the name; after the mark of `shasum -U`.
    """
    name = entry.name or b""
    yield _relative(name)
    if (bare := _bare(name)) != name:
        yield _relative(bare)
    if b"%" in bare:
        yield _relative(unquote_to_bytes(bare))
    if b"\\" in bare:
        yield _relative(bare.replace(b"\\", b"/"))
    size, _, rest = bare.partition(b" ")
    if size.isdigit() and rest:
        yield _relative(rest.lstrip())
    if entry.is_marked:
        yield _relative(name[1:])


def _bare(name: bytes) -> bytes:
    """A name without blanks, markup, a comment, quotes, or the query of a URL."""
    name = _TAG.sub(b"", name).strip(b" \t\f\v")
    name = _COMMENT.sub(b"", name.removeprefix(b"# ").lstrip())
    for quote in (b'"', b"'", b"`"):
        if len(name) > 2 and name.startswith(quote) and name.endswith(quote):
            name = name[1:-1]
    if b"://" in name:
        name = re.split(rb"[?#]", name)[0]
    return _INVISIBLE.sub(b"", name)


def _last(name: bytes) -> bytes:
    return name.rpartition(b"/")[2]


def _composed(name: bytes) -> str | None:
    """A name with accents in their composed form, in which macOS does not write them; None for a
    name that has no other form.
    """
    import unicodedata

    if name.isascii():
        return None
    try:
        return unicodedata.normalize("NFC", name.decode())
    except UnicodeDecodeError:
        return None


def _relative(name: bytes) -> bytes:
    while name.startswith(b"./"):
        name = name[2:].lstrip(b"/")
    return name


def _mentions(text: bytes, name: bytes) -> bool:
    """Whether a line contains the name, not just as part of a longer one."""
    at = text.find(name) if name else -1
    while at >= 0:
        end = at + len(name)
        begins = at == 0 or text[at - 1] in _NAME_BEGINS
        if begins and (end == len(text) or text[end] in _NAME_ENDS):
            return True
        at = text.find(name, at + 1)
    return False


def _names_in_query(ref: ImageRef) -> list[bytes]:
    """Possible file names in a query: `download.php?file=images/disk.img`."""
    values = [each.partition("=")[2] or each for each in (ref.query or "").split("&")]
    names = [unquote_to_bytes(value).rpartition(b"/")[2] for value in values]
    return [name for name in names if b"." in name]


def _without_image(file_name: bytes, called: list[bytes]) -> bytes:
    """The name of the checksum file without that of the image, to find the algorithm in it."""
    for name in called:
        if name and file_name.startswith(name):
            return file_name[len(name) :]
    return file_name


def _is_called_after(file_name: bytes, image: bytes) -> bool:
    """Whether a checksum file is named after the image: `disk.img.sha256` or `disk.sha256`."""
    stem = file_name.rpartition(b".")[0]
    return bool(stem) and (image == stem or image.startswith(stem + b"."))


def _listed(found: list[Entry]) -> str:
    names = list(dict.fromkeys(e.name for e in found if e.name and not e.is_text))
    if not names:
        return ""
    shown = ", ".join(_printable(name) for name in names[:_SHOWN])
    more = len(names) - _SHOWN
    return f"; it lists {shown}" + (f" and {more} more" if more > 0 else "")


def _printable(name: bytes) -> str:
    return redact(name.decode("utf-8", "backslashreplace"), 80)
