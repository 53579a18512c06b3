"""Measurements return known amounts: planted sleeps, counted tokens, bytes computed by hand on the built-in base."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from types import SimpleNamespace

import pytest
import torch

from peftbench.evaluation import passes, scoring
from peftbench.measure import clock
from peftbench.measure.clock import Clock
from peftbench.measure.ledger import account
from peftbench.methods import METHODS
from peftbench.models import load
from peftbench.models.precision import PRECISIONS
from peftbench.records import Phase, TrialRow
from peftbench.runner import checkpoint, trial, tuning
from peftbench.runner.checks import liveness
from peftbench.runner.executor import local
from peftbench.training import accounting, batches, loop
from tests.support import trials
from tests.support.nano import RANKS, on_nano
from tests.support.sample import sample

MB = 1 << 20
EXPLICIT = {"training": {"validate_every": 2, "steps": 4}}
"""Four steps, with a validation after every second one."""


class Time:
    """A clock that moves only when something sleeps."""

    def __init__(self) -> None:
        self.now = 100.0

    def sleep(self, seconds: float) -> None:
        self.now += seconds


@pytest.fixture
def time(monkeypatch) -> Time:
    made = Time()
    for module in (clock, trial, passes):
        monkeypatch.setattr(module, "time", SimpleNamespace(perf_counter=lambda: made.now))
    return made


@pytest.fixture
def slow(time, monkeypatch) -> Callable[..., list[float]]:
    """A function that plants a sleep before another function's work, and returns the list of the sleeps so far."""

    def plant(holder, name: str, seconds: float, when: Callable[..., bool] = lambda *_: True) -> list[float]:
        work, slept = getattr(holder, name), []

        def sleepy(*arguments, **named):
            if when(*arguments):
                time.sleep(seconds)
                slept.append(seconds)
            return work(*arguments, **named)

        monkeypatch.setattr(holder, name, sleepy)
        return slept

    return plant


def run(made, tmp_path, time: Time, *, asked: float = 0.0, report=lambda *_: None, announce=lambda _: None):
    """Run a trial that was requested ``asked`` seconds ago, as its parent does, on the clock that stands still."""
    job = dataclasses.replace(trials.job(made, tmp_path), predicts=True)
    began = time.now - asked
    result = trial.run(job, began, announce, report)
    return local.with_wall_time(result, time.now - began)


def phases(row: TrialRow) -> dict[str, float]:
    """The seconds of each phase, and those outside all phases."""
    found = {phase.value: getattr(row, phase.column) or 0.0 for phase in Phase}
    return found | {"untracked": row.untracked_seconds}


def not_undone(*arguments) -> bool:
    """Whether a call of ``loop.step`` is a step of training, which has a number, and not an extra one."""
    return len(arguments) == 4


PLANTS = {
    "load": (trial, "load"),
    "data": (batches, "draw_batches"),
    "attach": (tuning, "cast_trainable"),
    "train": (loop, "step", not_undone),
    "validate": (loop, "validation_loss"),
    "account": (accounting, "account_step"),
    "plan": (tuning, "predict"),
    "check": (liveness, "verdict"),
    "save": (checkpoint, "save"),
    "evaluate": (scoring, "evaluate"),
}
"""Phase to the function before which a sleep is planted."""


def test_a_sleep_in_a_phase_is_in_that_phases_column_and_in_no_other(tiny, tmp_path, time, slow):
    slept = {}
    for power, (phase, (holder, name, *when)) in enumerate(PLANTS.items()):
        slept[phase] = slow(holder, name, 2.0**power, *when)  # no two sums of these are the same
    announced = []
    row = run(trials.trial(tiny, tmp_path, **EXPLICIT), tmp_path, time, announce=announced.append).row
    assert row.status == "ok", row.message
    assert set(announced) == set(PLANTS)
    assert {phase: len(sleeps) for phase, sleeps in slept.items() if len(sleeps) != 1} == {"train": 4, "validate": 2}
    found = {name: seconds for name, seconds in phases(row).items() if seconds}
    assert found == {phase: sum(sleeps) for phase, sleeps in slept.items()}
    assert row.wall_seconds == sum(found.values())


def test_time_outside_all_phases_is_untracked_and_the_start_counts_from_the_parents_request(tiny, tmp_path, time, slow):
    slow(loop, "step", 1.0, not_undone)  # a rate needs time

    def report(*_):
        time.sleep(2.0)  # between the steps: neither in a step nor in a phase of its own

    made = trials.trial(tiny, tmp_path, **EXPLICIT)
    row = run(made, tmp_path, time, asked=5.0, report=report).row
    assert {name: seconds for name, seconds in phases(row).items() if seconds} == {
        "start": 5.0,
        "train": 4.0,
        "untracked": 8.0,
    }


def cache(tokens: int) -> SimpleNamespace:
    return SimpleNamespace(get_seq_length=lambda: tokens)


class Sleeper(torch.nn.Module):
    """A model whose forward pass takes a second over a text and a quarter of a second over one new token."""

    def __init__(self, time: Time) -> None:
        super().__init__()
        self.time = time

    def forward(self, input_ids=None, inputs_embeds=None, past_key_values=None, fails=False):
        if fails:
            raise MemoryError
        given = inputs_embeds if input_ids is None else input_ids
        self.time.sleep(0.25 if past_key_values and given.shape[1] == 1 and past_key_values.get_seq_length() > 4 else 1)


def test_evaluation_time_is_split_into_passes_over_texts_and_over_new_tokens(time):
    slept = Sleeper(time)
    one, several = torch.zeros(2, 1), torch.zeros(2, 5)
    with passes.split(slept, "cpu", 4) as times:
        slept(input_ids=several)
        time.sleep(7.0)  # between passes
        slept(input_ids=one)  # a text of one token
        slept(input_ids=several, past_key_values=cache(4))
        slept(input_ids=one, past_key_values=cache(4))  # the same behind a prefix
        for _ in range(3):
            slept(inputs_embeds=torch.zeros(2, 1, 4), past_key_values=cache(9))
    slept(input_ids=several)
    assert times.columns.known() == {"evaluate_prefill_seconds": 4.0, "evaluate_decode_seconds": 0.75}


def test_a_pass_that_runs_out_of_memory_is_in_neither_part(time):
    slept = Sleeper(time)
    with passes.split(slept, "cpu") as times:
        with pytest.raises(MemoryError):
            slept(input_ids=torch.zeros(2, 1), past_key_values=cache(9), fails=True)
        slept(input_ids=torch.zeros(2, 5))
    assert times.columns.known() == {"evaluate_prefill_seconds": 1.0, "evaluate_decode_seconds": 0}


def test_on_cuda_passes_are_timed_between_events_with_a_single_wait_at_the_end(time, monkeypatch):
    waited = []

    class Event:
        def __init__(self, enable_timing: bool) -> None:
            assert enable_timing

        def record(self) -> None:
            self.at = time.now

        def synchronize(self) -> None:
            waited.append(self.at)

        def elapsed_time(self, end: Event) -> float:
            return 1000 * (end.at - self.at)

    monkeypatch.setattr(torch.cuda, "Event", Event)
    slept = Sleeper(time)
    with passes.split(slept, "cuda") as times:
        slept(input_ids=torch.zeros(2, 5))
        slept(input_ids=torch.zeros(2, 5))
        assert not waited
    assert times.columns.known() == {"evaluate_prefill_seconds": 2.0, "evaluate_decode_seconds": 0}
    assert waited == [102.0]


def test_rates_are_tokens_of_the_steady_steps_over_their_seconds(tiny, tmp_path, time, slow):
    """Neither multiplied by the steps, nor over the mean step, nor with the first step or a validation in it."""
    slow(loop, "step", 10.0, lambda *given: not_undone(*given) and given[3] == 0)
    slow(loop, "step", 0.5, not_undone)
    slow(loop, "validation_loss", 100.0)
    result = run(trials.trial(tiny, tmp_path, **EXPLICIT), tmp_path, time)
    row, steady = result.row, result.steps[1:]
    assert [s.seconds for s in result.steps] == [10.5, 0.5, 0.5, 0.5]
    assert (row.train_seconds, row.untimed_seconds, row.median_step_seconds) == (12.0, 10.5, 0.5)
    assert row.tokens_per_second == sum(s.nonpadding_tokens for s in steady) / 1.5
    assert row.processed_tokens_per_second == sum(s.processed_tokens for s in steady) / 1.5
    assert row.loss_tokens_per_second == sum(s.loss_tokens for s in steady) / 1.5


def batch(*lengths: int, answer: int = 1) -> list[batches.Encoded]:
    """Return examples of these lengths in tokens, of which the last ``answer`` bear loss."""
    return [
        batches.Encoded(tuple(range(3, 3 + n)), n - answer, False, ("made", index)) for index, n in enumerate(lengths)
    ]


def test_a_known_padded_batch_is_counted_to_the_token(tmp_path):
    learner, _ = on_nano("prompt_tuning", "fp32", tmp_path)
    training = dataclasses.replace(learner.training, batch_size=5, micro_batch_size=2)
    learner = dataclasses.replace(learner, training=training, virtual_tokens=RANKS["prompt_tuning"])
    step = batch(7, 3, 4, 4, 9, answer=2)
    (row,) = loop.train(learner, [step], [], Clock(), lambda *_: None).steps
    padded = 2 * 7 + 2 * 4 + 1 * 9  # three forward passes, each as wide as its longest
    assert row.processed_tokens == padded + 5 * 50
    assert row.nonpadding_tokens == 7 + 3 + 4 + 4 + 9
    assert row.loss_tokens == 5 * 2


D, FEED, LAYERS, VOCABULARY, PAIRS = 128, 384, 4, 1024, 16
"""Of nano: width, feed-forward width, layers, tokens, and angles of a head's rotation."""
PER_LAYER = {"linear": 4 * D * D + 3 * D * FEED, "norms": 2 * D}
LINEAR, REST = LAYERS * PER_LAYER["linear"], VOCABULARY * D + LAYERS * PER_LAYER["norms"] + D
"""Weights in linear layers; embeddings (tied to the head) and norms."""
ROTATIONS = 2 * PAIRS * 4
"""Bytes of the rotary embedding's two buffers, which are fp32 everywhere."""
TRAINED = {  # parameters, tensors
    "full": (LINEAR + REST, 9 * LAYERS + 2),
    "prompt_tuning": (50 * D, 1),
    "prefix_tuning": (16 * LAYERS * 2 * D, 1),
    "adapter": (2 * LAYERS * (2 * D * 16 + 16 + D), 8 * LAYERS),
    "llama_adapter": ((LAYERS - 2) * (10 * D + 1), 2 * (LAYERS - 2)),
    "lora": (LAYERS * 8 * (4 * 2 * D + 3 * (D + FEED)), 14 * LAYERS),
    "qlora": (LAYERS * 8 * (4 * 2 * D + 3 * (D + FEED)), 14 * LAYERS),
    "peft": (LAYERS * 8 * 2 * D, 2 * LAYERS),  # MiSS on queries and values
}
BLOCKS = LAYERS * (4 * math.ceil(D * D / 64 / 256) + 3 * math.ceil(D * FEED / 64 / 256))
"""Blocks of 256 scales, over all of nano's linear layers, one of which has a scale for each 64 weights."""
STORED = {  # weights, quantization state
    "fp32": (4 * (LINEAR + REST), 0),
    "bf16": (2 * (LINEAR + REST), 0),
    "int8": (LINEAR + 2 * REST, 4 * LAYERS * (4 * D + 2 * FEED + D)),  # a scale for each output
    # scales in 8 bits, a scale and an offset of those, the 16 codes and the 256 of the scales
    "nf4": (LINEAR // 2 + 2 * REST, LINEAR // 64 + 4 * BLOCKS + 7 * LAYERS * (4 + 4 * 16 + 4 * 256)),
}
"""Bytes of a frozen base. QLoRA: Dettmers et al. 2023, arXiv:2305.14314."""
CELLS = [(name, METHODS[name].default_precision) for name in RANKS]
CELLS += [("full", "bf16"), ("lora", "bf16"), ("lora", "int8"), ("lora", "nf4")]


@pytest.mark.parametrize(("method", "precision"), sample(CELLS, 3))
def test_weights_gradients_and_adamw_state_of_nano_are_those_computed_by_hand(method, precision, tmp_path):
    learner, _ = on_nano(method, precision, tmp_path)
    learner.model.train()
    made = batches.collate(batch(12, 9), 2)
    loop.step(learner, [made], 1e-3)
    with account(learner.model, METHODS[method].trains_base, learner.optimizer.state) as counted:
        before = dict(counted.live)
        with load.autocast(PRECISIONS[precision], "cpu"):
            loss = loop.batch_loss(learner.model, made)
        loss.backward()
        gradients = counted.live["gradients"]
    parameters, tensors = TRAINED[method]
    steps = 0 if method == "qlora" else 4 * tensors  # torch counts steps in a tensor each, bitsandbytes in a number
    stored, state = STORED["fp32" if METHODS[method].trains_base else precision]
    assert before["base_weights"] == stored + ROTATIONS
    assert before["quantization_state"] == state
    assert before["adapter"] == (0 if METHODS[method].trains_base else 4 * parameters)
    assert before["optimizer"] == 2 * 4 * parameters + steps
    assert gradients == 4 * parameters
    assert before["gradients"] == before["activations"] == before["logits"] == before["temporaries"] == 0


def test_every_method_that_comes_with_peftbench_is_weighed():
    assert set(RANKS) == set(TRAINED) == {name for name, method in METHODS.own.items() if method.trains}


def test_the_gradient_of_a_weight_as_wide_as_the_vocabulary_is_no_logits():
    head = torch.nn.Linear(5, 8, bias=False)
    head.wide = torch.nn.Parameter(torch.zeros(3, 8))
    head.config = SimpleNamespace(get_text_config=lambda: SimpleNamespace(vocab_size=8, hidden_size=5))
    with account(head, True, {}) as counted:
        (head.wide * 2).sum().backward()
        assert (counted.live["gradients"], counted.live["logits"]) == (4 * 24, 0)


def test_memory_held_for_an_instant_is_in_the_peak(tmp_path, monkeypatch):
    learner, _ = on_nano("lora", "fp32", tmp_path)
    before = accounting.account_step(learner, batch(12, 9), False)

    def brief(tuned, made, loss=loop.batch_loss):
        torch.zeros(64 * MB, dtype=torch.uint8)
        return loss(tuned, made)

    monkeypatch.setattr(loop, "batch_loss", brief)
    after = accounting.account_step(learner, batch(12, 9), False)
    assert before.peak_bytes < 64 * MB <= after.peak_bytes
    assert after.peak["temporaries"] >= 64 * MB


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device, or no -m gpu")
@pytest.mark.parametrize(("method", "precision"), [("full", "fp32"), ("lora", "bf16"), ("qlora", "nf4")])
def test_the_ledgers_sum_is_the_cuda_allocators(method, precision, tmp_path):
    learner, _ = on_nano(method, precision, tmp_path, "cuda")
    step = batch(*[64] * 32)
    loop.train(learner, [step], [], Clock(torch.cuda.synchronize), lambda *_: None)  # libraries take their workspace
    counted = accounting.account_step(learner, step, METHODS[method].trains_base)
    assert sum(counted.peak.values()) == counted.peak_bytes
    assert counted.peak_bytes == pytest.approx(counted.allocated_bytes, rel=0.02)
