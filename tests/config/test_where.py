"""An error says where the option stands that decides."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import pytest
from oslo_config import cfg
from testtools.assertions import assert_that
from testtools.matchers import EndsWith, Equals, StartsWith

from imagebroker import Broker, ConfigError, ImageBrokerError
from imagebroker.config.settings import Settings
from tests.conftest import Scripted

IMAGE = "3f2504e0-4f89-11d3-9a0c-0305e82c3301"
CONFIG = """# a comment
[imagebroker]
enabled_schemes = file,
    http
max_size = 10

[backend:http]
allowed-networks =
[backend:file]
allowed_paths = FOLDER
[backend:http:east]
endpoint = http://10.0.0.1/
proxy = http://10.0.0.1:0/
"""


@pytest.fixture
def config(tmp_path: Path) -> Path:
    (tmp_path / "large").write_bytes(b"0123456789a")
    path = tmp_path / "imagebroker.conf"
    path.write_text(CONFIG.replace("FOLDER", str(tmp_path)))
    return path


Call = Callable[[Broker, Path], object]


@pytest.mark.parametrize(
    ("line", "option", "call"),
    [
        (3, "[imagebroker] enabled_schemes", lambda b, p: b.resolve("scp://h/x")),
        (5, "[imagebroker] max_size", lambda b, p: b.download(None, f"file://{p}/large", p / "x")),
        (8, "[backend:http] allowed_networks", lambda b, p: b.resolve("http://10.0.0.2/x")),
        (8, "[backend:http] allowed_networks", lambda b, p: b.get(None, "http://localhost/x")),
        (10, "[backend:file] allowed_paths", lambda b, p: b.open(None, "file:///etc/passwd")),
        (13, "[backend:http:east] proxy", lambda b, p: b.resolve("http://10.0.0.1/disk")),
    ],
)
def test_the_line_of_an_option_that_is_written(
    line: int, option: str, call: Call, config: Path
) -> None:
    with Broker.from_config(config) as broker, pytest.raises(ImageBrokerError) as caught:
        call(broker, config.parent)
    error = caught.value
    assert_that((error.option, error.where), Equals((option, f"{config}:{line}: {option}")))


@pytest.mark.parametrize(
    ("schemes", "where", "call"),
    [
        ("http", "6: [backend:http] allowed_ports", lambda b, p: b.resolve("http://h:25/x")),
        ("http", "2: [imagebroker] default_backend", lambda b, p: b.resolve(IMAGE)),
        ("file", "2: [imagebroker] allow_md5",
         lambda b, p: b.open(None, f"file://{p}/large", checksum="md5:" + 32 * "0")),
    ],
)  # fmt: skip
def test_the_section_of_an_option_that_is_not(
    schemes: str, where: str, call: Call, config: Path
) -> None:
    config.write_text(config.read_text().replace("file,\n    http", schemes))
    with Broker.from_config(config) as broker, pytest.raises(ImageBrokerError) as caught:
        call(broker, config.parent)
    assert_that(caught.value.where, Equals(f"{config}:{where} is not set"))


@pytest.mark.parametrize(
    ("change", "where"),
    [
        (("enabled_schemes = file", "enabled_schemes = fiel"), ":3: [imagebroker] enabled_schemes"),
        (("max_size = 10", "deadline = soon"), ":5: [imagebroker] deadline"),
        (("max_size = 10", "allowed_formats = qcow3"), ":5: [imagebroker] allowed_formats"),
        (("max_size = 10", "nonsense"), ":5"),
    ],
)
def test_what_is_wrong_with_the_file_itself(
    change: tuple[str, str], where: str, config: Path
) -> None:
    config.write_text(config.read_text().replace(*change))
    with pytest.raises(ConfigError) as caught:
        Broker.from_config(config)
    assert_that(caught.value.where, Equals(f"{config}{where}"))


def test_what_ends_a_reader_has_a_place_too(scripted: Scripted) -> None:
    broker = scripted.configured("stall_timeout = 0.2")
    ref, _ = scripted.image(bytes(5000), before_chunk=lambda offset: time.sleep(offset / 2000))
    with broker.open(None, ref, retries=0) as reader, pytest.raises(ImageBrokerError) as caught:
        reader.read()
    assert_that(caught.value.id, Equals("transfer-timeout"))
    assert_that(caught.value.where, EndsWith(".conf:4: [imagebroker] stall_timeout"))


def test_a_service_with_several_files_is_told_the_one_that_counts(tmp_path: Path) -> None:
    (tmp_path / "nova.conf").write_text("[DEFAULT]\n[imagebroker]\nenabled_schemes = file\n")
    folder = tmp_path / "nova.conf.d"
    folder.mkdir()
    (folder / "images.conf").write_text("\n\n[imagebroker]\nenabled_schemes = http\n")
    conf = cfg.ConfigOpts()
    conf(["--config-dir", str(folder)], default_config_files=[str(tmp_path / "nova.conf")])
    with Broker(conf) as broker, pytest.raises(ImageBrokerError) as caught:
        broker.resolve("file:///x")
    assert_that(caught.value.where, StartsWith(f"{folder}/images.conf:4: "))


def test_without_a_config_file_there_is_no_place(config: Path) -> None:
    with Broker(Settings.for_person()) as broker, pytest.raises(ImageBrokerError) as caught:
        broker.download(None, f"file://{config.parent}/large", config.parent / "x", max_size=1)
    assert_that((caught.value.id, caught.value.where), Equals(("too-large", "")))


def test_a_secret_in_the_file_is_in_no_error(config: Path) -> None:
    config.write_text(config.read_text().replace("max_size = 10", "password: hunter2\nx\n"))
    with pytest.raises(ConfigError) as caught:
        Broker.from_config(config)
    assert "hunter2" not in f"{caught.value} {caught.value.hint} {caught.value.where}"
