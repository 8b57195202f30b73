"""Who may see and change which image."""

from __future__ import annotations

from typing import Any

import pytest
from testtools.assertions import assert_that
from testtools.matchers import Equals, Is

from imagebroker.exceptions import ImageNotFound, NotAuthorized
from tests.plugins.store.store import ADMIN, ALICE, BOB, ID, NOBODY, Store, names


@pytest.fixture
def peopled(store: Store) -> Store:
    """Images named by their visibility, each of alice's; bob is a member of two."""
    for visibility in ("public", "community", "shared", "private"):
        context = ADMIN if visibility == "public" else ALICE
        store.create(context, name=visibility, visibility=visibility, owner="alice")
    store.create(ALICE, name="for bob", members=("bob", "carol"))
    store.create(ALICE, name="private with member", visibility="private", members=("bob",))
    store.create(None, name="nobody's")
    return store


ALL = {"public", "community", "shared", "private", "for bob", "private with member", "nobody's"}


@pytest.mark.parametrize(
    ("context", "seen"),
    [
        (None, ALL),
        (ADMIN, ALL),
        (ALICE, ALL - {"nobody's"}),
        (BOB, {"public", "community", "for bob"}),
        (NOBODY, {"public", "community"}),
    ],
)
def test_callers_see_what_is_public_theirs_or_shared_with_them(
    peopled: Store, context: Any, seen: set[str]
) -> None:
    for image in peopled.list():
        if image.name in seen:
            assert_that(peopled.get(str(image.id), context).id, Equals(image.id))
            assert_that(peopled.read(str(image.id), context), Equals(b"data"))
        else:
            with pytest.raises(ImageNotFound, match="no such image"):
                peopled.read(str(image.id), context)
    own = seen if context not in (BOB, NOBODY) else seen - {"community"}
    assert_that(names(peopled.list(context)), Equals(own))
    community = peopled.list(context, filters={"visibility": "community"})
    assert_that(names(community), Equals({"community"}))


def test_what_may_not_be_seen_looks_like_what_is_not_there(peopled: Store) -> None:
    (private,) = peopled.ids(name="private")
    with pytest.raises(ImageNotFound) as hidden:
        peopled.get(private, BOB)
    with pytest.raises(ImageNotFound) as absent:
        peopled.get(ID, BOB)
    assert_that(str(hidden.value).replace(private, ID), Equals(str(absent.value)))
    assert_that((type(hidden.value), hidden.value.hint), Equals((ImageNotFound, absent.value.hint)))
    for call in (peopled.delete, peopled.update):
        with pytest.raises(ImageNotFound):
            call(private, BOB)


@pytest.mark.parametrize("name", ["public", "community", "for bob"])
def test_only_owner_and_admin_change_an_image(peopled: Store, name: str) -> None:
    (image_id,) = peopled.ids(name=name, visibility=["public", "community", "shared"])
    for context in (BOB, NOBODY):
        if context is NOBODY and name == "for bob":
            continue
        for change in (
            lambda c: peopled.update(image_id, c, name="x"),
            lambda c: peopled.update(image_id, c, members=["bob", "dave"]),
            lambda c: peopled.delete(image_id, c),
        ):
            with pytest.raises(NotAuthorized):
                change(context)
    assert_that(peopled.update(image_id, ALICE, min_ram=1).min_ram, Equals(1))
    assert_that(peopled.update(image_id, ADMIN, min_ram=2).min_ram, Equals(2))


def test_what_belongs_to_nobody_does_not_belong_to_callers_without_a_project(
    store: Store,
) -> None:
    store.create(None, id=ID, visibility="public")
    with pytest.raises(NotAuthorized):
        store.delete(ID, NOBODY)
    store.delete(ID, ADMIN)


def test_with_whom_an_image_is_shared_is_its_owners_business(peopled: Store) -> None:
    (image_id,) = peopled.ids(name="for bob")
    assert_that(peopled.get(image_id, ALICE).members, Equals(("bob", "carol")))
    assert_that(peopled.get(image_id, BOB).members, Equals(("bob",)))
    assert_that(peopled.list(BOB, filters={"name": "for bob"})[0].members, Equals(("bob",)))
    assert_that(peopled.ids(BOB, members="carol"), Equals(set()))
    assert_that(peopled.ids(BOB, members="bob"), Equals({image_id}))
    assert_that(peopled.ids(ALICE, members="carol"), Equals({image_id}))


def test_only_an_admin_makes_an_image_public(store: Store) -> None:
    with pytest.raises(NotAuthorized):
        store.create(ALICE, visibility="public")
    image = store.create(ALICE)
    with pytest.raises(NotAuthorized):
        store.update(str(image.id), ALICE, visibility="public")
    store.update(str(image.id), ALICE, visibility="community")
    store.update(str(image.id), ADMIN, visibility="public")
    assert_that(store.update(str(image.id), ALICE, name="x").visibility, Equals("public"))
    assert_that(store.update(str(image.id), ALICE, visibility=None).visibility, Equals("shared"))


def test_only_an_admin_gives_an_image_another_owner(store: Store) -> None:
    with pytest.raises(NotAuthorized):
        store.create(ALICE, owner="bob")
    assert_that(store.create(ALICE, owner="alice").owner, Equals("alice"))
    image = store.create(ADMIN, owner="alice")
    assert_that(image.owner, Equals("alice"))
    with pytest.raises(NotAuthorized):
        store.update(str(image.id), ALICE, owner="bob")
    assert_that(store.update(str(image.id), None, owner="bob").owner, Equals("bob"))
    assert_that(store.create(None).owner, Is(None))
