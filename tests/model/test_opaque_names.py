"""Refs whose authority is no host but an opaque name: a bucket, a container, a pool."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from testtools.assertions import assert_that
from testtools.matchers import Contains, Equals, Is, MatchesStructure

from imagebroker.exceptions import InvalidImageRef, PolicyViolation
from imagebroker.model.reference import RefForm, below, in_form, parse, with_opaque_authority
from imagebroker.plugin import BackendHost, Options

BUCKETS = RefForm(authority=True, path=True, query=True, opaque_path=True)
POOLS = RefForm(authority=True, path=True)
REGISTRIES = RefForm(host=True, port=True, path=True, instance=True, opaque_path=True)

pytestmark = pytest.mark.promise("C5")


@pytest.mark.parametrize(
    ("text", "authority", "key"),
    [
        ("s3://bucket/key", "bucket", "key"),
        ("s3://backup.2024/x", "backup.2024", "x"),
        ("s3://metadata/latest/meta-data", "metadata", "latest/meta-data"),
        ("s3://169.254.169.254/x", "169.254.169.254", "x"),
        ("s3://Images/A/b", "Images", "A/b"),
        ("s3://bucket/a//b", "bucket", "a//b"),
        ("s3://bucket//a", "bucket", "/a"),
        ("s3://bucket/a/", "bucket", "a/"),
        ("s3://bucket/a%20b%2Bc+d", "bucket", "a b+c+d"),
        ("s3://a..b/x", "a..b", "x"),
        ("s3://-b-/x", "-b-", "x"),
        ("swift://my%20images/k%C3%A9", "my images", "ké"),
        ("swift://caf%C3%A9/x", "café", "x"),
    ],
)
def test_the_name_and_the_key_stay_as_they_are(text: str, authority: str, key: str) -> None:
    ref = in_form(parse(text), BUCKETS)
    assert_that(
        ref, MatchesStructure.byEquality(authority=authority, key=key, host=None, text=text)
    )


def test_an_instance_stands_where_it_does_for_ids() -> None:
    ref = in_form(parse("s3:west://bucket/key?versionId=7"), BUCKETS)
    expected = {"scheme": "s3", "instance": "west", "authority": "bucket", "key": "key"}
    assert_that(ref, MatchesStructure.byEquality(query="versionId=7", **expected))
    ref = in_form(parse("oci:west://registry:5000/repo/x:tag@sha256:" + "a" * 64), REGISTRIES)
    assert_that(ref, MatchesStructure.byEquality(instance="west", host="registry", port=5000))


@pytest.mark.parametrize(
    "text",
    [
        "s3://bucket", "s3://bucket/", "s3:///key", "s3:west:///key", "s3://me@bucket/key",
        "s3://bucket:81/key", "s3://bu%ffcket/key", "s3://bucket/%ff", "s3:a b://bucket/key",
        "s3://[::1]/key", "s3::://bucket/key", "s3:-x://bucket/key", "http:west://host/x",
        "scp:west://host/x",
    ],
)  # fmt: skip
def test_what_is_no_name_or_no_key_is_refused(text: str) -> None:
    with pytest.raises(InvalidImageRef):
        in_form(parse(text), BUCKETS)


@pytest.mark.parametrize(
    "text", ["s3://bucket/a/../b", "s3://bucket/%2e%2e/b", "s3://b/./x", "s3://../x"]
)
def test_a_key_that_an_http_client_would_change_is_refused(text: str) -> None:
    with pytest.raises(PolicyViolation):
        in_form(parse(text), BUCKETS)


def test_a_pool_has_images_of_one_name_each() -> None:
    for text in ("rbd://pool/image@snap", "rbd://d4b2/pool/image/snap"):
        assert_that(in_form(parse(text), POOLS).key, Equals(text.split("/", 3)[3]))
    with pytest.raises(PolicyViolation):
        in_form(parse("rbd://pool/a//b"), POOLS)


@pytest.mark.parametrize("text", ["line:west://host/x", "line://ho%20st/x", "line://a..b/x"])
def test_a_backend_with_hosts_refuses_names_and_instances(text: str) -> None:
    with pytest.raises(InvalidImageRef):
        in_form(parse(text), RefForm(host=True, port=True, path=True, opaque_path=True))


@pytest.mark.parametrize("scheme", ["http", "https", "scp"])
def test_for_schemes_of_hosts_the_grammar_refuses_names_at_once(scheme: str) -> None:
    for authority in ("ho%20st", "a..b", "host!"):
        with pytest.raises(InvalidImageRef):
            parse(f"{scheme}://{authority}/x")


def test_a_prefix_is_compared_with_names_exactly() -> None:
    ref = with_opaque_authority(parse("s3://Images/linux/x"), BUCKETS)
    assert_that(below(ref, "s3://Images/linux/"), Equals("x"))
    assert_that(below(ref, "s3://images/linux/"), Is(None))
    named = with_opaque_authority(parse("s3:west://Images/linux/x"), BUCKETS)
    assert_that(below(named, "s3://Images/linux/"), Is(None))


_names = st.text(
    st.characters(exclude_categories=["Cs", "Cc"], exclude_characters="/"), min_size=1, max_size=30
).filter(lambda name: name not in (".", ".."))
_keys = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=30).filter(
    lambda key: not {".", ".."} & set(key.split("/"))
)


@given(authority=_names, key=_keys, instance=st.sampled_from([None, "west"]))
def test_what_an_instance_hands_out_is_read_back_as_it_was(
    authority: str, key: str, instance: str | None
) -> None:
    host = BackendHost("s3", Options({}), instance)
    ref = in_form(parse(host.uri(authority, key)), BUCKETS)
    assert_that(ref, MatchesStructure.byEquality(authority=authority, key=key, instance=instance))


def test_a_mistake_is_explained() -> None:
    with pytest.raises(InvalidImageRef) as caught:
        in_form(parse("s3://bucket"), BUCKETS)
    assert_that(str(caught.value), Contains("has no path"))
    with pytest.raises(InvalidImageRef) as caught:
        in_form(parse("s3://bucket/"), BUCKETS)
    assert_that(caught.value.hint, Contains("s3://NAME/KEY"))


@pytest.mark.parametrize("prefix", ["http://[::1]:9292/", "https://user@host:1/x/", "scp://h:2/d/"])
def test_an_endpoint_of_another_scheme_is_just_another_place(prefix: str) -> None:
    ref = in_form(parse("s3://images/x"), RefForm(authority=True, path=True, opaque_path=True))
    assert_that(below(ref, prefix), Is(None))
