"""The page: one self-contained HTML file that opens offline and fetches nothing."""

from __future__ import annotations

import contextlib
import os
import re
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from peftbench.errors import UserError
from peftbench.records import Status
from peftbench.records.units import MISSING
from peftbench.report.collect import Results
from peftbench.report.figures import panels
from peftbench.report.figures.svg import css_colors
from peftbench.report.notes import definitions, learning_rate_search, memory, overview, rank_tables, speed
from peftbench.report.tables import (
    comparison,
    inference,
    rank_by_precision,
    rates,
    retention,
    samples,
    settings,
    task_metrics,
)
from peftbench.report.tables import learning_rate_search as search
from peftbench.results.learning_rate_search import FOLDER
from peftbench.results.store.files import GRID
from peftbench.results.store.schema import KINDS
from peftbench.version import __version__


def refuse_inside(results_folder: Path, output: Path) -> None:
    """Refuse to write among the results folder's own files.

    Raises:
        UserError: If the output is there.
    """
    folder, target = results_folder.resolve(), output.resolve()
    own = [folder / name for name in (*KINDS, GRID, FOLDER)]
    if any(target == place or place in target.parents for place in own):
        raise UserError(f"cannot write the report {output}: only results are stored there; choose another path")


def save(text: str, output: Path) -> None:
    """Write a text as a file that appears whole or not at all; a device, like ``/dev/null``, is written to.

    Raises:
        UserError: If it cannot be written.
    """
    part = output.with_name(f".{output.name}.{os.getpid()}.part")
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        if output.exists() and not output.is_file() and not output.is_dir():
            output.write_text(text, encoding="utf-8")  # replacing it would put a file in the place of the device
            return
        part.write_text(text, encoding="utf-8")
        part.replace(output)
    except OSError as error:
        with contextlib.suppress(OSError):
            part.unlink(missing_ok=True)
        raise UserError(f"cannot write the report {output}: {error.strerror or error}") from error


def html(results: Results) -> str:
    """Return the page as text: the same text for the same results."""
    environment = Environment(
        loader=PackageLoader("peftbench.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.globals["breakable"] = breakable
    context = _context(results)
    page = environment.get_template("page.html.j2").render(**context, colors=[])
    used = {f"#{found}" for found in re.findall(r"var\(--c([0-9a-f]{6})\)", page)}
    return environment.get_template("page.html.j2").render(**context, colors=css_colors(used))


def breakable(text: str) -> Markup:
    """Escape a dotted or underscored name and let it break over lines after each part."""
    return Markup("<wbr>").join(re.findall(r"[^._]*[._]?", text))


def _context(results: Results) -> dict[str, Any]:
    losses, window = panels.loss_panels(results)
    suites = results.distinct("suite")
    return {
        "version": __version__,
        "suite": ", ".join(map(str, suites)),
        "base": ", ".join(map(str, results.distinct("base"))),
        "overview": overview.overview(results),
        "command": overview.command(results),
        "table": comparison.table(results),
        "ranks_heading": rank_by_precision.heading(results),
        "rank_meaning": rank_tables.MEANING,
        "rank_tables": rank_by_precision.rank_tables(results),
        "marker_keys": panels.marker_keys(results),
        "by_parameters": panels.score_panels(results, "trainable_parameters"),
        "by_memory": panels.score_panels(results, "peak_train_bytes"),
        "memory": panels.memory_bars(results),
        "memory_sentences": memory.sentences(results),
        "thinned": panels.is_thinned(results),
        "losses": losses,
        "window": window,
        "time": panels.time_bars(results),
        "inference": inference.table(results),
        "retention": retention.table(results),
        "search": search.table(results),
        "search_panels": search.panels(results),
        "expected_best": learning_rate_search.EXPECTED_BEST,
        "rates": rates.rates(results),
        "rates_meaning": speed.RATES,
        "task_metrics": task_metrics.task_metrics(results),
        "samples": samples.task_samples(results),
        "troubles": _troubles(results),
        "audit": settings.audit(results),
        "environment": settings.environment(results),
        "definitions": definitions.definitions(results),
    }


def _troubles(results: Results) -> list[dict[str, str]]:
    """Return the failures of every cell: status, phase, seeds and message."""
    found = []
    for cell in results.cells:
        bad = cell.trials[cell.trials["status"] != Status.OK.value]
        columns = ["status", "phase", "message"]
        texts = bad[columns].astype(object).fillna(MISSING)
        for (status, phase, message), rows in texts.groupby(columns, sort=True):
            seeds = [str(seed) for seed in bad.loc[rows.index, "seed"].dropna()]
            found.append(
                {
                    "cell": cell.name,
                    "status": str(status),
                    "phase": str(phase),
                    "seeds": ", ".join(seeds) or MISSING,
                    "message": str(message),
                }
            )
    return found
