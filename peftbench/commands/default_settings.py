"""The settings that a suite leaves to defaults, in words for ``plan`` and ``run``."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from peftbench.records import Trial

if TYPE_CHECKING:
    from peftbench.suite import Suite

_AMOUNTS_OF_A_STEP = ("batch_size", "micro_batch_size")
"""Settings with one default for every base model and all data."""
_GENERAL = ("steps", *_AMOUNTS_OF_A_STEP, "sequence_length")
"""Those of a built-in base model, for which nothing follows from the base or the data."""


def default_lines(suite: Suite, trials: Sequence[Trial]) -> list[str]:
    """Return what follows from the base model and the data, for people: the values in the trials, and why."""
    from peftbench.records import wording

    lines = []
    for key, why in suite.defaults.reasons if suite.defaults else ():
        if key == "max_length" and trials:
            lines.append(f"evaluate.max_length {trials[0].evaluation.max_length:,}: {why}")
    cells: dict[tuple[str, str], dict[str, Trial]] = {}
    for trial in trials:
        for key, why in (trial.defaults or {}).items():
            cells.setdefault((key, why), {})[trial.cell] = trial
    for (key, why), found in cells.items():
        if key != "learning_rate":
            values = dict.fromkeys(_value(trial, key) for trial in found.values())
            lines.append(f"{key} {', '.join(values)}: {why}")
        elif all(trial.learning_rate_source == "search" for trial in found.values()):
            lines.append(f"learning_rate of {', '.join(found)}: {why}")
        else:
            rates = {cell: trial.training.learning_rate for cell, trial in found.items() if trial.training}
            lines.append(f"learning_rate: {wording.rates(rates)} ({why})")
    return [*lines, *(suite.defaults.notes if suite.defaults else ()), *_of_no_base(suite, trials)]


def _value(trial: Trial, key: str) -> str:
    found = trial.precision if key == "precision" else getattr(trial.training, key)
    return f"{found:,}" if isinstance(found, int) else str(found)


def _of_no_base(suite: Suite, trials: Sequence[Trial]) -> Iterator[str]:
    """Yield the defaults that follow from neither base nor data: general ones, and the built-in base's own rates."""
    from peftbench.methods import method_of
    from peftbench.models.builtin import BASES
    from peftbench.records import wording
    from peftbench.suite import layers
    from peftbench.suite.schema import TRAIN

    if suite.smoke:
        return
    built_in = suite.base.source in BASES and not suite.base.random_weights
    own = {t.cell: t.training.learning_rate for t in trials if t.training and t.learning_rate_source == layers.RECIPE}
    if own and built_in:
        yield f"learning_rate: {wording.rates(own)} (the methods' own, found for {suite.base.source})"
    blocks = [(method_of(b.method, {k: v[0] for k, v in b.axes.items()}), b) for b in suite.blocks]
    general: dict[str, str] = {}
    for key in _GENERAL if built_in else _AMOUNTS_OF_A_STEP:
        left = {b.method for method, b in blocks if layers.origin(key, method, b, suite) == layers.DEFAULT}
        values = {getattr(t.training, key) for t in trials if t.training and t.method in left}
        if values and TRAIN[key].default in (None, *values) and len(values) == 1:
            general[key] = f"{key} {next(iter(values))}"
    if "batch_size" not in general:  # else it is the batch size that the suite gives
        general.pop("micro_batch_size", None)
    if general:
        yield f"{', '.join(general.values())}: the general default{'s' * (len(general) > 1)}"
