"""A suite file's data with the origin of every value: the file's line, ``--set``, or the environment."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

from peftbench.errors import UserError
from peftbench.suite.wording import words
from peftbench.suite.yaml_lines import KeyPath, dotted, parse, place, read_text

SET = "--set"
NAME_LISTS: tuple[tuple[KeyPath, Any], ...] = ((("tasks",), None), (("methods",), None), (("train", "data"), 1.0))
"""Where a list of names may stand for a mapping, and what each name then maps to."""
AMOUNTS = ("steps", "epochs", "tokens", "seconds")
"""How much training: exactly one is given."""
_VARIABLE = re.compile(
    r"(?P<escaped>\$\$\{)|\$\{(?P<name>[A-Za-z_][A-Za-z0-9_]*)(:-(?P<default>[^}]*))?\}|(?P<malformed>\$\{(?!\{))"
)


class Outside(str):
    """Text from outside the suite file (environment, command line): its relative paths start where the user is."""


@dataclass
class Document:
    """The data of one suite, changed in place until it is validated."""

    shown: str
    """The file as messages name it."""
    folder: Path
    """Where the file's relative paths start."""
    data: dict[str, Any]
    origins: dict[KeyPath, str]
    """``file:line`` or the option that gave the value."""
    written: dict[KeyPath, KeyPath] = field(default_factory=dict)
    """Path as the user wrote it, where normal form differs (``base`` for ``base.source``)."""
    placeholders: bool = False
    """Whether a variable that is not set stands for its own name, where what it names will not be touched."""

    @classmethod
    def read(cls, path: Path, shown: str) -> Document:
        """Return the data of a suite file in normal form.

        Raises:
            UserError: the file cannot be read, is no YAML or no mapping.
        """
        data, lines = parse(read_text(path, shown), shown)
        if data is None:
            raise UserError(f"{shown}: the file is empty; a suite needs at least base, tasks and methods")
        if not isinstance(data, dict):
            raise UserError(f"{place(shown, lines[()])}: a suite is a mapping of keys; given {words(data)}")
        origins = {key: place(shown, line) for key, line in lines.items()}
        document = cls(shown, path.parent, data, origins)
        document.normalize()
        return document

    def origin(self, path: KeyPath) -> str:
        """Return where the value, or the nearest one around it, was given."""
        while path not in self.origins and path:
            path = path[:-1]
        return self.origins.get(path, self.shown)

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
        """Return a list of names as a mapping, its lines going with it."""
        mapping: dict[str, Any] = {}
        for index, name in enumerate(names):
            here = (*path, index)
            if not isinstance(name, str):
                self.fail(here, f"given {words(name)}; allowed: a name (settings need a mapping instead of a list)")
            if name in mapping:
                self.fail(here, f"{name!r} is listed twice")
            mapping[str(name)] = value
            self.origins[(*path, name)] = self.origin(here)
        return mapping

    def put(self, path: KeyPath, value: Any, origin: str) -> None:
        """Set one value, making the mappings on the way. Giving one of steps, epochs and tokens drops the others."""
        holder: Any = self.data
        for depth, part in enumerate(path[:-1]):
            key = self.key_in(holder, path[:depth], part)
            if isinstance(holder, dict) and holder.get(key) is None:
                holder[key] = {}
                self.origins[path[: depth + 1]] = origin
            holder = holder[key]
        last = self.key_in(holder, path[:-1], path[-1])
        if last in AMOUNTS and value is not None:
            for other in AMOUNTS:
                if self.origins.get((*path[:-1], other)) != origin:
                    holder.pop(other, None)
        holder[last] = value
        for key in [key for key in self.origins if key[: len(path)] == path]:
            del self.origins[key]
        self.written.pop((*path, "source"), None)
        self.origins[path] = origin
        self.normalize()

    def key_in(self, holder: Any, path: KeyPath, part: str | int) -> Any:
        """Return the key or index that a path's part means in what holds it."""
        whole = f"{SET}: {dotted((*path, part))}"
        if isinstance(holder, dict):
            return part
        if not isinstance(holder, list):
            raise UserError(f"{whole}: {dotted(path)} is {words(holder)}, which has no keys")
        if not str(part).isdecimal() or int(part) >= len(holder):
            allowed = f"{dotted((*path, 0))} to {dotted((*path, len(holder) - 1))}" if holder else "none, it is empty"
            raise UserError(f"{whole}: {dotted(path)} is a list of {len(holder)}; allowed: {allowed}")
        return int(part)

    def override(self, text: str) -> None:
        """Apply one ``key.path=value``; the value is YAML.

        Raises:
            UserError: it is not of that form, or leads through something that has no keys.
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
        self.put(parts, _mark(data), SET)

    def interpolate(self, environ: Mapping[str, str]) -> None:
        """Replace ``${NAME}`` and ``${NAME:-default}`` in all text; ``$${`` stands for ``${``.

        Raises:
            UserError: a variable is unset (or empty) and has no default; all of them are named.
        """
        problems: list[str] = []
        self.data = self._filled(self.data, (), environ, problems)
        report(problems)

    def _filled(self, value: Any, path: KeyPath, environ: Mapping[str, str], problems: list[str]) -> Any:
        if isinstance(value, dict):
            return {key: self._filled(item, (*path, key), environ, problems) for key, item in value.items()}
        if isinstance(value, list):
            return [self._filled(item, (*path, i), environ, problems) for i, item in enumerate(value)]
        if not isinstance(value, str) or "${" not in value:
            return value

        def replace(match: re.Match[str]) -> str:
            if match["escaped"]:
                return "${"
            if match["malformed"]:
                problems.append(self.problem(path, "'${' begins neither ${NAME} nor ${NAME:-default}; write '$${'"))
                return ""
            found = environ.get(match["name"]) or match["default"]
            if found is None and self.placeholders:
                found = match["name"]
            if found is None:
                key = dotted(self.written.get(path, path))
                how = f"set it, or give the value: --set {key}=..."
                problems.append(self.problem(path, f"the environment variable {match['name']} is not set; {how}"))
            return found or ""

        filled = _VARIABLE.sub(replace, value)
        starts_outside = isinstance(value, Outside) or (value.startswith("${") and filled != value)
        return Outside(filled) if starts_outside else filled


def report(problems: Iterable[str]) -> None:
    """Raise all problems as one UserError, one line each; do nothing where there are none."""
    lines = list(dict.fromkeys(problems))
    if lines:
        raise UserError("\n".join(lines))


def _mark(value: Any) -> Any:
    """Return data from the command line, its texts marked as Outside."""
    if isinstance(value, dict):
        return {key: _mark(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_mark(item) for item in value]
    return Outside(value) if isinstance(value, str) else value
