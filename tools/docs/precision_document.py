"""The generated parts of ``docs/precisions.md``, from the record of ``precision_table`` and the tables in the code."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from peftbench.methods import METHODS, Method
from peftbench.methods.support import why_no_checkpointing, why_unsupported
from peftbench.models.precision import PRECISIONS
from tools.validation.precision_table import (
    COMPUTED,
    DEVICES,
    KINDS,
    RESULT,
    SHORT,
    STATES,
    STORED,
    WIDTH,
    names,
    precision_of,
)


def seen(device: str) -> Mapping[str, Any] | None:
    """Return what was observed on a device, or None if nothing was."""
    return json.loads(RESULT.read_text()).get(device)


def markdown(part: str) -> str:
    """Return a generated part of ``docs/precisions.md``."""
    make = {"stored": lambda d, f: looks(d, f, STORED), "computed": lambda d, f: looks(d, f, COMPUTED)}
    return by_device({**make, "bits": weights, "states": states}[part])


def by_device(make: Callable[[str, Mapping[str, Any]], str]) -> str:
    """Return a table per device, under a line that names the device and the versions."""
    parts = []
    for device in DEVICES:
        found = seen(device)
        if found is None:
            parts.append(f"On {device}: not observed (no GPU was available).")
            continue
        versions = ", ".join(f"{library} {version}" for library, version in found["versions"].items())
        parts += [f"On {found['name'] or device}, with {versions}:", make(device, found)]
    return "\n\n".join(parts)


def table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    """Return a Markdown table."""
    head = list(head)
    return "\n".join(f"| {' | '.join(row)} |" for row in [head, ["---"] * len(head), *rows])


def looks(device: str, found: Mapping[str, Any], columns: Mapping[str, str]) -> str:
    """Return a table of data types; a precision that the device does not have is a row that says so."""
    rows = []
    for name in names():
        record = PRECISIONS[precision_of(name)]
        if device not in record.devices:
            rows.append([name, f"exists only on {', '.join(record.devices)}", *["–"] * len(columns)])
            continue
        kinds = {kind: seen for kind, seen in found["precisions"][name].items() if kind in KINDS}
        rows += [[name, KINDS[kind], *(seen[key] for key in columns)] for kind, seen in kinds.items()]
    return table(["precision", "method", *columns.values()], rows)


def weights(device: str, found: Mapping[str, Any]) -> str:
    """Return the table of bits per weight."""
    columns = [("tiny", "base"), ("tiny", "linear"), ("wide", "linear"), ("wide", "linear_without_tables")]
    rows = [[name, *(f"{at['bits'][a][b]:g}" for a, b in columns)] for name, at in found["precisions"].items()]
    wide = f"linear layers of width {WIDTH}"
    return table(["precision", "tiny base", "its linear layers", wide, "those, without code tables"], rows)


def states(device: str, found: Mapping[str, Any]) -> str:
    """Return the table of optimizer states."""
    head = ["optimizer", *(f"{SHORT[PRECISIONS[p].trainable]} trainables" for p in STATES)]
    return table(head, ([name, *(at[p] for p in STATES)] for name, at in found["optimizers"].items()))


def cells() -> str:
    """Return the table of methods and precisions: ok, the only devices on which the cell exists, or –."""
    rows = [
        [name, *(_cell(method, precision) for precision in PRECISIONS), _checkpointing(method)]
        for name, method in METHODS.items()
    ]
    return table(["method", *PRECISIONS, "gradient checkpointing"], rows)


def _cell(method: Method, precision: str) -> str:
    devices = [device for device in DEVICES if why_unsupported(method, precision, device) is None]
    return "ok" if len(devices) == len(DEVICES) else ", ".join(f"only {device}" for device in devices) or "–"


def _checkpointing(method: Method) -> str:
    return "–" if not method.trains or why_no_checkpointing(method) else "ok"


def reasons() -> str:
    """Return the reasons of unsupported cells, one line for those that differ in the precision only."""
    found = defaultdict(list)
    for method in METHODS.values():
        for precision in PRECISIONS:
            for device in DEVICES:
                why = why_unsupported(method, precision, device)
                if why:
                    head, _, tail = why.partition(precision)
                    names = found[head, tail]
                    names += [] if precision in names else [precision]
    reasons = [f"{head}{', '.join(names)}{tail}" for (head, tail), names in found.items()]
    reasons += [why for method in METHODS.values() if (why := why_no_checkpointing(method))]
    return "\n".join(f"- {line}" for line in reasons)
