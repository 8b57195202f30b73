"""Ironic's image services on a `Broker`: a drop-in for `ironic.common.image_service`.

::

    import ironic.common.image_service

    import imagebroker.compat.ironic

    imagebroker.compat.ironic.install(ironic.common.image_service)

`get_image_service` is that of Ironic with the services of this module, for whoever calls it
directly. Ironic is imported when one of them is first called, for its configuration, its
exceptions, and what has nothing to do with the bytes of images: who may use an image of Glance, and
the signing of Swift's temporary URLs. `Services` needs none of it.
"""

from __future__ import annotations

import functools
import importlib
import sys
import uuid
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, NoReturn
from urllib.parse import urlsplit

from imagebroker.compat.errors import IRONIC_VALIDATION, Errors
from imagebroker.compat.ironic_glance import GlanceService
from imagebroker.compat.ironic_hrefs import FileService, HttpService, Surroundings
from imagebroker.compat.ironic_oci import OciService
from imagebroker.compat.ironic_options import broker_of
from imagebroker.exceptions import InvalidImageRef, SchemeNotEnabled

if TYPE_CHECKING:
    from oslo_config import cfg

    from imagebroker.broker import Broker

__all__ = ["Services", "broker_of", "get_image_service", "install"]

#: The services that take the place of Ironic's, by the names that it gives them.
_REPLACED: Mapping[str, type] = {
    "HttpImageService": HttpService,
    "FileImageService": FileService,
    "OciImageService": OciService,
    "GlanceImageService": GlanceService,
}
_OF_SCHEME = {
    "http": "HttpImageService",
    "https": "HttpImageService",
    "file": "FileImageService",
    "glance": "GlanceImageService",
    "oci": "OciImageService",
}


class Services:
    """The image services of one conductor."""

    def __init__(
        self,
        broker: Broker,
        conf: cfg.ConfigOpts,
        exceptions: object | None = None,
        *,
        originals: object | None = None,
        available: Callable[[Any, Any], bool] | None = None,
    ) -> None:
        """
        :param conf: Ironic's configuration.
        :param exceptions: a module (or object) with exceptions by the names that Ironic gives them;
            without it, the errors of `imagebroker` are raised.
        :param originals: `ironic.common.image_service`; its classes become the bases of ours.
        :param available: who may use an image of Glance, given a context and the image; without it,
            whoever Glance shows it to.
        """
        self._surroundings = Surroundings(broker, conf, Errors(exceptions), available)
        self._originals = originals
        self._errors = Errors(exceptions)
        self._made: dict[str, type] = {}

    def get_image_service(self, image_href: Any, client: Any = None, context: Any = None) -> Any:
        """The service for an href; `client` is ignored, `context` is for images of Glance.

        As in Ironic, an href without a scheme must be a UUID, and one of another scheme is
        ImageRefValidationFailed. `nfs:`, `cifs:` and `smb:`, which a conductor never downloads,
        remain Ironic's own.
        """
        href = str(image_href)
        scheme = urlsplit(href).scheme.lower()
        if not scheme and not _is_uuid(href):
            self._refuse(href, "Scheme-less image href is not a UUID.")
        name = _OF_SCHEME.get(scheme or "glance")
        if name is not None:
            with self._errors.translated(IRONIC_VALIDATION, href):
                self._check_enabled(scheme or "glance")
            cls = self.service(name)
            return cls(client, context) if name == "GlanceImageService" else cls()
        theirs = getattr(self._originals, "protocol_mapping", {}).get(scheme)
        if theirs is None:
            self._refuse(href, f"Image download protocol {scheme} is not supported.")
        return theirs()

    def _refuse(self, href: str, why: str) -> NoReturn:
        error = InvalidImageRef(why)
        raise self._errors.of(error, IRONIC_VALIDATION, href)

    def _check_enabled(self, scheme: str) -> None:
        found = {each.scheme: each for each in self._surroundings.broker.backends()}
        info = found.get(scheme)
        if info is None or not info.enabled:
            raise SchemeNotEnabled(
                f"the scheme {scheme} is not enabled",
                hint=f"add {scheme} to enabled_schemes in [imagebroker]",
            )

    def service(self, name: str) -> type:
        """The class that takes the place of Ironic's class of this name."""
        if name not in self._made:
            ours, theirs = _REPLACED[name], getattr(self._originals, name, None)
            bases = (ours, theirs) if isinstance(theirs, type) else (ours,)
            values = {"_in": self._surroundings, "__doc__": ours.__doc__, "__module__": __name__}
            self._made[name] = type(name, bases, values)
        return self._made[name]

    @property
    def schemes(self) -> list[str]:
        """The schemes that are enabled, sorted."""
        return sorted(e.scheme for e in self._surroundings.broker.backends() if e.enabled)

    def install(self, module: Any) -> None:
        """Put these services in the place of those in `ironic.common.image_service`.

        Without a backend for `oci:`, Ironic's own service for it stays.
        """
        enabled = self.schemes
        for scheme, name in _OF_SCHEME.items():
            if scheme in enabled:
                module.protocol_mapping[scheme] = self.service(name)
                setattr(module, name, self.service(name))


def _is_uuid(text: str) -> bool:
    try:
        return bool(uuid.UUID(text))
    except ValueError:
        return False


@functools.cache
def of_ironic() -> Services:
    """With what Ironic has: its configuration, exceptions, classes, and rule for Glance."""
    originals = importlib.import_module("ironic.common.image_service")
    rules = importlib.import_module("ironic.common.glance_service.service_utils")
    conf = importlib.import_module("ironic.conf").CONF
    return Services(
        broker_of(conf), conf, importlib.import_module("ironic.common.exception"),
        originals=_Frozen(originals), available=rules.is_image_available,
    )  # fmt: skip


class _Frozen:
    """The classes of a module as they are now, whatever is put in their place later."""

    def __init__(self, module: Any) -> None:
        self.protocol_mapping = dict(module.protocol_mapping)
        for name in _REPLACED:
            setattr(self, name, getattr(module, name, None))


def get_image_service(image_href: Any, client: Any = None, context: Any = None) -> Any:
    """What `ironic.common.image_service.get_image_service` is, on a broker."""
    return of_ironic().get_image_service(image_href, client=client, context=context)


def install(module: Any = None) -> Services:
    """Let Ironic use these services; called once, after its configuration was read.

    :param module: `ironic.common.image_service`.
    """
    services = of_ironic()
    services.install(module or sys.modules["ironic.common.image_service"])
    return services
