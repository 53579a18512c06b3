"""A comparison of two nights as JSON: raw values with their units."""

from __future__ import annotations

import json
import math
from dataclasses import asdict
from typing import Any

from peftbench.results.busy_machine import BusyTrials
from peftbench.results.watch.comparison import Comparison
from peftbench.results.watch.findings import VERDICTS, Finding
from peftbench.results.watch.night import Night


def render(comparison: Comparison) -> str:
    """Return the record as JSON."""
    return json.dumps(record(comparison), indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def record(comparison: Comparison) -> dict[str, Any]:
    """Return the comparison as JSON values; what is not known is None.

    ``old`` and ``new`` of a finding are in its ``unit``. ``change``, ``low`` and ``high`` are a fraction of the old
    value if ``change_is`` is ``ratio``, else in the unit.
    """
    words = {True: "no regression", False: "regressed", None: "no verdict"}
    return {
        "verdict": words[comparison.verdict],
        "counts": {verdict: len(comparison.of(verdict)) for verdict in VERDICTS},
        "old": _night(comparison.old, comparison.busy[0]),
        "new": _night(comparison.new, comparison.busy[1]),
        "watch": asdict(comparison.watch),
        "findings": [_finding(found) for found in comparison.findings],
        "moved": [asdict(each) for each in comparison.moved],
        "only_old_cells": list(comparison.only_old),
        "only_new_cells": list(comparison.only_new),
    }


def _night(night: Night, busy: BusyTrials | None) -> dict[str, Any]:
    suites, bases = night.contents
    return {
        "folder": night.name,
        "suites": list(suites),
        "bases": list(bases),
        "trials_count": len(night.trials),
        "excluded_rows_count": night.excluded,
        "unfinished_trials_count": night.unfinished,
        "busy_trials_count": busy.count if busy else 0,
    }


def _finding(found: Finding) -> dict[str, Any]:
    quantity = found.quantity
    return {
        "verdict": found.verdict,
        "base": found.base,
        "cell": found.cell,
        "kind": quantity.kind,
        "quantity": quantity.name,
        "unit": quantity.unit,
        "better": quantity.better,
        "old": _known(found.old),
        "new": _known(found.new),
        "old_trials_count": found.trials[0],
        "new_trials_count": found.trials[1],
        "change_is": "ratio" if quantity.relative else "difference",
        "change": _known(found.change),
        "low": _known(found.low),
        "high": _known(found.high),
        "adjusted_p": _known(found.p),
        "rule": found.rule,
        "reason": found.reason,
    }


def _known(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None
