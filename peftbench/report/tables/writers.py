"""Tables as text: for a terminal, Markdown, csv with raw numbers, LaTeX with booktabs. Each has its own escapes."""

from __future__ import annotations

import csv
import io
import re
import textwrap
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING

from peftbench.records.wording import no_formula
from peftbench.report import text_table
from peftbench.report.tables.latex import escaped, one_line

if TYPE_CHECKING:
    from peftbench.report.tables.rank_by_precision import MethodRankTables
    from peftbench.report.tables.table import Table

WIDEST_HEAD = 16
"""Longest head of a column in characters, unless more is asked for."""
_LONGEST_NOTE = 120
"""Notes under a wider table are wrapped at this many characters."""


def write_text(table: Table, widest: int | None = None, widest_head: int = WIDEST_HEAD) -> str:
    """Return the compact table for a terminal: two lines of head, names to the left, numbers to the right.

    Args:
        table: what is written; columns without a short title are left out.
        widest: longest line in characters, beyond which names are wrapped; None for no limit.
        widest_head: longest head of a column in characters, beyond which it is cut.
    """
    shown = [i for i, column in enumerate(table.columns) if column.short]
    heads = [[_clip(part, widest_head) for part in f"{table.columns[i].short}\n".split("\n")[:2]] for i in shown]
    rows = []
    for row in table.rows:
        values = [row.values[i] for i in shown]
        rows.append([one_line(value.text if value.short is None else value.short) for value in values])
    right = [place for place, i in enumerate(shown) if table.columns[i].numeric]
    laid_out = text_table.lines(
        [[head[0] for head in heads], [head[1] for head in heads], *rows], text_table.Layout(right, width=widest)
    )
    rule = "─" * max(map(text_table.width, laid_out))
    longest = min(max(len(rule), widest or 72), _LONGEST_NOTE)
    notes = [part for note in table.notes for part in textwrap.wrap(one_line(note), longest, break_on_hyphens=False)]
    return "\n".join([*laid_out[:2], rule, *laid_out[2:], rule, *notes]) + "\n"


def write_md(table: Table) -> str:
    """Return the table in GitHub's Markdown."""
    lines = [
        md_line(column.head for column in table.columns),
        "|" + "|".join(" ---: " if column.numeric else " :--- " for column in table.columns) + "|",
        *(md_line(value.text for value in row.values) for row in table.rows),
    ]
    return "\n".join([*lines, "", *(md(note) + "  " for note in table.notes)]).rstrip() + "\n"


def write_rank_tables_md(heading: str, methods: Sequence[MethodRankTables]) -> str:
    """Return small tables of rank against precision in GitHub's Markdown: a heading per method, bold titles."""
    lines = [md(heading), ""]
    for method in methods:
        lines += [f"### {md(method.title)}{f' ({md(method.rank_meaning)})' if method.rank_meaning else ''}", ""]
        for table in method.tables:
            lines += [
                f"**{md(table.title)}** ({md(table.unit)})",
                "",
                md_line([method.rank_meaning and "r", *method.precisions]),
            ]
            lines.append("|" + " ---: |" * (1 + len(method.precisions)))
            lines += [*(md_line([rank, *entries]) for rank, entries in table.lines), ""]
    return "\n".join(lines).rstrip() + "\n"


def write_csv(table: Table) -> str:
    """Return the raw numbers in base units (bytes, seconds, fractions of 1); empty if nothing was measured."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow([no_formula(name) for column in table.columns for name in column.raw])
    for row in table.rows:
        padded = [
            (*value.raw, *(None for _ in column.raw[len(value.raw) :]))
            for column, value in zip(table.columns, row.values, strict=True)
        ]
        writer.writerow(["" if raw is None else no_formula(raw) for values in padded for raw in values])
    return out.getvalue()


def write_tex(table: Table) -> str:
    """Return a LaTeX tabular with booktabs' rules; its first line names the packages it needs."""
    aligned = "".join("r" if column.numeric else "l" for column in table.columns)
    first_reference = next((i for i, row in enumerate(table.rows) if row.cell is None), len(table.rows))
    body = [" & ".join(escaped(value.text) for value in row.values) + r" \\" for row in table.rows]
    if 0 < first_reference < len(body):
        body.insert(first_reference, r"\midrule")
    head = [
        " & ".join(escaped(column.title) for column in table.columns) + r" \\",
        " & ".join(escaped(f"({column.unit})" if column.unit else "") for column in table.columns) + r" \\",
    ]
    notes = [f"% {one_line(note)}" for note in table.notes]
    return (
        "\n".join(
            [
                r"% needs \usepackage{booktabs} and \usepackage[T1]{fontenc}",
                *notes,
                rf"\begin{{tabular}}{{@{{}}{aligned}@{{}}}}",
                r"\toprule",
                *head,
                r"\midrule",
                *body,
                r"\bottomrule",
                r"\end{tabular}",
            ]
        )
        + "\n"
    )


def md_line(texts: Iterable[str]) -> str:
    """Return texts as a row of a table in Markdown."""
    return "| " + " | ".join(md(text) for text in texts) + " |"


def md(text: str) -> str:
    """Escape Markdown and HTML markup; underscores inside a word need no escape."""
    return re.sub(r"([\\|`*<>\[\]~]|&(?=#?\w+;)|(?<![^\W_])_|_(?![^\W_]))", r"\\\1", one_line(text))


def _clip(text: str, width: int) -> str:
    text = one_line(text)
    if text_table.width(text) <= width:
        return text
    tail = (width - 1) // 2  # names of one family differ at the end as often as at the beginning
    return f"{text[: width - 1 - tail]}…{text[-tail:]}"


_WRITERS: dict[str, Callable[[Table], str]] = {"text": write_text, "md": write_md, "csv": write_csv, "tex": write_tex}


def write(table: Table, format: str, wide_heads: bool = False) -> str:
    """Return a table as ``text``, ``md``, ``csv`` or ``tex``, ending with a line feed.

    Args:
        table: what is written.
        format: its form.
        wide_heads: whether heads of the table for a terminal are not cut at ``WIDEST_HEAD``.
    """
    if format == "text" and wide_heads:
        return write_text(table, widest_head=2 * WIDEST_HEAD)
    return _WRITERS[format](table)
