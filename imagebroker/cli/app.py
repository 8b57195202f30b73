"""The application: global options, the config file that is in force, and what runs a command."""

from __future__ import annotations

import argparse
import difflib
import logging
import os
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cliff.app import App
from cliff.command import Command
from cliff.help import HelpCommand

from imagebroker._version import VERSION
from imagebroker.cli.commands import Commands
from imagebroker.cli.console import NAME, Console, LogLines, unprintable
from imagebroker.cli.exit_status import USAGE
from imagebroker.cli.parsers import actions
from imagebroker.exceptions import InvalidImageRef
from imagebroker.redaction import redact
from imagebroker.system.person import own_folder

if TYPE_CHECKING:
    from imagebroker.broker import Broker

_DESCRIPTION = "Get, store and list disk images, wherever they live."
_SYSTEM_CONFIG = Path("/etc/imagebroker/imagebroker.conf")


class Application(App):
    """One run of the command."""

    NAME = NAME

    def __init__(self, console: Console) -> None:
        self.console = console
        self._broker: Broker | None = None
        self._handlers: list[logging.Handler] = []
        super().__init__(
            description=_DESCRIPTION,
            version=VERSION,
            command_manager=Commands(),
            deferred_help=True,
        )
        self.command_manager.add_command("help", Help)
        self.command_manager.commands["complete"] = EntryPoint(
            "complete", "imagebroker.cli.completion:Complete", "imagebroker.cli"
        )

    def build_option_parser(
        self,
        description: str | None,
        version: str | None,
        argparse_kwargs: dict[str, object] | None = None,
    ) -> argparse.ArgumentParser:
        # Without abbreviations, which would catch options that are meant for the command.
        parser = super().build_option_parser(
            description, version, {"prog": NAME, "allow_abbrev": False, **(argparse_kwargs or {})}
        )
        parser.add_argument(
            "--config-file",
            metavar="FILE",
            help="configuration to use. By default the first that exists of "
            "$XDG_CONFIG_HOME/imagebroker/imagebroker.conf and /etc/imagebroker/imagebroker.conf; "
            "without any, everything installed may be used.",
        )
        return parser

    def configure_logging(self) -> None:
        console = self.console
        console.debug = self.options.debug
        console.quiet = self.options.verbose_level == 0
        level = {0: logging.WARNING, 1: logging.WARNING, 2: logging.INFO}.get(
            self.options.verbose_level, logging.DEBUG
        )
        lines = LogLines(console)
        lines.setLevel(logging.DEBUG if console.debug else level)
        self._log(lines)
        if self.options.log_file:
            file = logging.FileHandler(self.options.log_file)
            file.setFormatter(_Redacting(self.LOG_FILE_MESSAGE_FORMAT))
            file.setLevel(logging.DEBUG)
            self._log(file)

    def _log(self, handler: logging.Handler) -> None:
        root = logging.getLogger()
        root.addHandler(handler)
        root.setLevel(min(root.level, handler.level))
        self._handlers.append(handler)

    def stop_logging(self) -> None:
        """Leave logging as it was, for a process that goes on."""
        root = logging.getLogger()
        for handler in self._handlers:
            root.removeHandler(handler)
            handler.close()
        root.setLevel(logging.WARNING)

    def initialize_app(self, argv: list[str]) -> None:
        """:raises SystemExit: no command is given."""
        if not argv and not self.options.deferred_help:
            self.console.write(f"{NAME}: no command is given")
            self.console.write(f"  hint: `{NAME} --help` lists the commands")
            raise SystemExit(USAGE)

    def print_help_if_requested(self) -> None:
        if not self.options.deferred_help:
            return
        try:
            self.print_overview()
        except OSError as error:
            raise SystemExit(self.console.error(unprintable(error))) from None
        raise SystemExit(0)

    def print_overview(self) -> None:
        """The global options, and all commands. cliff's own looks through all distributions."""
        self.parser.print_help(self.stdout)
        self.stdout.write("\nCommands:\n")
        for name, point in self.command_manager:
            command = point.load()(self, None)
            summary = command.get_description().split("\n")[0].rstrip(".")
            self.stdout.write(f"  {name:<13}  {summary}\n")
        self.stdout.write(f"\n`{NAME} COMMAND --help` says more about each.\n")

    def run_subcommand(self, argv: list[str]) -> int:
        try:
            factory, name, rest = self.command_manager.find_command(argv)
        except ValueError:
            return self.refuse(argv[0])
        try:
            command: Command = factory(self, self.options)
            # Intermixed, or `download REF --flag DEST` would be refused.
            parser = command.get_parser(f"{NAME} {name}")
            parsed, unknown = parser.parse_known_intermixed_args(rest)
            if unknown:
                raise _unknown_arguments(name, parser, unknown)
            self.console.json = getattr(parsed, "formatter", None) == "json"
            return command.run(parsed)
        except OSError as error:  # of our own output: those of others the core has translated
            return self.console.error(unprintable(error))
        except (Exception, KeyboardInterrupt) as error:
            return self.console.error(error)
        finally:
            if self._broker is not None:
                self._broker.close()
            self.stop_logging()

    def refuse(self, word: str) -> int:
        """Say that `word` is no command, and which may be meant."""
        near = _nearest(word, list(self.command_manager.commands))
        self.console.write(f"{NAME}: there is no command {word!r}")
        self.console.write(f"  hint: did you mean {' or '.join(near)}?" if near else
                           f"  hint: `{NAME} --help` lists the commands")  # fmt: skip
        return USAGE

    @property
    def config_file(self) -> Path | None:
        """The config file in force; None where a person works without any."""
        if self.options.config_file is not None:
            return Path(self.options.config_file)
        own = own_folder("XDG_CONFIG_HOME", ".config")
        paths = [] if own is None else [own / "imagebroker" / "imagebroker.conf"]
        return next((path for path in (*paths, _SYSTEM_CONFIG) if os.path.exists(path)), None)

    @property
    def broker(self) -> Broker:
        """The broker of that config file, made at the first use and closed at the end.

        :raises ConfigError: it cannot be used.
        """
        if self._broker is None:
            from imagebroker.broker import Broker
            from imagebroker.telemetry import Telemetry

            path = self.config_file
            if path is None:
                self._broker = Broker.for_person()
            else:
                from imagebroker.config.settings import Settings, own_state_home

                self._broker = Broker(Settings.from_file(path, state_home=own_state_home()))
            # Nobody asks a process for its metrics that ends at once; importing takes longer.
            self._broker.telemetry = Telemetry(metrics=False, tracing=False)
        return self._broker


class Help(HelpCommand):
    """Say more about a command."""

    app: Application

    def take_action(self, parsed_args: argparse.Namespace) -> int:
        if not parsed_args.cmd:
            self.app.print_overview()
            return 0
        try:
            return super().take_action(parsed_args)
        except ValueError:
            return self.app.refuse(parsed_args.cmd[0])


def _nearest(word: str, known: list[str]) -> list[str]:
    """What may have been meant: the most similar, and a second one only if it is as similar."""
    found = difflib.get_close_matches(word, known, n=2)
    likeness = [difflib.SequenceMatcher(None, word, each).ratio() for each in found]
    return [each for each, ratio in zip(found, likeness, strict=True) if ratio > likeness[0] - 0.1]


def _unknown_arguments(
    name: str, parser: argparse.ArgumentParser, unknown: list[str]
) -> InvalidImageRef:
    word = redact(unknown[0].partition("=")[0], 100)
    known = [s for action in actions(parser) for s in action.option_strings]
    near = _nearest(word, known)
    what = "option" if word.startswith("-") else "argument"
    return InvalidImageRef(
        f"{name} takes no {what} {word!r}",
        hint=f"did you mean {' or '.join(near)}?" if near else
        f"`{NAME} {name} --help` explains its arguments and options",
    )  # fmt: skip


class _Redacting(logging.Formatter):
    """A line for the message, whatever is in it, and those of a traceback."""

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802
        return redact(super().formatMessage(record))

    def formatException(self, ei: Any) -> str:  # noqa: N802
        return "\n".join(map(redact, super().formatException(ei).split("\n")))

    def formatStack(self, stack_info: str) -> str:  # noqa: N802
        return "\n".join(map(redact, stack_info.split("\n")))
