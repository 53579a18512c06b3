"""``peftbench.plan``: the predicted memory of fine-tuning a base model by some methods, as frozen records."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from peftbench.commands import python_arguments as arguments
from peftbench.errors import UserError

if TYPE_CHECKING:
    from peftbench.planner.records import Forecast, Prediction

ONE_EXAMPLE: Mapping[str, Any] = MappingProxyType({"steps": 100, "batch_size": 1, "sequence_length": 512})
"""Training settings that are planned for if none are given: a step of one example of 512 tokens."""


@dataclass(frozen=True)
class PlannedSetting:
    """Settings that need less memory than a cell's own."""

    settings: Mapping[str, Any]
    """What to set: ``precision``, and keys of ``train``."""
    peak_bytes: int | None
    """The predicted peak with them; None if there is no prediction."""
    fits: bool


@dataclass(frozen=True)
class PlannedCell:
    """One method at one precision and rank with its predicted memory. What is not predicted is None."""

    cell: str
    """Its name, as in results."""
    method: str
    precision: str
    rank: int | None
    """None if the method has none."""
    train: Mapping[str, Any]
    """Its training settings; empty for the untuned base model."""
    cannot_run: str | None
    """Why it cannot run, or why there is no prediction."""
    peak_bytes: int | None
    """The most memory that tensors take at one moment of a training step; with ``compile``, of one without it."""
    parts_bytes: Mapping[str, int]
    """That peak by category (``base_weights``, ``gradients``, ...), which add up to it."""
    loading_peak_bytes: int | None
    """The most memory that tensors take at one moment of loading the base model; None also if it is not known."""
    offloaded_to_host_bytes: int | None
    """What a step keeps in the host's memory for its device, not in the peak."""
    reserve_bytes: int | None
    """Non-tensor memory that has to fit beside the peak: on a GPU an estimate, on a CPU 0."""
    saved_bytes: int | None
    """What is saved after training."""
    base_parameters: int | None
    trainable_parameters: int | None
    flop_per_token: float | None
    """Floating-point operations of a training step for each token."""
    fits: bool | None
    """Whether the larger peak, of a step or of loading, and the reserve are within the budget; None without one."""
    ways_to_fit: tuple[PlannedSetting, ...]
    """For a cell that does not fit: settings with less memory, the nearest first; the last one fits if any does."""


@dataclass(frozen=True)
class MemoryPlan:
    """What ``plan`` returns."""

    device: str
    """``cpu`` or ``cuda``."""
    budget_bytes: int | None
    cells: tuple[PlannedCell, ...]
    """In the order of the methods that were given."""

    @property
    def fitting(self) -> tuple[PlannedCell, ...]:
        """The cells that fit the budget."""
        return tuple(cell for cell in self.cells if cell.fits)


def plan(
    base: Any,
    methods: Any,
    budget: int | str | None = None,
    *,
    train: Mapping[str, Any] | None = None,
    precision: str | Sequence[str] | None = None,
    device: str = "auto",
    reserve: int | str | None = None,
) -> MemoryPlan:
    """Return the memory that fine-tuning a base model by each method is predicted to need, without running anything.

    Only the base model's config is read. It is what ``peftbench plan SUITE --memory`` prints.

    Args:
        base: as in a suite: ``"nano"``, a folder, a hub id, or a mapping such as ``{"shape": "llama-7b"}``.
        methods: as in a suite: a list of names, or a mapping of names to their settings, of which a list is an axis:
            ``{"full": {"optimizer": ["adamw", "adamw_8bit"]}, "qlora": {"rank": 16}}``.
        budget: the memory that training may need: bytes, a text like ``"16GiB"``, or ``"device"``; None for no limit.
        train: training settings of all methods, as in a suite; by default a step of one example of 512 tokens.
        precision: one or several, for methods whose settings give none; by default each method's.
        device: ``"auto"``, ``"cpu"`` or ``"cuda"``; the device need not be here.
        reserve: the part of the budget for non-tensor memory, in bytes or as text; by default an estimate.

    Returns:
        A record with the cells, each with its peak, the peak's parts, and whether it fits the budget; ``fitting`` has
        the cells that do. Every number has its unit in its name; what is not known is None.

    Raises:
        UserError: if an argument is wrong, or the base model's config cannot be had.
    """
    from peftbench.commands import selection
    from peftbench.measure import device as devices
    from peftbench.models import dry_load, find, here, quiet_imports
    from peftbench.planner import forecast, memory_sizes
    from peftbench.suite import expand, from_data

    given = {"base": base, "methods": methods, "precision": precision, "device": device}
    settings = {**ONE_EXAMPLE, **(train or {})} if isinstance(train, Mapping | None) else train
    data = {"tasks": ["compute"], "seeds": 1, **given, "train": settings}
    limit, kept = arguments.size(budget), arguments.size(reserve)
    if kept and not limit:
        raise UserError(selection.RESERVE_NEEDS_BUDGET)
    memory_sizes.check(limit, kept)
    loaded = from_data({key: value for key, value in data.items() if value is not None}, "plan()")
    suite = selection.complete(loaded, io.StringIO(), here.described, False).suite
    kind = devices.resolve(suite.device, present=False)
    trials = expand(suite, kind)
    bytes_of = memory_sizes.budget(limit, kind) if limit else None
    asked = forecast.Question(bytes_of, memory_sizes.reserve(kept, bytes_of))
    quiet_imports.quantizers()
    with dry_load.quiet():
        found = forecast.forecasts(trials, lambda trial: find.config_folder(trial.base), asked)
        return MemoryPlan(kind, bytes_of, tuple(_cell(each, asked.reserve) for each in found))


def _cell(each: Forecast, reserve: int | None) -> PlannedCell:
    from peftbench.planner import cuda_reserve

    trial, found = each.trial, each.found
    train = asdict(trial.training) if trial.training else {}
    train.pop("data", None)
    return PlannedCell(
        cell=trial.cell,
        method=trial.method,
        precision=trial.precision,
        rank=trial.rank,
        train=MappingProxyType(train),
        cannot_run=each.problem,
        **_numbers(found),
        parts_bytes=MappingProxyType({str(name): size for name, size in found.categories.items()} if found else {}),
        reserve_bytes=(cuda_reserve.reserve(trial) if reserve is None else reserve) if found else None,
        fits=each.fits,
        ways_to_fit=tuple(
            PlannedSetting(MappingProxyType(dict(lever.settings)), lever.peak_bytes, lever.fits)
            for lever in each.levers
        ),
    )


def _numbers(found: Prediction | None) -> dict[str, Any]:
    return {
        "peak_bytes": found.peak_bytes if found else None,
        "loading_peak_bytes": found.loading_bytes if found else None,
        "offloaded_to_host_bytes": found.offloaded_bytes if found else None,
        "saved_bytes": found.checkpoint_bytes if found else None,
        "base_parameters": found.base_parameters if found else None,
        "trainable_parameters": found.trainable_parameters if found else None,
        "flop_per_token": found.flops_per_token if found else None,
    }
