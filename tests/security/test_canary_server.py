"""Every door to the network, tried with an address that is forbidden: nobody comes out there.

Most doors are tried twice: with the address forbidden, and, to show that the trap would have seen
it, with the address allowed.
"""

from __future__ import annotations

import io
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from testtools.assertions import assert_that
from testtools.matchers import Equals, GreaterThan

import imagebroker
from imagebroker.exceptions import ImageBrokerError, PolicyViolation
from tests.plugins.glance.test_identity import PASSWORD, Keystone
from tests.plugins.glance_stub import DATA, ID, OneImage, Stub, answer, caller
from tests.plugins.http_peers import answer as http_answer
from tests.plugins.http_peers import server_context, serving
from tests.plugins.scp_peers import public_key
from tests.security.trap import ALLOWED, BOTH, FORBIDDEN, Trap
from tests.servers.certificates import write_certificates
from tests.servers.sshd import Sshd

MakeBroker = Callable[[str], imagebroker.Broker]

#: 127.0.0.66 and other addresses of this host, as URLs may spell them.
SPELLINGS = [
    FORBIDDEN, "127.66", "127.0.66", "2130706498", "0x7f000042", "0x7F.0x0.0x0.0x42", "0177.0.0.0102",
    "0177.66", "017700000102", "127.000.000.066", "127.0.0.66.", "[::ffff:127.0.0.66]",
    "[::ffff:7f00:42]", "[0:0:0:0:0:ffff:7f00:42]", "[::127.0.0.66]", "[::7f00:42]",
    "[64:ff9b::7f00:42]", "[64:ff9b:1::7f00:42]", "[2002:7f00:42::]", "[2001:0:7f00:42::]",
    "[::ffff:0:7f00:42]", "[::1]", "[0:0:0:0:0:0:0:1]", "[::]", "0.0.0.0", "0", "localhost",
    "localhost.", "LOCALHOST", "ip6-localhost", "[fe80::1%25lo]", "[fe80::1%lo]", "%31%32%37.0.0.66",
    "127。0。0。66", "①②⑦.0.0.66", "ⓛocalhost", "127.0.0.66%00.example.com", "example.com@127.0.0.66",
    "127.0.0.66#@example.com", "example.com\\@127.0.0.66", "127.0.0.66\t", " 127.0.0.66", "127.0.0.66/",
]  # fmt: skip
RAW_SCHEMES = ["http", "https", "scp", "glance", "file"]


@pytest.fixture
def trap() -> Iterator[Trap]:
    with Trap() as listening:
        yield listening


@pytest.fixture(scope="module")
def tls_files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_certificates(tmp_path_factory.mktemp("tls")).parent


@pytest.fixture(params=[False, True], ids=["forbidden", "allowed"])
def door(request: pytest.FixtureRequest, trap: Trap) -> Iterator[str]:
    """The networks that are allowed; afterwards, whether anybody came where that is right."""
    yield BOTH if request.param else ALLOWED
    assert_that(trap.count(), GreaterThan(0) if request.param else Equals(0))


def core(schemes: str = "http, https", more: str = "") -> str:
    return (
        f"[imagebroker]\nenabled_schemes = {schemes}\nretries = 0\nretry_backoff = 0\n"
        f"connect_timeout = 3\nstall_timeout = 3\n{more}\n"
    )


def glance(stub: Stub | None, networks: str, more: str = "") -> str:
    endpoint = f"endpoint = {stub.endpoint}\n" if stub is not None else ""
    return f"[backend:glance]\nallowed_networks = {networks}\n{endpoint}{more}\n"


def verbs(broker: imagebroker.Broker, tmp_path: Path) -> dict[str, Callable[[str], object]]:
    """Every call that takes a ref."""
    return {
        "download to a path": lambda ref: broker.download(caller(), ref, tmp_path / "dest"),
        "download to a file": lambda ref: broker.download(caller(), ref, io.BytesIO()),
        "open": lambda ref: broker.open(caller(), ref).read(),
        "get": lambda ref: broker.get(caller(), ref, include_locations=True),
        "copy": lambda ref: broker.copy(None, ref, backend="file"),
        "update": lambda ref: broker.update(caller(), ref, {"name": "x"}),
        "delete": lambda ref: broker.delete(caller(), ref),
        "resolve": lambda ref: broker.resolve(ref),
    }


def spelled(trap: Trap, scheme: str) -> str:
    """A URL that would be used if its address were allowed."""
    return trap.url(scheme, host=f"me@{FORBIDDEN}" if scheme == "scp" else FORBIDDEN)


# -- refs ------------------------------------------------------------------------------------------


@pytest.mark.promise("security-10")
@pytest.mark.parametrize(
    "verb", ["download to a path", "download to a file", "open", "get", "copy"]
)
@pytest.mark.parametrize("scheme", ["http", "https", "scp"])
def test_a_ref_leads_there_by_no_verb(
    scheme: str,
    verb: str,
    door: str,
    trap: Trap,
    make_broker: MakeBroker,
    tmp_path: Path,
    sshd: Sshd,
) -> None:
    known = tmp_path / "known_hosts"
    known.write_text(f"[{FORBIDDEN}]:{trap.port} {public_key(sshd.host_keys['ed25519'])}\n")
    broker = make_broker(
        core(
            "http, https, scp, file", f"cache_dir = {tmp_path}/cache\nstate_dir = {tmp_path}/state"
        )
        + f"[backend:http]\nallowed_networks = {door}\n"
        f"[backend:scp]\nallowed_networks = {door}\nknown_hosts = {known}\n"
        f"identity_file = {sshd.key}\n[backend:file]\nstore_dir = {tmp_path}/store\n"
    )
    with pytest.raises(ImageBrokerError):
        verbs(broker, tmp_path)[verb](spelled(trap, scheme))


@pytest.mark.promise("security-10")
@pytest.mark.parametrize("host", SPELLINGS)
def test_no_spelling_leads_there(
    host: str, trap: Trap, make_broker: MakeBroker, tmp_path: Path, sshd: Sshd
) -> None:
    broker = make_broker(
        core(", ".join(RAW_SCHEMES)) + "[backend:file]\nallowed_paths = /\n"
        f"store_dir = {tmp_path}/store\n"
        f"[backend:scp]\nknown_hosts = {sshd.known_hosts}\n"
        f"identity_file = {sshd.key}\n" + glance(None, "", "auth_url = http://127.0.0.1:9/v3")
    )
    tried = verbs(broker, tmp_path)
    del tried["resolve"]  # a name is resolved when it is connected to
    for scheme in RAW_SCHEMES:
        for user in ("", "u@", "u:p@"):
            for verb in tried.values():
                with pytest.raises(ImageBrokerError):
                    verb(trap.url(scheme, host=f"{user}{host}"))
    assert_that(trap.count(), Equals(0))


@pytest.mark.parametrize(
    "url",
    ["{}/v2/images/{}", "{}/v2/images/{}/file", "{}/image/v2/images/{}", "{}/v2/images/{}?x=1"],
)
def test_the_url_of_an_image_in_another_glance_leads_there_in_no_form(
    url: str, trap: Trap, make_broker: MakeBroker, tmp_path: Path
) -> None:
    """Not even where its address may be reached: it is no endpoint, and would get a token."""
    for networks in ALLOWED, BOTH:
        broker = make_broker(
            core("http, glance")
            + f"[backend:http]\nallowed_networks = {networks}\n"
            + glance(None, networks, "endpoint = http://127.0.0.1:9292/")
        )
        for verb in list(verbs(broker, tmp_path).values())[:-1]:
            with pytest.raises(ImageBrokerError):
                verb(url.format(trap.url(path=""), ID))
    assert_that(trap.count(), Equals(0))


# -- names and their addresses ---------------------------------------------------------------------


class Resolver:
    """Answers the questions for one name, each with the next of its answers."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *answers: list[str]) -> None:
        self._answers = iter(answers)
        self._last = answers[-1]
        self._real = socket.getaddrinfo
        monkeypatch.setattr(socket, "getaddrinfo", self)

    def __call__(self, host: Any, port: Any, *args: Any, **named: Any) -> Any:
        if host != "images.example":
            return self._real(host, port, *args, **named)
        self._last = next(self._answers, self._last)
        return [
            (socket.AF_INET6 if ":" in each else socket.AF_INET, socket.SOCK_STREAM, 6, "", (each, port))
            for each in self._last
        ]  # fmt: skip


@pytest.mark.promise("security-11")
@pytest.mark.parametrize(
    "answers",
    [
        [[FORBIDDEN]],
        [["::ffff:127.0.0.66"]],
        [["192.0.2.1", FORBIDDEN]],
        [["::1"], ["::"], ["0.0.0.0"]],
        [[FORBIDDEN, "::1"]],
    ],
)
def test_a_name_with_such_an_address_leads_there_neither(
    answers: list[list[str]], trap: Trap, make_broker: MakeBroker, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    Resolver(monkeypatch, *answers)
    broker = make_broker(core() + f"[backend:http]\nallowed_networks = {ALLOWED}\n")
    for _ in answers:
        for scheme in "http", "https":
            with pytest.raises(PolicyViolation):
                broker.download(None, trap.url(scheme, host="images.example"), tmp_path / "dest")
    assert_that(trap.count(), Equals(0))


@pytest.mark.promise("security-11")
def test_a_name_that_changes_its_address_leads_there_neither(
    door: str, trap: Trap, make_broker: MakeBroker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first request goes to a good server, which breaks off; the second finds the other."""
    cut = http_answer(DATA, 'ETag: "1"', "Accept-Ranges: bytes")[:-1000]
    with serving(cut) as server:
        Resolver(monkeypatch, ["127.0.0.1"], [FORBIDDEN])
        monkeypatch.setattr(Resolver, "__call__", _moved(Resolver.__call__, server.port, trap.port))
        broker = make_broker(
            core().replace("retries = 0", "retries = 2")
            + f"[backend:http]\nallowed_networks = {door}\n"
        )
        with pytest.raises(ImageBrokerError):
            broker.download(None, f"http://images.example:{server.port}/image", tmp_path / "dest")
        assert_that(len(server.connections), Equals(1))


def _moved(resolve: Any, port: int, instead: int) -> Any:
    """Later answers have the trap's port, as if it had the server's on its own address."""

    def moved(self: Resolver, host: Any, asked: Any, *args: Any, **named: Any) -> Any:
        found = resolve(self, host, asked, *args, **named)
        return [
            (*each[:4], (each[4][0], instead if each[4][0] == FORBIDDEN else port))
            for each in found
        ]

    return moved


# -- redirects -------------------------------------------------------------------------------------


@pytest.mark.promise("security-10")
@pytest.mark.parametrize("secure", [False, True], ids=["from http", "from https"])
@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_a_redirect_leads_there_in_no_status(
    status: int, secure: bool, door: str, trap: Trap, make_broker: MakeBroker, tmp_path: Path,
    tls_files: Path,
) -> None:  # fmt: skip
    away = trap.url("https" if secure else "http")
    reply = http_answer(b"", f"Location: {away}", status=f"{status} Elsewhere")
    with serving(reply, tls=server_context(tls_files) if secure else None) as server:
        broker = make_broker(
            core() + f"[backend:http]\nallowed_networks = {door}\nca_file = {tls_files}/ca.pem\n"
        )
        with pytest.raises(ImageBrokerError):
            broker.download(None, f"{server.url}/x", tmp_path / "dest")


@pytest.mark.promise("security-10")
@pytest.mark.parametrize(
    "location",
    [
        "{url}", "//127.0.0.66:{port}/x", "\\\\127.0.0.66:{port}/x", "/\\127.0.0.66:{port}/x",
        "http:127.0.0.66:{port}", "http:/127.0.0.66:{port}/", "http:///127.0.0.66:{port}/",
        "http://[::ffff:127.0.0.66]:{port}/", "http://2130706498:{port}/", "http://0x7f.66:{port}/",
        "http://u@127.0.0.66:{port}/", "http://u:p@127.0.0.66:{port}/", "HTTP://127.0.0.66:{port}/",
        "scp://127.0.0.66:{port}/x", "ftp://127.0.0.66:{port}/x", "gopher://127.0.0.66:{port}/x",
        "http://127.0.0.66:{port}", "http://127.0.0.66:{port}#x", "http://[::1]:{port}/",
        "http://127.0.0.1:{port}@127.0.0.66:{port}/", "http://127.0.0.66:{port}/?x", ".//127.0.0.66:{port}/",
    ],
)  # fmt: skip
def test_no_location_of_a_redirect_leads_there(
    location: str, trap: Trap, make_broker: MakeBroker, tmp_path: Path
) -> None:
    target = location.format(url=trap.url(), port=trap.port)
    first = http_answer(b"", f"Location: {target}", status="302 Found")
    # The second: what is taken for a path of the same server must not become anything else there.
    with serving(first, http_answer(b"", status="404 No")) as server:
        broker = make_broker(core() + f"[backend:http]\nallowed_networks = {ALLOWED}\n")
        for call in verbs(broker, tmp_path)["open"], verbs(broker, tmp_path)["get"]:
            with pytest.raises(ImageBrokerError):
                call(f"{server.url}/x")
    assert_that(trap.count(), Equals(0))


def test_a_chain_of_redirects_is_looked_at_at_every_step(
    door: str, trap: Trap, make_broker: MakeBroker, tmp_path: Path
) -> None:
    hops = [http_answer(b"", f"Location: /{n}", status="302 Found") for n in range(4)]
    last = http_answer(b"", f"Location: {trap.url()}", status="307 There")
    with serving(*hops, last) as server:
        broker = make_broker(core() + f"[backend:http]\nallowed_networks = {door}\n")
        with pytest.raises(ImageBrokerError):
            broker.download(None, f"{server.url}/x", tmp_path / "dest")


def test_a_redirect_in_the_middle_of_an_image_leads_there_neither(
    door: str, trap: Trap, make_broker: MakeBroker, tmp_path: Path
) -> None:
    cut = http_answer(DATA, 'ETag: "1"', "Accept-Ranges: bytes")[:-1000]
    away = http_answer(b"", f"Location: {trap.url()}", status="302 Found")
    with serving(cut, away) as server:
        broker = make_broker(
            core().replace("retries = 0", "retries = 2")
            + f"[backend:http]\nallowed_networks = {door}\n"
        )
        with pytest.raises(ImageBrokerError):
            broker.download(None, f"{server.url}/x", tmp_path / "dest")
        assert_that(len(server.connections), GreaterThan(1))


@pytest.mark.parametrize("where", ["show", "file"])
@pytest.mark.parametrize("status", [300, 301, 302, 303, 305, 307, 308])
def test_an_api_server_of_glance_sends_nobody_there(
    status: int, where: str, trap: Trap, make_broker: MakeBroker, tmp_path: Path
) -> None:
    """Not even where that address may be reached: no redirect is followed with a token."""
    image = OneImage()
    setattr(image, where, lambda request, _: answer(status, b"{}", f"Location: {trap.url()}"))
    for networks in ALLOWED, BOTH:
        with Stub(image) as stub:
            broker = make_broker(core("glance") + glance(stub, networks))
            for verb in "download to a path", "open":
                with pytest.raises(ImageBrokerError):
                    verbs(broker, tmp_path)[verb](f"glance:{ID}")
    assert_that(trap.count(), Equals(0))


# -- what Glance and Keystone name -----------------------------------------------------------------


@pytest.mark.promise("security-10")
@pytest.mark.parametrize("verb", ["download to a path", "download to a file", "open", "copy"])
@pytest.mark.parametrize("scheme", ["http", "https", "scp"])
def test_a_location_of_an_image_leads_there_neither(
    scheme: str,
    verb: str,
    door: str,
    trap: Trap,
    make_broker: MakeBroker,
    tmp_path: Path,
    sshd: Sshd,
) -> None:
    known = tmp_path / "known_hosts"
    known.write_text(f"[{FORBIDDEN}]:{trap.port} {public_key(sshd.host_keys['ed25519'])}\n")
    image = OneImage(locations=[{"url": spelled(trap, scheme), "metadata": {"host": FORBIDDEN}}])
    with Stub(image) as stub, Stub(Keystone(stub.url)) as keystone:
        secrets = "\n".join(f"{name} = {value}" for name, value in PASSWORD.items())
        broker = make_broker(
            core("glance, http, https, scp, file", "direct_url_schemes = http, https, scp, file")
            + f"[backend:http]\nallowed_networks = {door}\n"
            f"[backend:scp]\nallowed_networks = {door}\nknown_hosts = {known}\n"
            f"identity_file = {sshd.key}\n[backend:file]\nstore_dir = {tmp_path}/store\n"
            + glance(stub, ALLOWED, f"auth_url = {keystone.url}/v3\n{secrets}")
        )
        verbs(broker, tmp_path)[verb](f"glance:{ID}")  # from Glance itself


@pytest.mark.promise("security-10")
@pytest.mark.parametrize("context", [None, caller()], ids=["the service", "a caller"])
def test_the_catalogue_leads_there_neither(
    context: Any, door: str, trap: Trap, make_broker: MakeBroker, tmp_path: Path
) -> None:
    with Stub(Keystone(trap.url(path=""))) as keystone:
        secrets = "\n".join(f"{name} = {value}" for name, value in PASSWORD.items())
        broker = make_broker(
            core("glance") + glance(None, door, f"auth_url = {keystone.url}/v3\n{secrets}")
        )
        with pytest.raises(ImageBrokerError):
            broker.download(context, f"glance:{ID}", tmp_path / "dest")


def test_the_catalogue_in_a_callers_context_leads_there_neither(
    door: str, trap: Trap, make_broker: MakeBroker, tmp_path: Path
) -> None:
    context = caller()
    context.service_catalog = Keystone(trap.url(path="")).catalogue
    broker = make_broker(core("glance") + glance(None, door))
    with pytest.raises(ImageBrokerError):
        broker.download(context, f"glance:{ID}", tmp_path / "dest")


@pytest.mark.promise("security-10")
@pytest.mark.parametrize("auth_type", ["password", "v3password"])
@pytest.mark.parametrize("how", ["a redirect", "a list of versions"])
def test_an_identity_service_sends_nobody_there(
    how: str, auth_type: str, trap: Trap, make_broker: MakeBroker, tmp_path: Path
) -> None:
    """Not even where that address may be reached: it would get the password."""
    away = trap.url(path="/v3")
    version = {"id": "v3.14", "status": "stable", "links": [{"rel": "self", "href": away}]}
    said = {
        "a redirect": answer(302, b"", f"Location: {away}/auth/tokens"),
        "a list of versions": _json({"version": version, "versions": {"values": [version]}}),
    }[how]
    for networks in ALLOWED, BOTH:
        keystone = Keystone(trap.url(path=""))
        keystone.answering = lambda request: said
        with Stub(keystone) as stub:
            options = {**PASSWORD, "auth_type": auth_type, "auth_url": stub.url}
            written = "\n".join(f"{name} = {value}" for name, value in options.items())
            broker = make_broker(core("glance") + glance(None, networks, written))
            with pytest.raises(ImageBrokerError):
                broker.download(None, f"glance:{ID}", tmp_path / "dest")
            assert_that(len(stub.requests), GreaterThan(0))
    assert_that(trap.count(), Equals(0))


def _json(document: Any) -> bytes:
    from tests.plugins.glance_stub import json_answer

    return json_answer(document)


# -- what callers and the environment name ---------------------------------------------------------


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_the_url_of_a_file_of_checksums_leads_there_neither(
    scheme: str, door: str, trap: Trap, make_broker: MakeBroker, tmp_path: Path
) -> None:
    sums = trap.url(scheme, "/SHA256SUMS")
    away = http_answer(b"", f"Location: {sums}", status="302 Found")
    with serving(http_answer(DATA)) as server, serving(away) as elsewhere:
        broker = make_broker(core() + f"[backend:http]\nallowed_networks = {door}\n")
        for checksum in sums, f"{elsewhere.url}/SHA256SUMS":
            with pytest.raises(ImageBrokerError):
                broker.download(None, f"{server.url}/x", tmp_path / "dest", checksum=checksum)
        assert_that(len(elsewhere.connections), GreaterThan(0))


@pytest.mark.parametrize("host", ["[::ffff:127.0.0.66]", "2130706498", "127.66", "[::1]", "0"])
def test_no_spelling_of_such_a_url_leads_there(
    host: str, trap: Trap, make_broker: MakeBroker, tmp_path: Path
) -> None:
    with serving(http_answer(DATA)) as server:
        broker = make_broker(core() + f"[backend:http]\nallowed_networks = {ALLOWED}\n")
        with pytest.raises(ImageBrokerError):
            broker.download(
                None, f"{server.url}/x", tmp_path / "dest", checksum=trap.url("http", "/SUMS", host)
            )
    assert_that(trap.count(), Equals(0))


@pytest.mark.promise("security-19")
@pytest.mark.parametrize("scheme", ["http", "https", "glance"])
def test_a_proxy_of_the_environment_is_not_asked(
    scheme: str, trap: Trap, make_broker: MakeBroker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    tls_files: Path,
) -> None:  # fmt: skip
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy", "ftp_proxy"):
        for each in name, name.upper():
            monkeypatch.setenv(each, "" if "no" in name.lower() else trap.url(path="/"))
    with (
        serving(http_answer(DATA)) as plain,
        serving(http_answer(DATA), tls=server_context(tls_files)) as secure,
        Stub(OneImage()) as stub,
    ):
        broker = make_broker(
            core("http, https, glance") + f"[backend:http]\nallowed_networks = {ALLOWED}\n"
            f"ca_file = {tls_files}/ca.pem\n" + glance(stub, ALLOWED)
        )
        refs = {"http": f"{plain.url}/x", "https": f"{secure.url}/x", "glance": f"glance:{ID}"}
        broker.download(caller(), refs[scheme], tmp_path / "dest")
    assert_that((tmp_path / "dest").read_bytes() == DATA, Equals(True))
    assert_that(trap.count(), Equals(0))


def test_a_proxy_is_not_asked_for_a_forbidden_address(
    trap: Trap, make_broker: MakeBroker, tmp_path: Path
) -> None:
    """A proxy connects by itself: what the ref spells is all that can be looked at."""
    with serving(http_answer(DATA)) as proxy:
        broker = make_broker(
            core() + f"[backend:http]\nallowed_networks = {ALLOWED}\nproxy = {proxy.url}\n"
        )
        for host in FORBIDDEN, "[::ffff:127.0.0.66]", "2130706498", "169.254.169.254", "metadata":
            with pytest.raises(PolicyViolation):
                broker.download(None, trap.url(host=host), tmp_path / "dest")
        assert_that(len(proxy.connections), Equals(0))
    assert_that(trap.count(), Equals(0))
