"""Weights & Biases: one offline run per trial, in ``OUTPUT/wandb/offline-run-*``, for ``wandb sync``."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

from peftbench.report.export import Written
from peftbench.report.export.runs import Exported, Run, number

PROJECT = "peftbench"
_MARK = "peftbench.json"
"""In a run's folder once it is complete: which trial it is, and when that trial ended."""


def write(results: Exported, output: Path) -> Written:
    """Write the trials that are not there yet; a trial that has run again replaces its run."""
    os.environ["WANDB_ERROR_REPORTING"] = "false"  # else the library reports its own errors over the network
    import wandb

    kept = new = 0
    for run in results.runs():
        earlier = _earlier(output, run)
        if any(_mark(folder) == _stamp(run) for folder in earlier):
            kept += 1
            continue
        for folder in earlier:
            shutil.rmtree(folder)
        _write(wandb, run, output)
        new += 1
    return Written(new, kept, f"wandb sync {output}/wandb/offline-run-*")


def _earlier(output: Path, run: Run) -> list[Path]:
    return sorted((output / "wandb").glob(f"offline-run-*-{run.key}"))


def _stamp(run: Run) -> dict[str, Any]:
    return {"key": run.key, "status": run.status, "finished_at": run.finished_at}


def _mark(folder: Path) -> Any:
    try:
        return json.loads((folder / _MARK).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None  # an export that was interrupted


def _write(wandb: Any, run: Run, output: Path) -> None:
    settings = wandb.Settings(
        mode="offline",
        console="off",
        silent=True,
        disable_git=True,  # these would record the machine and folder of the export, not of the trial
        disable_code=True,
        save_code=False,
        x_disable_meta=True,
        x_disable_stats=True,
        x_disable_machine_info=True,
        x_save_requirements=False,
        host="",
        username="",
        program="peftbench export",
    )
    made = wandb.init(
        project=PROJECT,
        id=run.key,
        name=run.name,
        group=run.suite,
        job_type=str(run.config.get("method")),
        tags=[tag[:64] for tag in run.tags],
        notes=run.message,
        config=dict(run.config),
        dir=str(output),
        settings=settings,
    )
    for step, values in run.history:
        made.log(dict(values), step=step)
    facts = {name: value for name, value in run.final.items() if isinstance(value, str) or number(value) is not None}
    made.summary.update({**facts, "status": run.status, "message": run.message})
    folder = Path(made.dir).parent
    made.finish(exit_code=0 if run.ok else 1)
    (folder / _MARK).write_text(json.dumps(_stamp(run)), encoding="utf-8")
