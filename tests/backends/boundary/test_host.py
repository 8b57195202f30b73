"""What a backend is given: options, connections, files and redirects within policy."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from testtools.assertions import assert_that
from testtools.matchers import Contains, Equals, Is

import imagebroker
from imagebroker.backends.boundary import Boundary
from imagebroker.backends.declaration import Declaration
from imagebroker.plugin import (
    BackendHost,
    BackendLoadError,
    ConfigError,
    ImageNotFound,
    Limits,
    Options,
    PolicyViolation,
    TransferError,
)
from tests.backends.boundary.probe import LOOPBACK, ORIGIN, UUID, Chunks, Probe, RecordingBackend
from tests.distributions import install, simple


class TestHost:
    @pytest.mark.promise("C6", "C26")
    def test_options_are_the_instances_own_and_the_cores_beside_them(
        self, recording: imagebroker.Broker
    ) -> None:
        recording.resolve(UUID)
        recording.resolve(f"recording:east:{UUID}")
        plain, east = (backend.host for backend in RecordingBackend.made)
        assert_that((plain.instance, plain.options.colour, plain.options.depth),
                    Equals((None, "blue", 1)))  # fmt: skip
        assert_that((east.instance, east.options.colour, east.options.depth),
                    Equals(("east", "red", 7)))  # fmt: skip
        core = {"endpoint", "allowed_networks", "allowed_ports", "require_checksum", "proxy"}
        assert_that(set(plain.options), Equals(core | {"colour", "depth"}))
        assert_that(plain.options.require_checksum, Is(True))  # the class's default
        assert_that((plain.ref(UUID), east.ref(UUID)),
                    Equals((f"recording:{UUID}", f"recording:east:{UUID}")))  # fmt: skip
        assert_that(repr(plain.options), Equals(
            f"Options({', '.join(sorted(core | {'colour', 'depth'}))})"))  # fmt: skip

    def test_a_uri_below_an_endpoint_belongs_to_that_instance(
        self, on_path: Path, make_broker: Callable[..., imagebroker.Broker]
    ) -> None:
        install(on_path, "imagebroker-near", {"near": "near_plugin:SimpleBackend"},
                near_plugin=simple("near"))  # fmt: skip
        broker = make_broker("""
            [imagebroker]
            enabled_schemes = near
            [backend:near:a]
            endpoint = near://h/images
            [backend:near:b]
            endpoint = near://h/images/deep/
            """)
        found = {
            ref: broker.resolve(f"near://{ref}").backend
            for ref in ("h/images/x", "h/images/deep/x", "h/imagesx", "other/images/x")
        }
        assert_that(found, Equals({
            "h/images/x": "near:a", "h/images/deep/x": "near:b",
            "h/imagesx": "near", "other/images/x": "near",
        }))  # fmt: skip

    @pytest.mark.promise("C4")
    def test_schemes_of_one_name_share_class_section_and_instance(
        self, on_path: Path, make_broker: Callable[..., imagebroker.Broker]
    ) -> None:
        source = simple("plain") + (
            "\nMADE = []\nSimpleBackend.__init__ = lambda self, host: MADE.append(host)\n"
        )
        install(on_path, "imagebroker-plain",
                {"plain": "plain_plugin:SimpleBackend", "plains": "plain_plugin:SimpleBackend"},
                plain_plugin=source)  # fmt: skip
        broker = make_broker("[imagebroker]\nenabled_schemes = plain, plains\n")
        assert_that(broker.resolve("plains://h/image").backend, Equals("plain"))
        assert_that(broker.resolve("plain://h/image").backend, Equals("plain"))
        import plain_plugin  # type: ignore[import-not-found]

        assert_that(len(plain_plugin.MADE), Equals(1))

    @pytest.mark.promise("C7")
    def test_one_instance_serves_all_threads(self, recording: imagebroker.Broker) -> None:
        barrier = threading.Barrier(8)

        def resolve() -> None:
            barrier.wait(30)
            recording.resolve(UUID)

        threads = [threading.Thread(target=resolve) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(30)
        assert_that(len(RecordingBackend.made), Equals(1))

    @pytest.mark.promise("C7")
    def test_an_option_that_the_plugin_refuses_is_a_config_error(
        self, on_path: Path, make_broker: Callable[..., imagebroker.Broker]
    ) -> None:
        source = simple("picky").replace(
            "    api_version", "    def __init__(self, host):\n        "
            "raise ConfigError('[backend:picky] colour: no such colour', hint='red')\n\n"
            "    api_version",
        )  # fmt: skip
        install(on_path, "imagebroker-picky", {"picky": "picky_plugin:SimpleBackend"},
                picky_plugin=source)  # fmt: skip
        with pytest.raises(ConfigError, match="no such colour"):
            make_broker("[imagebroker]\nenabled_schemes = picky\n").resolve("picky://h/image")

    def test_a_class_that_makes_something_else_is_a_load_error(self) -> None:
        class Odd(Probe):
            def __new__(cls, host: BackendHost) -> Any:
                return Chunks()

        with pytest.raises(BackendLoadError, match=r"imagebroker-probe 1\.0"):
            Boundary(Declaration.of(Odd), BackendHost(name="probe", options=Options({})), ORIGIN)

    @pytest.mark.promise("C27", "security-10")
    def test_connect_goes_to_allowed_addresses_only_and_waits_no_longer_than_the_stall_limit(
        self,
    ) -> None:
        with socket.create_server(("127.0.0.1", 0)) as server:
            port = server.getsockname()[1]
            allowed = BackendHost(
                name="probe", options=Options({}), policy=LOOPBACK, limits=Limits(stall_timeout=7.0)
            )
            with allowed.connect("127.0.0.1", port) as sock:
                assert_that(sock.gettimeout(), Equals(7.0))
                server.accept()[0].close()
            refusing = BackendHost(name="probe", options=Options({}))
            for host in ("127.0.0.1", "localhost", "[::1]"):
                with pytest.raises(PolicyViolation) as caught:
                    refusing.connect(host, port)
                assert_that(caught.value.hint, Contains("allowed_networks"))
            server.setblocking(False)
            with pytest.raises(BlockingIOError):
                server.accept()  # nobody came

    @pytest.mark.promise("C27", "security-11")
    def test_a_second_answer_of_the_name_server_has_no_say(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        with socket.create_server(("127.0.0.1", 0)) as server:
            port = server.getsockname()[1]
            answers = iter([
                [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", port))],
                [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("10.0.0.1", port))],
            ])  # fmt: skip
            monkeypatch.setattr(socket, "getaddrinfo", lambda *args, **named: next(answers))
            host = BackendHost(name="probe", options=Options({}), policy=LOOPBACK)
            with host.connect("rebinding.example", port) as sock:
                assert_that(sock.getpeername(), Equals(("127.0.0.1", port)))
            with pytest.raises(PolicyViolation):
                host.connect("rebinding.example", port)

    @pytest.mark.promise("C27")
    def test_nobody_there_is_a_transfer_error_with_a_hint(self) -> None:
        with socket.create_server(("127.0.0.1", 0)) as server:
            port = server.getsockname()[1]
        host = BackendHost(name="probe", options=Options({}), policy=LOOPBACK)
        with pytest.raises(TransferError) as caught:
            host.connect("127.0.0.1", port)
        assert_that(bool(caught.value.hint), Is(True))

    @pytest.mark.promise("C28", "security-16")
    def test_open_beneath_follows_no_link_and_leaves_no_root(self, tmp_path: Path) -> None:
        root = tmp_path / "root"
        (root / "deep").mkdir(parents=True)
        (root / "deep" / "image").write_bytes(b"bytes")
        (tmp_path / "rootless").write_bytes(b"secret")
        (root / "link").symlink_to("deep/image")
        (root / "away").symlink_to(tmp_path)
        os.mkfifo(root / "fifo")
        host = BackendHost(name="probe", options=Options({}))
        fd = host.open_beneath(root, "deep/image")
        with open(fd, "rb") as file:
            assert_that(file.read(), Equals(b"bytes"))
        for path in ("../rootless", "link", "away/rootless", "deep", "fifo", "deep//image", ".",
                     "deep/./image", "", "/etc/passwd"):  # fmt: skip
            with pytest.raises(PolicyViolation):
                host.open_beneath(root, path)
        for path in ("missing", "deep/image/x"):
            with pytest.raises(ImageNotFound):
                host.open_beneath(root, path)

    @pytest.mark.promise("C29", "security-14")
    @pytest.mark.parametrize(
        ("new", "leads_to"),
        [
            ("/other", "https://8.8.8.8/other"),
            ("other?x=1", "https://8.8.8.8/a/other?x=1"),
            ("https://9.9.9.9/x", "https://9.9.9.9/x"),
            ("http://8.8.8.8/a/b", None),
            ("file:///etc/passwd", None),
            ("scp://8.8.8.8/x", None),
            ("//9.9.9.9/x", "https://9.9.9.9/x"),
            ("//127.0.0.1/x", None),
            ("\\\\9.9.9.9\\x", None),
            ("https://127.0.0.1/x", None),
            ("https://169.254.169.254/x", None),
            ("https://8.8.8.8:22/x", None),
            ("https://me@8.8.8.8/x", None),
            ("https://8.8.8.8/x\r\nX: y", None),
            ("javascript:1", None),
            ("", "https://8.8.8.8/a/b"),
        ],
    )
    def test_a_redirect_is_allowed_or_raises(self, new: str, leads_to: str | None) -> None:
        host = BackendHost(name="probe", options=Options({}))
        if leads_to is None:
            with pytest.raises(PolicyViolation):
                host.redirect("https://8.8.8.8/a/b", new)
        else:
            assert_that(host.redirect("https://8.8.8.8/a/b", new), Equals(leads_to))
