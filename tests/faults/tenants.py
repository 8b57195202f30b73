"""Two tenants of one service: what the first has fetched must not come to the second.

Every door through which bytes could come that are on this host already, times every means that a
second tenant has who may not read them; and for each door those who may, who must find it open.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import itertools
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from urllib.parse import urlsplit

from oslo_context.context import RequestContext

import imagebroker
from tests.faults.doors import DATA, DOORS, Got, House, Order, cut_web
from tests.faults.places import quiet
from tests.faults.tally import FOREIGN, OTHER, Violation
from tests.servers.openstack import OpenStack
from tests.servers.openstack_files import SHARE
from tests.servers.process import HOST
from tests.servers.tcp import Fault, TcpProxy
from tests.servers.web import File, Web

SHA256, SHA512 = (hashlib.new(name, DATA) for name in ("sha256", "sha512"))
_ETAG = '"strong-and-the-same"'
_PATH = "/vault/image"
#: A list of sums names the file, which lies at a server of the second tenant.
_SUMS = "/SHA256SUMS"


def _member(digest: Any) -> str:
    return f":{base64.b64encode(digest.digest()).decode()}:"


#: What the caller says of the bytes.
NAMED = ("nothing", "checksum", "sha512 checksum", "pin", "sums")
#: What a server of the second tenant claims.
CLAIMS: dict[str, dict[str, str]] = {
    "nothing": {},
    "sha512 field": {"Repr-Digest": f"sha-512={_member(SHA512)}"},
    "sha256 field": {"Repr-Digest": f"sha-256={_member(SHA256)}"},
    "content digest": {"Content-Digest": f"sha-256={_member(SHA256)}"},
    "old digest field": {"Digest": f"SHA-256={_member(SHA256).strip(':')}"},
    "its etag": {"ETag": _ETAG},
    "glance's version": {"ETag": f'"sha512:{SHA512.hexdigest()}"'},
    "everything": {
        "Repr-Digest": f"sha-256={_member(SHA256)}, sha-512={_member(SHA512)}", "ETag": _ETAG,
    },
}  # fmt: skip
#: Servers that the second tenant may name: their own, or the first's without a right to it.
HOSTS = ("own", "own, same path", "unsigned", "wrong signature")
#: What the second tenant is to an image in Glance, or what happened to the image in between.
STATES = (
    "reader", "stranger", "false claim", "deactivated", "deleted", "private again",
    "no longer a member", "forged token", "no token",
)  # fmt: skip
#: Those who may have the bytes.
ENTITLED = ("the same", "a member", "everybody", "the same signature")


@dataclass(frozen=True)
class Point:
    """One try of one tenant at one door."""

    door: str
    first: str
    means: str
    named: str
    claim: str = ""

    def __str__(self) -> str:
        return ", ".join(filter(None, (self.door, self.first, self.means, self.named, self.claim)))

    @property
    def group(self) -> str:
        return f"{self.door}, {'may' if self.means in ENTITLED else 'may not'}"


class Tenants:
    """The campaign."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._stack = contextlib.ExitStack()
        self._names = itertools.count()

    def __enter__(self) -> Self:
        with contextlib.ExitStack() as stack:
            self._openstack = stack.enter_context(OpenStack())
            port = urlsplit(self._openstack.locations_endpoint()).port
            self._glance = stack.enter_context(TcpProxy(HOST, port or 0))
            self._vault, self._theirs = (stack.enter_context(Web()) for _ in "12")
            brokers = (self._broker("cache", ""), self._broker("direct", "file"))
            self._house = House(self._folder, *map(stack.enter_context, brokers))
            self._stack = stack.pop_all()
        self._tokens = {
            user: RequestContext(auth_token=self._openstack.token(user))
            for user in ("red", "blue", "reader")
        }
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stack.close()

    def _broker(self, name: str, direct: str) -> imagebroker.Broker:
        stores = self._openstack.store_dir
        cache = f"cache_dir = {self._folder / 'cache'}" if not direct else ""
        config = self._folder / f"{name}.conf"
        config.write_text(
            "[imagebroker]\nenabled_schemes = glance, http, file\ndefault_backend = glance\n"
            f"direct_url_schemes = {direct}\nretries = 0\nretry_backoff = 0\n{cache}\n"
            f"[backend:glance]\nendpoint = http://{HOST}:{self._glance.port}/\n"
            f"shared_directories = {SHARE['id']}:{stores}:{stores}\n"
            "require_checksum = false\n"
            f"[backend:http]\nallowed_networks = 127.0.0.0/8\n"
            f"[backend:file]\nallowed_paths = {stores}\n"
        )
        return imagebroker.Broker.from_config(config)

    # -- the points -------------------------------------------------------------------------------

    def points(self) -> Iterator[Point]:
        for door, first in itertools.product(DOORS, ("glance", "http")):
            located = DOORS[door].fill == "located"
            if located and first == "http":
                continue
            if not located:
                for host, named in itertools.product(HOSTS, NAMED):
                    for claim in CLAIMS if host.startswith("own") else ("",):
                        yield Point(door, first, host, named, claim)
            if first == "glance":
                for state, named in itertools.product(STATES, NAMED[:3]):
                    yield Point(door, first, state, named)
            for who in ENTITLED[:3] if first == "glance" else ENTITLED[3:]:
                yield Point(door, first, who, "checksum")

    def attempt(self, point: Point) -> list[Violation]:
        house, door = self._house, DOORS[point.door]
        house.reset()
        quiet(self._glance)
        self._glance.fault = Fault()
        first = self._first(point)
        cut = self._cut_glance if point.first == "glance" else self._cut_vault
        with house.filled(door, first, cut):
            self._glance.fault = Fault()
            second = self._second(point, first)
            before = self._settled() if point.means in ENTITLED else 0
            got = house.ask(door, second, follows=point.means in ENTITLED)
            if point.means in ENTITLED:
                return [*self._open(point, got, self._sent() - before)]
            return [*self._shut(got), *self._shut(house.ask(door, second))]

    def _open(self, point: Point, got: Got, sent: int) -> Iterator[Violation]:
        if got.error is not None or got.content != DATA:
            yield Violation(OTHER, f"who may have it got {len(got.content)} bytes: {got.error!r}")
        elif not self._house.was_used(DOORS[point.door], got, sent):
            yield Violation(OTHER, f"the door was shut for one who may: {sent} bytes were sent")

    def _shut(self, got: Got) -> Iterator[Violation]:
        secret = range(1004, len(DATA) - 100_000 - 32, 4096)
        leaked = sum(DATA[start : start + 32] in got.content for start in secret)
        if leaked or got.loaded in (SHA256.hexdigest(), SHA512.hexdigest()):
            yield Violation(
                FOREIGN, "the second tenant got bytes that its own backend did not allow"
            )

    def _sent(self) -> int:
        return self._vault.sent + sum(each.received for each in self._glance.passages)

    def _settled(self) -> int:
        """What was sent when nothing comes any more: the first transfer may stand still, with its
        bytes in the buffers."""
        last, sent = -1, self._sent()
        while sent != last:
            time.sleep(0.2)
            last, sent = sent, self._sent()
        return sent

    # -- the first tenant -------------------------------------------------------------------------

    def _first(self, point: Point) -> Order:
        how = {"checksum": f"sha256:{SHA256.hexdigest()}"}
        if point.first == "http":
            self._vault.files = {_PATH: File(DATA, {"ETag": _ETAG}, frozenset({"first"}))}
            return Order(f"{self._vault.url}{_PATH}?sig=first", None, how)
        shown = {"a member": "shared", "no longer a member": "shared"}
        if point.means in ("everybody", "private again"):
            shown[point.means] = "community"
        visibility = shown.get(point.means, "private")
        image = self._openstack.create_image(DATA, visibility=visibility)
        if visibility == "shared":
            blue = self._openstack.project_ids["blue"]
            self._openstack.call("red", "POST", f"/images/{image}/members", {"member": blue})
            self._openstack.call(
                "blue", "PUT", f"/images/{image}/members/{blue}", {"status": "accepted"}
            )
        return Order(f"glance:{image}", self._tokens["red"], how)

    def _cut_glance(self) -> None:
        quiet(self._glance)
        self._glance.fault = Fault(cut_after=len(DATA) - 40_000)

    def _cut_vault(self) -> None:
        cut_web(self._vault, _PATH)

    # -- the second -------------------------------------------------------------------------------

    def _second(self, point: Point, first: Order) -> Order:
        if point.means in HOSTS:
            ref, context = self._url(point), None
        elif point.means in STATES:
            ref, context = STATE[point.means](self, first)
        else:
            who = "red" if point.means == "the same" else "blue"
            ref, context = first.ref, self._tokens[who] if point.first == "glance" else None
        how: dict[str, Any] = {}
        if point.named == "checksum":
            how["checksum"] = f"sha256:{SHA256.hexdigest()}"
        elif point.named == "sha512 checksum":
            how["checksum"] = f"sha512:{SHA512.hexdigest()}"
        elif point.named == "pin":
            ref += f"#sha256={SHA256.hexdigest()}"
        elif point.named == "sums":
            name = urlsplit(ref).path.rpartition("/")[2]
            sums = f"{SHA256.hexdigest()}  {name}\n".encode()
            self._theirs.files[_SUMS] = File(sums)
            how["checksum"] = f"{self._theirs.url}{_SUMS}"
        return Order(ref, context, how)

    def _url(self, point: Point) -> str:
        """A URL of the second tenant's; what their own server has are zeros of the right number."""
        if not point.means.startswith("own"):
            signature = "" if point.means == "unsigned" else "?sig=guessed"
            self._vault.files.setdefault(_PATH, File(DATA, {"ETag": _ETAG}, frozenset({"first"})))
            return f"{self._vault.url}{_PATH}{signature}"
        path = _PATH if point.means.endswith("same path") else "/mine"
        self._theirs.files = {path: File(bytes(len(DATA)), CLAIMS[point.claim])}
        return f"{self._theirs.url}{path}" + ("?sig=first" if path == _PATH else "")

    def as_user(self, user: str, first: Order) -> tuple[str, Any]:
        return first.ref, self._tokens[user]

    def claimed(self) -> tuple[str, Any]:
        """An image of blue's, at a server of theirs, that Glance records with the first's digest."""
        path = f"/claimed-{next(self._names)}"
        self._theirs.files[path] = File(bytes(len(DATA)))
        image = self._openstack.create_image(None, "blue")
        url = f"{self._openstack.locations_endpoint()}/v2/images/{image}"
        proof = {"os_hash_algo": "sha512", "os_hash_value": SHA512.hexdigest()}
        value = {"url": self._theirs.url + path, "metadata": {}, "validation_data": proof}
        self._openstack.call(
            "blue", "PATCH", url, [{"op": "add", "path": "/locations/-", "value": value}]
        )
        return f"glance:{image}", self._tokens["blue"]

    def changed(
        self, user: str, method: str, path: str, body: Any, first: Order, who: str
    ) -> tuple[str, Any]:
        """The image after somebody has changed it."""
        image = first.ref.partition(":")[2]
        self._openstack.call(user, method, f"/images/{image}{path}", body)
        return self.as_user(who, first)

    def expelled(self, first: Order) -> tuple[str, Any]:
        member = f"/members/{self._openstack.project_ids['blue']}"
        return self.changed("red", "DELETE", member, None, first, "blue")


_PRIVATE = [{"op": "replace", "path": "/visibility", "value": "private"}]
#: By name: the ref and the context of the second tenant.
STATE: dict[str, Callable[[Tenants, Order], tuple[str, Any]]] = {
    "reader": lambda c, first: c.as_user("reader", first),
    "stranger": lambda c, first: c.as_user("blue", first),
    "false claim": lambda c, first: c.claimed(),
    "deactivated": lambda c, first: c.changed(
        "admin", "POST", "/actions/deactivate", None, first, "red"
    ),
    "deleted": lambda c, first: c.changed("red", "DELETE", "", None, first, "red"),
    "private again": lambda c, first: c.changed("red", "PATCH", "", _PRIVATE, first, "blue"),
    "no longer a member": lambda c, first: c.expelled(first),
    "forged token": lambda c, first: (first.ref, RequestContext(auth_token="f" * 32)),
    "no token": lambda c, first: (first.ref, RequestContext()),
}
