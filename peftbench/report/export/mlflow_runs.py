"""MLflow: one run per trial in the SQLite store ``OUTPUT/mlflow.db``, one experiment per suite."""

from __future__ import annotations

import json
import logging
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

from peftbench.errors import UserError
from peftbench.report.export import Written
from peftbench.report.export.runs import Exported, Run, flat, number

_KEY, _FINISHED = "peftbench.key", "peftbench.finished_at"
_LONGEST = 5_900
"""Characters of a setting; MLflow cuts at 6000, without a sign in the value."""
_PARAMS, _VALUES = 100, 1_000
"""Most settings, and most settings and numbers together, that MLflow takes in one call."""
_HEAD = b"SQLite format 3\0"
_CUT = " ... (cut)"


def write(results: Exported, output: Path) -> Written:
    """Write the trials that are not there yet; a trial that has run again replaces its run (MLflow: deleted).

    Raises:
        UserError: if the store there is no SQLite file, or MLflow refuses it.
    """
    os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"  # else the library reports its use over the network
    logging.getLogger("mlflow").setLevel(logging.WARNING)
    from mlflow.tracking import MlflowClient

    path = (output / "mlflow.db").resolve()
    address = f"sqlite:///{path}"
    with _told(path), _without_waiting(path):
        new, kept = _export(MlflowClient(tracking_uri=address), results, output)
    return Written(new, kept, f"mlflow server --backend-store-uri {address}")


@contextmanager
def _told(path: Path) -> Iterator[None]:
    """Turn what MLflow refuses into a message."""
    from alembic.util import CommandError
    from mlflow.exceptions import MlflowException
    from sqlalchemy.exc import SQLAlchemyError

    if path.is_file():
        with open(path, "rb") as file:
            head = file.read(len(_HEAD))
        if head not in (b"", _HEAD):
            raise UserError(f"{path} is no SQLite store: choose another folder with -o")
    try:
        yield
    except (MlflowException, CommandError, SQLAlchemyError) as error:
        said = (str(error).strip().splitlines() or [""])[0]
        raise UserError(f"MLflow cannot write to {path}: {said}; choose another folder with -o") from error


@contextmanager
def _without_waiting(path: Path) -> Iterator[None]:
    """Let SQLite not wait for the disk at each of hundreds of commits, if there is no store yet that could be lost."""
    if path.exists():
        yield
        return
    from sqlalchemy import event
    from sqlalchemy.engine import Engine

    def connected(connection: Any, _: Any) -> None:
        connection.execute("PRAGMA synchronous=OFF")

    event.listen(Engine, "connect", connected)
    try:
        yield
    finally:
        event.remove(Engine, "connect", connected)


def _export(client: Any, results: Exported, output: Path) -> tuple[int, int]:
    """Return how many runs were written, and how many were there already."""
    experiments: dict[str, str] = {}
    stored: dict[str, dict[str, Any]] = {}
    kept = new = 0
    for run in results.runs():
        if run.suite not in experiments:
            experiments[run.suite] = _experiment(client, run.suite, output)
            stored[run.suite] = _stored(client, experiments[run.suite])
        earlier = stored[run.suite].get(run.key)
        if earlier and earlier.info.status != "RUNNING" and earlier.data.tags.get(_FINISHED) == str(run.finished_at):
            kept += 1
            continue
        if earlier:
            client.delete_run(earlier.info.run_id)
        _write(client, experiments[run.suite], run)
        new += 1
    return new, kept


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
    """Write a run. MLflow needs a beginning of a run, and a time of each value; the end may be unknown."""
    began, ended = _milliseconds(run.started_at), _milliseconds(run.finished_at)
    now = int(time.time() * 1000)
    at = next(known for known in (ended, began, now) if known is not None)
    tags = dict.fromkeys(run.tags, "true") | {
        _KEY: run.key,
        _FINISHED: str(run.finished_at),
        "status": run.status,
        **({"message": run.message, "mlflow.note.content": run.message} if run.message else {}),
        **{name: value for name, value in run.final.items() if isinstance(value, str)},
    }
    began = at if began is None else began
    identity = client.create_run(experiment, start_time=began, run_name=run.name, tags=tags).info.run_id
    for params, metrics in _calls(run, at):
        client.log_batch(identity, metrics=metrics, params=params)
    status = "FINISHED" if run.ok else "FAILED"
    if ended is None:
        client.update_run(identity, status=status)  # set_terminated would store the time of the export
    else:
        client.set_terminated(identity, status, end_time=ended)


def _calls(run: Run, at: int) -> Iterator[tuple[list[Any], list[Any]]]:
    """Yield the settings and numbers of a run in as few parts as MLflow allows."""
    from mlflow.entities import Metric, Param

    params = [Param(name, _text(value)) for name, value in flat(run.config).items()]
    last = run.history[-1][0] if run.history else 0
    points = [*run.history, (last, run.final)]
    metrics = [
        Metric(_name(name), float(value), at, step)
        for step, values in points
        for name, value in values.items()
        if number(value) is not None or value != value  # NaN is stored as such, but an infinity as the largest float
    ]
    while params or metrics:
        room = _VALUES - len(params[:_PARAMS])
        yield params[:_PARAMS], metrics[:room]
        params, metrics = params[_PARAMS:], metrics[room:]


def _text(value: Any) -> str:
    """Return a setting as text: a text as it is, everything else as JSON, so that an unknown one is ``null``."""
    text = value if isinstance(value, str) else json.dumps(value)
    return text if len(text) <= _LONGEST else text[:_LONGEST] + _CUT


def _name(name: str) -> str:
    """Return a name with only the characters that MLflow allows."""
    return "".join(c if c.isalnum() or c in "_-./: " else "_" for c in name)


def _milliseconds(text: str | None) -> int | None:
    try:
        return round(1000 * datetime.fromisoformat(text).timestamp()) if text else None
    except ValueError:
        return None
