"""A trial that several devices share: its processes meet, and what each measured for itself is put together."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

from peftbench.models.tokenizer import load_tokenizer
from peftbench.records import Category, Phase
from peftbench.records.columns.devices import DevicesColumns
from peftbench.records.columns.group import ColumnGroup
from peftbench.records.columns.memory import MemoryColumns
from peftbench.records.columns.work import WorkColumns
from peftbench.records.devices import Place
from peftbench.runner import tuning
from peftbench.runner.state import Run
from peftbench.training.parallel import group

_OF_THE_STEP = (
    "peak_train_bytes",
    "peak_unexplained_bytes",
    "peak_offloaded_bytes",
    *(category.column for category in Category),
)
"""Columns of one step of one rank, which belong together."""


def join(run: Run, place: Place) -> None:
    """Meet the trial's other processes; from here on they run the same phases.

    Before, each predicts its own memory: that needs a process group of its own, which exchanges nothing.
    """
    trial = run.job.trial
    assert trial.devices is not None
    if run.job.predicts:
        with run.clock.phase(Phase.PLAN):
            tokenizer = load_tokenizer(Path(run.job.base_folder), trial.base.trust_remote_code, trial.head is None)
            tuning.predict(run, tuning.prepared(run, tokenizer).step_examples, place.rank)
    run.parallel = group.join(trial.devices, place.rank, place.meeting, trial.device)
    run.record(
        DevicesColumns(devices=trial.devices.name, rank_processes=run.parallel.count, rank_backend=run.parallel.backend)
    )


def columns(run: Run) -> Sequence[ColumnGroup]:
    """Return the columns of a trial's row that put the ranks together; all ranks must call it. None for one process.

    Memory is that of the rank with the highest peak of a training step, and every other peak the highest of all ranks.
    """
    if run.parallel.count == 1:
        return ()
    own = {f.name: getattr(run.row, f.name) for f in fields(MemoryColumns)}
    own["host_peak_resident_bytes"] = run.highest_resident()
    found = run.parallel.gathered(own)
    rates = run.parallel.gathered([run.row.device_flops_per_second, run.row.train_energy_joules])
    highest = max(found, key=lambda rank: rank["peak_train_bytes"] or 0)
    sizes: dict[str, Any] = {name: _highest(found, name) for name, value in own.items() if name.endswith("_bytes")}
    sizes |= {name: highest[name] for name in _OF_THE_STEP}
    joules = _sum(joules for _, joules in rates) if run.job.trial.device == "cuda" else None  # a CPU's counts all of it
    work = WorkColumns(device_flops_per_second=_sum(rate for rate, _ in rates), train_energy_joules=joules)
    return (
        MemoryColumns(ledger_json=highest["ledger_json"], **sizes),
        work,
        DevicesColumns(
            total_train_bytes=_sum(rank["peak_train_bytes"] for rank in found),
            total_evaluate_bytes=_sum(rank["peak_evaluate_bytes"] for rank in found),
            ranks_json=json.dumps({str(number): _known(rank) for number, rank in enumerate(found)}),
        ),
    )


def _known(rank: dict[str, Any]) -> dict[str, Any]:
    """Return a rank's values that are known, nested JSON as such."""
    plain = {name: value for name, value in rank.items() if value is not None}
    if "ledger_json" in plain:
        plain["ledger"] = json.loads(plain.pop("ledger_json"))
    return plain


def _highest(found: Sequence[dict[str, Any]], name: str) -> int | None:
    return max((rank[name] for rank in found if rank[name] is not None), default=None)


def _sum(values: Any) -> Any:
    """Return a sum; None if one of its values is not known."""
    every = list(values)
    return None if None in every else sum(every)
