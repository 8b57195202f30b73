"""Plugin distributions for the tests: written into a folder on sys.path, found like installed ones."""

from __future__ import annotations

import textwrap
from pathlib import Path


def install(
    folder: Path, name: str, entry_points: dict[str, str], version: str = "1.0", **modules: str
) -> Path:
    """A distribution `name` in `folder`: `entry_points` maps schemes to `module:attribute`."""
    info = folder / f"{name.replace('-', '_')}-{version}.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
    lines = [f"{scheme} = {value}" for scheme, value in entry_points.items()]
    (info / "entry_points.txt").write_text("\n".join(["[imagebroker.backends]", *lines, ""]))
    for module, source in modules.items():
        (folder / f"{module}.py").write_text(textwrap.dedent(source))
    return info


#: A backend that serves what its module's IMAGES hold, by path.
SIMPLE = """
from imagebroker.plugin import *

IMAGES = {"/image": b"the bytes of an image"}


class SimpleBackend(ImageBackend):
    api_version = 1
    name = "NAME"
    ref_form = RefForm(host=True, path=True)

    def open(self, context, ref):
        if ref.path not in IMAGES:
            raise ImageNotFound(f"{ref}: no such image")
        return SimpleSource(ref.text, IMAGES[ref.path])


class SimpleSource(ImageSource):
    seekable = True

    def __init__(self, text, data):
        self.image = Image(ref=text, size=len(data))
        self.data = data

    def read(self, start=0, stop=None):
        yield self.data[start:stop]
"""


def simple(name: str) -> str:
    return SIMPLE.replace("NAME", name)
