"""Generates the man page, which a test compares: `make.py > docs/man/imagebroker.1`."""

from __future__ import annotations

import sys

from imagebroker.cli.app import Application
from imagebroker.cli.console import Console
from imagebroker.cli.manual import manual

if __name__ == "__main__":
    sys.stdout.write(manual(Application(Console())))
