"""Storing and reading 10,000 trials, against pyarrow alone writing and reading the same rows as three files."""

from __future__ import annotations

import time

import pyarrow.parquet
import results_factory

from peftbench import store
from peftbench.store.schema import KINDS

TRIALS, STEPS, EXAMPLES = 10_000, 5, 5


def bench_store_and_read(benchmark, tell, tmp_path):
    folder = tmp_path / "made"
    results = [
        results_factory.make_result(seed=seed, steps=STEPS, examples=EXAMPLES, scores={"judge": 0.9})
        for seed in range(TRIALS)
    ]
    store.open_for_run(folder, ["judge"])

    def write() -> None:
        for result in results:
            store.write(folder, result, ["judge"])
        store.compact(folder)

    def timed(work) -> float:
        begin = time.perf_counter()
        work()
        return time.perf_counter() - begin

    benchmark.pedantic(write, rounds=1)
    tables = {kind: pyarrow.parquet.read_table(folder / kind) for kind in KINDS}
    assert [tables[kind].num_rows for kind in ("trials", "steps", "examples")] == [
        TRIALS,
        TRIALS * STEPS,
        TRIALS * EXAMPLES,
    ]

    def write_bare() -> None:
        for kind, table in tables.items():
            pyarrow.parquet.write_table(table, tmp_path / f"{kind}.parquet")

    def read_bare() -> None:
        for kind in KINDS:
            pyarrow.parquet.read_table(tmp_path / f"{kind}.parquet").to_pandas()

    bare = timed(write_bare)
    stored = benchmark.stats.stats.data[0]
    reads = [(timed(read_bare), timed(lambda: store.read(folder))) for _ in range(5)]
    tell(f"store of {TRIALS:,} trials: one at a time, durable / one write by pyarrow", [(bare, stored)], "ratio")
    tell(f"store of {TRIALS:,} trials: milliseconds for each", [1000 * stored / TRIALS], "ms")
    tell(f"read of {TRIALS:,} trials: ours / pyarrow's", reads, "ratio")
    tell(f"read of {TRIALS:,} trials: seconds", [ours for _, ours in reads], "s")
