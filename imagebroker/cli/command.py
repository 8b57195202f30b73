"""The base of all commands: cheap start-up, the broker, output formats, exit status."""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, cast

from cliff.command import Command
from cliff.formatters.json_format import JSONFormatter
from cliff.formatters.yaml_format import YAMLFormatter
from cliff.lister import Lister
from cliff.show import ShowOne
from stevedore.extension import Extension, ExtensionManager

from imagebroker.broker import Broker
from imagebroker.cli.app import Application
from imagebroker.cli.console import Console
from imagebroker.cli.output import CsvFormatter, TableFormatter, ValueFormatter
from imagebroker.exceptions import ImageBrokerError, InvalidImageRef, UsageError


class BrokerCommand(Command):
    """One command. Its constructor takes no `cmd_name`: cliff would then scan for hooks."""

    #: The exit status if nothing is raised.
    status = 0
    #: Whether what it does with an image can be done with a file of this host.
    reads_files = False
    #: The columns that `-c` can name.
    column_names: Sequence[str] = ()

    def __init__(self, app: Application, app_args: argparse.Namespace | None) -> None:
        super().__init__(app, app_args)

    @property
    def application(self) -> Application:
        return cast(Application, self.app)

    @property
    def broker(self) -> Broker:
        return self.application.broker

    @property
    def console(self) -> Console:
        return self.application.console

    def ref_of(self, text: str) -> str:
        """The ref that `text` is, or that of the one image of this name in the default backend.

        :raises InvalidImageRef, ImageNotFound: see `named_image.ref_of`.
        """
        from imagebroker.model.reference import parse

        try:
            parse(text)
        except InvalidImageRef:
            from imagebroker.cli.named_image import ref_of

            return ref_of(self.broker, text, files=self.reads_files)
        return text

    def get_epilog(self) -> str:
        # cliff's own scans all installed distributions for the one that provides this command.
        return self._epilog or ""

    def run(self, parsed_args: argparse.Namespace) -> int:
        wanted = [c.strip().lower().replace(" ", "_") for c in getattr(parsed_args, "columns", ())]
        unknown = [column for column in wanted if column not in self.column_names]
        if unknown:  # before anything is done
            # curl and wget resume with -c.
            resume = "resuming needs no -c; " if "/" in unknown[0] else ""
            raise UsageError(
                f"unknown column {unknown[0]!r}",
                hint=f"{resume}choose one of {', '.join(self.column_names)}",
            )
        parsed_args.columns = wanted
        if ca_file := getattr(parsed_args, "ca_file", None):
            # By the names that this option has in the sections of backends.
            path = os.path.abspath(ca_file)
            self.application.overrides = {"ca_file": path, "cafile": path}
        try:
            return super().run(parsed_args) or self.status
        except ImageBrokerError as error:
            from imagebroker.cli.own_words import hint_for, names_section, text_for

            error.hint = hint_for(error.hint, vars(parsed_args))
            if not error.where and names_section(error.hint):
                error.where = self.application.file_to_write
            if getattr(parsed_args, "ca_file", None):
                error.args = (text_for(str(error)),)
            raise


def formatters(kinds: dict[str, type[Any]]) -> ExtensionManager[Any]:
    """Output formats for cliff, without its scan of entry points."""
    return ExtensionManager.make_test_instance(
        [Extension(name, cast(Any, None), kind, kind()) for name, kind in kinds.items()]
    )


class ShowCommand(BrokerCommand, ShowOne):
    """Shows one thing: fields and values."""

    formats: dict[str, type[Any]] = {
        "table": TableFormatter, "json": JSONFormatter, "value": ValueFormatter,
        "yaml": YAMLFormatter,
    }  # fmt: skip
    # Not cliff's `shell`, whose output is meant for `eval`: an image's name could run commands.

    def _load_formatter_plugins(self) -> ExtensionManager[Any]:
        return formatters(self.formats)


class ListCommand(BrokerCommand, Lister):
    """Shows several things: a row each."""

    formats: dict[str, type[Any]] = {
        "table": TableFormatter, "json": JSONFormatter, "value": ValueFormatter,
        "yaml": YAMLFormatter, "csv": CsvFormatter,
    }  # fmt: skip

    def _load_formatter_plugins(self) -> ExtensionManager[Any]:
        return formatters(self.formats)

    def produce_output(
        self, parsed_args: argparse.Namespace, column_names: Sequence[str], data: Any
    ) -> int:
        """Show the rows that came before an error, then raise the error."""
        rows = _Rows(data)
        status = super().produce_output(parsed_args, column_names, rows)
        if rows.error is not None:
            raise rows.error
        if (
            not rows.came
            and parsed_args.formatter == "table"
            and (said := self.nothing(parsed_args))
        ):
            self.console.note(said)
        return status

    def nothing(self, parsed_args: argparse.Namespace) -> str:
        """The note for an empty table; empty if something else says it."""
        return ""


class _Rows:
    """The rows up to an error; an error before the first row is raised at once."""

    def __init__(self, rows: Iterable[Any]) -> None:
        self._rows = rows
        self.error: ImageBrokerError | None = None
        #: Whether there was one.
        self.came = False

    def __iter__(self) -> Iterator[Any]:
        try:
            for row in self._rows:
                self.came = True
                yield row
        except ImageBrokerError as error:
            if not self.came:
                raise
            self.error = error
