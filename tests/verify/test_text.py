"""What is text, a web page in particular, and what only looks a little like it."""

from __future__ import annotations

import base64
import hashlib
import random
import string

import pytest
from testtools.assertions import assert_that
from testtools.matchers import Equals, Is

from imagebroker.verify.formats.text import ENOUGH, PAGE, TEXT, kind_of
from tests.verify import specimens
from tests.verify.specimens import ACCEPTED, NEVER

PAGES = {
    "doctype": "<!DOCTYPE html><title>Log in</title>",
    "script": "<script>top.self.location.href='http://10.0.0.1/portal?ip=1'</script>",
    "meta": '<META HTTP-EQUIV="Refresh" CONTENT="0; URL=https://login.example.org/">',
    "prolog": '<?xml version="1.0"?>\n<!DOCTYPE html PUBLIC "x" "y">\n<html></html>',
    "error of S3": '<?xml version="1.0" encoding="UTF-8"?>\n<Error><Code>NoSuchKey</Code></Error>',
    "center": "<center><h1>502 Bad Gateway</h1></center>",
    "paragraph": "<p>You have reached the limit.",
    "svg": '<svg xmlns="http://www.w3.org/2000/svg"/>',
    "comment": "<!-- saved from url -->\n<html>",
    "custom element": "<app-root></app-root>",
    "name space": "<soap:Envelope xmlns:soap='x'>",
    "closing tag": "</div>",
    "php": "<?php echo 1; ?>",
    "asp": "<%@ Page Language='C#' %>",
    "long attribute": f"<a href='{'x' * 5000}'>",
    "behind blanks": " \t\r\n\r\n" * 40 + "<html>",
    "behind a mark": "\ufeff\ufeff <html>",
    "behind what is not seen": "\xa0\x85\b\x7f<html>",
    "in Russian": "<title>Доступ запрещён</title>",
}
TEXTS = {
    "plain": "Access denied. Contact your administrator.\n",
    "one word": "Forbidden",
    "JSON": '{"error":{"code":404,"message":"not-found"}}',
    "JSON list": '["no","image"]',
    "JSON string": '"expired"',
    "script": "#!/bin/sh\necho hello\n",
    "cloud-config": "#cloud-config\nusers: []\n",
    "blanks, then a page": "\n " * ENOUGH + "<html>",
    "comments, then a page": "".join(f"// {n}\n" for n in range(ENOUGH)) + "<html>",
    "checksums": f"{hashlib.sha256().hexdigest()}  disk.img\n",
    "base64": "-----BEGIN CERTIFICATE-----\nMIIB\n",
    "blanks": " \n \n",
    "a statement": 'window.location="/login?from=disk.img";',
    "a call": 'callback({"error":403});',
    "a URL": "https://login.example.org/?next=/disk.img",
    "an escaped page": "&lt;html&gt;",
    "a status": "404",
    "two letters": "OK",
    "an encoded image": base64.b64encode(random.Random(1).randbytes(2000)).decode(),
    "a dumped image": random.Random(1).randbytes(2000).hex(),
    "in Russian": "Доступ запрещён: войдите в систему. " * 3,
    "in Japanese": "アクセスが拒否されました。",
    "with colours": "\x1b[31mnot found\x1b[0m\n",
}
ENCODINGS = ("utf-8", "utf-8-sig", "utf-16", "utf-32", "utf-16-le", "utf-16-be", "utf-32-le",
             "utf-32-be")  # fmt: skip


@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize("name", PAGES)
def test_a_page_is_a_page_in_every_encoding(name: str, encoding: str) -> None:
    page = PAGES[name].encode(encoding)
    assert_that(kind_of(page[:ENOUGH], whole=len(page) <= ENOUGH), Equals(PAGE))


@pytest.mark.parametrize("encoding", ["windows-1251", "koi8-r", "iso-8859-5"])
def test_a_page_is_a_page_in_an_encoding_that_only_it_knows(encoding: str) -> None:
    page = f"<html><title>{'Доступ запрещён ' * 9}</title>".encode(encoding)
    assert_that(kind_of(page, whole=True), Equals(PAGE))


def test_a_page_is_a_page_behind_characters_that_nobody_sees() -> None:
    for before in ("\u200b", "\u200e\u2060", "\x1b\x0e", "\xad"):
        assert_that(kind_of(f"{before}<html>".encode(), whole=False), Equals(PAGE))
    assert_that(kind_of(b"\xa0\xa0<html>", whole=False), Equals(PAGE))


def test_a_page_of_a_mainframe_is_one_too() -> None:
    for page in ("<?xml version='1.0'?>", "<html><body>", "  <!DOCTYPE html>"):
        assert_that(kind_of(page.encode("cp037"), whole=True), Equals(PAGE))


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32"])
@pytest.mark.parametrize("name", TEXTS)
def test_text_is_text(name: str, encoding: str) -> None:
    text = TEXTS[name].encode(encoding)
    assert_that(kind_of(text[:ENOUGH], whole=len(text) <= ENOUGH), Equals(TEXT))


@pytest.mark.parametrize(
    ("encoding", "text"),
    [
        ("windows-1252", "Zugriff verweigert für Gäste – bitte anmelden"),
        ("windows-1251", "Доступ запрещён: войдите в систему"),
        ("shift_jis", "アクセスが拒否されました。 管理者に連絡してください。\n" * 9),
        ("gbk", "访问被拒绝。 请联系管理员。\n" * 20),
    ],
)
def test_text_is_text_in_the_encodings_of_a_country(encoding: str, text: str) -> None:
    data = text.encode(encoding)
    assert_that(kind_of(data[:ENOUGH], whole=len(data) <= ENOUGH), Equals(TEXT))


@pytest.mark.parametrize("length", [1, 2, 5, 100, ENOUGH - 1])
def test_the_beginning_of_a_text_does_not_tell_yet(length: int) -> None:
    text = ("Access denied. " * 100).encode()
    assert_that(kind_of(text[:length], whole=False), Is(None))


def test_a_page_tells_as_soon_as_its_first_tag_is_there() -> None:
    assert_that(kind_of(b"<html>", whole=False), Equals(PAGE))
    assert_that(kind_of(b"\n<!doctype html", whole=False), Equals(PAGE))


@pytest.mark.parametrize("name", [*ACCEPTED, *NEVER])
def test_no_disk_image_is_text(name: str, qemu_img: None) -> None:
    if name == "text":
        return
    data = (ACCEPTED[name][1] if name in ACCEPTED else NEVER[name])()
    assert_that(kind_of(data[:ENOUGH], whole=len(data) <= ENOUGH), Is(None))


@pytest.mark.parametrize(
    "data",
    [
        b"", b"x" * 1000, b"\n" * 600, b"0123456789" * 100, b"\0" * 1000, b"<", b"<<", b"a disk" * 1000, b"a<b>", b"ab==", b"disk-7", b"QFI", b"abc",
        string.ascii_letters.encode() * 20, string.hexdigits.encode() * 9,
        b"\xff\xfe", b"\xef\xbb\xbf", b"\xa5" * 1000, b"A\0", bytes(range(256)), b"<a>\xff\0\1",
        b"text at first\0" + bytes(100), b"\0<html>", b"\x1f\x8b\x08 a log\n", b"7z\xbc\xaf\x27\x1c",
        b"<<< Oracle VM VirtualBox Disk Image >>>\n".ljust(64, b"\0") + b"\x7f\x10\xda\xbe",
    ],
)  # fmt: skip
def test_what_is_none(data: bytes) -> None:
    assert_that(kind_of(data[:ENOUGH], whole=True), Is(None))


def test_what_a_disk_format_claims_is_left_to_it() -> None:
    for data in (b"# Disk DescriptorFile\nversion=1\n", b"#!/bin/sh\n#V2.0 Format\n", b"KDMV x y"):
        assert_that(kind_of(data, whole=True), Is(None))


def test_noise_is_not_taken_for_text() -> None:
    numbers = random.Random(1)
    taken = [
        number
        for number in range(20_000)
        if kind_of(numbers.randbytes(numbers.choice([64, 200, ENOUGH])), whole=True)
    ]
    assert_that(taken, Equals([]))


def test_file_systems_and_boot_sectors_are_not_text() -> None:
    for make in (specimens.fat, specimens.mbr, specimens.gpt, specimens.iso, specimens.kernel):
        assert_that(kind_of(make()[:ENOUGH], whole=False), Is(None))
