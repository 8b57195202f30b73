"""`imagebroker backend new`: generates a new plugin."""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path

from imagebroker.cli.command import BrokerCommand
from imagebroker.exceptions import DestinationError
from imagebroker.registry import find_entry_points
from imagebroker.testing.skeleton import skeleton


class BackendNew(BrokerCommand):
    """Generate a new backend: a distribution that installs, works, and passes the kit.

    It serves files from a directory, or with --http what a web server has. Replace that with your
    own storage, and check your changes with `imagebroker backend test`.
    """

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        parser = super().get_parser(prog_name)
        parser.add_argument("name", metavar="NAME", help="scheme of its refs")
        parser.add_argument(
            "--dir", metavar="DIR", type=Path, default=Path(),
            help="directory to create imagebroker-NAME in (default: the current directory)",
        )  # fmt: skip
        parser.add_argument(
            "--http", action="store_true", help="generate one for a service that speaks HTTP"
        )
        return parser

    def take_action(self, parsed_args: argparse.Namespace) -> None:
        name = parsed_args.name
        folder = parsed_args.dir / f"imagebroker-{name}"
        files = skeleton(name, http=parsed_args.http, folder=str(folder.absolute()))
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
        for command in _first_commands(folder, name, http=parsed_args.http):
            self.console.note(f"next: {command}")


def _first_commands(folder: Path, name: str, *, http: bool) -> Iterator[str]:
    """The commands to type next: for this Python, which need not be the first on PATH."""
    python = shlex.quote(sys.executable)
    where = shlex.quote(f"{folder.absolute()}[test]")
    config = shlex.quote(str(folder / f"{name}.conf"))
    yield f"{python} -m pip install -e {where}"
    yield f"imagebroker backend test {name}"
    if http:
        images = shlex.quote(str(folder / "images"))
        yield f"{python} -m http.server --bind 127.0.0.1 --directory {images} 8000 &"
    path = "//shelf/hello.img" if http else "///hello.img"
    yield f"imagebroker --config-file {config} download {name}:{path}"
