"""A laid-out table as Markdown, csv with raw numbers, or a small HTML page. LaTeX is in ``latex``."""

from __future__ import annotations

import csv
import html
import io
import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping

from peftbench.records import units as fmt
from peftbench.records.wording import no_formula
from peftbench.report.published import latex, wording
from peftbench.report.published.arrange import LaidOut, Line, Printed, TableRow
from peftbench.report.published.load import names
from peftbench.report.published.measured import Measured
from peftbench.report.published.records import LayoutColumn
from peftbench.report.tables.writers import md

FORMATS = ("md", "tex", "csv", "html")
_STYLE = """
body { font: 15px/1.45 system-ui, sans-serif; color: #111; background: #fff; margin: 2rem; }
table { border-collapse: collapse; border-top: 2px solid; border-bottom: 2px solid; }
caption { caption-side: top; text-align: left; max-width: 60rem; padding-bottom: .6rem; }
th, td { padding: .2rem .7rem; text-align: right; white-space: nowrap; font-variant-numeric: tabular-nums; }
th { font-weight: 600; } th[colspan] { text-align: center; } thead tr:last-child th { border-bottom: 1px solid; }
.head { text-align: left; vertical-align: top; } .block td, .block th { border-top: 1px solid #999; }
.note { font-size: .85em; color: #333; } .best { font-weight: 700; } .second { text-decoration: underline; }
ol, p { max-width: 60rem; }
@media (prefers-color-scheme: dark) { body { color: #eee; background: #161616; } .note { color: #bbb; } }
@media print { body { margin: 0; color: #000; background: #fff; } }
"""


def write(table: LaidOut, format: str) -> str:
    """Return a table in one of ``FORMATS``, ending with a line feed."""
    return _WRITERS[format](table)


def write_md(table: LaidOut) -> str:
    """Return the table in GitHub's Markdown: bold, underlined and daggers as the caption says."""
    heads = [*(wording.DIMENSIONS[name] for name in table.layout.rows), *([wording.SOURCE] * table.with_published)]
    rule = [" :--- "] * len(heads) + [" ---: "] * len(table.columns)
    heads += [
        f"{column.group}, {wording.head(column)}" if column.group else wording.head(column) for column in table.columns
    ]
    lines = [f"**{md(table.layout.title)}**", "", _md(map(md, heads)), f"|{'|'.join(rule)}|"]
    for head, row in zip(wording.heads(table.rows), table.rows, strict=True):
        lines.append(_md([*map(md, head), *map(md, _source(table, row)), *_md_entries(table, row)]))
    notes = [f"[{place}] {note}" for place, note in enumerate(wording.notes(table), 1)]
    for texts in (wording.statistics(table), _before(table), notes, wording.about(table)):
        lines += ["", *(f"{md(text)}  " for text in texts)] if texts else []
    return "\n".join(lines).rstrip() + "\n"


def _before(table: LaidOut) -> tuple[str, ...]:
    """Return what a reader should know before comparing, as texts."""
    return tuple(filter(None, (table.layout.note, *wording.legend(table))))


def _source(table: LaidOut, row: TableRow) -> tuple[str, ...]:
    """Return the entry of the column for the source, which only tables with published numbers have."""
    if not table.with_published:
        return ()
    number = table.number(row.line) if row.is_published else None
    label = row.line.source if row.is_published else wording.MEASURED
    return (f"{label} [{number}]" if number else label,)


def _md(texts: Iterable[str]) -> str:
    return f"| {' | '.join(texts)} |"


def _md_entries(table: LaidOut, row: TableRow) -> Iterator[str]:
    for column in table.columns:
        if row.is_published:
            yield md(_published(row, column))
            continue
        one = row.line.measured.get(column.key)
        text = md(wording.measured(row.line, column))
        if one is not None and one.mark in _MD_MARKS:
            value, sep, rest = text.partition(r" \[")
            text = _MD_MARKS[one.mark].format(value) + sep + rest
        yield text


_MD_MARKS = {"best": "**{}**", "second": "<u>{}</u>", "worse": "{} " + wording.WORSE}


def _published(row: TableRow, column: LayoutColumn) -> str:
    one = row.line.printed.get(column.key)
    return ", ".join(filter(None, (wording.printed(one), wording.standing(one)))) if one else fmt.MISSING


def write_html(table: LaidOut) -> str:
    """Return a small page with the table alone, which needs nothing else."""
    escape = html.escape
    title = escape(table.layout.title)
    notes = "".join(f"<li>{escape(note)}</li>" for note in wording.notes(table))
    said = [*wording.statistics(table), *_before(table)]
    before = "".join(f"<p class=note>{escape(text)}</p>" for text in said)
    about = "".join(f"<p class=note>{escape(text)}</p>" for text in wording.about(table))
    return (
        f"<!doctype html>\n<html lang=en>\n<meta charset=utf-8>\n<meta name=viewport content='width=device-width'>\n"
        f"<title>{title}</title>\n<style>{_STYLE}</style>\n<table>\n<caption>{title}</caption>\n"
        f"<thead>\n{_html_heads(table)}</thead>\n<tbody>\n{''.join(_html_rows(table))}</tbody>\n</table>\n{before}\n"
        f"{f'<ol class=note>{notes}</ol>' if notes else ''}\n{about}\n</html>\n"
    )


def _html_heads(table: LaidOut) -> str:
    titles = [*(wording.DIMENSIONS[name] for name in table.layout.rows), *([wording.SOURCE] * table.with_published)]
    first = "".join(f"<th class=head>{title}</th>" for title in titles)
    more = "".join(f"<th>{html.escape(wording.head(column))}</th>" for column in table.columns)
    groups = [(group, len(list(each))) for group, each in itertools.groupby(table.columns, key=lambda one: one.group)]
    if not any(group for group, _ in groups):
        return f"<tr>{first}{more}</tr>\n"
    over = "".join(f"<th colspan={n}>{html.escape(group)}</th>" for group, n in groups)
    return f"<tr><th colspan={len(titles)}></th>{over}</tr>\n<tr>{first}{more}</tr>\n"


def _html_rows(table: LaidOut) -> Iterator[str]:
    blocks = [(name, list(rows)) for name, rows in itertools.groupby(table.rows, key=lambda row: row.line.block)]
    for name, rows in blocks:
        for place, (shown, row) in enumerate(zip(wording.heads(rows), rows, strict=True)):
            head = list(map(html.escape, (*shown, *_source(table, row))))
            cells = "".join(f"<td class=head>{text}</td>" for text in (head[1:] if name else head))
            if name and not place:
                cells = f"<th class=head rowspan={len(rows)}>{head[0]}</th>{cells}"
            entries = "".join(_html_entries(table, row))
            yield f"<tr{'' if place or not name else ' class=block'}>{cells}{entries}</tr>\n"


def _html_entries(table: LaidOut, row: TableRow) -> Iterator[str]:
    for column in table.columns:
        one = None if row.is_published else row.line.measured.get(column.key)
        text = html.escape(_published(row, column) if row.is_published else wording.measured(row.line, column))
        if one is not None:
            value, sep, rest = text.partition(" [")
            dagger = f" {wording.WORSE}" if one.mark == "worse" else ""
            small = f"<span class=note>{sep}{rest}</span>" if rest else ""
            text = f"<span class='{one.mark}'>{value}</span>{dagger}{small}"
        yield f"<td>{text}</td>"


CSV = (
    *("table", "folder", "cell", "base", "method", "rank", "precision", "trainable_parameters", "column", "unit"),
    *("metric", "mean", "sd", "seeds", "interval_low", "interval_high", "interval_for", "examples", "mark"),
    *("adjusted_p_against_best", "status", "published", "published_spread", "published_table", "published_row"),
    *(
        "published_status",
        "badge",
        "differs",
        "not_stated",
        "not_known",
        "inside_interval",
        "read",
        "from_prior_work",
    ),
    *("from_memory", "url"),
)
"""Columns of the csv: one line for each measured or published number, in the units of the layout."""


def write_csv(table: LaidOut) -> str:
    """Return one line for each number; what is not known is empty."""
    out = io.StringIO()
    writer = csv.DictWriter(out, CSV, lineterminator="\n", restval="")
    writer.writeheader()
    for line in table.lines:
        for column in table.columns:
            one, printed = line.measured.get(column.key), line.printed.get(column.key)
            status = line.statuses.get(column.key)
            if one is None and printed is None and not status:
                continue
            found: dict[str, object] = {
                "table": table.layout.name,
                "column": column.key,
                "unit": column.unit,
                "status": status,
            }
            found |= _csv_head(line, printed) | _csv_measured(one) | _csv_printed(printed)
            writer.writerow({name: "" if value is None else no_formula(value) for name, value in found.items()})
    return out.getvalue()


def _csv_head(line: Line, printed: Printed | None) -> dict[str, object]:
    measured = line.row or line.below
    if measured is not None:
        cell = measured.cell
        return {
            "folder": measured.part.name,
            "cell": cell.summary.cell,
            "base": cell.rows[0]["base"],
            "method": cell.method,
            "rank": cell.rank,
            "precision": cell.precision,
            "trainable_parameters": measured.parameters,
        }
    row = printed.row if printed else None
    if row is None:
        return {}
    return {
        "base": row.base,
        "method": row.method,
        "rank": row.settings.get("rank"),
        "precision": row.settings.get("precision"),
        "trainable_parameters": row.parameters,
    }


def _csv_measured(one: Measured | None) -> dict[str, object]:
    if one is None:
        return {}
    return {
        "folder": one.part.name,
        "cell": one.shown.cell.summary.cell,
        "metric": one.shown.metric,
        "mean": one.value,
        "sd": one.sd,
        "seeds": one.seeds,
        "interval_low": one.low,
        "interval_high": one.high,
        "interval_for": one.over,
        "examples": one.examples,
        "mark": one.mark,
        "adjusted_p_against_best": one.adjusted_p,
    }


def _csv_printed(printed: Printed | None) -> dict[str, object]:
    if printed is None:
        return {}
    row, badge = printed.row, printed.badge
    label = f"{row.label or names().methods[row.method].title}{f' ({row.about})' if row.about else ''}"
    return {
        "published": printed.value,
        "published_spread": printed.spread,
        "published_table": printed.table.id,
        "published_row": label,
        "published_status": "" if row.status == "ok" else row.status,
        "badge": badge.kind if badge else None,
        "differs": "; ".join(badge.differences) if badge else None,
        "not_stated": "; ".join(badge.not_stated) if badge else None,
        "not_known": "; ".join(badge.not_known) if badge else None,
        "inside_interval": printed.inside,
        "read": row.hand or printed.table.hand,
        "from_prior_work": row.from_prior_work,
        "from_memory": row.from_memory,
        "url": printed.table.url,
    }


_WRITERS: Mapping[str, Callable[[LaidOut], str]] = {
    "md": write_md,
    "tex": latex.write,
    "csv": write_csv,
    "html": write_html,
}
