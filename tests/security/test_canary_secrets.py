"""A canary in every place that can hold a secret: it sings nowhere.

`tests.canaries` listens to every log record and every error of the test process; this module sets
the canaries, makes everything succeed and fail, and looks at what is left, too: texts of errors with
their causes, what a program can print of our objects, names and contents of files, output of the
command, command lines.
"""

from __future__ import annotations

import base64
import io
import json
import logging
import os
import pickle
import subprocess
import sys
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from oslo_context.context import RequestContext
from testtools.assertions import assert_that
from testtools.matchers import Contains, Equals, GreaterThan, Not

import imagebroker
from imagebroker.exceptions import ImageBrokerError, TransferError
from imagebroker.testing.harness import audit
from tests.canaries import secret
from tests.cli.conftest import imagebroker as imagebroker_command  # noqa: F401 - a fixture
from tests.distributions import install
from tests.plugins.glance.test_identity import PASSWORD as OPTIONS
from tests.plugins.glance.test_identity import Keystone
from tests.plugins.glance_stub import DATA, ID, OneImage, Request, Stub
from tests.plugins.glance_stub import answer as glance_answer
from tests.plugins.http_peers import answer
from tests.security.trap import ALLOWED
from tests.servers.raw import Connection, RawServer
from tests.servers.sshd import Sshd

MakeBroker = Callable[[str], imagebroker.Broker]
ROOT = Path(__file__).parents[2]

HTTP_PASSWORD = secret("kanarie-http-Pq7x")
QUERY = secret("kanarie-query-8Zk2")
SIGNED = f"X-Amz-Signature={QUERY}&Expires=9"
LOCATION_QUERY = secret("kanarie-location-w3Lm")
CHECKSUM_QUERY = secret("kanarie-checksum-c5Vn")
GLANCE_PASSWORD = secret("kanarie-keystone-Tt4r")
SERVICE_TOKEN = secret("kanarie-service-token-J9dd")
CALLER_TOKEN = secret("kanarie-caller-token-M2qq")
PROXY_PASSWORD = secret("kanarie-proxy-Xx1c")
PLUGIN_SECRET = secret("kanarie-plugin-Bb6f")
BASIC = secret(base64.b64encode(f"user:{HTTP_PASSWORD}".encode()).decode())
ALL = [
    HTTP_PASSWORD, QUERY, LOCATION_QUERY, CHECKSUM_QUERY, GLANCE_PASSWORD, SERVICE_TOKEN, CALLER_TOKEN,
    PROXY_PASSWORD, PLUGIN_SECRET, BASIC, Sshd.passphrase,
]  # fmt: skip


class Telling(Keystone):
    """An identity service whose tokens are canaries."""

    def __call__(self, request: Request, connection: Connection) -> bytes | None:
        said = super().__call__(request, connection)
        return said and said.replace(b"service-%d" % self.issued, SERVICE_TOKEN.encode())


class Shown:
    """Everything that was shown of what happened."""

    def __init__(self) -> None:
        self._log = io.StringIO()
        self._handler = logging.StreamHandler(self._log)
        # As services write them: tracebacks and the causes of errors belong to a record.
        self._handler.setFormatter(logging.Formatter("%(levelname)s %(name)s %(message)s"))
        self._more: list[str] = []
        self.errors = 0

    def __enter__(self) -> Shown:
        root = logging.getLogger()
        self._level = root.level
        root.setLevel(logging.DEBUG)
        root.addHandler(self._handler)
        return self

    def __exit__(self, *exc_info: object) -> None:
        logging.getLogger().removeHandler(self._handler)
        logging.getLogger().setLevel(self._level)

    def add(self, *objects: object) -> None:
        for each in objects:
            self._more += [str(each), repr(each)]

    def call(self, call: Callable[[], Any]) -> Any:
        """Its answer; None where it failed, as which everything is noted that can be shown of it."""
        try:
            found = call()
        except ImageBrokerError as error:
            self.errors += 1
            logging.getLogger("a.service").exception("the call failed")
            self._more += traceback.format_exception(error)
            self._more += [repr(pickle.dumps(error)), json.dumps(vars(error), default=repr)]
            seen: BaseException | None = error
            while seen is not None:
                self.add(seen, seen.args, getattr(seen, "hint", ""), getattr(seen, "__notes__", ()))
                seen = seen.__cause__ or seen.__context__
            return None
        self.add(found)
        return found

    def files(self, *folders: Path, but: tuple[str, ...] = ()) -> None:
        """Names and contents of all files, without those that the tests wrote themselves."""
        for folder in folders:
            for path in folder.rglob("*"):
                self._more.append(str(path))
                if path.is_file() and path.name not in but:
                    self._more.append(path.read_bytes().decode("latin-1"))

    @property
    def text(self) -> str:
        return "\n".join([self._log.getvalue(), *self._more])

    def check(self) -> None:
        text = self.text
        for canary in ALL:
            where = text.find(canary)
            assert_that(where, Equals(-1), f"...{text[max(where - 600, 0) : where + 100]}...")


@pytest.fixture
def shown() -> Iterator[Shown]:
    with Shown() as everything:
        yield everything
    everything.check()


def dests(tmp_path: Path) -> Iterator[Path]:
    """A folder of their own, in which part files would stay."""
    folder = tmp_path / "dests"
    folder.mkdir(exist_ok=True)
    for number in range(1000):
        yield folder / str(number)


def ways(
    broker: imagebroker.Broker, context: Any, ref: str, dest: Iterator[Path]
) -> list[Callable[[], Any]]:
    """What can be done with a ref, each way as a call."""

    def read() -> Any:
        with broker.open(context, ref) as reader:
            reader.read(10)
            return [reader, reader.image, reader.read()[:0]]

    return [
        lambda: broker.download(context, ref, next(dest), keep_partial=True, overwrite=True),
        lambda: broker.download(context, ref, io.BytesIO()),
        read,
        lambda: broker.get(context, ref, include_locations=True),
        lambda: broker.resolve(ref),
        lambda: broker.copy(context, ref, backend="file"),
        lambda: broker.update(context, ref, {"name": "x"}),
        lambda: broker.delete(context, ref),
    ]


CORE = (
    "[imagebroker]\nenabled_schemes = http, https, glance, scp, file\nretries = 1\nretry_backoff = 0\n"
    "direct_url_schemes = http, https\nconnect_timeout = 5\nstall_timeout = 1\n"
)


def sharing(tmp_path: Path) -> str:
    return f"state_dir = {tmp_path}/state\ncache_dir = {tmp_path}/cache\n[backend:file]\nstore_dir = {tmp_path}/store\n"


# -- http ------------------------------------------------------------------------------------------

GOOD = answer(DATA, 'ETag: "1"', "Accept-Ranges: bytes")
HTTP_REPLIES = {
    "all is well": GOOD,
    "cut": GOOD[:-1000],
    "not found": answer(b"", status="404 Not Found"),
    "unauthorized": answer(b"", 'WWW-Authenticate: Basic realm="x"', status="401 Who are you"),
    "in trouble": answer(b"", "Retry-After: 0", status="503 Busy"),
    "encoded": answer(DATA, "Content-Encoding: gzip"),
    "no http": b"broken",
    "repeats the query": answer(b"", status=f"403 bad signature {QUERY} of ?{SIGNED}"),
    "repeats the password": answer(b"", status=f"401 no {HTTP_PASSWORD}, {BASIC}"),
    "repeats them as its protocol": f"{QUERY} {BASIC}\r\n\r\n".encode(),
    "repeats them as a header": answer(DATA, f"X {QUERY} {BASIC}"),
    "repeats them as an encoding": answer(DATA, f"Content-Encoding: {QUERY}, {BASIC}"),
    "repeats them as a length": answer(DATA, f"Content-Length: {QUERY} {HTTP_PASSWORD}", length=False),
    "repeats them as a framing": answer(DATA, f"Transfer-Encoding: {QUERY}, {HTTP_PASSWORD}"),
    "repeats them as a type": answer(DATA, f"Content-Type: text/{QUERY}"),
    "redirects": answer(b"", f"Location: /y?{SIGNED}", status="302 Found"),
    "redirects to what is refused": answer(b"", f"Location: file:///x?{SIGNED}", status="302 No"),
    "redirects to a path with it": answer(b"", f"Location: ftp://h/{QUERY}/{BASIC}", status="302 No"),
    "redirects to a host with it": answer(
        b"", f"Location: http://{QUERY.lower()}.invalid/x", status="302 No"
    ),
    "redirects to nonsense with it": answer(b"", f"Location: ht tp:{QUERY}{BASIC}", status="302 No"),
}  # fmt: skip


@pytest.mark.promise("security-20")
@pytest.mark.parametrize("reply", HTTP_REPLIES)
def test_http_shows_no_password_and_no_query(
    reply: str, shown: Shown, make_broker: MakeBroker, tmp_path: Path
) -> None:
    def script(connection: Connection, index: int) -> None:
        if connection.read_head():
            connection.sendall(HTTP_REPLIES[reply])

    with RawServer(script) as server:
        broker = make_broker(
            CORE + sharing(tmp_path) + f"[backend:http]\nallowed_networks = {ALLOWED}\n"
            f"endpoint = {server.url}/\nusername = user\npassword = {HTTP_PASSWORD}\n"
        )
        dest = dests(tmp_path)
        for way in ways(broker, None, f"{server.url}/x?{SIGNED}", dest):
            shown.call(way)
        digest = f"{server.url}/SHA256SUMS?{CHECKSUM_QUERY}"
        shown.call(
            lambda: broker.download(None, f"{server.url}/x?{SIGNED}", next(dest), checksum=digest)
        )
        shown.add(broker, broker.backends())
        assert_that("\n".join(map(str, server.received)), Contains(BASIC))
        assert_that(server.received[0].decode(), Contains(QUERY))
    assert_that(shown.errors, GreaterThan(1))
    shown.files(tmp_path, but=("imagebroker-0.conf",))


# -- glance ----------------------------------------------------------------------------------------

GLANCE_REPLIES: dict[str, Callable[[Request], bytes] | None] = {
    "all is well": None,
    "not found": lambda request: glance_answer(404),
    "in trouble": lambda request: glance_answer(503, b"", "Retry-After: 0"),
    "repeats the token": lambda request: glance_answer(
        401, f"bad token {request.headers}, {GLANCE_PASSWORD}".encode()
    ),
    "refuses and repeats it": lambda request: glance_answer(403, str(request.headers).encode()),
    "fails and repeats it": lambda request: glance_answer(500, str(request.headers).encode()),
    "redirects": lambda request: glance_answer(302, b"", f"Location: http://h/{_token(request)}"),
    "sends something else": lambda request: glance_answer(200, str(request.headers).encode()),
    "sends a header": lambda request: glance_answer(
        200, b"{}", f"Content-Encoding: {_token(request)}"
    ),
    "sends a broken header": lambda request: glance_answer(200, b"{}", f"X {_token(request)}"),
    "sends no http": lambda request: f"{_token(request)} {SERVICE_TOKEN}\r\n\r\n".encode(),
    "sends a length": lambda request: glance_answer(
        200, b"{}", f"Content-Length: {_token(request)}", length=False
    ),
    "sends a record": lambda request: glance_answer(
        200, json.dumps({"id": _token(request), "status": SERVICE_TOKEN}).encode()
    ),
}


def _token(request: Request) -> str:
    """What proves the caller of a request, which a server may repeat wherever it likes."""
    return request.headers["x-auth-token"]


@pytest.mark.promise("security-20")
@pytest.mark.parametrize("context", ["service", "caller"])
@pytest.mark.parametrize("reply", GLANCE_REPLIES)
def test_glance_shows_no_token_no_password_and_no_query_of_a_location(
    reply: str, context: str, shown: Shown, make_broker: MakeBroker, tmp_path: Path
) -> None:
    who = None if context == "service" else RequestContext(
        auth_token=CALLER_TOKEN, user_id="u", project_id="p"
    )  # fmt: skip
    image = OneImage()
    with (
        RawServer(lambda connection, _: _say(connection, HTTP_REPLIES["cut"])) as elsewhere,
        Stub(image) as stub,
        Stub(Telling(stub.url)) as keystone,
    ):
        image.record["locations"] = [
            {"url": f"{elsewhere.url}/x?{LOCATION_QUERY}", "metadata": {}},
            {"url": f"http://u:{PROXY_PASSWORD}@h/x", "metadata": {}},
            {"url": f"swift+https://u:{PROXY_PASSWORD}@h/x?{LOCATION_QUERY}", "metadata": {}},
        ]
        said = GLANCE_REPLIES[reply]
        if said is not None:
            chosen = said
            image.show = lambda request, _: chosen(request)
        options = {**OPTIONS, "password": GLANCE_PASSWORD, "send_service_user_token": "true"}
        written = "\n".join(f"{name} = {value}" for name, value in options.items())
        broker = make_broker(
            CORE + sharing(tmp_path) + f"[backend:http]\nallowed_networks = {ALLOWED}\n"
            f"[backend:glance]\nendpoint = {stub.endpoint}\nauth_url = {keystone.url}/v3\n{written}\n"
        )
        dest = dests(tmp_path)
        for way in ways(broker, who, f"glance:{ID}", dest):
            shown.call(way)
        if said is None:
            image.file = lambda request, _: chosen_file(request)
            for each in filter(None, GLANCE_REPLIES.values()):
                chosen_file = each
                shown.call(lambda: broker.download(who, f"glance:{ID}", next(dest)))
        sent = [request.headers.get("x-auth-token") for request in stub.requests]
        assert_that(set(sent), Equals({SERVICE_TOKEN if who is None else CALLER_TOKEN}))
        shown.add(broker, broker.backends(), who.__class__)
    assert_that(shown.errors, GreaterThan(1))
    shown.files(tmp_path, but=("imagebroker-0.conf",))


def _say(connection: Connection, said: bytes) -> None:
    if connection.read_head():
        connection.sendall(said)


@pytest.mark.promise("security-20")
@pytest.mark.parametrize(
    "said",
    [
        glance_answer(401, f"no {GLANCE_PASSWORD}".encode()),
        glance_answer(403, json.dumps({"error": {"message": f"no {GLANCE_PASSWORD}"}}).encode(),
                      "Content-Type: application/json"),
        glance_answer(500, json.dumps({"error": {"message": f"no {GLANCE_PASSWORD}"}}).encode(),
                      "Content-Type: application/json"),
        glance_answer(400, json.dumps({"error": {"title": GLANCE_PASSWORD, "message": "password"}}).encode(),
                      "Content-Type: application/json"),
        glance_answer(201, GLANCE_PASSWORD.encode()),
        glance_answer(201, b"{}", f"X-Subject-Token: {SERVICE_TOKEN}"),
        glance_answer(302, b"", f"Location: http://h/{GLANCE_PASSWORD}"),
        f"{GLANCE_PASSWORD}\r\n\r\n".encode(),
    ],
)  # fmt: skip
def test_an_identity_service_that_repeats_the_password_does_not_make_it_shown(
    said: bytes, shown: Shown, make_broker: MakeBroker, tmp_path: Path
) -> None:
    keystone = Telling("http://127.0.0.1:9/")
    keystone.answering = lambda request: said
    with Stub(keystone) as stub:
        options = {**OPTIONS, "password": GLANCE_PASSWORD, "auth_url": f"{stub.url}/v3"}
        written = "\n".join(f"{name} = {value}" for name, value in options.items())
        broker = make_broker(CORE + sharing(tmp_path) + f"[backend:glance]\n{written}\n")
        for way in ways(broker, None, f"glance:{ID}", dests(tmp_path)):
            shown.call(way)
        assert_that(str(stub.requests), Contains(GLANCE_PASSWORD))
    assert_that(shown.errors, GreaterThan(3))


# -- scp, and proxies ------------------------------------------------------------------------------


@pytest.mark.promise("security-20")
@pytest.mark.parametrize("passphrase", ["right", "wrong"])
def test_scp_shows_no_passphrase_and_no_key(
    passphrase: str, shown: Shown, make_broker: MakeBroker, tmp_path: Path, sshd: Sshd
) -> None:
    image = tmp_path / "image"
    image.write_bytes(DATA)
    given = Sshd.passphrase if passphrase == "right" else PLUGIN_SECRET
    broker = make_broker(
        CORE + sharing(tmp_path) + f"[backend:scp]\nallowed_networks = {ALLOWED}\n"
        f"known_hosts = {sshd.known_hosts}\nidentity_file = {sshd.encrypted_key}\n"
        f"identity_passphrase = {given}\n"
    )
    dest = dests(tmp_path)
    for path in image, tmp_path / "absent", tmp_path:
        for way in ways(broker, None, sshd.url(path), dest):
            shown.call(way)
    shown.add(broker, broker.backends())
    assert_that(shown.errors, GreaterThan(3))
    shown.files(tmp_path, but=("imagebroker-0.conf",))
    for line in sshd.encrypted_key.read_text().splitlines()[1:-1]:
        assert_that(shown.text, Not(Contains(line)))


@pytest.mark.promise("security-20")
@pytest.mark.parametrize("scheme", ["http", "glance"])
def test_a_proxy_with_a_password_is_not_shown(
    scheme: str, shown: Shown, make_broker: MakeBroker, tmp_path: Path
) -> None:
    for userinfo in f"user:{PROXY_PASSWORD}@", f"{PROXY_PASSWORD}@":
        broker = make_broker(
            CORE + f"[backend:{scheme}]\nproxy = http://{userinfo}127.0.0.1:9\n"
            + ("endpoint = http://127.0.0.1:9292/\n" if scheme == "glance" else "")
        )  # fmt: skip
        ref = f"glance:{ID}" if scheme == "glance" else "http://images.example/x"
        who = RequestContext(auth_token=CALLER_TOKEN)
        with pytest.raises(TransferError):
            broker.get(who, ref)
        for way in ways(broker, who, ref, dests(tmp_path)):
            shown.call(way)
    assert_that(shown.errors, GreaterThan(8))


# -- plugins ---------------------------------------------------------------------------------------

LEAKY = f"""
from imagebroker.plugin import *

SECRET = "{PLUGIN_SECRET[::-1]}"[::-1]  # tracebacks quote the source

class LeakyBackend(ImageBackend):
    api_version = 1
    name = "leaky"
    ref_form = RefForm(host=True, path=True)

    def open(self, context, ref):
        if ref.path == "/told":
            self.host.conceal(SECRET)
            raise TransferError(SECRET + " is refused", hint="not " + SECRET)
        if ref.path == "/open":
            fail()
        return LeakySource(ref)

class LeakySource(ImageSource):
    def __init__(self, ref):
        self.ref, self.image = ref, Image(ref=ref.text, size=1000)

    def read(self, start=0, stop=None):
        if self.ref.path == "/read":
            fail()
        yield bytes(1000)

    def close(self):
        if self.ref.path == "/close":
            fail()

def fail():
    try:
        raise OSError("GET https://u:{PLUGIN_SECRET}@h/x?token={PLUGIN_SECRET}")
    except OSError as error:
        raise RuntimeError("X-Auth-Token: {PLUGIN_SECRET}, password={PLUGIN_SECRET}") from error
"""


@pytest.mark.promise("security-20")
@pytest.mark.parametrize("place", ["open", "read", "close"])
def test_what_a_plugin_lets_slip_in_an_exception_is_not_shown(
    place: str, shown: Shown, make_broker: MakeBroker, tmp_path: Path, on_path: Path
) -> None:
    install(on_path, "leaky", {"leaky": "leaky:LeakyBackend"}, leaky=LEAKY)
    broker = make_broker("[imagebroker]\nenabled_schemes = leaky\nretries = 0\n")
    try:
        broker.download(None, f"leaky://h/{place}", tmp_path / "dest")
    except ImageBrokerError as error:
        logging.getLogger("a.service").error("%s %r %s %s", error, error, error.hint, vars(error))
        shown.add(error, error.hint, vars(error), pickle.dumps(error))
    assert_that(shown.text, Contains("***"))


@pytest.mark.promise("C26")
def test_what_a_plugin_conceals_is_not_shown(
    shown: Shown, make_broker: MakeBroker, tmp_path: Path, on_path: Path
) -> None:
    install(on_path, "leaky", {"leaky": "leaky:LeakyBackend"}, leaky=LEAKY)
    broker = make_broker("[imagebroker]\nenabled_schemes = leaky\nretries = 0\n")
    for _ in range(2):
        shown.call(lambda: broker.download(None, "leaky://h/told", tmp_path / "dest"))
    assert_that(shown.text, Contains("*** is refused"))


# -- the command -----------------------------------------------------------------------------------


@pytest.mark.promise("security-20")
def test_the_command_shows_no_secret(tmp_path: Path, request: pytest.FixtureRequest) -> None:
    command = request.getfixturevalue("imagebroker_command")
    log = tmp_path / "log"

    def script(connection: Connection, index: int) -> None:
        """Repeats secrets of the request only: nobody can know those of others."""
        head = connection.read_head()
        query = QUERY.lower().encode()
        replies = [
            reply for reply in HTTP_REPLIES.values()
            if query in head.lower() or query not in reply.lower()
        ]  # fmt: skip
        if b" /v3" in head.partition(b"\r\n")[0]:
            connection.sendall(answer(b"", status=f"401 no {GLANCE_PASSWORD}"))
        elif head:
            connection.sendall(replies[index % len(replies)])

    with RawServer(script) as server:
        command.config(
            CORE + sharing(tmp_path) + f"[backend:http]\nallowed_networks = {ALLOWED}\n"
            f"endpoint = {server.url}/\nusername = user\npassword = {HTTP_PASSWORD}\n"
            f"[backend:glance]\nauth_type = password\nauth_url = {server.url}/v3\nusername = u\n"
            f"password = {GLANCE_PASSWORD}\nproject_name = p\n"
            f"[backend:glance:east]\nproxy = http://u:{PROXY_PASSWORD}@127.0.0.1:9/\n"
            f"[backend:scp]\nidentity_passphrase = {Sshd.passphrase}\nknown_hosts = /nonexistent\n"
        ).chmod(0o600)
        ref = f"{server.url}/x?{SIGNED}"
        said = []
        for argv in [
            *[("download", ref, f"dest{n}", "--retries", "0") for n in range(len(HTTP_REPLIES))],
            ("download", "-f", "json", ref, "dest"), ("download", "-f", "json", f"{ref}#x", "dest"),
            ("download", ref, "dest", "--checksum", f"{server.url}/SUMS?{CHECKSUM_QUERY}"),
            ("download", f"http://u:{PROXY_PASSWORD}@h/x", "dest"),
            ("download", "-f", "json", f"glance:{ID}", "dest"), ("list", "--backend", "glance"),
            ("show", f"glance:east:{ID}"), ("check",), ("check", "-f", "json"), ("backends",),
            ("config", "show"), ("config", "show", "-f", "json"), ("frobnicate", ref),
            ("show", ref, "--frobnicate"), ("delete", ref),
        ]:  # fmt: skip
            done = command("--debug", "--log-file", str(log), *argv)
            # What was asked for is printed: a record says its whole ref, which is of use.
            printed = done.stdout.decode()
            said += [done.stderr, printed.replace(ref, "REF") if done.status == 0 else printed]
            said.append(str(argv[0]))
    text = "\n".join([*said, log.read_text(), *map(str, tmp_path.rglob("*"))])
    for canary in ALL:
        where = text.find(canary)
        assert_that(where, Equals(-1), f"...{text[max(where - 600, 0) : where + 100]}...")
    assert_that(log.read_text(), Contains("DEBUG"))


# -- processes -------------------------------------------------------------------------------------


@pytest.mark.promise("security-15")
def test_no_program_is_started_whatever_is_done(
    make_broker: MakeBroker, tmp_path: Path, sshd: Sshd
) -> None:
    image = tmp_path / "image"
    image.write_bytes(DATA)
    broker = make_broker(
        CORE + sharing(tmp_path) + f"allowed_paths = {tmp_path}\n"
        f"[backend:http]\nallowed_networks = {ALLOWED}\n"
        f"[backend:scp]\nallowed_networks = {ALLOWED}\nknown_hosts = {sshd.known_hosts}\n"
        f"identity_file = {sshd.key}\n"
    )
    dest = dests(tmp_path)
    with (
        RawServer(lambda connection, _: _say(connection, GOOD)) as server,
        audit.record_events() as heard,
    ):
        for ref in f"{server.url}/x", sshd.url(image), f"file://{image}":
            for way in ways(broker, None, ref, dest):
                Shown().call(way)
    assert_that(len(heard.of(audit.NETWORK)), GreaterThan(2))
    assert_that(heard.of(audit.CHILDREN), Equals([]))


@pytest.mark.promise("security-20")
def test_the_command_line_of_a_service_says_nothing_of_what_it_transfers(tmp_path: Path) -> None:
    config = tmp_path / "imagebroker.conf"
    with RawServer(
        lambda connection, _: connection.read_head() and connection.wait_for_close(20)
    ) as server:
        config.write_text(
            CORE + f"[backend:http]\nallowed_networks = {ALLOWED}\nendpoint = {server.url}/\n"
            f"username = user\npassword = {HTTP_PASSWORD}\n"
        )
        program = (
            "import sys, imagebroker\n"
            "broker = imagebroker.Broker.from_config(sys.argv[1])\n"
            "broker.download(None, sys.stdin.readline().strip(), sys.argv[1] + '.dest')\n"
        )
        service = subprocess.Popen(
            [sys.executable, "-c", program, str(config)], stdin=subprocess.PIPE, text=True,
            stderr=subprocess.DEVNULL,
        )  # fmt: skip
        try:
            service.stdin.write(f"{server.url}/x?{SIGNED}\n")  # type: ignore[union-attr]
            service.stdin.close()  # type: ignore[union-attr]
            server.wait_for_connections(1, timeout=30)
            for task in os.listdir(f"/proc/{service.pid}/task"):
                for name in "cmdline", "comm", "environ":
                    text = Path(f"/proc/{service.pid}/task/{task}/{name}").read_bytes().decode()
                    for canary in ALL:
                        assert_that(text, Not(Contains(canary)))
        finally:
            service.kill()
            service.wait(10)
