"""python -m tests.forks.hammer FOLDER FORKS: forks while threads are inside SQLite all the time.

Every child uses the store. Prints how many of them hung, and how many failed, as JSON.
"""

from __future__ import annotations

import json
import os
import select
import signal
import sys
import threading
import traceback
import warnings
from pathlib import Path

import imagebroker

_THREADS = 3
#: Seconds after which a child counts as hung: it needs a few milliseconds.
_PATIENCE = 60.0


def main(folder: Path, forks: int) -> None:
    warnings.simplefilter("ignore", DeprecationWarning)  # forking with threads, from 3.12 on
    config = folder / "imagebroker.conf"
    config.write_text(
        "[imagebroker]\nenabled_schemes = file\n"
        f"[backend:file]\nstore_dir = {folder / 'store'}\nfsync = false\n"
    )
    broker = imagebroker.Broker.from_config(config)
    first = broker.create(None, {"name": "first", "disk_format": "raw"}, b"first", backend="file")
    stop, failures = threading.Event(), list[str]()

    def work(number: int) -> None:
        try:
            while not stop.is_set():
                use(broker, first.ref, f"thread-{number}")
        except Exception:
            failures.append(traceback.format_exc())

    threads = [threading.Thread(target=work, args=(number,)) for number in range(_THREADS)]
    for thread in threads:
        thread.start()
    hung = failed = 0
    for _ in range(forks):
        status = in_child(broker, first.ref)
        hung += status is None
        failed += bool(status)
    stop.set()
    for thread in threads:
        thread.join()
    left = [image.name for image in broker.get_all(None, backend="file")]
    print(json.dumps({"hung": hung, "failed": failed, "failures": failures, "left": left}))


def use(broker: imagebroker.Broker, ref: str, name: str) -> None:
    """Every kind of transaction that there is."""
    broker.get(None, ref)
    image = broker.create(None, {"name": name, "disk_format": "raw"}, b"data", backend="file")
    broker.update(None, image.ref, {"name": f"{name}, changed"})
    if image.id not in [each.id for each in broker.get_all(None, backend="file")]:
        raise AssertionError(f"{image.id} is not listed")
    broker.delete(None, image.ref)


def in_child(broker: imagebroker.Broker, ref: str) -> int | None:
    """The exit status of a child that uses the store; None if it hung."""
    child = os.fork()
    if child == 0:
        status = 1
        try:
            use(broker, ref, "child")
            status = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(status)
    process = os.pidfd_open(child)
    ended = bool(select.select([process], [], [], _PATIENCE)[0])
    os.close(process)
    if not ended:
        os.kill(child, signal.SIGKILL)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    return status if ended else None


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
