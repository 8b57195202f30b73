"""Which checksum algorithms there are. A further one of `hashlib` is an entry of `_ALGORITHMS`."""

from __future__ import annotations

from typing import NamedTuple


class Algorithm(NamedTuple):
    """One that can be computed here."""

    #: Hex digits of a digest.
    digits: int
    #: A pattern: how it is spelled in lists of digests and in their names.
    spelling: str
    #: Whether so many hex digits mean this one where nothing names an algorithm.
    usual: bool = False
    #: False: it does not protect against an attacker (CVE-2015-8234).
    strong: bool = True


#: By hashlib's name; of several digests, the first of these is verified.
_ALGORITHMS = {
    "sha512": Algorithm(128, r"sha(?:2[-_])?[-_ ]?512", usual=True),
    "sha256": Algorithm(64, r"sha(?:2[-_])?[-_ ]?256", usual=True),
    "sha384": Algorithm(96, r"sha(?:2[-_])?[-_ ]?384", usual=True),
    "sha3_512": Algorithm(128, r"sha3[-_ ]?512"),
    "sha3_256": Algorithm(64, r"sha3[-_ ]?256"),
    # `B2SUMS` and `.b2` are coreutils' b2sum.
    "blake2b": Algorithm(128, r"blake2(?:bp?)?|b2"),
    "md5": Algorithm(32, r"md5", usual=True, strong=False),
    "sha1": Algorithm(40, r"sha[-_ ]?1", usual=True, strong=False),
}
#: What lists name, too: it must not be mistaken for what can be computed. Hex digits, spelling.
_UNSUPPORTED: dict[str, tuple[set[int], str]] = {
    "hmac": ({32, 40, 64, 96, 128}, r"hmac[-_ ]?(?:sha|md|blake)[-_/0-9a-z]*"),
    "sha3-384": ({96}, r"sha3[-_ ]?384"),
    "sha3-224": ({56}, r"sha3[-_ ]?224"),
    "sha512/256": ({64}, r"sha-?512[-_/t]+256"),
    "sha224": ({56}, r"sha(?:-?512[-_/t]+|2[-_])?[-_ ]?224"),
    "blake2s": ({64}, r"blake2s(?:p)?"),
    "blake3": ({64}, r"blake3|b3"),
    "whirlpool": ({128}, r"whirlpool"),
    "streebog": ({64, 128}, r"streebog|gost"),
    "sm3": ({64}, r"sm3"),
    "skein": ({64, 128}, r"skein"),
    "ripemd160": ({40}, r"rmd160|ripemd160"),
}

#: Algorithms that prove content, with the hex digits of their digests, best first.
STRONG = {name: each.digits for name, each in _ALGORITHMS.items() if each.strong}
#: Those that do not.
WEAK = {name: each.digits for name, each in _ALGORITHMS.items() if not each.strong}
#: All that can be computed.
DIGITS = STRONG | WEAK
#: The algorithm by the number of hex digits, where nothing else names it.
BY_DIGITS = {each.digits: name for name, each in _ALGORITHMS.items() if each.usual}
#: What names several algorithms, which differ in their number of hex digits: `SHA3SUMS`.
FAMILIES = {"sha3": {56: "sha3-224", 64: "sha3_256", 96: "sha3-384", 128: "sha3_512"}}
#: All that lists name, supported or not, by how it is spelled; the first match counts.
SPELLINGS = (
    {name: spelling for name, (_, spelling) in _UNSUPPORTED.items()}
    | {name: each.spelling for name, each in _ALGORITHMS.items()}
    | {name: name for name in FAMILIES}
)
#: Hex digits of digests that cannot be verified; those of shortened blake2b are among them.
UNSUPPORTED = {name: digits for name, (digits, _) in _UNSUPPORTED.items()} | {
    "blake2b": {32, 40, 64, 96}
}
