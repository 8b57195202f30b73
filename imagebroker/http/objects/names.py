"""Where an instance keeps its images, and what they may be called there."""

from __future__ import annotations

from dataclasses import dataclass

from imagebroker.backends.backend import BackendHost
from imagebroker.exceptions import (
    ConfigError,
    InvalidImageRef,
    PolicyViolation,
    UnsupportedOperation,
)
from imagebroker.model.image import Image

_MAX_BYTES = 900


@dataclass(frozen=True)
class Place:
    """The bucket or container of `create_in`, and what keys there begin with."""

    #: What services call a bucket.
    word: str
    title: str
    bucket: str
    prefix: str

    @classmethod
    def configured(cls, host: BackendHost, word: str) -> Place:
        """:raises ConfigError: `create_in` is no place."""
        bucket, _, prefix = (host.options.create_in or "").strip("/").partition("/")
        if {".", ".."} & {bucket, *prefix.split("/")}:
            raise ConfigError(
                f"[backend:{host.title}] create_in: {host.options.create_in!r} is not valid",
                hint=f"write it as {word} or {word}/prefix",
            )
        return cls(word, host.title, bucket, f"{prefix}/" if prefix else "")

    def needed_to(self, what: str) -> Place:
        """:raises UnsupportedOperation: `create_in` is not set."""
        if not self.bucket:
            raise UnsupportedOperation(
                f"the {self.title} backend cannot {what} without a {self.word}",
                hint=f"set create_in to {self.word} or {self.word}/prefix",
            )
        return self

    def key(self, name: str | None) -> str:
        """The key for an image of this name.

        :raises InvalidImageRef: no key can be made of it.
        """
        found = name or ""
        if not found or found.endswith("/") or {"", ".", ".."} & set(found.split("/")):
            raise InvalidImageRef(
                f"{name!r} cannot be the key of an object",
                hint="set name to text without empty, . or .. parts between slashes",
            )
        key = self.prefix + found
        try:
            size = len(key.encode())
        except UnicodeEncodeError:
            size = _MAX_BYTES + 1
        if size > _MAX_BYTES or not found.isprintable():
            raise InvalidImageRef(
                f"{found[:50]!r} cannot be the key of an object",
                hint=f"set name to at most {_MAX_BYTES - len(self.prefix.encode())} bytes of "
                "printable text",
            )
        return key


def can_be_named(key: str) -> bool:
    """Whether a ref can name an object: no folder of some program's, and no path that HTTP clients
    would change."""
    return not key.endswith("/") and not {".", ".."} & set(key.split("/"))


def check_unprotected(record: Image) -> None:
    """:raises PolicyViolation: the image is protected."""
    if record.protected:
        raise PolicyViolation(
            f"{record.ref} is protected",
            hint=f"remove its protection first: imagebroker update {record.ref} --no-protected",
        )
