"""`imagebroker backend new`: the beginning of a plugin of one's own."""

from __future__ import annotations

import argparse
from pathlib import Path

from imagebroker.cli.command import BrokerCommand
from imagebroker.exceptions import DestinationError
from imagebroker.registry import find_entry_points
from imagebroker.testing.skeleton import skeleton


class BackendNew(BrokerCommand):
    """Write a new backend: a distribution that installs, is served, and passes the kit.

    It serves the files of a directory at first. `imagebroker backend test` shows what still holds
    while it is made into what it is to be.
    """

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        parser = super().get_parser(prog_name)
        parser.add_argument("name", metavar="NAME", help="the scheme that its refs begin with")
        parser.add_argument(
            "--dir", metavar="DIR", type=Path, default=Path(),
            help="where its folder imagebroker-NAME goes; by default the current one",
        )  # fmt: skip
        return parser

    def take_action(self, parsed_args: argparse.Namespace) -> None:
        name = parsed_args.name
        files = skeleton(name)
        folder = parsed_args.dir / f"imagebroker-{name}"
        if folder.exists():
            raise DestinationError(
                f"{str(folder)!r} is there already", hint="choose another --dir, or remove it"
            )
        try:
            for path, content in files.items():
                (folder / path).parent.mkdir(parents=True, exist_ok=True)
                (folder / path).write_text(content, encoding="utf-8")
        except OSError as error:
            raise DestinationError.wrap(error, f"cannot write {str(folder)!r}") from error
        for point in find_entry_points().get(name, ()):
            self.console.note(f"the scheme {name} is provided by {point.value} already: "
                              "only one of them can be installed")  # fmt: skip
        print(folder, file=self.app.stdout)
        self.console.note(f"now: pip install -e {folder}, then imagebroker backend test {name}")
