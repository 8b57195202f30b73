"""Makes the pictures of the terminal from real runs: `python docs/pictures/make.py [FOLDER]`.

The command runs on a terminal of its own, against a web server of this process that is as slow as a
distant one. What the terminal shows is drawn by rich. Needs qemu-img, for a real image.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import http.server
import io
import os
import pty
import re
import select
import shlex
import signal
import struct
import subprocess
import sys
import tempfile
import termios
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.text import Text

COLUMNS = 100
#: Bytes a second that the web server sends.
RATE = 12 << 20
SIZE = 32 << 20


class Server(http.server.BaseHTTPRequestHandler):
    """Serves one image, slowly."""

    image = b""
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        if self.path == "/SHA256SUMS":
            self.send_sums()
            return
        asked = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        start = int(asked[1]) if asked else 0
        stop = int(asked[2]) + 1 if asked and asked[2] else len(self.image)
        self.send_response(206 if asked else 200)
        if asked:
            self.send_header("Content-Range", f"bytes {start}-{stop - 1}/{len(self.image)}")
        self.send_header("Accept-Ranges", "bytes")
        self.send_header("Content-Length", str(stop - start))
        self.send_header("Content-Type", "application/octet-stream")
        self.send_header("ETag", '"1"')
        self.end_headers()
        try:
            for at in range(start, stop, RATE // 20):
                self.wfile.write(self.image[at : min(at + RATE // 20, stop)])
                time.sleep(1 / 20)
        except OSError:
            pass  # the client has seen enough

    def send_sums(self) -> None:
        text = f"{hashlib.sha256(self.image).hexdigest()}  disk.qcow2\n".encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    def log_message(self, *arguments: Any) -> None:
        pass


def run(
    argv: list[str],
    folder: Path,
    enough: Callable[[str], bool] = lambda seen: False,
    interrupt: bool = False,
) -> str:
    """What a terminal shows of the command, at its end or as soon as it is `enough`.

    `interrupt`: press Ctrl-C then, and go on to its end.
    """
    master, slave = pty.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 24, COLUMNS, 0, 0))
    environment = {
        "PATH": os.environ["PATH"], "HOME": str(folder), "LANG": "C.UTF-8",
        "TERM": "xterm-256color", "COLUMNS": str(COLUMNS),
    }  # fmt: skip
    with subprocess.Popen(
        [sys.executable, "-m", "imagebroker", *argv], preexec_fn=heed_interrupts,
        cwd=folder, env=environment, stdin=slave, stdout=slave, stderr=slave,
    ) as process:  # fmt: skip
        os.close(slave)
        seen = b""
        try:
            while select.select([master], [], [], 60)[0] and (piece := os.read(master, 65536)):
                seen += piece
                if enough(screen(seen.decode(errors="replace"))):
                    if not interrupt:
                        process.terminate()
                        break
                    process.send_signal(signal.SIGINT)
                    enough = never
        except OSError as error:
            if error.errno != errno.EIO:  # how Linux ends a terminal whose other side is closed
                raise
        finally:
            process.wait(60)
            os.close(master)
    return screen(seen.decode(errors="replace"))


def never(seen: str) -> bool:
    return False


def heed_interrupts() -> None:
    """A process in the background ignores them, and so would its children."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def screen(output: str) -> str:
    """What stays on the screen of what was written to it; colours are kept."""
    lines = [""]
    for token in re.split(r"(\r?\n|\r|\x1b\[2K|\x1b\[1A|\x1b\[\?25[lh])", output):
        if token in ("\n", "\r\n"):
            lines.append("")
        elif token == "\x1b[2K":
            lines[-1] = ""
        elif token == "\x1b[1A":
            lines = lines[:-1] or [""]
        elif token != "\r" and not token.startswith("\x1b[?25"):
            lines[-1] += token
    return "\n".join(lines).rstrip()


def draw(path: Path, *runs: tuple[list[str], str]) -> None:
    """Each command as it was typed, and below it what the terminal showed."""
    console = Console(record=True, width=COLUMNS, file=io.StringIO(), force_terminal=True)
    for number, (argv, shown) in enumerate(runs):
        if number:
            console.print()
        console.print(Text(f"$ {shlex.join(['imagebroker', *argv])}", style="bold"))
        console.print(Text.from_ansi(shown))
    svg = console.export_svg(title="imagebroker", unique_id=path.stem)
    # No font from somewhere else: every reader has some monospaced one.
    svg = re.sub(r"\s*@font-face \{.*?\}", "", svg, flags=re.DOTALL)
    svg = svg.replace("Fira Code, monospace", "monospace")
    svg = "\n".join(line.rstrip() for line in svg.splitlines())
    path.write_text(svg + "\n", encoding="utf-8")


def picture(target: Path, folder: Path, argv: list[str], **how: Any) -> None:
    draw(target, (argv, run(argv, folder, **how)))


def first_look(target: Path, folder: Path, url: str) -> None:
    """A download, one that is interrupted and resumed, and one that is refused."""
    sums = ["--checksum", url.replace("disk.qcow2", "SHA256SUMS")]
    broken = ["download", url, "again.qcow2", *sums]
    wrong = ["download", url, "other.qcow2", "--checksum", "0" * 64]
    draw(
        target,
        (whole := ["download", url, *sums], run(whole, folder)),
        (broken, run(broken, folder, enough=half, interrupt=True)),
        (broken, run(broken, folder)),
        (wrong, run(wrong, folder)),
    )


def main(target: Path) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "disk.raw").write_bytes(os.urandom(SIZE))
        subprocess.run(
            ["qemu-img", "convert", "-q", "-O", "qcow2", "disk.raw", "disk.qcow2"],
            cwd=folder, check=True,
        )  # fmt: skip
        Server.image = (folder / "disk.qcow2").read_bytes()
        (folder / "disk.qcow2").unlink()
        server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Server)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_port}/disk.qcow2"
        try:
            make(target, folder, url)
        finally:
            server.shutdown()
            server.server_close()


def make(target: Path, folder: Path, url: str) -> None:
    download = ["download", url]
    picture(target / "progress.svg", folder, [*download, "half.qcow2"], enough=half)
    (folder / "look").mkdir()
    first_look(target / "first-look.svg", folder / "look", url)
    picture(target / "done.svg", folder, [*download, "disk.qcow2"])
    (folder / "images.conf").write_text("[imagebroker]\nenabled_schemes = file, http\n")
    configured = ["--config-file", "images.conf"]
    typo = [*configured, "download", "htp://example.org/disk.qcow2"]
    picture(target / "error-scheme.svg", folder, typo)
    picture(target / "error-address.svg", folder, [*configured, *download])
    wrong = [*download, "x.qcow2", "--checksum", "sha256:" + 64 * "0"]
    picture(target / "error-checksum.svg", folder, wrong)


def half(shown: str) -> bool:
    """Whether a bar shows that about half has arrived."""
    match = re.search(r"([\d.]+)/([\d.]+) MiB", re.sub(r"\x1b\[[\d;]*m", "", shown))
    return match is not None and float(match[1]) > 0.5 * float(match[2])


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent)
