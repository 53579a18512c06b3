"""Trackio: one run per trial in a local store in ``OUTPUT``, project ``peftbench``, one group per suite."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from peftbench.errors import UserError
from peftbench.report.export import Written
from peftbench.report.export.runs import Exported, Run, number

PROJECT = "peftbench"
_REMOTE = ("SPACE_ID", "SERVER_URL", "DATASET_ID", "BUCKET_ID", "WEBHOOK_URL")
"""Variables ``TRACKIO_*`` by which the library would send what it stores."""
_FINISHED = "finished_at"


def write(results: Exported, output: Path) -> Written:
    """Write the trials that are not there yet; a trial that has run again replaces its run.

    Raises:
        UserError: if this process has used Trackio with another folder.
    """
    for name in _REMOTE:
        os.environ.pop(f"TRACKIO_{name}", None)
    os.environ["TRACKIO_DIR"] = str(output.resolve())
    from trackio import utils
    from trackio.sqlite_storage import SQLiteStorage

    if Path(utils.TRACKIO_DIR) != output.resolve():
        raise UserError(
            f"export --to trackio: this process has used Trackio with {utils.TRACKIO_DIR}, which it allows once: "
            f"start a new one to export to {output}"
        )
    kept = new = 0
    for run in results.runs():
        config = SQLiteStorage.get_run_config(PROJECT, run.name, run_id=run.key)
        if config and config.get(_FINISHED) == run.finished_at:
            kept += 1
            continue
        if config:
            SQLiteStorage.delete_run(PROJECT, run.name, run_id=run.key)
        _write(SQLiteStorage, run)
        new += 1
    return Written(new, kept, f"TRACKIO_DIR={output} trackio show --project {PROJECT}")


def _write(store: Any, run: Run) -> None:
    """Write a run in one call, so that it is whole or not there. Trackio has no failed runs: an alert says it."""
    final = {name: value for name, value in run.final.items() if isinstance(value, str) or number(value) is not None}
    steps = [step for step, _ in run.history]
    last = steps[-1] if steps else 0
    values = [dict(values) for _, values in run.history]
    store.bulk_log(
        project=PROJECT,
        run=run.name,
        metrics_list=[*values, final],
        steps=[*steps, last],
        timestamps=[run.finished_at or ""] * (len(steps) + 1),
        config=_config(run),
        run_id=run.key,
    )
    if not run.ok:
        store.bulk_alert(
            PROJECT,
            run.name,
            titles=[f"failed: {run.status}"],
            texts=[run.message],
            levels=["error"],
            steps=[last],
            timestamps=[run.finished_at or ""],
            run_id=run.key,
        )


def _config(run: Run) -> dict[str, Any]:
    return dict(run.config) | {
        "status": run.status,
        "message": run.message,
        "failed": not run.ok,
        "tags": list(run.tags),
        _FINISHED: run.finished_at,
        "_Group": run.suite,
        "_Username": None,
        "_Created": run.started_at,
    }
