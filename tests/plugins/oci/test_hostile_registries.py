"""A registry that answers with nonsense costs an error, and neither memory nor time nor secrets."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from imagebroker_oci import OciBackend
from imagebroker_oci.options import OPTIONS
from testtools.assertions import assert_that
from testtools.matchers import Contains, Equals, Not

from imagebroker.exceptions import ImageBrokerError, VerificationError
from imagebroker.model.reference import in_form, parse
from imagebroker.plugin import BackendHost, Image, ImageData, Limits, Options
from imagebroker.policy.addresses import Policy, networks
from tests.servers.process import HOST
from tests.servers.registry import EMPTY, OCI_INDEX, OCI_MANIFEST

DIGEST = "sha256:" + "1" * 64
LAYER = {"mediaType": "application/octet-stream", "digest": DIGEST, "size": 10}
CONFIG = {"mediaType": EMPTY, "digest": DIGEST, "size": 2}
GOOD = {"schemaVersion": 2, "mediaType": OCI_MANIFEST, "config": CONFIG, "layers": [LAYER]}
SECRET = "canary-of-a-pull-secret"


class FakeRegistry:
    """Answers each path as it is told, anything else with 404."""

    def __init__(self) -> None:
        self.answers: dict[str, tuple[int, dict[str, str], bytes]] = {}
        self.requests: list[tuple[str, dict[str, str]]] = []
        #: Whether nothing is answered without a login.
        self.wants_login = False
        #: So many requests are refused as if the login were no longer valid.
        self.refused = 0
        fake = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                fake.requests.append((self.path, dict(self.headers)))
                path = self.path.partition("?")[0]
                status, fields, body = fake.answers.get(path, (404, {}, b"{}"))
                lost = fake.refused > 0
                fake.refused -= lost
                if lost or (fake.wants_login and "Authorization" not in self.headers):
                    status, fields, body = 401, {"WWW-Authenticate": "Basic realm=x"}, b"{}"
                self.send_response(status)
                for name, value in {"Content-Length": str(len(body)), **fields}.items():
                    self.send_header(name, value)
                self.end_headers()
                if self.command != "HEAD":
                    self.wfile.write(body)

            do_HEAD = do_POST = do_PUT = do_PATCH = do_DELETE = do_GET  # noqa: N815

            def log_message(self, *arguments: Any) -> None:
                pass

        self._http = ThreadingHTTPServer((HOST, 0), Handler)
        self._http.daemon_threads = True
        threading.Thread(target=self._http.serve_forever, args=(0.05,), daemon=True).start()

    @property
    def address(self) -> str:
        return f"{HOST}:{self._http.server_port}"

    def manifest(self, document: object, media_type: str = OCI_MANIFEST, **fields: str) -> None:
        body = document if isinstance(document, bytes) else json.dumps(document).encode()
        self.answers["/v2/a/manifests/1"] = 200, {"Content-Type": media_type, **fields}, body

    def close(self) -> None:
        self._http.shutdown()
        self._http.server_close()


@pytest.fixture
def fake() -> Iterator[FakeRegistry]:
    made = FakeRegistry()
    yield made
    made.close()


@pytest.fixture
def secret(fake: FakeRegistry, tmp_path: Path) -> Path:
    path = tmp_path / "secret.json"
    path.write_text(json.dumps({"auths": {fake.address: {"username": "me", "password": SECRET}}}))
    return path


def backend(**options: Any) -> OciBackend:
    values = {option.dest: option.default for option in OPTIONS} | {"plain_http": True} | options
    policy = Policy(allowed_networks=networks(["127.0.0.0/8"]))
    limits = Limits(connect_timeout=5, stall_timeout=5)
    return OciBackend(BackendHost("oci", Options(values), policy=policy, limits=limits))


def error_of(fake: FakeRegistry, **options: Any) -> ImageBrokerError:
    """The error of opening; anything but one of ours fails the test."""
    made = backend(**options)
    try:
        made.open(None, in_form(parse(f"oci://{fake.address}/a:1"), OciBackend.ref_form)).close()
    except ImageBrokerError as error:
        return error
    finally:
        made.close()
    raise AssertionError("it was accepted")


@pytest.mark.parametrize(
    "document",
    [
        b"", b"null", b"[]", b"{", b'{"schemaVersion": 2, "schemaVersion": 2}', b"\xff\xfe",
        b"[" * 100_000, b'{"a":' * 50_000,
        {**GOOD, "layers": None, "manifests": []},
        {**GOOD, "manifests": [LAYER]},
        {**GOOD, "layers": LAYER},
        {**GOOD, "layers": ["x"]},
        {**GOOD, "layers": [{**LAYER, "size": -1}]},
        {**GOOD, "layers": [{**LAYER, "size": 2**70}]},
        {**GOOD, "layers": [{**LAYER, "size": True}]},
        {**GOOD, "layers": [{**LAYER, "size": None}]},
        {**GOOD, "layers": [{**LAYER, "digest": "md5:" + "1" * 32}]},
        {**GOOD, "layers": [{**LAYER, "digest": "sha256:../../../../etc/passwd"}]},
        {**GOOD, "layers": [{**LAYER, "digest": "sha256:" + "A" * 64}]},
        {**GOOD, "layers": [{**LAYER, "digest": 7}]},
        {**GOOD, "layers": [{**LAYER, "annotations": {"a": 1}}]},
        {**GOOD, "layers": [{**LAYER, "mediaType": 1}]},
        {**GOOD, "layers": [{**LAYER, "mediaType": "application/" + "disk+." * 100_000}]},
        {**GOOD, "layers": []},
        {**GOOD, "layers": [LAYER] * 10_001},
        {**GOOD, "mediaType": OCI_INDEX},
        {**GOOD, "mediaType": "text/html"},
        {**GOOD, "annotations": []},
        {**GOOD, "config": "x"},
        {**GOOD, "schemaVersion": 1},
        b" " * (5 * 1024 * 1024),
    ],
)  # fmt: skip
def test_a_manifest_that_is_none_is_an_error(fake: FakeRegistry, document: object) -> None:
    fake.manifest(document)
    error_of(fake)


def test_a_web_page_instead_of_a_manifest(fake: FakeRegistry) -> None:
    fake.manifest(b"<html>please log in</html>", "text/html")
    error_of(fake)


def test_an_index_that_leads_to_itself_ends(fake: FakeRegistry) -> None:
    """It cannot name its own digest; so each leads to a further one."""
    body = json.dumps(GOOD).encode()
    for _ in range(10):
        digest = f"sha256:{hashlib.sha256(body).hexdigest()}"
        kind = OCI_MANIFEST if b"layers" in body else OCI_INDEX
        fake.answers[f"/v2/a/manifests/{digest}"] = 200, {"Content-Type": kind}, body
        body = json.dumps({
            "schemaVersion": 2, "mediaType": OCI_INDEX,
            "manifests": [{"mediaType": kind, "digest": digest, "size": len(body)}],
        }).encode()  # fmt: skip
    fake.manifest(body, OCI_INDEX)
    assert_that(str(error_of(fake)), Contains("further indexes"))


def test_another_digest_than_the_registry_says(fake: FakeRegistry) -> None:
    fake.manifest(GOOD, **{"Docker-Content-Digest": DIGEST})
    assert_that(str(error_of(fake)), Contains("should have the digest"))


@pytest.mark.parametrize(
    "challenge",
    [
        "", "Bearer", 'Bearer realm="', 'Bearer realm=""', "Negotiate abc", "Digest realm=x",
        'Bearer realm="ftp://127.0.0.1/x"', 'Bearer realm="file:///etc/passwd"',
        'Bearer realm="http://169.254.169.254/token"', 'Bearer realm="http://10.0.0.1/token"',
        'Bearer realm="https://user:pw@127.0.0.1/"', "Bearer " + "a=b," * 2000,
        'Bearer realm="' + '\\"' * 3000,
    ],
)  # fmt: skip
def test_a_challenge_that_cannot_be_met(fake: FakeRegistry, secret: Path, challenge: str) -> None:
    fields = {"WWW-Authenticate": challenge} if challenge else {}
    fake.answers["/v2/a/manifests/1"] = 401, fields, b"{}"
    error = error_of(fake, pull_secret_file=str(secret))
    assert_that(f"{error!r} {error.hint}", Not(Contains(SECRET)))


@pytest.mark.parametrize(
    "body",
    [
        b"", b"[]", b"{}", b'{"token": 7}', b'{"token": ""}', b'{"token": "a b"}',
        b'{"token": "a\\r\\nX-Evil: 1"}', b'{"token": "' + b"x" * 70_000 + b'"}',
        b" " * (10 * 1024 * 1024),
    ],
)  # fmt: skip
def test_a_token_that_is_none(fake: FakeRegistry, secret: Path, body: bytes) -> None:
    challenge = {"WWW-Authenticate": f'Bearer realm="http://{fake.address}/token"'}
    fake.answers["/v2/a/manifests/1"] = 401, challenge, b"{}"
    fake.answers["/token"] = 200, {}, body
    error_of(fake, pull_secret_file=str(secret))
    assert_that([each for each in fake.requests if "X-Evil" in each[1]], Equals([]))


def test_a_registry_is_answered_once_and_not_for_ever(fake: FakeRegistry, secret: Path) -> None:
    fake.answers["/v2/a/manifests/1"] = 401, {"WWW-Authenticate": "Basic realm=x"}, b"{}"
    error_of(fake, pull_secret_file=str(secret))
    assert_that(len(fake.requests), Equals(2))


def test_the_login_does_not_follow_a_redirect_to_another_server(
    fake: FakeRegistry, secret: Path
) -> None:
    other = FakeRegistry()
    try:
        target = f"http://{other.address}/v2/a/manifests/1"
        fake.wants_login = True
        fake.answers["/v2/a/manifests/1"] = 307, {"Location": target}, b""
        error_of(fake, pull_secret_file=str(secret))
        assert_that("Authorization" in fake.requests[-1][1], Equals(True))
        assert_that(len(other.requests) > 0, Equals(True))
        assert_that([each for each in other.requests if "Authorization" in each[1]], Equals([]))
    finally:
        other.close()


def test_an_upload_is_not_sent_on_to_another_server(fake: FakeRegistry, tmp_path: Path) -> None:
    other = FakeRegistry()
    try:
        where = {"Location": f"http://{other.address}/upload"}
        fake.answers["/v2/a/blobs/uploads/"] = 202, where, b""
        made = backend(create_in=f"{fake.address}/a")
        with pytest.raises(ImageBrokerError, match="sends the data on"):
            made.create(None, Image(ref="oci", name="new"), ImageData(b"data"))
        made.close()
        assert_that(other.requests, Equals([]))
    finally:
        other.close()


def test_an_upload_that_cannot_be_cancelled_is_in_the_log(
    fake: FakeRegistry, caplog: pytest.LogCaptureFixture
) -> None:
    """docker-registry does not cancel one whose connection was cut within a request."""
    invalid = json.dumps({"errors": [{"code": "BLOB_UPLOAD_INVALID", "message": "no"}]}).encode()
    fake.answers["/v2/a/blobs/uploads/"] = 202, {"Location": "/upload"}, b""
    fake.answers["/upload"] = 404, {}, invalid
    made = backend(create_in=f"{fake.address}/a")
    with pytest.raises(ImageBrokerError, match="BLOB_UPLOAD_INVALID"):
        made.create(None, Image(ref="oci", name="new"), ImageData(b"data"))
    made.close()
    assert_that(caplog.text, Contains("stays until the registry removes it"))


def test_tags_that_go_on_for_ever_end(fake: FakeRegistry) -> None:
    page = json.dumps({"name": "a", "tags": ["1", "2", "../x", "a b"]}).encode()
    link = {"Link": '</v2/a/tags/list?last=2>; rel="next"'}
    fake.answers["/v2/a/tags/list"] = 200, link, page
    error = error_of(fake)
    assert_that(error.hint, Contains("1, 2"))
    assert_that(error.hint, Not(Contains("..")))


def test_a_login_that_is_withdrawn_within_a_download_is_renewed(
    fake: FakeRegistry, secret: Path
) -> None:
    """The token is said to be valid for long, and is refused when the second range is asked for."""
    data = bytes(range(256)) * 1000
    layer = {**LAYER, "digest": f"sha256:{hashlib.sha256(data).hexdigest()}", "size": len(data)}
    fake.wants_login = True
    fake.manifest({**GOOD, "layers": [layer]})
    blob = f"/v2/a/blobs/{layer['digest']}"
    fake.answers[blob] = 200, {"Accept-Ranges": "bytes"}, data
    made = backend(pull_secret_file=str(secret))
    ref = in_form(parse(f"oci://{fake.address}/a:1"), OciBackend.ref_form)
    source = made.open(None, ref)
    try:
        assert_that(b"".join(map(bytes, source.read())) == data, Equals(True))
        fake.refused = 1
        assert_that(b"".join(map(bytes, source.read())) == data, Equals(True))
        assert_that(fake.refused, Equals(0))
    finally:
        source.close()
        made.close()


def test_a_digest_of_sha512_is_checked_too(fake: FakeRegistry) -> None:
    data = b"a disk" * 1000
    config = {**CONFIG, "digest": f"sha512:{hashlib.sha512(b'{}').hexdigest()}"}
    config["mediaType"] = "application/vnd.oci.image.config.v1+json"
    layer = {**LAYER, "digest": f"sha512:{hashlib.sha512(data).hexdigest()}", "size": len(data)}
    fake.manifest({**GOOD, "config": config, "layers": [layer]})
    fake.answers[f"/v2/a/blobs/{layer['digest']}"] = 200, {}, data
    made = backend()
    ref = in_form(parse(f"oci://{fake.address}/a:1"), OciBackend.ref_form)
    source = made.open(None, ref)
    # Of a blob that is the disk, the core checks what the record says.
    assert_that(source.image.checksums, Equals({"sha512": str(layer["digest"])[7:]}))
    source.close()
    chosen = in_form(parse(f"oci://{fake.address}/a:1?arch=amd64"), OciBackend.ref_form)
    fake.answers[f"/v2/a/blobs/{config['digest']}"] = 200, {}, b"[]"
    with pytest.raises(VerificationError):
        made.get(None, chosen)
    made.close()
