"""The signatures of images that real backends keep."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from testtools.assertions import assert_that
from testtools.matchers import Contains, Equals

import imagebroker
from imagebroker.exceptions import SignatureError
from tests.servers.nginx import Nginx
from tests.servers.openstack import OpenStack
from tests.verify.signing import CONFIG, MemoryKeyManager, root, signer

DATA = bytes(range(256)) * 5000
MakeBroker = Callable[[str], imagebroker.Broker]


@pytest.fixture(autouse=True)
def key_manager() -> Iterator[None]:
    """With the root and what it has issued."""
    MemoryKeyManager.reset()
    root().stored()
    signer().stored()
    yield
    MemoryKeyManager.reset()


@pytest.fixture
def store(make_broker: MakeBroker, tmp_path: Path) -> imagebroker.Broker:
    return make_broker(
        "[imagebroker]\nenabled_schemes = file\n"
        f"[backend:file]\nstore_dir = {tmp_path / 'store'}\n{CONFIG}"
    )


@pytest.fixture
def glance(make_broker: MakeBroker, openstack: OpenStack) -> imagebroker.Broker:
    options = "\n".join(f"{key} = {value}" for key, value in openstack.auth_options("red").items())
    return make_broker(
        "[imagebroker]\nenabled_schemes = glance\ndefault_backend = glance\n"
        f"[backend:glance]\n{options}\nallowed_networks = 127.0.0.0/8\n{CONFIG}"
    )


@pytest.mark.parametrize("kind", ["store", "glance"])
def test_an_image_is_verified_by_the_properties_of_its_record(
    kind: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    broker: imagebroker.Broker = request.getfixturevalue(kind)
    fields = {"name": "signed", "disk_format": "raw", "container_format": "bare"}
    image = broker.create(None, fields, DATA)
    with pytest.raises(SignatureError, match="has no signature"):
        broker.download(None, image.ref, tmp_path / "image", trusted_certs=["root"])
    # Glance verifies what is signed while it is uploaded, with a key manager of its own.
    broker.update(None, image.ref, {"properties": signer().properties(DATA)})
    done = broker.download(None, image.ref, tmp_path / "image", trusted_certs=["root"])
    assert_that(done.evidence["signature"], Contains("RSA-PSS with SHA-256"))
    assert_that((tmp_path / "image").read_bytes(), Equals(DATA))
    broker.update(None, image.ref, {"properties": signer().properties(DATA[::-1])})
    with pytest.raises(SignatureError, match="does not match its signature"):
        broker.download(None, image.ref, tmp_path / "other", trusted_certs=["root"])
    assert_that((tmp_path / "other").exists(), Equals(False))


def test_a_backend_without_records_has_no_signed_images(
    make_broker: MakeBroker, nginx: Nginx, tmp_path: Path
) -> None:
    (nginx.root / "signed.raw").write_bytes(DATA)
    broker = make_broker(
        "[imagebroker]\nenabled_schemes = http\nverify_signatures = true\n"
        f"[backend:http]\nallowed_networks = 127.0.0.0/8\n{CONFIG}"
    )
    with pytest.raises(SignatureError, match="has no signature"):
        broker.download(None, f"{nginx.http_url.rstrip('/')}/signed.raw", tmp_path / "image")
    assert_that((tmp_path / "image").exists(), Equals(False))
