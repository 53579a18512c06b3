"""What a method would do on new seeds and new examples, from the outcomes of several seeds on the same examples.

``model`` has the intervals and tests of one cell and of two, ``ranking`` those of a whole table, ``planning`` what a
number of seeds and examples can show, ``front`` the probability of lying on the Pareto front, ``outcomes`` the way from
stored rows to arrays. The method and its proof by simulation: ``docs/statistics.md``.
"""
