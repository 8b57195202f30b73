"""Data that can be packed, and how each kind packs it."""

from __future__ import annotations

import bz2
import functools
import gzip
import hashlib
import lzma
import random
import sys
from collections.abc import Callable
from typing import Any

import pytest

from imagebroker.plugin import Image, ImageRef, Location
from tests.scripted import RecordBackend

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    zstd = pytest.importorskip("backports.zstd", reason="needs imagebroker[zstd]")

MIB = 1 << 20
#: No disk image, so raw; some of it can be compressed and some cannot.
DATA = random.Random(7).randbytes(300_000) + bytes(200_000) + b"the end" * 1000


def damaged(data: bytes) -> bytes:
    half = len(data) // 2
    return data[:half] + bytes([data[half] ^ 0x55]) + data[half + 1 :]


PACK: dict[str, Callable[[bytes], bytes]] = {
    "gzip": gzip.compress,
    "xz": lzma.compress,
    "zstd": lambda data: zstd.compress(
        data, options={zstd.CompressionParameter.checksum_flag: True}
    ),
    "bzip2": bz2.compress,
}
# Many tests pack the same, and xz takes its time.
PACK = {kind: functools.lru_cache(maxsize=16)(pack) for kind, pack in PACK.items()}


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


UUID = "3f2504e0-4f89-11d3-9a0c-0305e82c3301"
PACKED = gzip.compress(DATA)


class LocatedBackend(RecordBackend):
    """One image with an id, whose record names a location."""

    name = "located"

    def get(self, context: Any, ref: ImageRef, **flags: bool) -> Image:
        return Image(
            ref=ref.text,
            id=ref.id,
            size=len(PACKED),
            checksums={"sha256": sha256(PACKED)},
            locations=(Location("scripted://host/there"),),
        )
