"""What the argument parser adds: the nearest right word for a wrong one, examples in the help, shell completion."""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterable, Sequence
from typing import Any

from peftbench.errors import nearest

COMPLETES = "_ARGCOMPLETE"
"""Environment variable that a shell sets when it asks for completions."""


class Parser(argparse.ArgumentParser):
    """A parser that names the nearest right word for a wrong command, option or choice."""

    def __init__(self, *, examples: Sequence[str] = (), **options: Any) -> None:
        """Make a parser whose help ends with examples.

        Args:
            examples: whole command lines.
            options: as for ``argparse.ArgumentParser``.
        """
        self.examples = tuple(examples)
        if examples:
            options["epilog"] = "\n".join(["examples:", *(f"  {line}" for line in examples)])
        super().__init__(formatter_class=argparse.RawDescriptionHelpFormatter, **options)

    def parse_args(self, args: Any = None, namespace: Any = None) -> Any:
        """Return the arguments; an unknown option is an error that names the nearest one of its command."""
        found, unknown = self.parse_known_args(args, namespace)
        if unknown:
            command: argparse.ArgumentParser = getattr(found, "parser", self)
            options = [name for action in command._actions for name in action.option_strings]
            near = nearest(unknown[0].partition("=")[0], options) if unknown[0].startswith("-") else None
            hint = f"; did you mean {near}?" if near else ""
            command.error(f"unrecognized arguments: {' '.join(unknown)}{hint}")
        return found

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        """Refuse a value that is not among an action's choices."""
        if action.choices is None or value in action.choices:
            return
        raise argparse.ArgumentError(action, _invalid(value, action.choices))


def _invalid(value: Any, choices: Iterable[Any]) -> str:
    allowed = [str(choice) for choice in choices]
    near = nearest(str(value), allowed)
    hint = f" did you mean {near!r}?" if near else ""
    return f"invalid choice: {value!r};{hint} allowed: {', '.join(allowed)}"


def complete(parser: argparse.ArgumentParser) -> None:
    """Answer a shell that asks for completions, and exit; do nothing in any other call."""
    if COMPLETES in os.environ:
        import argcomplete

        argcomplete.autocomplete(parser)


def suite_names(prefix: str, **_: Any) -> list[str]:
    """Return the suites that come with peftbench and the YAML files that a shell may complete to."""
    from argcomplete.completers import FilesCompleter

    from peftbench import suite

    files = FilesCompleter(("yaml", "yml"))(prefix)
    return [*(name for name in suite.names() if name.startswith(prefix)), *files]


def selections(prefix: str, **_: Any) -> list[str]:
    """Return completions of ``--only``: the fields, then the names of methods or precisions, also after a comma."""
    from peftbench.methods import METHODS
    from peftbench.models.precision import PRECISIONS
    from peftbench.suite.select import FIELDS

    field, equals, values = prefix.partition("=")
    if not equals:
        return [f"{name}=" for name in FIELDS if name.startswith(field)]
    before, comma, last = values.rpartition(",")
    known = {"method": METHODS, "precision": PRECISIONS}.get(field, ())
    return [f"{field}={before}{comma}{name}" for name in known if name.startswith(last)]


def method_names(prefix: str, **_: Any) -> list[str]:
    """Return the methods and the tuners of peft whose names begin so."""
    from peftbench.methods import METHODS, peft_fields

    return [name for name in (*METHODS, *peft_fields.tuners()) if name.startswith(prefix)]


def folders(prefix: str, **_: Any) -> list[str]:
    """Return the folders that a shell may complete to."""
    from argcomplete.completers import DirectoriesCompleter

    return list(DirectoriesCompleter()(prefix))
