"""Images behind http and https URLs; read-only."""

from imagebroker_http.backend import HttpBackend

__all__ = ["HttpBackend"]
