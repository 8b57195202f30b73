"""nginx serving a directory over http and https."""

from __future__ import annotations

import base64
import importlib.util
import json
import os
import shutil
import signal
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from tests.bounds import HANGS
from tests.canaries import secret
from tests.servers.process import HOST, Server, ServerProcess, accepts, free_ports, retried

REDIRECT_CODES = 301, 302, 303, 307, 308
#: What is wrong with the certificate of each TLS port.
TLS_PORTS = "good", "wrong-host", "expired", "self-signed"

#: For ``/private/``.
PASSWORD = secret("basic-canary-5d1c")


def missing() -> str | None:
    """Return what to install, or None."""
    if program() is None:
        return "nginx is not installed: apt-get install nginx-light"
    if importlib.util.find_spec("trustme") is None:
        return "trustme is not installed: pip install trustme"
    return None


def program() -> str | None:
    # Not in the PATH of users other than root.
    return shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin:/usr/local/sbin")


@dataclass(frozen=True)
class Request:
    """One line of the access log; headers that were not sent are empty."""

    time: float
    port: int
    line: str
    range: str
    if_range: str
    authorization: str
    accept_encoding: str
    user_agent: str
    status: int
    #: Bytes of the body that nginx handed to the kernel, which is more than the client has read
    #: when it went away.
    sent: int
    #: Serial number of the connection: equal for two requests that shared one.
    connection: int


class Nginx(Server):
    """Serves ``root``, with ranges, strong ETags and no listing; the first path segment may ask
    for something else:

    ``/slow/P``             P at ``slow_rate`` bytes a second per connection
    ``/private/P``          P for ``user`` and ``password`` (Basic)
    ``/gzip/P``             P compressed if the client accepts that; no ranges then, a weak ETag
    ``/norange/P``          P, ignoring Range headers
    ``/nohead/P``           P for GET, 404 for HEAD
    ``/noetag/P``           P without an ETag
    ``/redirect/CODE/P``    redirects to /P (CODE one of 301, 302, 303, 307, 308)
    ``/redirect-to/CODE/U`` redirects to the URL U, of any scheme
    """

    ca_file: Path
    access_log: Path
    error_log: Path
    ports: dict[str, int]

    def __init__(
        self,
        root: Path,
        *,
        slow_rate: int = 256 * 1024,
        user: str = "tester",
        password: str = PASSWORD,
        redirects: Mapping[str, tuple[int, str]] | None = None,
        directory: Path | None = None,
    ) -> None:
        """``redirects`` maps a path such as ``/loop`` to a code and a Location."""
        super().__init__(directory)
        self.root = root
        self.slow_rate = slow_rate
        self.user = user
        self.password = password
        self.redirects = dict(redirects or {})
        self._process: ServerProcess | None = None

    @property
    def http_url(self) -> str:
        return f"http://{HOST}:{self.ports['http']}"

    @property
    def https_url(self) -> str:
        return self.tls_url("good")

    def tls_url(self, certificate: str) -> str:
        """Return the base URL whose certificate is one of TLS_PORTS."""
        return f"https://{HOST}:{self.ports[certificate]}"

    def url(self, path: str, *, prefix: str = "") -> str:
        """Return the http URL of a file below root, e.g. ``url("a.img", prefix="slow")``."""
        return "/".join(filter(None, [self.http_url, prefix, quote(path.lstrip("/"))]))

    def redirect_to(self, target: str, code: int = 302) -> str:
        """Return a URL that redirects to any URL at all."""
        return f"{self.http_url}/redirect-to/{code}/{target}"

    @property
    def authorization(self) -> str:
        """The header value that opens ``/private/``."""
        return "Basic " + base64.b64encode(f"{self.user}:{self.password}".encode()).decode()

    def requests(self, containing: str = "", *, at_least: int = 0) -> list[Request]:
        """Return the logged requests whose request line contains the text, oldest first.

        nginx logs a request when it has ended, maybe after the client saw the last byte: say how
        many must be there, and this waits for them.
        """
        deadline = time.monotonic() + HANGS
        while True:
            lines = self.access_log.read_text(errors="surrogateescape").split("\n")
            lines.pop()  # it may be half written
            found = [each for each in map(_parse, lines) if containing in each.line]
            if len(found) >= at_least:
                return found
            if time.monotonic() > deadline:
                raise AssertionError(f"{len(found)} of {at_least} requests in {self.access_log}")
            time.sleep(0.01)

    def _start(self) -> None:
        from tests.servers.certificates import write_certificates  # needs trustme: see missing()

        self.ca_file = write_certificates(self.directory / "tls")
        self.access_log = self.directory / "access.log"
        self.error_log = self.directory / "error.log"
        self.access_log.touch()
        (self.directory / "htpasswd").write_text(f"{self.user}:{{PLAIN}}{self.password}\n")
        retried(self._launch)

    def _launch(self) -> None:
        self.error_log.unlink(missing_ok=True)
        self.ports = dict(zip(("http", *TLS_PORTS), free_ports(1 + len(TLS_PORTS)), strict=True))
        configuration = self.directory / "nginx.conf"
        configuration.write_text(self._configuration())
        pid_file = self.directory / "nginx.pid"
        # -e: otherwise it first tries the system's log, which only root may write.
        argv = [program() or "nginx", "-e", "stderr", "-c", str(configuration)]
        self._process = ServerProcess(argv, log=self.error_log, stop_signal=signal.SIGTERM)
        # The pid file comes after all ports are bound: until then somebody else may answer there.
        self._process.wait_until(
            lambda: pid_file.exists() and all(map(accepts, self.ports.values()))
        )

    def restart(self) -> None:
        """End it with all its connections, and start it again, on other ports."""
        self._stop()
        (self.directory / "nginx.pid").unlink(missing_ok=True)
        retried(self._launch)

    def _stop(self) -> None:
        if self._process is not None:
            self._process.stop()

    def _configuration(self) -> str:
        directory = _quoted(self.directory)[1:-1]
        return _CONFIGURATION % {
            "user": "user root;" if os.geteuid() == 0 else "",
            "directory": directory,
            "servers": "\n".join(self._server(name) for name in self.ports),
        }

    def _server(self, name: str) -> str:
        tls = ""
        if name != "http":
            file = _quoted(self.directory / "tls" / f"{name}.pem")
            tls = f"ssl_certificate {file}; ssl_certificate_key {file};"
        return _SERVER % {
            "listen": f"{HOST}:{self.ports[name]} {'ssl' if tls else ''}",
            "tls": tls,
            "root": _quoted(self.root)[1:-1],
            "slow_rate": self.slow_rate,
            "htpasswd": _quoted(self.directory / "htpasswd"),
            "redirects": "\n".join([*_FIXED_REDIRECTS, *self._own_redirects()]),
        }

    def _own_redirects(self) -> list[str]:
        return [
            f"    location = {_quoted(path)} {{ return {code} {_quoted(target)}; }}"
            for path, (code, target) in self.redirects.items()
        ]


def _parse(line: str) -> Request:
    return Request(**json.loads(line))


def _quoted(value: str | Path) -> str:
    # nginx has no way to write a dollar sign that is not a variable.
    if "$" in str(value):
        raise ValueError(f"{value} contains a dollar sign")
    return '"' + str(value).replace("\\", "\\\\").replace('"', '\\"') + '"'


# $request_uri is what the client sent; $uri would be decoded and have its double slashes merged.
_CONFIGURATION = """
daemon off;
worker_processes 1;
pid "%(directory)s/nginx.pid";
error_log stderr info;
%(user)s
events { worker_connections 1024; }
http {
  log_format requests escape=json '{"time":$msec,"port":$server_port,"line":"$request",'
    '"range":"$http_range","if_range":"$http_if_range","authorization":"$http_authorization",'
    '"accept_encoding":"$http_accept_encoding","user_agent":"$http_user_agent",'
    '"status":$status,"sent":$body_bytes_sent,"connection":$connection}';
  access_log "%(directory)s/access.log" requests;
  client_body_temp_path "%(directory)s/client_body";
  proxy_temp_path "%(directory)s/proxy";
  fastcgi_temp_path "%(directory)s/fastcgi";
  uwsgi_temp_path "%(directory)s/uwsgi";
  scgi_temp_path "%(directory)s/scgi";
  default_type application/octet-stream;
  sendfile on;
  tcp_nodelay on;
  keepalive_requests 100000;
  map $request_uri $redirect_path { "~^/redirect/[0-9]+(?<plain>/.*)$" $plain; }
  map $request_uri $redirect_target { "~^/redirect-to/[0-9]+/(?<target>.*)$" $target; }
%(servers)s
}
"""

_SERVER = """
  server {
    listen %(listen)s; %(tls)s
    location / { root "%(root)s"; }
    location /slow/ { alias "%(root)s/"; limit_rate %(slow_rate)d; }
    location /private/ { alias "%(root)s/"; auth_basic private; auth_basic_user_file %(htpasswd)s; }
    location /gzip/ { alias "%(root)s/"; gzip on; gzip_types *; gzip_min_length 0; }
    location /norange/ { alias "%(root)s/"; max_ranges 0; }
    location /nohead/ { alias "%(root)s/"; if ($request_method = HEAD) { return 404; } }
    location /noetag/ { alias "%(root)s/"; etag off; }
%(redirects)s
  }
"""

_FIXED_REDIRECTS = [
    f"    location /redirect/{code}/ {{ return {code} $redirect_path; }}\n"
    f"    location /redirect-to/{code}/ {{ return {code} $redirect_target; }}"
    for code in REDIRECT_CODES
]
