"""Limits of a list: counts what a backend yields, and ends a list that is too long or too slow."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from time import monotonic
from typing import Any

from imagebroker.exceptions import ImageBrokerError, TooLarge, TransferTimeout
from imagebroker.model.image import Image, Location
from imagebroker.redaction import redact

LOG = logging.getLogger(__name__)

#: Maximum size of one record in bytes; larger ones are skipped.
MAX_RECORD = 1024 * 1024


@dataclass(frozen=True)
class ListLimits:
    """Limits of one list, as configured by the deployer."""

    #: Seconds that the backend may take in total. Time of the caller in between does not count.
    deadline: float = 600.0
    #: Number of images.
    records: int = 100_000
    #: Size of all records, in bytes.
    size: int = 256 * 1024 * 1024


class Budget:
    """The rest of the limits of one list."""

    def __init__(self, title: str, limits: ListLimits, patience: float) -> None:
        """`title`: the backend; `patience`: seconds that it may take for one record."""
        self._title, self._limits, self._patience = title, limits, patience
        self._waited = 0.0
        self._records = self._size = 0

    @property
    def seconds(self) -> float:
        """How long to wait for the next record."""
        return max(min(self._patience, self._limits.deadline - self._waited), 0.0)

    def waited(self, seconds: float) -> None:
        """Count the seconds that a record took."""
        self._waited += seconds

    def late(self) -> ImageBrokerError:
        """The error for a record that did not come in time."""
        if self._limits.deadline - self._waited > self._patience:
            return TransferTimeout(
                f"the {self._title} backend listed {self._records} images, then nothing for "
                f"{self._patience:.3g} s",
                hint="check the server and the network, or raise stall_timeout",
            )
        return TransferTimeout(
            f"the {self._title} backend did not finish its list within "
            f"{self._limits.deadline:.3g} s; it listed {self._records} images",
            hint="list fewer images (--limit, filters), or raise list_deadline",
            retryable=False,
        )

    def takes(self, image: Image) -> bool:
        """Count a record. False: it is too large, and to be skipped.

        :raises TooLarge: the list is too long.
        """
        weight = weight_of(image)
        self._records += 1
        self._size += weight
        if self._records > self._limits.records:
            raise TooLarge(
                f"the {self._title} backend lists more than {self._limits.records} images",
                hint="list fewer images (--limit, filters), or raise list_max_records",
            )
        if self._size > self._limits.size:
            raise TooLarge(
                f"the {self._title} backend lists more than {self._limits.size} bytes of records, "
                f"in {self._records} images",
                hint="list fewer images (--limit, filters), or raise list_max_size",
            )
        if weight > MAX_RECORD:
            LOG.warning(
                "skipping %s in the list: its record has %d bytes, and %d are allowed",
                redact(image.ref, 200), weight, MAX_RECORD,
            )  # fmt: skip
        return weight <= MAX_RECORD


def bounded(images: Iterable[Image], title: str, limits: ListLimits) -> Iterator[Image]:
    """`images`, within the limits.

    :raises TooLarge, TransferTimeout: a limit is exceeded.
    """
    budget = Budget(title, limits, limits.deadline)
    began = monotonic()
    for image in images:
        budget.waited(monotonic() - began)
        if not budget.seconds:
            raise budget.late()
        if budget.takes(image):
            yield image
        began = monotonic()


#: Bytes counted for each value, in addition to its text.
_SMALL = 16


def weight_of(image: Image) -> int:
    """The approximate size of a record in bytes: its texts, and an overhead for each value."""
    total = 0
    left: list[Any] = list(vars(image).values())
    while left:
        value = left.pop()
        kind = type(value)
        if kind is str:
            total += len(value)
        elif value is None or kind is bool or kind is datetime:
            continue
        elif isinstance(value, int):
            total += value.bit_length() // 8
        elif isinstance(value, Mapping):
            left += value.keys()
            left += value.values()
        elif isinstance(value, (tuple, list, set, frozenset)):
            left += value
        elif isinstance(value, (str, bytes)):
            total += len(value)
        elif isinstance(value, Location):
            left += (value.url, value.metadata)
        total += _SMALL
        if total > 16 * MAX_RECORD:
            break  # a record that contains itself would have no end
    return total
