"""A broker that is closed while calls of other threads are inside Ceph's library."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import threading
from pathlib import Path
from time import monotonic

from testtools.assertions import assert_that
from testtools.matchers import Contains, Equals

import imagebroker
from imagebroker.exceptions import ImageBrokerError
from tests.bounds import HANGS, in_time
from tests.plugins.rbd.conftest import Images
from tests.servers.ceph import modules

MIB = 1024 * 1024


def test_a_call_that_waits_for_a_stopped_osd_ends_after_the_broker_was_closed(
    images: Images,
) -> None:
    name = images.publish(b"x" * MIB)
    broker = images.broker(osd_timeout=3)
    assert_that(broker.get(None, images.ref(name)).size, Equals(MIB))
    ended: list[BaseException | None] = []

    def ask() -> None:
        try:
            broker.get(None, images.ref(name))
            ended.append(None)
        except ImageBrokerError as error:
            ended.append(error)

    with images.server.paused("osd"):
        asking = threading.Thread(target=ask, daemon=True)
        asking.start()
        asking.join(0.5)  # now it is inside the library, in open
        begun = monotonic()
        broker.close()
        assert_that(monotonic() - begun, in_time(10))
        asking.join(60)
        assert_that(asking.is_alive(), Equals(False))
    assert_that(isinstance(ended[0], ImageBrokerError), Equals(True))


def test_calls_of_many_threads_end_while_their_broker_is_closed(images: Images) -> None:
    name = images.publish(b"x" * MIB)
    for pause in (0.0, 0.02, 0.1):
        broker, over = images.broker(), threading.Event()
        threads = [
            threading.Thread(target=_ask, args=(broker, images.ref(name), over), daemon=True)
            for _ in range(4)
        ]
        for thread in threads:
            thread.start()
        over.wait(pause)  # each time they are at another place
        broker.close()
        over.set()
        for thread in threads:
            thread.join(60)
        assert_that([thread.is_alive() for thread in threads], Equals([False] * 4))
        broker.close()  # what they have opened since


def _ask(broker: imagebroker.Broker, ref: str, over: threading.Event) -> None:
    while not over.is_set():
        with contextlib.suppress(ImageBrokerError):
            broker.get(None, ref)


def test_a_process_that_ends_with_an_open_image_ends_quietly(
    images: Images, tmp_path: Path
) -> None:
    name = images.publish(b"x" * MIB)
    config = tmp_path / "imagebroker.conf"
    config.write_text(images.config())
    program = (
        "import imagebroker, sys\n"
        "broker = imagebroker.Broker.from_config(sys.argv[1])\n"
        "image = broker.open(None, sys.argv[2])\n"
        "print(len(image.read(10)))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, str(config), images.ref(name)],
        capture_output=True, text=True, timeout=HANGS,
        env={**os.environ, "PYTHONPATH": modules() or ""},
    )  # fmt: skip
    assert_that((done.returncode, done.stderr), Equals((0, "")))
    assert_that(done.stdout, Contains("10"))
