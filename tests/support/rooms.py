"""The rooms of the package and their order, from the top down."""

from __future__ import annotations

ROOMS: tuple[tuple[str, bool], ...] = (
    ("commands", False),
    ("runner", True),
    ("report", False),
    ("results", False),
    ("evaluation", True),
    ("planner", True),
    ("suite", False),
    ("methods", True),
    ("training", True),
    ("measure", True),
    ("tasks", False),
    ("models", True),
    ("records", False),
)
"""The rooms from the top down: each imports only rooms below it. And whether a file of it may import torch."""
