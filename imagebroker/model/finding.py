"""One finding of a backend's `check` about its configuration or its servers."""

from __future__ import annotations

from typing import NamedTuple

#: It works as configured.
OK = "ok"
#: It works, but probably not as intended.
WARNING = "warning"
#: It cannot work.
FAILURE = "failure"
LEVELS = (OK, WARNING, FAILURE)


class Finding(NamedTuple):
    """One line of `imagebroker check` about one instance of a backend."""

    #: For example: "logged in as broker" or "the bucket images does not exist".
    what: str
    level: str = OK
    #: What to do about it, in one sentence.
    remedy: str = ""
    #: The option of this instance that it is about; empty if it is about no single one.
    option: str = ""
