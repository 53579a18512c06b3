"""Write the figures of results folders as files."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path

from peftbench.errors import UserError
from peftbench.report.collect import Results
from peftbench.report.figures import FIGURES, Figure, canvas
from peftbench.report.figures.canvas import Plan
from peftbench.report.guarded import guarded

FORMATS = ("pdf", "png")
_DPI = 300
_LINE = 0.125
"""Inches of a line of notes."""


@dataclass(frozen=True)
class Made:
    """What became of one figure."""

    figure: Figure
    files: tuple[Path, ...]
    """Empty if it was not drawn."""
    reason: str | None = None
    """Why it was not drawn."""


def write(results: Results, folder: Path) -> Iterator[Made]:
    """Write every figure that the results have data for, in each width and format, and yield what became of each.

    Raises:
        UserError: if a file cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for figure in FIGURES:
            planned: Plan | str = guarded(
                f"the figure of {figure.title}",
                lambda f=figure: import_module(f"peftbench.report.figures.{f.name}").plan(results),  # type: ignore[misc]
                lambda note: note,
            )
            if isinstance(planned, str):
                yield Made(figure, (), planned + _stale(folder, figure.name))
            else:
                yield Made(figure, tuple(_files(planned, folder, figure.name)))
    except OSError as error:
        raise UserError(f"cannot write figures to {folder}: {error.strerror or error}") from error


def _stale(folder: Path, name: str) -> str:
    """Return a warning of files of a figure that is not drawn: they are of other results; empty if there are none."""
    every = (_path(folder, name, width, suffix) for width in canvas.WIDTHS for suffix in FORMATS)
    old = next((path for path in every if path.exists()), None)
    return f"; {old.name} is of an earlier call" if old else ""


def _path(folder: Path, name: str, width: float, suffix: str) -> Path:
    return folder / f"{name}_{width}in.{suffix}"


def _files(plan: Plan, folder: Path, name: str) -> Iterator[Path]:
    import matplotlib as mpl
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure as Drawing

    for width in canvas.WIDTHS:
        lines = canvas.wrapped(plan.notes, width)
        below = _LINE * len(lines)
        height = plan.height(width) + below
        with mpl.rc_context(canvas.SETTINGS):
            drawing = Drawing(figsize=(width, height))
            FigureCanvasAgg(drawing)
            drawing.set_layout_engine("constrained", rect=(0, below / height, 1, 1 - below / height))
            plan.draw(drawing, width)
            drawing.text(
                0.01, 0.01, "\n".join(lines), fontsize=canvas.FONT - 1, va="bottom", ha="left", color="#333333"
            ).set_in_layout(False)
            drawing.draw_without_rendering()
            drawing.set_layout_engine("none")  # it is laid out; each format would do it again
            for suffix in FORMATS:
                path = _path(folder, name, width, suffix)
                stamp = {"CreationDate": None} if suffix == "pdf" else {"Software": None}  # the same file again
                drawing.savefig(path, dpi=_DPI, metadata=stamp)
                yield path
