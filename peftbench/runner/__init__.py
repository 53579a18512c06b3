"""A suite's grid from trials to rows: pending trials, one trial from loading to its result, processes, checks."""
