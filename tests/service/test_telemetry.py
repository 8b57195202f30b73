"""Metrics and spans: recorded where the libraries are installed, and unimported otherwise."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from testtools.assertions import assert_that
from testtools.matchers import Contains, Equals, GreaterThan, Not

from imagebroker import ImageNotFound, TransferError
from tests.bounds import HANGS
from tests.conftest import Scripted

prometheus_client = pytest.importorskip("prometheus_client")

DATA = bytes(range(256)) * 40


class Counted:
    """How much the metrics have grown since this was made."""

    def __init__(self) -> None:
        self._before = self._samples()

    def _samples(self) -> dict[tuple[str, ...], float]:
        return {
            (sample.name, *sorted(sample.labels.values())): sample.value
            for metric in prometheus_client.REGISTRY.collect()
            for sample in metric.samples
            if sample.name.startswith("imagebroker_")
        }

    def __call__(self, name: str, *labels: str) -> float:
        key = (name, *sorted(labels))
        return self._samples().get(key, 0.0) - self._before.get(key, 0.0)


@pytest.mark.promise("metrics")
def test_a_download_counts_itself_its_bytes_seconds_and_retries(
    scripted: Scripted, tmp_path: Path
) -> None:
    ref, script = scripted.image(DATA, version="1")
    script.breaks = [(3000, TransferError("cut"))]
    counted = Counted()
    scripted.broker.download(None, ref, tmp_path / "dest")
    assert_that(counted("imagebroker_calls_total", "download", "scripted", "ok"), Equals(1))
    assert_that(counted("imagebroker_bytes_total", "download", "scripted"), Equals(len(DATA)))
    assert_that(counted("imagebroker_retries_total", "download", "scripted"), Equals(1))
    assert_that(counted("imagebroker_call_seconds_count", "download", "scripted"), Equals(1))
    assert_that(counted("imagebroker_call_seconds_sum", "download", "scripted"), GreaterThan(0))


@pytest.mark.promise("metrics")
def test_a_failure_is_counted_by_the_class_of_its_error_and_its_backend(
    scripted: Scripted, tmp_path: Path
) -> None:
    counted = Counted()
    with pytest.raises(ImageNotFound):
        scripted.broker.download(None, "scripted://host/nothing", tmp_path / "dest")
    with pytest.raises(ImageNotFound):
        scripted.broker.get(None, "scripted://host/nothing")
    for verb in ("download", "get"):
        outcome = counted("imagebroker_calls_total", verb, "scripted", "ImageNotFound")
        assert_that(outcome, Equals(1))


def test_a_reader_is_counted_when_it_is_closed(scripted: Scripted) -> None:
    ref, _ = scripted.image(DATA)
    counted = Counted()
    with scripted.broker.open(None, ref) as reader:
        assert_that(counted("imagebroker_calls_total", "open", "scripted", "ok"), Equals(1))
        assert_that(reader.read(), Equals(DATA))
        assert_that(counted("imagebroker_calls_total", "read", "scripted", "ok"), Equals(0))
    assert_that(counted("imagebroker_calls_total", "read", "scripted", "ok"), Equals(1))
    assert_that(counted("imagebroker_bytes_total", "read", "scripted"), Equals(len(DATA)))


def test_records_and_uploads_are_counted(tmp_path: Path, make_broker: Any) -> None:
    broker = make_broker(
        f"[imagebroker]\nenabled_schemes = file\n[backend:file]\nstore_dir = {tmp_path}/store\n"
    )
    counted = Counted()
    image = broker.create(None, {"name": "one"}, DATA)
    broker.update(None, image.ref, {"name": "two"})
    list(broker.get_all(None))
    broker.delete(None, image.ref)
    for verb in ("create", "update", "get_all", "delete"):
        assert_that(counted("imagebroker_calls_total", verb, "file", "ok"), Equals(1))
    assert_that(counted("imagebroker_bytes_total", "create", "file"), Equals(len(DATA)))


@pytest.mark.promise("metrics")
def test_nothing_of_a_ref_or_record_is_in_the_metrics(scripted: Scripted, tmp_path: Path) -> None:
    ref, _ = scripted.image(DATA, path="/canary-in-a-path")
    scripted.broker.download(None, ref, tmp_path / "canary-dest")
    text = prometheus_client.generate_latest().decode()
    assert_that(text, Contains('backend="scripted"'))
    assert_that(text, Not(Contains("canary")))


def test_metrics_that_are_turned_off_are_not_counted(scripted: Scripted, tmp_path: Path) -> None:
    ref, _ = scripted.image(DATA)
    broker = scripted.configured("metrics = false")
    counted = Counted()
    broker.download(None, ref, tmp_path / "dest")
    assert_that(counted("imagebroker_calls_total", "download", "scripted", "ok"), Equals(0))


STORE_ONE = """
import pathlib
import sys
import imagebroker
PREPARE
pathlib.Path(sys.argv[1]).write_text(
    "[imagebroker]\\nenabled_schemes = file\\nOPTIONS\\n[backend:file]\\nstore_dir = " + sys.argv[1] + ".store\\n"
)
with imagebroker.Broker.from_config(sys.argv[1]) as broker:
    image = broker.create(None, {"name": "one"}, b"bytes of an image")
    broker.download(None, image.ref, sys.argv[1] + ".copy")
AFTER
print(sorted({name.partition(".")[0] for name in sys.modules} & {"prometheus_client", "opentelemetry"}))
"""


def run(tmp_path: Path, prepare: str = "", options: str = "", after: str = "") -> str:
    """What a service prints that stores and downloads an image."""
    program = STORE_ONE.replace("PREPARE", prepare).replace("OPTIONS", options)
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", program.replace("AFTER", after), tmp_path / "conf"],
        capture_output=True, text=True, check=False, timeout=HANGS,
    )  # fmt: skip
    assert_that(done.stderr, Equals(""))
    return done.stdout


@pytest.mark.promise("metrics")
def test_what_is_turned_off_is_not_imported(tmp_path: Path) -> None:
    told = run(tmp_path, options="metrics = false\\ntracing = false")
    assert_that(told, Equals("[]\n"))


@pytest.mark.promise("metrics")
def test_it_works_without_the_libraries(tmp_path: Path) -> None:
    hidden = """
import importlib.abc
class Missing(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("prometheus_client", "opentelemetry"):
            raise ModuleNotFoundError(name)
        return None
sys.meta_path.insert(0, Missing())
"""
    assert_that(run(tmp_path, prepare=hidden), Equals("[]\n"))


SPANS = """
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
exporter = InMemorySpanExporter()
provider = TracerProvider()
provider.add_span_processor(SimpleSpanProcessor(exporter))
trace.set_tracer_provider(provider)
"""


@pytest.mark.promise("spans")
def test_each_call_is_a_span_with_what_was_moved(tmp_path: Path) -> None:
    pytest.importorskip("opentelemetry.sdk")
    after = """
for span in exporter.get_finished_spans():
    print(span.name, span.attributes["imagebroker.backend"], span.attributes["imagebroker.bytes"])
"""
    told = run(tmp_path, prepare=SPANS, after=after)
    assert_that(told, Contains("imagebroker.create file 17\nimagebroker.download file 17\n"))


@pytest.mark.promise("spans")
def test_a_span_says_how_a_call_failed_and_what_plugins_record_lies_below_it(
    tmp_path: Path,
) -> None:
    pytest.importorskip("opentelemetry.sdk")
    after = """
import imagebroker_file
original = imagebroker_file.FileBackend.open
def opened(self, context, ref):
    with trace.get_tracer("plugin").start_as_current_span("plugin.open"):
        return original(self, context, ref)
imagebroker_file.FileBackend.open = opened
with imagebroker.Broker.from_config(sys.argv[1]) as broker:
    try:
        broker.download(None, "3f2504e0-4f89-11d3-9a0c-0305e82c3301", sys.argv[1] + ".copy")
    except imagebroker.ImageNotFound:
        pass
below, above = exporter.get_finished_spans()[-2:]
print(below.name, below.parent.span_id == above.context.span_id)
print(above.name, above.status.status_code.name, above.attributes["error.type"])
"""
    told = run(tmp_path, prepare=SPANS, after=after)
    assert_that(told, Contains("plugin.open True\nimagebroker.download ERROR ImageNotFound\n"))
