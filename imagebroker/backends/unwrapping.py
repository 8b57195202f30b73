"""Finds our errors inside the exceptions that libraries wrap around them.

A library that uses connections of `host.connect` catches what they raise and raises something of
its own: requests and botocore keep the cause in an argument, urllib3 in `reason`, others in nothing
but the context.
"""

from __future__ import annotations

import builtins
from collections.abc import Iterator, Mapping

from imagebroker.exceptions import ImageBrokerError

#: Attributes in which libraries keep what they wrap.
_KEPT_IN = ("reason", "error", "original_exception", "inner")
#: Wrapped more often than this, it is a chain that leads back to itself.
_DEEPEST = 16


def unwrapped(error: BaseException) -> ImageBrokerError | None:
    """The error of ours that `error` was made of; None if there is none."""
    seen: list[BaseException] = []
    left = [error]
    while left and len(seen) < _DEEPEST:
        each = left.pop(0)
        if isinstance(each, ImageBrokerError):
            return each
        if not any(each is other for other in seen):
            seen.append(each)
            left += _within(each)
    return None


def _within(error: BaseException) -> Iterator[BaseException]:
    """The exceptions that an exception names as its causes."""
    if error.__cause__ is not None:
        yield error.__cause__
    kept = getattr(error, "kwargs", None)
    values = [*error.args, *(kept.values() if isinstance(kept, Mapping) else ())]
    values += [vars(error).get(name) for name in _KEPT_IN]
    yield from (value for value in values if isinstance(value, BaseException))
    # An exception of Python's own, while another is handled, is a bug, not a wrapper.
    own = type(error).__module__ == builtins.__name__
    if error.__context__ is not None and not own and not error.__suppress_context__:
        yield error.__context__
