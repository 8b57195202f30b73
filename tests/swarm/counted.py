"""What the kernel counts between a host and an intruder: `unshare --net counted.py ANSWERS`.

It prints JSON: the bytes of packets with a payload that went from the host to the intruder, on the
connection on which hosts speak (`spoken`) and on all others (`sent`), and what the intruder says.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from contextlib import closing
from pathlib import Path

from tests.servers.nginx import Nginx
from tests.swarm.fleet import Fleet
from tests.swarm.scene import SLOW, Scene

#: Bytes of a packet that has no payload, with all options of IP and TCP, at most.
_EMPTY = 80
#: Where the host is called by others.
_PORT = "7881"


def main(answers: str) -> None:
    _run("ip", "link", "set", "lo", "up")
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        folder.chmod(0o755)
        (folder / "www").mkdir()
        with (
            Nginx(folder / "www", slow_rate=SLOW, directory=folder / "nginx") as nginx,
            closing(Fleet(folder / "fleet", 2)) as fleet,
        ):
            host, other = fleet.hosts
            for spoken in ([], ["!"]):
                _run("iptables", "-A", "OUTPUT", "-s", host.address, "-d", other.address, "-p",
                     "tcp", *spoken, "--sport", _PORT, "-m", "length", "!", "--length",
                     f"0:{_EMPTY}")  # fmt: skip
            found = Scene(fleet, nginx).intrudes(answers)
            spoken, sent = _counted()
    print(json.dumps({"spoken": spoken, "sent": sent, **found}))


def _counted() -> list[int]:
    """Bytes that met each rule."""
    lines = _run("iptables", "-L", "OUTPUT", "-v", "-x", "-n").splitlines()[2:]
    return [int(line.split()[1]) for line in lines]


def _run(*command: str) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


if __name__ == "__main__":
    main(sys.argv[1])
