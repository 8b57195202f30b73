"""The known keys of hosts: known_hosts files, interpreted as by OpenSSH, and never written.

The kinds of lines:

- plain, hashed (`|1|salt|hash`), `[host]:port`, wildcards (`*`, `?`) and negation (`!`): as in
  OpenSSH. A host on a port other than 22 is looked up as `[host]:port`, and as `host` only if there
  is no such line; a line that negates either of them does not match.
- `@revoked`: a host with this key is refused, whatever other lines say.
- `@cert-authority`: makes no host known, because host certificates are not supported.
- A malformed line is skipped with a warning; at worst a host is unknown. A malformed line with a
  marker is an error: skipping it could make a revoked key valid again.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import logging
import os
import re
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from imagebroker.plugin import ConfigError

LOG = logging.getLogger(__name__)

SSH_PORT = 22
_MARKERS = ("@revoked", "@cert-authority")


@dataclass(frozen=True)
class Line:
    """One usable line of a known_hosts file."""

    marker: str | None
    #: Patterns separated by commas, or one hash.
    hosts: str
    key_type: str
    key: bytes

    def names(self, hosts: Sequence[str]) -> str | None:
        """The first of `hosts` (spellings of one host, in lower case) that the line matches."""
        if self.hosts.startswith("|"):
            return next((host for host in hosts if _hash_matches(self.hosts, host)), None)
        patterns = self.hosts.lower().split(",")
        if any(_matches(each[1:], host) for each in patterns if each[0:1] == "!" for host in hosts):
            return None
        wanted = [each for each in patterns if each[0:1] != "!"]
        return next((h for h in hosts if any(_matches(each, h) for each in wanted)), None)


@dataclass(frozen=True)
class HostKeys:
    """The entries for one host."""

    #: `(type, key)` pairs, in the order of the files.
    keys: tuple[tuple[str, bytes], ...]
    revoked: frozenset[bytes]
    #: Whether there is a certificate authority for it.
    has_authority: bool

    @property
    def types(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(key_type for key_type, _ in self.keys))

    def includes(self, key: bytes) -> bool:
        return any(hmac.compare_digest(key, known) for _, known in self.keys)


class KnownHosts:
    """The known_hosts files of one backend; a file is parsed again after it has changed."""

    def __init__(self, files: Sequence[Path]) -> None:
        self.files = tuple(files)
        self._parsed: dict[Path, tuple[tuple[int, ...], list[Line]]] = {}

    @property
    def is_empty(self) -> bool:
        """Whether there is no line for any host."""
        return not any(self._lines(file) for file in self.files)

    def lookup(self, host: str, port: int) -> HostKeys:
        """The keys of `host`. A file that does not exist counts as empty.

        :raises ConfigError: a file cannot be read, or has a malformed line with a marker.
        """
        host = host.lower()
        names = [host] if port == SSH_PORT else [f"[{host}]:{port}", host]
        lines = [(line.names(names), line) for file in self.files for line in self._lines(file)]
        markers = [(line.marker, line.key) for name, line in lines if name and line.marker]
        keys: tuple[tuple[str, bytes], ...] = ()
        for spelling in names:
            keys = keys or tuple(
                (line.key_type, line.key)
                for name, line in lines
                if name == spelling and line.marker is None
            )
        return HostKeys(
            keys=keys,
            revoked=frozenset(key for marker, key in markers if marker == "@revoked"),
            has_authority=any(marker == "@cert-authority" for marker, _ in markers),
        )

    def _lines(self, file: Path) -> list[Line]:
        try:
            status = os.stat(file)
            stamp = (status.st_ino, status.st_size, status.st_mtime_ns)
            parsed = self._parsed.get(file)
            if parsed is None or parsed[0] != stamp:
                parsed = (stamp, list(_parse(file, file.read_bytes())))
                self._parsed[file] = parsed
        except FileNotFoundError:
            return []
        except OSError as error:
            raise ConfigError(
                f"known_hosts {file} cannot be read: {error.strerror}",
                hint="let this process read the file, or set known_hosts to another one",
            ) from error
        return parsed[1]


def _parse(file: Path, content: bytes) -> Iterator[Line]:
    for number, raw in enumerate(content.decode("utf-8", "surrogateescape").split("\n"), 1):
        text = raw.strip()
        if not text or text.startswith("#"):
            continue
        line = _parse_line(text)
        if line is not None:
            yield line
        elif text.startswith("@"):
            raise ConfigError(
                f"line {number} of {file} has a marker, but is malformed",
                hint="correct it to @revoked HOSTS TYPE KEY, or remove it",
            )
        else:
            LOG.warning("skipping malformed line %d of %s", number, file)


def _parse_line(text: str) -> Line | None:
    fields = text.split()
    marker = fields.pop(0) if fields[0].startswith("@") else None
    if len(fields) < 3 or marker not in (None, *_MARKERS):
        return None
    hosts, key_type, encoded = fields[:3]
    try:
        key = base64.b64decode(encoded, validate=True)
        [length] = struct.unpack_from(">I", key)
    except (binascii.Error, ValueError, struct.error):
        return None
    if key[4 : 4 + length] != key_type.encode("utf-8", "surrogateescape"):
        return None
    if hosts.startswith("|") and _hash_parts(hosts) is None:
        return None
    return Line(marker, hosts, key_type, key)


def _matches(pattern: str, host: str) -> bool:
    # Not fnmatch, which interprets brackets: `[host]:port` has some.
    parts = {"*": ".*", "?": "."}
    expression = "".join(parts.get(c) or re.escape(c) for c in pattern)
    return re.fullmatch(expression, host, re.DOTALL) is not None


def _hash_parts(field: str) -> tuple[bytes, bytes] | None:
    match = re.fullmatch(r"\|1\|([A-Za-z0-9+/=]+)\|([A-Za-z0-9+/=]+)", field)
    if match is None:
        return None
    try:
        return base64.b64decode(match[1], validate=True), base64.b64decode(match[2], validate=True)
    except (binascii.Error, ValueError):
        return None


def _hash_matches(field: str, host: str) -> bool:
    parts = _hash_parts(field)
    if parts is None:
        return False
    salt, digest = parts
    # SHA-1 is required by the file format; it only obscures names.
    found = hmac.new(salt, host.encode(), lambda: hashlib.sha1(usedforsecurity=False)).digest()
    return hmac.compare_digest(found, digest)
