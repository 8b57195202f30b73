"""Apache httpd serving a directory, with its own ideas about encodings and redirects."""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import quote

from tests.servers.process import HOST, Server, ServerProcess, accepts, free_ports, retried

_MODULES = (
    "mpm_event", "authz_core", "mime", "dir", "alias", "deflate", "filter", "headers", "rewrite",
)  # fmt: skip


def missing() -> str | None:
    """Return what to install, or None."""
    if _program() is None or _modules() is None:
        return "Apache is not installed: apt-get install apache2"
    return None


def _program() -> str | None:
    # Not in the PATH of users other than root.
    return shutil.which("apache2") or shutil.which("apache2", path="/usr/sbin:/usr/local/sbin")


def _modules() -> Path | None:
    folder = Path("/usr/lib/apache2/modules")
    return folder if folder.is_dir() else None


class Apache(Server):
    """Serves ``root``, a directory below its own, with ``AddEncoding x-gzip .gz .tgz`` and the like, as Debian's mirrors do.

    ``/deflated/P``   P compressed on the way, whatever the client accepts
    ``/away/P``       redirects to /P (mod_alias, which escapes nothing that was escaped)
    """

    log: Path
    port: int
    root: Path

    def __init__(self, *, redirects: Mapping[str, str] | None = None) -> None:
        """``redirects`` maps a path to where mod_rewrite leads, without escaping anything."""
        super().__init__()
        self.redirects = dict(redirects or {})
        self._process: ServerProcess | None = None

    def url(self, path: str, *, prefix: str = "") -> str:
        base = f"http://{HOST}:{self.port}"
        return "/".join(filter(None, [base, prefix, quote(path.lstrip("/"))]))

    def _start(self) -> None:
        self.log = self.directory / "apache.log"
        self.root = self.directory / "root"
        self.root.mkdir()
        self.directory.chmod(0o755)  # it serves as a user of its own, who is not root
        retried(self._launch)

    def _launch(self) -> None:
        self.log.unlink(missing_ok=True)
        (self.port,) = free_ports(1)
        configuration = self.directory / "apache.conf"
        configuration.write_text(self._configuration(), encoding="latin-1")
        argv = [_program() or "apache2", "-f", str(configuration), "-D", "FOREGROUND"]
        self._process = ServerProcess(argv, log=self.log, stop_signal=signal.SIGTERM)
        self._process.wait_until(lambda: accepts(self.port))

    def _stop(self) -> None:
        if self._process is not None:
            self._process.stop()

    def _configuration(self) -> str:
        modules = _modules()
        loads = [f"LoadModule {name}_module {modules}/mod_{name}.so" for name in _MODULES]
        redirects = [
            f'RewriteRule "^{path}$" "{_quoted(target)}" [R=302,NE,L]'
            for path, target in self.redirects.items()
        ]
        return _CONFIGURATION % {
            "modules": "\n".join(loads),
            "user": "User www-data\nGroup www-data" if os.geteuid() == 0 else "",
            "directory": self.directory,
            "listen": f"{HOST}:{self.port}",
            "host": HOST,
            "root": self.root,
            "redirects": "\n".join(redirects),
        }


def _quoted(text: str) -> str:
    # Both begin variables.
    return text.replace("%", "\\%").replace("$", "\\$")


_CONFIGURATION = """
%(modules)s
%(user)s
ServerRoot "%(directory)s"
ServerName %(host)s
PidFile "%(directory)s/apache.pid"
DefaultRuntimeDir "%(directory)s"
ErrorLog "/dev/stderr"
Listen %(listen)s
StartServers 1
DocumentRoot "%(root)s"
<Directory "%(root)s">
  Require all granted
</Directory>
TypesConfig /dev/null
AddEncoding x-gzip .gz .tgz
AddEncoding x-compress .Z
AddEncoding zstd .zst
AddEncoding gzip .image
Alias "/deflated/" "%(root)s/"
<Location "/deflated/">
  SetOutputFilter DEFLATE
  RequestHeader set Accept-Encoding gzip
</Location>
Redirect 302 "/away/" "/"
RewriteEngine on
%(redirects)s
"""
