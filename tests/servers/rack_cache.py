"""nginx with the config file for the cache of a rack that this project ships."""

from __future__ import annotations

import os
from pathlib import Path

from tests.servers.nginx import program
from tests.servers.process import HOST, Server, ServerProcess, accepts, free_ports, retried

CONFIG = Path(__file__).parents[2] / "etc" / "nginx" / "imagebroker-rack-cache.conf"
#: What stands in the file for web servers, by its own words.
OF_A_WEB_SERVER = r"~ \.(qcow2|raw|img|iso)$"
_OF_GLANCE = "~ ^/v2/images/[^/]+/file$"


class RackCache(Server):
    """The shipped file, with the places that a deployer replaces replaced."""

    port: int
    ca_file: Path

    def __init__(self, port: int, *, service_ca: Path | None, images: str = _OF_GLANCE) -> None:
        """`port`: of the service on this host; `service_ca`: of its certificate; None: http.

        `images`: which locations are images.
        """
        super().__init__(None)
        self._service, self._service_ca, self._images = port, service_ca, images
        self._process: ServerProcess | None = None

    @property
    def url(self) -> str:
        return f"https://{HOST}:{self.port}"

    @property
    def slices(self) -> list[Path]:
        """Those that are on the disk."""
        return [path for path in (self.directory / "cache").rglob("*") if path.is_file()]

    def _start(self) -> None:
        from tests.servers.certificates import write_certificates

        self.ca_file = write_certificates(self.directory / "tls")
        (self.directory / "tmp").mkdir()
        retried(self._launch)

    def _launch(self) -> None:
        (self.port,) = free_ports(1)
        (self.directory / "images.conf").write_text(self._configuration())
        main = self.directory / "nginx.conf"
        main.write_text(_MAIN % {
            "directory": self.directory, "user": "user root;" if os.geteuid() == 0 else ""
        })  # fmt: skip
        log = self.directory / "error.log"
        log.unlink(missing_ok=True)
        argv = [program() or "nginx", "-e", "stderr", "-c", str(main)]
        self._process = ServerProcess(argv, log=log)
        self._process.wait_until(lambda: accepts(self.port))

    def _configuration(self) -> str:
        text = CONFIG.read_text(encoding="utf-8")
        good = self.directory / "tls" / "good.pem"
        replaced = {
            "server images.example.com:9292;": f"server {HOST}:{self._service};",
            "Host images.example.com:9292": f"Host {HOST}:{self._service}",
            "images.example.com": "localhost",
            "rack1.example.com": "localhost",
            "listen 9292 ssl": f"listen {HOST}:{self.port} ssl",
            "/etc/nginx/rack1.pem": str(good),
            "/etc/nginx/rack1.key": str(good),
            "/var/cache/nginx/imagebroker": str(self.directory / "cache"),
            "/run/imagebroker-slices.sock": str(self.directory / "slices.sock"),
            _OF_GLANCE: self._images,
        }
        if self._service_ca is None:
            replaced["https://image_service"] = "http://image_service"
        else:
            replaced["/etc/ssl/certs/ca-certificates.crt"] = str(self._service_ca)
        for written, meant in replaced.items():
            assert written in text, f"{CONFIG.name} has no {written!r}"
            text = text.replace(written, meant)
        return text

    def _stop(self) -> None:
        if self._process is not None:
            self._process.stop()


_MAIN = """
daemon off;
worker_processes 2;
pid "%(directory)s/nginx.pid";
error_log stderr info;
%(user)s
events { worker_connections 1024; }
http {
  access_log off;
  client_body_temp_path "%(directory)s/tmp/body";
  proxy_temp_path "%(directory)s/tmp/proxy";
  fastcgi_temp_path "%(directory)s/tmp/fastcgi";
  uwsgi_temp_path "%(directory)s/tmp/uwsgi";
  scgi_temp_path "%(directory)s/tmp/scgi";
  include "%(directory)s/images.conf";
}
"""
