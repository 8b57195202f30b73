"""The command names the fields that a backend does not store."""

from __future__ import annotations

from testtools.assertions import assert_that
from testtools.matchers import Contains, Equals

from tests import distributions
from tests.cli.conftest import Inside
from tests.records import test_lost_fields as kept


def test_create_refuses_and_copy_names_what_would_be_lost(imagebroker: Inside) -> None:
    points = {n: f"{kept.__name__}:{n.capitalize()}Backend" for n in ("whole", "names")}
    distributions.install(imagebroker.plugins, "imagebroker-kept", points)
    imagebroker.config("[imagebroker]\nenabled_schemes = whole, names\ndefault_backend = whole\n")
    (imagebroker.work / "disk.raw").write_bytes(b"data")
    create = ["create", "--file", "disk.raw", "--name", "disk", "--disk-format", "raw",
              "--no-check-format", "--tag", "gold"]  # fmt: skip
    refused = imagebroker(*create, "--backend", "names")
    assert_that(refused.status, Equals(7))
    assert_that(refused.stderr, Contains("the names backend does not store tags"))
    made = imagebroker(*create, "-f", "value", "-c", "ref")
    copy = ["copy", made.stdout.decode().strip(), "--backend", "names", "--no-check-format"]
    copied = imagebroker(*copy, "-f", "json", "-c", "not_stored")
    assert_that((copied.status, copied.record), Equals((0, {"not_stored": ["tags"]})))
    assert_that(copied.stderr, Contains("leaves out tags"))
    assert_that(imagebroker(*copy, "--strict").status, Equals(7))
