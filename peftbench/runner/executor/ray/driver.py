"""Run jobs on a cluster of Ray: each trial is a task, whose worker runs it with the local executor.

The tasks only tell what happens. Rows are written by the command alone, as without Ray, so that a results folder has
one writer, and what it has written is what is finished (docs/design/ray.md).
"""

from __future__ import annotations

import importlib
import pickle
import secrets
import time
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from peftbench.errors import UserError
from peftbench.measure import environment
from peftbench.records import Job, Result, Status
from peftbench.records.columns.environment import EnvironmentColumns
from peftbench.records.columns.trial import SettingsColumns
from peftbench.results import cache
from peftbench.runner import rows
from peftbench.runner.executor import Event, local
from peftbench.runner.executor.ray import cluster, files, inputs, losses, worker
from peftbench.runner.executor.ray.asked import Asked
from peftbench.runner.executor.ray.spans import Spans
from peftbench.version import __version__

PATIENCE_SECONDS = 600.0
"""How long to wait for a node that can run what is left, as from a cluster that grows, before the run ends."""
_LOOK_SECONDS = 2.0
"""Time between two looks at the cluster."""
_LEAST_IN_FLIGHT = 16
"""Fewest trials that Ray is asked for at the same time; else twice as many as the cluster can run, so that it grows."""
_UNABLE_IN_FLIGHT = 4
"""Most trials that Ray is asked for though no node can run them, so that a cluster that grows sees them. They may not
keep trials back that can run."""


@dataclass
class _Run:
    own: bool
    """Whether the cluster is this machine alone, which gets no more nodes."""
    mark: str
    ray: Any
    task: Any
    waiting: deque[Asked]
    unable: deque[Asked] = field(default_factory=deque)
    """Trials that wait, and that no node could run when the cluster was looked at last."""
    flights: dict[Any, Asked] = field(default_factory=dict)
    """Trials that Ray was asked for, by the generator of their messages."""
    sent: dict[str, list[tuple[str, Any]]] = field(default_factory=dict)
    """Files of inputs that Ray holds, by the inputs' content."""
    refused: dict[tuple[str, str], str] = field(default_factory=dict)
    """Why a node cannot run trials that read something, by both."""
    looked: float = 0.0
    nodes: list[cluster.Node] = field(default_factory=list)
    stuck_since: float | None = None
    spans: Spans = field(default_factory=Spans)
    ended: deque[tuple[Asked, Result]] = field(default_factory=deque)


def run(jobs: Sequence[Job], own: bool) -> Iterator[Event]:
    """Run jobs on the cluster that is connected, and yield what happens; each job's last event has its result.

    Closing the iterator, or Ctrl-C within it, ends the running trials.

    Args:
        jobs: the jobs, whose results folder is the same.
        own: whether the cluster is this machine alone.

    Raises:
        UserError: if no node can run what is left.
    """
    if not jobs:
        return
    ray: Any = importlib.import_module("ray")
    mark = secrets.token_hex(16)
    cache.keep(Path(jobs[0].scratch) / worker.MARK, mark)
    task = ray.remote(max_retries=0, num_returns="streaming")(worker.work)
    state = _Run(own, mark, ray, task, deque(Asked(job, inputs.named(job)) for job in jobs))
    try:
        while state.waiting or state.unable or state.flights:
            _look(state)
            _submit(state)
            yield from _messages(state)
    finally:
        for messages in state.flights:
            with suppress(Exception):  # it may have ended, or its node
                ray.cancel(messages, force=True)


def _messages(state: _Run) -> Iterator[Event]:
    """Wait for messages, and yield what all that have come mean; results last.

    Those of several trials come in any order. What ran beside a trial is known when all have been read.
    """
    ready = state.ray.wait(list(state.flights), num_returns=1, timeout=_LOOK_SECONDS)[0]
    while ready:
        for messages in ready:
            yield from _receive(state, messages)
        left = list(state.flights)
        ready = state.ray.wait(left, num_returns=len(left), timeout=0)[0] if left else []
    while state.ended:
        asked, result = state.ended.popleft()
        yield Event(asked.job, asked.phase, result=_stamped(state, asked, result))


def _look(state: _Run) -> None:
    """Look at the cluster, if it is time.

    Raises:
        UserError: if nothing runs, and no node can run what is left.
    """
    now = time.monotonic()
    if now - state.looked < _LOOK_SECONDS and state.nodes:
        return
    state.looked, state.nodes = now, cluster.nodes()
    state.waiting.extendleft(reversed(state.unable))
    state.unable.clear()
    _recall(state)
    left = [*state.flights.values(), *state.waiting]
    if any(asked.node for asked in left) or any(_able(state, asked) for asked in left):
        state.stuck_since = None
        return
    since = state.stuck_since = state.stuck_since or now
    refusals = _refusals(state, left[0])
    if state.own or refusals or now - since > PATIENCE_SECONDS:
        raise UserError(_no_node(state, left[0], refusals))


def _recall(state: _Run) -> None:
    """Take back trials that Ray can no longer place as it was asked to, but could otherwise; they count no attempt.

    What is avoided or reserved is fixed when Ray is asked, and the nodes that were there then may be lost.
    """
    for messages, asked in list(state.flights.items()):
        able = [] if asked.node else _able(state, asked)
        where = [node for node in able if asked.fits(node)]
        shares = asked.alone and any(node.has["CPU"] > asked.reserved["CPU"] for node in where)  # a larger one joined
        if not able or (where and not shares):
            continue
        if state.ray.wait([messages], num_returns=1, timeout=0)[0]:  # it ran, and its messages tell what became of it
            continue
        del state.flights[messages]
        with suppress(Exception):  # its node may be lost at this moment
            state.ray.cancel(messages, force=True)
        state.waiting.appendleft(asked)


def _able(state: _Run, asked: Asked) -> list[cluster.Node]:
    """Return the nodes that can run a trial when they are free."""
    unfit = _unfit(state, asked)
    wanted = _needs(state, asked)
    return [node for node in state.nodes if node.name not in unfit and node.trials(wanted)]


def _needs(state: _Run, asked: Asked) -> dict[str, float]:
    """Return what a trial reserves; of memory that is only predicted, not more than the largest node for it has."""
    unfit = _unfit(state, asked)
    return _within(asked, [node for node in state.nodes if node.name not in unfit])


def _within(asked: Asked, nodes: Sequence[cluster.Node]) -> dict[str, float]:
    wanted = cluster.needs(asked.job)
    return wanted if cluster.limited(asked.job) else cluster.within(wanted, nodes)


def _unfit(state: _Run, asked: Asked) -> set[str]:
    return {node for node, what in state.refused if what in asked.reads}


def _refusals(state: _Run, asked: Asked) -> list[str]:
    """Return why the living nodes that have what a trial needs refused it."""
    living = {node.name for node in state.nodes if node.trials(_within(asked, [node]))}
    found = (why for (node, what), why in state.refused.items() if node in living and what in asked.reads)
    return list(dict.fromkeys(found))


def _no_node(state: _Run, asked: Asked, refusals: list[str]) -> str:
    kept = "finished trials are kept, the same command continues"
    if refusals:
        return f"no node of the cluster can run {asked.job.trial.cell}: {'; '.join(refusals)} ({kept})"
    wanted = cluster.shown(_needs(state, asked))
    have = "; ".join(dict.fromkeys(cluster.shown(node.has) for node in state.nodes)) or "none"
    return f"no node of the cluster can run {asked.job.trial.cell}, which needs {wanted}; nodes have: {have} ({kept})"


def _submit(state: _Run) -> None:
    """Ask Ray for trials, but not for all of a large grid: it would look at each of them again and again."""
    if not state.waiting:
        return
    unable = sum(not asked.node and not _able(state, asked) for asked in state.flights.values())
    able = len(state.flights) - unable
    while state.waiting:
        asked = state.waiting[0]
        if _able(state, asked):
            at_once = cluster.at_once(state.nodes, _needs(state, asked))
            if able >= max(_LEAST_IN_FLIGHT, 2 * at_once):
                return
            able += 1
        elif unable >= _UNABLE_IN_FLIGHT:
            state.unable.append(state.waiting.popleft())
            continue
        else:
            unable += 1
        state.waiting.popleft()
        asked.begin()
        messages = state.task.options(**_options(state, asked)).remote(
            __version__,
            environment.code_sha256(),
            pickle.dumps(asked.order(state.mark)),
            {content: state.sent[content] for content in asked.sent},
        )
        state.flights[messages] = asked


def _options(state: _Run, asked: Asked) -> dict[str, Any]:
    """Return what a trial reserves and which nodes it avoids, as Ray names them, and note both."""
    able = _able(state, asked)
    wanted = _needs(state, asked)
    avoided = _unfit(state, asked)
    if any(node.name not in asked.lost_on for node in able):
        avoided |= asked.lost_on & {node.name for node in able}
    if asked.alone:  # all CPUs of the largest node: fewer would leave room for others there
        whole = (node.has["CPU"] for node in able if node.name not in avoided)
        wanted["CPU"] = max(whole, default=wanted["CPU"])
    asked.reserved, asked.avoided = wanted, frozenset(avoided)
    options: dict[str, Any] = {"num_cpus": wanted["CPU"], "num_gpus": wanted["GPU"], "scheduling_strategy": "SPREAD"}
    if wanted["memory"]:
        options["memory"] = wanted["memory"]
    if avoided:
        options["label_selector"] = {"ray.io/node-id": f"!in({','.join(sorted(avoided))})"}
    return options


def _receive(state: _Run, messages: Any) -> Iterator[Event]:
    """Yield what a message means, or note the result that it brings; likewise the end of messages."""
    asked = state.flights[messages]
    try:
        kind, content = state.ray.get(next(messages))
    except StopIteration:
        _lost(state, messages, None)
        return
    except state.ray.exceptions.RayError as error:
        _lost(state, messages, error)
        return
    if kind == "event":
        asked.phase, step, steps, loss = content
        yield Event(asked.job, asked.phase, step, steps, loss)
    elif kind == "here":
        _began(state, asked, *content)
    elif kind in ("log", "adapter"):
        files.receive(asked.job, kind, content)
    elif kind == "files":
        asked.files = content
    elif kind == "result":
        del state.flights[messages]
        result, moment = content
        asked.end(moment)
        files.finish(asked.job, result, asked.files)
        state.ended.append((asked, result))
    else:
        del state.flights[messages]
        asked.end(None)
        _refuse(state, asked, kind, content)


def _began(state: _Run, asked: Asked, node: str, moment: float) -> None:
    """Note where and when a trial began."""
    asked.node = node
    asked.attempts += 1
    files.discard(asked.job)
    found = next((each for each in state.nodes if each.name == node), None)
    asked.capacity = found.trials(_needs(state, asked)) if found else None
    asked.span = state.spans.begin(node, moment)


def _refuse(state: _Run, asked: Asked, kind: str, content: Any) -> None:
    """Have a trial that its node could not start run elsewhere, or with what the node lacks."""
    asked.attempts -= 1
    node, asked.node = str(asked.node), None
    what, why = (content.sha256, _send(state, asked, content)) if kind == "missing" else content
    if why is not None:
        state.refused[node, what] = why
    state.waiting.appendleft(asked)
    state.looked = 0.0


def _send(state: _Run, asked: Asked, source: inputs.Source) -> str | None:
    """Have Ray hold an input that a node lacks; return why that does not help, None if it does."""
    if source.sha256 in asked.sent:
        return f"{source.path} could not be stored there"
    try:
        if source.sha256 not in state.sent:
            packed = inputs.packed(source)
            state.sent[source.sha256] = [(name, state.ray.put(path.read_bytes())) for name, path in packed]
    except (UserError, OSError) as error:
        return str(error)
    asked.sent.add(source.sha256)
    return None


def _lost(state: _Run, messages: Any, error: Exception | None) -> None:
    """Try a trial again whose task was lost, or note the result that says how it was lost.

    Args:
        state: the run.
        messages: the task's.
        error: what Ray raised; None if the task ended without a result.
    """
    asked = state.flights.pop(messages)
    loss = losses.loss(error, _beside(state, asked))
    asked.end(None)
    files.discard(asked.job)
    state.looked = 0.0
    if asked.node is None:
        asked.attempts += 1  # else one that is always lost before its node has said a word is tried for ever
    else:
        asked.lost_on.add(asked.node)
    if asked.attempts < losses.ATTEMPTS and not loss.final:
        asked.alone |= loss.alone
        asked.node = None
        state.waiting.append(asked)
        return
    times = "" if asked.attempts == 1 else f", {asked.attempts} times"
    state.ended.append((asked, local.failure(asked.job, loss.status, asked.phase, f"{loss.reason}{times}")))


def _beside(state: _Run, asked: Asked) -> int:
    return 0 if asked.span is None else state.spans.beside(str(asked.node), asked.span)


def _stamped(state: _Run, asked: Asked, result: Result) -> Result:
    """Return a result with where it ran, and the names that the command's machine has for what it read."""
    known = rows.row(asked.job, Status(result.row.status))
    row = replace(result.row, base=known.base, settings_json=known.settings_json)
    node = None if asked.node is None else asked.node[:12]
    beside = None if asked.span is None else _beside(state, asked)  # it was lost before its node said a word
    where = EnvironmentColumns(node=node, attempts=asked.attempts, trials_beside=beside)
    return replace(result, row=row.updated(where, SettingsColumns(workers=asked.capacity or row.workers)))
