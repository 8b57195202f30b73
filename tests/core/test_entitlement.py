"""What is the same resource, and what of it a caller may have."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from oslo_context.context import RequestContext
from testtools.assertions import assert_that
from testtools.matchers import Equals, Is

from imagebroker.backends.boundary import Boundary
from imagebroker.config.settings import Settings
from imagebroker.exceptions import Cancelled, NotAuthorized
from imagebroker.model.image import Image
from imagebroker.model.reference import ImageRef
from imagebroker.registry import Registry
from imagebroker.routing import Routes
from imagebroker.transfer.layers.entitlement import (
    Entitlement,
    Resource,
    are_same,
    caller_of,
    names,
)
from imagebroker.transfer.limits import Rules, Watch

URL = "https://host/container/image.qcow2"
SHA = "0" * 64
UUID = "3f2504e0-4f89-11d3-9a0c-0305e82c3301"
RULES = Rules(1 << 40, deadline=60, stall_timeout=10, min_rate=0, retries=0, retry_backoff=0)
#: Two signatures of one object.
SIGNED = {
    "S3": (
        "X-Amz-Algorithm=AWS4-HMAC-SHA256&X-Amz-Credential=a%2F1&X-Amz-Date=1&X-Amz-Signature=1",
        "X-Amz-Algorithm=AWS4-HMAC-SHA256&X-Amz-Credential=a%2F2&X-Amz-Date=2&X-Amz-Signature=2",
    ),
    "S3, as it was": (
        "AWSAccessKeyId=a&Signature=1&Expires=1", "AWSAccessKeyId=a&Signature=2&Expires=2",
    ),
    "GCS": (
        "X-Goog-Date=1&X-Goog-Expires=9&X-Goog-Signature=1",
        "X-Goog-Date=2&X-Goog-Expires=9&X-Goog-Signature=2",
    ),
    "Azure": (
        "sv=2022-11-02&sr=b&sp=r&st=1&se=2&sig=1%3D", "sv=2022-11-02&sr=b&sp=r&st=2&se=3&sig=2%3D",
    ),
    "Swift": ("temp_url_sig=1&temp_url_expires=1", "temp_url_sig=2&temp_url_expires=2"),
    "CloudFront": (
        "Expires=1&Signature=1&Key-Pair-Id=K", "Expires=2&Signature=2&Key-Pair-Id=K",
    ),
    "any": ("sig=A", "sig=B"),
}  # fmt: skip


@pytest.fixture
def settings(tmp_path: Path) -> Callable[..., Settings]:
    def of(config: str = "") -> Settings:
        file = tmp_path / "imagebroker.conf"
        file.write_text(f"[imagebroker]\nenabled_schemes = http, https, file\n{config}\n")
        return Settings.from_file(file)

    return of


def routed(settings: Settings, ref: str) -> tuple[ImageRef, Boundary]:
    return Routes(settings, Registry(settings)).find(ref)


@pytest.fixture
def resource(settings: Callable[..., Settings]) -> Callable[..., Resource]:
    def of(ref: str, config: str = "") -> Resource:
        parsed, backend = routed(settings(config), ref)
        return Resource.of(backend, parsed)

    return of


def entitled(resource: Resource, answer: Image | Exception | None = None) -> Entitlement:
    def probe(left: float, waiting: Callable[[], Any], version: str | None) -> Image:
        if not isinstance(answer, Image):
            raise answer or AssertionError("nobody needed to ask")
        return answer

    return Entitlement(resource, "a ref", probe, Watch(RULES))


@pytest.mark.parametrize("kind", SIGNED)
def test_a_part_file_belongs_to_the_object_whatever_signs_its_url(
    resource: Callable[..., Resource], kind: str
) -> None:
    old, new = (entitled(resource(f"{URL}?{query}")) for query in SIGNED[kind])
    assert_that(new.may_resume(old.noted, None, None, complete=False), Is(True))
    assert_that(old.resource.key == new.resource.key, Is(False))  # of the cache it is another


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (f"{URL}?id=17", f"{URL}?id=18"),
        (f"{URL}?id=17&sig=1", f"{URL}?id=18&sig=1"),
        (f"{URL}?versionId=1&X-Amz-Signature=1", f"{URL}?versionId=2&X-Amz-Signature=1"),
        (f"{URL}?st=17", f"{URL}?st=18"),  # Azure's name, without a signature
        (f"{URL}?token=a", f"{URL}?token=b"),
    ],
)
def test_where_another_query_may_select_another_object_only_the_same_version_proves_that_it_did_not(
    resource: Callable[..., Resource], one: str, other: str
) -> None:
    old, new = entitled(resource(one)), entitled(resource(other))
    for before, now, may in (
        ('"1"', '"1"', True), ('"1"', '"2"', False), (None, None, False), ('"1"', None, False),
    ):  # fmt: skip
        assert_that(new.may_resume(old.noted, before, now, complete=False), Is(may))


@pytest.mark.promise("two-tenants")
@pytest.mark.parametrize(
    "other",
    ["http://host/container/image.qcow2", "https://host:4443/container/image.qcow2",
     "https://evil/container/image.qcow2", "https://host/container/other.qcow2"],
)  # fmt: skip
def test_a_part_file_of_another_server_or_path_is_never_gone_on_with(
    resource: Callable[..., Resource], other: str
) -> None:
    old, new = entitled(resource(URL)), entitled(resource(other))
    assert_that(new.may_resume(old.noted, '"1"', '"1"', complete=False), Is(False))
    assert_that(new.may_resume("", '"1"', '"1"', complete=False), Is(False))  # of an old release


@pytest.mark.promise("two-tenants")
@pytest.mark.parametrize(
    ("before", "now", "digest", "may"),
    [
        ("somebody", "somebody", True, True),
        ("somebody", "somebody", False, False),
        ("somebody", "another", True, False),
        ("somebody", "", True, False),
        ("", "", True, False),  # a service without contexts acts for anybody
    ],
)
def test_what_a_user_left_under_a_digest_is_theirs_and_nobody_elses(
    resource: Callable[..., Resource], before: str, now: str, digest: bool, may: bool
) -> None:
    watch = Watch(RULES)
    answer = Image(ref=URL)
    old = Entitlement(resource(URL), URL, lambda left, waiting, version: answer, watch, before)
    other = resource("https://another.example/copy.qcow2")
    new = Entitlement(other, URL, lambda left, waiting, version: answer, watch, now)
    for complete in (False, True):
        found = new.may_resume(old.noted, None, None, complete=complete, digest=digest)
        assert_that(found, Is(may))
    assert_that(new.may_fit(old.noted, digest=digest), Is(may))


def test_a_user_is_that_of_the_context_or_the_person_at_the_command(
    settings: Callable[..., Settings],
) -> None:
    _, backend = routed(settings(), URL)
    mine = RequestContext(user_id="u", project_id="p")
    others = (RequestContext(user_id="u", project_id="q"), RequestContext(user_id="v",
              project_id="p"))  # fmt: skip
    again = RequestContext(user_id="u", project_id="p")
    assert_that(caller_of(mine, backend), Equals(caller_of(again, backend)))
    assert_that(len({caller_of(each, backend) for each in (mine, *others)}), Equals(3))
    assert_that([caller_of(each, backend) for each in (None, RequestContext())], Equals(["", ""]))
    _, own = routed(Settings.for_person(), URL)
    assert_that(caller_of(None, own), Equals("person"))


@pytest.mark.promise("two-tenants")
def test_a_part_file_without_a_missing_byte_is_used_only_where_the_backend_allows_the_data(
    resource: Callable[..., Resource],
) -> None:
    it = resource(URL)
    for answer, may in ((Image(ref=URL), True), (NotAuthorized("the role reader"), False)):
        assert_that(
            entitled(it, answer).may_resume(entitled(it).noted, None, None, complete=True), Is(may)
        )


def test_the_backend_is_asked_once_and_who_cancels_gets_that_error(
    resource: Callable[..., Resource],
) -> None:
    asked = entitled(resource(URL), NotAuthorized("no"))
    assert_that([asked.ask(), asked.ask()], Equals([None, None]))

    class Cancel:
        def is_set(self) -> bool:
            return True

    def probe(left: float, waiting: Callable[[], Any], version: str | None) -> Image:
        waiting()
        raise AssertionError("it was cancelled")

    with pytest.raises(Cancelled):
        Entitlement(resource(URL), URL, probe, Watch(RULES, cancel=Cancel())).ask()


def test_an_id_of_another_service_is_another_resource(resource: Callable[..., Resource]) -> None:
    first, same, second = (
        resource(f"file:{UUID}", f"[backend:file]\nstore_dir = /srv/{name}\n") for name in "aab"
    )
    assert_that((first == same, first.key == second.key), Equals((True, False)))
    assert_that(
        resource(URL).key, Equals(resource(f"{URL}#sha256={SHA}").key)
    )  # a pin selects nothing


def test_what_a_backend_names_is_a_strong_version_or_a_strong_digest() -> None:
    made = datetime(2026, 1, 2, tzinfo=UTC)
    for image, found in (
        (Image(ref=URL), ()),
        (Image(ref=URL, checksums={"md5": "0" * 32}), ()),
        (Image(ref=URL, checksums={"sha256": "not hex"}, version="1"), ()),
        (Image(ref=URL, version="1"), ("version 1",)),
        (Image(ref=URL, checksums={"sha256": SHA, "md5": "0" * 32}), (f"sha256:{SHA}",)),
        (Image(ref=URL, version="1", created_at=made), ("version 1 of 2026-01-02T00:00:00+00:00",)),
    ):
        assert_that(names(image), Equals(found))


def test_two_are_the_same_where_one_name_agrees_and_no_version_contradicts() -> None:
    digest = f"sha256:{SHA}"
    assert_that(are_same(("version 1", digest), (digest,)), Is(True))
    assert_that(are_same(("version 1",), ("version 1",)), Is(True))
    assert_that(are_same(("version 1", digest), ("version 2", digest)), Is(False))
    assert_that(are_same((), ()), Is(False))
