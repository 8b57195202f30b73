"""Logging: one tree of loggers, with the request's id in what plugins write too."""

from __future__ import annotations

import io
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from oslo_config import cfg
from oslo_context.context import RequestContext
from oslo_log import formatters
from testtools.assertions import assert_that
from testtools.matchers import Contains, Equals

from imagebroker.plugin import Buffer, Image, ImageBackend, ImageRef, ImageSource, RefForm
from tests.distributions import install

LOG = logging.getLogger("imagebroker_loud")


class LoudBackend(ImageBackend):
    """Says in the log what it does."""

    api_version = 1
    name = "loud"
    ref_form = RefForm(host=True, path=True)

    def open(self, context: Any, ref: ImageRef) -> ImageSource:
        LOG.warning("opening")
        return LoudSource(ref)


class LoudSource(ImageSource):
    def __init__(self, ref: ImageRef) -> None:
        self.image = Image(ref=ref.text, size=5)

    def read(self, start: int = 0, stop: int | None = None) -> Iterator[Buffer]:
        LOG.warning("reading")
        yield b"bytes"


@pytest.fixture
def log() -> Iterator[io.StringIO]:
    """What oslo.log writes, as a service would configure it."""
    conf = cfg.ConfigOpts()
    conf.register_opts(
        [
            cfg.StrOpt("logging_context_format_string", default="[%(request_id)s] %(message)s"),
            cfg.StrOpt("logging_default_format_string", default="[-] %(message)s"),
            cfg.StrOpt("logging_exception_prefix", default=""),
            cfg.StrOpt("logging_debug_format_suffix", default=""),
            cfg.StrOpt("logging_user_identity_format", default=""),
        ]
    )
    conf([])
    text = io.StringIO()
    handler = logging.StreamHandler(text)
    handler.setFormatter(formatters.ContextFormatter(config=conf))
    logging.getLogger().addHandler(handler)
    yield text
    logging.getLogger().removeHandler(handler)


@pytest.mark.promise("log-context")
@pytest.mark.parametrize("way", ["path", "reader"])
def test_the_requests_id_is_in_what_a_plugin_logs(
    way: str, log: io.StringIO, on_path: Path, make_broker: Any, tmp_path: Path
) -> None:
    install(on_path, "imagebroker-loud", {"loud": "tests.service.test_logging:LoudBackend"})
    broker = make_broker("[imagebroker]\nenabled_schemes = loud\n")
    context = RequestContext(request_id="req-of-this-call", overwrite=False)
    if way == "path":
        broker.download(context, "loud://host/image", tmp_path / "dest")
    else:
        with broker.open(context, "loud://host/image") as reader:
            assert_that(reader.read(), Equals(b"bytes"))
    assert_that(log.getvalue(), Contains("[req-of-this-call] opening"))
    assert_that(log.getvalue(), Contains("[req-of-this-call] reading"))


@pytest.mark.promise("log-context")
def test_the_callers_thread_keeps_its_own_request(
    log: io.StringIO, on_path: Path, make_broker: Any, tmp_path: Path
) -> None:
    install(on_path, "imagebroker-loud", {"loud": "tests.service.test_logging:LoudBackend"})
    broker = make_broker("[imagebroker]\nenabled_schemes = loud\n")
    RequestContext(request_id="req-of-this-thread")
    context = RequestContext(request_id="req-of-this-call", overwrite=False)
    broker.download(context, "loud://host/image", tmp_path / "dest")
    LOG.warning("afterwards")
    assert_that(log.getvalue(), Contains("[req-of-this-thread] afterwards"))
