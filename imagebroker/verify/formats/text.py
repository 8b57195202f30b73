"""Detects text instead of a disk image, such as the error page of a web server."""

from __future__ import annotations

import codecs
import re
from collections import Counter
from collections.abc import Iterator

from imagebroker.verify.formats import signatures

#: Bytes that are enough to decide. No disk begins with so much text.
ENOUGH = 1024
PAGE, TEXT = "a web page", "text"

#: The longer ones first: the BOM of UTF-32 begins with that of UTF-16.
_BYTE_ORDER_MARKS = (
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF32_LE, "utf-32-le"),
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)
#: Encodings in which ASCII characters have zero bytes: their length, and where the zeros are.
_WIDE = (
    ("utf-32-le", 4, (1, 2, 3)), ("utf-32-be", 4, (0, 1, 2)), ("utf-16-le", 2, (1,)),
    ("utf-16-be", 2, (0,)),
)  # fmt: skip
#: Fewer characters than this, without a BOM, may match an encoding by chance.
_FEW = 16

#: A tag, a comment, a declaration or an instruction, after blanks, invisible characters and control
#: characters (but NUL, with which many disks begin).
_MARKUP = (
    r"(?i)[\s\x01-\x1f\x7f-\x9f\xad\u200b-\u200f\u2060\ufeff]*(?P<tag><)(?:!doctype\b|!--|!\[cdata\[|\?xml\b|\?php\b|\?=|%[@=\s]"
    r"|/?[a-z][\w:.-]*(?:[\s/>]|$))"
)
_EBCDIC_MARKUP = r"(?i)\s*<(?:!doctype\s|!--|\?xml\s|html[\s>])"
#: Characters at the beginning of markup that must be readable.
_READABLE = 64
#: Some servers answer with one word, or the status; a very long one is not text.
_WORD = r"(?:[A-Za-z]{4,40}|(?i:ok|no|yes))[.!]?"
_STATUS = r"[1-5][0-9][0-9]"
#: A URL, an entity of HTML, or a statement of a script, without a blank.
_CODE = r"(?:https?://|data:|&#?\w+;|[A-Za-z_$][\w.$]*(?:\(|=[^=]|\{)).{4,}"
#: More characters and different ones than this, without a period: base64, hex digits.
_ENCODED = 64
_DIFFERENT = 14
#: Maximum period of a repeated pattern, in characters.
_LONGEST_PERIOD = 16
_UNKNOWN = "one of 8 bits"
_LETTER = rb"[\x80-\xff]"
#: Control characters, which no text in an 8-bit encoding has.
_CONTROL = rb"[\x00-\x06\x0e-\x1a\x1c-\x1f\x7f]"
_BLANK = frozenset("\t\n\v\f\r\b\a\x1b\x85\u2028\u2029 \ufeff")


def kind_of(begin: bytes, *, whole: bool) -> str | None:
    """`PAGE`, `TEXT`, or None: something else, or too few bytes to tell.

    `begin`: the first `ENOUGH` bytes, or fewer; `whole`: these are all.
    """
    if not begin or _is_claimed(begin):
        return None
    if any(_is_markup(text) for _, text in _readings(begin)) or _is_ebcdic_markup(begin):
        return PAGE
    if not whole and len(begin) < ENOUGH:
        return None
    announced = _byte_order_mark(begin) is not None
    for encoding, text in _readings(begin):
        if encoding == _UNKNOWN:
            break
        few = encoding != "utf-8" and not announced and len(text) < _FEW
        if not few and _is_readable(text) and _has_words(text):
            return TEXT
    return TEXT if _is_8_bit_text(begin) else None


def _is_claimed(begin: bytes) -> bool:
    """Whether it has the magic number of a disk format, which is then checked elsewhere."""
    return bool(signatures.at_the_start(begin)) or signatures.is_vmdk_descriptor(begin)


def _byte_order_mark(begin: bytes) -> tuple[bytes, str] | None:
    return next((each for each in _BYTE_ORDER_MARKS if begin.startswith(each[0])), None)


def _readings(begin: bytes) -> Iterator[tuple[str, str]]:
    """The possible encodings, each with the decoded text."""
    marked = _byte_order_mark(begin)
    if marked is not None:
        candidates = [marked[1]]
        begin = begin[len(marked[0]) :]
    else:
        wide = [name for name, size, zeros in _WIDE if _has_zeros(begin[: 4 * size], size, zeros)]
        candidates = wide or ["utf-8"]
    for encoding in candidates:
        try:
            # An incomplete character at the end is ignored.
            yield encoding, codecs.getincrementaldecoder(encoding)().decode(begin)
        except UnicodeDecodeError:
            if encoding == "utf-8":
                # Another one, of 8 bits: ASCII characters are visible.
                yield _UNKNOWN, re.sub(_LETTER, b"?", begin.replace(b"\xa0", b" ")).decode("ascii")


def _has_zeros(begin: bytes, size: int, at: tuple[int, ...]) -> bool:
    """Whether the units of a wide encoding are all of ASCII."""
    units = len(begin) // size * size
    others = set(range(size)) - set(at)
    zero = all(not any(begin[offset:units:size]) for offset in at)
    return bool(units) and zero and all(all(begin[offset:units:size]) for offset in others)


def _is_markup(text: str) -> bool:
    found = re.match(_MARKUP, text)
    if found is None:
        return False
    return _is_readable(text[found.start("tag") :][:_READABLE].rstrip("\0"))


def _is_ebcdic_markup(begin: bytes) -> bool:
    return re.match(_EBCDIC_MARKUP, begin[:256].decode("cp037")) is not None


def _is_readable(text: str) -> bool:
    return all(char.isprintable() or char in _BLANK for char in text)


def _has_words(text: str) -> bool:
    """Whether it looks written: one endless word, or a repetition, is a pattern that disks and
    files are filled with."""
    words = text.strip("".join(_BLANK))
    if re.fullmatch(_STATUS, words):
        return True
    if not words or _is_pattern(text):
        return not words and len(set(text)) > 1
    if words[0] in "{[\"'" or any(char in _BLANK for char in text):
        return True
    foreign = sum(char > "\x7f" for char in text)  # not all scripts have blanks
    if foreign >= 4 or re.fullmatch(f"{_WORD}|{_CODE}", words) is not None:
        return True
    various = len(words) >= _ENCODED and len(set(words)) >= _DIFFERENT
    return various and not _is_repeated(words, len(words) // 2)


def _is_pattern(text: str) -> bool:
    """Mostly one character other than a blank, or a short sequence repeated."""
    common, count = Counter(text).most_common(1)[0]
    if 2 * count > len(text) and common not in _BLANK:
        return True
    return _is_repeated(text, min(_LONGEST_PERIOD, len(text) // 4))


def _is_repeated(text: str, longest: int) -> bool:
    return any(text.startswith(text[period:]) for period in range(1, longest + 1))


def _is_8_bit_text(begin: bytes) -> bool:
    """Whether it is text in an encoding that uses all bytes beyond ASCII for letters."""
    if re.search(_CONTROL, begin) is not None or not _is_likely(begin):
        return False
    return any(blank in begin for blank in b" \t\n") and _has_words(begin.decode("latin-1"))


def _is_likely(begin: bytes) -> bool:
    """Whether bytes without a control character are probably not random."""
    if len(begin) >= 256:
        return True
    letters = sum(byte < 0x80 for byte in begin)
    european = all(byte < 0x80 or byte >= 0xB8 for byte in begin)  # windows-1251, KOI8, Latin
    return len(begin) >= 16 and (4 * letters >= 3 * len(begin) or (european and len(begin) >= 24))
