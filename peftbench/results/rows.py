"""Which stored rows a table is about."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from peftbench.errors import UserError

if TYPE_CHECKING:
    import pandas as pd

LARGEST = 1e120
"""Largest size of a measured number; the squares of larger ones would exceed the range of floats."""


def rows_of_grid(trials: pd.DataFrame, keys: Sequence[str] | None) -> pd.DataFrame:
    """Return the rows that a folder is about: those of its recorded grid, in the grid's order.

    Args:
        trials: all rows of the folder.
        keys: of the recorded grid; None if none was recorded, which gives ``latest_rows``.

    Raises:
        UserError: if none of the grid's trials has a row.
    """
    if keys is None:
        return latest_rows(trials)
    places = {key: place for place, key in enumerate(keys)}
    chosen = trials[trials["key"].isin(places)]
    if not len(chosen):
        raise UserError(
            f"none of the {len(places)} trials of the last command has a result yet, only {len(trials)} trials with "
            "other settings: run the suite again"
        )
    return chosen.iloc[chosen["key"].map(places).argsort(kind="stable")]


def latest_rows(trials: pd.DataFrame) -> pd.DataFrame:
    """Return the last finished row of each base model, cell and seed.

    A folder holds several after a setting was changed in the suite and the suite was run again.
    """
    order = trials["finished_at"].fillna("").argsort(kind="stable")
    kept = trials.iloc[order].drop_duplicates(["base", "cell", "seed"], keep="last").index
    return trials[trials.index.isin(kept)]


def rows_without_progress(trials: pd.DataFrame) -> pd.DataFrame:
    """Return the ``ok`` trials whose loss did not fall: the mean of the last steps is not below the first step's.

    This is derived here and not a status, because it depends on the task and on the number of steps how far a loss
    should fall.
    """
    return trials[(trials["status"] == "ok") & (trials["last_loss"] >= trials["first_loss"])]


def is_number(value: Any) -> bool:
    """Return whether a value of a row is a number that can be measured.

    Null, not-a-number, infinity and numbers beyond ``LARGEST`` are no measurement.
    """
    try:
        return math.isfinite(value) and abs(value) <= LARGEST
    except TypeError:  # None and pandas.NA
        return False
