"""The generated parts of ``docs/deployed.md``: the forms, and the committed run of suites/deployed.yaml."""

from __future__ import annotations

from functools import cache
from pathlib import Path

from peftbench.methods import deployed_forms
from peftbench.records.wording import abridged, series, span
from peftbench.report.collect import Results, collect
from peftbench.report.derived.deployed import Deployed, deployed
from peftbench.report.notes import deployed as notes
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
    """Return what the run shows: the falls, then by form the spans of changes and of logit differences."""
    lines = list(notes.falls(results())) or ["No form's score falls significantly."]
    for form in dict.fromkeys(one.form for one in found()):
        mine = [one for one in found() if one.form == form and one.numbers]
        changes = [100 * one.change.value for one in mine if one.change]
        logits = [one.numbers.logit_difference for one in mine if one.numbers and one.numbers.logit_difference]
        lines.append(
            f"`{form}`: scores change by {span(changes, '{:+.1f}'.format)} points, a logit by at most "
            f"{span(logits, '{:.2g}'.format)}."
        )
    return "\n".join(f"- {line}" for line in lines)


def run() -> str:
    """Return what was run, and how busy the machine was."""
    trials = results().trials
    ok = trials[trials["status"] == "ok"]
    seeds = sorted({int(seed) for seed in ok["seed"].dropna()})
    unsupported = trials[trials["status"] == "unsupported"].drop_duplicates("cell").to_dict("records")
    refused = [f"{row['cell']} ({row['reason']})" for row in unsupported]
    lines = [f"{len(ok)} trials ended ok, with seed{'s' * (len(seeds) > 1)} {series([str(seed) for seed in seeds])}."]
    if results().missing:
        lines.append(f"{results().missing} trials of the suite have not run.")
    if refused:
        lines.append(f"Unsupported: {abridged(refused, 8)}.")
    loads = span([float(value) for value in ok["load_average"]], "{:.1f}".format)
    lines.append(
        f"The machine's load average was {loads} as trials began; the run's times mean nothing if it was busy."
    )
    return "\n".join(lines)
