"""``peftbench import``: results of other benchmarks as results folders."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

from peftbench.errors import UserError, unknown

if TYPE_CHECKING:
    from peftbench.results.imported.night import ImportedNight

SOURCES: Mapping[str, str] = {
    "hf-method-comparison": "hf_method_comparison",
    "lm-eval": "lm_eval",
}
"""Name of each benchmark, and its module in ``peftbench.results.imported``, which has a function ``read``."""

ROWS: Mapping[str, str] = {"hf-method-comparison": "experiment", "lm-eval": "model"}
"""What a row of each benchmark is of."""


def import_results(source: str, files: Sequence[Path], output: Path) -> int:
    """Write the results of another benchmark as results folders, one for each night.

    Args:
        source: one of ``SOURCES``.
        files: its files, or folders of them.
        output: the folder to write the nights into.

    Raises:
        UserError: if the source is unknown, or a file is not one of that benchmark.
    """
    if source not in SOURCES:
        raise UserError(unknown("source", source, tuple(SOURCES)))
    missing = [path for path in files if not path.exists()]
    if missing:
        raise UserError(f"no such file or folder: {missing[0]}")
    from peftbench.records.wording import plural
    from peftbench.results.imported import writing

    read: Callable[[Sequence[Path]], list[ImportedNight]]
    read = import_module(f"peftbench.results.imported.{SOURCES[source]}").read
    nights = read(files)
    places = writing.write(nights, output)
    for night, place in zip(nights, places, strict=True):
        print(f"{place}: {plural(len(night.results), ROWS[source])}, read from {night.source}")
        for line in night.left_out:
            print(f"  left out: {line}")
        for name in night.unscored:
            print(
                f"  {name} has no score: none of its metrics (they are kept) is a fraction of 1 and better when higher"
            )
    print("A night's name is the day of its newest run (of a history: of the commit), then the name of its folder.")
    command, what = ("report", places[0]) if len(places) == 1 else ("history", output)
    print(f"next: peftbench {command} {shlex.quote(str(what))}")
    return 0
