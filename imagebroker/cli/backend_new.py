"""`imagebroker backend new`: generates a new plugin."""

from __future__ import annotations

import argparse
from pathlib import Path

from imagebroker.cli.command import BrokerCommand
from imagebroker.exceptions import DestinationError
from imagebroker.registry import find_entry_points
from imagebroker.testing.skeleton import skeleton


class BackendNew(BrokerCommand):
    """Generate a new backend: a distribution that installs, works, and passes the kit.

    It serves files from a directory. Replace that with your own storage, and check your changes
    with `imagebroker backend test`.
    """

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        parser = super().get_parser(prog_name)
        parser.add_argument("name", metavar="NAME", help="scheme of its refs")
        parser.add_argument(
            "--dir", metavar="DIR", type=Path, default=Path(),
            help="directory to create imagebroker-NAME in (default: the current directory)",
        )  # fmt: skip
        return parser

    def take_action(self, parsed_args: argparse.Namespace) -> None:
        name = parsed_args.name
        files = skeleton(name)
        folder = parsed_args.dir / f"imagebroker-{name}"
        if folder.exists():
            raise DestinationError(
                f"{str(folder)!r} already exists", hint="remove it, or choose another --dir"
            )
        try:
            for path, content in files.items():
                (folder / path).parent.mkdir(parents=True, exist_ok=True)
                (folder / path).write_text(content, encoding="utf-8")
        except OSError as error:
            raise DestinationError.wrap(error, f"cannot write {str(folder)!r}") from error
        for point in find_entry_points().get(name, ()):
            self.console.note(f"{point.value} already provides the scheme {name}: only one of the "
                              "two can be installed")  # fmt: skip
        print(folder, file=self.app.stdout)
        self.console.note(f"next: pip install -e {folder} && imagebroker backend test {name}")
