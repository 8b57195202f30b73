"""A listening socket on an address that policy forbids: it counts who comes."""

from __future__ import annotations

import socket
import threading
from types import TracebackType
from typing import Any, Self

#: Loopback like the servers of the tests, and outside of the networks that these tests allow.
FORBIDDEN = "127.0.0.66"
#: The one address that is allowed: the other servers of the tests listen there.
ALLOWED = "127.0.0.1/32"
#: Both, for the tests that show that the trap would see somebody who comes.
BOTH = f"{ALLOWED}, {FORBIDDEN}/32"


class Trap:
    """Listens on every address of this host, IPv4 and IPv6, and hangs up at once.

    On all of them, because a spelling may be read as another address than the one that is meant.
    """

    def __init__(self) -> None:
        self.visitors: list[Any] = []
        self._listener = socket.create_server(
            ("::", 0), family=socket.AF_INET6, dualstack_ipv6=True, backlog=64
        )
        self.port: int = self._listener.getsockname()[1]
        self._thread = threading.Thread(target=self._accept, daemon=True)

    def url(self, scheme: str = "http", path: str = "/image", host: str = FORBIDDEN) -> str:
        return f"{scheme}://{host}:{self.port}{path}"

    def _accept(self) -> None:
        while True:
            try:
                connection, address = self._listener.accept()
            except OSError:
                return
            self.visitors.append(address)
            connection.close()

    def count(self) -> int:
        """How many came until now: a connection of ours, which comes last, is not among them."""
        with socket.create_connection((FORBIDDEN, self.port), timeout=10) as sock:
            sock.recv(1)  # its end: the trap has seen it, and all that came before
        self.visitors.pop()
        return len(self.visitors)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join(5)
