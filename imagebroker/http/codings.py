"""What a `Content-Encoding` says about stored bytes.

Servers describe the file with it (a `.gz` with `gzip`, as Apache's AddEncoding does), write into it
what is no coding at all, or really encode on the way, though `identity` was asked for. Nothing is
ever decoded because of it: the question is only whether the bytes, as they are sent, are the image.
"""

from __future__ import annotations

from collections.abc import Iterable

#: What says nothing about the bytes: names of no coding, how an upload was sent, character sets.
_NEUTRAL = frozenset({
    "identity", "none", "null", "raw", "plain", "binary", "8bit", "7bit", "aws-chunked",
    "utf-8", "utf8", "us-ascii", "ascii", "iso-8859-1", "latin1",
})  # fmt: skip
#: What a file is called that is stored in a coding.
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
    """What neither the name of the image explains nor is no coding; empty if nothing is left.

    :param values: the values of the header.
    :param names: what the image is called, by whoever asks for it and by whoever sends it.
    """
    elements = (element.strip(" \t").lower() for value in values for element in value.split(","))
    found = [each for each in elements if each and each not in _NEUTRAL and "/" not in each]
    if len(found) == 1:
        endings = _ENDINGS.get(found[0].removeprefix("x-"), ())
        if any(name.lower().endswith(endings) for name in names if endings):
            return ""
    return ", ".join(found)
