"""A results folder: three parquet datasets, ``trials``, ``steps`` and ``examples``, that survive any interruption.

Beside them, ``grid.json`` names the trials of the last run.

This package imports pyarrow, so the command line imports it only if a command needs it. It imports pandas only to read,
and never torch.
"""

from peftbench.results.store.damage import set_grid_aside
from peftbench.results.store.files import SEARCH, Damaged
from peftbench.results.store.grid_record import CellAxes, RecordedGrid, recorded_grid
from peftbench.results.store.reading import Tables, done, read, read_rows, read_trials
from peftbench.results.store.writing import check_new, compact, open_for_run, record_grid, write, write_new

__all__ = [
    "SEARCH",
    "CellAxes",
    "Damaged",
    "RecordedGrid",
    "Tables",
    "check_new",
    "compact",
    "done",
    "open_for_run",
    "read",
    "read_rows",
    "read_trials",
    "record_grid",
    "recorded_grid",
    "set_grid_aside",
    "write",
    "write_new",
]
