"""The test servers do what the other tests take for granted."""

from __future__ import annotations

import contextlib
import gzip
import os
import signal
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import paramiko
import pytest
import requests

from tests.bounds import HANGS, SLACK
from tests.servers.fixtures import require
from tests.servers.images import make_qcow2, random_file
from tests.servers.nginx import Nginx
from tests.servers.openstack import OpenStack
from tests.servers.process import HOST, PortTaken, ServerProcess, StartError, accepts
from tests.servers.raw import Connection, RawServer
from tests.servers.sshd import Sshd
from tests.servers.tcp import Fault, TcpProxy

SIZE = 3_000_000


@pytest.fixture(scope="module")
def content() -> bytes:
    return os.urandom(SIZE)


@pytest.fixture(scope="module")
def served(nginx: Nginx, content: bytes) -> str:
    """A file in nginx, by its name."""
    (nginx.root / "served.img").write_bytes(content)
    return "served.img"


@pytest.fixture(scope="module")
def origin(content: bytes) -> Iterator[RawServer]:
    """A server that sends the content to anybody who sends one line, and then closes."""

    def script(connection: Connection, index: int) -> None:
        connection.read_head(b"\n")
        connection.sendall(content)

    with RawServer(script) as server:
        yield server


def fetch(port: int, question: bytes = b"hello\n") -> bytes:
    """Return all bytes that a port has to say, until FIN; other ends are exceptions."""
    with socket.create_connection((HOST, port), 60) as client:
        client.sendall(question)
        data = bytearray()
        while piece := client.recv(65536):
            data += piece
        return bytes(data)


def received_before_error(port: int, timeout: float = 10) -> tuple[int, type[OSError]]:
    """Return how many bytes came, and what kind of error then."""
    with socket.socket() as client:
        client.settimeout(timeout)
        count = 0
        try:
            client.connect((HOST, port))
            client.sendall(b"hello\n")
            while piece := client.recv(65536):
                count += len(piece)
        except OSError as error:
            return count, type(error)
    raise AssertionError(f"FIN after {count} bytes")


# nginx


def test_nginx_answers_a_range_request_with_206(nginx: Nginx, served: str, content: bytes) -> None:
    answer = requests.get(nginx.url(served), headers={"Range": "bytes=10-19"}, timeout=60)
    assert answer.status_code == 206
    assert answer.content == content[10:20]
    assert answer.headers["Content-Range"] == f"bytes 10-19/{SIZE}"
    assert answer.headers["ETag"].startswith('"')


def test_nginx_logs_what_was_asked(nginx: Nginx, served: str) -> None:
    headers = {"Range": "bytes=5-", "Authorization": "Bearer x"}
    requests.get(nginx.url(served) + "?logged", headers=headers, timeout=60)
    [request] = nginx.requests("?logged", at_least=1)
    assert request.line == f"GET /{served}?logged HTTP/1.1"
    assert (request.range, request.authorization) == ("bytes=5-", "Bearer x")
    assert (request.status, request.sent) == (206, SIZE - 5)


def test_nginx_has_a_certificate_for_its_address(nginx: Nginx, served: str) -> None:
    answer = requests.get(f"{nginx.https_url}/{served}", verify=str(nginx.ca_file), timeout=60)
    assert len(answer.content) == SIZE


@pytest.mark.parametrize(
    ("certificate", "reason"),
    [
        ("wrong-host", "not valid for"),
        ("expired", "has expired"),
        ("self-signed", "self-signed certificate"),
    ],
)
def test_nginx_has_bad_certificates(
    nginx: Nginx, served: str, certificate: str, reason: str
) -> None:
    context = ssl.create_default_context(cafile=str(nginx.ca_file))
    with (
        socket.create_connection((HOST, nginx.ports[certificate])) as plain,
        pytest.raises(ssl.SSLCertVerificationError, match=reason),
    ):
        context.wrap_socket(plain, server_hostname=HOST)


def test_nginx_wants_a_password_for_private_files(nginx: Nginx, served: str) -> None:
    url = nginx.url(served, prefix="private")
    assert requests.get(url, timeout=60).status_code == 401
    assert requests.get(url, auth=(nginx.user, nginx.password), timeout=60).status_code == 200


@pytest.mark.parametrize("code", [301, 302, 303, 307, 308])
def test_nginx_redirects_to_a_file_and_to_anything(nginx: Nginx, served: str, code: int) -> None:
    answer = requests.get(f"{nginx.http_url}/redirect/{code}/{served}?a=%2F", timeout=60)
    assert [each.status_code for each in answer.history] == [code]
    assert answer.url == f"{nginx.http_url}/{served}?a=%2F"
    url = nginx.redirect_to("file:///etc//passwd?%20", code)
    answer = requests.get(url, allow_redirects=False, timeout=60)
    assert (answer.status_code, answer.headers["Location"]) == (code, "file:///etc//passwd?%20")


def test_nginx_has_redirects_of_the_tests_own(tmp_path: Path) -> None:
    with Nginx(tmp_path, redirects={"/loop": (302, "/loop")}) as server:
        answer = requests.get(server.url("loop"), allow_redirects=False, timeout=60)
        assert answer.headers["Location"] == server.url("loop")


def test_nginx_limits_the_rate_of_slow_files(tmp_path: Path) -> None:
    random_file(tmp_path / "slow.img", 300_000)
    with Nginx(tmp_path, slow_rate=200_000) as server:
        begin = time.monotonic()
        requests.get(server.url("slow.img", prefix="slow"), timeout=60)
        assert 0.5 < time.monotonic() - begin < 2 * SLACK


def test_nginx_compresses_where_it_is_told(nginx: Nginx, content: bytes, served: str) -> None:
    headers = {"Accept-Encoding": "gzip", "Range": "bytes=0-1"}
    url = nginx.url(served, prefix="gzip")
    with requests.get(url, headers=headers, timeout=60, stream=True) as answer:
        assert answer.headers["Content-Encoding"] == "gzip"
        assert gzip.decompress(answer.raw.read(decode_content=False)) == content


def test_nginx_ignores_ranges_or_hides_the_etag_where_it_is_told(nginx: Nginx, served: str) -> None:
    headers = {"Range": "bytes=0-1"}
    url = nginx.url(served, prefix="norange")
    assert requests.get(url, headers=headers, timeout=60).status_code == 200
    url = nginx.url(served, prefix="noetag")
    assert "ETag" not in requests.get(url, headers=headers, timeout=60).headers


# sshd


def test_sshd_lets_sftp_in(sshd: Sshd, tmp_path: Path, content: bytes) -> None:
    source, copy = tmp_path / "source", tmp_path / "copy"
    source.write_bytes(content)
    command = ["sftp", "-b", "-", *sshd.ssh_options(), sshd.host]
    subprocess.run(command, input=f"get {source} {copy}\n".encode(), check=True)
    assert copy.read_bytes() == content


def connect(server: Sshd, known_hosts: Path | None = None, **options: str) -> paramiko.SSHClient:
    client = paramiko.SSHClient()
    client.load_host_keys(str(known_hosts or server.known_hosts))
    client.set_missing_host_key_policy(paramiko.RejectPolicy())
    options = {"key_filename": str(server.key), **options}
    try:
        client.connect(
            server.host,
            server.port,
            server.user,
            allow_agent=False,
            look_for_keys=False,
            **options,  # type: ignore[arg-type]  # all of them are strings
        )
    except BaseException:
        client.close()
        raise
    return client


def test_sshd_lets_paramiko_in_with_each_key(sshd: Sshd) -> None:
    for key in (sshd.key, sshd.rsa_key):
        with connect(sshd, key_filename=str(key)) as client:
            assert "passwd" in client.open_sftp().listdir("/etc")
    key = sshd.encrypted_key
    connect(sshd, key_filename=str(key), passphrase=sshd.passphrase).close()


def test_sshd_refuses_a_strange_key_and_has_a_wrong_known_hosts(sshd: Sshd) -> None:
    with pytest.raises(paramiko.AuthenticationException):
        connect(sshd, key_filename=str(sshd.strange_key))
    with pytest.raises(paramiko.BadHostKeyException):
        connect(sshd, sshd.wrong_known_hosts)


def test_sshd_with_forced_sftp_and_single_algorithms() -> None:
    restricted = Sshd(
        force_sftp=True, ciphers="aes256-ctr", macs="hmac-sha2-512", kex="ecdh-sha2-nistp256"
    )
    with restricted as server, connect(server) as client:
        transport = client.get_transport()
        # Not among the attributes that its type information declares.
        assert getattr(transport, "remote_cipher", None) == "aes256-ctr"
        assert getattr(transport, "remote_mac", None) == "hmac-sha2-512"
        _, output, _ = client.exec_command("echo out")
        assert b"sftp connections only" in output.read()
        assert "passwd" in client.open_sftp().listdir("/etc")
        assert server.session_pids()


def test_sshd_without_the_sftp_subsystem() -> None:
    with Sshd(sftp=False) as server, connect(server) as client:
        with pytest.raises(paramiko.SSHException):
            client.open_sftp()
        _, output, _ = client.exec_command("echo out")
        assert output.read() == b"out\n"


def test_sshd_ends_with_its_sessions() -> None:
    with Sshd() as server:
        command = ["ssh", "-n", *server.ssh_options(), server.host, "echo in; exec sleep 1000"]
        client = subprocess.Popen(command, stdout=subprocess.PIPE)
        assert client.stdout is not None
        client.stdout.readline()
        sessions = server.session_pids()
    client.communicate()
    assert sessions
    for pid in sessions:
        with contextlib.suppress(FileNotFoundError):  # or a zombie, if init is slow to look
            assert ") Z " in Path(f"/proc/{pid}/stat").read_text()


# Keystone and Glance


def test_glance_gives_back_what_was_uploaded(openstack: OpenStack, content: bytes) -> None:
    images = f"{openstack.endpoint}/v2/images"
    headers = {"X-Auth-Token": openstack.token("red")}
    record = {"name": "x", "disk_format": "raw", "container_format": "bare"}
    image = requests.post(images, json=record, headers=headers, timeout=60).json()
    url = f"{images}/{image['id']}/file"
    data = {"Content-Type": "application/octet-stream"}
    assert requests.put(url, content, headers=headers | data, timeout=60).status_code == 204
    assert requests.get(url, headers=headers, timeout=60).content == content
    assert openstack.stored_file(image["id"]).read_bytes() == content
    part = requests.get(url, headers=headers | {"Range": "bytes=1-2"}, timeout=60)
    assert (part.status_code, part.content) == (206, content[1:3])


def test_glance_keeps_projects_and_roles_apart(openstack: OpenStack) -> None:
    image = openstack.create_image(b"data")
    assert openstack.call("red", "GET", f"/images/{image}/file") == b"data"
    assert openstack.call("admin", "GET", f"/images/{image}/file") == b"data"
    record = openstack.call("reader", "GET", f"/images/{image}")
    assert record["owner"] == openstack.project_ids["red"]
    with pytest.raises(AssertionError, match="403"):
        openstack.call("reader", "GET", f"/images/{image}/file")
    with pytest.raises(AssertionError, match="404"):
        openstack.call("blue", "GET", f"/images/{image}")


def test_a_revoked_token_is_refused(openstack: OpenStack) -> None:
    token = openstack.token("red")
    openstack.revoke(token)
    answer = requests.get(
        f"{openstack.endpoint}/v2/images", headers={"X-Auth-Token": token}, timeout=60
    )
    assert answer.status_code == 401


def test_keystoneauth_finds_glance_in_the_catalogue(openstack: OpenStack) -> None:
    loading = pytest.importorskip("keystoneauth1.loading")
    session = pytest.importorskip("keystoneauth1.session")
    options = openstack.auth_options("red")
    auth = loading.get_plugin_loader(options.pop("auth_type")).load_from_options(**options)
    found = session.Session(auth=auth).get_endpoint(
        service_type="image", region_name=openstack.region
    )
    assert found.startswith(openstack.endpoint)


def test_glance_takes_sixteen_uploads_at_once(openstack: OpenStack) -> None:
    with ThreadPoolExecutor(16) as pool:
        images = list(pool.map(openstack.create_image, [b"x" * n for n in range(1, 33)]))
    assert len(set(images)) == 32


def test_a_second_glance_takes_locations(
    openstack: OpenStack, nginx: Nginx, served: str, content: bytes
) -> None:
    image = openstack.create_image(None)
    url = f"{openstack.locations_endpoint()}/v2/images/{image}"
    location = {"url": nginx.url(served), "metadata": {}}
    change = [{"op": "add", "path": "/locations/-", "value": location}]
    openstack.call("admin", "PATCH", url, change)
    assert openstack.call("red", "GET", url)["locations"][0]["url"] == nginx.url(served)
    assert openstack.call("red", "GET", f"/images/{image}/file") == content


def test_glance_imports_from_a_loopback_url(
    openstack: OpenStack, nginx: Nginx, served: str
) -> None:
    image = openstack.create_image(None)
    method = {"name": "web-download", "uri": nginx.url(served)}
    openstack.call("red", "POST", f"/images/{image}/import", {"method": method})
    deadline = time.monotonic() + HANGS
    while (record := openstack.call("red", "GET", f"/images/{image}"))["status"] != "active":
        assert time.monotonic() < deadline, record
        time.sleep(0.05)
    assert record["size"] == SIZE


# The proxy


def test_the_proxy_passes_everything_on_and_counts(origin: RawServer, content: bytes) -> None:
    with TcpProxy(origin.host, origin.port) as proxy:
        assert fetch(proxy.port) == content
        assert (proxy.connections, proxy.sent, proxy.received) == (1, 6, SIZE)


def test_the_proxy_cuts_by_fin_after_exactly_n_bytes(origin: RawServer, content: bytes) -> None:
    with TcpProxy(origin.host, origin.port, Fault(cut_after=100_001)) as proxy:
        assert fetch(proxy.port) == content[:100_001]
        assert proxy.received == 100_001


@pytest.mark.parametrize("count", [0, 1, 100_001])
def test_the_proxy_cuts_by_rst_after_exactly_n_bytes(origin: RawServer, count: int) -> None:
    with TcpProxy(origin.host, origin.port, Fault(cut_after=count, reset=True)) as proxy:
        assert received_before_error(proxy.port) == (count, ConnectionResetError)


def test_the_proxy_stalls_after_exactly_n_bytes(origin: RawServer) -> None:
    with TcpProxy(origin.host, origin.port, Fault(stall_after=100_001)) as proxy:
        assert received_before_error(proxy.port, 0.3) == (100_001, TimeoutError)


def test_a_fault_can_be_for_one_connection_only(origin: RawServer, content: bytes) -> None:
    with TcpProxy(origin.host, origin.port, Fault(cut_after=5), only=1) as proxy:
        assert [len(fetch(proxy.port)) for _ in range(3)] == [SIZE, 5, SIZE]
        proxy.fault_for[4] = Fault(refuse=True)
        assert len(fetch(proxy.port)) == SIZE
        assert received_before_error(proxy.port) == (0, ConnectionResetError)


def test_the_proxy_refuses_and_listens_again(origin: RawServer) -> None:
    with TcpProxy(origin.host, origin.port) as proxy:
        proxy.refuse()
        with pytest.raises(ConnectionRefusedError):
            fetch(proxy.port)
        proxy.listen()
        assert len(fetch(proxy.port)) == SIZE


def test_the_proxy_delays_without_limiting_the_rate(origin: RawServer) -> None:
    with TcpProxy(origin.host, origin.port, Fault(delay=0.1)) as proxy:
        begin = time.monotonic()
        assert len(fetch(proxy.port)) == SIZE
        assert 0.4 <= time.monotonic() - begin < SLACK


def test_the_proxy_limits_the_rate(origin: RawServer) -> None:
    with TcpProxy(origin.host, origin.port, Fault(rate=SIZE * 2)) as proxy:
        begin = time.monotonic()
        assert len(fetch(proxy.port)) == SIZE
        assert 0.45 <= time.monotonic() - begin < SLACK


def test_the_proxy_cuts_uploads() -> None:
    def script(connection: Connection, index: int) -> None:
        connection.wait_for_close()

    with (
        RawServer(script) as server,
        TcpProxy(server.host, server.port, Fault(cut_after=1000, reset=True, upload=True)) as proxy,
        socket.create_connection((HOST, proxy.port), 10) as client,
    ):
        with contextlib.suppress(ConnectionError):
            while True:
                client.sendall(bytes(10_000))
        server.wait_for_connections(1)  # the kernel has it, the thread that accepts may be late
        deadline = time.monotonic() + HANGS
        while len(server.received[0]) < 1000 and time.monotonic() < deadline:
            time.sleep(0.01)
        assert len(server.received[0]) == 1000


def test_the_proxy_passes_a_reset_on() -> None:
    def script(connection: Connection, index: int) -> None:
        connection.read_head(b"\n")
        connection.sendall(b"some")
        time.sleep(0.1)  # what is still on its way would be lost
        connection.reset()

    with RawServer(script) as server, TcpProxy(server.host, server.port) as proxy:
        assert received_before_error(proxy.port) == (4, ConnectionResetError)


def test_the_proxy_cuts_all_open_connections(origin: RawServer) -> None:
    fault = Fault(stall_after=10)
    with (
        TcpProxy(origin.host, origin.port, fault) as proxy,
        socket.create_connection((HOST, proxy.port), 10) as client,
    ):
        client.sendall(b"hello\n")
        received = client.recv(10, socket.MSG_WAITALL)
        proxy.cut_all(reset=True)
        with pytest.raises(ConnectionResetError):
            client.recv(10)
        assert len(received) == 10


# Programmable servers


def test_a_raw_server_records_and_answers() -> None:
    def script(connection: Connection, index: int) -> None:
        connection.read_head()
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\n%d" % index)

    with RawServer(script) as server:
        assert [requests.get(server.url, timeout=60).text for _ in range(2)] == ["0", "1"]
        assert server.received[1].startswith(b"GET / HTTP/1.1\r\n")


def test_a_raw_server_speaks_tls(nginx: Nginx) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(nginx.directory / "tls" / "good.pem")

    def script(connection: Connection, index: int) -> None:
        connection.makefile("rb").readline()
        connection.sendall(b"HTTP/1.1 200 OK\r\n\r\nbody until the end")

    with RawServer(script, tls=context) as server:
        answer = requests.get(server.url, verify=str(nginx.ca_file), timeout=60)
        assert answer.text == "body until the end"
        assert server.received[0].startswith(b"GET / HTTP/1.1\r\n")


def test_a_raw_server_resets() -> None:
    def script(connection: Connection, index: int) -> None:
        connection.reset()

    with RawServer(script) as server:
        assert received_before_error(server.port) == (0, ConnectionResetError)


def test_a_raw_server_ends_while_a_script_waits_for_the_client() -> None:
    def script(connection: Connection, index: int) -> None:
        connection.read_head()

    with (
        RawServer(script) as server,
        socket.create_connection((HOST, server.port), 10),
    ):
        server.wait_for_connections(1)
        begin = time.monotonic()
        server.__exit__(None, None, None)
        assert time.monotonic() - begin < SLACK


def test_a_mistake_in_a_script_is_raised_at_the_end() -> None:
    def script(connection: Connection, index: int) -> None:
        raise ValueError("a mistake")

    with pytest.raises(ValueError, match="a mistake"), RawServer(script) as server:
        fetch(server.port, b"")


# Files


def test_random_files_depend_on_the_seed_alone(tmp_path: Path) -> None:
    one = random_file(tmp_path / "one", SIZE, seed=1).read_bytes()
    assert one == random_file(tmp_path / "same", SIZE, seed=1).read_bytes()
    assert one != random_file(tmp_path / "other", SIZE, seed=2).read_bytes()
    assert len(one) == SIZE


@pytest.mark.usefixtures("qemu_img")
def test_a_qcow2_is_one(tmp_path: Path) -> None:
    image = make_qcow2(tmp_path / "a.qcow2", 1 << 30)
    assert image.read_bytes()[:4] == b"QFI\xfb"
    assert (1 << 20) < image.stat().st_size < (2 << 20)
    subprocess.run(["qemu-img", "check", "-q", image], check=True)


# Fixtures


def test_a_missing_server_skips_or_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("IMAGEBROKER_REQUIRE_SERVERS", "0")
    with pytest.raises(pytest.skip.Exception, match="install it"):
        require("install it")
    monkeypatch.setenv("IMAGEBROKER_REQUIRE_SERVERS", "1")
    with pytest.raises(pytest.fail.Exception, match="install it"):
        require("install it")


# Processes


def test_a_server_that_does_not_start_says_why(tmp_path: Path) -> None:
    process = ServerProcess(["sh", "-c", "echo no luck; exit 3"], log=tmp_path / "log")
    with pytest.raises(StartError, match=r"(?s)status 3.*no luck"):
        process.wait_until(lambda: False)


def test_a_taken_port_is_told_from_other_failures(tmp_path: Path) -> None:
    process = ServerProcess(["sh", "-c", "echo Address already in use"], log=tmp_path / "log")
    with pytest.raises(PortTaken):
        process.wait_until(lambda: False)


SERVE_AND_SAY = """
import sys, threading, time
from pathlib import Path
from tests.servers.nginx import Nginx

server = Nginx(Path(sys.argv[1]), directory=Path(sys.argv[1]))
starter = threading.Thread(target=server.start)
starter.start()
starter.join()
print(server.ports["http"], flush=True)
time.sleep(1000)
"""


@pytest.mark.usefixtures("nginx")
def test_a_server_outlives_the_thread_that_started_it_but_not_the_process(tmp_path: Path) -> None:
    root = Path(__file__).parents[2]
    command = [sys.executable, "-c", SERVE_AND_SAY, str(tmp_path)]
    with subprocess.Popen(command, cwd=root, stdout=subprocess.PIPE, text=True) as owner:
        assert owner.stdout is not None
        port = int(owner.stdout.readline())
        assert accepts(port)
        owner.send_signal(signal.SIGKILL)
    deadline = time.monotonic() + HANGS
    while accepts(port):
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_servers_leave_no_thread_behind(origin: RawServer) -> None:
    before = threading.active_count()
    with TcpProxy(origin.host, origin.port, Fault(delay=0.01, stall_after=10)) as proxy:
        received_before_error(proxy.port, 0.1)
    deadline = time.monotonic() + HANGS
    while threading.active_count() > before:
        assert time.monotonic() < deadline, threading.enumerate()
        time.sleep(0.01)
