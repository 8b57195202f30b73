"""`--checksum` takes a digest in any usual spelling, and a list from a file, a URL or a pipe."""

from __future__ import annotations

import base64
import hashlib
import re
from pathlib import Path

import pytest
from testtools.assertions import assert_that
from testtools.matchers import Contains, ContainsAll, Equals

from tests.cli.conftest import Inside, Shell

DATA = bytes(range(256)) * 40
DIGEST = hashlib.sha256(DATA).hexdigest()
LONG = hashlib.sha512(DATA).hexdigest()
OTHER = "0" * 64


@pytest.fixture
def ref(imagebroker: Inside) -> str:
    (imagebroker.folder / "disk.raw").write_bytes(DATA)
    return f"file://{imagebroker.folder}/disk.raw"


@pytest.mark.parametrize(
    ("spelled", "algorithm"),
    [
        (DIGEST, "sha256"),
        (DIGEST.upper(), "sha256"),
        (f" {DIGEST}\n", "sha256"),
        (LONG, "sha512"),
        (hashlib.sha384(DATA).hexdigest(), "sha384"),
        (f"sha256={DIGEST}", "sha256"),
        (f"sha256:{DIGEST}", "sha256"),
        (f"sha-256={DIGEST}", "sha256"),
        (f"SHA256:{DIGEST}", "sha256"),
        (f"sha512={LONG}", "sha512"),
        (f"sha256sum:{DIGEST}", "sha256"),
        (f"sha3-256={hashlib.sha3_256(DATA).hexdigest()}", "sha3_256"),
    ],
)
def test_a_digest_in_any_spelling(
    spelled: str, algorithm: str, ref: str, imagebroker: Inside
) -> None:
    done = imagebroker("download", ref, "x", "--checksum", spelled)
    assert_that(done.status, Equals(0), done.stderr)
    assert_that(done.stderr, Contains(f"verified: {algorithm} of the caller"))
    wrong = spelled.replace(spelled.strip()[-8:], "00000000")
    assert_that(imagebroker("download", ref, "y", "--checksum", wrong).status, Equals(6))


@pytest.mark.parametrize("weak", [hashlib.md5(DATA).hexdigest(), hashlib.sha1(DATA).hexdigest()])
def test_bare_digits_of_a_weak_digest_are_refused_as_before(
    weak: str, ref: str, imagebroker: Inside
) -> None:
    done = imagebroker("download", ref, "x", "--checksum", weak)
    assert_that(done.status, Equals(4))
    assert_that(done.stderr, Contains("can be forged"))


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("SHA256SUMS", f"{OTHER}  other.raw\n{DIGEST}  disk.raw\n"),
        ("disk.raw.sha256", f"{DIGEST}\n"),
        ("CHECKSUM.txt", f"# Fedora\nSHA256 (disk.raw) = {DIGEST}\n"),
        ("a list", f"{DIGEST} *disk.raw\n"),
    ],
)
@pytest.mark.parametrize("path", ["{}", "./{}", "{work}/{}"])
def test_a_local_list(path: str, name: str, text: str, ref: str, imagebroker: Inside) -> None:
    (imagebroker.work / name).write_text(text)
    written = path.format(name, work=imagebroker.work)
    done = imagebroker("download", ref, "x", "--checksum", written)
    assert_that(done.status, Equals(0), done.stderr)
    assert_that(done.stderr, Contains(f"verified: sha256 of {written}"))


def test_a_local_list_works_where_a_config_file_does_not_allow_file_refs(
    ref: str, imagebroker: Inside
) -> None:
    from tests.cli.test_mistakes import web

    (imagebroker.work / "SHA256SUMS").write_text(f"{DIGEST}  disk.raw\n")
    imagebroker.config(
        "[imagebroker]\nenabled_schemes = http\n[backend:http]\nallowed_networks = 127.0.0.1\n"
    )
    with web() as url:
        done = imagebroker("download", url, "x", "--checksum", "SHA256SUMS")
    assert_that(done.status, Equals(0), done.stderr)


def test_a_local_list_without_the_image_or_with_another_digest(
    ref: str, imagebroker: Inside
) -> None:
    (imagebroker.work / "SHA256SUMS").write_text(f"{DIGEST}  other.raw\n{OTHER}  third.raw\n")
    done = imagebroker("download", ref, "x", "--checksum", "SHA256SUMS")
    assert_that(done.status, Equals(6))
    assert_that(done.stderr, ContainsAll(["has no digest for 'disk.raw'", "other.raw"]))
    (imagebroker.work / "SHA256SUMS").write_text(f"{OTHER}  disk.raw\n")
    done = imagebroker("download", ref, "x", "--checksum", "SHA256SUMS")
    assert_that(done.status, Equals(6))
    assert_that(done.stderr, Contains(f"the sha256 of SHA256SUMS is {OTHER}"))
    assert_that((imagebroker.work / "x").exists(), Equals(False))


@pytest.mark.parametrize(
    "text", [f"{DIGEST}  -\n", f"{DIGEST}\n", f"{OTHER}  other\n{DIGEST}  disk.raw\n"]
)
def test_standard_input(text: str, shell: Shell) -> None:
    (shell.work / "disk.raw").write_bytes(DATA)
    ref = f"file://{shell.work}/disk.raw"
    done = shell.run("download", ref, "x", "--checksum", "-", data=text.encode())
    assert_that(done.status, Equals(0), done.stderr)
    assert_that(done.stderr, Contains("verified: sha256 of standard input"))
    wrong = text.replace(DIGEST, "1" * 64).encode()
    assert_that(shell.run("download", ref, "y", "--checksum", "-", data=wrong).status, Equals(6))


def test_a_list_for_an_image_that_is_named(imagebroker: Inside) -> None:
    (imagebroker.work / "data").write_bytes(DATA)
    imagebroker("create", "--file", "data", "--name", "deb12.raw")
    (imagebroker.work / "SHA256SUMS").write_text(f"{OTHER}  x\n{DIGEST}  deb12.raw\n")
    done = imagebroker("download", "deb12.raw", "x", "--checksum", "SHA256SUMS")
    assert_that(done.status, Equals(0), done.stderr)


@pytest.mark.parametrize("missing", ["SHA256SUMS", "./sums", "/not/there.txt", "disk.sha256"])
def test_a_list_that_is_missing(missing: str, ref: str, imagebroker: Inside) -> None:
    done = imagebroker("download", ref, "x", "--checksum", missing)
    assert_that(done.status, Equals(2))
    assert_that(done.stderr, ContainsAll(["No such file", "https://host/SHA256SUMS", "sha256:HEX"]))


@pytest.mark.parametrize("text", ["sha256:123", DIGEST[1:], f"sha265:{DIGEST}", "nonsense", ""])
def test_what_is_no_checksum_says_every_form(text: str, ref: str, imagebroker: Inside) -> None:
    done = imagebroker("download", ref, "x", "--checksum", text)
    assert_that(done.status, Equals(2))
    assert_that(done.stderr, ContainsAll(["[invalid-image-ref]", "https://host/SHA256SUMS"]))


def test_an_image_in_place_of_a_list_is_refused(
    ref: str, imagebroker: Inside, tmp_path: Path
) -> None:
    (imagebroker.work / "image").write_bytes(bytes(2 << 20))
    done = imagebroker("download", ref, "x", "--checksum", "image")
    assert_that((done.status, done.stderr.count("too large")), Equals((2, 1)))


@pytest.mark.parametrize(
    "copied",
    [f"{DIGEST}  disk.raw", f"SHA256 (disk.raw) = {DIGEST}", f"sha512 {LONG}",
     "sha256-" + base64.b64encode(hashlib.sha256(DATA).digest()).decode()],
)  # fmt: skip
def test_the_hint_at_a_copied_line_is_what_to_write(
    copied: str, ref: str, imagebroker: Inside
) -> None:
    done = imagebroker("download", ref, "x", "--checksum", copied, "-f", "json")
    written = re.search(r"(--checksum \S+:[0-9a-f]+)", done.stderr)
    assert written is not None, done.stderr
    assert_that((done.status, "more than a checksum" in done.stderr), Equals((2, True)))
    done = imagebroker("download", ref, "x", *written[1].split())
    assert_that(done.status, Equals(0), done.stderr)


@pytest.mark.parametrize(
    ("content", "reason"),
    [(b"", "is empty"), (b"\n\n", "is empty"), (b"<!DOCTYPE html><p>Sign in</p>\n", "a web page"),
     (bytes(range(256)), "is not text"), (b"nothing\n", "has no digest for 'disk.raw'")],
)  # fmt: skip
def test_what_is_no_list_is_told_from_a_list_without_the_image(
    content: bytes, reason: str, ref: str, imagebroker: Inside
) -> None:
    (imagebroker.work / "SUMS").write_bytes(content)
    done = imagebroker("download", ref, "x", "--checksum", "SUMS")
    assert_that((done.status, reason in done.stderr), Equals((6, True)), done.stderr)
