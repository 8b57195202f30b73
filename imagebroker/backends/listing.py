"""How long a list may become: what a backend yields is counted, and what is too much ends it."""

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

#: Bytes of one record; a larger one is left out.
MAX_RECORD = 1024 * 1024


@dataclass(frozen=True)
class ListLimits:
    """What one list may take; the deployer's values."""

    #: Seconds that its backend may take, in all. What the caller does in between does not count.
    deadline: float = 600.0
    #: Images.
    records: int = 100_000
    #: Bytes of all records.
    size: int = 256 * 1024 * 1024


class Budget:
    """What is left for one list."""

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
        """So long was waited for a record that came."""
        self._waited += seconds

    def late(self) -> ImageBrokerError:
        """The error for a record that did not come in time."""
        if self._limits.deadline - self._waited > self._patience:
            return TransferTimeout(
                f"the {self._title} backend listed no further image in {self._patience:.3g} s, "
                f"after {self._records}",
                hint="check the server and the network; stall_timeout sets the limit",
            )
        return TransferTimeout(
            f"the {self._title} backend did not end its list in {self._limits.deadline:.3g} s; "
            f"{self._records} images came",
            hint="ask for fewer images (--limit, filters), or raise list_deadline",
            retryable=False,
        )

    def takes(self, image: Image) -> bool:
        """Count a record. False: it is too large to be listed.

        :raises TooLarge: it is one too many.
        """
        weight = weight_of(image)
        self._records += 1
        self._size += weight
        if self._records > self._limits.records:
            raise TooLarge(
                f"the {self._title} backend lists more than {self._limits.records} images",
                hint="ask for fewer images (--limit, filters), or raise list_max_records",
            )
        if self._size > self._limits.size:
            raise TooLarge(
                f"the {self._title} backend lists more than {self._limits.size} bytes of records, "
                f"in {self._records} images",
                hint="ask for fewer images (--limit, filters), or raise list_max_size",
            )
        if weight > MAX_RECORD:
            LOG.warning(
                "%s: a record of %d bytes is left out of the list; one may have %d",
                redact(image.ref, 200), weight, MAX_RECORD,
            )  # fmt: skip
        return weight <= MAX_RECORD


def bounded(images: Iterable[Image], title: str, limits: ListLimits) -> Iterator[Image]:
    """`images`, as long as they keep to the limits.

    :raises TooLarge, TransferTimeout: they do not.
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


#: What each value is counted as, beside its text.
_SMALL = 16


def weight_of(image: Image) -> int:
    """Bytes that a record takes, roughly: its texts, and something for each of its values."""
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
            break  # one that contains itself has no end
    return total
