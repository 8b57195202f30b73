"""Digests in the JSON that publishers list their images in: an index, a stream, a manifest.

Ubuntu's simplestreams, Fedora CoreOS's streams, Debian's manifests, PowerShell: each has an object
that names the file, and digests in it, or in the one around it.
"""

from __future__ import annotations

import base64
import binascii
import json
import re
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from imagebroker.model.algorithms import BY_DIGITS, DIGITS

#: Members with one digest, whose algorithm it names itself or another member does.
_PLAIN = ("digest", "hash", "checksum", "value")
#: Objects with several of them.
_GROUPS = ("annotations", "checksums", "hashes", "digests", "metadata")
_ALGORITHM = ("algorithm", "algo", "type", "hash_type", "checksum_type", "checksumtype")
#: Levels between the object with the name and the one with its digest.
_HIGHEST = 3


def digests_in(text: bytes, called: Sequence[bytes]) -> list[tuple[str, str]]:
    """The digests of the file with one of these names: algorithm and hex digits.

    None for text that is not JSON.
    """
    if text.lstrip()[:1] not in (b"{", b"["):
        return []
    try:
        document = json.loads(text)
    except (ValueError, RecursionError):
        return []
    names = {name.decode("utf-8", "surrogateescape") for name in called if name}
    found: list[tuple[str, str]] = []
    for around in _paths_to(document, names):
        nearest: Iterable[Any] = reversed(around[-_HIGHEST:])
        of_file = next(filter(None, (list(_digests(each)) for each in nearest)), [])
        found += [each for each in of_file if each not in found]
    return found


def _paths_to(document: Any, names: set[str]) -> Iterator[list[dict[str, Any]]]:
    """For each object that names the file: the objects around it, and itself as the last."""
    waiting: list[tuple[Any, list[dict[str, Any]]]] = [(document, [])]
    while waiting:
        value, around = waiting.pop()
        if isinstance(value, dict):
            inner = [*around[1 - _HIGHEST :], value]
            if any(_is_name(each, names) for each in value.values()):
                yield inner
            for key, each in value.items():
                # {"disk.img": {"sha256": "..."}} and {"disk.img": "sha256:..."}
                if isinstance(key, str) and _is_name(key, names):
                    yield [*inner, each if isinstance(each, dict) else {"digest": each}]
                waiting.append((each, inner))
        elif isinstance(value, list):
            waiting += [(each, around) for each in value]


def _is_name(value: object, names: set[str]) -> bool:
    if not isinstance(value, str):
        return False
    path = value.partition("?")[0] if "://" in value else value
    return re.split(r"[/\\]", path)[-1] in names


def _digests(value: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """The digests of an object, and of nameless objects in it: `annotations`, `checksums`."""
    said = next((v for k, v in value.items() if _plain(k) in _ALGORITHM), None)
    for key, each in value.items():
        name = _plain(key)
        if isinstance(each, dict):
            if name in _PLAIN or name in _GROUPS:
                yield from _digests(each)
        elif isinstance(each, str):
            algorithm = _known(name)
            if name.rpartition("/")[2] in _PLAIN:
                algorithm, each = _labelled(each, said)
            if algorithm and (digest := _hex(each, DIGITS[algorithm])):
                yield algorithm, digest


def _labelled(text: str, said: object) -> tuple[str | None, str]:
    """`sha256:DIGEST`, or a digest whose algorithm another member has."""
    label, colon, rest = text.partition(":")
    if colon and (algorithm := _known(_plain(label))):
        return algorithm, rest
    return _known(_plain(said)) if said is not None else BY_DIGITS.get(len(text)), text


def _plain(key: object) -> str:
    return str(key).lower()


def _known(name: str) -> str | None:
    bare = re.sub(r"_?(?:sum|hash|digest|checksum|hex)\Z", "", name)
    return next((each for each in (bare.replace("-", ""), bare.replace("-", "_"))
                 if each in DIGITS), None)  # fmt: skip


def _hex(text: str, digits: int) -> str | None:
    """A digest as hex digits, also where it is written in base64."""
    if re.fullmatch(rf"[0-9a-fA-F]{{{digits}}}", text):
        return text.lower()
    try:
        data = base64.b64decode(text + "=" * (-len(text) % 4), validate=True)
    except (binascii.Error, ValueError):
        return None
    return data.hex() if len(data) * 2 == digits else None
