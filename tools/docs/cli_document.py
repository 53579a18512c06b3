"""The tables of ``docs/cli.md``: every command with its arguments and options, from the argument parser."""

from __future__ import annotations

import argparse

from peftbench import cli
from peftbench.commands import BAD_INPUT, FAILED, HUNG_UP, INTERNAL, INTERRUPTED, NOTHING_JUDGED, TERMINATED
from tools.docs.suite_document import NONE, table

EXIT_CODES = {
    0: "success",
    FAILED: "a trial failed, no trial can run, `audit: strict` found a difference, or a comparison found a regression",
    BAD_INPUT: "bad input: the suite, an option or a results folder is not usable, or the system refused to read or "
    "write a file; the message says what and where",
    NOTHING_JUDGED: "a comparison could judge nothing: no cell is in both folders, or nothing in them compares",
    INTERNAL: "a mistake in peftbench: the message names the file with the traceback; with `PEFTBENCH_TRACEBACK=1` in "
    "the environment the traceback is shown instead",
    HUNG_UP: "the terminal was closed (SIGHUP); finished trials are kept",
    INTERRUPTED: "interrupted (Ctrl-C); finished trials are kept. A second Ctrl-C stops at once",
    TERMINATED: "stopped by SIGTERM; finished trials are kept",
}


def commands() -> dict[str, argparse.ArgumentParser]:
    """Return the parser of each command."""
    (choice,) = (a for a in cli.parser()._actions if isinstance(a, argparse._SubParsersAction))
    return dict(choice.choices)


def helps() -> dict[str, str]:
    """Return the one-line help of each command."""
    (choice,) = (a for a in cli.parser()._actions if isinstance(a, argparse._SubParsersAction))
    return {action.dest: str(action.help) for action in choice._choices_actions}


def overview() -> str:
    """Return the table of commands."""
    rows = []
    for name, parser in commands().items():
        needed = [action for action in _actions(parser) if not action.option_strings or action.required]
        words = " ".join(["peftbench", name, *(_name(each).strip("`") for each in needed)])
        rows.append((f"`{words.replace('-o, --output', '-o')}`", helps()[name]))
    return table(rows, ("command", "what it does"))


def command(name: str) -> str:
    """Return the table of one command's arguments and options."""
    rows = [(_name(action), _default(action), _help(action)) for action in _actions(commands()[name])]
    return table(rows, ("argument or option", "default", "meaning"))


def exit_codes() -> str:
    """Return the table of exit codes."""
    return table(((str(code), meaning) for code, meaning in EXIT_CODES.items()), ("exit code", "meaning"))


def _actions(parser: argparse.ArgumentParser) -> list[argparse.Action]:
    return [action for action in parser._actions if not isinstance(action, argparse._HelpAction)]


def _name(action: argparse.Action) -> str:
    value = "|".join(map(str, action.choices)) if action.choices else action.metavar or action.dest
    if not action.option_strings:
        return f"`[{value}]`" if action.nargs == "?" else f"`{value}`"
    names = ", ".join(action.option_strings)
    return f"`{names}`" if action.nargs == 0 else f"`{names} {value}`"


def _default(action: argparse.Action) -> str:
    if not action.option_strings:
        return NONE if action.nargs == "?" else "required"
    if action.required:
        return "required"
    return NONE if action.default in (None, False, []) else f"`{action.default}`"


def _help(action: argparse.Action) -> str:
    repeats = "; may be given several times" if isinstance(action, argparse._AppendAction) else ""
    return f"{action.help or action.dest}{repeats}"
