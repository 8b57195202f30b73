"""A broker in the services that there are: threads, asyncio, eventlet, and workers that fork."""

from __future__ import annotations

import hashlib
import random
from pathlib import Path

import pytest

from tests.servers.nginx import Nginx
from tests.servers.openstack import OpenStack
from tests.servers.sshd import Sshd
from tests.servers.tcp import Fault, TcpProxy
from tests.service.programs import serve

SIZE = 3 * 1024 * 1024


class Everywhere:
    """One image in each backend."""

    def __init__(self, folder: Path, nginx: Nginx, sshd: Sshd, openstack: OpenStack) -> None:
        self.folder = folder
        data = random.Random(7).randbytes(SIZE)
        (nginx.root / "served.img").write_bytes(data)
        (folder / "local.img").write_bytes(data)
        image_id = openstack.create_image(data, user="red")
        options = "".join(f"{k} = {v}\n" for k, v in openstack.auth_options("red").items())
        self.config = (
            "[imagebroker]\nenabled_schemes = file, http, https, scp, glance\n"
            f"[backend:file]\nstore_dir = {folder}/store\nallowed_paths = {folder}\n"
            f"[backend:http]\nallowed_networks = 127.0.0.0/8\nca_file = {nginx.ca_file}\n"
            f"[backend:scp]\nallowed_networks = 127.0.0.0/8\nknown_hosts = {sshd.known_hosts}\n"
            f"identity_file = {sshd.key}\nusername = {sshd.user}\n"
            f"[backend:glance]\nendpoint = {openstack.endpoint.rstrip('/')}/\n{options}"
        )
        refs = (
            f"{nginx.http_url.rstrip('/')}/served.img",
            f"{nginx.https_url.rstrip('/')}/served.img",
            f"file://{folder}/local.img",
            f"scp://{sshd.host}:{sshd.port}{nginx.root}/served.img",
            f"glance:{image_id}",
        )
        self.images = dict.fromkeys(refs, hashlib.sha256(data).hexdigest())

    def serve(self, program: str) -> None:
        serve(program, self.config, self.images, self.folder)


@pytest.fixture
def everywhere(tmp_path: Path, nginx: Nginx, sshd: Sshd, openstack: OpenStack) -> Everywhere:
    return Everywhere(tmp_path, nginx, sshd, openstack)


@pytest.mark.promise("threads-and-processes")
def test_many_threads_share_one_broker(everywhere: Everywhere) -> None:
    everywhere.serve("""
import concurrent.futures
import imagebroker
with imagebroker.Broker.from_config(CONFIG) as broker:
    with concurrent.futures.ThreadPoolExecutor(16) as pool:
        answers = list(pool.map(lambda title: fetch_all(broker, title), range(16)))
print("right" if all(answer == IMAGES for answer in answers) else answers)
""")


@pytest.mark.promise("threads-and-processes")
def test_asyncio_calls_it_in_threads(everywhere: Everywhere) -> None:
    everywhere.serve("""
import asyncio
import imagebroker

async def main():
    with imagebroker.Broker.from_config(CONFIG) as broker:
        return await asyncio.gather(
            *(asyncio.to_thread(fetch_all, broker, title) for title in range(4))
        )

answers = asyncio.run(main(), debug=True)
print("right" if all(answer == IMAGES for answer in answers) else answers)
""")


@pytest.mark.promise("threads-and-processes")
def test_an_asyncio_task_ends_a_download_that_it_no_longer_wants(
    everywhere: Everywhere, nginx: Nginx
) -> None:
    with TcpProxy("127.0.0.1", nginx.ports["http"], Fault(rate=200_000)) as slow:
        everywhere.images = {f"http://127.0.0.1:{slow.port}/served.img": "never there"}
        everywhere.serve("""
import asyncio
import imagebroker

async def main():
    stop, begun = threading.Event(), threading.Event()
    dest = os.path.join(FOLDER, "dest")
    [ref] = IMAGES
    with imagebroker.Broker.from_config(CONFIG) as broker:
        task = asyncio.create_task(asyncio.to_thread(
            broker.download, None, ref, dest, progress=lambda _: begun.set(), cancel=stop
        ))
        await asyncio.to_thread(begun.wait)
        stop.set()
        try:
            await task
        except imagebroker.TransferError as error:
            return error.retryable, os.path.exists(dest)

print("right" if asyncio.run(main()) == (False, False) else "wrong")
""")


@pytest.mark.promise("threads-and-processes")
def test_eventlet_may_have_replaced_threads_and_sockets(everywhere: Everywhere) -> None:
    pytest.importorskip("eventlet")
    everywhere.serve("""
import warnings
warnings.simplefilter("ignore", DeprecationWarning)
import eventlet
eventlet.monkey_patch()
import imagebroker
with imagebroker.Broker.from_config(CONFIG) as broker:
    pool = eventlet.GreenPool(8)
    answers = list(pool.imap(lambda title: fetch_all(broker, title), range(4)))
print("right" if all(answer == IMAGES for answer in answers) else answers)
""")


@pytest.mark.promise("forks", "threads-and-processes")
def test_workers_that_fork_get_connections_of_their_own(everywhere: Everywhere) -> None:
    """A web server's workers: the broker was used, and is in use, when they are forked."""
    everywhere.serve("""
import warnings
warnings.simplefilter("ignore", DeprecationWarning)  # forking with threads, from Python 3.12 on
import imagebroker

def in_child(broker, title):
    pid = os.fork()
    if pid:
        return pid
    status = 1
    try:
        status = 0 if fetch_all(broker, title) == IMAGES else 2
    finally:
        os._exit(status)

broker = imagebroker.Broker.from_config(CONFIG)
answers = [fetch_all(broker, "before")]
busy = threading.Thread(target=lambda: answers.append(fetch_all(broker, "meanwhile")))
busy.start()
children = [in_child(broker, f"child-{number}") for number in range(4)]
answers.append(fetch_all(broker, "beside"))
busy.join()
statuses = [os.waitpid(pid, 0)[1] for pid in children]
answers.append(fetch_all(broker, "after"))
broker.close()
right = all(answer == IMAGES for answer in answers) and statuses == [0] * 4
print("right" if right else (statuses, answers))
""")
