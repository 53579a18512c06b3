"""Expand a suite into trials: every combination of its lists, with defaults filled in and cells named."""

from __future__ import annotations

import itertools
import os
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Any

from peftbench.methods import ADAPTER_KINDS, METHODS, PREFIX_HIDDEN, Method, alpha_of, method_of, profiles
from peftbench.methods.record import shown
from peftbench.methods.support import refusal
from peftbench.records import Evaluation, Training, Trial
from peftbench.suite import grid_size, layers
from peftbench.suite.document import AMOUNTS, raise_problems
from peftbench.suite.records import Block, Suite
from peftbench.suite.schema import SEARCH, TRAIN
from peftbench.suite.select import select
from peftbench.tasks.splits import splits

_NO_RATES: Mapping[str, float] = MappingProxyType({})
_SHORT = {"learning_rate": "lr"}
"""Common abbreviations, used in cell names only."""


@dataclass(frozen=True)
class _Cell:
    """One combination of values of one block."""

    method: Method
    where: str
    precision: str
    rank: int | None
    options: Mapping[str, Any]
    """As given: None for an alpha that follows from the rank."""
    settings: Mapping[str, Any] = field(default_factory=lambda: MappingProxyType({}))
    """Training settings as given: None for a micro-batch size that equals the batch size. Empty for the base model."""
    rates: tuple[float, ...] = ()
    """The candidate learning rates of a search; empty if the cell has one rate."""
    name: str = ""
    named_settings: str = ""
    """The name without method, rank and precision."""
    filled: layers.Filled | None = None
    """Where the settings are from; None for the base model."""

    def resolved_options(self) -> dict[str, Any]:
        """Return the options with derived values filled in: alpha from the rank, activation from the adapter's kind."""
        options = dict(self.options)
        if "alpha" in options and self.rank is not None:
            options["alpha"] = alpha_of(options["alpha"], self.rank)
        if self.method.name == "adapter" and options["activation"] is None:
            options["activation"] = ADAPTER_KINDS[options["kind"]][0]
        return options

    def meaning(self) -> dict[str, Any]:
        """Return the options with every null replaced by the value it stands for, also those a trial stores as null."""
        options = self.resolved_options()
        if self.method.name == "adapter" and options["scale"] is None:
            options["scale"] = ADAPTER_KINDS[options["kind"]][1]
        if options.get("reparameterization") == "mlp" and options["hidden_size"] is None:
            options["hidden_size"] = PREFIX_HIDDEN
        return options

    def at(self, rate: float) -> _Cell:
        """Return a copy of the cell with this learning rate."""
        return replace(self, settings={**self.settings, "learning_rate": rate})

    def training(self, data: tuple[tuple[str, float], ...]) -> Training | None:
        """Return the training record; None for the untuned base model."""
        if not self.settings:
            return None
        micro = self.settings["micro_batch_size"] or self.settings["batch_size"]
        return Training(data=data, **{**self.settings, "micro_batch_size": micro})


def expand(suite: Suite, device: str, rates: Mapping[str, float] = _NO_RATES) -> tuple[Trial, ...]:
    """Return the suite's trials, cell by cell in the order of the file, with each cell's seeds together.

    Training settings come from the method's block, else the suite's ``train``, else the method's own recipe
    (``Method.training``), else the defaults of ``schema.TRAIN``. ``only`` selects trials and does not change them.

    Args:
        suite: a validated suite.
        device: ``cpu`` or ``cuda``: the suite's ``device``, resolved on this machine.
        rates: the selected learning rate of each searched cell, by the cell's name. A searched cell without one gets
            its smallest candidate, which is the least likely to diverge.

    Raises:
        UserError: if settings exclude each other, two cells are the same, or ``only`` matches nothing.
    """
    if device not in ("cpu", "cuda"):
        raise ValueError(f"device: given {device!r}; allowed: cpu, cuda")
    named = _checked(suite)
    lengths = [cell.settings["sequence_length"] for cell in named if cell.settings]
    longest = max(lengths, default=TRAIN["sequence_length"].default)
    if suite.defaults and suite.defaults.max_length:
        longest = max(longest, suite.defaults.max_length) if lengths else suite.defaults.max_length
    evaluation = Evaluation(suite.evaluate_batch_size, suite.max_length or longest, suite.split, suite.generation)
    raise_problems(_too_long_answers(suite, evaluation))
    chosen = [cell.at(rates.get(cell.name, min(cell.rates))) if cell.rates else cell for cell in named]
    trials = [trial for cell in chosen for trial in _trials(cell, suite, evaluation, device)]
    return select(tuple(trials), suite.only)


def candidate_rates(suite: Suite) -> dict[str, tuple[float, ...]]:
    """Return the candidate learning rates of each searched cell, by the cell's name.

    Raises:
        UserError: as ``expand``.
    """
    return {cell.name: cell.rates for cell in _checked(suite) if cell.rates}


def _checked(suite: Suite) -> list[_Cell]:
    """Return the suite's named cells after checking their settings."""
    grid_size.check(suite)
    cells = [cell for block in suite.blocks for cell in _cells(block, suite)]
    raise_problems(problem for cell in cells for problem in _problems(cell, suite))
    raise_problems(_search_problems(cells, suite))
    named = _named(cells)
    _refuse_duplicates(named)
    return named


def _too_long_answers(suite: Suite, evaluation: Evaluation) -> Iterable[str]:
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


def threads_of(suite: Suite) -> int:
    """Return the CPU threads of each trial: the suite's, else an equal share of the cores that this process may use."""
    available = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return suite.threads or max(1, available // suite.workers)


def _cells(block: Block, suite: Suite) -> Iterable[_Cell]:
    """Yield a block's cells; the first axis in the file varies slowest."""
    record = METHODS[block.method]
    method = method_of(block.method, {key: values[0] for key, values in block.axes.items()})
    axes = {key: values for key, values in block.axes.items() if key not in AMOUNTS or key in layers.amount(block.axes)}
    if method.rank_meaning is not None:
        rank = profiles.rank(suite.profile, method.name, method.default_rank)
        axes.setdefault(method.rank_key, suite.axes.get("rank", (rank,)))
    axes.setdefault("precision", layers.precision(method, block, suite))
    if method.trains:
        for key, values in layers.training_axes(method, block, suite).items():
            axes.setdefault(key, values)
    profile = _profile(method, block, suite, axes)
    published = profiles.options(suite.profile, method.name)
    rates: tuple[float, ...] = ()
    if suite.search and len(axes.get("learning_rate", ())) > 1:
        rates, axes["learning_rate"] = axes["learning_rate"], axes["learning_rate"][:1]
    for values in itertools.product(*axes.values()):
        value = dict(zip(axes, values, strict=True))
        options = {key: value.get(key, published.get(key, setting.default)) for key, setting in method.options.items()}
        if record.variants:  # the library's defaults depend on its version, which the environment records
            options = {key: option for key, option in options.items() if key in value}
        rank = value.get(method.rank_key)
        cell = _Cell(method, block.where, value["precision"], rank, options)
        if method.trains:
            given = {key: value[key] for key in TRAIN} | {"profile": profile}
            filled = layers.fill(method, block, suite, (rank, cell.resolved_options(), given), rates)
            yield replace(cell, filled=filled, settings=filled.settings, rates=filled.rates)
        else:
            yield cell


def _profile(method: Method, block: Block, suite: Suite, axes: Mapping[str, tuple[Any, ...]]) -> str | None:
    """Return the suite's profile if it changes any setting of a block, else None."""
    if suite.profile is None or not method.trains:
        return None
    without = replace(suite, profile=None)
    same = all(axes[key] == values for key, values in layers.training_axes(method, block, without).items())
    options = profiles.options(suite.profile, method.name)
    same &= all(key in block.axes or value == method.options[key].default for key, value in options.items())
    same &= method.rank_meaning is None or axes[method.rank_key] == without.axes.get("rank", (method.default_rank,))
    return None if same else suite.profile


def _option_problems(cell: _Cell) -> Iterable[str]:
    """Yield a problem for each option that another option's value forbids, or requires but the block lacks."""
    for name, setting in cell.method.options.items():
        other, value = setting.only_with or ("", "")
        if other and cell.options[name] != setting.default and cell.options[other] != value:
            given = shown(cell.options[name])
            yield f"{cell.where}: {name}: given {given}; allowed: only with {other}: {value}"
        if setting.needed and cell.options[name] == setting.default and cell.options[other] == value:
            yield f"{cell.where}: the key {name!r} is missing; {other}: {value} needs it"


def _problems(cell: _Cell, suite: Suite) -> Iterable[str]:
    """Yield a problem for each setting of a cell that is missing or that another setting forbids."""
    yield from _option_problems(cell)
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
    if settings["validate_every"] is not None:
        validated = [task.name for task in suite.tasks if "validation" in splits(task)]
        missing = [name for name, _ in suite.data if name not in validated]
        if missing:
            yield f"{cell.where}: validate_every: no validation split or validation_fraction: {', '.join(missing)}"


def _search_problems(cells: list[_Cell], suite: Suite) -> Iterable[str]:
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


def _unusable_rates(cells: list[_Cell], suite: Suite) -> Iterable[str]:
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


def _named(cells: list[_Cell]) -> list[_Cell]:
    """Name the cells by method, rank, options and precision, and by training settings if those alone differ."""
    same_name: dict[str, list[_Cell]] = defaultdict(list)
    for cell in cells:
        same_name[cell.method.cell_name(cell.rank, cell.precision, cell.options)].append(cell)
    differing = {
        name: [key for key in TRAIN if len({cell.settings[key] for cell in group if cell.settings}) > 1]
        for name, group in same_name.items()
    }
    named = []
    for cell in cells:
        name = cell.method.cell_name(cell.rank, cell.precision, cell.options)
        parts = [f"{_SHORT.get(key, key)}={_name_value(cell, key)}" for key in differing[name] if _in_name(cell, key)]
        head = name.removesuffix(f" {cell.precision}")
        settings = " ".join([*cell.method.named_options(cell.options), *parts])
        named.append(replace(cell, name=" ".join([head, *parts, cell.precision]), named_settings=settings))
    return named


def _name_value(cell: _Cell, key: str) -> str:
    return "searched" if key == "learning_rate" and cell.rates else shown(cell.settings[key])


def _in_name(cell: _Cell, key: str) -> bool:
    return key not in AMOUNTS or cell.settings[key] is not None


def _refuse_duplicates(cells: list[_Cell]) -> None:
    """Raise UserError if two cells are the same in everything, or only in name."""
    seen: dict[str, _Cell] = {}
    names: dict[str, _Cell] = {}
    problems = []
    for cell in cells:
        what = (cell.method.name, cell.precision, cell.rank, cell.meaning())
        each = [cell.at(rate) for rate in cell.rates] or [cell]  # a search may select any of them
        first = next(one for one in [seen.setdefault(repr((*what, c.training(()))), cell) for c in each][::-1])
        other = names.setdefault(cell.name, cell)
        if first is not cell:
            twice = repr(cell.name) if cell.name == first.name else f"{first.name!r} and {cell.name!r}"
            problems.append(f"{cell.where}: the same cell twice: {twice}, also in {first.where}")
        elif other is not cell:
            problems.append(f"{cell.where}: two different cells are called {cell.name!r}, also in {other.where}")
    raise_problems(problems)


def _trials(cell: _Cell, suite: Suite, evaluation: Evaluation, device: str) -> Iterable[Trial]:
    """Yield a cell's trials, one per seed; the untuned base model has one trial, without a seed."""
    training = cell.training(suite.data)
    refused = refusal(cell.method, cell.precision, device, training)
    used = {name for name, _ in suite.data} if training else set()
    for seed in suite.seeds if training else (None,):
        yield Trial(
            suite=suite.name,
            cell=cell.name,
            base=suite.base,
            method=cell.method.name,
            precision=cell.precision,
            rank=cell.rank,
            options=cell.resolved_options(),
            seed=seed,
            tasks=tuple(task for task in suite.tasks if task.name in used or task.name in suite.scored),
            evaluate=suite.scored,
            training=training,
            evaluation=evaluation,
            device=device,
            threads=threads_of(suite),
            timeout_seconds=suite.timeout_seconds,
            inference=suite.inference,
            retention=suite.retention,
            unsupported=refused.message if refused else None,
            unsupported_reason=refused.reason if refused else None,
            named_settings=cell.named_settings,
            learning_rate_source=cell.filled.source if cell.filled else None,
            defaults=cell.filled.reasons if cell.filled else None,
        )
