"""What peftbench knows, as text: the tables of methods, tasks, precisions and suites, read from their records."""

from __future__ import annotations

from collections.abc import Sequence

from peftbench import suite
from peftbench.execute import device
from peftbench.methods import METHODS, Method
from peftbench.methods.record import shown
from peftbench.precision import PRECISIONS, why_unsupported
from peftbench.tasks import TASKS


def text(what: str) -> str:
    """Return the list of ``methods``, ``tasks``, ``precisions`` or ``suites``, one line each under a heading."""
    if what == "methods":
        return aligned(_methods(device.resolve("auto")))
    return aligned({"tasks": _tasks, "precisions": _precisions, "suites": _suites}[what]())


def markdown(what: str) -> str:
    """Return the list of ``methods`` or ``precisions`` as a Markdown table that is the same on every machine."""
    head, *rows = {"methods": lambda: _methods(None), "precisions": _precisions}[what]()
    return "\n".join(f"| {' | '.join(row)} |" for row in [head, ["---"] * len(head), *rows])


def aligned(rows: Sequence[Sequence[str]]) -> str:
    """Return rows of cells as left-aligned columns."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = ("  ".join(f"{cell:{width}}" for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows)
    return "\n".join(lines) + "\n"


def _methods(here: str | None) -> list[list[str]]:
    """Return a row per method, with the precisions that exist on a device, or on any where none is given."""
    rows = [["method", "rank is", "default", f"precisions on {here}" if here else "precisions", "settings", "paper"]]
    for m in METHODS.values():
        exist = [p for p in PRECISIONS if (here is None and p in m.precisions) or _exists(m, p, here)]
        options = ", ".join(f"{name}={s.shown or shown(s.default)}" for name, s in m.options.items())
        rank = "–" if m.default_rank is None else str(m.default_rank)
        rows.append([m.name, m.knob or "–", rank, " ".join(exist), options or "–", m.paper or "–"])
    return rows


def _exists(method: Method, precision: str, here: str | None) -> bool:
    return here is not None and why_unsupported(method, precision, here) is None


def _tasks() -> list[list[str]]:
    return [["task", "kind", "what"], *([t.name, t.kind, t.doc] for t in TASKS.values())]


def _precisions() -> list[list[str]]:
    return [["precision", "devices", "what"], *([p.name, " ".join(p.devices), p.doc] for p in PRECISIONS.values())]


def _suites() -> list[list[str]]:
    import yaml

    described = ((name, yaml.safe_load(suite.find(name).read_text(encoding="utf-8"))) for name in suite.names())
    return [["suite", "what"], *([name, str(content.get("description", "–"))] for name, content in described)]
