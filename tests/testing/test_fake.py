"""`FakeBroker`: what a service's unit tests see is what the real broker does."""

from __future__ import annotations

import inspect
import io
from collections.abc import Iterator
from pathlib import Path

import pytest
from oslo_context.context import RequestContext
from testtools.assertions import assert_that
from testtools.matchers import Contains, Equals, Is

import imagebroker
from imagebroker.exceptions import (
    Conflict,
    Gone,
    ImageNotFound,
    NotAuthorized,
    NotReady,
    SchemeNotEnabled,
    TransferError,
    UploadFailed,
    VerificationError,
)
from imagebroker.model.reference import RefForm
from imagebroker.testing import FakeBroker

DATA = bytes(range(256)) * 1000


@pytest.fixture
def broker() -> Iterator[FakeBroker]:
    with FakeBroker() as fake:
        yield fake


def test_it_has_the_verbs_of_the_broker_and_a_few_of_its_own(broker: FakeBroker) -> None:
    for name, method in vars(imagebroker.Broker).items():
        if not name.startswith("_") and callable(method):
            assert inspect.signature(getattr(FakeBroker, name)) == inspect.signature(method)
    assert isinstance(broker, imagebroker.Broker)


@pytest.mark.parametrize(
    "ref",
    [None, "https://example.org/x?y=1", "http://h:8080/x", "file:///var/x", "scp://me@h/x",
     "file:3f2504e0-4f89-11d3-9a0c-0305e82c3301"],
)  # fmt: skip
def test_images_of_every_kind_of_ref_are_downloaded(
    broker: FakeBroker, ref: str | None, tmp_path: Path
) -> None:
    image = broker.add(DATA, ref, name="cirros")
    done = broker.download(None, image.ref, tmp_path / "image")
    assert_that((tmp_path / "image").read_bytes(), Equals(DATA))
    assert_that(done.image.name, Equals("cirros"))
    assert_that(broker.get(None, image.ref).size, Equals(len(DATA)))


def test_a_bare_id_is_found(broker: FakeBroker) -> None:
    image = broker.add(DATA)
    target = io.BytesIO()
    broker.download(None, str(image.id), target)
    assert_that(target.getvalue(), Equals(DATA))


def test_a_break_is_made_good_and_an_error_of_open_is_told(broker: FakeBroker) -> None:
    image = broker.add(DATA)
    broker.fail(image.ref, TransferError("cut"), after=1000)
    with broker.open(None, image.ref) as reader:
        assert_that(b"".join(reader), Equals(DATA))
    broker.fail(image.ref, NotAuthorized("no", hint="log in"))
    with pytest.raises(NotAuthorized):
        broker.open(None, image.ref)


def test_checks_are_real(broker: FakeBroker, tmp_path: Path) -> None:
    image = broker.add(DATA)
    with pytest.raises(VerificationError):
        broker.download(None, image.ref, tmp_path / "x", checksum=f"sha256:{'0' * 64}")
    assert_that(list(tmp_path.iterdir()), Equals([]))


def test_records_are_created_changed_listed_and_removed(broker: FakeBroker) -> None:
    context = RequestContext(project_id="mine")
    image = broker.create(
        context, {"name": "new", "tags": ["a"], "properties": {"x": "1", "y": "2"}}, iter([DATA])
    )
    assert_that(broker.data(image.ref), Equals(DATA))
    assert_that([each.id for each in broker.get_all(context)], Equals([image.id]))
    for filters in ({"tag": "a"}, {"property-x": "1"}, {"size_min": 1, "size_max": 10**9}):
        assert_that(len(list(broker.get_all(context, filters=filters))), Equals(1))
    assert_that(list(broker.get_all(context, filters={"name": "other"})), Equals([]))
    changed = broker.update(context, image.ref, {"name": None, "properties": {"x": None}})
    assert_that((changed.name, dict(changed.properties)), Equals((None, {"y": "2"})))
    with pytest.raises(NotAuthorized):
        broker.get(RequestContext(project_id="another"), image.ref)
    with pytest.raises(Conflict):
        broker.update(context, image.ref, {}, b"again")
    broker.delete(context, image.ref)
    with pytest.raises(Gone):
        broker.open(context, image.ref)
    assert_that(list(broker.get_all(context)), Equals([]))


def test_a_record_without_data_is_not_ready(broker: FakeBroker) -> None:
    image = broker.add(None)
    with pytest.raises(NotReady):
        broker.open(None, image.ref)
    broker.update(None, image.ref, {}, DATA)
    with broker.open(None, image.ref) as reader:
        assert_that(b"".join(reader), Equals(DATA))


def test_a_source_that_fails_leaves_no_record(broker: FakeBroker) -> None:
    def broken() -> Iterator[bytes]:
        yield DATA
        raise RuntimeError("the disk is gone")

    with pytest.raises(UploadFailed, match="the disk is gone"):
        broker.create(None, {"name": "x"}, broken())
    assert_that(list(broker.get_all(None)), Equals([]))


def test_lists_are_sorted_limited_and_marked(broker: FakeBroker) -> None:
    images = [broker.add(b"x", name=name) for name in "bca"]
    listed = [image.name for image in broker.get_all(None, sort_key="name", sort_dir="asc")]
    assert_that(listed, Equals(["a", "b", "c"]))
    rest = broker.get_all(None, sort_key="name", sort_dir="asc", marker=images[2].id, limit=1)
    assert_that([image.name for image in rest], Equals(["b"]))


def test_what_is_not_there_is_not_found_and_what_is_unknown_not_enabled(
    broker: FakeBroker,
) -> None:
    with pytest.raises(ImageNotFound):
        broker.get(None, "https://example.org/none")
    with pytest.raises(SchemeNotEnabled):
        broker.get(None, "ftp://example.org/none")


def test_further_schemes_and_options_are_given_to_the_constructor() -> None:
    with FakeBroker({"ftp": RefForm(host=True, path=True)}, max_size=10) as broker:
        broker.add(b"x", "ftp://example.org/x")
        assert_that(broker.resolve("ftp://example.org/x").backend, Equals("ftp"))
        broker.add(DATA, "ftp://example.org/large")
        with pytest.raises(imagebroker.PolicyViolation) as caught:
            broker.open(None, "ftp://example.org/large")
        assert_that(str(caught.value), Contains("10"))


def test_two_brokers_share_nothing(broker: FakeBroker) -> None:
    image = broker.add(DATA)
    with FakeBroker() as other, pytest.raises(ImageNotFound):
        other.get(None, image.ref)
    assert_that(broker.get(None, image.ref).deleted, Is(False))
