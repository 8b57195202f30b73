"""`--metrics-file`: what node-exporter gets to read of a run that cron or systemd began."""

from __future__ import annotations

import os
import sys
from configparser import ConfigParser
from pathlib import Path

import pytest
from testtools.assertions import assert_that
from testtools.matchers import Contains, ContainsAll, Equals, GreaterThan

from tests.cli.conftest import Inside

parser = pytest.importorskip("prometheus_client.parser")

DATA = bytes(range(256)) * 40
ROOT = Path(__file__).parents[2]


def metrics(path: Path) -> dict[str, float]:
    """The values, read as Prometheus reads them; each has the labels of its run."""
    found = {}
    for family in parser.text_string_to_metric_families(path.read_text()):
        for sample in family.samples:
            assert_that(sample.labels["run"], Equals(path.stem))
            found[sample.name.removeprefix("imagebroker_run_")] = sample.value
    return found


def stored(imagebroker: Inside) -> str:
    (imagebroker.work / "disk.raw").write_bytes(DATA)
    ref: str = imagebroker("create", "--file", "disk.raw", "-f", "json").record["ref"]
    return ref


@pytest.mark.promise("metrics-file")
def test_a_run_is_counted(imagebroker: Inside, tmp_path: Path) -> None:
    ref, path = stored(imagebroker), tmp_path / "debian-12.prom"
    done = imagebroker("--metrics-file", str(path), "download", ref, "dest")
    found = metrics(path)
    assert_that(done.status, Equals(0))
    assert_that((found["exit_status"], found["bytes"], found["retries"]), Equals((0, len(DATA), 0)))
    assert_that(found["seconds"], GreaterThan(0))
    assert_that(found["success_timestamp_seconds"], GreaterThan(1.7e9))
    assert_that(path.read_text(), ContainsAll(['command="download"', 'backend="file"']))
    assert_that(
        [name for name in os.listdir(tmp_path) if name.startswith("debian")], Equals([path.name])
    )


@pytest.mark.promise("metrics-file")
def test_a_run_without_news_moved_nothing(imagebroker: Inside, tmp_path: Path) -> None:
    ref, path = stored(imagebroker), tmp_path / "run.prom"
    for _ in range(2):
        imagebroker("--metrics-file", str(path), "download", ref, "dest")
    assert_that((metrics(path)["exit_status"], metrics(path)["bytes"]), Equals((0, 0)))


@pytest.mark.promise("metrics-file")
def test_a_run_that_fails_is_counted_and_the_last_success_stays(
    imagebroker: Inside, tmp_path: Path
) -> None:
    ref, path = stored(imagebroker), tmp_path / "run.prom"
    imagebroker("--metrics-file", str(path), "download", ref, "dest")
    before = metrics(path)["success_timestamp_seconds"]
    imagebroker("delete", ref)
    done = imagebroker("--metrics-file", str(path), "download", ref, "dest")
    found = metrics(path)
    assert_that((done.status, found["exit_status"]), Equals((3, 3)))
    assert_that(found["success_timestamp_seconds"], Equals(before))


@pytest.mark.promise("metrics-file")
def test_a_config_file_with_a_mistake_is_a_run_that_failed(
    imagebroker: Inside, tmp_path: Path
) -> None:
    imagebroker.config("[imagebroker]\nretries = many\n")
    path = tmp_path / "run.prom"
    imagebroker("--metrics-file", str(path), "download", "file:///x", "dest")
    assert_that(metrics(path)["exit_status"], Equals(2))
    assert_that("success_timestamp_seconds" in metrics(path), Equals(False))


def test_a_directory_that_is_not_there_is_an_error_before_anything_is_done(
    imagebroker: Inside, tmp_path: Path
) -> None:
    ref = stored(imagebroker)
    done = imagebroker("--metrics-file", f"{tmp_path}/missing/x.prom", "download", ref, "dest")
    assert_that(done.status, Equals(9))
    assert_that(done.stderr, Contains("--collector.textfile.directory"))
    assert_that((imagebroker.work / "dest").exists(), Equals(False))


def test_without_the_library_the_extra_is_named(
    imagebroker: Inside, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "prometheus_client", None)
    done = imagebroker("--metrics-file", f"{tmp_path}/x.prom", "list")
    assert_that(done.status, Equals(2))
    assert_that(done.stderr, Contains("pip install 'imagebroker[metrics]'"))


def test_the_extras_name_what_is_imported() -> None:
    setup = ConfigParser()
    setup.read(ROOT / "setup.cfg")
    extras = setup["options.extras_require"]
    for extra, library in (("metrics", "prometheus-client"), ("tracing", "opentelemetry-api")):
        assert_that(extras[extra], Contains(library))
        assert_that(extras["all"], Contains(f"imagebroker[{extra}]"))
