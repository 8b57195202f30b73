"""Checksums that are named by the URL of the file that has them."""

from __future__ import annotations

import hashlib
import io
import os
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from testtools.assertions import assert_that
from testtools.matchers import Contains, Equals, LessThan, Not

import imagebroker
from imagebroker.exceptions import (
    ChecksumMismatch,
    ConfigError,
    ImageBrokerError,
    InvalidImageRef,
    PolicyViolation,
    SchemeNotEnabled,
    SignatureError,
    TransferError,
    VerificationError,
)
from imagebroker.model.reference import parse
from imagebroker.verify.checksum_file import LARGEST, find_checksum
from tests.conftest import Scripted
from tests.servers.nginx import Nginx
from tests.verify.ways import WAYS, Way

DATA = bytes(range(256)) * 40
SHA256 = hashlib.sha256(DATA).hexdigest()
SHA512 = hashlib.sha512(DATA).hexdigest()
MD5 = hashlib.md5(DATA).hexdigest()
WRONG = "0" * 64
REF = parse("scripted://host/pub/disk.img")


@pytest.fixture(params=WAYS)
def way(request: pytest.FixtureRequest, tmp_path: Path) -> Way:
    made: Way = request.param(tmp_path)
    return made


def publish(
    scripted: Scripted, text: bytes | str, path: str = "/pub/SHA256SUMS", **how: Any
) -> str:
    """The URL of a checksum file, beside an image `disk.img`."""
    scripted.image(DATA, "/pub/disk.img")
    data = text.encode() if isinstance(text, str) else text
    return scripted.image(data, path, **how)[0]


def found(text: bytes | str, ref: str = REF.text, *, allow_weak: bool = False) -> tuple[str, str]:
    data = text.encode() if isinstance(text, str) else text
    checksum = find_checksum(data, parse(ref), "the file", allow_weak=allow_weak)
    return checksum.algorithm, checksum.digest


# -- what such files look like ------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "algorithm"),
    [
        (f"{SHA256}  disk.img\n", "sha256"),
        (f"{SHA256} *disk.img\n", "sha256"),
        (f"{SHA256} disk.img", "sha256"),
        (f"{SHA256}\tdisk.img", "sha256"),
        (f"{SHA256.upper()}  disk.img\r\n", "sha256"),
        (f"\ufeff{SHA256}  ./disk.img\n", "sha256"),
        (f"{SHA512}  disk.img\n{WRONG}  other.img\n", "sha512"),
        (f"{WRONG}  disk.img.xz\n{SHA256}  disk.img\n{WRONG}  other/disk.img.zst\n", "sha256"),
        (f"SHA256 (disk.img) = {SHA256}\n", "sha256"),
        (f"SHA512 (disk.img) = {SHA512}\nSHA256 (disk.img) = {SHA256}\n", "sha512"),
        (f"SHA2-256(disk.img)= {SHA256}\n", "sha256"),
        (f"MD5 (disk.img) = {MD5}\nSHA256 (disk.img) = {SHA256}\n", "sha256"),
        (f"{MD5}  disk.img\n{SHA256}  disk.img\n", "sha256"),
        (f"# disk.img: 10240 bytes\nSHA256 (disk.img) = {SHA256}\n", "sha256"),
        (f"\n\n{SHA256}\n", "sha256"),
        (f"{SHA256}  disk.img\n{SHA256} *disk.img\n", "sha256"),
        (f"{'1' * 56}  disk.img\n{SHA256}  disk.img\n", "sha256"),
        (f"TIGER (disk.img) = 00\nSHA256 (disk.img) = {SHA256}\n", "sha256"),
    ],
)
def test_the_strongest_digest_of_the_file_of_that_name_is_found(text: str, algorithm: str) -> None:
    assert_that(found(text), Equals((algorithm, hashlib.new(algorithm, DATA).hexdigest())))


@pytest.mark.parametrize(
    ("name", "written"),
    [
        ("a%20b", b"a b"), ("a%0Ab", b"a\\nb"), ("a%0Db", b"a\\rb"), ("a%5Cb", b"a\\\\b"),
        ("%FF", b"\xff"), ("%C3%A9", "é".encode()), ("(a)%20=%201", b"(a) = 1"),
    ],
)  # fmt: skip
def test_names_are_compared_as_bytes_and_escapes_undone(name: str, written: bytes) -> None:
    escape = b"\\" if b"\\" in written else b""
    ref = f"scripted://host/pub/{name}"
    for line in (
        escape + SHA256.encode() + b"  " + written,
        escape + b"SHA256 (" + written + b") = " + SHA256.encode(),
    ):
        other = WRONG.encode() + b"  other\n"
        assert_that(found(other + line + b"\n" + other, ref), Equals(("sha256", SHA256)))


def test_coreutils_writes_what_is_read(tmp_path: Path) -> None:
    names = [b"disk.img", b"a b", b"line\nend", b"back\\slash", b"\xff\xfe", b"cr\rend"]
    for name in names:
        Path(os.fsdecode(bytes(tmp_path) + b"/" + name)).write_bytes(name)
    for tool in ("sha256sum", "sha512sum", "sha384sum"):
        for flags in ([], ["--tag"], ["--binary"]):
            done = subprocess.run(
                [tool, *flags, *names], cwd=tmp_path, capture_output=True, check=True
            )
            for name in names:
                quoted = "".join(f"%{byte:02X}" for byte in name)
                algorithm, digest = found(done.stdout, f"scripted://host/{quoted}")
                assert_that(digest, Equals(hashlib.new(algorithm, name).hexdigest()))


@pytest.mark.parametrize(
    ("path", "expected"),
    [("/x/amd64/disk.img", "1"), ("/x/arm64/disk.img", "2"), ("/x/disk.img", "3")],
)
def test_the_entry_whose_path_is_nearest_is_the_one(path: str, expected: str) -> None:
    text = "".join(
        f"{digit * 64}  {name}\n"
        for digit, name in (("1", "amd64/disk.img"), ("2", "arm64/disk.img"), ("3", "disk.img"))
    )
    assert_that(found(text, f"scripted://host{path}")[1], Equals(expected * 64))


@pytest.mark.promise("security-26")
@pytest.mark.parametrize(
    "text",
    [
        "", "\n", "nothing to see", f"{SHA256}  other.img\n", f"{SHA256}  DISK.IMG\n",
        f"{SHA256}  disk.img.xz\n", f"{SHA256}  xdisk.img\n", f"{SHA256}  disk.img/\n",
        f"{SHA256}  disk.img\n{WRONG}  disk.img\n",
        f"SHA256 (disk.img) = {SHA256}\nSHA256 (disk.img) = {WRONG}\n",
        f"1{SHA256}  disk.img\n", f"SHA256 (disk.img) = {SHA256[:-1]}\n",
        "SHA256 (disk.img) = \n", f"SHA512 (disk.img) = {SHA256}\n",
        f"{'1' * 56}  disk.img\n", f"\\{SHA256}  disk\\.img\n",
        f"{WRONG}  a/disk.img\n{SHA256}  b/disk.img\n", f"{SHA256}\n{WRONG}\n", f"{SHA256} x",
        "<html><body>404</body></html>", "\0" * 100, SHA256[:-1],
    ],
)  # fmt: skip
def test_a_file_that_does_not_say_one_thing_is_refused(text: str) -> None:
    with pytest.raises(VerificationError) as caught:
        found(text)
    assert_that(caught.value.hint, Not(Equals("")))


@pytest.mark.promise("security-26")
@pytest.mark.parametrize("line", [f"{MD5}  disk.img\n", f"MD5 (disk.img) = {MD5}\n", MD5])
def test_a_weak_digest_alone_is_refused_unless_the_deployer_allows_it(line: str) -> None:
    with pytest.raises(PolicyViolation):
        found(line)
    assert_that(found(line, allow_weak=True), Equals(("md5", MD5)))


@settings(max_examples=300, deadline=None, database=None)
@given(
    st.one_of(
        st.binary(max_size=400),
        st.text("0123456789abcdef \\*()=\n\r./SHA256disk.img", max_size=300).map(str.encode),
    )
)
def test_any_text_has_a_digest_or_is_refused(text: bytes) -> None:
    try:
        algorithm, digest = found(text, allow_weak=True)
    except VerificationError:
        return
    assert_that(digest in text.decode("latin-1").lower(), Equals(True))
    assert_that(len(digest), Equals(hashlib.new(algorithm).digest_size * 2))


def test_a_mib_of_the_worst_lines_is_read_in_a_second() -> None:
    for worst in (b"SHA256 (" + b")" * 1000 + b"\n", b"0" * 1000 + b"\n", b"\\" * 1000 + b"\n",
                  SHA256.encode() + b" " * 1000 + b"\n", b"a\n", b"SHA256 (" + b") = " * 300 + b"\n"):  # fmt: skip
        before = time.thread_time()
        with pytest.raises(VerificationError):
            found(worst * (LARGEST // len(worst)))
        assert_that(time.thread_time() - before, LessThan(3.0))


# -- on the way ---------------------------------------------------------------------------------


def test_a_right_digest_is_checked_and_named_in_the_evidence(scripted: Scripted, way: Way) -> None:
    sums = publish(scripted, f"{SHA256}  disk.img\n")
    data, evidence = way.get(scripted.broker, REF.text, checksum=sums)
    assert_that(data, Equals(DATA))
    assert_that(evidence["checked_against"], Equals((f"sha256 of {sums}",)))


def test_a_wrong_digest_ends_the_download(scripted: Scripted, way: Way) -> None:
    sums = publish(scripted, f"{WRONG}  disk.img\n")
    with pytest.raises(ChecksumMismatch):
        way.get(scripted.broker, REF.text, checksum=sums)
    way.assert_nothing_came(len(DATA))


def test_without_an_entry_no_byte_of_the_image_is_asked_for(scripted: Scripted, way: Way) -> None:
    sums = publish(scripted, f"{SHA256}  other.img\n")
    _, script = scripted.image(DATA, "/pub/disk.img")
    with pytest.raises(VerificationError) as caught:
        way.get(scripted.broker, REF.text, checksum=sums)
    assert_that(str(caught.value), Contains("disk.img"))
    assert_that(script.opened, Equals(0))
    way.assert_nothing_came(1)


def test_it_satisfies_a_required_checksum_and_needs_none_itself(
    scripted: Scripted, way: Way
) -> None:
    scripted.configured(backend="require_checksum = true")
    sums = publish(scripted, f"{SHA256}  disk.img\n")
    assert_that(way.get(scripted.broker, REF.text, checksum=sums)[0], Equals(DATA))


def test_the_file_may_have_a_pin_of_its_own(scripted: Scripted, way: Way) -> None:
    text = f"{SHA256}  disk.img\n"
    sums = publish(scripted, text)
    pin = hashlib.sha256(text.encode()).hexdigest()
    assert_that(
        way.get(scripted.broker, REF.text, checksum=f"{sums}#sha256={pin}")[0], Equals(DATA)
    )
    with pytest.raises(ChecksumMismatch):
        way.get(scripted.broker, REF.text, checksum=f"{sums}#sha256={WRONG}")


def test_a_missing_file_is_a_failed_check_and_no_missing_image(
    scripted: Scripted, way: Way
) -> None:
    publish(scripted, "")
    with pytest.raises(VerificationError) as caught:
        way.get(scripted.broker, REF.text, checksum="scripted://host/pub/nowhere")
    assert_that(str(caught.value), Contains("/pub/nowhere"))


@pytest.mark.parametrize("size", [-1, None])
def test_a_large_file_is_no_checksum_file(scripted: Scripted, way: Way, size: int | None) -> None:
    text = f"{SHA256}  disk.img\n".encode()
    sums = publish(scripted, text + bytes(LARGEST), size=size)
    with pytest.raises(VerificationError) as caught:
        way.get(scripted.broker, REF.text, checksum=sums)
    assert_that(str(caught.value), Contains(str(LARGEST)))
    sums = publish(scripted, text + b"\n" * (LARGEST - len(text)), size=size, chunk=LARGEST)
    assert_that(way.get(scripted.broker, REF.text, checksum=sums)[0], Equals(DATA))


def test_a_broken_connection_to_it_is_tried_again(scripted: Scripted, way: Way) -> None:
    text = f"{SHA256}  disk.img\n"
    sums = publish(scripted, text, chunk=10, breaks=[(20, TransferError("lost"))])
    assert_that(way.get(scripted.broker, REF.text, checksum=sums)[0], Equals(DATA))


@pytest.mark.parametrize(
    ("checksum", "error"),
    [
        ("scripted://host/x y", InvalidImageRef),
        ("scripted://host/pub/", PolicyViolation),
        ("http://host/SHA256SUMS", SchemeNotEnabled),
        ("HTTP://host/SHA256SUMS", InvalidImageRef),
        ("//host/SHA256SUMS", InvalidImageRef),
        ("sha256://host/x", InvalidImageRef),
        ("SHA256SUMS", InvalidImageRef),
    ],
)
def test_what_cannot_be_fetched_is_refused_before_any_io(
    scripted: Scripted, checksum: str, error: type[ImageBrokerError]
) -> None:
    _, script = scripted.image(DATA, "/pub/disk.img")
    for call in (
        lambda: scripted.broker.open(None, REF.text, checksum=checksum),
        lambda: scripted.broker.download(None, REF.text, io.BytesIO(), checksum=checksum),
    ):
        with pytest.raises(error):
            call()
    assert_that(script.opened, Equals(0))


@pytest.mark.promise("security-26")
def test_the_address_policy_holds_for_it_too(
    make_broker: Callable[..., imagebroker.Broker], tmp_path: Path
) -> None:
    (tmp_path / "disk.img").write_bytes(DATA)
    broker = make_broker(
        f"[imagebroker]\nenabled_schemes = file, http\n[backend:file]\nallowed_paths = {tmp_path}\n"
    )
    for refused in ("http://127.0.0.1/SHA256SUMS", "file:///etc/passwd"):
        with pytest.raises(PolicyViolation):
            broker.download(None, f"file://{tmp_path}/disk.img", tmp_path / "x", checksum=refused)
    assert_that((tmp_path / "x").exists(), Equals(False))


# -- signed files -------------------------------------------------------------------------------


class Signer:
    """Keys as GnuPG makes them."""

    def __init__(self, home: Path) -> None:
        home.mkdir(mode=0o700)
        self._home = home
        self._signed: dict[Any, bytes] = {}
        for name in ("ours", "other"):
            self._gpg(
                "--quick-generate-key", f"{name} <{name}@example.org>", "ed25519", "sign", "1y"
            )
        self.keyring = self._gpg("--export", "ours@example.org")
        self.armored = self._gpg("--armor", "--export", "ours@example.org")

    def _gpg(self, *arguments: str, data: bytes = b"") -> bytes:
        quiet = ("--batch", "--yes", "--quiet", "--pinentry-mode", "loopback", "--passphrase", "")
        return subprocess.run(
            ["gpg", "--homedir", self._home, *quiet, *arguments],
            input=data, capture_output=True, check=True,
        ).stdout  # fmt: skip

    def sign(self, data: bytes, *how: str, by: tuple[str, ...] = ("ours",)) -> bytes:
        """What GnuPG makes of it; of the same, the same again."""
        users = [word for name in by for word in ("-u", f"{name}@example.org")]
        if (data, how, by) not in self._signed:
            signed = self._gpg(*users, *(how or ("--detach-sign",)), data=data)
            self._signed[data, how, by] = signed
        return self._signed[data, how, by]

    def close(self) -> None:
        subprocess.run(
            ["gpgconf", "--homedir", self._home, "--kill", "gpg-agent"], capture_output=True
        )


@pytest.fixture(scope="module")
def signer() -> Iterator[Signer]:
    import tempfile

    if shutil.which("gpg") is None:
        pytest.skip("needs gpg")
    pytest.importorskip("pysequoia", reason="needs imagebroker[openpgp]")
    with tempfile.TemporaryDirectory() as short:  # an agent's socket has a short path
        made = Signer(Path(short) / "g")
        yield made
        made.close()


@pytest.fixture
def trusting(scripted: Scripted, signer: Signer, tmp_path: Path) -> Scripted:
    (tmp_path / "keys").write_bytes(signer.keyring)
    scripted.configured(f"checksum_keyring = {tmp_path / 'keys'}")
    return scripted


TEXT = f"{WRONG}  other.img\n{SHA256}  disk.img\n".encode()


@pytest.mark.parametrize("armor", [[], ["--armor"]])
@pytest.mark.parametrize("ending", [".gpg", ".sign", ".asc", ".sig"])
def test_a_file_with_a_good_signature_beside_it_is_believed(
    trusting: Scripted, signer: Signer, way: Way, ending: str, armor: list[str]
) -> None:
    sums = publish(trusting, TEXT)
    trusting.image(signer.sign(TEXT, *armor, "--detach-sign"), f"/pub/SHA256SUMS{ending}")
    data, evidence = way.get(trusting.broker, REF.text, checksum=sums)
    assert_that(data, Equals(DATA))
    [said] = evidence["checked_against"]
    assert_that(said, Contains(f"sha256 of {sums} (signed by "))


def test_one_good_signature_among_others_is_enough(
    trusting: Scripted, signer: Signer, way: Way
) -> None:
    sums = publish(trusting, TEXT)
    for by in (("other", "ours"), ("ours", "other")):
        trusting.image(signer.sign(TEXT, "--detach-sign", by=by), "/pub/SHA256SUMS.gpg")
        trusting.broker.open(None, REF.text, checksum=sums).close()


def test_a_file_that_is_signed_in_itself_is_believed_for_what_is_signed(
    trusting: Scripted, signer: Signer, way: Way
) -> None:
    signed = signer.sign(b"# Fedora\nSHA256 (disk.img) = " + SHA256.encode(), "--clearsign")
    sums = publish(trusting, signed)
    assert_that(way.get(trusting.broker, REF.text, checksum=sums)[0], Equals(DATA))


@pytest.mark.promise("security-26")
@pytest.mark.parametrize("where", ["before", "after"])
def test_what_stands_outside_of_the_signed_part_is_not_believed(
    trusting: Scripted, signer: Signer, way: Way, where: str
) -> None:
    signed = signer.sign(f"{WRONG}  other.img\n".encode(), "--clearsign")
    more = f"{SHA256}  disk.img\n".encode()
    sums = publish(trusting, more + signed if where == "before" else signed + more)
    with pytest.raises(VerificationError):
        way.get(trusting.broker, REF.text, checksum=sums)
    way.assert_nothing_came(1)


def test_a_signed_copy_beside_the_file_is_what_is_believed(
    trusting: Scripted, signer: Signer, way: Way
) -> None:
    sums = publish(trusting, f"{WRONG}  disk.img\n")
    trusting.image(signer.sign(TEXT, "--clearsign"), "/pub/SHA256SUMS.asc")
    assert_that(way.get(trusting.broker, REF.text, checksum=sums)[0], Equals(DATA))


def bad_files(signer: Signer) -> dict[str, tuple[bytes, bytes | None]]:
    """A checksum file that must not be believed, and what is beside it."""
    clear = signer.sign(TEXT, "--clearsign")
    good = signer.sign(TEXT)
    return {
        "nothing beside it": (TEXT, None),
        "a signature of something else": (TEXT, signer.sign(b"something else")),
        "a signature by an unknown key": (TEXT, signer.sign(TEXT, "--detach-sign", by=("other",))),
        "half a signature": (TEXT, good[: len(good) // 2]),
        "a page": (TEXT, b"<html>not found</html>"),
        "an empty file": (TEXT, b""),
        "a key": (TEXT, signer.keyring),
        "a changed digest": (TEXT.replace(SHA256[:8].encode(), b"00000000"), good),
        "one byte more": (TEXT + b"\n", good),
        "a changed signed text": (clear.replace(SHA256[:8].encode(), b"00000000"), None),
        "signed in itself by an unknown key": (
            signer.sign(TEXT, "--clearsign", by=("other",)), None
        ),
        "signed in itself and cut": (clear[:-80], None),
        "only the first line of a signed text": (
            b"-----BEGIN PGP SIGNED MESSAGE-----\n\n" + TEXT, good
        ),
    }  # fmt: skip


@pytest.mark.promise("security-26")
@pytest.mark.parametrize("number", range(13))
def test_an_unsigned_or_badly_signed_file_is_not_believed(
    trusting: Scripted, signer: Signer, way: Way, number: int
) -> None:
    name, (text, beside) = list(bad_files(signer).items())[number]
    sums = publish(trusting, text)
    _, script = trusting.image(DATA, "/pub/disk.img")
    if beside is not None:
        trusting.image(beside, "/pub/SHA256SUMS.gpg")
    with pytest.raises(SignatureError) as caught:
        way.get(trusting.broker, REF.text, checksum=sums)
    assert_that((name, str(caught.value)), Not(Contains("Stack backtrace")))
    assert_that((name, script.opened), Equals((name, 0)))
    way.assert_nothing_came(1)


def test_a_digest_of_the_caller_needs_no_signature(trusting: Scripted, way: Way) -> None:
    publish(trusting, "")
    data, _ = way.get(trusting.broker, REF.text, checksum=f"sha256:{SHA256}")
    assert_that(data, Equals(DATA))


def test_without_a_keyring_nobody_asks_for_signatures(scripted: Scripted, way: Way) -> None:
    sums = publish(scripted, TEXT)
    _, script = scripted.image(b"no signature", "/pub/SHA256SUMS.gpg")
    assert_that(way.get(scripted.broker, REF.text, checksum=sums)[0], Equals(DATA))
    assert_that(script.opened, Equals(0))


@pytest.mark.parametrize("content", [None, b"", b"no key", b"-----BEGIN PGP PUBLIC KEY BLOCK-----"])
def test_a_keyring_without_keys_is_an_error_when_the_broker_is_made(
    scripted: Scripted, signer: Signer, tmp_path: Path, content: bytes | None
) -> None:
    if content is not None:
        (tmp_path / "keys").write_bytes(content)
    with pytest.raises(ConfigError) as caught:
        scripted.configured(f"checksum_keyring = {tmp_path / 'keys'}")
    assert_that(str(caught.value), Contains("checksum_keyring"))
    assert_that(str(caught.value), Not(Contains("backtrace")))


def test_a_keyring_may_be_armored(
    scripted: Scripted, signer: Signer, tmp_path: Path, way: Way
) -> None:
    (tmp_path / "keys").write_bytes(signer.armored)
    scripted.configured(f"checksum_keyring = {tmp_path / 'keys'}")
    sums = publish(scripted, TEXT)
    scripted.image(signer.sign(TEXT), "/pub/SHA256SUMS.gpg")
    assert_that(way.get(scripted.broker, REF.text, checksum=sums)[0], Equals(DATA))


# -- over http ----------------------------------------------------------------------------------


def test_over_http_with_a_signature(
    nginx: Nginx,
    signer: Signer,
    make_broker: Callable[..., imagebroker.Broker],
    tmp_path: Path,
    way: Way,
) -> None:
    folder = nginx.root / "sums"
    folder.mkdir(exist_ok=True)
    (folder / "disk.img").write_bytes(DATA)
    (folder / "SHA256SUMS").write_bytes(TEXT)
    (folder / "SHA256SUMS.gpg").write_bytes(signer.sign(TEXT))
    (tmp_path / "keys").write_bytes(signer.keyring)
    broker = make_broker(
        f"[imagebroker]\nenabled_schemes = http\nchecksum_keyring = {tmp_path / 'keys'}\n"
        "[backend:http]\nallowed_networks = 127.0.0.0/8\nrequire_checksum = true\n"
    )
    sums = nginx.url("sums/SHA256SUMS")
    # A query is no part of the name, and is shown to nobody.
    data, evidence = way.get(
        broker, nginx.url("sums/disk.img") + "?a=1", checksum=f"{sums}?token=geheim"
    )
    assert_that(data, Equals(DATA))
    assert_that(str(evidence), Not(Contains("geheim")))
    (folder / "SHA256SUMS.gpg").unlink()
    with pytest.raises(SignatureError):
        broker.open(None, nginx.url("sums/disk.img"), checksum=sums)
