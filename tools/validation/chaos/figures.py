"""The figures of a storm, printed and written."""

from __future__ import annotations

from tools.validation.chaos.grids import REPOSITORY
from tools.validation.chaos.storm import Tally

DOCUMENT = REPOSITORY / "docs" / "chaos.md"
_BEGIN, _END = "<!-- storm -->", "<!-- end of storm -->"


def lines(tally: Tally) -> list[str]:
    """Return what a storm did and found, a fact per line."""
    told = [f"{tally.kills.total()} kills, {tally.commands} commands, {tally.grids} grids, {tally.trials} trials"]
    told += [f"  {count} x {name}" for name, count in tally.kills.most_common()]
    for name, found in tally.faults().items():
        told.append(f"{name.replace('_', ' ')}: {len(found)}")
        told += [f"  {what}" for what in found[:20]]
    return told


def write(tally: Tally, seed: int) -> None:
    """Put the figures into the document, in place of those that it has."""
    before, _, rest = DOCUMENT.read_text().partition(_BEGIN)
    after = rest.partition(_END)[2]
    text = [
        f"{tally.kills.total()} kills in {tally.commands} commands (`--seed {seed}`); {tally.grids} grids with "
        f"{tally.trials} trials were completed.",
        "",
        "| kill | count |",
        "|---|---|",
        *(f"| {name} | {count} |" for name, count in tally.kills.most_common()),
        "",
        "| found | count |",
        "|---|---|",
        *(f"| {name.replace('_', ' ')} | {len(found)} |" for name, found in tally.faults().items()),
    ]
    DOCUMENT.write_text(f"{before}{_BEGIN}\n" + "\n".join(text) + f"\n{_END}{after}")
