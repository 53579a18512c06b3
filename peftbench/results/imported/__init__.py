"""Results of other benchmarks as results folders, one file for each benchmark.

An imported number is in the column that means the same. What has no such column is left out, and what is not known is
null: nothing is converted that would have to be guessed.
"""
