"""Checksum files of more tools, with what surrounds the digests and names in them."""

from __future__ import annotations

import base64
import hashlib
import shutil
import subprocess
from pathlib import Path

import pytest
from testtools.assertions import assert_that
from testtools.matchers import Contains, Equals

from imagebroker.exceptions import PolicyViolation, VerificationError
from imagebroker.model.reference import parse
from imagebroker.verify.checksum_file import NotListed, find_checksum
from tests.servers.fixtures import require

DATA = bytes(range(256)) * 40
SHA256, SHA512 = hashlib.sha256(DATA).hexdigest(), hashlib.sha512(DATA).hexdigest()
BLAKE2B, SHA1 = hashlib.blake2b(DATA).hexdigest(), hashlib.sha1(DATA).hexdigest()
WRONG = "0" * 64
LONG = "a-name-that-gpg-does-not-put-before-the-digits-because-of-its-length.img"


def found(text: bytes | str, file: str = "SHA256SUMS", name: str = "disk.img") -> tuple[str, str]:
    data = text.encode() if isinstance(text, str) else text
    checksum = find_checksum(
        data, parse(f"https://host/pub/{name}"), "the file", allow_weak=False,
        file=parse(f"https://host/pub/{file}"),
    )  # fmt: skip
    return checksum.algorithm, checksum.digest


def printed(*argv: str, directory: Path) -> bytes:
    require(None if shutil.which(argv[0]) else f"{argv[0]} is not installed")
    return subprocess.run(argv, cwd=directory, capture_output=True, check=True).stdout


@pytest.mark.parametrize("name", ["disk.img", LONG])
@pytest.mark.parametrize(
    ("way", "file", "algorithm"),
    [
        (["--print-md", "SHA512"], "SUM.sha512", "sha512"), (["--print-mds"], "SUMS", "sha512"),
        (["--print-md", "SHA256"], "SHA256SUMS", "sha256"),
    ],
)  # fmt: skip
def test_what_gpg_prints_in_groups_of_digits_is_read(
    name: str, way: list[str], file: str, algorithm: str, tmp_path: Path
) -> None:
    (tmp_path / name).write_bytes(DATA)
    (tmp_path / "other.img").write_bytes(b"other")
    gpg = ("gpg", "--homedir", str(tmp_path), *way)
    text = printed(*gpg, "other.img", directory=tmp_path) + printed(*gpg, name, directory=tmp_path)
    wanted = (algorithm, hashlib.new(algorithm, DATA).hexdigest())
    assert_that(found(text, file, name), Equals(wanted))
    assert_that(found(text.replace(b"\n", b"\r\n"), file, name), Equals(wanted))


def test_digits_in_groups_that_are_no_digest_are_not_joined_to_one() -> None:
    groups = " ".join(SHA256[at : at + 8] for at in range(0, 48, 8))
    for text in (
        f"disk.img: {groups}\n",
        f"disk.img: {groups}\n\n  {SHA256[48:56]} {SHA256[56:]}\n",
    ):
        with pytest.raises(NotListed):
            found(text)
    short = " ".join(SHA1[at : at + 4] for at in range(0, 40, 4))
    with pytest.raises(PolicyViolation):
        found(f"disk.img: {short}\n")


@pytest.mark.parametrize("mode", ["-b", "-t", "-U"])
def test_every_mark_of_shasum_is_read(mode: str, tmp_path: Path) -> None:
    (tmp_path / "disk.img").write_bytes(DATA)
    text = printed("shasum", "-a", "256", mode, "disk.img", directory=tmp_path)
    assert_that(found(text), Equals(("sha256", SHA256)))


def test_a_digest_of_the_bits_that_a_text_spells_is_refused_with_the_reason(tmp_path: Path) -> None:
    (tmp_path / "disk.img").write_bytes(DATA)
    text = printed("shasum", "-a", "256", "-0", "disk.img", directory=tmp_path)
    with pytest.raises(VerificationError) as caught:
        found(text)
    assert_that(str(caught.value), Contains("not of its bytes"))


def test_lines_that_end_in_nul_are_read(tmp_path: Path) -> None:
    for name in ("other.img", "disk.img"):
        (tmp_path / name).write_bytes(DATA if name == "disk.img" else b"")
    text = printed("sha256sum", "--zero", "other.img", "disk.img", directory=tmp_path)
    assert_that(found(text), Equals(("sha256", SHA256)))


def test_a_line_feed_in_a_name_before_a_nul_ends_no_line(tmp_path: Path) -> None:
    (tmp_path / "o\nther.img").write_bytes(b"")
    (tmp_path / "disk.img").write_bytes(DATA)
    text = printed("sha256sum", "--zero", "o\nther.img", "disk.img", directory=tmp_path)
    assert_that(found(text), Equals(("sha256", SHA256)))
    assert_that(found(text, name="o%0Ather.img")[1], Equals(hashlib.sha256().hexdigest()))


@pytest.mark.parametrize("form", ["SHA{1} ({0}) = {2}", "{2}  {0}", "{2}", "SHA2-{1}({0})= {2}"])
@pytest.mark.parametrize("bits", [256, 512])
def test_a_digest_may_be_in_base64(form: str, bits: int) -> None:
    digest = hashlib.new(f"sha{bits}", DATA)
    text = form.format("disk.img", bits, base64.b64encode(digest.digest()).decode()) + "\n"
    assert_that(found(text, f"SHA{bits}"), Equals((f"sha{bits}", digest.hexdigest())))


@pytest.mark.parametrize("algorithm", ["sha256", "sha512"])
@pytest.mark.parametrize("flags", [[], ["-c"], ["-r"]])
def test_what_openssl_writes_is_read(algorithm: str, flags: list[str], tmp_path: Path) -> None:
    (tmp_path / "disk.img").write_bytes(DATA)
    text = printed("openssl", "dgst", *flags, f"-{algorithm}", "disk.img", directory=tmp_path)
    assert_that(found(text)[1], Equals(hashlib.new(algorithm, DATA).hexdigest()))


@pytest.mark.parametrize("line", ["{}", "{}  disk.img", "SHA256: {}", "disk.img {}"])
@pytest.mark.parametrize("between", ["-", ":"])
def test_pairs_of_digits_are_a_digest(line: str, between: str) -> None:
    pairs = bytes.fromhex(SHA256).hex(between).upper()
    assert_that(found(line.format(pairs) + "\n", "disk.sha256"), Equals(("sha256", SHA256)))


def test_the_last_line_of_a_signature_is_no_digest() -> None:
    armor = "-----{} PGP SIGNATURE-----\n"
    end = base64.b64encode(bytes(32)).decode()
    signature = f"{armor.format('BEGIN')}\niQ{'A' * 62}\n{end}\n=abcd\n{armor.format('END')}"
    assert_that(found(f"{SHA256}\n{signature}"), Equals(("sha256", SHA256)))
    with pytest.raises(NotListed):
        found(signature)


@pytest.mark.parametrize("digests", [(SHA1, SHA256), (SHA256, SHA512), ("0" * 32, SHA256)])
def test_a_line_may_have_several_digests_before_the_name(digests: tuple[str, str]) -> None:
    text = f"{'  '.join(digests)}  disk.img\n"
    assert_that(found(text, "sums.txt")[1], Equals(digests[1]))


@pytest.mark.parametrize(("bits", "name"), [(256, "SHA3SUMS"), (512, "disk.img.sha3")])
def test_of_a_family_the_number_of_digits_says_which(bits: int, name: str) -> None:
    digest = hashlib.new(f"sha3_{bits}", DATA).hexdigest()
    assert_that(found(f"{digest}  disk.img\n", name), Equals((f"sha3_{bits}", digest)))


@pytest.mark.parametrize("algorithm", ["sha224", "sha3_224"])
def test_a_digest_of_224_bits_is_refused_by_its_name(algorithm: str) -> None:
    word = algorithm.upper().replace("_", "-")
    with pytest.raises(VerificationError) as caught:
        found(f"{word} (disk.img) = {hashlib.new(algorithm, DATA).hexdigest()}\n")
    assert_that(str(caught.value), Contains(word.lower()))


@pytest.mark.parametrize(
    "line",
    [
        f"{SHA256} # disk.img", f"{SHA256}  # disk.img", f"{SHA256}  disk.img  # built on Monday",
        f'{SHA256}  "disk.img"', f"{SHA256}  './out/disk.img'", f"0x{SHA256}  disk.img",
        f'{SHA256}  <a href="disk.img">disk.img</a>', f"{SHA256}  disk.img\f",
        f"{SHA256}  https://mirror/pub/disk.img?signature=1", f"{SHA256}  disk.img\u200b",
    ],
)  # fmt: skip
def test_what_surrounds_the_name_is_no_part_of_it(line: str) -> None:
    text = f"{WRONG}  other.img\n{line}\n"
    assert_that(found(text), Equals(("sha256", SHA256)))
    with pytest.raises(NotListed):
        found(text, name="xdisk.img")


def test_a_digest_labelled_as_hash_is_no_header_of_a_signature() -> None:
    assert_that(found(f"File: disk.img\nHash: {SHA256}\n"), Equals(("sha256", SHA256)))


def test_a_comment_of_several_words_is_no_name() -> None:
    assert_that(found(f"{SHA256}  # built on Monday\n"), Equals(("sha256", SHA256)))
    with pytest.raises(NotListed):
        found(f"{WRONG}  other.img  # as disk.img\n")
    with pytest.raises(NotListed):
        found(f"{WRONG}  # other.img\n")


@pytest.mark.parametrize("form", ["sha-256=:{}:", "SHA-256={}", "sha256-{}"])
def test_a_digest_may_be_spelled_as_in_the_head_of_an_answer(form: str) -> None:
    value = base64.b64encode(bytes.fromhex(SHA256)).decode()
    assert_that(found(form.format(value) + "\n"), Equals(("sha256", SHA256)))


@pytest.mark.parametrize("line_feed", ["", "\n"])
@pytest.mark.parametrize(("version", "kind"), [("4", "sha-256"), ("3.0", "sha256")])
def test_a_metalink_has_the_digests_of_its_files(version: str, kind: str, line_feed: str) -> None:
    files = line_feed.join(
        f'<file name="{name}"><hash type="md5">{"0" * 32}</hash>{line_feed}<hash type="{kind}">{digest}'
        f'</hash><pieces length="4" type="sha1"><hash>{SHA1}</hash></pieces></file>'
        for name, digest in (("other.img", WRONG), ("disk&amp;1.img", SHA256))
    )
    text = f'<?xml version="1.0"?>\n<metalink version="{version}">{line_feed}{files}</metalink>'
    assert_that(found(text, "disk.meta4", "disk&1.img"), Equals(("sha256", SHA256)))
    with pytest.raises(VerificationError):
        found(text, "disk.meta4")


def test_a_keyed_digest_is_not_taken_for_another() -> None:
    for word in ("HMAC-SHA256", "HMAC-SHA2-256"):
        with pytest.raises(VerificationError) as caught:
            found(f"{word}(disk.img)= {WRONG}\n")
        assert_that(str(caught.value), Contains("hmac"))


def test_what_the_files_name_says_is_believed_before_the_number_of_digits() -> None:
    text = f"{SHA256}  disk.img\n{BLAKE2B}  disk.img\n"
    assert_that(found(text, "disk.img.sha256"), Equals(("sha256", SHA256)))
    text = f"{SHA512}  disk.img\n{hashlib.sha1(b'').hexdigest()}  disk.img\n"
    assert_that(found(text, "sha1sums.txt"), Equals(("sha512", SHA512)))
