"""The distribution is described in setup.cfg; here is what cannot be written there.

An archive that is reproducible, and the files that go below the prefix (/usr, ~/.local): setup.cfg
would turn the hyphens of their folders into underscores.
"""

import gzip
import os
import tarfile
from pathlib import Path

from setuptools import setup
from setuptools.command.sdist import sdist


class ReproducibleSdist(sdist):
    """The same sources give the same archive, byte for byte, where SOURCE_DATE_EPOCH is set.

    setuptools itself does this for wheels only.
    """

    def make_archive(self, base_name, format, root_dir=None, base_dir=None, owner=None, group=None):
        epoch = os.environ.get("SOURCE_DATE_EPOCH")
        if epoch is None or format != "gztar":
            return super().make_archive(base_name, format, root_dir, base_dir, owner, group)

        def normal(member):
            member.mtime = int(epoch)
            member.uid = member.gid = 0
            member.uname = member.gname = ""
            member.mode = 0o755 if member.isdir() or member.mode & 0o100 else 0o644
            return member

        name = f"{base_name}.tar.gz"
        root = Path(root_dir or ".")
        with (
            open(name, "wb") as file,
            gzip.GzipFile("", "wb", fileobj=file, mtime=int(epoch)) as packed,
            tarfile.open(fileobj=packed, mode="w", format=tarfile.PAX_FORMAT) as tar,
        ):
            for path in sorted(root.joinpath(base_dir or ".").rglob("*")):
                tar.add(path, path.relative_to(root), recursive=False, filter=normal)
        return name


setup(
    cmdclass={"sdist": ReproducibleSdist},
    data_files=[
        ("share/man/man1", ["docs/man/imagebroker.1"]),
        ("share/bash-completion/completions", ["etc/bash-completion/imagebroker"]),
        ("share/zsh/site-functions", ["etc/zsh/_imagebroker"]),
        ("share/fish/vendor_completions.d", ["etc/fish/imagebroker.fish"]),
    ],
)
