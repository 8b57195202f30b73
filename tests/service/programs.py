"""Services of several kinds, each in a process of its own: see `serve`."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

#: What each program begins with: a config file, `REF digest` pairs, and a folder to store in.
BEGIN = """
import hashlib, json, os, sys, threading
CONFIG, IMAGES, FOLDER = sys.argv[1], json.loads(sys.argv[2]), sys.argv[3]

def fetch(broker, name, ref):
    path = os.path.join(FOLDER, name)
    done = broker.download(None, ref, path)
    with open(path, "rb") as file:
        return hashlib.sha256(file.read()).hexdigest()

def fetch_all(broker, title):
    return {ref: fetch(broker, f"{title}-{number}", ref) for number, ref in enumerate(IMAGES)}
"""


def serve(program: str, config: str, images: dict[str, str], folder: Path) -> None:
    """Run `program` after BEGIN; it prints `right` if every image had its digest.

    :raises AssertionError: it said something else, or anything on standard error.
    """
    (folder / "imagebroker.conf").write_text(config)
    arguments = [folder / "imagebroker.conf", json.dumps(images), folder]
    done = subprocess.run(
        [sys.executable, "-c", BEGIN + program, *arguments],
        capture_output=True, text=True, check=False, timeout=120,
    )  # fmt: skip
    assert (done.returncode, done.stdout.strip()) == (0, "right"), (
        done.returncode, done.stdout, done.stderr[-4000:],
    )  # fmt: skip
