"""Records: what listing and showing images costs, beside glanceclient and on a large store.

    python -m benchmarks.records            everything; prints a Markdown table
    python -m benchmarks.records get store  some of get, store, glance

Each row is measured in this one run; times are medians. Listing starts whole processes as a user
would start them, alternating, and its ratios are the medians of those within the pairs; the others
count inside one process, because the work is far below the start of Python.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import imagebroker
from benchmarks import peers
from tests.distributions import install, simple
from tests.servers.openstack import OpenStack
from tests.servers.openstack_prepared import open_database

IMAGES_IN_GLANCE = 10_000
IMAGES_IN_STORE = 100_000
PAIRS = 5

LIST_OURS = """
import sys, imagebroker
with imagebroker.Broker.from_config(sys.argv[1]) as broker:
    print(sum(1 for image in broker.get_all(None, filters={"status": "queued"}, page_size=1000)))
"""
LIST_GLANCECLIENT = """
import json, sys
from keystoneauth1 import session
from keystoneauth1.identity import v3
from glanceclient import Client
options = json.loads(sys.argv[1])
endpoint = options.pop("endpoint")
options.pop("auth_type")
client = Client("2", session=session.Session(v3.Password(**options)), endpoint_override=endpoint)
print(sum(1 for image in client.images.list(filters={"status": "queued"}, page_size=1000)))
"""
#: Runs a command and prints seconds and peak memory (KiB).
MEASURE = """
import resource, subprocess, sys, time
began = time.perf_counter()
subprocess.run(sys.argv[1:], check=True, stdout=subprocess.DEVNULL)
print(time.perf_counter() - began, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)
"""


def process(*command: str) -> tuple[float, int]:
    done = subprocess.run(
        [sys.executable, "-c", MEASURE, *command], check=True, capture_output=True, text=True
    )
    seconds, peak = done.stdout.split()
    return float(seconds), int(peak)


def timed(call: Callable[[], Any], times: int) -> float:
    """Median seconds of one call."""
    found = []
    for _ in range(times):
        began = time.perf_counter()
        call()
        found.append(time.perf_counter() - began)
    return statistics.median(found)


def listing_in_glance(folder: Path) -> None:
    """Ten thousand records, by whole processes: ours and glanceclient's own `images.list`."""
    glanceclient = peers.environment() / "bin" / "python"
    with OpenStack() as openstack:
        fill(openstack, IMAGES_IN_GLANCE)
        options = openstack.auth_options("red")
        config = folder / "glance.conf"
        lines = "".join(f"{key} = {value}\n" for key, value in options.items())
        config.write_text(
            "[imagebroker]\nenabled_schemes = glance\ndefault_backend = glance\n"
            f"[backend:glance]\nendpoint = {openstack.endpoint.rstrip('/')}/\n{lines}"
        )
        peer = json.dumps({**options, "endpoint": openstack.endpoint})
        ours, theirs = [], []
        for _ in range(PAIRS):
            ours.append(process(sys.executable, "-c", LIST_OURS, str(config)))
            # -E: without the path of our own environment.
            theirs.append(process(str(glanceclient), "-E", "-c", LIST_GLANCECLIENT, peer))
    seconds = [statistics.median(s for s, _ in each) for each in (ours, theirs)]
    peaks = [statistics.median(p for _, p in each) / 1024 for each in (ours, theirs)]
    ratios = [
        statistics.median(a[n] / b[n] for a, b in zip(ours, theirs, strict=True)) for n in (0, 1)
    ]
    title = f"list {IMAGES_IN_GLANCE:,} images of Glance, seconds"
    row(title, seconds[0], f"{ratios[0]:.2f} of glanceclient ({seconds[1]:.2f})", "at most 1.0")
    title = "the same, peak memory in MiB"
    row(title, peaks[0], f"{ratios[1]:.2f} of glanceclient ({peaks[1]:.0f})", "at most 1.0")


def fill(openstack: OpenStack, images: int) -> None:
    """Copies of one image, through Glance's database: its API would take many minutes for them."""
    image_id = openstack.create_image(None, name="image")
    with open_database(openstack.directory / "glance" / "glance.db") as database:
        columns = [each[1] for each in database.execute("PRAGMA table_info(images)")]
        row = database.execute("SELECT * FROM images WHERE id = ?", [image_id]).fetchone()
        record = dict(zip(columns, row, strict=True))
        for number in range(1, images):
            record |= {"id": str(uuid.uuid4()), "name": f"image-{number}"}
            marks = ", ".join("?" * len(columns))
            database.execute(f"INSERT INTO images VALUES ({marks})", list(record.values()))


def own_time_of_get(folder: Path) -> None:
    """`get` of a backend that answers at once: all the time is ours."""
    install(folder, "imagebroker-instant", {"instant": "instant_plugin:SimpleBackend"},
            instant_plugin=simple("instant") + INSTANT)  # fmt: skip
    sys.path.insert(0, str(folder))
    (folder / "instant.conf").write_text("[imagebroker]\nenabled_schemes = instant\n")
    with imagebroker.Broker.from_config(folder / "instant.conf") as broker:
        # Of the quietest of many batches: others use the machine, too.
        seconds = min(timed(lambda: broker.get(None, "instant://h/image"), 50) for _ in range(400))
    row("own time of `get`, microseconds", seconds * 1e6, "", "under 100")


INSTANT = """
IMAGE = Image(ref="instant://h/image", size=1, disk_format="raw")


def get(self, context, ref, *, include_locations=False, show_deleted=False):
    return IMAGE


SimpleBackend.get = get
"""


def large_store(folder: Path) -> None:
    """A hundred thousand records in the embedded store."""
    (folder / "store.conf").write_text(
        "[imagebroker]\nenabled_schemes = file\n"
        f"[backend:file]\nstore_dir = {folder}/store\nfsync = false\n"
    )
    with imagebroker.Broker.from_config(folder / "store.conf") as broker:
        for number in range(IMAGES_IN_STORE):
            broker.create(None, {
                "name": f"image-{number}", "disk_format": "raw", "tags": [f"t{number % 10}"],
                "properties": {
                    "os_type": "linux" if number % 2 else "other", "serial": str(number),
                },
            })  # fmt: skip
        query = {"status": "queued"}
        first = timed(lambda: [*broker.get_all(None, filters=query, limit=100)], 50)
        serial = query | {"property-serial": "77777"}
        rare = timed(lambda: [*broker.get_all(None, filters=serial)], 50)
        common = query | {"property-os_type": "linux"}
        page = timed(lambda: [*broker.get_all(None, filters=common, limit=100)], 50)
    row(f"first page of {IMAGES_IN_STORE:,} records, milliseconds", first * 1e3, "", "under 20")
    row("filter by a rare property, milliseconds", rare * 1e3, "", "under 100")
    row("first page of a common property, milliseconds", page * 1e3, "", "under 100")
    flat_memory(folder)


def flat_memory(folder: Path) -> None:
    """Memory that listing everything adds to listing a page."""
    peaks = []
    for limit in ("100", "None"):
        program = LIST_STORE.replace("LIMIT", limit)
        peaks.append(process(sys.executable, "-c", program, str(folder / "store.conf"))[1] / 1024)
    row("memory that listing all adds to a page, MiB", peaks[1] - peaks[0], "", "flat")


LIST_STORE = """
import sys, imagebroker
with imagebroker.Broker.from_config(sys.argv[1]) as broker:
    for image in broker.get_all(None, filters={"status": "queued"}, limit=LIMIT):
        pass
"""


def row(what: str, value: float, beside: str, goal: str) -> None:
    print(f"| {what} | {value:.2f} | {beside} | {goal} |", flush=True)


PARTS = {"get": own_time_of_get, "store": large_store, "glance": listing_in_glance}


def main() -> None:
    os.environ["PYTHONPATH"] = os.pathsep.join(sys.path)
    print("| what | measured | beside | goal |\n|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        for name in sys.argv[1:] or PARTS:
            PARTS[name](Path(folder))


if __name__ == "__main__":
    main()
