"""The tables of ``docs/several_devices.md``: which methods and precisions each strategy runs, and why not others."""

from __future__ import annotations

from peftbench.methods import METHODS, Method, strategies
from peftbench.records import STRATEGIES
from tools.docs.suite_document import NONE, table

_YES, _NO = "yes", NONE


def by_method() -> str:
    """Return a row for each method: the precisions in which each strategy that exists runs it."""
    found = [name for name in STRATEGIES if not strategies.LIMITS[name].never]
    rows = [
        (f"`{method.name}`", *(_precisions(method, name) for name in found))
        for method in METHODS.own.values()
        if method.trains
    ]
    return table(rows, ("method", *(f"`{name}`" for name in found)))


def _precisions(method: Method, strategy: str) -> str:
    runs = [p for p in method.precisions if not strategies.supported(strategy, method, p)]
    return "all of its precisions" if len(runs) == len(method.precisions) else ", ".join(runs) or NONE


def overview() -> str:
    """Return a row for each strategy: what each device has a part of."""
    rows = [
        (
            f"`{s.name}`",
            s.title,
            s.divides,
            _YES if s.offloads else _NO,
            _NO if strategies.LIMITS[s.name].never else ", ".join(s.devices),
        )
        for s in STRATEGIES.values()
    ]
    return table(rows, ("strategy", "name", "divided among the devices", "offload", "runs on"))


def reasons() -> str:
    """Return each reason why a strategy does not run something, with what it does not run."""
    rows = []
    for name, limits in strategies.LIMITS.items():
        held = {
            "every cell": limits.never,
            **limits.methods,
            "other methods": limits.others,
            **limits.precisions,
            **limits.optimizers,
            "fp16": limits.gradient_scaling,
        }
        for why in dict.fromkeys(filter(None, held.values())):
            rows.append((f"`{name}`", ", ".join(what for what, own in held.items() if own == why), why))
    return table(rows, ("strategy", "does not run", "because"))
