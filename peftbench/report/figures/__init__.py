"""Figures for print: PDF and PNG files by matplotlib, one file and one record for each figure.

A figure's module has a function ``plan``, which returns what to draw, or says why the results have nothing for it.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Figure:
    """One figure."""

    name: str
    """Its module here, and the beginning of its files' names."""
    title: str
    """What it shows, in words."""


FIGURES = (
    Figure("score_parameters", "score against trainable parameters"),
    Figure("score_memory", "score against memory"),
    Figure("rank_curves", "score against rank"),
    Figure("precision_ladder", "score and memory by precision"),
    Figure("learning_rates", "score against learning rate"),
    Figure("memory_ledger", "memory by category"),
    Figure("memory_ladder", "one saving of memory after another"),
)
"""Every figure, in the order in which they are made."""
