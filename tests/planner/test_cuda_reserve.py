"""What a CUDA device holds beside tensors: the arithmetic alone, as none of it can be measured without one."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from torch import nn

from peftbench import cli
from peftbench.commands import memory_table
from peftbench.measure.ledger import account
from peftbench.planner import cuda_reserve, forecast
from peftbench.planner.predict import predict
from peftbench.runner import prepare
from tests.support import trials

MIB = 2**20


@pytest.mark.parametrize(("size", "taken"), [(0, 0), (1, 512), (512, 512), (513, 1024), (4 * 300, 1536)])
def test_an_allocation_is_a_multiple_of_512_bytes(size, taken):
    with account(nn.Module(), False, {}, cuda_reserve.rounding("cuda")) as book:
        held = torch.zeros(size, dtype=torch.uint8)
        assert (book.live["temporaries"], book.peak_bytes) == (taken, taken)
        del held
        assert book.live["temporaries"] == 0


def test_nothing_is_rounded_on_the_cpu():
    with account(nn.Module(), False, {}, cuda_reserve.rounding("cpu")) as book:
        held = torch.zeros(1, dtype=torch.uint8)
        assert book.live["temporaries"] == held.nbytes == 1


def test_two_linear_layers_take_each_tensor_rounded_up():
    model = nn.Sequential(nn.Linear(3, 5), nn.Linear(5, 300))
    with account(model, True, {}, 512) as book:
        assert book.live["base_weights"] == 512 + 512 + 4 * 1500 + 144 + 1536
        model(torch.ones(2, 3)).sum().backward()
    assert book.live["gradients"] == 512 + 512 + 6144 + 1536


def test_a_trace_for_cuda_rounds_up_and_is_else_the_cpus(tiny, tmp_path):
    made = trials.trial(tiny, tmp_path)
    here, there = (predict(dataclasses.replace(made, device=name), tiny) for name in ("cpu", "cuda"))
    lora = 3 * 2 * 7  # A and B of each linear layer, all of sizes that are multiples already
    assert here.categories["adapter"] == there.categories["adapter"]
    assert all(size % cuda_reserve.ROUNDING == 0 for size in there.categories.values())
    assert 0 < there.peak_bytes - here.peak_bytes < 511 * (300 + lora)
    assert (here.flops_per_token, here.checkpoint_bytes) == (there.flops_per_token, there.checkpoint_bytes)


def test_the_reserve_is_the_sum_of_the_parts_and_zero_on_the_cpu(tiny, tmp_path):
    made = trials.trial(tiny, tmp_path, device="cuda")
    assert (
        cuda_reserve.reserve(made) == 600_000_000 + (64 + 1 + 22) * MIB == sum(part.size for part in cuda_reserve.PARTS)
    )
    assert cuda_reserve.reserve(dataclasses.replace(made, precision="int8")) - cuda_reserve.reserve(made) == 700_000_000
    assert cuda_reserve.reserve(dataclasses.replace(made, device="cpu")) == 0
    assert all(part.source and part.doc for part in cuda_reserve.PARTS)


@pytest.mark.parametrize(("reserve", "fits"), [(None, False), (0, True), (100, True)])
def test_a_budget_on_cuda_has_a_reserve_unless_one_is_given(reserve, fits, tiny, tmp_path):
    made = trials.trial(tiny, tmp_path, device="cuda")
    asked = forecast.Question(500 * MIB, reserve)
    (found,) = forecast.forecasts([made], lambda _: tiny, asked)
    assert found.fits is fits
    told = "\n".join(memory_table.lines([found], asked))
    assert "non-tensor memory beside the peak: an estimated 659.2 MiB, of which context 572.2 MiB, cuBLAS" in told
    assert ("less its non-tensor memory" in told) is (reserve is None)
    assert max(map(len, told.splitlines())) <= 120


def test_a_plan_for_the_cpu_does_not_mention_a_gpu(tiny, tmp_path):
    asked = forecast.Question(500 * MIB)
    found = list(forecast.forecasts([trials.trial(tiny, tmp_path)], lambda _: tiny, asked))
    told = "\n".join(memory_table.lines(found, asked))
    assert found[0].fits
    assert "non-tensor memory" not in told
    assert "fits: whether the peak is at most 500.0 MiB." in told


@pytest.mark.parametrize(
    ("device", "given", "kept"), [("cpu", None, 0), ("cuda", None, 600_000_000 + 87 * MIB), ("cuda", 7, 7)]
)
def test_a_run_has_the_same_reserve(device, given, kept, tiny, tmp_path):
    made = trials.trial(tiny, tmp_path / "data", device=device)
    options = prepare.Options(budget_bytes=2**40, reserve_bytes=given)
    (job,) = prepare.prepare([made], tmp_path / "results", 2, "x", options=options).jobs
    assert (job.budget_bytes, job.reserve_bytes) == (2**39, kept)


def test_a_trial_is_skipped_because_of_the_reserve_and_its_row_has_the_tensors_alone(tiny, tmp_path):
    from tests.support.trials import run

    made = trials.trial(tiny, tmp_path)
    needed = run(made, tmp_path, predicts=True).row.predicted_train_bytes
    row = run(made, tmp_path, budget_bytes=needed + 9, reserve_bytes=10).row
    assert row.status == "skipped"
    assert "of which 10 B are reserved for non-tensor memory" in row.message
    kept = run(made, tmp_path, budget_bytes=needed + 10, reserve_bytes=10).row
    assert (kept.status, kept.predicted_train_bytes) == ("ok", needed)


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (["--reserve", "1GiB"], "--reserve: sets aside a part of the budget"),
        (["--budget", "1GiB", "--reserve", "2GiB"], "--reserve: given '2GiB'; allowed: less than the budget"),
    ],
)
def test_a_reserve_of_a_run_needs_a_larger_budget(options, told, tmp_path, capsys):
    assert cli.main(["run", "quickstart", "-o", str(tmp_path / "r"), *options]) == cli.BAD_INPUT
    assert told in capsys.readouterr().err


@pytest.mark.parametrize(("family", "changes"), [("bloom", {}), ("gpt2", {"attn_pdrop": 0.1})])
def test_attention_without_a_fused_kernel_is_reported(family, changes, tiny, tmp_path):
    from tests.support import architectures

    folder = tmp_path / family
    architectures.CONFIGS[family](**changes).save_pretrained(folder)
    found = list(forecast.forecasts([trials.trial(folder, tmp_path)], lambda _: folder, forecast.Question()))
    assert found[0].found.attention == "matrix"
    assert "Attention matrices are saved whole" in "\n".join(memory_table.lines(found, forecast.Question()))
    assert predict(trials.trial(tiny, tmp_path), tiny).attention == "fused"
