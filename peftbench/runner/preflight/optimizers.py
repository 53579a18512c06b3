"""What should be known before a run about the optimizers of a suite. No torch."""

from __future__ import annotations

from collections.abc import Sequence

from peftbench.methods.default_rates import SEARCH_FACTORS
from peftbench.records import OPTIMIZERS, Trial
from peftbench.records.optimizers import AS_ADAMW, Optimizer
from peftbench.suite.layers import DEFAULT, RECIPE, RULE, SEARCHED


def notes(trials: Sequence[Trial]) -> tuple[str, ...]:
    """Return a note for each optimizer with other rates than AdamW's that is to train at a default rate, or to search
    around one: default rates are AdamW's, and so are the candidates of a search without a list.
    """
    found: dict[str, None] = {}
    for trial in trials:
        derived = trial.learning_rate_source in (DEFAULT, RECIPE, RULE) or (
            trial.learning_rate_source == SEARCHED and "learning_rate" in (trial.defaults or {})
        )  # a list of rates is searched too, but given
        if trial.training is None or not derived:
            continue
        record = OPTIMIZERS[trial.training.optimizer]
        if record.rate != AS_ADAMW:
            found[_note(record, trial.learning_rate_source == SEARCHED)] = None
    return tuple(found)


def _note(record: Optimizer, searched: bool) -> str:
    advice = "a list of rates, from which validation selects"
    if searched:
        low, high = SEARCH_FACTORS[0], SEARCH_FACTORS[-1]
        what = f"learning_rate: search tries {low:g} to {high:g} times the default, which is for AdamW"
    else:
        what, advice = "the default learning rate is for AdamW", f"one rate, or {advice}"
    return f"optimizer {record.name}: {what}; rates for {record.name} are {record.rate}. Give learning_rate: {advice}"
