"""Ironic's services for web servers, files of the conductor, and registries, on a `Broker`."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import format_datetime
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar
from urllib.parse import unquote, urlsplit

from imagebroker.compat.errors import IRONIC_HREF, IRONIC_VALIDATION, Errors
from imagebroker.compat.ironic_checksums import demanded
from imagebroker.compat.ironic_options import (
    asking,
    asking_broker_of,
    broker_with,
    credentials,
    for_server,
)
from imagebroker.compat.service_options import ServiceOptions
from imagebroker.compat.streams import writable
from imagebroker.exceptions import (
    FormatError,
    ImageBrokerError,
    InvalidImageRef,
    PolicyViolation,
)
from imagebroker.redaction import redact
from imagebroker.verify.formats.text import TEXT

if TYPE_CHECKING:
    from oslo_config import cfg

    from imagebroker.broker import Broker
    from imagebroker.model.image import Image

#: What no href of a file reads, whatever the configuration allows: as in Ironic.
BLOCKED = ("/dev", "/sys", "/proc", "/boot", "/etc", "/run")
#: Bytes of a document that is returned as text.
_LONGEST_TEXT = 8 * 1024 * 1024
#: What Ironic calls an href that nobody is to read.
_UNNAMED = "secreturl"


@dataclass(frozen=True)
class Surroundings:
    """What the services of one conductor share."""

    broker: Broker
    conf: cfg.ConfigOpts
    errors: Errors
    #: Who may use an image of Glance; None: whoever Glance shows it to.
    available: Callable[[Any, Any], bool] | None = None

    @cached_property
    def asking(self) -> Broker:
        """For what is asked about an image before it is downloaded."""
        return asking_broker_of(self.conf)

    def shown(self, href: object, secret: object = False) -> str:
        return _UNNAMED if secret else redact(href, 255)


@dataclass(frozen=True)
class Answer:
    """What Ironic's callers read of the answer to a HEAD."""

    url: str
    status_code: int
    headers: Mapping[str, str]

    def __bool__(self) -> bool:
        return self.status_code < 400


class HrefService:
    """Any href that the broker knows, and nobody has to log in for."""

    _in: ClassVar[Surroundings]

    def __init__(self) -> None:
        self._verified: str | None = None

    @property
    def is_auth_set_needed(self) -> bool:
        return False

    @property
    def transfer_verified_checksum(self) -> str | None:
        """`algorithm:digest` of the last download, if the caller gave it and it was right."""
        return self._verified

    def validate_href(self, image_href: Any, secret: Any = False) -> Any:
        """:raises ImageRefValidationFailed: the image is not there, or not for us."""
        return self._record(image_href, secret)

    def show(self, image_href: Any) -> dict[str, Any]:
        """`size`, `updated_at` (naive, in UTC), `properties` and `no_cache`."""
        image = self._record(image_href)
        return {
            "size": image.size,
            "updated_at": naive(image.updated_at),
            "properties": {},
            "no_cache": "no-store" in image.properties.get("cache_control", ""),
        }

    def download(
        self,
        image_href: Any,
        image_file: Any,
        checksum: str | None = None,
        checksum_algo: str | None = None,
    ) -> None:
        """The bytes, into an open file.

        As in Ironic: ImageChecksumError, ImageRefValidationFailed, ImageDownloadFailed. Different
        on purpose: a cut transfer is resumed; a file gets its length back after a failure; an
        algorithm that cannot be computed is ImageChecksumAlgorithmFailure, not ignored; a web page
        is no image unless the checksum is that of the page.
        """
        self._verified = None
        href = str(image_href)
        shown = self._in.shown(href)
        wanted = demanded(checksum, checksum_algo, self._in, shown)
        with self._in.errors.translated(wanted.table(IRONIC_HREF), shown):
            self._fetch(href, image_file, wanted.checksum)
        self._verified = wanted.verified

    def _fetch(self, href: str, image_file: Any, checksum: str | None) -> None:
        with self._broker(href) as broker:
            target = writable(image_file)
            try:
                broker.download(None, href, target, checksum=checksum)
            except FormatError as error:
                if getattr(error, "found", None) != TEXT:
                    raise
                # A template for kickstart, or another document: Ironic takes these, too.
                broker.download(None, href, target, checksum=checksum, check_format=False)

    def _record(self, href: Any, secret: Any = False) -> Image:
        """:raises ImageRefValidationFailed: it cannot be read; `secret`: without naming it."""
        try:
            with self._asking(str(href)) as broker:
                return broker.get(None, str(href))
        except ImageBrokerError as error:
            raise self._invalid(error, href, secret) from (None if secret else error)

    def _invalid(self, error: ImageBrokerError, href: Any, secret: Any) -> Exception:
        if secret:
            error = InvalidImageRef(f"it cannot be read ({error.id})")
        return self._in.errors.of(error, IRONIC_VALIDATION, self._in.shown(href, secret))

    @contextmanager
    def _broker(self, href: str) -> Iterator[Broker]:
        """The broker of the conductor, or one with credentials for the server of this href."""
        yield self._in.broker

    def _asking(self, href: str) -> AbstractContextManager[Broker]:
        """The same, for what is known about the image."""
        return self._broker(href)


class HttpService(HrefService):
    """`http:` and `https:`."""

    def __init__(self) -> None:
        super().__init__()
        self._secrets: dict[str, str] = {}

    def set_image_auth(self, image_url: Any, auth_data: Mapping[str, str] | None) -> None:
        """Credentials of a node, for the server of the href that is asked for, and for no other.

        As for registries in Ironic: `username` and `password`; without a username, the password is
        a bearer token. Ironic itself calls it for registries only.
        """
        found = dict(auth_data or {})
        password = found.get("password")
        if not password:
            self._secrets = {}
        elif found.get("username"):
            self._secrets = {"username": found["username"], "password": password}
        else:
            self._secrets = {"token": password}

    @contextmanager
    def _broker(self, href: str) -> Iterator[Broker]:
        values = self._login(href)
        if not values:
            yield self._in.broker
            return
        with broker_with(self._in.conf, "backend:http", values) as broker:
            yield broker

    @contextmanager
    def _asking(self, href: str) -> Iterator[Broker]:
        values, conf = self._login(href), self._in.conf
        if not values:
            yield self._in.asking
            return
        with broker_with(conf, "backend:http", values, asking(conf)) as broker:
            yield broker

    def _login(self, href: str) -> dict[str, Any]:
        """The values of `[backend:http]` with credentials for the server of an href, if any."""
        secrets = self._secrets or self._configured(href)
        parts = urlsplit(href)
        return for_server(f"{parts.scheme}://{parts.netloc}/", secrets) if secrets else {}

    def _configured(self, href: str) -> Mapping[str, str]:
        try:
            return credentials(ServiceOptions(self._in.conf), href)
        except ValueError as error:
            raise InvalidImageRef(str(error)) from None

    def validate_href(self, image_href: Any, secret: Any = False) -> Answer:
        """As in Ironic, the answer of the server, of which `url`, `status_code` and `headers` are
        there; a folder that must not be listed (403) is valid. Different on purpose: `url` is the
        href itself; agents follow redirects, too.
        """
        href = str(image_href)
        try:
            with self._asking(href) as broker:
                return Answer(href, 200, _headers(broker.get(None, href)))
        except ImageBrokerError as error:
            if href.endswith("/") and getattr(error, "status", None) == 403:
                return Answer(href, 403, {})
            raise self._invalid(error, href, secret) from (None if secret else error)

    def show(self, image_href: Any) -> dict[str, Any]:
        """As in Ironic, an image of unknown size is ImageRefValidationFailed."""
        found = super().show(image_href)
        if found["size"] is None:
            with self._in.errors.translated(IRONIC_VALIDATION, self._in.shown(image_href)):
                raise InvalidImageRef(
                    "Cannot determine image size as there is no Content-Length header specified in "
                    "response to HEAD request."
                )
        return found

    @classmethod
    def get(cls, image_href: Any) -> str:
        """A document as text: at most 8 MiB."""
        href, service = str(image_href), cls()
        errors = cls._in.errors
        with errors.translated(IRONIC_HREF, cls._in.shown(href)), service._broker(href) as broker:
            limits = {"max_size": _LONGEST_TEXT, "check_format": False}
            with broker.open(None, href, **limits) as reader:  # type: ignore[arg-type]
                return reader.read().decode("utf-8", "replace")


class FileService(HrefService):
    """`file:` below the allowed paths."""

    def validate_href(self, image_href: Any, secret: Any = False) -> str:
        """The path of the file, if it is there and allowed."""
        self._check(image_href)
        self._record(image_href, secret)
        return _path(image_href)

    def show(self, image_href: Any) -> dict[str, Any]:
        self._check(image_href)
        return {**super().show(image_href), "no_cache": True}  # it is on this host already

    def download(
        self,
        image_href: Any,
        image_file: Any,
        checksum: str | None = None,
        checksum_algo: str | None = None,
    ) -> None:
        """The file, in the place of `image_file`, which is closed, as in Ironic.

        Different on purpose: the checksum is verified; the blocks are shared where the file system
        can, but the file is never a link: what is written to it does not change the original.
        """
        self._check(image_href)
        super().download(image_href, image_file, checksum, checksum_algo)

    def _fetch(self, href: str, image_file: Any, checksum: str | None) -> None:
        name = getattr(image_file, "name", None)
        if not isinstance(name, (str, bytes)):
            super()._fetch(href, image_file, checksum)
            return
        image_file.close()
        self._in.broker.download(None, href, os.fsdecode(name), checksum=checksum)

    def _check(self, href: Any) -> None:
        path = _path(href)
        with self._in.errors.translated(IRONIC_VALIDATION, self._in.shown(href)):
            for place in (os.path.abspath(path), os.path.realpath(path)):
                for blocked in BLOCKED:
                    if place == blocked or place.startswith(f"{blocked}/"):
                        raise PolicyViolation(
                            f"Security: The path {blocked} is not permitted in file URLs"
                        )


def _path(href: Any) -> str:
    return unquote(urlsplit(str(href)).path)


def naive(when: datetime | None) -> datetime | None:
    """As Ironic has it: in UTC, without saying so."""
    return when and when.astimezone(UTC).replace(tzinfo=None)


def _headers(image: Image) -> dict[str, str]:
    found = {"Content-Type": image.properties.get("content_type")}
    if image.size is not None:
        found["Content-Length"] = str(image.size)
    if image.updated_at is not None:
        found["Last-Modified"] = format_datetime(image.updated_at.astimezone(UTC), usegmt=True)
    return {name: value for name, value in found.items() if value}
