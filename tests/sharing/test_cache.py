"""The cache: what comes from it, for whom, and what it may hold."""

from __future__ import annotations

import hashlib
import json
import os
import random
import signal
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from testtools.assertions import assert_that
from testtools.matchers import Contains, Equals, GreaterThan, HasLength, LessThan

from imagebroker.exceptions import (
    ChecksumMismatch,
    ConfigError,
    DestinationError,
    FormatError,
    NotAuthorized,
)
from imagebroker.transfer.layers.cache import Cache
from tests.bounds import HANGS
from tests.conftest import Scripted
from tests.scripted import Script

DATA = random.Random(6).randbytes(200_000)
DIGEST = hashlib.sha256(DATA).hexdigest()


def content(seed: int, size: int = 100_000) -> tuple[bytes, str]:
    data = random.Random(seed).randbytes(size)
    return data, hashlib.sha256(data).hexdigest()


@pytest.fixture
def folder(scripted: Scripted, tmp_path: Path) -> Path:
    """A cache for 1 MB, which the scripted broker uses."""
    folder = tmp_path / "cache"
    scripted.configured(f"cache_dir = {folder}\ncache_size = 1000000")
    return folder


def held(folder: Path) -> int:
    return sum(path.lstat().st_size for path in folder.iterdir() if not path.is_symlink())


def whole(script: Script) -> int:
    return sum(stop != 1 for _, stop in script.spans)


def image(scripted: Scripted, path: str = "/image", **how: Any) -> tuple[str, Script]:
    return scripted.image(DATA, path, **({"checksums": {"sha256": DIGEST}} | how))


def get(scripted: Scripted, ref: str, dest: Path, context: Any = None, **how: Any) -> Any:
    done = scripted.broker.download(context, ref, dest, **how)
    assert_that(done.evidence["sha256"], Equals(hashlib.sha256(dest.read_bytes()).hexdigest()))
    return done


@pytest.mark.promise("cache-permission")
def test_the_second_download_of_the_same_image_is_a_copy(
    scripted: Scripted, folder: Path, tmp_path: Path
) -> None:
    ref, first = image(scripted)
    other, second = image(scripted, "/other")
    get(scripted, ref, tmp_path / "a")
    assert_that([path.name for path in folder.glob("sha256-*")], Equals([f"sha256-{DIGEST}"]))
    assert_that(folder.stat().st_mode & 0o777, Equals(0o700))
    get(scripted, ref, tmp_path / "b")
    get(scripted, other, tmp_path / "c")  # what it says of itself proves nothing about the first
    done = get(scripted, other, tmp_path / "c")
    assert_that(done.source, Equals(other))
    assert_that((whole(first), whole(second)), Equals((1, 1)))
    assert_that(scripted.broker.cache.entries(), HasLength(1))
    for name in "abc":
        assert_that((tmp_path / name).read_bytes() == DATA, Equals(True))
        assert_that((tmp_path / name).stat().st_nlink, Equals(1))


@pytest.mark.promise("cache-permission")
def test_a_pin_or_a_checksum_of_the_callers_is_no_permission(
    scripted: Scripted, folder: Path, tmp_path: Path
) -> None:
    ref, script = image(scripted, checksums={})
    get(scripted, ref, tmp_path / "a", checksum=f"sha256:{DIGEST}")
    get(scripted, f"{ref}#sha256={DIGEST}", tmp_path / "b")
    scripted.broker.load(None, ref, checksum=f"sha256:{DIGEST}")
    assert_that(whole(script), Equals(3))


@pytest.mark.promise("cache-permission")
def test_a_version_without_a_digest_is_recognised(
    scripted: Scripted, folder: Path, tmp_path: Path
) -> None:
    ref, script = image(scripted, checksums={}, version="v1")
    get(scripted, ref, tmp_path / "a")
    done = get(scripted, ref, tmp_path / "b")
    assert_that(whole(script), Equals(1))
    assert_that(done.evidence["checked_against"], Equals(("sha256 of the cached image",)))
    changed, digest = content(7, len(DATA))
    _, newer = scripted.image(changed, version="v2")
    assert_that(get(scripted, ref, tmp_path / "c").evidence["sha256"], Equals(digest))
    assert_that(whole(newer), Equals(1))
    other, same_version = scripted.image(changed, "/other", version="v1")
    get(scripted, other, tmp_path / "d")
    assert_that(whole(same_version), Equals(1))


@pytest.mark.promise("cache-permission")
def test_who_may_not_read_the_image_gets_nothing_from_the_cache(
    scripted: Scripted, folder: Path, tmp_path: Path
) -> None:
    def only_owner(context: Any) -> None:
        if context != "owner":
            raise NotAuthorized("the role reader may not download")

    ref, _ = image(scripted, may_read=only_owner)
    get(scripted, ref, tmp_path / "a", "owner")
    with pytest.raises(NotAuthorized):
        scripted.broker.download("reader", ref, tmp_path / "b")
    with pytest.raises(NotAuthorized):
        scripted.broker.load("reader", ref)
    assert_that((tmp_path / "b").exists(), Equals(False))


@pytest.mark.promise("cache-permission")
@pytest.mark.parametrize("how", ["a bit", "cut", "longer", "a format", "empty"])
def test_a_damaged_entry_is_dropped_and_the_image_downloaded(
    scripted: Scripted, folder: Path, tmp_path: Path, how: str
) -> None:
    ref, script = image(scripted)
    get(scripted, ref, tmp_path / "a")
    entry = folder / f"sha256-{DIGEST}"
    damaged = {
        "a bit": DATA[:-1] + bytes([DATA[-1] ^ 1]),
        "cut": DATA[:-1],
        "longer": DATA + b"x",
        "a format": b"QFI\xfb" + DATA[4:],
        "empty": b"",
    }[how]
    entry.write_bytes(damaged)
    get(scripted, ref, tmp_path / "b")
    assert_that((tmp_path / "b").read_bytes() == DATA, Equals(True))
    assert_that(whole(script), Equals(2))


def test_each_call_has_its_own_demands(scripted: Scripted, folder: Path, tmp_path: Path) -> None:
    ref, _ = image(scripted)
    get(scripted, ref, tmp_path / "a")
    with pytest.raises(ChecksumMismatch):
        scripted.broker.download(None, ref, tmp_path / "b", checksum="sha256:" + "0" * 64)
    with pytest.raises(FormatError):
        scripted.broker.download(None, ref, tmp_path / "b", allowed_formats=["qcow2"])
    assert_that((tmp_path / "b").exists(), Equals(False))
    assert_that((folder / f"sha256-{DIGEST}").exists(), Equals(True))


@pytest.mark.promise("cache-size")
def test_the_least_recently_used_goes_first_and_never_what_is_in_use(
    scripted: Scripted, folder: Path, tmp_path: Path
) -> None:
    names = []
    for seed in range(9):
        data, digest = content(seed)
        ref, _ = scripted.image(data, f"/{seed}", checksums={"sha256": digest})
        get(scripted, ref, tmp_path / "a")
        names.append(f"sha256-{digest}")
        os.utime(folder / names[-1], (seed + 1, 1))
    get(scripted, "scripted://host/0", tmp_path / "a")  # used: 1 is the oldest now
    cache = scripted.broker.cache
    cache.store_chunks([content(2)[0]], 100_000, lambda: {"sha256": content(2)[1]}, ["two"])
    entry = cache.find(["two"])
    if entry is None:
        raise AssertionError("it is cached")
    os.utime(folder / names[2], (1, 1))
    with entry:
        data, digest = content(20, 300_000)
        ref, _ = scripted.image(data, "/large", checksums={"sha256": digest})
        get(scripted, ref, tmp_path / "a")
    left = {path.name for path in folder.glob("sha256-*")}
    assert_that(left, Equals({names[0], names[2], *names[4:], f"sha256-{digest}"}))
    assert_that(held(folder), LessThan(1_000_001))


def test_what_is_larger_than_the_cache_is_downloaded_and_not_cached(
    scripted: Scripted, folder: Path, tmp_path: Path
) -> None:
    ref, _ = image(scripted)
    get(scripted, ref, tmp_path / "a")
    data, digest = content(9, 1_000_001)
    large, _ = scripted.image(data, "/large", checksums={"sha256": digest})
    get(scripted, large, tmp_path / "b")
    assert_that([each.digest for each in scripted.broker.cache.entries()], Equals([DIGEST]))
    with pytest.raises(DestinationError, match="no room"):
        scripted.broker.load(None, large)


@pytest.mark.promise("cache-size")
def test_the_directory_never_holds_more_than_it_may(
    scripted: Scripted, folder: Path, tmp_path: Path
) -> None:
    most, stop = 0, threading.Event()

    def look() -> None:
        nonlocal most
        while not stop.is_set():
            total = 0
            for path in folder.iterdir() if folder.exists() else ():
                try:
                    total += 0 if path.is_symlink() else path.stat().st_size
                except FileNotFoundError:
                    continue
            most = max(most, total)

    def fetch(seed: int) -> None:
        data, digest = content(seed, 90_000)
        ref, _ = scripted.image(data, f"/{seed}", checksums={"sha256": digest})
        get(scripted, ref, tmp_path / f"image-{seed}")

    looking = threading.Thread(target=look)
    looking.start()
    try:
        with ThreadPoolExecutor(6) as pool:
            list(pool.map(fetch, range(40)))
    finally:
        stop.set()
        looking.join()
    assert_that(most, LessThan(1_000_001 + 90_000))  # an entry may be seen under both its names
    assert_that(held(folder), LessThan(1_000_001))
    assert_that(held(folder), GreaterThan(800_000))
    assert_that(list(folder.glob("coming-*")), HasLength(0))
    assert_that(len(list(folder.glob("version-*"))), LessThan(40))  # those of what went are gone


@pytest.mark.promise("cache-size")
def test_what_a_killed_process_left_is_removed(
    scripted: Scripted, folder: Path, tmp_path: Path
) -> None:
    folder.mkdir(mode=0o700)
    program = (
        "import sys, time; from pathlib import Path; from imagebroker.transfer.layers.cache import Cache\n"
        "def chunks():\n"
        "    yield b'x' * 1000\n"
        "    print('begun', flush=True); time.sleep(60)\n"
        "Cache(Path(sys.argv[1]), 1000000).store_chunks(chunks(), 900000, dict, [])\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program, folder], stdout=subprocess.PIPE
    ) as process:
        if process.stdout is None:
            raise AssertionError("no pipe")
        process.stdout.readline()
        ref, _ = image(scripted)
        get(scripted, ref, tmp_path / "a")
        assert_that(scripted.broker.cache.entries(), HasLength(0))  # the other one has the room
        process.send_signal(signal.SIGKILL)
    get(scripted, ref, tmp_path / "b")
    left = [path.name for path in folder.glob("*-*") if not path.is_symlink()]
    assert_that(left, Equals([f"sha256-{DIGEST}"]))


@pytest.mark.promise("cache-size")
@pytest.mark.parametrize("how", ["cannot be made", "full"])
def test_a_cache_that_cannot_be_used_costs_the_copy_only(
    scripted: Scripted, tmp_path: Path, how: str
) -> None:
    folder = Path("/proc/imagebroker-cache")
    if how == "full":
        if os.geteuid() != 0:
            pytest.skip("only root can mount a file system")
        folder = tmp_path / "full"
        folder.mkdir()
        subprocess.run(
            ["mount", "-t", "tmpfs", "-o", "size=64k,mode=0700", "tmpfs", folder], check=True
        )
    try:
        scripted.configured(f"cache_dir = {folder}\ncache_size = 1000000")
        ref, _ = image(scripted)
        for name in "ab":
            get(scripted, ref, tmp_path / name)
        if how == "full":
            assert_that([path.name for path in folder.iterdir()], Equals(["lock"]))
    finally:
        if how == "full":
            subprocess.run(["umount", folder], check=True)


def test_a_directory_that_others_may_enter_is_refused(scripted: Scripted, tmp_path: Path) -> None:
    (tmp_path / "open").mkdir(mode=0o755)
    scripted.configured(f"cache_dir = {tmp_path / 'open'}")
    ref, _ = image(scripted)
    with pytest.raises(ConfigError, match="cache_dir"):
        scripted.broker.download(None, ref, tmp_path / "a")
    scripted.configured("")
    with pytest.raises(ConfigError, match="no cache"):
        _ = scripted.broker.cache


def test_load_fetches_once_and_a_download_copies(
    scripted: Scripted, folder: Path, tmp_path: Path
) -> None:
    ref, script = image(scripted)
    cached = scripted.broker.load(None, ref)
    assert_that((cached.checksum, cached.size), Equals((f"sha256:{DIGEST}", len(DATA))))
    assert_that(scripted.broker.load(None, ref).checksum, Equals(cached.checksum))
    get(scripted, ref, tmp_path / "a")
    assert_that(whole(script), Equals(1))
    script.data = DATA[::-1]
    (folder / cached.name).unlink()
    with pytest.raises(ChecksumMismatch):
        scripted.broker.load(None, ref)
    assert_that(scripted.broker.cache.entries(), HasLength(0))
    assert_that(list(folder.glob("coming-*")), HasLength(0))


def test_verify_and_prune(scripted: Scripted, folder: Path, tmp_path: Path) -> None:
    cache = scripted.broker.cache
    digests = []
    for seed in range(4):
        data, digest = content(seed)
        ref, _ = scripted.image(data, f"/{seed}", version=f"v{seed}")
        get(scripted, ref, tmp_path / "a")
        digests.append(digest)
        os.utime(folder / f"sha256-{digest}", (seed + 1, 1))
    (folder / f"sha256-{digests[3]}").write_bytes(b"damaged")
    found = {cached.digest: intact for cached, intact in cache.verify()}
    assert_that(found, Equals({digest: digest != digests[3] for digest in digests}))
    for seed in range(3):
        os.utime(folder / f"sha256-{digests[seed]}", (seed + 1, 1))
    assert_that([each.digest for each in cache.prune(250_000)], Equals(digests[:1]))
    soon = datetime.fromtimestamp(3, UTC)
    assert_that([each.digest for each in cache.prune(None, soon)], Equals(digests[1:2]))
    assert_that(cache.prune(None, datetime.now(UTC) + timedelta(days=1)), HasLength(1))
    assert_that([path.name for path in folder.iterdir()], Equals(["lock"]))


def test_processes_that_store_and_read_at_once_agree(tmp_path: Path) -> None:
    """Each has random images of a few; every copy that is handed out is right."""
    program = (
        "import hashlib, os, random, sys, tempfile; from pathlib import Path\n"
        "from imagebroker.transfer.layers.cache import Cache\n"
        "cache, rng = Cache(Path(sys.argv[1]), 500000), random.Random(int(sys.argv[2]))\n"
        "for _ in range(150):\n"
        "    data = random.Random(rng.randrange(8)).randbytes(100000)\n"
        "    digest = hashlib.sha256(data).hexdigest()\n"
        "    entry = cache.find([digest])\n"
        "    if entry is None:\n"
        "        cache.store_chunks([data], len(data), lambda: {'sha256': digest}, [digest])\n"
        "        continue\n"
        "    with entry:\n"
        "        assert os.pread(entry.fd, 200000, 0) == data\n"
        "    total = sum(e.size for e in cache.entries())\n"
        "    assert total <= 500000, total\n"
    )
    folder = tmp_path / "cache"
    running = [
        subprocess.Popen([sys.executable, "-c", program, folder, str(seed)]) for seed in range(3)
    ]
    assert_that([process.wait(HANGS) for process in running], Equals([0, 0, 0]))
    assert_that(Cache(folder, 500_000).entries(), HasLength(5))


def test_the_command_keeps_house(tmp_path: Path) -> None:
    source, folder = tmp_path / "image.raw", tmp_path / "cache"
    source.write_bytes(DATA)
    config = tmp_path / "imagebroker.conf"
    config.write_text(
        f"[imagebroker]\nenabled_schemes = file\ncache_dir = {folder}\n"
        f"[backend:file]\nallowed_paths = {tmp_path}\n"
    )

    def run(*words: str, status: int = 0) -> Any:
        done = subprocess.run(
            [sys.executable, "-m", "imagebroker", "--config-file", config, "cache", *words],
            capture_output=True, check=False, text=True,
        )  # fmt: skip
        assert_that(done.returncode, Equals(status), done.stderr)
        return json.loads(done.stdout) if "json" in words else done.stderr

    loaded = run("load", f"file://{source}", "-f", "json")
    assert_that((loaded["checksum"], loaded["size"]), Equals((f"sha256:{DIGEST}", len(DATA))))
    [listed] = run("list", "-f", "json")
    assert_that(
        {key.lower(): value for key, value in listed.items()}["checksum"],
        Equals(loaded["checksum"]),
    )
    assert_that(run("verify", "-f", "json"), HasLength(1))
    (folder / f"sha256-{DIGEST}").write_bytes(b"damaged")
    [damaged] = run("verify", "-f", "json", status=6)
    assert_that({key.lower(): value for key, value in damaged.items()}["intact"], Equals(False))
    run("load", f"file://{source}#sha256={DIGEST}")
    assert_that(run("prune", "--unused", "0", "-f", "json"), HasLength(1))
    assert_that(run("list", "-f", "json"), HasLength(0))
    config.write_text("[imagebroker]\nenabled_schemes = file\n")
    assert_that(run("list", status=2), Contains("cache_dir"))
