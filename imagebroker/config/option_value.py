"""The value of one option from oslo.config, or a readable error about it.

oslo.config accepts `nan` as a number, raises RecursionError if options refer to each other in a
cycle, and quotes what follows a `$` in its errors, which may be part of a password.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any

from oslo_config import cfg, types

from imagebroker.exceptions import ConfigError
from imagebroker.redaction import printable, shown_error

#: Of a float: a larger number of seconds is a mistake, and cannot be passed to the system anyway.
_LARGEST = 2.0**32
_CORRECT = "correct the value in the config file"
_ENGLISH = (
    (r"^invalid literal for int\(\) with base 10: (.*)$", r"\1 is not a whole number"),
    (r"^could not convert string to float: (.*)$", r"\1 is not a number"),
    (r"^Unexpected boolean value (.*)$", r"\1 is neither true nor false"),
    ("^Should be greater than or equal to ", "the value must be at least "),
    ("^Should be less than or equal to ", "the value must be at most "),
)
_DOLLAR = "write a literal $ as $$"


def value_of(conf: cfg.ConfigOpts, group: str, option: cfg.Opt) -> Any:
    """The value of a registered option.

    :raises ConfigError: it is invalid. Neither the text of the error nor its causes show secrets.
    """
    try:
        value = conf[group][option.dest]
    except Exception as error:  # types come from plugins, and may raise anything
        why, hint = explained(error)
        if hint == _CORRECT:
            why = "the value is invalid" if option.secret else why
            hint = _remedy(option.type)
    else:
        if _is_number(value):
            return value
        why, hint = f"{printable(str(value), 100)} is not a usable number", _remedy(option.type)
    # Outside of the `except`: oslo.config's error, which quotes the value, must not be the cause.
    raise ConfigError(f"[{group}] {option.name}: {why}", hint=hint)


def typed(group: str, option: cfg.Opt, value: Any) -> Any:
    """A value that was found elsewhere, as this option would have it: text is read by its type.

    :raises ConfigError: the text is no value of this option.
    """
    if not isinstance(value, str):
        return value
    try:
        return option.type(value)
    except ValueError as error:
        why = "the value is invalid" if option.secret else explained(error)[0]
    raise ConfigError(f"[{group}] {option.name}: {why}", hint=_remedy(option.type))


def _remedy(kind: Any) -> str:
    """The hint for an option of this type."""
    kind = getattr(kind, "item_type", kind)
    if getattr(kind, "choices", None):
        return f"write one of {', '.join(map(str, kind.choices))}"
    if isinstance(kind, types.Boolean):
        return "write true or false"
    if isinstance(kind, (types.Integer, types.Float)):
        lowest = "" if kind.min is None else f" of at least {str(kind.min).removesuffix('.0')}"
        what = "a whole number" if isinstance(kind, types.Integer) else "a number"
        return f"write {what}{lowest}"
    return _CORRECT


def explained(error: Exception) -> tuple[str, str]:
    """The problem with a value, and the remedy, from the `error` that oslo.config raised."""
    if isinstance(error, RecursionError):
        return "the value refers to itself through a $", f"{_DOLLAR}, or break the cycle of options"
    if isinstance(error, (cfg.NoSuchOptError, cfg.NoSuchGroupError, cfg.TemplateSubstitutionError)):
        hint = f"{_DOLLAR}; of an environment variable, write the value: none is read here"
        return "the $ in the value is not followed by the name of an option", hint
    if isinstance(error, (ValueError, cfg.Error)):
        # Without LocationInfo(...).
        return _in_english(str(error).rpartition(" is not valid: ")[2]), _CORRECT
    return shown_error(error), _CORRECT


def _in_english(text: str) -> str:
    """A message of Python or oslo.config about a value, in plain English."""
    for pattern, said in _ENGLISH:
        text = re.sub(pattern, said, text)
    return text


def _is_number(value: Any) -> bool:
    """Whether all numbers in a value, if it has any, are finite and not absurdly large."""
    if isinstance(value, float):
        return math.isfinite(value) and abs(value) <= _LARGEST
    if isinstance(value, int):
        return abs(value) < 2**63
    if isinstance(value, Mapping):
        return all(map(_is_number, value.values()))
    return not isinstance(value, (list, tuple)) or all(map(_is_number, value))
