"""Detects the format and virtual size of an image from its content, if no record has them."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from imagebroker.backends.opened_source import OpenedSource
from imagebroker.exceptions import FormatError, ImageBrokerError, RangeIgnored, TransferTimeout
from imagebroker.model.image import Image
from imagebroker.redaction import redact
from imagebroker.verify.disk_format import FormatPolicy, inspect_spans
from imagebroker.verify.pages import check_no_page

#: Any part of the content.
Read = Callable[[int, int], bytes]

LOG = logging.getLogger(__name__)


def detected(
    image: Image,
    opened: Callable[[], OpenedSource],
    policy: FormatPolicy,
    seconds: float,
    *,
    may_be_page: bool = False,
) -> Image:
    """`image` with what its decisive bytes show; as it is where they show nothing acceptable.

    Never raises for the content or the network: what the backend said about the image stands.

    :param seconds: without a byte.
    :param may_be_page: text is not an image here.
    """
    if not image.size:
        return image
    try:
        source = opened()
        try:
            if not source.seekable:
                return image
            read = _reader(source, seconds)
            evidence = inspect_spans(
                _without_pages(read, image.size) if may_be_page else read, image.size, policy
            )
        finally:
            source.close()
    except RangeIgnored:
        return image
    except FormatError as error:
        LOG.debug("%s: the content is not an acceptable disk image: %s", redact(image.ref), error)
        return image
    except ImageBrokerError as error:
        LOG.warning("%s: its format is not known: %s", redact(image.ref), error)
        return image
    return replace(image, **evidence)


def inspected(
    source: OpenedSource, policy: FormatPolicy, seconds: float, declared: str | None
) -> Mapping[str, Any]:
    """The format of an opened image, by its decisive bytes.

    :raises FormatError: the content is not acceptable.
    """
    return inspect_spans(_reader(source, seconds), source.image.size or 0, policy, declared)


def _without_pages(read: Read, size: int) -> Read:
    """The same, as long as the beginning is not that of a text."""

    def guarded(start: int, stop: int) -> bytes:
        found = read(start, stop)
        if start == 0:
            check_no_page(found, whole=stop >= size)
        return found

    return guarded


def _reader(source: OpenedSource, seconds: float) -> Read:
    def read(start: int, stop: int) -> bytes:
        found = bytearray()
        if start >= stop:
            return b""
        flow = source.read(start, stop)
        while (batch := flow.take(seconds)) is not None:
            if not batch:
                raise TransferTimeout(
                    f"{source.image.ref} sent nothing for {seconds:.3g} s",
                    hint="check the server and the network; stall_timeout sets the limit",
                )
            for chunk in batch:
                found += chunk
        return bytes(found)

    return read
