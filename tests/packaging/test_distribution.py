"""What is published: complete, well-formed, and the same from the same sources."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import venv
import zipfile
from pathlib import Path

import pytest
from testtools.assertions import assert_that
from testtools.matchers import Contains, Equals, HasLength, MatchesAll

from tests.bounds import HANGS

ROOT = Path(__file__).parents[2]


def build(sources: Path, folder: Path) -> Path:
    """The wheel and the source distribution, built from a copy of the sources elsewhere."""
    copy = folder / "copy"
    shutil.copytree(sources, copy)
    done = subprocess.run(
        [sys.executable, "-m", "build", "--no-isolation", "--outdir", folder / "dist", copy],
        env={**os.environ, "SOURCE_DATE_EPOCH": "1700000000"},
        check=False, capture_output=True, text=True, timeout=HANGS,
    )  # fmt: skip
    assert_that(done.returncode, Equals(0), done.stdout[-2000:] + done.stderr[-2000:])
    return folder / "dist"


@pytest.fixture(scope="module")
def dist(sources: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(sources, tmp_path_factory.mktemp("first"))


def digests(folder: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.iterdir()}


def test_the_same_sources_give_the_same_files(sources: Path, dist: Path, tmp_path: Path) -> None:
    again = build(sources, tmp_path)
    assert_that(digests(dist), MatchesAll(HasLength(2), Equals(digests(again))))


def test_twine_finds_nothing_wrong_with_them(dist: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "twine", "check", "--strict", *dist.iterdir()],
        check=False, capture_output=True, text=True, timeout=HANGS,
    )  # fmt: skip
    assert_that(done.returncode, Equals(0), done.stdout)


def test_the_source_distribution_has_all_that_version_control_has(sources: Path) -> None:
    git = ["git", "-c", "user.name=test", "-c", "user.email=test@example.org"]
    for command in (["init", "-q"], ["add", "-A"], ["commit", "-qm", "all"]):
        subprocess.run([*git, *command], cwd=sources, check=True)
    done = subprocess.run(
        [sys.executable, "-m", "check_manifest", "--no-build-isolation", sources],
        check=False, capture_output=True, text=True, timeout=HANGS,
    )  # fmt: skip
    assert_that(done.returncode, Equals(0), done.stdout + done.stderr)


def test_what_people_look_for_is_in_the_source_distribution(dist: Path) -> None:
    [archive] = dist.glob("*.tar.gz")
    with tarfile.open(archive) as tar:
        names = [name.partition("/")[2] for name in tar.getnames()]
    for name in (
        "README.rst", "LICENSE", "SECURITY.md", "etc/imagebroker/imagebroker.conf",
        "examples/systemd/imagebroker-image@.service", "docs/index.md", "tests/run",
    ):  # fmt: skip
        assert_that(names, Contains(name))


def test_the_wheel_has_the_packages_with_their_types_and_no_tests(dist: Path) -> None:
    [wheel] = dist.glob("*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    packages = {name.partition("/")[0] for name in names if ".dist-info" not in name
                and ".data/" not in name}  # fmt: skip
    plugins = {path.name for path in (ROOT / "plugins").iterdir() if (path / "py.typed").exists()}
    assert_that(packages, Equals({"imagebroker"} | plugins))
    for package in packages:
        assert_that(names, Contains(f"{package}/py.typed"))
    assert_that([name for name in names if "/tests/" in name], Equals([]))


CONSUMER = """
from collections.abc import Iterator

import imagebroker
from imagebroker.plugin import (
    Buffer, Image, ImageBackend, ImageRef, ImageSource, RefForm,
)


def fetch(path: str) -> int:
    with imagebroker.Broker.from_config("/etc/imagebroker/imagebroker.conf") as broker:
        done = broker.download(None, "https://host/image.qcow2", path, max_size=1 << 30)
        reveal_type(done.size)
        for image in broker.get_all(None, limit=3):
            reveal_type(image.size)
        with broker.open(None, "https://host/image.qcow2") as reader:
            reveal_type(reader.read(10))
        try:
            broker.delete(None, "https://host/image.qcow2")
        except imagebroker.UnsupportedOperation as error:
            print(error.retryable, error.hint)
    return done.size


class Own(ImageBackend):
    api_version = 1
    name = "own"
    ref_form = RefForm(host=True, path=True)

    def open(self, context: object, ref: ImageRef) -> ImageSource:
        return OwnSource(ref)


class OwnSource(ImageSource):
    def __init__(self, ref: ImageRef) -> None:
        self.image = Image(ref=ref.text, size=1)

    def read(self, start: int = 0, stop: int | None = None) -> Iterator[Buffer]:
        yield b"x"
"""


@pytest.fixture(scope="module")
def installed(dist: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The Python of an environment in which the wheel is installed, beside all that is here."""
    folder = tmp_path_factory.mktemp("venv")
    venv.EnvBuilder(with_pip=False, symlinks=True).create(folder)
    there = Path(sysconfig.get_path("purelib", vars={"base": str(folder)}))
    [wheel] = dist.glob("*.whl")
    zipfile.ZipFile(wheel).extractall(there)
    (there / "outer.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return folder / "bin" / "python"


@pytest.mark.parametrize(
    ("mistake", "told"),
    [
        (("", ""), None),
        (('"https://host/image.qcow2", path', "path"), "Missing positional argument"),
        (("max_size=1 << 30", "max_size='1G'"), "incompatible type"),
        (("done.size", "done.length"), 'has no attribute "length"'),
        (("ImageSource:\n        return OwnSource(ref)", "int:\n        return 1"), "incompatible"),
    ],
)
def test_the_types_hold_for_the_code_of_a_consumer(
    mistake: tuple[str, str], told: str | None, installed: Path, tmp_path: Path
) -> None:
    """mypy --strict, as somebody runs it who has imagebroker installed."""
    program = tmp_path / "consumer.py"
    program.write_text(CONSUMER.replace(*mistake) if mistake[0] else CONSUMER)
    done = subprocess.run(
        [sys.executable, "-m", "mypy", "--strict", "--config-file=", "--cache-dir",
         installed.parents[1] / "cache", "--python-executable", installed, program],
        cwd=tmp_path, check=False, capture_output=True, text=True, timeout=HANGS,
    )  # fmt: skip
    if told is not None:
        assert_that(done.returncode, Equals(1))
        assert_that(done.stdout, Contains(told))
        return
    assert_that(done.returncode, Equals(0), done.stdout)
    for kind in ('"int"', '"int | None"', '"bytes"'):
        assert_that(done.stdout.replace("builtins.", ""), Contains(kind))


def test_the_wheel_puts_the_man_page_and_completion_where_shells_look(dist: Path) -> None:
    (wheel,) = dist.glob("*.whl")
    names = {name.partition(".data/data/")[2] for name in zipfile.ZipFile(wheel).namelist()}
    assert_that(names - {""}, Equals({
        "share/man/man1/imagebroker.1",
        "share/bash-completion/completions/imagebroker",
        "share/zsh/site-functions/_imagebroker",
        "share/fish/vendor_completions.d/imagebroker.fish",
    }))  # fmt: skip
