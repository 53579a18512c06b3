"""Renew the generated parts of all documents: ``python -m tools.docs.reference [--run NAME ...]``.

With ``--run`` the named suites are run again first, into ``results/reference``. From the results there and the code it
then makes the generated parts of the documents, the page of the grid and the picture of the quickstart's page. Tests
call ``renewed()`` and ``page_digest()`` to see whether they are up to date.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

from peftbench import report
from peftbench.commands import listing
from peftbench.report.collect import MEAN, collect
from peftbench.results.seeds import Spread
from peftbench.results.store.document import document
from tools.docs import (
    answer_document,
    arithmetic,
    classification_document,
    cli_document,
    crossed_document,
    deployed_document,
    devices_document,
    devices_run,
    engines_document,
    findings,
    gpu_document,
    history_document,
    ladder_document,
    nightly_document,
    optimizer_document,
    peer_document,
    precision_document,
    published_document,
    python_document,
    suite_document,
    trust_document,
    tuning,
    zoo,
)
from tools.validation import matrix, memory_caps, planner_accuracy, precision_table, published_suites

ROOT = Path(__file__).resolve().parents[2]
RESULTS = ROOT / "results" / "reference"
PAGES = ROOT / "reports" / "reference"
PICTURE = PAGES / "quickstart.png"
DIGEST = PICTURE.with_suffix(".json")

RUNS = {
    "quickstart": ("suites/quickstart.yaml",),
    "quickstart_again": ("suites/quickstart.yaml", "--set", "evaluate.test_seed=2"),
    "nano_grid": ("suites/nano_grid.yaml",),
    "nano_tuning": ("suites/nano_tuning.yaml",),
    "peft_zoo": ("suites/peft_zoo.yaml",),
    "parallel": ("suites/parallel.yaml",),
    "deployed": ("suites/deployed.yaml", "--set", "threads=1"),  # its times mean nothing, and it is run beside others
    "memory_ladder": ("suites/memory_ladder.yaml", "--set", "threads=1"),  # likewise
}
"""Name of a committed results folder to the arguments of ``peftbench run``."""
ALL = ("trials", "steps", "examples")
KEPT = {
    "quickstart": ALL,
    "quickstart_again": ALL,
    "nano_grid": ("trials", "steps"),
    "nano_tuning": ("trials",),
    "peft_zoo": ("trials",),
    "deployed": ("trials",),
    "parallel": ("trials", "steps"),
    "memory_ladder": ("trials",),
    **{f"glue_{name}": ("trials",) for name in (*classification_document.TASKS, "sst2_longer", "roberta")},
}
"""Which data sets of a run are committed; the larger ones leave out what no document reads. What is not in
``RUNS`` needs data and a base model that are not in the repository; the document names the command."""


def _table(name: str, place: int = 0) -> str:
    """Return one of the tables that the terminal prints: the comparison, retention, inference cost."""
    return _fenced(report.table(RESULTS / name, "text").rstrip().split(BLANK)[place])


def _fenced(text: str) -> str:
    return f"```\n{text.rstrip()}\n```"


def _grid(column: str, show: Callable[[Spread], str]) -> str:
    """Return one quantity of the grid as a table: a row per method and rank, a column per precision."""
    cells = {(c.method, c.rank, c.precision): c for c in collect(RESULTS / "nano_grid").cells}
    lines = ["| method | rank | fp32 | bf16 | int8 | nf4 |", "|---|---:|---:|---:|---:|---:|"]
    for method, rank in dict.fromkeys((c.method, c.rank) for c in cells.values()):
        row = [cells[method, rank, precision] for precision in ("fp32", "bf16", "int8", "nf4")]
        shown = [show(c.summary.spreads[column]) if column in c.summary.spreads else c.trouble or "–" for c in row]
        lines.append(f"| {' | '.join([method, '–' if rank is None else str(rank), *shown])} |")
    return "\n".join(lines)


def _interval(spread: Spread) -> str:
    half = "" if spread.half_width is None else f" ± {100 * spread.half_width:.1f}"
    return f"{100 * spread.mean:.1f}{half}"


BLANK = "\n\n"

PARTS: dict[Path, dict[str, Callable[[], str]]] = {
    ROOT / "README.md": {
        "quickstart table": lambda: _fenced(report.table(RESULTS / "quickstart", "brief")),
    },
    ROOT / "docs" / "suite.md": {
        "suite keys": partial(suite_document.block, "top level"),
        **{
            f"{name} keys": partial(suite_document.block, name) for name in suite_document.BLOCKS if name != "top level"
        },
        "train keys": suite_document.train,
        "method keys": suite_document.method_blocks,
        "shapes": suite_document.shapes,
    },
    ROOT / "docs" / "cli.md": {
        "commands": cli_document.overview,
        **{name: partial(cli_document.command, name) for name in cli_document.commands()},
        "exit codes": cli_document.exit_codes,
    },
    ROOT / "docs" / "python.md": {name: partial(python_document.function, name) for name in python_document.FUNCTIONS},
    ROOT / "docs" / "methods.md": {
        "methods": lambda: listing.markdown("methods"),
        "settings": lambda: listing.markdown("settings"),
        "precisions": lambda: listing.markdown("precisions"),
    },
    ROOT / "docs" / "several_devices.md": {
        "strategies": devices_document.overview,
        "strategies by method": devices_document.by_method,
        "why not": devices_document.reasons,
        "who reads": devices_document.loading,
        "measured": devices_run.measured,
    },
    ROOT / "docs" / "optimizers.md": {
        "optimizers": optimizer_document.overview,
        "optimizer state": optimizer_document.state,
        "optimizer limits": optimizer_document.limits,
        "16 gb": optimizer_document.in_16_gb,
        "16 gb fits": optimizer_document.fits,
    },
    ROOT / "docs" / "memory_arithmetic.md": {
        "bytes": arithmetic.bytes_per_parameter,
        "cases": arithmetic.cases,
    },
    ROOT / "docs" / "precisions.md": {
        **{name: partial(precision_document.markdown, name) for name in ("stored", "computed", "bits", "states")},
        "cells": precision_document.cells,
        "reasons": precision_document.reasons,
    },
    ROOT / "docs" / "architectures.md": {
        "counts": matrix.counts,
        "families": matrix.table,
        "reasons": matrix.reasons,
        "four bits": matrix.four_bit,
        "unmade": matrix.unmade,
        "not run": matrix.not_run,
        "image-text": matrix.image_text,
        "bits": matrix.bits,
    },
    PAGES / "nano.md": {
        "quickstart table": lambda: _table("quickstart"),
        "retention": lambda: _table("quickstart", 1),
        "inference cost": lambda: _table("quickstart", 2),
        "second table": lambda: _table("quickstart_again"),
        "other base": lambda: _table("quickstart_avx2"),
        "rates": tuning.markdown,
        "edges": tuning.edges,
        "scores": lambda: _grid(f"score_{MEAN}", _interval),
        "findings": findings.markdown,
        "peaks": lambda: _grid("peak_train_bytes", lambda spread: f"{spread.mean / 2**20:.1f}"),
    },
    ROOT / "docs" / "statistics.md": {
        "bounds": crossed_document.bounds,
        "coverage": crossed_document.coverage,
        "lesson": crossed_document.lesson,
        "power": crossed_document.power,
        "rules": crossed_document.rules,
        "false answers": answer_document.bounds,
        "answers": answer_document.designs,
    },
    ROOT / "docs" / "nightly.md": {
        "planted changes": nightly_document.planted_changes,
        "clocks": nightly_document.clock_table,
    },
    ROOT / "docs" / "history.md": {
        "history false alarms": history_document.false_alarms,
        "history found": history_document.planted,
        "peer history": history_document.peer,
    },
    ROOT / "docs" / "trust.md": {"fuzz counts": trust_document.counts},
    ROOT / "docs" / "published_suites.md": {"suites": published_suites.markdown},
    ROOT / "docs" / "gpu.md": {name: partial(gpu_document.part, make) for name, make in gpu_document.PARTS.items()},
    ROOT / "docs" / "engines.md": {
        "engine forms": engines_document.forms,
        "engine run": engines_document.run,
        "engine findings": engines_document.findings,
        "engine table": engines_document.table,
        "engine refused": engines_document.refused,
    },
    ROOT / "docs" / "deployed.md": {
        "forms": deployed_document.forms,
        "deployed run": deployed_document.run,
        "deployed findings": deployed_document.findings,
        "deployed table": deployed_document.table,
    },
    ROOT / "docs" / "classification.md": {
        "heads run": classification_document.run,
        "heads scores": classification_document.scores,
        "heads findings": classification_document.findings,
        "heads longer": classification_document.longer,
        "heads costs": classification_document.costs,
        "heads roberta": classification_document.roberta,
    },
    ROOT / "docs" / "peer.md": {
        "peer memory": peer_document.memory,
        "peer best": peer_document.best,
        "peer time": peer_document.time,
        "peer gaps": peer_document.gaps,
        "peer noise": peer_document.noise,
    },
    ROOT / "docs" / "planner.md": {
        "beside": arithmetic.beside,
        "accuracy": planner_accuracy.summary,
        "table": planner_accuracy.table,
        "caps": memory_caps.summary,
        "caps by shape": memory_caps.by_shape,
    },
    ROOT / "docs" / "ladder.md": {
        "ladder run": ladder_document.run,
        "ladder exact": ladder_document.exact,
        "ladder tables": ladder_document.tables,
        "one after another": partial(ladder_document.one_after_another, RESULTS / "memory_ladder"),
    },
    PAGES / "nano_ranks.md": {
        "ranks": lambda: report.table(RESULTS / "nano_grid", "ranks").rstrip(),
    },
    ROOT / "docs" / "peft_zoo.md": {
        "tuner counts": zoo.counts,
        "zoo in fp32": zoo.in_fp32,
        "zoo quantized": zoo.quantized,
        "variants in fp32": zoo.variants_in_fp32,
        "variants quantized": zoo.variants_quantized,
    },
    ROOT / "docs" / "published.md": {
        "published layouts": published_document.layouts,
        "published tables": published_document.tables,
        "published left out": published_document.left_out,
    },
}
"""Document to its generated parts, by the name of their marker."""


def renewed(path: Path) -> str:
    """Return a document with its generated parts renewed."""
    text = path.read_text()
    for name, make in PARTS[path].items():
        pattern = re.compile(rf"(<!-- {name}[^\n]*-->\n).*?(<!-- /{name} -->)", re.DOTALL)
        content = make()
        text, count = pattern.subn(lambda found, content=content: f"{found[1]}{content}\n{found[2]}", text)
        if count != 1:
            raise ValueError(f"{path.name}: {count} places are marked {name!r}, expected 1")
    return text


def _render(name: str, output: Path) -> Path:
    """Write the page of committed results, with commands as they work in the repository's root."""
    with contextlib.chdir(ROOT):
        return report.render(RESULTS / name, output)


def page_digest() -> dict[str, str]:
    """Return the digest of the page as it is rendered now."""
    with tempfile.TemporaryDirectory() as folder:
        page = _render("quickstart", Path(folder) / "page.html")
        digest = hashlib.sha256(page.read_bytes()).hexdigest()
    return {"page_sha256": digest}


def photograph() -> None:
    """Take a screenshot of the first screen of the page."""
    from playwright.sync_api import sync_playwright

    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        page_file = _render("quickstart", Path(folder) / "page.html")
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 1280, "height": 1400}, color_scheme="light")
        page.goto(page_file.as_uri())
        page.wait_for_selector("html[data-ready] #plot canvas")
        PICTURE.parent.mkdir(parents=True, exist_ok=True)
        page.screenshot(path=PICTURE)
        browser.close()
    DIGEST.write_text(json.dumps(page_digest(), indent=2) + "\n")


def run(name: str) -> None:
    """Run a suite again, and keep its stored rows only."""
    with tempfile.TemporaryDirectory(dir=ROOT / "results") as folder:
        made = Path(folder) / name
        command = [sys.executable, "-m", "peftbench", "run", *RUNS[name], "--results", str(made)]
        subprocess.run(command, cwd=ROOT, check=True)
        keep(made, name)


def keep(made: Path, name: str) -> None:
    """Replace a committed results folder by a new one."""
    shutil.rmtree(RESULTS / name, ignore_errors=True)
    for kind in KEPT[name]:
        shutil.copytree(made / kind, RESULTS / name / kind)
    shutil.copy(made / "grid.json", RESULTS / name)


def main() -> None:
    """Renew everything."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    records = (*RUNS, "precisions")
    parser.add_argument("--run", nargs="+", default=[], choices=(*records, "all"), help="run these again first")
    given = parser.parse_args().run
    for name in records if "all" in given else given:
        precision_table.main() if name == "precisions" else run(name)
    for path in PARTS:
        path.write_text(renewed(path))
    columns = ROOT / "results" / "README.md"
    columns.write_text(re.sub(r"<!-- generated by.*part -->\n", lambda _: document(), columns.read_text(), flags=re.S))
    _render("nano_grid", PAGES / "nano_grid.html")
    photograph()


if __name__ == "__main__":
    main()
