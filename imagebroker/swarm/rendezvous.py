"""Where hosts of a fleet find each other: a small HTTPS server that remembers who asked for what.

Its state is in memory. If it dies, hosts that know each other go on, and others read from the
backend as they would without a swarm. It learns digests of images and addresses of hosts, and sees
no byte of an image.
"""

from __future__ import annotations

import json
import random
import re
import ssl
import threading
from collections.abc import Callable, Sequence
from http.client import HTTPException, HTTPSConnection
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from socket import create_connection
from time import monotonic
from typing import Any

from imagebroker.swarm.certificates import NAME, Identity, is_of_fleet

#: Seconds for which a host is remembered; it asks again every third of them.
REMEMBERED = 12.0
#: Members of one image that are named in an answer.
MAX_NAMED = 64
_MOST_TOPICS, _MOST_MEMBERS = 10_000, 20_000
_LARGEST = 64 * 1024
_TOPIC = re.compile(r"[0-9a-f]{64}")
#: Where one host is announced for many images at once.
_MANY = "many"
#: Images of one announcement.
_MOST_AT_ONCE = 800
_ADDRESS = re.compile(r"[0-9A-Fa-f.:\[\]]{2,45}:[0-9]{1,5}")
_TIMEOUT = 5.0


class Members:
    """Who was here lately, by topic."""

    def __init__(self, clock: Callable[[], float] = monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._topics: dict[str, dict[str, float]] = {}

    def register(self, topic: str, address: str) -> list[str]:
        """Note that `address` is a member; the others, at random if they are many."""
        with self._lock:
            now = self._clock()
            self._forget(now)
            members = self._topics.setdefault(topic, {})
            if address in members or len(members) < _MOST_MEMBERS:
                members[address] = now
            others = [each for each in members if each != address]
        return random.sample(others, min(len(others), MAX_NAMED))

    def leave(self, topic: str, address: str) -> None:
        with self._lock:
            self._topics.get(topic, {}).pop(address, None)

    def _forget(self, now: float) -> None:
        for topic, members in list(self._topics.items()):
            for address, seen in list(members.items()):
                if now - seen > REMEMBERED:
                    del members[address]
            if not members:
                del self._topics[topic]
        while len(self._topics) >= _MOST_TOPICS:
            self._topics.pop(next(iter(self._topics)))


class _Handler(BaseHTTPRequestHandler):
    server: Server
    protocol_version = "HTTP/1.1"
    timeout = _TIMEOUT

    def do_POST(self) -> None:
        topic = self.path.removeprefix("/v1/")
        known = topic == _MANY or _TOPIC.fullmatch(topic)
        size = self.headers.get("Content-Length", "")
        if not known or not size.isdigit() or int(size) > _LARGEST:
            self._answer(400, {})
            return
        try:
            asked = json.loads(self.rfile.read(int(size)))
            address, leaving = asked["address"], bool(asked.get("leaving"))
            topics = [str(each) for each in asked.get("topics", ())]
        except (ValueError, KeyError, TypeError, AttributeError):
            self._answer(400, {})
            return
        if not isinstance(address, str) or not _ADDRESS.fullmatch(address):
            self._answer(400, {})
        elif topic == _MANY:
            for each in filter(_TOPIC.fullmatch, topics[:_MOST_AT_ONCE]):
                self.server.members.register(each, address)
            self._answer(200, {})
        elif leaving:
            self.server.members.leave(topic, address)
            self._answer(200, {})
        else:
            self._answer(200, {"members": self.server.members.register(topic, address)})

    def _answer(self, status: int, content: dict[str, Any]) -> None:
        body = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        pass


class Server(ThreadingHTTPServer):
    """Answers hosts that have a certificate of the fleet, and nobody else."""

    daemon_threads = True
    request_queue_size = 256

    def __init__(self, address: tuple[str, int], identity: Identity) -> None:
        """:raises OSError: the address cannot be listened on."""
        self.members = Members()
        self._context = identity.server()
        super().__init__(address, _Handler)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        # The handshake belongs to the thread of its connection: a silent client holds up nobody.
        try:
            request.settimeout(_TIMEOUT)
            secured = self._context.wrap_socket(request, server_side=True)
        except (OSError, ssl.SSLError):
            self.shutdown_request(request)
            return
        if not is_of_fleet(secured.getpeercert()):
            self.shutdown_request(secured)
            return
        super().process_request_thread(secured, client_address)

    def handle_error(self, request: Any, client_address: Any) -> None:
        pass  # a client that went away


def announce(where: str, tls: ssl.SSLContext, topics: Sequence[str], address: str) -> None:
    """Tell the rendezvous that this host has these images, and wants nothing.

    :raises Unreachable: it does not answer.
    """
    for at in range(0, len(topics), _MOST_AT_ONCE):
        chosen = list(topics[at : at + _MOST_AT_ONCE])
        _ask(where, tls, _MANY, {"address": address, "topics": chosen})


class Unreachable(Exception):
    """No answer that could be used."""


def register(
    where: str, tls: ssl.SSLContext, topic: str, address: str, *, leaving: bool = False
) -> list[str]:
    """Tell the rendezvous at HOST:PORT that this host is a member; the addresses of others.

    :raises Unreachable: it does not answer.
    """
    content = _ask(where, tls, topic, {"address": address, "leaving": leaving})
    found = content.get("members", [])
    if not isinstance(found, list):
        raise Unreachable(f"{where} answered with no list")
    return [each for each in found if isinstance(each, str) and _ADDRESS.fullmatch(each)]


def _ask(where: str, tls: ssl.SSLContext, what: str, asked: dict[str, Any]) -> dict[str, Any]:
    """:raises Unreachable: no answer that could be used."""
    host, _, port = where.rpartition(":")
    connection = _Connection(host.strip("[]"), int(port), tls)
    try:
        fields = {"Content-Type": "application/json"}
        connection.request("POST", f"/v1/{what}", json.dumps(asked), fields)
        answer = connection.getresponse()
        content = json.loads(answer.read(64 * 1024))
    except (OSError, HTTPException, ValueError) as error:
        raise Unreachable(f"{where}: {error}") from error
    finally:
        connection.close()
    if answer.status != 200 or not isinstance(content, dict):
        raise Unreachable(f"{where} answered with status {answer.status}")
    return content


class _Connection(HTTPSConnection):
    """To a server whose certificate bears the fleet's name, whatever its address is."""

    def __init__(self, host: str, port: int, tls: ssl.SSLContext) -> None:
        self._tls = tls
        super().__init__(host, port, timeout=_TIMEOUT, context=tls)

    def connect(self) -> None:
        plain = create_connection((self.host, self.port), self.timeout)
        self.sock = self._tls.wrap_socket(plain, server_hostname=NAME)
