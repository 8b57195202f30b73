"""The file backend: `file:///path` below allowed directories, and the embedded store of images."""

from imagebroker_file.backend import FileBackend

__all__ = ["FileBackend"]
