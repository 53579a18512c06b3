"""Notes on settings that the suite does not give: untuned default learning rates, and what follows from the data."""

from __future__ import annotations

from collections.abc import Iterable

from peftbench.methods import default_rates
from peftbench.records import wording
from peftbench.report.collect import Cell, Results, read_json

_RULE = "rule"
_READ = ("learning_rate", "learning_rate_source", "defaults_json", "settings_json")


def notes(results: Results) -> Iterable[str]:
    """Yield which cells have untuned default learning rates and by which rule, then the other defaults."""
    if "learning_rate_source" not in results.trials:
        return
    untuned: dict[str, dict[str, float]] = {}
    others: dict[tuple[str, str], list[Cell]] = {}
    for cell in results.cells:
        for row in cell.rows:
            rate, source, defaults, settings = (row[name] for name in _READ)
            known = read_json(defaults)
            if source == _RULE:
                untuned.setdefault(known.get("learning_rate", "untuned default"), {})[cell.name] = rate
            if not known.keys() - {"learning_rate"}:
                continue
            values = {**read_json(settings), **(read_json(settings).get("train") or {})}
            for name in (name for name in known if name != "learning_rate"):
                others.setdefault((f"{name} {_number(values.get(name))}", known[name]), []).append(cell)
    for why, rates in untuned.items():
        yield (
            f"Untuned default rates: {wording.rates(rates)} ({why}; {default_rates.RULE}). They decide how methods "
            "compare; learning_rate: search tries five around each."
        )
    if others:
        each = [f"{value} ({why})" for value, why in others]
        yield f"Not given by the suite: {'; '.join(each)}."


def _number(value: object) -> str:
    return f"{value:,}" if isinstance(value, int) else str(value)
