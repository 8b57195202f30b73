"""The policy for connections and files: addresses, ports, redirects and paths, in one place.

Names are resolved here, each address is checked, and the connection is made to an address that was
checked, so that a second DNS answer cannot change it.
"""

from __future__ import annotations

import errno
import ipaddress
import os
import re
import socket
import stat
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from time import monotonic

from imagebroker.exceptions import (
    ImageBrokerError,
    ImageNotFound,
    InvalidImageRef,
    NotAuthorized,
    PolicyViolation,
    TransferError,
    TransferTimeout,
)
from imagebroker.model.reference import DEFAULT_PORTS, ImageRef, parse
from imagebroker.policy.redirects import resolved
from imagebroker.redaction import redact

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network

#: Ports above 1023 of services that must never be contacted by accident.
KNOWN_SERVICES = frozenset({
    1433, 1521, 2049, 2375, 2376, 2379, 2380, 3306, 3389, 4369, 5432, 5671, 5672, 5900, 6000,
    6379, 6380, 8500, 9042, 9200, 9300, 10250, 10255, 11211, 15672, 25672, 26379, 27017, 27018,
})  # fmt: skip

# IANA special-purpose registries, read strictly: `ipaddress.is_global` alone accepts NAT64, 6to4,
# multicast and IPv4-compatible addresses (CVE-2024-4032 and similar).
_IPV4_REFUSED = [ipaddress.IPv4Network(n) for n in (
    "0.0.0.0/8", "10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "169.254.0.0/16", "172.16.0.0/12",
    "192.0.0.0/24", "192.0.2.0/24", "192.31.196.0/24", "192.52.193.0/24", "192.88.99.0/24",
    "192.168.0.0/16", "192.175.48.0/24", "198.18.0.0/15", "198.51.100.0/24", "203.0.113.0/24",
    "224.0.0.0/3",
)]  # fmt: skip
_IPV6_GLOBAL = ipaddress.IPv6Network("2000::/3")
_IPV6_REFUSED = [ipaddress.IPv6Network(n) for n in (
    "2001::/23", "2001:db8::/32", "2002::/16", "2620:4f:8000::/48", "3fff::/20",
)]  # fmt: skip
_METADATA_NAMES = frozenset({
    "metadata", "metadata.google.internal", "metadata.goog", "instance-data",
    "instance-data.ec2.internal",
})  # fmt: skip
_IPV4 = re.compile(r"(?:(?:25[0-5]|2[0-4]\d|1\d\d|[1-9]?\d)(?:\.|\Z)){4}(?<!\.)")


def is_global(address: Address) -> bool:
    """Whether `address` belongs to the public Internet; an IPv4-mapped one counts as IPv4."""
    if isinstance(address, ipaddress.IPv6Address):
        if address.ipv4_mapped is not None:
            return is_global(address.ipv4_mapped)
        return address in _IPV6_GLOBAL and not any(address in n for n in _IPV6_REFUSED)
    return not any(address in network for network in _IPV4_REFUSED)


def is_loopback(host: str) -> bool:
    """Whether what is sent to `host` cannot leave this host (RFC 6761 for the name)."""
    name = host.strip("[]").rstrip(".").lower()
    if name == "localhost" or name.endswith(".localhost"):
        return True
    try:
        address = ipaddress.ip_address(name)
    except ValueError:
        return False
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return (mapped or address).is_loopback


@dataclass(frozen=True)
class Policy:
    """The addresses and ports that one backend instance may connect to."""

    #: Networks in addition to global addresses.
    allowed_networks: tuple[Network, ...] = ()
    #: Ports in addition to 80, 443 and those above 1023 that are not in `KNOWN_SERVICES`.
    allowed_ports: frozenset[int] = frozenset()
    #: `(host, port)` of URLs in the configuration: always allowed.
    configured: frozenset[tuple[str, int]] = frozenset()
    #: A person at a shell is trusted with every address and port.
    trusting: bool = False

    def check_ref(self, ref: ImageRef) -> None:
        """Refuse what can be refused without using the network.

        :raises PolicyViolation: an unusual spelling of an address, a forbidden address or port.
        """
        if ref.host is None:
            return
        port = ref.port or DEFAULT_PORTS.get(ref.scheme or "")
        literal = self._literal(ref.host)
        if port is not None:
            if self._exempt(ref.host, port):
                return
            self.check_port(ref.host, port, own=DEFAULT_PORTS.get(ref.scheme or ""))
        if literal is not None:
            self.check_address(ref.host, literal)

    def check_port(self, host: str, port: int, own: int | None = None) -> None:
        """`own` is the default port of the scheme, which is always allowed."""
        if self.trusting or port in self.allowed_ports or port in (80, 443, own):
            return
        if port < 1024 or port in KNOWN_SERVICES:
            raise PolicyViolation(
                f"port {port} of {host} is not allowed",
                hint="if images are served there, add this to the section of the backend: "
                f"allowed_ports = {port}",
                option="allowed_ports",
                host=host,
                port=port,
            )

    def check_address(self, host: str, address: Address) -> None:
        if self.trusting or is_global(address):
            return
        plain = address
        if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None:
            plain = address.ipv4_mapped
        if any(plain in network for network in self.allowed_networks):
            return
        raise PolicyViolation(
            f"{host} is not a global address"
            if host in (str(plain), str(address))
            else f"{host} resolves to {plain}, which is not a global address",
            hint="to allow it, add this to the section of the backend: "
            f"allowed_networks = {plain} (or its network)",
            option="allowed_networks",
            host=host,
            address=str(plain),
        )

    def _exempt(self, host: str, port: int) -> bool:
        return (host, port) in self.configured

    def _literal(self, host: str) -> Address | None:
        """The address that `host` spells, None for a name.

        :raises PolicyViolation: a spelling that only some resolvers accept as an address, or the
            name of a metadata service.
        """
        if ":" in host:
            return ipaddress.IPv6Address(host)
        if _IPV4.fullmatch(host):
            return ipaddress.IPv4Address(host)
        last = host.rstrip(".").rsplit(".", 1)[-1]
        if last.isdigit() or re.fullmatch(r"0[xX][0-9a-fA-F]*", last):
            raise PolicyViolation(
                f"{host} is an ambiguous spelling of an address",
                hint="write IPv4 addresses as four decimal numbers, like 192.0.2.1",
                host=host,
            )
        if host.rstrip(".") in _METADATA_NAMES and not self.trusting:
            raise PolicyViolation(f"{host} is the name of a metadata service", host=host)
        return None

    def connect(
        self,
        host: str,
        port: int,
        *,
        timeout: float,
        own: int | None = None,
        prefer: str | None = None,
    ) -> socket.socket:
        """A TCP socket connected to an address of `host` that this policy allows.

        `timeout` limits all attempts together, in seconds, and stays set on the socket. The address
        `prefer` is tried first, if `host` has it.

        :raises PolicyViolation: no address of `host` is allowed. Nothing was sent.
        :raises TransferError: connection refused, unreachable, or no such name.
        """
        host = host.lower().strip("[]")
        exempt = self._exempt(host, port)
        literal = self._literal(host)
        if not exempt:
            self.check_port(host, port, own)
        ends = monotonic() + timeout
        refused: PolicyViolation | None = None
        failed: OSError | None = None
        found = sorted(_resolve(host, port, literal), key=lambda each: each[4][0] != prefer)
        for family, kind, proto, _, address in found:
            try:
                if not exempt:
                    self.check_address(host, ipaddress.ip_address(str(address[0])))
            except PolicyViolation as error:
                refused = error
                continue
            try:
                return _dial(family, kind, proto, address, ends - monotonic())
            except OSError as error:
                failed = error
        if failed is None and refused is not None:
            raise refused
        raise _unreachable(host, port, failed)


def _resolve(host: str, port: int, literal: Address | None) -> Sequence[tuple]:  # type: ignore[type-arg]
    flags = socket.AI_NUMERICHOST if literal is not None else 0
    try:
        return socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=flags)
    except (socket.gaierror, UnicodeError) as error:
        why = getattr(error, "strerror", None) or error
        raise TransferError(
            f"cannot resolve the host name {host}: {why}", hint="check the host name", host=host
        ) from error


def _dial(
    family: int, kind: int, proto: int, address: tuple[str, int], timeout: float
) -> socket.socket:
    if timeout <= 0:
        raise TimeoutError("timed out")
    sock = socket.socket(family, kind, proto)
    try:
        sock.settimeout(timeout)
        sock.connect(address)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        # Detects a peer that disappeared even while nothing is read from it.
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    except BaseException:
        sock.close()
        raise
    return sock


def _unreachable(host: str, port: int, cause: OSError | None) -> TransferError:
    if isinstance(cause, TimeoutError):
        error: TransferError = TransferTimeout(
            f"cannot connect to {host} port {port}: timed out",
            hint="check that the host is up, and that no firewall drops the connection",
            host=host, port=port,
        )  # fmt: skip
    else:
        why = (cause.strerror or str(cause)) if cause else "no address"
        error = TransferError(
            f"cannot connect to {host} port {port}: {why}",
            hint="check that the server is running and listens on that port",
            host=host, port=port,
        )  # fmt: skip
    error.__cause__ = cause
    return error


#: Maximum number of redirects to follow.
MAX_REDIRECTS = 5
_LESS_SAFE = {("https", "http")}


def redirected(old: str, new: str, policy: Policy) -> str:
    """The absolute URL to follow if `old` answered with `Location: new`.

    :raises PolicyViolation: a scheme other than http(s), https to http, a forbidden address or
        port, or a location that is not a valid ref.
    """
    try:
        before, after = parse(old), parse(resolved(old, new))
    except (InvalidImageRef, ValueError) as error:
        why = f": {error}"
        if isinstance(error, InvalidImageRef):
            why = _objection(new)
        raise PolicyViolation(
            f"{redact(old, 200)} redirects to {redact(new, 200)!r}{why}",
            hint="report the broken redirect to the operator of the server",
        ) from error
    web = {"http", "https"}
    if after.scheme != before.scheme and not {before.scheme, after.scheme} <= web:
        raise PolicyViolation(
            f"{before} redirects to the scheme {after.scheme}",
            hint="only http and https are followed: ask the operator for a direct URL",
        )
    if (before.scheme, after.scheme) in _LESS_SAFE:
        raise PolicyViolation(
            f"{before} redirects from https to http: {after}",
            hint="ask for an https URL, or pass the http URL itself with a checksum: others on the "
            "network could change the data",
        )
    if after.user is not None or after.host is None:
        raise PolicyViolation(
            f"{before} redirects to {after}, which has a user name or no host",
            hint="report the broken redirect to the operator of the server",
        )
    policy.check_ref(after)
    return after.text


def _objection(location: str) -> str:
    authority = location.partition("://")[2].partition("/")[0]
    if not authority.isascii():
        return ", whose host is not in ASCII"
    return ", which names a user" if "@" in authority else ", which is not a valid URL"


def open_beneath(root: str | os.PathLike[str] | int, path: str | bytes) -> int:
    """A read-only descriptor of the regular file `path` below `root`; links are not followed.

    `root` is the path of a directory (chosen by the operator: it may be a link) or its descriptor;
    `path` is relative to it. The caller closes the descriptor.

    :raises PolicyViolation: `..`, an empty segment, a symbolic link, or not a regular file.
    :raises ImageNotFound: no such file.
    :raises NotAuthorized: the operating system refuses it.
    """
    segments = os.fsencode(path).split(b"/")
    shown = redact(os.fsdecode(path).encode("utf-8", "backslashreplace").decode())
    if any(segment in (b"", b".", b"..") or b"\0" in segment for segment in segments):
        raise PolicyViolation(f"{shown!r}: the path has empty, '.' or '..' segments")
    try:
        current = (
            os.open(root, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
            if not isinstance(root, int)
            else os.dup(root)
        )
    except OSError as error:
        raise _unopened(shown, error) from error
    try:
        for index, segment in enumerate(segments):
            following = _step(current, segment, last=index == len(segments) - 1, shown=shown)
            os.close(current)
            current = following
        # The descriptor is that of a regular file, not of a link: this re-opens the same inode.
        return os.open(f"/proc/self/fd/{current}", os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        raise _unopened(shown, error) from error
    finally:
        os.close(current)


def _step(directory: int, segment: bytes, *, last: bool, shown: str) -> int:
    """Descend one segment. With O_PATH, devices are not really opened, and FIFOs do not block."""
    fd = os.open(segment, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=directory)
    mode = os.fstat(fd).st_mode
    if stat.S_ISREG(mode) if last else stat.S_ISDIR(mode):
        return fd
    os.close(fd)
    if stat.S_ISLNK(mode):
        raise PolicyViolation(f"{shown!r} passes through a symbolic link")
    if not last:
        raise ImageNotFound(f"{shown!r}: no such file", hint="check the path")
    raise PolicyViolation(f"{shown!r} is not a regular file")


def _unopened(shown: str, error: OSError) -> ImageBrokerError:
    if isinstance(error, PermissionError):
        return NotAuthorized(f"{shown!r}: permission denied")
    if isinstance(error, (FileNotFoundError, NotADirectoryError)):
        return ImageNotFound(f"{shown!r}: no such file", hint="check the path")
    if error.errno in (errno.ELOOP, errno.ENAMETOOLONG, errno.EINVAL):
        return PolicyViolation(f"{shown!r} cannot be opened: {error.strerror}")
    return TransferError(
        f"{shown!r} cannot be opened: {error.strerror}",
        hint="check the disk and the file system of this host: dmesg",
        retryable=error.errno in (errno.EMFILE, errno.ENFILE, errno.EINTR, errno.EAGAIN),
    )


def networks(values: Sequence[str]) -> tuple[Network, ...]:
    """`allowed_networks` as parsed networks. :raises ValueError: one is not a network."""
    return tuple(ipaddress.ip_network(value) for value in values)


def resolved_directory(path: str | os.PathLike[str]) -> Path:
    """A directory from the configuration, with its links resolved once."""
    return Path(os.path.realpath(path))
