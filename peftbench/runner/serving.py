"""Score a tuned model in another engine, beside what this one scored, and compare what both computed."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from peftbench.evaluation import scoring
from peftbench.evaluation.deployed import forms, reading
from peftbench.evaluation.engine import client
from peftbench.evaluation.engine.harness import EngineHarness
from peftbench.methods import context_length, engines
from peftbench.records import Example, ExampleRow, Status
from peftbench.records.columns.environment import EnvironmentColumns
from peftbench.runner.state import Run
from peftbench.training.encoded import learned_ends

_DECODED_AFTER = 2
"""Positions that an engine needs beyond a text's tokens: it runs the last one too, and decodes one after it."""
_OF_FREE_MEMORY = 0.9
"""The share of a GPU's free memory that the engine may take."""


def scored(
    run: Run,
    source: forms.Source,
    form: str,
    scratch: Path,
    targets: reading.Targets,
    before: reading.Reading,
    examples: Mapping[str, list[Example]],
) -> dict[str, Any]:
    """Return what is stored of a form that another engine has scored on the same tokens.

    Args:
        run: the trial, which has the scored examples of the trained model.
        source: the saved weights.
        form: a form of an engine.
        scratch: an empty folder for its files.
        targets: the tokenized targets.
        before: what the trained model gave for them.
        examples: the scored examples of each task.

    Raises:
        EngineFailed: if the engine cannot be started, or fails.
        Unsupported: if it does not serve the form.
    """
    trial = run.job.trial
    engine, _ = engines.engine_of(form)
    assert engine is not None
    client.interpreter(engine)  # before anything is merged
    made = forms.served(source, form, dict(trial.options), scratch)
    precision = source.plain_precision
    positions = context_length.remaining(trial, json.loads((source.base_folder / "config.json").read_text()))
    longest = min(trial.evaluation.max_length + _DECODED_AFTER, positions or 2**31)
    asked = client.Asked(
        folder=made.folder,
        adapter=made.adapter,
        rank=made.rank,
        modules=made.modules,
        dtype=precision.weights,
        max_length=longest,
        device=trial.device,
        device_share=_device_share(trial.device),
        threads=trial.threads,
        trust_remote_code=source.trust_remote_code,
    )
    with client.start(engine, asked, scratch) as running:
        told = {"engine": engine, **running.versions}
        _remember(run, told)
        harness = EngineHarness(
            running,
            made.folder,
            longest,
            source.tokenizer,
            trial.evaluation,
            precision,
            learned_ends(trial),
            source.trust_remote_code,
        )
        nats = targets.by_task(
            dict(zip((e.identity for e in targets.encoded), harness.nats(targets.encoded), strict=True))
        )
        scores, rows = scoring.evaluate(
            harness, [task for task in trial.tasks if task.name in trial.evaluate], examples
        )
    return {
        "status": Status.OK,
        "dtype": precision.weights,
        "stored_bytes": made.stored_bytes,
        "loaded_bytes": None,
        "load_seconds": running.load_seconds,
        "largest_logit_difference": None,
        "logit_positions": 0,
        "engine": told,
        "beside": _beside(run.examples, rows, before.nats, nats),
        "tasks": reading.tasks({s.task: s.value for s in scores}, rows, nats),
    }


def _device_share(device: str) -> float | None:
    """Return the share of the GPU's memory that is left for the engine; None on the CPU."""
    if device != "cuda":
        return None
    free, total = torch.cuda.mem_get_info()
    return round(_OF_FREE_MEMORY * free / total, 3)


def _remember(run: Run, told: Mapping[str, str]) -> None:
    """Add the engine and its versions to the row's environment."""
    found = {**json.loads(run.row.environment_json), "engine": dict(told)}
    run.record(EnvironmentColumns(environment_json=json.dumps(found, sort_keys=True)))


def _beside(
    ours: Sequence[ExampleRow],
    theirs: Sequence[ExampleRow],
    before: Mapping[str, Sequence[float]],
    after: Mapping[str, Sequence[float]],
) -> dict[str, Any]:
    """Return how far the engine's numbers are from those of the trained model, text by text.

    Log-probabilities are those of the choices that were ranked, of texts whose likelihood is the score, and of targets.
    """
    pairs = [pair for task, nats in before.items() for pair in zip(nats, after[task], strict=True)]
    texts: list[bool] = []
    known = {(row.task, row.index): row for row in theirs}
    for row in ours:
        other = known[row.task, row.index]
        if row.choice_logprobs is None:
            texts.append(row.prediction == other.prediction)
            continue
        pairs += zip(json.loads(row.choice_logprobs), json.loads(other.choice_logprobs or "[]"), strict=True)
    differences = [abs(one - another) for one, another in pairs]
    return {
        "largest_logprob_difference": max(differences, default=None),
        "logprobs": len(differences),
        "equal_texts": sum(texts),
        "texts": len(texts),
    }
