"""Names of cells as a reader writes them, "LoRA r=8", beside the exact ones of the data and of ``--only``."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence, Set

from peftbench.methods import METHODS
from peftbench.report.collect import Cell, Results, method_title, read_json


def display_names(cells: Sequence[Cell]) -> dict[str, str]:
    """Return the display name of each cell by its own name; where two would be equal, both keep their own.

    A cell's precision is part of it unless all cells of its method have the method's default: "LoRA r=8" where fp32 is
    all there is, "LoRA r=8 fp32" beside "LoRA r=8 bf16". The base model follows if there are several.

    Args:
        cells: all cells of a table.
    """
    precisions: dict[str, set[str]] = {}
    for cell in cells:
        precisions.setdefault(cell.method, set()).add(cell.precision)
    found = {cell.name: _display(cell, precisions[cell.method]) for cell in cells}
    count = Counter(found.values())
    return {own: own if count[short] > 1 else short for own, short in found.items()}


def _display(cell: Cell, precisions: set[str]) -> str:
    title = titled(_filled(cell), cell.method, cell.precision, precisions)
    if title is None:
        return cell.name  # a row that another program wrote
    return title if cell.name == cell.summary.cell else f"{title} on {cell.summary.base}"


def _filled(cell: Cell) -> str:
    """Return a cell's own name, with the value that its trials had where it says that a suite gave none."""
    name = cell.summary.cell
    if "=none" not in name or not cell.rows:
        return name
    training = read_json(cell.rows[0]["settings_json"]).get("train") or {}
    return re.sub(r"(?<= )(\w+)=none(?= )", lambda match: f"{match[1]}={training.get(match[1]) or 'none'}", name)


def titled(cell: str, method: str, precision: str, precisions: Set[str]) -> str | None:
    """Return the display name of a cell without its base model.

    Args:
        cell: its own name, without its base model.
        method: its method's name.
        precision: its precision's name.
        precisions: those of all cells of the method.

    Returns:
        The name; None if its own does not begin with the method and end with the precision, as peftbench names cells.
    """
    if not cell.startswith(f"{method} ") or not cell.endswith(f" {precision}"):
        return None
    implied = method in METHODS and precisions == {METHODS[method].default_precision}
    title = method if method in METHODS and METHODS[method].variants else method_title(method)
    return f"{title}{cell[len(method) : len(cell) - len(precision) - 1 if implied else len(cell)]}"


def renamed(text: str, names: Mapping[str, str]) -> str:
    """Return a text with the display name of each cell in place of its own.

    Args:
        text: sentences about cells.
        names: as ``display_names`` returns them.
    """
    different = sorted((own for own, short in names.items() if own != short), key=len, reverse=True)
    if not different:
        return text
    either = "|".join(map(re.escape, different))
    return re.sub(rf"(?<![\w=.-])(?:{either})(?![\w=-])", lambda match: names[match[0]], text)


def renamer(results: Results) -> Callable[[str], str]:
    """Return a function that writes the cells of a sentence as the tables do."""
    names = display_names(results.cells)
    return lambda text: renamed(text, names)
