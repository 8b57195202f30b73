"""The files of a new backend: a distribution that installs, is served, and passes the kit."""

from __future__ import annotations

import re

from imagebroker.exceptions import UsageError
from imagebroker.testing.http_skeleton import HTTP_FILES

#: What a scheme may look like that is also part of the names of a distribution and a module.
_NAME = re.compile(r"[a-z][a-z0-9]*(?:[-.][a-z0-9]+)*")
_LONGEST = 32


def skeleton(name: str, *, http: bool = False, folder: str = "") -> dict[str, str]:
    """Path to content of the files of a distribution that serves the scheme `name`.

    :param http: for a service that speaks HTTP, instead of a directory of files.
    :param folder: where the distribution will be; its example configuration works there.
    :raises UsageError: no ref could begin with `name`.
    """
    if not _NAME.fullmatch(name) or len(name) > _LONGEST:
        raise UsageError(
            f"{name!r} cannot be a scheme",
            hint="write lower-case letters and digits, such as s3 or my-store",
        )
    package = "imagebroker_" + re.sub(r"[-.]", "_", name)
    cls = "".join(part.capitalize() for part in re.split(r"[-.]", name))
    files = {}
    marks = (("@NAME@", name), ("@PACKAGE@", package), ("@CLASS@", cls), ("@FOLDER@", folder))
    for path, content in (_FILES | HTTP_FILES if http else _FILES).items():
        for mark, value in marks:
            path, content = path.replace(mark, value), content.replace(mark, value)
        files[path] = content.lstrip("\n")
    return files


_FILES = {
    "pyproject.toml": """
[build-system]
requires = ["setuptools>=64", "wheel"]
build-backend = "setuptools.build_meta"

[tool.pytest.ini_options]
testpaths = ["tests"]
""",
    "setup.cfg": """
[metadata]
name = imagebroker-@NAME@
version = 0.1.0
description = Images behind @NAME@: refs, for imagebroker
long_description = file: README.md
long_description_content_type = text/markdown

[options]
python_requires = >=3.11
packages = @PACKAGE@
install_requires =
    imagebroker

[options.extras_require]
test =
    pytest
    testtools>=2.7

[options.entry_points]
imagebroker.backends =
    @NAME@ = @PACKAGE@:@CLASS@Backend
imagebroker.contracts =
    @NAME@ = @PACKAGE@.contract:@CLASS@Contract
""",
    "@PACKAGE@/__init__.py": '''
"""Images behind @NAME@: refs. It serves the files of a directory until you make it yours."""

import os

from oslo_config import cfg

from imagebroker.plugin import Image, ImageBackend, ImageChanged, ImageSource, RefForm


class @CLASS@Backend(ImageBackend):
    api_version = 1  # of the contract that this was written for: a number, so that it stays
    name = "@NAME@"  # its options stand in [backend:@NAME@]
    ref_form = RefForm(path=True)  # @NAME@:///image.qcow2; a network backend has host=True too
    options = [cfg.StrOpt("root", default="/var/lib/@NAME@", help="Directory of the images.")]

    def open(self, context, ref):
        # On a network: self.host.connect(ref.host, port), and ImageNotFound where it is not there.
        return @CLASS@Source(ref, self.host.open_beneath(self.host.options.root, ref.path_bytes[1:]))


class @CLASS@Source(ImageSource):
    seekable = True  # read(start) works for any start

    def __init__(self, ref, fd):
        self._file = os.fdopen(fd, "rb", buffering=0)
        self.image = Image(ref=ref.text, size=os.fstat(fd).st_size)  # unknown is None, never 0

    def read(self, start=0, stop=None):
        end = self.image.size if stop is None else stop
        while start < end:  # exactly these bytes, or raise: the core retries, verifies and writes
            chunk = os.pread(self._file.fileno(), min(1024 * 1024, end - start), start)
            if not chunk:
                raise ImageChanged(f"{self.image.ref} was cut while it was read")
            yield chunk
            start += len(chunk)

    def close(self):
        self._file.close()
''',  # noqa: E501 - most names are shorter than their marks
    "@PACKAGE@/contract.py": '''
"""How the conformance kit gets at this backend: `imagebroker backend test @NAME@` runs it."""

import os
import tempfile
import uuid
from pathlib import Path

import testtools
from imagebroker.testing import BackendContract

from @PACKAGE@ import @CLASS@Backend


class @CLASS@Contract(BackendContract, testtools.TestCase):
    """Needed are make_backend and publish; what other hooks test is skipped without them."""

    def setUp(self):
        super().setUp()
        folder = tempfile.TemporaryDirectory()  # for a network backend: start the real server
        self.addCleanup(folder.cleanup)
        self.root = Path(folder.name)

    def make_backend(self):
        return @CLASS@Backend(self.make_host(@CLASS@Backend, root=str(self.root)))

    def publish(self, data):
        name = f"{uuid.uuid4().hex}.img"
        (self.root / name).write_bytes(data)
        return f"@NAME@:///{name}"

    def replace(self, ref, data):
        (self.root / "new").write_bytes(data)
        os.replace(self.root / "new", self._file(ref))

    def take_away(self, ref):
        self._file(ref).unlink()

    def publish_sparse(self, size):
        ref = self.publish(b"")
        with self._file(ref).open("r+b") as file:
            file.seek(size - len(self.SPARSE_END))
            file.write(self.SPARSE_END)
        return ref

    def _file(self, ref):
        return self.root / ref.rpartition("/")[2]
''',
    "tests/__init__.py": "",
    "tests/test_contract.py": '''
"""The contract, for pytest, stestr and unittest. Tests of your own go beside it."""

from @PACKAGE@ import contract


class Test@CLASS@(contract.@CLASS@Contract):
    """Each test is named after a clause of imagebroker's docs/contract.md."""
''',
    "images/hello.img": "Hello from @NAME@.\n",
    "@NAME@.conf": """
[imagebroker]
enabled_schemes = @NAME@

[backend:@NAME@]
root = @FOLDER@/images
""",
    "README.md": """
# imagebroker-@NAME@

Images behind `@NAME@:` refs, for [imagebroker](https://pypi.org/project/imagebroker/).

    python -m pip install .
    imagebroker --config-file @NAME@.conf download @NAME@:///hello.img

Put this into the configuration of a service:

    [imagebroker]
    enabled_schemes = @NAME@

    [backend:@NAME@]
    root = /var/lib/@NAME@

## Working on it

    python -m pip install -e '.[test]'
    imagebroker backend test @NAME@     # the conformance kit, with a report to read
    python -m pytest                    # the same, beside tests of your own

`@PACKAGE@/__init__.py` is the backend, `@PACKAGE@/contract.py` says how the kit gets at it.
""",
}
