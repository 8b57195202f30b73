"""Runs in Cinder's environment: puts the drop-in in the place of Cinder's image service."""

from __future__ import annotations

import importlib

# First, as in Cinder's own tests: they decide how threads are.
importlib.import_module("cinder.tests.unit")

import cinder.exception  # noqa: E402
import cinder.image.image_utils  # noqa: E402
from cinder.common import config  # noqa: E402
from cinder.image import glance  # noqa: E402

from imagebroker.compat.cinder import GlanceImageService, broker_of  # noqa: E402


def swap() -> None:
    """From now on `cinder.image.glance.GlanceImageService` is the drop-in."""
    glance.GlanceImageService = GlanceImageService.on(broker_of(config.CONF), cinder.exception)
