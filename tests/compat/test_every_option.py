"""No option that a service's image code reads is without a word from `imagebroker check`."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from oslo_config import cfg
from testtools.assertions import assert_that
from testtools.matchers import Equals, GreaterThan

from imagebroker.compat import cinder_options, ironic_options, nova_options
from imagebroker.compat.service_options import WITHOUT_MEANING, Meanings
from tests.compat.nova_process import missing, nova_environment
from tests.compat.service_process import environment_of, missing_service
from tests.servers.fixtures import require

MODULES = {"nova": nova_options, "cinder": cinder_options, "ironic": ironic_options}
#: The modules that the drop-in takes the place of, and those that only they call.
READ = {
    "nova": ["nova/image/glance.py"],
    "cinder": ["cinder/image/glance.py"],
    "ironic": [
        "ironic/common/image_service.py",
        "ironic/common/glance_service/image_service.py",
        "ironic/common/glance_service/service_utils.py",
        "ironic/common/oci_registry.py",
    ],
}
_OPTION = re.compile(r"\bCONF\.([a-z]\w*)(?:\.([a-z]\w*))?")
#: What is said of an option or a module of oslo.config itself, and in a comment of Ironic.
_NO_OPTION = frozenset({"register_opts", "num_retries"})


def options(service: str) -> Iterator[tuple[str, str]]:
    """Section and name of each option that the modules read."""
    place = nova_environment() if service == "nova" else environment_of(service)
    (site,) = place.glob("lib/python3*/site-packages")
    for name in READ[service]:
        for first, second in _OPTION.findall((site / name).read_text(encoding="utf-8")):
            if first not in _NO_OPTION:
                yield (first, second) if second else ("DEFAULT", first)


def meanings(service: str, tmp_path: Path) -> Meanings:
    path = tmp_path / f"{service}.conf"
    path.touch()
    conf = cfg.ConfigOpts()
    conf([], project=service, default_config_files=[str(path)], default_config_dirs=[])
    module = MODULES[service]
    return module.meanings(conf, module.inherited(conf))


@pytest.mark.parametrize("service", list(READ))
def test_each_option_that_the_services_own_code_reads_is_known(
    service: str, tmp_path: Path
) -> None:
    require(missing() if service == "nova" else missing_service(service))
    known, read = meanings(service, tmp_path), set(options(service))
    assert_that(len(read), GreaterThan(8))
    unknown = [
        f"[{section}] {name}"
        for section, name in sorted(read)
        if not {name, "*"} & set(known.get(section, ()))
    ]
    assert_that(unknown, Equals([]))


@pytest.mark.parametrize("service", list(READ))
def test_each_option_that_is_known_stands_on_the_page(service: str, tmp_path: Path) -> None:
    page = Path(__file__).parents[2] / "docs" / f"migrating-from-{service}.md"
    text = page.read_text(encoding="utf-8")
    known = {name for found in meanings(service, tmp_path).values() for name in found}
    known -= {"*", *WITHOUT_MEANING}
    unwritten = {name for name in known if not re.search(rf"[`\] ]{name}[`,]", text)}
    assert_that(sorted(unwritten), Equals([]))
