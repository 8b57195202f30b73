"""The stores of a service, whom its images are shared with, and where uploads are to go."""

from __future__ import annotations

from typing import Any

import pytest
from testtools.assertions import assert_that
from testtools.matchers import Contains, Equals

import imagebroker
from imagebroker import BackendError, InvalidImageRef, Member, Store, Target, UnsupportedOperation
from tests.backends.boundary.probe import UUID, RecordingBackend
from tests.conftest import Scripted

CALLS = RecordingBackend.calls
ANSWERS = RecordingBackend.answers
FAST = Store("fast", default=True)


@pytest.mark.promise("C40")
def test_stores_are_handed_on(recording: imagebroker.Broker) -> None:
    ANSWERS["stores"] = [FAST, Store("slow")]
    assert_that(recording.stores(None), Equals((FAST, Store("slow"))))


@pytest.mark.promise("C41")
def test_members_are_handed_on(recording: imagebroker.Broker) -> None:
    ANSWERS["members"] = [Member("blue", "accepted")]
    assert_that(recording.members(None, UUID), Equals((Member("blue", "accepted"),)))


@pytest.mark.promise("C40", "C41")
@pytest.mark.parametrize("answer", [None, ["fast"], [FAST, Member("blue"), 1], 7])
@pytest.mark.parametrize("verb", ["stores", "members"])
def test_anything_else_is_a_bug_of_the_plugin(
    recording: imagebroker.Broker, verb: str, answer: Any
) -> None:
    ANSWERS[verb] = answer
    with pytest.raises(BackendError) as caught:
        recording.stores(None) if verb == "stores" else recording.members(None, UUID)
    assert_that(str(caught.value), Contains("imagebroker-recording"))


@pytest.mark.promise("C40")
def test_an_upload_says_which_store_it_is_for(recording: imagebroker.Broker) -> None:
    def stored(context: Any, ref: Any, changes: Any, data: Any, purge_props: bool) -> Any:
        list(data)
        return imagebroker.Image(ref=f"recording:{UUID}")

    ANSWERS["update"] = stored
    target = Target("slow", base_image=UUID)
    recording.update(None, UUID, {}, b"bytes", target=target)
    recording.update(None, UUID, {}, b"bytes")
    assert_that([call[4].target for call in CALLS[-2:]], Equals([target, Target()]))


@pytest.mark.promise("C40")
def test_without_stores_none_can_be_named(scripted: Scripted) -> None:
    ref, script = scripted.image(b"bytes")
    with pytest.raises(UnsupportedOperation):
        scripted.broker.update(None, ref, {}, b"bytes", target=Target("slow"))
    assert_that(script.opened, Equals(0))


@pytest.mark.parametrize("name", ["slow\r\nX-Evil: 1", "lentø", "\x00"])
def test_a_store_is_named_by_printable_text(recording: imagebroker.Broker, name: str) -> None:
    with pytest.raises(InvalidImageRef):
        recording.update(None, UUID, {}, b"bytes", target=Target(name))
    assert_that(CALLS, Equals([]))
