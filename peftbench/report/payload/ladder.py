"""The ladder of memory on the page: its table as texts, and the bars of its figure."""

from __future__ import annotations

from typing import Any

from peftbench.records import Category
from peftbench.records import units as fmt
from peftbench.report.collect import Results
from peftbench.report.derived import ladder as derived
from peftbench.report.notes import ladder as notes
from peftbench.report.tables import ladder


def shown(results: Results) -> dict[str, Any] | None:
    """Return the ladder; None if the suite asks for none.

    A column of which no row has a value is left out. Each bar has its row's number and label, the bytes of each
    category in the order of ``Category``, and the bytes by which the peak is lower than that of the row it is compared
    with, 0 if it is not.
    """
    table = ladder.table(results)
    if table is None:
        return None
    rungs = derived.ladder(results)
    unit = fmt.byte_unit(rung.value(ladder.PEAK) for rung in rungs)
    bars = [
        {
            "label": f"{number}  {rung.label}",
            "parts": [rung.value(category.column) or 0 for category in Category],
            "saved": max(0, -(rung.change(ladder.PEAK) or 0)),
            "text": fmt.memory(rung.value(ladder.PEAK)) if rung.value(ladder.PEAK) is not None else row.trouble,
        }
        for number, (rung, row) in enumerate(zip(rungs, table.rows, strict=True), 1)
    ]
    lead = notes.saved(results, rungs)
    texts = [[value.text for value in row.values] for row in table.rows]
    known = [place for place, column in enumerate(zip(*texts, strict=True)) if set(column) != {fmt.MISSING}]
    heads = [column.title if column.unit == unit.name else column.head for column in table.columns]
    return {
        "lead": lead,
        "heads": [heads[place] for place in known],
        "rows": [[row[place] for place in known] for row in texts],
        "notes": [each for each in notes.notes(results, rungs, f" in {unit.name}") if each != lead],
        "bars": bars,
        "unit": unit.name,
        "size": unit.size,
    }
