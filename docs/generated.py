"""Pages that are made from what is installed and from files that are no pages themselves."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from oslo_config import cfg
from sphinx.application import Sphinx

HERE = Path(__file__).parent
FRAGMENTS = HERE.parent / "changes"
KINDS = ("security", "removal", "change", "feature", "fix")


def make(app: Sphinx) -> None:
    """Write the pages; only what is another than before is touched."""
    _write(HERE / "reference-configuration.md", "".join(options()))
    _write(HERE / "changes.md", "".join(changes()))


def _write(path: Path, text: str) -> None:
    if not path.exists() or path.read_text(encoding="utf-8") != text:
        path.write_text(text, encoding="utf-8")


def options() -> Iterator[str]:
    """Every option of the core and of the backends that are installed."""
    from imagebroker.registry import list_opts

    yield "# Every option\n\nMade from the options themselves. "
    yield "[configuration.md](configuration.md) explains how they belong together.\n"
    for group, each in list_opts():
        yield f"\n## `[{group}]`\n\n"
        for option in sorted(each, key=lambda option: option.name):
            yield from _option(option)


def _option(option: Any) -> Iterator[str]:
    default = option.sample_default if option.sample_default is not None else option.default
    shown = ", ".join(map(str, default)) if isinstance(default, (list, tuple)) else str(default)
    yield f"`{option.name}`\n: {_one_line(option.help)}\n"
    told = "none" if default in (None, [], "") else f"`{shown}`"
    yield f"\n  {_kind(option)}; default: {told}{'; a secret' if option.secret else ''}\n\n"


def _kind(option: cfg.Opt) -> str:
    name = getattr(option.type, "type_name", "value").removesuffix(" value")
    choices = getattr(option.type, "choices", None)
    return f"{name} ({', '.join(f'`{choice}`' for choice in choices)})" if choices else name


def _one_line(text: str) -> str:
    text = " ".join(str(text).split())
    return re.sub(r"([<>*_\[\]|])", r"\\\1", text)


def changes() -> Iterator[str]:
    """What is not released yet, by kind."""
    yield "# Changes\n\n## Not released yet\n"
    for kind in KINDS:
        fragments = sorted(FRAGMENTS.glob(f"*.{kind}.md"))
        if fragments:
            yield f"\n### {kind.capitalize()}\n\n"
        for fragment in fragments:
            lines = fragment.read_text(encoding="utf-8").strip().splitlines()
            yield "- " + "\n  ".join(lines) + "\n"


def setup(app: Sphinx) -> dict[str, Any]:
    app.connect("builder-inited", make)
    return {"version": "1", "parallel_read_safe": True}
