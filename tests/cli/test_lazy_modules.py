"""What the command imports at its start and hardly ever uses is loaded at its first use."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from testtools.assertions import assert_that
from testtools.matchers import Contains, Equals

from tests.bounds import HANGS
from tests.plugins.glance_stub import ID, TOKEN, OneImage, Stub

#: How the modules of the tests say that they are loaded.
LOADS = "print('loaded', flush=True)\n"


def said(folder: Path, program: str) -> list[str]:
    """What `program` prints where `slow` is loaded lazily."""
    begin = (
        "from imagebroker.cli import lazy_modules as lazy\n"
        "lazy.load_lazily(['slow', 'slow.part'])\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", begin + program], cwd=folder,
        check=True, capture_output=True, text=True, timeout=HANGS,
    )  # fmt: skip
    return done.stdout.split()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "slow.py").write_text(f"{LOADS}value = 1\n")
    return tmp_path


def test_a_module_is_loaded_when_an_attribute_is_asked_for_not_when_it_is_imported(
    folder: Path,
) -> None:
    program = "import slow\nimport slow\nprint('imported')\nprint(slow.value, slow.value)"
    assert_that(said(folder, program), Equals(["imported", "loaded", "1", "1"]))


def test_a_name_that_is_imported_from_it_loads_it(folder: Path) -> None:
    program = "from slow import value\nprint(value, type(__import__('slow')).__name__)"
    assert_that(said(folder, program), Equals(["loaded", "1", "module"]))


def test_a_package_that_a_module_is_imported_from_is_loaded_and_the_module_is_not(
    folder: Path,
) -> None:
    (folder / "slow.py").unlink()
    (folder / "slow").mkdir()
    (folder / "slow" / "__init__.py").write_text(LOADS)
    (folder / "slow" / "part.py").write_text(f"{LOADS}value = 2\n")
    program = "from slow import part\nprint('imported')\nprint(part.value)"
    assert_that(said(folder, program), Equals(["loaded", "imported", "loaded", "2"]))


def test_threads_that_ask_at_once_get_all_of_it_and_it_is_loaded_once(folder: Path) -> None:
    (folder / "slow.py").write_text(f"{LOADS}import time\ntime.sleep(0.2)\nvalue = 1\n")
    program = (
        "import slow\n"
        "from concurrent.futures import ThreadPoolExecutor\n"
        "with ThreadPoolExecutor(8) as pool:\n"
        "    print(*pool.map(lambda _: slow.value, range(8)))\n"
    )
    assert_that(said(folder, program), Equals(["loaded", *["1"] * 8]))


def test_one_that_cannot_be_loaded_says_so_each_time(folder: Path) -> None:
    (folder / "slow.py").write_text("raise ImportError('broken')\n")
    program = (
        "import slow\n"
        "for _ in range(2):\n"
        "    try:\n"
        "        slow.value\n"
        "    except ImportError as error:\n"
        "        print(error)\n"
    )
    assert_that(said(folder, program), Equals(["broken", "broken"]))


def test_one_that_is_not_installed_is_missing_at_once(folder: Path) -> None:
    (folder / "slow.py").unlink()
    program = "try:\n    import slow\nexcept ImportError:\n    print('missing')"
    assert_that(said(folder, program), Equals(["missing"]))


#: A run of the command; then the modules that are loaded, the last line of the output.
RUN = """
import json, sys
from imagebroker.cli.main import main
status = main(sys.argv[1:])
loaded = [name for name, module in sys.modules.items() if "_Unloaded" not in str(type(module))]
print(json.dumps([status, sorted(loaded)]))
"""
#: Libraries' modules that a record of Glance can be shown without. Each took 5 to 80 ms.
NEEDLESS = {
    "OpenSSL", "cryptography", "asyncio", "jsonpatch", "oslo_utils.netutils", "oslo_utils.strutils",
    "psutil", "netaddr", "rfc3986", "prettytable", "wcwidth", "logging.handlers",
}  # fmt: skip


def test_a_record_of_glance_is_shown_without_what_its_client_never_uses_here(
    tmp_path: Path,
) -> None:
    config = tmp_path / "imagebroker.conf"
    with Stub(OneImage()) as stub:
        config.write_text(
            "[imagebroker]\nenabled_schemes = glance\n[backend:glance]\n"
            f"endpoint = {stub.endpoint}\nauth_type = admin_token\ntoken = {TOKEN}\n"
        )
        words = "--config-file", str(config), "show", f"glance:{ID}", "-f", "json"
        done = subprocess.run(
            [sys.executable, "-c", RUN, *words],
            check=False, capture_output=True, text=True, timeout=HANGS,
        )  # fmt: skip
    status, loaded = json.loads(done.stdout.splitlines()[-1])
    assert_that(status, Equals(0), done.stderr)
    assert_that(loaded, Contains("glanceclient.v2.client"))
    assert_that(NEEDLESS & set(loaded), Equals(set()))


#: Modules of Python's own that an image can be downloaded without. Together they took 5 ms.
NEEDLESS_OF_PYTHON = {"bz2", "email.message", "lzma", "pickle", "tempfile"}


def test_a_file_is_downloaded_without_what_only_other_uses_of_pythons_library_need(
    tmp_path: Path,
) -> None:
    image = tmp_path / "image"
    image.write_bytes(bytes(4096))
    words = "download", image.as_uri(), str(tmp_path / "copy"), "-f", "json"
    done = subprocess.run(
        [sys.executable, "-c", RUN, *words],
        check=False, capture_output=True, text=True, timeout=HANGS,
        env={**os.environ, "HOME": str(tmp_path)},
    )  # fmt: skip
    status, loaded = json.loads(done.stdout.splitlines()[-1])
    assert_that(status, Equals(0), done.stderr)
    assert_that(NEEDLESS_OF_PYTHON & set(loaded), Equals(set()))
