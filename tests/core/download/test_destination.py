"""A destination path gets the whole image or stays as it was."""

from __future__ import annotations

import errno
import fcntl
import os
import resource
import signal
import stat
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
from testtools.assertions import assert_that
from testtools.matchers import Contains, Equals, Is, StartsWith

from imagebroker.exceptions import DestinationError, PolicyViolation
from tests.bounds import HANGS
from tests.conftest import Scripted
from tests.core.download.destination import DATA, Destination


class TestDestination:
    @pytest.fixture
    def ref(self, scripted: Scripted) -> str:
        return scripted.image(DATA)[0]

    @pytest.mark.promise("destination-is-replaced")
    def test_the_new_file_gets_the_mode_of_the_old_one_else_the_umasks(
        self, scripted: Scripted, ref: str, tmp_path: Path
    ) -> None:
        old = os.umask(0o027)
        try:
            scripted.broker.download(None, ref, tmp_path / "new")
        finally:
            os.umask(old)
        (tmp_path / "old").write_bytes(b"")
        (tmp_path / "old").chmod(0o604)
        scripted.broker.download(None, ref, tmp_path / "old")
        scripted.broker.download(None, ref, tmp_path / "set", file_mode=0o400)
        modes = [stat.S_IMODE((tmp_path / name).stat().st_mode) for name in ("new", "old", "set")]
        assert_that(modes, Equals([0o640, 0o604, 0o400]))

    @pytest.mark.promise("security-32")
    def test_the_part_file_is_private_hidden_and_named_as_documented(
        self, scripted: Scripted, tmp_path: Path
    ) -> None:
        seen: list[tuple[str, int]] = []

        def look(offset: int) -> None:
            seen.extend((p.name, stat.S_IMODE(p.stat().st_mode)) for p in tmp_path.glob(".dest*"))

        ref, _ = scripted.image(DATA, before_chunk=look)
        scripted.broker.download(None, ref, tmp_path / "dest")
        name, mode = seen[0]
        assert_that(mode, Equals(0o600))
        assert_that(name, StartsWith(".dest."))
        assert_that(name.endswith(".imagebroker-part"), Is(True))

    @pytest.mark.promise("destination-is-replaced", "security-16")
    def test_a_symbolic_link_is_replaced_not_followed(
        self, scripted: Scripted, ref: str, tmp_path: Path
    ) -> None:
        (tmp_path / "target").write_bytes(b"target")
        (tmp_path / "link").symlink_to("target")
        scripted.broker.download(None, ref, tmp_path / "link")
        assert_that((tmp_path / "link").is_symlink(), Is(False))
        assert_that((tmp_path / "target").read_bytes(), Equals(b"target"))

    @pytest.mark.promise("destination-is-replaced")
    def test_other_links_to_the_old_file_keep_the_old_bytes(
        self, scripted: Scripted, ref: str, tmp_path: Path
    ) -> None:
        (tmp_path / "old").write_bytes(b"old")
        os.link(tmp_path / "old", tmp_path / "other")
        scripted.broker.download(None, ref, tmp_path / "old")
        assert_that((tmp_path / "other").read_bytes(), Equals(b"old"))
        assert_that((tmp_path / "old").read_bytes(), Equals(DATA))

    @pytest.mark.promise("destination-is-replaced")
    @pytest.mark.parametrize("kind", ["directory", "fifo", "socket", "device"])
    def test_what_is_no_file_is_refused(
        self, scripted: Scripted, ref: str, tmp_path: Path, kind: str
    ) -> None:
        import socket

        path = tmp_path / "dest"
        with socket.socket(socket.AF_UNIX) as sock:
            if kind == "directory":
                path.mkdir()
            elif kind == "fifo":
                os.mkfifo(path)
            elif kind == "socket":
                sock.bind(str(path))
            else:
                path = Path("/dev/null")
            with pytest.raises(DestinationError):
                scripted.broker.download(None, ref, path)
        assert_that(list(tmp_path.glob(".*")), Equals([]))

    def test_an_existing_file_is_kept_without_overwrite(
        self, scripted: Scripted, ref: str, tmp_path: Path
    ) -> None:
        scripted.broker.download(None, ref, tmp_path / "dest", overwrite=False)
        with pytest.raises(DestinationError) as caught:
            scripted.broker.download(None, ref, tmp_path / "dest", overwrite=False)
        assert_that(caught.value.errno, Equals(errno.EEXIST))

    @pytest.mark.promise("destination-is-replaced")
    def test_a_file_that_appears_meanwhile_is_kept_without_overwrite(
        self, scripted: Scripted, tmp_path: Path
    ) -> None:
        ref, _ = scripted.image(
            DATA, before_chunk=lambda offset: (tmp_path / "dest").write_bytes(b"mine") and None
        )
        with pytest.raises(DestinationError):
            scripted.broker.download(None, ref, tmp_path / "dest", overwrite=False)
        assert_that((tmp_path / "dest").read_bytes(), Equals(b"mine"))
        assert_that([p.name for p in tmp_path.iterdir() if "part" in p.name], Equals([]))

    @pytest.mark.parametrize("name", ["", ".", "..", "missing/x", "dest/", "a" * 256, "x\0y"])
    def test_a_path_that_names_no_file_is_refused(
        self, scripted: Scripted, ref: str, tmp_path: Path, name: str,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:  # fmt: skip
        monkeypatch.chdir(tmp_path)
        before = set(os.listdir(tmp_path))
        with pytest.raises(DestinationError):
            scripted.broker.download(None, ref, name)
        assert_that(set(os.listdir(tmp_path)), Equals(before))

    @pytest.mark.parametrize(
        "name", [b"a" * 255, b"\xff\xfe", b"-rf", "ünï".encode(), b" ", b"a\nb"]
    )
    def test_every_name_that_the_system_takes_is_taken(
        self, scripted: Scripted, ref: str, tmp_path: Path, name: bytes,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:  # fmt: skip
        monkeypatch.chdir(tmp_path)
        scripted.broker.download(None, ref, name)  # type: ignore[arg-type]
        assert_that((Path(os.fsdecode(name))).read_bytes(), Equals(DATA))

    @pytest.mark.promise("security-16")
    def test_a_link_that_another_user_planted_in_a_shared_directory_is_refused(
        self, scripted: Scripted, ref: str, tmp_path: Path
    ) -> None:
        if os.geteuid() != 0:
            pytest.skip("needs root to act as another user")
        shared, target = tmp_path / "shared", tmp_path / "target"
        shared.mkdir()
        shared.chmod(0o1777)
        target.mkdir()
        (shared / "link").symlink_to(target)
        os.lchown(shared / "link", 12345, 12345)
        with pytest.raises(PolicyViolation):
            scripted.broker.download(None, ref, shared / "link" / "dest")
        os.lchown(shared / "link", 0, 0)
        scripted.broker.download(None, ref, shared / "link" / "dest")
        assert_that((target / "dest").read_bytes(), Equals(DATA))

    def test_a_size_limit_of_the_process_is_a_destination_error(
        self, scripted: Scripted, ref: str, dest: Destination
    ) -> None:
        soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (5000, hard))
        try:
            with pytest.raises(DestinationError) as caught:
                scripted.broker.download(None, ref, dest.path)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        assert_that(caught.value.errno, Equals(errno.EFBIG))
        dest.assert_untouched()

    @pytest.mark.promise("old-or-complete")
    @pytest.mark.parametrize("step", ["pwrite", "fsync", "rename", "ftruncate", "fchmod", "open"])
    @pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO, errno.EDQUOT])
    def test_an_error_of_the_file_system_leaves_dest_as_it_was(
        self, scripted: Scripted, ref: str, dest: Destination, step: str, code: int,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:  # fmt: skip
        real = getattr(os, step)

        def fail(*args: Any, **kwargs: Any) -> Any:
            if step == "open" and not args[1] & os.O_CREAT:
                return real(*args, **kwargs)
            raise OSError(code, os.strerror(code))

        monkeypatch.setattr(os, step, fail)
        with pytest.raises(DestinationError) as caught:
            scripted.broker.download(None, ref, dest.path)
        monkeypatch.undo()
        assert_that(caught.value.errno, Equals(code))
        assert_that(bool(caught.value.hint), Is(True))
        dest.assert_untouched()

    @pytest.mark.promise("directory-not-synced")
    def test_if_only_the_directory_cannot_be_synced_the_image_is_there_and_the_error_says_so(
        self, scripted: Scripted, ref: str, dest: Destination, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        real, calls = os.fsync, []

        def fail_second(fd: int) -> None:
            calls.append(fd)
            if len(calls) == 2:
                raise OSError(errno.EIO, "Input/output error")
            real(fd)

        monkeypatch.setattr(os, "fsync", fail_second)
        with pytest.raises(DestinationError, match="complete"):
            scripted.broker.download(None, ref, dest.path)
        dest.assert_complete()

    @pytest.mark.promise("space-first")
    def test_too_little_free_space_is_found_before_the_first_byte(
        self, scripted: Scripted, dest: Destination
    ) -> None:
        ref, script = scripted.image(DATA, size=1 << 50)
        with pytest.raises(DestinationError) as caught:
            scripted.broker.download(None, ref, dest.path, max_size=1 << 60)
        assert_that(caught.value.errno, Equals(errno.ENOSPC))
        assert_that(script.reads, Equals([]))
        dest.assert_untouched()

    def test_short_writes_are_completed(
        self, scripted: Scripted, ref: str, dest: Destination, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        real = os.pwrite
        monkeypatch.setattr(os, "pwrite", lambda fd, data, at: real(fd, bytes(data)[:7], at))
        scripted.broker.download(None, ref, dest.path)
        dest.assert_complete()

    @pytest.mark.promise("power-loss")
    def test_without_fsync_it_is_still_atomic(
        self, scripted: Scripted, ref: str, dest: Destination, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(os, "fsync", lambda fd: pytest.fail("fsync is off"))
        scripted.configured("fsync = false").download(None, ref, dest.path)
        dest.assert_complete()

    @pytest.mark.promise("nothing-left")
    def test_part_files_of_dead_processes_are_swept_and_live_ones_kept(
        self, scripted: Scripted, ref: str, dest: Destination
    ) -> None:
        dead = dest.folder / ".other.0123456789abcdef.imagebroker-part"
        live = dest.folder / ".third.0123456789abcdef.imagebroker-part"
        others = [dest.folder / name for name in ("x.part", ".imagebroker-part", ".hidden")]
        for path in (dead, live, *others):
            path.write_bytes(b"part")
        with open(live, "rb") as held:
            fcntl.flock(held, fcntl.LOCK_EX)
            scripted.broker.download(None, ref, dest.path)
        assert_that(dead.exists(), Is(False))
        for path in (live, *others):
            assert_that(path.exists(), Is(True))

    @pytest.mark.promise("several-downloads-to-one-destination")
    def test_eight_threads_on_one_dest_leave_one_complete_image(
        self, scripted: Scripted, dest: Destination
    ) -> None:
        contents = [bytes([n]) * 50_000 for n in range(8)]
        refs = [scripted.image(data, f"/{n}")[0] for n, data in enumerate(contents)]
        errors: list[BaseException] = []

        def run(ref: str) -> None:
            try:
                for _ in range(5):
                    scripted.broker.download(None, ref, dest.path)
            except BaseException as error:
                errors.append(error)

        threads = [threading.Thread(target=run, args=(ref,)) for ref in refs + refs[:4]]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert_that(errors, Equals([]))
        assert_that(contents, Contains(dest.path.read_bytes()))
        assert_that([p.name for p in dest.folder.iterdir()], Equals(["dest.img"]))


KILLED = """
import os, signal, sys
sys.path[:0] = {path!r}
import imagebroker
from tests.scripted import IMAGES, Script

def maybe_die(offset):
    if offset >= {at}:
        os.kill(os.getpid(), signal.SIGKILL)

IMAGES["/image"] = Script(bytes(range(256)) * 40, before_chunk=maybe_die)
broker = imagebroker.Broker.from_config({config!r})
broker.download(None, "scripted://host/image", {dest!r})
"""


@pytest.mark.promise("old-or-complete")
@pytest.mark.parametrize("at", [0, 5000, 10_000])
def test_after_kill_9_dest_is_as_it_was_and_the_next_call_sweeps(
    at: int, scripted: Scripted, dest: Destination, on_path: Path, tmp_path: Path
) -> None:
    config = tmp_path / "killed.conf"
    config.write_text("[imagebroker]\nenabled_schemes = scripted\n")
    program = KILLED.format(
        path=[str(on_path), os.getcwd()], at=at, config=str(config), dest=str(dest.path)
    )
    ended = subprocess.run([sys.executable, "-c", program], check=False, timeout=HANGS)
    assert_that(ended.returncode, Equals(-signal.SIGKILL))
    if dest.existing:
        assert_that(dest.path.read_bytes(), Equals(b"what was there"))
    else:
        assert_that(dest.path.exists(), Is(False))
    assert_that(len([p for p in dest.folder.iterdir() if "part" in p.name]), Equals(1))
    ref, _ = scripted.image(DATA)
    scripted.broker.download(None, ref, dest.path)
    dest.assert_complete()
