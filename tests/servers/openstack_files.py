"""The configuration files of Keystone, Glance and their gunicorn."""

from __future__ import annotations

from pathlib import Path

#: For the Python of the servers; makes them wait for each other instead of answering HTTP 500.
SITECUSTOMIZE = """
import sqlite3
import sqlite3.dbapi2
import threading

original = sqlite3.connect
guard = threading.Lock()
anchors = {}


class Cursor(sqlite3.Cursor):
    def execute(self, statement, *parameters):
        # SQLite allows one writer. A transaction that has read and then wants to write fails at
        # once if there is another writer; one that says that it will write waits its turn.
        if statement.strip() == "BEGIN":
            statement = "BEGIN IMMEDIATE"
        return super().execute(statement, *parameters)


class Connection(sqlite3.Connection):
    def cursor(self, factory=Cursor):
        return super().cursor(factory)


def connect(database, *arguments, **settings):
    # Readers beside the writer need the WAL. The last connection that closes removes it, and here
    # every request opens and closes dozens: one that stays open makes them ten times faster.
    with guard:
        if database not in anchors:
            anchor = anchors[database] = original(database, timeout=60, check_same_thread=False)
            anchor.execute("PRAGMA journal_mode = WAL")
            anchor.execute("SELECT count(*) FROM sqlite_master").fetchall()
    return original(database, *arguments, **{"factory": Connection, **settings})


sqlite3.connect = sqlite3.dbapi2.connect = connect
"""


def gunicorn(application: str, listener: int) -> str:
    """Return gunicorn.conf.py. It gets no arguments instead, as Keystone would parse them."""
    return f"""
wsgi_app = "{application}"
bind = "fd://{listener}"
workers = 1
threads = 16
timeout = 600
graceful_timeout = 1
keepalive = 2
control_socket_disable = True
"""


def keystone(directory: Path, token_seconds: int = 3600) -> str:
    return f"""
[DEFAULT]
use_stderr = true
[database]
connection = sqlite:///{directory}/keystone.db?timeout=60
sqlite_synchronous = false
[token]
provider = fernet
expiration = {token_seconds}
[fernet_tokens]
key_repository = {directory}/fernet-keys
[fernet_receipts]
key_repository = {directory}/fernet-keys
[credential]
key_repository = {directory}/fernet-keys
[identity]
password_hash_rounds = 4
[cache]
# Safe with one process, and without it a validated token costs hundreds of queries.
enabled = true
backend = dogpile.cache.memory
[oslo_messaging_notifications]
driver = noop
"""


def glance(
    directory: Path,
    *,
    database: Path,
    stores: Path,
    paste: Path,
    own_url: str,
    auth_url: str,
    password: str,
    show_locations: bool,
    ceph: str = "",
) -> str:
    """``ceph``: the options of a further store, in a cluster of Ceph, which then is the default."""
    values = {
        "directory": directory,
        "database": database,
        "stores": stores,
        "paste": paste,
        "own_url": own_url,
        "auth_url": auth_url,
        "password": password,
        "show_locations": str(show_locations).lower(),
        "further": ",ceph:rbd" if ceph else "",
        "default": "ceph" if ceph else "fast",
        "ceph": f"[ceph]\n{ceph}" if ceph else "",
    }
    return _GLANCE % values


#: What Glance adds to the metadata of every location in the store `fast`; the mount point is useless.
SHARE = {"id": "share-of-fast", "mountpoint": "/"}

_GLANCE = """
[DEFAULT]
use_stderr = true
enabled_backends = fast:file,slow:file,web:http%(further)s
enabled_import_methods = [glance-direct,web-download,copy-image]
show_image_direct_url = true
show_multiple_locations = %(show_locations)s
worker_self_reference_url = %(own_url)s
public_endpoint = %(own_url)s
[database]
connection = sqlite:///%(database)s?timeout=60
sqlite_synchronous = false
[glance_store]
default_backend = %(default)s
%(ceph)s[fast]
filesystem_store_datadir = %(stores)s/fast
filesystem_store_metadata_file = %(directory)s/fast.json
[slow]
filesystem_store_datadir = %(stores)s/slow
[os_glance_staging_store]
filesystem_store_datadir = %(directory)s/staging
[os_glance_tasks_store]
filesystem_store_datadir = %(directory)s/tasks
[import_filtering_opts]
# Without the hosts all of loopback is refused; no ports mean any port.
allowed_hosts = [127.0.0.1,localhost]
allowed_ports = []
[paste_deploy]
flavor = keystone
config_file = %(paste)s
[keystone_authtoken]
auth_type = password
auth_url = %(auth_url)s
www_authenticate_uri = %(auth_url)s
username = glance
password = %(password)s
project_name = service
user_domain_name = Default
project_domain_name = Default
service_token_roles = service
service_token_roles_required = true
[oslo_messaging_notifications]
driver = noop
"""
