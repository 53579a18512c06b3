"""A data set for the Hugging Face hub: parquet files and the card that names them, as ``load_dataset`` reads them."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

from peftbench.errors import UserError
from peftbench.records.failures import without_paths
from peftbench.records.wording import printable
from peftbench.report.export import Written, refuse_to_replace
from peftbench.report.export.runs import Exported
from peftbench.report.export.tables import arrow_tables
from peftbench.report.tables.writers import md

CARD = "README.md"
KINDS = ("trials", "steps", "examples")
_TAG = "peftbench"
"""Tag of a card, by which a later export knows it as its own."""


def write(results: Exported, output: Path) -> Written:
    """Write the card and a parquet file for each dataset with rows, in place of those of an earlier export.

    Raises:
        UserError: if there are files of these names and no card of an earlier export.
    """
    from peftbench.results.store.files import replacing, save

    refuse_to_replace(output, (CARD, *(f"{kind}.parquet" for kind in KINDS)), _is_ours(output / CARD))
    tables = {kind: table for kind, table in arrow_tables(results).items() if table.num_rows}
    for kind in KINDS:
        (output / f"{kind}.parquet").unlink(missing_ok=True)
    for kind, table in tables.items():
        save(output / f"{kind}.parquet", [table], table.schema)
    with replacing(output / CARD) as out:
        out.write(_card(results, list(tables)).encode())
    private = "the examples hold your prompts, answers and the models' outputs: read them before you publish"
    upload = f"hf upload --repo-type dataset NAME {output}"
    return Written(len(results.tables.trials), hint=f"{upload}   ({private})" if "examples" in tables else upload)


def _is_ours(card: Path) -> bool:
    """Whether a card was written by an earlier export."""
    try:
        head = card.read_text(encoding="utf-8").split("\n---", 1)[0]
    except (OSError, ValueError):
        return False
    return head.startswith("---") and f"- {_TAG}" in head.splitlines()


def _card(results: Exported, kinds: list[str]) -> str:
    import yaml

    trials = results.tables.trials
    suites = ", ".join(sorted(map(str, trials["suite"].unique())))
    head = {
        "pretty_name": f"peftbench results: {suites}",
        "tags": [_TAG, "peft", "benchmark-results"],
        "configs": [
            {"config_name": kind, "data_files": f"{kind}.parquet", **({"default": True} if kind == "trials" else {})}
            for kind in kinds
        ],
    }
    shown = printable(_public(results.grid.command)) if results.grid else ""
    fence = "`" * max(3, 1 + max(map(len, re.findall("`+", shown)), default=0))
    command = f"\n\nThey were made by\n\n{fence}\n{shown}\n{fence}" if results.grid else ""
    bases = ", ".join(sorted(md(str(base)) for base in trials["base"].unique()))
    parts = [
        f"---\n{yaml.safe_dump(head, sort_keys=False, allow_unicode=True)}---",
        f"# Results of peftbench: {md(suites)}",
        f"{len(trials)} trials of fine-tuning methods on {bases}: "
        f"{_counts(results)}. Raw values; null means not measured or not applicable.{command}",
        _table(results),
        "# Columns",
        _columns(kinds),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _public(command: str) -> str:
    """Return a command with every absolute path in its words cut to its last part: a card is published."""
    try:
        words = shlex.split(command)
    except ValueError:
        return without_paths(command)
    return shlex.join("=".join(map(without_paths, word.split("="))) for word in words)


def _counts(results: Exported) -> str:
    counts = results.tables.trials["status"].value_counts()
    return ", ".join(f"{count} {md(str(status))}" for status, count in counts.items())


def _table(results: Exported) -> str:
    from peftbench import report

    try:
        return report.table(results.folder, "md").rstrip()
    except UserError as error:
        return f"There is no table of these trials: {error}"


def _columns(kinds: list[str]) -> str:
    from peftbench.results.store.document import BEGIN, END, document

    text = document().removeprefix(BEGIN).rstrip().removesuffix(END)
    parts = [part for part in text.split("\n## `") if part.partition("`")[0] in kinds]
    return "".join(f"\n## `{part}" for part in parts).strip()
