"""Backends that break a clause about forks or about the process."""

import os
import random
import socket
from concurrent.futures import ThreadPoolExecutor
from typing import ClassVar

from imagebroker.plugin import (
    Context,
    ImageRef,
    ImageSource,
)
from imagebroker.testing.fakes.memory import MemoryBackend
from tests.testing.broken.register import LEAKED, broken


@broken("C35")
class AnswersFromAPool(MemoryBackend):
    """Its threads are the parent's."""

    pool: ClassVar[ThreadPoolExecutor | None] = None

    def open(self, context: Context, ref: ImageRef) -> ImageSource:
        cls = type(self)
        if cls.pool is None:
            cls.pool = ThreadPoolExecutor(max_workers=1)
            LEAKED.append(cls.pool.shutdown)
        return cls.pool.submit(super().open, context, ref).result()


@broken("C31")
class Prints(MemoryBackend):
    def open(self, context: Context, ref: ImageRef) -> ImageSource:
        print("opening", ref)
        return super().open(context, ref)


@broken("C31")
class SetsTheDefaultTimeout(MemoryBackend):
    def open(self, context: Context, ref: ImageRef) -> ImageSource:
        socket.setdefaulttimeout(20 + random.random())
        LEAKED.append(lambda: socket.setdefaulttimeout(None))
        return super().open(context, ref)


@broken("C31")
class SetsTheEnvironment(MemoryBackend):
    def open(self, context: Context, ref: ImageRef) -> ImageSource:
        os.environ["IMAGE"] = str(random.random())
        LEAKED.append(lambda: os.environ.pop("IMAGE", None))
        return super().open(context, ref)
