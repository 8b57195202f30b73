"""How Sphinx makes the documentation: `sphinx-build -W docs DIRECTORY`, with imagebroker[docs]."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))
sys.path.insert(0, str(HERE.parent / "plugins"))
sys.path.insert(0, str(HERE.parent))

from imagebroker._version import VERSION  # noqa: E402

project = "imagebroker"
author = "the imagebroker developers"
copyright = f"2026, {author}"
version = release = VERSION

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "generated",
]
source_suffix = {".md": "markdown", ".rst": "restructuredtext"}
root_doc = "index"
exclude_patterns = ["man/**", "pictures/**"]

# Links like configuration.md#formats, as on the web sites that show Markdown as it is.
myst_heading_anchors = 3
myst_enable_extensions = ["colon_fence", "deflist"]

autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_default_options = {"show-inheritance": True}
# The docstrings are prose with `names` in single backquotes.
default_role = "literal"

nitpicky = False
highlight_language = "none"
pygments_style = "friendly"

html_theme = "furo"
html_title = f"imagebroker {VERSION}"
html_static_path: list[str] = []
html_theme_options: dict[str, Any] = {"navigation_with_keys": True}
