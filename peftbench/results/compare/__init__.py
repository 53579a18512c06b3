"""What changed between two results folders."""

from peftbench.results.compare.comparison import CellChange, Change, Comparison, compare
from peftbench.results.compare.differences import Difference

__all__ = ["CellChange", "Change", "Comparison", "Difference", "compare"]
