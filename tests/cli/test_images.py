"""Making, listing, changing and deleting images at a shell, without any config file."""

from __future__ import annotations

import hashlib
import sys
from pathlib import Path
from typing import Any

import pytest
from testtools.assertions import assert_that
from testtools.matchers import Contains, Equals, HasLength, MatchesDict, Not

from imagebroker.cli.commands import COMMANDS
from tests.cli.conftest import Inside, Shell

DATA = b"a disk" * 1000
NO_SUCH = "file:6e4f3a52-5c7f-4b5c-9d0b-0f4c7a0f2b11"


def _create(imagebroker: Inside, *argv: str) -> Any:
    (imagebroker.work / "disk").write_bytes(DATA)
    done = imagebroker("create", "--file", "disk", "-f", "json", *argv)
    assert_that((done.status, done.stderr), Equals((0, "")))
    return done.record


def test_what_is_created_has_the_fields_that_were_given(imagebroker: Inside) -> None:
    image = _create(
        imagebroker, "--name", "a disk", "--disk-format", "raw", "--container-format", "bare",
        "--property", "os=linux", "--property", "formula=a=b", "--tag", "x", "--tag", "y",
        "--public", "--protected", "--min-disk", "3", "--min-ram", "512", "--backend", "file",
    )  # fmt: skip
    expected = {
        "name": "a disk", "disk_format": "raw", "container_format": "bare", "size": len(DATA),
        "properties": {"os": "linux", "formula": "a=b"}, "tags": ["x", "y"], "status": "active",
        "visibility": "public", "protected": True, "min_disk": 3, "min_ram": 512,
        "checksums": {"sha256": hashlib.sha256(DATA).hexdigest()},
    }  # fmt: skip
    shown = imagebroker("show", image["ref"], "-f", "json").record
    assert_that({name: shown[name] for name in expected}, Equals(expected))
    assert_that(shown, Equals(image))


def test_a_table_shows_what_is_known_and_reads_well(imagebroker: Inside) -> None:
    image = _create(imagebroker, "--name", "ho\x1b[31mstile\nname")
    table = imagebroker("show", image["ref"]).stdout.decode()
    assert_that(table, Contains("5.9 KiB"))
    assert_that(table, Contains(r"ho\x1b[31mstile\nname"))
    assert_that(table, Not(Contains("virtual_size")))
    value = imagebroker("show", image["ref"], "-f", "value", "-c", "name").stdout
    assert_that(value, Equals(b"ho\\x1b[31mstile\\nname\n"))
    raw = imagebroker("show", image["ref"], "-f", "json", "-c", "name").record
    assert_that(raw, Equals({"name": "ho\x1b[31mstile\nname"}))


@pytest.mark.parametrize("form", ["json", "yaml", "value", "table"])
def test_every_format_can_show_every_field(form: str, imagebroker: Inside) -> None:
    image = _create(imagebroker, "--tag", "x", "--property", "a=b")
    for argv in (("show", image["ref"]), ("list", "--long"), ("backends",)):
        done = imagebroker(*argv, "-f", form)
        assert_that((done.status, done.stderr), Equals((0, "")))
        assert_that(done.stdout, Not(Equals(b"")))


def test_lists_are_filtered_sorted_and_cut(imagebroker: Inside) -> None:
    for name in ("b", "a", "c"):
        _create(imagebroker, "--name", name, "--tag", f"tag-{name}", "--property", f"p={name}")

    def names(*argv: str) -> list[str]:
        done = imagebroker("list", "-f", "value", "-c", "name", *argv)
        assert_that(done.status, Equals(0))
        return done.stdout.decode().split()

    assert_that(names(), Equals(["c", "a", "b"]))
    assert_that(names("--sort", "name"), Equals(["a", "b", "c"]))
    assert_that(names("--sort", "name:desc", "--limit", "2"), Equals(["c", "b"]))
    assert_that(names("--tag", "tag-a"), Equals(["a"]))
    assert_that(names("--property", "p=b"), Equals(["b"]))
    assert_that(names("--name", "c", "--page-size", "1"), Equals(["c"]))
    assert_that(names("--status", "queued", "--status", "saving"), Equals([]))
    assert_that(names("--size-min", "1K", "--size-max", "1G"), HasLength(3))
    assert_that(imagebroker("list", "--name", "none").stdout, Equals(b""))


def test_a_list_goes_on_after_the_marker(imagebroker: Inside) -> None:
    ids = [_create(imagebroker)["id"] for _ in range(3)]
    rest = imagebroker("list", "--sort", "created_at", "--marker", ids[0], "-f", "json").record
    assert_that([image["ref"] for image in rest], Equals([f"file:{each}" for each in ids[1:]]))


def test_an_update_sets_and_removes(imagebroker: Inside) -> None:
    image = _create(imagebroker, "--name", "old", "--property", "a=1", "--property", "b=2",
                    "--tag", "x")  # fmt: skip
    changed = imagebroker(
        "update", image["ref"], "--name", "new", "--remove", "tags", "--remove-property", "a",
        "--property", "c=3", "-f", "json",
    ).record  # fmt: skip
    found = {name: changed[name] for name in ("name", "tags", "properties")}
    assert_that(
        found, Equals({"name": "new", "tags": [], "properties": {"b": "2", "c": "3"}})
    )  # fmt: skip
    purged = imagebroker("update", image["ref"], "--purge-props", "--property", "d=4", "-f", "json")
    assert_that(purged.record["properties"], Equals({"d": "4"}))


def test_an_update_of_nothing_or_of_another_version_is_refused(imagebroker: Inside) -> None:
    image = _create(imagebroker)
    assert_that(imagebroker("update", image["ref"]).status, Equals(2))
    both = imagebroker("update", image["ref"], "--name", "x", "--remove", "name")
    assert_that(both.status, Equals(2))
    stale = imagebroker("update", image["ref"], "--name", "x", "--if-version", "another")
    assert_that(stale.status, Equals(1))


def test_every_image_is_deleted_though_one_of_them_is_missing(imagebroker: Inside) -> None:
    one, two = _create(imagebroker)["ref"], _create(imagebroker)["ref"]
    done = imagebroker("delete", one, NO_SUCH, two)
    assert_that(done.status, Equals(3))
    assert_that(done.stderr, Contains(NO_SUCH))
    assert_that(imagebroker("list", "-f", "json").record, Equals([]))


def test_a_deleted_image_is_shown_only_where_asked_for(imagebroker: Inside) -> None:
    ref = _create(imagebroker)["ref"]
    imagebroker("delete", ref)
    hidden = imagebroker("show", ref)
    assert_that(hidden.status, Equals(3))
    assert_that(hidden.stderr, Contains("hint: show what is left of it with --deleted"))
    shown = imagebroker("show", "--deleted", ref, "-f", "json")
    assert_that((shown.status, shown.record["status"]), Equals((0, "deleted")))


def test_a_copy_has_the_bytes_of_the_original(imagebroker: Inside) -> None:
    path = imagebroker.work / "original.raw"
    path.write_bytes(DATA)
    copy = imagebroker(
        "copy", f"file://{path}", "--backend", "file", "--name", "copy", "-f", "json"
    )
    assert_that(copy.status, Equals(0))
    assert_that(copy.record["name"], Equals("copy"))
    imagebroker("download", copy.record["ref"], "back")
    assert_that((imagebroker.work / "back").read_bytes(), Equals(DATA))


def test_an_upload_shows_its_progress(imagebroker: Inside) -> None:
    (imagebroker.work / "disk").write_bytes(DATA)
    done = imagebroker("create", "--file", "disk", "--progress", "plain", "-f", "json")
    assert_that(done.record["size"], Equals(len(DATA)))
    assert_that(done.stderr, Contains("disk: verify 5.9 KiB of 5.9 KiB (100%)"))


@pytest.mark.parametrize("progress", ["none", "plain"])
def test_a_file_that_cannot_be_read_is_a_mistake_of_the_caller(
    progress: str, imagebroker: Inside
) -> None:
    done = imagebroker("create", "--file", "missing", "--progress", progress)
    assert_that(done.status, Equals(2))
    assert_that(done.stderr, Contains("No such file"))
    assert_that(imagebroker("list", "-f", "json").record, Equals([]))


def test_an_http_server_cannot_be_listed(imagebroker: Inside) -> None:
    assert_that(imagebroker("list", "--backend", "http").status, Equals(7))
    assert_that(imagebroker("list", "--backend", "No Name").status, Equals(2))


def test_resolve_says_which_backend_and_why(imagebroker: Inside) -> None:
    record = imagebroker("resolve", "https://example.org/x", "-f", "json").record
    assert_that(
        record,
        MatchesDict({
            "ref": Equals("https://example.org/x"),
            "backend": Equals("http"),
            "distribution": Contains("imagebroker "),
            "reason": Equals("its scheme is https"),
            "capabilities": Contains("download"),
        }),
    )  # fmt: skip


def test_the_config_file_of_the_user_is_in_force(imagebroker: Inside) -> None:
    imagebroker.config("[imagebroker]\nenabled_schemes = https\n")
    imagebroker.config_file = None  # found, not named
    refused = imagebroker("resolve", "file:///etc/hostname")
    assert_that(refused.status, Equals(7))
    other = imagebroker.folder / "other.conf"
    other.write_text("[imagebroker]\nenabled_schemes = file\n")
    named = imagebroker("--config-file", str(other), "list")
    # The directory of a service's store is not this user's.
    assert_that(named.status, Not(Equals(7)))


@pytest.mark.parametrize("argv", [("list",), ("backends",), ("check",), ("resolve", NO_SUCH)])
def test_a_config_file_that_is_missing_is_an_error(
    argv: tuple[str, ...], imagebroker: Inside
) -> None:
    done = imagebroker("--config-file", "missing.conf", *argv)
    assert_that(done.status, Equals(2))


def test_every_command_has_a_help_that_comes_quickly(imagebroker: Inside) -> None:
    overview = imagebroker("--help")
    assert_that(overview.status, Equals(0))
    for name in COMMANDS:
        assert_that(overview.stdout.decode(), Contains(f"  {name} "))
        done = imagebroker(*name.split(), "--help")
        assert_that(done.status, Equals(0))
        assert_that(done.stdout.decode(), Contains(f"usage: imagebroker {name}"))


@pytest.mark.parametrize(
    ("argv", "hint"),
    [
        ((), "list the commands"),
        (("downlaod", "x"), "did you mean download?"),
        (("frobnicate",), "list the commands"),
        (("help", "downlaod"), "did you mean download?"),
        (("config",), "did you mean config show or config sample?"),
    ],
)
def test_a_command_that_does_not_exist_is_a_mistake_of_the_caller(
    argv: tuple[str, ...], hint: str, imagebroker: Inside
) -> None:
    done = imagebroker(*argv)
    assert_that(done.status, Equals(2))
    assert_that(done.stdout, Equals(b""))
    assert_that(done.stderr, Contains(hint))


@pytest.mark.promise("security-20")
def test_a_log_file_has_no_secrets(imagebroker: Inside, tmp_path: Path) -> None:
    imagebroker.faulty()
    ref = "faulty://host/TransferError?signature=s3cret"
    imagebroker("--log-file", str(tmp_path / "log"), "download", ref, "dest")
    assert_that((tmp_path / "log").read_text(), Not(Contains("s3cret")))
    assert_that("faulty" in sys.modules, Equals(True))


def test_purge_shows_what_goes_and_removes_it(imagebroker: Inside) -> None:
    image, kept = _create(imagebroker, "--name", "old"), _create(imagebroker, "--name", "kept")
    imagebroker("delete", image["ref"])
    assert_that(imagebroker("purge", "-f", "json").record, Equals([]))  # not a week old
    for argv in (("--dry-run",), (), ()):
        shown = imagebroker("purge", "--older-than", "0s", "-f", "json", *argv).record
        assert_that(
            [each["ref"] for each in shown], Equals([image["ref"]] if argv or shown else [])
        )
    assert_that(imagebroker("show", image["ref"], "--deleted").status, Equals(3))
    assert_that(imagebroker("show", kept["ref"]).status, Equals(0))
    assert_that(imagebroker("purge", "--older-than", "soon").status, Equals(2))


def test_an_import_where_no_service_could_fetch_is_unsupported(imagebroker: Inside) -> None:
    image = _create(imagebroker)
    assert_that(imagebroker("import", image["ref"], "--store", "x").status, Equals(7))


def test_a_record_is_kept_where_that_is_asked_for(shell: Shell) -> None:
    argv = ("create", "--file", "-", "--size", "5", "--keep-record", "--name", "kept")
    failed = shell.run(*argv, data=b"1234")
    assert_that(failed.status, Equals(1), failed.stderr)
    listed = shell.run("list", "--status", "queued", "-f", "json", "-c", "name", "-c", "ref").record
    assert_that([each["name"] for each in listed], Equals(["kept"]))
    (shell.work / "disk").write_bytes(DATA)
    updated = shell.run("update", listed[0]["ref"], "--file", "disk", "-f", "json")
    assert_that(updated.record["status"], Equals("active"))
