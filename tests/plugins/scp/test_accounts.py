"""The keys of a person: which are offered, in which order, and what is said of the others."""

from __future__ import annotations

import base64
import os
import shutil
import struct
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from imagebroker_scp import ScpBackend
from testtools.assertions import assert_that
from testtools.matchers import Contains, Equals, Not

from imagebroker.exceptions import ConfigError, NotAuthorized, PolicyViolation
from tests.plugins.scp_peers import fetched, make_backend
from tests.servers.sshd import Sshd

DATA = b"an image" * 1000


@pytest.fixture
def image(tmp_path: Path) -> Path:
    file = tmp_path / "image.raw"
    file.write_bytes(DATA)
    return file


@pytest.fixture
def person(tmp_path: Path, sshd: Sshd, monkeypatch: pytest.MonkeyPatch) -> Person:
    """A home with ~/.ssh that knows the server, and no agent."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("SSH_AUTH_SOCK", raising=False)
    return Person(tmp_path / ".ssh", sshd)


@pytest.fixture
def another_sshd() -> Iterator[Callable[..., Sshd]]:
    """Servers with settings of their own."""
    with ExitStack() as servers:
        yield lambda **settings: servers.enter_context(Sshd(**settings))


class Person:
    def __init__(self, folder: Path, server: Sshd) -> None:
        self.folder = folder
        folder.mkdir(mode=0o700)
        self.knows(server)

    def knows(self, server: Sshd) -> None:
        with open(self.folder / "known_hosts", "a") as known:
            known.write(server.known_hosts.read_text())

    def has(self, key: Path, name: str = "id_ed25519", mode: int = 0o600) -> Path:
        for ending in ("", ".pub"):
            shutil.copy(key.with_name(key.name + ending), self.folder / (name + ending))
        (self.folder / name).chmod(mode)
        return self.folder / name

    def backend(self) -> ScpBackend:
        return make_backend(personal=True)


@pytest.fixture
def agent(tmp_path: Path, person: Person, monkeypatch: pytest.MonkeyPatch) -> Iterator[Agent]:
    address = tmp_path / "agent"
    process = subprocess.Popen(
        ["ssh-agent", "-D", "-a", str(address)], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert process.stdout is not None
    process.stdout.readline()  # printed when it listens
    monkeypatch.setenv("SSH_AUTH_SOCK", str(address))
    yield Agent(tmp_path)
    process.terminate()
    process.communicate()


class Agent:
    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def holds(self, key: Path) -> None:
        subprocess.run(["ssh-add", "-q", str(key)], check=True, capture_output=True)

    def holds_strangers(self, count: int) -> None:
        for number in range(count):
            self.holds(made(self._folder / f"stranger-{number}"))


def made(file: Path, *flags: str) -> Path:
    command = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", *flags, "-f", str(file)]
    subprocess.run(command, check=True, stdin=subprocess.DEVNULL)
    return file


def certified(authority: Path, key: Path, user: str, valid: str = "always:forever") -> Path:
    """The certificate that the authority makes beside a key."""
    public = key.with_name(key.name + ".pub")
    command = ["ssh-keygen", "-q", "-s", str(authority), "-I", "it", "-n", user, "-V", valid]
    subprocess.run([*command, str(public)], check=True)
    return key.with_name(key.name + "-cert.pub")


# -- what was passed over -------------------------------------------------------------------------


def open_to_others(person: Person, sshd: Sshd) -> str:
    return f"chmod 600 {person.has(sshd.key, mode=0o644)}"


def locked(person: Person, sshd: Sshd) -> str:
    return f"ssh-add {person.has(sshd.encrypted_key)}"


def empty(person: Person, sshd: Sshd) -> str:
    file = person.has(sshd.key, "id_rsa")
    file.write_bytes(b"")
    return "ssh-keygen -t ed25519"


def of_putty(person: Person, sshd: Sshd) -> str:
    file = person.has(sshd.key, "id_ecdsa")
    file.write_text("PuTTY-User-Key-File-3: ssh-ed25519\nEncryption: none\n")
    return f"puttygen {file}"


def a_folder(person: Person, sshd: Sshd) -> str:
    (person.folder / "id_rsa").mkdir()
    return "name"


def security_key(person: Person, sshd: Sshd) -> str:
    written(person.has(sshd.strange_key, "id_ed25519_sk"), b"sk-ssh-ed25519@openssh.com")
    return "ssh-keygen -t ed25519"


def half(person: Person, sshd: Sshd) -> str:
    person.has(sshd.key).unlink()
    return "restore the private key"


def dsa(person: Person, sshd: Sshd) -> str:
    written(person.has(sshd.strange_key, "id_dsa"), b"ssh-dss")
    return "ssh-keygen -t ed25519"


def damaged(person: Person, sshd: Sshd) -> str:
    file = person.has(sshd.key)
    lines = file.read_text().splitlines()
    file.write_text("\n".join([*lines[:2], *lines[3:]]))
    return "restore it"


def public_in_its_place(person: Person, sshd: Sshd) -> str:
    file = person.has(sshd.key)
    shutil.copyfile(f"{file}.pub", file)
    return "name the private key"


def fifo(person: Person, sshd: Sshd) -> str:
    os.mkfifo(person.folder / "id_rsa", 0o600)
    return "name a file"


def written(file: Path, kind: bytes) -> None:
    """A key of a kind that ssh-keygen does not make here, as far as it needs no passphrase."""

    def text(data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + data

    public = text(text(kind) + text(b"?" * 32))
    body = b"openssh-key-v1\0" + text(b"none") * 2 + text(b"") + struct.pack(">I", 1) + public
    lines = base64.encodebytes(body + text(b"?" * 64)).decode()
    begin, end = (f"-----{word} OPENSSH PRIVATE KEY-----\n" for word in ("BEGIN", "END"))
    file.write_text(begin + lines + end)


KINDS = (
    open_to_others, locked, empty, of_putty, a_folder, security_key, half, dsa, damaged,
    public_in_its_place, fifo,
)  # fmt: skip


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_a_key_that_was_passed_over_is_named_with_the_remedy(
    person: Person, sshd: Sshd, image: Path, kind: Callable[[Person, Sshd], str]
) -> None:
    remedy = kind(person, sshd)
    with pytest.raises(NotAuthorized) as caught:
        fetched(sshd.url(image), person.backend())
    assert_that(str(caught.value), Contains(str(person.folder / "id_")))
    assert_that(caught.value.hint, Contains(remedy))


def test_it_is_named_too_where_another_key_was_offered_and_refused(
    person: Person, sshd: Sshd, image: Path
) -> None:
    person.has(sshd.strange_key, "id_rsa")
    file = person.has(sshd.key, mode=0o640)
    with pytest.raises(NotAuthorized) as caught:
        fetched(sshd.url(image), person.backend())
    assert_that(str(caught.value), Contains("id_rsa"))
    assert_that(caught.value.hint, Equals(f"chmod 600 {file}"))


def test_the_remedy_helps(person: Person, sshd: Sshd, image: Path) -> None:
    file = person.has(sshd.key, mode=0o644)
    with pytest.raises(NotAuthorized) as caught:
        fetched(sshd.url(image), person.backend())
    subprocess.run(caught.value.hint.split(), check=True)
    assert_that(fetched(sshd.url(image), person.backend()), Equals(DATA))
    assert_that(oct(file.stat().st_mode & 0o777), Equals("0o600"))


@pytest.mark.parametrize("mode", [0o644, 0o604])
def test_a_configured_key_says_the_same(sshd: Sshd, image: Path, tmp_path: Path, mode: int) -> None:
    key = shutil.copy(sshd.key, tmp_path / "key")
    os.chmod(key, mode)
    with pytest.raises(ConfigError) as caught:
        fetched(sshd.url(image), make_backend(sshd, identity_file=str(key)))
    assert_that(caught.value.hint, Equals(f"chmod 600 {key}"))


# -- certificates ---------------------------------------------------------------------------------


@pytest.fixture
def authority(
    another_sshd: Callable[..., Sshd], tmp_path: Path, person: Person
) -> tuple[Path, Sshd]:
    """A certificate authority, and a server that believes it and has no authorized_keys."""
    key = made(tmp_path / "authority")
    server = another_sshd(settings=[f"TrustedUserCAKeys {key}.pub", "AuthorizedKeysFile none"])
    person.knows(server)
    return key, server


def test_the_certificate_beside_a_key_is_offered(
    person: Person, authority: tuple[Path, Sshd], sshd: Sshd, image: Path
) -> None:
    signer, server = authority
    file = person.has(sshd.strange_key)
    with pytest.raises(NotAuthorized):
        fetched(server.url(image), person.backend())
    certified(signer, file, server.user)
    assert_that(fetched(server.url(image), person.backend()), Equals(DATA))


def test_the_certificate_beside_a_configured_key_is_offered(
    authority: tuple[Path, Sshd], sshd: Sshd, image: Path, tmp_path: Path
) -> None:
    signer, server = authority
    key = made(tmp_path / "service")
    certified(signer, key, server.user)
    backend = make_backend(server, identity_file=str(key))
    assert_that(fetched(server.url(image), backend), Equals(DATA))


def test_a_certificate_in_the_agent_is_offered(
    person: Person, agent: Agent, authority: tuple[Path, Sshd], image: Path, tmp_path: Path
) -> None:
    signer, server = authority
    key = made(tmp_path / "carried")
    certified(signer, key, server.user)
    agent.holds(key)
    assert_that(fetched(server.url(image), person.backend()), Equals(DATA))


def test_a_certificate_does_not_hide_the_key_from_servers_that_know_the_key(
    person: Person, authority: tuple[Path, Sshd], sshd: Sshd, image: Path
) -> None:
    signer, _ = authority
    certified(signer, person.has(sshd.key), "somebody-else")
    assert_that(fetched(sshd.url(image), person.backend()), Equals(DATA))


@pytest.mark.parametrize(("valid", "words"), [("-2d:-1d", "expired"), ("+1d:+2d", "not valid yet")])
def test_a_certificate_that_is_not_valid_now_is_named(
    person: Person, authority: tuple[Path, Sshd], sshd: Sshd, image: Path, valid: str, words: str
) -> None:
    signer, server = authority
    beside = certified(signer, person.has(sshd.strange_key), server.user, valid)
    with pytest.raises(NotAuthorized) as caught:
        fetched(server.url(image), person.backend())
    assert_that(str(caught.value), Contains(words))
    assert_that(caught.value.hint, Contains(str(beside)))


def test_a_damaged_certificate_is_named(person: Person, sshd: Sshd, image: Path) -> None:
    file = person.has(sshd.strange_key)
    (person.folder / f"{file.name}-cert.pub").write_text("ssh-ed25519-cert-v01@openssh.com AAAA\n")
    with pytest.raises(NotAuthorized) as caught:
        fetched(sshd.url(image), person.backend())
    assert_that(str(caught.value), Contains("certificate that cannot be used"))


# -- more keys than the server takes --------------------------------------------------------------


@pytest.fixture
def impatient(another_sshd: Callable[..., Sshd], person: Person) -> Sshd:
    """A server that hangs up after three refusals."""
    server = another_sshd(settings=["MaxAuthTries 3"])
    person.knows(server)
    return server


def test_an_agent_with_more_keys_than_the_server_takes_is_said_to_hold_them(
    person: Person, agent: Agent, impatient: Sshd, image: Path
) -> None:
    agent.holds_strangers(5)
    with pytest.raises(NotAuthorized) as caught:
        fetched(impatient.url(image), person.backend())
    assert_that(str(caught.value), Contains("the ssh agent holds 5"))
    assert_that(caught.value.hint, Contains("ssh-add -D"))
    assert_that(caught.value.hint, Not(Contains("authorized_keys")))


def test_the_keys_of_the_home_have_their_turn_before_strangers_of_the_agent(
    person: Person, agent: Agent, impatient: Sshd, image: Path
) -> None:
    agent.holds_strangers(5)
    person.has(impatient.key)
    assert_that(fetched(impatient.url(image), person.backend()), Equals(DATA))


def test_a_key_of_the_agent_whose_public_half_is_in_the_home_is_first(
    person: Person, agent: Agent, impatient: Sshd, image: Path
) -> None:
    agent.holds_strangers(5)
    agent.holds(impatient.key)
    person.has(impatient.key).unlink()  # only the .pub is left
    assert_that(fetched(impatient.url(image), person.backend()), Equals(DATA))


def test_seven_keys_are_tried_where_the_server_takes_so_many(
    person: Person, agent: Agent, sshd: Sshd, image: Path
) -> None:
    agent.holds_strangers(7)
    agent.holds(sshd.key)
    assert_that(fetched(sshd.url(image), person.backend()), Equals(DATA))


# -- no home --------------------------------------------------------------------------------------


def test_without_home_and_passwd_entry_the_host_is_unknown() -> None:
    if os.geteuid() != 0:
        pytest.skip("needs root, to become a user without a passwd entry")
    program = (
        "import os; os.setgid(54321); os.setuid(54321); os.environ.clear()\n"
        "from imagebroker.exceptions import PolicyViolation\n"
        "from tests.plugins.scp_peers import fetched, make_backend\n"
        "try: fetched('scp://127.0.0.1:39999/x.img', make_backend(personal=True))\n"
        "except PolicyViolation as error: print('unknown:', error)\n"
    )
    # Imports first: what lies below root's home cannot be read by others.
    ready = "import getpass, pwd, encodings.idna, tests.plugins.scp_peers, imagebroker_scp.client\n"
    ready += "import imagebroker_scp.source, imagebroker_scp.connection, imagebroker_scp.legacy\n"
    done = subprocess.run(
        [sys.executable, "-c", ready + program], capture_output=True, text=True, cwd=os.getcwd()
    )
    assert_that(done.stdout, Contains("unknown: the ssh host 127.0.0.1 port 39999 is not in"))
    assert_that(done.stdout, Contains("/etc/ssh/ssh_known_hosts"))


def test_an_unknown_host_is_refused_before_any_key_is_looked_at(
    person: Person, sshd: Sshd, image: Path
) -> None:
    (person.folder / "known_hosts").write_text("")
    with pytest.raises(PolicyViolation):
        fetched(sshd.url(image), person.backend())
