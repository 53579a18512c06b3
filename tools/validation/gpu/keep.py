"""Add what was measured to the repository: ``python -m tools.validation.gpu.keep FOLDER [FOLDER ...]``.

The trials of each part become a results folder in ``results/reference/gpu``, what is no trial ``others.json`` there,
and the dtypes seen on the device are added to those of ``docs/precisions.md``. ``python -m tools.docs.reference`` then
renews ``docs/gpu.md``.
"""

from __future__ import annotations

import argparse
import json
import shutil
from collections.abc import Sequence
from pathlib import Path

from peftbench.results import store
from tools.validation import precision_table
from tools.validation.gpu import results, right

FOLDER = Path(__file__).resolve().parents[3] / "results" / "reference" / "gpu"
PARTS = ("right", "planner", "speed", "claims", "quickstart", "ladder")
OTHERS = "others.json"


def keep(
    sources: Sequence[Path], target: Path = FOLDER, dtypes: Path | None = precision_table.RESULT
) -> dict[str, int]:
    """Replace the results in a folder by those of some runs.

    Args:
        sources: what the runs wrote, the first one first.
        target: where the results are kept.
        dtypes: the record that the dtypes on a CUDA device are added to; None to leave it alone.

    Returns:
        How many cells each part has.
    """
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir(parents=True)
    counts, others = {}, {}
    for part in PARTS:
        found = results.latest_of(sources, part)
        counts[part] = len(found)
        trials = [results.result(line) for line in found.values() if "row" in line]
        if len({result.row.key for result in trials}) < len(trials):
            raise ValueError(f"{part}: two cells are the same trial")
        if trials:
            store.write_new(target / part, trials, ())
            shutil.rmtree(target / part / "examples", ignore_errors=True)
        others[part] = {name: line for name, line in found.items() if "row" not in line}
    seen = others["right"].pop(right.PRECISIONS, {}).get("found")
    if seen and seen.get("name") and dtypes:
        dtypes.write_text(json.dumps(json.loads(dtypes.read_text()) | {"cuda": seen}, indent=1) + "\n")
    described = [
        json.loads(path.read_text()) for path in (source / "machine.json" for source in sources) if path.is_file()
    ]
    others["machine"] = described[-1] if described else {}
    (target / OTHERS).write_text(json.dumps(others, indent=1) + "\n")
    return counts


def main() -> None:
    """Keep the results of the given folders."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, nargs="+", help="what a run wrote with --out")
    print(", ".join(f"{part}: {count}" for part, count in keep(parser.parse_args().folder).items()))


if __name__ == "__main__":
    main()
