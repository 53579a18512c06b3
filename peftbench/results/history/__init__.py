"""Many nights: the series of each cell and quantity, when each went to another level, and what else changed then.

``nights`` reads the folders, ``series`` puts rows in order, ``cell_changes``, ``two_nights`` and ``common_changes``
judge, ``watching`` puts them together.
"""

from peftbench.results.history.changes import Change, History, Outlier
from peftbench.results.history.watching import history

__all__ = ["Change", "History", "Outlier", "history"]
