"""peftbench: compare fine-tuning methods on one base model, with numbers that can be traced.

The public Python interface is what ``__all__`` names; everything else is internal and may change.

* ``load_suite(name)`` validates a suite and returns it.
* ``plan(base, methods, budget)`` returns the memory that methods are predicted to need, and which fit.
* ``run_suite(suite, results)`` runs its trials and stores their results.
* ``read_results(folder)`` returns the stored rows as DataFrames.
* ``answer(folder)`` returns which cell to take, and what it costs.
* ``compare(old, new)`` returns what regressed between two results folders; ``compare_results`` the same as a record.
* ``history(nights)`` returns what changed over many nights, and when.
* ``write_report(folder, output)`` writes the page or a table.
* ``benchmark_suite(name)`` returns a suite whose cells run as benchmarks of pytest-benchmark.
* ``UserError`` is raised for every mistake in a suite, an argument or a folder.

They are documented in ``peftbench/commands/python_api.py`` and imported when first used.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from peftbench.version import PROTOCOL as PROTOCOL
from peftbench.version import __version__ as __version__

if TYPE_CHECKING:
    from peftbench.commands.pytest_cells import benchmark_suite
    from peftbench.commands.python_api import (
        answer,
        compare,
        compare_results,
        history,
        load_suite,
        read_results,
        run_suite,
        write_report,
    )
    from peftbench.commands.python_plan import plan
    from peftbench.errors import UserError

__all__ = [
    "UserError",
    "answer",
    "benchmark_suite",
    "compare",
    "compare_results",
    "history",
    "load_suite",
    "plan",
    "read_results",
    "run_suite",
    "write_report",
]

_HOMES = {
    **dict.fromkeys(__all__, "peftbench.commands.python_api"),
    "UserError": "peftbench.errors",
    "benchmark_suite": "peftbench.commands.pytest_cells",
    "plan": "peftbench.commands.python_plan",
}


def __getattr__(name: str) -> Any:
    """Import a public function when it is first used.

    ``bases`` is where the model cards of adapters saved by older versions look for a built-in base model.
    """
    if name == "bases":
        return import_module("peftbench.models.builtin")
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    found = globals()[name] = getattr(import_module(_HOMES[name]), name)
    return found


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
