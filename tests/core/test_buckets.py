"""Refs with opaque names, through a broker: which instance they belong to, and what keeps them apart."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from testtools.assertions import assert_that
from testtools.matchers import Equals, Not

import imagebroker
from imagebroker.backends.boundary import Boundary
from imagebroker.config.settings import Settings, parse_backend
from imagebroker.exceptions import InvalidImageRef, PolicyViolation, SchemeNotEnabled
from imagebroker.model.reference import in_form, parse
from imagebroker.registry import Registry
from imagebroker.transfer.layers.entitlement import Resource
from tests.distributions import install

BUCKETS = """
from oslo_config import cfg
from imagebroker.plugin import *

class BucketBackend(ImageBackend):
    api_version = 1
    name = "bucket"
    ref_form = RefForm(authority=True, path=True, opaque_path=True)
    options = [cfg.StrOpt("endpoint_url", help="Server."), cfg.ListOpt("mirrors", help="Servers.")]
    servers = ("endpoint_url", "mirrors")

    def open(self, context, ref):
        return BucketSource(Image(ref=self.host.uri(ref.authority, ref.key), size=9))

class BucketSource(ImageSource):
    def __init__(self, image):
        self.image = image

    def read(self, start=0, stop=None):
        yield b"the bytes"[start:stop]
"""
CONFIG = """
[imagebroker]
enabled_schemes = bucket
[backend:bucket]
endpoint_url = http://10.1.2.3:9000
mirrors = http://10.1.2.4:9000, http://10.1.2.5
[backend:bucket:west]
endpoint_url = http://10.9.9.9:9000
[backend:bucket:east]
endpoint = bucket://Images/east/
"""


@pytest.fixture
def broker(on_path: Path, make_broker: Any) -> imagebroker.Broker:
    install(on_path, "imagebroker-bucket", {"bucket": "buckets:BucketBackend"}, buckets=BUCKETS)
    broker: imagebroker.Broker = make_broker(CONFIG)
    return broker


@pytest.mark.promise("C5", "C26")
@pytest.mark.parametrize(
    ("ref", "backend"),
    [
        ("bucket://images/key", "bucket"),
        ("bucket:west://images/key", "bucket:west"),
        ("bucket://Images/east/key", "bucket:east"),
        ("bucket://images/east/key", "bucket"),
        ("bucket://metadata/key", "bucket"),
        ("bucket://10.0.0.1/key", "bucket"),
        ("bucket:east://other/key", "bucket:east"),
    ],
)
def test_a_name_leads_to_its_instance_and_back(
    broker: imagebroker.Broker, ref: str, backend: str
) -> None:
    assert_that(broker.resolve(ref).backend, Equals(backend))
    with broker.open(None, ref) as reader:
        assert_that(reader.read(), Equals(b"the bytes"))
        assert_that(broker.resolve(reader.image.ref).backend, Equals(backend))


@pytest.mark.parametrize(
    ("ref", "error"),
    [
        ("bucket:south://images/key", SchemeNotEnabled),
        ("bucket://images", InvalidImageRef),
        ("other:west://images/key", SchemeNotEnabled),
        ("bucket://images/a/../b", PolicyViolation),
    ],
)
def test_what_is_wrong_with_a_name_is_said(
    broker: imagebroker.Broker, ref: str, error: type[Exception]
) -> None:
    with pytest.raises(error):
        broker.resolve(ref)


def _boundary(folder: Path, config: str, title: str) -> Boundary:
    path = folder / "buckets.conf"
    path.write_text(config)
    return Registry(Settings.from_file(path)).backend(parse_backend(title))


@pytest.mark.promise("C6")
@pytest.mark.usefixtures("broker")
def test_servers_that_a_plugin_names_are_allowed_as_they_are(tmp_path: Path) -> None:
    found = _boundary(tmp_path, CONFIG, "bucket").host.policy.configured
    expected = {("10.1.2.3", 9000), ("10.1.2.4", 9000), ("10.1.2.5", 80)}
    assert_that(set(found), Equals(expected))
    west = _boundary(tmp_path, CONFIG, "bucket:west").host.policy.configured
    assert_that(set(west), Equals({("10.9.9.9", 9000)}))


@pytest.mark.usefixtures("broker")
def test_one_name_at_two_servers_is_two_images(tmp_path: Path) -> None:
    def resource(config: str) -> Resource:
        backend = _boundary(tmp_path, config, "bucket")
        ref = in_form(parse("bucket://images/key"), backend.declared.ref_form)
        return Resource.of(backend, ref)

    assert_that(resource(CONFIG), Equals(resource(CONFIG)))
    elsewhere = CONFIG.replace("10.1.2.3", "10.1.2.9")
    assert_that(resource(CONFIG), Not(Equals(resource(elsewhere))))
