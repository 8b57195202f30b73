"""What Ironic's `checksum` and `checksum_algo` demand of a download."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from imagebroker.compat.errors import Table
from imagebroker.compat.service_options import ServiceOptions, truth
from imagebroker.exceptions import InvalidImageRef, PolicyViolation
from imagebroker.model.algorithms import STRONG, WEAK
from imagebroker.verify.checksum import is_url, parse_checksum

if TYPE_CHECKING:
    from imagebroker.compat.ironic_hrefs import Surroundings

#: The algorithm of a digest that comes without one, by its hex digits: as in Ironic.
_BY_LENGTH = {32: "md5", 64: "sha256", 128: "sha512"}


@dataclass(frozen=True)
class Demanded:
    """A checksum as `Broker.download` takes it, and as Ironic asks for it afterwards."""

    checksum: str | None = None
    verified: str | None = None
    weak: bool = False

    def table(self, table: Table) -> Table:
        """Where md5 is refused, that is what the error says."""
        if not self.weak:
            return table
        return {**table, PolicyViolation: "ImageChecksumAlgorithmFailure"}


def demanded(
    checksum: str | None, algorithm: str | None, surroundings: Surroundings, shown: str
) -> Demanded:
    """:raises ImageChecksumAlgorithmFailure: nobody could compute it.
    :raises ImageChecksumError: it is not a digest of this algorithm.
    :raises ImageChecksumURLNotSupported: it is a URL, and the deployer wants none.
    """
    if not checksum:
        return Demanded()
    if is_url(checksum):
        options = ServiceOptions(surroundings.conf)
        if truth(options.get("disable_support_for_checksum_files", "conductor")):
            with surroundings.errors.translated({PolicyViolation: "ImageChecksumURLNotSupported"}):
                raise PolicyViolation("disable_support_for_checksum_files is set")
        return Demanded(checksum)
    named, _, digest = checksum.rpartition(":")
    found = _name(named or algorithm or _BY_LENGTH.get(len(digest), ""))
    known = found in STRONG or found in WEAK
    failure = "ImageChecksumError" if known else "ImageChecksumAlgorithmFailure"
    with surroundings.errors.translated({InvalidImageRef: failure}, shown):
        parse_checksum(f"{found}:{digest}", allow_weak=True)
    return Demanded(
        f"{found}:{digest}", f"{algorithm or found}:{digest if named else checksum}", found in WEAK
    )


def _name(algorithm: str) -> str:
    """hashlib's name: `SHA-256` and `sha3-512` are known, too."""
    name = algorithm.strip().lower()
    return name.replace("sha-", "sha").replace("sha3-", "sha3_").replace("sha_", "sha")
