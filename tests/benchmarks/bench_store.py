"""Storing into and reading 10,000 trials.

One write is measured against the same write into an empty folder, in turns: both are made durable on the disk, so the
ratio says what the trials that are there already cost. A read is measured against pyarrow's own of the same files.
"""

from __future__ import annotations

import itertools
import time
from pathlib import Path

import pyarrow.parquet

from peftbench.records import Result
from peftbench.results import store
from peftbench.results.store import files, schema, writing
from tests.support import results_factory

TRIALS, STEPS, EXAMPLES, WRITES, READS = 10_000, 5, 5, 100, 15


def results(*seeds: int) -> list[Result]:
    return [results_factory.make_result(seed=seed, steps=STEPS, examples=EXAMPLES) for seed in range(*seeds)]


def fill(folder: Path, made: list[Result]) -> None:
    """Write results as full parts, as after compaction."""
    store.open_for_run(folder, ["judge"])
    for number, start in enumerate(range(0, len(made), writing.PART_TRIALS)):
        chunk = made[start : start + writing.PART_TRIALS]
        rows = {
            "trials": [vars(r.row) | schema.scores_of(r.scores) for r in chunk],
            "steps": [vars(row) for r in chunk for row in r.steps],
            "examples": [vars(row) for r in chunk for row in r.examples],
        }
        for kind, listed in rows.items():
            table = schema.table(kind, listed, ["judge"])
            files.save(files.path_of(folder, kind, f"{files.PART}{number:016}"), [table], table.schema)


def seconds(work) -> float:
    begin = time.perf_counter()
    work()
    return time.perf_counter() - begin


def bench_store_and_read(benchmark, record_line, tmp_path):
    full, empty = tmp_path / "full", tmp_path / "empty"
    fill(full, results(TRIALS - WRITES))
    added = results(TRIALS - WRITES, TRIALS)
    store.open_for_run(empty, ["judge"])
    coming, same, bare = iter(added), iter(added), []

    def first() -> None:
        bare.append(seconds(lambda: store.write(empty, next(same), ["judge"])))

    benchmark.pedantic(lambda: store.write(full, next(coming), ["judge"]), setup=first, rounds=WRITES)
    written = benchmark.stats.stats.data
    record_line(
        f"write of a trial into a folder with {TRIALS:,} trials / an empty one",
        list(zip(bare, written, strict=True)),
        "ratio",
    )
    record_line(
        f"write of a trial into a folder with {TRIALS:,} trials: milliseconds", [1000 * s for s in written], "ms"
    )

    store.compact(full)
    assert len(store.read(full).trials) == TRIALS

    def by_pyarrow() -> None:
        for kind in schema.KINDS:
            pyarrow.parquet.read_table(full / kind).to_pandas()

    reads = [(seconds(by_pyarrow), seconds(lambda: store.read(full))) for _ in itertools.repeat(None, READS)]
    record_line(f"read of {TRIALS:,} trials: ours / pyarrow's", reads, "ratio")
    record_line(f"read of {TRIALS:,} trials: seconds", [ours for _, ours in reads], "s")
