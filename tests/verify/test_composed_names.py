"""A name with accents is the same name, however they are written: macOS writes them apart."""

from __future__ import annotations

import hashlib
import unicodedata
from urllib.parse import quote

import pytest
from testtools.assertions import assert_that
from testtools.matchers import Contains, Equals

from imagebroker.exceptions import VerificationError
from imagebroker.model.reference import parse
from imagebroker.verify.checksum_file import find_checksum

DIGEST, OTHER = (hashlib.sha256(data).hexdigest() for data in (b"image", b"other"))
NAME = "Größe café.img"


def found(text: str, name: str) -> str:
    ref = parse(f"https://host/pub/{quote(name)}")
    return find_checksum(text.encode(), ref, "SHA256SUMS", allow_weak=False).digest


@pytest.mark.parametrize("forms", [("NFC", "NFD"), ("NFD", "NFC"), ("NFD", "NFD")])
def test_it_is_found_in_either_form(forms: tuple[str, str]) -> None:
    listed, asked = (unicodedata.normalize(form, NAME) for form in forms)  # type: ignore[arg-type]
    text = f"{OTHER}  Grösse.img\n{DIGEST}  ./pub/{listed}\n{OTHER}  cafe.img\n"
    assert_that(found(text, asked), Equals(DIGEST))


def test_the_form_that_was_asked_for_comes_first() -> None:
    both = {form: unicodedata.normalize(form, NAME) for form in ("NFC", "NFD")}
    text = f"{OTHER}  {both['NFC']}\n{DIGEST}  {both['NFD']}\n"
    assert_that(found(text, both["NFD"]), Equals(DIGEST))
    assert_that(found(text, both["NFC"]), Equals(OTHER))


def test_another_letter_is_another_name() -> None:
    with pytest.raises(VerificationError) as caught:
        found(f"{OTHER}  Grosse cafe.img\n{OTHER}  x.img\n", NAME)
    assert_that(str(caught.value), Contains("Gr"))
