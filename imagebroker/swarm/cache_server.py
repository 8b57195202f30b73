"""`imagebroker swarm serve`, as the process that looks into the cache: it has another one serve."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from time import monotonic
from typing import Any

from imagebroker.exceptions import ConfigError
from imagebroker.redaction import redact
from imagebroker.swarm.fleet import Fleet
from imagebroker.swarm.plan import topic
from imagebroker.swarm.second_process import Child
from imagebroker.system.exhaustion import start as start_thread
from imagebroker.system.forks import Condition, Thread

LOG = logging.getLogger(__name__)

#: Seconds between two looks into the cache.
_AGAIN = 5.0
_PROGRAM = "imagebroker.swarm.seeder"

#: What may be served, by what the fleet calls it: path, algorithm, digest, size.
Images = Mapping[str, tuple[str, str, str, int]]


def image(path: str, algorithm: str, digest: str, size: int) -> Images:
    """One that is in the cache."""
    return {topic(algorithm, digest): (path, algorithm, digest, size)}


class CacheServer:
    """Serves what `images` names, until it is closed."""

    def __init__(self, fleet: Fleet, ports: Sequence[int], images: Callable[[], Images]) -> None:
        """:raises OSError, ConfigError: there is no directory, or no process."""
        self._images = images
        start = replace(fleet.start("", 1, 0, 0.0), ports=list(ports))
        first = {"t": "serve", "start": asdict(start), "linger": fleet.linger}
        self._child = Child(start, _PROGRAM, first)
        self._changed = Condition()
        #: Where hosts call; None: not yet.
        self.port: int | None = None
        self._why: str | None = None
        self._listener = Thread(target=self._listen, name="imagebroker-swarm")
        start_thread(self._listener)

    def serve(self, listening: Callable[[int], Any]) -> None:
        """Until something ends it. `listening` hears of the port once.

        :raises ConfigError: it cannot be served.
        """
        told = False
        while True:
            self._child.send({"t": "images", "of": dict(self._images())})
            ends = monotonic() + _AGAIN
            with self._changed:
                while self._why is None and monotonic() < ends and (told or self.port is None):
                    self._changed.wait(_AGAIN)
                if self._why is not None:
                    raise ConfigError(
                        f"the cache is not served: {self._why}",
                        hint="name free ports with --ports, such as 7889-7920",
                    )
                port = self.port
            if not told and port is not None:
                told = True
                listening(port)

    def _listen(self) -> None:
        for message in self._child.messages():
            match message["t"]:
                case "listening":
                    self._tell(port=message["port"])
                case "note":
                    LOG.warning("swarm: %s", redact(message["text"]))
                case "left_out":
                    LOG.warning("swarm: %s; left out", redact(message["text"]))
                case "trace":
                    LOG.debug("swarm: %s", message["text"])
                case "leave":
                    self._tell(why=message["why"])
                case _:
                    pass
        self._tell(why=f"its process ended{self._child.last_words()}")

    def _tell(self, *, port: int | None = None, why: str | None = None) -> None:
        with self._changed:
            self.port = port or self.port
            self._why = self._why or why
            self._changed.notify_all()

    def close(self) -> None:
        self._child.end(None)
        self._listener.join(5.0)


def every_port(text: str) -> list[int]:
    """All ports from FIRST to LAST. :raises ConfigError: it is not a range of two or more."""
    first, _, last = text.partition("-")
    if first.isdigit() and last.isdigit() and 0 < int(first) < int(last) < 1 << 16:
        return list(range(int(first), int(last) + 1))
    raise ConfigError(
        f"--ports: {redact(text, 40)!r} is not a range of ports", hint="write it as 7889-7920"
    )
