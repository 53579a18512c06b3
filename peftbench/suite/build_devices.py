"""``devices:`` of a suite: on how many devices each trial runs, an axis of the grid."""

from __future__ import annotations

from typing import Any

from peftbench.records import STRATEGIES, Devices
from peftbench.records.devices import ONE
from peftbench.suite.builder import Builder
from peftbench.suite.schema import DevicesBlock
from peftbench.suite.wording import describe_value
from peftbench.suite.yaml_lines import KeyPath


def devices(b: Builder) -> tuple[Devices | None, ...]:
    """Return the values of ``devices:``, None for one device; a problem is recorded for each wrong value."""
    given, path = b.document.get(("devices",)), ("devices",)
    if not isinstance(given, list):
        return (_one(b, path, given),)
    if not given:
        b.problem(path, "an empty list has no value; give values, or remove the key")
    found = tuple(_one(b, (*path, place), item) for place, item in enumerate(given))
    if len(set(found)) < len(found) and not b.problems:
        b.problem(path, "the same devices are given twice; allowed: different ones")
    return found or (None,)


def _one(b: Builder, path: KeyPath, given: Any) -> Devices | None:
    if given is None or given == ONE:
        return None
    if not isinstance(given, dict):
        b.problem(path, f"given {describe_value(given)}; allowed: {ONE}, or a mapping of strategy, count and offload")
        return None
    block = b.check(DevicesBlock, path, given)
    if block is None:
        return None
    if block.offload != "none" and not STRATEGIES[block.strategy].offloads:
        able = ", ".join(s.name for s in STRATEGIES.values() if s.offloads)
        b.problem(
            (*path, "offload"), f"given {block.offload}; allowed: none, since only these strategies can offload: {able}"
        )
    return Devices(block.strategy, block.count, block.offload)
