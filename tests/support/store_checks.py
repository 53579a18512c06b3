from __future__ import annotations

from pathlib import Path

import pandas as pd

from peftbench.results.store import Tables, open_for_run, write
from tests.support.results_factory import make_result

KINDS = ("trials", "steps", "examples")


def stored(folder: Path) -> dict[str, list[str]]:
    return {kind: sorted(path.name for path in (folder / kind).iterdir()) for kind in KINDS}


def plain(folder: Path, kind: str = "trials") -> pd.DataFrame:
    return pd.read_parquet(str(folder / kind))


def fill(folder: Path, count: int = 4, tasks: tuple[str, ...] = ("judge",), **fields: object) -> list[str]:
    open_for_run(folder, tasks)
    results = [make_result(seed=seed, **fields) for seed in range(count)]
    for result in results:
        write(folder, result, tasks)
    return [result.row.key for result in results]


def contents(tables: Tables) -> dict[str, tuple[str, float, int, int]]:
    """Key to status, finish, and how many steps and examples: what identifies one writing of a trial."""
    assert tables.trials["key"].is_unique
    assert not tables.steps.duplicated(["key", "step"]).any()
    assert not tables.examples.duplicated(["key", "task", "index"]).any()
    counts = [frame.groupby("key").size() for frame in (tables.steps, tables.examples)]
    rows = zip(tables.trials["key"], tables.trials["status"], tables.trials["finished_at"], strict=True)
    return {key: (status, end, *(int(count.get(key, 0)) for count in counts)) for key, status, end in rows}


def assert_equal(one: Tables, other: Tables) -> None:
    pd.testing.assert_frame_equal(one.trials, other.trials)
    for kind, place in (("steps", "step"), ("examples", "index")):
        frames = [getattr(t, kind).sort_values(["key", place], ignore_index=True) for t in (one, other)]
        pd.testing.assert_frame_equal(*frames)
