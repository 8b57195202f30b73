"""The options of `[backend:file]`."""

from __future__ import annotations

from oslo_config import cfg

#: The default store of a service.
STORE_DIR = "/var/lib/imagebroker"

OPTIONS = [
    cfg.StrOpt(
        "store_dir",
        sample_default=STORE_DIR,
        help="""
Directory of the embedded store, on a local file system. It is created, for this user only, with the
first image; an existing one must belong to this user, and no other user must be able to write to
it. Several processes and instances can share it. If a person runs the command without a config
file, the default is $XDG_DATA_HOME/imagebroker, or else ~/.local/share/imagebroker.
""",
    ),
    cfg.ListOpt(
        "allowed_paths",
        default=[],
        help="""
Directories from which file: refs can read. The directory itself may be a symbolic link; below it,
links are not followed, unless follow_links is set. Only regular files are read, never those of an
image store. If empty, file: refs with a path are refused (without a config file, a person can read
any path).
""",
    ),
    cfg.BoolOpt(
        "follow_links",
        default=False,
        help="""
Follow symbolic links below allowed_paths, wherever they lead. Whoever can create a link there can
then have any file read that the service can read.
""",
    ),
    cfg.BoolOpt(
        "fsync",
        default=True,
        help="""
Flush created, changed and deleted images to disk, so that they survive a power loss. If off, they
still survive the crash of any process.
""",
    ),
]
