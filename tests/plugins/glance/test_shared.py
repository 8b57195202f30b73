"""Images that lie on a file system which this host shares with Glance."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from imagebroker_glance.shared import SharedDirectories
from oslo_context.context import RequestContext
from testtools.assertions import assert_that
from testtools.matchers import Contains, Equals, Is, StartsWith

import imagebroker
from imagebroker.exceptions import ConfigError
from imagebroker.plugin import Location
from tests.plugins.glance_stub import DATA, ID, OneImage, Stub, caller
from tests.servers.openstack import OpenStack
from tests.servers.openstack_files import SHARE

MakeBroker = Callable[[str], imagebroker.Broker]
THEIRS = "/srv/glance"


def config(endpoint: str, shared: str, allowed: Path, options: str = "", core: str = "") -> str:
    return (
        "[imagebroker]\nenabled_schemes = glance, file\ndefault_backend = glance\n"
        f"direct_url_schemes = file\nretry_backoff = 0\n{core}\n"
        f"[backend:glance]\nendpoint = {endpoint.rstrip('/')}/\nshared_directories = {shared}\n"
        f"{options}\n[backend:file]\nallowed_paths = {allowed}\n"
    )


# -- the real Glance -------------------------------------------------------------------------------


def of(openstack: OpenStack, user: str) -> RequestContext:
    return RequestContext(auth_token=openstack.token(user))


@pytest.mark.promise("shared-file-system")
def test_an_image_on_a_shared_file_system_is_read_as_a_local_file(
    openstack: OpenStack, make_broker: MakeBroker, tmp_path: Path
) -> None:
    image_id = openstack.create_image(DATA)
    mount = tmp_path / "mount"
    mount.mkdir()
    os.link(openstack.stored_file(image_id), mount / image_id)
    endpoint = openstack.locations_endpoint()
    shared = f"{SHARE['id']}:{openstack.store_dir}:{mount}"
    broker = make_broker(config(endpoint, shared, mount))
    context = of(openstack, "red")
    done = broker.download(context, image_id, tmp_path / "image")
    assert_that((tmp_path / "image").read_bytes() == DATA, Is(True))
    assert_that(done.source, Equals(f"file://{mount}/{image_id}"))
    found = broker.get(context, image_id, include_locations=True).locations or ()
    assert_that([each.url for each in found], Equals([
        f"file://{mount}/{image_id}", f"file://{openstack.stored_file(image_id)}"]))  # fmt: skip

    os.unlink(mount / image_id)
    done = broker.download(context, image_id, tmp_path / "image")
    assert_that(done.source, Equals(f"glance:{image_id}"))

    (mount / image_id).write_bytes(DATA[:-1] + b"!")  # a stale copy of the same size
    done = broker.download(context, image_id, tmp_path / "image")
    assert_that(done.source, Equals(f"glance:{image_id}"))
    assert_that((tmp_path / "image").read_bytes() == DATA, Is(True))


def test_without_an_entry_for_its_id_glance_is_asked(
    openstack: OpenStack, make_broker: MakeBroker, tmp_path: Path
) -> None:
    image_id = openstack.create_image(DATA)
    shared = f"other:{openstack.store_dir}:{openstack.store_dir}"
    broker = make_broker(config(openstack.locations_endpoint(), shared, tmp_path))
    done = broker.download(of(openstack, "red"), image_id, tmp_path / "image")
    assert_that(done.source, Equals(f"glance:{image_id}"))


# -- a server that lies ----------------------------------------------------------------------------


def whole(stub: Stub) -> int:
    """Requests for all of the data, not for the one byte that shows whether it may be read."""
    asked = [each for each in stub.requests if each.path.endswith("/file")]
    return sum("range" not in each.headers for each in asked)


@pytest.fixture
def secret(tmp_path: Path) -> Path:
    """A file of this host that is exactly the image, outside of what is shared."""
    (tmp_path / "secret").write_bytes(DATA)
    (tmp_path / "mount").mkdir()
    (tmp_path / "mount" / "link").symlink_to(tmp_path / "secret")
    (tmp_path / "mount" / "good").write_bytes(DATA)
    return tmp_path / "secret"


@pytest.mark.promise("shared-file-system")
@pytest.mark.parametrize(
    ("url", "metadata"),
    [
        (f"file://{THEIRS}/good", {}),
        (f"file://{THEIRS}/good", {"id": "other"}),
        (f"file://{THEIRS}/good", {"id": ["share"]}),
        (f"file://{THEIRS}/good", {"id": 7, "mountpoint": "/"}),
        (f"file://{THEIRS}/../secret", {"id": "share"}),
        (f"file://{THEIRS}/%2e%2e/secret", {"id": "share"}),
        (f"file://{THEIRS}//good", {"id": "share"}),
        (f"file://{THEIRS}/link", {"id": "share"}),
        (f"file://{THEIRS}x/good", {"id": "share"}),
        (f"file://{THEIRS}", {"id": "share"}),
        (f"file://host{THEIRS}/good", {"id": "share"}),
        ("file:///good", {"id": "share", "mountpoint": "/"}),
        (f"file://{THEIRS}/good%00", {"id": "share"}),
        (f"file://{THEIRS}/good?x", {"id": "share"}),
        (f"rbd://{THEIRS}/good", {"id": "share"}),
        ("file://[", {"id": "share"}),
    ],
)  # fmt: skip
def test_what_a_server_says_about_files_here_is_not_believed(
    make_broker: MakeBroker, tmp_path: Path, secret: Path, url: str, metadata: dict[str, Any]
) -> None:
    image = OneImage(locations=[{"url": url, "metadata": metadata}])
    with Stub(image) as stub:
        mount = tmp_path / "mount"
        broker = make_broker(config(stub.endpoint, f"share:{THEIRS}:{mount}", mount))
        done = broker.download(caller(), ID, tmp_path / "image")
    assert_that(done.source, Equals(f"glance:{ID}"))
    assert_that(whole(stub), Equals(1))


@pytest.mark.promise("shared-file-system")
def test_the_mountpoint_of_the_metadata_counts_for_nothing(
    make_broker: MakeBroker, tmp_path: Path, secret: Path
) -> None:
    metadata = {"id": "share", "mountpoint": str(tmp_path), "share_location": "file:///"}
    image = OneImage(locations=[{"url": f"file://{THEIRS}/good", "metadata": metadata}])
    with Stub(image) as stub:
        mount = tmp_path / "mount"
        broker = make_broker(config(stub.endpoint, f"share:{THEIRS}:{mount}", mount))
        done = broker.download(caller(), ID, tmp_path / "image")
    assert_that(done.source, Equals(f"file://{mount}/good"))
    assert_that(whole(stub), Equals(0))


def test_a_directory_that_the_file_backend_does_not_allow_is_not_read(
    make_broker: MakeBroker, tmp_path: Path, secret: Path
) -> None:
    location = {"url": f"file://{THEIRS}/good", "metadata": {"id": "share"}}
    with Stub(OneImage(locations=[location])) as stub:
        shared = f"share:{THEIRS}:{tmp_path}/mount"
        broker = make_broker(config(stub.endpoint, shared, tmp_path / "elsewhere"))
        done = broker.download(caller(), ID, tmp_path / "image")
    assert_that(done.source, Equals(f"glance:{ID}"))


def test_names_are_encoded_once() -> None:
    shared = SharedDirectories({"share": "/srv/gl ance/:/mnt/my images"}, "[x]")
    [found] = shared.local([Location("file:///srv/gl%20ance/a%23b%25", {"id": "share"})])
    assert_that(found.url, Equals("file:///mnt/my%20images/a%23b%25"))


@pytest.mark.parametrize("entry", ["/srv", "srv:/mnt", "/srv:mnt", "/srv/../x:/mnt", "/srv:", ""])
def test_an_entry_that_is_no_pair_of_directories_is_a_config_error(
    make_broker: MakeBroker, tmp_path: Path, entry: str
) -> None:
    broker = make_broker(config("http://127.0.0.1:9292", f"share:{entry}", tmp_path))
    with pytest.raises(ConfigError) as caught:
        broker.get(caller(), ID)
    assert_that(str(caught.value), StartsWith("[backend:glance] shared_directories"))
    assert_that(caught.value.hint, Contains("absolute"))
