"""What a cluster that fails looks like: an error in bounded time, with a remedy."""

from __future__ import annotations

import io
import os
import signal
import threading
from collections.abc import Callable
from pathlib import Path
from time import monotonic
from types import ModuleType
from typing import Any

import pytest
from testtools.assertions import assert_that
from testtools.matchers import Contains, Equals, GreaterThan

import imagebroker
from imagebroker.exceptions import (
    BackendLoadError,
    ConfigError,
    ImageBrokerError,
    ImageNotFound,
    NotAuthorized,
    QuotaExceeded,
    TransferTimeout,
)
from tests.bounds import in_time
from tests.plugins.rbd.conftest import Images
from tests.servers.ceph import wait_for

MIB = 1024 * 1024


def test_a_stopped_osd_is_an_error_and_the_image_is_there_again_afterwards(images: Images) -> None:
    data = os.urandom(MIB)
    name = images.publish(data)
    broker = images.broker(osd_timeout=2)
    assert_that(broker.get(None, images.ref(name)).size, Equals(MIB))
    with images.server.paused("osd"):
        for call in (
            lambda: broker.get(None, images.ref(name)),
            lambda: broker.download(None, images.ref(name), io.BytesIO()),
            lambda: broker.create(None, images.info(), data, backend="rbd"),
            lambda: list(broker.get_all(None, backend="rbd")),
            lambda: broker.delete(None, images.ref(name)),
        ):
            begun = monotonic()
            with pytest.raises(ImageBrokerError) as caught:
                call()
            assert_that(monotonic() - begun, in_time(10))
            assert_that(caught.value.retryable, Equals(True))
            assert_that(caught.value.hint, Contains("ceph"))
    found = io.BytesIO()
    broker.download(None, images.ref(name), found)
    assert_that(found.getvalue() == data, Equals(True))


def test_a_download_goes_on_after_the_osd_was_stopped_in_its_middle(
    images: Images, tmp_path: Path
) -> None:
    data = os.urandom(48 * MIB)
    name = images.publish(data)
    broker = images.broker("retries = 30", osd_timeout=2, chunk_size=1)
    stopped = threading.Event()

    def stop(progress: Any) -> None:
        if progress.done > 8 * MIB and not stopped.is_set():
            stopped.set()
            images.server.pause("osd")
        if progress.retries:
            images.server.resume("osd")

    try:
        done = broker.download(None, images.ref(name), tmp_path / "disk", progress=stop)
    finally:
        images.server.resume("osd")
    assert_that((tmp_path / "disk").read_bytes() == data, Equals(True))
    if stopped.is_set():
        assert_that(done.attempts, GreaterThan(1))


def test_a_stopped_monitor_is_an_error(images: Images) -> None:
    name = images.publish(b"data")
    broker = images.broker(mon_timeout=2)
    begun = monotonic()
    with images.server.paused("mon"), pytest.raises(TransferTimeout) as caught:
        broker.get(None, images.ref(name))
    assert_that(monotonic() - begun, in_time(10))
    assert_that(str(caught.value), Contains("cannot connect to the cluster"))
    assert_that(broker.get(None, images.ref(name)).size, Equals(4))


def test_a_wrong_key_a_missing_one_and_a_missing_config_file_say_what_to_check(
    images: Images, tmp_path: Path
) -> None:
    wrong = tmp_path / "wrong.keyring"
    wrong.write_text("[client.broker]\n\tkey = AQC7Wgxr9zH6ORAAbd4tKWTMEiT6B/jTqtCfkw==\n")
    for options, kind, remedy in (
        ({"keyring": wrong}, NotAuthorized, "keyring"),
        ({"user": "nobody"}, ConfigError, "user"),
        ({"keyring": tmp_path / "none"}, ConfigError, "keyring"),
        ({"ceph_conf": tmp_path / "none"}, ConfigError, "ceph_conf"),
    ):
        broker = images.broker(**options)
        with pytest.raises(kind) as caught:
            broker.get(None, images.ref("disk"))
        assert_that(caught.value.hint, Contains(remedy))
        assert_that(caught.value.retryable, Equals(False))


def test_a_missing_pool_image_or_snapshot_is_not_found(images: Images) -> None:
    name, broker = images.publish(b"data"), images.broker()
    for ref, said in (
        ("rbd://no-such-pool/disk", "there is no pool no-such-pool"),
        (images.ref("no-such-image"), "no-such-image"),
        (images.ref(name, "other"), "other"),
        (f"rbd://images/space/{name}@snap", "space"),
        (f"rbd://38e8f3e7-9a8b-4ab3-840c-972ad1146a6f/images/{name}/snap", "another Ceph cluster"),
    ):
        with pytest.raises(ImageNotFound, match=said):
            broker.get(None, ref)


def test_a_pool_without_rights_is_not_authorized(images: Images) -> None:
    name = images.publish(b"data")
    user = images.server.add_user(f"other-{name}", "another-pool")
    with pytest.raises(NotAuthorized) as caught:
        images.broker(**user).get(None, images.ref(name))
    assert_that(caught.value.hint, Contains("ceph auth"))


def test_who_may_only_read_reads_and_is_refused_the_rest(images: Images) -> None:
    data = os.urandom(MIB)
    name = images.publish(data)
    user = images.server.add_user(f"reader-{name}", images.server.pool, "rbd-read-only")
    broker, found = images.broker(**user), io.BytesIO()
    broker.download(None, images.ref(name), found)
    assert_that(found.getvalue() == data, Equals(True))
    for call in (
        lambda: broker.create(None, images.info(), data, backend="rbd"),
        lambda: broker.update(None, images.ref(name), {"name": "x"}),
        lambda: broker.delete(None, images.ref(name)),
    ):
        with pytest.raises(NotAuthorized):
            call()


def test_a_pool_at_its_quota_is_told_from_a_cluster_that_is_down(images: Images) -> None:
    pool = "small-pool"
    images.server.add_pool(pool)
    user = images.server.add_user(pool, pool)
    images.server.command("osd pool set-quota", pool=pool, field="max_bytes", val=str(8 * MIB))
    broker = images.broker(**user, pool=pool, osd_timeout=3)
    wait_for(lambda: _quota(images, pool))
    with pytest.raises(QuotaExceeded) as caught:
        broker.create(None, images.info(), os.urandom(16 * MIB), backend="rbd")
    assert_that(caught.value.hint, Contains("set-quota"))
    assert_that(images.server.names(pool), Equals([]))


def _quota(images: Images, pool: str) -> bool:
    found = images.server.command("df", detail="detail")["pools"]
    return any(each["name"] == pool and each["stats"].get("quota_bytes") for each in found)


def test_check_says_what_works_and_what_does_not(
    images: Images, make_broker: Callable[..., imagebroker.Broker]
) -> None:
    from imagebroker_rbd import RbdBackend
    from imagebroker_rbd.options import OPTIONS

    from imagebroker.plugin import BackendHost, Options

    def findings(**options: Any) -> list[str]:
        values = {option.dest: option.default for option in OPTIONS}
        made = RbdBackend(BackendHost("rbd", Options(values | images.server.options(**options))))
        try:
            return [finding.what for finding in made.check(None)]
        finally:
            made.close()

    accepted = f"the cluster {images.server.fsid} accepts the key of client.broker"
    assert_that(findings(), Equals([accepted, "the pool images can be listed"]))
    assert_that(findings(pool=None), Equals([accepted]))
    with pytest.raises(ImageNotFound, match="there is no pool none"):
        findings(pool="none")
    for wrong in ({"pool": "a/b/c"}, {"pool": "/x"}, {"snapshot": "a@b"}, {"snapshot": ""}):
        with pytest.raises(ConfigError):
            findings(**wrong)


def test_without_the_distributions_modules_the_error_says_how_to_get_them(
    monkeypatch: pytest.MonkeyPatch, make_broker: Callable[..., imagebroker.Broker]
) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "rados", None)
    broker = make_broker("[imagebroker]\nenabled_schemes = rbd\ndefault_backend = rbd\n")
    with pytest.raises(BackendLoadError) as caught:
        broker.get(None, "rbd://images/disk")
    assert_that(caught.value.hint, Contains("apt-get install python3-rbd"))
    assert_that(caught.value.hint, Contains("--system-site-packages"))


def test_beside_libtorrent_it_is_an_error_and_no_crash(
    monkeypatch: pytest.MonkeyPatch, make_broker: Callable[..., imagebroker.Broker]
) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "libtorrent", ModuleType("libtorrent"))
    broker = make_broker("[imagebroker]\nenabled_schemes = rbd\ndefault_backend = rbd\n")
    with pytest.raises(BackendLoadError) as caught:
        broker.get(None, "rbd://images/disk")
    assert_that(str(caught.value), Contains("imported libtorrent"))


def test_a_killed_upload_leaves_no_image_and_purge_removes_its_rest(images: Images) -> None:
    info, broker = images.info(), images.broker()
    begun, done = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            own = images.broker()

            def endless() -> Any:
                yield os.urandom(8 * MIB)
                os.write(done, b"x")
                signal.pause()

            own.create(None, info, endless(), backend="rbd")
        finally:
            os._exit(1)
    os.read(begun, 1)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    names = [name for name in images.server.names() if name.startswith("imagebroker.upload.")]
    assert_that(len(names), Equals(1))
    assert_that([i.name for i in broker.get_all(None, backend="rbd")
                 if i.name in (info["name"], *names)], Equals([]))  # fmt: skip
    # The cluster notices after a quarter of a minute that nobody watches the image any more.
    wait_for(lambda: broker.purge(None, backend="rbd", older_than=0, dry_run=True))
    removed = broker.purge(None, backend="rbd", older_than=0)
    assert_that([image.name for image in removed], Equals(names))
    assert_that(set(names) & set(images.server.names()), Equals(set()))
