"""Images in containers of OpenStack Swift: `swift://container/object`."""

from imagebroker_swift.backend import SwiftBackend

__all__ = ["SwiftBackend"]
