"""MLflow: one run per trial in the SQLite store ``OUTPUT/mlflow.db``, one experiment per suite."""

from __future__ import annotations

import json
import logging
import os
import time
from collections.abc import Iterator, Sequence
from datetime import datetime
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

from peftbench.report.export import Written
from peftbench.report.export.runs import Exported, Run, flat, number

T = TypeVar("T")
_KEY, _FINISHED = "peftbench.key", "peftbench.finished_at"
_LONGEST = 5_900
"""Characters of a setting; MLflow cuts at 6000, without a sign in the value."""
_PARAMS, _METRICS = 100, 1_000
"""Most settings and most values that MLflow takes in one call."""
_CUT = " ... (cut)"


def write(results: Exported, output: Path) -> Written:
    """Write the trials that are not there yet; a trial that has run again replaces its run (MLflow: deleted)."""
    os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"  # else the library reports its use over the network
    logging.getLogger("mlflow").setLevel(logging.WARNING)
    from mlflow.tracking import MlflowClient

    address = f"sqlite:///{(output / 'mlflow.db').resolve()}"
    client = MlflowClient(tracking_uri=address)
    stored: dict[str, dict[str, Any]] = {}
    kept = new = 0
    for run in results.runs():
        experiment = _experiment(client, run.suite, output)
        if experiment not in stored:
            stored[experiment] = _stored(client, experiment)
        earlier = stored[experiment].get(run.key)
        if earlier and earlier.info.status != "RUNNING" and earlier.data.tags.get(_FINISHED) == str(run.finished_at):
            kept += 1
            continue
        if earlier:
            client.delete_run(earlier.info.run_id)
        _write(client, experiment, run)
        new += 1
    return Written(new, kept, f"mlflow server --backend-store-uri {address}")


def _experiment(client: Any, suite: str, output: Path) -> str:
    found = client.get_experiment_by_name(suite)
    if found:
        return str(found.experiment_id)
    return str(client.create_experiment(suite, artifact_location=(output / "artifacts").resolve().as_uri()))


def _stored(client: Any, experiment: str) -> dict[str, Any]:
    found: dict[str, Any] = {}
    token = None
    while True:
        page = client.search_runs([experiment], max_results=1_000, page_token=token)
        found |= {run.data.tags[_KEY]: run for run in page if _KEY in run.data.tags}
        token = page.token
        if not token:
            return found


def _write(client: Any, experiment: str, run: Run) -> None:
    from mlflow.entities import Metric, Param

    began, ended = _milliseconds(run.started_at), _milliseconds(run.finished_at)
    tags = dict.fromkeys(run.tags, "true") | {
        _KEY: run.key,
        _FINISHED: str(run.finished_at),
        "status": run.status,
        **({"message": run.message, "mlflow.note.content": run.message} if run.message else {}),
        **{name: value for name, value in run.final.items() if isinstance(value, str)},
    }
    identity = client.create_run(experiment, start_time=began, run_name=run.name, tags=tags).info.run_id
    for params in _batches([Param(name, _text(value)) for name, value in flat(run.config).items()], _PARAMS):
        client.log_batch(identity, params=params)
    last = run.history[-1][0] if run.history else 0
    points = [(step, values) for step, values in run.history] + [(last, run.final)]
    # MLflow has no metric without a time: of a trial whose end is unknown it is that of the export
    at = ended if ended is not None else int(time.time() * 1000)
    metrics = [
        Metric(_name(name), float(value), at, step)
        for step, values in points
        for name, value in values.items()
        if number(value) is not None or value != value  # NaN is stored as such, but an infinity as the largest float
    ]
    for batch in _batches(metrics, _METRICS):
        client.log_batch(identity, metrics=batch)
    client.set_terminated(identity, "FINISHED" if run.ok else "FAILED", end_time=ended)


def _text(value: Any) -> str:
    """Return a setting as text: a text as it is, everything else as JSON, so that an unknown one is ``null``."""
    text = value if isinstance(value, str) else json.dumps(value)
    return text if len(text) <= _LONGEST else text[:_LONGEST] + _CUT


def _name(name: str) -> str:
    """Return a name with only the characters that MLflow allows."""
    return "".join(c if c.isalnum() or c in "_-./: " else "_" for c in name)


def _batches(items: Sequence[T], size: int) -> Iterator[list[T]]:
    rest = iter(items)
    while batch := list(islice(rest, size)):
        yield batch


def _milliseconds(text: str | None) -> int | None:
    try:
        return round(1000 * datetime.fromisoformat(text).timestamp()) if text else None
    except ValueError:
        return None
