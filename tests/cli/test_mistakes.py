"""Common mistakes: each gives an error from which the remedy can be copied.

Where the remedy is a command, an option or a line of the config file, it is applied, and helps.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import socket
from pathlib import Path

import pytest
from testtools.assertions import assert_that
from testtools.matchers import Contains, ContainsAll, Equals, StartsWith

from tests import distributions
from tests.cli.conftest import Inside
from tests.cli.mistakes import DATA, DIGEST, HTTP, IMAGE, LOCAL, Person, web
from tests.servers.certificates import write_certificates
from tests.servers.nginx import Nginx
from tests.servers.openstack import OpenStack
from tests.servers.process import HOST
from tests.servers.sshd import Sshd


@pytest.fixture
def person(imagebroker: Inside) -> Person:
    return Person(imagebroker)


@pytest.fixture
def disk(person: Person) -> str:
    """A file outside every allowed directory, as a ref."""
    folder = person.run.folder / "images"
    folder.mkdir()
    (folder / "disk.raw").write_bytes(DATA)
    return f"file://{folder}/disk.raw"


class TestRefs:
    """What is asked for."""

    def test_01_a_typo_in_the_scheme(self, person: Person) -> None:
        person.writes(LOCAL)
        with web() as url:
            said = person.fails("download", url.replace("http", "htp"), "x")
            assert_that((said.id, said.exit_status), Equals(("scheme-not-enabled", 7)))
            assert_that(said.hint, StartsWith("did you mean http?"))
            assert_that(said.where, Equals(f"{person.config}:2: [imagebroker] enabled_schemes"))
            person.succeeds("download", url, "x")

    def test_02_a_scheme_that_is_installed_and_not_enabled(self, person: Person, disk: str) -> None:
        person.writes("[imagebroker]\nenabled_schemes = http\n")
        said = person.fails("download", disk, "x")
        assert_that(said.id, Equals("scheme-not-enabled"))
        assert_that(said.line, Equals("enabled_schemes = http, file"))
        folder = Path(disk.removeprefix("file://")).parent
        person.writes(f"[imagebroker]\n{said.line}\n[backend:file]\nallowed_paths = {folder}\n")
        person.succeeds("download", disk, "x")

    def test_03_a_scheme_that_nobody_provides(self, person: Person) -> None:
        person.writes("[imagebroker]\nenabled_schemes = http\n")
        said = person.fails("download", "ftp://host/disk.raw", "x")
        assert_that(said.message, Contains("no installed distribution provides it"))
        found = re.search(r"imagebroker (backend new ftp)", said.hint)
        assert found is not None
        person.succeeds(*found[1].split())
        assert_that((person.work / "imagebroker-ftp" / "imagebroker_ftp").is_dir(), Equals(True))

    def test_04_a_bare_id_without_a_default_backend(self, person: Person) -> None:
        person.writes("[imagebroker]\nenabled_schemes = http\n")
        said = person.fails("download", IMAGE, "x")
        assert_that(said.message, StartsWith("default_backend is 'file'"))
        assert_that(said.where, Contains("[imagebroker] default_backend is not set"))
        assert_that(said.line, Equals("enabled_schemes = http, file"))
        person.writes(f"[imagebroker]\n{said.line}\n")
        assert_that(person.fails("download", IMAGE, "x").id, Equals("image-not-found"))

    def test_05_an_instance_that_is_misspelt(self, person: Person) -> None:
        person.writes(
            "[imagebroker]\nenabled_schemes = file\n[backend:file:east]\nstore_dir = /tmp/east\n"
        )
        said = person.fails("download", f"file:eats:{IMAGE}", "x")
        assert_that(said.hint, StartsWith("did you mean file:east?"))
        assert_that(
            person.fails("download", f"file:east:{IMAGE}", "x").id, Equals("image-not-found")
        )

    def test_06_a_path_where_a_ref_belongs(self, person: Person, disk: str) -> None:
        said = person.fails("download", disk.removeprefix("file://"), "x")
        assert_that((said.id, said.exit_status), Equals(("invalid-image-ref", 2)))
        assert_that(said.hint, Equals(f"write {disk}"))
        person.succeeds("download", said.hint.removeprefix("write "), "x")

    def test_07_no_such_image(self, person: Person) -> None:
        person.writes(LOCAL)
        with web(status="404 Not Found") as url:
            said = person.fails("download", url, "x")
        assert_that((said.id, said.exit_status), Equals(("image-not-found", 3)))
        assert_that(said.hint, Contains("check the URL"))

    def test_08_a_verb_that_the_backend_does_not_have(self, person: Person) -> None:
        person.writes(HTTP)
        (person.work / "disk").write_bytes(DATA)
        said = person.fails("create", "--backend", "http", "--file", "disk")
        assert_that((said.id, said.exit_status), Equals(("unsupported-operation", 7)))
        assert_that(said.hint, Contains("with: imagebroker backends"))
        rows = person.run("backends", "-f", "json").record
        able = [row["scheme"] for row in rows if "create" in (row["capabilities"] or ())]
        assert_that(able, Equals([]))

    def test_09_an_option_of_the_command_that_is_misspelt(self, person: Person, disk: str) -> None:
        said = person.run("download", disk, "x", "--cheksum", f"sha256:{DIGEST}")
        assert_that(said.status, Equals(2))
        assert_that(said.stderr, Contains("hint: did you mean --checksum?"))
        person.succeeds("download", disk, "x", "--checksum", f"sha256:{DIGEST}")


class TestConfiguration:
    """What the deployer wrote."""

    def test_10_an_unknown_option(self, person: Person) -> None:
        person.writes(f"{HTTP}allowed_network = 127.0.0.1\n")
        (found,) = person.checks()
        assert_that(found["file"], Equals(f"{person.config}:5"))
        assert_that(found["remedy"], Equals("did you mean allowed_networks?"))
        person.replaces("allowed_network ", "allowed_networks ")
        assert_that(person.checks(), Equals([]))

    def test_11_a_section_that_nobody_reads(self, person: Person) -> None:
        person.writes(LOCAL.replace("[backend:http]", "[backend:https]"))
        (found,) = person.checks()
        assert_that(found["remedy"], Equals("move its options to [backend:http]"))
        person.replaces("[backend:https]", "[backend:http]")
        assert_that(person.checks(), Equals([]))

    def test_12_a_scheme_in_the_file_that_is_misspelt(self, person: Person, disk: str) -> None:
        person.writes(LOCAL.replace("https", "htps"))
        said = person.fails("download", disk, "x")
        assert_that((said.id, said.exit_status), Equals(("config-error", 2)))
        assert_that(said.where, Equals(f"{person.config}:2: [imagebroker] enabled_schemes"))
        assert_that(said.hint, StartsWith("did you mean https?"))
        person.replaces("htps", "https")
        assert_that(person.checks(), Equals([]))

    def test_13_a_config_file_that_is_not_there(self, person: Person, disk: str) -> None:
        missing = str(person.work / "my.conf")
        said = person.run("--config-file", missing, "download", disk, "x", "-f", "json")
        told = json.loads(said.stderr)
        assert_that((told["id"], told["where"], said.status), Equals(("config-error", missing, 2)))
        command = re.search(r"imagebroker (.*) > (.*)", told["hint"])
        assert command is not None
        Path(command[2]).write_bytes(person.run(*shlex.split(command[1])).stdout)
        done = person.run("--config-file", missing, "check", "-f", "json")
        assert_that(["store_dir" in row["where"] for row in done.record if row], Equals([]))

    def test_14_a_line_that_is_none(self, person: Person, disk: str) -> None:
        person.writes(f"{HTTP}allowed_networks 127.0.0.1\n")
        said = person.fails("download", disk, "x")
        assert_that((said.id, said.where), Equals(("config-error", f"{person.config}:5")))
        assert_that(said.hint, Contains("lines option = value"))

    def test_15_a_value_that_cannot_be(self, person: Person, disk: str) -> None:
        person.writes("[imagebroker]\nenabled_schemes = file\nmax_size = much\n")
        said = person.fails("download", disk, "x")
        assert_that(said.where, Equals(f"{person.config}:3: [imagebroker] max_size"))
        assert_that(said.message, Contains("write bytes, or a number like 512M or 10G"))


class TestPlugins:
    """What is installed."""

    def test_16_a_missing_extra(self, person: Person) -> None:
        person.writes("[imagebroker]\nenabled_schemes = wire\n")
        source = "import wirelib\n" + distributions.simple("wire")
        info = distributions.install(
            person.run.plugins, "imagebroker-wire", {"wire": "wire:SimpleBackend"}, wire=source
        )
        with open(info / "METADATA", "a") as metadata:
            metadata.write('Requires-Dist: wirelib>=2; extra == "protocol"\n')
        said = person.fails("download", "wire://host/image", "x")
        assert_that((said.id, said.exit_status), Equals(("backend-load-error", 7)))
        assert_that(said.hint, Equals("pip install 'imagebroker-wire[protocol]'"))
        (person.run.plugins / "wirelib.py").touch()  # as that command would
        person.succeeds("download", "wire://host/image", "x")

    def test_17_two_plugins_for_one_scheme(self, person: Person) -> None:
        person.writes("[imagebroker]\nenabled_schemes = wire\n")
        for name in ("wire-one", "wire-two"):
            distributions.install(
                person.run.plugins, name, {"wire": "wire:SimpleBackend"},
                wire=distributions.simple("wire"),
            )  # fmt: skip
        said = person.fails("download", "wire://host/image", "x")
        assert_that((said.id, said.exit_status), Equals(("config-error", 2)))
        assert_that(said.message, ContainsAll(["wire-one 1.0", "wire-two 1.0"]))
        command = re.search(r"pip uninstall (wire-\w+)", said.hint)
        assert command is not None
        for file in person.run.plugins.glob(f"{command[1].replace('-', '_')}-*/*"):
            file.unlink()  # as that command would
            if not list(file.parent.iterdir()):
                file.parent.rmdir()
        person.succeeds("download", "wire://host/image", "x")

    def test_18_a_broken_plugin(self, person: Person) -> None:
        person.writes("[imagebroker]\nenabled_schemes = broken\n")
        distributions.install(
            person.run.plugins, "imagebroker-broken", {"broken": "broken:Backend"}, broken="1 / 0"
        )
        said = person.fails("download", "broken://host/image", "x")
        assert_that((said.id, said.exit_status), Equals(("backend-load-error", 7)))
        assert_that(said.message, ContainsAll(["imagebroker-broken 1.0", "ZeroDivisionError"]))
        assert_that(said.hint, Contains("pip install --upgrade imagebroker-broken"))
        assert_that(said.where, Contains("[imagebroker] enabled_schemes"))


class TestNetwork:
    """What is between here and there."""

    def test_19_a_host_that_does_not_answer(self, person: Person) -> None:
        with socket.socket() as full:  # a listener whose queue is full answers no handshake
            full.bind((HOST, 0))
            full.listen(0)
            address = full.getsockname()
            waiting = [socket.socket() for _ in range(4)]
            for each in waiting:
                each.setblocking(False)
                each.connect_ex(address)
            person.writes(LOCAL.replace("retries = 0", "retries = 0\nconnect_timeout = 0.3"))
            said = person.fails("download", f"http://{HOST}:{address[1]}/disk.raw", "x")
            for each in waiting:
                each.close()
        assert_that((said.id, said.exit_status), Equals(("transfer-timeout", 5)))
        assert_that(said.hint, Contains("the host is up, and that no firewall drops"))

    def test_20_a_connection_that_is_refused(self, person: Person) -> None:
        person.writes(LOCAL)
        with socket.socket() as holder:
            holder.bind((HOST, 0))
            said = person.fails("download", f"http://{HOST}:{holder.getsockname()[1]}/disk", "x")
        assert_that((said.id, said.exit_status), Equals(("transfer-error", 5)))
        assert_that(said.hint, Contains("the server is running and listens on that port"))

    def test_21_a_host_that_does_not_exist(self, person: Person) -> None:
        person.writes(LOCAL)
        said = person.fails("download", "https://no-such-host.invalid/disk.raw", "x")
        assert_that((said.id, said.hint), Equals(("transfer-error", "check the host name")))

    def test_22_an_address_that_is_not_allowed(self, person: Person) -> None:
        person.writes(HTTP)
        with web() as url:
            said = person.fails("download", url, "x")
            assert_that((said.id, said.exit_status), Equals(("policy-violation", 4)))
            assert_that(said.where, Equals(
                f"{person.config}:4: [backend:http] allowed_networks is not set"
            ))  # fmt: skip
            assert_that(said.line, Equals("allowed_networks = 127.0.0.1"))
            person.adds(said.line)
            person.succeeds("download", url, "x")

    def test_23_a_port_that_is_not_allowed(self, person: Person) -> None:
        person.writes(LOCAL)
        said = person.fails("download", f"http://{HOST}:22/disk.raw", "x")
        assert_that((said.id, said.line), Equals(("policy-violation", "allowed_ports = 22")))
        person.adds(said.line)
        assert_that(person.fails("download", f"http://{HOST}:22/disk.raw", "x").id,
                    StartsWith("transfer-"))  # fmt: skip

    @pytest.mark.parametrize(
        ("certificate", "words", "remedy"),
        [("expired", "certificate has expired", "this host's clock: date"),
         ("self-signed", "self-signed certificate", "ca_file"),
         ("wrong-host", "IP address mismatch", "openssl s_client")],
    )  # fmt: skip
    def test_24_a_certificate_that_proves_nothing(
        self, certificate: str, words: str, remedy: str, person: Person, tmp_path: Path
    ) -> None:
        ca_file = write_certificates(tmp_path / "certificates")
        pem = ca_file.with_name(f"{certificate}.pem")
        known = pem if certificate == "self-signed" else ca_file
        person.writes(LOCAL if certificate == "self-signed" else f"{LOCAL}ca_file = {known}\n")
        with web(pem) as url:
            said = person.fails("download", url, "x")
            assert_that((said.id, said.exit_status), Equals(("policy-violation", 4)))
            assert_that(said.message, Contains(words))
            assert_that(said.hint, Contains(remedy))
            if certificate == "self-signed":
                assert_that(said.where, Contains("[backend:http] ca_file"))
                person.adds(f"ca_file = {known}")
                person.succeeds("download", url, "x")

    def test_25_a_server_that_wants_credentials(self, person: Person) -> None:
        person.writes(LOCAL)
        with web(status="401 Unauthorized") as url:
            said = person.fails("download", url, "x")
        assert_that((said.id, said.exit_status), Equals(("not-authorized", 4)))
        assert_that(said.hint, Contains("set username, password and endpoint"))


class TestSsh:
    """Keys, ours and theirs."""

    @pytest.fixture
    def ref(self, person: Person, sshd: Sshd, disk: str) -> str:
        person.writes(
            "[imagebroker]\nenabled_schemes = scp\nretries = 0\n[backend:scp]\n"
            f"allowed_networks = 127.0.0.1\nknown_hosts = {sshd.known_hosts}\n"
            f"identity_file = {sshd.key}\nusername = {sshd.user}\n"
        )
        return sshd.url(disk.removeprefix("file://"))

    def test_26_a_key_that_others_may_read(
        self, person: Person, sshd: Sshd, ref: str, tmp_path: Path
    ) -> None:
        key = tmp_path / "id"
        key.write_bytes(sshd.key.read_bytes())
        key.chmod(0o644)
        person.replaces(f"identity_file = {sshd.key}", f"identity_file = {key}")
        said = person.fails("download", ref, "x")
        assert_that((said.id, said.hint), Equals(("config-error", f"chmod 600 {key}")))
        assert_that(said.where, Equals(f"{person.config}:7: [backend:scp] identity_file"))
        person.types(said.hint)
        person.succeeds("download", ref, "x")

    def test_27_an_unknown_host_key(
        self, person: Person, sshd: Sshd, ref: str, tmp_path: Path
    ) -> None:
        known = tmp_path / "known hosts"
        known.touch()
        person.replaces(str(sshd.known_hosts), str(known))
        said = person.fails("download", ref, "x")
        assert_that((said.id, said.exit_status), Equals(("policy-violation", 4)))
        assert_that(said.where, Equals(f"{person.config}:6: [backend:scp] known_hosts"))
        command = re.search(r"(ssh-keyscan \S+ \S+ \S+).* add the line to (.*)", said.hint)
        assert command is not None
        person.types(f"{command[1]} >> {command[2]}")
        person.succeeds("download", ref, "x")

    def test_28_a_host_key_that_has_changed(self, person: Person, sshd: Sshd, ref: str) -> None:
        person.replaces(str(sshd.known_hosts), str(sshd.wrong_known_hosts))
        said = person.fails("download", ref, "x")
        assert_that((said.id, said.exit_status), Equals(("policy-violation", 4)))
        assert_that(said.hint, Contains("known_hosts"))
        person.replaces(str(sshd.wrong_known_hosts), str(sshd.known_hosts))
        person.succeeds("download", ref, "x")

    def test_29_a_key_that_the_server_does_not_know(
        self, person: Person, sshd: Sshd, ref: str
    ) -> None:
        person.replaces(f"identity_file = {sshd.key}", f"identity_file = {sshd.strange_key}")
        said = person.fails("download", ref, "x")
        assert_that((said.id, said.exit_status), Equals(("not-authorized", 4)))


class TestContent:
    """What arrives."""

    def test_30_a_wrong_checksum(self, person: Person, disk: str) -> None:
        said = person.fails("download", disk, "x", "--checksum", "sha256:" + 64 * "0")
        assert_that((said.id, said.exit_status), Equals(("checksum-mismatch", 6)))
        assert_that(said.message, Contains(f"but the data has {DIGEST}"))
        person.succeeds("download", disk, "x", "--checksum", f"sha256:{DIGEST}")

    @pytest.mark.parametrize("checksum", ["sha256:123", DIGEST[1:], "sha265:" + DIGEST])
    def test_31_a_malformed_checksum(self, checksum: str, person: Person, disk: str) -> None:
        said = person.fails("download", disk, "x", "--checksum", checksum)
        assert_that((said.id, said.exit_status), Equals(("invalid-image-ref", 2)))
        assert_that(said.hint, ContainsAll(["such as sha256:<64 hex digits>", "https://"]))

    def test_32_a_checksum_that_is_required_and_missing(self, person: Person) -> None:
        person.writes(f"{LOCAL}require_checksum = true\n")
        with web() as url:
            said = person.fails("download", url, "x")
            assert_that((said.id, said.exit_status), Equals(("checksum-missing", 6)))
            assert_that(said.where, Equals(f"{person.config}:6: [backend:http] require_checksum"))
            person.succeeds("download", f"{url}#sha256={DIGEST}", "x")

    def test_33_an_image_that_is_too_large(self, person: Person, disk: str) -> None:
        folder = Path(disk.removeprefix("file://")).parent
        person.writes(
            "[imagebroker]\nenabled_schemes = file\nmax_size = 1K\n"
            f"[backend:file]\nallowed_paths = {folder}\n"
        )
        said = person.fails("download", disk, "x")
        assert_that((said.id, said.exit_status), Equals(("too-large", 4)))
        assert_that(said.where, Equals(f"{person.config}:3: [imagebroker] max_size"))
        person.succeeds("download", disk, "x", "--max-size", "1M")

    def test_34_a_format_that_is_none(self, person: Person, disk: str) -> None:
        said = person.fails("download", disk, "x", "--allowed-formats", "qcow3")
        assert_that((said.id, said.exit_status), Equals(("invalid-image-ref", 2)))
        assert_that(said.hint, ContainsAll(["qcow2", "raw"]))
        person.succeeds("download", disk, "x", "--allowed-formats", "raw")

    def test_35_a_format_that_is_not_allowed(self, person: Person, disk: str) -> None:
        said = person.fails("download", disk, "x", "--allowed-formats", "qcow2")
        assert_that((said.id, said.exit_status), Equals(("format-error", 6)))
        assert_that(said.hint, Contains("extend --allowed-formats (now: qcow2)"))


class TestDestinations:
    """Where it is to be."""

    def test_36_a_path_that_is_not_allowed(self, person: Person, disk: str) -> None:
        person.writes("[imagebroker]\nenabled_schemes = file\n[backend:file]\n")
        said = person.fails("download", disk, "x")
        assert_that((said.id, said.exit_status), Equals(("policy-violation", 4)))
        assert_that(said.where, Contains("[backend:file] allowed_paths is not set"))
        person.adds(f"allowed_paths = {Path(disk.removeprefix('file://')).parent}")
        person.succeeds("download", disk, "x")

    def test_37_a_directory_in_which_such_a_file_is(self, person: Person, disk: str) -> None:
        (person.work / "folder").mkdir()
        (person.work / "folder" / "disk.raw").write_bytes(b"mine")
        said = person.fails("download", disk, "folder")
        assert_that((said.id, said.exit_status), Equals(("destination-error", 9)))
        assert_that(said.hint, Contains("DEST"))
        person.succeeds("download", disk, said.hint.rpartition(": ")[2])

    def test_38_a_directory_that_is_missing(self, person: Person, disk: str) -> None:
        said = person.fails("download", disk, "not/there/x")
        assert_that((said.id, said.hint), Equals(
            ("destination-error", "create the parent directory first: mkdir -p not/there")
        ))  # fmt: skip
        person.types(said.hint.partition(": ")[2])
        person.succeeds("download", disk, "not/there/x")

    def test_39_a_file_that_is_there_and_was_not_named(self, person: Person, disk: str) -> None:
        (person.work / "disk.raw").write_bytes(b"mine")
        said = person.fails("download", disk)
        assert_that((said.id, said.exit_status), Equals(("destination-error", 9)))
        assert_that(said.hint, Contains("DEST"))
        person.succeeds("download", disk, "disk.raw")

    def test_40_a_full_disk(self, person: Person, disk: str) -> None:
        if os.geteuid() != 0:
            pytest.skip("needs root to mount a small file system")
        small = person.work / "small"
        small.mkdir()
        person.types(f"mount -t tmpfs -o size=8k tmpfs {small}")
        try:
            said = person.fails("download", disk, "small/x")
            assert_that((said.id, said.exit_status), Equals(("destination-error", 9)))
            assert_that(said.hint, StartsWith("free some space on that file system"))
            person.types(f"mount -o remount,size=1m {small}")
            person.succeeds("download", disk, "small/x")
        finally:
            person.types(f"umount {small}")


class TestDeployment:
    """What a deployer tried first."""

    def test_41_an_endpoint_without_a_scheme(self, person: Person) -> None:
        with web() as url:
            address = url.split("/")[2]
            person.writes(f"{LOCAL}endpoint = {address}\n")
            said = person.fails("download", url, "x")
            assert_that(
                (said.id, said.where),
                Equals(("config-error", f"{person.config}:6: [backend:http] endpoint")),
            )
            assert_that(said.hint, Contains(f"http://{address}/"))
            person.replaces(address, f"http://{address}/")
            person.succeeds("download", url, "x")

    def test_42_https_for_a_server_without_tls(self, person: Person, nginx: Nginx) -> None:
        (nginx.root / "mistake-42.raw").write_bytes(DATA)
        person.writes(LOCAL)
        url = nginx.url("mistake-42.raw")
        said = person.fails("download", url.replace("http://", "https://"), "x")
        assert_that(said.hint, Contains("write http:// instead of https://"))
        person.succeeds("download", url, "x")

    def test_43_a_backend_of_which_only_instances_are_configured(
        self, person: Person, openstack: OpenStack
    ) -> None:
        person.writes(glance(openstack, section="glance:east"))
        said = person.fails("list", "--backend", "glance")
        assert_that(said.hint, Contains("name one of glance:east"))
        person.succeeds("list", "--backend", "glance:east")

    def test_44_keystone_as_the_endpoint(self, person: Person, openstack: OpenStack) -> None:
        keystone = openstack.auth_url.removesuffix("v3")
        person.writes(glance(openstack, endpoint=keystone))
        for argv in (("list", "--backend", "glance"), ("show", f"glance:{IMAGE}")):
            said = person.fails(*argv)
            assert_that(said.hint, Contains("set endpoint to the address of Glance"))
        person.replaces(f"endpoint = {keystone}", f"endpoint = {openstack.endpoint}/")
        person.succeeds("list", "--backend", "glance")

    def test_45_no_domain_of_the_user(self, person: Person, openstack: OpenStack) -> None:
        person.writes(glance(openstack, user_domain_name=None))
        said = person.fails("list", "--backend", "glance")
        assert_that(said.hint, StartsWith("set user_domain_name and project_domain_name"))
        person.adds("user_domain_name = Default")
        person.succeeds("list", "--backend", "glance")

    @pytest.mark.parametrize("option", ["password", "username"])
    def test_46_no_password_or_no_user(
        self, option: str, person: Person, openstack: OpenStack
    ) -> None:
        right = openstack.auth_options("red")[option]
        person.writes(glance(openstack, **{option: None}))
        said = person.fails("list", "--backend", "glance")
        assert_that(said.hint, StartsWith(f"set {option}"))
        person.adds(f"{option} = {right}")
        person.succeeds("list", "--backend", "glance")

    def test_47_an_address_in_the_catalogue_that_is_not_allowed(
        self, person: Person, openstack: OpenStack
    ) -> None:
        person.writes(glance(openstack, endpoint=None))
        said = person.fails("list", "--backend", "glance")
        assert_that(said.line, Equals(f"allowed_networks = {HOST}"))
        person.adds(said.line)
        person.succeeds("list", "--backend", "glance")

    def test_48_two_instances_with_one_endpoint(self, person: Person) -> None:
        person.writes(f"{LOCAL}endpoint = https://images.example/\n[backend:http:west]\n"
                      "endpoint = https://images.example\n")  # fmt: skip
        found = json.loads(person.run("check", "--offline", "-f", "json").stdout)
        assert_that(
            [(row["file"], row["where"]) for row in found],
            Equals([(f"{person.config}:8", "[backend:http:west] endpoint")]),
        )
        assert_that(found[0]["remedy"], Contains("remove it from one of the two sections"))
        person.replaces("endpoint = https://images.example\n", "")
        assert_that(person.run("check", "--offline").status, Equals(0))

    def test_49_a_host_that_known_hosts_does_not_have(self, person: Person, sshd: Sshd) -> None:
        known = person.work / "known_hosts"
        known.write_text("")
        person.writes(
            "[imagebroker]\nenabled_schemes = scp\n[backend:scp]\nrequire_strict_kex = false\n"
            f"identity_file = {sshd.key}\nknown_hosts = {known}\n"
            f"endpoint = scp://{sshd.user}@{sshd.host}:{sshd.port}{person.work}/\n"
        )
        [found] = person.checks()
        assert_that(found["where"], Equals("[backend:scp] known_hosts"))
        command = re.search(r"(ssh-keyscan -p \d+ \S+)", found["remedy"])
        assert command is not None
        person.types(f"{command[1]} >> known_hosts")
        assert_that(person.checks(), Equals([]))

    @pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a directory away")
    def test_50_a_cache_of_another_user(self, person: Person, disk: str) -> None:
        cache = person.run.folder / "cache"
        cache.mkdir(mode=0o700)
        os.chown(cache, 12345, 12345)
        folder = Path(disk.removeprefix("file://")).parent
        person.writes(f"[imagebroker]\nenabled_schemes = file\ncache_dir = {cache}\n"
                      f"[backend:file]\nallowed_paths = {folder}\n")  # fmt: skip
        person.succeeds("download", disk, "x")
        [found] = person.checks()
        assert_that(
            (found["level"], found["where"]), Equals(("warning", "[imagebroker] cache_dir"))
        )
        person.replaces(str(cache), str(person.run.folder / "own"))
        assert_that(person.checks(), Equals([]))


def glance(openstack: OpenStack, section: str = "glance", **changes: str | None) -> str:
    """A config file that works, but for the changes; None leaves an option out."""
    right = {**openstack.auth_options("red"), "endpoint": f"{openstack.endpoint}/"}
    options = {k: v for k, v in {**right, **changes}.items() if v is not None}
    lines = "".join(f"{name} = {value}\n" for name, value in options.items())
    return f"[imagebroker]\nenabled_schemes = glance\nretries = 0\n[backend:{section}]\n{lines}"
