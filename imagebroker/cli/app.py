"""The application: global options, the choice of the config file, and the run of a command."""

from __future__ import annotations

import argparse
import logging
import os
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from cliff.app import App
from cliff.command import Command
from cliff.help import HelpCommand

from imagebroker._version import VERSION
from imagebroker.cli.commands import Commands
from imagebroker.cli.console import NAME, Console, LogLines, unprintable
from imagebroker.cli.exit_status import USAGE
from imagebroker.cli.metrics_file import MetricsFile
from imagebroker.exceptions import DestinationError, UsageError
from imagebroker.redaction import redact
from imagebroker.system.person import own_folder

if TYPE_CHECKING:
    from imagebroker.broker import Broker
    from imagebroker.config.settings import Settings

LOG = logging.getLogger(__name__)

_DESCRIPTION = "Get, store and list disk images, wherever they live."
_SYSTEM_CONFIG = Path("/etc/imagebroker/imagebroker.conf")


class Application(App):
    """One run of the command."""

    NAME = NAME

    def __init__(self, console: Console) -> None:
        self.console = console
        self._broker: Broker | None = None
        #: Values from the command line for the options of every backend that has them.
        self.overrides: dict[str, Any] = {}
        self._handlers: list[logging.Handler] = []
        self._metrics: MetricsFile | None = None
        super().__init__(
            description=_DESCRIPTION,
            version=VERSION,
            command_manager=Commands(),
            deferred_help=True,
        )
        self.command_manager.add_command("help", Help)
        self.command_manager.commands["complete"] = EntryPoint(
            "complete", "imagebroker.cli.completion.command:Complete", "imagebroker.cli"
        )

    def build_option_parser(
        self,
        description: str | None,
        version: str | None,
        argparse_kwargs: dict[str, object] | None = None,
    ) -> argparse.ArgumentParser:
        # No abbreviations: they would swallow options of the command.
        parser = super().build_option_parser(
            description, version, {"prog": NAME, "allow_abbrev": False, **(argparse_kwargs or {})}
        )
        parser.add_argument(
            "--config-file",
            metavar="FILE",
            help="config file to use (default: the first that exists of "
            "$XDG_CONFIG_HOME/imagebroker/imagebroker.conf and /etc/imagebroker/imagebroker.conf; "
            "the first of these adds to the personal defaults; any other file allows only what it "
            "lists)",
        )
        parser.add_argument(
            "--metrics-file",
            metavar="FILE",
            help="write metrics of this run to FILE (*.prom), for the textfile collector of "
            "node-exporter",
        )
        return parser

    def configure_logging(self) -> None:
        console = self.console
        console.debug = self.options.debug
        console.quiet = self.options.verbose_level == 0
        level = {0: logging.WARNING, 1: logging.WARNING, 2: logging.INFO}.get(
            self.options.verbose_level, logging.DEBUG
        )
        level = logging.DEBUG if console.debug else level
        self._log(LogLines(console), level)
        if self.options.log_file:
            try:
                file = _log_file(self.options.log_file)
            except DestinationError as error:
                raise SystemExit(console.error(error)) from None
            file.setFormatter(RedactingFormatter(self.LOG_FILE_MESSAGE_FORMAT))
            self._log(file, min(level, logging.INFO))
            console.log = file

    def _log(self, handler: logging.Handler, level: int) -> None:
        root = logging.getLogger()
        handler.setLevel(level)
        if level > logging.DEBUG:
            handler.addFilter(_is_no_chatter)
        root.addHandler(handler)
        root.setLevel(min(root.level, handler.level))
        self._handlers.append(handler)

    def stop_logging(self) -> None:
        """Restore logging to what it was, for a process that continues."""
        root = logging.getLogger()
        for handler in self._handlers:
            root.removeHandler(handler)
            handler.close()
        root.setLevel(logging.WARNING)

    def initialize_app(self, argv: list[str]) -> None:
        """:raises SystemExit: no command was given."""
        if not argv and not self.options.deferred_help:
            error = UsageError("no command given", hint=f"list the commands with: {NAME} --help")
            raise SystemExit(self.console.error(error))

    def print_help_if_requested(self) -> None:
        if not self.options.deferred_help:
            return
        try:
            self.print_overview()
        except OSError as error:
            raise SystemExit(self.console.error(unprintable(error))) from None
        raise SystemExit(0)

    def print_overview(self) -> None:
        """The global options, and all commands. cliff's own version scans all distributions."""
        self.parser.print_help(self.stdout)
        self.stdout.write("\nCommands:\n")
        for name, point in self.command_manager:
            command = point.load()(self, None)
            summary = command.get_description().split("\n")[0].rstrip(".")
            self.stdout.write(f"  {name:<13}  {summary}\n")
        self.stdout.write(f"\nFor the options of a command, run: {NAME} COMMAND --help\n")

    def run_subcommand(self, argv: list[str]) -> int:
        try:
            factory, name, rest = self.command_manager.find_command(argv)
        except ValueError:
            return self.refuse(argv[0])
        status = USAGE
        try:
            if self.options.metrics_file:
                self._metrics = MetricsFile(self.options.metrics_file)
            command: Command = factory(self, self.options)
            # Intermixed, so that `download REF --flag DEST` works.
            parser = command.get_parser(f"{NAME} {name}")
            parsed = self._parsed(name, parser, rest)
            self.console.json = getattr(parsed, "formatter", None) == "json"
            status = command.run(parsed)
        except OSError as error:  # writing our own output failed: the core has wrapped all others
            status = self.console.error(unprintable(error))
        except (Exception, KeyboardInterrupt) as error:
            status = self.console.error(error)
        finally:
            if self._broker is not None:
                self._broker.close()
            self._write_metrics(name, status)
            self.stop_logging()
        return status

    def _write_metrics(self, command: str, status: int) -> None:
        """The run has ended as it has: that it cannot be counted does not change that."""
        if self._metrics is None:
            return
        try:
            self._metrics.write(command, status)
        except DestinationError as error:
            LOG.warning("%s", error)

    def _parsed(
        self, name: str, parser: argparse.ArgumentParser, arguments: list[str]
    ) -> argparse.Namespace:
        """:raises UsageError: they are wrong."""

        def refuse(message: str) -> NoReturn:
            from imagebroker.cli.usage import refused

            raise refused(name, parser, message, arguments)

        setattr(parser, "error", refuse)  # noqa: B010 - argparse's would print and exit
        try:
            parsed, unknown = parser.parse_known_intermixed_args(arguments)
            if unknown:
                from imagebroker.cli.usage import unknown_arguments

                raise unknown_arguments(name, parser, unknown, arguments)
        except UsageError:
            from imagebroker.cli.usage import asks_for_json

            self.console.json = asks_for_json(arguments)
            raise
        return parsed

    def refuse(self, word: str) -> int:
        """Report an unknown command, and suggest what was meant."""
        from imagebroker.cli.usage import unknown_command

        return self.console.error(unknown_command(word, list(self.command_manager.commands)))

    @property
    def config_file(self) -> Path | None:
        """The config file to use; None for the personal defaults, without a config file.

        :raises UsageError: its name is empty, as that of a variable that is not set.
        """
        if self.options.config_file == "":
            raise UsageError(
                "--config-file names no file",
                hint="name one, or leave the option out for the usual one",
            )
        if self.options.config_file is not None:
            return Path(self.options.config_file)
        paths = [path for path in (_own_config(), _SYSTEM_CONFIG) if path is not None]
        return next((path for path in paths if os.path.exists(path)), None)

    @property
    def file_to_write(self) -> str:
        """Where a person without a config file writes an option; empty for all others."""
        own = _own_config() if self.config_file is None else None
        return "" if own is None else str(own)

    @property
    def is_personal(self) -> bool:
        """Whether a person runs the command: with no config file, or with their own, which
        overlays the personal defaults. A file that is named is deny by default.
        """
        path = self.config_file
        return path is None or (self.options.config_file is None and path == _own_config())

    @property
    def broker(self) -> Broker:
        """The broker for that config file, created at first use and closed at the end.

        :raises ConfigError: the config file cannot be used.
        """
        if self._broker is None:
            from imagebroker.broker import Broker
            from imagebroker.telemetry.calls import Telemetry

            self._broker = Broker(self._settings())
            # A short process is never scraped for metrics, and the imports would slow its start.
            others = () if self._metrics is None else (self._metrics.ended,)
            self._broker.telemetry = Telemetry(metrics=False, tracing=False, others=others)
        return self._broker

    def _settings(self) -> Settings:
        from imagebroker.config.settings import Settings, own_state_home

        path = self.config_file
        if path is None:
            return Settings.for_person(overrides=self.overrides)
        return Settings.from_file(
            path, personal=self.is_personal, state_home=own_state_home(), overrides=self.overrides
        )


def _own_config() -> Path | None:
    folder = own_folder("XDG_CONFIG_HOME", ".config")
    return None if folder is None else folder / "imagebroker" / "imagebroker.conf"


class Help(HelpCommand):
    """Show the help of a command."""

    app: Application

    def take_action(self, parsed_args: argparse.Namespace) -> int:
        if not parsed_args.cmd:
            self.app.print_overview()
            return 0
        try:
            return super().take_action(parsed_args)
        except ValueError:
            return self.app.refuse(parsed_args.cmd[0])


def _log_file(path: str) -> logging.FileHandler:
    """:raises DestinationError: it cannot be opened."""
    try:
        return logging.FileHandler(path)
    except OSError as error:
        raise DestinationError.wrap(error, f"cannot write to the log file {path}") from error


def _is_no_chatter(record: logging.LogRecord) -> bool:
    """Records of libraries are for debugging only; their warnings are always shown."""
    return record.levelno >= logging.WARNING or record.name.startswith(NAME)


class RedactingFormatter(logging.Formatter):
    """Redacts messages and tracebacks; a message stays on one line whatever it contains."""

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802
        return redact(super().formatMessage(record))

    def formatException(self, ei: Any) -> str:  # noqa: N802
        return "\n".join(map(redact, super().formatException(ei).split("\n")))

    def formatStack(self, stack_info: str) -> str:  # noqa: N802
        return "\n".join(map(redact, stack_info.split("\n")))
