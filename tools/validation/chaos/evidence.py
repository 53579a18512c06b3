"""What is in a results folder, and what should not be: rows lost, doubled or changed, files left over."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

EXACT = ("status", "last_loss", "first_loss", "score_colour", "batches_sha256", "checkpoint_bytes", "peak_train_bytes")
"""Columns of a trial that must equal the undisturbed run's bit for bit; times may differ."""


@dataclass(frozen=True)
class Rows:
    """The final rows of a results folder, by key."""

    whole: dict[str, str]
    """All that is stored of a trial, times included: a row never changes once it is there."""
    exact: dict[str, tuple[str, ...]]
    """What must equal the undisturbed run's: exact columns, losses of the steps, outcomes of the examples."""

    def lost(self, before: Rows) -> set[str]:
        """Return the trials that had a final row before and have none."""
        return before.whole.keys() - self.whole.keys()

    def changed(self, before: Rows) -> set[str]:
        """Return the trials whose final row is another one than before."""
        return {key for key, row in before.whole.items() if self.whole.get(key, row) != row}


NOTHING = Rows({}, {})


def rows(folder: Path) -> Rows:
    """Return the final rows of a results folder, as its readers see them."""
    from peftbench.records import FINAL
    from peftbench.results import store

    if not any((folder / "trials").glob("*.parquet")):
        return NOTHING
    tables = store.read(folder)
    final = tables.trials[tables.trials["status"].isin([str(status) for status in FINAL])]
    steps = {key: repr([*zip(group["step"], group["loss"], strict=True)]) for key, group in tables.steps.groupby("key")}
    examples = {
        key: repr(
            [*zip(group["task"], group["index"], group["outcome"], group["choice_logprobs"].map(str), strict=True)]
        )
        for key, group in tables.examples.groupby("key")
    }
    whole, exact = {}, {}
    for row in final.to_dict("records"):
        key = row["key"]
        belonging = (steps.get(key, ""), examples.get(key, ""))
        whole[key] = repr([*row.items()]) + "".join(belonging)
        exact[key] = (*(str(row[name]) for name in EXACT), *belonging)
    return Rows(whole, exact)


def trial_seconds(folder: Path) -> float:
    """Return how long a trial takes here: the median of their wall times."""
    from peftbench.results import store

    return float(store.read_trials(folder)["wall_seconds"].median())


def doubled(folder: Path) -> list[str]:
    """Return what plain readers of a finished folder would count twice: trials, steps and examples."""
    import pyarrow.parquet as pq

    found = []
    for kind, identity in (("trials", ["key"]), ("steps", ["key", "step"]), ("examples", ["key", "task", "index"])):
        tables = [pq.read_table(path, columns=identity).to_pylist() for path in (folder / kind).glob("*.parquet")]
        names = [tuple(row.values()) for table in tables for row in table]
        found += [f"{kind} {name}" for name in {n for n in names if names.count(n) > 1}] if _repeats(names) else []
    return found


def _repeats(names: list[tuple[object, ...]]) -> bool:
    return len(set(names)) < len(names)


def left_over(work: Path, folder: Path) -> list[str]:
    """Return the unfinished files in a results folder of which every trial has ended, and in the temporary folder."""
    patterns = (".saving-*", ".receiving-*", ".running-*", "*.tmp", ".*.tmp", "*/.*.tmp")
    patterns += (".training/*", ".training/.*", "logs/*")
    found = {path for pattern in patterns for path in folder.glob(pattern)} | {*(work / "tmp").iterdir()}
    return sorted(str(path.relative_to(work)) for path in found)


def planned(folder: Path) -> list[str]:
    """Return the keys of the recorded grid."""
    return list(json.loads((folder / "grid.json").read_bytes())["keys"])
