"""Images that somebody tampered with, the same ones for the same number."""

from __future__ import annotations

import functools
import random
import struct
from collections.abc import Callable

from tests.verify import specimens
from tests.verify.specimens import KIB, VHDX_METADATA_AT, over

#: Where headers are: the places worth a mutation, with how many bytes matter there.
_PLACES = [
    (0, 112), (0, 512), (512, 1024), (512, 512), (0x144, 0x84), (32 * KIB, 200), (192 * KIB, 256),
    (VHDX_METADATA_AT, 256), (VHDX_METADATA_AT + 64 * KIB, 32),
]  # fmt: skip
_NUMBERS = [
    0, 1, 2, 3, 4, 7, 8, 16, 127, 128, 255, 511, 512, 513, 4096, 2**15, 2**16, 2**20, 2**24,
    2**31 - 1, 2**31, 2**32 - 1, 2**32, 2**40, 2**46, 2**46 + 512, 2**63 - 1, 2**63, 2**64 - 1,
]  # fmt: skip
_LAYOUTS = ["B", "<H", ">H", "<I", ">I", "<Q", ">Q"]
_MARKS = [
    (0, b"QFI\xfb\0\0\0\1"), (0, b"QFI\xfb\0\0\0\2"), (0, b"QFI\xfb\0\0\0\3"), (0, b"QED\0"),
    (0, b"KDMV\1\0\0\0"), (0, b"COWD"), (0, b"conectix"), (0, b"vhdxfile"), (0, b"LUKS\xba\xbe\0\1"),
    (0, b"LUKS\xba\xbe\0\2"), (0, b"WithoutFreeSpace\2\0\0\0"), (0, b"WithouFreSpacExt\2\0\0\0"),
    (0, b"version=1\n"), (0, b"#\nversion=2\r\n"), (0, b" \n\nversion=3\n"), (0, b"\n"), (0, b"\0"),
    (0, b"#!/bin/sh\n#V2.0 Format\n"), (0, specimens.cloop()[:100]), (0, specimens.bochs()[:84]),
    (64, b"\x7f\x10\xda\xbe"), (510, b"\x55\xaa"), (32769, b"CD001"), (32769, b"NSR02"),
    (32768, b"QFI\xfb\0\0\0\3"), (512, b"EFI PART"), (512, b"cxsparse"), (0x202, b"HdrS"),
]  # fmt: skip
_TEXTS = [
    b'parentFileNameHint="/etc/passwd"\n', b"parentCID=00000000\n", b'createType="vmfs"\n',
    b'RW 8 FLAT "/etc/passwd" 0\n', b'RW 8192 SPARSE "x/y"\n', b"\0", b"#", b'"', b"=", b"\n", b"/",
    b"\r", b"\t", b" ", b"\xff", b"version=1\n", b"CID=1\n", b"ddb.x=1\n", b"encoding=\"UTF-8\"\n",
]  # fmt: skip


@functools.cache
def bases() -> list[tuple[str, bytes]]:
    """What is mutated: every specimen that is small enough."""
    made = [(name, make()) for name, (_, make) in specimens.ACCEPTED.items()]
    made += [(name, make()) for name, make in specimens.NEVER.items()]
    # What has a format has more that can be wrong.
    made += [(name, make()) for name, (right, make) in specimens.ACCEPTED.items() if right != "raw"]
    made += [("zeros", bytes(64 * KIB)), ("descriptor, padded", _padded_descriptor())]
    return [(name, data) for name, data in made if len(data) <= 8 * specimens.MIB]


def _padded_descriptor() -> bytes:
    return specimens.DESCRIPTOR.encode().ljust(64 * KIB, b"\0")


def mutated(number: int) -> tuple[str, bytes]:
    """The image of this number, and what it was made of."""
    numbers = random.Random(number)
    name, data = numbers.choice(bases())
    for _ in range(numbers.choice([0, 1, 1, 1, 2, 2, 3, 4])):
        step = numbers.choice(_STEPS)
        data = step(numbers, data)
        name += f", {step.__name__.strip('_')}"
    return name, data


def _place(numbers: random.Random, data: bytes) -> int:
    start, length = numbers.choice(_PLACES)
    if start >= len(data):
        start = max(0, len(data) - 1536) if numbers.random() < 0.5 else 0
    return start + numbers.randrange(length)


def _byte(numbers: random.Random, data: bytes) -> bytes:
    return over(data, _place(numbers, data), numbers.randbytes(1))


def _number(numbers: random.Random, data: bytes) -> bytes:
    layout = numbers.choice(_LAYOUTS)
    size = struct.calcsize(layout)
    at = _place(numbers, data) // size * size
    value = numbers.choice(_NUMBERS) % 2 ** (8 * size)
    return over(data, at, struct.pack(layout, value))


def _odd_number(numbers: random.Random, data: bytes) -> bytes:
    """Fields of the VMDK header are not aligned."""
    at = numbers.choice([4, 8, 12, 20, 28, 36, 44, 48, 56, 64, 72, 73, 77])
    return over(data, at, struct.pack("<Q", numbers.choice(_NUMBERS))[: numbers.choice([1, 4, 8])])


def _mark(numbers: random.Random, data: bytes) -> bytes:
    at, mark = numbers.choice(_MARKS)
    return over(data, at, mark[: numbers.randint(1, len(mark))] if numbers.random() < 0.3 else mark)


def _header_of_another(numbers: random.Random, data: bytes) -> bytes:
    other = numbers.choice(bases())[1]
    length = numbers.choice([8, 64, 104, 512, 1024, 33 * KIB, 34 * KIB])
    return over(data, 0, other[:length])


def _end_of_another(numbers: random.Random, data: bytes) -> bytes:
    return data + numbers.choice(bases())[1][-numbers.choice([511, 512, 1024, 1536]) :]


def _cut(numbers: random.Random, data: bytes) -> bytes:
    near = [1, 4, 8, 63, 64, 103, 104, 111, 112, 511, 512, 513, 1024, 34 * KIB, 200 * KIB]
    return data[: numbers.choice([*near, len(data) - 1, len(data) - 512, len(data) // 2])]


def _pad(numbers: random.Random, data: bytes) -> bytes:
    return data + bytes(numbers.choice([1, 511, 512, 1536, 65536]))


def _text(numbers: random.Random, data: bytes) -> bytes:
    """Into the descriptor of a VMDK, at the beginning of a line or anywhere."""
    text = numbers.choice(_TEXTS)
    area = data[512:2048] if data.startswith(b"KDMV") else data[:1024]
    start = 512 if data.startswith(b"KDMV") else 0
    lines = [at + 1 for at, byte in enumerate(area) if byte == 10] or [0]
    at = start + (numbers.choice(lines) if numbers.random() < 0.8 else numbers.randrange(400))
    if numbers.random() < 0.3:
        return over(data, at, text)
    # What follows moves, as it would in an editor; what is behind the descriptor stays.
    stop = start + len(area)
    return data[:at] + (text + data[at:stop])[: stop - at] + data[stop:]


def _leading(numbers: random.Random, data: bytes) -> bytes:
    """Something before it, as a careless parser would skip it."""
    before = numbers.choice(
        [b"\xef\xbb\xbf", b"\n", b" \n", b"\r\n", b"#\n", b"# " + b"x" * 600 + b"\n", bytes(512)]
    )
    return before + data


_STEPS: list[Callable[[random.Random, bytes], bytes]] = [
    _byte, _byte, _number, _number, _number, _number, _odd_number, _mark, _mark,
    _header_of_another, _end_of_another, _cut, _pad, _text, _text, _leading,
]  # fmt: skip
