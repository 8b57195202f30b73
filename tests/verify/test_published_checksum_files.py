"""Checksum files in the forms in which publishers and their tools write them."""

from __future__ import annotations

import hashlib
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from testtools.assertions import assert_that
from testtools.matchers import Contains, Equals

import imagebroker
from imagebroker.exceptions import PolicyViolation, VerificationError
from imagebroker.model.reference import parse
from imagebroker.verify.checksum_file import NotListed, find_checksum
from tests.servers.fixtures import require
from tests.servers.nginx import Nginx, missing

DATA = bytes(range(256)) * 40
SHA256 = hashlib.sha256(DATA).hexdigest()
SHA512 = hashlib.sha512(DATA).hexdigest()
SHA3 = hashlib.sha3_256(DATA).hexdigest()
SHA3_512 = hashlib.sha3_512(DATA).hexdigest()
BLAKE2B = hashlib.blake2b(DATA).hexdigest()
BLAKE2S = hashlib.blake2s(DATA).hexdigest()
WRONG = "0" * 64
REF = "https://host/pub/disk.img"


def found(text: bytes | str, file: str = "SHA256SUMS", ref: str = REF) -> tuple[str, str]:
    data = text.encode() if isinstance(text, str) else text
    named = parse(f"https://host/pub/{file}")
    checksum = find_checksum(data, parse(ref), "the file", allow_weak=False, file=named)
    return checksum.algorithm, checksum.digest


# -- which algorithm ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "file", "algorithm", "digest"),
    [
        (f"{BLAKE2B}  disk.img\n", "B2SUMS", "blake2b", BLAKE2B),
        (f"{BLAKE2B}  disk.img\n", "b2sums.txt", "blake2b", BLAKE2B),
        (f"{BLAKE2B}\n", "disk.img.b2", "blake2b", BLAKE2B),
        (f"{BLAKE2B}  disk.img\n", "disk.img.blake2b", "blake2b", BLAKE2B),
        (f"{SHA3}  disk.img\n", "SHA3-256SUMS", "sha3_256", SHA3),
        (f"{SHA3_512}  disk.img\n", "disk.img.sha3-512", "sha3_512", SHA3_512),
        (f"# BLAKE2B HASH\n{BLAKE2B}  disk.img\n", "disk.img.DIGESTS", "blake2b", BLAKE2B),
        (f"# SHA3-256 HASH\n{SHA3}  disk.img\n", "DIGESTS", "sha3_256", SHA3),
        (f"BLAKE2b:\n\n{BLAKE2B}  disk.img\n", "SHA512SUMS", "blake2b", BLAKE2B),
        (f"BLAKE2b (disk.img) = {BLAKE2B}\n", "SHA512SUMS", "blake2b", BLAKE2B),
        (f"blake2b:{BLAKE2B}  disk.img\n", "sums", "blake2b", BLAKE2B),
        (f"DIST disk.img 10240 BLAKE2B {BLAKE2B}\n", "Manifest", "blake2b", BLAKE2B),
    ],
)
def test_the_algorithm_is_what_the_line_the_heading_or_the_name_says(
    text: str, file: str, algorithm: str, digest: str
) -> None:
    assert_that(found(text, file), Equals((algorithm, digest)))


@pytest.mark.parametrize("first", [True, False])
def test_of_several_headings_each_counts_for_what_is_below_it(first: bool) -> None:
    parts = [f"# BLAKE2B HASH\n{BLAKE2B}  disk.img\n", f"# SHA512 HASH\n{SHA512}  disk.img\n"]
    text = "".join(parts if first else reversed(parts))
    assert_that(found(text, "disk.img.DIGESTS"), Equals(("sha512", SHA512)))


def test_the_header_of_a_signature_is_no_heading() -> None:
    text = f"-----BEGIN PGP SIGNED MESSAGE-----\nHash: SHA512\n\n{BLAKE2B}  disk.img\n"
    assert_that(found(text, "B2SUMS"), Equals(("blake2b", BLAKE2B)))


def test_words_in_the_name_of_the_image_say_nothing_about_the_digests() -> None:
    ref = "https://host/pub/blake2b-demo.img"
    text = f"{SHA512}  blake2b-demo.img\n"
    assert_that(found(text, "blake2b-demo.img.sum", ref), Equals(("sha512", SHA512)))


@pytest.mark.parametrize(
    ("text", "file", "word"),
    [
        (f"{BLAKE2S}  disk.img\n", "disk.img.blake3", "blake3"),
        (f"{BLAKE2S}  disk.img\n", "b3sums", "blake3"),
        (f"BLAKE2s (disk.img) = {BLAKE2S}\n", "CHECKSUM", "blake2s"),
        (f"# WHIRLPOOL HASH\n{SHA512}  disk.img\n", "disk.img.DIGESTS", "whirlpool"),
        (f"SHA512/256 (disk.img) = {SHA256}\n", "CHECKSUM", "sha512/256"),
        (f"BLAKE2b-256 (disk.img) = {SHA256}\n", "CHECKSUM", "blake2b of 256 bits"),
        (f"SM3 (disk.img) = {SHA256}\n", "CHECKSUM", "sm3"),
    ],
)
def test_a_digest_of_an_algorithm_that_is_not_supported_is_not_taken_for_another(
    text: str, file: str, word: str
) -> None:
    with pytest.raises(VerificationError) as caught:
        found(text, file)
    assert_that(str(caught.value), Contains(word))


def test_a_supported_digest_beside_an_unsupported_one_is_used() -> None:
    text = f"WHIRLPOOL (disk.img) = {SHA512}\nSHA256 (disk.img) = {SHA256}\n"
    assert_that(found(text, "CHECKSUM"), Equals(("sha256", SHA256)))


# -- which form -----------------------------------------------------------------------------------

_TABLE = "Algorithm       Hash                    Path\r\n---------       ----                    ----\r\n"
FORMS = {
    "leading-blanks": f"  {SHA256}  disk.img\n",
    "trailing-blanks": f"{SHA256}  disk.img \t\n",
    "windows-path": f"{SHA256} *.\\disk.img\r\n",
    "windows-drive": f"{SHA256} *C:\\images\\disk.img\r\n",
    "certutil": f"SHA256 hash of disk.img:\r\n{SHA256}\r\nCertUtil: -hashfile command completed.\r\n",
    "certutil-7": "SHA256 hash of file disk.img:\r\n"
    + " ".join(SHA256[i : i + 2] for i in range(0, 64, 2)) + "\r\nCertUtil: -hashfile\r\n",
    "certutil-de": f"SHA256-Hash von C:\\x\\disk.img:\r\n{SHA256}\r\nCertUtil: -hashfile-Befehl ok.\r\n",
    "get-filehash": f"\r\n{_TABLE}SHA256          {SHA256.upper()}       C:\\images\\disk.img\r\n\r\n",
    "get-filehash-list": f"\r\n\r\nAlgorithm : SHA256\r\nHash      : {SHA256.upper()}\r\nPath      : C:\\i\\disk.img\r\n\r\n",
    "release": f"SHA256:\n {WRONG}     1234 main/other.img\n {SHA256}    10240 pub/disk.img\n",
    "manifest": f"DIST other.img 1 SHA256 {WRONG}\nDIST disk.img 10240 SHA256 {SHA256}\n",
    "openssl-legacy": f"SHA256(disk.img)= {SHA256}\n",
    "name-first": f"other.img  {WRONG}\ndisk.img  {SHA256}\n",
    "yaml": f"images:\n  disk.img: {SHA256}\n  other.img: {WRONG}\n",
    "json": f'{{"disk.img": "{SHA256}",\n "other.img": "{WRONG}"}}\n',
    "markdown": f"| file | sha256 |\n|---|---|\n| `disk.img` | `{SHA256}` |\n| `other.img` | `{WRONG}` |\n",
    "labelled-alone": f"SHA-256 checksum: {SHA256}\n",
    "oci-alone": f"sha256:{SHA256}\n",
    "stdin": f"{SHA256}  -\n",
}  # fmt: skip


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(
    "encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "crlf"]
)
def test_the_entry_is_found_in_the_form_and_encoding_that_the_tool_writes(
    form: str, encoding: str
) -> None:
    text = FORMS[form]
    if encoding == "crlf":
        text, encoding = text.replace("\r\n", "\n").replace("\n", "\r\n"), "utf-8"
    assert_that(found(text.encode(encoding)), Equals(("sha256", SHA256)))


@pytest.mark.parametrize("form", [name for name in FORMS if "disk.img" in FORMS[name]])
def test_in_none_of_these_forms_is_the_entry_of_another_file_taken(form: str) -> None:
    for other in ("xdisk.img", "disk.img.xz", "isk.img"):
        with pytest.raises(VerificationError):
            found(FORMS[form], ref=f"https://host/pub/{other}")


def test_blanks_that_belong_to_the_name_are_kept() -> None:
    text = f"{WRONG}  disk.img\n{SHA256}  disk.img \n"
    assert_that(found(text, ref=f"{REF}%20"), Equals(("sha256", SHA256)))
    assert_that(found(text)[1], Equals(WRONG))


@pytest.mark.parametrize(
    ("tool", "flags", "file"),
    [
        ("b2sum", [], "B2SUMS"), ("b2sum", ["--tag"], "CHECKSUM"), ("sha512sum", [], "SHA512SUMS"),
        ("sha384sum", ["--tag"], "CHECKSUM"),
    ],
)  # fmt: skip
def test_what_the_tools_write_is_read(
    tmp_path: Path, tool: str, flags: list[str], file: str
) -> None:
    (tmp_path / "disk.img").write_bytes(DATA)
    done = subprocess.run([tool, *flags, "disk.img"], cwd=tmp_path, capture_output=True, check=True)
    algorithm, digest = found(done.stdout, file)
    assert_that(digest, Equals(hashlib.new(algorithm, DATA).hexdigest()))


# -- which name -----------------------------------------------------------------------------------


@pytest.mark.parametrize("file", ["disk.img.sha256", "disk.sha256", "disk.img.SHA256SUM"])
def test_the_one_entry_of_a_file_called_after_the_image_is_the_images(file: str) -> None:
    assert_that(found(f"{SHA256}  build/out-2026.img\n", file), Equals(("sha256", SHA256)))


@pytest.mark.parametrize(
    ("text", "file"),
    [
        (f"{SHA256}  other.img\n", "SHA256SUMS"),
        (f"{SHA256}  a.img\n{WRONG}  b.img\n", "disk.img.sha256"),
        (f"{SHA256}  a.img\n", "other.img.sha256"),
    ],
)
def test_an_entry_of_another_name_is_not_guessed_at(text: str, file: str) -> None:
    with pytest.raises(NotListed) as caught:
        found(text, file)
    assert_that(str(caught.value), Contains("it lists"))


@pytest.mark.parametrize(
    "ref",
    [
        "https://host/download.php?file=images/disk.img&mirror=2",
        "https://host/get?disk.img", "https://host/get?id=7&name=disk.img",
        "https://host/o/bucket?prefix=x&key=a%2Fdisk.img",
    ],
)  # fmt: skip
def test_the_name_may_stand_in_the_query(ref: str) -> None:
    text = f"{WRONG}  other.img\n{SHA256}  disk.img\n"
    assert_that(found(text, ref=ref), Equals(("sha256", SHA256)))


def test_a_weak_digest_is_still_refused_in_every_form() -> None:
    md5 = hashlib.md5(DATA).hexdigest()
    for text in (f"MD5 hash of disk.img:\n{md5}\n", f"disk.img: {md5}\n", f" {md5}  disk.img \n"):
        with pytest.raises(PolicyViolation):
            found(text)


def test_the_name_behind_a_redirect_is_looked_up_and_shown(
    make_broker: Callable[..., imagebroker.Broker], tmp_path: Path
) -> None:
    require(missing())
    root = tmp_path / "root"
    root.mkdir()
    (root / "disk-2026.img").write_bytes(DATA)
    (root / "SHA256SUMS").write_text(f"{WRONG}  disk-2025.img\n{SHA256}  disk-2026.img\n")
    broker = make_broker(
        "[imagebroker]\nenabled_schemes = http\n[backend:http]\nallowed_networks = 127.0.0.0/8\n"
    )
    with Nginx(root, redirects={"/latest": (302, "/disk-2026.img")}) as nginx:
        url = nginx.http_url
        done = broker.download(None, f"{url}/latest", tmp_path / "o", checksum=f"{url}/SHA256SUMS")
    assert_that(done.evidence["sha256"], Equals(SHA256))
    assert_that(str(done.evidence["checked_against"]), Contains("disk-2026.img"))
