"""`imagebroker complete`: what bash needs to complete commands, options, their values and schemes.

A script of its own: the one of cliff knows neither values nor schemes, and offers the options of
one command to another.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Iterator
from typing import cast

from imagebroker.cli.app import Application
from imagebroker.cli.command import BrokerCommand
from imagebroker.cli.console import NAME
from imagebroker.cli.parsers import Described, actions, described
from imagebroker.registry import find_entry_points, installed_backends

#: What is completed for a positional argument, by its metavar.
_POSITIONAL = {"REF": "refs", "DEST": "files", "SCHEME": "schemes", "SECTION": "sections"}


class Complete(BrokerCommand):
    """Print the script that lets bash complete commands, options, their values and schemes.

    To be read by the shell: `source <(imagebroker complete)`, in ~/.bashrc for instance, or kept in
    a file of bash-completion. zsh reads it after `autoload -U bashcompinit && bashcompinit`.
    """

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        parser = super().get_parser(prog_name)
        parser.add_argument(
            "--shell", choices=("bash",), default="bash", help="bash is the only one"
        )
        return parser

    def take_action(self, parsed_args: argparse.Namespace) -> None:
        self.app.stdout.write(script(cast(Application, self.app)))


def script(app: Application) -> str:
    """The whole script, with the schemes of the plugins that are installed now."""
    commands = list(described(app))
    backends = list(installed_backends())
    return _SCRIPT.format(
        name=NAME,
        global_options=_spellings(actions(app.parser)),
        global_valued="|".join(_valued(actions(app.parser))),
        first_words=" ".join(dict.fromkeys(each.name.split()[0] for each in commands)),
        parents="|".join(sorted({each.name.split()[0] for each in commands if " " in each.name})),
        second_words="\n".join(_second_words(commands)),
        commands="\n".join(map(_command, commands)),
        refs=" ".join(sorted(set(_beginnings()))),
        schemes=" ".join(sorted(find_entry_points())),
        backends=" ".join(sorted(each.name for each in backends)),
        sections=" ".join(["imagebroker", *sorted(f"backend:{each.name}" for each in backends)]),
    )


def _beginnings() -> Iterator[str]:
    """How refs of the installed schemes begin."""
    points = find_entry_points()
    for backend in installed_backends():
        form = backend.ref_form
        if form.id:
            yield f"{backend.name}:"
        for scheme, found in points.items():
            if (form.host or form.path) and found[0].value == points[backend.name][0].value:
                yield f"{scheme}://" if form.host else f"{scheme}:///"


def _spellings(options: Iterable[argparse.Action]) -> str:
    return " ".join(spelling for option in options for spelling in option.option_strings)


def _valued(options: Iterable[argparse.Action]) -> list[str]:
    """Options that take a value."""
    return [s for option in options if option.nargs != 0 for s in option.option_strings]


def _second_words(commands: Iterable[Described]) -> Iterator[str]:
    words: dict[str, list[str]] = {}
    for each in commands:
        first, _, second = each.name.partition(" ")
        if second:
            words.setdefault(first, []).append(second)
    for first, seconds in words.items():
        yield f"        {first}) _{NAME}_words '{' '.join(seconds)}'; return ;;"


def _command(command: Described) -> str:
    values = [line for option in command.options if (line := _value(option, command))]
    plain = set(_valued(command.options))
    kinds = [_POSITIONAL.get(str(each.metavar), each.dest) for each in command.positionals]
    if command.positionals and command.positionals[-1].nargs == "+":
        kinds[-1] += "..."
    lines = [
        f"    '{command.name}')",
        f"        options='{_spellings(command.options)}'",
        f"        valued='{' '.join(sorted(plain))}'",
        f"        arguments='{' '.join(kinds)}'",
    ]
    if values:
        lines += ['        case "$prev" in', *values, "        esac"]
    return "\n".join([*lines, "        ;;"])


def _value(option: argparse.Action, command: Described) -> str:
    """How the value of an option is completed; empty where nothing is known about it."""
    if option.nargs == 0:
        return ""
    if option.choices:
        how = f"_{NAME}_words '{' '.join(map(str, option.choices))}'"
    elif option.dest == "columns":
        how = f"_{NAME}_words '{' '.join(command.columns)}'"
    elif option.dest == "backend":
        how = f'_{NAME}_words "$backends"'
    elif option.metavar == "FILE" or option.dest.endswith("file"):
        how = f"_{NAME}_files"
    else:
        return ""
    return f"            {'|'.join(option.option_strings)}) {how}; return ;;"


_SCRIPT = """\
# bash completion for {name}. Written by `{name} complete`: do not edit.

# Offers those of some words that begin as what is typed. What stands before the last : or = of it
# is a word of its own to bash.
_{name}_words() {{
    local word
    for word in $1; do
        [[ $word == "$cur"* ]] && COMPREPLY+=("${{word#"$before"}}")
    done
    if [[ ${{#COMPREPLY[@]}} -eq 1 && ${{COMPREPLY[0]}} == *[:/] ]]; then
        compopt -o nospace 2>/dev/null
    fi
}}

_{name}_files() {{
    compopt -o filenames 2>/dev/null
    local file
    while IFS= read -r file; do
        COMPREPLY+=("${{file#"$before"}}")
    done < <(compgen -f -- "$cur")
}}

_{name}() {{
    local line=${{COMP_LINE:0:COMP_POINT}} words cur prev before='' command='' options valued
    local arguments argument word backends='{backends}'
    local -i at=1 count=0
    COMPREPLY=()
    read -ra words <<< "$line"
    [[ $line == *[[:space:]] ]] && words+=('')
    cur=${{words[${{#words[@]}} - 1]}}
    prev=${{words[${{#words[@]}} - 2]}}
    if [[ $cur == --*=* ]]; then
        prev=${{cur%%=*}} cur=${{cur#*=}}
    fi
    if [[ $cur == *:* && $COMP_WORDBREAKS == *:* ]]; then
        before=${{cur%"${{cur##*:}}"}}
    fi

    while (( at < ${{#words[@]}} - 1 )); do
        word=${{words[at]}}
        (( at++ ))
        case "$word" in
            {global_valued}) (( at++ )) ;;
            -*) ;;
            *)
                command="${{command:+$command }}$word"
                case "$command" in {parents}) ;; *) break ;; esac
                ;;
        esac
    done

    case "$command" in
        '')
            case "$prev" in {global_valued}) _{name}_files; return ;; esac
            _{name}_words '{first_words} {global_options}'
            return
            ;;
{second_words}
{commands}
        *) return ;;
    esac

    if [[ $cur == -* ]]; then
        _{name}_words "$options"
        return
    fi
    [[ $prev == -* && " $valued " == *" $prev "* ]] && return
    while (( at < ${{#words[@]}} - 1 )); do
        word=${{words[at]}}
        (( at++ ))
        case "$word" in
            -*) [[ " $valued " == *" $word "* ]] && (( at++ )) ;;
            *) (( count++ )) ;;
        esac
    done
    for argument in $arguments; do
        [[ $argument == *... ]] && count=0
        (( count-- == 0 )) && break
        argument=''
    done
    case "${{argument%...}}" in
        refs) _{name}_words '{refs}' ;;
        schemes) _{name}_words '{schemes}' ;;
        sections) _{name}_words '{sections}' ;;
        files) _{name}_files ;;
        cmd) _{name}_words '{first_words}' ;;
    esac
}}

complete -F _{name} {name}
"""
