"""The tables of ``docs/several_devices.md``: which methods and precisions each strategy runs, and why not others."""

from __future__ import annotations

from peftbench.methods import METHODS, Method, strategies
from peftbench.models.precision import PRECISIONS
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
            "`logits: loss_bearing` or `chunked`": limits.logits,
            "`gradient_checkpointing: selective`": limits.selective,
            "fp16": limits.gradient_scaling,
        }
        for why in dict.fromkeys(filter(None, held.values())):
            rows.append((f"`{name}`", ", ".join(what for what, own in held.items() if own == why), why))
    return table(rows, ("strategy", "does not run", "because"))


def loading() -> str:
    """Return who reads the base model under each strategy, and where it is whole."""
    kept = {name: strategies.why_everywhere(name) for name in PRECISIONS if "fsdp2" in _run_by(name)}
    rows = [
        ("`fsdp2`", ", ".join(n for n, own in kept.items() if own == why), *_readers(why)) for why in {*kept.values()}
    ]
    others = [f"`{name}`" for name in STRATEGIES if name != "fsdp2" and not strategies.LIMITS[name].never]
    rows.append((", ".join(others), "all of theirs", "every rank", "host and device", NONE))
    return table(sorted(rows), ("strategy", "precisions", "reads the base model", "has it whole", "because"))


def _run_by(precision: str) -> list[str]:
    method = METHODS["lora"]
    return [name for name in STRATEGIES if not strategies.supported(name, method, precision)]


def _readers(why: str) -> tuple[str, str, str]:
    if why:
        return "every rank", "each rank's host", why
    return "rank 0", "the host of rank 0", "the others build it without weights, and get their shards"
