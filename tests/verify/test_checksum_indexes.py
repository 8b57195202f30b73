"""Digests in what publishers list their images in: JSON, sections, tables, and odd spellings."""

from __future__ import annotations

import base64
import hashlib
import json
from typing import Any

import pytest
from testtools.assertions import assert_that
from testtools.matchers import Equals

from imagebroker.exceptions import PolicyViolation, VerificationError
from imagebroker.model.reference import parse
from imagebroker.verify.checksum_file import NotListed, find_checksum

NAME = "disk-9.1.qcow2"
DATA, OTHER = b"disk", b"another disk"


def digest(algorithm: str, data: bytes = DATA) -> str:
    return hashlib.new(algorithm, data).hexdigest()


def in_base64(algorithm: str) -> str:
    return base64.b64encode(hashlib.new(algorithm, DATA).digest()).decode()


SHA256, SHA512, MD5 = digest("sha256"), digest("sha512"), digest("md5")
WRONG = digest("sha256", OTHER)


def found(text: str | bytes, file: str = "index", name: str = NAME) -> str:
    data = text.encode() if isinstance(text, str) else text
    checksum = find_checksum(
        data, parse(f"https://host/pub/{name}"), "the file", allow_weak=False,
        file=parse(f"https://host/pub/{file}"),
    )  # fmt: skip
    return f"{checksum.algorithm}:{checksum.digest}"


INDEXES: dict[str, tuple[Any, str]] = {
    "simplestreams": (
        {"products": {"noble": {"versions": {"1": {"items": {
            "disk1.img": {"path": f"server/{NAME}", "sha256": SHA256, "md5": MD5, "size": 4},
            "squashfs": {"path": "server/other", "sha256": WRONG,
                         "combined_squashfs_sha256": digest("sha256", b"x")},
        }}}}}},
        f"sha256:{SHA256}",
    ),
    "a CoreOS stream": (
        {"qcow2.xz": {"disk": {"location": f"https://builds/x/{NAME}", "sha256": SHA256,
                               "signature": f"https://builds/x/{NAME}.sig",
                               "uncompressed-sha256": WRONG}},
         "vmdk": {"disk": {"location": "https://builds/x/other", "sha256": WRONG}}},
        f"sha256:{SHA256}",
    ),
    "Debian's manifest": (
        {"items": [
            {"data": {"ref": f"bookworm/{NAME}"}, "metadata": {"annotations": {
                "cloud.debian.org/digest": "sha512:" + in_base64("sha512").rstrip("=")}}},
            {"data": {"ref": "bookworm/other"}, "metadata": {"annotations": {
                "cloud.debian.org/digest": "sha512:" + "A" * 86}}},
        ]},
        f"sha512:{SHA512}",
    ),
    "assets of a release": (
        {"assets": [{"name": "other", "digest": f"sha256:{WRONG}"},
                    {"name": NAME, "digest": f"sha256:{SHA256}"}]},
        f"sha256:{SHA256}",
    ),
    "an in-toto statement": (
        {"subject": [{"name": "other", "digest": {"sha256": WRONG}},
                     {"name": NAME, "digest": {"sha256": SHA256}}]},
        f"sha256:{SHA256}",
    ),
    "by name": ({"other": f"sha256:{WRONG}", NAME: f"sha256:{SHA256}"}, f"sha256:{SHA256}"),
    "by name, in objects": (
        {"other": {"sha256sum": WRONG}, NAME: {"sha256sum": SHA256, "sha512sum": SHA512}},
        f"sha512:{SHA512}",
    ),
    "PowerShell": (
        [{"Algorithm": "SHA256", "Hash": WRONG.upper(), "Path": "C:\\images\\other"},
         {"Algorithm": "SHA256", "Hash": SHA256.upper(), "Path": f"C:\\images\\{NAME}"}],
        f"sha256:{SHA256}",
    ),
}  # fmt: skip


@pytest.mark.parametrize("indent", [None, 2])
@pytest.mark.parametrize("index", INDEXES)
def test_a_digest_in_json_belongs_to_the_object_that_names_the_image(
    index: str, indent: int | None
) -> None:
    document, right = INDEXES[index]
    assert_that(found(json.dumps(document, indent=indent), "index.json"), Equals(right))


@pytest.mark.parametrize(
    "document",
    [{"name": NAME}, {"name": "other", "sha256": SHA256}, {"name": NAME, "sha256": None}, [NAME],
     {}, []],
)  # fmt: skip
def test_where_it_says_nothing_of_the_image_it_lists_nothing(document: Any) -> None:
    with pytest.raises(NotListed):
        found(json.dumps(document))


def test_a_truncated_digest_is_refused() -> None:
    with pytest.raises(VerificationError):
        found(json.dumps({"name": NAME, "sha256": SHA256[:-1]}))


def test_two_digests_of_one_name_are_refused() -> None:
    twice = [{"name": NAME, "sha256": SHA256}, {"name": NAME, "sha256": WRONG}]
    with pytest.raises(VerificationError, match="2 different sha256"):
        found(json.dumps(twice))


@pytest.mark.parametrize("text", ["[" * 100_000, '{"a":' * 50_000, "{", "[disk]\n", "[1, 2"])
def test_what_only_begins_like_json_is_text(text: str) -> None:
    with pytest.raises(NotListed):
        found(text)


def test_md5_alone_is_refused_in_json_too() -> None:
    with pytest.raises(PolicyViolation):
        found(json.dumps({"name": NAME, "md5": MD5}))


SECTIONS = {
    "virt-builder's index": f"[disk]\nname=A disk\nfile={NAME}\nchecksum[sha512]={SHA512}\n"
    f"size=4\n\n[other]\nfile=other.xz\nchecksum[sha512]={digest('sha512', OTHER)}\n",
    "YAML": f"images:\n- location: https://host/pub/other\n  digest: sha512:{digest('sha512')[::-1]}\n"
    f"- location: https://host/pub/{NAME}\n  digest: sha512:{SHA512}\n",
    "YAML with dashes alone, as Alpine's": f"---\n-\n  file: other\n  sha512: {'0' * 128}\n-\n"
    f"  file: {NAME}\n  sha512: {SHA512}\n",
    "paragraphs": f"Name: {NAME}\nSHA512: {SHA512}\n\nName: other\nSHA512: {'0' * 128}\n",
}


@pytest.mark.parametrize("kind", SECTIONS)
def test_a_digest_without_a_name_belongs_to_the_section_that_names_the_image(kind: str) -> None:
    assert_that(found(SECTIONS[kind]), Equals(f"sha512:{SHA512}"))
    with pytest.raises(VerificationError):
        found(SECTIONS[kind], name="a-third.img")


SPELLINGS = {
    "base64, as Nix and npm write it": (f"sha256-{in_base64('sha256')}\n", f"{NAME}.sha256"),
    "base64 of another length": (f"sha512-{in_base64('sha512')}  {NAME}\n", "sums"),
    "openssl dgst < FILE": (f"(stdin)= {SHA256}\n", f"{NAME}.sha256"),
    "openssl dgst -c": (":".join(SHA256[i : i + 2] for i in range(0, 64, 2)), f"{NAME}.sha256"),
    "UTF-32": (f"{SHA256}  {NAME}\n".encode("utf-32"), "sums"),
    "lines of old Macs": (f"{WRONG}  other\r{SHA256}  {NAME}\r", "sums"),
    "a name in percent-escapes": (f"{SHA256}  {NAME.replace('-', '%2D')}\n", "sums"),
    "hashdeep": (f"%%%% size,md5,sha256,filename\n4,{MD5},{SHA256},/srv/{NAME}\n", "sums"),
    "a table": (f"| {NAME} | `{MD5}` | `{SHA256}` |\n| other | `{MD5}` | `{WRONG}` |\n", "x.md"),
    "7z h": (f"{SHA256}             4  {NAME}\n{SHA256}             4\n", "sums"),
    "NAME:DIGEST": (f"other.exe:{WRONG}\r\n{NAME}:{SHA256}\r\n", "SHA2-256SUMS"),
}


@pytest.mark.parametrize("kind", SPELLINGS)
def test_each_spelling_of_a_tool_is_read(kind: str) -> None:
    text, file = SPELLINGS[kind]
    right = f"sha512:{SHA512}" if "another length" in kind else f"sha256:{SHA256}"
    assert_that(found(text, file), Equals(right))


def test_hex_digits_are_never_taken_for_base64() -> None:
    assert_that(found(f"sha256:{SHA256}  {NAME}\n"), Equals(f"sha256:{SHA256}"))
    assert_that(found(f"sha512={SHA512}\n", f"{NAME}.txt"), Equals(f"sha512:{SHA512}"))
