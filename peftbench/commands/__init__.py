"""The commands of the command line, one module each. Nothing heavy is imported before it is needed."""

FAILED, BAD_INPUT, INTERRUPTED = 1, 2, 130
"""Exit codes.

1: a trial failed, none can run, or a comparison found a regression or nothing to compare. 2: bad input. 130: Ctrl-C.
"""
