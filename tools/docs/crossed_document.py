"""The generated parts of ``docs/statistics.md``, from what ``crossed_simulation`` recorded."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

from tools.validation.crossed_simulation import BEYOND, PATH, SPREADS


def recorded() -> dict[str, Any]:
    """Return what the simulation found."""
    found: dict[str, Any] = json.loads(PATH.read_text())
    return found


def bounds() -> str:
    """Return the extremes over all designs, as sentences."""
    everything = recorded()["rows"]
    rows = [row for row in everything if not row["name"].startswith(BEYOND)]
    beyond = [100 * row["found"]["covered_score"] for row in everything if row not in rows and _three(row)]
    found = [row["found"] for row in rows]
    scores, differences = ([100 * one[f"covered_{name}"] for one in found] for name in ("score", "difference"))
    wrong = max(100 * one["called_best_wrongly"] for one in found)
    same = max(100 * row["found"]["called_different"] for row in rows if len(set(row["design"]["truth"])) == 1)
    return (
        f"Over all {len(rows)} designs with {recorded()['draws']:,} tables each, the coverage of a score's interval is "
        f"{min(scores):.1f} to {max(scores):.1f} %, and that of a difference's interval {min(differences):.1f} to "
        f"{max(differences):.1f} %. A method that is not alone the best is called significantly best in at most "
        f"{wrong:.1f} % of the tables. If all methods are the same, one of them is called significantly different from "
        f"the reference in at most {same:.1f} %. (Sampling error of a coverage of 95 %: about "
        f"{200 * (0.95 * 0.05 / recorded()['draws']) ** 0.5:.1f} points in most designs.) In designs beyond the "
        f"requirement, with yet more variance between seeds relative to examples, three seeds are too few for a "
        f"score's interval: {min(beyond):.1f} to {max(beyond):.1f} %."
    )


def lesson() -> str:
    """Return a summary of the table of detectable differences."""
    rows = [row for row in recorded()["power"] if row["examples"] == 1319 and row["spread"] == 1.15]
    sentences = []
    for methods in (2, 7):
        three, five = (next(r for r in rows if (r["methods"], r["seeds"]) == (methods, seeds)) for seeds in (3, 5))
        sentences.append(
            f"With {methods} methods, 1,319 examples and a spread of 1.15 points, three seeds detect a difference of "
            f"{100 * three['detectable']:.1f} points and five seeds one of {100 * five['detectable']:.1f} points; 3 "
            f"points need about {three['seeds_for_3']} seeds, 2 points about {three['seeds_for_2']}."
        )
    return f"{' '.join(sentences)} Three seeds cannot show smaller differences."


def coverage() -> str:
    """Return the table of coverage and false findings, one row per design."""
    head = ("design", "methods", "seeds", "examples", "spread", "score", "difference")
    head += ("falsely best", "rightly best", "falsely different")
    lines = []
    for row in recorded()["rows"]:
        design, found = row["design"], row["found"]
        spreads = sorted(set(design["spreads"]))
        same, alone = len(set(design["truth"])) == 1, design["truth"].count(max(design["truth"])) == 1
        rightly = found["called_best"] - found["called_best_wrongly"]
        lines.append(
            (
                row["name"],
                len(design["truth"]),
                design["seeds"],
                f"{design['examples']:,}",
                " and ".join(f"{spread:g}" for spread in spreads),
                f"{100 * found['covered_score']:.1f}",
                f"{100 * found['covered_difference']:.1f}",
                f"{100 * found['called_best_wrongly']:.1f}",
                f"{100 * rightly:.1f}" if alone else "–",
                f"{100 * found['called_different']:.1f}" if same else "–",
            )
        )
    return markdown(head, lines)


def power() -> str:
    """Return the table of detectable differences and of how many seeds a gap needs."""
    head = (
        "methods",
        "examples",
        "seeds",
        "spread",
        "detectable in 80 %",
        "found",
        "2 points",
        "3 points",
        "5 points",
    )
    lines = []
    for row in sorted(recorded()["power"], key=lambda r: (r["methods"], r["examples"], r["seeds"], r["spread"])):
        seeds = [row[f"seeds_for_{gap}"] for gap in (2, 3, 5)]
        lines.append(
            (
                row["methods"],
                f"{row['examples']:,}",
                row["seeds"],
                f"{row['spread']:g}",
                f"{100 * row['detectable']:.1f} points",
                f"{100 * row['told']:.0f} %",
                *("none" if count is None else f"{count:,}" for count in seeds),
            )
        )
    return markdown(head, lines)


def rules() -> str:
    """Return the table of the rules that were tried."""
    rows = {(row["rule"], row["case"]): row for row in recorded()["rules"]}
    cases = (*(f"{spread:g}" for spread in SPREADS), "unequal")
    lines = []
    for rule in dict.fromkeys(rule for rule, _ in rows):
        each = [rows[rule, case] for case in cases]
        lines.append((rule, *(f"{100 * row['covered']:.1f} / {100 * row['false']:.1f}" for row in each)))
    return markdown(("rule", *cases), lines)


def _three(row: dict[str, Any]) -> bool:
    return bool(row["design"]["seeds"] == 3)


def markdown(head: tuple[str, ...], lines: Iterable[tuple[Any, ...]]) -> str:
    """Return a table in Markdown, all columns but the first aligned on the right."""
    rule = ["---", *["---:"] * (len(head) - 1)]
    return "\n".join(f"| {' | '.join(map(str, line))} |" for line in (head, rule, *lines))
