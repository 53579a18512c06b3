"""Faults that are made to happen: a storm of kills on running grids. ``python -m tools.validation.chaos --help``."""
