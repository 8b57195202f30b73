"""Completion in a real zsh and a real fish, and where it is installed."""

from __future__ import annotations

import shutil
import subprocess
import sysconfig
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from testtools.assertions import assert_that
from testtools.matchers import Contains, ContainsAll, Equals, Not

from tests.bounds import HANGS
from tests.cli.conftest import Shell
from tests.cli.real_shells import ETC, fish, zsh, zsh_session
from tests.servers.fixtures import require

Offered = Callable[[str], list[str]]
#: After a change of commands or options: `imagebroker complete --shell zsh > etc/zsh/_imagebroker`.
SCRIPTS = {
    "bash": ETC / "bash-completion" / "imagebroker",
    "zsh": ETC / "zsh" / "_imagebroker",
    "fish": ETC / "fish" / "imagebroker.fish",
}
SCRIPTS_FOLDER = sysconfig.get_path("scripts")


@pytest.fixture(scope="module", params=["zsh", "fish"])
def offered(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Offered]:
    """What the shell offers for a line, in a folder with a file and a folder."""
    needs(request.param)
    folder = tmp_path_factory.mktemp("work")
    (folder / "disk.img").touch()
    (folder / "dir").mkdir()
    if request.param == "fish":
        yield lambda line: fish(line, folder)
    else:
        with zsh_session(folder) as ask:
            yield ask


def needs(program: str) -> None:
    require(None if shutil.which(program) else f"install {program}")


@pytest.mark.parametrize("shell_name", SCRIPTS)
def test_the_script_in_etc_is_what_the_command_prints(shell_name: str, shell: Shell) -> None:
    printed = shell.run("complete", "--shell", shell_name).stdout.decode()
    assert_that(printed, Equals(SCRIPTS[shell_name].read_text()))


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("imagebroker downl", {"download"}),
        ("imagebroker --config-file x.conf sho", {"show"}),
        ("imagebroker config ", {"show", "sample"}),
        ("imagebroker backend t", {"test"}),
        ("imagebroker help cop", {"copy"}),
        ("imagebroker --config-f", {"--config-file"}),
        ("imagebroker download --checks", {"--checksum"}),
        ("imagebroker download http://h/x dest --overw", {"--overwrite"}),
        ("imagebroker download --progress ", {"auto", "json", "plain", "none"}),
        ("imagebroker list -f y", {"yaml"}),
        ("imagebroker list --backend gl", {"glance"}),
        ("imagebroker show -c disk", {"disk_format"}),
        ("imagebroker download ht", {"http://", "https://"}),
        ("imagebroker download --max-size 10G sc", {"scp://"}),
        ("imagebroker download https:", {"https://"}),
        ("imagebroker download fil", {"file:", "file:///"}),
        ("imagebroker delete file:x sc", {"scp://"}),
        ("imagebroker backend test ht", {"http", "https"}),
        ("imagebroker config show backend:h", {"backend:http"}),
        ("imagebroker download https://h/disk di", {"dir", "disk.img"}),
        ("imagebroker create --file di", {"dir", "disk.img"}),
        ("imagebroker --config-file di", {"dir", "disk.img"}),
        ("imagebroker download --checksum ", set()),
        ("imagebroker download https://h/disk dest ", set()),
        ("imagebroker nonsense ", set()),
    ],
)
def test_what_is_offered(line: str, expected: set[str], offered: Offered) -> None:
    found = offered(line)
    if not line.rpartition(" ")[2]:  # zsh offers options where no argument can follow
        found = [word for word in found if not word.startswith("-")]
    assert_that({word.removesuffix("dir/") or "dir" for word in found}, Equals(expected))


def test_zsh_completes_the_line(tmp_path: Path) -> None:
    needs("zsh")
    setup = f"fpath=({SCRIPTS['zsh'].parent} $fpath); autoload -Uz compinit; compinit -i"
    assert_that(zsh("imagebroker downl", tmp_path, setup), Equals(["download"]))


@pytest.mark.parametrize(
    ("name", "recipe"),
    [
        ("zsh", "source <(imagebroker complete --shell zsh)"),
        ("fish", "imagebroker complete --shell fish | source"),
    ],
)
def test_the_documented_line_works_in_a_shell_that_has_nothing_set_up(
    name: str, recipe: str, tmp_path: Path
) -> None:
    needs(name)
    set_path = {"fish": f"set -x PATH {SCRIPTS_FOLDER} $PATH",
                "zsh": f"path=({SCRIPTS_FOLDER} $path)"}[name]  # fmt: skip
    found = {"zsh": zsh, "fish": fish}[name]("imagebroker downl", tmp_path, f"{set_path}; {recipe}")
    assert_that(found, Equals(["download"]))
    documented = (ETC.parent / "docs" / "command.md").read_text(encoding="utf-8").replace("\\", "")
    assert_that(documented, Contains(recipe))


class TestInstall:
    """`complete --install`, as a user who has an empty home."""

    def test_bash_finds_it(self, shell: Shell) -> None:
        needs("bash")
        done = shell.run("complete", "--install", "--shell", "bash")
        assert_that(done.status, Equals(0), done.stderr)
        stored = Path(shell.environment["XDG_DATA_HOME"], "bash-completion/completions/imagebroker")
        assert_that(stored.read_text(), Equals(SCRIPTS["bash"].read_text()))
        assert_that(done.stderr, Contains(f"stored {stored}"))

    def test_fish_finds_it(self, shell: Shell) -> None:
        needs("fish")
        done = shell.run("complete", "--install", "--shell", "fish")
        assert_that(done.status, Equals(0), done.stderr)
        # fish asks for completions of programs that are there only.
        shell.environment["PATH"] = f"{SCRIPTS_FOLDER}:{shell.environment['PATH']}"
        asked = subprocess.run(
            ["fish", "-c", "complete -C 'imagebroker downl'"],
            env=shell.environment, check=True, capture_output=True, text=True, timeout=HANGS,
        )  # fmt: skip
        assert_that(asked.stdout, Contains("download\t"))

    def test_zsh_finds_it_after_the_line_that_it_asks_for(self, shell: Shell) -> None:
        needs("zsh")
        done = shell.run("complete", "--install", "--shell", "zsh")
        assert_that(done.status, Equals(0), done.stderr)
        lines = [line for line in done.stderr.splitlines() if "fpath=" in line]
        setup = "".join(line.partition(": ")[2].partition(": ")[2] for line in lines)
        assert_that(
            zsh("imagebroker downl", shell.work, setup or "autoload -Uz compinit; compinit -i"),
            Equals(["download"]),
        )

    def test_zsh_finds_it_in_a_folder_that_it_searches_already(self, shell: Shell) -> None:
        needs("zsh")
        own = Path(shell.environment["HOME"]) / "functions"
        own.mkdir()
        Path(shell.environment["HOME"], ".zshenv").write_text("fpath=(~/functions $fpath)\n")
        done = shell.run("complete", "--install", "--shell", "zsh")
        assert_that((own / "_imagebroker").read_text(), Equals(SCRIPTS["zsh"].read_text()))
        assert_that(done.stderr, Not(Contains("fpath=")))

    def test_the_login_shell_is_what_it_is_installed_for(self, shell: Shell) -> None:
        shell.environment["SHELL"] = "/usr/bin/fish"
        done = shell.run("complete", "--install")
        assert_that(done.stderr, Contains("fish/completions/imagebroker.fish"))

    def test_man_finds_the_page(self, shell: Shell) -> None:
        needs("man")
        home = Path(shell.environment["HOME"])
        (home / ".local" / "bin").mkdir(parents=True)
        shell.environment["PATH"] = f"{home}/.local/bin:{shell.environment['PATH']}"
        shell.environment["XDG_DATA_HOME"] = str(home / ".local" / "share")
        (home / ".local" / "share" / "man").mkdir(parents=True)
        shell.run("complete", "--install", "--shell", "bash")
        found = subprocess.run(
            ["man", "-w", "imagebroker"],
            env=shell.environment, check=True, capture_output=True, text=True, timeout=HANGS,
        )  # fmt: skip
        assert_that(found.stdout.strip(), Equals(f"{home}/.local/share/man/man1/imagebroker.1"))

    def test_a_home_that_cannot_be_written_is_an_error_with_the_path(self, shell: Shell) -> None:
        (shell.folder / "data" / "bash-completion").write_text("a file")
        done = shell.run("complete", "--install", "--shell", "bash")
        assert_that(done.status, Equals(9))
        assert_that(done.stderr, ContainsAll(["bash-completion", "[destination-error]"]))
