"""`config show` has every value with its source, and no secret."""

from __future__ import annotations

from typing import Any

import pytest
from testtools.assertions import assert_that
from testtools.matchers import Contains, ContainsAll, Equals, Not

from tests.cli.conftest import Inside


class TestConfigShow:
    """Every value with its source, and no secret."""

    CONFIG = """\
        [imagebroker]
        enabled_schemes = https, glance, missing
        deadline = 60

        [backend:http]
        endpoint = https://127.0.0.1/
        username = me
        password = s3cret
        min_tls = SSLv3
        [backend:glance:west]
        auth_type = password
        password = s3cret
        proxy = http://me:s3cret@proxy:3128
        """

    def rows(self, imagebroker: Inside, *argv: str) -> dict[tuple[str, str], tuple[Any, str]]:
        path = imagebroker.config(self.CONFIG)
        done = imagebroker("config", "show", "-f", "json", *argv)
        assert_that(done.status, Equals(0))
        assert_that(done.stdout.decode() + done.stderr, Not(Contains("s3cret")))
        return {
            (row["section"], row["option"]): (row["value"], row["source"].replace(f"{path}:", ""))
            for row in done.record
        }

    def test_a_line_or_the_default(self, imagebroker: Inside) -> None:
        rows = self.rows(imagebroker)
        assert_that(rows["imagebroker", "deadline"], Equals((60, "3")))
        assert_that(rows["imagebroker", "retries"], Equals((4, "default")))
        assert_that(rows["backend:http", "password"], Equals(("***", "8")))
        assert_that(rows["backend:http", "cert_file"], Equals((None, "default")))
        assert_that(rows["backend:glance:west", "password"], Equals(("***", "12")))
        assert_that(rows["backend:glance:west", "auth_url"], Equals((None, "default")))
        assert_that(rows["backend:http", "min_tls"][0], Contains("invalid: "))

    def test_only_what_is_written(self, imagebroker: Inside) -> None:
        rows = self.rows(imagebroker, "--written")
        assert_that({source for _, source in rows.values()}, Not(Contains("default")))
        assert_that(len(rows), Equals(9))

    def test_one_section(self, imagebroker: Inside) -> None:
        rows = self.rows(imagebroker, "[backend:glance:west]")
        assert_that({section for section, _ in rows}, Equals({"backend:glance:west"}))
        done = imagebroker("config", "show", "backend:scp")
        assert_that(done.status, Equals(2))
        assert_that(done.stderr, Contains("hint: choose one of imagebroker, backend:glance:west"))

    def test_the_environment_is_no_source(
        self, imagebroker: Inside, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("OS_IMAGEBROKER__RETRIES", "9")
        assert_that(self.rows(imagebroker)["imagebroker", "retries"], Equals((4, "default")))

    def test_without_a_config_file_everything_installed_is_enabled(
        self, imagebroker: Inside
    ) -> None:
        rows = imagebroker("config", "show", "-f", "json", "imagebroker").record
        values = {row["option"]: row["value"] for row in rows}
        assert_that(values["enabled_schemes"], ContainsAll(["file", "http", "https"]))

    def test_a_file_that_is_none_is_an_error(self, imagebroker: Inside) -> None:
        imagebroker.config("nonsense")
        assert_that(imagebroker("config", "show").status, Equals(2))
