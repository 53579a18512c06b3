"""A results folder: three parquet datasets, ``trials``, ``steps`` and ``examples``, that survive any interruption.

Importing it imports pyarrow (not pandas, never torch), so the command line does so only when a command needs it.
"""

from peftbench.store.reading import Tables, done, read, read_trials
from peftbench.store.writing import compact, open_for_run, write

__all__ = ["Tables", "compact", "done", "open_for_run", "read", "read_trials", "write"]
