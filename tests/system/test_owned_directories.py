"""Every directory of ours is this user's alone, whatever the umask, and somebody else's is refused."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from imagebroker_file.errors import translated
from testtools.assertions import assert_that
from testtools.matchers import Contains, EndsWith, Equals, MatchesRegex

import imagebroker
from imagebroker.exceptions import ConfigError, NotAuthorized
from imagebroker.system.owned_directory import make_private, open_owned
from tests.bounds import HANGS

MakeBroker = Callable[..., imagebroker.Broker]

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a directory away")


@pytest.fixture(params=[0, 0o077, 0o777], ids=oct)
def umask(request: pytest.FixtureRequest) -> Iterator[int]:
    before = os.umask(request.param)
    yield request.param
    os.umask(before)


def use(option: str, path: Path, make_broker: MakeBroker, tmp_path: Path) -> None:
    """Whatever first uses the directory that the option names."""
    image = tmp_path / "image"
    image.touch()
    image.chmod(0o600)
    image.write_bytes(b"the bytes of an image")
    core = f"{option} = {path}" if option != "store_dir" else ""
    store = path if option == "store_dir" else tmp_path / "the store"
    broker = make_broker(
        f"[imagebroker]\nenabled_schemes = file\n{core}\n"
        f"[backend:file]\nstore_dir = {store}\nallowed_paths = {tmp_path}\n"
    )
    made = broker.create(None, {"disk_format": "raw", "container_format": "bare"}, b"abc")
    broker.download(None, made.ref, tmp_path / "copy")


OPTIONS = ("state_dir", "cache_dir", "store_dir")


@pytest.mark.promise("owned-directories")
@pytest.mark.parametrize("option", OPTIONS)
def test_it_and_what_is_missing_above_it_are_made_for_this_user_alone(
    option: str, umask: int, make_broker: MakeBroker, tmp_path: Path
) -> None:
    os.umask(0o077)  # what pytest and the config file need
    path = tmp_path / "a" / "b" / "c"
    config = tmp_path / "imagebroker.conf"
    config.touch()
    os.umask(umask)
    make_private(path)
    os.umask(0o077)
    for each in (path, path.parent, path.parent.parent):
        assert_that(each.stat().st_mode & 0o7777, Equals(0o700), str(each))
    use(option, tmp_path / "d" / "e", make_broker, tmp_path)
    for each in (tmp_path / "d", tmp_path / "d" / "e"):
        assert_that(each.stat().st_mode & 0o7777, Equals(0o700), str(each))


@pytest.mark.promise("owned-directories")
@pytest.mark.parametrize("option", OPTIONS)
@pytest.mark.parametrize("mode", [0o777, 0o1777, 0o770, 0o702])
def test_one_that_others_may_write_to_is_refused_by_name(
    option: str, mode: int, make_broker: MakeBroker, tmp_path: Path
) -> None:
    path = tmp_path / "ours"
    path.mkdir()
    path.chmod(mode)
    with pytest.raises(ConfigError) as caught:
        use(option, path, make_broker, tmp_path)
    assert_that(str(caught.value), Contains(f"{option}: '{path}'"))
    assert_that(list(path.iterdir()), Equals([]))


@pytest.mark.promise("owned-directories")
@as_root
def test_a_store_of_somebody_else_is_refused(make_broker: MakeBroker, tmp_path: Path) -> None:
    path = tmp_path / "theirs"
    path.mkdir(mode=0o700)
    os.chown(path, 12345, 12345)
    with pytest.raises(ConfigError, match="is owned by the user id 12345"):
        use("store_dir", path, make_broker, tmp_path)


@pytest.mark.promise("owned-directories")
@as_root
@pytest.mark.parametrize("option", ["state_dir", "cache_dir"])
@pytest.mark.parametrize("mode", [0o700, 0o777])
def test_what_is_optional_is_left_out_with_one_warning_where_it_is_somebody_elses(
    option: str,
    mode: int,
    make_broker: MakeBroker,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    path = tmp_path / "theirs"
    path.mkdir()
    path.chmod(mode)
    os.chown(path, 12345, 12345)
    use(option, path, make_broker, tmp_path)
    assert_that((tmp_path / "copy").read_bytes(), Equals(b"abc"))
    assert_that(list(path.iterdir()), Equals([]))
    [warning] = [r.getMessage() for r in caplog.records if r.levelname == "WARNING"]
    assert_that(warning, MatchesRegex(rf".*{option}.*is owned by the user id 12345: .* not "))


@pytest.mark.promise("owned-directories")
@as_root
def test_a_store_that_somebody_else_made_is_not_even_read(
    make_broker: MakeBroker, tmp_path: Path
) -> None:
    path = tmp_path / "store"
    use("store_dir", path, make_broker, tmp_path)
    for each in (path, *path.rglob("*")):
        os.chown(each, 12345, 12345)
    broker = make_broker(
        f"[imagebroker]\nenabled_schemes = file\n[backend:file]\nstore_dir = {path}\n"
    )
    with pytest.raises(ConfigError, match="12345"):
        list(broker.get_all(None))


def test_a_store_may_be_looked_into_and_be_a_link_of_the_administrators(
    make_broker: MakeBroker, tmp_path: Path
) -> None:
    (tmp_path / "disk").mkdir(mode=0o755)
    (tmp_path / "store").symlink_to(tmp_path / "disk")
    use("store_dir", tmp_path / "store", make_broker, tmp_path)


@pytest.mark.promise("owned-directories")
@as_root
def test_a_link_of_somebody_else_to_a_directory_of_ours_is_refused(tmp_path: Path) -> None:
    (tmp_path / "ours").mkdir(mode=0o700)
    (tmp_path / "link").symlink_to(tmp_path / "ours")
    os.lchown(tmp_path / "link", 12345, 12345)
    with pytest.raises(ConfigError, match="is a link owned by the user id 12345"):
        open_owned(tmp_path / "link", "store_dir", readable=True)


def test_check_says_so_before_anything_is_stored(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from imagebroker.cli.main import main

    (tmp_path / "open").mkdir()
    (tmp_path / "open").chmod(0o777)
    config = tmp_path / "imagebroker.conf"
    config.write_text("[imagebroker]\nenabled_schemes = file\n"
                      f"[backend:file]\nstore_dir = {tmp_path}/open\n")  # fmt: skip
    assert_that(main(["--config-file", str(config), "check", "-f", "json"]), Equals(2))
    assert_that(capsys.readouterr().out, Contains("mode 0777"))


HOMELESS = """
import os, sys
if os.geteuid() == 0:
    from imagebroker.cli import main, app, list, create  # this user may not read them
    import imagebroker_file, imagebroker_http, oslo_config.cfg, sqlite3, imagebroker.broker
    os.setgroups([]); os.setgid(61234); os.setuid(61234)
for name in ("HOME", "XDG_DATA_HOME", "XDG_CONFIG_HOME", "XDG_STATE_HOME", "XDG_RUNTIME_DIR"):
    os.environ.pop(name, None)
os.environ.update(eval(sys.argv[1]))
import pwd
pwd.getpwuid = lambda uid: (_ for _ in ()).throw(KeyError(uid))
import posixpath
from imagebroker.plugin import BackendHost, Options
from imagebroker_file import FileBackend
backend = FileBackend(BackendHost("file", Options(
    {"store_dir": None, "allowed_paths": [], "fsync": False}), personal=True))
try:
    backend.get_all(None, None)
except Exception as error:
    print(type(error).__name__, error, error.hint)
"""


@pytest.mark.parametrize("environment", [{}, {"HOME": ""}, {"XDG_DATA_HOME": "relative"}])
def test_a_person_without_a_home_is_told_what_to_set(environment: dict[str, str]) -> None:
    done = subprocess.run(
        [sys.executable, "-c", HOMELESS, repr(environment)],
        check=False, capture_output=True, text=True, timeout=HANGS, cwd="/",
    )  # fmt: skip
    assert_that(done.stdout, Contains("set HOME or XDG_DATA_HOME"), done.stderr)
    assert_that(done.stdout, Contains("ConfigError"))


@as_root
def test_what_sudo_left_in_the_home_is_named_with_the_command_that_takes_it_back() -> None:
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:
        os.chmod(folder, 0o755)
        home = Path(folder, "their home")
        (home / ".local").mkdir(parents=True)
        (home / ".local").chmod(0o700)
        os.chown(home, 12345, 12345)
        os.seteuid(12345)
        try:
            with pytest.raises(NotAuthorized) as caught, translated("the image store"):
                os.listdir(home / ".local" / "share")
        finally:
            os.seteuid(0)
        assert_that(caught.value.hint, EndsWith(f"sudo chown -R 12345 '{home}/.local'"))
