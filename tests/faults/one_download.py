"""One download as a process of its own, for faults that are injected from outside.

    python -m tests.faults.one_download FOLDER [--local]

Everything is imported and used once before it makes the system call `getpriority`, so that a
tracer can tell the write path from the start of Python. Ends with status 0, 9 for a
DestinationError, 8 for another of ours.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from tests.distributions import install
from tests.scripted import IMAGES, Script

#: More than one chunk, with a run of zeros in the middle.
DATA = bytes(range(256)) * 2048 + bytes(1 << 20) + b"end" * 100_000
#: What the destination holds before, where it exists.
OLD = b"what was there"


def main() -> int:
    folder = Path(sys.argv[1])
    site = folder / "site"
    if not site.exists():
        install(site, "imagebroker-scripted", {"scripted": "tests.scripted:ScriptedBackend"})
        (folder / "c.conf").write_text("[imagebroker]\nenabled_schemes = scripted\n")
        (folder / "source").write_bytes(DATA)
    sys.path.insert(0, str(site))
    import imagebroker

    local = folder / "source" if "--local" in sys.argv else None
    IMAGES["/image"] = Script(DATA, chunk=1 << 18, local_path=local)
    IMAGES["/warm"] = Script(b"warm")
    with imagebroker.Broker.from_config(folder / "c.conf") as broker:
        broker.download(None, "scripted://h/warm", folder / "warm")
        # A system call that nothing else here makes: the tracer begins to count after it.
        os.getpriority(os.PRIO_PROCESS, 0)
        try:
            broker.download(None, "scripted://h/image", folder / "dest" / "image")
        except imagebroker.DestinationError as error:
            print(type(error).__name__, error.errno, error)
            return 9
        except imagebroker.ImageBrokerError as error:
            print(type(error).__name__, error)
            return 8
    return 0


if __name__ == "__main__":
    sys.exit(main())
