"""The memory ledger measures known amounts to the byte, and a trial is unchanged after it was measured."""

from __future__ import annotations

import gc
import itertools
from types import SimpleNamespace

import pytest
import torch
from torch import nn
from torch.autograd import profiler

from peftbench.measure import peaks
from peftbench.measure.clock import Clock
from peftbench.measure.ledger import account
from peftbench.methods import METHODS
from peftbench.models import load
from peftbench.records import Category, Phase
from peftbench.training import accounting, batches, loop
from tests.support.method_cells import CELLS, attached
from tests.support.sample import sample

MB = 1 << 20


class Nothing(nn.Module):
    """A model without parameters."""


def test_a_known_allocation_is_measured_to_the_byte_and_freed_memory_is_given_back():
    with account(Nothing(), False, {}) as counted:
        kept = torch.zeros(MB // 4)
        gone = torch.ones(2 * MB // 4)
        del gone
        gc.collect()
        assert sum(counted.live.values()) == MB
        late = kept + 1
    assert counted.peak_bytes == 3 * MB
    assert late is not None


def test_views_and_tied_weights_count_once():
    holder = nn.Linear(256, 256, bias=False)
    holder.tied = nn.Linear(256, 256, bias=False)
    holder.tied.weight = holder.weight
    with account(holder, False, {}) as counted:
        kept = torch.zeros(MB // 4)
        views = [kept.view(-1, 2), kept[5:], kept.T]
        assert len(views) == 3
        assert counted.live["temporaries"] == MB
        assert counted.live["adapter"] == 256 * 256 * 4


def test_saved_activations_of_a_two_layer_network_are_those_computed_by_hand():
    b, d, h = 32, 64, 128
    network = nn.Sequential(nn.Linear(d, h, bias=False), nn.ReLU(), nn.Linear(h, d, bias=False))
    x = torch.randn(b, d)
    with account(network, True, {}) as counted:
        loss = network(x).sum()
        saved = counted.live["activations"]
        loss.backward()
        gradients = counted.live["gradients"]
    # the first layer keeps x, the second keeps relu's output, which relu keeps too
    assert saved == 4 * (b * d + b * h)
    assert gradients == 4 * 2 * d * h


@pytest.mark.parametrize("name", [name for name, method in METHODS.items() if method.trains])
def test_weights_gradients_and_optimizer_state_are_exact_for_every_method(name, tiny, tmp_path):
    precision = METHODS[name].default_precision
    base, learner, plan = attached(tiny, name, precision, tmp_path)
    loop.train(learner, plan[:1], [], Clock(), lambda *_: None)
    counted = accounting.account_step(learner, plan[1], METHODS[name].trains_base)
    trainable = sum(p.numel() for p in learner.parameters)
    tensors = len(learner.parameters)
    assert set(counted.peak) == set(Category)
    assert sum(counted.peak.values()) == counted.peak_bytes
    own = counted.peak["base_weights" if METHODS[name].trains_base else "adapter"]
    buffers = sum(b.numel() * b.element_size() for b in learner.model.buffers())
    assert own == 4 * trainable + (buffers if METHODS[name].trains_base else 0)
    assert counted.peak["optimizer"] >= 2 * 4 * trainable
    assert counted.peak["optimizer"] - 2 * 4 * trainable <= max(4 * tensors, 2048)  # step counters, bitsandbytes' map
    if not METHODS[name].trains_base:
        known = counted.peak["base_weights"] + counted.peak["quantization_state"]
        assert base.weights_bytes <= known <= base.weights_bytes + buffers


@pytest.mark.parametrize(("name", "precision"), sample([*CELLS, ("full", "bf16-true")], 2))
def test_the_categories_explain_what_the_allocator_counts(name, precision, tiny, tmp_path):
    """The allocator's count is independent of the ledger: on the CPU, all allocations that torch's profiler reports."""
    _, learner, plan = attached(tiny, name, precision, tmp_path)
    loop.train(learner, plan[:1], [], Clock(), lambda *_: None)
    counted = accounting.account_step(learner, plan[1], METHODS[name].trains_base)
    assert counted.allocated_bytes == pytest.approx(counted.peak_bytes, rel=0.02)
    assert accounting.train_columns(counted).peak_unexplained_bytes == counted.allocated_bytes - counted.peak_bytes


def test_what_an_operator_allocates_internally_is_reported_as_unexplained(tiny, tmp_path, monkeypatch):
    _, learner, plan = attached(tiny, "lora", "fp32", tmp_path)
    held = 64 * MB

    def greedy(model, batch, loss=loop.batch_loss):
        with torch.utils._python_dispatch._disable_current_modes():
            torch.empty(held, dtype=torch.uint8)
        return loss(model, batch)

    monkeypatch.setattr(loop, "batch_loss", greedy)
    counted = accounting.account_step(learner, plan[1], False)
    assert counted.peak_bytes < held <= counted.allocated_bytes


@pytest.mark.parametrize("processes", [1, 2])
def test_the_allocators_count_is_read_pass_by_pass_without_operators_and_is_that_of_the_whole_step(
    processes, monkeypatch
):
    """A record of all operators of a step of 32 passes took 2.3 GB of a trial's memory.

    A message between processes may be in flight from one pass to the next, and ended the process by SIGSEGV if the
    profiler that had seen its begin was gone; so theirs is one part.
    """
    parts = []
    read = accounting._AllocationsOnly.__exit__

    def reads(self, *arguments):
        read(self, *arguments)
        parts.append([event.name() for event in self.kineto_results.events()])

    monkeypatch.setattr(accounting._AllocationsOnly, "__exit__", reads)
    learner = SimpleNamespace(device="cpu", model=nn.Linear(256, 256), parallel=SimpleNamespace(count=processes))

    def passes():
        kept = []
        for rows in (4, 512, 64):
            kept.append(learner.model(torch.ones(rows, 256)) + 1)
            kept[-1].sum().backward()

    passes()  # makes the gradients
    with accounting._allocations(learner) as peaks:
        passes()
    with profiler.profile(use_kineto=True, profile_memory=True) as whole:
        passes()
    sizes = [event.nbytes() for event in whole.kineto_results.events() if event.name() == "[memory]"]
    assert peaks == [max(itertools.accumulate(sizes))]
    assert len(parts) == (4 if processes == 1 else 1), "before the first pass, and each pass"
    assert "[memory]" in parts[-1]
    assert not [name for names in parts for name in names if "aten" in name]


def test_a_planted_leak_shows_in_the_temporaries(tiny, tmp_path, monkeypatch):
    _, learner, plan = attached(tiny, "lora", "fp32", tmp_path)
    loop.train(learner, plan[:1], [], Clock(), lambda *_: None)
    before, leak = accounting.account_step(learner, plan[1], False), []

    def leaky(model, batch, loss=loop.batch_loss):
        leak.append(torch.zeros(MB // 4))
        return loss(model, batch)

    monkeypatch.setattr(loop, "batch_loss", leaky)
    after = accounting.account_step(learner, plan[1], False)
    assert after.peak["temporaries"] - before.peak["temporaries"] == MB
    assert after.peak_bytes - before.peak_bytes == MB


def test_as_many_tokens_as_the_model_is_wide_do_not_hide_the_logits(tiny, tmp_path):
    """Logits of shape (b t, v) then have the shape of the head's transposed gradient: (d, v)."""
    _, learner, _ = attached(tiny, "full", "fp32", tmp_path)
    logits_per_token = []
    for tokens in (31, 32, 33):  # twice 32 is the width, and with the label shift 33
        ids = torch.arange(2 * tokens).reshape(2, tokens) % 300
        batch = batches.Batch(ids, torch.ones_like(ids), ids)
        with account(learner.model, True, {}) as counted:
            loop.batch_loss(learner.model, batch).backward()
        logits_per_token.append(counted.peak["logits"] / tokens)
        learner.optimizer.zero_grad(set_to_none=True)
    assert max(logits_per_token) < 1.1 * min(logits_per_token)


def test_logits_their_copies_and_gradients_are_a_category(tiny, tmp_path):
    _, learner, plan = attached(tiny, "lora", "fp32", tmp_path)
    batch = batches.collate(plan[1], 1)
    with account(learner.model, False, {}) as counted:
        logits = learner.model(input_ids=batch.ids, attention_mask=batch.mask, use_cache=False).logits
        assert counted.live["logits"] == logits.numel() * 4
        soft = logits.softmax(-1)
        assert counted.live["logits"] == 2 * logits.numel() * 4
    assert soft.shape[-1] == 320


@pytest.mark.parametrize("name", ["full", "lora", "qlora"])
def test_accounting_restores_weights_optimizer_and_random_state_bit_for_bit(name, tiny, tmp_path):
    precision, losses = METHODS[name].default_precision, []
    for accounted in (False, True):
        torch.manual_seed(1)
        _, learner, plan = attached(tiny, name, precision, tmp_path)
        found = [s.loss for s in loop.train(learner, plan[:2], [], Clock(), lambda *_: None).steps]
        if accounted:
            weights = [load.checksum(p) for p in learner.parameters]
            accounting.account_step(learner, plan[2], METHODS[name].trains_base)
            assert [load.checksum(p) for p in learner.parameters] == weights
        found += [s.loss for s in loop.train(learner, plan[2:], [], Clock(), lambda *_: None).steps]
        losses.append((found, torch.rand(1).item()))
    assert losses[0] == losses[1]


def test_accounting_keeps_the_tensors_of_the_optimizers_state(tiny, tmp_path):
    """A paged tensor cannot be replaced by a copy, which would not be paged."""
    _, learner, plan = attached(tiny, "qlora", "nf4", tmp_path)
    loop.train(learner, plan[:1], [], Clock(), lambda *_: None)
    held = [(v, v.clone()) for entry in learner.optimizer.state.values() for v in entry.values() if torch.is_tensor(v)]
    accounting.account_step(learner, plan[1], False)
    now = [value for entry in learner.optimizer.state.values() for value in entry.values() if torch.is_tensor(value)]
    assert len(now) == len(held) > 0
    assert all(value is before and torch.equal(value, was) for value, (before, was) in zip(now, held, strict=True))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device, or no -m gpu")
def test_accounting_restores_the_gpus_random_state(tmp_path):
    from tests.support.nano import on_nano

    learner, _ = on_nano("lora", "bf16", tmp_path, "cuda")
    state = torch.cuda.get_rng_state()
    with accounting._undone(learner):
        torch.rand(3, device="cuda")
    assert torch.equal(torch.cuda.get_rng_state(), state)


def test_a_larger_batch_has_a_larger_peak_and_the_largest_one_is_chosen(tiny, tmp_path):
    _, learner, plan = attached(tiny, "lora", "fp32", tmp_path)
    loop.train(learner, plan[:1], [], Clock(), lambda *_: None)
    small = accounting.account_step(learner, plan[1][:1], False).peak_bytes
    large = accounting.account_step(learner, plan[1], False).peak_bytes
    assert small < large
    (chosen,) = accounting.largest_steps(plan, learner.training)
    assert max(len(e.ids) for e in chosen) == max(len(e.ids) for step in plan for e in step)


def test_the_clock_measures_a_known_sleep_within_a_tenth():
    import time

    clock = Clock()
    with clock.phase(Phase.LOAD):
        time.sleep(0.2)
    assert clock.seconds[Phase.LOAD] == pytest.approx(0.2, rel=0.1, abs=0.1)


def test_the_clock_waits_for_the_device_at_both_ends_of_a_phase_and_counts_failed_phases():
    waits, phases = [], []
    clock = Clock(lambda: waits.append(1), phases.append)

    def fail():
        with clock.phase(Phase.TRAIN):
            raise ValueError("on purpose")

    with clock.phase(Phase.LOAD):
        pass
    assert len(waits) == 2
    with pytest.raises(ValueError, match="on purpose"):
        fail()
    assert clock.seconds["train"] > 0
    assert phases == ["load", "train"]


def test_after_an_inner_phase_the_outer_phase_is_announced_again():
    phases = []
    clock = Clock(announce=phases.append)
    with clock.phase(Phase.TRAIN), clock.phase(Phase.VALIDATE):
        pass
    assert phases == ["train", "validate", "train"]


def test_only_paged_optimizer_state_is_counted_as_paged():
    class Optimizer:
        state = {"p": {"step": 1, "state1": torch.zeros(4), "state2": torch.zeros(6)}}

    assert peaks.paged_bytes(Optimizer) == 0
    Optimizer.state["p"]["state1"].is_paged = True
    Optimizer.state["p"]["state2"].is_paged = True
    assert peaks.paged_bytes(Optimizer) == 40
    assert peaks.paged_columns(Optimizer).paged_optimizer_bytes is None
    Optimizer.is_paged = True
    assert peaks.paged_columns(Optimizer).paged_optimizer_bytes == 40


def test_evaluations_peak_is_measured_on_the_batch_with_most_tokens(tiny, tmp_path):
    from peftbench.evaluation import scoring
    from peftbench.models.precision import PRECISIONS
    from peftbench.records import Example
    from tests.support import trials
    from tests.support.method_cells import loaded

    base = loaded(tiny, "base", "fp32")
    wrapped = scoring.Harness(base.model, base.tokenizer, trials.Evaluation(4, 48, "test"), PRECISIONS["fp32"])
    task = trials.tasks(tmp_path)[1]
    many, one = [Example(f"one two {n} ?", "red") for n in range(5)], Example("one two three 7 ?", "red")
    assert len(base.tokenizer.encode(one.prompt)) > len(base.tokenizer.encode(many[0].prompt))
    assert scoring.largest_batch(wrapped, task, [one, *many]) == many[:4]


def test_a_resident_peak_that_cannot_be_reset_is_not_measured(monkeypatch):
    monkeypatch.setattr(peaks, "_reset_resident_peak", lambda: False)
    resident = peaks.ResidentMemory()
    with resident.peak() as peak:
        pass
    assert peak.bytes is None
    assert resident.highest() > 0


def test_resets_of_the_resident_peak_do_not_lower_the_whole_process_peak():
    resident = peaks.ResidentMemory()
    block = bytearray(200 * MB)
    highest = resident.highest()
    del block
    with resident.peak() as peak:
        pass
    assert peak.bytes < highest - 100 * MB
    assert resident.highest() >= highest


def test_a_models_tensors_are_counted_by_category_and_no_hook_remains(tiny, tmp_path):
    _, learner, _ = attached(tiny, "lora", "fp32", tmp_path)
    found = peaks.held(learner.model, False)
    assert found.keys() == {"base_weights", "adapter"}
    assert found["adapter"] == 4 * sum(p.numel() for p in learner.parameters)
    assert not any(p._post_accumulate_grad_hooks for p in learner.parameters)
