"""The tables of ``docs/optimizers.md``, from the records of the optimizers."""

from __future__ import annotations

from peftbench.methods import strategies
from peftbench.records import OPTIMIZERS, STRATEGIES, Optimizer
from tools.docs.suite_document import NONE, table


def overview() -> str:
    """Return a row for each optimizer: what it is, where it is from, and who made it."""
    rows = [
        (f"`{o.name}`", o.title, o.source, o.made_by, f"`{o.extra}`" if o.extra else NONE) for o in OPTIMIZERS.values()
    ]
    return table(rows, ("optimizer", "what it is", "source", "made by", "extra"))


def state() -> str:
    """Return a row for each optimizer: its state in words, and for each value of a large matrix."""
    rows = [
        (f"`{o.name}`", o.state, f"{o.bytes_per_value(4):.4g}", f"{o.bytes_per_value(2):.4g}", _shared(o))
        for o in OPTIMIZERS.values()
    ]
    head = ("optimizer", "state of a tensor, bytes", "bytes a value, fp32", "bytes a value, bf16", "once, bytes")
    return table(rows, head)


def _shared(optimizer: Optimizer) -> str:
    return f"{optimizer.shared_bytes:,}" if optimizer.shared_bytes else NONE


def limits() -> str:
    """Return a row for each optimizer: what it trains, its rates, which strategies divide it, how it departs."""
    rows = [
        (
            f"`{o.name}`",
            f"only whole models: {o.only_full}" if o.only_full else "every method",
            o.rate,
            ", ".join(f"`{name}`" for name in STRATEGIES if _divides(name, o)),
            o.departs or NONE,
        )
        for o in OPTIMIZERS.values()
    ]
    return table(rows, ("optimizer", "trains", "learning rate", "on several devices", "departs"))


def _divides(strategy: str, optimizer: Optimizer) -> bool:
    found = strategies.LIMITS[strategy]
    return not found.never and optimizer.name not in found.optimizers
