"""The training loop: accumulation, the end-of-text token, budgets, validation, divergence, determinism."""

from __future__ import annotations

import itertools
import math
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from peftbench import suite
from peftbench.errors import Diverged, Unsupported
from peftbench.measure import environment
from peftbench.measure.clock import Clock
from peftbench.methods import METHODS
from peftbench.models import load
from peftbench.models.precision import PRECISIONS
from peftbench.records import OPTIMIZERS, Example
from peftbench.tasks import read
from peftbench.training import accounting, batches, loop, optimizers
from tests.support import trials
from tests.support.method_cells import attached, loaded
from tests.support.sample import sample


def gradients(tiny, tmp_path, micro_batch_size):
    _, learner, _ = attached(tiny, "full", "fp32", tmp_path)
    plan = plan_of(tiny, tmp_path, loss_on="all")
    assert len({len(e.ids) for e in plan[0]}) > 1, "texts of several lengths, or a mean of means would pass too"
    settings = replace(learner.training, micro_batch_size=micro_batch_size)
    tokens = batches.collate(plan[0], 1).loss_tokens
    for batch in batches.micro_batches(plan[0], settings, 1):
        (loop.batch_loss(learner.model, batch) / tokens).backward()
    return [p.grad for p in learner.parameters]


def test_micro_batches_add_up_to_the_gradient_of_the_whole_batch(tiny, tmp_path):
    whole, parts = gradients(tiny, tmp_path, 4), gradients(tiny, tmp_path, 1)
    for a, b in zip(whole, parts, strict=True):
        torch.testing.assert_close(a, b, atol=1e-6, rtol=1e-4)


def test_accumulated_training_takes_the_same_steps(tiny, tmp_path):
    losses = []
    for size in (4, 3):
        _, learner, plan = attached(tiny, "lora", "fp32", tmp_path)
        learner = replace(learner, training=replace(learner.training, micro_batch_size=size))
        losses.append([s.loss for s in loop.train(learner, plan, [], Clock(), lambda *_: None).steps])
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)


def encoded(tokenizer, *examples, length=32, loss_on="completion"):
    return batches.encode(tokenizer, [(("t", i), e) for i, e in enumerate(examples)], length, loss_on)


def test_the_end_of_text_token_is_learned_even_if_it_is_the_padding_token(tiny):
    tokenizer = loaded(tiny, "base", "fp32").tokenizer
    assert tokenizer.pad_token_id == tokenizer.eos_token_id, "the trap: a base without a padding token of its own"
    short, long = encoded(tokenizer, Example("one ?", "red"), Example("one ?", "red red red"))
    batch = batches.collate([short, long], tokenizer.pad_token_id)
    n = len(short.ids)
    assert batch.labels[0, n - 1] == tokenizer.eos_token_id
    assert (batch.labels[0, n:] == batches.IGNORED).all()
    assert batch.mask[0, :n].all()
    assert not batch.mask[0, n:].any()
    assert batch.loss_tokens == sum(len(e.ids) - e.loss_from for e in (short, long))


def test_with_loss_on_all_tokens_the_prompt_enters_the_loss(tiny):
    tokenizer = loaded(tiny, "base", "fp32").tokenizer
    (made,) = encoded(tokenizer, Example("one two ?", "red"), loss_on="all")
    assert made.loss_from == 1


def test_an_example_that_is_too_long_is_cut_on_the_left_of_its_prompt_and_counted(tiny):
    tokenizer = loaded(tiny, "base", "fp32").tokenizer
    example = Example("one two three four ?", "red")
    (whole,) = encoded(tokenizer, example, length=99)
    (cut,) = encoded(tokenizer, example, length=len(whole.ids) - 3)
    assert cut.ids == whole.ids[3:]
    assert cut.ids[cut.loss_from :] == whole.ids[whole.loss_from :]
    assert (whole.truncated, cut.truncated) == (False, True)


def test_a_tokenizer_without_an_end_of_text_token_is_refused(tiny):
    tokenizer = loaded(tiny, "base", "fp32").tokenizer
    tokenizer.eos_token = None
    with pytest.raises(Unsupported, match="no end-of-text token"):
        encoded(tokenizer, Example("one ?", "red"))


def plan_of(tiny, tmp_path, seed=0, **training):
    tokenizer = loaded(tiny, "base", "fp32").tokenizer
    first, second, _ = trials.tasks(tmp_path)
    examples = {"colour": read.examples(first, "train"), "other": read.examples(second, "train")[:10]}
    settings = replace(trials.TRAINING, data=(("colour", 3.0), ("other", 1.0)), **training)
    return batches.draw_batches(examples, settings, tokenizer, seed)


def test_a_seed_fixes_the_batches_and_another_seed_changes_them(tiny, tmp_path):
    first, again, other = (plan_of(tiny, tmp_path, seed) for seed in (0, 0, 1))
    assert batches.fingerprint(first) == batches.fingerprint(again)
    assert batches.fingerprint(first) != batches.fingerprint(other)


def test_a_mixture_follows_its_weights_and_no_example_repeats_before_all_were_seen(tiny, tmp_path):
    plan = plan_of(tiny, tmp_path, steps=30)
    seen = [e.identity for step in plan for e in step]
    share = sum(name == "colour" for name, _ in seen) / len(seen)
    assert 0.6 < share < 0.9
    first_pass = [index for name, index in seen if name == "colour"][:24]
    assert sorted(first_pass) == list(range(24))


def test_epochs_and_tokens_are_budgets_too(tiny, tmp_path):
    assert len(plan_of(tiny, tmp_path, steps=None, epochs=2.0)) == math.ceil(2 * (24 + 10) / 4)
    plan = plan_of(tiny, tmp_path, steps=None, tokens=200)
    tokens = [sum(len(e.ids) for e in step) for step in plan]
    assert sum(tokens) >= 200 > sum(tokens[:-1])


class Ticking(Clock):
    """A clock that advances by a second at each reading, so that a step takes one second."""

    seconds_passed = 0.0

    def now(self) -> float:
        self.seconds_passed += 1
        return self.seconds_passed


def test_seconds_are_a_budget_of_time_in_steps_and_the_schedule_follows_it(tiny, tmp_path):
    _, learner, plan = attached(tiny, "lora", "fp32", tmp_path)
    learner = replace(learner, training=replace(learner.training, steps=None, seconds=4.5, learning_rate=1.0))
    told = []
    trace = loop.train(learner, iter(plan * 9), [], Ticking(), lambda *each: told.append(each[:2]))
    assert [s.learning_rate for s in trace.steps] == pytest.approx([1 - n / 4.5 for n in range(5)], abs=1e-6)
    assert trace.scored_step == 5, "the step that reaches the seconds is the last"
    assert told == [(1, 4), (2, 4), (3, 4), (4, 5), (5, 5)], "how many there will be is told as far as it is known"


def test_a_budget_of_seconds_has_the_same_steps_as_a_budget_of_steps_and_continues(tiny, tmp_path, monkeypatch):
    monkeypatch.setattr(batches, "_CHUNK", 4)
    tokenizer = loaded(tiny, "base", "fp32").tokenizer
    made = trials.trial(tiny, tmp_path, training={"steps": None, "seconds": 60.0})
    prepared = batches.of_trial(made, tokenizer)
    assert len(prepared.step_examples) == 4
    drawn = list(itertools.islice(batches.onward(prepared, made, tokenizer), 10))
    assert drawn == prepared.step_examples, "what is drawn is of the plan"
    assert drawn == batches.of_trial(trials.trial(tiny, tmp_path, training={"steps": 10}), tokenizer).step_examples


def test_grouping_by_length_sees_every_example_once_in_an_epoch_of_many_steps(tiny):
    tokenizer = loaded(tiny, "base", "fp32").tokenizer
    examples = {"colour": [Example("x " * (i % 7 + 1) + str(i), "red") for i in range(1200)]}
    settings = replace(trials.TRAINING, steps=None, epochs=1.0, group_by_length=True)
    seen = [e.identity for step in batches.draw_batches(examples, settings, tokenizer, 0) for e in step]
    assert len(seen) == len(set(seen)) == 1200


def test_grouping_by_length_leaves_less_padding_and_drops_no_example(tiny, tmp_path):
    def padding(steps):
        return sum(max(len(e.ids) for e in step) * len(step) - sum(len(e.ids) for e in step) for step in steps)

    mixed = plan_of(tiny, tmp_path, steps=6)
    grouped = plan_of(tiny, tmp_path, steps=6, group_by_length=True)
    assert padding(grouped) < padding(mixed)
    assert [len(step) for step in grouped] == [len(step) for step in mixed]
    seen = [sorted(e.identity for step in steps for e in step) for steps in (mixed, grouped)]
    assert seen[0] == seen[1]
    assert grouped == plan_of(tiny, tmp_path, steps=6, group_by_length=True)
    longest = [max(len(e.ids) for e in step) for step in grouped]
    assert longest != sorted(longest), "the steps come in no order of length"


@pytest.mark.parametrize(("schedule", "last"), [("constant", 1.0), ("linear", 0.0), ("cosine", 0.0)])
def test_the_learning_rate_warms_up_and_then_follows_its_schedule(schedule, last):
    training = replace(trials.TRAINING, learning_rate=1.0, schedule=schedule, warmup_ratio=0.1)
    rates = [optimizers.learning_rate(training, step, 100) for step in range(100)]
    assert rates[:10] == pytest.approx([0.1 * (i + 1) for i in range(10)])
    assert max(rates) == pytest.approx(1.0)
    assert rates[-1] == pytest.approx(last, abs=0.02)


@pytest.mark.parametrize("name", sorted(OPTIMIZERS))
def test_every_optimizer_lowers_the_loss(name, tiny, tmp_path):
    _, learner, _ = attached(tiny, "full", "fp32", tmp_path)
    rate = {"sgd": 0.5, "lomo": 0.5}.get(name, 1e-2)
    training = replace(learner.training, optimizer=name, learning_rate=rate, steps=20)
    plan = plan_of(tiny, tmp_path, steps=20)
    learner = replace(learner, training=training, optimizer=optimizers.make(learner.parameters, training))
    steps = loop.train(learner, plan, [], Clock(), lambda *_: None).steps
    assert steps[-1].loss < 0.7 * steps[0].loss


def test_weight_decay_does_not_apply_to_norms(tiny, tmp_path):
    _, learner, _ = attached(tiny, "full", "fp32", tmp_path)
    made = optimizers.make(learner.parameters, replace(learner.training, weight_decay=0.1))
    decayed, spared = made.param_groups
    assert (decayed["weight_decay"], spared["weight_decay"]) == (0.1, 0.0)
    assert all(p.ndim >= 2 for p in decayed["params"])
    assert len(spared["params"]) == 3 * 2 + 1


def test_the_best_weights_on_validation_are_scored_if_the_suite_asks_for_it(tiny, tmp_path):
    _, learner, plan = attached(tiny, "lora", "fp32", tmp_path)
    training = replace(learner.training, score="best_on_validation", validate_every=1, learning_rate=0.5)
    learner = replace(learner, training=training)
    trace = loop.train(learner, plan, plan[0], Clock(), lambda *_: None)
    losses = [s.validation_loss for s in trace.steps]
    assert trace.best_validation_loss == min(losses)
    assert trace.scored_step == losses.index(min(losses)) + 1
    assert loop.validation_loss(learner, plan[0]) == pytest.approx(min(losses), rel=1e-5)


def test_validation_does_not_change_training(tiny, tmp_path):
    losses = []
    for every in (None, 1):
        _, learner, plan = attached(tiny, "lora", "fp32", tmp_path)
        learner = replace(learner, training=replace(learner.training, validate_every=every))
        losses.append([s.loss for s in loop.train(learner, plan, plan[0], Clock(), lambda *_: None).steps])
    assert losses[0] == losses[1]


def test_a_loss_that_is_not_finite_ends_training_as_diverged(tiny, tmp_path):
    _, learner, plan = attached(tiny, "lora", "fp32", tmp_path)
    with torch.no_grad():
        learner.parameters[0].fill_(math.nan)
    with pytest.raises(Diverged, match="step 1 of 4"):
        loop.train(learner, plan, [], Clock(), lambda *_: None)


def test_a_validation_loss_that_is_not_finite_ends_training_as_diverged(tiny, tmp_path, monkeypatch):
    _, learner, plan = attached(tiny, "lora", "fp32", tmp_path)
    learner = replace(learner, training=replace(learner.training, score="best_on_validation", validate_every=1))
    monkeypatch.setattr(loop, "validation_loss", lambda *_: math.nan)
    with pytest.raises(Diverged, match="validation loss nan after step 1 of 4"):
        loop.train(learner, plan, plan[0], Clock(), lambda *_: None)


@pytest.mark.parametrize("name", sample([n for n, m in METHODS.items() if m.trains and not m.why_no_checkpointing], 2))
def test_gradient_checkpointing_saves_activations_and_gives_the_same_losses(name, tiny, tmp_path):
    precision, losses, activations = METHODS[name].default_precision, [], []
    for on in (False, True):
        base, learner, plan = attached(tiny, name, precision, tmp_path)
        if on:
            learner = loop.learner(
                learner.model,
                learner.parameters,
                replace(learner.training, gradient_checkpointing=True),
                precision=PRECISIONS[precision],
                device="cpu",
                pad_id=base.tokenizer.pad_token_id,
                virtual_tokens=0,
            )
        losses.append([s.loss for s in loop.train(learner, plan, [], Clock(), lambda *_: None).steps])
        counted = accounting.account_step(learner, plan[0], METHODS[name].trains_base)
        activations.append(counted.peak["activations"])
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)
    assert activations[1] < activations[0]


def test_a_method_that_cannot_be_checkpointed_is_unsupported_with_the_reason():
    made = suite.load("quickstart", overrides=["train.gradient_checkpointing=true"], only=["method=prefix_tuning,lora"])
    reasons = {trial.method: trial.unsupported for trial in suite.expand(made, "cpu")}
    assert reasons["lora"] is None
    assert "is a cache" in reasons["prefix_tuning"]


def test_padding_and_virtual_tokens_are_counted_separately(tiny, tmp_path):
    _, learner, plan = attached(tiny, "prompt_tuning", "fp32", tmp_path)
    learner = replace(learner, virtual_tokens=4)
    first = loop.train(learner, plan[:1], [], Clock(), lambda *_: None).steps[0]
    longest = max(len(e.ids) for e in plan[0])
    assert first.processed_tokens == 4 * (longest + 4)
    assert first.nonpadding_tokens == sum(len(e.ids) for e in plan[0])
    assert first.loss_tokens == sum(len(e.ids) - e.loss_from for e in plan[0])


def test_a_checksum_changes_with_any_single_element():
    tensor = torch.arange(11, dtype=torch.bfloat16)
    before = load.checksum(tensor)
    for index in range(11):
        changed = tensor.clone()
        changed[index] += 1
        assert load.checksum(changed) != before


def test_waiting_for_a_cpu_is_measured_next_to_another_job_on_the_same_core():
    if environment.waiting_by_thread() is None:
        pytest.skip("this system does not count")
    code = (
        "import os, sys, time; sys.path.insert(0, sys.argv[1])\n"
        "os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})\n"
        "from peftbench.measure.environment import waited, waiting_by_thread\n"
        "child = os.fork()\n"
        "end = time.perf_counter() + 1\n"
        "before = waiting_by_thread()\n"
        "while time.perf_counter() < end: pass\n"
        "os._exit(0) if child == 0 else print(waited(before, waiting_by_thread()))"
    )
    root = str(Path(loop.__file__).parents[2])
    done = subprocess.run([sys.executable, "-c", code, root], capture_output=True, text=True, timeout=60)
    assert 0.2 < float(done.stdout) < 1.1, done


def test_waiting_is_summed_over_old_and_new_threads(monkeypatch):
    assert environment.waited({"1": 1.0, "2": 5.0}, {"1": 1.5, "3": 0.25}) == 0.75
    assert environment.waited(None, {"1": 1.5}) is None
    assert environment.waited({"1": 1.5}, None) is None
    monkeypatch.setattr(environment, "_THREADS", "/proc/self/nowhere")
    assert environment.waiting_by_thread() is None


def test_waiting_is_none_if_the_system_does_not_report_it(tiny, tmp_path, monkeypatch):
    _, learner, plan = attached(tiny, "lora", "fp32", tmp_path)
    known = loop.train(learner, plan, [], Clock(), lambda *_: None).waiting_seconds
    assert (known is None) is (environment.waiting_by_thread() is None)
    monkeypatch.setattr(environment, "waiting_by_thread", lambda: None)
    assert loop.train(learner, plan, [], Clock(), lambda *_: None).waiting_seconds is None
