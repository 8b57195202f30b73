"""A table in a web page lists digests, whether its rows are lines or not."""

from __future__ import annotations

import hashlib

import pytest
from testtools.assertions import assert_that
from testtools.matchers import Equals

from imagebroker.exceptions import VerificationError
from imagebroker.model.reference import parse
from imagebroker.verify.checksum_file import find_checksum

DIGEST, OTHER = (hashlib.sha256(data).hexdigest() for data in (b"image", b"other"))
REF = parse("https://host/pub/disk.img")


def found(text: str) -> str:
    return find_checksum(text.encode(), REF, "page.html", allow_weak=False).digest


ROWS = [
    "<tr><td>other.img</td><td>{other}</td></tr><tr><td>disk.img</td><td>{digest}</td></tr>",
    "<tr><td>{other}</td><td>other.img</td></tr><tr><td>{digest}</td><td>disk.img</td></tr>",
    '<TR class="a"><TD><a href="other.img">other.img</a></TD><TD><code>{other}</code></TD></TR>'
    '<TR><TD><a href="disk.img">disk.img</a></TD><TD><code>{digest}</code></TD></TR>',
    "<tr>\n<td>\nother.img\n</td>\n<td>\n{other}\n</td>\n</tr>\n"
    "<tr>\n<td>\ndisk.img\n</td>\n<td>\n{digest}\n</td>\n</tr>\n",
    "<tr><td>other.img<td>{other}<tr><td>disk.img<td>{digest}",
]


@pytest.mark.parametrize("rows", ROWS)
def test_the_digest_of_an_image_is_that_of_its_row(rows: str) -> None:
    table = rows.format(digest=DIGEST, other=OTHER)
    page = f"<!DOCTYPE html><html><body><h1>Images</h1><table>{table}</table></body></html>"
    assert_that(found(page), Equals(DIGEST))
    assert_that(found(page.replace("<h1>", "\n<h1>")), Equals(DIGEST))


@pytest.mark.parametrize("rows", ROWS)
def test_an_image_without_a_row_has_none(rows: str) -> None:
    table = rows.format(digest=DIGEST, other=OTHER).replace("disk.img", "disk.img.xz")
    with pytest.raises(VerificationError):
        found(f"<html><body><table>{table}</table></body></html>")
