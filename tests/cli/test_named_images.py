"""An image is found by its name in the default backend; ids and URLs are never names."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from testtools.assertions import assert_that
from testtools.matchers import Contains, ContainsAll, Equals

from tests.cli.conftest import Inside

DATA = bytes(range(256)) * 40
IMAGE = "3f2504e0-4f89-11d3-9a0c-0305e82c3301"
OTHER = "3f2504e0-4f89-11d3-9a0c-0305e82c3302"


@pytest.fixture
def store(imagebroker: Inside) -> Inside:
    """The embedded store, with one image in it."""
    (imagebroker.work / "data").write_bytes(DATA)
    create(imagebroker, "deb12", IMAGE)
    return imagebroker


def create(store: Inside, name: str, image_id: str, *more: str) -> None:
    done = store("create", "--file", "data", "--name", name, "--id", image_id, *more)
    assert_that(done.status, Equals(0), done.stderr)


@pytest.mark.parametrize("name", ["deb12", "file:deb12"])
def test_show_and_download_take_a_name(name: str, store: Inside) -> None:
    assert_that(store("show", name, "-f", "value", "-c", "id").stdout.decode().strip(),
                Equals(IMAGE))  # fmt: skip
    done = store("download", name, "x")
    assert_that(done.status, Equals(0), done.stderr)
    assert_that((store.work / "x").read_bytes(), Equals(DATA))


@pytest.mark.parametrize("name", ["Debian 12 (bookworm)", "debian:12", "a/b", "dëb", "deb12.qcow2"])
def test_a_name_can_be_anything_that_is_no_ref(name: str, store: Inside) -> None:
    create(store, name, OTHER)
    done = store("download", name)
    assert_that(done.status, Equals(0), done.stderr)
    stored = [path.name for path in store.work.iterdir() if path.name != "data"]
    assert_that(stored, Equals([name.replace("/", "_")]))


def test_every_command_that_takes_a_ref_takes_a_name(store: Inside) -> None:
    assert_that(store("update", "deb12", "--name", "deb13").status, Equals(0))
    assert_that(store("cache", "load", "deb13").stderr, Contains("cache_dir"))
    copied = store(
        "copy", "deb13", "--backend", "file", "--name", "deb14", "-f", "value", "-c", "name"
    )
    assert_that((copied.status, copied.stdout), Equals((0, b"deb14\n")), copied.stderr)
    assert_that(store("delete", "deb13", "deb14").status, Equals(0))
    assert_that(store("list", "-f", "value").stdout, Equals(b""))


def test_candidates_are_listed_where_there_are_several(store: Inside) -> None:
    create(store, "deb12", OTHER)
    done = store("show", "deb12")
    assert_that(done.status, Equals(2))
    assert_that(done.stderr, ContainsAll(["2 images have the name 'deb12'",
                                          f"file:{IMAGE} (active, 10.0 KiB, ",
                                          f"file:{OTHER} (active, 10.0 KiB, "]))  # fmt: skip
    found = re.search(rf"file:{OTHER}", done.stderr)
    assert found is not None
    assert_that(store("show", found[0]).status, Equals(0))


def test_an_id_is_never_a_name(store: Inside) -> None:
    create(store, IMAGE, OTHER)
    shown = store("show", IMAGE, "-f", "value", "-c", "name")
    assert_that(shown.stdout, Equals(b"deb12\n"))


def test_a_pin_holds_for_an_image_that_is_named(store: Inside) -> None:
    done = store("download", f"deb12#sha256={'0' * 64}", "x")
    assert_that((done.status, (store.work / "x").exists()), Equals((6, False)))


def test_no_such_name(store: Inside) -> None:
    done = store("download", "deb21")
    assert_that(done.status, Equals(3))
    assert_that(done.stderr, ContainsAll(["'deb21'", "[image-not-found]", "imagebroker list"]))


def test_no_such_name_that_reads_like_a_sentence_is_no_ref(store: Inside) -> None:
    assert_that(store("download", "no such image", "x").status, Equals(2))


def test_an_image_without_data_is_found_too(store: Inside) -> None:
    store("create", "--name", "empty")
    shown = store("show", "empty", "-f", "value", "-c", "status")
    assert_that(shown.stdout, Equals(b"queued\n"), shown.stderr)


@pytest.mark.parametrize("text", ["/tmp/x.qcow2", "./x", "../x", "~/x", "HTTP://host/x", ""])
def test_a_path_or_a_broken_url_is_not_looked_up(text: str, store: Inside) -> None:
    done = store("download", text, "x")
    assert_that(done.status, Equals(2))
    assert_that(done.stderr, Contains("[invalid-image-ref]"))


@pytest.mark.parametrize("text", ["my disk.raw", "./my disk.raw", "../work/my disk.raw"])
def test_a_file_is_told_its_url(text: str, store: Inside) -> None:
    """Wherever it is named as in a shell, and no image has that name."""
    (store.work / "my disk.raw").write_bytes(DATA)
    done = store("download", text, "x")
    named = re.search(r"hint: write (file://\S+)", done.stderr)
    assert named is not None, done.stderr
    assert_that(store("download", named[1], "x").status, Equals(0))
    assert_that("my%20disk" in store("delete", "my disk.raw").stderr, Equals(False))
    create(store, "my disk.raw", OTHER)
    done = store("download", "my disk.raw", "y")
    assert_that(done.stderr, Contains("sha256 of the record"))


def test_a_backend_that_cannot_list_has_no_names(imagebroker: Inside) -> None:
    imagebroker.config("[imagebroker]\nenabled_schemes = http\ndefault_backend = http\n")
    done = imagebroker("download", "deb12", "x")
    assert_that(done.status, Equals(2))
    assert_that(done.stderr, Contains("[invalid-image-ref]"))


class TestDirectories:
    """DEST may be a directory: the file has the image's name in it."""

    @pytest.fixture
    def ref(self, imagebroker: Inside) -> str:
        (imagebroker.folder / "disk.raw").write_bytes(DATA)
        (imagebroker.work / "folder").mkdir()
        (imagebroker.work / "link").symlink_to("folder")
        return f"file://{imagebroker.folder}/disk.raw"

    @pytest.mark.parametrize(
        ("dest", "stored"),
        [(".", "disk.raw"), ("./", "disk.raw"), ("folder", "folder/disk.raw"),
         ("folder/", "folder/disk.raw"), ("folder/.", "folder/disk.raw"),
         ("link", "folder/disk.raw"), ("link/", "folder/disk.raw")],
    )  # fmt: skip
    def test_the_file_is_in_it(self, dest: str, stored: str, ref: str, imagebroker: Inside) -> None:
        done = imagebroker("download", ref, dest)
        assert_that(done.status, Equals(0), done.stderr)
        assert_that((imagebroker.work / stored).read_bytes(), Equals(DATA))

    def test_a_file_in_it_is_not_overwritten_unless_it_is_named(
        self, ref: str, imagebroker: Inside
    ) -> None:
        file = imagebroker.work / "folder" / "disk.raw"
        file.write_bytes(b"mine")
        refused = imagebroker("download", ref, "folder/")
        assert_that((refused.status, file.read_bytes()), Equals((9, b"mine")))
        named = re.search(r"DEST to overwrite it: (\S+)", refused.stderr)
        assert named is not None, refused.stderr
        assert_that(imagebroker("download", ref, named[1]).status, Equals(0))
        assert_that(file.read_bytes(), Equals(DATA))

    def test_one_that_is_missing_is_created_as_the_hint_says(
        self, ref: str, imagebroker: Inside
    ) -> None:
        refused = imagebroker("download", ref, "not/there/")
        assert_that(refused.status, Equals(9))
        found = re.search(r"mkdir -p (\S+)", refused.stderr)
        assert found is not None, refused.stderr
        (imagebroker.work / found[1]).mkdir(parents=True)
        assert_that(imagebroker("download", ref, "not/there/").status, Equals(0))

    def test_the_name_of_an_image_is_the_name_of_the_file(self, store: Inside) -> None:
        (store.work / "folder").mkdir()
        assert_that(store("download", "deb12", "folder").status, Equals(0))
        assert_that((store.work / "folder" / "deb12").read_bytes(), Equals(DATA))
        assert_that(store("download", IMAGE, "folder").status, Equals(0))
        assert_that((store.work / "folder" / IMAGE).read_bytes(), Equals(DATA))

    def test_a_compressed_one_loses_its_ending(self, imagebroker: Inside, tmp_path: Path) -> None:
        import gzip

        (tmp_path / "disk.raw.gz").write_bytes(gzip.compress(DATA))
        done = imagebroker("download", "--decompress", f"file://{tmp_path}/disk.raw.gz", ".")
        assert_that(done.status, Equals(0), done.stderr)
        assert_that((imagebroker.work / "disk.raw").read_bytes(), Equals(DATA))
