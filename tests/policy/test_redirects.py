"""Where a `Location` leads: every form of RFC 3986, and what everybody repairs."""

from __future__ import annotations

import re

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from testtools.assertions import assert_that
from testtools.matchers import Equals, HasLength, MatchesRegex

from imagebroker.exceptions import PolicyViolation
from imagebroker.model.reference import parse
from imagebroker.policy.addresses import Policy, redirected
from imagebroker.policy.redirects import resolved

BASE = "http://a/b/c/d;p?q"

#: RFC 3986, 5.4.1 and 5.4.2, without the fragment; "g:h" and "http:g" have no host.
EXAMPLES = {
    "g": "http://a/b/c/g",
    "./g": "http://a/b/c/g",
    "g/": "http://a/b/c/g/",
    "/g": "http://a/g",
    "//g": "http://g",
    "?y": "http://a/b/c/d;p?y",
    "g?y": "http://a/b/c/g?y",
    "#s": "http://a/b/c/d;p?q",
    "g#s": "http://a/b/c/g",
    "g?y#s": "http://a/b/c/g?y",
    ";x": "http://a/b/c/;x",
    "g;x": "http://a/b/c/g;x",
    "g;x?y#s": "http://a/b/c/g;x?y",
    "": "http://a/b/c/d;p?q",
    ".": "http://a/b/c/",
    "./": "http://a/b/c/",
    "..": "http://a/b/",
    "../": "http://a/b/",
    "../g": "http://a/b/g",
    "../..": "http://a/",
    "../../": "http://a/",
    "../../g": "http://a/g",
    "../../../g": "http://a/g",
    "../../../../g": "http://a/g",
    "/./g": "http://a/g",
    "/../g": "http://a/g",
    "g.": "http://a/b/c/g.",
    ".g": "http://a/b/c/.g",
    "g..": "http://a/b/c/g..",
    "..g": "http://a/b/c/..g",
    "./../g": "http://a/b/g",
    "./g/.": "http://a/b/c/g/",
    "g/./h": "http://a/b/c/g/h",
    "g/../h": "http://a/b/c/h",
    "g;x=1/./y": "http://a/b/c/g;x=1/y",
    "g;x=1/../y": "http://a/b/c/y",
    "g?y/./x": "http://a/b/c/g?y/./x",
    "g?y/../x": "http://a/b/c/g?y/../x",
    "g#s/./x": "http://a/b/c/g",
    "g#s/../x": "http://a/b/c/g",
}


@pytest.mark.promise("security-13")
@pytest.mark.parametrize(("location", "target"), EXAMPLES.items())
def test_the_examples_of_rfc_3986_lead_where_it_says(location: str, target: str) -> None:
    assert_that(resolved(BASE, location), Equals(target))


@pytest.mark.parametrize(
    ("location", "target"),
    [
        ("//cdn.example.org:8443/x.img", "https://cdn.example.org:8443/x.img"),
        ("//[2001:4860::1]/x", "https://[2001:4860::1]/x"),
        ("HTTPS://CDN.example.org/X.img", "https://CDN.example.org/X.img"),
        ("/ok?from=https://origin.example.org/x", "https://h.org/ok?from=https://origin.example.org/x"),
        ("/fetch/https://origin.example.org/x", "https://h.org/fetch/https://origin.example.org/x"),
        ("get?url=http://o.org//x", "https://h.org/d/get?url=http://o.org//x"),
        ("?id=7", "https://h.org/d/a.img?id=7"),
        ("../pool/b.img", "https://h.org/pool/b.img"),
        ("https://m.org", "https://m.org"),
        ("https://m.org?id=7", "https://m.org?id=7"),
        ("https://m.org#top", "https://m.org"),
        ("https://m.org:/x", "https://m.org/x"),
        ("https://m.org:00443/x", "https://m.org:443/x"),
        ("https://m.org/a/../b", "https://m.org/b"),
    ],
)  # fmt: skip
def test_every_valid_form_is_followed(location: str, target: str) -> None:
    found = redirected("https://h.org/d/a.img?k=1", location, Policy())
    assert_that(found, Equals(target))


@pytest.mark.promise("security-13")
@pytest.mark.parametrize(
    ("location", "target"),
    [
        ("/ok?name=my image.qcow2", "/ok?name=my%20image.qcow2"),
        ("/my image.qcow2 ", "/my%20image.qcow2"),
        ("/ok?x[]=1|2", "/ok?x%5B%5D=1%7C2"),
        ("/a\"b'<c>^`{d}", "/a%22b'%3Cc%3E%5E%60%7Bd%7D"),
        ("/Ubuntu%20caf\xc3\xa9.img", "/Ubuntu%20caf%C3%A9.img"),  # UTF-8 on the wire
        ("/caf\xe9.img", "/caf%E9.img"),  # latin-1 on the wire
        ("/caf\u0113.img", "/caf%C4%93.img"),
        ("/already%20escaped%5B", "/already%20escaped%5B"),
        ("/100%", "/100%25"),
        ("/50%off?p=%zz", "/50%25off?p=%25zz"),
        ("/q?dir=C:\\images", "/q?dir=C:%5Cimages"),
    ],
)
def test_what_must_be_escaped_is_escaped_once(location: str, target: str) -> None:
    found = redirected("https://h.org/x", location, Policy())
    assert_that(found, Equals(f"https://h.org{target}"))
    assert_that(redirected("https://h.org/x", found, Policy()), Equals(found))


@pytest.mark.promise("security-13")
@pytest.mark.parametrize(
    "location",
    [
        "http://h.org/x",
        "HTTP://h.org/x",
        "file:///etc/passwd",
        "FILE:///etc/passwd",
        "ftp://h.org/x",
        "javascript:1",
        "https:x",
        "https:/x",
        "https:///x",
        "//",
        "//u@m.org/x",
        "//u:p@m.org/x",
        "https://m.org@n.org@o.org/",
        "\\\\m.org\\x",
        "/\\m.org/x",
        "https:\\\\m.org\\x",
        "https://m.org\\@n.org/",
        "/x\r\nX: y",
        "/x\ty",
        "/x\0",
        "//m org/x",
        "//m[]/x",
        "//m\xe9.org/x",
        "//%6d.org/x",
        "//m.org:0/x",
        "//m.org:99999/x",
        "//m.org:+80/x",
        "//m.org:22/x",
        "//127.0.0.1/x",
        "//169.254.169.254/latest/",
        "//[::ffff:10.0.0.1]/x",
        "//2130706433/",
        "/" + "a" * 10_000,
    ],
)
def test_no_form_gets_past_the_policy(location: str) -> None:
    with pytest.raises(PolicyViolation) as caught:
        redirected("https://h.org/d/x", location, Policy())
    assert_that(str(caught.value), MatchesRegex(r"[ -~…\xa0-\xff]{1,1024}\Z"))


@pytest.mark.promise("security-13")
@given(st.text(alphabet=st.characters(max_codepoint=0xFF), max_size=40) | st.text(max_size=40))
@example("//h\\x")
@example("/.//evil.org/x")
@example("..//evil.org")
@example("x/../..//evil.org")
def test_a_location_without_an_authority_of_its_own_stays_at_its_server(location: str) -> None:
    try:
        found = redirected("https://h.org/d/x", location, Policy())
    except PolicyViolation:
        return
    after = parse(found)
    assert_that(found.split("#"), HasLength(1))
    if not re.match("[A-Za-z][A-Za-z0-9+.-]*:|//", location.strip(" ")):
        assert_that((after.scheme, after.host), Equals(("https", "h.org")))
