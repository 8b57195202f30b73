"""One damaged distribution, whatever it is, is named and costs nobody else anything."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from testtools.assertions import assert_that
from testtools.matchers import Contains, Equals, HasLength, Not

from imagebroker.backends import entry_points
from tests.bounds import HANGS
from tests.distributions import install, simple

Harm = Callable[[Path], object]

CONFIG = "[imagebroker]\nenabled_schemes = file, http, glance, good\n"


def _no_metadata(info: Path) -> None:
    (info / "METADATA").unlink()


def _a_file(info: Path) -> None:
    for each in list(info.iterdir()):
        each.unlink()
    info.rmdir()
    info.write_text("what a broken disk left")


def _leftover(info: Path) -> None:
    info.rename(info.with_name("~" + info.name[1:]))


HARM: dict[str, Harm] = {
    "a line without =": lambda info: (info / "entry_points.txt").write_text("[console_scripts]\nx\n"),
    "a byte that is not UTF-8": lambda info: (info / "entry_points.txt").write_bytes(
        b"[console_scripts]\nx = y:\xff\n"
    ),
    "a byte order mark": lambda info: (info / "entry_points.txt").write_bytes(
        b"\xef\xbb\xbf[console_scripts]\nx = y:z\n"
    ),
    "UTF-16": lambda info: (info / "entry_points.txt").write_bytes(
        "[console_scripts]\nx = y:z\n".encode("utf-16")
    ),
    "zeros after a power loss": lambda info: (info / "entry_points.txt").write_bytes(bytes(300)),
    "no METADATA": _no_metadata,
    "a file in place of the folder": _a_file,
    "what an interrupted pip leaves": _leftover,
}  # fmt: skip


def ran(folder: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """The command with what is in `folder` installed."""
    config = folder / "imagebroker.conf"
    config.write_text(CONFIG)
    return subprocess.run(
        [sys.executable, "-m", "imagebroker", "--config-file", str(config), *arguments],
        env={**os.environ, "PYTHONPATH": str(folder), **environment},
        check=False, capture_output=True, text=True, timeout=HANGS,
    )  # fmt: skip


def damaged(folder: Path, *harm: Harm) -> list[Path]:
    """A plugin that works, and beside it distributions that have nothing to do with us."""
    install(folder, "imagebroker-good", {"good": "good_plugin:SimpleBackend"},
            good_plugin=simple("good"))  # fmt: skip
    infos = [install(folder, f"somebodys-tool{number}", {}) for number in range(len(harm))]
    for info, each in zip(infos, harm, strict=True):
        each(info)
    return infos


@pytest.mark.parametrize("kind", HARM)
def test_whatever_is_wrong_with_a_distribution_it_is_named_and_the_others_are_read(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    damaged(tmp_path, HARM[kind])
    monkeypatch.syspath_prepend(tmp_path)
    found = entry_points.installed()
    schemes = {point.name for point in found.group("imagebroker.backends")}
    assert_that(
        schemes,
        Equals({"file", "glance", "good", "http", "https", "oci", "rbd", "s3", "scp", "swift"}),
    )
    assert_that([each.distribution[1:12] for each in found.damaged], Equals(["omebodys_to"]))
    assert_that(found.damaged[0].remedy, Contains(str(tmp_path)))


@pytest.mark.promise("plugin-discovery")
def test_the_command_works_beside_all_of_them_and_names_each_once(tmp_path: Path) -> None:
    damaged(tmp_path, *HARM.values())
    dest = tmp_path / "image"
    done = ran(tmp_path, "download", "good://h/image", str(dest))
    assert_that(done.returncode, Equals(0), done.stderr)
    assert_that(done.stderr.count("warning: the distribution "), Equals(len(HARM)))
    assert_that(dest.read_bytes(), Equals(b"the bytes of an image"))


def test_backends_and_check_show_each_of_them_and_what_to_do(tmp_path: Path) -> None:
    damaged(tmp_path, *HARM.values())
    rows = json.loads(ran(tmp_path, "backends", "-f", "json").stdout)
    problems = {row["scheme"]: row["problem"] for row in rows if row["enabled"]}
    assert_that(problems, Equals(dict.fromkeys(("file", "glance", "good", "http"))))
    odd = [row for row in rows if row["scheme"] is None]
    assert_that(odd, HasLength(len(HARM)))
    assert_that([row for row in odd if str(tmp_path) not in row["problem"]], Equals([]))
    checked = json.loads(ran(tmp_path, "check", "-f", "json").stdout)
    found = [row["level"] for row in checked if "omebodys" in row["where"]]
    assert_that(found, Equals(["warning"] * len(HARM)), str(checked))


def test_a_folder_that_this_user_may_not_read_is_named(tmp_path: Path) -> None:
    (info,) = damaged(tmp_path, lambda info: info.chmod(0))
    without: list[str] = []
    if os.geteuid() == 0:  # who may read everything, unless that right is taken away
        if shutil.which("setpriv") is None:
            pytest.skip("setpriv is missing: apt-get install util-linux")
        rights = "-dac_override,-dac_read_search"
        without = ["setpriv", "--bounding-set", rights, "--inh-caps", rights]
    program = "from imagebroker.backends.entry_points import installed; print(installed().damaged[0].problem)"
    done = subprocess.run(
        [*without, sys.executable, "-c", program], env={**os.environ, "PYTHONPATH": str(tmp_path)},
        check=False, capture_output=True, text=True, timeout=HANGS,
    )  # fmt: skip
    info.chmod(0o700)
    assert_that(done.stdout, Contains("cannot be read by this user"), done.stderr)


def test_glance_finds_its_auth_types_beside_a_damaged_distribution(tmp_path: Path) -> None:
    damaged(tmp_path, HARM["a line without ="])
    program = (
        "from imagebroker.backends.entry_points import uncache_stevedore; uncache_stevedore();"
        "from keystoneauth1 import loading; print(loading.get_plugin_loader('password'))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], env={**os.environ, "PYTHONPATH": str(tmp_path)},
        check=False, capture_output=True, text=True, timeout=HANGS,
    )  # fmt: skip
    assert_that(done.stdout, Contains("keystoneauth1.loading"), done.stderr)


def test_a_library_for_traces_that_trips_over_it_costs_the_traces_only(tmp_path: Path) -> None:
    pytest.importorskip("opentelemetry", reason="pip install 'imagebroker[test]'")
    damaged(tmp_path, HARM["a line without ="])
    (tmp_path / "imagebroker.conf").write_text(CONFIG)
    program = (
        f"import imagebroker; b = imagebroker.Broker.from_config('{tmp_path}/imagebroker.conf');"
        f"b.download(None, 'good://h/image', '{tmp_path}/image')"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, "PYTHONPATH": str(tmp_path), "OTEL_PYTHON_TRACER_PROVIDER": "sdk"},
        check=False, capture_output=True, text=True, timeout=HANGS,
    )  # fmt: skip
    assert_that(done.returncode, Equals(0), done.stderr)
    assert_that(done.stderr, Contains("OpenTelemetry cannot be used"))


def test_nonsense_for_a_scheme_is_an_error_of_that_scheme_alone(tmp_path: Path) -> None:
    values = ["=", "no module!", "a:b:c", "os", "os:path.nowhere", ":x"]
    lines = [f"odd{number} = {value}" for number, value in enumerate(values)]
    damaged(tmp_path, lambda info: (info / "entry_points.txt").write_text(
        "\n".join(["[imagebroker.backends]", *lines, "twice = a:B", "twice = c:D"])))  # fmt: skip
    config = tmp_path / "with.conf"
    names = [line.partition(" ")[0] for line in lines]
    config.write_text(CONFIG.replace("good", ", ".join(["good", *names])))
    done = ran(tmp_path, "--config-file", str(config), "backends", "-f", "json")
    problems = {row["scheme"]: row["problem"] or "" for row in json.loads(done.stdout)}
    assert_that(problems["good"], Equals(""))
    assert_that(
        [n for n in names if "somebodys-tool0" not in problems[n]], Equals([]), str(problems)
    )
    assert_that(problems["twice"], Contains("a:B and c:D"))


def test_the_same_line_twice_is_one_entry_point(tmp_path: Path, monkeypatch: Any) -> None:
    damaged(tmp_path, lambda info: (info / "entry_points.txt").write_text(
        "[some.group]\nodd = a:B\nodd = a:B\n"))  # fmt: skip
    monkeypatch.syspath_prepend(tmp_path)
    assert_that(entry_points.entry_points("some.group", "odd"), HasLength(1))


POISON = """
import json, sys
from stevedore import _cache
from pathlib import Path
digest, values = _cache._hash_settings_for_path(tuple(sys.path))
data = _cache._build_cacheable_data()
data["path_values"] = values
for group in ("keystoneauth1.plugin", "castellan.drivers", "oslo.config.opts", "oslo.config.driver",
              "imagebroker.backends"):
    data["groups"][group] = [(name, "poison:Poison", group) for name in (
        "password", "barbican", "imagebroker", "remote_file", "good")]
folder = Path(sys.argv[1], "python-entrypoints")
folder.mkdir(exist_ok=True)
(folder / digest).write_text(json.dumps(data))
"""
#: What asks stevedore for a plugin in our processes, and the file that the poison would write.
ASKING = {
    "keystoneauth": "from keystoneauth1 import loading; loading.get_plugin_loader('password')",
    "castellan": (
        "from stevedore.driver import DriverManager; DriverManager('castellan.drivers', 'barbican')"
    ),
    "oslo.config's generator": (
        "from oslo_config import generator; generator._list_opts(['imagebroker'])"
    ),
    "oslo.config's drivers": (
        "import stevedore; stevedore.ExtensionManager('oslo.config.driver', invoke_on_load=True)"
    ),
}


@pytest.mark.promise("plugin-discovery")
@pytest.mark.parametrize("who", ASKING)
def test_what_stands_in_stevedores_cache_is_imported_by_nobody(who: str, tmp_path: Path) -> None:
    home = tmp_path / "home"
    home.mkdir()
    home.chmod(0o777)
    code = tmp_path / "code"
    install(code, "imagebroker-good", {"good": "good_plugin:SimpleBackend"},
            good_plugin=simple("good"), poison="""
    from pathlib import Path
    Path(__file__).with_name("poisoned").touch()
    class Poison:
        def __call__(self, *given, **named):
            return []
    """)  # fmt: skip
    environment = {**os.environ, "PYTHONPATH": str(code), "XDG_CACHE_HOME": str(home)}

    def python(program: str) -> None:
        subprocess.run(
            [sys.executable, "-c", program, str(home)],
            env=environment, cwd=tmp_path, check=True, capture_output=True, timeout=HANGS,
        )  # fmt: skip

    for _ in range(10):  # the key of the cache has the times of folders that others write to
        python(POISON)
        python("import contextlib\nwith contextlib.suppress(BaseException): " + ASKING[who])
        if (code / "poisoned").exists():
            break
    assert_that((code / "poisoned").exists(), Equals(True), "the trap does not work")
    (code / "poisoned").unlink()
    python(
        "from imagebroker.config.settings import Settings; Settings.for_person(); " + ASKING[who]
    )
    assert_that((code / "poisoned").exists(), Equals(False))


@pytest.mark.promise("plugin-discovery")
def test_no_command_reads_or_writes_stevedores_cache(tmp_path: Path) -> None:
    damaged(tmp_path, lambda info: None)
    home = tmp_path / "home"
    home.mkdir()
    for arguments in (["backends"], ["config", "sample"]):
        done = ran(tmp_path, *arguments, XDG_CACHE_HOME=str(home))
        assert_that(done.stderr, Not(Contains("unexpected")))
    assert_that(list(home.iterdir()), Equals([]))
