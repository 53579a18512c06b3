"""A laid-out table as Markdown, csv with raw numbers, or a small HTML page. LaTeX is in ``latex``."""

from __future__ import annotations

import csv
import html
import io
import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping

from peftbench.records import units as fmt
from peftbench.report.published import latex, wording
from peftbench.report.published.arrange import LaidOut, Line, Printed
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
th { font-weight: 600; } thead tr:last-child th { border-bottom: 1px solid; }
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
    heads = [wording.DIMENSIONS[name] for name in table.layout.rows]
    rule = [" :--- "] * len(heads)
    for column in table.columns:
        title = f"{column.group}, {wording.head(column)}" if column.group else wording.head(column)
        heads += [title, *([wording.PUBLISHED] if table.with_published else [])]
        rule += [" ---: "] * (2 if table.with_published else 1)
    lines = [f"**{md(wording.caption(table))}**", "", _md(map(md, heads)), f"|{'|'.join(rule)}|"]
    lines += [_md([*map(md, line.head), *_md_entries(table, line)]) for line in table.lines]
    notes = [*wording.notes(table), *wording.about(table)]
    return "\n".join([*lines, "", *(f"{md(note)}  " for note in notes)]).rstrip() + "\n"


def _md(texts: Iterable[str]) -> str:
    return f"| {' | '.join(texts)} |"


def _md_entries(table: LaidOut, line: Line) -> Iterator[str]:
    for column in table.columns:
        one = line.measured.get(column.key)
        text = md(wording.measured(line, column))
        if one is not None and one.mark in _MD_MARKS:
            value, sep, rest = text.partition(r" \[")
            text = _MD_MARKS[one.mark].format(value) + sep + rest
        yield text
        if table.with_published:
            printed = line.printed.get(column.key)
            yield md(fmt.MISSING if printed is None else _with_standing(table, printed, column))


_MD_MARKS = {"best": "**{}**", "second": "<u>{}</u>", "worse": "{} " + wording.WORSE}


def _with_standing(table: LaidOut, printed: Printed, column: LayoutColumn) -> str:
    standing = wording.standing(printed)
    return f"{wording.printed(printed, column)}{f', {standing}' if standing else ''} [{table.number(printed)}]"


def write_html(table: LaidOut) -> str:
    """Return a small page with the table alone, which needs nothing else."""
    escape = html.escape
    title = escape(table.layout.title)
    notes = "".join(f"<li>{escape(note)}.</li>" for note in table.notes)
    about = "".join(f"<p class=note>{escape(text)}</p>" for text in wording.about(table))
    return (
        f"<!doctype html>\n<html lang=en>\n<meta charset=utf-8>\n<meta name=viewport content='width=device-width'>\n"
        f"<title>{title}</title>\n<style>{_STYLE}</style>\n<table>\n<caption>{escape(wording.caption(table))}</caption>\n"
        f"<thead>\n{_html_heads(table)}</thead>\n<tbody>\n{''.join(_html_rows(table))}</tbody>\n</table>\n"
        f"{f'<ol class=note>{notes}</ol>' if notes else ''}\n{about}\n</html>\n"
    )


def _html_heads(table: LaidOut) -> str:
    width = 2 if table.with_published else 1
    first = "".join(f"<th class=head>{wording.DIMENSIONS[name]}</th>" for name in table.layout.rows)
    more = "".join(
        f"<th>{html.escape(wording.head(column))}</th>" + (f"<th>{wording.PUBLISHED}</th>" if width == 2 else "")
        for column in table.columns
    )
    groups = [(group, len(list(each))) for group, each in itertools.groupby(table.columns, key=lambda one: one.group)]
    if not any(group for group, _ in groups):
        return f"<tr>{first}{more}</tr>\n"
    over = "".join(f"<th colspan={width * n}>{html.escape(group)}</th>" for group, n in groups)
    return f"<tr><th colspan={len(table.layout.rows)}></th>{over}</tr>\n<tr>{first}{more}</tr>\n"


def _html_rows(table: LaidOut) -> Iterator[str]:
    blocks = [(name, list(lines)) for name, lines in itertools.groupby(table.lines, key=lambda line: line.block)]
    for name, lines in blocks:
        for place, line in enumerate(lines):
            head = list(map(html.escape, line.head))
            cells = "".join(f"<td class=head>{text}</td>" for text in (head[1:] if name else head))
            if name and not place:
                cells = f"<th class=head rowspan={len(lines)}>{head[0]}</th>{cells}"
            entries = "".join(_html_entries(table, line))
            yield f"<tr{'' if place or not name else ' class=block'}>{cells}{entries}</tr>\n"


def _html_entries(table: LaidOut, line: Line) -> Iterator[str]:
    for column in table.columns:
        one = line.measured.get(column.key)
        text = html.escape(wording.measured(line, column))
        if one is not None:
            value, sep, rest = text.partition(" [")
            dagger = f" {wording.WORSE}" if one.mark == "worse" else ""
            small = f"<span class=note>{sep}{rest}</span>" if rest else ""
            text = f"<span class='{one.mark}'>{value}</span>{dagger}{small}"
        yield f"<td>{text}</td>"
        if table.with_published:
            printed = line.printed.get(column.key)
            yield f"<td>{fmt.MISSING if printed is None else _html_printed(table, printed, column)}</td>"


def _html_printed(table: LaidOut, printed: Printed, column: LayoutColumn) -> str:
    text = html.escape(_with_standing(table, printed, column))
    return f"<span title='{html.escape(printed.note, quote=True)}'>{text}</span>"


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
            writer.writerow({name: "" if value is None else value for name, value in found.items()})
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
