"""From an identifier to the backend that handles it, without using the network."""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace

from imagebroker.backends.boundary import Boundary
from imagebroker.config.settings import Section, Settings, parse_backend
from imagebroker.exceptions import ConfigError, PolicyViolation, SchemeNotEnabled
from imagebroker.model.reference import (
    DEFAULT_PORTS,
    ImageRef,
    below,
    id_below,
    in_form,
    looks_like_image_url,
    parse,
    with_opaque_authority,
)
from imagebroker.registry import Registry

LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class Resolution:
    """Which backend handles an identifier, and why."""

    #: As it is passed to the backend.
    ref: ImageRef
    #: `NAME` or `NAME:INSTANCE`.
    backend: str
    #: The distribution and version that provide it.
    distribution: str
    reason: str
    capabilities: tuple[str, ...]


class Routes:
    """Finds the backend of a ref, for one call."""

    def __init__(self, settings: Settings, registry: Registry) -> None:
        self._settings, self._registry = settings, registry
        #: The backend of the call's own ref.
        self.asked: Boundary | None = None

    def find(self, id_or_uri: str | ImageRef) -> tuple[ImageRef, Boundary]:
        """The ref as it is passed to its backend, and the backend."""
        ref, backend, _ = self.resolved(id_or_uri)
        return ref, backend

    def aside(self, url: str) -> tuple[ImageRef, Boundary]:
        """As `find`, for another ref than the call's own: `asked` stays as it is."""
        asked = self.asked
        try:
            return self.find(url)
        finally:
            self.asked = asked

    def resolved(self, id_or_uri: str | ImageRef) -> tuple[ImageRef, Boundary, str]:
        """As `find`, and why. Checked in this order: grammar, enabled, form, policy."""
        ref = self._opaque(parse(id_or_uri))
        section, rest, reason = self._section(ref)
        self.asked = backend = self._backend(section, default=ref.scheme is None)
        form = backend.declared.ref_form
        if rest is not None and (image_id := id_below(rest, form)):
            ref = ImageRef(backend.host.ref(image_id), section.name, section.instance, image_id,
                           pin=ref.pin)  # fmt: skip
        elif ref.scheme is None:
            ref = replace(ref, text=backend.host.ref(ref.id or ""), scheme=section.name,
                          instance=section.instance)  # fmt: skip
        ref = in_form(ref, form)
        backend.host.policy.check_ref(ref)
        return ref, backend, reason

    def _opaque(self, ref: ImageRef) -> ImageRef:
        """`ref` with its authority as an opaque name, if it is one for the backend of its scheme.

        Needed first: endpoints are compared with it.
        """
        if ref.scheme is None or ref.scheme in DEFAULT_PORTS or ref.id is not None:
            return ref
        if ref.scheme not in self._registry.enabled:
            return ref
        return with_opaque_authority(ref, self._registry.declaration(ref.scheme).ref_form)

    def _section(self, ref: ImageRef) -> tuple[Section, str | None, str]:
        """The instance that handles `ref`, the rest of the ref after its endpoint, and why."""
        if ref.scheme is None:
            default = self._settings.core.default_backend
            return self._default(), None, f"a plain id belongs to default_backend = {default}"
        if ref.id is not None or ref.instance is not None:
            self._registry.check_enabled(ref.scheme)
            return Section(ref.scheme, ref.instance), None, "the ref names it"
        best: tuple[str, Section, str] | None = None
        for section in self._registry.sections:
            for prefix in self._endpoints(section, ref):
                rest = below(ref, prefix)
                if rest is not None and (best is None or len(prefix) > len(best[0])):
                    best = (prefix, section, rest)
        if best is not None:
            return best[1], best[2], f"it is below endpoint {best[0]} of [{best[1].group}]"
        if looks_like_image_url(ref):
            raise PolicyViolation(
                f"{ref} is an image URL of a Glance service that is not configured",
                hint="set endpoint of a glance backend to the service, or use the image's id",
            )
        self._registry.check_enabled(ref.scheme)
        return Section(ref.scheme, None), None, f"its scheme is {ref.scheme}"

    def _endpoints(self, section: Section, ref: ImageRef) -> list[str]:
        """The prefixes of an instance; invalid ones of another backend are only logged."""
        try:
            return self._registry.endpoints(section)
        except ConfigError as error:
            if section.name == ref.scheme:
                raise
            LOG.warning("%s", error)
            return []

    def _default(self) -> Section:
        return parse_backend(self._settings.core.default_backend)

    def named(self, title: str | None) -> Boundary:
        """The backend that `backend=` names; None: `default_backend`."""
        section = self._default() if title is None else parse_backend(title)
        self.asked = self._backend(section, default=title is None)
        return self.asked

    def _backend(self, section: Section, *, default: bool) -> Boundary:
        """`default`: whether it was `default_backend`, not the caller, that named it."""
        try:
            return self._registry.backend(section)
        except SchemeNotEnabled as error:
            if not default:
                raise
            raise SchemeNotEnabled(
                f"default_backend is {section.title!r}, and {error}",
                hint=f"set default_backend to an enabled backend, or {error.hint}",
                option="default_backend",
            ) from error
