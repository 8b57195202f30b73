"""An image that is named by its name in the backend, as in openstackclient."""

from __future__ import annotations

import os
import re
from itertools import islice
from typing import TYPE_CHECKING
from urllib.parse import quote

from imagebroker.cli.console import NAME
from imagebroker.exceptions import (
    ImageNotFound,
    InvalidImageRef,
    SchemeNotEnabled,
    UnsupportedOperation,
)
from imagebroker.model.correction import FORMS
from imagebroker.model.image import STATUSES, Image
from imagebroker.model.reference import parse
from imagebroker.redaction import printable, redact

if TYPE_CHECKING:
    from imagebroker.broker import Broker

#: What can be found by name: everything but what was deleted.
_STATUSES = [status for status in STATUSES if status not in ("deleted", "pending_delete")]
#: Candidates that an error lists.
_SHOWN = 8
_LONGEST_NAME = 255
_NOT_FOUND = f"list the images with: {NAME} list; or write a UUID, NAME:UUID or a URL"
_QUALIFIED = re.compile(
    r"([a-z][a-z0-9+.-]{0,31})(?::([A-Za-z0-9_][A-Za-z0-9_.-]*))?:(.+)", re.DOTALL
)


def ref_of(broker: Broker, text: str, *, files: bool = False) -> str:
    """`text` if it is a ref, else the ref of the one image of that name in the default backend.

    `NAME[:INSTANCE]:IMAGE` finds it in another backend. Ids and URLs are never looked up.

    `files`: what is done with the image can be done with a file of this host, too.

    :raises InvalidImageRef: it can be neither, or several images have this name.
    :raises ImageNotFound: no image has it.
    """
    try:
        parse(text)
        return text
    except InvalidImageRef as error:
        name, sign, pin = text.partition("#")
        error.hint = (_of_local_file(name) if files else None) or error.hint
        if not _may_be_name(name) or (sign and "=" not in pin):
            raise
        no_ref = error
    if sign:
        parse(f"file:///x#{pin}")  # a malformed pin is an error of its own
    found = _called(broker, name, None, no_ref)
    if not found and (qualified := _QUALIFIED.fullmatch(name)):
        found = _called_there(broker, qualified, no_ref)
    elif not found and " " in name:
        raise no_ref  # a sentence rather than a name: as malformed as it always was
    if not found:
        raise ImageNotFound(
            f"no image has the id or the name {redact(name, 200)!r}",
            hint=_NOT_FOUND if no_ref.hint == FORMS else no_ref.hint,
        )
    if len(found) > 1:
        raise InvalidImageRef(
            f"{'more than ' if len(found) > _SHOWN else ''}{min(len(found), _SHOWN)} images have "
            f"the name {redact(name, 200)!r}",
            hint=f"name one by its id: {'; '.join(map(_line, found[:_SHOWN]))}",
        )
    return found[0].ref + sign + pin


def _may_be_name(text: str) -> bool:
    return 0 < len(text) <= _LONGEST_NAME and "://" not in text and text[0] not in "/.~"


def _of_local_file(name: str) -> str | None:
    """The ref of a file that is named as in a shell."""
    if "\0" in name or not os.path.isfile(name):
        return None
    return f"write file://{quote(os.path.abspath(name))}"


def _called_there(broker: Broker, qualified: re.Match[str], no_ref: InvalidImageRef) -> list[Image]:
    """The images of that name in the backend before it; a name can have colons of its own."""
    backend, instance, name = qualified.groups()
    if instance is None:
        return _called(broker, name, backend, no_ref)
    try:
        return _called(broker, name, f"{backend}:{instance}", no_ref)
    except InvalidImageRef:  # no such instance
        return _called(broker, f"{instance}:{name}", backend, no_ref)


def _called(broker: Broker, name: str, backend: str | None, no_ref: InvalidImageRef) -> list[Image]:
    """The images of that name, and no more than are needed to say that there are many."""
    filters = {"name": name, "status": _STATUSES}
    try:
        images = broker.get_all(None, backend=backend, filters=filters, limit=_SHOWN + 1)
        return list(islice(images, _SHOWN + 1))
    except (SchemeNotEnabled, UnsupportedOperation):
        raise no_ref from None  # no names here: what was typed had to be a ref


def _line(image: Image) -> str:
    from imagebroker.cli.output import size_text

    size = None if image.size is None else size_text(image.size)
    created = None if image.created_at is None else f"{image.created_at:%Y-%m-%d}"
    details = ", ".join(filter(None, (printable(image.status or ""), size, created)))
    return f"{image.ref} ({details})" if details else image.ref
