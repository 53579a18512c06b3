"""One cell of the matrix: a trial on a tiny base model, run as the runner runs it, and proofs that a trial has not.

A cell that a trial calls ok is ``wrong`` if a proof fails: the saved adapter gives other logits, answers depend on the
batch size or on the cache, likelihoods are not those of a forward pass, virtual tokens are not what they stand for,
padding changes logits, or a part that trains did not move.
"""

from __future__ import annotations

import dataclasses
import json
import logging
import math
import os
import resource
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

SECONDS, MEMORY = 180, 3 << 30
"""A cell that takes more seconds of computing or more bytes than this ends as ``error``."""
_WAIT = 10
"""How many times as long a cell may take as it computes, since other work may share the machine."""
STORAGES = {"qlora": "nf4"}
"""Precision of the methods that do not exist in fp32."""
CLOSE = {"fp32": (2e-4, 1e-3), "nf4": (2e-2, 1e-2)}
"""Absolute and relative tolerance of logits that must be equal."""
PEAK = 0.10
"""Largest relative distance of the predicted memory peak from the measured one."""


@dataclass(frozen=True)
class Outcome:
    """How a cell ended."""

    status: str
    """``ok``, ``unsupported``, ``error`` or ``wrong``."""
    reason: str | None = None
    """Why it is not ok."""
    phase: str | None = None
    """The phase in which it ended."""
    planned: bool = False
    """Whether ``plan`` gives the reason before anything runs."""
    measured: dict[str, Any] = field(default_factory=dict)


@dataclass
class Seen:
    """What is taken from a trial while it runs."""

    model: Any = None
    tokenizer: Any = None
    before: dict[str, Any] = field(default_factory=dict)
    after: dict[str, Any] = field(default_factory=dict)
    logits: Any = None


def storage(name: str) -> str:
    """Return the precision in which a method's cells run."""
    return STORAGES.get(name, "fp32")


def forked(run: Callable[[], Outcome], log: Path, seconds: float = SECONDS) -> Outcome:
    """Run a cell in a process of its own, within limits of computing time and of memory."""
    reader, writer = os.pipe()
    sys.stdout.flush()
    child = os.fork()
    if child == 0:
        os.close(reader)
        status = 1
        with suppress(BaseException):
            signal.signal(signal.SIGALRM, signal.SIG_DFL)  # a test runner may have a handler of its own
            signal.alarm(max(1, int(_WAIT * seconds)))
            resource.setrlimit(resource.RLIMIT_CPU, (math.ceil(seconds), resource.RLIM_INFINITY))
            resource.setrlimit(resource.RLIMIT_DATA, (MEMORY, MEMORY))
            target = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
            os.dup2(target, 1)
            os.dup2(target, 2)
            os.write(writer, json.dumps(dataclasses.asdict(run())).encode())
            status = 0
        os._exit(status)
    os.close(writer)
    with os.fdopen(reader) as channel:
        text = channel.read()
    _, ended = os.waitpid(child, 0)
    if text:
        return Outcome(**json.loads(text))
    if os.WIFSIGNALED(ended) and os.WTERMSIG(ended) in (signal.SIGALRM, signal.SIGXCPU):
        return Outcome("error", f"did not end within {seconds:g} s of computing")
    last = log.read_text(errors="replace").strip().splitlines()[-1:] if log.is_file() else []
    return Outcome("error", f"the process ended with {ended}: {' '.join(last)[:300]}")


def preload() -> None:
    """Import what cells need, so that their processes are forked with it."""
    import datasets
    import torch
    import transformers

    import peftbench.runner.executor.preload
    import peftbench.runner.prepare  # noqa: F401
    import tools.validation.matrix_proofs  # noqa: F401

    torch.set_num_threads(1)
    transformers.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    datasets.disable_progress_bars()


def run(base: Path, name: str, folder: Path, precision: str) -> Outcome:
    """Run one cell in this process: the trial, then the proofs if it was ok."""
    import torch

    from peftbench.runner import prepare, trial
    from tests.support import trials

    torch.set_num_threads(1)
    folder.mkdir(parents=True, exist_ok=True)
    made = trials.trial(base, folder, name, precision, training={"steps": 2})
    planned = prepare.impossible([made]).get(made.cell)
    if made.unsupported is not None:
        return Outcome("unsupported", made.unsupported, planned=True)
    job = dataclasses.replace(trials.job(made, folder), adapter_folder=str(folder / "adapter"), predicts=True)
    seen, started = Seen(), time.perf_counter()
    with watched(seen):
        result = trial.run(job, started, lambda _: None, lambda *_: None)
    row = result.row
    measured = {
        "predicted": row.predicted_train_bytes,
        "peak": row.peak_train_bytes,
        "trainable_tensors": row.trainable_tensors,
        "stalled": row.stalled_tensors,
        "adapted_share": row.adapted_share,
        "later": row.later_token_influence,
        "change": row.largest_logit_change,
        "seconds": time.perf_counter() - started,
    }
    phase = str(row.phase) if row.phase else None
    if row.status != "ok":
        status = row.status if row.status in ("unsupported", "error") else "wrong"
        message = row.message if status != "wrong" else f"{row.status}: {row.message}"
        return Outcome(status, message, phase, planned == row.message, measured)
    if planned is not None:
        return Outcome("wrong", f"plan says: {planned}", "plan", True, measured)
    failed = "; ".join(_proofs(base, name, precision, folder, seen, row))
    return Outcome("wrong", failed, "proofs", False, measured) if failed else Outcome("ok", measured=measured)


@contextmanager
def watched(seen: Seen) -> Iterator[None]:
    """Take the model and its trainable tensors from a trial while it trains and saves."""
    from peftbench.runner import checkpoint
    from peftbench.training import loop
    from tests.support.method_cells import IDS, logits

    train, save = loop.train, checkpoint.save

    def training(learner: Any, *given: Any) -> Any:
        seen.before = _trainable(learner.model)
        found = train(learner, *given)
        seen.after = _trainable(learner.model)
        return found

    def saving(job: Any, model: Any, tokenizer: Any) -> Any:
        seen.model, seen.tokenizer, seen.logits = model, tokenizer, logits(model, job.trial.precision, IDS)
        return save(job, model, tokenizer)

    loop.train, checkpoint.save = training, saving  # type: ignore[assignment]
    try:
        yield
    finally:
        loop.train, checkpoint.save = train, save


def _trainable(model: Any) -> dict[str, Any]:
    return {n: p.detach().clone() for n, p in model.named_parameters() if p.requires_grad}


def _proofs(base: Path, name: str, precision: str, folder: Path, seen: Seen, row: Any) -> Iterator[str]:
    """Yield what a trial that ended ok got wrong."""
    from tools.validation import matrix_proofs as proofs

    subject = proofs.Subject(base, name, precision, folder, seen, CLOSE[precision])
    if row.stalled_tensors:
        stalled = row.stalled_tensors.split(", ")
        yield f"{len(stalled)} of {row.trainable_tensors} trainable tensors did not move, such as {stalled[0]}"
    if row.predicted_train_bytes and abs(row.predicted_train_bytes / row.peak_train_bytes - 1) > PEAK:
        ratio = row.predicted_train_bytes / row.peak_train_bytes
        yield f"the predicted memory peak is {ratio:.2f} of the measured one"
    for proof in proofs.PROOFS:
        try:
            found = proof(subject)
        except Exception as error:
            logging.getLogger("peftbench").exception("a proof raised")
            found = f"{proof.__name__} raised {type(error).__name__}: {' '.join(str(error).split())[:200]}"
        if found:
            yield found
