"""The generated parts of ``docs/precisions.md``, from what ``precision_table`` saw and from the tables themselves."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from peftbench.methods import METHODS, Method
from peftbench.methods.support import why_no_checkpointing, why_unsupported
from peftbench.models.precision import PRECISIONS
from tools.validation.precision_table import COMPUTED, DEVICES, KINDS, RESULT, SHORT, STATES, STORED, WIDTH


def seen(device: str) -> Mapping[str, Any] | None:
    """Return what was seen on a device, or None where nobody looked."""
    return json.loads(RESULT.read_text()).get(device)


def markdown(part: str) -> str:
    """Return a generated part of ``docs/precisions.md``."""
    make = {"stored": lambda d, f: looks(d, f, STORED), "computed": lambda d, f: looks(d, f, COMPUTED)}
    return by_device({**make, "bits": weights, "states": states}[part])


def by_device(make: Callable[[str, Mapping[str, Any]], str]) -> str:
    """Return a table for each device under a line that names it and the versions."""
    parts = []
    for device in DEVICES:
        found = seen(device)
        if found is None:
            parts.append(f"On {device}: not looked at (no GPU was at hand).")
            continue
        versions = ", ".join(f"{library} {version}" for library, version in found["versions"].items())
        parts += [f"On {found['name'] or device}, with {versions}:", make(device, found)]
    return "\n\n".join(parts)


def table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    """Return a Markdown table."""
    head = list(head)
    return "\n".join(f"| {' | '.join(row)} |" for row in [head, ["---"] * len(head), *rows])


def looks(device: str, found: Mapping[str, Any], columns: Mapping[str, str]) -> str:
    """Return a table of dtypes; a precision that the device has not is a row that says so."""
    rows = []
    for name, record in PRECISIONS.items():
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
    """Return the table of what exists: ok, the devices on which it does, or nowhere."""
    rows = [
        [name, *(_cell(method, precision) for precision in PRECISIONS), _checkpointing(method)]
        for name, method in METHODS.items()
    ]
    return table(["method", *PRECISIONS, "gradient checkpointing"], rows)


def _cell(method: Method, precision: str) -> str:
    there = [device for device in DEVICES if why_unsupported(method, precision, device) is None]
    return "ok" if len(there) == len(DEVICES) else ", ".join(f"only {device}" for device in there) or "–"


def _checkpointing(method: Method) -> str:
    return "–" if not method.trains or why_no_checkpointing(method) else "ok"


def reasons() -> str:
    """Return why what does not exist does not, as trials are told, those that differ in the precision alone as one."""
    found = defaultdict(list)
    for method in METHODS.values():
        for precision in PRECISIONS:
            for device in DEVICES:
                why = why_unsupported(method, precision, device)
                if why:
                    head, _, tail = why.partition(precision)
                    names = found[head, tail]
                    names += [] if precision in names else [precision]
    told = [f"{head}{', '.join(names)}{tail}" for (head, tail), names in found.items()]
    told += [why for method in METHODS.values() if (why := why_no_checkpointing(method))]
    return "\n".join(f"- {line}" for line in told)
