"""`imagebroker cache verify`: whether the images in the local cache are intact."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Any

from imagebroker.cli.cache_entry import cache_row
from imagebroker.cli.command import ListCommand
from imagebroker.cli.exit_status import exit_status
from imagebroker.exceptions import ChecksumMismatch


class CacheVerify(ListCommand):
    """Verify every image in the cache, and remove damaged ones (exit status 6 if there are any)."""

    column_names = ("checksum", "size", "intact")

    def take_action(
        self, parsed_args: argparse.Namespace
    ) -> tuple[Sequence[str], Sequence[Sequence[Any]]]:
        found = list(self.broker.cache.verify())
        if not all(intact for _, intact in found):
            self.status = exit_status(ChecksumMismatch(""))
        names = self.column_names
        return names, [cache_row(names, cached, intact=intact) for cached, intact in found]
