"""A suite's grid from trials to rows: what is pending, one trial from load to result, processes, sanity checks."""
