"""Runs in Ironic's environment: puts our services in the place of Ironic's."""

from __future__ import annotations

import importlib

# First, as in Ironic's own tests: they decide how threads are.
importlib.import_module("ironic.tests.unit")

import ironic.common.image_service  # noqa: E402

import imagebroker.compat.ironic  # noqa: E402


def swap() -> None:
    """From now on `ironic.common.image_service` has the services of the drop-in."""
    imagebroker.compat.ironic.install(ironic.common.image_service)
