"""The tables of a report, and the writers that format them."""
