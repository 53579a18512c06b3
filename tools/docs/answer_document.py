"""The generated parts of ``docs/statistics.md`` about the answer, from what ``answer_simulation`` recorded."""

from __future__ import annotations

import json
from typing import Any

from tools.docs.crossed_document import markdown
from tools.validation.answer_simulation import PATH


def recorded() -> dict[str, Any]:
    """Return what the simulation found."""
    found: dict[str, Any] = json.loads(PATH.read_text())
    return found


def bounds() -> str:
    """Return the extremes over all designs, and what the stricter rule costs, as sentences."""
    found = recorded()
    rows = [row["found"] for row in found["rows"]]
    worst, cell = (100 * max(row[name] for row in rows) for name in ("false", "cell_called_falsely"))
    plain = 100 * max(row["plain_false"] for row in rows)
    fourteen = [row["found"] for row in found["rows"] if len(row["design"]["truth"]) > 2]
    right, plain_right = (100 * sum(row[name] for row in fourteen) / len(fourteen) for name in ("right", "plain_right"))
    return (
        f"Over all {len(rows)} designs with {found['draws']:,} tables each, the answer is false in at most "
        f"{worst:.1f} % of the tables, and a cell that is not good enough is called so in at most {cell:.1f} % "
        f"(sampling error of 5 %: about {200 * (0.05 * 0.95 / found['draws']) ** 0.5:.1f} points). If a probability of "
        f"95 % were enough in every table, the answer would be false in up to {plain:.1f} %. Over the designs with 14 "
        f"cells, the stricter rule gives a right answer in {right:.0f} % of the tables on average, the other in "
        f"{plain_right:.0f} %."
    )


def designs() -> str:
    """Return the table of false and right answers, one row per design."""
    head = ("design", "cells", "seeds", "examples", "spread", "cell called falsely", "false answer", "right answer")
    head += ("false at 95 %", "right at 95 %")
    lines = []
    for row in recorded()["rows"]:
        design, found = row["design"], row["found"]
        shares = (found[name] for name in ("cell_called_falsely", "false", "right", "plain_false", "plain_right"))
        lines.append(
            (
                row["name"],
                len(design["truth"]),
                design["seeds"],
                f"{design['examples']:,}",
                " and ".join(f"{spread:g}" for spread in sorted(set(design["spreads"]))),
                *(f"{100 * share:.1f}" for share in shares),
            )
        )
    return markdown(head, lines)
