"""The commands of the command line, one module each. Nothing heavy is imported before it is needed."""

FAILED, BAD_INPUT, INTERNAL, INTERRUPTED = 1, 2, 3, 130
"""Exit codes.

1: a trial failed, none can run, or a comparison found a regression or nothing to compare. 2: bad input, or the system
refused to read or write a file. 3: a mistake in peftbench, whose traceback is stored. 130: Ctrl-C.
"""
