"""A person's own config file overlays the personal defaults; a file that is named does not."""

from __future__ import annotations

import hashlib
import re
import textwrap
from collections.abc import Iterator
from pathlib import Path

import pytest
from testtools.assertions import assert_that
from testtools.matchers import Contains, Equals, StartsWith

from tests.cli.conftest import Inside
from tests.cli.test_mistakes import DATA, web
from tests.servers.certificates import write_certificates


@pytest.fixture
def home(imagebroker: Inside) -> Inside:
    """The command, with a file outside of everything that a config file allows."""
    (imagebroker.folder / "disk.raw").write_bytes(DATA)
    return imagebroker


def own(home: Inside, text: str) -> Path:
    """The person's own config file, which is found and not named."""
    path = home.config(textwrap.dedent(text))
    home.config_file = None
    return path


@pytest.fixture
def private(tmp_path: Path) -> Iterator[tuple[str, Path]]:
    """The URL of a server with a certificate of a private authority, and that authority's."""
    ca_file = write_certificates(tmp_path / "certificates")
    with web(ca_file.with_name("good.pem")) as url:
        yield url, ca_file


@pytest.mark.parametrize(
    "text",
    [
        "[imagebroker]\nretries = 1\n",
        "[backend:http]\nca_file = /etc/ssl/certs/ca-certificates.crt\n",
        "[backend:scp]\nusername = me\n",
        "[backend:glance:east]\nendpoint = https://glance.example.org/\n",
        "",
    ],
)
def test_a_file_that_sets_one_thing_takes_nothing_else_away(text: str, home: Inside) -> None:
    own(home, text)
    for ref in (f"file://{home.folder}/disk.raw", None):
        if ref is not None:
            done = home("download", ref, "x")
        else:
            with web() as url:
                done = home("download", url, "x")
        assert_that(done.status, Equals(0), done.stderr)
    assert_that(home("create", "--name", "x").status, Equals(0))
    assert_that((home.folder / "data" / "imagebroker").is_dir(), Equals(True))


def test_what_it_sets_is_in_force(home: Inside) -> None:
    path = own(home, "[imagebroker]\nmax_size = 1K\n")
    done = home("download", f"file://{home.folder}/disk.raw", "x")
    assert_that(done.status, Equals(4))
    assert_that(done.stderr, Contains(f"where: {path}:2: [imagebroker] max_size"))


@pytest.mark.parametrize(
    ("text", "status"),
    [
        ("[imagebroker]\nenabled_schemes = http\n", 7),
        ("[backend:file]\nallowed_paths = /srv/images\n", 4),
        ("[imagebroker]\nmax_virtual_size = 1K\n", 6),
    ],
)
def test_what_it_lists_is_all_that_is_allowed(text: str, status: int, home: Inside) -> None:
    own(home, text)
    assert_that(home("download", f"file://{home.folder}/disk.raw", "x").status, Equals(status))


def test_networks_that_it_lists_are_all_beyond_global_addresses(home: Inside) -> None:
    path = own(home, "[backend:http]\nallowed_networks = 10.0.0.0/8\n")
    with web() as url:
        done = home("download", url, "x")
    assert_that(done.status, Equals(4))
    assert_that(done.stderr, Contains(f"{path}:2: [backend:http] allowed_networks"))


@pytest.mark.parametrize("ref", ["file:///etc/hostname", "http://127.0.0.1:9/x", "scp://h/x"])
def test_a_file_that_is_named_denies_what_it_does_not_allow_even_ones_own(
    ref: str, home: Inside
) -> None:
    path = own(home, "[imagebroker]\nretries = 0\n")
    done = home("--config-file", str(path), "download", ref, "x")
    assert_that(done.status, Equals(7))
    assert_that(done.stderr, Contains("[scheme-not-enabled]"))


def test_a_misspelt_option_and_a_scheme_that_it_enables_in_vain_are_found(home: Inside) -> None:
    own(home, "[backend:http]\nca_fil = /x\n")
    assert_that(home("check").stdout.decode(), Contains("ca_file"))
    own(home, "[imagebroker]\nenabled_schemes = htps\n")
    assert_that(home("show", "file:///etc/hostname").stderr, Contains("did you mean https?"))


def test_a_private_authority_needs_no_config_file(home: Inside, private: tuple[str, Path]) -> None:
    url, ca_file = private
    refused = home("download", url, "x")
    assert_that(refused.status, Equals(4))
    found = re.search(r"(--ca-file) FILE", refused.stderr)
    assert found is not None, refused.stderr
    for verb in (("download", url, "x"), ("show", url)):
        done = home(*verb, found[1], str(ca_file))
        assert_that(done.status, Equals(0), done.stderr)


def test_a_private_authority_is_named_beside_a_config_file_and_by_a_relative_path(
    home: Inside, private: tuple[str, Path]
) -> None:
    url, ca_file = private
    (home.work / "ca.pem").write_bytes(ca_file.read_bytes())
    home.config("[imagebroker]\nenabled_schemes = https\n[backend:http]\n"
                "allowed_networks = 127.0.0.1\nca_file = /nonexistent\n")  # fmt: skip
    done = home("download", "--ca-file", "ca.pem", url, "x")
    assert_that(done.status, Equals(0), done.stderr)


def test_an_authority_that_cannot_be_read_is_an_error_before_anything_is_sent(
    home: Inside, private: tuple[str, Path]
) -> None:
    (home.work / "empty.pem").touch()
    for file in ("missing.pem", "empty.pem"):
        done = home("download", private[0], "x", "--ca-file", file)
        assert_that(done.status, Equals(2), done.stderr)
        assert_that(done.stderr, StartsWith("imagebroker: --ca-file"))
        assert_that("[backend" in done.stderr, Equals(False), done.stderr)


def test_every_command_that_talks_to_a_server_has_it(home: Inside) -> None:
    for verb in ("download", "show", "list", "create", "update", "delete", "copy", "import",
                 "cache load"):  # fmt: skip
        helped = home(*verb.split(), "--help").stdout.decode()
        assert_that(helped, Contains("--ca-file FILE"), verb)


def test_without_a_config_file_an_error_names_the_one_to_write_an_option_into(
    home: Inside,
) -> None:
    home.config_file = None
    done = home("download", f"file://{home.folder}/disk.raw", "x", "--checksum", "md5:" + "0" * 32)
    where = re.search(r"where: (\S+)", done.stderr)
    option = re.search(r"set (\w+) in (\[\w+\])", done.stderr)
    assert where is not None, done.stderr
    assert option is not None, done.stderr
    assert_that(home("cache", "list").stderr, Contains(where[0]))
    Path(where[1]).parent.mkdir(parents=True)
    Path(where[1]).write_text(f"{option[2]}\n{option[1]} = true\n")
    done = home("download", f"file://{home.folder}/disk.raw", "x", "--checksum",
                f"md5:{hashlib.md5(DATA).hexdigest()}")  # fmt: skip
    assert_that(done.status, Equals(0), done.stderr)


@pytest.mark.parametrize("title", ["[ imagebroker ]", "[imagebroker ]"])
def test_a_section_with_blanks_in_its_brackets_is_refused(title: str, home: Inside) -> None:
    """oslo.config takes them for a part of the title, and so nothing would read the section."""
    path = home.config(f"{title}\nenabled_schemes = file\n")
    done = home("download", f"file://{home.folder}/disk.raw", "x")
    assert_that(done.status, Equals(2))
    assert_that(done.stderr, Contains(f"where: {path}:1"))
    assert_that(done.stderr, Contains("hint: write [imagebroker]"))


def test_a_config_file_without_a_name_is_a_mistake(home: Inside) -> None:
    """Such as `--config-file "$CONFIG"`."""
    for argv in (("list",), ("check",), ("config", "show")):
        done = home("--config-file", "", *argv)
        assert_that((done.status, "names no file" in done.stderr), Equals((2, True)), done.stderr)
