"""Shared code of OpenStack's backends: tokens and catalogues of Keystone, by keystoneauth."""

from __future__ import annotations

from imagebroker.http.keystone import (
    MAX_ANSWER,
    auth_options,
    check_complete,
    configured_urls,
    identity_session,
    load_auth,
)
from imagebroker.http.keystone_errors import Login, translated
from imagebroker.http.personal_cloud import incomplete, personal_cloud

__all__ = [
    "MAX_ANSWER",
    "Login",
    "auth_options",
    "check_complete",
    "configured_urls",
    "identity_session",
    "incomplete",
    "load_auth",
    "personal_cloud",
    "translated",
]
