"""Where the packets of an ssh connection begin and end, from what was said on it."""

from __future__ import annotations

import socket
import threading

from tests.servers.process import HOST

_NEWKEYS = 21
_TAG = 16


class Recorder:
    """Passes one connection on to a server, and keeps what both sides say."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._listener = socket.create_server((HOST, 0))
        self.port: int = self._listener.getsockname()[1]
        self.said = {"client": bytearray(), "server": bytearray()}
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def _serve(self) -> None:
        client, _ = self._listener.accept()
        with client, socket.create_connection((HOST, self._port)) as server:
            answers = threading.Thread(target=self._pump, args=(server, client, "server"))
            answers.start()
            self._pump(client, server, "client")
            answers.join()

    def _pump(self, source: socket.socket, sink: socket.socket, side: str) -> None:
        try:
            while data := source.recv(65536):
                self.said[side] += data
                sink.sendall(data)
            sink.shutdown(socket.SHUT_WR)
        except OSError:
            pass  # the other side is gone, and so is the connection

    def close(self) -> None:
        self._thread.join(10)
        self._listener.close()


def packets(said: bytes) -> list[int]:
    """The offsets at which the greeting and each packet end.

    After the keys are exchanged the lengths can be read where the cipher is AES-GCM only.

    :raises ValueError: it is not.
    """
    position = said.index(b"\n") + 1
    ends, tag = [position], 0
    while position + 4 <= len(said):
        length = int.from_bytes(said[position : position + 4], "big")
        kind = said[position + 5] if not tag else 0
        position += 4 + length + tag
        if length > 40_000 or position > len(said):
            raise ValueError(f"no packet of {length} bytes ends at {position} of {len(said)}")
        ends.append(position)
        if kind == _NEWKEYS:
            tag = _TAG
    return ends
