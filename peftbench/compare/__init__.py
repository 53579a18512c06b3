"""What changed between two results folders: ``compare`` finds it, ``render`` writes it for a terminal."""

from peftbench.compare.comparison import CellChange, Change, Comparison, compare
from peftbench.compare.differences import Difference
from peftbench.compare.text import render

__all__ = ["CellChange", "Change", "Comparison", "Difference", "compare", "render"]
