"""Images in OpenStack's image service (Glance, API v2), by id."""

from imagebroker_glance.backend import GlanceBackend

__all__ = ["GlanceBackend"]
