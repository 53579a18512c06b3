"""Every method on every causal family: ``python -m tools.validation.matrix [--family NAME ...]``, some hours on a core.

A cell is a whole trial on a tiny base model (``matrix_cell``), in a process of its own that is forked from one with the
libraries imported, and then the proofs of ``matrix_proofs``. The outcomes are written to
``results/reference/architectures.json``, from which ``tools/docs/reference.py`` makes ``docs/architectures.md``.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import sys
import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

from peftbench.methods import METHODS
from tools.validation import matrix_bits, matrix_cell

STORED = Path(__file__).resolve().parents[2] / "results" / "reference" / "architectures.json"
NAMES = tuple(n for n, m in METHODS.items() if m.trains and not m.variants and m.attach.startswith("peftbench."))
"""The methods of peftbench, without ``peft``, which stands for many tuners."""
FOUR_BIT = ("prompt_tuning", "prefix_tuning", "adapter", "llama_adapter")
"""Methods that are run in nf4 too, on the families of ``tests/support/architectures.py``; LoRA in nf4 is QLoRA."""
IN_TRANSFORMERS = {"gemma3": "gemma3_text"}
"""Names in ``tests/support/architectures.py`` that differ from the ``model_type``."""
PACKAGES = ("torch", "transformers", "peft", "bitsandbytes")
_PARTICULAR = (
    (r"; in \w+, \w+ has .*", ""),
    (r"the query cannot be intercepted in .*?: it calls none", "the query cannot be intercepted: the layer calls none"),
    (r" and is not one of .*", ""),
    (r"layer \d+ of \w+, \w+, has no attention .*", "a layer has no attention"),
    (r"\d+ (of \d+ )?(weight matrices|trainable tensors)", r"\2"),
    (r", (the largest|such as) [\w.]+", ""),
    (r"some layers of \w+ keep", "some layers keep"),
    (r"model of \w+", "model of it"),
    (r"\b\w+(ForCausalLM|LMHeadModel|ForConditionalGeneration|Attention|WithLMHead)\b", "the model"),
    (r" by up to [\d.e-]+| is '.*?', without '.*?'|: \[.*?\] alone, \[.*?\] in batches", ""),
    (r"(on this base model): [\w.]+", r"\1"),
)
"""What is left out of a reason, so that families with the same one share a number: pattern and replacement."""
STATUSES = ("ok", "unsupported", "error", "wrong")


def cells(family: str) -> list[tuple[str, str]]:
    """Return method and precision of each cell of a family."""
    from tests.support import architectures

    chosen = [(name, matrix_cell.storage(name)) for name in NAMES]
    known = [IN_TRANSFORMERS.get(name, name) for name in architectures.CONFIGS]
    return chosen + ([(name, "nf4") for name in FOUR_BIT] if family in known else [])


def run_family(family: str, scratch: Path) -> Iterator[tuple[str, str, matrix_cell.Outcome]]:
    """Make a family's tiny base model and run its cells; yield method, precision and outcome of each.

    If the base model cannot be made, the only outcome is that of method ``base``.
    """
    home = scratch / "base"
    made = matrix_cell.forked(partial(make, family, home), scratch / "make.log")
    yield "base", "", made
    if made.status != "ok":
        return
    for name, storage in cells(family):
        folder = scratch / f"{name}-{storage}"
        yield (
            name,
            storage,
            matrix_cell.forked(partial(matrix_cell.run, home, name, folder, storage), folder.with_suffix(".log")),
        )


def make(family: str, home: Path) -> matrix_cell.Outcome:
    """Write the tiny base model of a family; return its class and number of parameters, or why it cannot be made."""
    from tests.support import families

    try:
        model = families.make(home, family)
    except ValueError as error:
        return matrix_cell.Outcome("unmade", str(error))
    except Exception as error:
        return matrix_cell.Outcome("unmade", f"{type(error).__name__}: {' '.join(str(error).split())[:300]}")
    known = {"model": type(model).__name__, "parameters": sum(p.numel() for p in model.parameters())}
    return matrix_cell.Outcome("ok", measured=known)


# contents of the document


def stored() -> dict[str, Any]:
    """Return the committed outcomes."""
    return json.loads(STORED.read_text())


def status(family: str, name: str, storage: str) -> str:
    """Return the stored status of a cell."""
    row = stored()["cells"].get(IN_TRANSFORMERS.get(family, family))
    return "not run" if row is None else row[f"{name} {storage}"]["status"]


def table() -> str:
    """Return all families by all methods in Markdown; numbers refer to the list of reasons."""
    return _table(stored()["cells"], [f"{name} {matrix_cell.storage(name)}" for name in NAMES])


def four_bit() -> str:
    """Return the families that are run in 4 bits with the other methods too."""
    columns = [f"{name} nf4" for name in FOUR_BIT]
    return _table({f: row for f, row in stored()["cells"].items() if columns[0] in row}, columns)


def _table(rows: Mapping[str, Mapping[str, Any]], columns: Iterable[str]) -> str:
    columns, numbers = list(columns), _numbers()
    lines = [f"| family | {' | '.join(c.split()[0] for c in columns)} |", f"|---|{'---|' * len(columns)}"]
    for family, row in rows.items():
        shown = [
            "ok" if row[c]["status"] == "ok" else f"{_mark(row[c])} [{numbers[footnote(row[c])]}]" for c in columns
        ]
        lines.append(f"| {' | '.join([family, *shown])} |")
    return "\n".join(lines)


def _mark(cell: Mapping[str, Any]) -> str:
    return "no" if cell["status"] == "unsupported" else f"**{cell['status']}**"


def reasons() -> str:
    """Return the numbered reasons, with the number of cells of each."""
    counted = Counter(footnote(c) for row in stored()["cells"].values() for c in row.values() if c["status"] != "ok")
    lines = [
        f"{number}. {reason} ({counted[reason]} {_plural(counted[reason])})." for reason, number in _numbers().items()
    ]
    return "\n".join(lines) or "None."


def _plural(count: int) -> str:
    return "cell" if count == 1 else "cells"


def _numbers() -> dict[str, int]:
    given = (footnote(c) for row in stored()["cells"].values() for c in row.values() if c["status"] != "ok")
    return {reason: number for number, reason in enumerate(dict.fromkeys(given), 1)}


def footnote(cell: Mapping[str, Any]) -> str:
    """Return a cell's reason without what is particular to its family, such as names of classes and modules."""
    text = (cell["reason"] or "").split("; log: ")[0].rstrip(".")
    for particular, instead in _PARTICULAR:
        text = re.sub(particular, instead, text)
    return text


def counts() -> str:
    """Return the number of families and of cells by status, and the versions of the packages."""
    found = stored()
    ends = Counter(c["status"] for row in found["cells"].values() for c in row.values())
    planned = sum(c["planned"] for row in found["cells"].values() for c in row.values() if c["status"] == "unsupported")
    made = ", ".join(f"{name} {number}" for name, number in found["versions"].items())
    return (
        f"{len(found['cells'])} families, {sum(ends.values()):,} cells: "
        + ", ".join(f"{ends[s]:,} {s}" for s in STATUSES)
        + f". `plan` names {planned} of the unsupported before anything runs. Run on {found['device']} with {made}."
    )


def missing() -> list[str]:
    """Return the families that have not been run."""
    from tests.support import families

    return [name for name in families.names() if name not in stored()["cells"] and name not in stored()["unmade"]]


def failed() -> list[str]:
    """Return the families with a cell that ended in an error or wrong."""
    cells = stored()["cells"].items()
    return [name for name, row in cells if any(c["status"] in ("error", "wrong") for c in row.values())]


def not_run() -> str:
    """Return a sentence that names the families that have not been run."""
    names = missing()
    return f"Not run yet ({len(names)}): {', '.join(names)}." if names else "All families have been run."


def image_text() -> str:
    """Return the families that transformers builds only with a head for images and text, which are refused."""
    return ", ".join(stored()["image_text"]) + "."


def bits() -> str:
    """Return the bits per weight of the families that are run in 4 bits."""
    return matrix_bits.table(stored()["measures"])


def unmade() -> str:
    """Return the families without a tiny base model, with the reason."""
    lines = [f"| {family} | {reason} |" for family, reason in stored()["unmade"].items()]
    return "\n".join(["| family | why not |", "|---|---|", *lines])


def main() -> None:
    """Run the cells and write the outcomes; with ``--family``, only those families are run again."""
    from tests.support import architectures, families

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--family", nargs="+", choices=families.names(), metavar="NAME", help="run only these families")
    parser.add_argument("--missing", action="store_true", help="run only the families without stored outcomes")
    parser.add_argument("--failed", action="store_true", help="run only the families with a cell in error or wrong")
    asked = parser.parse_args()
    os.environ |= {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
    matrix_cell.preload()  # ties this process to its parent: not for one that only asks for help
    result = {"cells": {}, "bases": {}, "unmade": {}, "measures": {}, "image_text": []}
    result |= stored() if STORED.exists() else {}
    chosen = asked.family or families.names()
    if asked.missing or asked.failed:
        chosen = [f for f in chosen if (asked.missing and f in missing()) or (asked.failed and f in failed())]
    elif not asked.family:
        result["image_text"] = families.refused_image_text()
        result["measures"] = {family: matrix_bits.measured(family) for family in architectures.CONFIGS}
    for family in chosen:
        with tempfile.TemporaryDirectory() as scratch:
            row: dict[str, Any] = {}
            for name, storage, outcome in run_family(family, Path(scratch)):
                print(family, name, storage, outcome.status, outcome.reason or "", flush=True)
                row[f"{name} {storage}"] = asdict(outcome)
        write(result, family, row)


def write(result: dict[str, Any], family: str, row: dict[str, Any]) -> None:
    """Add a family's outcomes to the results and write them."""
    from tests.support import families

    base = row.pop("base ")
    for part in ("cells", "bases", "unmade"):
        result[part].pop(family, None)
    if base["status"] == "ok":
        result["cells"][family] = {cell: _kept(outcome) for cell, outcome in row.items()}
        result["bases"][family] = base["measured"]
    else:
        result["unmade"][family] = base["reason"]
    for part in ("cells", "bases", "unmade"):
        result[part] = {name: result[part][name] for name in families.names() if name in result[part]}
    result |= {"device": "cpu", "versions": {name: version(name).partition("+")[0] for name in PACKAGES}}
    STORED.write_text(as_text(result))


def _kept(outcome: Mapping[str, Any]) -> dict[str, Any]:
    """Return what is stored of a cell: how it ended, and its predicted and measured memory peak in bytes."""
    peaks = {name: outcome["measured"].get(name) for name in ("predicted", "peak")}
    return {name: outcome[name] for name in ("status", "reason", "phase", "planned")} | peaks


def as_text(result: Mapping[str, Any]) -> str:
    """Return the results as JSON, one cell a line."""
    lines = json.dumps(result, indent=1)
    return re.sub(r"\n {4,}", " ", lines).replace("\n   }", " }") + "\n"


if __name__ == "__main__":
    sys.exit(main())
