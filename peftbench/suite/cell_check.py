"""What is wrong with the cells of a suite: settings that exclude each other, searches that cannot select."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from importlib.util import find_spec
from typing import Any

from peftbench.methods import profiles
from peftbench.methods.record import shown
from peftbench.models import precision
from peftbench.records import OPTIMIZERS, Evaluation
from peftbench.suite import build_heads, layers
from peftbench.suite.cell import Cell
from peftbench.suite.document import AMOUNTS
from peftbench.suite.records import Suite
from peftbench.suite.schema import SEARCH
from peftbench.tasks.splits import splits


def too_long_answers(suite: Suite, evaluation: Evaluation) -> Iterable[str]:
    """Yield a problem for each scored task whose answers can be as long as the whole context, prompt included."""
    if suite.defaults and suite.defaults.unread and not suite.max_length:
        return  # the length stands in for one that cannot be known yet, and what prevents that is reported
    for task in suite.tasks:
        if (
            task.name in suite.scored
            and task.kind in ("exact_match", "generation")
            and task.max_new_tokens >= evaluation.max_length
        ):
            yield (
                f"tasks.{task.name}: max_new_tokens is {task.max_new_tokens}; allowed: less than evaluate.max_length, "
                f"which is {evaluation.max_length} (by default the longest sequence_length of train)"
            )


def _option_problems(cell: Cell) -> Iterable[str]:
    """Yield a problem for each option that another option's value forbids, or requires but the block lacks."""
    for name, setting in cell.method.options.items():
        other, value = setting.only_with or ("", "")
        if other and cell.options[name] != setting.default and cell.options[other] != value:
            given = shown(cell.options[name])
            yield f"{cell.where}: {name}: given {given}; allowed: only with {other}: {value}"
        other, value = setting.not_with or ("", "")
        if other and cell.options[name] != setting.default and cell.options[other] == value:
            yield f"{cell.where}: {name}: given {shown(cell.options[name])}, which has no effect with {other}: {value}"
        other, value = setting.only_with or ("", "")
        if setting.needed and cell.options[name] == setting.default and cell.options[other] == value:
            yield f"{cell.where}: the key {name!r} is missing; {other}: {value} needs it"


def problems(cell: Cell, suite: Suite) -> Iterable[str]:
    """Yield a problem for each setting of a cell that is missing or that another setting forbids."""
    yield from _option_problems(cell)
    yield from build_heads.cell_problems(cell, suite)
    package = precision.why_missing(cell.precision)
    if package:
        yield f"{cell.where}: precision: {package}"
    settings = cell.settings
    if not settings:
        return
    if sum(settings[key] is not None for key in AMOUNTS) != 1:
        yield f"{cell.where}: exactly one of {', '.join(AMOUNTS)} is needed"
    if settings["learning_rate"] is None:
        why = "profile: shared has none" if suite.profile == profiles.SHARED else f"{cell.method.name} has no default"
        yield f"{cell.where}: the key 'learning_rate' is missing, and {why}"
    micro, batch = settings["micro_batch_size"], settings["batch_size"]
    if micro is not None and micro > batch:
        yield f"{cell.where}: micro_batch_size: given {micro}; allowed: at most batch_size, which is {batch}"
    if settings["score"] == "best_on_validation" and settings["validate_every"] is None:
        yield f"{cell.where}: score: best_on_validation needs validate_every, the steps between validations"
    yield from (f"{cell.where}: {why}" for why in _optimizer_problems(settings))
    if settings["compute"] != "auto" and find_spec("torchao") is None:
        yield (
            f"{cell.where}: compute: {settings['compute']} needs the package torchao, which is not installed: "
            "pip install 'peftbench[torchao]'"
        )
    if settings["validate_every"] is not None:
        validated = [task.name for task in suite.tasks if "validation" in splits(task)]
        missing = [name for name, _ in suite.data if name not in validated]
        if missing:
            yield f"{cell.where}: validate_every: no validation split or validation_fraction: {', '.join(missing)}"


def _optimizer_problems(settings: Mapping[str, Any]) -> Iterable[str]:
    """Yield what keeps a cell's optimizer from being made."""
    record = OPTIMIZERS[settings["optimizer"]]
    if record.package and find_spec(record.package) is None:
        yield (
            f"optimizer: {record.name} needs the package {record.package}, which is not installed: "
            f"pip install 'peftbench[{record.extra}]'"
        )


def search_problems(cells: list[Cell], suite: Suite) -> Iterable[str]:
    """Yield what prevents a selection of learning rates on the validation split."""
    yield from _unusable_rates(cells, suite)
    found = [cell for cell in cells if cell.rates and SEARCH not in cell.rates]
    if not found:
        return
    for cell in found:
        if None in cell.rates:
            yield f"{cell.where}: learning_rate: null is among the rates to search; allowed: numbers above 0"
        if len(set(cell.rates)) < len(cell.rates):
            yield f"{cell.where}: learning_rate: a rate is given twice; allowed: different rates"
    first = found[0]
    for cell in found[1:]:
        if len(cell.rates) != len(first.rates):
            yield (
                f"{cell.where}: learning_rate: {len(cell.rates)} candidates, but {len(first.rates)} in {first.where}; "
                "allowed: equally many for each method (search: false makes each rate a cell of its own)"
            )
    if suite.base.random_weights:
        yield f"{first.where}: learning_rate: random weights are not scored, so no rate can be selected; give one rate"
    if suite.split != "test":
        yield (
            f"evaluate.split: given {suite.split!r}; a search selects the learning rate on it, so allowed: test "
            "(search: false makes each rate a cell of its own)"
        )
    if not tasks_with_validation(suite):
        yield (
            f"{first.where}: learning_rate: one of several is selected on the validation split, which no scored task "
            "has: give validation or validation_fraction, one rate, or search: false"
        )


def _unusable_rates(cells: list[Cell], suite: Suite) -> Iterable[str]:
    """Yield a problem for each cell that asks for a search around its default beside other rates, or without search."""
    for cell in cells:
        rates = cell.rates or (cell.settings.get("learning_rate"),)
        if SEARCH in rates:
            yield f"{cell.where}: learning_rate: given search in a list; allowed: search alone, or a list of rates"
        elif cell.filled and cell.filled.source == layers.SEARCHED and suite.search is None:
            yield f"{cell.where}: learning_rate: given search, but search: false; allowed: one rate, or a list of rates"


def tasks_with_validation(suite: Suite) -> tuple[str, ...]:
    """Return the scored tasks with a validation split, which a search selects the learning rate on."""
    return tuple(t.name for t in suite.tasks if t.name in suite.scored and "validation" in splits(t))
