"""docs/configuration.md lists every option, with the default that it has."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

import imagebroker_file.options
import imagebroker_http.options
import imagebroker_oci.options
import imagebroker_rbd.options
import imagebroker_s3.options
import imagebroker_scp.options
import pytest
from imagebroker_glance import options as glance
from imagebroker_swift import options as swift
from oslo_config import cfg
from testtools.assertions import assert_that
from testtools.matchers import Equals

from imagebroker.config.options import CORE_OPTIONS, backend_options

TEXT = (Path(__file__).parents[2] / "docs" / "configuration.md").read_text(encoding="utf-8")
NOT_SUPPORTED = {"auth_section", "endpoint_override"}


def rows(title: str) -> dict[str, str]:
    """Option to default, in the table below a heading."""
    text = re.split(rf"^## {title}$", TEXT, flags=re.MULTILINE)[1].split("\n## ")[0]
    found: dict[str, str] = {}
    for names, default in re.findall(r"^\| (`[^|]*`) \| ([^|]*?) ?\|", text, flags=re.MULTILINE):
        found |= {name: default.strip("` ") for name in re.findall(r"`(\w+)`", names)}
    return found


def spelled(option: cfg.Opt) -> str:
    """The default as a deployer would write it."""
    sizes = "max_size", "max_virtual_size", "cache_size", "list_max_size", "convert_memory"
    if option.dest in (*sizes, "store_dir", "swarm_from"):
        return str(option.sample_default)
    return "" if option.default in (None, []) else str(option.default)


@pytest.mark.parametrize(
    ("title", "options"),
    [
        ("The core", CORE_OPTIONS),
        ("Every backend", backend_options()),
        ("file", imagebroker_file.options.OPTIONS),
        ("http", imagebroker_http.options.OPTIONS),
        ("oci", imagebroker_oci.options.OPTIONS),
        ("rbd", imagebroker_rbd.options.OPTIONS),
        ("s3", imagebroker_s3.options.OPTIONS),
        ("scp", imagebroker_scp.options.OPTIONS),
        ("swift", [o for o in swift.OWN if o.dest not in NOT_SUPPORTED]),
        ("glance", [o for o in glance.OWN if o.dest not in NOT_SUPPORTED]),
    ],
)
def test_every_option_is_there_with_its_default(title: str, options: Iterable[cfg.Opt]) -> None:
    expected = {option.dest: spelled(option) for option in options}
    found = rows(title)
    if title == "glance":
        found.pop("endpoint")  # the core's, explained once more
    assert_that(found, Equals(expected))
