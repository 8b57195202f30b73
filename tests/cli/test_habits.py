"""What people type who know curl, wget, aria2c and rclone works, or the error says what to use."""

from __future__ import annotations

import argparse
import gzip
import hashlib
import lzma
import re
from pathlib import Path

import pytest
from testtools.assertions import assert_that
from testtools.matchers import Contains, Equals, MatchesRegex, Not

from imagebroker.cli import foreign
from imagebroker.cli.app import Application
from imagebroker.cli.commands import COMMANDS
from imagebroker.cli.console import Console
from imagebroker.cli.parsers import actions, described
from imagebroker.system.spelling import nearest
from tests.cli.conftest import Inside, Shell

DATA = bytes(range(256)) * 40


@pytest.fixture
def ref(imagebroker: Inside) -> str:
    (imagebroker.folder / "disk.raw").write_bytes(DATA)
    return f"file://{imagebroker.folder}/disk.raw"


@pytest.mark.parametrize(
    "argv",
    [
        ("-o", "x", "REF"),
        ("REF", "-o", "x"),
        ("--output", "x", "REF"),
        ("--output=x", "REF"),
        ("REF", "x", "--output", "x"),
        ("--limit-rate", "10M", "REF", "x"),
        ("--continue", "REF", "x"),
        ("--force", "REF", "x"),
        ("REF", "x", "--force", "--continue"),
    ],
    ids=" ".join,
)
def test_these_work(argv: tuple[str, ...], ref: str, imagebroker: Inside) -> None:
    (imagebroker.work / "x").write_bytes(b"an earlier one")
    done = imagebroker("download", *(ref if word == "REF" else word for word in argv))
    assert_that(done.status, Equals(0), done.stderr)
    assert_that((imagebroker.work / "x").read_bytes(), Equals(DATA))


def test_two_different_destinations_are_refused(ref: str, imagebroker: Inside) -> None:
    done = imagebroker("download", ref, "x", "-o", "y", "-f", "json")
    assert_that(done.status, Equals(2))
    assert_that(done.stderr, Contains('"usage-error"'))
    assert_that(list(imagebroker.work.iterdir()), Equals([]))


@pytest.mark.parametrize(
    ("argv", "hint"),
    [
        (("-O", "REF"), "imagebroker download REF DEST"),
        (("-O", "x.img", "REF"), "imagebroker download REF DEST"),
        (("-k", "REF"), "--ca-file FILE"),
        (("--insecure", "REF"), "--ca-file FILE"),
        (("--no-check-certificate", "REF"), "--ca-file FILE"),
        (("-c", "http://host/x", "y"), "resuming needs no -c"),
        (("-C", "-", "REF"), "the same command resumes"),
        (("--resume", "REF"), "the same command resumes"),
        (("-LO", "REF"), "redirects are followed"),
        (("-nc", "REF"), "use --no-overwrite"),
        (("--bwlimit", "1M", "REF"), "use --rate-limit"),
        (("--max-download-limit=1M", "REF"), "use --rate-limit"),
        (("-P", "/tmp", "REF"), "name the directory as DEST"),
        (("-x", "4", "REF"), "several connections"),
        (("--retry", "3", "REF"), "use --retries"),
        (("--max-time", "3", "REF"), "use --deadline"),
        (("--cacert", "x.pem", "REF"), "use --ca-file"),
        (("--sha256", "0" * 64, "REF"), "use --checksum sha256:HEX"),
        (("--silent", "REF"), "use --quiet"),
        (("-H", "a: b", "REF"), "custom headers are not supported"),
    ],
    ids=lambda each: " ".join(each) if isinstance(each, tuple) else "",
)
def test_of_these_the_hint_says_what_to_use(
    argv: tuple[str, ...], hint: str, ref: str, imagebroker: Inside
) -> None:
    done = imagebroker("download", *(ref if word == "REF" else word for word in argv))
    assert_that(done.status, Equals(2))
    assert_that(done.stderr, Contains("[usage-error]"))
    assert_that(done.stderr.partition("hint: ")[2], Contains(hint))


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("--cheksum", ["--checksum"]),
        ("--maxsize", ["--max-size"]),
        ("--size-max", ["--max-size"]),
        ("--retires", ["--retries"]),
        ("--mim-rate", ["--min-rate"]),
        ("--no-overwrit", ["--no-overwrite"]),
        ("--rate", ["--rate-limit"]),
        ("--limit-rate", ["--rate-limit"]),
        ("--max-rate", []),
        ("--min-size", []),
        ("--resume", []),
        ("--force", []),
        ("--output", []),
        ("--insecure", []),
        ("--continue", []),
        ("--quiet", []),
        ("--proxy", []),
    ],
)
def test_a_suggestion_is_a_typing_error_away(typed: str, meant: list[str]) -> None:
    known = ["--checksum", "--max-size", "--retries", "--min-rate", "--no-overwrite", "--overwrite",
             "--rate-limit", "--progress", "--preallocate", "--file-mode", "--deadline",
             "--require-checksum", "--allow-empty", "--decompress"]  # fmt: skip
    assert_that(nearest(typed, known), Equals(meant))


@pytest.mark.parametrize(
    ("word", "meant"),
    [("downlaod", "download"), ("lst", "list"), ("ls", "list"), ("pull", "download"),
     ("rm", "delete"), ("upload", "create"), ("info", "show")],
)  # fmt: skip
def test_a_command_that_is_misspelt_or_another_programs(
    word: str, meant: str, imagebroker: Inside
) -> None:
    done = imagebroker(word, "x")
    assert_that((done.status, done.stderr), MatchesUsage(f"did you mean {meant}?"))


@pytest.mark.parametrize(
    ("argv", "hint"),
    [
        (("create", "my disk.raw"), "write --file 'my disk.raw'"),
        (("list", "glance:east"), "write --backend glance:east"),
        (("copy", "--backend", "x", "REF", "glance"), "imagebroker copy --help"),
        (("show", "x", "y"), "imagebroker show --help"),
        (("update", "x", "--visibility", "public"), "use --public, --private"),
        (("create", "--file", "x", "--visibility", "public"), "use --public, --private"),
    ],
    ids=lambda each: " ".join(each) if isinstance(each, tuple) else "",
)
def test_a_word_too_many_is_told_its_option(
    argv: tuple[str, ...], hint: str, imagebroker: Inside
) -> None:
    done = imagebroker(*argv)
    assert_that((done.status, done.stderr), MatchesUsage(hint))


def MatchesUsage(hint: str) -> Equals:  # noqa: N802 - a matcher
    class Matcher(Equals):
        def match(self, actual: tuple[int, str]) -> object:
            status, text = actual
            fine = status == 2 and "[usage-error]" in text and hint in text
            return None if fine else Equals((2, hint)).match(actual)

    return Matcher(hint)


def test_what_the_hints_name_exists() -> None:
    app = Application(Console())
    (download,) = (each for each in described(app) if each.name == "download")
    options = [*download.options, *actions(app.parser)]
    ours = {spelling for option in options for spelling in option.option_strings}
    for flag in foreign.FLAGS:
        for option in re.findall(r"(?<!\S)--[a-z][a-z-]+", foreign.instead_of(flag, "download")):
            assert_that(option in ours, Equals(True), f"{flag}: {option}")
        assert_that(flag in ours, Equals(False), f"{flag} is ours")
    for command in foreign.COMMANDS.values():
        assert_that(command in COMMANDS or command == "--version", Equals(True), command)


class TestOptionalValues:
    """No option with an optional value stands before an argument: it would swallow it."""

    def test_no_option_takes_a_value_or_none(self) -> None:
        app = Application(Console())
        takes = [
            f"{each.name} {option.option_strings}"
            for each in described(app)
            for option in each.options
            if option.nargs in ("?", "*", "+", argparse.REMAINDER)
        ]
        assert_that(takes, Equals([]))

    @pytest.mark.parametrize("option", ["--decompress", "--decompress=gzip", "--decompress=auto"])
    @pytest.mark.parametrize("order", [("OPTION", "REF", "x"), ("REF", "OPTION", "x"),
                                       ("REF", "x", "OPTION")])  # fmt: skip
    def test_decompress_stands_anywhere(
        self, option: str, order: tuple[str, ...], imagebroker: Inside, tmp_path: Path
    ) -> None:
        import gzip

        (tmp_path / "disk.gz").write_bytes(gzip.compress(DATA))
        words = {"OPTION": option, "REF": f"file://{tmp_path}/disk.gz"}
        done = imagebroker("download", *(words.get(each, each) for each in order))
        assert_that(done.status, Equals(0), done.stderr)
        assert_that((imagebroker.work / "x").read_bytes(), Equals(DATA))

    @pytest.mark.parametrize(
        ("argv", "hint"),
        [
            (("--decompress=lz4", "REF", "x"), "choose one of auto, gzip, xz, zstd, bzip2"),
            (("--decompress", "xz", "REF", "x"), "--decompress=xz"),
        ],
        ids=["unknown", "apart"],
    )
    def test_a_kind_that_is_none_or_stands_apart(
        self, argv: tuple[str, ...], hint: str, ref: str, imagebroker: Inside
    ) -> None:
        done = imagebroker("download", *(ref if word == "REF" else word for word in argv))
        assert_that((done.status, done.stderr), MatchesUsage(hint))


class TestUsageErrors:
    """They have an id of their own, in text and in JSON, and name the remedy."""

    @pytest.mark.parametrize(
        "argv",
        [
            (),
            ("frob",),
            ("--frob", "list"),
            ("download",),
            ("download", "a", "b", "c"),
            ("download", "x", "--frob"),
            ("download", "x", "--max-size", "much"),
            ("download", "x", "--progress", "loud"),
            ("download", "x", "--retries"),
            ("download", "x", "-c", "colour"),
            ("list", "--sort", ":"),
            ("list", "-f", "xml"),
            ("create", "--public", "--private"),
            ("update", "3f2504e0-4f89-11d3-9a0c-0305e82c3301"),
            ("update", "3f2504e0-4f89-11d3-9a0c-0305e82c3301", "--name", "x", "--remove", "name"),
            ("copy", "x"),
            ("backend", "new", "Crate"),
            ("create", "--file", "not/there"),
            ("download", "https://example.org/"),
        ],
        ids=lambda argv: " ".join(argv) or "nothing",
    )
    def test_each_is_one(self, argv: tuple[str, ...], imagebroker: Inside) -> None:
        done = imagebroker(*argv)
        assert_that(done.status, Equals(2))
        lines = done.stderr.splitlines()
        assert_that(lines[0], MatchesRegex(r"imagebroker: .* \[usage-error\]$"))
        assert_that(lines[1], MatchesRegex(r"  hint: \S"))
        assert_that(done.stderr, Not(Contains("usage: ")))

    @pytest.mark.parametrize(
        "argv",
        [("download", "-f", "json"), ("list", "-fjson", "--frob"),
         ("show", "x", "y", "--format", "json"), ("download", "x", "--retries", "-f", "json")],
        ids=" ".join,
    )  # fmt: skip
    def test_as_json(self, argv: tuple[str, ...], imagebroker: Inside) -> None:
        done = imagebroker(*argv)
        assert_that(done.stderr, MatchesRegex(r'\{"id": "usage-error", "class": "UsageError",'))


@pytest.mark.parametrize("argv", [("--output=~/x", "REF"), ("REF", "~/x")], ids=" ".join)
def test_a_home_directory_that_the_shell_has_not_expanded_is_meant(
    argv: tuple[str, ...], ref: str, imagebroker: Inside, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(imagebroker.work))
    done = imagebroker("download", *(ref if word == "REF" else word for word in argv))
    assert_that(done.status, Equals(0), done.stderr)
    assert_that((imagebroker.work / "x").read_bytes(), Equals(DATA))
    digest = hashlib.sha256(DATA).hexdigest()
    (imagebroker.work / "SHA256SUMS").write_text(f"{digest}  disk.raw\n")
    assert_that(imagebroker("download", ref, "y", "--checksum=~/SHA256SUMS").status, Equals(0))
    assert_that(imagebroker("create", "--file=~/x").status, Equals(0))


def test_a_directory_of_that_name_is_meant_where_there_is_one(
    ref: str, imagebroker: Inside
) -> None:
    (imagebroker.work / "~").mkdir()
    assert_that(imagebroker("download", ref, "~/x").status, Equals(0))
    assert_that((imagebroker.work / "~" / "x").read_bytes(), Equals(DATA))


def test_a_url_to_create_an_image_from_is_to_be_copied(ref: str, imagebroker: Inside) -> None:
    done = imagebroker("create", "--file", ref)
    command = re.search(r"hint: imagebroker (.*) NAME\n", done.stderr)
    assert command is not None, done.stderr
    assert_that(done.status, Equals(2))
    assert_that(imagebroker(*command[1].split(), "file").status, Equals(0))


@pytest.mark.parametrize(
    ("argv", "data", "hint"),
    [
        (("--file", "x", "--size", "5"), b"", "no size, or the right one"),
        (
            ("--file", "-", "--size", "10", "--name", "y"),
            b"abc",
            "check that the source is complete",
        ),
        (("--file", "x", "--id", "abc"), b"", "write one such as"),
        (("--file", "x", "--name", "\udcff"), b"", "write it in UTF-8"),
    ],
)
def test_what_is_wrong_with_an_upload_has_a_remedy(
    argv: tuple[str, ...], data: bytes, hint: str, shell: Shell
) -> None:
    (shell.work / "x").write_bytes(DATA)
    done = shell.run("create", *argv, data=data)
    assert_that(done.status, Not(Equals(0)))
    assert_that(done.stderr, Contains(hint))


@pytest.mark.parametrize("kind", ["gzip", "xz"])
def test_a_hint_about_decompression_is_for_the_command(
    kind: str, ref: str, imagebroker: Inside
) -> None:
    done = imagebroker("download", ref, "x", f"--decompress={kind}")
    option = re.search(r"hint: pass (--decompress=\S+)", done.stderr)
    assert option is not None, done.stderr
    assert_that(imagebroker("download", ref, "x", option[1]).status, Equals(0))
    compress = {"gzip": gzip.compress, "xz": lzma.compress}[kind]
    (imagebroker.folder / "disk.packed").write_bytes(compress(DATA))
    packed, digest = f"file://{imagebroker.folder}/disk.packed", hashlib.sha256(DATA).hexdigest()
    done = imagebroker("download", packed, "y", "--decompress", "--checksum", digest)
    assert_that(done.status, Equals(6))
    assert_that(done.stderr, Contains("it is the digest of the compressed file"))
