"""Trials for tests, built without a suite, on tasks of a few lines."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from peftbench.methods import METHODS, method_of
from peftbench.methods.support import refusal
from peftbench.models import find
from peftbench.records import Base, Evaluation, Job, Result, Task, Training, Trial
from peftbench.suite import trial_key
from peftbench.tasks import overlap, read

if TYPE_CHECKING:
    from peftbench.runner.executor import Event

COLOURS = {"sky": "blue", "grass": "green", "sea": "blue", "rose": "red", "leaf": "green", "blood": "red"}
EXAMPLES = {"peft": {"peft_type": "MISS"}}
"""Options without which a method is nothing in particular."""
TRAINING = Training(
    data=(("colour", 1.0),),
    steps=4,
    epochs=None,
    tokens=None,
    batch_size=4,
    micro_batch_size=4,
    sequence_length=32,
    learning_rate=1e-2,
    optimizer="adamw",
    schedule="linear",
    warmup_ratio=0.0,
    weight_decay=0.0,
    clip_norm=1.0,
    gradient_checkpointing=False,
    loss_on="completion",
    score="last",
    validate_every=None,
    untimed_steps=1,
)


def tasks(folder: Path) -> tuple[Task, ...]:
    """Write three tiny tasks, one of each kind, and return them."""
    rows = [{"thing": f"{thing}{n}", "colour": colour} for n in range(4) for thing, colour in COLOURS.items()]
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "colours.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    files = {split: str(path) for split in ("train", "validation", "test")}
    shared = {"files": files, "prompt": "the colour of {{ thing }} ?", "target": "{{ colour }}", "limit": 8}
    return (
        Task("colour", "choice", choices=("red", "green", "blue"), **shared),
        Task("colour_text", "exact_match", max_new_tokens=4, **shared),
        Task("colour_line", "generation", max_new_tokens=6, **shared),
    )


def trial(base: Path, data: Path, method: str = "lora", precision: str = "fp32", **changes) -> Trial:
    """Return a trial on the tiny tasks; ``training`` takes changes to the training settings, others go to Trial."""
    options = EXAMPLES.get(method, {}) | changes.pop("options", {})
    found = method_of(method, options)
    rank = changes.pop("rank", None if found.rank_meaning is None else 4)
    if not METHODS[method].variants:
        options = {name: setting.default for name, setting in found.options.items()} | options
    if "alpha" in options and options["alpha"] is None:
        options["alpha"] = 2.0 * rank
    training = replace(TRAINING, **{k: v for k, v in found.training.items() if k == "optimizer"})
    training = replace(training, **changes.pop("training", {}))
    refused = refusal(found, precision, "cpu", None)
    settings = {
        "suite": "test",
        "cell": found.cell_name(rank, precision, {}),
        "base": Base(str(base)),
        "method": method,
        "precision": precision,
        "rank": rank,
        "options": options,
        "seed": 0 if found.trains else None,
        "tasks": tasks(data),
        "evaluate": ("colour", "colour_text"),
        "training": training if found.trains else None,
        "evaluation": Evaluation(batch_size=4, max_length=48, split="test"),
        "device": "cpu",
        "threads": 1,
        "unsupported": refused.message if refused else None,
        "unsupported_reason": refused.reason if refused else None,
    }
    return Trial(**{**settings, **changes})


def job(made: Trial, scratch: Path) -> Job:
    """Return a trial's job; its log goes beside the scratch folder's files."""
    folder = find.resolve_base(made.base)
    base_sha256, data_sha256 = find.base_fingerprint(folder), read.fingerprint(made.tasks)
    key = trial_key.key(made, base_sha256, data_sha256)
    return Job(
        made,
        key,
        str(folder),
        base_sha256,
        data_sha256,
        "{}",
        1,
        str(scratch),
        overlap_json=overlap.of_trial(made),
        log=str(scratch / f"{key}.log"),
    )


def in_this_process(jobs: Iterable[Job], workers: int) -> Iterator[Event]:
    """Run jobs without a process server; replaces ``local.run``."""
    from peftbench.runner import trial
    from peftbench.runner.executor import Event

    for asked in jobs:
        result = trial.run(asked, time.perf_counter(), lambda _: None, lambda *_: None)
        yield Event(asked, "start", result=result)


def run(made, tmp_path: Path, **job_fields) -> Result:
    """Run a trial in this process."""
    from peftbench.runner import trial

    asked = replace(job(made, tmp_path), **job_fields)
    return trial.run(asked, time.perf_counter(), lambda _: None, lambda *_: None)
