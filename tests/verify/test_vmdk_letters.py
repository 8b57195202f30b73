"""Descriptors of VMDKs in other letters than ASCII."""

from __future__ import annotations

from pathlib import Path

import pytest
from testtools.assertions import assert_that
from testtools.matchers import Equals, Is

from tests.verify.differential import qemu_objects_to
from tests.verify.judging import evidence, refusal
from tests.verify.specimens import DESCRIPTOR, VIRTUAL, described

pytestmark = pytest.mark.usefixtures("qemu_img")

SOUND = DESCRIPTOR.replace("monolithicFlat", "monolithicSparse").replace(
    'FLAT "/etc/passwd" 0', 'SPARSE "disk.vmdk"'
)
NAMES = {
    "UTF-8": "Büro-Ωμέγα-サーバー",
    "windows-1252": "Büro Zürich – “Test”",
    "windows-1251": "Диск сервера",
    "GBK": "服务器",
    "EUC-JP": "サーバー",
}


def written(encoding: str, text: str) -> bytes:
    return described(text.replace("version=1", f'version=1\nencoding="{encoding}"'), encoding)


@pytest.mark.parametrize("encoding", NAMES)
def test_names_and_comments_may_be_in_any_letters(encoding: str, tmp_path: Path) -> None:
    name = NAMES[encoding]
    for text in (
        SOUND.replace("disk.vmdk", f"{name}.vmdk"),
        SOUND.replace("# Extent description", f"# {name}"),
        SOUND + f'ddb.comment = "{name}"\n',
    ):
        data = written(encoding, text)
        assert_that(evidence(data, "vmdk"), Equals(evidence(data)))
        assert_that(evidence(data)["virtual_size"], Equals(VIRTUAL))
        path = tmp_path / "image"
        path.write_bytes(data)
        assert_that(qemu_objects_to(path, evidence(data)), Is(None))


@pytest.mark.promise("security-4")
@pytest.mark.parametrize("encoding", NAMES)
def test_what_leads_elsewhere_is_refused_in_any_letters(encoding: str) -> None:
    name = NAMES[encoding]
    for text in (
        SOUND.replace("disk.vmdk", f"/{name}/disk.vmdk"),
        SOUND.replace("disk.vmdk", f"{name}\\disk.vmdk"),
        SOUND.replace("# Extent", f'# {name}\nRW 1 FLAT "{name}" 0\n# Extent'),
        SOUND.replace("# Extent", f'# {name} parentFileNameHint="{name}"\n# Extent'),
        SOUND.replace("# Extent", f"{name}\n# Extent"),
        SOUND.replace("monolithicSparse", name),
    ):
        refusal(written(encoding, text), "vmdk")


@pytest.mark.promise("security-4")
@pytest.mark.parametrize("encoding", NAMES)
def test_a_descriptor_alone_is_refused_in_any_letters(encoding: str) -> None:
    name = NAMES[encoding]
    for text in (
        DESCRIPTOR.replace("# Disk DescriptorFile", f"# {name}"),
        DESCRIPTOR.replace("# Disk DescriptorFile", f"# {name}\n# Disk DescriptorFile"),
        DESCRIPTOR.replace("/etc/passwd", name),
        f"# {name}\n" + DESCRIPTOR.replace("version=1\n", ""),
    ):
        data = text.encode(encoding)
        for declared in (None, "raw", "vmdk"):
            refusal(data, declared)
