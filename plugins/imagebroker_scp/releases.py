"""Which releases of paramiko the reader of packets fits, which stands in for their own."""

from __future__ import annotations

import logging
from collections.abc import Collection

import paramiko

LOG = logging.getLogger(__name__)

#: Releases with which the tests of reading, of hostile servers and of the contract have passed.
TESTED = ("3.5.1", "4.0.0", "5.0.0", "5.0.1", "5.1.0")


def own_reader(tested: Collection[str]) -> bool:
    """Whether our reader decrypts packets. paramiko's own takes more CPU time, and works with every
    release."""
    release = paramiko.__version__
    if release in tested:
        return True
    LOG.info(
        "paramiko %s is not a tested release (%s): it decrypts packets itself, which takes more "
        "CPU time",
        release,
        ", ".join(tested) or "none",
    )
    return False
