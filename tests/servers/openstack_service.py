"""One of Keystone and Glance under gunicorn, and how to talk to it."""

from __future__ import annotations

import http.client
import json
import os
import signal
import socket
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from tests.canaries import secret
from tests.servers import openstack_files
from tests.servers.process import HOST, ServerProcess

JSON = "application/json"


def cache_directory() -> Path:
    """Return where tests/install-servers puts things."""
    if own := os.environ.get("IMAGEBROKER_TEST_CACHE"):
        return Path(own)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "imagebroker-tests"


def environment() -> Path:
    """Return the virtualenv with Glance and Keystone."""
    return cache_directory() / "openstack"


class Service:
    """One WSGI application under gunicorn, which takes over a socket that listens already.

    So no port can be lost between choosing and binding it, and whoever connects early waits.
    """

    def __init__(
        self, application: str, directory: Path, listener: socket.socket, modules: str = ""
    ) -> None:
        """``modules``: a folder with further ones."""
        self._port = listener.getsockname()[1]
        configuration = openstack_files.gunicorn(application, listener.fileno())
        (directory / "gunicorn.conf.py").write_text(configuration)
        self.process = ServerProcess(
            [environment() / "bin" / "gunicorn"],
            log=directory / "log",
            cwd=directory,
            env=variables(directory, modules),
            pass_fds=[listener.fileno()],
            stop_signal=signal.SIGQUIT,  # at once; SIGTERM lets requests end first
        )
        listener.close()  # or connections to a dead server would hang instead of being refused

    def wait(self, path: str) -> None:
        """Wait until the application answers."""
        self.process.wait_until(lambda: _answers(self._port, path), seconds=300)


def start_keystone(directory: Path, listener: socket.socket, token_seconds: int = 3600) -> Service:
    (directory / "keystone.conf").write_text(openstack_files.keystone(directory, token_seconds))
    return Service("keystone.wsgi.api:application", directory, listener)


def variables(directory: Path, modules: str = "") -> dict[str, str]:
    """Return the environment of a server: nothing of the caller's, above all no proxies."""
    (directory / "site").mkdir(exist_ok=True)
    (directory / "site" / "sitecustomize.py").write_text(openstack_files.SITECUSTOMIZE)
    return {
        "PATH": f"{environment()}/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        "HOME": str(directory),
        "LANG": "C.UTF-8",
        "PYTHONPATH": f"{directory / 'site'}:{modules}".rstrip(":"),
        "OS_KEYSTONE_CONFIG_DIR": str(directory),
        "OS_GLANCE_CONFIG_DIR": str(directory),
    }


def url_of(listener: socket.socket) -> str:
    return f"http://{HOST}:{listener.getsockname()[1]}"


def _answers(port: int, path: str) -> bool:
    connection = http.client.HTTPConnection(HOST, port, timeout=20)
    try:
        connection.request("GET", path)
        return connection.getresponse().status == 200
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


def call(
    method: str, url: str, body: bytes | object = None, headers: Mapping[str, str] | None = None
) -> Any:
    """Send a request; return the JSON, bytes or None of the answer.

    Bytes are sent as image data, other bodies as JSON; an image's PATCH has a type of its own.

    :raises AssertionError: unless the status is a 2xx.
    """
    answer, data = exchange(method, url, body, headers or {})
    if not 200 <= answer.status < 300:
        raise AssertionError(f"{method} {url}: {answer.status} {data[:500]!r}")
    if "json" in (answer.getheader("Content-Type") or ""):
        return json.loads(data)
    return data or None


def exchange(
    method: str, url: str, body: bytes | object, headers: Mapping[str, str]
) -> tuple[http.client.HTTPResponse, bytes]:
    # http.client, because the others look at the proxies of the environment.
    parts = urlsplit(url)
    connection = http.client.HTTPConnection(parts.hostname or HOST, parts.port, timeout=60)
    kind = "application/octet-stream"
    if body is not None and not isinstance(body, bytes):
        body = json.dumps(body).encode()
        kind = "application/openstack-images-v2.1-json-patch" if method == "PATCH" else JSON
    target = parts.path + (f"?{parts.query}" if parts.query else "")
    try:
        connection.request(method, target, body, {"Content-Type": kind, **headers})
        answer = connection.getresponse()
        return answer, answer.read()
    finally:
        connection.close()


def token(auth_url: str, user: str, password: str, project: str) -> str:
    domain = {"name": "Default"}
    identity = {
        "methods": ["password"],
        "password": {"user": {"name": user, "password": password, "domain": domain}},
    }
    scope = {"project": {"name": project, "domain": domain}}
    answer, data = exchange(
        "POST", f"{auth_url}/auth/tokens", {"auth": {"identity": identity, "scope": scope}}, {}
    )
    if answer.status != 201:
        raise AssertionError(f"no token for {user}: {answer.status} {data[:500]!r}")
    return secret(answer.headers["X-Subject-Token"])
