"""Expand a suite into trials: every combination of its lists, with defaults filled in and cells named."""

from __future__ import annotations

import itertools
import os
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import Any

from peftbench.methods import METHODS, Method, method_of, profiles, strategies
from peftbench.methods.record import shown
from peftbench.records import Evaluation, Trial
from peftbench.suite import build_heads, grid_size, layers
from peftbench.suite.cell import Cell
from peftbench.suite.cell_check import problems, search_problems, too_long_answers
from peftbench.suite.document import AMOUNTS, raise_problems
from peftbench.suite.records import Block, Suite
from peftbench.suite.schema import TRAIN
from peftbench.suite.select import select

_NO_RATES: Mapping[str, float] = MappingProxyType({})
_SHORT = {"learning_rate": "lr"}
"""Common abbreviations, used in cell names only."""


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
    raise_problems(too_long_answers(suite, evaluation))
    chosen = [cell.at(rates.get(cell.name, min(cell.rates))) if cell.rates else cell for cell in named]
    trials = [trial for cell in chosen for trial in _trials(cell, suite, evaluation, device)]
    return select(tuple(trials), suite.only)


def candidate_rates(suite: Suite) -> dict[str, tuple[float, ...]]:
    """Return the candidate learning rates of each searched cell, by the cell's name.

    Raises:
        UserError: as ``expand``.
    """
    return {cell.name: cell.rates for cell in _checked(suite) if cell.rates}


def _checked(suite: Suite) -> list[Cell]:
    """Return the suite's named cells after checking their settings."""
    grid_size.check(suite)
    cells = [cell for block in suite.blocks for cell in _cells(block, suite)]
    raise_problems(problem for cell in cells for problem in problems(cell, suite))
    raise_problems(search_problems(cells, suite))
    named = _named(cells)
    _refuse_duplicates(named)
    return named


def threads_of(suite: Suite) -> int:
    """Return the CPU threads of each trial: the suite's, else an equal share of the cores that this process may use.

    On several devices each of a trial's processes has as many.
    """
    available = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    ranks = max((each.ranks for each in suite.devices if each is not None), default=1)
    return suite.threads or max(1, available // (suite.workers * ranks))


def _cells(block: Block, suite: Suite) -> Iterable[Cell]:
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
        axes["devices"] = suite.devices
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
            method = method_of(block.method, options)
        rank = value.get(method.rank_key)
        cell = Cell(method, block.where, value["precision"], rank, options, devices=value.get("devices"))
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


def _named(cells: list[Cell]) -> list[Cell]:
    """Name the cells by method, rank, options and precision, and by training settings if those alone differ."""
    same_name: dict[str, list[Cell]] = defaultdict(list)
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
        parts += [cell.devices.name] if cell.devices else []
        head = name.removesuffix(f" {cell.precision}")
        settings = " ".join([*cell.method.named_options(cell.options), *parts])
        named.append(replace(cell, name=" ".join([head, *parts, cell.precision]), named_settings=settings))
    return named


def _name_value(cell: Cell, key: str) -> str:
    return "searched" if key == "learning_rate" and cell.rates else shown(cell.settings[key])


def _in_name(cell: Cell, key: str) -> bool:
    return key not in AMOUNTS or cell.settings[key] is not None


def _refuse_duplicates(cells: list[Cell]) -> None:
    """Raise UserError if two cells are the same in everything, or only in name."""
    seen: dict[str, Cell] = {}
    names: dict[str, Cell] = {}
    problems = []
    for cell in cells:
        what = (cell.method.name, cell.precision, cell.rank, cell.devices, cell.meaning())
        each = [cell.at(rate) for rate in cell.rates] or [cell]  # a search may select any of them
        first = next(one for one in [seen.setdefault(repr((*what, c.training(()))), cell) for c in each][::-1])
        other = names.setdefault(cell.name, cell)
        if first is not cell:
            twice = repr(cell.name) if cell.name == first.name else f"{first.name!r} and {cell.name!r}"
            problems.append(f"{cell.where}: the same cell twice: {twice}, also in {first.where}")
        elif other is not cell:
            problems.append(f"{cell.where}: two different cells are called {cell.name!r}, also in {other.where}")
    raise_problems(problems)


def _trials(cell: Cell, suite: Suite, evaluation: Evaluation, device: str) -> Iterable[Trial]:
    """Yield a cell's trials, one per seed; the untuned base model has one trial, without a seed."""
    training = cell.training(suite.data)
    refused = strategies.refusal_of_cell(cell.method, cell.precision, device, training, cell.options, cell.devices)
    refused = refused or build_heads.refusal(cell.method, suite.tasks)
    measured = {"inference": suite.inference, "retention": suite.retention} | build_heads.without_measures(suite)
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
            devices=cell.devices,
            timeout_seconds=suite.timeout_seconds,
            phase_timeouts=suite.phase_timeouts,
            checkpoint_every_seconds=suite.checkpoint_every_seconds,
            deployed=suite.deployed,
            **measured,
            unsupported=refused.message if refused else None,
            unsupported_reason=refused.reason if refused else None,
            named_settings=cell.named_settings,
            learning_rate_source=cell.filled.source if cell.filled else None,
            defaults=cell.filled.reasons if cell.filled else None,
        )
