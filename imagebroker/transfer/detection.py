"""What the content of an image shows about it, where no record says: format and virtual size."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import replace

from imagebroker.boundary import OpenedSource
from imagebroker.exceptions import FormatError, ImageBrokerError, RangeIgnored, TransferTimeout
from imagebroker.image import Image
from imagebroker.redaction import redact
from imagebroker.verify.disk_format import FormatPolicy, inspect_spans

LOG = logging.getLogger(__name__)


def detected(
    image: Image, opened: Callable[[], OpenedSource], policy: FormatPolicy, seconds: float
) -> Image:
    """`image` with what its decisive bytes show; as it is where they show nothing acceptable.

    Never raises for the content or the network: what the backend said about the image stands.

    :param seconds: without a byte.
    """
    if not image.size:
        return image
    try:
        source = opened()
        try:
            if not source.seekable:
                return image
            evidence = inspect_spans(_reader(source, seconds), image.size, policy)
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


def _reader(source: OpenedSource, seconds: float) -> Callable[[int, int], bytes]:
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
