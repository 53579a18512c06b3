"""The generated parts of ``docs/deployed.md``: the forms, and the committed run of suites/deployed.yaml."""

from __future__ import annotations

import statistics
from functools import cache
from pathlib import Path

from peftbench.methods import deployed_forms
from peftbench.records.wording import abridged, agreeing, plural, series, span
from peftbench.report.collect import Results, collect
from peftbench.report.derived.deployed import Deployed, deployed
from peftbench.report.names import display_names
from peftbench.report.tables import deployed as tables
from peftbench.report.tables import writers
from peftbench.report.tables.presented import with_names

RESULTS = Path(__file__).resolve().parents[2] / "results" / "reference" / "deployed"


@cache
def results() -> Results:
    """Return the committed results."""
    return collect(RESULTS)


@cache
def found() -> tuple[Deployed, ...]:
    """Return every form of every cell that was scored."""
    return tuple(one for one in deployed(results()) if one.numbers)


def forms() -> str:
    """Return the forms and their meanings as a list."""
    return "\n".join(f"- `{name}`: {meaning}." for name, meaning in deployed_forms.FORMS.items())


def table() -> str:
    """Return the table as the terminal prints it, with its notes."""
    made = tables.table(results())
    assert made is not None
    return f"```\n{writers.write_text(with_names(made, results())).rstrip()}\n```"


def findings() -> str:
    """Return what the run shows: the falls with their intervals, then by form the changes and logit differences."""
    known = [one for one in found() if one.change]
    fallen = sorted((one for one in known if one.falls), key=lambda one: one.change.value if one.change else 0.0)
    verb = agreeing(len(fallen) or 1, "is a significant fall", "are significant falls")
    scopes = series(sorted({one.change.scope for one in known if one.change}))
    lines = [
        f"Of {plural(len(known), 'row')} of the table, {len(fallen) or 'none'} {verb} of the score (Holm's correction "
        f"for all rows; 95 % intervals for {scopes}){':' if fallen else '.'}"
    ]
    lines += [f"  {_fall(one)}" for one in fallen]
    for form in dict.fromkeys(one.form for one in known):
        mine = [one for one in known if one.form == form]
        changes = [100 * one.change.value for one in mine if one.change]
        halves = [100 * one.change.half_width for one in mine if one.change]
        logits = [one.numbers.logit_difference for one in mine if one.numbers and one.numbers.logit_difference]
        lines.append(
            f"`{form}`: {statistics.fmean(changes):+.1f} points in the mean of {plural(len(mine), 'cell')} "
            f"({span(changes, '{:+.1f}'.format)}), each known to ± {span(halves, '{:.1f}'.format)}; a logit changes by "
            f"at most {span(logits, '{:.2g}'.format)}."
        )
    return "\n".join(f"  - {line.strip()}" if line.startswith(" ") else f"- {line}" for line in lines)


def _fall(one: Deployed) -> str:
    numbers, change = one.numbers, one.change
    assert numbers is not None
    assert change is not None
    name = display_names(results().cells)[one.cell.name]
    return (
        f"{name} as `{one.form}`: {100 * numbers.scored:.1f} to {100 * numbers.score:.1f}, "
        f"{100 * change.value:+.1f} points ({100 * change.low:+.1f} to {100 * change.high:+.1f})"
    )


def run() -> str:
    """Return what was run, and how busy the machine was."""
    trials = results().trials
    ok = trials[trials["status"] == "ok"]
    seeds = sorted({int(seed) for seed in ok["seed"].dropna()})
    unsupported = trials[trials["status"] == "unsupported"].drop_duplicates("cell").to_dict("records")
    refused = [f"{row['cell']} ({row['reason']})" for row in unsupported]
    threads = sorted({int(number) for number in ok["threads"].dropna()})
    lines = [
        f"{len(ok)} trials ended ok, with seed{'s' * (len(seeds) > 1)} {series([str(seed) for seed in seeds])}, on "
        f"{series([plural(number, 'CPU thread') for number in threads])} each."
    ]
    if results().missing:
        lines.append(f"{results().missing} trials of the suite have not run.")
    if refused:
        lines.append(f"Unsupported: {abridged(refused, 8)}.")
    loads = span([float(value) for value in ok["load_average"]], "{:.1f}".format)
    lines.append(
        f"The machine's load average was {loads} as trials began; the run's times mean nothing if it was busy."
    )
    return "\n".join(lines)
