"""Which cell to take: the cheapest one whose loss against the best is tolerable.

``losses`` has the probability that each cell lies within a tolerated loss of the best, and which probability is enough.
``decision`` tests whether anything is better than the untuned base model and chooses by cost, ``planning`` computes
what a decision would still take. How often the answer is wrong is simulated in ``docs/statistics.md``.
"""

LEAST_SEEDS = 2
"""Seeds with which a cell is judged."""
FIRST_SEEDS = 3
"""Seeds that are proposed if there is none or one."""
