"""A suite file's data with the origin of every value: a line of the file, ``--set``, or the environment."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

from peftbench.errors import UserError
from peftbench.suite.wording import describe_value
from peftbench.suite.yaml_lines import KeyPath, dotted, parse, place, read_text

SET = "--set"
NAME_LISTS: tuple[tuple[KeyPath, Any], ...] = ((("tasks",), None), (("methods",), None), (("train", "data"), 1.0))
"""Paths where a list of names may replace a mapping, and the value that each name then gets."""
AMOUNTS = ("steps", "epochs", "tokens", "seconds")
"""Settings for the length of training; exactly one is given."""
MOST_PROBLEMS = 20
"""Problems of one block that are listed; the others are counted."""
_VARIABLE = re.compile(
    r"(?P<escaped>\$\$\{)|\$\{(?P<name>[A-Za-z_][A-Za-z0-9_]*)(:-(?P<default>[^}]*))?\}|(?P<malformed>\$\{(?!\{))"
)


class Outside(str):
    """Text from outside the suite file (environment, command line): its relative paths start at the current folder."""


@dataclass
class Document:
    """The data of one suite; overrides and variables change it in place before it is validated."""

    display_path: str
    """The file as messages name it."""
    folder: Path
    """The folder that the file's relative paths start at."""
    data: dict[str, Any]
    origins: dict[KeyPath, str]
    """The place that gave each value: ``file:line``, or an option."""
    written: dict[KeyPath, KeyPath] = field(default_factory=dict)
    """The path as the user wrote it, if the normal form differs (``base`` for ``base.source``)."""
    placeholders: bool = False
    """Whether an unset variable becomes its own name, for smoke mode, which does not use the value."""

    @classmethod
    def read(cls, path: Path, display_path: str) -> Document:
        """Return the data of a suite file in normal form.

        Raises:
            UserError: if the file cannot be read, is not YAML, or is not a mapping.
        """
        data, lines = parse(read_text(path, display_path), display_path)
        if data is None:
            raise UserError(f"{display_path}: the file is empty; a suite needs at least base, tasks and methods")
        if not isinstance(data, dict):
            raise UserError(
                f"{place(display_path, lines[()])}: a suite is a mapping of keys; given {describe_value(data)}"
            )
        origins = {key: place(display_path, line) for key, line in lines.items()}
        document = cls(display_path, path.parent, data, origins)
        document.normalize()
        return document

    def origin(self, path: KeyPath) -> str:
        """Return the origin of the value at a path, or of the nearest value that contains it."""
        while path not in self.origins and path:
            path = path[:-1]
        return self.origins.get(path, self.display_path)

    def problem(self, path: KeyPath, text: str) -> str:
        """Return ``file:line: key.path: text``."""
        named = dotted(self.written.get(path, path))
        return f"{self.origin(path)}: {named}: {text}" if named else f"{self.origin(path)}: {text}"

    def fail(self, path: KeyPath, text: str) -> NoReturn:
        """Raise UserError about one value."""
        raise UserError(self.problem(path, text))

    def get(self, path: KeyPath) -> Any:
        """Return the value at a path of mappings, or None."""
        value: Any = self.data
        for part in path:
            value = value.get(part) if isinstance(value, dict) else None
        return value

    def normalize(self) -> None:
        """Turn ``base: X`` into ``base: {source: X}``, and lists of names into mappings."""
        source = self.data.get("base")
        if isinstance(source, str):
            self.data["base"] = {"source": source}
            self.origins["base", "source"] = self.origin(("base",))
            self.written["base", "source"] = ("base",)
        for path, value in NAME_LISTS:
            names = self.get(path)
            if isinstance(names, list):
                self.get(path[:-1])[path[-1]] = self.mapping_of(path, names, value)

    def mapping_of(self, path: KeyPath, names: list[Any], value: Any) -> dict[str, Any]:
        """Return a list of names as a mapping; each name keeps its origin."""
        mapping: dict[str, Any] = {}
        for index, name in enumerate(names):
            here = (*path, index)
            if not isinstance(name, str):
                self.fail(
                    here, f"given {describe_value(name)}; allowed: a name (settings need a mapping instead of a list)"
                )
            if name in mapping:
                self.fail(here, f"{name!r} is listed twice")
            mapping[str(name)] = value
            self.origins[(*path, name)] = self.origin(here)
        return mapping

    def put(self, path: KeyPath, value: Any, origin: str) -> None:
        """Set one value and create missing mappings on its path.

        Setting one of ``AMOUNTS`` removes the others, except those with the same origin, which is then an error. Where
        a method has a list of blocks, a path without a place in that list sets the value in each of them.
        """
        blocks = self.get(path[:2]) if path[0] == "methods" and len(path) > 2 else None
        if isinstance(blocks, list) and not str(path[2]).isdecimal() and all(isinstance(b, dict) for b in blocks):
            for index in range(len(blocks)):
                self.put((*path[:2], index, *path[2:]), value, origin)
                self.written[(*path[:2], index, *path[2:])] = path  # the problem of all is told once
            if blocks:
                return
        holder: Any = self.data
        for depth, part in enumerate(path[:-1]):
            key = self.key_in(holder, path[:depth], part)
            if isinstance(holder, dict) and holder.get(key) is None:
                holder[key] = {}
                self.origins[path[: depth + 1]] = origin
            holder = holder[key]
            path = (*path[:depth], key, *path[depth + 1 :])  # a place in a list is a number, as in the file
        last = self.key_in(holder, path[:-1], path[-1])
        path = (*path[:-1], last)
        if last in AMOUNTS and value is not None:
            for other in AMOUNTS:
                if self.origins.get((*path[:-1], other)) != origin:
                    holder.pop(other, None)
        holder[last] = value
        for below in [each for each in self.origins if each[: len(path)] == path]:
            del self.origins[below]
        self.written.pop((*path, "source"), None)
        self.origins[path] = origin
        self.normalize()

    def key_in(self, holder: Any, path: KeyPath, part: str | int) -> str | int:
        """Return the mapping key or list index that one part of a path refers to."""
        whole = f"{SET}: {dotted((*path, part))}"
        if isinstance(holder, dict):
            return part
        if not isinstance(holder, list):
            raise UserError(f"{whole}: {dotted(path)} is {describe_value(holder)}, which has no keys")
        if not str(part).isdecimal() or int(part) >= len(holder):
            allowed = f"{dotted((*path, 0))} to {dotted((*path, len(holder) - 1))}" if holder else "none, it is empty"
            raise UserError(f"{whole}: {dotted(path)} is a list of {len(holder)}; allowed: {allowed}")
        return int(part)

    def override(self, text: str) -> None:
        """Apply one ``key.path=value``; the value is YAML.

        Raises:
            UserError: if it does not have that form, or the path leads through a value without keys.
        """
        key, equals, value = text.partition("=")
        parts = tuple(key.strip().split("."))
        if not equals or not all(parts):
            raise UserError(f"{SET}: given {text!r}; allowed: KEY=VALUE, with dots in the key: train.steps=20")
        try:
            data, _ = parse(value, SET)
        except UserError as error:
            hint = "text with special characters needs quotes of its own: --set 'key=\"text\"'"
            raise UserError(f"{SET}: {key}: {str(error).removeprefix(f'{SET}: ')}; {hint}") from None
        self.put(parts, _mark_outside(data), SET)

    def interpolate(self, environ: Mapping[str, str]) -> None:
        """Replace ``${NAME}`` and ``${NAME:-default}`` in all text; ``$${`` is an escaped ``${``.

        Raises:
            UserError: if a variable is unset (or empty) and has no default; all such variables are named.
        """
        problems: list[str] = []
        self.data = self._interpolated(self.data, (), environ, problems)
        problems += self._unwritable(self.data, ())
        raise_problems(problems)

    def _unwritable(self, value: Any, path: KeyPath) -> Iterator[str]:
        """Yield a problem for each key and each text that is no Unicode text."""
        if isinstance(value, dict | list):
            for key, item in value.items() if isinstance(value, dict) else enumerate(value):
                if isinstance(key, str) and not _is_text(key):
                    yield self.problem(path, f"the key {key!r} is not Unicode text (it has half of a surrogate pair)")
                else:
                    yield from self._unwritable(item, (*path, key))
        elif isinstance(value, str) and not _is_text(value):
            yield self.problem(path, f"given {describe_value(value)}; allowed: Unicode text, without half of a pair")

    def _interpolated(self, value: Any, path: KeyPath, environ: Mapping[str, str], problems: list[str]) -> Any:
        if isinstance(value, dict):
            return {key: self._interpolated(item, (*path, key), environ, problems) for key, item in value.items()}
        if isinstance(value, list):
            return [self._interpolated(item, (*path, i), environ, problems) for i, item in enumerate(value)]
        if not isinstance(value, str) or "${" not in value:
            return value

        def replace(match: re.Match[str]) -> str:
            if match["escaped"]:
                return "${"
            if match["malformed"]:
                problems.append(
                    self.problem(
                        path, "'${' does not begin ${NAME} or ${NAME:-default}; write '$${' for the text itself"
                    )
                )
                return ""
            found = environ.get(match["name"]) or match["default"]
            if found is None and self.placeholders:
                found = match["name"]
            if found is None:
                key = dotted(self.written.get(path, path))
                how = f"set it, or give the value: --set {key}=..."
                state = "set, but empty" if match["name"] in environ else "not set"
                problems.append(self.problem(path, f"the environment variable {match['name']} is {state}; {how}"))
            return found or ""

        filled = _VARIABLE.sub(replace, value)
        starts_outside = isinstance(value, Outside) or (value.startswith("${") and filled != value)
        return Outside(filled) if starts_outside else filled


def _is_text(value: str) -> bool:
    """Whether a text can be written as UTF-8: not with half of a surrogate pair, as from an escape or a wrong byte."""
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True


def raise_problems(problems: Iterable[str]) -> None:
    """Raise all problems as one UserError, one line each; do nothing if there are none."""
    lines = list(dict.fromkeys(problems))
    if lines:
        raise UserError("\n".join(lines))


def _mark_outside(value: Any) -> Any:
    """Return data from the command line with its texts marked as ``Outside``."""
    if isinstance(value, dict):
        return {key: _mark_outside(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_mark_outside(item) for item in value]
    return Outside(value) if isinstance(value, str) else value
