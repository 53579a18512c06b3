"""The commands of the command line, one module each. Nothing heavy is imported before it is needed."""

FAILED, BAD_INPUT, NOTHING_JUDGED, INTERNAL = 1, 2, 3, 70
HUNG_UP, INTERRUPTED, TERMINATED = 129, 130, 143
"""Exit codes.

1: a trial failed, none can run, or a comparison found a regression. 2: bad input, or the system refused to read or
write a file. 3: a comparison could judge nothing. 70: a mistake in peftbench, whose traceback is stored (EX_SOFTWARE of
sysexits.h). 129, 130, 143: 128 and the number of the signal (``peftbench.interrupts``).
"""
