"""Measure on a CUDA device what cannot be known without one: ``make gpu``, or ``python -m tools.validation.gpu``.

A GPU can be had rarely and for minutes, so what is measured comes in the order of its worth, each part within its own
limit, and each result is written as soon as it is known. A second run with ``--earlier FOLDER`` measures what is
missing. ``--dry-run`` runs every part on the CPU at tiny size in about a minute.

    python -m tools.validation.gpu --minutes 9 --out FOLDER
    python -m tools.validation.gpu --parts right,planner --out FOLDER
    python -m tools.validation.gpu --dry-run --out FOLDER
    python -m tools.validation.gpu.keep FOLDER           # adds the results to results/reference/gpu
    python -m tools.validation.gpu.wheels .whl           # fetches what a machine without a network lacks
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from dataclasses import replace
from functools import partial
from pathlib import Path

from peftbench.errors import UserError
from tools.validation.gpu import claims, machine, more, planner, right, scale, speed
from tools.validation.gpu.budget import Part, spend
from tools.validation.gpu.results import Kept

SECONDS = {"right": 75, "planner": 150, "speed": 105, "claims": 165, "quickstart": 120, "ladder": 120}
"""At most so many in the first pass; what a part leaves goes to those that were cut off."""
FUNCTIONS = {
    "right": right.measure,
    "planner": planner.measure,
    "speed": speed.measure,
    "claims": claims.measure,
    "quickstart": more.quickstart,
    "ladder": more.ladder,
}


def arguments() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=9.0, help="for everything (default: 9)")
    parser.add_argument("--parts", default=",".join(SECONDS), help=f"some of {','.join(SECONDS)}, in this order")
    parser.add_argument("--out", type=Path, default=os.environ.get("OUT"), help="folder for results (default: $OUT)")
    parser.add_argument("--earlier", type=Path, action="append", default=[], help="results of an earlier run")
    parser.add_argument("--dry-run", action="store_true", help="on the CPU at tiny size, one cell of each kind")
    parser.add_argument("--every-cell", action="store_true", help="with --dry-run: every cell")
    return parser


def main() -> int:
    """Measure; return 0 if every part is complete and no cell failed."""
    began = time.perf_counter()
    parser = arguments()
    given = parser.parse_args()
    asked = given.parts.split(",")
    unknown = [name for name in asked if name not in SECONDS]
    if unknown or given.out is None:
        parser.error(f"unknown parts: {', '.join(unknown)}; allowed: {', '.join(SECONDS)}" if unknown else "give --out")
    os.environ |= {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
    kept = Kept(given.out, tuple(given.earlier))
    with (given.out / "log.txt").open("a") as log, tempfile.TemporaryDirectory(prefix="peftbench-gpu-") as folder:

        def tell(text: str) -> None:
            for file in (sys.stdout, log):
                print(f"{time.perf_counter() - began:6.1f} s  {text}", file=file, flush=True)

        work = Path(folder)
        made = scale.dry(work / "shapes", given.every_cell) if given.dry_run else scale.FULL
        try:
            found = machine.describe(given.out / "machine.json", made.device, tell)
        except UserError as error:
            tell(str(error))
            return 2
        made = replace(made, pages=found["device"].get("pages", True))
        parts = [Part(name, SECONDS[name], partial(_told, name, made, kept, work, tell)) for name in asked]
        left = 60 * given.minutes - (time.perf_counter() - began)
        missing = spend(parts, left, tell)
        failed = [f"{name}: {cell}" for name in asked for cell in kept.failed(name)]
        tell(f"not complete: {', '.join(missing) or 'nothing'}; failed: {len(failed)}")
        for cell in failed:
            tell(f"failed: {cell}")
    return 1 if missing or failed else 0


def _told(name: str, made: scale.Scale, kept: Kept, work: Path, tell: machine.Tell):  # type: ignore[no-untyped-def]
    """Measure a part, tell each result, and yield after it."""
    for text in FUNCTIONS[name](made, kept, work / name):
        tell(text)
        yield text


if __name__ == "__main__":
    sys.exit(main())
