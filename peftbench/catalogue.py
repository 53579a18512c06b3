"""What peftbench knows, as text: the tables of methods, tasks, precisions and suites, read from their records."""

from __future__ import annotations

from collections.abc import Sequence

from peftbench import suite
from peftbench.execute import device
from peftbench.methods import METHODS, shown
from peftbench.precision import PRECISIONS, why_unsupported
from peftbench.tasks import TASKS


def text(what: str) -> str:
    """Return the list of ``methods``, ``tasks``, ``precisions`` or ``suites``, one line each under a heading."""
    rows = {"methods": _methods, "tasks": _tasks, "precisions": _precisions, "suites": _suites}[what]()
    return aligned(rows)


def aligned(rows: Sequence[Sequence[str]]) -> str:
    """Return rows of cells as left-aligned columns."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = ("  ".join(f"{cell:{width}}" for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows)
    return "\n".join(lines) + "\n"


def _methods() -> list[list[str]]:
    here = device.resolve("auto")
    rows = [["method", "rank is", "default", f"precisions on {here}", "settings", "paper"]]
    for m in METHODS.values():
        exist = [p for p in PRECISIONS if why_unsupported(m, p, here) is None]
        options = ", ".join(f"{name}={s.shown or shown(s.default)}" for name, s in m.options.items())
        rank = "–" if m.default_rank is None else str(m.default_rank)
        rows.append([m.name, m.knob or "–", rank, " ".join(exist), options or "–", m.paper or "–"])
    return rows


def _tasks() -> list[list[str]]:
    return [["task", "kind", "what"], *([t.name, t.kind, t.doc] for t in TASKS.values())]


def _precisions() -> list[list[str]]:
    return [["precision", "devices", "what"], *([p.name, " ".join(p.devices), p.doc] for p in PRECISIONS.values())]


def _suites() -> list[list[str]]:
    import yaml

    described = ((name, yaml.safe_load(suite.find(name).read_text(encoding="utf-8"))) for name in suite.names())
    return [["suite", "what"], *([name, str(content.get("description", "–"))] for name, content in described)]
