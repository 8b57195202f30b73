"""What refs name: pools, namespaces, images and snapshots, whatever signs are in their names."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from imagebroker_rbd.names import Place, can_be_named, new_name, place_of
from testtools.assertions import assert_that
from testtools.matchers import Equals

from imagebroker.exceptions import ImageBrokerError, InvalidImageRef
from imagebroker.model.reference import RefForm, in_form, parse
from imagebroker.plugin import BackendHost, Options

FORM = RefForm(authority=True, path=True)
FSID = "38e8f3e7-9a8b-4ab3-840c-972ad1146a6f"


def place(text: str) -> Place:
    return place_of(in_form(parse(text), FORM))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("rbd://images/disk", Place("images", "disk")),
        ("rbd://images/disk@snap", Place("images", "disk", "snap")),
        ("rbd://images/tenant/disk@snap", Place("images", "disk", "snap", "tenant")),
        ("rbd://im%20ages/d%20%C3%BC@s%40%2Fx", Place("im ages", "d ü", "s@/x")),
        ("rbd://images/disk@a@b/c", Place("images", "disk", "a@b/c")),
        ("rbd:west://images/disk@snap", Place("images", "disk", "snap")),
        (f"rbd://{FSID}/images/disk/snap", Place("images", "disk", "snap", fsid=FSID)),
        (f"rbd://{FSID.upper()}/i%2fx/d/s%40", None),
        (f"rbd://{FSID}/disk", Place(FSID, "disk")),
        (f"rbd://{FSID}/tenant/disk@snap", Place(FSID, "disk", "snap", "tenant")),
    ],
)  # fmt: skip
def test_a_ref_names_a_place(text: str, expected: Place | None) -> None:
    if expected is None:
        with pytest.raises(InvalidImageRef):
            place(text)
        return
    assert_that(place(text), Equals(expected))


@pytest.mark.parametrize(
    "text",
    [
        "rbd://images/a/b/c", "rbd://images/disk@", "rbd://images/@snap", "rbd://im%00ages/disk",
        "rbd://images/disk%00x", "rbd://images/disk@sn%00ap", "rbd://images/a%40b",
        "rbd://images/a%2Fb", "rbd://im%2Fages/disk", "rbd://images/%FF", "rbd://images",
        "rbd://images/disk?x=1", "rbd://images/../x", "rbd://images//x",
        "rbd:3f2504e0-4f89-11d3-9a0c-0305e82c3301",
    ],
)  # fmt: skip
def test_what_names_no_image_is_refused_before_ceph_sees_it(text: str) -> None:
    with pytest.raises(ImageBrokerError):
        place(text)


_names = st.text(
    st.characters(exclude_categories=["Cs"], exclude_characters="/@\0"), min_size=1, max_size=20
).filter(lambda name: name not in (".", ".."))
_snapshots = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=20)


@given(_names, _names, st.one_of(st.none(), _snapshots), st.one_of(st.just(""), _names))
def test_the_ref_of_a_place_names_this_place(
    pool: str, image: str, snapshot: str | None, namespace: str
) -> None:
    made = Place(pool, image, snapshot, namespace)
    if not can_be_named(made):
        return
    host = BackendHost("rbd", Options({}), instance="west")
    assert_that(place(made.uri(host)), Equals(made))


@pytest.mark.parametrize(
    "name", [None, "", ".", "..", "a/b", "a@b", "a\0b", "a\nb", "x" * 201, "imagebroker.upload.1"]
)
def test_a_new_image_has_a_name_that_refs_and_tools_can_write(name: str | None) -> None:
    with pytest.raises(InvalidImageRef) as caught:
        new_name(name)
    assert_that(bool(caught.value.hint), Equals(True))
