"""Read YAML as plain data with the line of every key. Only scalars, lists and mappings are allowed."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import yaml

from peftbench.errors import UserError

KeyPath = tuple[str | int, ...]
"""The path of a value: keys of mappings and indices of lists, from the top."""
_TAGS = ("map", "seq", "str", "int", "float", "bool", "null")
_DEEPEST = 30
_MOST_VALUES = 100_000
_LARGEST = 128 * 1024
"""Largest suite file in bytes, which takes less than a second. Data and long texts belong in files of their own."""


class Loader(yaml.SafeLoader):
    """A ``SafeLoader`` with YAML 1.2's scalars: only true and false are booleans, 1e-3 is a number, a date is text.

    PyYAML's own rules (YAML 1.1) would read ``[yes, no]`` as booleans, ``1e-3`` as text and ``1:30`` as 90.
    """

    yaml_implicit_resolvers: dict[str, list[Any]] = {}


def _add_resolvers() -> None:
    import re

    numeric = list("-+0123456789.")
    for tag, pattern, first in (
        ("bool", r"true|True|TRUE|false|False|FALSE", list("tTfF")),
        ("int", r"[-+]?(0|[1-9][0-9_]*)", numeric),
        ("float", r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)", numeric),
        ("null", r"~|null|Null|NULL|", ["~", "n", "N", ""]),
        ("merge", r"<<", ["<"]),
    ):
        if tag == "float":  # digits that are no int (007) stay text, since they may be a commit's hash
            pattern = rf"(?![-+]?[0-9]+$)(?:{pattern})"
        Loader.add_implicit_resolver(f"tag:yaml.org,2002:{tag}", re.compile(rf"^(?:{pattern})$"), first)


_add_resolvers()


def read_text(path: Path, shown: str) -> str:
    """Return a suite file's text.

    Raises:
        UserError: if the file cannot be read, is too large for a suite, or is not UTF-8.
    """
    try:
        with path.open("rb") as file:
            content = file.read(_LARGEST + 1)
            size = os.fstat(file.fileno()).st_size
    except OSError as error:
        raise UserError(f"{shown}: cannot be read: {error.strerror}") from None
    if len(content) > _LARGEST:
        raise UserError(
            f"{shown}: {size:,} bytes; allowed: at most {_LARGEST:,} (data and long texts belong in files of their own)"
        )
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise UserError(f"{shown}:{line}: not UTF-8 text: byte 0x{content[error.start]:02x}") from None


def parse(text: str, where: str) -> tuple[Any, dict[KeyPath, int]]:
    """Return the data of a YAML text, and the line of each key and list item.

    Args:
        text: one YAML document.
        where: the file as messages name it, or the option (``--set``) that the text was given to.

    Raises:
        UserError: if the text is not YAML, repeats a key, has keys that are not text, or refers to itself.
    """
    try:
        loader = Loader(text)
        node = loader.get_single_node()
        reader = _Reader(loader, where)
        return (None if node is None else reader.value(node, ())), reader.lines
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        hint = " (indent with spaces)" if "\\t" in (error.problem or "") else ""
        raise UserError(f"{place(where, mark.line + 1 if mark else None)}: not YAML: {error.problem}{hint}") from None
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, int(error.position)) + 1
        raise UserError(f"{place(where, line)}: not YAML: character {error.character!r} is not allowed") from None
    except RecursionError:
        raise UserError(f"{where}: nested too deeply") from None


def place(where: str, line: int | None) -> str:
    """Return ``file:line``; the name alone if there are no lines (``--set``)."""
    return where if line is None or where.startswith("--") else f"{where}:{line}"


def dotted(path: KeyPath) -> str:
    """Return a path as messages and ``--set`` write it: ``train.steps``."""
    return ".".join(str(part) for part in path)


class _Reader:
    """Turns a tree of YAML nodes into data and records their lines."""

    def __init__(self, loader: Loader, where: str) -> None:
        self.loader, self.where = loader, where
        self.lines: dict[KeyPath, int] = {}
        self.visited: set[int] = set()
        self.values = 0

    def value(self, node: yaml.Node, path: KeyPath) -> Any:
        """Return a node's data."""
        self.values += 1
        if len(path) > _DEEPEST or self.values > _MOST_VALUES:
            raise self.error(node, path[:5], "nested too deeply, or too many values (does an alias repeat itself?)")
        self.lines.setdefault(path, node.start_mark.line + 1)
        if node.tag.rpartition(":")[2] not in _TAGS:
            raise self.error(node, path, f"not YAML for a suite: the tag {node.tag}")
        if isinstance(node, yaml.MappingNode):
            return self.mapping(node, path)
        if isinstance(node, yaml.SequenceNode):
            return [self.value(item, (*path, index)) for index, item in enumerate(node.value)]
        try:
            return self.loader.construct_object(node)
        except (ValueError, KeyError):
            kind = node.tag.rpartition(":")[2]
            raise self.error(node, path, f"not YAML: {node.value!r} cannot be read as {kind}") from None

    def mapping(self, node: yaml.MappingNode, path: KeyPath) -> dict[str, Any]:
        """Return a mapping's data."""
        if id(node) not in self.visited:  # only once, since merging keys (<<) changes the node
            self.visited.add(id(node))
            self.check_keys(node, path)
            self.loader.flatten_mapping(node)
        data = {}
        for key, item in node.value:
            here = (*path, key.value)
            self.lines[here] = key.start_mark.line + 1
            data[key.value] = self.value(item, here)
        return data

    def check_keys(self, node: yaml.MappingNode, path: KeyPath) -> None:
        """Raise UserError if a key is not text or is given twice."""
        seen: dict[str, int] = {}
        for key, _ in node.value:
            line = key.start_mark.line + 1
            if not isinstance(key, yaml.ScalarNode) or not key.tag.endswith((":str", ":merge")):
                given = key.value if isinstance(key, yaml.ScalarNode) else "a list or mapping"
                raise self.error(key, path, f"the key {given} is not text; write it in quotes")
            if key.value in seen:
                first = f"first in line {seen[key.value]}" if place(self.where, 1) != self.where else "in one mapping"
                raise self.error(key, (*path, key.value), f"the key {key.value!r} is given twice ({first})")
            seen[key.value] = line

    def error(self, node: yaml.Node, path: KeyPath, text: str) -> UserError:
        """Return an error that names a node's line and path."""
        start = place(self.where, node.start_mark.line + 1)
        return UserError(f"{start}: {dotted(path)}: {text}" if path else f"{start}: {text}")
