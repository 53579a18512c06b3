"""A results folder: three parquet datasets, ``trials``, ``steps`` and ``examples``, that survive any interruption.

Beside them ``grid.json`` says which trials the last run was about.

Importing it imports pyarrow (not pandas, never torch), so the command line does so only when a command needs it.
"""

from peftbench.results.store.files import SEARCH
from peftbench.results.store.reading import RecordedGrid, Tables, done, read, read_trials, recorded_grid
from peftbench.results.store.writing import compact, open_for_run, record_grid, write

__all__ = [
    "SEARCH",
    "RecordedGrid",
    "Tables",
    "compact",
    "done",
    "open_for_run",
    "read",
    "read_trials",
    "record_grid",
    "recorded_grid",
    "write",
]
