"""Crossed random-effects model of seeds and examples: how a method would score on new seeds and new examples.

It needs the outcomes of several seeds on the same examples. ``model`` has the intervals and tests of one cell and of
two, ``ranking`` those of a whole table. ``planning`` computes which differences a number of seeds and examples can
show, ``front`` the probability of lying on the Pareto front, and ``outcomes`` makes arrays of stored rows. The method
and its validation by simulation are in ``docs/statistics.md``.
"""
