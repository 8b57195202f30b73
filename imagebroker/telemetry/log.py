"""One line in the log for each call that has ended, as `key=value`."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

from imagebroker.redaction import redact, shown_error

if TYPE_CHECKING:
    from imagebroker.telemetry.calls import RecordedCall

LOG = logging.getLogger("imagebroker.calls")

#: What only looks is DEBUG: a service may list all day.
_LOOKING = frozenset({"get", "get_all", "open"})


def ended(call: RecordedCall, error: BaseException | None) -> None:
    """Say what was asked of whom, what it took, and how it ended."""
    level = logging.DEBUG if call.verb in _LOOKING and error is None else logging.INFO
    if not LOG.isEnabledFor(level):
        return
    backend, _, instance = call.backend.partition(":")
    facts = {
        "ref": str(call.ref) or None,
        "backend": backend or None,
        "instance": instance or None,
        **call.facts,
        "retries": call.retries or None,
        "bytes": call.bytes or None,
        "request_ids": ",".join(call.request_ids) or None,
        "seconds": f"{call.seconds:.3f}",
        "outcome": "ok" if error is None else type(error).__name__,
        "error": None if error is None else shown_error(error).partition(": ")[2] or None,
    }
    shown = " ".join(f"{k}={_value(v)}" for k, v in facts.items() if v is not None)
    LOG.log(level, "%s: %s", call.verb, shown)


def _value(value: Any) -> str:
    """Redacted, and in quotation marks where it would not be one word."""
    text = redact(value)
    if text and not any(c in text for c in ' "\\'):
        return text
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'
