"""Interprets `Content-Encoding` for data that is stored as received.

Servers use it to describe the file (`gzip` for a `.gz`, as Apache's AddEncoding does), set it to
something that is not a coding, or really encode the data, although `identity` was requested.
Nothing is ever decoded because of it: it only matters whether the received bytes are the image.
"""

from __future__ import annotations

from collections.abc import Iterable

#: Values without a meaning for the bytes: no coding, how an upload was sent, character sets.
_NEUTRAL = frozenset({
    "identity", "none", "null", "raw", "plain", "binary", "8bit", "7bit", "aws-chunked",
    "utf-8", "utf8", "us-ascii", "ascii", "iso-8859-1", "latin1",
})  # fmt: skip
#: Extensions of files that are stored in a coding.
_ENDINGS = {
    "gzip": (".gz", ".gzip", ".tgz"),
    "compress": (".z",),
    "deflate": (".zz", ".zlib"),
    "br": (".br",),
    "zstd": (".zst", ".zstd", ".tzst"),
    "xz": (".xz", ".txz"),
    "lzma": (".lzma",),
    "lz4": (".lz4",),
    "bzip2": (".bz2", ".tbz", ".tbz2"),
}


def foreign_coding(values: Iterable[str], names: Iterable[str]) -> str:
    """The codings that the name of the image does not explain; empty if there are none.

    :param values: the values of the header.
    :param names: the names of the image, in the ref and as given by the server.
    """
    elements = (element.strip(" \t").lower() for value in values for element in value.split(","))
    found = [each for each in elements if each and each not in _NEUTRAL and "/" not in each]
    if len(found) == 1:
        endings = _ENDINGS.get(found[0].removeprefix("x-"), ())
        if any(name.lower().endswith(endings) for name in names if endings):
            return ""
    return ", ".join(found)
