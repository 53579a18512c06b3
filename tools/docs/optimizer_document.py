"""The tables of ``docs/optimizers.md``, from the records of the optimizers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from peftbench.methods import strategies
from peftbench.records import OPTIMIZERS, STRATEGIES, Optimizer
from tools.docs.suite_document import NONE, table
from tools.validation import full_in_16gb


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
    """Return a row for each optimizer: what it trains, its rates, which strategies divide it, its differences."""
    rows = [
        (
            f"`{o.name}`",
            f"only whole models: {o.only_full}" if o.only_full else "every method",
            o.rate,
            ", ".join(f"`{name}`" for name in STRATEGIES if strategies.divides(name, o)) or "one device alone",
            o.departs or NONE,
        )
        for o in OPTIMIZERS.values()
    ]
    return table(rows, ("optimizer", "trains", "learning rate", "on several devices", "differs from its source"))


def in_16_gb() -> str:
    """Return a row for each optimizer: the predicted peak of full fine-tuning for each shape and precision."""
    found = {(row["shape"], row["precision"], row["optimizer"]): row for row in full_in_16gb.stored()}
    columns = [(shape, precision) for shape in full_in_16gb.SHAPES for precision in full_in_16gb.PRECISIONS]
    rows = [
        (f"`{name}`", *(_peak(found[*column, name]) for column in columns), _parts(found[*columns[0], name]))
        for name in dict.fromkeys(name for *_, name in found)
    ]
    first = " ".join(columns[0])
    head = (
        "optimizer, turns",
        *(" ".join(column) for column in columns),
        f"{first}: weights + gradients + state + rest",
    )
    return table(rows, head)


def _peak(row: Mapping[str, Any]) -> str:
    shown = f"{row['peak'] / 1e9:.2f}"
    if row["peak"] > full_in_16gb.LIMIT:
        return shown
    return f"**{shown}**" if _has_room(row) else f"{shown} (no room)"


def _has_room(row: Mapping[str, Any]) -> bool:
    """Whether a peak leaves a GB of the limit, for the context of CUDA."""
    return row["peak"] <= full_in_16gb.LIMIT - full_in_16gb.CONTEXT


def _parts(row: Mapping[str, Any]) -> str:
    weights, gradients, state = (row["parts"][name] for name in full_in_16gb.PARTS)
    rest = row["peak"] - weights - gradients - state
    return " + ".join(f"{part / 1e9:.2f}" for part in (weights, gradients, state, rest))


def fits() -> str:
    """Return in a sentence for each shape which optimizers bring it under the limit, by precision."""
    found = full_in_16gb.stored()
    lines = []
    for shape in full_in_16gb.SHAPES:
        own = [row for row in found if row["shape"] == shape]
        each = []
        for precision in full_in_16gb.PRECISIONS:
            fit = [
                f"`{r['optimizer']}`" + ("" if _has_room(r) else " (no room for a context)")
                for r in own
                if r["precision"] == precision and r["peak"] <= full_in_16gb.LIMIT
            ]
            count = len(full_in_16gb.NAMES) + len(full_in_16gb.TURNS) + len(full_in_16gb.OFFLOADS)
            each.append(f"in `{precision}` with {_which(fit, count)}")
        lines.append(f"- **{shape}** ({own[0]['parameters'] / 1e9:.2f} billion parameters): {'; '.join(each)}.")
    return "\n".join(lines)


def _which(fit: list[str], count: int) -> str:
    return "all of them" if len(fit) == count else ", ".join(fit) or "none"
