"""The value of one option as oslo.config has it, or what is wrong with it in words.

oslo.config takes `nan` for a number, ends in a RecursionError where options refer to each other in
a circle, and quotes what follows a `$`, which may be a part of a password.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from oslo_config import cfg

from imagebroker.exceptions import ConfigError
from imagebroker.redaction import printable, shown_error

#: Whatever it is, seconds or bytes in a float: more cannot be meant, or be waited for.
_LARGEST = 2.0**32
_CORRECT = "correct the value in the config file"
_DOLLAR = "write $$ for a dollar sign"


def value_of(conf: cfg.ConfigOpts, group: str, option: cfg.Opt) -> Any:
    """The value of a registered option.

    :raises ConfigError: it cannot be used. Neither its text nor its causes show what is secret.
    """
    try:
        value = conf[group][option.dest]
    except Exception as error:  # types are the plugins': they may raise whatever they like
        why, hint = explained(error)
        if option.secret and hint == _CORRECT:
            why = "the value cannot be used"
    else:
        if _is_number(value):
            return value
        why, hint = f"{printable(str(value), 100)} is no number that can be used", _CORRECT
    # Not in the `except`: the cause would have what oslo.config quotes of the value.
    raise ConfigError(f"[{group}] {option.name}: {why}", hint=hint)


def explained(error: Exception) -> tuple[str, str]:
    """What is wrong with a value, and what to do, where oslo.config raised `error` for it."""
    if isinstance(error, RecursionError):
        return "the value refers to itself through the $ in it", (
            f"{_DOLLAR}, or end the circle of options"
        )
    if isinstance(error, (cfg.NoSuchOptError, cfg.NoSuchGroupError, cfg.TemplateSubstitutionError)):
        return "what follows the $ in the value is not the name of an option", _DOLLAR
    if isinstance(error, (ValueError, cfg.Error)):
        return str(error).rpartition(" is not valid: ")[2], _CORRECT  # without LocationInfo(...)
    return shown_error(error), _CORRECT


def _is_number(value: Any) -> bool:
    """Whether the numbers in a value, if there are any, are such that can be worked with."""
    if isinstance(value, float):
        return math.isfinite(value) and abs(value) <= _LARGEST
    if isinstance(value, int):
        return abs(value) < 2**63
    if isinstance(value, Mapping):
        return all(map(_is_number, value.values()))
    return not isinstance(value, (list, tuple)) or all(map(_is_number, value))
