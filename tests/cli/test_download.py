"""`imagebroker download` for what needs no process of its own."""

from __future__ import annotations

import gzip
import hashlib
import json
import os
import re
import stat
from pathlib import Path

import pytest
from testtools.assertions import assert_that
from testtools.matchers import (
    Contains,
    ContainsAll,
    EndsWith,
    Equals,
    MatchesRegex,
    Not,
    StartsWith,
)

from tests.cli.conftest import Inside

DATA = b"the bytes of an image" * 1000
DIGEST = hashlib.sha256(DATA).hexdigest()


@pytest.fixture
def ref(tmp_path: Path) -> str:
    path = tmp_path / "disk image.raw"
    path.write_bytes(DATA)
    return f"file://{tmp_path}/disk%20image.raw"


def test_an_omitted_destination_is_the_last_part_of_the_path_here(
    imagebroker: Inside, ref: str
) -> None:
    assert_that(imagebroker("download", ref).status, Equals(0))
    assert_that((imagebroker.work / "disk image.raw").read_bytes(), Equals(DATA))


@pytest.mark.promise("security-9")
def test_an_omitted_destination_is_never_an_existing_file(imagebroker: Inside, ref: str) -> None:
    there = imagebroker.work / "disk image.raw"
    there.write_bytes(b"mine")
    done = imagebroker("download", "--overwrite", ref)
    assert_that(done.status, Equals(9))
    assert_that(done.stderr, Contains("hint: name the destination"))
    assert_that(there.read_bytes(), Equals(b"mine"))


def test_an_omitted_destination_of_an_id_is_the_id(imagebroker: Inside, ref: str) -> None:
    image_id = "6e4f3a52-5c7f-4b5c-9d0b-0f4c7a0f2b11"
    (imagebroker.work / "disk").write_bytes(DATA)
    imagebroker("create", "--file", "disk", "--id", image_id)
    assert_that(imagebroker("download", image_id).status, Equals(0))
    assert_that((imagebroker.work / image_id).read_bytes(), Equals(DATA))


def test_a_ref_that_ends_in_no_name_needs_a_destination(imagebroker: Inside) -> None:
    done = imagebroker("download", "http://127.0.0.1:1/images/")
    assert_that(done.status, Equals(2))
    assert_that(done.stderr, Contains("imagebroker download REF DEST"))


def test_a_named_destination_is_replaced_unless_that_is_forbidden(
    imagebroker: Inside, ref: str
) -> None:
    dest = imagebroker.work / "dest"
    dest.write_bytes(b"old")
    refused = imagebroker("download", "--no-overwrite", ref, "dest")
    assert_that((refused.status, dest.read_bytes()), Equals((9, b"old")))
    assert_that(refused.stderr, Contains("--no-overwrite"))
    assert_that(imagebroker("download", ref, "dest").status, Equals(0))
    assert_that(dest.read_bytes(), Equals(DATA))


def test_options_may_stand_between_the_arguments(imagebroker: Inside, ref: str) -> None:
    done = imagebroker("download", ref, "--file-mode", "0640", "dest", "-f", "json")
    assert_that(done.status, Equals(0))
    mode = stat.S_IMODE((imagebroker.work / "dest").stat().st_mode)
    assert_that(mode, Equals(0o640))


def test_the_record_says_what_was_computed_and_checked(imagebroker: Inside, ref: str) -> None:
    done = imagebroker("download", ref, "dest", "--checksum", f"sha256:{DIGEST}", "-f", "json")
    assert_that(done.stderr, Equals(""))
    expected = {
        "path": "dest", "size": len(DATA), "source": ref, "attempts": 1, "resumed_from": None,
        "sha256": DIGEST, "checked_against": ["sha256 of the caller"],
    }  # fmt: skip
    assert_that({name: done.record[name] for name in expected}, Equals(expected))


def test_one_line_tells_a_person_that_it_is_verified(imagebroker: Inside, ref: str) -> None:
    done = imagebroker("download", f"{ref}#sha256={DIGEST}", "dest")
    assert_that(done.stdout, Equals(b""))
    line = (
        f"imagebroker: stored dest: 20.5 KiB, sha256:{DIGEST}, raw, virtual size 20.5 KiB; "
        "verified: sha256 of the ref's pin\n"
    )
    assert_that(re.sub(r" in [\d.]+ s \([^)]*\)", "", done.stderr), Equals(line))


def test_the_summary_says_that_no_checksum_is_known_and_what_was_found(
    imagebroker: Inside,
) -> None:
    imagebroker.faulty()
    done = imagebroker("download", "faulty://host/good", "dest")
    digest = hashlib.sha256((imagebroker.work / "dest").read_bytes()).hexdigest()
    assert_that(
        done.stderr,
        MatchesRegex(
            rf"imagebroker: stored dest: 256\.0 KiB( in .*)?, sha256:{digest}, raw, "
            r"virtual size 256.0 KiB; not verified: no checksum is known for this image "
            r"\(pass one with --checksum\)\n"
        ),
    )
    again = imagebroker("download", "faulty://host/good", "dest", "--checksum", f"sha256:{digest}")
    assert_that(again.stderr, EndsWith("; verified: sha256 of the caller\n"))


def test_what_goes_to_standard_output_is_told_of_in_the_same_line(
    imagebroker: Inside, ref: str
) -> None:
    done = imagebroker("download", f"{ref}#sha256={DIGEST}", "-")
    assert_that(done.stdout, Equals(DATA))
    assert_that(done.stderr, StartsWith("imagebroker: written: 20.5 KiB"))
    assert_that(done.stderr, Contains(f", sha256:{DIGEST}, raw"))


def test_columns_are_chosen_before_anything_is_done(imagebroker: Inside, ref: str) -> None:
    chosen = imagebroker("download", ref, "dest", "-f", "value", "-c", "Size")
    assert_that(chosen.stdout, Equals(b"%d\n" % len(DATA)))
    refused = imagebroker("download", ref, "other", "-c", "sise")
    assert_that(refused.status, Equals(2))
    assert_that(refused.stderr, Contains("hint: choose one of path, size"))
    assert_that((imagebroker.work / "other").exists(), Equals(False))


def test_a_wrong_checksum_leaves_nothing(imagebroker: Inside, ref: str) -> None:
    done = imagebroker("download", ref, "dest", "--checksum", "sha256:" + 64 * "0")
    assert_that(done.status, Equals(6))
    assert_that(os.listdir(imagebroker.work), Equals([]))


@pytest.mark.parametrize(
    "argv",
    [
        ("--checksum", "sha256:12"),
        ("--max-size", "many"),
        ("--deadline", "-1"),
        ("--deadline", "inf"),
        ("--retries", "some"),
        ("--file-mode", "rw"),
        ("--file-mode", "4755"),
        ("--nonsense",),
    ],
)
def test_a_malformed_option_is_a_mistake_of_the_caller(
    argv: tuple[str, ...], imagebroker: Inside, ref: str
) -> None:
    assert_that(imagebroker("download", ref, "dest", *argv).status, Equals(2))
    assert_that(os.listdir(imagebroker.work), Equals([]))


def test_the_largest_size_may_have_a_unit(imagebroker: Inside, ref: str) -> None:
    assert_that(imagebroker("download", ref, "dest", "--max-size", "10K").status, Equals(4))
    assert_that(imagebroker("download", ref, "dest", "--max-size", "10G").status, Equals(0))


def test_an_error_is_one_json_object_where_json_is_asked_for(imagebroker: Inside, ref: str) -> None:
    done = imagebroker("download", "-f", "json", "file:///missing", "dest")
    error = json.loads(done.stderr)
    expected = {
        "id": "image-not-found", "class": "ImageNotFound", "where": None, "option": None,
        "retryable": False, "exit_status": 3,
    }  # fmt: skip
    assert_that({name: error[name] for name in expected}, Equals(expected))
    assert_that(error["message"], StartsWith("file:///missing: "))
    assert_that(error["hint"], Contains("check the path"))


def test_progress_as_json_is_one_object_each_line(imagebroker: Inside, ref: str) -> None:
    done = imagebroker("download", "--progress", "json", "-f", "json", ref, "dest")
    last = [json.loads(line) for line in done.stderr.splitlines()][-1]
    expected = {"phase": "done", "done": len(DATA), "total": len(DATA), "location": ref}
    assert_that({name: last[name] for name in expected}, Equals(expected))


def test_progress_in_plain_lines_ends_with_all_of_it(imagebroker: Inside, ref: str) -> None:
    done = imagebroker("download", "--progress", "plain", ref, "dest")
    assert_that(done.stderr, Contains("dest: done 20.5 KiB of 20.5 KiB (100%)"))


def test_a_device_is_written_through_standard_output_says_the_hint(
    imagebroker: Inside, ref: str
) -> None:
    os.mkfifo(imagebroker.work / "pipe")
    done = imagebroker("download", ref, "pipe")
    assert_that(done.status, Equals(9))
    assert_that(done.stderr, Contains("hint: write to it with: imagebroker download REF -"))


def test_a_bug_of_a_plugin_is_one_line_and_a_traceback_only_where_asked_for(
    imagebroker: Inside,
) -> None:
    imagebroker.faulty()
    done = imagebroker("download", "faulty://host/bug", "dest")
    assert_that(done.status, Equals(1))
    assert_that(done.stderr.splitlines()[0], Contains("ValueError"))
    assert_that(done.stderr, Not(Contains("Traceback")))
    traced = imagebroker("--debug", "download", "faulty://host/bug", "dest")
    assert_that(traced.stderr, ContainsAll(["Traceback", "ValueError"]))
    assert_that(done.stderr + traced.stderr, Not(Contains("s3cret")))


def test_a_query_is_shown_nowhere(imagebroker: Inside) -> None:
    imagebroker.faulty()
    ref = "faulty://host/good?signature=s3cret"
    shown = [
        imagebroker("--debug", "download", ref, "dest", "--progress", "json", "-f", "json"),
        imagebroker("download", ref, "dest"),
        imagebroker("download", ref.replace("good", "NotAuthorized"), "dest"),
        imagebroker("resolve", ref),
    ]
    assert_that([done.status for done in shown], Equals([0, 0, 4, 0]))
    for done in shown:
        assert_that(done.stderr + done.stdout.decode(), Not(Contains("s3cret")))


def test_decompress_stores_what_is_in_the_image(imagebroker: Inside, tmp_path: Path) -> None:
    packed = gzip.compress(DATA)
    (tmp_path / "disk.raw.gz").write_bytes(packed)
    ref = f"file://{tmp_path}/disk.raw.gz"
    digest = hashlib.sha256(packed).hexdigest()
    done = imagebroker("download", ref, "--decompress", "--checksum", f"sha256:{digest}")
    assert_that(done.status, Equals(0))
    assert_that((imagebroker.work / "disk.raw").read_bytes(), Equals(DATA))
    assert_that(done.stderr, Contains("of gzip"))
    assert_that(done.stderr, Contains("verified: sha256 of the caller"))
    done = imagebroker("download", ref, "x", "--decompress=gzip", "-f", "json")
    shown = json.loads(done.stdout)
    assert_that((shown["compression"], shown["sha256"]), Equals(("gzip", digest)))
    assert_that(shown["decompressed_sha256"], Equals(DIGEST))


def test_the_digest_is_said_to_be_that_of_the_compressed_data(
    imagebroker: Inside, tmp_path: Path
) -> None:
    (tmp_path / "disk.gz").write_bytes(gzip.compress(DATA))
    done = imagebroker("download", f"file://{tmp_path}/disk.gz", "x", "--decompress")
    assert_that(done.stderr, Contains(" of the compressed data"))


def test_what_cannot_be_unpacked_ends_with_the_status_of_a_failed_check(
    imagebroker: Inside, ref: str
) -> None:
    done = imagebroker("download", ref, "x", "--decompress=xz")
    assert_that(done.status, Equals(6))
    assert_that((imagebroker.work / "x").exists(), Equals(False))


def test_a_kind_of_compression_that_nobody_knows_is_a_usage_error(
    imagebroker: Inside, ref: str
) -> None:
    done = imagebroker("download", ref, "x", "--decompress=rar")
    assert_that(done.status, Equals(2))
