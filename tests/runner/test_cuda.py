"""Complete trials on a GPU, run as by ``peftbench run``: ``pytest -m gpu``. They are skipped without a GPU."""

from __future__ import annotations

import dataclasses
import json
import multiprocessing
import time

import pytest
import torch

from peftbench.methods import METHODS
from peftbench.models import builtin
from peftbench.records import Retention, TrialRow
from peftbench.runner import trial
from peftbench.runner.executor import local
from peftbench.training import loop
from tests.support import trials

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device, or no -m gpu"),
]
CELLS = [
    *(("base", "bf16"), ("base", "nf4"), ("full", "bf16"), ("full", "fp16"), ("qlora", "nf4"), ("lora", "int8")),
    *(("lora", precision) for precision in ("fp32", "tf32", "bf16", "bf16-true", "fp16")),
    *((name, "bf16") for name in METHODS.own if name not in ("base", "full", "lora", "qlora")),
]


def rows(cells, tiny, folder, device="cuda", **changes) -> list[TrialRow]:
    """Return the rows of trials in processes of their own, with all measurements."""
    text = Retention(str(builtin.held_out("nano")), limit=4)
    made = [trials.trial(tiny, folder, *cell, device=device, retention=text, **changes) for cell in cells]
    jobs = [dataclasses.replace(trials.job(t, folder), measures_inference=True, predicts=True) for t in made]
    return [event.result.row for event in local.run(jobs, workers=1) if event.result is not None]


def look(row: TrialRow) -> None:
    """Check that a row has all measurements and that they are consistent."""
    assert (row.status, row.message) == ("ok", None)
    assert row.memory_kind == "allocator"
    assert row.peak_evaluate_bytes > row.base_weights_bytes
    assert row.peak_generate_bytes > row.base_weights_bytes
    assert min(row.evaluate_prefill_seconds, row.evaluate_decode_seconds) > 0
    assert row.evaluate_prefill_seconds + row.evaluate_decode_seconds < row.evaluate_seconds
    assert row.retention_loss_before > 0
    reasons = json.loads(row.inference_json)["reasons"]
    assert not [why for why in reasons.values() if "Error" in why], reasons
    if METHODS[row.method].trains:
        assert row.base_weights_bytes < row.peak_train_bytes <= row.peak_train_reserved_bytes < row.device_used_bytes
        assert row.predicted_train_bytes > row.base_weights_bytes
        assert row.stalled_tensors is None
        assert row.device_flops_per_second > row.train_flops_per_token * row.processed_tokens_per_second
        assert row.train_flops_per_token > 0


@pytest.mark.parametrize("cell", CELLS, ids="-".join)
def test_a_trial_on_a_gpu_has_all_measurements(cell, tiny, tmp_path):
    (row,) = rows([cell], tiny, tmp_path)
    look(row)


@pytest.mark.parametrize(
    "training",
    [
        {"packing": True},
        {"gradient_checkpointing": True},
        {"logits": "loss_bearing"},
        {"logits": "chunked"},
        {"validate_every": 2, "score": "best_on_validation", "micro_batch_size": 2},
        *({"optimizer": name} for name in ("adamw_8bit", "paged_adamw", "paged_adamw_8bit", "sgd", "adafactor")),
    ],
    ids=lambda training: " ".join(map(str, training.values())),
)
def test_training_on_a_gpu_works_with_all_settings(training, tiny, tmp_path):
    (row,) = rows([("lora", "bf16")], tiny, tmp_path, training=training)
    look(row)


@pytest.mark.parametrize("start", ["gaussian", "pissa", "olora", "eva", "loftq"])
def test_lora_initialisations_work_on_the_gpu(start, tiny, tmp_path):
    cell = ("lora", "nf4" if start == "loftq" else "fp32")
    (row,) = rows([cell], tiny, tmp_path, options={"initialization": start})
    look(row)


def test_two_trials_of_a_seed_with_dropout_have_equal_losses(tiny, tmp_path):
    first, second = rows([("lora", "fp32")] * 2, tiny, tmp_path, options={"dropout": 0.1})
    assert first.last_loss == pytest.approx(second.last_loss, rel=1e-3)


def test_a_full_gpu_is_oom_with_the_peak_until_then(tiny, tmp_path, monkeypatch):
    def full(*_):
        torch.empty(2**50, dtype=torch.uint8, device="cuda")

    monkeypatch.setattr(loop, "step", full)
    job = trials.job(trials.trial(tiny, tmp_path, device="cuda"), tmp_path)
    row = trial.run(job, time.perf_counter(), lambda _: None, lambda *_: None).row
    assert (row.status, row.phase) == ("oom", "train")
    assert 0 < row.base_weights_bytes < row.peak_train_bytes < row.device_used_bytes


def server_says(channel):
    """Runs in a process forked from the server; it could not use CUDA if the server had touched it."""
    channel.send((torch.cuda._is_in_bad_fork(), float(torch.ones(2, device="cuda").sum())))


def test_the_server_has_never_touched_cuda():
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["peftbench.runner.executor.preload"])
    ours, theirs = context.Pipe(duplex=False)
    process = context.Process(target=server_says, args=(theirs,))
    process.start()
    assert ours.poll(120)
    assert ours.recv() == (False, 2.0)
    process.join()
