"""The hint at an identifier that is refused says what to write instead, and that is accepted."""

from __future__ import annotations

import re

import pytest
from testtools.assertions import assert_that
from testtools.matchers import Contains, Equals

from imagebroker.exceptions import InvalidImageRef
from imagebroker.model.correction import FORMS
from imagebroker.model.reference import RefForm, check_form, parse

UUID = "3f2504e0-4f89-11d3-9a0c-0305e82c3301"


def hint(text: str) -> str:
    with pytest.raises(InvalidImageRef) as caught:
        parse(text)
    return caught.value.hint or ""


@pytest.mark.parametrize(
    ("written", "right"),
    [
        ("file:/srv/x.img", "file:///srv/x.img"),
        ("/srv/x.img", "file:///srv/x.img"),
        ("http:/example.org/x.img", "http://example.org/x.img"),
        ("https:example.org/x.img", "https://example.org/x.img"),
        ("example.org/x.img", "https://example.org/x.img"),
        ("example.org:8080/x.img", "https://example.org:8080/x.img"),
        ("core@example.org:/srv/x.img", "scp://core@example.org/srv/x.img"),
        ("build7:/srv/x.img", "scp://build7/srv/x.img"),
        (" http://example.org/x.img", "http://example.org/x.img"),
        ("https://example.org/x.img\r\n", "https://example.org/x.img"),
        ("'http://example.org/x.img'", "http://example.org/x.img"),
        ("<http://example.org/x.img>", "http://example.org/x.img"),
        ("rbd:images/disk", "rbd://images/disk"),
        (UUID.replace("-", ""), UUID),
        (f"glance:{UUID.replace('-', '').upper()}", f"glance:{UUID}"),
        (f"{{{UUID.upper()}}}", UUID),
    ],
)
def test_what_the_hint_gives_is_accepted(written: str, right: str) -> None:
    said = hint(written)
    assert_that(said.rpartition(" ")[2], Equals(right))
    assert_that(parse(right).text, Equals(right))


@pytest.mark.parametrize(
    ("written", "character", "escape"),
    [
        ("http://h/a b.img", " ", "%20"),
        ("http://h/a|b.img", "|", "%7C"),
        ("http://h/x?y=[1]&z=^", "[", "%5B"),
        ("http://h/a\\b.img", "\\", "%5C"),
        ("http://h/100%.img", "%", "%25"),
        ("s3://bucket/größe.img", "ß", "%C3%9F"),
    ],
)
def test_the_hint_names_the_character_and_how_it_is_written(
    written: str, character: str, escape: str
) -> None:
    said = hint(written)
    assert_that(said, Contains(f"{'a blank' if character == ' ' else character} as {escape}"))
    repaired = written
    for shown, code in re.findall(r"(a blank|\S) as ((?:%[0-9A-F]{2})+)", said):
        repaired = repaired.replace(" " if shown == "a blank" else shown, code)
    assert_that(parse(repaired).text, Equals(repaired))


@pytest.mark.parametrize(
    ("written", "said"),
    [
        ("HTTP://example.org/x", "lower case: http://"),
        ("C:\\images\\x.img", "file:///absolute/path"),
        ("./x.img", "file:///absolute/path"),
        ("http://h/a\nb", "control characters"),
        ("http://bücher.example/x", "xn--bcher-kva.example"),
        ("http://faß.example/x", "its DNS name"),
        ("http://[fe80::1%25eth0]/x", "without its zone"),
        ("http://u:p@h/x", "host[:port], without a password or user"),
        ("scp://u:p@h/x", "[user@]host[:port], without a password"),
        ("swift://my images/disk", "write a blank as %20"),
        ("s3://bücket/disk", "write ü as %C3%BC"),
        ("swift://b\udcbd c/disk", "write a blank as %20"),
        ("s3://b\udcbdcket/disk", "write the host in ASCII"),
        ("http://h:0/x", "write the port of the server, or none"),
        ("https://h\\\\x/y", "write it as host[:port]"),
        ("http://h:/x", "colon after the host"),
        ("http://h..example/x", "single dots"),
        ("http://h:70000/x", "port"),
    ],
)
def test_it_says_what_is_wrong(written: str, said: str) -> None:
    assert_that(hint(written), Contains(said))


@pytest.mark.parametrize("written", ["", "deb12", "shelf:pool/x", "magnet:?x", "?", "a" * 9000])
def test_where_nothing_is_likely_it_lists_the_forms(written: str) -> None:
    assert_that(hint(written), Equals(FORMS))


def test_no_secret_of_a_query_is_in_it() -> None:
    said = hint("http:/h/x?X-Amz-Signature=canary")
    assert_that("canary" in said, Equals(False))


@pytest.mark.parametrize("written", ["file://~/x.img", "file://./x.img", "file://../x.img"])
def test_a_file_ref_with_a_path_for_a_host_gets_the_form_of_one(written: str) -> None:
    with pytest.raises(InvalidImageRef) as caught:
        check_form(parse(written), RefForm(path=True))
    assert_that(caught.value.hint, Contains("file:///absolute/path"))


@pytest.mark.parametrize("written", ["oci://debian:12", "oci://debian"])
def test_a_name_as_docker_has_it_gets_a_host_before_it(written: str) -> None:
    with pytest.raises(InvalidImageRef) as caught:
        check_form(parse(written), RefForm(host=True, port=True, path=True))
    assert_that(caught.value.hint, Contains(written.replace("//", "//HOST/")))
