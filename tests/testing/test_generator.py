"""`imagebroker backend new` and `backend test`: a plugin from nothing to a report."""

from __future__ import annotations

import ast
import json
import os
import shlex
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from testtools.assertions import assert_that
from testtools.matchers import Contains, Equals, LessThan, MatchesAll, Not, StartsWith

from imagebroker.exceptions import InvalidImageRef
from imagebroker.testing.skeleton import skeleton
from tests.bounds import HANGS


class Workshop:
    """A folder in which plugins are made, installed and used, without any network."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.site = folder / "site"
        self.environment = {
            "HOME": str(folder), "PATH": os.environ["PATH"], "LANG": "C.UTF-8",
            "PYTHONPATH": str(self.site),
        }  # fmt: skip

    def python(self, *arguments: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, *arguments], cwd=cwd or self.folder, env=self.environment,
            capture_output=True, text=True, timeout=HANGS, check=False,
        )  # fmt: skip

    def command(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return self.python("-m", "imagebroker", *arguments)

    def install(self, name: str) -> None:
        done = self.python(
            "-m", "pip", "install", "--quiet", "--no-build-isolation", "--no-deps", "--no-index",
            "--disable-pip-version-check", "--target", str(self.site), name if name.startswith("/") else f"./{name}",
        )  # fmt: skip
        assert_that(done.returncode, Equals(0), done.stderr)


@pytest.fixture(scope="module")
def workshop(tmp_path_factory: pytest.TempPathFactory) -> Workshop:
    """A workshop with the new backend `shelf`, installed."""
    made = Workshop(tmp_path_factory.mktemp("workshop"))
    done = made.command("backend", "new", "shelf")
    assert_that((done.returncode, done.stdout), Equals((0, "imagebroker-shelf\n")), done.stderr)
    made.install("imagebroker-shelf")
    return made


def test_a_new_backend_passes_the_kit_and_the_report_says_what_it_tested(
    workshop: Workshop,
) -> None:
    done = workshop.command("backend", "test", "shelf")
    assert_that(done.returncode, Equals(0), done.stderr)
    assert_that(done.stderr, Contains("imagebroker-shelf 0.1.0"))
    assert_that(" ".join(done.stdout.split()), MatchesAll(
        Contains("every size is read exactly"), Contains("needs the hook forbid"),
        Contains(" 0 failed"), Not(Contains("Traceback")),
    ))  # fmt: skip


def test_the_report_is_json_where_that_is_wanted(workshop: Workshop) -> None:
    done = workshop.command("backend", "test", "shelf", "--only", "c13_", "-f", "json")
    rows = json.loads(done.stdout)
    assert_that({row["clause"] for row in rows}, Equals({"C13"}))
    assert_that({row["result"] for row in rows}, Equals({"passed", "skipped"}))
    assert all(row["harm"] and row["what"] for row in rows)


def test_a_broken_backend_is_reported_with_what_it_does_to_a_user(workshop: Workshop) -> None:
    module = workshop.site / "imagebroker_shelf" / "__init__.py"
    healthy = module.read_text()
    module.write_text(healthy.replace("end - start), start)", "end - start), start or 1)"))
    try:
        done = workshop.command("backend", "test", "shelf", "--only", "c13_")
    finally:
        module.write_text(healthy)
    assert_that(done.returncode, Equals(1))
    assert_that(done.stdout, MatchesAll(
        Contains("C13  any stretch can be read"), Contains("found: read(0, 1) of 200000 bytes"),
        Contains("so: Images would arrive cut, or with bytes that are not theirs."),
    ))  # fmt: skip


@pytest.mark.parametrize("runner", [["pytest", "-q", "-p", "no:cacheprovider"],
                                    ["unittest", "tests.test_contract"],
                                    ["testtools.run", "tests.test_contract"]])  # fmt: skip
def test_its_tests_run_under_every_runner(workshop: Workshop, runner: list[str]) -> None:
    done = workshop.python("-m", *runner, cwd=workshop.folder / "imagebroker-shelf")
    assert_that(done.returncode, Equals(0), done.stdout + done.stderr)
    assert_that(done.stdout + done.stderr, Not(Contains("Ran 0")))


def test_a_new_backend_is_served(workshop: Workshop) -> None:
    (workshop.folder / "images").mkdir()
    (workshop.folder / "images" / "a.img").write_bytes(b"an image")
    config = (workshop.folder / "imagebroker-shelf" / "shelf.conf").read_text()
    (workshop.folder / "my.conf").write_text(
        config.replace(f"{workshop.folder}/imagebroker-shelf/images", f"{workshop.folder}/images")
    )
    done = workshop.command("--config-file", "my.conf", "download", "shelf:///a.img", "copy.img")
    assert_that(done.returncode, Equals(0), done.stderr)
    assert_that((workshop.folder / "copy.img").read_bytes(), Equals(b"an image"))
    missing = workshop.command("--config-file", "my.conf", "show", "shelf:///b.img")
    assert_that(missing.returncode, Equals(3))


def test_what_is_printed_to_be_typed_works(workshop: Workshop, tmp_path: Path) -> None:
    for name, *options in (("first",), ("second", "--http")):
        made = workshop.command("backend", "new", name, "--dir", str(tmp_path), *options)
        lines = [
            line.partition("next: ")[2] for line in made.stderr.splitlines() if "next: " in line
        ]
        assert_that(lines[0], Contains("-m pip install -e"))
        assert_that(lines[1], Equals(f"imagebroker backend test {name}"))
        workshop.install(str(tmp_path / f"imagebroker-{name}"))
        config = (tmp_path / f"imagebroker-{name}" / f"{name}.conf").read_text()
        assert_that(config, Not(Contains("@")))
    command = shlex.split(lines[-1])
    with serving(tmp_path / "imagebroker-second" / "images") as port:
        path = Path(command[2])
        path.write_text(path.read_text().replace(":8000", f":{port}"))
        done = workshop.command(*command[1:])
        assert_that((workshop.folder / "hello.img").read_text(), Equals("Hello from second.\n"))
        (workshop.folder / "hello.img").unlink()
    assert_that(done.returncode, Equals(0), done.stderr)


def test_a_backend_over_http_passes_the_kit_too(workshop: Workshop, tmp_path: Path) -> None:
    workshop.command("backend", "new", "web-shelf", "--http", "--dir", str(tmp_path))
    workshop.install(str(tmp_path / "imagebroker-web-shelf"))
    done = workshop.command("backend", "test", "web-shelf")
    assert_that(done.returncode, Equals(0), done.stdout)
    assert_that(done.stderr, Contains("1 of "))
    assert_that(done.stdout, Not(Contains("needs the hook forbid")))


@contextmanager
def serving(folder: Path) -> Iterator[int]:
    handler = partial(SimpleHTTPRequestHandler, directory=str(folder))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server.server_port
        server.shutdown()


def test_nothing_is_overwritten(workshop: Workshop) -> None:
    done = workshop.command("backend", "new", "shelf")
    assert_that(done.returncode, Equals(9))
    assert_that(done.stderr, Contains("already exists"))


def test_a_scheme_that_is_taken_is_pointed_out(workshop: Workshop, tmp_path: Path) -> None:
    done = workshop.command("backend", "new", "http", "--dir", str(tmp_path))
    assert_that(done.returncode, Equals(0))
    assert_that(done.stderr, Contains("imagebroker_http:HttpBackend already provides"))


def test_a_backend_without_a_contract_test_is_told_how_to_get_one(workshop: Workshop) -> None:
    done = workshop.command("backend", "test", "http")
    assert_that(done.returncode, Equals(7))
    assert_that(done.stderr, Contains("imagebroker.contracts"))
    unknown = workshop.command("backend", "test", "nowhere")
    assert_that(unknown.returncode, Equals(7))
    assert_that(unknown.stderr, Contains("use one of these: file, "))


def test_the_smallest_backend_has_at_most_25_lines() -> None:
    source = skeleton("x")["imagebroker_x/__init__.py"]
    code = {
        line
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.stmt) and not _is_docstring(node)
        for line in (node.lineno, getattr(node, "end_lineno", None))
    }
    assert_that(len(code), LessThan(26))


def _is_docstring(node: ast.stmt) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)


@pytest.mark.parametrize(
    ("name", "package", "cls"),
    [("s3", "imagebroker_s3", "S3"), ("my-store.v2", "imagebroker_my_store_v2", "MyStoreV2")],
)
def test_names_are_made_of_the_scheme(name: str, package: str, cls: str) -> None:
    files = skeleton(name)
    assert_that(files[f"{package}/__init__.py"], Contains(f"class {cls}Backend"))
    assert_that(files["setup.cfg"], Contains(f"{name} = {package}.contract:{cls}Contract"))
    assert not [path for path, text in files.items() if "@" in path or "@CLASS@" in text]
    for path, text in files.items():
        if path.endswith(".py"):
            compile(text, path, "exec")


@pytest.mark.parametrize("name", ["", "S3", "3s", "a_b", "a/b", "-x", "x-", "a" * 33, "a b"])
def test_a_name_that_no_ref_can_begin_with_is_refused(name: str) -> None:
    with pytest.raises(InvalidImageRef) as caught:
        skeleton(name)
    assert_that(str(caught.value.hint), StartsWith("write lower-case"))
