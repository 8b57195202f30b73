"""Makes text from outside safe to show: one line, bounded, without secrets."""

from __future__ import annotations

import re
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

#: Maximum length of shown text (characters).
LIMIT = 1024

# Compiled when first used: most commands show no secret.

#: Not the placeholder in hints.
_USERINFO = r"//(?!USER:PASSWORD@)[^/\s@:]{0,256}:[^/\s@]{0,1024}@"
#: The query of a URL, or what looks like a query after any path.
_QUERY = (
    r"((?:[a-z][a-z0-9+.-]{0,31}://[^\s?'\"#<>]{1,2048}))\?[^\s'\"#<>]+"
    r"|\?[^\s'\"#)<>]*=[^\s'\"#)<>]*"
)
_LABELLED = (
    r"(?i)(?<![\w/.-])((?:proxy-)?authorization|x-(?:auth|service|subject|storage)-token|(?:set-)?cookie"
    r"|password|passwd|passphrase|secret|token|api[_-]?key)"
    r"(['\"]?\s*[:=]\s*['\"]?)((?:bearer|basic|digest|negotiate)\s+)?[^\s'\",;&]+"
)
_FERNET = r"\bgAAAA[A-Za-z0-9_=-]{8,}"


#: Shorter secrets are not hidden: they occur by chance, and hiding them would reveal them.
_SHORTEST = 8
#: Maximum number of secrets of one backend instance.
_MAX_SECRETS = 256


class Secrets:
    """Secrets of one backend instance, to be hidden wherever they occur: servers echo requests."""

    def __init__(self) -> None:
        self._texts: OrderedDict[str, None] = OrderedDict()

    def add(self, *texts: str | None) -> None:
        """Hide these from now on; the oldest are forgotten if there are too many."""
        for text in texts:
            if isinstance(text, str) and len(text) >= _SHORTEST and text not in self._texts:
                self._texts[text] = None
        while len(self._texts) > _MAX_SECRETS:
            self._texts.popitem(last=False)

    def hide(self, text: str) -> str:
        # The longest first: one may be part of another.
        for each in sorted(self._texts.copy(), key=len, reverse=True):
            text = text.replace(each, "***")
        return text

    @contextmanager
    def hidden(self) -> Iterator[None]:
        """Within the block, `redact` and `printable` (for short excerpts) hide them."""
        before = _SECRETS.get()
        _SECRETS.set(self)
        try:
            yield
        finally:
            # Not `reset`: a generator may be closed in another context than it was started in.
            _SECRETS.set(before)

    def __repr__(self) -> str:
        return f"Secrets({len(self._texts)})"


_SECRETS: ContextVar[Secrets | None] = ContextVar("secrets", default=None)


def _hidden(text: str) -> str:
    secrets = _SECRETS.get()
    return text if secrets is None else secrets.hide(text)


def printable(text: str, limit: int = LIMIT) -> str:
    """`text` on one line: control characters escaped, cut to `limit` characters."""
    if limit < LIMIT:
        text = _hidden(text[: 4 * LIMIT])  # before cutting: half a secret is still one
    if len(text) > limit:
        text = text[: limit - 1] + "…"
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def redact(text: object, limit: int = LIMIT) -> str:
    """`text`, safe to log: `printable`, and without passwords, tokens and URL queries.

    Queries are removed completely, because they contain the signature of a presigned URL.
    """
    shown = printable(_hidden(str(text)[: 4 * max(limit, LIMIT)])[: 4 * limit], 4 * limit)
    if "//" in shown:
        shown = re.sub(_USERINFO, "//***@", shown)
    if "?" in shown:
        shown = re.sub(_QUERY, lambda match: (match[1] or "") + "?***", shown)
    if ":" in shown or "=" in shown:
        shown = re.sub(_LABELLED, r"\1\2***", shown)
    if "gAAAA" in shown:
        shown = re.sub(_FERNET, "***", shown)
    return printable(shown, limit)


def shown_fields(record: object) -> str:
    """The `repr` of a dataclass: the fields that are not None, redacted."""
    values = ((name, getattr(record, name)) for name in getattr(record, "__dataclass_fields__", ()))
    known = (f"{name}={_value(value)}" for name, value in values if value is not None)
    return f"{type(record).__name__}({', '.join(known)})"


def _value(value: object) -> str:
    return redact(repr(value))


def redact_causes(error: BaseException) -> None:
    """Redact the texts of the causes of `error`, which are logged with it."""
    seen: set[int] = set()
    cause = error.__cause__ or error.__context__
    while cause is not None and id(cause) not in seen:
        seen.add(id(cause))
        if any(isinstance(each, str) and redact(each) != each for each in cause.args):
            cause.args = tuple(redact(a) if isinstance(a, str) else a for a in cause.args)
            if isinstance(cause, OSError) and isinstance(cause.strerror, str):
                cause.strerror = redact(cause.strerror)  # str() shows it instead of `args`
        cause = cause.__cause__ or cause.__context__


def shown_error(error: BaseException) -> str:
    """A foreign exception on one line: its class, and its text if it has one."""
    try:
        text = str(error)
    except Exception:
        text = "(str() failed)"
    return redact(f"{type(error).__name__}: {text}" if text else type(error).__name__)
