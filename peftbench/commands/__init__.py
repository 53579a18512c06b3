"""The commands behind the command line, each a module. Nothing heavy is imported before it is needed."""

FAILED, BAD_INPUT, INTERRUPTED = 1, 2, 130
"""Exit codes: a trial failed or none can run, a comparison regressed or judged nothing; bad input; Ctrl-C."""
