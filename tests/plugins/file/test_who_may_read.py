"""What a person may read and a service may not, and what is read-only."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from imagebroker_file import FileBackend
from imagebroker_file.database import MARKER
from testtools.assertions import assert_that
from testtools.matchers import Contains, Equals, Is

from imagebroker.exceptions import ConfigError, ImageNotFound, PolicyViolation, UnsupportedOperation
from imagebroker.model.reference import parse
from imagebroker.plugin import Image, ImageData
from tests.plugins.file.paths import DATA, MakeBackend, content, open_ref, refused, uri


@pytest.mark.promise("security-7")
def test_no_ref_reaches_below_a_store(make_backend: MakeBackend, tmp_path: Path) -> None:
    backend = make_backend(tmp_path)
    image = backend.create(None, Image(ref=""), ImageData(b"bits"))
    for path in (tmp_path / "store").rglob("*"):
        if path.is_file():
            error = refused(backend, uri(path), PolicyViolation)
            assert_that(str(error), Contains("inside an image store"))
    assert_that(content(open_ref(backend, f"file:{image.id}")), Equals(b"bits"))


def test_no_ref_reaches_below_the_store_of_another_instance(
    make_backend: MakeBackend, tmp_path: Path
) -> None:
    other = make_backend(store_dir=str(tmp_path / "other"))
    image = other.create(None, Image(ref=""), ImageData(b"bits"))
    bits = uri(tmp_path / "other" / "images" / str(image.id))
    refused(make_backend(tmp_path), bits, PolicyViolation)
    refused(make_backend(personal=True), bits, PolicyViolation)
    (tmp_path / "images").symlink_to(tmp_path / "other" / "images")
    by_link = uri(tmp_path / "images" / str(image.id))
    refused(make_backend(tmp_path / "images"), by_link, PolicyViolation)
    refused(make_backend(personal=True), by_link, PolicyViolation)


def test_a_folder_deep_in_a_store_is_below_it(backend: FileBackend, allowed: Path) -> None:
    (allowed / MARKER).touch()
    (allowed / "a" / "b").mkdir(parents=True)
    (allowed / "a" / "b" / "f").touch()
    refused(backend, uri(allowed / "a" / "b" / "f"), PolicyViolation)


def test_a_person_reads_any_path_and_through_links(
    make_backend: MakeBackend, secret: Path, tmp_path: Path
) -> None:
    backend = make_backend(personal=True)
    (tmp_path / "folder").symlink_to(tmp_path)
    (tmp_path / "link").symlink_to(secret)
    for path in (secret, tmp_path / "link", tmp_path / "folder" / "secret"):
        assert_that(content(open_ref(backend, uri(path))), Equals(b"secret"))


def test_a_person_is_told_what_is_missing(make_backend: MakeBackend, tmp_path: Path) -> None:
    backend = make_backend(personal=True)
    refused(backend, uri(tmp_path / "absent"), ImageNotFound)
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    refused(backend, uri(tmp_path / "loop"), PolicyViolation)


def test_update_and_delete_of_a_path_are_unsupported(backend: FileBackend, allowed: Path) -> None:
    ref = parse(uri(allowed / "image.raw"))
    with pytest.raises(UnsupportedOperation, match="read-only") as caught:
        backend.update(None, ref, {"name": "x"}, None, False)
    assert_that(bool(caught.value.hint), Is(True))
    with pytest.raises(UnsupportedOperation, match="read-only"):
        backend.delete(None, ref)
    assert_that((allowed / "image.raw").read_bytes(), Equals(DATA))


@pytest.mark.parametrize(
    "options", [{"store_dir": "relative"}, {"store_dir": "~/store"}, {"allowed_paths": ["images"]},
                {"allowed_paths": ["/a/../etc"]}, {"allowed_paths": [""]}]
)  # fmt: skip
def test_a_directory_that_is_not_absolute_is_a_config_error(
    make_backend: MakeBackend, options: dict[str, Any]
) -> None:
    with pytest.raises(ConfigError, match=r"\[backend:file\] (store_dir|allowed_paths)") as caught:
        make_backend(**options)
    assert_that(bool(caught.value.hint), Is(True))


@pytest.mark.parametrize(
    ("personal", "environment", "expected"),
    [
        (False, {"XDG_DATA_HOME": "/data"}, "/var/lib/imagebroker"),
        (True, {"XDG_DATA_HOME": "/data"}, "/data/imagebroker"),
        (True, {"XDG_DATA_HOME": "relative"}, "/home/me/.local/share/imagebroker"),
        (True, {}, "/home/me/.local/share/imagebroker"),
    ],
)
def test_the_store_is_where_a_service_or_a_person_expects_it(
    make_backend: MakeBackend,
    monkeypatch: pytest.MonkeyPatch,
    personal: bool,
    environment: dict[str, str],
    expected: str,
) -> None:
    if Path(expected).exists():
        pytest.skip(f"this host has a store of its own in {expected}")
    monkeypatch.delenv("XDG_DATA_HOME", raising=False)
    for name, value in {"HOME": "/home/me", **environment}.items():
        monkeypatch.setenv(name, value)
    backend = make_backend(personal=personal, store_dir=None)
    with pytest.raises(ImageNotFound) as caught:
        backend.get(None, parse("file:3f2504e0-4f89-11d3-9a0c-0305e82c3301"))
    assert_that(caught.value.hint, Contains(f"no image store in {expected} yet"))
