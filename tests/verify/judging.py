"""What the check says of some bytes, however they arrive."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from imagebroker.backends.backend import Buffer
from imagebroker.exceptions import FormatError
from imagebroker.verify.disk_format import FormatCheck, FormatPolicy, inspect_file

ANYTHING = FormatPolicy()


def judged(
    chunks: Iterable[Buffer],
    declared: str | None = None,
    policy: FormatPolicy = ANYTHING,
    size: int | None = None,
) -> dict[str, Any] | str:
    """The evidence, or the text of the refusal; any other error is a bug and comes through."""
    try:
        check = FormatCheck(policy, declared, size)
        for chunk in chunks:
            check.feed(chunk)
        return check.evidence()
    except FormatError as error:
        assert error.hint, f"a refusal without a hint: {error}"
        assert not error.retryable
        return str(error)


def verdict(data: bytes, declared: str | None = None, **how: Any) -> dict[str, Any] | str:
    """The same of bytes that come at once."""
    return judged([data], declared, **how)


def evidence(data: bytes, declared: str | None = None, **how: Any) -> dict[str, Any]:
    """What was found out; fails where it is refused."""
    said = verdict(data, declared, **how)
    assert isinstance(said, dict), f"refused: {said}"
    return said


def refusal(data: bytes, declared: str | None = None, **how: Any) -> str:
    """Why it is refused; fails where it is accepted."""
    said = verdict(data, declared, **how)
    assert isinstance(said, str), f"accepted as {said}"
    return said


def of_file(
    path: Path, declared: str | None = None, policy: FormatPolicy = ANYTHING
) -> dict[str, Any] | str:
    """What is said of a file."""
    fd = os.open(path, os.O_RDONLY)
    try:
        return inspect_file(fd, os.fstat(fd).st_size, policy, declared)
    except FormatError as error:
        return str(error)
    finally:
        os.close(fd)


def cut(data: bytes, places: Sequence[int]) -> Iterator[memoryview]:
    """The same bytes, cut at these places."""
    view, start = memoryview(data), 0
    for place in sorted(place for place in places if place < len(data)):
        yield view[start:place]
        start = place
    yield view[start:]


def pieces(data: bytes, length: int) -> Iterator[memoryview]:
    """The same bytes in pieces of one length."""
    view = memoryview(data)
    for start in range(0, len(data), length):
        yield view[start : start + length]
