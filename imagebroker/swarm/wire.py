"""Messages between two hosts, and between a host's two processes: one JSON object a line."""

from __future__ import annotations

import json
from asyncio import IncompleteReadError, LimitOverrunError, StreamReader, StreamWriter, wait_for
from typing import Any

#: Bytes of one message. Whoever sends more is not spoken to any more.
LIMIT = 256 * 1024
#: Seconds within which the other side must take what it is sent.
_TIMEOUT = 10.0

Message = dict[str, Any]


class BrokenPeer(Exception):
    """What the other side sends is not a message."""


def encoded(message: Message) -> bytes:
    return json.dumps(message, separators=(",", ":")).encode() + b"\n"


def decoded(line: bytes) -> Message:
    """:raises BrokenPeer: it is not a message."""
    try:
        message = json.loads(line)
    except ValueError as error:
        raise BrokenPeer("not JSON") from error
    if not isinstance(message, dict) or not isinstance(message.get("t"), str):
        raise BrokenPeer("not a message")
    return message


async def received(reader: StreamReader) -> Message | None:
    """The next message; None at the end.

    :raises BrokenPeer: it is none, or too long. :raises OSError: the connection broke.
    """
    try:
        line = await reader.readuntil(b"\n")
    except IncompleteReadError:
        return None
    except LimitOverrunError as error:
        raise BrokenPeer("a message is too long") from error
    return decoded(line)


async def send(writer: StreamWriter, message: Message) -> None:
    """:raises OSError: it is not taken."""
    writer.write(encoded(message))
    await wait_for(writer.drain(), _TIMEOUT)


def whole(message: Message, name: str, below: int) -> int:
    """A number from 0. :raises BrokenPeer: it is none."""
    value = message.get(name)
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < below:
        raise BrokenPeer(f"{name} is {value!r:.40}")
    return value


def text(message: Message, name: str, most: int = 256) -> str:
    """:raises BrokenPeer: it is not text, or too long."""
    value = message.get(name)
    if not isinstance(value, str) or len(value) > most:
        raise BrokenPeer(f"{name} is {value!r:.40}")
    return value


def addresses(message: Message, name: str, most: int) -> list[tuple[str, int]]:
    """Where hosts are called. :raises BrokenPeer: they are none, or too many."""
    value = message.get(name)
    if not isinstance(value, list) or len(value) > most:
        raise BrokenPeer(f"{name} is not a list of addresses")
    found = []
    for each in value:
        match each:
            case [str(host), int(port)] if len(host) <= 45 and 0 < port < 1 << 16:
                found.append((host, port))
            case _:
                raise BrokenPeer(f"{name} has {each!r:.60}")
    return found


def digest_bytes(message: Message, name: str, count: int, width: int = 32) -> list[bytes]:
    """So many digests in hex, one behind the other. :raises BrokenPeer: they are not."""
    try:
        found = bytes.fromhex(text(message, name, 2 * count * width))
    except ValueError as error:
        raise BrokenPeer(f"{name} is not hex") from error
    if len(found) != count * width:
        raise BrokenPeer(f"{name} has {len(found)} bytes")
    return [found[at : at + width] for at in range(0, len(found), width)]
