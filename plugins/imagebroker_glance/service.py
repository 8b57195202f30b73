"""What Glance says of its stores, and of those who an image is shared with."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from imagebroker.plugin import ImageNotFound, Member, Store, peer
from imagebroker_glance.client import GlanceApi, Server
from imagebroker_glance.identity import Identity
from imagebroker_glance.urls import origin


def stores(api: GlanceApi, identity: Identity) -> list[Store]:
    """:raises ImageNotFound: this Glance has only one, which it does not show."""

    def call(server: Server) -> tuple[Any, str]:
        return server.client.http_client.get("/v2/info/stores")[1], server.url

    try:
        answer, url = api.ask(identity, call, what="the stores", reads=True)
    except ImageNotFound as error:
        raise ImageNotFound(
            "the image service does not have several stores",
            hint="set enabled_backends in its configuration, or name no store",
        ) from error
    who = origin(url)
    return [
        Store(
            peer.text(each.get("id"), "id of a store", who) or "",
            peer.text(each.get("description"), "description of a store", who),
            default=_yes(each.get("default")),
            read_only=_yes(each.get("read-only")),
        )
        for each in _entries(answer, "stores", who)
    ]


def members(api: GlanceApi, identity: Identity, image_id: str) -> list[Member]:
    def call(server: Server) -> tuple[Any, str]:
        return server.lists.http_client.get(f"/v2/images/{image_id}/members")[1], server.url

    answer, url = api.ask(identity, call, what=f"members of image {image_id}", reads=True)
    who = origin(url)
    return [
        Member(
            peer.text(each.get("member_id"), "member_id", who) or "",
            peer.text(each.get("status"), "status of a member", who),
            created_at=peer.moment(each.get("created_at")),
            updated_at=peer.moment(each.get("updated_at")),
        )
        for each in _entries(answer, "members", who)
    ]


def _entries(answer: Any, name: str, who: str) -> Iterator[Mapping[str, Any]]:
    listed = answer.get(name) if isinstance(answer, Mapping) else None
    if not isinstance(listed, list):
        peer.malformed(who, f"the list of {name} is no list")
    for each in listed:
        if not isinstance(each, Mapping):
            peer.malformed(who, f"the list of {name} has {type(each).__name__} in it")
        yield each


def _yes(value: object) -> bool:
    """Glance writes these as text."""
    return value is True or str(value).lower() == "true"
