"""Ironic's service for registries, on a `Broker`."""

from __future__ import annotations

import base64
import json
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from imagebroker.compat.errors import IRONIC_HREF, Table
from imagebroker.compat.ironic_checksums import demanded
from imagebroker.compat.ironic_hrefs import HrefService
from imagebroker.compat.ironic_options import broker_with
from imagebroker.compat.streams import writable
from imagebroker.exceptions import NotAuthorized, UnsupportedOperation

if TYPE_CHECKING:
    from imagebroker.broker import Broker

#: As Ironic's own service has it where an image needs a login, or is not there.
_OF_REGISTRY: Table = {NotAuthorized: "ImageServiceAuthenticationRequired"}


class OciService(HrefService):
    """`oci:`, with the pull secret of a node.

    Which manifest a node needs (`identify_specific_image`), and what `show` says of it, stay
    Ironic's: they read manifests, not images.
    """

    def __init__(self) -> None:
        super().__init__()
        self._auth: dict[str, str] = {}
        #: What Ironic's own client is still to be told, when it is needed.
        self._untold: tuple[Any, Any] | None = None
        super(HrefService, self).__init__()  # Ironic's own

    @property
    def is_auth_set_needed(self) -> bool:
        return True

    def set_image_auth(self, image_url: Any, auth_data: Mapping[str, str] | None) -> None:
        """The pull secret of a node: `username` and `password`; without a username, the password is
        a token of the registry. Without either, `authentication_config` counts.
        """
        found = dict(auth_data or {})
        password = found.get("password")
        self._auth = {}
        if password:
            user = found.get("username") or ""
            pair = base64.b64encode(f"{user}:{password}".encode()).decode()
            self._auth = {"auth": pair} if user else {"registrytoken": password}
        self._untold = image_url, auth_data

    def _theirs(self, name: str) -> Any:
        """A method of Ironic's own service, which is logged in now; None without Ironic."""
        untold, self._untold = self._untold, None
        log_in = getattr(super(), "set_image_auth", None)
        if untold is not None and log_in is not None:
            log_in(*untold)
        return getattr(super(HrefService, self), name, None)

    def identify_specific_image(self, *args: Any, **kwargs: Any) -> Any:
        """As in Ironic.

        :raises UnsupportedOperation: there is no Ironic here.
        """
        theirs = self._theirs("identify_specific_image")
        if theirs is None:
            raise UnsupportedOperation(
                "choosing a manifest for a node is Ironic's part", hint="name one by its digest"
            )
        return theirs(*args, **kwargs)

    def show(self, image_href: Any) -> dict[str, Any]:
        """As Ironic's own service; without Ironic, what any href has."""
        theirs = self._theirs("show")
        found: dict[str, Any] = super().show(image_href) if theirs is None else theirs(image_href)
        return found

    def validate_href(self, image_href: Any, secret: Any = False) -> Any:
        """As in Ironic, the same as `show`."""
        return self.show(image_href)

    def download(
        self,
        image_href: Any,
        image_file: Any,
        checksum: str | None = None,
        checksum_algo: str | None = None,
    ) -> None:
        """The blob of a manifest, which must be named by its digest, into an open file.

        As in Ironic: OciImageNotSpecific; `transfer_verified_checksum` is the digest of the blob.
        Different on purpose: what the caller demands is verified, too; a cut transfer is resumed.
        """
        self._verified = None
        href = str(image_href)
        specific = getattr(self, "_validate_url_is_specific", None)
        if specific is not None:
            specific(href)
        shown = self._in.shown(href)
        wanted = demanded(checksum, checksum_algo, self._in, shown)
        table = wanted.table({**IRONIC_HREF, **_OF_REGISTRY})
        with self._in.errors.translated(table, shown), self._broker(href) as broker:
            done = broker.download(None, href, writable(image_file), checksum=wanted.checksum)
        strong = done.image.strong_checksum
        self._verified = wanted.verified or (":".join(strong) if strong else None)

    @contextmanager
    def _broker(self, href: str) -> Iterator[Broker]:
        """With a pull secret, in a file that is there as long as the call."""
        if not self._auth:
            yield self._in.broker
            return
        with tempfile.NamedTemporaryFile("w", prefix="pull-secret-", suffix=".json") as file:
            json.dump({"auths": {urlsplit(href).netloc: self._auth}}, file)
            file.flush()
            own = {"pull_secret_file": file.name}
            with broker_with(self._in.conf, "backend:oci", own) as broker:
                yield broker
