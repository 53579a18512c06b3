"""The top of the page and its texts: status, warnings, failures, settings, environment, notes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from typing import Any

from peftbench.records import Status
from peftbench.records.units import MISSING
from peftbench.records.wording import abridged, plural
from peftbench.report.collect import Results
from peftbench.report.derived import commands
from peftbench.report.derived.smoke import is_smoke
from peftbench.report.derived.unequal_settings import audit as unequal
from peftbench.report.names import renamer
from peftbench.report.notes import overview, page_notes
from peftbench.report.notes.learning_rate_search import EXPECTED_BEST
from peftbench.report.payload import ladder
from peftbench.report.payload.attempt import Pieces
from peftbench.report.tables import deployed, settings
from peftbench.report.tables import learning_rate_search as search
from peftbench.report.tables.presented import with_names
from peftbench.results.busy_machine import busy_trials, needed, waiting_share
from peftbench.results.learning_rate_search import expected_best


def overview_of(results: Results, pieces: Pieces) -> dict[str, Any]:
    """Return everything on the page that is a text of the whole results rather than of a cell."""
    named = renamer(results)
    return {
        "suite": ", ".join(map(str, results.distinct("suite"))),
        "base": ", ".join(map(str, results.distinct("base"))),
        "status": pieces.make("the state of the results", lambda: status(results), []),
        "lead": pieces.make("the overview", lambda: overview.overview(results), ""),
        "command": pieces.make("the command", lambda: commands.whole(results), ""),
        "rerun": pieces.make("the command of a trial", lambda: commands.again(results), ""),
        "ask": commands.ask(results),
        "warnings": [named(text) for text in page_notes.warnings(results)],
        "notes": [{"title": t, "texts": [named(text) for text in texts]} for t, texts in page_notes.notes(results)],
        "troubles": pieces.make("the failures", lambda: troubles(results), []),
        "audit": pieces.make("the settings", lambda: _audit(results, named), None),
        "environment": pieces.make("the environment", lambda: asdict(settings.environment(results)), None),
        "search": pieces.make("the learning-rate search", lambda: _search(results), None),
        "ladder": pieces.make("the ladder of memory", lambda: ladder.shown(results), None),
        "deployed": pieces.make("the score after deployment", lambda: _deployed(results), None),
    }


def _audit(results: Results, named: Callable[[str], str]) -> dict[str, Any]:
    found = asdict(settings.audit(results))
    return found | {"notes": [named(text) for text in found["notes"]]}


def status(results: Results) -> list[dict[str, str]]:
    """Return the status strip: title, text and whether it is ``ok``, a ``warn`` or only a fact (empty)."""
    found = overview.endings(results)
    ended = [f"{found.good:,} of {found.asked:,} ok", *found.others]
    lacking = found.failed or found.skipped or found.missing
    bases = results.distinct("base")
    seeds = results.distinct("seed")
    void = [{"title": "smoke run", "text": "its numbers mean nothing", "level": "warn"}] if is_smoke(results) else []
    return [
        *void,
        _fact("base", abridged([str(base) for base in bases], 3)),
        _fact("data", _data(results)) if results.tasks else _fact("scores", "none"),
        _fact("seeds", f"{len(seeds)}" if seeds else MISSING),
        {"title": "trials", "text": ", ".join(ended), "level": "warn" if lacking else "ok"},
        _fact("device", _device(results)),
        _times(results),
        _settings(results),
    ]


def _fact(title: str, text: str) -> dict[str, str]:
    return {"title": title, "text": text, "level": ""}


def _data(results: Results) -> str:
    each = []
    for task in results.tasks:
        examples = results.score_record(task).get("examples")
        each.append(f"{task} ({examples:,})" if isinstance(examples, int) else task)
    return abridged(each, 4)


def _device(results: Results) -> str:
    device, threads = results.common("device"), results.common("threads")
    return (
        "GPU" if device == "cuda" else f"CPU, {plural(int(threads), 'thread')}" if threads else str(device or MISSING)
    )


def _times(results: Results) -> dict[str, str]:
    found = busy_trials(results.trials)
    if found:
        text = f"unreliable in {found.count} of {found.known} (machine busy)"
        return {"title": "times", "text": text, "level": "warn"}
    known = [waiting_share(row) for row in results.trials[needed(results.trials)].to_dict("records")]
    if all(share is None for share in known):
        return _fact("times", "unknown if the machine was idle")
    return {"title": "times", "text": "machine was idle", "level": "ok"}


def _settings(results: Results) -> dict[str, str]:
    kinds = list(dict.fromkeys(group[0].kind for group in unequal(results).groups))
    if kinds:
        return {"title": "audit", "text": f"not equal: {', '.join(kinds)}", "level": "warn"}
    return {"title": "audit", "text": "all else equal", "level": "ok"}


def troubles(results: Results) -> list[dict[str, Any]]:
    """Return the failures of every cell: its place, status, phase, seeds and message."""
    found = []
    for place, cell in enumerate(results.cells):
        if not cell.troubles:
            continue
        bad = cell.trials[cell.trials["status"] != Status.OK.value]
        columns = ["status", "phase", "message"]
        texts = bad[columns].astype(object).fillna(MISSING)
        for (ended, phase, message), rows in texts.groupby(columns, sort=True):
            seeds = [str(seed) for seed in bad.loc[rows.index, "seed"].dropna()]
            each = {"status": str(ended), "phase": str(phase), "seeds": ", ".join(seeds) or MISSING}
            found.append({"cell": place, **each, "message": str(message)})
    return found


def _search(results: Results) -> dict[str, Any] | None:
    """Return the learning-rate search: its table as texts, and every candidate's score."""
    table = search.table(results)
    if table is None:
        return None
    places = {cell.name: place for place, cell in enumerate(results.cells)}
    tried = [
        (places[cell.name], candidate.rate, candidate.score)
        for cell, choice in results.searched
        for candidate in choice.candidates
        if candidate.score is not None
    ]
    spent = [
        (places[cell.name], (number + 1) * len(choice.seeds), score)
        for cell, choice in results.searched
        for number, score in enumerate(expected_best(choice.scores_with_failures))
    ]
    return {
        "heads": [column.head for column in table.columns],
        "rows": [[value.text for value in row.values] for row in table.rows],
        "notes": [*table.notes, EXPECTED_BEST],
        "tried": tried,
        "spent": spent,
    }


def _deployed(results: Results) -> dict[str, Any] | None:
    """Return the table of the score after deployment as texts."""
    table = deployed.table(results)
    if table is None:
        return None
    shown = with_names(table, results)
    return {
        "heads": [column.head for column in shown.columns],
        "rows": [[value.text for value in row.values] for row in shown.rows],
        "notes": list(shown.notes),
    }
