"""Notes on what reading the data found, and on classes that are not scored."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import TYPE_CHECKING

from peftbench.records.classes import absent

if TYPE_CHECKING:
    import pandas as pd


def notes(trials: pd.DataFrame) -> Iterable[str]:
    """Yield notes on the data of trials as it was read; none for rows that are older than the columns.

    Args:
        trials: rows of ``trials``.
    """
    for text in trials["classes_json"].dropna().unique():
        for task, counts in json.loads(text).items():
            missing = absent(counts)
            if missing:
                yield f"Classes of {task}: {missing}."
    texts = trials["reading_json"].dropna().unique()
    found = dict.fromkeys(note for text in texts for note in json.loads(text).get("found", ()))
    if found:
        yield f"Data as read: {'; '.join(found)}."
