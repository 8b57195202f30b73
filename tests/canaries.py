"""Secrets of the tests' servers, looked for in every log record and in every error of ours.

Records are looked at whatever their level is, those of urllib3, paramiko and keystoneauth too; what
the tests see of the log stays as it is. A secret that shows fails the test that was running.
"""

from __future__ import annotations

import logging
from typing import Any

from imagebroker.exceptions import ImageBrokerError

SECRETS: set[str] = set()
_found: list[str] = []


def secret(text: str) -> str:
    """`text`, which must not show from now on."""
    SECRETS.add(text)
    return text


def _look(where: str, text: str) -> None:
    for each in SECRETS:
        if each in text:
            _found.append(f"{where}: {text[:2000]}")


def install() -> None:
    """Look at every record and every error of this process."""
    enabled, handle = logging.Logger.isEnabledFor, logging.Logger.callHandlers

    def is_enabled_for(self: logging.Logger, level: int) -> bool:
        return True

    def call_handlers(self: logging.Logger, record: logging.LogRecord) -> None:
        try:
            text = record.getMessage()
        except Exception as error:
            _found.append(f"a record of {record.name} cannot be formatted: {error!r}")
            return
        if record.exc_info and record.exc_info[1] is not None:
            text += f" {record.exc_info[1]!r}"
        _look(f"the log of {record.name}", text)
        if enabled(self, record.levelno):
            handle(self, record)

    logging.Logger.isEnabledFor = is_enabled_for  # type: ignore[method-assign]
    logging.Logger.callHandlers = call_handlers  # type: ignore[method-assign]
    made = ImageBrokerError.__init__

    def init(self: ImageBrokerError, *args: Any, **values: Any) -> None:
        made(self, *args, **values)
        shown = f"{self} {self!r} {self.hint} {vars(self)}"
        _look(type(self).__name__, shown)

    ImageBrokerError.__init__ = init  # type: ignore[method-assign]


def found() -> list[str]:
    """Where a secret has shown since this was last asked."""
    taken, _found[:] = list(_found), []
    return taken
