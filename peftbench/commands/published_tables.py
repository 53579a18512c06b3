"""``peftbench report --table``: results laid out as tables of the literature; ``peftbench list published``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from peftbench.commands import results
from peftbench.commands.terminal import aligned, hanging
from peftbench.errors import UserError, unknown
from peftbench.records.wording import plural


@dataclass(frozen=True)
class Asked:
    """What the options say."""

    table: str | None
    """Name of a layout, or a YAML file with one."""
    published: bool
    """Whether published numbers stand beside the measured ones."""
    format: str | None
    """None for Markdown."""


def command(folders: Sequence[Path], output: Path | None, asked: Asked, how: results.TableOptions) -> int:
    """Print or write a table of the literature; ``html`` is always written.

    Returns:
        The exit code: 1 if the suite of any folder asks for a strict audit and its rows are not comparable.

    Raises:
        UserError: if no table is named, there is none of the name, or no folder has anything that it shows.
    """
    from peftbench.report import page, published
    from peftbench.report.published import load

    if asked.table is None:
        raise UserError(f"--published: needs --table with one of: {', '.join(load.layouts())}")
    if how.columns is not None or how.sort is not None or how.notes:
        raise UserError(
            "--table: decides columns, order and notes itself; --columns, --sort and --notes are not allowed"
        )
    format = asked.format or "md"
    text = published.text(folders, asked.table, format, asked.published)
    target = output
    if target is None and format == "html":
        page_of_all = results.default_page(*folders)
        target = page_of_all.with_name(f"{page_of_all.stem}.{Path(asked.table).stem}.html")
    if target is None:
        print(text, end="")
        return results.exit_code(folders)
    for folder in folders:
        page.refuse_inside(folder, target)
    page.save(text, target)
    print(f"table: {target}")
    return results.exit_code(folders)


def listing() -> str:
    """Return the layouts and the published tables, a line each, and the printed averages that do not follow."""
    from peftbench.report.published import load

    layouts = [["layout", "published tables", "title"]]
    for layout in load.layouts().values():
        layouts.append([layout.name, ", ".join(source.table for source in layout.published), layout.title])
    tables = [["table", "rows", "read", "mismatches", "source"]]
    for table in load.tables().values():
        wrong = len(load.mismatches(table))
        averages = "no average" if table.average is None else str(wrong)
        tables.append([table.id, str(len(table.rows)), table.hand, averages, table.title])
    said = [f"{name}: {wrong.words}" for name, table in load.tables().items() for wrong in load.mismatches(table)]
    notes = ["mismatches: printed averages that do not follow from the printed cells", *said]
    return "\n".join([aligned(layouts), aligned(tables), *notes]) + "\n"


def details(name: str) -> str:
    """Return everything about one published table but its numbers; of a layout, its columns and what counts as them.

    Raises:
        UserError: if there is no table or layout of this name; the message has the nearest.
    """
    from peftbench.report.published import load

    if name in load.layouts():
        return _layout(name)
    if name not in load.tables():
        raise UserError(f"list published: {unknown('table', name, [*load.tables(), *load.layouts()])}")
    table = load.tables()[name]
    facts = {"source": table.title, "url": table.url, "read": f"{table.hand}: {table.read}"}
    facts |= {"statistic": table.statistic, "data": table.dataset or table.train_data, "hardware": table.hardware}
    facts |= {"rows": plural(len(table.rows), "row"), "columns": ", ".join(table.columns)}
    lines = [name]
    for label, fact in facts.items():
        lines += hanging(f"  {label:11}", fact) if fact else []
    for label, texts in (
        ("protocol", [f"{_of(block.of)}: {_settings(block.settings)}" for block in table.protocol]),
        ("mismatch", [wrong.words for wrong in load.mismatches(table)]),
        ("trap", table.traps),
    ):
        for text in texts:
            lines += hanging(f"  {label:11}", text)
    return "\n".join(lines) + "\n"


def _of(of: object) -> str:
    from peftbench.report.published.parts import shown

    given = of.items() if isinstance(of, dict) else ()
    return ", ".join(f"{name} {'none' if value is None else shown(value)}" for name, value in given) or "all"


def _settings(settings: object) -> str:
    from peftbench.report.published.parts import PARTS, shown

    given = settings.items() if isinstance(settings, dict) else ()
    return ", ".join(f"{PARTS[part].words} {shown(value)}" for part, value in given)


def _layout(name: str) -> str:
    from peftbench.report.published import load

    layout = load.layouts()[name]
    said = [("published", ", ".join(source.table for source in layout.published)), ("rows", ", ".join(layout.rows))]
    for title, match in layout.row_tasks.items():
        said.append((title, f"tasks: {', '.join(match.names)}; data sets: {', '.join(match.datasets)}"))
    for column in layout.columns:
        if column.task:
            more = {"tasks": column.task.names, "data sets": column.task.datasets, "lm-eval": column.task.lm_eval}
            what = "; ".join(f"{kind}: {', '.join(each)}" for kind, each in more.items() if each)
            text = f"{' or '.join(column.metrics)} of {what}"
        elif column.mean_of:
            text = f"mean of {', '.join(column.mean_of)}"
        else:
            text = column.stored or " or ".join(column.metrics)
        said.append((column.head, text))
    said += [("note", layout.note)] if layout.note else []
    width = max(len(label) for label, _ in said) + 2
    lines = [line for label, text in said for line in hanging(f"  {label:{width}}", text)]
    return "\n".join((f"{name}: {layout.title}", *lines)) + "\n"
