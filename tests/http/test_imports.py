"""What is imported when: HTTP only for those who need it, and no more of it than they need."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from testtools.assertions import assert_that
from testtools.matchers import Contains, Equals, Not

from tests.bounds import HANGS
from tests.plugins.http_peers import answer, serving

#: A run of the command; then what was imported, the last line of the output.
RUN = """
import json, sys
from imagebroker.cli.main import main
status = main(sys.argv[1:])
print()
print(json.dumps([status, sorted(sys.modules)]))
"""


def imported_by(*words: object) -> list[str]:
    """The modules that a run of the command leaves behind."""
    done = subprocess.run(
        [sys.executable, "-c", RUN, *map(str, words)],
        check=False, capture_output=True, text=True, timeout=HANGS,
    )  # fmt: skip
    status, modules = json.loads(done.stdout.splitlines()[-1])
    assert_that(status, Equals(0), done.stderr)
    return list(modules)


#: The facade has it: what a Content-Encoding means for the bytes.
HARMLESS = ("imagebroker.http", "imagebroker.http.codings")
SPEAKING = ("imagebroker.http", "imagebroker_http", "urllib3", "http", "requests")


def of_http(modules: list[str]) -> list[str]:
    return [
        each
        for each in modules
        if each not in HARMLESS
        and (each in SPEAKING or each.startswith(tuple(f"{n}." for n in SPEAKING)))
    ]


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "imagebroker.conf"
    path.write_text(
        "[imagebroker]\nenabled_schemes = file, http, https\n"
        f"[backend:file]\nallowed_paths = {tmp_path}\n"
        "[backend:http]\nallowed_networks = 127.0.0.0/8\n"
    )
    return path


def test_the_version_needs_no_http() -> None:
    assert_that(of_http(imported_by("--version")), Equals([]))


def test_a_file_is_downloaded_without_http(config: Path, tmp_path: Path) -> None:
    image = tmp_path / "image.raw"
    image.write_bytes(b"x" * 4096)
    modules = imported_by("--config-file", config, "download", f"file://{image}", tmp_path / "to")
    assert_that(of_http(modules), Equals([]))


def test_a_web_server_is_asked_without_requests_and_botocore(config: Path, tmp_path: Path) -> None:
    with serving(answer(b"x" * 4096)) as server:
        url = f"{server.url}/image.raw"
        modules = imported_by("--config-file", config, "download", url, tmp_path / "to")
    assert_that(modules, Contains("urllib3"))
    for name in ("requests", "botocore", "imagebroker.http.requests_session"):
        assert_that(modules, Not(Contains(name)))


def test_a_backend_over_http_is_made_without_urllib3() -> None:
    code = "import sys, imagebroker_http; print('urllib3' in sys.modules, 'ssl' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code], check=True, capture_output=True, text=True, timeout=HANGS
    )
    assert_that(done.stdout.split(), Equals(["False", "False"]))
