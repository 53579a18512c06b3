"""``peftbench import``: results of other benchmarks as results folders."""

from __future__ import annotations

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
    from peftbench.results.imported import writing

    read: Callable[[Sequence[Path]], list[ImportedNight]]
    read = import_module(f"peftbench.results.imported.{SOURCES[source]}").read
    nights = read(files)
    for night, place in zip(nights, writing.write(nights, output), strict=True):
        print(place)
        for name in night.unscored:
            print(
                f"  {name} has no score: none of its metrics (they are kept) is a fraction of 1 and better when higher"
            )
    return 0
