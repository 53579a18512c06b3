"""Write ``results-vN``: a tiny results folder of the current schema version, which must load forever.

Run once per schema version and never again for an old one: ``PYTHONPATH=. python tests/golden/make.py``.
"""

from __future__ import annotations

import sys
from pathlib import Path

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent))

from peftbench.records import SCHEMA_VERSION  # noqa: E402
from peftbench.results.store import compact, open_for_run, write  # noqa: E402
from tests.support import results_factory as factory  # noqa: E402


def main() -> None:
    folder = HERE / f"results-v{SCHEMA_VERSION}"
    if folder.exists():
        sys.exit(f"{folder} exists and must not change")
    tasks = ("compute", "judge")
    open_for_run(folder, tasks)
    for seed in (0, 1):
        write(folder, factory.make_result(seed=seed, scores={"compute": 0.5, "judge": 0.75}), tasks)
    write(folder, factory.make_result("full fp32", "full", rank=None, status="error"), tasks)
    compact(folder)
    (folder / ".lock").unlink()


if __name__ == "__main__":
    main()
