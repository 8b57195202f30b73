"""A registry of OCI images: Debian's docker-registry, open, with htpasswd and TLS, or with tokens.

Storage is a directory, so that tests can look for what an upload has left behind.
"""

from __future__ import annotations

import base64
import hashlib
import http.client
import json
import secrets
import shutil
import ssl
import threading
import time
from collections.abc import Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

from tests.servers.certificates import write_certificates
from tests.servers.process import HOST, Server, ServerProcess, accepts, free_ports, retried

OCI_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
OCI_INDEX = "application/vnd.oci.image.index.v1+json"
EMPTY = "application/vnd.oci.empty.v1+json"
USER, PASSWORD = "broker", "canary-of-the-registry-5521"
_SERVICE = "tests"


def missing() -> str | None:
    """What to install, in a sentence; None if everything is there."""
    if shutil.which("docker-registry") is None:
        return "install docker-registry: tests/install-servers"
    return None


class Registry(Server):
    """Use it as a context manager. `kind` is `open`, `basic` or `token`."""

    def __init__(self, kind: str = "open", directory: Path | None = None) -> None:
        super().__init__(directory)
        self.kind = kind
        self._process: ServerProcess | None = None
        self.tokens: TokenServer | None = None
        self.ca_file: Path | None = None

    # -- what it is ------------------------------------------------------------------------------

    @property
    def address(self) -> str:
        return f"{HOST}:{self.port}"

    @property
    def root(self) -> Path:
        return self.directory / "storage" / "docker" / "registry" / "v2"

    def ref(self, repository: str, tag: str = "latest") -> str:
        return f"oci://{self.address}/{repository}:{tag}"

    def options(self, **others: Any) -> dict[str, Any]:
        """Those of an oci backend that may do everything."""
        found: dict[str, Any] = {"plain_http": self.kind != "basic"}
        if self.ca_file is not None:
            found["ca_file"] = str(self.ca_file)
        if self.kind != "open":
            found["pull_secret_file"] = str(self.pull_secret())
        return {**found, **others}

    def pull_secret(self, password: str = PASSWORD, user: str = USER) -> Path:
        """A file as `docker login` writes it."""
        pair = base64.b64encode(f"{user}:{password}".encode()).decode()
        path = self.directory / f"pull-secret-{hashlib.sha256(pair.encode()).hexdigest()[:8]}.json"
        path.write_text(json.dumps({"auths": {self.address: {"auth": pair}}}))
        path.chmod(0o600)
        return path

    def uploads(self, repository: str) -> list[Path]:
        """The data of those that were begun and not ended. (Of a cancelled one, the registry keeps an
        empty folder.)"""
        return sorted((self.root / "repositories" / repository / "_uploads").glob("*/data"))

    # -- the other side --------------------------------------------------------------------------

    def request(
        self, method: str, path: str, body: bytes | None = None, *, actions: str = "pull",
        headers: Mapping[str, str] | None = None,
    ) -> tuple[int, dict[str, str], bytes]:  # fmt: skip
        """Status, headers (names in lower case) and body of an answer."""
        fields = {**self._authorization(path, actions), **(headers or {})}
        if self.ca_file is None:
            connection = http.client.HTTPConnection(HOST, self.port, timeout=60)
        else:
            context = ssl.create_default_context(cafile=str(self.ca_file))
            connection = http.client.HTTPSConnection(HOST, self.port, timeout=60, context=context)
        try:
            connection.request(method, path, body, fields)
            answer = connection.getresponse()
            found = {name.lower(): value for name, value in answer.getheaders()}
            return answer.status, found, answer.read()
        finally:
            connection.close()

    def _authorization(self, path: str, actions: str) -> dict[str, str]:
        if self.kind == "basic":
            pair = base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode()
            return {"Authorization": f"Basic {pair}"}
        if self.tokens is not None:
            repository = path.removeprefix("/v2/")
            for part in ("/blobs/", "/manifests/", "/tags/"):
                repository = repository.partition(part)[0]
            token = self.tokens.token([(repository, actions.split(","))], 300)
            return {"Authorization": f"Bearer {token}"}
        return {}

    def push_blob(
        self, repository: str, data: bytes, media_type: str, **more: Any
    ) -> dict[str, Any]:
        """The descriptor of a blob that is there now."""
        digest = f"sha256:{hashlib.sha256(data).hexdigest()}"
        push = "pull,push"
        status, fields, body = self.request(
            "POST", f"/v2/{repository}/blobs/uploads/", actions=push
        )
        assert status == 202, (status, body)
        parts = urlsplit(fields["location"])
        target = f"{parts.path}?{parts.query}&digest={digest}"
        status, _, body = self.request("PUT", target, data, actions=push)
        assert status == 201, (status, body)
        return {"mediaType": media_type, "digest": digest, "size": len(data), **more}

    def push_manifest(self, repository: str, reference: str, document: Mapping[str, Any] | bytes,
                      media_type: str = OCI_MANIFEST) -> str:  # fmt: skip
        """The digest of a manifest that is there now."""
        body = document if isinstance(document, bytes) else json.dumps(document).encode()
        status, fields, told = self.request(
            "PUT", f"/v2/{repository}/manifests/{reference}", body, actions="pull,push",
            headers={"Content-Type": media_type},
        )  # fmt: skip
        assert status == 201, (status, told)
        return fields["docker-content-digest"]

    def push(
        self, repository: str, tag: str, *layers: dict[str, Any], config: dict[str, Any] | None = None,
        **more: Any,
    ) -> dict[str, Any]:  # fmt: skip
        """The descriptor of an artefact with these layers."""
        config = config or self.push_blob(repository, b"{}", EMPTY)
        document = {
            "schemaVersion": 2, "mediaType": OCI_MANIFEST, "config": config, "layers": layers, **more,
        }  # fmt: skip
        body = json.dumps(document).encode()
        digest = self.push_manifest(repository, tag, body)
        return {"mediaType": OCI_MANIFEST, "digest": digest, "size": len(body)}

    def push_disk(
        self, repository: str, tag: str, data: bytes, media_type: str = "application/octet-stream",
        title: str = "disk.img", **more: Any,
    ) -> dict[str, Any]:  # fmt: skip
        """A disk as `oras push` makes it."""
        annotations = {"org.opencontainers.image.title": title}
        layer = self.push_blob(repository, data, media_type, annotations=annotations)
        return self.push(repository, tag, layer, **more)

    def push_index(self, repository: str, tag: str, *manifests: dict[str, Any]) -> str:
        document = {"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": manifests}
        return self.push_manifest(repository, tag, document, OCI_INDEX)

    def manifest(self, repository: str, reference: str) -> tuple[str, dict[str, Any]]:
        """Digest and content of a manifest."""
        status, fields, body = self.request(
            "GET", f"/v2/{repository}/manifests/{reference}",
            headers={"Accept": f"{OCI_MANIFEST}, {OCI_INDEX}"},
        )  # fmt: skip
        assert status == 200, (status, body)
        return fields["docker-content-digest"], json.loads(body)

    def remove(self, repository: str, reference: str) -> None:
        """Delete the manifest behind a tag."""
        digest, _ = self.manifest(repository, reference)
        path = f"/v2/{repository}/manifests/{digest}"
        status, _, body = self.request("DELETE", path, actions="pull,delete")
        assert status == 202, (status, body)

    def tamper(self, digest: str, data: bytes) -> None:
        """Give a blob, or a manifest, other bytes: as a broken disk or an intruder does."""
        name = digest.partition(":")[2]
        (self.root / "blobs" / "sha256" / name[:2] / name / "data").write_bytes(data)

    def plant_sparse(self, repository: str, size: int, end: bytes) -> dict[str, Any]:
        """A blob of zeros with this end, put into the storage: only its digest is invented."""
        name = hashlib.sha256(secrets.token_bytes(16)).hexdigest()
        with self._planted(repository, name).open("wb") as file:
            file.seek(size - len(end))
            file.write(end)
        return {"mediaType": "application/octet-stream", "digest": f"sha256:{name}", "size": size}

    def plant(self, repository: str, path: Path, name: str) -> dict[str, Any]:
        """A large file as a blob, linked into the storage; `name` is its SHA-256."""
        self._planted(repository, name).hardlink_to(path)
        size = path.stat().st_size
        return {"mediaType": "application/octet-stream", "digest": f"sha256:{name}", "size": size}

    def _planted(self, repository: str, name: str) -> Path:
        """Where the bytes of a blob belong that the repository has from now on."""
        data = self.root / "blobs" / "sha256" / name[:2] / name / "data"
        data.parent.mkdir(parents=True)
        link = self.root / "repositories" / repository / "_layers" / "sha256" / name / "link"
        link.parent.mkdir(parents=True)
        link.write_text(f"sha256:{name}")
        return data

    # -- the server ------------------------------------------------------------------------------

    def _start(self) -> None:
        if self.kind == "token":
            self.tokens = TokenServer(self.directory)
        retried(self._attempt)

    def _attempt(self) -> None:
        self._end()
        (self.port,) = free_ports(1)
        config = self.directory / "config.json"  # JSON is YAML
        config.write_text(json.dumps(self._config()))
        self._process = ServerProcess(
            ["docker-registry", "serve", config], log=self.directory / "registry.log",
            cwd=self.directory, env={"PATH": "/usr/bin:/bin", "OTEL_TRACES_EXPORTER": "none"},
        )  # fmt: skip
        self._process.wait_until(lambda: accepts(self.port), seconds=60)

    def _config(self) -> dict[str, Any]:
        web: dict[str, Any] = {"addr": self.address, "secret": "of-the-tests"}
        config: dict[str, Any] = {
            "version": "0.1",
            "log": {"level": "warn"},
            "storage": {
                "filesystem": {"rootdirectory": str(self.directory / "storage")},
                "delete": {"enabled": True},
            },
            "http": web,
        }
        if self.kind == "basic":
            self.ca_file = write_certificates(self.directory / "certificates")
            pem = str(self.directory / "certificates" / "good.pem")
            web["tls"] = {"certificate": pem, "key": pem}
            config["auth"] = {"htpasswd": {"realm": "tests", "path": str(self._htpasswd())}}
        if self.tokens is not None:
            config["auth"] = {"token": {
                "realm": self.tokens.url, "service": _SERVICE, "issuer": _SERVICE,
                "rootcertbundle": str(self.tokens.certificate),
            }}  # fmt: skip
        return config

    def _htpasswd(self) -> Path:
        import bcrypt

        path = self.directory / "htpasswd"
        hashed = bcrypt.hashpw(PASSWORD.encode(), bcrypt.gensalt(4)).decode()
        path.write_text(f"{USER}:{hashed}\n")
        return path

    def _end(self) -> None:
        if self._process is not None:
            self._process.stop()
            self._process = None

    def _stop(self) -> None:
        self._end()
        if self.tokens is not None:
            self.tokens.close()


class TokenServer:
    """Gives tokens: anybody may pull, the user may do everything; `denied` are repositories that
    nobody may see. What it was asked is in `asked`."""

    def __init__(self, directory: Path) -> None:
        from cryptography import x509
        from cryptography.hazmat.primitives import serialization

        from tests.servers.certificates import self_signed

        pem = self_signed()
        self._key: Any = serialization.load_pem_private_key(pem, None)
        certificate = x509.load_pem_x509_certificate(pem)
        self._der = certificate.public_bytes(serialization.Encoding.DER)
        self.certificate = directory / "tokens.pem"
        self.certificate.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
        self.denied: set[str] = set()
        self.asked: list[dict[str, Any]] = []
        #: Seconds that tokens are said to be valid; they are valid for 300.
        self.seconds: float = 300
        self.refresh_token = "canary-refresh-token-8812"
        self._http = ThreadingHTTPServer((HOST, 0), _handler(self))
        self._http.daemon_threads = True
        threading.Thread(target=self._http.serve_forever, args=(0.05,), daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://{HOST}:{self._http.server_port}/token"

    def token(self, access: list[tuple[str, list[str]]], seconds: int) -> str:
        """A JSON web token of ES256, with the certificate in it."""
        from cryptography.hazmat.primitives import hashes
        from cryptography.hazmat.primitives.asymmetric import ec, utils

        now = int(time.time())
        header = {"typ": "JWT", "alg": "ES256", "x5c": [base64.b64encode(self._der).decode()]}
        claims = {
            "iss": _SERVICE, "sub": "", "aud": _SERVICE, "exp": now + seconds, "nbf": now - 10,
            "iat": now, "jti": secrets.token_hex(8),
            "access": [
                {"type": "repository", "name": name, "actions": actions} for name, actions in access
            ],
        }  # fmt: skip
        signed = ".".join(_packed(json.dumps(each).encode()) for each in (header, claims))
        signature = self._key.sign(signed.encode(), ec.ECDSA(hashes.SHA256()))
        pair = b"".join(n.to_bytes(32, "big") for n in utils.decode_dss_signature(signature))
        return f"{signed}.{_packed(pair)}"

    def answer(self, asked: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        """Status and body for a request: `user`, `scope`, `refresh_token`."""
        self.asked.append(asked)
        if asked.get("wrong"):
            return 401, {"errors": [{"code": "UNAUTHORIZED", "message": "wrong password"}]}
        known = asked.get("user") == USER or asked.get("refresh_token") == self.refresh_token
        access = []
        for scope in asked["scope"]:
            _, name, wanted = scope.split(":", 2)
            actions = [each for each in wanted.split(",") if known or each == "pull"]
            access.append((name, [] if name in self.denied else actions))
        token = self.token(access, 300)
        name = "access_token" if "refresh_token" in asked else "token"
        return 200, {name: token, "expires_in": self.seconds}

    def close(self) -> None:
        self._http.shutdown()
        self._http.server_close()


def _packed(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def _handler(server: TokenServer) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            query = parse_qs(urlsplit(self.path).query)
            asked: dict[str, Any] = {"scope": query.get("scope", []), "user": None}
            given = self.headers.get("Authorization", "")
            if given:
                user, _, password = base64.b64decode(given[6:]).decode().partition(":")
                asked |= {"user": user, "wrong": (user, password) != (USER, PASSWORD)}
            self._send(*server.answer(asked))

        def do_POST(self) -> None:
            form = parse_qs(self.rfile.read(int(self.headers["Content-Length"])).decode())
            asked: dict[str, Any] = {name: values[0] for name, values in form.items()}
            self._send(*server.answer({**asked, "scope": form.get("scope", [])}))

        def _send(self, status: int, document: dict[str, Any]) -> None:
            body = json.dumps(document).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *arguments: Any) -> None:
            pass

    return Handler
